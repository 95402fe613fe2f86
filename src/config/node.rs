//! The section `node` of the validated configuration: what this node is and keeps.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::unit::{self, Durability};
pub use nomad_core::{
    group::{RetrievalMode, StorageMode},
    world::Position,
};

/// Section `node`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Most members in a group, 1 to 1024.
    pub max_peers: usize,
    /// Where the node keeps its identity and its objects; `None` = the first `nomad-data/node-N` that no running
    /// process holds.
    #[serde(with = "unit::text")]
    pub data_dir: Option<PathBuf>,
    /// The address that every listener binds.
    pub listen: IpAddr,
    /// The ports of the listeners.
    pub ports: PortsConfig,
    /// How nodes come together in groups.
    pub group: GroupingConfig,
    /// How objects are kept.
    pub storage: StorageConfig,
    /// The addresses that other nodes are told.
    pub network_hostnames: HostnamesConfig,
    /// The virtual world.
    pub world: WorldConfig,
    /// Where this node stands. Inside the world.
    #[serde(with = "PositionFields")]
    pub position: Position,
}

/// The fields of a [`Position`], as the file has them.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Position", deny_unknown_fields)]
struct PositionFields {
    x: f64,
    y: f64,
}

impl Default for NodeConfig {
    fn default() -> Self {
        let world = WorldConfig::default();
        Self {
            max_peers: 5,
            data_dir: None,
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: PortsConfig::default(),
            group: GroupingConfig::default(),
            storage: StorageConfig::default(),
            network_hostnames: HostnamesConfig::default(),
            position: world.centre(),
            world,
        }
    }
}

/// Section `node.ports`: 0 = a free one at random, distinct otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PortsConfig {
    /// REST; random in 8080-9999.
    pub rest: u16,
    /// gRPC between nodes; random in 5001-8999.
    pub peer: u16,
    /// gRPC of the storage services; random in 5001-8999.
    pub storage: u16,
    /// libp2p.
    pub overlay: u16,
}

/// Section `node.group`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GroupingConfig {
    /// Whether peers move to the group of the cell they are in.
    pub migration: bool,
    /// Whether to join the group of the nearest super-peer; else the first with a free place.
    pub voronoi_grouping: bool,
}

/// Section `node.storage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Replicas per object in its group, 1 to 64.
    pub replication_factor: usize,
    /// The mode of a write that names none.
    pub storage_mode: StorageMode,
    /// The mode of a read that names none.
    pub retrieval_mode: RetrievalMode,
    /// When a write reaches the disk.
    #[serde(with = "unit::durability")]
    pub durability: Durability,
    /// Most bytes of an object's value, 1 KiB to 64 MiB.
    #[serde(with = "unit::size")]
    pub max_object_bytes: u64,
    /// Bytes of memory for cached blocks of the store, 1 MiB to 64 GiB.
    #[serde(with = "unit::size")]
    pub cache_bytes: u64,
    /// With fewer free bytes on the disk than this, of all writes only deletions are taken; 0 to 1 TiB.
    #[serde(with = "unit::size")]
    pub min_free_bytes: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            replication_factor: 3,
            storage_mode: StorageMode::Fast,
            retrieval_mode: RetrievalMode::Fast,
            durability: Durability::Always,
            max_object_bytes: 4 * unit::MIB,
            cache_bytes: 32 * unit::MIB,
            min_free_bytes: 64 * unit::MIB,
        }
    }
}

/// Section `node.networkHostnames`: `host` or `host:port`; `None` = the address that is bound.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HostnamesConfig {
    /// Of the peer listener.
    #[serde(with = "unit::text")]
    pub peer_server: Option<String>,
    /// Of the storage listener, for the overlay tier.
    #[serde(with = "unit::text")]
    pub peer_storage_server: Option<String>,
    /// Of the overlay listener.
    #[serde(with = "unit::text")]
    pub overlay_hostname: Option<String>,
    /// Of the peer listener, while this node is a super-peer.
    #[serde(with = "unit::text")]
    pub super_peer_server: Option<String>,
    /// Of the storage listener, for the group's tier.
    #[serde(with = "unit::text")]
    pub group_storage_server: Option<String>,
}

/// Section `node.world`: a rectangle with one corner at (0, 0).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorldConfig {
    /// Extent along y, above 0 and at most 1e9.
    pub height: f64,
    /// Extent along x, above 0 and at most 1e9.
    pub width: f64,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self { height: 10.0, width: 10.0 }
    }
}

impl WorldConfig {
    /// The middle of the world.
    pub fn centre(&self) -> Position {
        Position { x: self.width / 2.0, y: self.height / 2.0 }
    }
}
