//! The ledger: which member holds which object, at which version, until when. Never needed for correctness: reads and writes
//! go by the placement of replicas and by quorums; the ledger is what clients and operators look at.
//!
//! [`Ledger`] is the data. Every member keeps what it holds itself; super-peers, redundant ones included, keep it of all
//! members. [`Bookkeeper`] decides how the word gets from one to the other: batches of changes at once, and inventory digests
//! now and then for what was lost on the way.

mod book;
mod bookkeeper;
mod entry;
mod message;

pub use book::{
    Added, HeldObject, Holder, Inventory, Ledger, LedgerPage, LedgerTotals, ObjectHolders,
};
pub use bookkeeper::{
    Bookkeeper, LedgerEffect, LedgerEvent, LedgerScope, LedgerStanding, Reference, Word,
};
pub use message::{LIMIT_ENTRIES, LedgerAnswer, LedgerChange, LedgerRequest, Notice};
