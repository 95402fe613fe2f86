//! The configuration: defaults < file < environment < flags, turned into one validated `Config`.
//!
//! Invariants: this room imports no other room but `core`. It reads the environment only through `Env`, opens no file but the
//! one configuration file, and never logs: problems are returned all at once, warnings beside the result.
//!
//! A new key is a field with its default (`model.rs`, `node.rs`) and a row in the table of `keys.rs`; reading, ranges,
//! the environment's name, `to_yaml` and the documentation follow from these two. The table and not serde decides what
//! is allowed, because serde stops at the first problem and `config`'s deserialiser rounds and guesses.

mod env;
mod file;
mod form;
mod keys;
mod kind;
mod lines;
mod load;
mod model;
mod nearest;
mod node;
mod problem;
mod render;
mod unit;
mod validate;

pub use env::{Env, ProcessEnv};
pub use form::Form;
pub use keys::{ConfigKey, key_table_markdown};
pub use kind::{Kind, MOST_ITEMS, Misread};
pub use load::{DEFAULT_FILE, Loaded, Sources, load};
pub use model::{
    BootstrapConfig, Config, DebugConfig, GroupConfig, LimitsConfig, LogConfig, LogFormat,
    NetworkConfig, OtlpConfig, ScheduleConfig, TraceConfig,
};
pub use node::{
    GroupingConfig, HostnamesConfig, NodeConfig, PortsConfig, Position, RetrievalMode,
    StorageConfig, StorageMode, WorldConfig,
};
pub use problem::{Advice, ConfigErrors, ConfigProblem, Origin, Origins, Setting};
pub use unit::{Durability, UnitError, format_duration, format_size, parse_duration, parse_size};
