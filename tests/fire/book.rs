//! What every client asked and was answered, and where clients find the members. Histories of safe operations go to the
//! checker; of each object that is written fast it is known what it may hold in the end.

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

/// After so many operations, or so many unknown outcomes, an object is left alone until the end: histories stay short enough to be checked
/// whole, and what was acknowledged early has to last through everything that comes later.
const OPERATIONS_MAX: usize = 90;
const UNKNOWN_MAX: usize = 4;

/// Who is asked: a member in one of its lives.
pub type Life = (usize, u64);

/// Where clients find the members that run, each with the number of its life.
#[derive(Default)]
pub struct Addresses(Mutex<Lives>);

#[derive(Default)]
struct Lives {
    count: u64,
    now: BTreeMap<usize, (u64, Member)>,
}

impl Addresses {
    /// Those that run now; a member that was not there before, or was started again, begins another life.
    pub fn note(&self, cluster: &Cluster) {
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

    /// Nobody is to be asked for this one any more.
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

/// Clients of the members that one worker has asked, each made once for each life.
#[derive(Default)]
pub struct Clients(BTreeMap<usize, (u64, Client)>);

impl Clients {
    /// The client of a member in this life.
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
    /// What was asked to be written, and when.
    asked: BTreeMap<Value, u64>,
    /// The version of each value that was seen; the two belong together.
    versions: BTreeMap<Value, String>,
    /// Who was first told that version, and how.
    told: BTreeMap<Value, String>,
    /// What the object last held, as far as a client was told.
    last: Option<Value>,
    /// What was refused for a reason that is none of the object's. None of it may ever be seen.
    refused: Vec<String>,
}

/// The safe objects, and which of each slot is in use.
#[derive(Default)]
struct Safe {
    turns: BTreeMap<usize, usize>,
    records: BTreeMap<String, Record>,
}

/// How long requests took, by whether they failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// When it began, since the start of the book.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// Whether it was of a safe operation.
    pub is_safe: bool,
    /// Whether it failed: no answer, or a refusal that is none of the object's.
    pub failed: bool,
    /// What the client was told then.
    pub why: String,
}

/// Everything that was asked and answered.
pub struct Book {
    origin: Instant,
    names: &'static str,
    safe: Mutex<Safe>,
    timings: Mutex<Vec<Timing>>,
}

impl Book {
    /// Nothing was asked. Safe objects begin with `names`.
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
    pub fn known(&self, id: &str) -> Option<(Value, String)> {
        let guard = self.safe();
        let record = guard.records.get(id)?;
        let value = record.last?;
        Some((value, record.versions.get(&value)?.clone()))
    }

    /// This value is about to be written.
    pub fn asks(&self, id: &str, value: Value) {
        let now = self.now();
        self.safe().records.entry(id.to_owned()).or_default().asked.insert(value, now);
    }

    /// An operation ended, or will never be known to have.
    pub fn note(&self, id: &str, entry: Entry) {
        let mut guard = self.safe();
        let record = guard.records.entry(id.to_owned()).or_default();
        record.unknown += usize::from(entry.back == NEVER);
        record.entries.push(entry);
    }

    /// An operation was refused, and nothing was done.
    pub fn refused(&self, id: &str, entry: &Entry) {
        self.safe().records.entry(id.to_owned()).or_default().refused.push(entry.to_string());
    }

    /// An object was read in a mode other than safe: these bytes were asked to be written. One replica may show what is not
    /// decided, and what is decided under another version, or never.
    pub fn glimpsed(&self, id: &str, held: Option<&Held>, whom: &str) {
        let Some(held) = held else { return };
        let value = sequence_of(id, &held.value);
        let now = self.now();
        let guard = self.safe();
        let asked = guard.records.get(id).and_then(|record| record.asked.get(&value));
        let is_asked = asked.is_some_and(|at| *at <= now);
        assert!(is_asked, "{id} holds {value} at {whom}, which nobody has asked to be written");
    }

    /// An object was read: these bytes were written to it, whole, and have one version wherever they are read.
    pub fn saw(&self, id: &str, held: Option<&Held>, whom: &str) -> State {
        let held = held?;
        let value = sequence_of(id, &held.value);
        let now = self.now();
        let mut guard = self.safe();
        let record = guard.records.entry(id.to_owned()).or_default();
        let asked = record.asked.get(&value).is_some_and(|at| *at <= now);
        assert!(asked, "{id} holds {value} at {whom}, which nobody has asked to be written");
        let version = record.versions.entry(value).or_insert_with(|| held.version.clone());
        let told = record.told.entry(value).or_insert_with(|| whom.to_owned());
        assert_eq!(
            *version, held.version,
            "{id}: two versions of the value {value}, at {whom} after {told}"
        );
        record.last = Some(value);
        Some(value)
    }

    /// The version that a write was said to have made.
    pub fn made(&self, id: &str, value: Value, version: &str) {
        let mut guard = self.safe();
        let record = guard.records.entry(id.to_owned()).or_default();
        let known = record.versions.entry(value).or_insert_with(|| version.to_owned());
        let told = record.told.entry(value).or_insert_with(|| "its writer".to_owned());
        assert_eq!(
            *known, version,
            "{id}: two versions of the value {value}, written after {told}"
        );
        record.last = Some(value);
    }

    /// A request took so long.
    pub fn timed<T>(&self, call: u64, is_safe: bool, ended: &Result<T, Failed>) {
        let (failed, why) = (ended.is_err(), ended.as_ref().err());
        let why = why.map(|failed| format!("{failed:?}")).unwrap_or_default();
        let (at, took) = (Duration::from_nanos(call), Duration::from_nanos(self.now() - call));
        self.timings.lock().unwrap().push(Timing { at, took, is_safe, failed, why });
    }

    /// What requests took.
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

/// What an object that is written fast, by one client and one write after the other, may hold in the end.
#[derive(Debug, Clone, Default)]
pub struct Fast {
    /// What it holds if nothing of unknown outcome took effect, or took effect late.
    pub acknowledged: State,
    /// What writes of unknown outcome may have made, or may make yet.
    pub unknown: BTreeSet<State>,
    /// Who acknowledged last.
    pub at: Option<usize>,
    /// The disk of that one was lost afterwards.
    pub may_be_lost: bool,
    /// Everything that was ever asked to be written.
    pub asked: BTreeSet<Value>,
    /// How often it was written.
    pub count: usize,
}

impl Fast {
    /// Whether it is to be left alone from now on.
    pub fn is_full(&self) -> bool {
        self.count >= OPERATIONS_MAX || self.unknown.len() >= UNKNOWN_MAX
    }

    /// Whether it may hold this.
    pub fn may_hold(&self, state: State) -> bool {
        let lost = self.may_be_lost && state.is_none_or(|value| self.asked.contains(&value));
        lost || state == self.acknowledged || self.unknown.contains(&state)
    }
}

/// What is known of an object that many clients write in every mode.
#[derive(Debug, Clone, Default)]
pub struct Mixed {
    /// The versions that were acknowledged, with their values, and who took them.
    pub acknowledged: BTreeMap<String, (Value, usize)>,
    /// What was written with unknown outcome.
    pub unknown: BTreeSet<Value>,
    /// A fast write that one of them acknowledged may have been lost with its disk.
    pub lost_at: BTreeSet<usize>,
}

/// Everything of the objects that are not written safely.
#[derive(Default)]
pub struct Loose {
    /// Objects of one writer.
    pub fast: Mutex<BTreeMap<String, Fast>>,
    /// Objects of all writers.
    pub mixed: Mutex<BTreeMap<String, Mixed>>,
}

impl Loose {
    /// The disk of this member is lost, with what only it had: its outbox.
    pub fn lost(&self, number: usize) {
        for fast in self.fast.lock().unwrap().values_mut() {
            fast.may_be_lost |= fast.at == Some(number);
        }
        for mixed in self.mixed.lock().unwrap().values_mut() {
            mixed.lost_at.insert(number);
        }
    }
}

/// A member in words.
pub fn whom(number: usize, member: &Member) -> String {
    format!("node {number} ({})", short(&member.id))
}
