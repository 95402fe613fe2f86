//! A store in memory, for tests under paused time: it has no thread, decides at once, and forgets when dropped.

use std::{fmt, sync::Arc};

use parking_lot::{Mutex, MutexGuard};

use super::{
    reading::{self, Facts},
    stage::{BatchStage, QueuedJob, Staged},
    table::Map,
};
use nomad_core::{
    model::{
        hlc::HybridClock,
        object::{Object, ObjectId, Tier, Version},
        time::{UnixMs, UnixSecs},
    },
    register::{Register, ShardState, Value},
};
use nomad_ports::{
    Clock, ObjectStore,
    object_store::{
        Expired, ListingPage, ListingQuery, RegisterHead, StoreCounts, StoreError, StoreHealth,
        StoreJob,
    },
};

/// A store in memory.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    records: Map,
    versions: HybridClock,
    facts: Facts,
    sweep_from: Vec<u8>,
    counts: StoreCounts,
    health: StoreHealth,
    /// The latest time seen: a wall clock that is set back does not bring back what has expired.
    latest: UnixMs,
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State {
            records: Map::new(),
            versions: HybridClock::new(1, None),
            facts: Facts::default(),
            sweep_from: Vec::new(),
            counts: StoreCounts::default(),
            health: StoreHealth::Up,
            latest: UnixMs(0),
        };
        Self { clock, state: Mutex::new(state) }
    }

    /// Makes the store refuse writes, or accept them again.
    pub fn set_health(&self, health: StoreHealth) {
        self.state().health = health;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} records)", self.state().records.len())
    }
}

impl State {
    fn latest(&mut self, now: UnixMs) -> UnixMs {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn latest_secs(&mut self, now: UnixSecs) -> UnixSecs {
        self.latest(UnixMs(now.0.saturating_mul(1000))).secs()
    }

    /// Does a job as a batch of its own, and returns its answer.
    fn run(&mut self, job: StoreJob, clock: &dyn Clock) -> Staged {
        let (now, start) = (self.latest(clock.wall()), clock.monotonic());
        let short = self.health.refusal().map(str::to_owned);
        let stage = BatchStage {
            table: &self.records,
            clock: &mut self.versions,
            now,
            sweep_from: &mut self.sweep_from,
            short: short.as_deref(),
            staged: Staged { facts: self.facts, ..Staged::default() },
        };
        let mut staged = stage.run(vec![QueuedJob { job, at: start }], start);
        self.counts.batches += u64::from(!staged.ops.is_empty() || staged.keeps_clock);
        for (key, record) in std::mem::take(&mut staged.ops) {
            match record {
                Some(record) => self.records.insert(key, record),
                None => self.records.remove(&key),
            };
        }
        self.facts = staged.facts;
        self.counts.writes += staged.writes;
        self.counts.register_writes += staged.register_writes;
        self.counts.swept += staged.swept;
        staged
    }
}

impl ObjectStore for MemoryStore {
    fn submit(&self, job: StoreJob) {
        let mut state = self.state();
        if let Some(reason) = state.health.refusal_of_deletions() {
            let reason = reason.to_owned();
            drop(state);
            return job.refuse(StoreError::ReadOnly { reason });
        }
        let staged = state.run(job, &*self.clock);
        // Whoever is answered may submit again at once.
        drop(state);
        for answer in staged.answers {
            answer.send(None, 0, 1);
        }
    }

    fn get(&self, tier: Tier, id: &ObjectId, now: UnixSecs) -> Result<Option<Object>, StoreError> {
        let mut state = self.state();
        let now = state.latest_secs(now);
        let object = reading::object(&state.records, tier, id)?;
        Ok(object.filter(|object| !object.is_expired(now)))
    }

    fn list(
        &self,
        tier: Tier,
        wanted: &ListingQuery,
        now: UnixSecs,
    ) -> Result<ListingPage, StoreError> {
        let mut state = self.state();
        let now = state.latest_secs(now);
        reading::list(&state.records, tier, wanted, now)
    }

    fn register(&self, id: &ObjectId) -> Result<Option<Register>, StoreError> {
        let state = self.state();
        reading::register(&state.records, id, state.facts.is_loose)
    }

    fn registers(
        &self,
        shard: u8,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<RegisterHead>, StoreError> {
        let state = self.state();
        reading::registers(&state.records, shard, after, limit, state.facts.is_loose)
    }

    fn shard_state(&self, shard: u8) -> Result<Option<ShardState>, StoreError> {
        reading::shard_state(&self.state().records, shard)
    }

    fn expired(
        &self,
        now: UnixSecs,
        after: Option<&Expired>,
        limit: usize,
    ) -> Result<Vec<Expired>, StoreError> {
        let mut state = self.state();
        let now = state.latest_secs(now);
        reading::expired(&state.records, now, after, limit)
    }

    fn outbox_entry(&self, id: &ObjectId) -> Result<Option<Value>, StoreError> {
        reading::outbox_entry(&self.state().records, id)
    }

    fn outbox(
        &self,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, Value)>, StoreError> {
        reading::outbox(&self.state().records, after, limit)
    }

    fn latest_version(&self) -> Version {
        Version { node: u64::MAX, ..self.state().versions.last() }
    }

    fn health(&self) -> StoreHealth {
        self.state().health.clone()
    }

    fn counts(&self) -> StoreCounts {
        let state = self.state();
        let Facts { outbox_entries, outbox_bytes, .. } = state.facts;
        StoreCounts { outbox_entries, outbox_bytes, ..state.counts }
    }
}
