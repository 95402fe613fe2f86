//! Seeded simulations of the cores: many nodes, lost and late messages, crashes, and an oracle that checks every step.
//! They are unit tests of this crate, because the bugs that they switch on (`Faults`) are compiled for its tests only.
#![allow(
    dead_code,
    reason = "the linearizability checker is shared with the tests of real processes"
)]

#[path = "../../../tests/support/linearizability.rs"]
mod linearizability;
mod membership;
mod outbox;
mod registers;
