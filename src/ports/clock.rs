//! Where time comes from. Everything that needs a time takes a [`Clock`], so that tests can drive it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use nomad_core::model::time::{MonotonicUs, UnixMs};

/// A wall clock, which may jump, and a monotonic one, which does not.
pub trait Clock: Send + Sync + 'static {
    /// Returns the wall clock's time.
    fn wall(&self) -> UnixMs;
    /// Returns the monotonic time.
    fn monotonic(&self) -> MonotonicUs;
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts the monotonic clock at 1 second, so that no reading is 0.
    #[expect(clippy::disallowed_methods, reason = "this is the adapter for the real clock")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the adapter for the real clock")]
    fn wall(&self) -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(since.as_millis() as u64)
    }

    fn monotonic(&self) -> MonotonicUs {
        MonotonicUs(self.start.elapsed().as_micros() as u64 + 1_000_000)
    }
}

/// A clock that stands still until a test moves it, either way.
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
