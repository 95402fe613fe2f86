//! The configuration: defaults < file < environment < flags, turned into one validated `Config`.
//!
//! Invariants: this room imports no other room. It reads the environment only through `Env`, opens no file but the
//! one configuration file, and never logs: problems are returned all at once, warnings beside the result.

mod model;
mod node;
mod unit;

pub use model::{
    BootstrapConfig, Config, DebugConfig, GroupConfig, LimitsConfig, LogConfig, LogFormat,
    NetworkConfig, OtlpConfig, ScheduleConfig, TraceConfig,
};
pub use node::{
    GroupingConfig, HostnamesConfig, NodeConfig, PortsConfig, Position, RetrievalMode,
    StorageConfig, StorageMode, WorldConfig,
};
pub use unit::{Durability, UnitError, format_duration, format_size, parse_duration, parse_size};
