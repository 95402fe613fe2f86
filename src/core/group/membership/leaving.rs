//! How a node leaves a group: by an order, or because the group ends. Also the hand-over that a super-peer does before it leaves.

use std::collections::BTreeSet;

use super::{
    Answered, Denied, Lived, Membership, MembershipAnswer, MembershipEffect, MembershipRequest,
    MembershipStage, Purpose, joining::JoinTarget, moving::Goal,
};
use crate::{
    group::{
        offer::Offer,
        table::{GroupTable, TableCommand},
    },
    model::node_id::NodeId,
};

/// How soon a leave is asked for again.
const RETRY_US: u64 = 500_000;

/// An ordered leave.
#[derive(Debug)]
pub(super) struct OrderedLeave {
    goal: Goal,
    /// When the node goes without the group's consent. Its claim is void then, and nodes that ask about it are told so.
    until: Lived,
    ask_at: Lived,
}

/// A hand-over under way, on the super-peer.
#[derive(Debug)]
pub(super) struct HandOver {
    until: Lived,
}

/// The end of a group, on its super-peer: it stays until all members know.
#[derive(Debug, Default)]
pub(super) struct GroupEnding {
    told: BTreeSet<NodeId>,
    until: Option<Lived>,
    again_at: Lived,
}

impl Membership {
    /// Starts an ordered leave.
    pub(super) fn leave(&mut self, goal: Goal) {
        let now = self.pace.now();
        let until = now.plus(3 * self.config.election_timeout_us);
        match &mut self.stage {
            MembershipStage::Seated(seated) => {
                seated.leaving = Some(OrderedLeave { goal, until, ask_at: now });
            }
            _ => self.go(goal),
        }
    }

    /// Returns where this node was going anyway.
    pub(super) fn goal_of_leaving(&mut self) -> Option<Goal> {
        self.seated()?.leaving.take().map(|leaving| leaving.goal)
    }

    /// Tells whether the change under way, with which this node may go, still wants its copies. To go now would be to lose them:
    /// the others would not wait for them any more (rule 14).
    fn is_needed_to_leave(&self) -> bool {
        let this = self.node();
        self.has_majority() && self.table().is_some_and(|table| table.unfinished().contains(&this))
    }

    pub(super) fn run_leaving(&mut self) {
        let Some((until, ask_at)) =
            self.seated().and_then(|s| s.leaving.as_ref().map(|l| (l.until, l.ask_at)))
        else {
            return;
        };
        if self.stays_for_now() {
            return;
        }
        if self.pace.is_due(until) && !self.is_needed_to_leave() {
            if let Some(goal) = self.goal_of_leaving() {
                self.go(goal);
            }
            return;
        }
        if self.leads() {
            self.leave_the_lead();
            return;
        }
        let is_asking = self.is_pending(|purpose| *purpose == Purpose::Leave);
        if is_asking || !self.pace.is_due(ask_at) {
            return;
        }
        let ask_at = self.pace.about(RETRY_US);
        if let Some(leaving) = self.seated().and_then(|seated| seated.leaving.as_mut()) {
            leaving.ask_at = ask_at;
        }
        if let (Some((group, claim)), Some(leader)) = (self.home_and_claim(), self.log.leader) {
            self.ask(leader, Purpose::Leave, MembershipRequest::Leave { group, claim });
        }
    }

    /// Decides whether another member is to lead next, and which. Reasons: this node leaves; a client ordered it; it is provisional
    /// and a dedicated super-peer is a member; or a change that is not finished removes this node. In the last case it won an election
    /// although it is being removed, so it cannot write itself into the table as the super-peer.
    pub(super) fn run_heir(&mut self, table: &GroupTable) {
        let is_leaving = self.is_leaving();
        let successor = self.successor(table);
        let is_dedicated = |node: &NodeId| table.seats.get(node).is_some_and(|s| s.permanent);
        let (this, permanent) = (self.node(), self.permanent);
        let Some(lead) = &mut self.lead else { return };
        lead.heir = successor.filter(|node| {
            is_leaving
                || lead.heir_ordered
                || !table.configuration().members.contains(&this)
                || (!permanent && is_dedicated(node) && !table.configuration().is_joint())
        });
        if let Some(heir) = lead.heir.filter(|heir| self.log.voters.contains(heir)) {
            self.hand_over(heir);
        }
    }

    /// A super-peer that leaves and is alone ends its group. With others, it leads on until one of them does. If none of them can,
    /// it goes when the time limit ends, and for the others that is as if it had died.
    fn leave_the_lead(&mut self) {
        if self.table().is_some_and(|table| table.seats.len() == 1) {
            self.dissolve(None);
        }
    }

    pub(super) fn on_leave_answer(&mut self, answer: Answered) {
        let is_out = matches!(
            answer,
            Ok(MembershipAnswer::NoMember { .. } | MembershipAnswer::Dissolved { .. })
        );
        if let Some(goal) = is_out.then(|| self.goal_of_leaving()).flatten() {
            self.go(goal);
        }
    }

    /// Returns the best member to lead next: one that has all entries and lives; a permanent one before others, then one
    /// that votes already.
    fn successor(&self, table: &GroupTable) -> Option<NodeId> {
        let this = self.node();
        let fits = |node: &&NodeId| {
            **node != this && self.log.caught_up.contains(*node) && self.is_alive(**node)
        };
        let fit = table.configuration().members.iter().filter(fits);
        let rank = |node: &&NodeId| {
            let permanent = table.seats.get(*node).is_some_and(|seat| seat.permanent);
            (!permanent, !self.log.voters.contains(*node), **node)
        };
        fit.min_by_key(rank).copied()
    }

    /// Makes another member lead: this node stops its heartbeats, the other one campaigns.
    pub(super) fn hand_over(&mut self, to: NodeId) {
        let (now, term) = (self.pace.now(), self.log.term);
        let until = now.plus(self.config.election_timeout_us / 2);
        let next_at = self.pace.about(self.config.election_timeout_us);
        let Some(group) = self.durable.home.clone() else { return };
        let Some(lead) = &mut self.lead else { return };
        if lead.hand_over.is_some() || now < lead.hand_over_at || lead.is_changing() {
            return;
        }
        lead.hand_over = Some(HandOver { until });
        lead.hand_over_at = next_at;
        self.out.push(MembershipEffect::PauseHeartbeats(Some(to)));
        self.ask(to, Purpose::HandOver, MembershipRequest::HandOver { group, term });
    }

    /// A hand-over that did not happen is given up.
    pub(super) fn run_hand_over(&mut self) {
        let Some(until) = self.lead.as_ref().and_then(|l| l.hand_over.as_ref()).map(|h| h.until)
        else {
            return;
        };
        if self.pace.is_due(until) {
            if let Some(lead) = &mut self.lead {
                lead.hand_over = None;
                lead.heir_ordered = false;
            }
            self.out.push(MembershipEffect::PauseHeartbeats(None));
        }
    }

    /// A super-peer asks this node to lead.
    pub(super) fn on_handed_over(&mut self, from: NodeId, group: &str, term: u64) -> bool {
        let this = self.node();
        let is_meant = self.durable.home.as_deref() == Some(group)
            && self.log.leader == Some(from)
            && self.log.term == term
            && self.log.voters.contains(&this)
            && self.is_seated();
        if is_meant {
            self.campaign_after_lease();
        }
        is_meant
    }

    /// Writes the end of the group.
    pub(super) fn dissolve(&mut self, into: Option<String>) {
        let at = self.lead.as_ref().filter(|lead| !lead.is_changing()).map(|lead| lead.change_at);
        if at.is_some_and(|at| self.pace.is_due(at)) {
            self.propose_change(TableCommand::Dissolve { into });
        }
    }

    /// The log says that the group is no more.
    pub(super) fn run_dissolved(&mut self, table: &GroupTable) {
        let into = table.dissolved.as_ref().and_then(|end| end.into.clone());
        self.remember_end(table.name.clone(), into.clone());
        let offer = self.lead.as_ref().and_then(|lead| lead.into.clone());
        let offer = offer.filter(|offer| Some(&offer.group) == into.as_ref());
        if self.leads() && !self.all_know_the_end(table, offer.as_ref()) {
            return;
        }
        let goal = self.goal_of_leaving();
        self.go(goal.unwrap_or_else(|| match offer {
            Some(offer) => Goal::Join(JoinTarget::of(&offer)),
            None => Goal::Look(into),
        }));
    }

    fn all_know_the_end(&mut self, table: &GroupTable, into: Option<&Offer>) -> bool {
        let this = self.node();
        let patience = self.pace.now().plus(self.config.election_timeout_us);
        let Some(lead) = &mut self.lead else { return true };
        let until = *lead.ending.until.get_or_insert(patience);
        let again_at = lead.ending.again_at;
        let others = table.seats.keys().filter(|node| **node != this);
        let missing: Vec<_> =
            others.filter(|node| !lead.ending.told.contains(node)).copied().collect();
        if missing.is_empty() || self.pace.is_due(until) {
            return true;
        }
        if self.pace.is_due(again_at) {
            let again_at = self.pace.about(RETRY_US);
            if let Some(lead) = &mut self.lead {
                lead.ending.again_at = again_at;
            }
            for node in missing {
                let (group, into) = (table.name.clone(), into.cloned());
                let question = MembershipRequest::Gone { group, into };
                self.ask(node, Purpose::Gone { node }, question);
            }
        }
        false
    }

    pub(super) fn on_gone_answer(&mut self, node: NodeId, answer: Answered) {
        if let (Some(lead), Ok(_)) = (&mut self.lead, answer) {
            lead.ending.told.insert(node);
        }
    }

    /// A super-peer says that the group is no more.
    pub(super) fn on_gone(&mut self, from: NodeId, group: &str, into: Option<Offer>) {
        let is_ours = self.durable.home.as_deref() == Some(group);
        let is_member = self.table().is_some_and(|table| table.seats.contains_key(&from));
        if !is_ours || !is_member || !self.is_seated() {
            return;
        }
        self.remember_end(group.to_owned(), into.as_ref().map(|offer| offer.group.clone()));
        let goal = self.goal_of_leaving();
        self.go(goal.unwrap_or_else(|| match into {
            Some(offer) => Goal::Join(JoinTarget::of(&offer)),
            None => Goal::Look(None),
        }));
    }

    /// Lets another member lead, by order.
    pub(super) fn order_hand_over(&mut self) -> Result<(), Denied> {
        let table = self.table().cloned().ok_or(Denied::NoGroup)?;
        if !self.leads() {
            return Err(Denied::NotLeader { leader: self.log.leader });
        }
        self.successor(&table).ok_or(Denied::NoSuccessor)?;
        if let Some(lead) = &mut self.lead {
            lead.hand_over_at = Lived::default();
            lead.heir_ordered = true;
        }
        Ok(())
    }
}
