//! Answers to other nodes. What they say is believed only as far as the table and their key prove it.

use std::collections::BTreeSet;

use super::{
    HealthReport, Membership, MembershipAnswer, MembershipRefusal, MembershipReport,
    MembershipRequest, RequestId, admitting::Why,
};
use crate::{
    group::{Member, offer::Offer, table::Seat},
    model::node_id::NodeId,
};

/// How soon a leave is asked for again while it is under way.
const LEAVE_MS: u64 = 300;

impl Membership {
    pub(super) fn on_asked(
        &mut self,
        from: NodeId,
        request: RequestId,
        question: MembershipRequest,
    ) {
        if from == self.node() || !question.is_well_formed(from) {
            self.reply(request, MembershipAnswer::Refused(MembershipRefusal::Malformed));
            return;
        }
        let answer = match question {
            MembershipRequest::Join { group, seat } => {
                return self.answer_join(from, request, &group, seat);
            }
            MembershipRequest::Confirm { group, claim } => {
                let holds = self.holds_claim(&group, claim);
                if holds { MembershipAnswer::Bound } else { MembershipAnswer::Void }
            }
            MembershipRequest::Leave { group, claim } => self.answer_leave(from, &group, claim),
            MembershipRequest::Invite { super_peer, group, address } => {
                self.answer_invite(from, super_peer, group, address)
            }
            MembershipRequest::Health(health) => self.answer_health(from, health),
            MembershipRequest::Rescanned { group, claim, epoch } => {
                self.as_leader_for(from, &group, claim).unwrap_or_else(|| {
                    self.hear(from);
                    self.note_rescanned(from, epoch);
                    MembershipAnswer::Done
                })
            }
            MembershipRequest::Describe { group, claim, member } => {
                self.as_leader_for(from, &group, claim).unwrap_or_else(|| {
                    self.note_described(member, claim);
                    MembershipAnswer::Done
                })
            }
            MembershipRequest::Room { group, members } => self.on_room(&group, members),
            MembershipRequest::HandOver { group, term } => {
                if self.on_handed_over(from, &group, term) {
                    MembershipAnswer::Done
                } else {
                    MembershipAnswer::Refused(MembershipRefusal::OtherGroup)
                }
            }
            MembershipRequest::Gone { group, into } => {
                self.on_gone(from, &group, into);
                MembershipAnswer::Done
            }
            MembershipRequest::Dismiss { group, claim, rests } => {
                self.answer_dismissal(from, group, claim, rests)
            }
            MembershipRequest::Place { group, node } => self.answer_place(&group, node),
            MembershipRequest::Order { group, claim, order } => {
                return self.answer_order(from, request, (&group, claim), order);
            }
        };
        self.reply(request, answer);
    }

    /// Answers for a group that this node is not a member of.
    fn answer_for_other(&self, group: &str) -> MembershipAnswer {
        let ended = self.ended.iter().find(|(ended, _)| ended == group);
        match ended {
            Some((_, into)) => MembershipAnswer::Dissolved { into: into.clone() },
            None => MembershipAnswer::Refused(MembershipRefusal::OtherGroup),
        }
    }

    /// Returns what to answer to `from` instead, when this node does not lead that group or `from` is no member of it.
    pub(super) fn as_leader_for(
        &self,
        from: NodeId,
        group: &str,
        claim: u64,
    ) -> Option<MembershipAnswer> {
        let table = self.table().filter(|table| table.name == group && self.is_seated());
        let Some(table) = table else { return Some(self.answer_for_other(group)) };
        if let Some(end) = &table.dissolved {
            return Some(MembershipAnswer::Dissolved { into: end.into.clone() });
        }
        if !self.leads() {
            let leader = self.log.leader;
            let leader = leader.and_then(|leader| Some((leader, self.address_of(leader)?)));
            return Some(MembershipAnswer::NotLeader { leader });
        }
        let is_seated = table.seats.get(&from).is_some_and(|seat| seat.claim == claim);
        (!is_seated).then(|| MembershipAnswer::NoMember { epoch: table.epoch() })
    }

    fn answer_join(&mut self, from: NodeId, request: RequestId, group: &str, seat: Seat) {
        match self.as_leader_for(from, group, seat.claim) {
            None | Some(MembershipAnswer::NoMember { .. }) => self.on_join(from, request, seat),
            Some(answer) => self.reply(request, answer),
        }
    }

    fn answer_leave(&mut self, from: NodeId, group: &str, claim: u64) -> MembershipAnswer {
        if let Some(answer) = self.as_leader_for(from, group, claim) {
            return answer;
        }
        self.remove(from, claim, Why::Leaves);
        MembershipAnswer::Later { after_ms: LEAVE_MS }
    }

    fn answer_health(&mut self, from: NodeId, health: HealthReport) -> MembershipAnswer {
        let HealthReport { group, claim, epoch, reached } = health;
        let answer = self.as_leader_for(from, &group, claim);
        let Some(table) = self.table().cloned() else { return self.answer_for_other(&group) };
        let theirs = table.epoch();
        match answer {
            None => {}
            Some(MembershipAnswer::NoMember { .. }) if theirs < epoch => {
                // The sender knows more than this node does.
                return MembershipAnswer::follower(theirs);
            }
            Some(MembershipAnswer::NotLeader { leader }) => {
                let is_seated = table.seats.get(&from).is_some_and(|seat| seat.claim == claim);
                return match leader {
                    _ if !is_seated && theirs >= epoch => {
                        MembershipAnswer::NoMember { epoch: theirs }
                    }
                    // The sender may not know where the super-peer is now.
                    Some(leader) => MembershipAnswer::NotLeader { leader: Some(leader) },
                    None => MembershipAnswer::follower(theirs),
                };
            }
            Some(answer) => return answer,
        }
        self.hear(from);
        self.expect_report(from);
        let this = self.node();
        let others = table.seats.keys().filter(|node| **node != this && **node != from);
        let others = others.copied().collect();
        let now = self.pace.now();
        for (to, present) in self.watch.report(from, reached, &others, now) {
            self.report(MembershipReport::PairFault { from, to, present });
        }
        let others = table.seats.keys().filter(|node| **node != this && **node != from);
        let doubts = others.filter(|node| !self.watch.is_linked(**node)).copied().collect();
        MembershipAnswer::Member { epoch: theirs, majority: self.is_backed(), doubts }
    }
}

impl MembershipAnswer {
    fn follower(epoch: u64) -> Self {
        Self::Member { epoch, majority: false, doubts: BTreeSet::new() }
    }
}

fn is_short(text: &str) -> bool {
    text.len() <= MembershipRequest::TEXT_BYTES_MAX
}

fn is_sound(member: &Member) -> bool {
    let Member { rest, peer, storage, position, .. } = member;
    is_short(rest)
        && is_short(peer)
        && is_short(storage)
        && position.x.is_finite()
        && position.y.is_finite()
}

pub(super) fn is_sound_offer(offer: &Offer) -> bool {
    is_short(&offer.group) && is_short(&offer.peer)
}

impl MembershipRequest {
    /// The most nodes that a report may name.
    const REACHED_MAX: usize = 2_048;

    /// Tells whether a request from `from` is one that it may ask, within the limits of size.
    fn is_well_formed(&self, from: NodeId) -> bool {
        match self {
            Self::Join { group, seat } => {
                is_short(group) && is_sound(&seat.member) && seat.member.node == from
            }
            Self::Describe { group, member, .. } => {
                is_short(group) && is_sound(member) && member.node == from
            }
            Self::Invite { group, address, .. } => is_short(group) && is_short(address),
            Self::Order { group, order, .. } => is_short(group) && order.may_be_passed_on(),
            Self::Health(HealthReport { group, reached, .. }) => {
                is_short(group) && reached.len() <= Self::REACHED_MAX
            }
            Self::Gone { group, into } => {
                is_short(group) && into.as_ref().is_none_or(is_sound_offer)
            }
            Self::Confirm { group, .. }
            | Self::Leave { group, .. }
            | Self::Rescanned { group, .. }
            | Self::Room { group, .. }
            | Self::Dismiss { group, .. }
            | Self::Place { group, .. }
            | Self::HandOver { group, .. } => is_short(group),
        }
    }
}
