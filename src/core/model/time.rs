//! Points in time, each in a type that names its unit. The core never reads a clock: these arrive as arguments.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01 UTC, as clients write times.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct UnixSecs(pub u64);

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(pub u64);

/// Microseconds since an arbitrary start. Never goes back; means nothing outside the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonotonicUs(pub u64);

impl UnixMs {
    /// Returns the whole seconds of this time.
    pub fn secs(self) -> UnixSecs {
        UnixSecs(self.0 / 1000)
    }
}

impl MonotonicUs {
    /// Returns the microseconds from `earlier` to this point, 0 if `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the point `us` microseconds later.
    #[must_use]
    pub fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }
}

impl fmt::Display for UnixSecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
