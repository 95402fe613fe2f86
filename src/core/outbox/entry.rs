//! One entry: the newest fast write of an object, and how far it has come.

use std::collections::VecDeque;

use crate::{
    model::{object::Version, time::MonotonicUs},
    register::Value,
};

/// An entry of the outbox.
#[derive(Debug)]
pub struct OutboxEntry {
    /// What it counts for.
    pub bytes: u64,
    /// The version that is kept; the oldest that may be, while that is unsure. `None` = nothing is.
    pub kept: Option<Version>,
    /// Whether a put has ended with an unknown outcome.
    pub is_unsure: bool,
    /// What is being kept, oldest first.
    pub pending: VecDeque<Value>,
    /// The version that is being merged.
    pub merging: Option<Version>,
    /// Whether it is done, and about to be removed.
    pub is_removing: bool,
    /// How many merges have failed in a row.
    pub attempts: u32,
    /// Its place among those that wait.
    pub due: Option<MonotonicUs>,
    /// Its place by its oldest version.
    pub indexed: Option<Version>,
}

impl OutboxEntry {
    /// Makes one that holds nothing yet.
    pub fn empty() -> Self {
        Self {
            bytes: 0,
            kept: None,
            is_unsure: false,
            pending: VecDeque::new(),
            merging: None,
            is_removing: false,
            attempts: 0,
            due: None,
            indexed: None,
        }
    }

    /// Makes one that an earlier life has kept.
    pub fn kept(version: Version, bytes: u64) -> Self {
        Self { bytes, kept: Some(version), indexed: Some(version), ..Self::empty() }
    }

    /// Tells whether it has to wait for something that is not finished.
    pub fn is_busy(&self) -> bool {
        self.merging.is_some() || self.is_removing
    }

    /// Returns the oldest version of it that could still be submitted.
    pub fn oldest(&self) -> Option<Version> {
        let pending = self.pending.front().and_then(Value::version);
        [self.kept, self.merging, pending].into_iter().flatten().min()
    }
}
