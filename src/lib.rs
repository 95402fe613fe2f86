//! nomad: a geo-spatial peer-to-peer object store.

pub mod proto;
