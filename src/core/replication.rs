//! What a node can promise about the objects of its group, decided in one place.
//!
//! This version keeps every object on the node that took it. A group of one needs no more; in a larger one, what would
//! need other members is refused by name, and the rest is as durable as this node.

use thiserror::Error;

use super::{
    control::ControlError,
    group::{PeerError, RetrievalMode, StorageMode},
    node_id::NodeId,
    object::{ObjectId, Tier},
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
    /// A quorum of replicas is asked for, and there are none.
    #[error(
        "this version does not replicate objects yet, and the group has {members} members, so that no quorum can answer for one; use the mode fast"
    )]
    NotReplicated {
        /// How many members the group has.
        members: usize,
    },
}

/// Checks whether an object may be written in this mode.
///
/// # Errors
/// [`NotServed`], for objects of the group's tier.
pub fn may_write(view: &View, tier: Tier, mode: StorageMode) -> Result<(), NotServed> {
    may(view, tier, mode == StorageMode::Safe)
}

/// Checks whether an object may be read in this mode.
///
/// # Errors
/// As [`may_write`].
pub fn may_read(view: &View, tier: Tier, mode: RetrievalMode) -> Result<(), NotServed> {
    may(view, tier, mode == RetrievalMode::Safe)
}

fn may(view: &View, tier: Tier, needs_quorum: bool) -> Result<(), NotServed> {
    if tier != Tier::Group {
        return Ok(());
    }
    let Some(table) = view.group() else {
        let reason = view.unready().unwrap_or("looking for a group");
        return Err(NotServed::NoGroup { reason });
    };
    match table.seats.len() {
        members if needs_quorum && members > 1 => Err(NotServed::NotReplicated { members }),
        _ => Ok(()),
    }
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
    fn a_node_alone_serves_every_mode_and_a_larger_group_only_what_needs_no_quorum() {
        for mode in [RetrievalMode::Fast, RetrievalMode::Parallel, RetrievalMode::Safe] {
            assert_eq!(may_read(&alone(), Tier::Group, mode), Ok(()));
            let in_two = may_read(&with_another(), Tier::Group, mode);
            assert_eq!(in_two.is_err(), mode == RetrievalMode::Safe, "{mode:?}");
        }
        let refused = NotServed::NotReplicated { members: 2 };
        assert_eq!(may_write(&with_another(), Tier::Group, StorageMode::Safe), Err(refused));
        assert_eq!(may_write(&with_another(), Tier::Group, StorageMode::Fast), Ok(()));
        assert_eq!(may_write(&alone(), Tier::Group, StorageMode::Safe), Ok(()));
    }

    #[test]
    fn without_a_group_only_the_overlay_is_served() {
        let mut view = alone();
        view.table = None;
        for mode in [StorageMode::Fast, StorageMode::Safe] {
            let refused = may_write(&view, Tier::Group, mode).unwrap_err();
            assert_eq!(refused.to_string(), "no group yet: looking for a group");
            assert_eq!(may_write(&view, Tier::Overlay, mode), Ok(()));
        }
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
