//! The group's log: [`Consensus`](nomad_ports::Consensus) on openraft 0.9, its log in a database of its own, its messages
//! over the links between nodes.
//!
//! Invariants: nothing of openraft shows outside; what openraft wants durable is fsynced before openraft is told so; a
//! message from another node is checked before openraft sees it, so that no peer can make this node panic or grow
//! without bounds; the sender of a message is proved, and only the participant that the message is for
//! gets it. `consensus` knows `core`, `ports`, and of `storage` only how an engine is opened safely.
//!
//! Decision: a participant of the log is a node under one claim. A node deletes its vote with its log and its claim. So under
//! the next claim it is another participant: else a voter that has not heard of its removal would count its vote.
//!
//! Decision: elections are called here and not by openraft. Openraft's timer asks for votes at once: a node that was cut off
//! would come back with a higher term and replace a leader that all others still hear. `elector` asks the voters first (the
//! pre-vote of Ongaro's thesis, section 9.6), in a fixed order without random delays.

mod arrange;
mod codec;
mod elector;
mod handler;
mod heir;
mod incoming;
mod log_store;
mod machine;
mod network;
mod observer;
mod options;
mod raft_consensus;
mod rpc;
mod store;
#[cfg(test)]
mod test_claims;
#[cfg(test)]
mod test_cluster;
#[cfg(test)]
mod test_rpc;
#[cfg(test)]
mod test_store;
mod types;

pub use options::{LogOpenError, RaftOptions, RaftTimes};
pub use raft_consensus::RaftConsensus;
