//! Pure protocol: value types and state machines, no more.
//!
//! Invariants: nothing here awaits, reads a clock, draws a random number, logs, or does IO. Time and randomness arrive
//! as arguments; effects leave as data. `core` imports no other room.

pub mod group;
pub mod ledger;
pub mod listing;
pub mod machine;
pub mod model;
pub mod outbox;
pub mod register;
pub mod repair;
#[cfg(test)]
mod sim;
pub mod world;
