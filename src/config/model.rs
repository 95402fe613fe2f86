//! The validated configuration: plain public fields with their unit and range.
//!
//! A section of the file has the same shape here, so the file is read into these structs. Code that builds one by hand (tests,
//! embedding) starts from `Config::default()` and must keep the ranges.
//! The section `node` has its own file.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{node::NodeConfig, unit};

/// Everything that a node is told at its start. Each section has the name of its section in the file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// What this node is and keeps.
    pub node: NodeConfig,
    /// Which network it belongs to.
    pub network: NetworkConfig,
    /// How often the periodic work runs.
    pub schedule: ScheduleConfig,
    /// How it finds other nodes.
    pub bootstrap: BootstrapConfig,
    /// The group table.
    pub group: GroupConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Bounds on what clients can make this node hold.
    pub limits: LimitsConfig,
    /// The ring of recorded messages.
    pub trace: TraceConfig,
    /// What only a test system allows.
    pub debug: DebugConfig,
    /// Export of traces.
    pub otlp: OtlpConfig,
}

/// Section `network`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Nodes talk only to nodes of the same network name: 1 to 64 of `a-z A-Z 0-9 . _ -`.
    pub name: String,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { name: "nomad".to_owned() }
    }
}

/// Section `schedule`: intervals, 10 ms to 30 days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Peer health check.
    #[serde(with = "unit::duration")]
    pub health_check: Duration,
    /// Re-bootstrap of the DHT.
    #[serde(with = "unit::duration")]
    pub dht_bootstrap: Duration,
    /// Removal of expired objects from the local store. They are absent for readers before that.
    #[serde(with = "unit::duration")]
    pub db_cleanup: Duration,
    /// Removal of expired ledger entries.
    #[serde(with = "unit::duration")]
    pub ledger_cleanup: Duration,
    /// Periodic repair.
    #[serde(with = "unit::duration")]
    pub repair: Duration,
    /// Position update; needs `node.group.migration`.
    #[serde(with = "unit::duration")]
    pub update_position: Duration,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            health_check: Duration::from_secs(20),
            dht_bootstrap: Duration::from_secs(500),
            db_cleanup: Duration::from_secs(60),
            ledger_cleanup: Duration::from_secs(60),
            repair: Duration::from_secs(6000),
            update_position: Duration::from_secs(10),
        }
    }
}

/// Section `bootstrap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BootstrapConfig {
    /// How long to look for a super-peer before founding a group, 10 ms to 1 hour.
    #[serde(with = "unit::duration")]
    pub discovery_window: Duration,
    /// Longest election, 10 ms to 1 hour.
    #[serde(with = "unit::duration")]
    pub election_timeout: Duration,
    /// How often a provisional super-peer looks for a dedicated one, 10 ms to 1 day.
    #[serde(with = "unit::duration")]
    pub provisional_poll_interval: Duration,
    /// Overlay addresses of nodes to start from: multiaddrs or `host:port`, at most 64, in the order written.
    pub peers: Vec<String>,
    /// DNS names whose addresses are all tried: `host` or `host:port`, at most 64, in the order written.
    pub dns: Vec<String>,
    /// Whether to look for nodes on the local network.
    pub mdns: bool,
}

impl Default for BootstrapConfig {
    fn default() -> Self {
        Self {
            discovery_window: Duration::from_secs(5),
            election_timeout: Duration::from_secs(10),
            provisional_poll_interval: Duration::from_secs(30),
            peers: Vec::new(),
            dns: Vec::new(),
            mdns: true,
        }
    }
}

/// Section `group`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GroupConfig {
    /// Most members that vote on the group table, 1 to 9; an even number tolerates no more failures than the odd
    /// one below it.
    pub voters: usize,
    /// How long a member may be gone before it is removed, 1 s to 30 days.
    #[serde(with = "unit::duration")]
    pub remove_after: Duration,
    /// How long a group without a majority waits before its survivors dissolve it, 1 s to 30 days.
    #[serde(with = "unit::duration")]
    pub quorum_loss_grace: Duration,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            voters: 5,
            remove_after: Duration::from_secs(300),
            quorum_loss_grace: Duration::from_secs(300),
        }
    }
}

/// Section `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LogConfig {
    /// Which events are logged, in the syntax of `tracing_subscriber::EnvFilter`; it parses.
    pub level: String,
    /// How an event is written.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON lines elsewhere.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
}

/// Section `limits`: bounds on what clients can make this node hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Most open connections of one listener, 1 to 1,000,000.
    pub connections: usize,
    /// Most requests in flight on all listeners together, 1 to 1,000,000.
    pub requests: usize,
    /// Most bytes held by the requests in flight, 1 KiB to 64 GiB, never less than `node.storage.max_object_bytes`.
    #[serde(with = "unit::size")]
    pub request_bytes: u64,
    /// Longest time that a request may take, 10 ms to 1 hour; a caller's own deadline can be shorter.
    #[serde(with = "unit::duration")]
    pub request_timeout: Duration,
    /// Longest time for a client to send a request's headers, 10 ms to 1 hour.
    #[serde(with = "unit::duration")]
    pub header_timeout: Duration,
    /// Longest time for a client to send a request's body, 10 ms to 1 hour.
    #[serde(with = "unit::duration")]
    pub body_timeout: Duration,
    /// How long a connection with no request on it stays open, 10 ms to 1 day.
    #[serde(with = "unit::duration")]
    pub idle_timeout: Duration,
    /// Most bytes of a request's headers, 8 KiB to 1 MiB.
    #[serde(with = "unit::size")]
    pub header_bytes: u64,
    /// Most items on one page of a listing, 1 to 100,000.
    pub page_size: usize,
    /// How long a stop waits for the requests in flight, 10 ms to 1 hour.
    #[serde(with = "unit::duration")]
    pub drain: Duration,
    /// Most fast writes that wait to be replicated, 1 to 10,000,000.
    pub outbox_entries: u64,
    /// Most bytes of these writes, 64 KiB to 1 TiB; there is room for one object of the greatest size.
    #[serde(with = "unit::size")]
    pub outbox_bytes: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 20_000,
            requests: 4096,
            request_bytes: 256 * unit::MIB,
            request_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            header_bytes: 16 * unit::KIB,
            page_size: 1000,
            drain: Duration::from_secs(10),
            outbox_entries: 100_000,
            outbox_bytes: 256 * unit::MIB,
        }
    }
}

/// Section `trace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TraceConfig {
    /// How many handled messages are remembered, 128 to 1,000,000; the oldest are forgotten first.
    pub records: usize,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self { records: 16_384 }
    }
}

/// Section `debug`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DebugConfig {
    /// Whether a client may kill an actor to see supervision work.
    pub allow_kill: bool,
}

/// Section `otlp`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OtlpConfig {
    /// Where traces are sent over OTLP/gRPC, an `http://` URL with a host; `None` = nowhere.
    #[serde(with = "unit::text")]
    pub endpoint: Option<String>,
    /// Share of the traces that start here which is exported, 0.0 to 1.0.
    pub sample_ratio: f64,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self { endpoint: None, sample_ratio: 1.0 }
    }
}
