//! A hybrid logical clock: versions that follow the wall clock while it behaves and never go back when it does not.
//!
//! After Kulkarni et al., "Logical Physical Clocks" (2014), with the counter in the low 16 bits of the time as in
//! `uhlc`, whose clock cannot be driven from outside. The caller keeps the last version durably and starts from it.

use crate::model::{object::Version, time::UnixMs};

const COUNTER_BITS: u32 = 16;

/// The source of a node's versions. Each one given is greater than all given or seen before.
///
/// A node has several: one in each shard of its registers, one in its store, one in its outbox. Two of them may give a
/// version to the same object only if one is the outbox's; its times are odd and all others even, so that no two versions of
/// an object are equal.
#[derive(Debug, Clone)]
pub struct HybridClock {
    last_time: u64,
    node: u64,
    /// The lowest bit of the times given.
    lane: u64,
}

const LANE_ROUNDS: u64 = 0;
const LANE_OUTBOX: u64 = 1;

impl HybridClock {
    /// Starts a clock for the node with tag `node` that stays above `latest`, the greatest version known.
    pub fn new(node: u64, latest: Option<Version>) -> Self {
        Self { last_time: latest.map_or(0, |version| version.time), node, lane: LANE_ROUNDS }
    }

    /// Starts the clock of the node's fast writes, which never gives a version that one from [`new`](Self::new) gives.
    pub fn for_outbox(node: u64, latest: Option<Version>) -> Self {
        Self { lane: LANE_OUTBOX, ..Self::new(node, latest) }
    }

    /// Gives the next version. A wall clock that was set back does not hold it back.
    pub fn tick(&mut self, now: UnixMs) -> Version {
        let wall = now.0.min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS;
        // A full counter carries into the milliseconds: the time runs ahead rather than repeats.
        let least = wall.max(self.last_time.saturating_add(1));
        self.last_time = least.saturating_add((least ^ self.lane) & 1);
        Version { time: self.last_time, node: self.node }
    }

    /// Takes note of a version that another node gave, so that the next one here is greater.
    pub fn observe(&mut self, seen: Version) {
        self.last_time = self.last_time.max(seen.time);
    }

    /// Returns the greatest version given or seen so far, as it must be kept across a restart.
    pub fn last(&self) -> Version {
        Version { time: self.last_time, node: self.node }
    }
}

/// Returns the time of the clock at which a version was given, as near as the version tells.
pub fn at(version: Version) -> UnixMs {
    UnixMs(version.time >> COUNTER_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A later version is always greater, also when the wall clock jumps or the node restarts.
        #[test]
        fn versions_only_grow(walls in prop::collection::vec((0u64..1 << 47, any::<bool>()), 1..200)) {
            let mut clock = HybridClock::new(7, None);
            let mut last = Version::default();
            for (wall, restart) in walls {
                if restart {
                    clock = HybridClock::new(7, Some(last));
                }
                let version = clock.tick(UnixMs(wall));
                prop_assert!(version > last);
                prop_assert_eq!(version, clock.last());
                last = version;
            }
        }

        #[test]
        fn a_fast_write_never_has_the_version_of_another_write(walls in prop::collection::vec(0u64..4, 1..50)) {
            let (mut rounds, mut outbox) = (HybridClock::new(7, None), HybridClock::for_outbox(7, None));
            let mut given = std::collections::BTreeSet::new();
            for wall in walls {
                let (first, second) = (rounds.tick(UnixMs(wall)), outbox.tick(UnixMs(wall)));
                prop_assert!(given.insert(first) && given.insert(second));
                rounds.observe(second);
                outbox.observe(first);
            }
        }

        #[test]
        fn a_version_seen_from_elsewhere_is_passed(seen: u32, wall in 0u64..1 << 40) {
            let seen = Version { time: u64::from(seen) << 20, node: u64::MAX };
            let mut clock = HybridClock::new(1, None);
            clock.observe(seen);
            prop_assert!(clock.tick(UnixMs(wall)) > seen);
        }

        #[test]
        fn a_healthy_wall_clock_is_followed_to_the_millisecond(wall in 1u64..1 << 47) {
            let mut clock = HybridClock::new(1, None);
            prop_assert_eq!(clock.tick(UnixMs(wall)).time >> COUNTER_BITS, wall);
        }
    }
}
