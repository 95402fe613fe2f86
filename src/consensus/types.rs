//! The types that openraft is made with.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    sync::Arc,
};

use openraft::{EntryPayload, LogId, Vote};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use nomad_core::{
    group::table::{Applied, GroupTable, TableCommand},
    model::node_id::NodeId,
};

openraft::declare_raft_types!(
    /// The log's types. A participant's number is made of its node and claim.
    pub Types:
        D = RaftRecord,
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
pub enum RaftRecord {
    /// The table that the group starts with: once per group, written by its founder.
    Found(Arc<GroupTable>),
    /// A change of the table.
    Do(TableCommand),
}

/// Who a number in the log stands for: a node under one claim. Where it can be reached is the links' business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participant {
    pub node: NodeId,
    pub claim: u64,
}

impl Participant {
    pub fn number(&self) -> u64 {
        number_of(self.node, self.claim)
    }
}

impl Default for Participant {
    /// Openraft asks for one, for memberships that are made of numbers alone.
    fn default() -> Self {
        Self { node: NodeId::from_key([0; 32]), claim: 0 }
    }
}

/// Returns the number of a node under a claim: XXH3 (64 bits, seed 0) of the key and the claim in little-endian bytes. A
/// node that comes back under a new claim has deleted its log and its vote, so that it must not pass for who it was.
pub fn number_of(node: NodeId, claim: u64) -> u64 {
    xxh3_64(&[&node.key()[..], &claim.to_le_bytes()].concat())
}

/// What a group that one node founds has in its log from the start: that node as the only voter, and the table.
pub fn first_entries(founder: Participant, table: GroupTable) -> [RaftEntry; 2] {
    let number = founder.number();
    let nodes = BTreeMap::from([(number, founder)]);
    let membership = RaftMembership::new(vec![BTreeSet::from([number])], nodes);
    let second = LogId { index: 1, ..LogId::default() };
    [
        RaftEntry { log_id: LogId::default(), payload: EntryPayload::Membership(membership) },
        RaftEntry {
            log_id: second,
            payload: EntryPayload::Normal(RaftRecord::Found(Arc::new(table))),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_hash_of_the_key_and_the_claim() {
        let key = std::array::from_fn(|at| at as u8);
        // Made with another implementation of XXH3: python-xxhash.
        for (key, claim, number) in [
            ([0; 32], 0, 0x114d_dfda_264d_5aa9),
            ([1; 32], 1, 0x5a71_b5ff_6704_b817),
            ([1; 32], 2, 0x8958_ab52_f21f_59d0),
            ([7; 32], u64::MAX, 0x03c8_763a_ae11_8817),
            (key, 3, 0x84cf_d1d3_4c5d_2893),
        ] {
            assert_eq!(number_of(NodeId::from_key(key), claim), number, "{key:?} {claim}");
        }
    }
}
