//! The load generator's own clock. It measures a real server, so it reads real time and not a `ports::Clock`; under a
//! paused tokio clock (unit tests) it follows that one.

use std::{process, time::UNIX_EPOCH};

use tokio::time::Instant;

/// The present moment, monotonic.
#[expect(clippy::disallowed_methods, reason = "a load generator measures real time")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// A name for one run, different from that of every other run against the same store.
#[expect(clippy::disallowed_methods, reason = "names a run, decides nothing")]
pub(super) fn run_name() -> String {
    let since_epoch = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since_epoch.as_nanos(), process::id())
}
