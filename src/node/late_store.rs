//! The store before, while and after it is open. A node answers that it is not ready while a long journal is replayed.

use std::sync::OnceLock;

use crate::{
    core::{
        object::{Object, ObjectId, Tier},
        time::UnixSecs,
    },
    ports::{
        ObjectStore,
        object_store::{Job, Page, Receipt, StoreCounts, StoreError, StoreHealth},
    },
    storage::FjallStore,
};

const OPENING: &str = "it is being opened; try again in a moment";

/// A store that is set once it is open.
#[derive(Debug, Default)]
pub struct LateStore {
    inner: OnceLock<FjallStore>,
}

impl LateStore {
    /// Sets the open store. Only the first one counts.
    pub fn set(&self, store: FjallStore) {
        assert!(self.inner.set(store).is_ok(), "a node opens its store once");
    }

    /// Finishes what waits and closes the store.
    pub fn close(&self) {
        if let Some(store) = self.inner.get() {
            store.close();
        }
    }

    fn open(&self) -> Result<&FjallStore, StoreError> {
        self.inner.get().ok_or_else(|| StoreError::ReadOnly { reason: OPENING.into() })
    }
}

impl ObjectStore for LateStore {
    fn submit(&self, job: Job) {
        match self.open() {
            Ok(store) => store.submit(job),
            Err(error) => match job {
                Job::Write(job) => job.done.complete(Receipt {
                    result: Err(error),
                    queued_us: 0,
                    commit_us: 0,
                    batch_len: 0,
                }),
                Job::Sweep { done, .. } => done(Err(error)),
            },
        }
    }

    fn get(&self, tier: Tier, id: &ObjectId, now: UnixSecs) -> Result<Option<Object>, StoreError> {
        self.inner.get().ok_or(StoreError::Reopening)?.get(tier, id, now)
    }

    fn list(
        &self,
        tier: Tier,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        now: UnixSecs,
    ) -> Result<Page, StoreError> {
        self.inner.get().ok_or(StoreError::Reopening)?.list(tier, prefix, after, limit, now)
    }

    fn health(&self) -> StoreHealth {
        self.inner.get().map_or(StoreHealth::ReadOnly { reason: OPENING.into() }, |s| s.health())
    }

    fn counts(&self) -> StoreCounts {
        self.inner.get().map(|store| store.counts()).unwrap_or_default()
    }
}
