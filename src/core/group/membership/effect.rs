//! The effects of a membership: what the shell has to do, in this order, and what it has to report.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    config::Durable,
    event::{Denied, RequestId},
    message::{MembershipAnswer, MembershipRequest},
};
use crate::{
    group::{
        offer::{FoundGroups, Offer, Seeker, Whereabouts},
        table::{GroupTable, TableCommand},
        view::Liveness,
    },
    machine::Ticket,
    model::node_id::NodeId,
    world::Position,
};

/// Something to do. Those with a [`Ticket`] are answered by the event that carries it, once.
#[derive(Debug, Clone, PartialEq)]
pub enum MembershipEffect {
    /// Keep this durably, then send `Persisted`. What depends on it is an effect of that event, never an earlier one.
    Persist {
        /// Named by `Persisted`.
        ticket: Ticket,
        /// What is kept.
        durable: Durable,
    },
    /// Look for groups, then send `Found`.
    Find {
        /// Named by `Found`.
        ticket: Ticket,
        /// Around which position.
        near: Position,
        /// For how long at most.
        window_us: u64,
        /// What ends the search early.
        enough: SearchGoal,
    },
    /// Ask the node at an address, then send `Answered`.
    AskAddress {
        /// Named by `Answered`.
        ticket: Ticket,
        /// `host:port` of a peer listener.
        address: String,
        /// The question.
        question: MembershipRequest,
    },
    /// Ask a node that links are kept to, then send `Answered`.
    AskNode {
        /// Named by `Answered`.
        ticket: Ticket,
        /// The node.
        node: NodeId,
        /// The question.
        question: MembershipRequest,
    },
    /// Reply to another node.
    Reply {
        /// Its question.
        request: RequestId,
        /// The answer.
        answer: MembershipAnswer,
    },
    /// Answer a client's order.
    Done {
        /// The order.
        request: RequestId,
        /// What became of it.
        result: Result<(), Denied>,
    },
    /// Write an entry, then send `Proposed`.
    Propose {
        /// Named by `Proposed`.
        ticket: Ticket,
        /// The entry.
        command: TableCommand,
    },
    /// Set who votes and who follows, then send `Arranged`.
    Arrange {
        /// Named by `Arranged`.
        ticket: Ticket,
        /// Who votes.
        voters: BTreeSet<NodeId>,
        /// Who follows.
        learners: BTreeSet<NodeId>,
    },
    /// Start the log of a new group, then send `LogReady`.
    FoundLog {
        /// Named by `LogReady`.
        ticket: Ticket,
        /// The new group's table.
        table: Box<GroupTable>,
    },
    /// Make ready to be fed by the leader of a group, then send `LogReady`.
    ///
    /// The log answers only messages that are meant for this claim: see [`membership`](super) about voters.
    FollowLog {
        /// Named by `LogReady`.
        ticket: Ticket,
        /// The group.
        group: String,
        /// The claim under which the node was taken in.
        claim: u64,
    },
    /// Stop and delete the log, then send `LogReady`. No log at all is fine.
    LeaveLog {
        /// Named by `LogReady`.
        ticket: Ticket,
    },
    /// Start an election.
    Campaign,
    /// Stop the leader's heartbeats in favour of this member, or start them again.
    PauseHeartbeats(Option<NodeId>),
    /// Announce this group, or nothing. Replaces what was said before.
    Announce(Option<Offer>),
    /// Say that this node looks for a group, or that it does not. Replaces what was said before.
    Seek(Option<Seeker>),
    /// Say where this node is and to which group it belongs. Replaces what was said before.
    TellWhereabouts(Option<Whereabouts>),
    /// Keep links to these nodes at these addresses, and to no others.
    KeepLinks(BTreeMap<NodeId, String>),
    /// Do this node's part of the rescan of a joint epoch, then send `Rescanned`.
    Rescan {
        /// The joint epoch.
        epoch: u64,
    },
    /// Log this, count it.
    Report(MembershipReport),
}

/// What ends a search before its window does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchGoal {
    /// Nothing: the whole window counts.
    Never,
    /// A group that has a free place and is not one of these.
    RoomBeside(BTreeSet<String>),
    /// This super-peer's group.
    SuperPeer(NodeId),
    /// This group.
    Group(String),
}

impl SearchGoal {
    /// Tells whether the search is over.
    pub fn is_met(&self, found: &FoundGroups) -> bool {
        found.offers.iter().any(|offer| match self {
            Self::Never => false,
            Self::RoomBeside(others) => offer.free() > 0 && !others.contains(&offer.group),
            Self::SuperPeer(node) => offer.super_peer == *node,
            Self::Group(name) => offer.group == *name,
        })
    }
}

/// A fact for the log. What can be seen of the published view is not among them: see
/// [`view_change`](crate::group::view_change).
#[derive(Debug, Clone, PartialEq)]
pub enum MembershipReport {
    /// A member looks otherwise from here.
    Liveness {
        /// The member.
        node: NodeId,
        /// How it looks.
        liveness: Liveness,
    },
    /// One member cannot reach another, but this super-peer can.
    PairFault {
        /// Who says so.
        from: NodeId,
        /// Whom it cannot reach.
        to: NodeId,
        /// `false` once it can again.
        present: bool,
    },
    /// The group is no more.
    Dissolved {
        /// The group.
        group: String,
        /// Where its members go.
        into: Option<String>,
    },
    /// This node's place is gone: the group says that it is no member.
    Removed {
        /// The group.
        group: String,
        /// The claim that was void from then on.
        claim: u64,
    },
    /// This node gave up its place, since no majority came back within the grace.
    GaveUp {
        /// The group.
        group: String,
    },
    /// A change of the members waits. Told soon, when it takes long, and then now and again.
    ChangeWaits {
        /// Its joint epoch.
        epoch: u64,
        /// Whose rescan it still wants.
        waits_for: BTreeSet<NodeId>,
        /// Whether it takes long.
        is_long: bool,
    },
    /// A change was forced (rule 14): it went on without members that are lost.
    Forced {
        /// The epoch that followed: joint, of those who are left.
        epoch: u64,
        /// How many were forced so far.
        count: u64,
    },
    /// A group refused this node.
    JoinRefused {
        /// The group.
        group: String,
        /// Its reason.
        reason: String,
    },
}
