//! Decides whether a failed child is started again: at most so often in a window, with a growing pause, then no more.
//! After Erlang/OTP's restart intensity (supervisor behaviour, "Maximum Restart Intensity").

use std::collections::VecDeque;

use nomad_core::model::{pause, time::MonotonicUs};

/// How often a supervisor starts a child again before it gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// The most restarts within the window.
    pub restarts_max: usize,
    /// The window, in microseconds.
    pub window_us: u64,
}

impl Default for Intensity {
    /// Ten restarts in a minute.
    fn default() -> Self {
        Self { restarts_max: 10, window_us: 60_000_000 }
    }
}

/// What to do about a child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartDecision {
    /// Start it again after this pause, in milliseconds.
    RestartAfter {
        /// 0 for the first failure in the window, then doubling up to [`Restarts::PAUSE_MS_MAX`].
        pause_ms: u64,
    },
    /// It failed too often: the supervisor itself fails.
    Escalate,
}

/// The recent failures of one child.
#[derive(Debug, Clone)]
pub struct Restarts {
    intensity: Intensity,
    recent: VecDeque<MonotonicUs>, // invariant: sorted, at most restarts_max long
}

impl Restarts {
    /// The longest pause before a restart.
    pub const PAUSE_MS_MAX: u64 = 2_000;

    /// Starts with no failures.
    pub fn new(intensity: Intensity) -> Self {
        Self { intensity, recent: VecDeque::new() }
    }

    /// Takes note of one failure at `now` and decides.
    pub fn on_failure(&mut self, now: MonotonicUs) -> RestartDecision {
        while self.recent.front().is_some_and(|&at| now.since(at) >= self.intensity.window_us) {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.intensity.restarts_max {
            return RestartDecision::Escalate;
        }
        let earlier = self.recent.len() as u32;
        self.recent.push_back(now);
        let pause_ms = match earlier {
            0 => 0,
            n => pause::doubled(10, n, Self::PAUSE_MS_MAX),
        };
        RestartDecision::RestartAfter { pause_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_keeps_failing_is_given_up_and_one_that_fails_rarely_is_not() {
        let mut restarts = Restarts::new(Intensity { restarts_max: 3, window_us: 1_000 });
        let at = |us| MonotonicUs(us);
        assert_eq!(restarts.on_failure(at(0)), RestartDecision::RestartAfter { pause_ms: 0 });
        assert_eq!(restarts.on_failure(at(1)), RestartDecision::RestartAfter { pause_ms: 20 });
        assert_eq!(restarts.on_failure(at(2)), RestartDecision::RestartAfter { pause_ms: 40 });
        assert_eq!(restarts.on_failure(at(3)), RestartDecision::Escalate);
        for n in 2..50 {
            assert_ne!(restarts.on_failure(at(n * 600)), RestartDecision::Escalate);
        }
    }
}
