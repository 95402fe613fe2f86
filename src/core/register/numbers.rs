//! The numbers that this node never gives twice: its counter and its versions. Both are reserved durably in blocks before
//! they are used (rule 1), so that a single number costs no disk write.

use super::{ShardState, options::RegisterFaults};
use crate::model::{hlc::HybridClock, object::Version, time::UnixMs};

/// How many counters are reserved at a time.
const COUNTERS: u64 = 1 << 20;
/// How many versions: those of about half a second. After a restart versions run ahead of the clock by no more.
const VERSION_TIMES: u64 = 512 << 16;
/// How far a version from another node may be ahead of the clock: an hour. A version that is further ahead affects only its own
/// object.
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
        faults: RegisterFaults,
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

    /// Records a counter that another node has used: the next one here is greater.
    pub fn pass_counter(&mut self, counter: u64) {
        self.counter = self.counter.max(counter);
    }

    /// Gives a version above `current`. Its time is even: the outbox, which has a clock of its own, gives odd ones.
    pub fn version(&mut self, now: UnixMs, current: Option<Version>) -> Version {
        let mut version = self.clock.tick(now);
        if !version.time.is_multiple_of(2) {
            version = self.clock.tick(now);
        }
        let Some(current) = current.filter(|current| version <= *current) else { return version };
        let time = (current.time | 1).saturating_add(1);
        let version = Version { time, node: self.tag };
        if time.saturating_sub(now.0 << 16) < AHEAD_MAX {
            self.clock.observe(version);
        }
        version
    }

    /// Returns a version that no version is above which was given here.
    pub fn last_version(&self) -> Version {
        self.clock.last()
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
