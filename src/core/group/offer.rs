//! What super-peers announce about their groups, and what a node that looks for a group says about itself.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    model::{address, node_id::NodeId, text::shorten},
    world::Position,
};

/// The most offers in one answer.
pub const OFFERS_MAX: usize = 64;
/// The most members that a group may have, as `node.maxPeers` allows.
pub const CAPACITY_MAX: u32 = 1024;
/// The longest name of a group.
pub const GROUP_NAME_MAX: usize = 64;

/// A DNS name of 253 characters, brackets, a colon and a port.
const ADDRESS_MAX: usize = 262;
/// The greatest side that a world may have.
const SIDE_MAX: f64 = 1e9;

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
    /// Grows with the announcements of this super-peer, also over its restarts; of two offers of one super-peer, and of
    /// two offers of an epoch, the greater one is the newer. The overlay sets it.
    pub seq: u64,
}

/// What a super-peer says to the whole network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Announcement {
    /// It leads this group.
    Offer(Offer),
    /// It leads no group any more.
    Withdrawn {
        /// The super-peer that was.
        super_peer: NodeId,
        /// The number of this announcement among those of its super-peer.
        seq: u64,
    },
}

impl Announcement {
    /// Returns the super-peer that it describes. Only that node may send it.
    pub fn super_peer(&self) -> NodeId {
        match self {
            Self::Offer(offer) => offer.super_peer,
            Self::Withdrawn { super_peer, .. } => *super_peer,
        }
    }
}

/// An offer that no correct node makes.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum OfferError {
    /// The name.
    #[error("the group name {given:?} is not 1 to {GROUP_NAME_MAX} of a-z A-Z 0-9 . _ -")]
    Name {
        /// Its first characters.
        given: String,
    },
    /// The address.
    #[error("the address {given:?} is not host:port")]
    Address {
        /// Its first characters.
        given: String,
    },
    /// The position.
    #[error("the position ({x}, {y}) is in no world")]
    Site {
        /// The refused x.
        x: f64,
        /// The refused y.
        y: f64,
    },
    /// The numbers.
    #[error("{members} members of at most {capacity} are not 1 to {CAPACITY_MAX}")]
    Size {
        /// The members.
        members: u32,
        /// The capacity.
        capacity: u32,
    },
}

impl Offer {
    /// Returns how many more members the group takes.
    pub fn free(&self) -> u32 {
        self.capacity.saturating_sub(self.members)
    }

    /// Checks what another node wrote. Worlds may differ in size between nodes, so a site need only be possible.
    ///
    /// # Errors
    /// Names the first value that cannot be.
    pub fn check(&self) -> Result<(), OfferError> {
        let shown = |text| shorten(text, 80).into_owned();
        if !is_group_name(&self.group) {
            return Err(OfferError::Name { given: shown(&self.group) });
        }
        if !is_address(&self.peer) {
            return Err(OfferError::Address { given: shown(&self.peer) });
        }
        let Position { x, y } = self.site;
        if !(0.0..=SIDE_MAX).contains(&x) || !(0.0..=SIDE_MAX).contains(&y) {
            return Err(OfferError::Site { x, y });
        }
        let Self { members, capacity, .. } = *self;
        if members == 0 || members > CAPACITY_MAX || !(1..=CAPACITY_MAX).contains(&capacity) {
            return Err(OfferError::Size { members, capacity });
        }
        Ok(())
    }
}

fn is_group_name(text: &str) -> bool {
    (1..=GROUP_NAME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_address(text: &str) -> bool {
    text.len() <= ADDRESS_MAX && address::is_host_and_port(text)
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
pub struct OverlayAnswer {
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

impl Whereabouts {
    /// Tells whether an honest node could have written it.
    pub fn check(&self) -> bool {
        is_group_name(&self.group) && is_address(&self.peer)
    }
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FoundGroups {
    /// The groups.
    pub offers: Vec<Offer>,
    /// The nodes that look for a group too.
    pub seekers: Vec<Seeker>,
    /// Where nodes that have answered are now.
    pub whereabouts: Vec<Whereabouts>,
    /// How many nodes have answered.
    pub answered: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes one thing about an offer.
    type Spoil = fn(&mut Offer);

    #[test]
    fn what_no_honest_node_offers_is_refused() {
        let good = Offer {
            group: "group-x".into(),
            super_peer: NodeId::from_key([1; 32]),
            peer: "[::1]:5001".into(),
            site: Position { x: 1.0, y: 2.0 },
            members: 7,
            // A capacity that was lowered below what is there.
            capacity: 5,
            permanent: false,
            epoch: 3,
            seq: 1,
        };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.free(), 0);
        let spoils: [Spoil; 14] = [
            |offer| offer.group = String::new(),
            |offer| offer.group = "a b".into(),
            |offer| offer.group = "a".repeat(65),
            |offer| offer.group = "gr\u{fc}ppe".into(),
            |offer| offer.peer = "nowhere".into(),
            |offer| offer.peer = ":80".into(),
            |offer| offer.peer = "host:0".into(),
            |offer| offer.peer = "host:+1".into(),
            |offer| offer.peer = format!("{}:80", "a".repeat(300)),
            |offer| offer.site.x = f64::NAN,
            |offer| offer.site.y = f64::INFINITY,
            |offer| offer.site.y = -1.0,
            |offer| offer.members = 0,
            |offer| offer.capacity = 1025,
        ];
        for (index, spoil) in spoils.iter().enumerate() {
            let mut offer = good.clone();
            spoil(&mut offer);
            assert!(offer.check().is_err(), "{index}: {offer:?}");
        }
    }
}
