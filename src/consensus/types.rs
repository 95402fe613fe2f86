//! The types that openraft is made with.

use std::{io::Cursor, sync::Arc};

use openraft::{EntryPayload, LogId, Vote};
use serde::{Deserialize, Serialize};

use crate::core::{
    node_id::NodeId,
    table::{Applied, Command, Table},
};

openraft::declare_raft_types!(
    /// The log's types. A node's number is its tag.
    pub Types:
        D = Record,
        R = Applied,
        NodeId = u64,
        Node = Participant,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
        Responder = openraft::impls::OneshotResponder<Types>,
);

pub type Raft = openraft::Raft<Types>;
pub type RaftLogId = LogId<u64>;
pub type RaftVote = Vote<u64>;
pub type RaftEntry = openraft::Entry<Types>;
pub type RaftMembership = openraft::Membership<u64, Participant>;
pub type RaftMetrics = openraft::RaftMetrics<u64, Participant>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, Participant>;
pub type StorageError = openraft::StorageError<u64>;
pub type StoredMembership = openraft::StoredMembership<u64, Participant>;

/// What an entry of the log holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// The table that the group starts with: once per group, written by its founder.
    Found(Arc<Table>),
    /// A change of the table.
    Do(Command),
}

/// Who a number in the log stands for. Where a node can be reached is the links' business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participant {
    pub node: NodeId,
}

impl Default for Participant {
    /// Openraft asks for one, for memberships that are made of numbers alone.
    fn default() -> Self {
        Self { node: NodeId::from_key([0; 32]) }
    }
}

/// Returns the node behind a number, if the membership names it.
pub fn node_of(membership: &RaftMembership, tag: u64) -> Option<NodeId> {
    membership.get_node(&tag).map(|participant| participant.node)
}

/// What a group that one node founds has in its log from the start: that node as the only voter, and the table.
pub fn first_entries(founder: NodeId, table: Table) -> [RaftEntry; 2] {
    let nodes = [(founder.tag(), Participant { node: founder })];
    let membership = RaftMembership::new(
        vec![[founder.tag()].into_iter().collect()],
        nodes.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    );
    let second = LogId { index: 1, ..LogId::default() };
    [
        RaftEntry { log_id: LogId::default(), payload: EntryPayload::Membership(membership) },
        RaftEntry { log_id: second, payload: EntryPayload::Normal(Record::Found(Arc::new(table))) },
    ]
}
