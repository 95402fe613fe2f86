//! Where time comes from. Everything that needs a time takes a [`Clock`], so that tests can drive it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
