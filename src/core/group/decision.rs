//! Decides what a client's request about the group means for this node: an answer, or an order to the membership.

use crate::{
    group::{
        Member, SettingChange, Settings,
        control::{ControlError, ControlRequest},
        membership::{Denied, MembershipOrder},
        offer::Offer,
        table::{GroupTable, TableCommand, TableRefusal},
        view::View,
    },
    model::node_id::NodeId,
};

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlDecision {
    /// It is answered at once: `true` = so it is, `false` = there is nothing to do.
    Answer(bool),
    /// This node changes its own description.
    Describe(Member),
    /// This node's own settings become these.
    Settings(Settings),
    /// Membership carries it out.
    Order(MembershipOrder),
}

/// Decides about a request.
///
/// # Errors
/// When it cannot be granted, with the way out.
pub fn decide(
    request: &ControlRequest,
    view: &View,
    known: &[Offer],
) -> Result<ControlDecision, ControlError> {
    let table = view.group().ok_or_else(|| view.no_group())?;
    let node = |name: &str| {
        if view.names_this(name) {
            return Some(view.this.node);
        }
        table.named(name).map(|seat| seat.member.node)
    };
    let order = match request {
        ControlRequest::Join { peer: address, .. } => {
            leads(view, table)?;
            return invite(address, node(address), table, known);
        }
        ControlRequest::AddPeer { address } => return invite(address, node(address), table, known),
        ControlRequest::Leave => MembershipOrder::Leave,
        ControlRequest::PeerLeaves { name } => match node(name) {
            None => return Ok(ControlDecision::Answer(false)),
            Some(node) if node == view.this.node => MembershipOrder::Leave,
            Some(node) => MembershipOrder::PeerLeaves(node),
        },
        ControlRequest::RemovePeer { name } => match node(name) {
            None => return Ok(ControlDecision::Answer(false)),
            Some(node) => MembershipOrder::RemovePeer(node),
        },
        ControlRequest::Migrate { peer, new_super_peer } => {
            let Some(node) = node(peer) else { return Ok(ControlDecision::Answer(false)) };
            let given = || ControlError::UnknownSuperPeer { given: new_super_peer.clone() };
            let to = super_peer_named(new_super_peer, table, known).ok_or_else(given)?;
            if Some(to) == view.super_peer {
                // It is there already.
                return Ok(ControlDecision::Answer(true));
            }
            if table.seats.contains_key(&to) {
                return Err(given());
            }
            MembershipOrder::Migrate { node, to }
        }
        // A member need not be told: whoever leads is heard of, or an election is under way.
        ControlRequest::SuperPeerLeaves if !view.state.leads() => {
            return Ok(ControlDecision::Answer(view.super_peer.is_none()));
        }
        ControlRequest::SuperPeerLeaves => MembershipOrder::SuperPeerLeave,
        ControlRequest::Notify { host } => {
            match node(host).filter(|node| *node != view.this.node) {
                None => return Ok(ControlDecision::Answer(true)),
                Some(node) => MembershipOrder::Look(node),
            }
        }
        ControlRequest::PositionOf { peer, position } => {
            let member = view.member(peer)?;
            if member.node == view.this.node {
                let member = Member { position: *position, ..view.this.clone() };
                return Ok(ControlDecision::Describe(member));
            }
            MembershipOrder::Stand { node: member.node, position: *position }
        }
    };
    Ok(ControlDecision::Order(order))
}

/// Decides about asking the node at an address in.
fn invite(
    address: &str,
    member: Option<NodeId>,
    table: &GroupTable,
    known: &[Offer],
) -> Result<ControlDecision, ControlError> {
    if let Some(node) = member {
        // One that is on its way out comes back only once it is out.
        let is_going = !table.configuration().members.contains(&node);
        return match table.under_way().filter(|_| is_going) {
            Some(refused) => Err(changing(&refused)),
            None => Ok(ControlDecision::Answer(true)),
        };
    }
    if table.count() >= table.capacity {
        return Err(full(table, known));
    }
    Ok(ControlDecision::Order(MembershipOrder::AddPeer { address: address.to_owned() }))
}

/// Decides about a change of a setting. The replication factor is the group's; the modes and the migration are the node's
/// own, for requests that name none.
///
/// # Errors
/// When the value is out of range, or there is no group.
pub fn decide_setting(change: SettingChange, view: &View) -> Result<ControlDecision, ControlError> {
    let mut settings = view.settings;
    settings.set(change)?;
    if !matches!(change, SettingChange::ReplicationFactor(_)) {
        return Ok(ControlDecision::Settings(settings));
    }
    view.group().ok_or_else(|| view.no_group())?;
    Ok(ControlDecision::Order(MembershipOrder::Write(TableCommand::Set(change))))
}

/// Says why membership did not carry an order out.
/// `asked` is the address or the node that the order was about.
pub fn denied(denied: Denied, asked: &str, view: &View, known: &[Offer]) -> ControlError {
    let Some(table) = view.group() else { return view.no_group() };
    let group = table.name.clone();
    let only =
        || ControlError::OnlyMember { node: view.this.node.to_string(), group: table.name.clone() };
    match denied {
        Denied::NoGroup => view.no_group(),
        // The order was for whoever leads, and nobody does for the moment, or another one than a moment ago.
        Denied::NotLeader { .. } => ControlError::Election { group },
        Denied::NotAMember(node) => match view.member(&node.to_string()) {
            Err(error) => error,
            Ok(_) => ControlError::Unknown { group },
        },
        Denied::NoSuchGroup(node) => ControlError::UnknownSuperPeer { given: node.to_string() },
        Denied::NoPlace(super_peer) => ControlError::NoPlace { super_peer },
        Denied::NoSuccessor | Denied::SuperPeer if table.count() == 1 => only(),
        Denied::Table(TableRefusal::Full { .. }) => full(table, known),
        Denied::Table(TableRefusal::ReplicationFactor(error)) => error.into(),
        Denied::Table(refused @ TableRefusal::Joint { .. }) => changing(&refused),
        Denied::Unknown => ControlError::Unknown { group },
        Denied::Unreachable => {
            let reason = "nobody of this network answers there".to_owned();
            ControlError::Unreachable { address: asked.to_owned(), reason }
        }
        Denied::NoAnswer(node) => {
            let address = table.seats.get(&node).map(|seat| seat.member.peer.clone());
            let address = address.unwrap_or_else(|| node.to_string());
            if view.super_peer == Some(node) {
                return ControlError::SilentSuperPeer { group, super_peer: address };
            }
            let reason = format!("{node} does not answer, and has to take part");
            ControlError::Unreachable { address, reason }
        }
        Denied::Bound => {
            ControlError::Declined { address: asked.to_owned(), reason: Denied::Bound.to_string() }
        }
        Denied::Busy => ControlError::Busy { what: "another order".to_owned() },
        other => ControlError::Refused { reason: other.to_string() },
    }
}

/// Says that another change has to end first, and what it waits for.
fn changing(refused: &TableRefusal) -> ControlError {
    ControlError::Busy { what: format!("another change of the group ({refused})") }
}

fn leads(view: &View, table: &GroupTable) -> Result<(), ControlError> {
    if view.state.leads() {
        return Ok(());
    }
    let group = table.name.clone();
    let leader = view.super_peer.and_then(|node| table.seats.get(&node));
    Err(match leader {
        Some(seat) => ControlError::NotSuperPeer { group, super_peer: seat.member.peer.clone() },
        None => ControlError::Election { group },
    })
}

fn full(table: &GroupTable, known: &[Offer]) -> ControlError {
    let next = known.iter().find(|offer| offer.free() > 0 && offer.group != table.name);
    ControlError::Full {
        group: table.name.clone(),
        members: table.count(),
        capacity: table.capacity,
        next: next.map(|offer| offer.peer.clone()),
    }
}

fn super_peer_named(name: &str, table: &GroupTable, known: &[Offer]) -> Option<NodeId> {
    let of_table = || table.named(name).map(|seat| seat.member.node);
    let by_address = || known.iter().find(|offer| offer.peer == name).map(|offer| offer.super_peer);
    name.parse().ok().or_else(of_table).or_else(by_address)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        group::{
            table::Seat,
            view::{Founder, RoleState},
        },
        world::Position,
    };

    fn node(key: u8) -> NodeId {
        NodeId::from_key([key; 32])
    }

    /// The view of node 7 of a group of 7, 8 and 9 that 8 leads.
    fn of_a_peer() -> View {
        let mut view = View::founded("group-x".into(), &Founder::example(7));
        let table = Arc::make_mut(view.table.as_mut().unwrap());
        let seat = |key| Seat { member: Founder::example(key).this, claim: 1, permanent: false };
        table.apply(&TableCommand::Change { add: vec![seat(8), seat(9)], remove: Vec::new() });
        table.apply(&TableCommand::Acknowledge { node: node(7), epoch: 2 });
        (view.state, view.super_peer) = (RoleState::Peer, Some(node(8)));
        view
    }

    fn ordered(request: &ControlRequest) -> MembershipOrder {
        match decide(request, &of_a_peer(), &[]) {
            Ok(ControlDecision::Order(order)) => order,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_member_that_does_not_lead_takes_orders_for_the_super_peer() {
        let name = || "a:91".to_owned();
        let to = node(5);
        let position = Position { x: 1.0, y: 2.0 };
        for (request, order) in [
            (
                ControlRequest::AddPeer { address: "c:1".into() },
                MembershipOrder::AddPeer { address: "c:1".into() },
            ),
            (ControlRequest::RemovePeer { name: name() }, MembershipOrder::RemovePeer(node(9))),
            (
                ControlRequest::RemovePeer { name: node(7).to_string() },
                MembershipOrder::RemovePeer(node(7)),
            ),
            (ControlRequest::PeerLeaves { name: name() }, MembershipOrder::PeerLeaves(node(9))),
            (ControlRequest::PeerLeaves { name: "a:71".into() }, MembershipOrder::Leave),
            (
                ControlRequest::Migrate { peer: name(), new_super_peer: to.to_string() },
                MembershipOrder::Migrate { node: node(9), to },
            ),
            (ControlRequest::Notify { host: name() }, MembershipOrder::Look(node(9))),
            (
                ControlRequest::PositionOf { peer: name(), position },
                MembershipOrder::Stand { node: node(9), position },
            ),
        ] {
            assert_eq!(ordered(&request), order, "{request:?}");
        }
        let factor = SettingChange::ReplicationFactor(2);
        let write = Ok(ControlDecision::Order(MembershipOrder::Write(TableCommand::Set(factor))));
        assert_eq!(decide_setting(factor, &of_a_peer()), write);
        let zero = decide_setting(SettingChange::ReplicationFactor(0), &of_a_peer());
        assert!(matches!(zero, Err(ControlError::ReplicationFactor(_))), "{zero:?}");
    }

    #[test]
    fn what_needs_nobody_is_answered_at_once() {
        let answer = |request: ControlRequest| decide(&request, &of_a_peer(), &[]);
        let (peer, stranger) = ("a:91".to_owned(), "c:1".to_owned());
        for (request, expected) in [
            (ControlRequest::AddPeer { address: peer.clone() }, true),
            (ControlRequest::RemovePeer { name: stranger.clone() }, false),
            (ControlRequest::PeerLeaves { name: stranger.clone() }, false),
            (
                ControlRequest::Migrate { peer: stranger.clone(), new_super_peer: peer.clone() },
                false,
            ),
            (ControlRequest::Migrate { peer: peer.clone(), new_super_peer: "a:81".into() }, true),
            (ControlRequest::Notify { host: stranger.clone() }, true),
            (ControlRequest::SuperPeerLeaves, false),
        ] {
            assert_eq!(
                answer(request.clone()),
                Ok(ControlDecision::Answer(expected)),
                "{request:?}"
            );
        }
        // Who does not lead does not accept a join, and names who does.
        let join =
            ControlRequest::Join { peer, storage: stranger.clone(), position: Position::default() };
        let refused = answer(join).unwrap_err();
        assert!(
            matches!(refused, ControlError::NotSuperPeer { super_peer, .. } if super_peer == "a:81")
        );
        for unknown in [stranger, node(9).to_string()] {
            let refused =
                answer(ControlRequest::Migrate { peer: "a:91".into(), new_super_peer: unknown });
            assert!(matches!(refused, Err(ControlError::UnknownSuperPeer { .. })), "{refused:?}");
        }
    }

    #[test]
    fn what_membership_denies_is_told_with_the_way_out() {
        let view = of_a_peer();
        let told = |why: Denied| denied(why, "c:1", &view, &[]);
        let silent = told(Denied::NoAnswer(node(8))).to_string();
        assert!(silent.contains("super-peer") && silent.contains("a:81"), "{silent}");
        let other = told(Denied::NoAnswer(node(9))).to_string();
        assert!(other.contains("a:91") && !other.contains("super-peer"), "{other}");
        let election = ControlError::Election { group: "group-x".into() };
        assert_eq!(told(Denied::NotLeader { leader: Some(node(8)) }), election);
        let bound = told(Denied::Bound).to_string();
        assert!(bound.contains("c:1") && bound.contains("migrate"), "{bound}");
    }
}
