//! The clients: each sends requests to any member that runs, over any edge, and records the answers. A failure that the API
//! contract does not allow fails the test at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use tokio::{
    task::JoinHandle,
    time::{Duration, sleep},
};

use crate::{
    entry::{Entry, Operation, Response, State, Value},
    histories::{Addresses, AllowedStates, Clients, FastObject, Histories, member_name},
    support::{
        load::{content, sequence_of},
        objects::{Answer, Done, Edge, Failed, Held, Mode, When},
    },
};

/// How many objects clients use at a time.
const SAFE_OBJECTS: usize = 10;
const FAST_OBJECTS_EACH: usize = 6;
const MIXED_OBJECTS: usize = 12;

/// The pause of a client after a failed request.
const PAUSE: Duration = Duration::from_millis(20);

/// Two writes of one object at two nodes within a millisecond of the wall clock have no order.
const CLOCK_STEP: Duration = Duration::from_millis(2);

/// What all clients share.
pub struct Workload {
    /// The members that run.
    pub addresses: Addresses,
    /// What safe operations did.
    pub histories: Histories,
    /// What objects of the other clients may hold.
    pub allowed: AllowedStates,
    next: AtomicU64,
    stop: AtomicBool,
    acks: AtomicU64,
}

impl Workload {
    /// No member is known, and nothing was sent yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            addresses: Addresses::default(),
            histories: Histories::new("safe"),
            allowed: AllowedStates::default(),
            next: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            acks: AtomicU64::new(0),
        })
    }

    /// Tells all clients to end after their current request.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// How many requests were answered so far.
    pub fn acks(&self) -> u64 {
        self.acks.load(Relaxed)
    }

    fn value(&self) -> Value {
        self.next.fetch_add(1, Relaxed)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }
}

/// Starts so many clients of each kind.
pub fn start(
    workload: &Arc<Workload>,
    seed: u64,
    [safe, fast, mixed]: [usize; 3],
) -> Vec<JoinHandle<()>> {
    let rng = |kind: u64, number: usize| {
        SmallRng::seed_from_u64(seed.rotate_left(20) ^ (kind << 32) ^ number as u64)
    };
    let mut tasks = Vec::new();
    for number in 0..safe {
        tasks.push(tokio::spawn(safe_client(Arc::clone(workload), rng(1, number))));
    }
    for number in 0..fast {
        tasks.push(tokio::spawn(fast_client(Arc::clone(workload), rng(2, number), number)));
    }
    for number in 0..mixed {
        tasks.push(tokio::spawn(mixed_client(Arc::clone(workload), rng(3, number))));
    }
    tasks
}

// ---- safe ----

/// What a safe client does next, and over which edge.
fn plan(rng: &mut SmallRng, value: Value, known: Option<&(Value, String)>) -> (Operation, Edge) {
    let any = *Edge::ALL.choose(rng).unwrap();
    match (rng.random_range(0..20), known) {
        (0..3, _) => (Operation::Create(value), any),
        (3..5, _) => (Operation::Upsert(value), Edge::Resource),
        (5..8, _) => (Operation::Replace(value), any),
        (8..11, Some((held, _))) => (Operation::Swap(*held, value), any),
        (11, Some((held, _))) => {
            (Operation::DeleteIf(*held), *[Edge::Resource, Edge::Grpc].choose(rng).unwrap())
        }
        (12, _) => (Operation::Delete, any),
        _ => (Operation::Read, any),
    }
}

fn when(operation: Operation, known: Option<&(Value, String)>) -> When {
    let version = || When::Version(known.map(|known| known.1.clone()).unwrap_or_default());
    match operation {
        Operation::Create(_) => When::Absent,
        Operation::Replace(_) => When::Present,
        Operation::Swap(..) | Operation::DeleteIf(_) => version(),
        Operation::Upsert(_) | Operation::Delete | Operation::Read => When::Always,
    }
}

/// What an operation writes.
fn written(operation: Operation) -> State {
    match operation {
        Operation::Create(value) | Operation::Upsert(value) | Operation::Replace(value) => {
            Some(value)
        }
        Operation::Swap(_, value) => Some(value),
        Operation::Delete | Operation::DeleteIf(_) | Operation::Read => None,
    }
}

/// Sends safe operations of every kind for a few objects that all safe clients share. Now and then it reads in another mode:
/// that has to return something that was written.
async fn safe_client(workload: Arc<Workload>, mut rng: SmallRng) {
    let mut clients = Clients::default();
    while !workload.is_stopped() {
        let Some((life, member)) = workload.addresses.pick(&mut rng) else {
            sleep(PAUSE).await;
            continue;
        };
        let (histories, member_name) = (&workload.histories, member_name(life.0, &member));
        let client = clients.of(life, &member);
        let id = histories.pick(&mut rng, SAFE_OBJECTS);
        if rng.random_ratio(1, 8) {
            let mode = *[Mode::Fast, Mode::Parallel].choose(&mut rng).unwrap();
            let (edge, called_at) = (*Edge::ALL.choose(&mut rng).unwrap(), histories.now());
            let read = client.read(edge, mode, &id).await;
            histories.record_timing(called_at, false, &read);
            if let Ok(held) = read {
                histories.check_weak_read(
                    &id,
                    held.as_ref(),
                    &format!("{member_name} in mode {mode:?}"),
                );
                workload.acks.fetch_add(1, Relaxed);
            }
            continue;
        }
        let known = histories.last_known(&id);
        let (operation, edge) = plan(&mut rng, workload.value(), known.as_ref());
        let when = when(operation, known.as_ref());
        let writes = written(operation);
        if let Some(value) = writes {
            histories.will_write(&id, value);
        }
        let called_at = histories.now();
        let ended = match (operation, writes) {
            (Operation::Read, _) => client.read(edge, Mode::Safe, &id).await.map(|held| {
                let state = histories.check_read(&id, held.as_ref(), &member_name);
                (Response::Found(state), None)
            }),
            (_, Some(value)) => {
                let bytes = content(&id, value);
                let done = client.write(edge, Mode::Safe, &id, bytes, &when).await;
                done.map(|done| {
                    let version = done.version.filter(|_| is_written(done.answer));
                    (Response::Ended(done.answer), version)
                })
            }
            (_, None) => {
                let done = client.delete(edge, Mode::Safe, &id, &when).await;
                done.map(|done| (Response::Ended(done.answer), None))
            }
        };
        let returned_at = histories.now();
        let failed = ended.is_err();
        histories.record_timing(called_at, true, &ended);
        let who = format!("{edge:?} {member_name}");
        match ended {
            Ok((response, version)) => {
                if let (Some(value), Some(version)) = (writes, version) {
                    histories.record_version(&id, value, &version);
                }
                histories.record(
                    &id,
                    Entry { who, ..Entry::answered(operation, response, called_at, returned_at) },
                );
                workload.acks.fetch_add(1, Relaxed);
            }
            // Nothing was done, and nothing will be done. So it is not part of the history.
            Err(Failed::NotDone(text)) => {
                let entry = Entry { returned_at, ..Entry::unknown(operation, called_at) };
                histories.record_refused(&id, &Entry { who: format!("{who}: {text}"), ..entry });
            }
            Err(Failed::Unknown(text)) => {
                let who = format!("{who}: {text}");
                histories.record(&id, Entry { who, ..Entry::unknown(operation, called_at) });
            }
        }
        if failed {
            sleep(PAUSE).await;
        }
    }
}

fn is_written(answer: Answer) -> bool {
    matches!(answer, Answer::Created | Answer::Replaced)
}

// ---- fast, one writer of each object ----

/// Sends fast writes and deletes of objects that only this client writes: one after the other, each to another member.
async fn fast_client(workload: Arc<Workload>, mut rng: SmallRng, number: usize) {
    let mut clients = Clients::default();
    let mut turns = [0; FAST_OBJECTS_EACH];
    while !workload.is_stopped() {
        let Some((life, member)) = workload.addresses.pick(&mut rng) else {
            sleep(PAUSE).await;
            continue;
        };
        let slot = rng.random_range(0..FAST_OBJECTS_EACH);
        let id = format!("fast/{number}-{slot}-{}", turns[slot]);
        let (edge, value, called_at) =
            (*Edge::ALL.choose(&mut rng).unwrap(), workload.value(), workload.histories.now());
        let client = clients.of(life, &member);
        let deletes = rng.random_ratio(1, 5);
        let (state, ended) = if deletes {
            (None, client.delete(edge, Mode::Fast, &id, &When::Always).await)
        } else {
            let conditions = match edge {
                Edge::Resource => [When::Always, When::Absent, When::Present],
                _ => [When::Present, When::Absent, When::Present],
            };
            let (when, bytes) = (conditions.choose(&mut rng).unwrap(), content(&id, value));
            (Some(value), client.write(edge, Mode::Fast, &id, bytes, when).await)
        };
        workload.histories.record_timing(called_at, false, &ended);
        let full = {
            let mut fast = workload.allowed.fast.lock().unwrap();
            let fast = fast.entry(id).or_default();
            note_fast(fast, state, &ended, life.0);
            fast.is_full()
        };
        if full {
            turns[slot] += 1;
        }
        match ended {
            Ok(_) => workload.acks.fetch_add(1, Relaxed),
            Err(_) => {
                sleep(PAUSE).await;
                0
            }
        };
        sleep(CLOCK_STEP).await;
    }
}

fn note_fast(fast: &mut FastObject, state: State, ended: &Result<Done, Failed>, at: usize) {
    fast.count += 1;
    fast.asked.extend(state);
    match ended {
        Ok(done) if is_written(done.answer) || done.answer == Answer::Removed => {
            fast.acknowledged = state;
            (fast.at, fast.may_be_lost) = (Some(at), false);
        }
        // Refused because of what this member knew about the object. Nothing was done.
        Ok(_) | Err(Failed::NotDone(_)) => {}
        Err(Failed::Unknown(_)) => {
            fast.unknown.insert(state);
        }
    }
}

// ---- any mode, many writers ----

/// Writes in both modes to objects that all such clients share. Every write returns its version. The greatest version has to
/// win.
async fn mixed_client(workload: Arc<Workload>, mut rng: SmallRng) {
    let mut clients = Clients::default();
    while !workload.is_stopped() {
        let Some((life, member)) = workload.addresses.pick(&mut rng) else {
            sleep(PAUSE).await;
            continue;
        };
        let id = format!("mixed/{}", rng.random_range(0..MIXED_OBJECTS));
        let client = clients.of(life, &member);
        let (mode, value) = (*Mode::OF_WRITES.choose(&mut rng).unwrap(), workload.value());
        let (bytes, called_at) = (content(&id, value), workload.histories.now());
        let ended = client.write(Edge::Resource, mode, &id, bytes, &When::Always).await;
        workload.histories.record_timing(called_at, mode == Mode::Safe, &ended);
        let failed = ended.is_err();
        {
            let mut mixed = workload.allowed.mixed.lock().unwrap();
            let mixed = mixed.entry(id).or_default();
            match ended {
                Ok(Done { version: Some(version), .. }) => {
                    let other = mixed.acknowledged.insert(version.clone(), (value, life.0));
                    assert_eq!(other, None, "the version {version} was given twice");
                    workload.acks.fetch_add(1, Relaxed);
                }
                Ok(done) => panic!("no version: {done:?}"),
                Err(Failed::NotDone(_)) => {}
                Err(Failed::Unknown(_)) => {
                    mixed.unknown.insert(value);
                }
            }
        }
        if failed {
            sleep(PAUSE).await;
        }
        // Whatever is read, in any mode, was written as a whole.
        let mode = *Mode::ALL.choose(&mut rng).unwrap();
        let id = format!("mixed/{}", rng.random_range(0..MIXED_OBJECTS));
        if let Ok(Some(Held { value, .. })) = client.read(Edge::Grpc, mode, &id).await {
            sequence_of(&id, &value);
            workload.acks.fetch_add(1, Relaxed);
        }
    }
}
