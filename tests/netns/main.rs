//! Nodes in network namespaces of their own, whose links are cut. They need the rights to make namespaces.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed unwrap here is a failed test"
)]

mod groups;
#[path = "../support/mod.rs"]
mod support;
