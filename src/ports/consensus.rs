//! The group's log: what its majority has agreed on, in one order. Raft behind it; nothing of Raft shows but its terms.

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::watch;

pub use nomad_core::group::log_state::LogState;
use nomad_core::{
    group::table::{Applied, GroupTable, TableCommand},
    model::node_id::NodeId,
};

/// Why an entry was not written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConsensusError {
    /// This node does not lead. Nothing was written.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who does, if that is known.
        leader: Option<NodeId>,
    },
    /// A node that is to take part in the log has no seat in the group's table. Nothing was written.
    #[error("{node} has no seat in the group's table; it can vote once it is a member")]
    NoSeat {
        /// The node.
        node: NodeId,
    },
    /// This node has no log.
    #[error("this node belongs to no group")]
    NoGroup,
    /// It is not known whether it was written.
    #[error("no majority of the group's voters answered in time")]
    Unknown,
    /// The log's store failed; this node's part in the log is over until it is started again.
    #[error("the group's log cannot be kept: {reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
}

/// The log.
pub trait Consensus: Send + Sync + 'static {
    /// Watches the log.
    fn watch(&self) -> watch::Receiver<LogState>;

    /// Starts the log of a group that this node founds; it is its only voter, under the claim of its seat in the table.
    fn found(&self, table: GroupTable) -> BoxFuture<'static, Result<(), ConsensusError>>;

    /// Makes ready to be fed by the leader of this group, which has taken this node in under this claim. Whatever was kept
    /// of another group or claim is deleted first. Under another claim the node is another participant of the log: so a
    /// claim whose log was deleted must never be used again.
    fn follow(&self, group: String, claim: u64) -> BoxFuture<'static, Result<(), ConsensusError>>;

    /// Writes an entry, on the leader; returns what its application did, once this node has applied it.
    fn propose(&self, command: TableCommand)
    -> BoxFuture<'static, Result<Applied, ConsensusError>>;

    /// Sets who votes and who follows, on the leader. Both are members or about to become members. Nothing happens when it
    /// is so already; after an error it may be half done, and is finished by asking again.
    fn arrange(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> BoxFuture<'static, Result<(), ConsensusError>>;

    /// Has this node, a voter, stand for election as soon as the lease of the last leader is over: with the others' consent
    /// it goes before all other voters. A leader that lives and is heard by a majority is not disturbed.
    fn campaign(&self);

    /// Stops the leader's heartbeats in favour of `heir`, for whom the other voters then make way, or starts them again. A
    /// pause also ends by itself: with the leadership, or when nobody has won for a few leases.
    fn pause_heartbeats(&self, heir: Option<NodeId>);

    /// Leaves the group: stops, and deletes the log.
    fn leave(&self) -> BoxFuture<'static, Result<(), ConsensusError>>;

    /// Takes the log up again from disk, after its store has failed. Without a failure nothing happens.
    fn resume(&self) -> BoxFuture<'static, Result<(), ConsensusError>>;

    /// Returns the group whose log is kept here, also before its first entry has come.
    fn group(&self) -> Option<String>;
}
