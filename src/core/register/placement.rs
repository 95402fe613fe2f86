//! Which members keep an object, and how many of them are a quorum. This is the same on every node and must never change: by
//! another rule, objects would not be found.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    group::table::{Configuration, Old},
    model::{node_id::NodeId, object::ObjectId},
};

/// Returns the members that keep an object, best first: rendezvous hashing (Thaler and Ravishankar, 1998) with XXH3 (64
/// bits, seed 0) over the 32 bytes of the member's key and then those of the id. The highest come first, and of two that are equal
/// the lesser [`NodeId`].
pub fn replicas(id: &ObjectId, members: &BTreeSet<NodeId>, replication_factor: u32) -> Vec<NodeId> {
    let mut input = Vec::with_capacity(32 + id.as_str().len());
    let mut ranked: Vec<_> = members
        .iter()
        .map(|node| {
            input.clear();
            input.extend_from_slice(node.key());
            input.extend_from_slice(id.as_str().as_bytes());
            (std::cmp::Reverse(xxh3_64(&input)), *node)
        })
        .collect();
    ranked.sort_unstable();
    ranked.truncate(replication_factor as usize);
    ranked.into_iter().map(|(_, node)| node).collect()
}

/// Tells whether a node keeps an object under a configuration: if not, and the configuration is stable, it deletes its copy
/// when it adopts it (rule 3).
pub fn keeps(node: NodeId, id: &ObjectId, configuration: &Configuration) -> bool {
    ReplicaSet::of(id, configuration).place_of(node).is_some()
}

/// Tells whether an object that was accepted takes part in the rescan of a configuration (rule 9): it does if its replica
/// set changes. An object with a lost replica always does: the new set has nobody who is lost.
pub fn is_rescanned(id: &ObjectId, configuration: &Configuration) -> bool {
    let set = ReplicaSet::of(id, configuration);
    set.old.is_some_and(|old| old.left != set.new || old.left.count() < old.count)
}

/// Tells whether an object has lost the majority of its old replicas (rule 14).
pub fn is_forced(id: &ObjectId, configuration: &Configuration) -> bool {
    configuration.is_forced() && ReplicaSet::of(id, configuration).is_forced()
}

/// What a configuration means for a register that a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterFate {
    /// Nothing.
    Stays,
    /// It is not the node's any more (rule 3).
    Gone,
    /// It takes part in the rescan (rule 9).
    Rescanned,
}

/// Decides what a configuration that a node adopts means for one of its registers.
pub fn fate(
    id: &ObjectId,
    is_accepted: bool,
    configuration: &Configuration,
    node: NodeId,
) -> RegisterFate {
    match configuration.is_joint() {
        true if is_accepted && is_rescanned(id, configuration) => RegisterFate::Rescanned,
        false if !keeps(node, id, configuration) => RegisterFate::Gone,
        _ => RegisterFate::Stays,
    }
}

/// Tells whether a node takes part in a configuration, as an old member or as a new one.
pub(super) fn names(configuration: &Configuration, node: NodeId) -> bool {
    let is_old = |old: &Old| old.members.contains(&node) && !old.lost.contains(&node);
    configuration.members.contains(&node) || configuration.old.as_ref().is_some_and(is_old)
}

/// Some of the nodes of a [`ReplicaSet`], by their places in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Places(u128);

impl Places {
    /// Returns the same with one more.
    #[must_use]
    pub fn with(self, place: u32) -> Self {
        Self(self.0 | 1 << place)
    }

    /// Tells whether a place is among them.
    pub fn has(self, place: u32) -> bool {
        self.0 >> place & 1 == 1
    }

    /// Returns those that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns those of both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Tells whether there are none.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Returns how many they are.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn is_majority_of(self, set: Self) -> bool {
        self.and(set).count() > set.count() / 2
    }
}

/// The nodes that keep one object under one configuration. Under a joint one that is two sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSet {
    nodes: Vec<NodeId>,
    new: Places,
    old: Option<OldReplicas>,
}

/// The replicas that an object comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OldReplicas {
    /// Those that are not lost.
    left: Places,
    /// How many there were.
    count: u32,
}

impl OldReplicas {
    /// Tells whether those that are left are no majority (rule 14).
    fn is_forced(self) -> bool {
        self.left.count() <= self.count / 2
    }

    fn has_majority(self, those: Places) -> bool {
        those.and(self.left).count() > self.count / 2
    }
}

impl ReplicaSet {
    /// The most nodes that it can have: two full sets.
    const NODES_MAX: usize = 128;

    /// Finds the nodes that keep an object.
    pub fn of(id: &ObjectId, configuration: &Configuration) -> Self {
        let Configuration { members, replication_factor, .. } = configuration;
        let mut set = Self { nodes: Vec::new(), new: Places(0), old: None };
        set.new = set.place(replicas(id, members, *replication_factor));
        if let Some(old) = &configuration.old {
            let mut nodes = replicas(id, &old.members, old.replication_factor);
            let count = nodes.len() as u32;
            nodes.retain(|node| !old.lost.contains(node));
            set.old = Some(OldReplicas { left: set.place(nodes), count });
        }
        set
    }

    fn place(&mut self, nodes: Vec<NodeId>) -> Places {
        let mut places = Places(0);
        for node in nodes {
            let known = self.nodes.iter().position(|held| *held == node);
            let place = known.unwrap_or(self.nodes.len());
            if place >= Self::NODES_MAX {
                break;
            }
            if known.is_none() {
                self.nodes.push(node);
            }
            places = places.with(place as u32);
        }
        places
    }

    /// Returns the same with the new set alone: a mistake, for tests.
    pub(super) fn new_only(mut self) -> Self {
        self.old = None;
        self.nodes.truncate(self.new.count() as usize);
        self
    }

    /// Returns the same with the old set alone: a mistake, for tests.
    pub(super) fn old_only(self) -> Self {
        let Some(old) = self.old else { return self };
        let of_old = self.nodes.iter().enumerate().filter(|(place, _)| old.left.has(*place as u32));
        let nodes: Vec<_> = of_old.map(|(_, node)| *node).collect();
        let new = (0..nodes.len() as u32).fold(Places(0), Places::with);
        Self { nodes, new, old: None }
    }

    /// Returns the nodes, each once, with their places.
    pub fn nodes(&self) -> impl Iterator<Item = (u32, NodeId)> {
        self.nodes.iter().enumerate().map(|(place, node)| (place as u32, *node))
    }

    /// Returns the place of a node; `None` = it does not keep the object.
    pub fn place_of(&self, node: NodeId) -> Option<u32> {
        self.nodes.iter().position(|held| *held == node).map(|place| place as u32)
    }

    /// Returns all places.
    pub fn all(&self) -> Places {
        self.old.map_or(self.new, |old| self.new.or(old.left))
    }

    /// Tells whether these are all.
    pub fn has_all(&self, those: Places) -> bool {
        self.all().without(those).is_none()
    }

    /// Tells whether one node alone keeps the object, and no change is under way.
    pub fn is_only(&self, node: NodeId) -> bool {
        self.old.is_none() && self.nodes == [node]
    }

    /// Tells whether the object has lost the majority of its old replicas (rule 14).
    pub fn is_forced(&self) -> bool {
        self.old.is_some_and(OldReplicas::is_forced)
    }

    /// Tells whether a value is decided once `those` have accepted it. No old majority is wanted where there is none.
    pub fn decides(&self, those: Places) -> bool {
        let is_enough = |old: OldReplicas| old.is_forced() || old.has_majority(those);
        those.is_majority_of(self.new) && self.old.is_none_or(is_enough)
    }

    /// Tells whether the answers of `those` are enough to see everything that was decided. Where the old majority is lost (rule
    /// 14) all of them are needed: what it had kept may be on one of them alone.
    pub fn sees(&self, those: Places) -> bool {
        if self.is_forced() { self.has_all(those) } else { self.decides(those) }
    }

    /// Returns how many of `those` there are, and how many are needed, in the set that is short of them.
    pub fn shortage(&self, those: Places) -> (u32, u32) {
        match self.old {
            Some(old) if old.is_forced() => (those.count(), self.all().count()),
            Some(old) if !old.has_majority(those) => {
                (those.and(old.left).count(), old.count / 2 + 1)
            }
            _ => (those.and(self.new).count(), self.new.count() / 2 + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::shard_of;

    fn node(n: u8) -> NodeId {
        NodeId::from_key([n; 32])
    }

    fn nodes(range: impl IntoIterator<Item = u8>) -> BTreeSet<NodeId> {
        range.into_iter().map(node).collect()
    }

    fn id(text: &str) -> ObjectId {
        ObjectId::parse(text).unwrap()
    }

    /// The vectors were made with another implementation: python-xxhash 4.1.0, `xxh3_64_intdigest(key + id)`.
    #[test]
    fn objects_are_placed_as_the_test_vectors_say() {
        let long = "x".repeat(300);
        let table: [(&str, [u8; 7], u8); 5] = [
            ("a", [6, 5, 7, 3, 4, 2, 1], 7),
            ("object-1", [7, 3, 5, 1, 2, 6, 4], 0),
            ("world/7/tree:42", [4, 2, 1, 3, 7, 5, 6], 7),
            ("é", [1, 4, 2, 3, 5, 7, 6], 3),
            (&long, [5, 7, 1, 3, 4, 2, 6], 4),
        ];
        for (text, order, shard) in table {
            let order = order.map(node);
            for factor in [1, 3, 7] {
                let found = replicas(&id(text), &nodes(1..=7), factor);
                assert_eq!(found, order[..factor as usize], "{text}");
            }
            assert_eq!(replicas(&id(text), &nodes(1..=7), 64), order, "{text}");
            assert_eq!(shard_of(&id(text)), shard, "{text}");
        }
        let hash = |n: u8| xxh3_64(&[&[n; 32][..], b"object-1"].concat());
        assert_eq!((hash(1), hash(2)), (0x8f87_3bc0_0fb5_74de, 0x7693_976f_c68a_5bd8));
    }

    /// When any member leaves, no other member loses an object by it.
    #[test]
    fn a_member_that_leaves_is_followed_by_the_next_one() {
        for n in 0..200 {
            let id = id(&format!("object-{n}"));
            let before = replicas(&id, &nodes(1..=7), 3);
            for leaver in &before {
                let mut rest = nodes(1..=7);
                rest.remove(leaver);
                let after = replicas(&id, &rest, 3);
                assert!(before.iter().filter(|node| *node != leaver).all(|n| after.contains(n)));
            }
        }
    }

    #[test]
    fn a_joint_configuration_needs_a_quorum_of_both_sets_and_what_has_lost_one_hears_everybody() {
        let old = Old { members: nodes(1..=3), replication_factor: 3, lost: nodes([]) };
        let mut joint = Configuration {
            epoch: 2,
            members: nodes(3..=5),
            replication_factor: 3,
            old: Some(old),
        };
        let id = id("a");
        let set = ReplicaSet::of(&id, &joint);
        let places = |which: &[u8]| {
            let place = |n: &u8| set.place_of(node(*n)).unwrap();
            which.iter().map(place).fold(Places::default(), Places::with)
        };
        assert_eq!(set.nodes().count(), 5);
        for (those, decides) in [
            (&[1, 2][..], false),
            (&[4, 5], false),
            (&[3, 1], false),
            (&[3, 1, 4], true),
            (&[1, 2, 4, 5], true),
        ] {
            assert_eq!(set.decides(places(those)), decides, "{those:?}");
            assert_eq!(set.sees(places(those)), decides, "{those:?}");
        }
        assert_eq!(set.shortage(places(&[4, 5])), (0, 2));
        assert_eq!(set.shortage(places(&[1, 2, 4])), (1, 2));

        // One of three is lost: the other two are still the majority that they were, and nothing is forced.
        joint.members = nodes(2..=5);
        let set_with_lost = |lost: &[u8], joint: &mut Configuration| {
            joint.old.as_mut().unwrap().lost = nodes(lost.iter().copied());
            ReplicaSet::of(&id, joint)
        };
        let among = |set: &ReplicaSet, which: &[u8]| {
            let place = |n: &u8| set.place_of(node(*n));
            which.iter().filter_map(place).fold(Places::default(), Places::with)
        };
        let one = set_with_lost(&[1], &mut joint);
        assert!(one.place_of(node(1)).is_none() && !one.is_forced());
        assert!(!one.sees(among(&one, &[2, 4, 5])) && one.sees(among(&one, &[2, 3, 4, 5])));
        // Two are lost: the third is heard, and so is everybody else.
        let two = set_with_lost(&[1, 2], &mut joint);
        assert!(two.is_forced() && is_forced(&id, &joint) && is_rescanned(&id, &joint));
        let new: Vec<u8> = (3..=5).filter(|n| two.place_of(node(*n)).is_some()).collect();
        assert!(two.sees(among(&two, &new)) && !two.sees(among(&two, &new[1..])));
        assert!(two.decides(among(&two, &new[..2])));

        joint.members = nodes(1..=3);
        set_with_lost(&[], &mut joint);
        assert!(!is_rescanned(&id, &joint));
        joint.members = nodes(1..=4);
        let moved = keeps(node(4), &id, &joint);
        assert_eq!(is_rescanned(&id, &joint), moved);
    }

    #[test]
    fn one_node_alone_is_known_as_such() {
        let mut of_one =
            Configuration { epoch: 1, members: nodes(1..=1), replication_factor: 3, old: None };
        assert!(ReplicaSet::of(&id("a"), &of_one).is_only(node(1)));
        assert!(!ReplicaSet::of(&id("a"), &of_one).is_only(node(2)));
        of_one.old = Some(Old { members: nodes(1..=1), replication_factor: 1, lost: nodes([]) });
        assert!(!ReplicaSet::of(&id("a"), &of_one).is_only(node(1)));
    }
}
