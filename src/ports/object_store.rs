//! The local store: objects by tier and id, written in batches, read at once.
//!
//! Writes are *submitted*: the store decides each one against what is there, makes the batch durable and only then
//! answers. Reads do not wait for writes.

use std::fmt;

use thiserror::Error;

pub use nomad_core::{
    listing::{ListingPage, ListingQuery},
    repair::Expired,
};
use nomad_core::{
    model::{
        change::{Change, WriteRefusal, Written},
        object::{Object, ObjectId, Tier, Version},
        time::UnixSecs,
    },
    register::{Ballot, Register, ShardState, Value},
};

/// How a submitted write ended.
pub type WriteResult = Result<Result<Written, WriteRefusal>, StoreError>;

/// The answer to a submitted write, with what it cost.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// How it ended. `Ok` only after the fsync that covers it, unless the store runs with an interval.
    pub result: WriteResult,
    /// Microseconds from the submission to the start of its batch.
    pub queued_us: u64,
    /// Microseconds from there to the answer.
    pub commit_us: u64,
    /// How many jobs the batch had.
    pub batch_len: usize,
}

/// What one sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many expired objects were removed.
    pub removed: usize,
    /// Whether more are waiting.
    pub more: bool,
}

/// Where a write goes and what it does.
pub struct WriteJob {
    /// The tier of the object.
    pub tier: Tier,
    /// The object.
    pub id: ObjectId,
    /// What to do with it.
    pub change: Change,
    /// Takes the answer.
    pub done: Box<dyn Completion>,
}

/// Who waits for a write.
pub trait Completion: Send {
    /// Tells, right before the write is decided, that nobody waits any more: the write is then dropped unread.
    fn is_abandoned(&self) -> bool;
    /// Takes the answer.
    fn complete(self: Box<Self>, receipt: Receipt);
}

/// Work for the store's writer.
pub enum StoreJob {
    /// One write of a client.
    Write(WriteJob),
    /// Remove up to `limit` expired objects. Those that have a register stay, see [`ObjectStore::expired`].
    Sweep {
        /// The most to remove in this batch.
        limit: usize,
        /// Takes the answer.
        done: Box<dyn FnOnce(Result<Swept, StoreError>) + Send>,
    },
    /// Registers to be kept as they are given, by the worker of their shard, which is the only one to write them.
    Registers(RegisterJob),
    /// Fast writes that are not replicated yet.
    Outbox(OutboxJob),
}

/// Answers once a job is durable.
pub type JobDone = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What a shard wants kept: all of it or nothing, however much it is. A value is kept as the object of the group tier, and
/// the store's clock never stays below its version.
pub struct RegisterJob {
    /// The shard.
    pub shard: u8,
    /// Deletes all registers of the shard with their objects first, before `writes`, those without a register too; and the
    /// shard's own state, if none is given.
    pub wipe: bool,
    /// The shard's own state; `None` leaves it as it is.
    pub state: Option<ShardState>,
    /// The registers; `None` deletes one with its object. Of several for one object the last one counts.
    pub writes: Vec<(ObjectId, Option<Register>)>,
    /// Takes the answer.
    pub done: JobDone,
}

/// A change of the outbox: all of it or nothing.
#[derive(Default)]
pub struct OutboxChange {
    /// Entries to keep, each in place of an older one of the same object. One that is older than what is there, or that has
    /// no version, changes nothing.
    pub put: Vec<(ObjectId, Value)>,
    /// Entries that are done, if they still have this version after `put`.
    pub remove: Vec<(ObjectId, Version)>,
    /// The store's clock is kept at this version at least.
    pub watermark: Option<Version>,
}

/// A change of the outbox, and who waits for it.
pub struct OutboxJob {
    /// What changes.
    pub change: OutboxChange,
    /// Takes the answer.
    pub done: JobDone,
}

/// A register without its object's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterHead {
    /// The object.
    pub id: ObjectId,
    /// Its promised ballot.
    pub promised: Ballot,
    /// Its accepted ballot.
    pub accepted: Ballot,
    /// The version of the accepted value; `None` = absent.
    pub version: Option<Version>,
    /// Whether the accepted value is an object.
    pub is_live: bool,
    /// When the object expires.
    pub expires_at: Option<UnixSecs>,
    /// Whether its record does not read back: then there may be an object, and nothing else here is known.
    pub is_damaged: bool,
}

impl fmt::Debug for StoreJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(job) => write!(f, "Write({})", job.id),
            Self::Sweep { limit, .. } => write!(f, "Sweep(at most {limit})"),
            Self::Registers(job) => {
                write!(f, "Registers({} of shard {})", job.writes.len(), job.shard)
            }
            Self::Outbox(job) => {
                write!(f, "Outbox({} in, {} out)", job.change.put.len(), job.change.remove.len())
            }
        }
    }
}

impl StoreJob {
    /// Answers a job that was not begun.
    pub fn refuse(self, error: StoreError) {
        match self {
            Self::Write(job) => job.done.complete(Receipt {
                result: Err(error),
                queued_us: 0,
                commit_us: 0,
                batch_len: 0,
            }),
            Self::Sweep { done, .. } => done(Err(error)),
            Self::Registers(RegisterJob { done, .. }) | Self::Outbox(OutboxJob { done, .. }) => {
                done(Err(error));
            }
        }
    }
}

/// What the store can do at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    /// It reads and writes.
    Up,
    /// It reads and deletes; other writes are refused for this reason: little room is left.
    ForDeletions {
        /// What is short, with the way out.
        reason: String,
    },
    /// It reads; writes are refused for this reason until it has recovered by itself.
    ReadOnly {
        /// What happened, with the way out.
        reason: String,
    },
    /// Its writer has ended by a defect: only a new process can write again.
    Failed {
        /// What happened.
        reason: String,
    },
}

impl StoreHealth {
    /// Returns why writes are refused, `None` when they are not.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Up => None,
            Self::ForDeletions { reason } | Self::ReadOnly { reason } | Self::Failed { reason } => {
                Some(reason)
            }
        }
    }

    /// Returns why deletions are refused too, `None` when they are not.
    pub fn refusal_of_deletions(&self) -> Option<&str> {
        match self {
            Self::ForDeletions { .. } => None,
            other => other.refusal(),
        }
    }
}

/// What the store counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Writes that took effect.
    pub writes: u64,
    /// Batches written.
    pub batches: u64,
    /// fsyncs of the journal.
    pub fsyncs: u64,
    /// Expired objects removed.
    pub swept: u64,
    /// Times that the store was reopened after a failure.
    pub recoveries: u64,
    /// Jobs waiting for the writer.
    pub waiting: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Registers kept or deleted.
    pub register_writes: u64,
    /// Entries in the outbox.
    pub outbox_entries: u64,
    /// Bytes of these entries.
    pub outbox_bytes: u64,
}

/// Why the store could not do something. None of it is the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Writes are refused for now; nothing was changed.
    #[error("the store refuses writes for now: {reason}")]
    ReadOnly {
        /// What happened, with the way out.
        reason: String,
    },
    /// The write was under way when the store failed: it may or may not be there.
    #[error("the store failed while it wrote, so that the outcome is unknown: {reason}")]
    OutcomeUnknown {
        /// What happened.
        reason: String,
    },
    /// Too many writes are waiting; nothing was changed.
    #[error("the store has {waiting} writes waiting and takes no more for now")]
    Full {
        /// How many are waiting.
        waiting: u64,
    },
    /// The store is being reopened after a failure; nothing was changed. Ask again in a moment.
    #[error("the store is being reopened after a failure")]
    Reopening,
    /// A record does not read back.
    #[error("the record of object {id:?} is damaged: {reason}")]
    Damaged {
        /// The object.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The storage engine failed to read.
    #[error("the storage engine failed: {0}")]
    Engine(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The object has a register, which only rounds may change; nothing was changed.
    #[error(
        "object {id:?} is replicated: what is written past its replicas would be lost or come back; write it through a \
         running node"
    )]
    Replicated {
        /// The object.
        id: String,
    },
    /// Nobody waited for the write any more; nothing was changed.
    #[error("the write was dropped before it began, because its caller had gone")]
    Abandoned,
}

impl StoreError {
    /// Tells whether a job that failed so has changed nothing.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::ReadOnly { .. }
            | Self::Full { .. }
            | Self::Reopening
            | Self::Closed
            | Self::Replicated { .. }
            | Self::Abandoned => true,
            Self::OutcomeUnknown { .. } | Self::Damaged { .. } | Self::Engine(_) => false,
        }
    }
}

/// A store of objects. Cheap to share; its writer is one.
pub trait ObjectStore: Send + Sync + 'static {
    /// Hands a job to the writer and returns at once. The writer answers jobs in the order in which they were submitted; one
    /// that its queue has no room for is answered before this returns.
    fn submit(&self, job: StoreJob);

    /// Returns the object, unless it is absent or expired at `now`.
    ///
    /// # Errors
    /// When the engine cannot read it.
    fn get(&self, tier: Tier, id: &ObjectId, now: UnixSecs) -> Result<Option<Object>, StoreError>;

    /// Returns a part of the objects in the order of their ids, expired ones left out.
    ///
    /// # Errors
    /// When the engine cannot read them.
    fn list(
        &self,
        tier: Tier,
        wanted: &ListingQuery,
        now: UnixSecs,
    ) -> Result<ListingPage, StoreError>;

    /// Returns an object's register. An object that was kept without one (by an older version, or by the embedded store) has
    /// one that was accepted in epoch 0, below all others.
    ///
    /// # Errors
    /// When the engine cannot read it, or it does not read back.
    fn register(&self, id: &ObjectId) -> Result<Option<Register>, StoreError>;

    /// Returns the registers of a shard behind `after`, sorted by id, at most `limit`; none = there are no more. Objects that
    /// were kept without one are among them, and those that do not read back.
    ///
    /// # Errors
    /// When the engine cannot read them.
    fn registers(
        &self,
        shard: u8,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<RegisterHead>, StoreError>;

    /// Returns a shard's state; `None` = it has none yet.
    ///
    /// # Errors
    /// When the engine cannot read it, or it does not read back.
    fn shard_state(&self, shard: u8) -> Result<Option<ShardState>, StoreError>;

    /// Returns the objects with a register that have expired at `now`, oldest first, behind `after`, at most `limit`.
    ///
    /// # Errors
    /// When the engine cannot read them.
    fn expired(
        &self,
        now: UnixSecs,
        after: Option<&Expired>,
        limit: usize,
    ) -> Result<Vec<Expired>, StoreError>;

    /// Returns the outbox's entry for an object. Costs next to nothing while the outbox is empty. To miss nothing a reader
    /// looks here before it looks for a register: an entry leaves only after a quorum has it.
    ///
    /// # Errors
    /// When the engine cannot read it, or it does not read back.
    fn outbox_entry(&self, id: &ObjectId) -> Result<Option<Value>, StoreError>;

    /// Returns the outbox's entries behind `after`, sorted by id, at most `limit`, and fewer when they are large; none =
    /// there are no more. What does not read back is left out and logged.
    ///
    /// # Errors
    /// When the engine cannot read them.
    fn outbox(
        &self,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, Value)>, StoreError>;

    /// Returns a version that no version is above which this store has given, or was given in a register, in the outbox or
    /// as its watermark. What an answered job has brought is known after a restart.
    fn latest_version(&self) -> Version;

    /// Tells what the store can do at the moment.
    fn health(&self) -> StoreHealth;

    /// Returns the counters.
    fn counts(&self) -> StoreCounts;
}
