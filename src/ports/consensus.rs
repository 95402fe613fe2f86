//! The group's log: what its majority has agreed on, in one order. Raft behind it; nothing of Raft shows but its terms.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::watch;

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

/// The log as this node has it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogState {
    /// The table after the last entry that this node has applied; `None` without a group.
    pub table: Option<Arc<Table>>,
    /// The index of that entry.
    pub applied: u64,
    /// The term that this node is in.
    pub term: u64,
    /// Who leads that term, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeId>,
    /// On a leader: milliseconds since a majority last confirmed it. `None` elsewhere.
    pub quorum_silent_ms: Option<u64>,
    /// On a leader: the members that have all entries but the last few.
    pub caught_up: BTreeSet<NodeId>,
    /// Set when the log's store has failed.
    pub failed: Option<String>,
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
