//! Which other members are reachable: from this node, and on a super-peer also by the reports of the others.

use std::collections::{BTreeMap, BTreeSet};

use super::{MemberLiveness, pace::Lived};
use crate::{
    group::view::Liveness,
    model::{node_id::NodeId, time::MonotonicUs},
};

/// How many reports in a row have to miss a member before the pair's fault is reported: links of a newcomer take a moment.
const MISSED_MAX: u32 = 2;
/// How far apart they have to be: a newcomer reports twice at once, when it has its place and when it knows its super-peer.
const APART_US: u64 = 1_000_000;

/// The failure detector.
#[derive(Debug, Default)]
pub(super) struct FailureDetector {
    links: BTreeSet<NodeId>,
    heard: BTreeMap<NodeId, (Lived, MonotonicUs)>,
    reports: BTreeMap<NodeId, (Lived, BTreeSet<NodeId>)>,
    /// Who misses whom: in how many reports, and since the last one that counted.
    missed: BTreeMap<(NodeId, NodeId), (u32, Lived)>,
}

impl FailureDetector {
    /// Keeps only which links stand, for another group.
    pub(super) fn of_links(self) -> Self {
        Self { links: self.links, ..Self::default() }
    }

    pub(super) fn link_up(&mut self, node: NodeId) {
        self.links.insert(node);
    }

    pub(super) fn link_down(&mut self, node: NodeId) {
        self.links.remove(&node);
    }

    pub(super) fn is_linked(&self, node: NodeId) -> bool {
        self.links.contains(&node)
    }

    pub(super) fn links(&self) -> &BTreeSet<NodeId> {
        &self.links
    }

    /// Takes note that a node said something.
    pub(super) fn hear(&mut self, node: NodeId, now: Lived, clock: MonotonicUs) {
        self.heard.insert(node, (now, clock));
    }

    /// Takes a member's report: whom it reaches. Returns the pairs whose fault is new (`true`) or over.
    pub(super) fn report(
        &mut self,
        from: NodeId,
        reached: BTreeSet<NodeId>,
        others: &BTreeSet<NodeId>,
        now: Lived,
    ) -> Vec<(NodeId, bool)> {
        let mut changed = Vec::new();
        for &to in others {
            // One that is out of reach from here too is not the pair's fault.
            if !reached.contains(&to) && self.links.contains(&to) {
                let (missed, at) = self.missed.entry((from, to)).or_insert((0, now));
                if *missed > 0 && now.since(*at) < APART_US {
                    continue;
                }
                (*missed, *at) = (missed.saturating_add(1), now);
                if *missed == MISSED_MAX {
                    changed.push((to, true));
                }
            } else if self.missed.remove(&(from, to)).is_some_and(|(n, _)| n >= MISSED_MAX) {
                changed.push((to, false));
            }
        }
        self.reports.insert(from, (now, reached));
        changed
    }

    /// Returns when this node heard of another one last, if it has since it started.
    pub(super) fn heard_at(&self, node: NodeId, now: Lived) -> Option<Lived> {
        if self.links.contains(&node) {
            return Some(now);
        }
        self.heard.get(&node).map(|(at, _)| *at)
    }

    /// Returns when this node or anybody who reports to it reached another one last.
    pub(super) fn reached_at(&self, node: NodeId, now: Lived) -> Option<Lived> {
        let by_others = self.reports.iter().filter(|(from, (_, reached))| {
            // What it says of itself is in `heard`.
            **from != node && reached.contains(&node)
        });
        by_others.map(|(_, (at, _))| *at).chain(self.heard_at(node, now)).max()
    }

    /// Tells whether a node was heard of within `us`.
    pub(super) fn is_alive(&self, node: NodeId, now: Lived, us: u64) -> bool {
        self.heard_at(node, now).is_some_and(|at| now.since(at) < us)
    }

    /// Returns how the others look.
    pub(super) fn sightings(
        &self,
        others: impl Iterator<Item = NodeId>,
        now: Lived,
        dead_after_us: u64,
        clock: MonotonicUs,
    ) -> BTreeMap<NodeId, MemberLiveness> {
        let seen = |node: NodeId| {
            let is_missed =
                self.missed.iter().any(|((_, to), (n, _))| *to == node && *n >= MISSED_MAX);
            let reached = self.reached_at(node, now).map(|at| now.since(at));
            let liveness = match reached {
                _ if self.links.contains(&node) && !is_missed => Liveness::Alive,
                Some(ago) if ago < dead_after_us => Liveness::Suspect,
                _ => Liveness::Dead,
            };
            let linked = self.links.contains(&node).then_some(clock);
            MemberLiveness {
                liveness,
                last_heard: linked.or(self.heard.get(&node).map(|(_, at)| *at)),
            }
        };
        others.map(|node| (node, seen(node))).collect()
    }

    /// Forgets everybody else.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&NodeId) -> bool) {
        self.heard.retain(|node, _| is_kept(node));
        self.reports.retain(|node, _| is_kept(node));
        self.missed.retain(|(from, to), _| is_kept(from) && is_kept(to));
    }

    /// Forgets what others have reported, which only the super-peer of their time may act on.
    pub(super) fn forget_reports(&mut self) {
        self.reports.clear();
        self.missed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_at_fault_when_it_is_missed_in_reports_that_are_apart() {
        let [from, to] = [1, 2].map(|n| NodeId::from_key([n; 32]));
        let others = BTreeSet::from([to]);
        let mut watch = FailureDetector::default();
        let report = |watch: &mut FailureDetector, reached: &[NodeId], ms: u64| {
            let now = Lived::default().plus(ms * 1_000);
            watch.report(from, reached.iter().copied().collect(), &others, now)
        };
        assert_eq!(report(&mut watch, &[], 0), [], "nobody reaches it");
        watch.link_up(to);
        assert_eq!(report(&mut watch, &[], 10), []);
        assert_eq!(report(&mut watch, &[], 60), [], "it had no time to make the link");
        assert_eq!(report(&mut watch, &[], 1_100), [(to, true)]);
        assert_eq!(report(&mut watch, &[], 3_000), [], "that is known");
        assert_eq!(report(&mut watch, &[to], 5_000), [(to, false)]);
        assert_eq!(report(&mut watch, &[], 7_000), []);
        assert_eq!(report(&mut watch, &[to], 9_000), []);
    }
}
