//! One pass over the registers of a node: what it shares with each other member, and what can be cleared away.

use std::collections::{BTreeMap, BTreeSet};

use super::{PART_MAX, RegisterCursor, SharedPart, SharedRegister};
use crate::{
    group::view::{Liveness, View},
    model::{
        node_id::NodeId,
        object::{ObjectId, Version},
    },
    register::{Ballot, SHARDS, replicas},
    repair::digest::{BucketSet, Digest, Fingerprint, bucket_of},
};

/// The most registers that one survey names for clearing.
pub const BURIALS_MAX: usize = 4_096;

/// The most registers that are read at a time.
const READ_MAX: usize = 1_000;
/// The most registers that one part of a walk looks at.
const LOOKS_MAX: usize = 20_000;

/// The stable configuration that replica sets are taken from, seen from one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// This node.
    pub this: NodeId,
    /// The group.
    pub group: String,
    /// The epoch.
    pub epoch: u64,
    /// The members.
    pub members: BTreeSet<NodeId>,
    /// How many of them keep each object.
    pub replication_factor: u32,
}

impl Scope {
    /// Reads it from a view, with the members that answer. `None` without a group and while one changes: the rescan of the
    /// change does what a repair would do.
    pub fn of(view: &View) -> Option<(Self, BTreeSet<NodeId>)> {
        let table = view.group()?;
        let configuration = table.configuration();
        let this = view.this.node;
        if configuration.is_joint() || !configuration.members.contains(&this) {
            return None;
        }
        let alive = |node: &&NodeId| view.sighting(node).liveness == Liveness::Alive;
        let alive = configuration.members.iter().filter(alive).copied().collect();
        let scope = Self {
            this,
            group: table.name.clone(),
            epoch: configuration.epoch,
            members: configuration.members.clone(),
            replication_factor: configuration.replication_factor,
        };
        Some((scope, alive))
    }

    /// Returns the members that keep an object, best first.
    pub fn replicas(&self, id: &ObjectId) -> Vec<NodeId> {
        replicas(id, &self.members, self.replication_factor)
    }

    /// Tells whether this node and another one both keep an object.
    pub fn shares(&self, id: &ObjectId, other: NodeId) -> bool {
        let replicas = self.replicas(id);
        replicas.contains(&self.this) && replicas.contains(&other)
    }

    /// Tells whether this node is the one to look after an object: the first replica that answers. Two members may both
    /// take it on for a moment; that costs a round and does no harm.
    pub fn looks_after(&self, id: &ObjectId, alive: &BTreeSet<NodeId>) -> bool {
        let replicas = self.replicas(id);
        let first = replicas.iter().find(|node| **node == self.this || alive.contains(node));
        first == Some(&self.this)
    }
}

/// What a survey looks at of one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyHead {
    /// The object.
    pub id: ObjectId,
    /// Under which ballot its value was accepted.
    pub accepted: Ballot,
    /// The version of the value; `None` = there never was one.
    pub version: Option<Version>,
    /// Whether it is an object, and no tombstone.
    pub is_live: bool,
}

/// A register that can go once every replica has the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Burial {
    /// The object.
    pub id: ObjectId,
    /// The version of the tombstone; [`Version::default`] = there never was an object.
    pub version: Version,
}

/// What a pass has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// For each other member the digest of what both share.
    pub shared: BTreeMap<NodeId, Digest>,
    /// Registers that this node should clear away, at most [`BURIALS_MAX`].
    pub burials: Vec<Burial>,
    /// Whether there are more of those.
    pub more_burials: bool,
    /// How many registers there are.
    pub registers: u64,
}

impl Survey {
    /// Passes over all registers. `read` returns those of a shard behind an id, sorted, at most so many; none = there are no
    /// more.
    ///
    /// # Errors
    /// As `read`.
    pub fn take<E>(
        scope: &Scope,
        alive: &BTreeSet<NodeId>,
        mut read: impl FnMut(u8, Option<&ObjectId>, usize) -> Result<Vec<SurveyHead>, E>,
    ) -> Result<Self, E> {
        let mut survey = Self::begin(scope);
        for shard in 0..SHARDS {
            let mut after = None;
            loop {
                let heads = read(shard, after.as_ref(), READ_MAX)?;
                let Some(last) = heads.last() else { break };
                after = Some(last.id.clone());
                heads.into_iter().for_each(|head| survey.add(scope, alive, head));
            }
        }
        Ok(survey)
    }

    fn begin(scope: &Scope) -> Self {
        let others = scope.members.iter().filter(|node| **node != scope.this);
        Self { shared: others.map(|node| (*node, Digest::default())).collect(), ..Self::default() }
    }

    fn add(&mut self, scope: &Scope, alive: &BTreeSet<NodeId>, head: SurveyHead) {
        self.registers += 1;
        if head.version.is_some() {
            let replicas = scope.replicas(&head.id);
            if replicas.contains(&scope.this) {
                let bucket = bucket_of(head.id.as_str());
                let print = Fingerprint::of_ballot(head.id.as_str(), head.accepted);
                for node in replicas {
                    if let Some(digest) = self.shared.get_mut(&node) {
                        digest.add(bucket, print);
                    }
                }
            }
        }
        if !head.is_live && scope.looks_after(&head.id, alive) {
            if self.burials.len() < BURIALS_MAX {
                let version = head.version.unwrap_or_default();
                self.burials.push(Burial { id: head.id, version });
            } else {
                self.more_burials = true;
            }
        }
    }
}

/// Reads a part of the registers that this node and another one share, in these buckets and behind a place. `read` is as for
/// [`Survey::take`].
///
/// # Errors
/// As `read`.
pub fn walk<E>(
    scope: &Scope,
    other: NodeId,
    buckets: &BucketSet,
    from: &RegisterCursor,
    mut read: impl FnMut(u8, Option<&ObjectId>, usize) -> Result<Vec<SurveyHead>, E>,
) -> Result<SharedPart, E> {
    let (mut part, mut place, mut looks) = (SharedPart::default(), from.clone(), 0);
    while place.shard < SHARDS {
        let heads = read(place.shard, place.after.as_ref(), READ_MAX)?;
        if heads.is_empty() {
            place = RegisterCursor { shard: place.shard + 1, after: None };
            continue;
        }
        for head in heads {
            if part.registers.len() == PART_MAX || looks == LOOKS_MAX {
                part.next = Some(place);
                return Ok(part);
            }
            looks += 1;
            place.after = Some(head.id.clone());
            let is_wanted = head.version.is_some() && buckets.contains(bucket_of(head.id.as_str()));
            if is_wanted && scope.shares(&head.id, other) {
                part.registers.push(SharedRegister { id: head.id, accepted: head.accepted });
            }
        }
    }
    Ok(part)
}
