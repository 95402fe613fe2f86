//! What an acceptor keeps: for each object, and for a shard as a whole. It is durable before a reply depends on it.

use serde::{Deserialize, Serialize};

use super::{Ballot, Past};
use crate::{
    group::table::Configuration,
    model::{
        object::{Object, Version},
        time::UnixSecs,
    },
};

/// What a register holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Value {
    /// Nothing, ever.
    #[default]
    Absent,
    /// An object. Whether it has expired is the reader's to see.
    Live(Object),
    /// An object was deleted.
    Tombstone(Tombstone),
}

/// What is left of a deleted object until every replica knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tombstone {
    /// The version of the deletion.
    pub version: Version,
}

/// An acceptor's state of one object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Register {
    /// No ballot below this one is taken part in.
    pub promised: Ballot,
    /// The ballot under which `value` was accepted; [`Ballot::NONE`] = nothing was.
    pub accepted: Ballot,
    /// The accepted value.
    pub value: Value,
    /// What led to it.
    pub past: Past,
}

/// What a node has promised for a whole shard of its registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardState {
    /// The group that the registers belong to.
    pub group: String,
    /// The claim under which this node is its member: under another one the registers are not its own any more (rule 13).
    pub claim: u64,
    /// The configuration adopted last (rules 2 and 3).
    pub configuration: Configuration,
    /// Counters below this one may have been used.
    pub counter_limit: u64,
    /// Versions with a time below this one may have been given by this node.
    pub version_limit: u64,
    /// What an unknown object counts as promised (rule 10).
    pub floor: Ballot,
    /// No ballot above this one was promised unless a register says so: after a restart, all objects count as promised up to it.
    pub ceiling: Ballot,
}

impl Value {
    /// Returns the object, unless there is none or it has expired at `now`.
    pub fn live(&self, now: UnixSecs) -> Option<&Object> {
        match self {
            Self::Live(object) if !object.is_expired(now) => Some(object),
            _ => None,
        }
    }

    /// Returns the bytes of value that it carries.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Live(object) => object.value.len(),
            Self::Absent | Self::Tombstone(_) => 0,
        }
    }

    /// Returns the version of the last change; `None` = there was none.
    pub fn version(&self) -> Option<Version> {
        match self {
            Self::Absent => None,
            Self::Live(object) => Some(object.version),
            Self::Tombstone(tombstone) => Some(tombstone.version),
        }
    }
}
