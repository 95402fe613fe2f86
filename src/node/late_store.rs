//! The store before, while and after it is open. A node answers that it is not ready while a long journal is replayed.

use std::sync::OnceLock;

use nomad_core::{
    model::{
        object::{Object, ObjectId, Tier, Version},
        time::UnixSecs,
    },
    register::{Register, ShardState, Value},
};
use nomad_ports::{
    ObjectStore,
    object_store::{
        Expired, ListingPage, RegisterHead, StoreCounts, StoreError, StoreHealth, StoreJob,
    },
};
use nomad_storage::FjallStore;

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

    fn read(&self) -> Result<&FjallStore, StoreError> {
        self.inner.get().ok_or(StoreError::Reopening)
    }

    fn open(&self) -> Result<&FjallStore, StoreError> {
        self.inner.get().ok_or_else(|| StoreError::ReadOnly { reason: OPENING.into() })
    }
}

impl ObjectStore for LateStore {
    fn submit(&self, job: StoreJob) {
        match self.open() {
            Ok(store) => store.submit(job),
            Err(error) => job.refuse(error),
        }
    }

    fn get(&self, tier: Tier, id: &ObjectId, now: UnixSecs) -> Result<Option<Object>, StoreError> {
        self.read()?.get(tier, id, now)
    }

    fn list(
        &self,
        tier: Tier,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        now: UnixSecs,
    ) -> Result<ListingPage, StoreError> {
        self.read()?.list(tier, prefix, after, limit, now)
    }

    fn register(&self, id: &ObjectId) -> Result<Option<Register>, StoreError> {
        self.read()?.register(id)
    }

    fn registers(
        &self,
        shard: u8,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<RegisterHead>, StoreError> {
        self.read()?.registers(shard, after, limit)
    }

    fn shard_state(&self, shard: u8) -> Result<Option<ShardState>, StoreError> {
        self.read()?.shard_state(shard)
    }

    fn expired(
        &self,
        now: UnixSecs,
        after: Option<&Expired>,
        limit: usize,
    ) -> Result<Vec<Expired>, StoreError> {
        self.read()?.expired(now, after, limit)
    }

    fn outbox_entry(&self, id: &ObjectId) -> Result<Option<Value>, StoreError> {
        self.read()?.outbox_entry(id)
    }

    fn outbox(
        &self,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, Value)>, StoreError> {
        self.read()?.outbox(after, limit)
    }

    fn latest_version(&self) -> Version {
        self.inner.get().map(|store| store.latest_version()).unwrap_or_default()
    }

    fn health(&self) -> StoreHealth {
        self.inner.get().map_or(StoreHealth::ReadOnly { reason: OPENING.into() }, |s| s.health())
    }

    fn counts(&self) -> StoreCounts {
        self.inner.get().map(|store| store.counts()).unwrap_or_default()
    }
}
