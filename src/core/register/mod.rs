//! The replicated registers: every object is a small register of its own, kept by its replica set and changed by
//! single-decree rounds (CASPaxos, Rystsov 2018).
//!
//! Invariants: a reply that depends on a state leaves only after that state is durable; nothing here reads a clock or a disk.
//! The rules that comments call "rule N" are those of the protocol below.
//!
//! Where to look: `acceptor` answers the rounds of all members, `proposer` runs the rounds of this node, `evaluation` applies an
//! order to a value, `past` tells an overtaken write whether it was decided, `promises` knows what is promised without a disk
//! write, `reading` asks a quorum, `adoption` follows the group's configurations, `rescan` takes objects from one to the next,
//! `keeping` holds back what is not durable yet, `declining` is about stores that are full or fail.
//!
#![doc = include_str!("protocol.md")]

mod acceptor;
mod adoption;
pub mod ballot;
mod declining;
mod evaluation;
pub mod event;
mod keeping;
mod line;
pub mod message;
mod numbers;
pub mod options;
pub mod past;
pub mod placement;
mod promises;
mod proposer;
mod reading;
mod ready;
mod requests;
mod rescan;
mod shard;
pub mod state;
pub mod status;
#[cfg(test)]
mod test_status;

pub use ballot::Ballot;
pub use event::{
    OpId, RegisterEffect, RegisterEvent, RegisterOrder, RegisterOutcome, RegisterShelf,
};
pub use message::{Body, Declined, RegisterMessage};
pub use options::{Home, RegisterFaults, RegisterOptions};
pub use past::{Named, Past};
pub use placement::{
    Places, RegisterFate, ReplicaSet, fate, is_forced, is_rescanned, keeps, replicas,
};
pub use state::{Register, ShardState, Tombstone, Value};
pub use status::ShardCounts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    machine::{Now, Ticket},
    model::{node_id::NodeId, object::ObjectId, time::MonotonicUs},
};
use adoption::Adoption;
use keeping::Keeping;
use line::{ObjectQueue, PendingOp};
use numbers::Numbers;
use promises::Promises;
use ready::ReadyObjects;
use rescan::ShardRescan;

/// Into how many shards a node divides its registers. Each has a worker of its own. On disk and for ever.
pub const SHARDS: u8 = 8;

/// Returns the shard that an object belongs to on every node: XXH3 (64 bits, seed 0) of its id, modulo [`SHARDS`].
pub fn shard_of(id: &ObjectId) -> u8 {
    (xxh3_64(id.as_str().as_bytes()) % u64::from(SHARDS)) as u8
}

/// The registers of one shard at one node: its proposer and its acceptor.
#[derive(Debug)]
pub struct Registers {
    home: Home,
    options: RegisterOptions,
    /// What was handed over to be kept last; `None` = no configuration has been adopted.
    state: Option<ShardState>,
    /// Whether `state` has to be kept with what this step writes.
    is_state_news: bool,
    /// Whether the store has refused `state`: it is kept with the next write, or when something depends on it.
    is_state_owed: bool,
    numbers: Numbers,
    promises: Promises,
    keeping: Keeping,
    adoption: Adoption,
    rescan: Option<ShardRescan>,
    lines: BTreeMap<ObjectId, ObjectQueue>,
    /// The running requests, and the object of each.
    waiters: BTreeMap<OpId, PendingOp>,
    timers: BTreeSet<(MonotonicUs, Timer)>,
    ready: ReadyObjects,
    /// The members whose stores did not take something, and until when that is remembered.
    unwilling: BTreeMap<NodeId, MonotonicUs>,
    counts: ShardCounts,
    /// The random numbers of this step.
    entropy: u64,
    /// What the local replica answers to this node's own rounds, in this step.
    local: VecDeque<Body>,
    /// The objects for which something may begin, in this step.
    again: BTreeSet<ObjectId>,
    out: Vec<RegisterEffect>,
}

/// What a time is waited for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A request is given up.
    Deadline(OpId),
    /// A round sends again, or begins again.
    Round(ObjectId),
    /// A read does.
    Query(ObjectId),
}

/// What every part of a step needs.
#[derive(Clone, Copy)]
struct StepContext<'a> {
    now: Now,
    shelf: &'a dyn RegisterShelf,
}
