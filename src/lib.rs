//! nomad: a geo-spatial peer-to-peer object store.

pub mod cli;
pub mod core;
pub mod ports;
pub mod proto;
pub mod storage;

pub use crate::{
    core::{
        object::{Object, ObjectId, Tier, Version},
        time::UnixSecs,
    },
    storage::{Store, StoreOptions},
};
