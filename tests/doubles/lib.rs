//! Stand-ins for ports that only tests use: a network without sockets, a clock that stands still.
//!
//! They are a crate of their own, so that several rooms can test with them and none of them is in the program.

mod clock;
mod network;

pub use clock::ManualClock;
pub use network::{MemoryLinks, MemoryNetwork};
