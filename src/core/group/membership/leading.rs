//! What a super-peer does in addition to a member: its name in the table, the voters, the removal of dead members, and the
//! hand-over to a dedicated super-peer.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Answered, Lived, Membership, MembershipAnswer, MembershipEffect, MembershipRequest,
    ProposeFailure, Purpose,
    admitting::{PendingJoin, Removal, Why},
    leaving::{GroupEnding, HandOver},
    uniting::GroupUnion,
    voters::Electorate,
};
use crate::{
    group::{
        Member,
        offer::Offer,
        table::{Applied, GroupTable, TableCommand},
    },
    machine::Ticket,
    model::node_id::NodeId,
};

/// How soon a failed write or arrangement is tried again.
const RETRY_US: u64 = 1_000_000;

/// What a super-peer keeps in mind while it leads in one term.
#[derive(Debug)]
pub(super) struct Lead {
    pub since: Lived,
    term: u64,
    /// The one change at a time: of members, of the super-peer, or the end.
    pub change: Option<Ticket>,
    pub change_at: Lived,
    /// Who is named by the change under way.
    pub adding: BTreeSet<NodeId>,
    pub waiting: BTreeMap<NodeId, PendingJoin>,
    /// Who is to be taken out.
    pub removals: BTreeMap<NodeId, Removal>,
    noted: BTreeSet<(NodeId, u64)>,
    noted_at: Lived,
    probe_at: BTreeMap<NodeId, Lived>,
    /// Since when each member is known to this super-peer, under its claim.
    known: BTreeMap<(NodeId, u64), Lived>,
    /// The members that have said that their claim is void.
    pub void: BTreeSet<(NodeId, u64)>,
    arranging: bool,
    arrange_at: Lived,
    /// Who is to lead next: votes from now on, then gets the lead.
    pub heir: Option<NodeId>,
    /// Whether a client ordered that another member leads.
    pub heir_ordered: bool,
    pub hand_over: Option<HandOver>,
    pub hand_over_at: Lived,
    pub uniting: GroupUnion,
    /// Where the members are sent when the group ends.
    pub into: Option<Offer>,
    pub ending: GroupEnding,
}

impl Lead {
    fn new(now: Lived, term: u64, uniting: GroupUnion) -> Self {
        Self {
            since: now,
            term,
            change: None,
            change_at: now,
            adding: BTreeSet::new(),
            waiting: BTreeMap::new(),
            removals: BTreeMap::new(),
            noted: BTreeSet::new(),
            noted_at: now,
            probe_at: BTreeMap::new(),
            known: BTreeMap::new(),
            void: BTreeSet::new(),
            arranging: false,
            arrange_at: now,
            heir: None,
            heir_ordered: false,
            hand_over: None,
            hand_over_at: now,
            uniting,
            into: None,
            ending: GroupEnding::default(),
        }
    }

    /// Tells whether a change is being written.
    pub(super) fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    /// Tells whether the group is about to go elsewhere as a whole.
    pub(super) fn is_ending(&self) -> bool {
        self.uniting.is_asking() || self.into.is_some()
    }
}

impl Membership {
    /// Takes up or lays down the lead, as the log says.
    pub(super) fn follow_lead(&mut self) {
        let term = self.log.term;
        if self.lead.as_ref().is_some_and(|lead| !self.leads() || lead.term != term) {
            self.drop_lead();
        }
        if self.leads() && self.lead.is_none() {
            let uniting = GroupUnion::new(&mut self.pace, self.config.provisional_poll_us);
            self.lead = Some(Lead::new(self.pace.now(), term, uniting));
        }
    }

    /// Gives up the lead: requests that wait for it are sent to the next super-peer.
    pub(super) fn drop_lead(&mut self) {
        let Some(lead) = self.lead.take() else { return };
        self.watch.forget_reports();
        let this = self.node();
        let leader = self.log.leader.filter(|leader| *leader != this);
        let leader = leader.and_then(|leader| Some((leader, self.address_of(leader)?)));
        for waiting in lead.waiting.into_values() {
            let answer = MembershipAnswer::NotLeader { leader: leader.clone() };
            self.reply(waiting.request, answer);
        }
        self.drop_orders();
        for request in lead.removals.into_values().flat_map(|removal| removal.orders) {
            self.done(request, Err(super::Denied::Unknown));
        }
        if lead.hand_over.is_some() {
            self.out.push(MembershipEffect::PauseHeartbeats(None));
        }
        if lead.uniting.is_asking() {
            self.pending.retain(|_, purpose| *purpose != Purpose::Room);
        }
        self.pending.retain(|_, purpose| {
            use Purpose::{Arrange, Change, Confirm, Gone, HandOver, Note, Probe, SearchToUnite};
            !matches!(
                purpose,
                Arrange
                    | Change
                    | Confirm { .. }
                    | Gone { .. }
                    | HandOver
                    | Note
                    | Probe { .. }
                    | SearchToUnite
            )
        });
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        node == self.node()
            || self.watch.is_alive(node, self.pace.now(), self.config.suspect_after_us)
    }

    pub(super) fn run_lead(&mut self) {
        let Some(table) = self.table().cloned() else { return };
        self.know_members(&table);
        self.run_hand_over();
        self.find_dead(&table);
        self.probe_silent(&table);
        self.refuse_late_orders(&table);
        self.run_change(&table);
        self.run_orders(&table);
        self.run_heir(&table);
        self.run_arrangement(&table);
        self.run_uniting(&table);
    }

    fn know_members(&mut self, table: &GroupTable) {
        let now = self.pace.now();
        let is_held = |(node, claim): &(NodeId, u64)| {
            table.seats.get(node).is_some_and(|seat| seat.claim == *claim)
        };
        let Some(lead) = &mut self.lead else { return };
        lead.known.retain(|key, _| is_held(key));
        lead.void.retain(is_held);
        for (node, seat) in &table.seats {
            lead.known.entry((*node, seat.claim)).or_insert(now);
        }
    }

    /// Writes an entry without waiting for a result: the caller asks again until the table shows it.
    fn note(&mut self, about: (NodeId, u64), command: TableCommand) {
        let Some(lead) = &mut self.lead else { return };
        if self.pace.is_due(lead.noted_at) {
            // Entries that were lost are written again.
            lead.noted.clear();
            lead.noted_at = self.pace.now().plus(2 * RETRY_US);
        }
        if lead.noted.insert(about) {
            self.propose(Purpose::Note, command);
        }
    }

    /// A member has finished its rescan.
    pub(super) fn note_rescanned(&mut self, node: NodeId, epoch: u64) {
        let Some(table) = self.table().cloned() else { return };
        let is_present = table.epoch() == epoch && table.configuration().is_joint();
        let mut nodes = BTreeSet::from([node]);
        if self.config.faults().acknowledge_for_others {
            nodes = table.configuration().everybody();
        }
        for node in nodes {
            if is_present && !table.acknowledged.contains(&node) {
                self.note((node, epoch), TableCommand::Acknowledge { node, epoch });
            }
        }
    }

    /// A member changes its description.
    pub(super) fn note_described(&mut self, member: Member, claim: u64) {
        // Epoch 0 is never joint, so that the two kinds of notes do not meet.
        self.note((member.node, 0), TableCommand::Describe { member, claim });
    }

    /// Takes out members that nobody has reached for `group.removeAfter`.
    fn find_dead(&mut self, table: &GroupTable) {
        let (now, this) = (self.pace.now(), self.node());
        for (node, seat) in &table.seats {
            let known = self.lead.as_ref().and_then(|lead| lead.known.get(&(*node, seat.claim)));
            let since = known.copied().unwrap_or(now);
            let reached = if self.config.faults().remove_on_own_word {
                self.watch.heard_at(*node, now)
            } else {
                self.watch.reached_at(*node, now)
            };
            let silent_us = now.since(reached.unwrap_or(since).max(since));
            if *node == this {
                continue;
            } else if silent_us >= self.config.remove_after_us {
                self.remove(*node, seat.claim, Why::Silent);
            } else {
                self.keep(*node);
            }
        }
    }

    /// Asks members that do not report whether they still hold their claim.
    fn probe_silent(&mut self, table: &GroupTable) {
        let this = self.node();
        let every_us = self.config.health_check_us;
        for (node, seat) in table.seats.iter().filter(|(node, _)| **node != this) {
            let first_at = self.pace.now().plus(every_us / 4);
            let Some(lead) = &mut self.lead else { return };
            let at = *lead.probe_at.entry(*node).or_insert(first_at);
            if !self.pace.is_due(at) {
                continue;
            }
            self.expect_report(*node);
            let (group, claim) = (table.name.clone(), seat.claim);
            let question = MembershipRequest::Confirm { group, claim };
            self.ask(*node, Purpose::Probe { node: *node, claim }, question);
        }
        if let Some(lead) = &mut self.lead {
            lead.probe_at.retain(|node, _| table.seats.contains_key(node));
        }
    }

    /// A member has reported; it is asked only when its next report does not come.
    pub(super) fn expect_report(&mut self, node: NodeId) {
        let next_at = self.pace.about(self.config.health_check_us * 5 / 4);
        if let Some(lead) = &mut self.lead {
            lead.probe_at.insert(node, next_at);
        }
    }

    /// Asks a member at the next opportunity.
    pub(super) fn probe_now(&mut self, node: NodeId) {
        let now = self.pace.now();
        if let Some(lead) = &mut self.lead {
            lead.probe_at.insert(node, now);
        }
    }

    pub(super) fn on_probed(&mut self, node: NodeId, claim: u64, answer: Answered) {
        if answer == Ok(MembershipAnswer::Void) {
            if let Some(lead) = &mut self.lead {
                lead.void.insert((node, claim));
            }
            self.remove(node, claim, Why::Void);
        } else if answer == Ok(MembershipAnswer::Bound) {
            self.hear(node);
        }
    }

    fn run_arrangement(&mut self, table: &GroupTable) {
        let Some((arranging, at)) = self.lead.as_ref().map(|l| (l.arranging, l.arrange_at)) else {
            return;
        };
        if arranging || !self.pace.is_due(at) {
            return;
        }
        let electorate = Electorate {
            table,
            leader: self.node(),
            voters: &self.log.voters,
            caught_up: &self.log.caught_up,
            most: self.config.voters,
            heir: self.lead.as_ref().and_then(|lead| lead.heir),
            odd: !self.config.faults().even_voters,
        };
        let (voters, learners) = electorate.arrange(|node| self.is_alive(node));
        if (&voters, &learners) == (&self.log.voters, &self.log.learners) {
            return;
        }
        if let Some(lead) = &mut self.lead {
            lead.arranging = true;
        }
        let ticket = self.ticket(Purpose::Arrange);
        self.out.push(MembershipEffect::Arrange { ticket, voters, learners });
    }

    pub(super) fn on_arranged(&mut self, ticket: Ticket, done: bool) {
        if self.pending.remove(&ticket) != Some(Purpose::Arrange) {
            return;
        }
        let again_at = self.pace.about(if done { RETRY_US / 10 } else { RETRY_US });
        if let Some(lead) = &mut self.lead {
            lead.arranging = false;
            lead.arrange_at = again_at;
        }
    }

    pub(super) fn propose_change(&mut self, command: TableCommand) {
        let ticket = self.propose(Purpose::Change, command);
        if let Some(lead) = &mut self.lead {
            lead.change = Some(ticket);
        }
    }

    pub(super) fn on_proposed(&mut self, ticket: Ticket, outcome: Result<Applied, ProposeFailure>) {
        match self.pending.remove(&ticket) {
            Some(Purpose::Change) => self.on_changed(outcome),
            Some(Purpose::Write { request }) => self.on_written(request, outcome),
            _ => {}
        }
    }
}
