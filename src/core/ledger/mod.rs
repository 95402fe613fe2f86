//! The ledger: which member holds which object, at which version, until when. Never needed for correctness: reads and writes
//! use the placement of replicas and quorums. The ledger is for clients and operators.
//!
//! [`Ledger`] is the data. Every member keeps what it holds itself; super-peers, redundant ones included, keep the entries of all
//! members. [`Bookkeeper`] decides how they learn it: changes are sent at once, in batches, and inventory digests find now and
//! then what was lost.

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
