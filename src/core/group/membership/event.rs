//! The events of a membership.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::message::{Answered, MembershipRequest};
use crate::{
    group::{
        Member, SettingChange,
        log_state::LogState,
        offer::FoundGroups,
        table::{Applied, TableCommand},
    },
    machine::Ticket,
    model::node_id::NodeId,
    world::Position,
};

/// Numbers a question from outside: another node's, or a client's. The shell draws them; one space for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, IntoStaticStr)]
pub enum MembershipEvent {
    /// The first event: the node runs, its log was opened (if it had one) and looks like this.
    Started {
        /// The log.
        log: LogState,
    },
    /// Time has passed.
    Tick,
    /// The log has changed, if only by the silence of its quorum.
    LogChanged(LogState),
    /// A search is over.
    Found {
        /// The search.
        ticket: Ticket,
        /// What was found.
        found: FoundGroups,
    },
    /// A link stands.
    LinkUp(NodeId),
    /// An open link is down, or a link that is to be kept could not be opened.
    LinkDown(NodeId),
    /// Another node asks. Each is replied to exactly once.
    Asked {
        /// Who; it has proved that.
        from: NodeId,
        /// What the reply names.
        request: RequestId,
        /// The question.
        question: MembershipRequest,
    },
    /// Another node has answered, or has not.
    Answered {
        /// The ask.
        ticket: Ticket,
        /// Who answered; it has proved that.
        by: Option<NodeId>,
        /// The answer.
        answer: Answered,
    },
    /// What was to be kept is durable. A failure to keep it is fatal to the node and is no event.
    Persisted(Ticket),
    /// An entry was written, or was not.
    Proposed {
        /// The proposal.
        ticket: Ticket,
        /// What its application did.
        outcome: Result<Applied, ProposeFailure>,
    },
    /// Voters and learners were set (`true`), or perhaps not.
    Arranged {
        /// The arrangement.
        ticket: Ticket,
        /// Whether it is done.
        done: bool,
    },
    /// A log was founded, made ready to follow, or left (`true`); or that failed.
    LogReady {
        /// The task.
        ticket: Ticket,
        /// Whether it is done.
        done: bool,
    },
    /// This node has done its part of the rescan of a joint epoch.
    Rescanned {
        /// The joint epoch.
        epoch: u64,
    },
    /// A client wants something. Answered by [`MembershipEffect::Done`](super::MembershipEffect::Done).
    Ordered {
        /// What the answer names.
        request: RequestId,
        /// What is wanted.
        order: MembershipOrder,
    },
    /// This node has other addresses or another position.
    Described(Member),
    /// The process stops, which is not a leave.
    Stopping,
    /// What this node keeps of its group's objects is too old to go on from: it comes back as a new member (rule 3).
    LeftBehind,
}

/// What a client can want of a membership. What only the super-peer can do is passed on to it by the other members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MembershipOrder {
    /// Leave the group, and do not look for another one.
    Leave,
    /// Move a member (or this node) to the group of another super-peer.
    Migrate {
        /// The member.
        node: NodeId,
        /// The super-peer of the other group.
        to: NodeId,
    },
    /// Ask the node at an address into this group.
    AddPeer {
        /// Where its peer listener is, as `host:port`.
        address: String,
    },
    /// Take a member out of this group. It looks for another one, and does not come back by itself for a long time.
    RemovePeer(NodeId),
    /// Have a member leave this group and stay without one, as [`MembershipOrder::Leave`] does for this node.
    PeerLeaves(NodeId),
    /// Ask a member whether it still holds its place.
    Look(NodeId),
    /// Write a member's position into the table.
    Stand {
        /// The member.
        node: NodeId,
        /// Its position.
        position: Position,
    },
    /// Let another member lead.
    SuperPeerLeave,
    /// Write an entry that is not about the membership, such as a setting.
    Write(TableCommand),
}

impl MembershipOrder {
    /// Tells whether only the super-peer can carry it out.
    pub(super) fn is_for_super_peer(&self) -> bool {
        !matches!(self, Self::Leave | Self::SuperPeerLeave)
    }

    /// Tells whether it wants members to come or go.
    pub(super) fn is_about_members(&self) -> bool {
        match self {
            Self::Leave
            | Self::Migrate { .. }
            | Self::AddPeer { .. }
            | Self::RemovePeer(_)
            | Self::PeerLeaves(_) => true,
            Self::Look(_) | Self::Stand { .. } | Self::SuperPeerLeave | Self::Write(_) => false,
        }
    }

    /// Tells whether another member may pass it on to this node. Of the log entries, only a change of the group's one setting may be.
    pub(super) fn may_be_passed_on(&self) -> bool {
        match self {
            Self::Leave | Self::SuperPeerLeave => false,
            Self::Write(command) => {
                matches!(command, TableCommand::Set(SettingChange::ReplicationFactor(_)))
            }
            Self::AddPeer { address } => {
                (1..=MembershipRequest::TEXT_BYTES_MAX).contains(&address.len())
            }
            Self::Stand { position, .. } => position.x.is_finite() && position.y.is_finite(),
            Self::Migrate { .. } | Self::RemovePeer(_) | Self::PeerLeaves(_) | Self::Look(_) => {
                true
            }
        }
    }
}

/// Why an entry was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposeFailure {
    /// This node does not lead: nothing was written.
    NotLeader,
    /// It is not known whether it was written.
    Unknown,
    /// There is no log, or it has failed.
    NoLog,
}

/// How an order has ended; `None` = it has only begun.
pub(super) type OrderEnd = Result<Option<()>, Denied>;

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Denied {
    /// This node has no group.
    #[error("this node has no group now")]
    NoGroup,
    /// Another node leads the group.
    #[error("this node does not lead the group; ask its super-peer")]
    NotLeader {
        /// Who does.
        leader: Option<NodeId>,
    },
    /// There is no such member.
    #[error("{0} is not a member of the group")]
    NotAMember(NodeId),
    /// There is no super-peer of that name to be found.
    #[error("no group of the super-peer {0} was found")]
    NoSuchGroup(NodeId),
    /// The other group has no room.
    #[error("the group of the super-peer {0} has no free place")]
    NoPlace(NodeId),
    /// Nobody else can lead.
    #[error("no other member can lead the group now")]
    NoSuccessor,
    /// The super-peer itself cannot be taken out while it leads.
    #[error(
        "the super-peer leaves by handing over: `handleSuperPeerLeave`, or `nomad leave` there"
    )]
    SuperPeer,
    /// The other node said no.
    #[error("the other node refused")]
    Refused,
    /// The other node belongs to a group that it does not leave for an invitation.
    #[error("the other node belongs to another group; `migrate` moves it from there")]
    Bound,
    /// There is nobody to ask at that address.
    #[error("the other node cannot be reached")]
    Unreachable,
    /// This node has to take part and cannot be reached.
    #[error("{0} cannot be reached")]
    NoAnswer(NodeId),
    /// The table refused the entry.
    #[error(transparent)]
    Table(#[from] crate::group::table::TableRefusal),
    /// The outcome is unknown.
    #[error("no answer in time; look at the group before you try again")]
    Unknown,
    /// Another order is being carried out.
    #[error("another order is being carried out; try again when it is done")]
    Busy,
}
