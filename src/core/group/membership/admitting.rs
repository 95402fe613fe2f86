//! Joins and removals. Those that wait at the same time become one change of the table.

use std::collections::BTreeSet;

use super::{
    Answered, Denied, Lived, Membership, MembershipAnswer, MembershipRefusal, MembershipRequest,
    ProposeFailure, Purpose, RequestId, search,
};
use crate::{
    group::table::{Applied, GroupTable, Seat, TableCommand},
    model::node_id::NodeId,
};

/// The most nodes that wait for a place at the same time.
const WAITING_MAX: usize = 256;
/// How soon a node that cannot be taken in yet asks again.
const LATER_MS: u64 = 300;
/// How soon a change that could not be written is tried again.
const RETRY_US: u64 = 500_000;
/// How long a confirmed claim is good for.
const STALE_US: u64 = 2_000_000;
/// How soon after a change was written the table shows it.
const SEEN_US: u64 = 50_000;

/// A node that has asked for a place.
#[derive(Debug)]
pub(super) struct PendingJoin {
    pub seat: Seat,
    /// The last question; earlier ones were answered with `Later`.
    pub request: RequestId,
    /// Whether the node has confirmed its claim.
    confirmed: bool,
    /// When it is taken in at the earliest: others may come with it.
    ready_at: Lived,
}

/// A member that is to be taken out.
#[derive(Debug)]
pub(super) struct Removal {
    claim: u64,
    /// Whether it is removed only because it is silent. If it is heard of again before the removal is written, it stays.
    pub is_guess: bool,
    /// The orders that wait for it.
    pub orders: Vec<RequestId>,
}

/// Why a member is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Nobody has reached it for long.
    Silent,
    /// Its claim is void.
    Void,
    /// It wants to go.
    Leaves,
    /// A client ordered it.
    Ordered(RequestId),
}

impl Membership {
    /// A node asks for a place in the group that this node leads.
    pub(super) fn on_join(&mut self, from: NodeId, request: RequestId, seat: Seat) {
        if let Some(answer) = self.refuse_join(from, &seat) {
            self.reply(request, answer);
            return;
        }
        let ready_at = self.pace.now().plus(self.config.gather_us);
        let confirmed = self.config.faults().no_confirm;
        let Some(lead) = &mut self.lead else { return };
        let (claim, group) = (seat.claim, self.durable.home.clone().unwrap_or_default());
        let address = seat.member.peer.clone();
        let waiting = PendingJoin { seat, request, confirmed, ready_at };
        match lead.waiting.insert(from, waiting) {
            Some(earlier) if earlier.seat.claim == claim => {
                if let Some(waiting) = lead.waiting.get_mut(&from) {
                    waiting.confirmed = earlier.confirmed;
                    waiting.ready_at = earlier.ready_at;
                }
                self.reply(earlier.request, MembershipAnswer::Later { after_ms: LATER_MS });
            }
            Some(earlier) => {
                self.reply(earlier.request, MembershipAnswer::Refused(MembershipRefusal::OldClaim));
                self.ask_back(from, address, group, claim);
            }
            None => self.ask_back(from, address, group, claim),
        }
    }

    fn ask_back(&mut self, node: NodeId, address: String, group: String, claim: u64) {
        self.pending.retain(|_, purpose| *purpose != Purpose::Confirm { node });
        let question = MembershipRequest::Confirm { group, claim };
        self.ask_address(address, Purpose::Confirm { node }, question);
    }

    /// Answers a join that need not wait.
    fn refuse_join(&mut self, from: NodeId, seat: &Seat) -> Option<MembershipAnswer> {
        let table = self.table()?.clone();
        let later = Some(MembershipAnswer::Later { after_ms: LATER_MS });
        if let Some(held) = table.seats.get(&from) {
            if seat.claim < held.claim {
                return Some(MembershipAnswer::Refused(MembershipRefusal::OldClaim));
            }
            let stays = table.configuration().members.contains(&from);
            if seat.claim > held.claim {
                // By its own word the claim under which it sits here is void.
                let lead = self.lead.as_mut()?;
                lead.void.insert((from, held.claim));
                self.remove(from, held.claim, Why::Void);
            }
            return if seat.claim == held.claim && stays {
                Some(MembershipAnswer::Done)
            } else {
                later
            };
        }
        if self.log.voters.contains(&from) || self.log.learners.contains(&from) {
            // Its last claim's part in the log has to end first.
            return later;
        }
        if table.seats.keys().any(|other| other.tag() == from.tag()) {
            return Some(MembershipAnswer::Refused(MembershipRefusal::SameTag));
        }
        if self.is_full_for(&table, Some(from)) {
            return Some(self.full());
        }
        let lead = self.lead.as_ref()?;
        let is_ending = lead.is_ending();
        let is_crowded = lead.waiting.len() >= WAITING_MAX && !lead.waiting.contains_key(&from);
        (is_ending || is_crowded).then_some(MembershipAnswer::Later { after_ms: 4 * LATER_MS })
    }

    pub(super) fn full(&self) -> MembershipAnswer {
        // The groups that the last search found; a node that is not given one looks itself.
        let offers = self.lead.as_ref().map_or(&[][..], |lead| lead.uniting.rivals());
        let home = self.durable.home.as_deref();
        let near = self.this.position;
        let next = search::choose(offers, near, false, |offer| Some(offer.group.as_str()) != home);
        MembershipAnswer::Full { next: next.cloned() }
    }

    pub(super) fn on_confirmed(&mut self, node: NodeId, by: Option<NodeId>, answer: Answered) {
        let Some(lead) = &mut self.lead else { return };
        let is_bound = answer == Ok(MembershipAnswer::Bound) && by == Some(node);
        if is_bound && let Some(waiting) = lead.waiting.get_mut(&node) {
            waiting.confirmed = true;
            return;
        }
        let Some(waiting) = lead.waiting.remove(&node) else { return };
        let answer = match answer {
            Ok(MembershipAnswer::Void) => MembershipAnswer::Refused(MembershipRefusal::OldClaim),
            Ok(_) => MembershipAnswer::Refused(MembershipRefusal::Malformed),
            Err(_) => MembershipAnswer::Later { after_ms: 2 * LATER_MS },
        };
        self.reply(waiting.request, answer);
    }

    /// Puts a member on the list of those who go. The super-peer itself is never on it.
    pub(super) fn remove(&mut self, node: NodeId, claim: u64, why: Why) {
        if node == self.node() {
            return;
        }
        let Some(lead) = &mut self.lead else { return };
        let new = Removal { claim, is_guess: true, orders: Vec::new() };
        let removal = lead.removals.entry(node).or_insert(new);
        removal.claim = claim;
        removal.is_guess &= why == Why::Silent;
        match why {
            Why::Ordered(request) if removal.orders.len() < WAITING_MAX => {
                removal.orders.push(request);
            }
            Why::Ordered(request) => self.done(request, Err(Denied::Busy)),
            _ => {}
        }
    }

    /// A member that was only silent is heard of again.
    pub(super) fn keep(&mut self, node: NodeId) {
        if let Some(lead) = &mut self.lead {
            lead.removals.retain(|other, removal| *other != node || !removal.is_guess);
        }
    }

    /// Writes the change that is due: all who have confirmed and fit, and all who go.
    pub(super) fn run_change(&mut self, table: &GroupTable) {
        self.forget_done(table);
        let this = self.node();
        let Some(lead) = &self.lead else { return };
        let change_at = lead.change_at;
        if lead.is_changing() || !self.pace.is_due(change_at) {
            return;
        }
        if table.super_peer != this {
            if table.configuration().members.contains(&this) {
                self.propose_change(TableCommand::Lead { node: this });
            } else {
                // All who stay may be lost.
                self.run_force(table);
            }
            return;
        }
        let is_ending = lead.is_ending();
        if table.configuration().is_joint() {
            self.run_force(table);
            return;
        }
        if is_ending {
            return;
        }
        let Some(lead) = &self.lead else { return };
        let unconfirmed = lead.waiting.values().any(|waiting| !waiting.confirmed);
        let (adding, remove) = (self.who_comes(table), self.who_goes(table));
        if adding.is_empty() && remove.is_empty() {
            return;
        }
        // Whoever asks back in time comes with the others.
        let ready_at = adding.iter().map(|(ready_at, _)| *ready_at).min();
        let gathered_at =
            ready_at.map(|at| at.plus(u64::from(unconfirmed) * self.config.gather_us));
        if gathered_at.is_some_and(|at| !self.pace.is_due(at)) {
            return;
        }
        let add: Vec<_> = adding.into_iter().map(|(_, seat)| seat).collect();
        if let Some(lead) = &mut self.lead {
            lead.adding = add.iter().map(|seat| seat.member.node).collect();
        }
        self.propose_change(TableCommand::Change { add, remove });
    }

    fn who_goes(&self, table: &GroupTable) -> Vec<(NodeId, u64)> {
        let Some(lead) = &self.lead else { return Vec::new() };
        let removals = lead.removals.iter().map(|(node, removal)| (*node, removal.claim));
        removals
            .filter(|(node, claim)| table.seats.get(node).is_some_and(|s| s.claim == *claim))
            .collect()
    }

    fn who_comes(&self, table: &GroupTable) -> Vec<(Lived, Seat)> {
        let Some(lead) = &self.lead else { return Vec::new() };
        let staying = (table.count() as usize).saturating_sub(self.who_goes(table).len());
        let room = (table.capacity as usize).saturating_sub(staying);
        let mut tags: BTreeSet<_> = table.seats.keys().map(NodeId::tag).collect();
        let is_open = |node: &NodeId| {
            !table.seats.contains_key(node)
                && !self.log.voters.contains(node)
                && !self.log.learners.contains(node)
        };
        // Who has no place kept for it takes none that is kept for another.
        let kept = self.places_kept(None, table) as usize;
        let mut free = room.saturating_sub(kept);
        let mut has_room = |node: &NodeId| {
            let is_free = self.has_place(node) || free > 0;
            if is_free && !self.has_place(node) {
                free -= 1;
            }
            is_free
        };
        lead.waiting
            .iter()
            .filter(|(node, waiting)| {
                waiting.confirmed && is_open(node) && tags.insert(node.tag()) && has_room(node)
            })
            .map(|(_, waiting)| (waiting.ready_at, waiting.seat.clone()))
            .take(room)
            .collect()
    }

    /// Answers those whose wish the table shows, or cannot show any more.
    fn forget_done(&mut self, table: &GroupTable) {
        let now = self.pace.now();
        let is_full = table.count() >= table.capacity && !table.configuration().is_joint();
        let Some(lead) = &mut self.lead else { return };
        let (mut answers, mut orders) = (Vec::new(), Vec::new());
        let is_changing = lead.is_changing();
        let is_idle = lead.change.is_none() && lead.removals.is_empty();
        lead.waiting.retain(|node, waiting| {
            let held = table.seats.get(node).map(|seat| seat.claim);
            if held == Some(waiting.seat.claim) {
                answers.push((waiting.request, Some(MembershipAnswer::Done)));
            } else if held.is_some() {
                let later = MembershipAnswer::Later { after_ms: LATER_MS };
                answers.push((waiting.request, Some(later)));
            } else if is_full && is_idle {
                answers.push((waiting.request, None));
            } else if now.since(waiting.ready_at) > STALE_US && !is_changing {
                // It may have gone elsewhere since it confirmed its claim: it is to ask again.
                let later = MembershipAnswer::Later { after_ms: LATER_MS };
                answers.push((waiting.request, Some(later)));
            } else {
                return true;
            }
            false
        });
        lead.removals.retain(|node, removal| {
            let is_there = table.seats.get(node).is_some_and(|seat| seat.claim == removal.claim);
            if !is_there {
                orders.append(&mut removal.orders);
            }
            is_there
        });
        for (request, answer) in answers {
            let answer = answer.unwrap_or_else(|| self.full());
            self.reply(request, answer);
        }
        for request in orders {
            self.done(request, Ok(()));
        }
    }

    /// The change was written, or was not.
    pub(super) fn on_changed(&mut self, outcome: Result<Applied, ProposeFailure>) {
        let again_at = self.pace.about(RETRY_US);
        let Some(lead) = &mut self.lead else { return };
        lead.change = None;
        let adding = std::mem::take(&mut lead.adding);
        if matches!(outcome, Ok(Applied::Done | Applied::Nothing)) {
            // The log's next state shows it; nothing is written on top of what is not seen yet.
            lead.change_at = self.pace.now().plus(SEEN_US);
            return;
        }
        lead.change_at = again_at;
        let mut requests = Vec::new();
        for node in adding {
            requests.extend(lead.waiting.remove(&node).map(|waiting| waiting.request));
        }
        for request in requests {
            self.reply(request, MembershipAnswer::Later { after_ms: LATER_MS });
        }
    }
}
