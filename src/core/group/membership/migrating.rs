//! Moves a member to another group, by a client's order. The member's super-peer finds the other group, has a place reserved
//! there, tells the member to go and removes it. Until the member has agreed, nothing has changed.

use super::{
    Answered, AskFailure, Denied, Membership, MembershipAnswer, MembershipRefusal,
    MembershipRequest, OrderEnd, Purpose, RequestId, SearchGoal, admitting::Why,
    answering::is_sound_offer, joining::JoinTarget, moving::Goal,
};
use crate::{
    group::{
        offer::{FoundGroups, Offer},
        table::GroupTable,
    },
    model::node_id::NodeId,
};

/// How long the search for the other group takes at most.
const FIND_US: u64 = 2_000_000;
/// How long a place is kept for the member of another group.
const PLACE_US: u64 = 15_000_000;
/// How soon a group that is about to end is asked again.
const LATER_MS: u64 = 1_000;

impl Membership {
    pub(super) fn order_migration(
        &mut self,
        request: RequestId,
        node: NodeId,
        to: NodeId,
    ) -> OrderEnd {
        let (table, _) = self.ordered_seat(node)?;
        if to == self.node() {
            // It is there already.
            return Ok(Some(()));
        }
        if table.seats.contains_key(&to) {
            return Err(Denied::NoSuchGroup(to));
        }
        self.may_go_itself(node, table)?;
        let purpose = Purpose::FindGroup { request, node, to };
        self.find(purpose, FIND_US, SearchGoal::SuperPeer(to));
        Ok(None)
    }

    /// A super-peer moves only when nobody is left behind.
    fn may_go_itself(&self, node: NodeId, table: &GroupTable) -> Result<(), Denied> {
        if node == self.node() && table.seats.len() > 1 {
            return Err(Denied::SuperPeer);
        }
        Ok(())
    }

    pub(super) fn on_group_found(
        &mut self,
        node: NodeId,
        to: NodeId,
        request: RequestId,
        found: FoundGroups,
    ) {
        let home = self.durable.home.clone();
        let is_meant =
            |offer: &&Offer| offer.super_peer == to && Some(&offer.group) != home.as_ref();
        let Some(offer) = found.offers.iter().find(is_meant) else {
            return self.done(request, Err(Denied::NoSuchGroup(to)));
        };
        let question = MembershipRequest::Place { group: offer.group.clone(), node };
        self.ask_address(offer.peer.clone(), Purpose::Place { request, node, to }, question);
    }

    pub(super) fn on_place_answer(
        &mut self,
        node: NodeId,
        to: NodeId,
        request: RequestId,
        by: Option<NodeId>,
        answer: Answered,
    ) {
        use MembershipAnswer as A;
        let denied = match answer {
            Ok(_) if by != Some(to) => Denied::NoSuchGroup(to),
            Ok(A::Room(offer)) if is_sound_offer(&offer) => {
                let target = JoinTarget::at(offer.group, offer.peer);
                match self.summon(node, to, request, target) {
                    Ok(()) => return,
                    Err(denied) => denied,
                }
            }
            Ok(A::Full { .. }) => Denied::NoPlace(to),
            Ok(
                A::NotLeader { .. }
                | A::Dissolved { .. }
                | A::Refused(MembershipRefusal::OtherGroup),
            ) => Denied::NoSuchGroup(to),
            Ok(A::Later { .. }) => Denied::Busy,
            Ok(_) | Err(AskFailure::Refused) => Denied::Refused,
            Err(AskFailure::Unreachable | AskFailure::Unknown) => Denied::NoAnswer(to),
        };
        self.done(request, Err(denied));
    }

    /// The place is kept: the member is told to go.
    fn summon(
        &mut self,
        node: NodeId,
        to: NodeId,
        request: RequestId,
        target: JoinTarget,
    ) -> Result<(), Denied> {
        let (table, claim) = self.ordered_seat(node)?;
        self.may_go_itself(node, table)?;
        if node == self.node() {
            if self.order.is_some() {
                return Err(Denied::Busy);
            }
            self.orders.rests.remove(&target.group);
            self.leave(Goal::Join(target));
            self.done(request, Ok(()));
            return Ok(());
        }
        let JoinTarget { group, address, .. } = target;
        let question = MembershipRequest::Invite { super_peer: to, group, address };
        self.ask(node, Purpose::Summon { request, node, claim }, question);
        Ok(())
    }

    pub(super) fn on_summoned(
        &mut self,
        member: (NodeId, u64),
        request: RequestId,
        answer: Answered,
    ) {
        let denied = match answer {
            Ok(MembershipAnswer::Done) => return self.let_go(member, request),
            Ok(
                MembershipAnswer::Refused(MembershipRefusal::Bound)
                | MembershipAnswer::Later { .. },
            ) => Denied::Busy,
            Ok(_) | Err(AskFailure::Refused) => Denied::Refused,
            Err(AskFailure::Unreachable) => Denied::NoAnswer(member.0),
            Err(AskFailure::Unknown) => Denied::Unknown,
        };
        self.done(request, Err(denied));
    }

    /// Takes out a member that has said that it goes; the client is answered once the table shows it.
    pub(super) fn let_go(&mut self, (node, claim): (NodeId, u64), request: RequestId) {
        if self.leads() && self.lead.is_some() {
            self.remove(node, claim, Why::Ordered(request));
        } else {
            // It asks the next super-peer itself.
            self.done(request, Ok(()));
        }
    }

    /// Answers another super-peer that asks for a place for a member of its own.
    pub(super) fn answer_place(&mut self, group: &str, node: NodeId) -> MembershipAnswer {
        match self.as_leader_for(node, group, 0) {
            None | Some(MembershipAnswer::NoMember { .. }) => {}
            Some(answer) => return answer,
        }
        let Some(table) = self.table().cloned() else {
            return MembershipAnswer::Refused(MembershipRefusal::OtherGroup);
        };
        let offer = self.offer(&table);
        if table.seats.contains_key(&node) {
            return MembershipAnswer::Room(offer);
        }
        let is_ending = self.lead.as_ref().is_none_or(|lead| lead.is_ending());
        if self.is_leaving() || is_ending || !self.has_majority() {
            return MembershipAnswer::Later { after_ms: LATER_MS };
        }
        if self.is_full_for(&table, Some(node)) {
            return self.full();
        }
        let until = self.pace.now().plus(PLACE_US);
        self.orders.places.insert(node, until);
        MembershipAnswer::Room(offer)
    }

    /// Returns how many places are kept for others than this node.
    pub(super) fn places_kept(&self, node: Option<NodeId>, table: &GroupTable) -> u32 {
        let now = self.pace.now();
        let is_kept = |(other, until): &(&NodeId, &super::Lived)| {
            Some(**other) != node && now < **until && !table.seats.contains_key(*other)
        };
        self.orders.places.iter().filter(is_kept).count() as u32
    }

    /// Tells whether a place is kept for this node.
    pub(super) fn has_place(&self, node: &NodeId) -> bool {
        self.orders.places.get(node).is_some_and(|until| self.pace.now() < *until)
    }

    /// Tells whether a group has no free place for a node, or for one that is not known yet.
    pub(super) fn is_full_for(&self, table: &GroupTable, node: Option<NodeId>) -> bool {
        let leaving = self.lead.as_ref().map_or(0, |lead| lead.removals.len() as u32);
        let staying = table.count().saturating_sub(leaving);
        staying.saturating_add(self.places_kept(node, table)) >= table.capacity
    }
}
