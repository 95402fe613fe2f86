//! What speaks to other nodes: links, and one bounded look at whether a node serves.
//!
//! Invariants: this room implements ports and decides nothing; it and `api` never import each other.

pub mod link;
pub mod probe;

pub use link::{LinkOptions, Links};
pub use probe::GrpcProbe;
