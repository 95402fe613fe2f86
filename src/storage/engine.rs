//! Turns a batch of jobs into one atomic write with one fsync: the body of the group commit.
//!
//! Every job of the batch is decided against what is on disk plus what the batch has decided before it; nobody is
//! answered before the whole batch is durable.

use std::{
    collections::{BTreeMap, HashMap},
    thread,
    time::Duration,
};

use bytes::Bytes;
use fjall::{Database, Keyspace, PersistMode, Readable as _};
use tracing::warn;

use super::{
    FaultPoint, Faults,
    format::{self, encode_object, encode_version, expiry_key, object_key},
};
use crate::{
    core::{
        change::{Change, Decision},
        hlc::HybridClock,
        object::{Object, ObjectId, Tier},
        time::{MonotonicUs, UnixMs},
    },
    ports::object_store::{
        Completion, Job, Receipt, StoreError, Swept, WriteJob, WriteResult, Written,
    },
};

/// The most sealed memtables that a batch is written behind. From four on the engine itself would wait for their flush,
/// and go on waiting after the flush has failed.
const SEALED_MAX: usize = 2;
/// How often, and how many times, to look whether a flush is done: a minute in all.
const FLUSH_PAUSE: Duration = Duration::from_millis(10);
const FLUSH_PAUSES_MAX: u32 = 6_000;

/// The open database.
pub struct Engine {
    pub db: Database,
    pub objects: Keyspace,
}

/// A job, and since when it waits.
pub struct Queued {
    pub job: Job,
    pub at: MonotonicUs,
}

/// An answer that waits for its batch to be durable.
pub enum Answer {
    Write { done: Box<dyn Completion>, result: WriteResult, queued_us: u64 },
    Sweep(Box<dyn FnOnce(Result<Swept, StoreError>) + Send>, Result<Swept, StoreError>),
}

/// What the writes of a batch add up to.
#[derive(Default)]
pub struct Staged {
    /// What each key is to hold in the end. All items of a batch share one sequence number, so that a key must be in it
    /// only once.
    ops: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pending: HashMap<Vec<u8>, Option<Object>>,
    pub answers: Vec<Answer>,
    pub writes: u64,
    pub swept: u64,
}

impl Engine {
    /// Reads an object, expired or not.
    pub fn read(&self, tier: Tier, id: &ObjectId) -> Result<Option<Object>, StoreError> {
        let record = self
            .objects
            .get(object_key(tier, id.as_str()))
            .map_err(|error| StoreError::Engine(error.to_string()))?;
        record.map(|record| format::decode_object(id, Bytes::from(record))).transpose()
    }

    /// Decides all jobs. Nothing is written yet. `sweep_from` is where a sweep goes on.
    pub fn stage(
        &self,
        batch: Vec<Queued>,
        start: MonotonicUs,
        clock: &mut HybridClock,
        now: UnixMs,
        sweep_from: &mut Vec<u8>,
    ) -> Staged {
        let mut staged = Staged::default();
        for Queued { job, at } in batch {
            let answer = match job {
                Job::Write(WriteJob { tier, id, change, done }) => {
                    let result = if done.is_abandoned() {
                        Err(StoreError::Abandoned)
                    } else {
                        self.stage_write(&mut staged, tier, &id, change, clock, now)
                    };
                    Answer::Write { done, result, queued_us: start.since(at) }
                }
                Job::Sweep { limit, done } => {
                    Answer::Sweep(done, self.stage_sweep(&mut staged, limit, now, sweep_from))
                }
            };
            staged.answers.push(answer);
        }
        staged
    }

    fn stage_write(
        &self,
        staged: &mut Staged,
        tier: Tier,
        id: &ObjectId,
        change: Change,
        clock: &mut HybridClock,
        now: UnixMs,
    ) -> WriteResult {
        let key = object_key(tier, id.as_str());
        let stored = match staged.pending.get(&key) {
            Some(pending) => pending.clone(),
            None => self.read(tier, id)?,
        };
        let current = stored.as_ref().filter(|object| !object.is_expired(now.secs()));
        if let Err(refusal) = change.check(current) {
            return Ok(Err(refusal));
        }
        let decision = match change.decide(id, current, now.secs(), clock.tick(now)) {
            Ok(decision) => decision,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some(at) = stored.as_ref().and_then(|object| object.expires_at) {
            staged.ops.insert(expiry_key(at, tier, id.as_str()), None);
        }
        staged.writes += 1;
        Ok(Ok(match decision {
            Decision::Keep { object, created } => {
                if let Some(at) = object.expires_at {
                    staged.ops.insert(expiry_key(at, tier, id.as_str()), Some(Vec::new()));
                }
                staged.ops.insert(key.clone(), Some(encode_object(&object)));
                let written = Written::Kept { version: object.version, created };
                staged.pending.insert(key, Some(object));
                written
            }
            Decision::Remove => {
                staged.ops.insert(key.clone(), None);
                staged.pending.insert(key, None);
                Written::Removed
            }
        }))
    }

    /// Stages the removal of up to `limit` expired objects, from the index entry `from` on: those before it are removed
    /// already, and to walk over what is left of them again and again would take longer with each batch.
    fn stage_sweep(
        &self,
        staged: &mut Staged,
        limit: usize,
        now: UnixMs,
        from: &mut Vec<u8>,
    ) -> Result<Swept, StoreError> {
        let engine = |error: fjall::Error| StoreError::Engine(error.to_string());
        let mut start = std::mem::take(from);
        if start.is_empty() {
            start.push(format::TAG_EXPIRY);
        }
        let mut end = vec![format::TAG_EXPIRY];
        end.extend_from_slice(&now.secs().0.saturating_add(1).to_be_bytes());
        let mut swept = Swept::default();
        if start >= end {
            return Ok(swept);
        }
        let mut next = start.clone();
        for guard in self.db.snapshot().range(&self.objects, start..end) {
            if swept.removed == limit {
                swept.more = true;
                *from = next;
                break;
            }
            let index = guard.key().map_err(engine)?.to_vec();
            next.clone_from(&index);
            next.push(0);
            // Another job of this batch has removed it.
            if staged.ops.get(&index).is_some_and(Option::is_none) {
                continue;
            }
            self.stage_expired(staged, &index)?;
            staged.ops.insert(index, None);
            swept.removed += 1;
        }
        Ok(swept)
    }

    /// Stages the removal of the object that an index entry names, if the entry still matches it.
    fn stage_expired(&self, staged: &mut Staged, index: &[u8]) -> Result<(), StoreError> {
        let Some((at, tier, id)) = format::parse_expiry_key(index) else { return Ok(()) };
        let key = object_key(tier, id.as_str());
        let stored = match staged.pending.get(&key) {
            Some(pending) => pending.clone(),
            None => match self.read(tier, &id) {
                // It stays for those who want to know why it does not read back, but is not looked at every time.
                Err(error @ StoreError::Damaged { .. }) => {
                    warn!(%error, "an object that has expired cannot be removed");
                    None
                }
                stored => stored?,
            },
        };
        if stored.is_some_and(|object| object.expires_at == Some(at)) {
            staged.ops.insert(key.clone(), None);
            staged.pending.insert(key, None);
            staged.swept += 1;
        }
        Ok(())
    }

    /// Waits until at most `most` memtables wait to be written to a table.
    ///
    /// The engine's own ways to wait never look whether the flush has failed meanwhile, and would wait for ever.
    ///
    /// # Errors
    /// Says that the flush failed, or that it takes too long.
    pub fn wait_flushed(&self, most: usize) -> Result<(), String> {
        let mut pauses = 0;
        while self.objects.sealed_memtable_count() > most {
            // Fails once a worker of the engine has failed.
            self.db.persist(PersistMode::Buffer).map_err(|error| error.to_string())?;
            if pauses == FLUSH_PAUSES_MAX {
                return Err("the disk does not take the tables of the last minute".into());
            }
            pauses += 1;
            thread::park_timeout(FLUSH_PAUSE);
        }
        Ok(())
    }

    /// Writes the staged batch whole. `sync` makes it durable before it becomes visible. Returns whether there was
    /// anything to write.
    ///
    /// # Errors
    /// What the engine says; the batch may or may not be on disk then.
    pub fn commit(
        &self,
        staged: &mut Staged,
        clock: &HybridClock,
        sync: bool,
        faults: Option<&Faults>,
    ) -> Result<bool, String> {
        if staged.ops.is_empty() {
            return Ok(false);
        }
        self.wait_flushed(SEALED_MAX)?;
        let mut batch = self.db.batch();
        for (key, value) in std::mem::take(&mut staged.ops) {
            match value {
                Some(value) => batch.insert(&self.objects, key, value),
                None => batch.remove(&self.objects, key),
            }
        }
        batch.insert(&self.objects, format::KEY_CLOCK, encode_version(clock.last()));
        if let Some(faults) = faults {
            faults(FaultPoint::Write).map_err(|error| error.to_string())?;
            if sync && let Err(error) = faults(FaultPoint::Fsync) {
                // As when the disk fails: the journal may hold the batch, and nobody knows.
                let _ = batch.commit();
                return Err(error.to_string());
            }
        }
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        batch.durability(Some(mode)).commit().map_err(|error| error.to_string())?;
        Ok(true)
    }
}

impl Answer {
    /// Answers, with `failure` in place of the result when the batch did not become durable.
    pub fn send(self, failure: Option<&StoreError>, commit_us: u64, batch_len: usize) {
        match self {
            Self::Write { done, result, queued_us } => {
                // What had no effect anyway keeps its own error: nothing about it is unknown.
                let result = match failure {
                    Some(failure) if result.is_ok() => Err(failure.clone()),
                    _ => result,
                };
                done.complete(Receipt { result, queued_us, commit_us, batch_len });
            }
            Self::Sweep(done, swept) => done(failure.map_or(swept, |error| Err(error.clone()))),
        }
    }
}
