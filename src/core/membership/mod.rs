//! Membership: which group this node belongs to, and, on a super-peer, who else does. Pure: `step(now, event)` returns
//! what is to be done.
//!
//! The truth about a group is its table, in a log that a majority of its voters agrees on. A node asks for a place
//! under a *claim*: a number that it keeps durably, binds to one group and never uses for another. To go elsewhere it
//! first voids the claim. A super-peer adds a node only after asking it back whether the claim is bound to this group.
//! So no two tables ever hold a node under the same claim, and of two tables that name a node at most one names its
//! present claim: the other one is out of date, learns that when it asks, and removes it.

mod config;
mod effect;
mod event;
mod message;

use std::collections::BTreeMap;

pub use config::{Durable, Faults, MembershipConfig};
pub use effect::{Effect, Enough, Report};
pub use event::{Denied, Event, Order, ProposeFailure, RequestId, Ticket};
pub use message::{AskFailure, Health, MembershipAnswer, MembershipRequest, Refusal};

use super::{
    group::Member,
    node_id::NodeId,
    time::MonotonicUs,
    view::{Liveness, RoleState},
};

/// How a member looks from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// How it looks.
    pub liveness: Liveness,
    /// When this node last heard of it; `None` = not since it started.
    pub last_heard: Option<MonotonicUs>,
}

/// One node's membership.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    this: Member,
    permanent: bool,
    durable: Durable,
    random: u64,
    state: RoleState,
    sightings: BTreeMap<NodeId, Seen>,
    has_majority: bool,
}

impl Membership {
    /// Makes the membership of a node. Nothing happens before [`Event::Started`].
    ///
    /// `seed` is the only source of its jitter.
    pub fn new(
        config: MembershipConfig,
        this: Member,
        permanent: bool,
        durable: Durable,
        seed: u64,
    ) -> Self {
        Self {
            config,
            this,
            permanent,
            durable,
            random: seed,
            state: RoleState::Discovering,
            sightings: BTreeMap::new(),
            has_majority: false,
        }
    }

    /// Advances by one event. The effects are to be carried out in order. Time may stand still or leap, but not go back.
    pub fn step(&mut self, now: MonotonicUs, event: Event) -> Vec<Effect> {
        let _ = (now, event, &self.config, &self.random, self.permanent);
        Vec::new()
    }

    /// Returns where the node stands.
    pub fn state(&self) -> RoleState {
        self.state
    }

    /// Returns the node itself as it describes itself.
    pub fn this(&self) -> &Member {
        &self.this
    }

    /// Returns the claim and what it is bound to, as last made durable.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Returns how the other members look from here.
    pub fn sightings(&self) -> &BTreeMap<NodeId, Seen> {
        &self.sightings
    }

    /// Tells whether a majority of the group's voters was heard of lately.
    pub fn has_majority(&self) -> bool {
        self.has_majority
    }

    /// Tells why the node is not ready to serve its group's objects; `None` when it is.
    pub fn unready(&self) -> Option<&'static str> {
        match self.state {
            RoleState::Discovering => Some("it looks for a group"),
            RoleState::Joining => Some("it waits for a place in a group"),
            RoleState::Leaving => Some("it leaves its group"),
            RoleState::Dissolved => Some("its group was dissolved"),
            RoleState::Electing => Some("its group has no super-peer at the moment"),
            _ if !self.has_majority => Some("its group has no majority"),
            _ => None,
        }
    }
}
