//! What super-peers tell the network about their groups, and what a node that looks for one tells about itself.

use serde::{Deserialize, Serialize};

use super::{node_id::NodeId, world::Position};

/// The most offers in one answer.
pub const OFFERS_MAX: usize = 64;

/// One group, as its super-peer announces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The group's name.
    pub group: String,
    /// Its super-peer.
    pub super_peer: NodeId,
    /// Where the super-peer's peer listener is, as `host:port`.
    pub peer: String,
    /// Where the super-peer stands.
    pub site: Position,
    /// How many members it has.
    pub members: u32,
    /// The most that it may have.
    pub capacity: u32,
    /// Whether the super-peer was started as one.
    pub permanent: bool,
    /// The group's epoch; of two offers of a group the greater one is the newer.
    pub epoch: u64,
    /// Counts the announcements of this super-peer; of two offers of an epoch the greater one is the newer.
    pub seq: u64,
}

impl Offer {
    /// Returns how many more members the group takes.
    pub fn free(&self) -> u32 {
        self.capacity.saturating_sub(self.members)
    }
}

/// A node that looks for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seeker {
    /// The node.
    pub node: NodeId,
    /// Whether it was started as a super-peer.
    pub permanent: bool,
}

/// What one node answers to the question for groups near a position.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The groups it knows, nearest first, at most [`OFFERS_MAX`].
    pub offers: Vec<Offer>,
    /// Set when the node itself looks for a group.
    pub seeker: Option<Seeker>,
    /// Where the node can be reached now, and to which group it belongs.
    #[serde(default)]
    pub whereabouts: Option<Whereabouts>,
}

/// Where a node can be reached now. Lets a group find itself again when all its members came back with other addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The node.
    pub node: NodeId,
    /// Where its peer listener is, as `host:port`.
    pub peer: String,
    /// The group that it belongs to, or has asked for a place.
    pub group: String,
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// The groups.
    pub offers: Vec<Offer>,
    /// The nodes that look for a group too.
    pub seekers: Vec<Seeker>,
    /// Where nodes that have answered are now.
    pub whereabouts: Vec<Whereabouts>,
    /// How many nodes have answered.
    pub answered: usize,
}
