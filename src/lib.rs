//! nomad: a geo-spatial peer-to-peer object store.

pub mod cli;
pub mod proto;
