//! Pure protocol: value types and state machines, no more.
//!
//! Invariants: nothing here awaits, reads a clock, draws a random number, logs, or does IO. Time and randomness arrive
//! as arguments; effects leave as data. `core` imports no other room.

pub mod change;
pub mod control;
pub mod decision;
pub mod digest;
pub mod directory;
pub mod durability;
pub mod group;
pub mod hex;
pub mod hlc;
pub mod ledger;
pub mod listing;
pub mod log_state;
pub mod membership;
pub mod node_id;
pub mod object;
pub mod offer;
pub mod outbox;
pub mod quantile;
pub mod range;
pub mod register;
pub mod repair;
pub mod replication;
pub mod restart;
#[cfg(test)]
mod sim;
pub mod table;
pub mod time;
pub mod trace;
pub mod view;
pub mod view_change;
pub mod world;
