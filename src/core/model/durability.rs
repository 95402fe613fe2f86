//! How long an acknowledged write may stay out of reach of a power cut.

use std::time::Duration;

/// When a write reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Before it is acknowledged: each answer waits for the fsync that covers its write.
    #[default]
    Always,
    /// At most this long after it was acknowledged; a crash of the operating system may lose what came later.
    Interval(Duration),
}
