//! Invitations, by a client's order. The super-peer asks a node to join, reserves a place for it, and answers the client once
//! the table shows the node.

use super::{
    Answered, AskFailure, Denied, Lived, Membership, MembershipAnswer, MembershipRefusal,
    MembershipRequest, MembershipStage, OrderEnd, Purpose, RequestId, joining::JoinTarget,
    moving::Goal,
};
use crate::{
    group::table::{GroupTable, TableRefusal},
    model::node_id::NodeId,
};

/// How long a node that was asked in may take until it is a member. It may have a group of its own to end first.
const GUEST_US: u64 = 8_000_000;
/// How soon a node that is on its way somewhere is asked again.
const LATER_MS: u64 = 1_000;

/// A node that was asked in and has said yes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guest {
    node: NodeId,
    until: Lived,
}

impl Membership {
    pub(super) fn order_invitation(&mut self, request: RequestId, address: String) -> OrderEnd {
        let (table, _) = self.ordered_seat(self.node()).map_err(|denied| match denied {
            Denied::NotAMember(_) => Denied::NoGroup,
            denied => denied,
        })?;
        let (group, members, capacity) = (table.name.clone(), table.count(), table.capacity);
        if self.is_full_for(table, None) {
            return Err(Denied::Table(TableRefusal::Full { members, capacity }));
        }
        let (super_peer, own) = (self.node(), self.this.peer.clone());
        let question = MembershipRequest::Invite { super_peer, group, address: own };
        self.ask_address(address, Purpose::Invite { request }, question);
        Ok(None)
    }

    pub(super) fn on_invite_answer(
        &mut self,
        request: RequestId,
        by: Option<NodeId>,
        answer: Answered,
    ) {
        let denied = match (answer, by) {
            (Ok(MembershipAnswer::Done), Some(node)) => {
                return self.expect_guest(request, node);
            }
            (Ok(MembershipAnswer::Refused(MembershipRefusal::Bound)), _) => Denied::Bound,
            (Ok(MembershipAnswer::Later { .. }), _) => Denied::Busy,
            (Ok(_) | Err(AskFailure::Refused), _) => Denied::Refused,
            (Err(AskFailure::Unreachable), _) => Denied::Unreachable,
            (Err(AskFailure::Unknown), _) => Denied::Unknown,
        };
        self.done(request, Err(denied));
    }

    fn expect_guest(&mut self, request: RequestId, node: NodeId) {
        if !self.leads() {
            let leader = self.log.leader;
            return self.done(request, Err(Denied::NotLeader { leader }));
        }
        let until = self.pace.now().plus(GUEST_US);
        self.orders.places.insert(node, until);
        self.orders.guests.insert(request, Guest { node, until });
    }

    /// Answers for guests that have come, or have not.
    pub(super) fn run_guests(&mut self, table: &GroupTable) {
        let guests: Vec<_> = self.orders.guests.iter().map(|(r, guest)| (*r, *guest)).collect();
        for (request, Guest { node, until }) in guests {
            let result = if table.configuration().members.contains(&node) {
                Ok(())
            } else if self.pace.is_due(until) {
                Err(Denied::Unknown)
            } else {
                continue;
            };
            self.orders.guests.remove(&request);
            self.done(request, result);
        }
    }

    /// A super-peer asks this node into its group.
    pub(super) fn answer_invite(
        &mut self,
        from: NodeId,
        super_peer: NodeId,
        group: String,
        address: String,
    ) -> MembershipAnswer {
        if self.durable.home.as_ref() == Some(&group) || super_peer == self.node() {
            return MembershipAnswer::Done;
        }
        let may_go = match &self.stage {
            MembershipStage::Moving(_) => return MembershipAnswer::Later { after_ms: LATER_MS },
            MembershipStage::Resting => true,
            // From one group to another a member goes at its own super-peer's word.
            MembershipStage::Seated(_) if self.log.leader == Some(from) && !self.leads() => true,
            _ => self.is_free(),
        };
        if self.order.is_some() || !may_go {
            return MembershipAnswer::Refused(MembershipRefusal::Bound);
        }
        self.orders.rests.remove(&group);
        self.leave(Goal::Join(JoinTarget::at(group, address)));
        MembershipAnswer::Done
    }
}
