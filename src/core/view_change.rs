//! What is different between two views: what is logged, and counted, when a view is published.

use super::{
    node_id::NodeId,
    view::{RoleState, View},
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
    let name = |group: Option<&std::sync::Arc<super::table::Table>>| group.map(|g| g.name.clone());
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
