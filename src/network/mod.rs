//! What speaks to other nodes: the overlay that finds them, and one bounded look at whether a node serves.
//!
//! Invariants: this room implements ports and decides nothing; it and `api` never import each other.

pub mod memory_overlay;
pub mod overlay;
pub mod probe;

pub use memory_overlay::{MemoryNetwork, MemoryOverlay};
pub use overlay::Libp2pOverlay;
pub use probe::GrpcProbe;
