//! Removes a member by a client's order. The super-peer tells the member first and then removes it, so that it neither
//! comes back at once nor takes the removal for a mistake. A member that cannot be told is only removed. It was lost or
//! stopped, and may join again like any other node.

use super::{
    Answered, Denied, Lived, Membership, MembershipAnswer, MembershipRefusal, MembershipRequest,
    OrderEnd, Purpose, RequestId, admitting::Why, moving::Goal,
};
use crate::{group::offer::FoundGroups, model::node_id::NodeId};

/// The most groups that a node stays away from. The one whose time ends first makes room.
const RESTS_MAX: usize = 8;

impl Membership {
    pub(super) fn order_dismissal(
        &mut self,
        request: RequestId,
        node: NodeId,
        rests: bool,
    ) -> OrderEnd {
        let (table, claim) = self.ordered_seat(node)?;
        let group = table.name.clone();
        if node != self.node() {
            let question = MembershipRequest::Dismiss { group, claim, rests };
            self.ask(node, Purpose::Dismiss { request, node, claim }, question);
            return Ok(None);
        }
        if !rests && table.seats.len() == 1 {
            return Err(Denied::SuperPeer);
        }
        if self.order.is_some() {
            return Err(Denied::Busy);
        }
        self.leave_by_order(group, rests);
        Ok(Some(()))
    }

    pub(super) fn on_dismissed(
        &mut self,
        member: (NodeId, u64),
        request: RequestId,
        answer: Answered,
    ) {
        let (node, claim) = member;
        if answer == Ok(MembershipAnswer::Done) {
            self.let_go(member, request);
        } else if self.leads() && self.lead.is_some() {
            self.remove(node, claim, Why::Ordered(request));
        } else {
            let leader = self.log.leader;
            self.done(request, Err(Denied::NotLeader { leader }));
        }
    }

    /// The super-peer says that a client wants this node out of the group.
    pub(super) fn answer_dismissal(
        &mut self,
        from: NodeId,
        group: String,
        claim: u64,
        rests: bool,
    ) -> MembershipAnswer {
        let is_member = self.is_seated() && self.holds_claim(&group, claim);
        if !is_member || self.log.leader != Some(from) {
            return MembershipAnswer::Refused(MembershipRefusal::OtherGroup);
        }
        // An order to leave that it was given itself goes on.
        if self.order.is_none() {
            self.leave_by_order(group, rests);
        }
        MembershipAnswer::Done
    }

    fn leave_by_order(&mut self, group: String, rests: bool) {
        if rests {
            self.leave(Goal::Rest);
        } else {
            self.stay_away_from(group);
            self.leave(Goal::Look(None));
        }
    }

    fn stay_away_from(&mut self, group: String) {
        let until = self.pace.now().plus(self.config.rest_us);
        let rests = &mut self.orders.rests;
        if rests.len() >= RESTS_MAX {
            let first = rests.iter().min_by_key(|(_, until)| **until).map(|(name, _)| name.clone());
            first.and_then(|first| rests.remove(&first));
        }
        rests.insert(group, until);
    }

    /// Tells whether this node was taken out of a group by order and stays away from it.
    pub(super) fn rests_from(&self, group: &str) -> bool {
        self.orders.rests.get(group).is_some_and(|until: &Lived| self.pace.now() < *until)
    }

    /// Returns all such groups.
    pub(super) fn rests(&self) -> impl Iterator<Item = &String> {
        let now = self.pace.now();
        let rests = self.orders.rests.iter().filter(move |(_, until)| now < **until);
        rests.map(|(group, _)| group)
    }

    /// Takes such groups out of what a search has found.
    pub(super) fn without_rests(&self, mut found: FoundGroups) -> FoundGroups {
        found.offers.retain(|offer| !self.rests_from(&offer.group));
        found
    }
}
