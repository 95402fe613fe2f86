//! Makes few large groups from many small ones. A provisional super-peer takes its whole group to a better one that has
//! room. A permanent super-peer that is still alone takes over the group of a provisional one.
//!
//! Two groups never move to each other: the order of groups is strict, a group that asks for room gives none until it has
//! its answer, and a group that gives room stays for a while.

use super::{
    Answered, Lived, Membership, MembershipAnswer, MembershipRefusal, MembershipRequest, Purpose,
    SearchGoal, pace::LivedClock, search,
};
use crate::group::{
    offer::{FoundGroups, OFFERS_MAX, Offer},
    table::GroupTable,
};

/// How long a group that gave room stays.
const PROMISE_US: u64 = 10_000_000;
/// How long a search for a better group may take.
const WINDOW_US: u64 = 2_000_000;

/// What a super-peer knows of other groups, and has promised to them.
#[derive(Debug)]
pub(super) struct GroupUnion {
    next_at: Lived,
    /// The group that is asked for room: as long as it is, this one gives none.
    asking: Option<Offer>,
    /// Until when this group stays, and how many places it keeps.
    promised: Option<(Lived, u32)>,
    /// Until when the room that another group promised to this one is kept.
    kept_until: Lived,
    rivals: Vec<Offer>,
}

impl GroupUnion {
    pub(super) fn new(pace: &mut LivedClock, poll_us: u64) -> Self {
        // Soon after the founding: two groups that were founded at the same moment see each other then.
        let next_at = pace.about(poll_us / 10);
        Self { next_at, asking: None, promised: None, kept_until: next_at, rivals: Vec::new() }
    }

    pub(super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Returns the groups that the last search found.
    pub(super) fn rivals(&self) -> &[Offer] {
        &self.rivals
    }
}

impl Membership {
    /// Returns what this group offers.
    pub(super) fn offer(&self, table: &GroupTable) -> Offer {
        Offer {
            group: table.name.clone(),
            super_peer: self.node(),
            peer: self.this.peer.clone(),
            site: table.site,
            members: table.count(),
            capacity: table.capacity,
            permanent: self.permanent,
            epoch: table.epoch(),
            seq: 0,
        }
    }

    /// Tells whether this super-peer looks for a group to take its own to.
    fn seeks_union(&self, table: &GroupTable) -> bool {
        let is_alone = table.seats.len() == 1;
        let is_young = self.lead.as_ref().is_some_and(|lead| {
            self.pace.now().since(lead.since) < self.config.discovery_window_us * 2
        });
        let awaits_dedicated = table.seats.values().any(|seat| seat.permanent);
        // A permanent one only while it is new and alone; one that has a dedicated member is about to give the lead up.
        if self.permanent { is_alone && is_young && self.log.term <= 1 } else { !awaits_dedicated }
    }

    /// Goes on with the end of this group until it is written, for as long as the other one keeps the room.
    fn run_end(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        let Some(into) = lead.into.as_ref().map(|offer| offer.group.clone()) else { return };
        if self.pace.is_due(lead.uniting.kept_until) {
            lead.into = None;
        } else {
            self.dissolve(Some(into));
        }
    }

    pub(super) fn run_uniting(&mut self, table: &GroupTable) {
        self.run_end();
        let Some(lead) = &self.lead else { return };
        let next_at = lead.uniting.next_at;
        let is_busy = lead.uniting.is_asking() || lead.into.is_some() || lead.hand_over.is_some();
        let is_searching = self.is_pending(|purpose| *purpose == Purpose::SearchToUnite);
        if is_busy || is_searching || !self.pace.is_due(next_at) {
            return;
        }
        let poll_us = self.config.provisional_poll_us;
        let every_us = if self.permanent && self.seeks_union(table) {
            self.config.discovery_window_us / 4
        } else {
            poll_us
        };
        let next_at = self.pace.about(every_us);
        if let Some(lead) = &mut self.lead {
            lead.uniting.next_at = next_at;
        }
        let window_us = WINDOW_US.min(every_us / 2);
        self.find(Purpose::SearchToUnite, window_us, SearchGoal::Never);
    }

    pub(super) fn on_rivals_found(&mut self, found: FoundGroups) {
        let found = self.without_rests(found);
        let Some(table) = self.table().cloned() else { return };
        let mine = self.offer(&table);
        let strict = !self.config.faults().unite_without_order;
        let now = self.pace.now();
        let seeks = self.seeks_union(&table) && !self.is_bound_to_stay(&table);
        let permanent = self.permanent;
        let Some(lead) = &mut self.lead else { return };
        let mut rivals = found.offers;
        // Others may still pass on what this node has offered before.
        rivals.retain(|offer| offer.group != mine.group && offer.super_peer != mine.super_peer);
        rivals.truncate(OFFERS_MAX);
        lead.uniting.rivals = rivals;
        let is_promised = lead.uniting.promised.is_some_and(|(until, _)| now < until) && strict;
        if !seeks || is_promised || lead.is_changing() || !lead.waiting.is_empty() {
            return;
        }
        let offers = &lead.uniting.rivals;
        let better = search::better(offers, &mine, strict);
        let better = if permanent { search::to_take_over(offers, &mine) } else { better };
        let Some(offer) = better.cloned() else { return };
        lead.uniting.asking = Some(offer.clone());
        let question = MembershipRequest::Room { group: offer.group, members: mine.members };
        self.ask_address(offer.peer, Purpose::Room, question);
    }

    /// Tells whether the group has something under way that is to be finished first.
    fn is_bound_to_stay(&self, table: &GroupTable) -> bool {
        table.configuration().is_joint()
            || table.super_peer != self.node()
            || !self.is_backed()
            || self.is_leaving()
    }

    pub(super) fn on_room_answer(&mut self, answer: Answered) {
        let Some(table) = self.table().cloned() else { return };
        let mine = self.offer(&table);
        let is_bound = self.is_bound_to_stay(&table);
        let Some(lead) = &mut self.lead else { return };
        let Some(asked) = lead.uniting.asking.take() else { return };
        let Ok(MembershipAnswer::Room(offer)) = answer else { return };
        let still_fits = offer.group == asked.group && mine.members <= offer.free();
        if still_fits && !is_bound && !lead.is_changing() {
            lead.uniting.kept_until = self.pace.now().plus(PROMISE_US);
            lead.into = Some(offer);
        }
    }

    /// Answers another group that asks whether all its members find a place here.
    pub(super) fn on_room(&mut self, group: &str, members: u32) -> MembershipAnswer {
        let no = MembershipAnswer::Refused(MembershipRefusal::NoRoom);
        let Some(table) = self.table().cloned() else { return no };
        if table.name != group {
            return MembershipAnswer::Refused(MembershipRefusal::OtherGroup);
        }
        let now = self.pace.now();
        let (leads, has_majority) = (self.leads(), self.is_backed());
        let strict = !self.config.faults().unite_without_order;
        let offer = self.offer(&table);
        let is_leaving = self.is_leaving();
        // A permanent one that is new and alone looks for a group to take over: perhaps the very one that asks.
        let takes_over = self.permanent && self.seeks_union(&table);
        let is_open = leads && has_majority && !is_leaving && !takes_over;
        let Some(lead) = self.lead.as_mut().filter(|_| is_open) else {
            return no;
        };
        let kept = lead.uniting.promised.filter(|(until, _)| now < *until).map_or(0, |(_, n)| n);
        let wanted = members.saturating_add(kept);
        let is_going = (lead.uniting.is_asking() || lead.into.is_some()) && strict;
        if is_going || table.dissolved.is_some() || offer.free() < wanted {
            return no;
        }
        lead.uniting.promised = Some((now.plus(PROMISE_US), wanted));
        MembershipAnswer::Room(offer)
    }
}
