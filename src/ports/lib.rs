//! Small traits for everything impure: time, randomness, the store, other nodes.
//!
//! Invariants: a port speaks in the types of `core` and names no adapter; `ports` imports `core` and no other room.

pub mod clock;
pub mod consensus;
pub mod durable_state;
pub mod entropy;
pub mod object_store;
pub mod overlay;
pub mod peer_probe;
pub mod peer_transport;
pub mod rounds;

pub use clock::{Clock, SystemClock};
pub use consensus::Consensus;
pub use durable_state::DurableState;
pub use entropy::{Entropy, OsEntropy};
pub use object_store::ObjectStore;
pub use overlay::{Overlay, OverlayRun};
pub use peer_probe::PeerProbe;
pub use peer_transport::{LinkAcceptor, LinkMaker, PeerHandler, PeerTransport};
pub use rounds::Rounds;
