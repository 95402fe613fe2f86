//! The messages between members about registers. Lost, doubled, late and reordered messages do no harm.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{Ballot, Past, Value};
use crate::{group::table::Configuration, model::object::ObjectId};

/// Counters reach from 0 to below this one. No round comes near it.
pub(super) const COUNTER_MAX: u64 = 1 << 62;
/// Times of versions reach from 0 to below this one, which lies some thousand years ahead.
const VERSION_TIME_MAX: u64 = 1 << 63;

/// The most bytes of the reason of a [`Body::Declined`].
pub(super) const REASON_BYTES_MAX: usize = 512;

/// A message from one member to another. Who sent it is proved by the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterMessage {
    /// The group that both belong to.
    pub group: String,
    /// The epoch that the sender has adopted.
    pub epoch: u64,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
pub enum Body {
    /// Phase 1: asks for a promise.
    Prepare {
        /// The object.
        id: ObjectId,
        /// The round.
        ballot: Ballot,
    },
    /// The promise, with what was accepted before.
    Promise {
        /// The object.
        id: ObjectId,
        /// The round.
        ballot: Ballot,
        /// The ballot of `value`.
        accepted: Ballot,
        /// What was accepted.
        value: Value,
        /// What led to it.
        past: Past,
        /// What an unknown object counts as promised at the sender.
        floor: Ballot,
    },
    /// Phase 2: asks to accept.
    Accept {
        /// The object.
        id: ObjectId,
        /// The round.
        ballot: Ballot,
        /// The value.
        value: Value,
        /// What led to it.
        past: Past,
    },
    /// It is accepted.
    Accepted {
        /// The object.
        id: ObjectId,
        /// The round.
        ballot: Ballot,
    },
    /// The sender has promised more than this round.
    Conflict {
        /// The object.
        id: ObjectId,
        /// The round.
        ballot: Ballot,
        /// What it has promised.
        promised: Ballot,
    },
    /// Asks for what was accepted (rule 8).
    Query {
        /// The object.
        id: ObjectId,
        /// Names the question.
        query: u64,
    },
    /// The answer.
    Reading {
        /// The object.
        id: ObjectId,
        /// The question.
        query: u64,
        /// The ballot of `value`.
        accepted: Ballot,
        /// What was accepted.
        value: Value,
    },
    /// Every replica has accepted a tombstone under this ballot: it need not be kept (rule 10).
    Drop {
        /// The object.
        id: ObjectId,
        /// The ballot.
        ballot: Ballot,
    },
    /// The receiver is behind: these configurations follow its epoch, oldest first. An answer to a message of a lower epoch,
    /// and to [`Behind`](Self::Behind).
    Chain {
        /// The configurations.
        configurations: Vec<Configuration>,
    },
    /// The sender is behind, and asks for what follows its epoch.
    Behind,
    /// The sender's store does not take something (rule 4). A member that does not know this kind of message drops it.
    Declined {
        /// The object.
        id: ObjectId,
        /// The round.
        ballot: Ballot,
        /// What it does not take.
        what: Declined,
        /// Why, for people.
        reason: String,
    },
}

/// What a replica does not take, because its store is full or fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Declined {
    /// An object; it would take a tombstone. Said along with a promise.
    Objects,
    /// Anything. Said along with a promise.
    Writes,
    /// The promise: it would have to be written.
    Promise,
    /// The value of this round, for good.
    Value,
}

impl Body {
    /// Returns the object that it is about; `None` = it is about configurations.
    pub fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::Prepare { id, .. }
            | Self::Promise { id, .. }
            | Self::Accept { id, .. }
            | Self::Accepted { id, .. }
            | Self::Conflict { id, .. }
            | Self::Query { id, .. }
            | Self::Reading { id, .. }
            | Self::Drop { id, .. }
            | Self::Declined { id, .. } => Some(id),
            Self::Chain { .. } | Self::Behind => None,
        }
    }

    /// Returns the bytes of value of a request that may wait; `None` = the message is no such request.
    pub(super) fn request_bytes(&self) -> Option<usize> {
        match self {
            Self::Prepare { .. } | Self::Query { .. } | Self::Drop { .. } => Some(0),
            Self::Accept { value, .. } => Some(value.len_bytes()),
            _ => None,
        }
    }
}

impl Value {
    /// Tells whether this can be the value of an object.
    pub(super) fn is_sound_for(&self, id: &ObjectId) -> bool {
        let is_its_own = !matches!(self, Self::Live(object) if object.id != *id);
        is_its_own && self.version().is_none_or(|version| version.time < VERSION_TIME_MAX)
    }
}
