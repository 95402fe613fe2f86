//! A clock that stands still until a test moves it.

use std::sync::atomic::{AtomicU64, Ordering};

use nomad_core::model::time::{MonotonicUs, UnixMs};
use nomad_ports::Clock;

/// A clock that goes only when it is told to, either way.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_ms: AtomicU64,
    monotonic_us: AtomicU64,
}

impl ManualClock {
    /// Starts at this wall time.
    pub fn at(wall: UnixMs) -> Self {
        Self { wall_ms: AtomicU64::new(wall.0), monotonic_us: AtomicU64::new(1_000_000) }
    }

    /// Sets the wall clock, also back; the monotonic clock stays.
    pub fn set_wall(&self, wall: UnixMs) {
        self.wall_ms.store(wall.0, Ordering::SeqCst);
    }

    /// Moves both clocks on.
    pub fn advance_ms(&self, ms: u64) {
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
        self.monotonic_us.fetch_add(ms * 1000, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> UnixMs {
        UnixMs(self.wall_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> MonotonicUs {
        MonotonicUs(self.monotonic_us.load(Ordering::SeqCst))
    }
}
