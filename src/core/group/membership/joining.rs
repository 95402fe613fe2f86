//! How a node gets into a group: it looks for one, asks for a place, and follows the group's log until the table shows it.

use std::collections::BTreeSet;

use super::{
    AVOID_MAX, Answered, Lived, Membership, MembershipAnswer, MembershipEffect, MembershipReport,
    MembershipRequest, MembershipStage, Purpose, SearchGoal, moving::Goal, search,
};
use crate::{
    group::{
        log_state::LogState,
        offer::{FoundGroups, Offer},
    },
    model::node_id::NodeId,
};

/// How many groups are asked one after the other, each named by the last one, before the node looks again.
const HOPS_MAX: u32 = 4;
/// How many windows a node waits for another one, that looks for a group too, to found one.
const WINDOWS_MAX: u64 = 3;
/// How often in a row a group may not answer before the node looks for another one.
const FAILURES_MAX: u32 = 3;
/// How long a group that had no place is passed over.
const AVOID_FULL_US: u64 = 3_000_000;
/// How long a group that refused or did not answer is passed over.
const AVOID_REFUSED_US: u64 = 10_000_000;

/// A search for a group.
#[derive(Debug)]
pub(super) struct Looking {
    since: Lived,
    /// How many windows are over in which another node was waited for.
    windows: u64,
    next_at: Lived,
    /// A group that was named as the one to go to.
    prefer: Option<String>,
}

/// A group to ask for a place.
#[derive(Debug, Clone)]
pub(super) struct JoinTarget {
    pub group: String,
    pub address: String,
    hops: u32,
}

/// A place asked for.
#[derive(Debug)]
pub(super) struct Joining {
    target: JoinTarget,
    since: Lived,
    next_at: Lived,
    /// Set once the group has said yes.
    accepted: bool,
    follows: bool,
    /// How often in a row it did not answer.
    failures: u32,
}

impl JoinTarget {
    pub(super) fn of(offer: &Offer) -> Self {
        Self::at(offer.group.clone(), offer.peer.clone())
    }

    pub(super) fn at(group: String, address: String) -> Self {
        Self { group, address, hops: 0 }
    }
}

impl Joining {
    pub(super) fn new(target: JoinTarget, now: Lived) -> Self {
        Self { target, since: now, next_at: now, accepted: false, follows: false, failures: 0 }
    }
}

impl Membership {
    pub(super) fn look(&mut self, prefer: Option<String>) {
        let now = self.pace.now();
        self.enter(MembershipStage::Looking(Looking {
            since: now,
            windows: 0,
            next_at: now,
            prefer,
        }));
    }

    pub(super) fn run_looking(&mut self) {
        let MembershipStage::Looking(looking) = &self.stage else { return };
        let (since, windows, next_at) = (looking.since, looking.windows, looking.next_at);
        let prefer = looking.prefer.clone();
        if self.is_pending(|purpose| *purpose == Purpose::Search) || !self.pace.is_due(next_at) {
            return;
        }
        if !self.config.has_sources || (self.permanent && prefer.is_none()) {
            self.go(Goal::Found);
            return;
        }
        let spent = self.pace.now().since(since);
        let window_us = (self.config.discovery_window_us * (windows + 1)).saturating_sub(spent);
        let enough = match prefer {
            Some(group) => SearchGoal::Group(group),
            None if self.config.voronoi_grouping => SearchGoal::Never,
            None => SearchGoal::RoomBeside(self.passed_over()),
        };
        self.find(Purpose::Search, window_us, enough);
    }

    pub(super) fn on_groups_found(&mut self, found: FoundGroups) {
        let found = self.without_rests(found);
        let MembershipStage::Looking(looking) = &mut self.stage else { return };
        let now = self.pace.now();
        let prefer = looking.prefer.take();
        self.avoid.retain(|_, until| now < *until);
        let open = |offer: &Offer| self.may_go_to(offer);
        let mut preferred = found.offers.iter().filter(|offer| open(offer));
        let preferred = preferred.find(|offer| prefer.as_ref() == Some(&offer.group));
        let nearest = self.config.voronoi_grouping;
        let chosen =
            preferred.or_else(|| search::choose(&found.offers, self.this.position, nearest, open));
        if let Some(offer) = chosen.filter(|_| !self.permanent || preferred.is_some()) {
            let target = JoinTarget::of(offer);
            self.go(Goal::Join(target));
            return;
        }
        let window = self.config.discovery_window_us;
        let MembershipStage::Looking(looking) = &mut self.stage else { return };
        let is_over = now.since(looking.since) >= window * (looking.windows + 1);
        if is_over && looking.windows < WINDOWS_MAX {
            if !search::goes_first(&found.seekers, self.this.node) {
                self.go(Goal::Found);
                return;
            }
            looking.windows += 1;
        } else if is_over {
            self.go(Goal::Found);
            return;
        }
        let next_at = self.pace.about(window / 10 + 1);
        if let MembershipStage::Looking(looking) = &mut self.stage {
            looking.next_at = next_at;
        }
    }

    /// Tells whether an offer may be taken: not one of a group that is passed over, and not an old one of this node's own.
    fn may_go_to(&self, offer: &Offer) -> bool {
        offer.super_peer != self.node()
            && !self.avoid.contains_key(&offer.group)
            && !self.ended.iter().any(|(ended, _)| *ended == offer.group)
    }

    /// Returns the groups that a search does not end with.
    fn passed_over(&mut self) -> BTreeSet<String> {
        let now = self.pace.now();
        self.avoid.retain(|_, until| now < *until);
        let ended = self.ended.iter().map(|(ended, _)| ended);
        self.avoid.keys().chain(ended).chain(self.rests()).cloned().collect()
    }

    pub(super) fn run_joining(&mut self) {
        let MembershipStage::Joining(joining) = &self.stage else { return };
        let give_up_at = joining.since.plus(3 * self.config.election_timeout_us);
        let (next_at, accepted, follows) = (joining.next_at, joining.accepted, joining.follows);
        if self.pace.is_due(give_up_at) {
            self.give_up_join(AVOID_REFUSED_US, "it did not take this node in within the time");
            return;
        }
        if accepted && !follows && !self.is_pending(|purpose| *purpose == Purpose::Follow) {
            self.has_log = true;
            let MembershipStage::Joining(joining) = &self.stage else { return };
            let group = joining.target.group.clone();
            let claim = self.durable.claim;
            let ticket = self.ticket(Purpose::Follow);
            self.out.push(MembershipEffect::FollowLog { ticket, group, claim });
        }
        if !self.is_pending(|purpose| *purpose == Purpose::Join) && self.pace.is_due(next_at) {
            // Also after a yes, until the table shows the place: the yes may have been of one that did not lead any more.
            let MembershipStage::Joining(joining) = &self.stage else { return };
            let JoinTarget { group, address, .. } = joining.target.clone();
            let question = MembershipRequest::Join { group, seat: self.seat() };
            self.ask_address(address, Purpose::Join, question);
        }
    }

    pub(super) fn on_followed(&mut self, done: bool) {
        let next_at = self.pace.about(500_000);
        if let MembershipStage::Joining(joining) = &mut self.stage {
            joining.follows = done;
            if !done {
                joining.accepted = false;
                joining.next_at = next_at;
            }
        }
    }

    pub(super) fn on_join_answer(&mut self, answer: Answered) {
        let soon = self.pace.about(200_000);
        let later = self.pace.about(2_000_000);
        let MembershipStage::Joining(joining) = &mut self.stage else { return };
        joining.failures = if answer.is_ok() { 0 } else { joining.failures + 1 };
        match answer {
            // What has said yes is waited for; anything else may be gone for good.
            Err(_) if !joining.accepted => {
                joining.next_at = later;
                if joining.failures >= FAILURES_MAX {
                    self.give_up_join(AVOID_REFUSED_US, "it does not answer");
                }
            }
            Ok(MembershipAnswer::Done) => {
                joining.accepted = true;
                joining.next_at = later;
            }
            Ok(MembershipAnswer::NotLeader { leader: Some((_, address)) })
                if joining.target.hops < HOPS_MAX =>
            {
                joining.target.hops += 1;
                joining.target.address = address;
                joining.next_at = soon;
            }
            Ok(MembershipAnswer::NotLeader { .. }) => {
                joining.target.hops = 0;
                joining.next_at = later;
            }
            Ok(MembershipAnswer::Later { after_ms }) => {
                let us = after_ms.clamp(50, 5_000) * 1_000;
                joining.next_at = self.pace.about(us);
            }
            Ok(MembershipAnswer::Full { next }) => self.on_full(next),
            Ok(MembershipAnswer::Dissolved { into }) => self.go(Goal::Look(into)),
            Ok(MembershipAnswer::Refused(refusal)) => {
                self.give_up_join(AVOID_REFUSED_US, &refusal.to_string());
            }
            _ => joining.next_at = later,
        }
    }

    fn on_full(&mut self, next: Option<Offer>) {
        let MembershipStage::Joining(joining) = &self.stage else { return };
        let hops = joining.target.hops + 1;
        self.avoid_group(joining.target.group.clone(), AVOID_FULL_US);
        let next = next.filter(|offer| hops < HOPS_MAX && self.may_go_to(offer));
        self.go(match next {
            Some(offer) => Goal::Join(JoinTarget { hops, ..JoinTarget::of(&offer) }),
            None => Goal::Look(None),
        });
    }

    fn give_up_join(&mut self, avoid_us: u64, reason: &str) {
        let MembershipStage::Joining(joining) = &self.stage else { return };
        let group = joining.target.group.clone();
        self.avoid_group(group.clone(), avoid_us);
        self.report(MembershipReport::JoinRefused { group, reason: reason.to_owned() });
        self.go(Goal::Look(None));
    }

    fn avoid_group(&mut self, group: String, us: u64) {
        if self.avoid.len() < AVOID_MAX {
            let until = self.pace.about(us);
            self.avoid.insert(group, until);
        }
    }

    pub(super) fn on_log(&mut self, log: LogState) {
        let is_home = log.table.as_ref().is_none_or(|table| {
            self.has_log && self.durable.home.as_deref() == Some(table.name.as_str())
        });
        if !is_home {
            // Of a group that this node has left already.
            return;
        }
        let is_seated = log.table.as_ref().is_some_and(|table| self.is_seat_of_this(table));
        let is_over = log.table.as_ref().is_some_and(|table| table.dissolved.is_some());
        self.log = log;
        match &self.stage {
            MembershipStage::Looking(_) | MembershipStage::Joining(_) if is_seated => {
                self.take_seat()
            }
            MembershipStage::Moving(_) if is_seated && self.lacks_its_table() => self.take_seat(),
            MembershipStage::Joining(_) if is_over => self.go(Goal::Look(None)),
            MembershipStage::Seated(_) => self.on_seated_log(),
            _ => {}
        }
    }

    /// Says whether an invitation is for this node to take: it has no group, or is alone in one that it founded itself.
    pub(super) fn is_free(&self) -> bool {
        match &self.stage {
            MembershipStage::Looking(_) | MembershipStage::Joining(_) => true,
            MembershipStage::Seated(_) => {
                self.leads() && self.table().is_some_and(|t| t.seats.len() == 1)
            }
            _ => false,
        }
    }

    /// Returns where another member's peer listener is, as far as this node knows.
    pub(super) fn address_of(&self, node: NodeId) -> Option<String> {
        if let Some(address) = self.located(node) {
            return Some(address);
        }
        self.table()?.seats.get(&node).map(|seat| seat.member.peer.clone())
    }
}
