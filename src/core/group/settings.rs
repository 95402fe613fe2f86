//! The values of a group: members, the modes and settings that clients choose, and the group's name.

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use crate::{model::node_id::NodeId, world::Position};

/// How a write is acknowledged.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, EnumString, IntoStaticStr,
)]
#[strum(serialize_all = "lowercase", parse_err_ty = ModeError, parse_err_fn = no_storage_mode)]
#[serde(rename_all = "lowercase")]
pub enum StorageMode {
    /// Once durable on this node.
    #[default]
    Fast,
    /// Once durable on a quorum of the replica set.
    Safe,
}

/// How a read is answered.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, EnumString, IntoStaticStr,
)]
#[strum(serialize_all = "lowercase", parse_err_ty = ModeError, parse_err_fn = no_retrieval_mode)]
#[serde(rename_all = "lowercase")]
pub enum RetrievalMode {
    /// By the nearest live replica.
    #[default]
    Fast,
    /// By a quorum that agrees.
    Safe,
    /// By the first replica that has it.
    Parallel,
}

/// A word that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the mode {given:?} is not one of {allowed}")]
pub struct ModeError {
    /// The refused word.
    pub given: String,
    /// The words that are allowed.
    pub allowed: &'static str,
}

fn no_storage_mode(given: &str) -> ModeError {
    ModeError { given: given.into(), allowed: "fast, safe" }
}

fn no_retrieval_mode(given: &str) -> ModeError {
    ModeError { given: given.into(), allowed: "fast, safe, parallel" }
}

impl StorageMode {
    /// Returns the mode's word in the contract.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl RetrievalMode {
    /// Returns the mode's word in the contract.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The settings that a client may change while the node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The mode of a write that names none.
    pub storage_mode: StorageMode,
    /// The mode of a read that names none.
    pub retrieval_mode: RetrievalMode,
    /// Whether nodes move to the group of the cell they are in.
    pub migration: bool,
    /// How many members keep each object, 1 to [`Settings::REPLICATION_FACTOR_MAX`].
    pub replication_factor: u32,
}

impl Settings {
    /// The greatest replication factor.
    pub const REPLICATION_FACTOR_MAX: u32 = 64;

    /// Applies a change. Nothing changes on an error.
    ///
    /// # Errors
    /// When the replication factor is outside its range.
    pub fn set(&mut self, change: SettingChange) -> Result<(), ReplicationFactorError> {
        match change {
            SettingChange::StorageMode(mode) => self.storage_mode = mode,
            SettingChange::RetrievalMode(mode) => self.retrieval_mode = mode,
            SettingChange::Migration(on) => self.migration = on,
            SettingChange::ReplicationFactor(given) => {
                self.replication_factor = u32::try_from(given)
                    .ok()
                    .filter(|factor| (1..=Self::REPLICATION_FACTOR_MAX).contains(factor))
                    .ok_or(ReplicationFactorError { given })?;
            }
        }
        Ok(())
    }
}

/// A replication factor outside its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the replication factor {given} is outside 1 to {}", Settings::REPLICATION_FACTOR_MAX)]
pub struct ReplicationFactorError {
    /// The refused number.
    pub given: i64,
}

/// A change of one setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettingChange {
    /// Sets [`Settings::storage_mode`].
    StorageMode(StorageMode),
    /// Sets [`Settings::retrieval_mode`].
    RetrievalMode(RetrievalMode),
    /// Sets [`Settings::migration`].
    Migration(bool),
    /// Sets [`Settings::replication_factor`].
    ReplicationFactor(i64),
}

/// Why what a caller says about a peer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It names none of the group.
    #[error("the peer {peer:?} is not a member of {group}, whose members are: {members}")]
    NotAMember {
        /// The name that was given.
        peer: String,
        /// The group's name.
        group: String,
        /// Who is in the group.
        members: String,
    },
    /// It says that a member holds what it does not hold.
    #[error(
        "{node} does not hold the object {id:?}; put the object there, which enters it into the ledger"
    )]
    NotHeld {
        /// The member.
        node: NodeId,
        /// The object.
        id: String,
    },
    /// It wants a member forgotten that is there.
    #[error(
        "{node} is alive and holds its objects, so that they stay in the ledger until it leaves"
    )]
    Alive {
        /// The member.
        node: NodeId,
    },
}

/// What a node is and where it can be reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// Where its REST edge listens, as `host:port`.
    pub rest: String,
    /// Where its peer listener is, as `host:port`.
    pub peer: String,
    /// Where its storage listener is, as `host:port`.
    pub storage: String,
    /// Its position in the world.
    pub position: Position,
}

/// Names the group that a node founds: the word `group` and the last 8 characters of the founder's id, which differ
/// between keys where the first ones do not.
pub fn founded_name(founder: &NodeId) -> String {
    let id = founder.to_string();
    let tail = id.char_indices().rev().nth(7).and_then(|(at, _)| id.get(at..)).unwrap_or(&id);
    format!("group-{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_back_from_their_words_and_other_words_are_refused_by_name() {
        for mode in [RetrievalMode::Fast, RetrievalMode::Safe, RetrievalMode::Parallel] {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        for mode in [StorageMode::Fast, StorageMode::Safe] {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        let error = "Parallel".parse::<StorageMode>().unwrap_err();
        assert_eq!(error.to_string(), r#"the mode "Parallel" is not one of fast, safe"#);
    }

    #[test]
    fn a_group_is_named_after_the_end_of_its_founders_id() {
        let founder = NodeId::from_key([7; 32]);
        let name = founded_name(&founder);
        assert!(founder.to_string().ends_with(name.strip_prefix("group-").unwrap()), "{name}");
        assert_eq!(name.len(), "group-".len() + 8);
    }
}
