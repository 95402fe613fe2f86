//! Where the node's view of itself and its group is published: one writer, any number of readers, who never wait.
//!
//! Publishing is also where a change of role, member or epoch is logged and counted, so that each is told once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use tracing::{info, warn};

use nomad_core::group::{
    view::View,
    view_change::{ViewChange, changes},
};

/// The published view, shared.
pub type GroupView = Arc<Published>;

/// The published view.
#[derive(Debug)]
pub struct Published {
    current: ArcSwap<View>,
    changed: watch::Sender<()>,
    joins: AtomicU64,
    removals: AtomicU64,
    leader_changes: AtomicU64,
}

/// What has changed since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ViewCounts {
    /// Members that came into the group while this node was in it.
    pub joins: u64,
    /// Members that went.
    pub removals: u64,
    /// Times that the group got a super-peer which it did not have before.
    pub leader_changes: u64,
}

impl Published {
    /// Publishes the first view.
    pub fn new(view: View) -> GroupView {
        Arc::new(Self {
            current: ArcSwap::from_pointee(view),
            changed: watch::Sender::new(()),
            joins: AtomicU64::new(0),
            removals: AtomicU64::new(0),
            leader_changes: AtomicU64::new(0),
        })
    }

    /// Returns the view, for a moment.
    pub fn load(&self) -> Guard<Arc<View>> {
        self.current.load()
    }

    /// Returns the view, to keep.
    pub fn load_full(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// Publishes the next view. Only the actor that owns the view calls this.
    pub fn publish(&self, next: View) {
        let old = self.current.swap(Arc::new(next));
        let new = self.current.load();
        for change in changes(&old, &new) {
            self.tell(&change, &new);
        }
        self.changed.send_replace(());
    }

    /// Watches for new views; says nothing about which.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns the counters.
    pub fn counts(&self) -> ViewCounts {
        ViewCounts {
            joins: self.joins.load(Relaxed),
            removals: self.removals.load(Relaxed),
            leader_changes: self.leader_changes.load(Relaxed),
        }
    }

    fn tell(&self, change: &ViewChange, view: &View) {
        let group = view.group().map(|table| table.name.as_str());
        match change {
            ViewChange::Group { from, to: Some(to) } => {
                info!(group = to, from, "the node is in a group");
            }
            ViewChange::Group { from, to: None } => warn!(from, "the node is in no group"),
            ViewChange::Role { from, to } => {
                info!(group, state = to.as_str(), from = from.as_str(), "the node's role changed");
            }
            ViewChange::SuperPeer { to: Some(node), term } => {
                self.leader_changes.fetch_add(1, Relaxed);
                info!(group, superPeer = %node, term, "the group has a super-peer");
            }
            ViewChange::SuperPeer { to: None, term } => {
                info!(group, term, "the group has no super-peer: it elects one");
            }
            ViewChange::Epoch { to, members, joint } => {
                info!(group, epoch = to, members, joint, "the group has a new configuration");
            }
            ViewChange::Joined(node) => {
                self.joins.fetch_add(1, Relaxed);
                info!(group, member = %node, "a member has joined the group");
            }
            ViewChange::Removed(node) => {
                self.removals.fetch_add(1, Relaxed);
                info!(group, member = %node, "a member has left the group");
            }
            ViewChange::Majority(true) => info!(group, "the group has its majority back"),
            ViewChange::Majority(false) => warn!(group, "the group has lost its majority"),
        }
    }
}
