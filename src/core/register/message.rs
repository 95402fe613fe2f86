//! What members say to each other about registers. A lost, doubled, late or disordered message does no harm.

use serde::{Deserialize, Serialize};

use super::{Ballot, Value};
use crate::core::{object::ObjectId, table::Configuration};

/// A message from one member to another. Who sent it is proved by the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The group that both belong to.
    pub group: String,
    /// The epoch that the sender has adopted.
    pub epoch: u64,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}
