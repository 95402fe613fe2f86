//! The events and the effects of a shard of registers.

use super::{Declined, Register, RegisterMessage, ShardState, Value};
use crate::{
    group::table::Configuration,
    machine::Ticket,
    model::{
        change::{Change, WriteRefusal},
        node_id::NodeId,
        object::{Object, ObjectId, Version},
        time::MonotonicUs,
        trace::TraceContext,
    },
};

/// Names a request of this node, within one shard.
pub type OpId = u64;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum RegisterEvent {
    /// This node wants something of an object.
    Begin {
        /// Names the request.
        op: OpId,
        /// The object.
        id: ObjectId,
        /// What is wanted.
        order: RegisterOrder,
        /// When the request is given up: what was begun then has an unknown outcome.
        deadline: MonotonicUs,
        /// The request that it belongs to.
        trace: TraceContext,
    },
    /// The caller does not wait for a request any more.
    Abandon {
        /// The request.
        op: OpId,
    },
    /// Another member says something.
    Heard {
        /// Who.
        from: NodeId,
        /// What.
        message: RegisterMessage,
        /// The request that it belongs to.
        trace: TraceContext,
    },
    /// What an [`RegisterEffect::Keep`] names is durable. In the order of the tickets.
    Kept {
        /// Its name.
        ticket: Ticket,
    },
    /// The store has refused to keep what a [`RegisterEffect::Keep`] names. Nothing of it was done. It may come before the answers
    /// to earlier ones.
    Refused {
        /// Its name.
        ticket: Ticket,
        /// Why, for people.
        reason: String,
    },
    /// The group's table has these configurations, oldest first: all that it has, or at least all from the adopted one on
    /// ([`Registers::epoch`](super::Registers::epoch)). What is adopted already is passed over. A node that has adopted none yet starts
    /// with the last of them, which has to name it under its present claim.
    Configured {
        /// The chain, or its end.
        chain: Vec<Configuration>,
    },
    /// An [`RegisterEffect::Adopt`] is durable.
    Adopted {
        /// Its epoch.
        epoch: u64,
        /// In a joint configuration: the objects with an accepted ballot for which
        /// [`is_rescanned`](super::is_rescanned) says yes, sorted.
        rescan: Vec<ObjectId>,
    },
    /// Time has passed.
    Tick,
}

/// What is wanted of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterOrder {
    /// A safe write.
    Change(Change),
    /// A safe read (rule 8).
    Read,
    /// Keep the newer version (rule 12): a fast write on its way, or a copy from elsewhere.
    Merge(Value),
    /// Make an expired object a tombstone; of anything else nothing changes (rule 10).
    Expire,
    /// Write a tombstone back until all replicas have it, and drop it (rule 10). Before that the caller has made sure that
    /// no older fast write is left anywhere (rule 12). Of anything else than a tombstone of this version nothing changes.
    /// [`Version::default`] clears what rounds have left of an object that there never was.
    Clear(Version),
    /// Write back what a quorum has, at every replica that can be reached: heals what lags behind.
    Repair,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterOutcome {
    /// A write took effect.
    Written {
        /// Its version; `None` = the object was deleted.
        version: Option<Version>,
        /// Whether there was no object before.
        created: bool,
    },
    /// The condition did not hold; nothing changed.
    Refused(WriteRefusal),
    /// What a read found.
    Read(Option<Object>),
    /// A merge, a repair, an expiry or a clearing is done, or was not needed.
    Done,
    /// It may or may not have happened, and may still.
    Unknown,
    /// It did not happen: no quorum of the replica set answered in time.
    NoQuorum {
        /// How many of the replica set answered.
        answered: u32,
        /// How many are needed.
        needed: u32,
    },
    /// It did not happen: the stores of so many replicas, or of this node, refuse it that there can be no quorum.
    Declined {
        /// Why, for people.
        reason: String,
    },
    /// It did not happen: this node is no member that has adopted a configuration.
    NotReady,
    /// It did not happen: this node has too many requests, or the order can only be carried out while no change of the
    /// members is running and no other request uses the object.
    Busy,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterEffect {
    /// Make this durable, all of it or nothing, then say [`RegisterEvent::Kept`]. What it allows is said after that.
    Keep {
        /// Its name.
        ticket: Ticket,
        /// The shard's state, if it has changed.
        state: Option<ShardState>,
        /// Registers; `None` = deleted.
        writes: Vec<(ObjectId, Option<Register>)>,
    },
    /// Adopt this configuration durably: keep `state`, and in a stable configuration delete with it, all or nothing, every
    /// register that this node does not [`keep`](super::keeps) under it; then say [`RegisterEvent::Adopted`]. Before that nothing else is
    /// kept, and all that was to be kept before is.
    Adopt {
        /// The state to keep.
        state: ShardState,
    },
    /// Send this now: everything that it depends on is durable.
    Send {
        /// To whom; never this node.
        to: NodeId,
        /// What.
        message: RegisterMessage,
        /// The request that it belongs to.
        trace: TraceContext,
    },
    /// A request has ended.
    End {
        /// The request.
        op: OpId,
        /// How.
        ended: RegisterOutcome,
    },
    /// The configurations between the adopted one and those that the group's table still has are gone (rule 3): this node
    /// takes part no more. It is to be wiped and to join under a new claim. Said once.
    LeftBehind {
        /// The epoch adopted last.
        epoch: u64,
        /// The oldest that is still to be had.
        oldest: u64,
    },
    /// This node has finished the rescan of a joint epoch (rule 9).
    Rescanned {
        /// The epoch.
        epoch: u64,
    },
}

/// What the step needs of the world: what is kept, and who can be reached.
pub trait RegisterShelf {
    /// Reads a register as it was kept last. `Err` = it does not read back: the node then takes no part in its rounds.
    ///
    /// # Errors
    /// Says what does not read back.
    fn register(&self, id: &ObjectId) -> Result<Option<Register>, String>;

    /// Says what this node's store does not take now ([`Declined::Objects`] or [`Declined::Writes`]), and why. `None` = it takes
    /// all. It may be wrong: the store decides when it is asked.
    fn declines(&self) -> Option<(Declined, String)> {
        None
    }

    /// Tells whether a message can reach another member now. This only decides which kinds of rounds may begin.
    fn reaches(&self, _: NodeId) -> bool {
        true
    }
}
