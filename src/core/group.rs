//! A node's group as every part of the node sees it: who is in it, who leads it, with which settings.
//!
//! Today a node is a group of one: itself, its own super-peer. The view is a value; the `group_table` actor owns it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{
    node_id::NodeId,
    object::ObjectId,
    world::{Position, World},
};

/// How a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageMode {
    /// Once durable on this node.
    #[default]
    Fast,
    /// Once durable on a quorum of the replica set.
    Safe,
}

/// How a read is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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

impl StorageMode {
    /// Returns the mode's word in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Safe => "safe",
        }
    }
}

impl RetrievalMode {
    /// Returns the mode's word in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Safe => "safe",
            Self::Parallel => "parallel",
        }
    }
}

impl FromStr for StorageMode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text {
            "fast" => Ok(Self::Fast),
            "safe" => Ok(Self::Safe),
            _ => Err(ModeError { given: text.into(), allowed: "fast, safe" }),
        }
    }
}

impl FromStr for RetrievalMode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text {
            "fast" => Ok(Self::Fast),
            "safe" => Ok(Self::Safe),
            "parallel" => Ok(Self::Parallel),
            _ => Err(ModeError { given: text.into(), allowed: "fast, safe, parallel" }),
        }
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

/// Why a caller's word about a peer is not taken.
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
    /// Where it stands in the world.
    pub position: Position,
}

/// The group of one that a node founds for itself.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupOfOne {
    /// The group's name.
    pub name: String,
    /// The number of its configuration. A group of one never changes it.
    pub epoch: u64,
    /// Whether the node was started as a super-peer.
    pub permanent: bool,
    /// The most members that the group may have.
    pub capacity: u32,
    /// The node itself.
    pub this: Member,
    /// The world that positions lie in.
    pub world: World,
    /// What clients may change.
    pub settings: Settings,
}

impl GroupOfOne {
    /// Returns the word for the node's role state.
    pub fn state(&self) -> &'static str {
        if self.permanent { "permanent-super-peer" } else { "provisional-super-peer" }
    }

    /// Tells whether a caller names this node: by its id, or by one of its addresses.
    pub fn names_this(&self, name: &str) -> bool {
        let Member { node, peer, storage, .. } = &self.this;
        name.parse() == Ok(*node) || name == peer || name == storage
    }

    /// Returns the member that a caller names.
    ///
    /// # Errors
    /// When there is none of that name; tells which there are.
    pub fn member(&self, name: &str) -> Result<&Member, PeerError> {
        if self.names_this(name) {
            return Ok(&self.this);
        }
        Err(PeerError::NotAMember {
            peer: name.to_owned(),
            group: self.name.clone(),
            members: self.this.node.to_string(),
        })
    }

    /// Decides about a caller's word that this node holds an object. The ledger of a group of one is what the node
    /// holds, so there is never anything to add: `false`, as for every entry that is there already.
    ///
    /// # Errors
    /// When the node does not hold it.
    pub fn add_reference(&self, id: &ObjectId, is_held: bool) -> Result<bool, PeerError> {
        if is_held {
            return Ok(false);
        }
        let node = self.this.node;
        Err(PeerError::NotHeld { node, id: id.as_str().to_owned() })
    }

    /// Decides about a caller's wish to take all that a peer holds out of the ledger: `false` for a peer that is not in
    /// it.
    ///
    /// # Errors
    /// When the peer is this node, which is there.
    pub fn remove_references(&self, peer: &str) -> Result<bool, PeerError> {
        if self.names_this(peer) {
            return Err(PeerError::Alive { node: self.this.node });
        }
        Ok(false)
    }
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
    fn a_group_of_one_knows_its_only_member_and_takes_no_word_for_another() {
        let group = GroupOfOne {
            name: "group-x".into(),
            epoch: 1,
            permanent: false,
            capacity: 5,
            this: Member {
                node: NodeId::from_key([7; 32]),
                rest: "a:1".into(),
                peer: "a:2".into(),
                storage: "a:3".into(),
                position: Position::default(),
            },
            world: World { width: 1.0, height: 1.0 },
            settings: Settings {
                storage_mode: StorageMode::Fast,
                retrieval_mode: RetrievalMode::Fast,
                migration: false,
                replication_factor: 1,
            },
        };
        let me = group.this.node.to_string();
        for name in [me.as_str(), "a:2", "a:3"] {
            assert_eq!(group.member(name), Ok(&group.this));
            assert!(group.remove_references(name).unwrap_err().to_string().contains(&me));
        }
        let error = group.member("you").unwrap_err().to_string();
        assert_eq!(
            error,
            format!(r#"the peer "you" is not a member of group-x, whose members are: {me}"#)
        );
        assert_eq!(group.remove_references("you"), Ok(false));
        let id = ObjectId::parse("o").unwrap();
        assert_eq!(group.add_reference(&id, true), Ok(false));
        assert!(group.add_reference(&id, false).unwrap_err().to_string().contains("\"o\""));
    }

    #[test]
    fn a_group_is_named_after_the_end_of_its_founders_id() {
        let founder = NodeId::from_key([7; 32]);
        let name = founded_name(&founder);
        assert!(founder.to_string().ends_with(name.strip_prefix("group-").unwrap()), "{name}");
        assert_eq!(name.len(), "group-".len() + 8);
    }
}
