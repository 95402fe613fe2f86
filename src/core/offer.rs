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
}
