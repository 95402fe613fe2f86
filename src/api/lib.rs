//! The edges: gRPC and REST. They decode, admit, ask and encode; they decide nothing.
//!
//! Invariants: an edge never touches the store: it asks the room `service`, as programs that embed a node do; every request
//! holds a permit until it is answered, or is refused at once; REST and gRPC answer from one table of error codes; protobuf
//! types stop here.

pub mod admission;
pub mod backend;
pub mod body;
pub mod brought;
pub mod connection;
pub mod error;
mod group_figures;
pub mod grpc;
pub mod listener;
pub mod metrics;
pub mod rest;
pub mod starting;
pub mod status;
pub mod storage_figures;
mod streams;
#[cfg(test)]
pub mod test_backend;
