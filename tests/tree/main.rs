//! What can be said of the tree without running a node: its rules, its texts, its configuration files.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed unwrap here is a failed test"
)]

mod config;
mod documents;
mod tidy;

use std::path::PathBuf;

/// The root of the tree.
fn root() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", ".."].iter().collect()
}
