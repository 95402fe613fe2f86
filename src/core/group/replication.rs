//! The answers of a node about the objects of its group.

use thiserror::Error;

use crate::{
    group::{
        PeerError,
        view::{Liveness, View},
    },
    model::{
        change::{WriteRefusal, Written},
        node_id::NodeId,
        object::{Object, Tier},
    },
    register::RegisterOutcome,
};

/// Why an operation on an object of the group was not done, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotDone {
    /// There is no group whose object it could be.
    #[error("no group yet: {reason}")]
    NoGroup {
        /// What the node does instead.
        reason: &'static str,
    },
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
    /// So many of the stores that keep it, or this node's own, refuse to write. Nothing has changed.
    #[error("the object is not written, and nothing has changed: {reason}")]
    Declined {
        /// What a store has said.
        reason: String,
    },
    /// None of the members that keep it answered.
    #[error("none of the {asked} members that may keep the object answered; try again in a moment")]
    NoReplica {
        /// How many were asked.
        asked: usize,
    },
    /// Too few of the group's members say what they keep: an object may have no replica among them.
    #[error(
        "{answered} of the group's {members} members say what they keep, too few for a whole list; try again once more are back"
    )]
    TooFewMembers {
        /// How many do.
        answered: usize,
        /// How many there are.
        members: usize,
    },
    /// It may or may not have happened, and may still.
    #[error(
        "the outcome is unknown: it was begun, and too few replicas confirmed it in time. Read the object to see"
    )]
    Unknown,
    /// This node does not take part yet. Nothing has changed.
    #[error("this node does not take part in its group's objects yet; try again in a moment")]
    NotReady,
    /// Too many requests are being handled. Nothing has changed.
    #[error("too many operations on the object wait; try again in a moment")]
    Busy,
    /// The same request, by its name, is still being carried out.
    #[error(
        "the write that this request id names is still being carried out; try again with the same id in a moment to get its outcome"
    )]
    Running,
}

/// What became of an order, as whoever gave it wants to know it.
impl RegisterOutcome {
    /// Returns what became of a change.
    ///
    /// # Errors
    /// When it was not done, or not known to be.
    pub fn written(self) -> Result<Result<Written, WriteRefusal>, NotDone> {
        match self {
            Self::Written { version: Some(version), created } => {
                Ok(Ok(Written::Kept { version, created }))
            }
            Self::Written { version: None, .. } => Ok(Ok(Written::Removed)),
            Self::Refused(refusal) => Ok(Err(refusal)),
            other => Err(other.not_done()),
        }
    }

    /// Returns what a read has found.
    ///
    /// # Errors
    /// When it was not done.
    pub fn read(self) -> Result<Option<Object>, NotDone> {
        match self {
            Self::Read(object) => Ok(object),
            other => Err(other.not_done()),
        }
    }

    /// Returns whether a merge, a repair, an expiry or a clearing is done.
    ///
    /// # Errors
    /// When it was not done, or not known to be.
    pub fn done(self) -> Result<(), NotDone> {
        match self {
            Self::Done => Ok(()),
            other => Err(other.not_done()),
        }
    }

    fn not_done(self) -> NotDone {
        match self {
            Self::NoQuorum { answered, needed } => NotDone::NoQuorum { answered, needed },
            Self::Declined { reason } => NotDone::Declined { reason },
            Self::NotReady => NotDone::NotReady,
            Self::Busy => NotDone::Busy,
            // An answer to another order says nothing about this one.
            Self::Unknown
            | Self::Written { .. }
            | Self::Refused(_)
            | Self::Read(_)
            | Self::Done => NotDone::Unknown,
        }
    }
}

/// Checks whether objects of a tier are served at all.
///
/// # Errors
/// [`NotDone::NoGroup`], for objects of the group's tier.
pub fn serves(view: &View, tier: Tier) -> Result<(), NotDone> {
    if tier == Tier::Group && view.group().is_none() {
        let reason = view.unready().unwrap_or("looking for a group");
        return Err(NotDone::NoGroup { reason });
    }
    Ok(())
}

/// Decides about a caller's wish to take all that a peer holds out of the ledger: returns the member that may be forgotten, or
/// `None` for a peer that is in no ledger, because it is no member.
///
/// # Errors
/// When the peer is this node, or a member that is there.
pub fn may_be_forgotten(view: &View, peer: &str) -> Result<Option<NodeId>, PeerError> {
    if view.names_this(peer) {
        return Err(PeerError::Alive { node: view.this.node });
    }
    match view.member(peer).map(|member| member.node) {
        Ok(node) if view.sighting(&node).liveness == Liveness::Alive => {
            Err(PeerError::Alive { node })
        }
        named => Ok(named.ok()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::group::{
        table::{Seat, TableCommand},
        view::{Founder, Sighting},
    };

    fn alone() -> View {
        View::founded("group-x".into(), &Founder::example(7))
    }

    fn with_another() -> View {
        let mut view = alone();
        let seat = Seat { member: Founder::example(8).this, claim: 1, permanent: false };
        let table = Arc::make_mut(view.table.as_mut().unwrap());
        table.apply(&TableCommand::Change { add: vec![seat], remove: Vec::new() });
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
    fn only_a_member_that_is_not_there_may_be_forgotten() {
        let mut view = with_another();
        for name in ["a:71", "a:72", &view.this.node.to_string()] {
            assert!(may_be_forgotten(&view, name).is_err(), "{name}");
        }
        // The other member is suspect, since it was never seen.
        let other = Founder::example(8).this.node;
        assert_eq!(may_be_forgotten(&view, "a:81"), Ok(Some(other)));
        assert_eq!(may_be_forgotten(&view, "you"), Ok(None));
        let seen = Sighting { liveness: Liveness::Alive, last_seen: None };
        view.sightings.insert(other, seen);
        assert_eq!(may_be_forgotten(&view, "a:81"), Err(PeerError::Alive { node: other }));
    }
}
