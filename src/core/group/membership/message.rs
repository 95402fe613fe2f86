//! The messages between nodes about membership. The shell encodes them behind a version byte.
//!
//! Everything here comes from another node and is believed only as far as its sender proved who it is.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::event::{Denied, MembershipOrder};
use crate::{
    group::{Member, offer::Offer, table::Seat},
    model::node_id::NodeId,
};

/// A question or a demand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, IntoStaticStr)]
pub enum MembershipRequest {
    /// To a super-peer: a place in its group. The same claim may ask again and again.
    Join {
        /// The group that is meant.
        group: String,
        /// Who asks, under which claim.
        seat: Seat,
    },
    /// To the owner of a claim: is it still bound to this group?
    Confirm {
        /// The group.
        group: String,
        /// The claim.
        claim: u64,
    },
    /// To the super-peer: take the sender out of the table.
    Leave {
        /// The group.
        group: String,
        /// The sender's claim.
        claim: u64,
    },
    /// To any node: come into the group of this super-peer.
    Invite {
        /// The super-peer.
        super_peer: NodeId,
        /// The group.
        group: String,
        /// Where the super-peer's peer listener is.
        address: String,
    },
    /// To the super-peer, or to any member when there is none: the sender is alive, and this is what it sees of the group.
    Health(HealthReport),
    /// To the super-peer: the sender has finished the rescan of a joint epoch.
    Rescanned {
        /// The group.
        group: String,
        /// The sender's claim.
        claim: u64,
        /// The joint epoch.
        epoch: u64,
    },
    /// To the super-peer: the sender has other addresses or another position.
    Describe {
        /// The group.
        group: String,
        /// The sender's claim.
        claim: u64,
        /// What it is now.
        member: Member,
    },
    /// From one super-peer to another: is there room for the whole of my group? The one that says yes promises not to move itself
    /// in the meantime.
    Room {
        /// The asked group.
        group: String,
        /// How many would come.
        members: u32,
    },
    /// From the super-peer to a member that is to lead from now on. The sender's heartbeats are paused.
    HandOver {
        /// The group.
        group: String,
        /// The sender's term.
        term: u64,
    },
    /// From the super-peer to a member: the group is no more. Sent after the log said so.
    Gone {
        /// The group.
        group: String,
        /// Where its members are to go.
        into: Option<Offer>,
    },
    /// From the super-peer to a member: a client wants it out of the group.
    Dismiss {
        /// The group.
        group: String,
        /// The member's claim.
        claim: u64,
        /// Whether it stays without a group until it is invited. Otherwise it looks for another group.
        rests: bool,
    },
    /// From one super-peer to another: is there a place for this member of mine? A yes keeps it for a while.
    Place {
        /// The asked group.
        group: String,
        /// The member.
        node: NodeId,
    },
    /// From a member to its super-peer: a client has given the sender this order. It is not passed on any further.
    Order {
        /// The group.
        group: String,
        /// The sender's claim.
        claim: u64,
        /// The order.
        order: MembershipOrder,
    },
}

/// A member's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// The group.
    pub group: String,
    /// The sender's claim.
    pub claim: u64,
    /// The epoch that the sender has.
    pub epoch: u64,
    /// The members that the sender has a link to.
    pub reached: BTreeSet<NodeId>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MembershipAnswer {
    /// To `Join`: the sender is a member; to `Invite` and `Dismiss`: it goes; to `Describe` and `Rescanned`: taken note
    /// of.
    Done,
    /// To `Join`: no place. Names another group to ask, if one is known.
    Full {
        /// The group to ask.
        next: Option<Offer>,
    },
    /// The asked node does not lead that group. Also to `Health`, where the sender is a member all the same.
    NotLeader {
        /// Who does, and where its peer listener is.
        leader: Option<(NodeId, String)>,
    },
    /// Not now; ask again.
    Later {
        /// After so many milliseconds.
        after_ms: u64,
    },
    /// Never; ask another one.
    Refused(MembershipRefusal),
    /// To `Confirm`: the claim is bound to that group.
    Bound,
    /// The claim is void, or is bound to another group. A group that has a place for it removes the place.
    Void,
    /// To `Health`: the sender is a member.
    Member {
        /// The answerer's epoch.
        epoch: u64,
        /// Whether the answerer leads the group and a majority of the voters is behind it.
        majority: bool,
        /// Members that the answerer cannot reach: the sender, if it can, asks them whether they still hold their claim,
        /// and reports only those that do.
        doubts: BTreeSet<NodeId>,
    },
    /// The answer to any request of a member: it is no member under that claim, by a table that is at least as new as its own.
    NoMember {
        /// The answerer's epoch.
        epoch: u64,
    },
    /// The group is no more.
    Dissolved {
        /// Where its members are to go, by name.
        into: Option<String>,
    },
    /// To `Room` and `Place`: yes, and it is kept for a while.
    Room(Offer),
    /// To `Order`: what became of it.
    Ordered(Result<(), Denied>),
}

/// Why a node is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MembershipRefusal {
    /// The asked node belongs to another group, or to none.
    #[error("the asked node does not belong to that group")]
    OtherGroup,
    /// The seat in the question is not the sender's, or its text is too long.
    #[error("the question is not one that its sender may ask")]
    Malformed,
    /// The claim is older than one that the asked node has seen.
    #[error("the claim is void")]
    OldClaim,
    /// Another member has the same tag.
    #[error("another member has the same number; start the node with a new data directory")]
    SameTag,
    /// The node has a group, and leads it or is on its way.
    #[error("the node is bound to another group")]
    Bound,
    /// The asked node is about to go elsewhere itself, or has no room.
    #[error("the group does not take another group in now")]
    NoRoom,
}

/// Why an ask has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskFailure {
    /// It was not sent.
    Unreachable,
    /// It may have been taken.
    Unknown,
    /// The other node does not serve it, or is not one of ours.
    Refused,
}

/// What a question has brought.
pub type Answered = Result<MembershipAnswer, AskFailure>;

impl MembershipRequest {
    /// The longest text in a message, in bytes.
    pub const TEXT_BYTES_MAX: usize = 256;

    /// Names the request's kind.
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}
