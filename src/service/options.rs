//! What a program that embeds a node can say about a read or a write.

use std::{sync::Arc, time::Duration};

use nomad_core::{
    group::{RetrievalMode, StorageMode},
    model::{change::Condition, time::UnixSecs},
};

/// How a write is to be done. The default: in the node's mode, under the condition of the method, for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// When it is acknowledged; `None` = as the node's setting says.
    pub mode: Option<StorageMode>,
    /// What must be true of the object; `None` = what the method says.
    pub condition: Option<Condition>,
    /// From when on the object is absent; `None` = never.
    pub expires_at: Option<UnixSecs>,
    /// The media type of the bytes.
    pub content_type: Option<Arc<str>>,
    /// The longest that it may take; `None` = `limits.requestTimeout`, which is the most.
    pub timeout: Option<Duration>,
}

impl WriteOptions {
    /// Is acknowledged once this node has it on disk.
    pub fn fast() -> Self {
        Self { mode: Some(StorageMode::Fast), ..Self::default() }
    }

    /// Is acknowledged once a quorum of the object's replicas has it on disk.
    pub fn safe() -> Self {
        Self { mode: Some(StorageMode::Safe), ..Self::default() }
    }

    /// Has an effect only under this condition.
    #[must_use]
    pub fn when(self, condition: Condition) -> Self {
        Self { condition: Some(condition), ..self }
    }
}

/// How a read is to be done. The default: in the node's mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Who is asked; `None` = as the node's setting says.
    pub mode: Option<RetrievalMode>,
    /// The longest that it may take; `None` = `limits.requestTimeout`, which is the most.
    pub timeout: Option<Duration>,
}

impl ReadOptions {
    /// Asks this node, else the nearest replica that answers.
    pub fn fast() -> Self {
        Self { mode: Some(RetrievalMode::Fast), ..Self::default() }
    }

    /// Returns what a quorum agrees on.
    pub fn safe() -> Self {
        Self { mode: Some(RetrievalMode::Safe), ..Self::default() }
    }

    /// Asks all replicas at once.
    pub fn parallel() -> Self {
        Self { mode: Some(RetrievalMode::Parallel), ..Self::default() }
    }
}
