//! Orders of clients. Any other member passes on, once, what only the super-peer can do. The super-peer accepts it only from
//! members of its own group, and nobody passes it on a second time.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Answered, AskFailure, Denied, Lived, Membership, MembershipAnswer, MembershipOrder,
    MembershipRequest, MembershipStage, OrderEnd, ProposeFailure, Purpose, RequestId,
    inviting::Guest, moving::Goal,
};
use crate::{
    group::{
        Member,
        table::{Applied, GroupTable, TableCommand},
    },
    model::node_id::NodeId,
    world::Position,
};

/// The most orders of other members that are carried out at the same time.
const PASSED_ON_MAX: usize = 256;

/// What is kept in mind for orders.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// The orders that other members have passed on to this node.
    passed_on: BTreeSet<RequestId>,
    /// Who was asked in and has said yes.
    pub guests: BTreeMap<RequestId, Guest>,
    /// Until when a place is kept for a node.
    pub places: BTreeMap<NodeId, Lived>,
    /// Until when this node stays away from a group that it was taken out of.
    pub rests: BTreeMap<String, Lived>,
}

impl Membership {
    pub(super) fn on_ordered(&mut self, request: RequestId, order: MembershipOrder) {
        if self.leads() || !order.is_for_super_peer() {
            self.carry_out(request, order);
        } else if let Err(denied) = self.pass_on(request, order) {
            self.done(request, Err(denied));
        }
    }

    fn pass_on(&mut self, request: RequestId, order: MembershipOrder) -> Result<(), Denied> {
        let is_member = self.is_seated();
        let home = self.home_and_claim().filter(|_| is_member);
        let (group, claim) = home.ok_or(Denied::NoGroup)?;
        let leader = self.log.leader.ok_or(Denied::NotLeader { leader: None })?;
        let question = MembershipRequest::Order { group, claim, order };
        self.ask(leader, Purpose::PassOn { request }, question);
        Ok(())
    }

    pub(super) fn on_passed_on(&mut self, request: RequestId, answer: Answered) {
        use MembershipAnswer as A;
        let result = match answer {
            Ok(A::Ordered(result)) => result,
            // It was the super-peer a moment ago; who is it now, the log will say.
            Ok(A::NotLeader { .. } | A::NoMember { .. } | A::Dissolved { .. }) => {
                Err(Denied::NotLeader { leader: None })
            }
            Ok(A::Later { .. }) => Err(Denied::Busy),
            Ok(_) | Err(AskFailure::Refused) => Err(Denied::Refused),
            Err(AskFailure::Unreachable) => Err(match self.log.leader {
                Some(leader) => Denied::NoAnswer(leader),
                None => Denied::NotLeader { leader: None },
            }),
            Err(AskFailure::Unknown) => Err(Denied::Unknown),
        };
        self.done(request, result);
    }

    /// A member passes an order on.
    pub(super) fn answer_order(
        &mut self,
        from: NodeId,
        request: RequestId,
        (group, claim): (&str, u64),
        order: MembershipOrder,
    ) {
        if let Some(answer) = self.as_leader_for(from, group, claim) {
            self.reply(request, answer);
        } else if self.orders.passed_on.len() >= PASSED_ON_MAX {
            self.reply(request, MembershipAnswer::Later { after_ms: 1_000 });
        } else {
            self.hear(from);
            self.orders.passed_on.insert(request);
            self.carry_out(request, order);
        }
    }

    /// Tells whether the client of an order is at another member, which is answered only once.
    pub(super) fn is_passed_on(&mut self, request: RequestId) -> bool {
        self.orders.passed_on.remove(&request)
    }

    fn carry_out(&mut self, request: RequestId, order: MembershipOrder) {
        if let Some(denied) = self.waiting().filter(|_| order.is_about_members()) {
            return self.done(request, Err(denied));
        }
        let result = match order {
            MembershipOrder::Leave => self.order_leave(request),
            MembershipOrder::Migrate { node, to } => self.order_migration(request, node, to),
            MembershipOrder::AddPeer { address } => self.order_invitation(request, address),
            MembershipOrder::RemovePeer(node) => self.order_dismissal(request, node, false),
            MembershipOrder::PeerLeaves(node) => self.order_dismissal(request, node, true),
            MembershipOrder::Look(node) => self.order_look(node).map(Some),
            MembershipOrder::Stand { node, position } => {
                self.order_position(request, node, position)
            }
            MembershipOrder::SuperPeerLeave => self.order_hand_over().map(Some),
            MembershipOrder::Write(command) => self.order_entry(request, command),
        };
        match result {
            Ok(Some(())) => self.done(request, Ok(())),
            Ok(None) => {}
            Err(denied) => self.done(request, Err(denied)),
        }
    }

    /// Does on the super-peer what is due for orders.
    pub(super) fn run_orders(&mut self, table: &GroupTable) {
        self.run_guests(table);
        let now = self.pace.now();
        self.orders.places.retain(|node, until| now < *until && !table.seats.contains_key(node));
    }

    /// Ends what only the super-peer can do.
    pub(super) fn drop_orders(&mut self) {
        self.orders.places.clear();
        for request in std::mem::take(&mut self.orders.guests).into_keys() {
            self.done(request, Err(Denied::Unknown));
        }
    }

    fn order_leave(&mut self, request: RequestId) -> OrderEnd {
        if self.order.is_some() {
            return Err(Denied::Busy);
        }
        if matches!(self.stage, MembershipStage::Asleep | MembershipStage::Resting) {
            return Ok(Some(()));
        }
        self.order = Some(request);
        self.leave(Goal::Rest);
        Ok(None)
    }

    /// Returns the table for an order about a member, and the member's claim in it.
    pub(super) fn ordered_seat(&self, node: NodeId) -> Result<(&GroupTable, u64), Denied> {
        let table = self.table().ok_or(Denied::NoGroup)?;
        let seat = table.seats.get(&node).ok_or(Denied::NotAMember(node))?;
        if !self.leads() || self.lead.is_none() {
            return Err(Denied::NotLeader { leader: self.log.leader });
        }
        Ok((table, seat.claim))
    }

    fn order_look(&mut self, node: NodeId) -> Result<(), Denied> {
        self.ordered_seat(node)?;
        self.probe_now(node);
        Ok(())
    }

    fn order_position(&mut self, request: RequestId, node: NodeId, position: Position) -> OrderEnd {
        let (table, claim) = self.ordered_seat(node)?;
        let member = table.seats.get(&node).map(|seat| seat.member.clone());
        let member = Member { position, ..member.ok_or(Denied::NotAMember(node))? };
        self.order_entry(request, TableCommand::Describe { member, claim })
    }

    fn order_entry(&mut self, request: RequestId, command: TableCommand) -> OrderEnd {
        if !self.is_seated() {
            return Err(Denied::NoGroup);
        }
        if !self.leads() {
            return Err(Denied::NotLeader { leader: self.log.leader });
        }
        if !matches!(command, TableCommand::Set(_) | TableCommand::Describe { .. }) {
            return Err(Denied::Refused);
        }
        self.propose(Purpose::Write { request }, command);
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
