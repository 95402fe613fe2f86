//! The events and the effects of the outbox.

use thiserror::Error;

use super::Limits;
use crate::{
    machine::Ticket,
    model::{
        change::{Change, WriteRefusal, Written},
        object::{ObjectId, Version},
    },
    register::{OpId, RegisterOutcome, Value},
};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxEvent {
    /// Somebody wants to write.
    Put {
        /// Names the request.
        op: OpId,
        /// The object.
        id: ObjectId,
        /// What is wanted.
        draft: Box<Draft>,
    },
    /// What this node kept of a group that is no more is to reach the next one, unless something newer is here.
    Carry {
        /// Names the request.
        op: OpId,
        /// The object.
        id: ObjectId,
        /// What was kept; it has a version.
        value: Box<Value>,
    },
    /// The effect with this ticket has ended: it is durable, or the outcome is unknown.
    Stored {
        /// Its ticket.
        ticket: Ticket,
        /// Whether it is durable.
        is_durable: bool,
    },
    /// A page of what an earlier life has kept; empty = there is no more.
    Loaded {
        /// The entries.
        page: Vec<LoadedEntry>,
    },
    /// It could not be read.
    LoadFailed,
    /// An [`OutboxEffect::Merge`] has ended.
    Merged {
        /// The object.
        id: ObjectId,
        /// How.
        end: MergeEnd,
    },
    /// A caller wants a promise: up to which version this node submits nothing any more.
    Watermark {
        /// Names the request.
        op: OpId,
    },
    /// Nothing up to a version may be submitted any more: others have gone on without this node (rule 12).
    Discard {
        /// Names the request.
        op: OpId,
        /// The version.
        upto: Version,
    },
    /// Merges may succeed again: none is to wait for its time.
    Nudge,
    /// Time has passed.
    Tick,
}

/// A fast write before it has a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// What is wanted.
    pub change: Change,
    /// The newest value of the object that the writer's node can read. What the outbox holds itself need not be in it.
    pub seen: Value,
}

/// What an earlier life has kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedEntry {
    /// The object.
    pub id: ObjectId,
    /// The version of the entry.
    pub version: Version,
    /// The bytes of its value.
    pub bytes: usize,
}

/// How a merge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeEnd {
    /// A quorum has it, or something newer.
    Done,
    /// No quorum answered in time; it may have happened all the same.
    NoQuorum,
    /// The registers have too many requests, or have lost this one.
    Busy,
    /// This node is no member yet.
    NotReady,
}

impl From<RegisterOutcome> for MergeEnd {
    fn from(ended: RegisterOutcome) -> Self {
        match ended {
            RegisterOutcome::Done => Self::Done,
            RegisterOutcome::NotReady => Self::NotReady,
            RegisterOutcome::Busy => Self::Busy,
            _ => Self::NoQuorum,
        }
    }
}

/// Why a request is refused. Nothing was changed, but for [`NotKept`](Self::NotKept).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OutboxRefusal {
    /// The condition does not hold.
    #[error(transparent)]
    Condition(#[from] WriteRefusal),
    /// There is no room.
    #[error(
        "{entries} fast writes with {bytes} bytes wait here to be replicated; limits.outboxEntries allows {}, \
         limits.outboxBytes {}. Try again when the group has its quorums back, or write in the mode safe",
        limits.entries, limits.bytes
    )]
    Full {
        /// How many there are.
        entries: u64,
        /// Their bytes.
        bytes: u64,
        /// What is allowed.
        limits: Limits,
    },
    /// What an earlier life has kept is not known yet.
    #[error("the fast writes kept here have not been read yet; try again in a moment")]
    NotLoaded,
    /// What is kept of the object cannot be read.
    #[error("the fast write of this object that is kept here cannot be read: {0}")]
    Unreadable(String),
    /// What was to be promised could not be made durable.
    #[error("the promise could not be made durable")]
    NotKept,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxEffect {
    /// Make this entry durable; then answer the request and say [`OutboxEvent::Stored`].
    Keep {
        /// Its ticket.
        ticket: Ticket,
        /// The request.
        op: OpId,
        /// The object.
        id: ObjectId,
        /// What is kept, in place of anything older.
        value: Value,
        /// The answer.
        written: Written,
    },
    /// Remove these entries durably where they still have these versions; then say [`OutboxEvent::Stored`].
    Remove {
        /// Its ticket.
        ticket: Ticket,
        /// The entries.
        entries: Vec<(ObjectId, Version)>,
    },
    /// Make it durable that no version up to this one is given any more; then say [`OutboxEvent::Stored`].
    Raise {
        /// Its ticket.
        ticket: Ticket,
        /// The version.
        watermark: Version,
    },
    /// Read the entries behind this one; then say [`OutboxEvent::Loaded`] or [`OutboxEvent::LoadFailed`].
    Load {
        /// The last one read.
        after: Option<ObjectId>,
    },
    /// Let the object's register keep the newer version; then say [`OutboxEvent::Merged`].
    Merge {
        /// The object.
        id: ObjectId,
        /// The fast write.
        value: Value,
    },
    /// Answer a request that came to nothing.
    Refuse {
        /// The request.
        op: OpId,
        /// Why.
        refused: OutboxRefusal,
    },
    /// Answer: every entry and every later version is above this.
    Promised {
        /// The request.
        op: OpId,
        /// The version.
        watermark: Version,
    },
    /// Answer: nothing is left of what was to be discarded.
    Discarded {
        /// The request.
        op: OpId,
    },
}

/// What the outbox holds and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Entries.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The oldest version that is not replicated yet.
    pub oldest: Option<Version>,
    /// Merges under way.
    pub in_flight: u64,
    /// Merges that succeeded.
    pub drained: u64,
    /// Merges that have to be tried again.
    pub retried: u64,
    /// Entries dropped because others had gone on without this node.
    pub discarded: u64,
}

/// What is kept, for the step that needs it.
pub trait OutboxShelf {
    /// Reads the entry of an object.
    ///
    /// # Errors
    /// Says why it cannot be read.
    fn entry(&self, id: &ObjectId) -> Result<Option<Value>, String>;

    /// Returns the greatest version that this node's store knows.
    fn latest_version(&self) -> Version;
}
