//! What a node answers about the objects of its group, decided in one place.

use thiserror::Error;

use super::{
    control::ControlError,
    group::PeerError,
    node_id::NodeId,
    object::{ObjectId, Tier},
    register::Ended,
    view::{Liveness, View},
};

/// Why an object of the group cannot be read or written at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotServed {
    /// There is no group whose object it could be.
    #[error("no group yet: {reason}")]
    NoGroup {
        /// What the node does instead.
        reason: &'static str,
    },
}

/// Why an operation on an object of the group was not done, or not known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotDone {
    /// Too few of the members that keep it answered. Nothing has changed.
    #[error(
        "{answered} of the object's replicas answered, and {needed} are needed: a safe operation needs a majority of them. Try again once they are back, or use the mode fast"
    )]
    NoQuorum {
        /// How many answered.
        answered: u32,
        /// How many are needed.
        needed: u32,
    },
    /// None of the members that keep it answered.
    #[error("none of the {asked} members that may keep the object answered; try again in a moment")]
    NoReplica {
        /// How many were asked.
        asked: usize,
    },
    /// It may or may not have happened, and may still.
    #[error(
        "the outcome is unknown: the write was begun, and too few replicas confirmed it in time. Read the object to see"
    )]
    Unknown,
    /// This node does not take part yet. Nothing has changed.
    #[error("this node does not take part in its group's objects yet; try again in a moment")]
    NotReady,
    /// Too much is in hand. Nothing has changed.
    #[error("too many operations on the object wait; try again in a moment")]
    Busy,
}

impl NotDone {
    /// Returns why an order was not carried out; `None` when it was.
    pub fn of(ended: &Ended) -> Option<Self> {
        match *ended {
            Ended::NoQuorum { answered, needed } => Some(Self::NoQuorum { answered, needed }),
            Ended::NotReady => Some(Self::NotReady),
            Ended::Busy => Some(Self::Busy),
            Ended::Unknown => Some(Self::Unknown),
            Ended::Written { .. } | Ended::Refused(_) | Ended::Read(_) | Ended::Done => None,
        }
    }
}

/// Checks whether objects of a tier are served at all.
///
/// # Errors
/// [`NotServed`], for objects of the group's tier.
pub fn serves(view: &View, tier: Tier) -> Result<(), NotServed> {
    if tier == Tier::Group && view.group().is_none() {
        let reason = view.unready().unwrap_or("looking for a group");
        return Err(NotServed::NoGroup { reason });
    }
    Ok(())
}

/// Decides about a caller's word that a member holds an object: `false`, as for every entry that is there already. The
/// ledger is what this node holds, so there is never anything to add.
///
/// # Errors
/// When this node does not hold it, and for every other member, of which this version knows nothing.
pub fn add_reference(
    view: &View,
    id: &ObjectId,
    peer: &str,
    is_held_here: bool,
) -> Result<bool, ControlError> {
    let node = view.member(peer)?.node;
    match (node == view.this.node, is_held_here) {
        (true, true) => Ok(false),
        (true, false) => Err(PeerError::NotHeld { node, id: id.as_str().to_owned() }.into()),
        (false, _) => Err(ControlError::NoLedger { node }),
    }
}

/// Decides about a caller's wish to take all that a peer holds out of the ledger: `false` for a peer that has nothing in
/// it.
///
/// # Errors
/// When the peer is this node, or a member that is there.
pub fn remove_references(view: &View, peer: &str) -> Result<bool, PeerError> {
    if view.names_this(peer) {
        return Err(PeerError::Alive { node: view.this.node });
    }
    let is_there = |node: &NodeId| view.sighting(node).liveness == Liveness::Alive;
    match view.member(peer).map(|member| member.node) {
        Ok(node) if is_there(&node) => Err(PeerError::Alive { node }),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::{
        table::{Command, Seat},
        view::Founder,
    };

    fn alone() -> View {
        View::founded("group-x".into(), &Founder::example(7))
    }

    fn with_another() -> View {
        let mut view = alone();
        let seat = Seat { member: Founder::example(8).this, claim: 1, permanent: false };
        let table = Arc::make_mut(view.table.as_mut().unwrap());
        table.apply(&Command::Change { add: vec![seat], remove: Vec::new() });
        view
    }

    #[test]
    fn without_a_group_only_the_overlay_is_served() {
        let mut view = alone();
        assert_eq!(serves(&view, Tier::Group), Ok(()));
        view.table = None;
        let refused = serves(&view, Tier::Group).unwrap_err();
        assert_eq!(refused.to_string(), "no group yet: looking for a group");
        assert_eq!(serves(&view, Tier::Overlay), Ok(()));
    }

    #[test]
    fn the_ledger_is_what_this_node_holds() {
        let (view, id) = (with_another(), ObjectId::parse("o").unwrap());
        assert_eq!(add_reference(&view, &id, "a:71", true), Ok(false));
        let error = add_reference(&view, &id, "a:71", false).unwrap_err();
        assert!(error.to_string().contains("\"o\""), "{error}");
        let other = add_reference(&view, &id, "a:81", true);
        assert!(matches!(other, Err(ControlError::NoLedger { .. })), "{other:?}");
        for name in ["a:71", "a:72", &view.this.node.to_string()] {
            assert!(remove_references(&view, name).is_err(), "{name}");
        }
        // The other member is suspect, since it was never seen, and has nothing in this ledger.
        assert_eq!(remove_references(&view, "a:81"), Ok(false));
        assert_eq!(remove_references(&view, "you"), Ok(false));
    }
}
