//! What clients want of a membership: leave, migrate, add a peer, remove one, let another lead, change a setting.

use super::{
    AskFailure, Denied, Effect, Membership, MembershipAnswer, MembershipRequest, Order,
    ProposeFailure, Purpose, RequestId, Stage, admitting::Why, joining::Target, moving::Goal,
};
use crate::core::{
    node_id::NodeId,
    offer::Found,
    table::{Applied, Command},
};

impl Membership {
    pub(super) fn on_ordered(&mut self, request: RequestId, order: Order) {
        let result = match order {
            Order::Leave => self.order_leave(request),
            Order::Migrate { node, to } => self.order_migration(request, node, to),
            Order::AddPeer { address } => self.order_invitation(request, address),
            Order::RemovePeer(node) => self.order_removal(request, node),
            Order::SuperPeerLeave => self.order_hand_over().map(Some),
            Order::Write(command) => self.order_entry(request, command),
        };
        match result {
            Ok(Some(())) => self.done(request, Ok(())),
            Ok(None) => {}
            Err(denied) => self.done(request, Err(denied)),
        }
    }

    fn order_leave(&mut self, request: RequestId) -> Result<Option<()>, Denied> {
        if self.order.is_some() {
            return Err(Denied::Busy);
        }
        if matches!(self.stage, Stage::Asleep) {
            return Ok(Some(()));
        }
        self.order = Some(request);
        self.leave(Goal::Rest);
        Ok(None)
    }

    fn order_migration(
        &mut self,
        request: RequestId,
        node: NodeId,
        to: NodeId,
    ) -> Result<Option<()>, Denied> {
        let table = self.table().ok_or(Denied::NoGroup)?;
        if !table.seats.contains_key(&node) {
            return Err(Denied::NotAMember(node));
        }
        if node == to || self.log.leader == Some(to) {
            return Ok(Some(()));
        }
        if node == self.node() {
            if self.order.is_some() {
                return Err(Denied::Busy);
            }
            if self.leads() && table.seats.len() > 1 {
                return Err(Denied::SuperPeer);
            }
            self.order = Some(request);
            self.search_ordered(to);
            return Ok(None);
        }
        if !self.leads() {
            return Err(Denied::NotLeader { leader: self.log.leader });
        }
        let question = MembershipRequest::Invite { super_peer: to, group: None, address: None };
        self.ask(node, Purpose::Invite { request }, question);
        Ok(None)
    }

    /// The group that an order names was found, or was not.
    pub(super) fn on_ordered_found(&mut self, to: NodeId, found: Found) {
        let offer = found.offers.iter().find(|offer| offer.super_peer == to && offer.free() > 0);
        let Some(offer) = offer else {
            self.finish_order(Err(Denied::NoSuchGroup(to)));
            return;
        };
        if self.durable.home.as_ref() != Some(&offer.group) {
            self.leave(Goal::Join(Target::of(offer)));
        }
        self.finish_order(Ok(()));
    }

    fn order_invitation(
        &mut self,
        request: RequestId,
        address: String,
    ) -> Result<Option<()>, Denied> {
        let group = self.durable.home.clone().ok_or(Denied::NoGroup)?;
        if !self.leads() {
            return Err(Denied::NotLeader { leader: self.log.leader });
        }
        let question = MembershipRequest::Invite {
            super_peer: self.node(),
            group: Some(group),
            address: Some(self.this.peer.clone()),
        };
        self.ask_address(address, Purpose::Invite { request }, question);
        Ok(None)
    }

    pub(super) fn on_invite_answer(
        &mut self,
        request: RequestId,
        answer: Result<MembershipAnswer, AskFailure>,
    ) {
        let result = match answer {
            Ok(MembershipAnswer::Done) => Ok(()),
            Ok(_) | Err(AskFailure::Refused) => Err(Denied::Refused),
            Err(AskFailure::Unreachable) => Err(Denied::Unreachable),
            Err(AskFailure::Unknown) => Err(Denied::Unknown),
        };
        self.done(request, result);
    }

    fn order_removal(&mut self, request: RequestId, node: NodeId) -> Result<Option<()>, Denied> {
        let table = self.table().ok_or(Denied::NoGroup)?;
        let claim = table.seats.get(&node).ok_or(Denied::NotAMember(node))?.claim;
        if !self.leads() {
            return Err(Denied::NotLeader { leader: self.log.leader });
        }
        if node == self.node() {
            return Err(Denied::SuperPeer);
        }
        self.remove(node, claim, Why::Ordered(request));
        Ok(None)
    }

    fn order_entry(&mut self, request: RequestId, command: Command) -> Result<Option<()>, Denied> {
        if !matches!(self.stage, Stage::Seated(_)) {
            return Err(Denied::NoGroup);
        }
        if !self.leads() {
            return Err(Denied::NotLeader { leader: self.log.leader });
        }
        if !matches!(command, Command::Set(_) | Command::Describe { .. }) {
            return Err(Denied::Refused);
        }
        let ticket = self.ticket(Purpose::Write { request });
        self.out.push(Effect::Propose { ticket, command });
        Ok(None)
    }

    pub(super) fn on_written(
        &mut self,
        request: RequestId,
        outcome: Result<Applied, ProposeFailure>,
    ) {
        let result = match outcome {
            Ok(Applied::Done | Applied::Nothing) => Ok(()),
            Ok(Applied::Refused(refused)) => Err(Denied::Table(refused)),
            Err(ProposeFailure::NotLeader) => Err(Denied::NotLeader { leader: self.log.leader }),
            Err(ProposeFailure::NoLog) => Err(Denied::NoGroup),
            Err(ProposeFailure::Unknown) => Err(Denied::Unknown),
        };
        self.done(request, result);
    }
}
