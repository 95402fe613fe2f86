//! Turns a batch of jobs into one atomic write with one fsync: the body of the group commit.
//!
//! Every job of the batch is decided against what is on disk plus what the batch has decided before it; nobody is
//! answered before the whole batch is durable.

use std::collections::HashMap;

use bytes::Bytes;
use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode, Readable as _};

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
pub struct Staged {
    batch: OwnedWriteBatch,
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

    /// Decides all jobs. Nothing is written yet.
    pub fn stage(
        &self,
        batch: Vec<Queued>,
        start: MonotonicUs,
        clock: &mut HybridClock,
        now: UnixMs,
    ) -> Staged {
        let mut staged = Staged {
            batch: self.db.batch(),
            pending: HashMap::new(),
            answers: Vec::with_capacity(batch.len()),
            writes: 0,
            swept: 0,
        };
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
                    Answer::Sweep(done, self.stage_sweep(&mut staged, limit, now))
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
            staged.batch.remove(&self.objects, expiry_key(at, tier, id.as_str()));
        }
        staged.writes += 1;
        Ok(Ok(match decision {
            Decision::Keep { object, created } => {
                if let Some(at) = object.expires_at {
                    let index = expiry_key(at, tier, id.as_str());
                    staged.batch.insert(&self.objects, index, []);
                }
                staged.batch.insert(&self.objects, key.clone(), encode_object(&object));
                let written = Written::Kept { version: object.version, created };
                staged.pending.insert(key, Some(object));
                written
            }
            Decision::Remove => {
                staged.batch.remove(&self.objects, key.clone());
                staged.pending.insert(key, None);
                Written::Removed
            }
        }))
    }

    fn stage_sweep(
        &self,
        staged: &mut Staged,
        limit: usize,
        now: UnixMs,
    ) -> Result<Swept, StoreError> {
        let engine = |error: fjall::Error| StoreError::Engine(error.to_string());
        let until = (now.secs().0.saturating_add(1)).to_be_bytes();
        let mut end = vec![format::TAG_EXPIRY];
        end.extend_from_slice(&until);
        let snapshot = self.db.snapshot();
        let mut swept = Swept::default();
        for guard in snapshot.range(&self.objects, vec![format::TAG_EXPIRY]..end) {
            if swept.removed == limit {
                swept.more = true;
                break;
            }
            let index = guard.key().map_err(engine)?;
            if let Some((at, tier, id)) = format::parse_expiry_key(&index) {
                let key = object_key(tier, id.as_str());
                let stored = match staged.pending.get(&key) {
                    Some(pending) => pending.clone(),
                    None => self.read(tier, &id)?,
                };
                // An index entry that no longer matches its object is only an entry to remove.
                if stored.is_some_and(|object| object.expires_at == Some(at)) {
                    staged.batch.remove(&self.objects, key.clone());
                    staged.pending.insert(key, None);
                    staged.swept += 1;
                }
            }
            staged.batch.remove(&self.objects, index);
            swept.removed += 1;
        }
        Ok(swept)
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
        let fresh = self.db.batch();
        let mut batch = std::mem::replace(&mut staged.batch, fresh);
        if batch.is_empty() {
            return Ok(false);
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
