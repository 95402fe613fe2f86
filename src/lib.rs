//! nomad: a geo-spatial peer-to-peer object store. Nodes form groups; each object is kept on several members of one.
//!
//! To embed a whole node, start at [`Node`]: it finds other nodes, forms groups with them and keeps their objects together.
//! To embed the local store alone, start at [`Store`].
//!
//! ```no_run
//! use nomad::{Condition, Config, ErrorKind, Node, ReadOptions, StartOptions, WriteOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::start(StartOptions::new(Config::default())).await?;
//! node.ready().await;
//! let written = node.put("item:1", "a sword", WriteOptions::safe()).await?;
//! if let Some(object) = node.get("item:1", ReadOptions::safe()).await? {
//!     let newer = WriteOptions::safe().when(Condition::Version(object.version));
//!     node.update("item:1", "a better sword", newer).await?;
//! }
//! match node.put("item:1", "a shield", WriteOptions::fast()).await {
//!     Err(error) if error.kind() == ErrorKind::Exists => println!("{error}"),
//!     Err(error) if !error.is_outcome_known() => println!("read the object to see: {error}"),
//!     Err(error) => println!("try again after {:?}: {error}", error.retry_after()),
//!     Ok(written) => println!("now at {:?}, {}", written.version, written.assurance),
//! }
//! for item in node.list("item:", None, 100).await?.items {
//!     println!("{} has {} bytes", item.id, item.size_bytes);
//! }
//! node.delete("item:1", WriteOptions::default()).await?;
//! node.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Every room under `src/` is a crate of its own, so that the compiler holds who may import whom: `core` the pure protocol,
//! `ports` traits for everything impure, `actors` thin shells around the core, `service` what a node does for whoever asks it,
//! `storage` the store on fjall, `consensus` the group's log, `network` other nodes, `api` the gRPC and REST edges, `config` the
//! configuration, `node` the composition root, `cli` the command line, `telemetry` logs, `proto` the wire contract. Each room's
//! invariants stand at the top of its `lib.rs`; the map, with the way of a request through the rooms, is
//! `docs/architecture.md`. The rooms are for this project's own tests and measurements, and may change at any time.

pub use nomad_config::Config;
pub use nomad_core::{
    group::{RetrievalMode, StorageMode},
    listing::ListingPage,
    model::{
        change::Condition,
        object::{Object, ObjectId, Tier, Version},
        time::UnixSecs,
    },
};
pub use nomad_node::{Node, NodeAddresses, NodeStatus, StartError, StartOptions, WriteReceipt};
pub use nomad_service::{Assurance, ErrorKind, Reach, ReadOptions, ServiceError, WriteOptions};
pub use nomad_storage::{Store, StoreOptions};

#[doc(hidden)]
pub use nomad_cli as cli;
#[doc(hidden)]
pub use nomad_core as core;
#[doc(hidden)]
pub use nomad_network as network;
#[doc(hidden)]
pub use nomad_ports as ports;
#[doc(hidden)]
pub use nomad_proto as proto;
