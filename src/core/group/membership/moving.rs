//! From one group to the next: void the claim durably, delete the log, bind the new claim durably; then ask or found.
//!
//! Each step begins from what is durable. So a node that stops in between goes on after its restart, or has no group.

use super::{
    Durable, Lived, Membership, MembershipAnswer, MembershipEffect, MembershipStage, Purpose,
    RequestId,
    joining::{JoinTarget, Joining},
};
use crate::{
    group::{
        founded_name,
        log_state::LogState,
        table::{GroupTable, Seat},
        view::RoleState,
    },
    machine::Ticket,
    model::node_id::NodeId,
};

/// Where a node goes.
#[derive(Debug, Clone)]
pub(super) enum Goal {
    /// To look for a group; this one first, if it is to be found.
    Look(Option<String>),
    /// To this group.
    Join(JoinTarget),
    /// To a group of its own.
    Found,
    /// Nowhere, by order.
    Rest,
}

/// A move under way.
#[derive(Debug)]
pub(super) struct Moving {
    goal: Goal,
    /// What has to be done before the next step.
    waiting: Option<(Ticket, Step)>,
    next_at: Lived,
    /// Whether the claim is one that a place was held under, which is not asked for again.
    is_used: bool,
    /// Whether the last group was dissolved.
    dissolved: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Persist(Durable),
    LeaveLog,
    FoundLog,
    /// The log was founded; its table comes with the next state of the log.
    AwaitTable,
}

impl Moving {
    pub(super) fn state(&self) -> RoleState {
        match self.goal {
            Goal::Rest => RoleState::Leaving,
            Goal::Join(_) => RoleState::Joining,
            _ if self.dissolved => RoleState::Dissolved,
            _ => RoleState::Discovering,
        }
    }

    /// Tells whether the claim is bound to the group that is being founded, and the log under way.
    fn founds(&self) -> bool {
        matches!(self.waiting, Some((_, Step::FoundLog | Step::AwaitTable)))
    }
}

/// Names the group that a node founds under a claim, so that no name is ever used again.
pub fn name_of(founder: &NodeId, claim: u64) -> String {
    let name = founded_name(founder);
    if claim > 1 { format!("{name}-{claim}") } else { name }
}

impl Membership {
    pub(super) fn on_started(&mut self, log: LogState) {
        let is_seated = log.table.as_ref().is_some_and(|table| self.is_seat_of_this(table));
        let home = self.durable.home.clone();
        if is_seated {
            self.log = log;
            self.take_seat();
        } else if home.is_some_and(|home| home != name_of(&self.node(), self.durable.claim))
            && log.table.is_none()
        {
            // It had asked for a place and perhaps has it: the claim stays as it is, until another group is better.
            self.look(None);
        } else {
            self.go(Goal::Look(None));
        }
    }

    /// Tells whether a table has this node under its present claim.
    pub(super) fn is_seat_of_this(&self, table: &GroupTable) -> bool {
        let seat = table.seats.get(&self.node());
        self.durable.home.as_deref() == Some(table.name.as_str())
            && seat.is_some_and(|seat| seat.claim == self.durable.claim)
            && table.dissolved.is_none()
    }

    /// Tells whether a group was founded and only its table is missing.
    pub(super) fn lacks_its_table(&self) -> bool {
        matches!(
            &self.stage,
            MembershipStage::Moving(Moving { waiting: Some((_, Step::AwaitTable)), .. })
        )
    }

    /// Leaves the present group or search, and goes on to `goal`.
    pub(super) fn go(&mut self, goal: Goal) {
        let goal = match goal {
            Goal::Join(target) if self.rests_from(&target.group) => Goal::Look(None),
            goal => goal,
        };
        if let MembershipStage::Moving(moving) = &mut self.stage {
            // What is under way is finished first: what was made durable has to be known.
            moving.goal = goal;
            moving.waiting.take_if(|(_, step)| matches!(step, Step::AwaitTable));
            self.again = true;
            return;
        }
        let dissolved = self.table().is_some_and(|table| table.dissolved.is_some());
        self.drop_lead();
        let next_at = self.pace.now();
        let is_used = self.is_seated();
        self.enter(MembershipStage::Moving(Moving {
            goal,
            waiting: None,
            next_at,
            is_used,
            dissolved,
        }));
    }

    /// Returns the seat that this node asks for.
    pub(super) fn seat(&self) -> Seat {
        let Self { this, durable, permanent, .. } = self;
        Seat { member: this.clone(), claim: durable.claim, permanent: *permanent }
    }

    /// Tells whether this node's place in a group is the one that this claim asked for: what a super-peer asks back.
    pub(super) fn holds_claim(&self, group: &str, claim: u64) -> bool {
        let stays = match &self.stage {
            MembershipStage::Moving(moving) => moving.founds(),
            _ => true,
        };
        stays && self.durable.home.as_deref() == Some(group) && self.durable.claim == claim
    }

    pub(super) fn run_moving(&mut self) {
        let MembershipStage::Moving(moving) = &self.stage else { return };
        if moving.waiting.is_some() {
            return;
        }
        let (goal, next_at, is_used) = (moving.goal.clone(), moving.next_at, moving.is_used);
        if !self.pace.is_due(next_at) {
            return;
        }
        let own = name_of(&self.node(), self.durable.claim);
        match (&self.durable.home, goal) {
            (Some(home), Goal::Join(target)) if *home == target.group && !is_used => {
                let joining = Joining::new(target, self.pace.now());
                self.enter(MembershipStage::Joining(joining));
            }
            (Some(home), Goal::Found) if *home == own && !self.has_log => self.found(own),
            (Some(_), _) => {
                let kept = u64::from(!self.config.faults().claim_is_kept);
                let claim = self.durable.claim.saturating_add(kept);
                self.persist(Durable { claim, home: None });
            }
            (None, _) if self.has_log => {
                let ticket = self.wait_for(Step::LeaveLog);
                self.out.push(MembershipEffect::LeaveLog { ticket });
            }
            (None, Goal::Join(JoinTarget { group, .. })) => self.bind(group),
            (None, Goal::Found) => self.bind(own),
            (None, Goal::Look(prefer)) => self.look(prefer),
            (None, Goal::Rest) => {
                self.enter(MembershipStage::Resting);
                self.finish_order(Ok(()));
            }
        }
    }

    fn bind(&mut self, group: String) {
        self.persist(Durable { claim: self.durable.claim, home: Some(group) });
    }

    fn persist(&mut self, durable: Durable) {
        let ticket = self.wait_for(Step::Persist(durable.clone()));
        self.out.push(MembershipEffect::Persist { ticket, durable });
        if self.config.faults().claim_is_not_durable {
            self.on_moved(ticket, true);
        }
    }

    fn found(&mut self, name: String) {
        let table =
            GroupTable::found(name, self.seat(), self.config.settings, self.config.capacity);
        self.has_log = true;
        let ticket = self.wait_for(Step::FoundLog);
        self.out.push(MembershipEffect::FoundLog { ticket, table: Box::new(table) });
    }

    fn wait_for(&mut self, step: Step) -> Ticket {
        let ticket = self.ticket(Purpose::Move);
        if let MembershipStage::Moving(moving) = &mut self.stage {
            moving.waiting = Some((ticket, step));
        }
        ticket
    }

    /// A step was done, or has failed.
    pub(super) fn on_moved(&mut self, ticket: Ticket, done: bool) {
        self.pending.remove(&ticket);
        let MembershipStage::Moving(moving) = &mut self.stage else { return };
        let Some((_, step)) = moving.waiting.take_if(|(waiting, _)| *waiting == ticket) else {
            return;
        };
        self.again = true;
        match step {
            Step::Persist(durable) => {
                moving.is_used = false;
                self.durable = durable;
            }
            Step::LeaveLog if done => {
                self.has_log = false;
                self.log = LogState::default();
                self.watch = std::mem::take(&mut self.watch).of_links();
            }
            Step::FoundLog if done && matches!(moving.goal, Goal::Found) => {
                if self.log.table.as_ref().is_some_and(|table| self.is_seat_of_this(table)) {
                    self.take_seat();
                } else if let MembershipStage::Moving(moving) = &mut self.stage {
                    moving.waiting = Some((ticket, Step::AwaitTable));
                }
            }
            Step::FoundLog if done => {}
            _ => {
                let next_at = self.pace.about(500_000);
                if let MembershipStage::Moving(moving) = &mut self.stage {
                    moving.next_at = next_at;
                }
            }
        }
    }

    /// Answers the order to leave that this node is carrying out.
    pub(super) fn finish_order(&mut self, result: Result<(), super::Denied>) {
        if let Some(request) = self.order.take() {
            self.done(request, result);
        }
    }

    /// Answers a client's order, here or at the member that passed it on.
    pub(super) fn done(&mut self, request: RequestId, result: Result<(), super::Denied>) {
        if self.is_passed_on(request) {
            self.reply(request, MembershipAnswer::Ordered(result));
        } else {
            self.out.push(MembershipEffect::Done { request, result });
        }
    }
}
