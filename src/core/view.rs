//! What a node knows of itself and its group, published whole: one writer, any number of readers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    group::{Member, Settings},
    node_id::NodeId,
    table::Table,
    time::UnixMs,
    world::World,
};

/// Where a node stands between its start and its end in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleState {
    /// It looks for a group.
    Discovering,
    /// It has asked a group for a place.
    Joining,
    /// It is a member.
    Peer,
    /// It leads its group, and was started as a peer.
    ProvisionalSuperPeer,
    /// It leads its group, and was started as a super-peer.
    PermanentSuperPeer,
    /// It is a member of a group that has no leader at the moment.
    Electing,
    /// It is on its way out.
    Leaving,
    /// Its group was dissolved.
    Dissolved,
}

impl RoleState {
    /// Returns the state's word in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discovering => "discovering",
            Self::Joining => "joining",
            Self::Peer => "peer",
            Self::ProvisionalSuperPeer => "provisional-super-peer",
            Self::PermanentSuperPeer => "permanent-super-peer",
            Self::Electing => "electing",
            Self::Leaving => "leaving",
            Self::Dissolved => "dissolved",
        }
    }

    /// Tells whether the node leads its group.
    pub fn leads(self) -> bool {
        matches!(self, Self::ProvisionalSuperPeer | Self::PermanentSuperPeer)
    }
}

/// How another member looks from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// This node cannot reach it, or somebody cannot.
    Suspect,
    /// Nobody reaches it.
    Dead,
}

impl Liveness {
    /// Returns the word in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }
}

/// How and when a member was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// How it looks.
    pub liveness: Liveness,
    /// When this node last heard of it; `None` = never.
    pub last_seen: Option<UnixMs>,
}

/// The view.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// This node.
    pub this: Member,
    /// Whether it was started as a super-peer.
    pub permanent: bool,
    /// Where it stands.
    pub state: RoleState,
    /// Its group's table as far as this node has it; `None` while it has no group.
    pub table: Option<Arc<Table>>,
    /// Who leads the group now, as far as this node knows; `None` during an election.
    pub super_peer: Option<NodeId>,
    /// The term of that leader.
    pub term: u64,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// The other members as they look from here.
    pub sightings: BTreeMap<NodeId, Sighting>,
    /// Whether a majority of the voters was heard of lately. A group without one says so.
    pub has_majority: bool,
    /// The world that positions lie in.
    pub world: World,
    /// The settings of this node's configuration: what a group that it founds starts with, and what holds without a group.
    pub settings: Settings,
}

impl View {
    /// Returns the settings that hold: the group's, or this node's own without one.
    pub fn settings(&self) -> Settings {
        self.table.as_ref().map_or(self.settings, |table| table.settings)
    }

    /// Returns the members of the group, this node included; without a group there are none.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.table.iter().flat_map(|table| table.seats.values().map(|seat| &seat.member))
    }

    /// Returns the epoch; 0 without a group.
    pub fn epoch(&self) -> u64 {
        self.table.as_ref().and_then(|table| table.chain.back()).map_or(0, |last| last.epoch)
    }
}
