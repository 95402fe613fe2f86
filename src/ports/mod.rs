//! Small traits for everything impure: time, randomness, the store, other nodes.
//!
//! Invariants: a port speaks in the types of `core` and names no adapter; `ports` imports `core` and no other room.

pub mod clock;
pub mod entropy;
pub mod object_store;
pub mod peer_probe;

pub use clock::{Clock, SystemClock};
pub use entropy::{Entropy, OsEntropy};
pub use object_store::ObjectStore;
pub use peer_probe::PeerProbe;
