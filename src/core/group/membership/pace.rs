//! A membership's own time and its jitter.
//!
//! Time in which the process did not run does not count: when it was stopped, or its clock jumped, the other nodes were not
//! silent for that long. So a step counts for two seconds at most.

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use crate::model::time::MonotonicUs;

/// A point in lived time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Lived(u64);

impl Lived {
    pub(super) fn plus(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    pub(super) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Counts lived time, gathers what is to be waited for, and draws numbers.
#[derive(Debug)]
pub(super) struct LivedClock {
    last: Option<MonotonicUs>,
    lived: Lived,
    wake: Lived,
    random: SmallRng,
}

/// The most that one step counts for.
const STEP_US_MAX: u64 = 2_000_000;
/// The longest sleep. Shorter than [`STEP_US_MAX`], so that a process that runs loses no time.
const SLEEP_US_MAX: u64 = 1_000_000;

impl LivedClock {
    pub(super) fn new(seed: u64) -> Self {
        Self { last: None, lived: Lived(0), wake: Lived(0), random: SmallRng::seed_from_u64(seed) }
    }

    /// Takes note of the time at the start of a step.
    pub(super) fn advance(&mut self, now: MonotonicUs) {
        let passed = self.last.map_or(0, |last| now.since(last));
        self.last = Some(self.last.map_or(now, |last| last.max(now)));
        self.lived = self.lived.plus(passed.min(STEP_US_MAX));
        self.wake = self.lived.plus(SLEEP_US_MAX);
    }

    /// Returns the present in lived time.
    pub(super) fn now(&self) -> Lived {
        self.lived
    }

    /// Returns the present as the shell's clock says it.
    pub(super) fn clock(&self) -> MonotonicUs {
        self.last.unwrap_or_default()
    }

    /// Tells whether a time has come. When it has not, the membership is woken then.
    pub(super) fn is_due(&mut self, at: Lived) -> bool {
        if self.lived >= at {
            return true;
        }
        self.wake = self.wake.min(at);
        false
    }

    /// Returns when the next step is due at the latest.
    pub(super) fn wake(&self) -> MonotonicUs {
        self.clock().plus_us(self.wake.since(self.lived))
    }

    /// Draws a number below `below`, which is above 0.
    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.random.random_range(0..below.max(1))
    }

    /// Returns a time between `us` and one and a half of it from now.
    pub(super) fn about(&mut self, us: u64) -> Lived {
        let jitter = self.draw(us / 2 + 1);
        self.lived.plus(us.saturating_add(jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_of_the_clock_counts_as_one_step() {
        let mut pace = LivedClock::new(1);
        pace.advance(MonotonicUs(5_000_000_000));
        let grace = pace.now().plus(10_000_000);
        pace.advance(MonotonicUs(9_000_000_000));
        assert!(!pace.is_due(grace));
        for second in 1..=8 {
            assert!(!pace.is_due(grace));
            pace.advance(MonotonicUs(9_000_000_000 + second * 1_000_000));
        }
        assert!(pace.is_due(grace));
    }

    #[test]
    fn the_clock_that_goes_back_is_not_followed() {
        let mut pace = LivedClock::new(1);
        pace.advance(MonotonicUs(10_000_000));
        pace.advance(MonotonicUs(1_000_000));
        pace.advance(MonotonicUs(10_500_000));
        assert_eq!(pace.now(), Lived(500_000));
    }
}
