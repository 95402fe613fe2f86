//! The group's log: what its majority has agreed on, in one order. Raft behind it; nothing of Raft shows but its terms.

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::watch;

pub use crate::core::log_state::LogState;
use crate::core::{
    node_id::NodeId,
    table::{Applied, Command, Table},
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

    /// Starts the log of a group that this node founds; it is its only voter.
    fn found(&self, table: Table) -> BoxFuture<'static, Result<(), ConsensusError>>;

    /// Makes ready to be fed by the leader of this group. Whatever was kept of another group is deleted first.
    fn follow(&self, group: String) -> BoxFuture<'static, Result<(), ConsensusError>>;

    /// Writes an entry, on the leader; returns what its application did, once this node has applied it.
    fn propose(&self, command: Command) -> BoxFuture<'static, Result<Applied, ConsensusError>>;

    /// Sets who votes and who follows, on the leader. Both are members or about to become members.
    fn arrange(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> BoxFuture<'static, Result<(), ConsensusError>>;

    /// Starts an election with this node as the candidate, now.
    fn campaign(&self);

    /// Stops the leader's heartbeats, so that another can win, or starts them again.
    fn pause_heartbeats(&self, paused: bool);

    /// Leaves the group: stops, and deletes the log.
    fn leave(&self) -> BoxFuture<'static, Result<(), ConsensusError>>;
}
