//! nomad: a geo-spatial peer-to-peer object store.

pub mod actors;
pub mod api;
pub mod cli;
pub mod config;
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
