//! The local store from outside: objects, registers and the outbox on a real disk, crashes, damage, a failing disk.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed unwrap here is a failed test"
)]

mod damage;
mod objects;
mod outbox;
mod registers;
mod registers_damage;
mod stores;
