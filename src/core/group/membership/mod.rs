//! Membership: which group this node belongs to, and, on a super-peer, who else does. Pure: `step(now, event)` returns
//! what is to be done.
//!
//! The truth about a group is its table, in a log that a majority of its voters agrees on. A node asks for a place
//! under a *claim*: a number that it keeps durably, binds to one group and never uses for another. To go elsewhere it
//! first voids the claim. A super-peer adds a node only after asking it back whether the claim is bound to this group.
//! So no two tables ever hold a node under the same claim, and of two tables that name a node at most one names its
//! present claim: the other one is out of date, learns that when it asks, and removes it.
//!
//! A voter never forgets what it has voted for. A node deletes its log with its claim, so a node that comes back is another
//! voter: it opens the log of a group only when it was told that it is a member under its new claim, a super-peer adds it
//! only once the earlier claim's voter is out of the log's membership, and a message of the log names the claim that it is
//! meant for. Without the last one, a voter that missed the removal counts the newcomer's vote as the old one's (found by
//! the simulation, seed 2557).
//!
//! Each step handles the event and then compares the state with the table: what is due, missing or different is started. A
//! lost answer is asked for again, so every request may arrive twice.

mod admitting;
mod answering;
mod changing;
mod config;
mod dismissing;
mod effect;
mod event;
mod inviting;
mod joining;
mod leading;
mod leaving;
mod message;
mod migrating;
mod moving;
mod ordering;
mod pace;
mod search;
mod seated;
mod shown;
#[cfg(test)]
mod test_bench;
#[cfg(test)]
mod test_groups;
#[cfg(test)]
mod test_orders;
mod uniting;
mod voters;
mod watch;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

pub use config::{Durable, MembershipConfig, MembershipFaults};
pub use effect::{MembershipEffect, MembershipReport, SearchGoal};
use event::OrderEnd;
pub use event::{Denied, MembershipEvent, MembershipOrder, ProposeFailure, RequestId};
pub use message::{
    Answered, AskFailure, HealthReport, MembershipAnswer, MembershipRefusal, MembershipRequest,
};
pub use moving::name_of;
pub use voters::voter_count;

use joining::{Joining, Looking};
use leading::Lead;
use moving::Moving;
use ordering::Orders;
use pace::{Lived, LivedClock};
use seated::Seated;
use shown::LastShown;
use watch::FailureDetector;

use crate::{
    group::{
        Member,
        log_state::LogState,
        table::{GroupTable, TableCommand},
        view::{Liveness, RoleState},
    },
    machine::{Core, Now, Ticket},
    model::{node_id::NodeId, time::MonotonicUs},
};

/// How a member looks from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberLiveness {
    /// How it looks.
    pub liveness: Liveness,
    /// When this node last heard of it; `None` = not since it started.
    pub last_heard: Option<MonotonicUs>,
}

/// How many groups whose end this node saw it remembers, to tell members that missed it.
const ENDED_MAX: usize = 8;
/// How many groups that had no place are passed over for a while.
const AVOID_MAX: usize = 64;

/// One node's membership.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    this: Member,
    /// Whether the node has described itself and the table does not say so yet.
    is_news: bool,
    permanent: bool,
    durable: Durable,
    pace: LivedClock,
    last_ticket: Ticket,
    pending: BTreeMap<Ticket, Purpose>,
    stage: MembershipStage,
    log: LogState,
    /// Whether a log may be there, which is deleted before the node goes elsewhere.
    has_log: bool,
    watch: FailureDetector,
    /// What a super-peer keeps in mind; `None` on others.
    lead: Option<Lead>,
    avoid: BTreeMap<String, Lived>,
    ended: VecDeque<(String, Option<String>)>,
    /// The order to leave that this node carries out.
    order: Option<RequestId>,
    orders: Orders,
    shown: LastShown,
    out: Vec<MembershipEffect>,
    /// Whether the stage has changed, so that the next one starts within the same step.
    again: bool,
}

/// The state of the node, with the data of that state.
#[derive(Debug)]
enum MembershipStage {
    /// Not started, or stopped.
    Asleep,
    /// Without a group after an ordered leave, until it is asked into one.
    Resting,
    /// Looks for a group.
    Looking(Looking),
    /// Frees itself from its last group, durably and step by step, on the way to a goal.
    Moving(Moving),
    /// Asks a group for a place.
    Joining(Joining),
    /// Is a member.
    Seated(Box<Seated>),
}

/// What a ticket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To find a group to join.
    Search,
    /// To find where the members are now.
    Locate,
    /// To find a group to unite with.
    SearchToUnite,
    /// To make a step of a move durable, or to found or delete a log.
    Move,
    /// To follow the log of the group that has taken this node in.
    Follow,
    /// To ask for a place.
    Join,
    /// To report.
    Health { to: NodeId },
    /// To ask a member whether it still holds its claim, for a super-peer that cannot reach it.
    Vouch { node: NodeId, claim: u64 },
    /// To tell the super-peer something that it will show in the table; asked again until it does.
    Tell,
    /// To ask for removal.
    Leave,
    /// To ask a newcomer back.
    Confirm { node: NodeId },
    /// To ask a silent member whether it still holds its claim.
    Probe { node: NodeId, claim: u64 },
    /// To ask another group for room.
    Room,
    /// To have another member lead.
    HandOver,
    /// To tell a member that the group is no more.
    Gone { node: NodeId },
    /// To have the super-peer carry out a client's order.
    PassOn { request: RequestId },
    /// To ask another node in, for a client's order.
    Invite { request: RequestId },
    /// To have a member go, for a client's order.
    Dismiss { request: RequestId, node: NodeId, claim: u64 },
    /// To find the group that a member is to move to, for a client's order.
    FindGroup { request: RequestId, node: NodeId, to: NodeId },
    /// To ask that group for a place.
    Place { request: RequestId, node: NodeId, to: NodeId },
    /// To have the member move there.
    Summon { request: RequestId, node: NodeId, claim: u64 },
    /// To write the one change at a time.
    Change,
    /// To write something small.
    Note,
    /// To write a client's entry.
    Write { request: RequestId },
    /// To set voters and learners.
    Arrange,
}

impl Purpose {
    /// Tells whether a client waits for it. Such a request goes on even if this node's state changes.
    fn is_of_order(&self) -> bool {
        match self {
            Self::PassOn { .. }
            | Self::Invite { .. }
            | Self::Dismiss { .. }
            | Self::FindGroup { .. }
            | Self::Place { .. }
            | Self::Summon { .. }
            | Self::Write { .. } => true,
            Self::Search
            | Self::Locate
            | Self::SearchToUnite
            | Self::Move
            | Self::Follow
            | Self::Join
            | Self::Health { .. }
            | Self::Vouch { .. }
            | Self::Tell
            | Self::Leave
            | Self::Confirm { .. }
            | Self::Probe { .. }
            | Self::Room
            | Self::HandOver
            | Self::Gone { .. }
            | Self::Change
            | Self::Note
            | Self::Arrange => false,
        }
    }
}

impl Core for Membership {
    type Event = MembershipEvent;
    type Effect = MembershipEffect;
    type Shelf<'a> = ();

    /// The clock may stand still or leap: a leap counts as two seconds. Every effect with a ticket is answered by exactly
    /// one event, within a time that the shell limits.
    fn step(&mut self, now: Now, event: MembershipEvent, (): &()) -> Vec<MembershipEffect> {
        self.pace.advance(now.monotonic);
        self.take(event);
        // A stage leads to the next one at most a few times; a circle ends here and goes on with the next event.
        for _ in 0..8 {
            self.again = false;
            self.follow_lead();
            self.run();
            if !self.again {
                break;
            }
        }
        self.show();
        std::mem::take(&mut self.out)
    }

    fn next_due(&self) -> Option<MonotonicUs> {
        let is_quiet = matches!(self.stage, MembershipStage::Asleep | MembershipStage::Resting);
        (!is_quiet).then(|| self.pace.wake())
    }
}

impl Membership {
    /// Makes the membership of a node. Nothing happens before [`MembershipEvent::Started`].
    ///
    /// `seed` is the only source of its jitter.
    pub fn new(
        config: MembershipConfig,
        this: Member,
        permanent: bool,
        durable: Durable,
        seed: u64,
    ) -> Self {
        Self {
            config,
            this,
            is_news: true,
            permanent,
            durable,
            pace: LivedClock::new(seed),
            last_ticket: Ticket::default(),
            pending: BTreeMap::new(),
            stage: MembershipStage::Asleep,
            log: LogState::default(),
            has_log: true,
            watch: FailureDetector::default(),
            lead: None,
            avoid: BTreeMap::new(),
            ended: VecDeque::new(),
            order: None,
            orders: Orders::default(),
            shown: LastShown::default(),
            out: Vec::new(),
            again: false,
        }
    }

    fn take(&mut self, event: MembershipEvent) {
        match event {
            MembershipEvent::Started { log } => self.on_started(log),
            MembershipEvent::Tick => {}
            MembershipEvent::LogChanged(log) => self.on_log(log),
            MembershipEvent::Found { ticket, found } => self.on_found(ticket, found),
            MembershipEvent::LinkUp(node) => self.on_link(node, true),
            MembershipEvent::LinkDown(node) => self.on_link(node, false),
            MembershipEvent::Asked { from, request, question } => {
                self.on_asked(from, request, question)
            }
            MembershipEvent::Answered { ticket, by, answer } => {
                self.on_answered(ticket, by, answer)
            }
            MembershipEvent::Persisted(ticket) => self.on_moved(ticket, true),
            MembershipEvent::LogReady { ticket, done } => self.on_log_ready(ticket, done),
            MembershipEvent::Proposed { ticket, outcome } => self.on_proposed(ticket, outcome),
            MembershipEvent::Arranged { ticket, done } => self.on_arranged(ticket, done),
            MembershipEvent::Rescanned { epoch } => self.on_rescanned(epoch),
            MembershipEvent::Ordered { request, order } => self.on_ordered(request, order),
            MembershipEvent::Described(member) => {
                self.this = member;
                self.is_news = true;
            }
            MembershipEvent::LeftBehind if self.is_seated() => self.on_removed(),
            MembershipEvent::LeftBehind => {}
            MembershipEvent::Stopping => self.enter(MembershipStage::Asleep),
        }
    }

    fn run(&mut self) {
        match self.stage {
            MembershipStage::Asleep | MembershipStage::Resting => {}
            MembershipStage::Looking(_) => self.run_looking(),
            MembershipStage::Moving(_) => self.run_moving(),
            MembershipStage::Joining(_) => self.run_joining(),
            MembershipStage::Seated(_) => self.run_seated(),
        }
    }

    fn on_answered(&mut self, ticket: Ticket, by: Option<NodeId>, answer: Answered) {
        let Some(purpose) = self.pending.remove(&ticket) else { return };
        match purpose {
            Purpose::Join => self.on_join_answer(answer),
            Purpose::Health { to } => self.on_health_answer(to, answer),
            Purpose::Vouch { node, claim } => self.on_vouched(node, claim, answer),
            Purpose::Leave => self.on_leave_answer(answer),
            Purpose::Confirm { node } => self.on_confirmed(node, by, answer),
            Purpose::Probe { node, claim } => self.on_probed(node, claim, answer),
            Purpose::Room => self.on_room_answer(answer),
            Purpose::Gone { node } => self.on_gone_answer(node, answer),
            Purpose::PassOn { request } => self.on_passed_on(request, answer),
            Purpose::Invite { request } => self.on_invite_answer(request, by, answer),
            Purpose::Dismiss { request, node, claim } => {
                self.on_dismissed((node, claim), request, answer);
            }
            Purpose::Place { request, node, to } => {
                self.on_place_answer(node, to, request, by, answer);
            }
            Purpose::Summon { request, node, claim } => {
                self.on_summoned((node, claim), request, answer);
            }
            // Asked again until the table shows it.
            _ => {}
        }
    }

    fn on_found(&mut self, ticket: Ticket, found: crate::group::offer::FoundGroups) {
        match self.pending.remove(&ticket) {
            Some(Purpose::Search) => self.on_groups_found(found),
            Some(Purpose::Locate) => self.on_located(found),
            Some(Purpose::SearchToUnite) => self.on_rivals_found(found),
            Some(Purpose::FindGroup { request, node, to }) => {
                self.on_group_found(node, to, request, found);
            }
            _ => {}
        }
    }

    fn on_log_ready(&mut self, ticket: Ticket, done: bool) {
        match self.pending.get(&ticket) {
            Some(Purpose::Move) => self.on_moved(ticket, done),
            Some(Purpose::Follow) => {
                self.pending.remove(&ticket);
                self.on_followed(done);
            }
            _ => {}
        }
    }

    fn on_link(&mut self, node: NodeId, is_up: bool) {
        if is_up {
            self.watch.link_up(node);
        } else {
            self.watch.link_down(node);
            self.hear(node);
        }
        self.on_link_of_member(node, is_up);
    }

    /// Records that a member is alive, if it used its current claim. A node that has moved to another group does not count, even if
    /// it sends messages. Nothing is kept about other nodes.
    fn hear(&mut self, node: NodeId) {
        if self.table().is_some_and(|table| table.seats.contains_key(&node)) {
            self.watch.hear(node, self.pace.now(), self.pace.clock());
        }
    }

    /// Returns the table of the group that the present claim is bound to.
    fn table(&self) -> Option<&Arc<GroupTable>> {
        let home = self.durable.home.as_ref()?;
        self.log.table.as_ref().filter(|table| table.name == *home)
    }

    fn node(&self) -> NodeId {
        self.this.node
    }

    fn ticket(&mut self, purpose: Purpose) -> Ticket {
        let ticket = self.last_ticket.draw();
        self.pending.insert(ticket, purpose);
        ticket
    }

    fn is_pending(&self, purpose: impl Fn(&Purpose) -> bool) -> bool {
        self.pending.values().any(purpose)
    }

    /// Looks for groups around this node.
    fn find(&mut self, purpose: Purpose, window_us: u64, enough: SearchGoal) {
        let (ticket, near) = (self.ticket(purpose), self.this.position);
        self.out.push(MembershipEffect::Find { ticket, near, window_us, enough });
    }

    /// Writes an entry into the group's log.
    fn propose(&mut self, purpose: Purpose, command: TableCommand) -> Ticket {
        let ticket = self.ticket(purpose);
        self.out.push(MembershipEffect::Propose { ticket, command });
        ticket
    }

    fn ask(&mut self, node: NodeId, purpose: Purpose, question: MembershipRequest) {
        let ticket = self.ticket(purpose);
        self.out.push(MembershipEffect::AskNode { ticket, node, question });
    }

    fn ask_address(&mut self, address: String, purpose: Purpose, question: MembershipRequest) {
        let ticket = self.ticket(purpose);
        self.out.push(MembershipEffect::AskAddress { ticket, address, question });
    }

    fn reply(&mut self, request: RequestId, answer: MembershipAnswer) {
        self.out.push(MembershipEffect::Reply { request, answer });
    }

    fn report(&mut self, report: MembershipReport) {
        self.out.push(MembershipEffect::Report(report));
    }

    /// Enters another stage. What was asked for in the last one is of no interest any more; orders keep their tickets.
    fn enter(&mut self, stage: MembershipStage) {
        self.pending.retain(|_, purpose| purpose.is_of_order());
        self.stage = stage;
        self.again = true;
    }

    /// Returns the state of the node.
    pub fn state(&self) -> RoleState {
        match &self.stage {
            MembershipStage::Asleep | MembershipStage::Resting => RoleState::Leaving,
            MembershipStage::Looking(_) => RoleState::Discovering,
            MembershipStage::Moving(moving) => moving.state(),
            MembershipStage::Joining(_) => RoleState::Joining,
            MembershipStage::Seated(_) if self.is_leaving() => RoleState::Leaving,
            MembershipStage::Seated(_)
                if self.table().is_some_and(|table| table.dissolved.is_some()) =>
            {
                RoleState::Dissolved
            }
            MembershipStage::Seated(_) if !self.is_backed() => RoleState::Electing,
            MembershipStage::Seated(_) if !self.leads() => RoleState::Peer,
            MembershipStage::Seated(_) if self.permanent => RoleState::PermanentSuperPeer,
            MembershipStage::Seated(_) => RoleState::ProvisionalSuperPeer,
        }
    }

    /// Returns the node itself as it describes itself.
    pub fn this(&self) -> &Member {
        &self.this
    }

    /// Returns the claim and what it is bound to, as last made durable.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Returns how the other members look from here.
    pub fn sightings(&self) -> BTreeMap<NodeId, MemberLiveness> {
        let this = self.node();
        let others = self.table().into_iter().flat_map(|table| table.seats.keys().copied());
        let others = others.filter(|node| *node != this);
        let dead_after_us = 2 * self.config.health_check_us;
        self.watch.sightings(others, self.pace.now(), dead_after_us, self.pace.clock())
    }

    /// Tells whether a majority of the group's voters was heard of within the time that an election may take.
    pub fn has_majority(&self) -> bool {
        matches!(&self.stage, MembershipStage::Seated(seated) if !seated.has_lost_majority)
    }

    /// Tells whether a majority of the group's voters stands behind it now.
    fn is_backed(&self) -> bool {
        matches!(&self.stage, MembershipStage::Seated(seated) if seated.has_majority)
    }

    /// Tells whether it has a seat in its group.
    fn is_seated(&self) -> bool {
        matches!(self.stage, MembershipStage::Seated(_))
    }

    /// Tells whether it has a seat and is about to give it up.
    fn is_leaving(&self) -> bool {
        matches!(&self.stage, MembershipStage::Seated(seated) if seated.is_leaving())
    }

    /// Tells whether the log says that it leads its group.
    fn leads(&self) -> bool {
        self.is_seated() && self.log.leader == Some(self.node())
    }
}
