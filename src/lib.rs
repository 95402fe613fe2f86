//! nomad: a geo-spatial peer-to-peer object store.

pub mod config;
pub mod proto;
