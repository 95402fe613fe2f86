//! nomad: a geo-spatial peer-to-peer object store. Nodes form groups; each object is kept on several members of one.
//!
//! Every room under `src/` is a crate of its own, so that the compiler holds who may import whom: [`core`] the pure
//! protocol, [`ports`] traits for everything impure, [`actors`] thin shells around the core, [`storage`] the store on
//! fjall, [`consensus`] the group's log, [`network`] other nodes, [`api`] the gRPC and REST edges, [`config`] the
//! configuration, [`node`] the composition root, [`cli`] the command line, [`telemetry`] logs, [`proto`] the wire
//! contract. Each room's invariants stand at the top of its `lib.rs`. The map, with the way of a request through the rooms and
//! where to put something new, is `docs/architecture.md`.
//!
//! To embed the store alone, start at [`Store`]; to embed a whole node, at [`node::Node`].

pub use nomad_actors as actors;
pub use nomad_api as api;
pub use nomad_cli as cli;
pub use nomad_config as config;
pub use nomad_consensus as consensus;
pub use nomad_core as core;
pub use nomad_core::model::{
    object::{Object, ObjectId, Tier, Version},
    time::UnixSecs,
};
pub use nomad_network as network;
pub use nomad_node as node;
pub use nomad_ports as ports;
pub use nomad_proto as proto;
pub use nomad_storage as storage;
pub use nomad_storage::{Store, StoreOptions};
pub use nomad_telemetry as telemetry;
