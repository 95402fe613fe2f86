//! What speaks to other nodes: today one bounded look at whether a node serves.
//!
//! Invariants: this room implements ports and decides nothing; it and `api` never import each other.

pub mod memory;
pub mod probe;

pub use memory::{MemoryLinks, MemoryNetwork};
pub use probe::GrpcProbe;
