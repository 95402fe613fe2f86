//! The values that everything else speaks of: objects and changes of them, versions and time, nodes, requests.
//!
//! Invariant: nothing here knows a group, a register, or any protocol.

pub mod address;
pub mod change;
pub mod durability;
mod hex;
pub mod hlc;
pub mod node_id;
pub mod object;
pub mod pause;
pub mod text;
pub mod time;
pub mod trace;
