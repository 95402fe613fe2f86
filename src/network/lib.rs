//! The network: the overlay that finds nodes, the links that nodes talk over, and a probe of a node's health.
//!
//! Invariants: this room implements ports and decides nothing; it and `api` never import each other.

pub mod link;
pub mod overlay;
pub mod probe;

pub use link::{LinkOptions, Links};
pub use overlay::Libp2pOverlay;
pub use probe::GrpcProbe;
