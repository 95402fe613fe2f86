//! Records every request and answer, and knows where clients find the members. Histories of safe operations go to the
//! linearizability checker. For an object that is written fast it is recorded what it may hold in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use rand::{Rng as _, rngs::SmallRng, seq::IteratorRandom as _};

use crate::{
    entry::{Entry, NEVER, State, Value, check, shown},
    linearizability::Verdict,
    support::{
        cluster::{Cluster, short},
        load::sequence_of,
        objects::{Client, Failed, Held, Member},
        started,
    },
};

/// After so many operations, or so many unknown outcomes, no client uses the object any more. So histories stay short enough to
/// be checked, and what was acknowledged early has to survive all later faults.
const OPERATIONS_MAX: usize = 90;
const UNKNOWN_MAX: usize = 4;

/// A member, and which of its starts is meant.
pub type Life = (usize, u64);

/// The members that run, each with the number of its start.
#[derive(Default)]
pub struct Addresses(Mutex<Lives>);

#[derive(Default)]
struct Lives {
    count: u64,
    now: BTreeMap<usize, (u64, Member)>,
}

impl Addresses {
    /// Takes over what runs now. A member that is new, or was started again, gets a new number.
    pub fn update(&self, cluster: &Cluster) {
        let mut guard = self.0.lock().unwrap();
        let Lives { count, now: known } = &mut *guard;
        let running = cluster.members();
        known.retain(|number, (_, member)| {
            running.get(number).is_some_and(|now| now.rest == member.rest && now.id == member.id)
        });
        for (number, member) in running {
            known.entry(number).or_insert_with(|| {
                *count += 1;
                (*count, member)
            });
        }
    }

    /// No client sends anything to this member any more.
    pub fn forget(&self, number: usize) {
        self.0.lock().unwrap().now.remove(&number);
    }

    /// One of them; `None` while none runs.
    pub fn pick(&self, rng: &mut SmallRng) -> Option<(Life, Member)> {
        let guard = self.0.lock().unwrap();
        let (number, (life, member)) = guard.now.iter().choose(rng)?;
        Some(((*number, *life), member.clone()))
    }
}

/// The connections of one worker to the members: one for each start of a member.
#[derive(Default)]
pub struct Clients(BTreeMap<usize, (u64, Client)>);

impl Clients {
    /// The client for this start of a member.
    pub fn of(&mut self, (number, life): Life, member: &Member) -> &mut Client {
        let fresh = || (life, Client::of(member));
        let held = self.0.entry(number).or_insert_with(fresh);
        if held.0 != life {
            *held = fresh();
        }
        &mut held.1
    }
}

/// One object whose safe operations are recorded.
#[derive(Default)]
struct Record {
    entries: Vec<Entry>,
    unknown: usize,
    /// The values that clients sent, and when.
    asked: BTreeMap<Value, u64>,
    /// The version of each value that was seen. A value never has two versions.
    versions: BTreeMap<Value, String>,
    /// Where that version was seen first.
    first_seen: BTreeMap<Value, String>,
    /// What the object held when a client last learned it.
    last: Option<Value>,
    /// Operations that failed without being done. Their values may never be seen.
    refused: Vec<String>,
}

/// The safe objects, and which object of each slot is in use.
#[derive(Default)]
struct Safe {
    turns: BTreeMap<usize, usize>,
    records: BTreeMap<String, Record>,
}

/// How long requests took, by whether they failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// When it began, since the start of the test.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// Whether it was of a safe operation.
    pub is_safe: bool,
    /// Whether it failed: no answer, or a refusal that does not come from the state of the object.
    pub failed: bool,
    /// The error that the client got then.
    pub why: String,
}

/// All requests and answers.
pub struct Histories {
    origin: Instant,
    names: &'static str,
    safe: Mutex<Safe>,
    timings: Mutex<Vec<Timing>>,
}

impl Histories {
    /// Starts empty. The ids of safe objects begin with `names`.
    pub fn new(names: &'static str) -> Self {
        let safe = Mutex::default();
        Self { origin: started(), names, safe, timings: Mutex::default() }
    }

    /// The moment, in nanoseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap()
    }

    fn safe(&self) -> MutexGuard<'_, Safe> {
        self.safe.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One of the `count` safe objects that are in use now.
    pub fn pick(&self, rng: &mut SmallRng, count: usize) -> String {
        let mut guard = self.safe();
        let Safe { turns, records } = &mut *guard;
        let slot = rng.random_range(0..count);
        let turn = turns.entry(slot).or_default();
        let mut name = format!("{}/{slot}-{turn}", self.names);
        let record = records.entry(name.clone()).or_default();
        if record.entries.len() >= OPERATIONS_MAX || record.unknown >= UNKNOWN_MAX {
            *turn += 1;
            name = format!("{}/{slot}-{turn}", self.names);
            records.entry(name.clone()).or_default();
        }
        name
    }

    /// A value that this object was last seen to hold, with its version.
    pub fn last_known(&self, id: &str) -> Option<(Value, String)> {
        let guard = self.safe();
        let record = guard.records.get(id)?;
        let value = record.last?;
        Some((value, record.versions.get(&value)?.clone()))
    }

    /// This value is about to be written.
    pub fn will_write(&self, id: &str, value: Value) {
        let now = self.now();
        self.safe().records.entry(id.to_owned()).or_default().asked.insert(value, now);
    }

    /// An operation ended, or nobody will ever know its outcome.
    pub fn record(&self, id: &str, entry: Entry) {
        let mut guard = self.safe();
        let record = guard.records.entry(id.to_owned()).or_default();
        record.unknown += usize::from(entry.returned_at == NEVER);
        record.entries.push(entry);
    }

    /// An operation was refused, and nothing was done.
    pub fn record_refused(&self, id: &str, entry: &Entry) {
        self.safe().records.entry(id.to_owned()).or_default().refused.push(entry.to_string());
    }

    /// An object was read in a mode other than safe. Some client must have sent these bytes. Its version is not checked: one
    /// replica may return what is not decided yet, or is never decided.
    pub fn check_weak_read(&self, id: &str, held: Option<&Held>, member_name: &str) {
        let Some(held) = held else { return };
        let value = sequence_of(id, &held.value);
        let now = self.now();
        let guard = self.safe();
        let asked = guard.records.get(id).and_then(|record| record.asked.get(&value));
        let is_asked = asked.is_some_and(|at| *at <= now);
        assert!(
            is_asked,
            "{id} holds {value} at {member_name}, which nobody has asked to be written"
        );
    }

    /// An object was read in mode safe. Some client must have sent exactly these bytes, and they must have the same version
    /// wherever they are read.
    pub fn check_read(&self, id: &str, held: Option<&Held>, member_name: &str) -> State {
        let held = held?;
        let value = sequence_of(id, &held.value);
        let now = self.now();
        let mut guard = self.safe();
        let record = guard.records.entry(id.to_owned()).or_default();
        let asked = record.asked.get(&value).is_some_and(|at| *at <= now);
        assert!(asked, "{id} holds {value} at {member_name}, which nobody has asked to be written");
        let version = record.versions.entry(value).or_insert_with(|| held.version.clone());
        let first_seen = record.first_seen.entry(value).or_insert_with(|| member_name.to_owned());
        assert_eq!(
            *version, held.version,
            "{id}: two versions of the value {value}, at {member_name} after {first_seen}"
        );
        record.last = Some(value);
        Some(value)
    }

    /// The version that a write returned.
    pub fn record_version(&self, id: &str, value: Value, version: &str) {
        let mut guard = self.safe();
        let record = guard.records.entry(id.to_owned()).or_default();
        let known = record.versions.entry(value).or_insert_with(|| version.to_owned());
        let first_seen = record.first_seen.entry(value).or_insert_with(|| "its writer".to_owned());
        assert_eq!(
            *known, version,
            "{id}: two versions of the value {value}, written after {first_seen}"
        );
        record.last = Some(value);
    }

    /// A request has ended: records how long it took.
    pub fn record_timing<T>(&self, called_at: u64, is_safe: bool, ended: &Result<T, Failed>) {
        let (failed, why) = (ended.is_err(), ended.as_ref().err());
        let why = why.map(|failed| format!("{failed:?}")).unwrap_or_default();
        let (at, took) =
            (Duration::from_nanos(called_at), Duration::from_nanos(self.now() - called_at));
        self.timings.lock().unwrap().push(Timing { at, took, is_safe, failed, why });
    }

    /// How long all requests took.
    pub fn timings(&self) -> Vec<Timing> {
        self.timings.lock().unwrap().clone()
    }

    /// All safe objects.
    pub fn ids(&self) -> Vec<String> {
        self.safe().records.keys().cloned().collect()
    }

    /// Asserts that every history of safe operations is linearizable, and gives a summary.
    #[track_caller]
    pub fn assert_linearizable(&self, seed: u64) -> String {
        let guard = self.safe();
        let (mut operations, mut unknown, mut longest) = (0, 0, 0);
        for (id, record) in &guard.records {
            operations += record.entries.len();
            unknown += record.unknown;
            longest = longest.max(record.entries.len());
            match check(&record.entries) {
                Verdict::Linearizable => {}
                Verdict::NotLinearizable => {
                    let Record { versions, refused, .. } = record;
                    panic!(
                        "NOMAD_SEED={seed}: {id} is not linearizable\n{}\nrefused, and never to be seen:\n{}\nversions {versions:?}",
                        shown(&record.entries),
                        refused.join("\n")
                    )
                }
                Verdict::GaveUp => panic!(
                    "NOMAD_SEED={seed}: {id}: {} operations, {} of them unknown, are too many to check",
                    record.entries.len(),
                    record.unknown
                ),
            }
        }
        format!(
            "{} safe objects, {operations} operations, {unknown} of unknown outcome, at most {longest} on one: linearizable",
            guard.records.len()
        )
    }
}

/// What an object may hold in the end that one client writes fast, one write after the other.
#[derive(Debug, Clone, Default)]
pub struct FastObject {
    /// The last acknowledged state. It holds this unless a write of unknown outcome took effect.
    pub acknowledged: State,
    /// The states that writes of unknown outcome lead to, now or later.
    pub unknown: BTreeSet<State>,
    /// The member that acknowledged last.
    pub at: Option<usize>,
    /// That member lost its disk afterwards.
    pub may_be_lost: bool,
    /// All values that were ever sent.
    pub asked: BTreeSet<Value>,
    /// How often it was written.
    pub count: usize,
}

impl FastObject {
    /// Whether the client should use another object from now on.
    pub fn is_full(&self) -> bool {
        self.count >= OPERATIONS_MAX || self.unknown.len() >= UNKNOWN_MAX
    }

    /// Whether it may hold this.
    pub fn may_hold(&self, state: State) -> bool {
        let lost = self.may_be_lost && state.is_none_or(|value| self.asked.contains(&value));
        lost || state == self.acknowledged || self.unknown.contains(&state)
    }
}

/// What is known about an object that many clients write in every mode.
#[derive(Debug, Clone, Default)]
pub struct MixedObject {
    /// The versions that were acknowledged, with their values and the members that acknowledged them.
    pub acknowledged: BTreeMap<String, (Value, usize)>,
    /// What was written with unknown outcome.
    pub unknown: BTreeSet<Value>,
    /// Members that lost their disks: a fast write that one of them acknowledged may be lost.
    pub lost_at: BTreeSet<usize>,
}

/// What the objects may hold that are not written in mode safe alone.
#[derive(Default)]
pub struct AllowedStates {
    /// Objects of one writer.
    pub fast: Mutex<BTreeMap<String, FastObject>>,
    /// Objects of all writers.
    pub mixed: Mutex<BTreeMap<String, MixedObject>>,
}

impl AllowedStates {
    /// This member lost its disk, and its outbox with it.
    pub fn disk_lost(&self, number: usize) {
        for fast in self.fast.lock().unwrap().values_mut() {
            fast.may_be_lost |= fast.at == Some(number);
        }
        for mixed in self.mixed.lock().unwrap().values_mut() {
            mixed.lost_at.insert(number);
        }
    }
}

/// A member, as it is shown in messages.
pub fn member_name(number: usize, member: &Member) -> String {
    format!("node {number} ({})", short(&member.id))
}
