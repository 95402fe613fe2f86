//! nomad: a geo-spatial peer-to-peer object store. Nodes form groups; objects stay on the node that takes them.
//!
//! The rooms, each with its invariants in its `mod.rs`; `tests/tidy.rs` holds who may import whom:
//! [`core`] the pure protocol, [`ports`] traits for everything impure, [`actors`] thin shells around the core,
//! [`storage`] the store on fjall, [`consensus`] the group's log, [`network`] other nodes, [`api`] the gRPC and REST edges, [`config`] the configuration,
//! [`node`] the composition root, [`cli`] the command line. [`telemetry`] logs, [`proto`] is the wire contract.
//!
//! To embed the store alone, start at [`Store`]; to embed a whole node, at [`node::Node`].

pub mod actors;
pub mod api;
pub mod cli;
pub mod config;
pub mod consensus;
pub mod core;
pub mod network;
pub mod node;
pub mod ports;
pub mod proto;
pub mod storage;
pub mod telemetry;

pub use crate::{
    core::{
        object::{Object, ObjectId, Tier, Version},
        time::UnixSecs,
    },
    storage::{Store, StoreOptions},
};
