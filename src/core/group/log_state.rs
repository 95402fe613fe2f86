//! The state of the group's log at one node: what it has applied, who leads, who votes. A value; the log itself is behind
//! `ports::Consensus`.

use std::{collections::BTreeSet, sync::Arc};

use crate::{group::table::GroupTable, model::node_id::NodeId};

/// The log as this node has it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogState {
    /// The table after the last entry that this node has applied; `None` without a group.
    pub table: Option<Arc<GroupTable>>,
    /// The index of that entry.
    pub applied: u64,
    /// The term that this node is in.
    pub term: u64,
    /// Who leads that term, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Who votes. While the voters change, those of before and those of after.
    pub voters: BTreeSet<NodeId>,
    /// The sets of voters of which a majority is needed. While the voters change, these are the voters before the change.
    pub settled_voters: BTreeSet<NodeId>,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeId>,
    /// On a leader: milliseconds since a majority last confirmed it. `None` elsewhere.
    pub quorum_silent_ms: Option<u64>,
    /// On a leader: the members that have all entries but the last few.
    pub caught_up: BTreeSet<NodeId>,
    /// Set when the log's store has failed.
    pub failed: Option<String>,
}
