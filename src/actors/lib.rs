//! The actors: thin ractor shells around `core`, one file per actor, all of one shape.
//!
//! Invariants: an actor owns its state alone; actors tell, only `service`, `node` and tests ask; no handler awaits anything;
//! every message is handled inside a span and leaves a record in the trace ring. Actors know ports, never an adapter. What
//! several of them share and is no actor stands in `shared`; the ways to read and write, which run on the caller's task, are in
//! the room `service`.
//!
//! Decision: every actor is a [`Worker`] run by one generic [`Shell`](shell::Shell), which is the only code
//! that implements ractor's trait for a worker. What must hold for every message (deadline, span, record, counters)
//! then stands once. Handlers are synchronous, so "no handler awaits another actor" is held by the compiler.

mod commit;
pub mod door;
pub mod driver;
pub mod expiry;
mod gauge;
pub mod group_table;
pub mod ledger;
pub mod local_store;
pub mod membership;
pub mod outbox;
pub mod overlay;
pub mod peer_links;
pub mod recorder;
pub mod repair_sweeper;
pub mod replica_reader;
pub mod replica_writer;
mod restart;
mod shared;
pub mod shell;
pub mod supervisor;
#[cfg(test)]
mod test_group;
#[cfg(test)]
mod test_kit;
pub mod vitals;

pub use gauge::Gauge;
pub use recorder::TraceRecorder;
use shared::readings;
pub use shared::{codec, group_view, local_read};
pub use shell::{ActorMessage, Address, AskError, Context, Described, Kit, Reply, Worker};
