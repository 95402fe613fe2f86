//! The configuration as it is written: what the file can hold, with its names and defaults, not yet validated.
//!
//! It differs from `Config` where a default depends on another key. Everything else it shares.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    BootstrapConfig, Config, DebugConfig, GroupConfig, GroupingConfig, HostnamesConfig,
    LimitsConfig, LogConfig, NetworkConfig, NodeConfig, OtlpConfig, PortsConfig, Position,
    ScheduleConfig, StorageConfig, TraceConfig, WorldConfig, unit,
};

/// The whole file. What is absent has its default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawConfig {
    /// Section `node`.
    pub node: RawNode,
    /// Section `network`.
    pub network: NetworkConfig,
    /// Section `schedule`.
    pub schedule: ScheduleConfig,
    /// Section `bootstrap`.
    pub bootstrap: BootstrapConfig,
    /// Section `group`.
    pub group: GroupConfig,
    /// Section `log`.
    pub log: LogConfig,
    /// Section `limits`.
    pub limits: LimitsConfig,
    /// Section `trace`.
    pub trace: TraceConfig,
    /// Section `debug`.
    pub debug: DebugConfig,
    /// Section `otlp`.
    pub otlp: OtlpConfig,
}

/// Section `node`; see `NodeConfig` for what each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of NodeConfig, and documented there")]
pub struct RawNode {
    pub max_peers: usize,
    #[serde(with = "unit::text")]
    pub data_dir: Option<PathBuf>,
    pub listen: IpAddr,
    pub ports: PortsConfig,
    pub group: GroupingConfig,
    pub storage: StorageConfig,
    pub network_hostnames: HostnamesConfig,
    pub world: WorldConfig,
    pub position: RawPosition,
}

/// Section `node.position`: what is absent is the middle of the world.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RawPosition {
    /// 0 to `node.world.width`.
    pub x: Option<f64>,
    /// 0 to `node.world.height`.
    pub y: Option<f64>,
}

impl Default for RawNode {
    fn default() -> Self {
        Self::with_position(NodeConfig::default(), RawPosition::default())
    }
}

impl RawNode {
    fn with_position(node: NodeConfig, position: RawPosition) -> Self {
        Self {
            max_peers: node.max_peers,
            data_dir: node.data_dir,
            listen: node.listen,
            ports: node.ports,
            group: node.group,
            storage: node.storage,
            network_hostnames: node.network_hostnames,
            world: node.world,
            position,
        }
    }

    /// Where the node stands once defaults are filled in. May lie outside the world.
    pub(super) fn place(&self) -> Position {
        let centre = self.world.centre();
        Position { x: self.position.x.unwrap_or(centre.x), y: self.position.y.unwrap_or(centre.y) }
    }
}

impl RawConfig {
    /// Fills in the defaults that depend on other keys. Validates nothing.
    pub(super) fn into_config(self) -> Config {
        let position = self.node.place();
        Config {
            node: NodeConfig {
                max_peers: self.node.max_peers,
                data_dir: self.node.data_dir,
                listen: self.node.listen,
                ports: self.node.ports,
                group: self.node.group,
                storage: self.node.storage,
                network_hostnames: self.node.network_hostnames,
                world: self.node.world,
                position,
            },
            network: self.network,
            schedule: self.schedule,
            bootstrap: self.bootstrap,
            group: self.group,
            log: self.log,
            limits: self.limits,
            trace: self.trace,
            debug: self.debug,
            otlp: self.otlp,
        }
    }
}

impl From<Config> for RawConfig {
    fn from(config: Config) -> Self {
        let Position { x, y } = config.node.position;
        Self {
            node: RawNode::with_position(config.node, RawPosition { x: Some(x), y: Some(y) }),
            network: config.network,
            schedule: config.schedule,
            bootstrap: config.bootstrap,
            group: config.group,
            log: config.log,
            limits: config.limits,
            trace: config.trace,
            debug: config.debug,
            otlp: config.otlp,
        }
    }
}
