//! A group and who belongs to it: the table that its members agree on, what a node sees of it, what clients may ask of it, and
//! the membership protocol.

pub mod control;
pub mod decision;
pub mod directory;
pub mod log_state;
pub mod membership;
pub mod offer;
pub mod replication;
mod settings;
pub mod table;
pub mod view;
pub mod view_change;

pub use settings::{
    Member, ModeError, PeerError, ReplicationFactorError, RetrievalMode, SettingChange, Settings,
    StorageMode, founded_name,
};
