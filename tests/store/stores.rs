//! The fjall store and the memory store behind one type, so that a test can run on both.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs,
    path::Path,
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use nomad_core::{
    group::table::Configuration,
    model::{
        change::{Change, Condition, Content},
        object::{Object, ObjectId, Tier, Version},
        time::{UnixMs, UnixSecs},
    },
    register::{Ballot, Register, ShardState, Tombstone, Value, shard_of},
};
use nomad_doubles::ManualClock;
use nomad_ports::{
    ObjectStore,
    object_store::{
        Completion, OutboxChange, OutboxJob, Receipt, RegisterHead, RegisterJob, StoreError,
        StoreJob, Swept, WriteJob, WriteResult,
    },
};
use nomad_storage::{FjallStore, MemoryStore, StoreOptions};
use tempfile::{TempDir, tempdir};

pub const START: UnixMs = UnixMs(1_700_000_000_000);
pub const NOW: UnixSecs = UnixSecs(1_700_000_000);

/// A store with its clock.
pub struct TestStore {
    pub name: &'static str,
    pub store: Arc<dyn ObjectStore>,
    pub clock: Arc<ManualClock>,
    disk: Option<Disk>,
}

/// What a store on fjall is opened with again.
struct Disk {
    store: Arc<FjallStore>,
    options: StoreOptions,
    _dir: TempDir,
}

impl TestStore {
    /// One of each.
    pub fn both() -> [Self; 2] {
        [Self::memory(), Self::fjall(|_| {})]
    }

    pub fn memory() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let store = Arc::new(MemoryStore::new(clock.clone()));
        Self { name: "memory", store, clock, disk: None }
    }

    pub fn fjall(set: impl FnOnce(&mut StoreOptions)) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let dir = tempdir().unwrap();
        let mut options = StoreOptions::new(dir.path().join("store"));
        options.clock = clock.clone();
        options.node_tag = 1;
        set(&mut options);
        let store = Arc::new(FjallStore::open(options.clone()).unwrap());
        let disk = Disk { store: store.clone(), options, _dir: dir };
        Self { name: "fjall", store, clock, disk: Some(disk) }
    }

    pub fn dir(&self) -> &Path {
        &self.disk.as_ref().unwrap().options.dir
    }

    /// Stops the store, changes how it is opened, and opens it again. The store in memory just goes on.
    pub fn restart_with(&mut self, change: impl FnOnce(&mut StoreOptions)) {
        let Some(disk) = &mut self.disk else { return };
        disk.store.close();
        change(&mut disk.options);
        disk.store = Arc::new(FjallStore::open(disk.options.clone()).unwrap());
        self.store = disk.store.clone();
    }

    pub fn restart(&mut self) {
        self.restart_with(|_| {});
    }

    /// Stops the store and gives its directory to a test.
    pub fn edit_while_closed(&mut self, change: impl FnOnce(&Path)) {
        self.restart_with(|options| change(&options.dir));
    }

    pub fn close(&self) {
        if let Some(disk) = &self.disk {
            disk.store.close();
        }
    }

    pub fn keep(&self, job: Registers) -> Result<(), StoreError> {
        let (done, answer) = channel();
        self.store.submit(StoreJob::Registers(job.with(done)));
        answer.recv().unwrap()
    }

    /// Keeps registers of any shards, a job for each.
    pub fn keep_all(&self, writes: Vec<(ObjectId, Option<Register>)>) {
        for shard in 0..nomad_core::register::SHARDS {
            let writes: Vec<_> =
                writes.iter().filter(|(id, _)| shard_of(id) == shard).cloned().collect();
            if !writes.is_empty() {
                self.keep(Registers { shard, writes, ..Registers::default() }).unwrap();
            }
        }
    }

    pub fn keep_one(&self, id: &ObjectId, register: Option<Register>) -> Result<(), StoreError> {
        let writes = vec![(id.clone(), register)];
        self.keep(Registers { shard: shard_of(id), writes, ..Registers::default() })
    }

    pub fn outbox(&self, change: OutboxChange) -> Result<(), StoreError> {
        let (done, answer) = channel();
        self.store.submit(StoreJob::Outbox(OutboxJob { change, done }));
        answer.recv().unwrap()
    }

    pub fn write(&self, tier: Tier, id: &ObjectId, change: Change) -> WriteResult {
        let (done, answer) = mpsc::channel();
        let done = Box::new(Waiting(done));
        self.store.submit(StoreJob::Write(WriteJob { tier, id: id.clone(), change, done }));
        answer.recv().unwrap()
    }

    pub fn sweep(&self, limit: usize) -> Swept {
        let (sender, answer) = mpsc::channel();
        let done = Box::new(move |swept| sender.send(swept).unwrap());
        self.store.submit(StoreJob::Sweep { limit, done });
        answer.recv().unwrap().unwrap()
    }

    pub fn get(&self, id: &ObjectId) -> Option<Object> {
        self.store.get(Tier::Group, id, self.now()).unwrap()
    }

    pub fn now(&self) -> UnixSecs {
        nomad_ports::Clock::wall(&*self.clock).secs()
    }

    /// All registers of a shard, read in pages.
    pub fn heads(&self, shard: u8, page: usize) -> Vec<RegisterHead> {
        let mut heads: Vec<RegisterHead> = Vec::new();
        loop {
            let after = heads.last().map(|head| head.id.clone());
            let more = self.store.registers(shard, after.as_ref(), page).unwrap();
            assert!(more.len() <= page);
            if more.is_empty() {
                return heads;
            }
            heads.extend(more);
        }
    }
}

struct Waiting(mpsc::Sender<WriteResult>);

impl Completion for Waiting {
    fn is_abandoned(&self) -> bool {
        false
    }

    fn complete(self: Box<Self>, receipt: Receipt) {
        self.0.send(receipt.result).unwrap();
    }
}

/// A job for registers without its caller.
#[derive(Default)]
pub struct Registers {
    pub shard: u8,
    pub wipe: bool,
    pub state: Option<ShardState>,
    pub writes: Vec<(ObjectId, Option<Register>)>,
}

impl Registers {
    pub fn with(self, done: nomad_ports::object_store::JobDone) -> RegisterJob {
        let Self { shard, wipe, state, writes } = self;
        RegisterJob { shard, wipe, state, writes, done }
    }
}

/// A caller that waits.
pub fn channel<T: Debug + Send + 'static>() -> (Box<dyn FnOnce(T) + Send>, mpsc::Receiver<T>) {
    let (sender, answer) = mpsc::channel();
    // A test that does not wait for the answer has its reasons.
    (Box::new(move |result| drop(sender.send(result))), answer)
}

pub fn id(text: &str) -> ObjectId {
    ObjectId::parse(text).unwrap()
}

/// The first `count` ids of this form in a shard.
pub fn ids_of(shard: u8, form: &str, count: usize) -> Vec<ObjectId> {
    let all = (0..).map(|index| id(&format!("{form}{index}")));
    let mut ids: Vec<_> = all.filter(|id| shard_of(id) == shard).take(count).collect();
    ids.sort();
    ids
}

pub fn ballot(counter: u64) -> Ballot {
    Ballot { epoch: 3, counter, node: 9 }
}

pub fn version(counter: u64) -> Version {
    Version { time: START.0 << 16 | counter, node: 9 }
}

pub fn object(id: &ObjectId, counter: u64, expires_at: Option<UnixSecs>) -> Object {
    Object {
        id: id.clone(),
        value: Bytes::from(format!("value {counter} of {id}")),
        creation_time: UnixSecs(5),
        expires_at,
        last_modified: NOW,
        version: version(counter),
        content_type: Some("text/plain".into()),
    }
}

/// A register that has accepted an object under this counter, and promised the next one.
pub fn live(id: &ObjectId, counter: u64, expires_at: Option<UnixSecs>) -> Register {
    Register {
        promised: ballot(counter).piggyback(),
        accepted: ballot(counter),
        value: Value::Live(object(id, counter, expires_at)),
        ..Register::default()
    }
}

pub fn tombstone(counter: u64) -> Register {
    let value = Value::Tombstone(Tombstone { version: version(counter) });
    Register { promised: ballot(counter), accepted: ballot(counter), value, ..Register::default() }
}

pub fn promise(register: &Register, counter: u64) -> Register {
    Register { promised: ballot(counter), ..register.clone() }
}

pub fn state(counter_limit: u64) -> ShardState {
    let configuration =
        Configuration { epoch: 3, members: BTreeSet::new(), replication_factor: 3, old: None };
    let group = "group of the test".into();
    ShardState {
        group,
        claim: 7,
        configuration,
        counter_limit,
        version_limit: 0,
        floor: ballot(1),
        ceiling: ballot(9),
    }
}

pub fn content(value: &str, expires_at: Option<UnixSecs>) -> Change {
    let content = Content {
        value: Bytes::copy_from_slice(value.as_bytes()),
        creation_time: None,
        expires_at,
        content_type: None,
    };
    Change::Write { content, condition: Condition::Any }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Changes the records of a store that is closed, past its own code.
pub fn edit(dir: &Path, change: impl FnOnce(&fjall::Keyspace)) {
    let db = fjall::Database::builder(dir).open().unwrap();
    let records = db.keyspace("nomad", fjall::KeyspaceCreateOptions::default).unwrap();
    change(&records);
    db.persist(fjall::PersistMode::SyncAll).unwrap();
}
