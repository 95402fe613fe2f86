//! Control requests: what clients and older nodes ask about a group by name and address, and the answers.
//!
//! The edges decode a [`ControlRequest`] and encode the answer. The membership core alone decides who may join, leave, move or
//! be removed. `true` = done, `false` = there was nothing to do; everything else is a [`ControlError`].
//! Any member may be asked: a member passes on what only the super-peer can do. [`ControlRequest::Join`] is the exception: its
//! answer names the super-peer instead.

use strum::IntoStaticStr;
use thiserror::Error;

use crate::{
    group::{PeerError, ReplicationFactorError},
    model::node_id::NodeId,
    world::{Position, PositionError},
};

/// What is asked. Addresses are `host:port`; a `peer` is a member's id, its peer address or its storage address.
#[derive(Debug, Clone, PartialEq, IntoStaticStr)]
pub enum ControlRequest {
    /// Let the node at this peer address into this node's group. `true` once it is a member, also when it was one before.
    Join {
        /// Its peer address, where it is asked back.
        peer: String,
        /// Its storage address.
        storage: String,
        /// Where it stands.
        position: Position,
    },
    /// Take this node itself out of its group. `true` once it is on its way out: its state is `leaving` from then on, and
    /// it has left when it has no group any more. It stays without one until another node asks it in ([`ControlRequest::Join`],
    /// [`ControlRequest::AddPeer`]) or it is started again.
    Leave,
    /// Have a member leave this node's group as [`ControlRequest::Leave`] does for this node itself. `true` once the table says
    /// so. `false` when no member has that name.
    PeerLeaves {
        /// The member.
        name: String,
    },
    /// Take a member out of this node's group. `true` once the table says so, `false` when no member has that name. The
    /// member looks for another group at once, and comes back to this one by itself after ten minutes at the earliest.
    RemovePeer {
        /// The member.
        name: String,
    },
    /// Ask the node at this peer address to join this node's group. `true` once it is a member, also when it was one
    /// before.
    AddPeer {
        /// Its peer address.
        address: String,
    },
    /// Move a member of this node's group to the group of another super-peer. `true` once a place is kept for it there,
    /// it has agreed, and it is no member here any more. `false` when no member has that name.
    Migrate {
        /// The member.
        peer: String,
        /// The other super-peer: its id or its peer address.
        new_super_peer: String,
    },
    /// The caller says that the group's super-peer leaves: look whether it still leads, and elect another if not. `false`
    /// when it leads.
    SuperPeerLeaves,
    /// The caller says that the node at this address has come or gone: look. `true` once a member of that address is
    /// about to be asked whether it still is one; of all others there is nothing to do, since the log tells every member
    /// who is one.
    Notify {
        /// Its peer address.
        host: String,
    },
    /// A member has another position now. `true` once the table has it.
    PositionOf {
        /// The member.
        peer: String,
        /// Where it stands. In the world.
        position: Position,
    },
}

impl ControlRequest {
    /// Names the request's kind.
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

/// Why a request was not granted.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ControlError {
    /// The node belongs to no group at the moment.
    #[error("this node has no group yet: {reason}")]
    NoGroup {
        /// What it does instead.
        reason: &'static str,
    },
    /// The group has no super-peer at the moment.
    #[error("the group {group} has no super-peer at the moment: an election is under way")]
    Election {
        /// The group.
        group: String,
    },
    /// The group's super-peer cannot be reached from here.
    #[error(
        "the super-peer of the group {group}, at {super_peer}, does not answer: it is to carry this out"
    )]
    SilentSuperPeer {
        /// The group.
        group: String,
        /// The peer address of its super-peer.
        super_peer: String,
    },
    /// Another node leads the group.
    #[error("this node does not lead the group {group}; ask its super-peer at {super_peer}")]
    NotSuperPeer {
        /// The group.
        group: String,
        /// The peer address of its super-peer.
        super_peer: String,
    },
    /// The group has no free place.
    #[error("the group {group} is full: it has {members} of {capacity} members{}", .next.as_ref().map(|at| format!("; ask the super-peer at {at}")).unwrap_or_default())]
    Full {
        /// The group.
        group: String,
        /// How many it has.
        members: u32,
        /// How many it may have.
        capacity: u32,
        /// The peer address of the nearest super-peer that is known to have room.
        next: Option<String>,
    },
    /// The name is not one of the group, or the caller is wrong about a member.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A group would lose its only member.
    #[error(
        "{node} is the only member of {group}; stop the node or let it leave (`nomad leave`) instead"
    )]
    OnlyMember {
        /// The member.
        node: String,
        /// The group.
        group: String,
    },
    /// No group is known that this super-peer leads.
    #[error(
        "no group of the super-peer {given:?} is known here; GET /nomad/v1/groups lists those that are"
    )]
    UnknownSuperPeer {
        /// The name.
        given: String,
    },
    /// The other group has no room.
    #[error(
        "the group of the super-peer {super_peer} has no free place; GET /nomad/v1/groups shows which groups have"
    )]
    NoPlace {
        /// The other super-peer.
        super_peer: NodeId,
    },
    /// The other node cannot be reached, or belongs to another network.
    #[error("the node at {address} cannot be asked: {reason}")]
    Unreachable {
        /// Its address.
        address: String,
        /// Why.
        reason: String,
    },
    /// The other node does not want to.
    #[error("the node at {address} refuses: {reason}")]
    Declined {
        /// Its address.
        address: String,
        /// Its reason.
        reason: String,
    },
    /// The group's majority did not answer: nothing is known of the outcome.
    #[error(
        "no majority of the group {group} answered in time, so that the outcome is unknown; look at the members and ask again"
    )]
    Unknown {
        /// The group.
        group: String,
    },
    /// Something else is under way that has to end first.
    #[error("{what} is under way; ask again in a moment")]
    Busy {
        /// What it is.
        what: String,
    },
    /// The group's table does not take the change.
    #[error("the group does not take the change: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The replication factor is out of range.
    #[error(transparent)]
    ReplicationFactor(#[from] ReplicationFactorError),
    /// The position is not in the world.
    #[error(transparent)]
    Position(#[from] PositionError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_group_names_the_next_candidate_where_there_is_one() {
        let full = |next: Option<&str>| ControlError::Full {
            group: "group-a".into(),
            members: 5,
            capacity: 5,
            next: next.map(Into::into),
        };
        let alone = full(None).to_string();
        assert_eq!(alone, "the group group-a is full: it has 5 of 5 members");
        let next = full(Some("b:6731")).to_string();
        assert_eq!(next, format!("{alone}; ask the super-peer at b:6731"));
    }
}
