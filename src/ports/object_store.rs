//! The local store: objects by tier and id, written in batches, read at once.
//!
//! Writes are *submitted*: the store decides each one against what is there, makes the batch durable and only then
//! answers. Reads do not wait for writes.

use std::fmt;

use thiserror::Error;

use crate::core::{
    change::{Change, Refusal},
    object::{Object, ObjectId, ObjectMeta, Tier, Version},
    time::UnixSecs,
};

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The object is kept under this version.
    Kept {
        /// Its new version.
        version: Version,
        /// False when it replaced one.
        created: bool,
    },
    /// The object is there no more.
    Removed,
}

/// How a submitted write ended.
pub type WriteResult = Result<Result<Written, Refusal>, StoreError>;

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
pub enum Job {
    /// One write of a client.
    Write(WriteJob),
    /// Remove up to `limit` expired objects.
    Sweep {
        /// The most to remove in this batch.
        limit: usize,
        /// Takes the answer.
        done: Box<dyn FnOnce(Result<Swept, StoreError>) + Send>,
    },
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(job) => write!(f, "Write({})", job.id),
            Self::Sweep { limit, .. } => write!(f, "Sweep(at most {limit})"),
        }
    }
}

/// A page of a listing, sorted by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The objects of the page, without their bytes.
    pub items: Vec<ObjectMeta>,
    /// The id after which the next page starts; `None` on the last one.
    pub next: Option<ObjectId>,
}

/// What the store can do at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    /// It reads and writes.
    Up,
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
            Self::ReadOnly { reason } | Self::Failed { reason } => Some(reason),
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
    /// Nobody waited for the write any more; nothing was changed.
    #[error("the write was dropped before it began, because its caller had gone")]
    Abandoned,
}

/// A store of objects. Cheap to share; its writer is one.
pub trait ObjectStore: Send + Sync + 'static {
    /// Hands a job to the writer and returns at once. On an error the job's `done` has been called with it.
    fn submit(&self, job: Job);

    /// Returns the object, unless it is absent or expired at `now`.
    ///
    /// # Errors
    /// When the engine cannot read it.
    fn get(&self, tier: Tier, id: &ObjectId, now: UnixSecs) -> Result<Option<Object>, StoreError>;

    /// Returns the objects whose ids start with `prefix` and come after `after`, expired ones left out.
    ///
    /// # Errors
    /// When the engine cannot read them.
    fn list(
        &self,
        tier: Tier,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        now: UnixSecs,
    ) -> Result<Page, StoreError>;

    /// Tells what the store can do at the moment.
    fn health(&self) -> StoreHealth;

    /// Returns the counters.
    fn counts(&self) -> StoreCounts;
}
