//! The differences between two views: what is logged and counted when a view is published.

use crate::{
    group::view::{RoleState, View},
    model::node_id::NodeId,
};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewChange {
    /// The node is in another group, or in none.
    Group {
        /// Where it was.
        from: Option<String>,
        /// Where it is.
        to: Option<String>,
    },
    /// Its role is another.
    Role {
        /// What it was.
        from: RoleState,
        /// What it is.
        to: RoleState,
    },
    /// The group is led by somebody else, or by nobody.
    SuperPeer {
        /// Who leads it.
        to: Option<NodeId>,
        /// In which term.
        term: u64,
    },
    /// The group has another configuration.
    Epoch {
        /// Its number.
        to: u64,
        /// How many members it has.
        members: u32,
        /// Whether the change to it is still under way.
        joint: bool,
    },
    /// A member has come.
    Joined(NodeId),
    /// A member has gone.
    Removed(NodeId),
    /// The group has lost its majority, or has it back.
    Majority(bool),
}

/// Returns what is different, in the order in which it is told. Members of another group do not count as come or gone.
pub fn changes(old: &View, new: &View) -> Vec<ViewChange> {
    let mut changes = Vec::new();
    let (was, is) = (old.group(), new.group());
    let name = |group: Option<&std::sync::Arc<crate::group::table::GroupTable>>| {
        group.map(|g| g.name.clone())
    };
    let same_group = name(was) == name(is);
    if !same_group {
        changes.push(ViewChange::Group { from: name(was), to: name(is) });
    }
    if old.state != new.state {
        changes.push(ViewChange::Role { from: old.state, to: new.state });
    }
    let Some(is) = is else { return changes };
    if !same_group || old.super_peer != new.super_peer {
        changes.push(ViewChange::SuperPeer { to: new.super_peer, term: new.term });
    }
    let now = is.configuration();
    if !same_group || old.epoch() != now.epoch {
        let (to, members, joint) = (now.epoch, is.count(), now.is_joint());
        changes.push(ViewChange::Epoch { to, members, joint });
    }
    if let (Some(was), true) = (was, same_group) {
        let (old_members, new_members) = (&was.configuration().members, &now.members);
        changes.extend(new_members.difference(old_members).copied().map(ViewChange::Joined));
        changes.extend(old_members.difference(new_members).copied().map(ViewChange::Removed));
        if old.has_majority != new.has_majority {
            changes.push(ViewChange::Majority(new.has_majority));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::group::{
        table::{Seat, TableCommand},
        view::Founder,
    };

    fn with_another(view: &View) -> (View, NodeId) {
        let mut view = view.clone();
        let seat = Seat { member: Founder::example(8).this, claim: 1, permanent: false };
        let node = seat.member.node;
        let table = Arc::make_mut(view.table.as_mut().unwrap());
        table.apply(&TableCommand::Change { add: vec![seat], remove: Vec::new() });
        (view, node)
    }

    #[test]
    fn nothing_is_told_of_views_that_tell_the_same() {
        let view = View::founded("group-x".into(), &Founder::example(7));
        assert_eq!(changes(&view, &view), []);
    }

    #[test]
    fn a_group_that_is_found_is_told_with_its_leader_and_its_epoch() {
        let founder = Founder::example(7);
        let (old, new) = (View::discovering(&founder), View::founded("group-x".into(), &founder));
        let expected = [
            ViewChange::Group { from: None, to: Some("group-x".into()) },
            ViewChange::Role { from: RoleState::Discovering, to: RoleState::ProvisionalSuperPeer },
            ViewChange::SuperPeer { to: Some(founder.this.node), term: 1 },
            ViewChange::Epoch { to: 1, members: 1, joint: false },
        ];
        assert_eq!(changes(&old, &new), expected);
        // Of a group that is lost only that is told.
        let [group, role, ..] = expected;
        assert_eq!(changes(&new, &old).len(), 2, "{group:?} {role:?}");
    }

    #[test]
    fn members_come_and_go_within_a_group_and_not_with_it() {
        let founder = Founder::example(7);
        let alone = View::founded("group-x".into(), &founder);
        let (both, node) = with_another(&alone);
        let epoch = ViewChange::Epoch { to: 2, members: 2, joint: true };
        assert_eq!(changes(&alone, &both), [epoch, ViewChange::Joined(node)]);
        assert!(changes(&both, &alone).contains(&ViewChange::Removed(node)));
        let (other, _) = with_another(&View::founded("group-y".into(), &founder));
        let told = changes(&alone, &other);
        assert!(!told.iter().any(|change| matches!(change, ViewChange::Joined(_))), "{told:?}");
    }

    #[test]
    fn an_election_and_a_lost_majority_are_told() {
        let old = View::founded("group-x".into(), &Founder::example(7));
        let mut new = old.clone();
        (new.super_peer, new.has_majority, new.term) = (None, false, 4);
        let expected = [ViewChange::SuperPeer { to: None, term: 4 }, ViewChange::Majority(false)];
        assert_eq!(changes(&old, &new), expected);
    }
}
