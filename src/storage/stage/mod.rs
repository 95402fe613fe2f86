//! Decides a batch of jobs: what each job changes, and its answer once that is durable.
//!
//! Every job sees what is kept and what earlier jobs of the batch have changed. Nothing is written here. A job makes all its
//! changes or none: everything that can fail comes before the first change.

mod outbox;
mod registers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use tracing::warn;

use super::{
    format::{self, KEY_LOOSE, TAG_EXPIRY, encode_object, expiry_key, object_key},
    reading::Facts,
    records::register_key,
    table::RecordTable,
};
use nomad_core::model::{
    change::{Change, WriteDecision, Written},
    hlc::HybridClock,
    object::{Object, ObjectId, Tier, Version},
    time::{MonotonicUs, UnixMs},
};
use nomad_ports::object_store::{
    Completion, JobDone, OutboxJob, Receipt, StoreError, StoreJob, Swept, WriteJob, WriteResult,
};

/// A job, and since when it waits.
pub struct QueuedJob {
    pub job: StoreJob,
    pub at: MonotonicUs,
}

/// An answer that waits for its batch to be durable.
pub enum PendingAnswer {
    Write { done: Box<dyn Completion>, result: WriteResult, queued_us: u64 },
    Sweep(Box<dyn FnOnce(Result<Swept, StoreError>) + Send>, Result<Swept, StoreError>),
    Kept(JobDone, Result<(), StoreError>),
}

/// What the writes of a batch add up to.
#[derive(Default)]
pub struct Staged {
    /// What each key is to hold in the end. All items of a batch share one sequence number, so that a key must be in it
    /// only once.
    pub ops: BTreeMap<Vec<u8>, Option<Bytes>>,
    /// Whether the clock is to be kept even when nothing else is.
    pub keeps_clock: bool,
    pub answers: Vec<PendingAnswer>,
    pub writes: u64,
    pub register_writes: u64,
    pub swept: u64,
    /// What is known once the batch is written.
    pub facts: Facts,
}

/// What a batch is decided with.
pub struct BatchStage<'a, T> {
    /// What is kept.
    pub table: &'a T,
    /// The store's versions.
    pub clock: &'a mut HybridClock,
    pub now: UnixMs,
    /// Where a sweep goes on; empty = at the start.
    pub sweep_from: &'a mut Vec<u8>,
    /// Why nothing is taken that needs more room, if so.
    pub short: Option<&'a str>,
    pub staged: Staged,
}

impl<T: RecordTable> BatchStage<'_, T> {
    /// Decides all jobs, in their order.
    pub fn run(mut self, batch: Vec<QueuedJob>, start: MonotonicUs) -> Staged {
        for QueuedJob { job, at } in batch {
            let answer = match job {
                StoreJob::Write(WriteJob { tier, id, change, done }) => {
                    let result = if done.is_abandoned() {
                        Err(StoreError::Abandoned)
                    } else {
                        self.write(tier, &id, change)
                    };
                    PendingAnswer::Write { done, result, queued_us: start.since(at) }
                }
                StoreJob::Sweep { limit, done } => PendingAnswer::Sweep(done, self.sweep(limit)),
                StoreJob::Registers(job) => {
                    let (done, wanted) = registers::ShardWrites::of(job);
                    PendingAnswer::Kept(done, self.registers(wanted))
                }
                StoreJob::Outbox(OutboxJob { change, done }) => {
                    PendingAnswer::Kept(done, self.outbox(change))
                }
            };
            self.staged.answers.push(answer);
        }
        self.staged
    }

    /// What a key holds, as far as the batch has been decided.
    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.staged.ops.get(key) {
            Some(op) => Ok(op.clone()),
            None => self.table.get(key),
        }
    }

    fn object(&self, tier: Tier, id: &ObjectId) -> Result<Option<Object>, StoreError> {
        let record = self.record(&object_key(tier, id.as_str()))?;
        record.map(|record| format::decode_object(id, record)).transpose()
    }

    fn put(&mut self, key: Vec<u8>, record: impl Into<Bytes>) {
        self.staged.ops.insert(key, Some(record.into()));
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.staged.ops.insert(key, None);
    }

    /// Says why there is no room, if there is none.
    fn room(&self) -> Result<(), StoreError> {
        self.short.map_or(Ok(()), |reason| Err(StoreError::ReadOnly { reason: reason.into() }))
    }

    fn write(&mut self, tier: Tier, id: &ObjectId, change: Change) -> WriteResult {
        if matches!(change, Change::Write { .. }) {
            self.room()?;
        }
        let has_registers = tier == Tier::Group && self.staged.facts.has_registers;
        if has_registers && self.record(&register_key(id))?.is_some() {
            return Err(StoreError::Replicated { id: id.to_string() });
        }
        let stored = self.object(tier, id)?;
        let now = self.now.secs();
        let current = stored.as_ref().filter(|object| !object.is_expired(now));
        if let Err(refusal) = change.check(current) {
            return Ok(Err(refusal));
        }
        let decision = change.apply(id, current, now, self.clock.tick(self.now));
        if let Some(at) = stored.as_ref().and_then(|object| object.expires_at) {
            self.remove(expiry_key(at, tier, id.as_str()));
        }
        self.staged.writes += 1;
        Ok(Ok(match decision {
            WriteDecision::Keep { object, created } => {
                self.keep(tier, &object);
                Written::Kept { version: object.version, created }
            }
            WriteDecision::Remove => {
                self.remove(object_key(tier, id.as_str()));
                Written::Removed
            }
        }))
    }

    fn keep(&mut self, tier: Tier, object: &Object) {
        if let Some(at) = object.expires_at {
            self.put(expiry_key(at, tier, object.id.as_str()), Bytes::new());
        }
        self.put(object_key(tier, object.id.as_str()), encode_object(object));
        if tier == Tier::Group && !self.staged.facts.is_loose {
            self.staged.facts.is_loose = true;
            self.put(KEY_LOOSE.to_vec(), Bytes::new());
        }
    }

    /// Removes up to `limit` expired objects, from where the last sweep ended: to walk again and again over what is left of
    /// the entries before that would take longer with each batch.
    fn sweep(&mut self, limit: usize) -> Result<Swept, StoreError> {
        let mut start = std::mem::take(self.sweep_from);
        if start.is_empty() {
            start.push(TAG_EXPIRY);
        }
        let mut end = vec![TAG_EXPIRY];
        end.extend_from_slice(&self.now.secs().0.saturating_add(1).to_be_bytes());
        let mut swept = Swept::default();
        let mut next = start.clone();
        for entry in self.table.range(start, end) {
            if swept.removed == limit {
                swept.more = true;
                *self.sweep_from = next;
                break;
            }
            let index = entry?.0.to_vec();
            next.clone_from(&index);
            next.push(0);
            // Another job of this batch has removed it.
            if self.staged.ops.get(&index).is_some_and(Option::is_none) {
                continue;
            }
            self.sweep_one(&index)?;
            self.remove(index);
            swept.removed += 1;
        }
        Ok(swept)
    }

    /// Removes the object that an index entry names, if the entry still matches it.
    fn sweep_one(&mut self, index: &[u8]) -> Result<(), StoreError> {
        let Some((at, tier, id)) = format::parse_expiry_key(index) else { return Ok(()) };
        let stored = match self.object(tier, &id) {
            // It stays for those who want to know why it does not read back, but is not looked at every time.
            Err(error @ StoreError::Damaged { .. }) => {
                warn!(%error, "an object that has expired cannot be removed");
                None
            }
            stored => stored?,
        };
        if stored.is_some_and(|object| object.expires_at == Some(at)) {
            self.remove(object_key(tier, id.as_str()));
            self.staged.swept += 1;
        }
        Ok(())
    }

    fn observe(&mut self, version: Option<Version>) {
        if let Some(version) = version {
            self.clock.observe(version);
        }
    }
}

impl PendingAnswer {
    /// Answers, with `failure` in place of the result when the batch did not become durable.
    pub fn send(self, failure: Option<&StoreError>, commit_us: u64, batch_len: usize) {
        match self {
            Self::Write { done, result, queued_us } => {
                let result = after(result, failure);
                done.complete(Receipt { result, queued_us, commit_us, batch_len });
            }
            Self::Sweep(done, swept) => done(after(swept, failure)),
            Self::Kept(done, kept) => done(after(kept, failure)),
        }
    }
}

/// What had no effect anyway keeps its own error: nothing about it is unknown.
fn after<T>(result: Result<T, StoreError>, failure: Option<&StoreError>) -> Result<T, StoreError> {
    match failure {
        Some(failure) if result.is_ok() => Err(failure.clone()),
        _ => result,
    }
}
