//! The durable state of the log: in memory for reads, in a database for writes. All writes that wait become one batch with one
//! fsync.
//!
//! ```text
//! 01 name       -> a fact: "format", "node", "bond", "vote", "committed", "purged", "snapshot"
//! 02 index(be)  -> an entry of the log
//! ```
//! Another group or claim takes the place of all that in one batch, so that there is never a mix. Writes go through a handle that
//! ends with the group it was made for. Nothing here waits on a runtime's worker for the disk: writes run on a blocking
//! thread, which under paused time also holds the clock still.

use std::{collections::BTreeMap, mem, sync::Arc};

use fjall::{PersistMode, Readable as _};
use openraft::storage::LogFlushed;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tracing::error;

use super::{
    codec::{self, DISK},
    options::{LogOpenError, RaftOptions},
    types::{RaftEntry, RaftLogId, RaftVote, SnapshotMeta, Types},
};
use nomad_core::{group::table::GroupClaim, model::node_id::NodeId};
use nomad_storage::{self as storage, Engine, EngineOptions, FaultInjector, FaultPoint};

const KEY_FORMAT: &[u8] = b"\x01format";
const KEY_NODE: &[u8] = b"\x01node";
const KEY_BOND: &[u8] = b"\x01bond";
pub const KEY_VOTE: &[u8] = b"\x01vote";
pub const KEY_COMMITTED: &[u8] = b"\x01committed";
pub const KEY_PURGED: &[u8] = b"\x01purged";
pub const KEY_SNAPSHOT: &[u8] = b"\x01snapshot";
const TAG_ENTRY: u8 = 2;
/// Behind all keys.
const END: &[u8] = &[0xff];

/// The log is read from memory.
const CACHE_BYTES: u64 = 1 << 20;
const MEMTABLE_BYTES: u64 = 8 << 20;
/// The most sealed memtables that a batch is written behind.
const SEALED_MAX: usize = 2;

/// A snapshot: what it covers, and the table.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct KeptSnapshot {
    pub meta: SnapshotMeta,
    pub data: Arc<Vec<u8>>,
}

/// What is kept. In memory it is ahead of the disk by the writes under way.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    pub bond: Option<GroupClaim>,
    pub vote: Option<RaftVote>,
    pub committed: Option<RaftLogId>,
    pub purged: Option<RaftLogId>,
    /// Entries with their lengths in bytes; their indices follow one another.
    pub log: BTreeMap<u64, (RaftEntry, usize)>,
    pub snapshot: Option<KeptSnapshot>,
}

impl Kept {
    pub fn last_log_id(&self) -> Option<RaftLogId> {
        self.log.last_key_value().map(|(_, (entry, _))| entry.log_id).or(self.purged)
    }
}

/// What a write changes on disk; `None` removes the key.
#[derive(Debug, Default)]
pub struct Changes(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Changes {
    /// Returns how many bytes the value takes.
    pub fn put(&mut self, key: &[u8], value: &impl serde::Serialize) -> Result<usize, String> {
        let bytes = codec::encode(DISK, value)?;
        let len = bytes.len();
        self.0.push((key.to_vec(), Some(bytes)));
        Ok(len)
    }

    /// Returns how many bytes the entry takes.
    pub fn entry(&mut self, entry: &RaftEntry) -> Result<usize, String> {
        self.put(&entry_key(entry.log_id.index), entry)
    }

    pub fn remove_entry(&mut self, index: u64) {
        self.0.push((entry_key(index), None));
    }
}

fn entry_key(index: u64) -> Vec<u8> {
    [&[TAG_ENTRY][..], &index.to_be_bytes()].concat()
}

/// Who waits for a write.
pub enum LogWaiter {
    Told(oneshot::Sender<Result<(), String>>),
    Flushed(LogFlushed<Types>),
}

struct Job {
    changes: Changes,
    done: LogWaiter,
}

struct Shared {
    /// `None` once it is closed.
    engine: Option<Arc<Engine>>,
    kept: Kept,
    /// Which handles may write.
    generation: u64,
    queue: Vec<Job>,
    draining: bool,
    failed: Option<String>,
}

/// The store.
pub struct RaftStore {
    faults: Option<FaultInjector>,
    shared: Mutex<Shared>,
}

impl std::fmt::Debug for RaftStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// The right to write for one group.
#[derive(Debug, Clone)]
pub struct Handle {
    store: Arc<RaftStore>,
    generation: u64,
}

fn place(options: &RaftOptions) -> EngineOptions {
    EngineOptions {
        dir: options.dir.clone(),
        keyspace: "group",
        durable: true,
        cache_bytes: CACHE_BYTES,
        memtable_bytes: MEMTABLE_BYTES,
        worker_threads: 1,
    }
}

impl RaftStore {
    /// Opens the store. After a failure, `anew` first makes everything durable again.
    ///
    /// # Errors
    /// Says why it does not open, with the way out.
    pub async fn open(options: &RaftOptions, anew: bool) -> Result<Arc<Self>, LogOpenError> {
        let owned = options.clone();
        let opened = tokio::task::spawn_blocking(move || Self::open_now(&owned, anew)).await;
        opened.unwrap_or_else(|error| {
            Err(LogOpenError::Unusable { dir: options.dir.clone(), reason: error.to_string() })
        })
    }

    fn open_now(options: &RaftOptions, anew: bool) -> Result<Arc<Self>, LogOpenError> {
        let dir = &options.dir;
        let unusable = |reason| LogOpenError::Unusable { dir: dir.clone(), reason };
        if anew {
            if let Some(faults) = &options.faults {
                faults(FaultPoint::Reopen).map_err(|error| unusable(error.to_string()))?;
            }
            storage::renew(&place(options)).map_err(unusable)?;
        }
        let engine = storage::open_engine(&place(options)).map_err(|error| match error {
            storage::StoreOpenError::Damaged { journal, at, reason } => LogOpenError::Damaged {
                dir: dir.clone(),
                what: format!("{} at byte {at} ({reason})", journal.display()),
            },
            error => LogOpenError::Engine(error),
        })?;
        let kept = load(&engine, options)?;
        let shared = Shared {
            engine: Some(Arc::new(engine)),
            kept,
            generation: 0,
            queue: Vec::new(),
            draining: false,
            failed: None,
        };
        Ok(Arc::new(Self { faults: options.faults.clone(), shared: Mutex::new(shared) }))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }

    /// Looks at what is kept.
    pub fn read<T>(&self, look: impl FnOnce(&Kept) -> T) -> T {
        look(&self.lock().kept)
    }

    /// Says why nothing can be written any more, if that is so.
    pub fn failure(&self) -> Option<String> {
        self.lock().failed.clone()
    }

    /// Gives the one handle that may write from now on; earlier ones may no more.
    pub fn handle(self: &Arc<Self>) -> Handle {
        let mut shared = self.lock();
        shared.generation += 1;
        Handle { store: Arc::clone(self), generation: shared.generation }
    }

    /// Replaces all that is kept, in one step: with what a group starts from, or with nothing. Earlier handles end.
    ///
    /// # Errors
    /// What the disk says; then there is the old or the new, after the store was opened again.
    pub async fn replace(
        self: &Arc<Self>,
        bond: Option<&GroupClaim>,
        entries: &[RaftEntry],
    ) -> Result<(), String> {
        let handle = self.handle();
        handle
            .write(|kept, changes| {
                let old = mem::take(kept);
                old.log.keys().for_each(|&index| changes.remove_entry(index));
                for key in [KEY_BOND, KEY_VOTE, KEY_COMMITTED, KEY_PURGED, KEY_SNAPSHOT] {
                    changes.0.push((key.to_vec(), None));
                }
                if let Some(bond) = bond {
                    changes.put(KEY_BOND, bond)?;
                    kept.bond = Some(bond.clone());
                }
                for entry in entries {
                    let len = changes.entry(entry)?;
                    kept.log.insert(entry.log_id.index, (entry.clone(), len));
                }
                Ok(())
            })
            .await
    }

    /// Finishes what waits and closes the database.
    pub async fn close(self: &Arc<Self>) {
        let handle = self.handle();
        let _ = handle.write(|_, _| Ok(())).await;
        let engine = self.lock().engine.take();
        let _ = tokio::task::spawn_blocking(move || drop(engine)).await;
    }

    /// Writes batch after batch until nothing waits. Runs once at a time, on a blocking thread.
    fn drain(&self) {
        loop {
            let (jobs, engine) = {
                let mut shared = self.lock();
                if shared.queue.is_empty() {
                    shared.draining = false;
                    return;
                }
                (mem::take(&mut shared.queue), shared.engine.clone())
            };
            let (mut batch, mut waiting) = (BTreeMap::new(), Vec::new());
            for Job { changes, done } in jobs {
                // All items of a batch share one sequence number, so that a key must be in it only once.
                batch.extend(changes.0);
                waiting.push(done);
            }
            let failed = self.lock().failed.clone();
            let result = match (failed, engine) {
                (Some(reason), _) => Err(reason),
                (None, None) => Err("it is closed".into()),
                (None, Some(engine)) => self.commit(&engine, batch),
            };
            if let Err(reason) = &result {
                self.fail(reason);
            }
            waiting.into_iter().for_each(|done| done.tell(&result));
        }
    }

    fn commit(
        &self,
        engine: &Engine,
        changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> Result<(), String> {
        if changes.is_empty() {
            return Ok(());
        }
        engine.wait_flushed(SEALED_MAX)?;
        let fault = |point| match &self.faults {
            Some(faults) => faults(point).map_err(|error| error.to_string()),
            None => Ok(()),
        };
        fault(FaultPoint::Write)?;
        let mut batch = engine.db.batch();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&engine.objects, key, value),
                None => batch.remove(&engine.objects, key),
            }
        }
        let failed = |error: fjall::Error| error.to_string();
        batch.durability(Some(PersistMode::Buffer)).commit().map_err(failed)?;
        fault(FaultPoint::Fsync)?;
        engine.db.persist(PersistMode::SyncAll).map_err(failed)
    }

    fn fail(&self, reason: &str) {
        let mut shared = self.lock();
        if shared.failed.is_none() && shared.engine.is_some() {
            error!(%reason, "the group's log cannot be written any more");
            shared.failed = Some(reason.to_owned());
        }
    }
}

impl LogWaiter {
    fn tell(self, result: &Result<(), String>) {
        match self {
            Self::Told(told) => drop(told.send(result.clone())),
            Self::Flushed(flushed) => {
                flushed.log_io_completed(result.clone().map_err(std::io::Error::other));
            }
        }
    }
}

impl Handle {
    /// Looks at what is kept.
    pub fn read<T>(&self, look: impl FnOnce(&Kept) -> T) -> T {
        self.store.read(look)
    }

    /// Changes what is kept, and returns once that is durable.
    ///
    /// # Errors
    /// Says why it is not.
    pub async fn write<T>(
        &self,
        change: impl FnOnce(&mut Kept, &mut Changes) -> Result<T, String>,
    ) -> Result<(), String> {
        let (told, told_of) = oneshot::channel();
        self.submit(change, LogWaiter::Told(told))?;
        told_of.await.unwrap_or_else(|_| Err("its runtime has stopped".into()))
    }

    /// Changes what is kept, and returns at once; `done` is told when it is durable.
    ///
    /// # Errors
    /// When nothing is changed, and `done` not told.
    pub fn submit<T>(
        &self,
        change: impl FnOnce(&mut Kept, &mut Changes) -> Result<T, String>,
        done: LogWaiter,
    ) -> Result<(), String> {
        let mut shared = self.store.lock();
        if shared.generation != self.generation {
            return Err("another group has taken its place".into());
        }
        if let Some(reason) = &shared.failed {
            return Err(reason.clone());
        }
        let mut changes = Changes::default();
        change(&mut shared.kept, &mut changes)?;
        // Openraft waits for each write before the next one, so that only a few can be here.
        shared.queue.push(Job { changes, done });
        if !mem::replace(&mut shared.draining, true) {
            let store = Arc::clone(&self.store);
            tokio::task::spawn_blocking(move || store.drain());
        }
        Ok(())
    }
}

/// Reads all that is kept; makes a new database ready.
fn load(engine: &Engine, options: &RaftOptions) -> Result<Kept, LogOpenError> {
    let dir = &options.dir;
    let damaged = |what: String| LogOpenError::Damaged { dir: dir.clone(), what };
    let mut records = BTreeMap::new();
    for guard in engine.db.snapshot().range(&engine.objects, Vec::new()..END.to_vec()) {
        let (key, value) = guard.into_inner().map_err(|error| damaged(error.to_string()))?;
        records.insert(key.to_vec(), value.to_vec());
    }
    if records.is_empty() {
        return prepare(engine, options).map(|()| Kept::default());
    }
    match records.remove(KEY_FORMAT).as_deref() {
        Some([DISK]) => {}
        Some([found, ..]) => {
            return Err(LogOpenError::Format { dir: dir.clone(), found: *found, expected: DISK });
        }
        _ => return Err(damaged("its format is not written down".into())),
    }
    let kept = Loader { records }.kept(options).map_err(|wrong| match wrong {
        Wrong::Damaged(what) => damaged(what),
        Wrong::Owner(owner) => {
            LogOpenError::Stranger { dir: dir.clone(), owner, node: options.node }
        }
    })?;
    Ok(kept)
}

fn prepare(engine: &Engine, options: &RaftOptions) -> Result<(), LogOpenError> {
    let unusable = |reason| LogOpenError::Unusable { dir: options.dir.clone(), reason };
    let mut batch = engine.db.batch();
    batch.insert(&engine.objects, KEY_FORMAT, [DISK]);
    let node = codec::encode(DISK, &options.node).map_err(unusable)?;
    batch.insert(&engine.objects, KEY_NODE, node);
    let done = batch.durability(Some(PersistMode::SyncAll)).commit();
    done.map_err(|error| unusable(error.to_string()))
}

struct Loader {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

enum Wrong {
    Damaged(String),
    Owner(NodeId),
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self::Damaged(what)
    }
}

impl Loader {
    fn kept(mut self, options: &RaftOptions) -> Result<Kept, Wrong> {
        match self.fact::<NodeId>(KEY_NODE)? {
            Some(node) if node == options.node => {}
            Some(other) => return Err(Wrong::Owner(other)),
            None => return Err(Wrong::Damaged("its owner is not written down".into())),
        }
        let mut kept = Kept {
            bond: self.fact(KEY_BOND)?,
            vote: self.fact(KEY_VOTE)?,
            committed: self.fact::<Option<RaftLogId>>(KEY_COMMITTED)?.flatten(),
            purged: self.fact(KEY_PURGED)?,
            log: BTreeMap::new(),
            snapshot: self.fact(KEY_SNAPSHOT)?,
        };
        let first = kept.purged.map_or(0, |purged| purged.index.saturating_add(1));
        for (next, (key, value)) in (first..).zip(&self.records) {
            let index = match key.split_first() {
                Some((&TAG_ENTRY, index)) => index.try_into().ok().map(u64::from_be_bytes),
                _ => None,
            };
            let index = index.ok_or_else(|| format!("there is a record {key:02x?}"))?;
            if index != next {
                return Err(Wrong::Damaged(format!("entry {next} of the log is not there")));
            }
            let entry: RaftEntry = codec::decode(DISK, value)
                .map_err(|why| format!("entry {index} of the log does not read back: {why}"))?;
            if entry.log_id.index != index {
                let found = entry.log_id.index;
                return Err(Wrong::Damaged(format!("entry {index} of the log says {found}")));
            }
            kept.log.insert(index, (entry, value.len()));
        }
        Ok(kept)
    }

    fn fact<T: serde::de::DeserializeOwned>(&mut self, key: &[u8]) -> Result<Option<T>, String> {
        let Some(value) = self.records.remove(key) else { return Ok(None) };
        let name = key.get(1..).unwrap_or_default();
        codec::decode(DISK, &value).map(Some).map_err(|why| {
            format!("the record {} does not read back: {why}", String::from_utf8_lossy(name))
        })
    }
}
