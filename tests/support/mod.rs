//! What the black-box tests share: real node processes, HTTP and gRPC clients, raw connections for malformed requests,
//! command line runs, and load that records every acknowledgement. Nothing here uses the node's code: only its wire
//! contract and its command line.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "each test file uses its part of this; a failed unwrap here is a failed test"
)]

pub mod cli;
pub mod cluster;
pub mod dns;
pub mod grpc;
pub mod history;
pub mod http;
pub mod json;
pub mod load;
pub mod netns;
pub mod node;
pub mod objects;
pub mod place;
pub mod raw;
pub mod shared;

use std::{
    io::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The longest that any single answer, start or stop may take before the test fails.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An id that no other test of this process uses.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The wall clock in Unix seconds; the node under test reads the same one.
#[expect(
    clippy::disallowed_methods,
    reason = "the node is another process: only the real clock is shared"
)]
pub fn unix_now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// The current time of the monotonic clock, for tests that measure how long something takes.
#[expect(
    clippy::disallowed_methods,
    reason = "the node is another process: only the real clock is shared"
)]
pub fn started() -> std::time::Instant {
    std::time::Instant::now()
}

/// Calls `probe` again and again until it returns something. Fails the test after `limit`.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let polled = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(limit, polled).await {
        Ok(found) => found,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Fails the test when `work` takes longer than `limit`.
pub async fn within<T>(what: &str, limit: Duration, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// The seed of a randomised test, which is printed first: `NOMAD_SEED`, or else a fixed one, so that all runs are the same.
pub fn seed() -> u64 {
    let seed = std::env::var("NOMAD_SEED").map_or(2_006, |text| {
        text.parse().unwrap_or_else(|_| panic!("NOMAD_SEED={text} is no unsigned number"))
    });
    eprintln!("NOMAD_SEED={seed}");
    seed
}

/// Text that must be found in `text`, whatever the case.
#[track_caller]
pub fn assert_says(text: &str, needle: &str) {
    assert!(
        text.to_lowercase().contains(&needle.to_lowercase()),
        "expected {needle:?} to be named in: {text}"
    );
}

/// Whether the long forms of the tests are wanted: `NOMAD_SOAK` is set.
pub fn soak() -> bool {
    std::env::var_os("NOMAD_SOAK").is_some()
}

/// Prints a line also when the test passes: a measured figure, or why something was skipped.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "\n    {line}");
}

/// The value below which `percent` of `sorted` lie.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().checked_sub(1).expect("no measurements");
    sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1).min(last)]
}
