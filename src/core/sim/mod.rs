//! The cores under seeded simulations: many nodes, messages that are lost and late, crashes, and an oracle that judges.
//! They are tests of this room, because the mistakes that they put in on purpose (`Faults`) exist in tests alone.
#![allow(
    dead_code,
    reason = "the linearizability checker is shared with the tests of real processes"
)]

#[path = "../../../tests/support/linearizability.rs"]
mod linearizability;
mod membership;
mod outbox;
mod registers;
