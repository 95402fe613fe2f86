//! What a node does for whoever asks it. REST, gRPC and programs that embed a node all come in here: a [`ServiceCall`] is one
//! request in hand, with its name, its deadline and its record in the trace.
//!
//! What is neither an actor nor an edge lives here: the ways to [read](ReadPath) and to [write](WritePath), which run on the
//! caller's task and ask actors; how the actors of the storage are [wired](Storage) to each other; the one [`ServiceError`].
//!
//! Invariants: nothing here knows HTTP or gRPC; nothing here owns state that an actor should own; whoever asks gets one answer
//! within the deadline, and every failure says whether its outcome is known and whether to try again.

mod assurance;
mod call;
pub mod durations;
mod error;
mod named_writes;
mod options;
mod own_writes;
mod reads;
#[cfg(test)]
mod tests;
mod wiring;
mod writes;

use std::{sync::Arc, time::Duration};

pub use self::{
    assurance::{Assurance, Reach},
    call::{Entrance, ServiceCall},
    error::{ErrorKind, RETRY_AFTER, ServiceError},
    options::{ReadOptions, WriteOptions},
    reads::ReadPath,
    wiring::{Storage, StorageArgs, StorageFigures},
    writes::WritePath,
};
use durations::Operations;
use nomad_actors::{
    Address, Kit, group_view::GroupView, ledger::LedgerMsg, local_store::LocalStoreMsg,
    membership::MembershipMsg, repair_sweeper::RepairSweeperMsg,
};
use nomad_core::{
    group::StorageMode,
    model::{durability::Durability, object::Tier},
};
use nomad_ports::PeerProbe;

/// What requests are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceLimits {
    /// The longest that a request may take (`limits.requestTimeout`).
    pub request_timeout: Duration,
    /// The most items on a page of a listing (`limits.pageSize`).
    pub page_size: usize,
    /// The most bytes of a value (`node.storage.maxObjectBytes`).
    pub object_bytes_max: u64,
    /// When a write reaches the disk (`node.storage.durability`).
    pub durability: Durability,
}

/// A node's inside, as far as requests need it.
pub struct NodeService {
    /// What all actors share.
    pub kit: Kit,
    /// The store's writer, for the overlay tier.
    pub store: Address<LocalStoreMsg>,
    /// The way to read.
    pub reads: ReadPath,
    /// The way to write objects of the group.
    pub writes: WritePath,
    /// The node and its group as they are.
    pub view: GroupView,
    /// Who decides about the group and its members.
    pub membership: Address<MembershipMsg>,
    /// Who knows who holds which object.
    pub ledger: Address<LedgerMsg>,
    /// Who repairs replicas.
    pub sweeper: Address<RepairSweeperMsg>,
    /// Looks at other nodes.
    pub probe: Arc<dyn PeerProbe>,
    /// What requests are held to.
    pub limits: ServiceLimits,
    /// How long reads and writes took.
    pub operations: Arc<Operations>,
}

impl NodeService {
    /// Says how durable what an answer tells is: on a quorum's disks for a safe write of the group, else on this node's.
    /// `None` = it tells of no write.
    pub fn assurance(&self, tier: Tier, write: Option<StorageMode>) -> Assurance {
        let reach = match (tier, write) {
            (Tier::Group, Some(StorageMode::Safe)) => Reach::Quorum,
            _ => Reach::Local,
        };
        Assurance { reach, fsync: self.limits.durability }
    }
}
