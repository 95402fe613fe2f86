//! The replicated registers: every object is a small register of its own, kept by its replica set and changed by
//! single-decree rounds (CASPaxos, Rystsov 2018).
//!
//! The rules that the texts here call "rule N" are those of the replication protocol, which was model-checked. Invariants:
//! a reply that depends on a state leaves only after that state is durable; nothing here reads a clock or a disk.

pub mod ballot;
pub mod event;
pub mod message;
pub mod state;

pub use ballot::Ballot;
pub use event::{Effect, Ended, Event, Now, OpId, Order, Shelf, Ticket};
pub use message::{Body, Message};
pub use state::{Register, ShardState, Tombstone, Value};

use xxhash_rust::xxh3::xxh3_64;

use super::object::ObjectId;

/// Into how many shards a node divides its registers. Each has a worker of its own. On disk and for ever.
pub const SHARDS: u8 = 8;

/// Returns the shard that an object belongs to on every node: XXH3 (64 bits, seed 0) of its id, modulo [`SHARDS`].
pub fn shard_of(id: &ObjectId) -> u8 {
    (xxh3_64(id.as_str().as_bytes()) % u64::from(SHARDS)) as u8
}
