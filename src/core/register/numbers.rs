//! The numbers that this node never gives twice: its counter and its versions. Both are reserved durably in blocks, ahead of
//! their use (rule 1), so that nothing that is used needs a write of its own.

use super::{ShardState, options::Faults};
use crate::core::{hlc::HybridClock, object::Version, time::UnixMs};

/// How many counters are reserved at a time.
const COUNTERS: u64 = 1 << 20;
/// How many versions: those of about half a second. After a restart versions run ahead of the clock by no more.
const VERSION_TIMES: u64 = 512 << 16;
/// How far a version that was seen elsewhere may lead the clock: an hour. One that lies further ahead is passed for its object
/// alone.
const AHEAD_MAX: u64 = (3_600_000) << 16;

#[derive(Debug)]
pub(super) struct Numbers {
    tag: u64,
    /// The counter used last.
    counter: u64,
    clock: HybridClock,
    /// The durable limits of the two.
    counter_limit: u64,
    version_limit: u64,
}

impl Numbers {
    pub fn new(
        tag: u64,
        state: Option<&ShardState>,
        floor: Option<Version>,
        faults: Faults,
    ) -> Self {
        let (counter_limit, version_limit) =
            state.map_or((0, 0), |state| (state.counter_limit, state.version_limit));
        let floor = Version { time: version_limit, node: tag }.max(floor.unwrap_or_default());
        Self {
            tag,
            counter: if faults.volatile_counter { 0 } else { counter_limit },
            clock: HybridClock::new(tag, Some(floor)),
            counter_limit,
            version_limit,
        }
    }

    /// Returns the counter used last.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Takes note of a counter that was used elsewhere: the next one here is greater.
    pub fn pass_counter(&mut self, counter: u64) {
        self.counter = self.counter.max(counter);
    }

    /// Gives a version above `current`. Its time is even, as the clock's are.
    pub fn version(&mut self, now: UnixMs, current: Option<Version>) -> Version {
        let version = self.clock.tick(now);
        let Some(current) = current.filter(|current| version <= *current) else { return version };
        let time = (current.time | 1).saturating_add(1);
        let version = Version { time, node: self.tag };
        if time.saturating_sub(now.0.saturating_mul(1 << 16)) < AHEAD_MAX {
            self.clock.observe(version);
        }
        version
    }

    /// Reserves what has been used, and some more, in `state`. Returns whether that has changed, and whether what was used last
    /// may leave only once it is durable.
    pub fn reserve(&self, state: &mut ShardState) -> (bool, bool) {
        let mut is_news = false;
        if self.counter + COUNTERS / 2 >= state.counter_limit {
            state.counter_limit = self.counter + COUNTERS;
            is_news = true;
        }
        let time = self.clock.last().time;
        if time.saturating_add(VERSION_TIMES / 2) >= state.version_limit {
            state.version_limit = time.saturating_add(VERSION_TIMES);
            is_news = true;
        }
        (is_news, self.counter >= self.counter_limit || time >= self.version_limit)
    }

    /// Takes note of limits that have become durable.
    pub fn kept(&mut self, (counter_limit, version_limit): (u64, u64)) {
        self.counter_limit = self.counter_limit.max(counter_limit);
        self.version_limit = self.version_limit.max(version_limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        register::{Ballot, Faults},
        table::Configuration,
    };

    const NOW: UnixMs = UnixMs(1_000_000);

    fn state() -> ShardState {
        let configuration = Configuration {
            epoch: 1,
            members: std::collections::BTreeSet::new(),
            replication_factor: 1,
            old: None,
        };
        ShardState {
            group: String::new(),
            claim: 1,
            configuration,
            counter_limit: 0,
            version_limit: 0,
            floor: Ballot::NONE,
        }
    }

    fn start(state: &ShardState) -> Numbers {
        Numbers::new(7, Some(state), None, Faults::NONE)
    }

    /// However it ends, a later life gives no number that an earlier one may have used.
    #[test]
    fn no_number_is_given_twice_over_restarts() {
        let (mut state, mut counters, mut versions) = (state(), Vec::new(), Vec::new());
        for life in 0..5u64 {
            let mut numbers = start(&state);
            let mut handed = state.clone();
            for use_of in 0..3 {
                numbers.pass_counter(numbers.counter() + 1);
                // The clock is set back a little in each life.
                let version = numbers.version(UnixMs(NOW.0 - life), None);
                let (_, is_uncovered) = numbers.reserve(&mut handed);
                assert_eq!(is_uncovered, use_of == 0, "life {life}");
                numbers.kept((handed.counter_limit, handed.version_limit));
                state = handed.clone();
                counters.push(numbers.counter());
                versions.push(version);
            }
        }
        assert!(counters.is_sorted_by(|a, b| a < b), "{counters:?}");
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    }

    /// What is reserved is extended long before it is used up, so that nothing waits for it.
    #[test]
    fn a_reservation_is_extended_ahead_of_its_use() {
        let mut state = state();
        let mut numbers = start(&state);
        numbers.pass_counter(1);
        assert_eq!(numbers.reserve(&mut state), (true, true));
        numbers.kept((state.counter_limit, state.version_limit));
        assert_eq!(numbers.reserve(&mut state), (false, false));
        numbers.pass_counter(COUNTERS / 2 + 1);
        assert_eq!(numbers.reserve(&mut state), (true, false));
        // A leap past what is durable waits.
        numbers.pass_counter(COUNTERS * 9);
        assert_eq!(numbers.reserve(&mut state), (true, true));
    }

    #[test]
    fn a_version_is_above_the_one_it_replaces_and_a_distant_one_does_not_drive_the_clock() {
        let mut numbers = start(&state());
        let near = Version { time: (NOW.0 + 1_000) << 16, node: u64::MAX };
        let above = numbers.version(NOW, Some(near));
        assert!(above > near);
        assert!(numbers.version(NOW, None) > above, "the clock follows");
        let distant = Version { time: 1 << 62, node: 3 };
        assert!(numbers.version(NOW, Some(distant)) > distant);
        assert!(numbers.version(NOW, None) < distant);
        for current in [distant, Version { time: (1 << 62) + 1, node: 3 }] {
            assert_eq!(numbers.version(NOW, Some(current)).time % 2, 0);
        }
    }
}
