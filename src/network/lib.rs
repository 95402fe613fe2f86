//! What speaks to other nodes: the overlay that finds them, the links that they talk over, and one bounded look at whether
//! a node serves.
//!
//! Invariants: this room implements ports and decides nothing; it and `api` never import each other.

pub mod link;
pub mod memory;
pub mod overlay;
pub mod probe;

pub use link::{LinkOptions, Links};
pub use memory::{MemoryLinks, MemoryNetwork};
pub use overlay::Libp2pOverlay;
pub use probe::GrpcProbe;
