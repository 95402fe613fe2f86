//! A store in memory, for tests under paused time: it has no thread, decides at once, and forgets when dropped.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::fjall_store::refuse;
use crate::{
    core::{
        change::Decision,
        hlc::HybridClock,
        object::{Object, ObjectId, Tier},
        time::{UnixMs, UnixSecs},
    },
    ports::{
        Clock, ObjectStore,
        object_store::{
            Job, Page, Receipt, StoreCounts, StoreError, StoreHealth, Swept, WriteJob, WriteResult,
            Written,
        },
    },
};

/// A store in memory.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    objects: BTreeMap<(Tier, ObjectId), Object>,
    versions: HybridClock,
    counts: StoreCounts,
    health: StoreHealth,
    /// The latest time seen: a wall clock that is set back does not bring back what has expired.
    latest: UnixMs,
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            versions: HybridClock::new(1, None),
            counts: StoreCounts::default(),
            health: StoreHealth::Up,
            latest: UnixMs(0),
        };
        Self { clock, state: Mutex::new(state) }
    }

    /// Lets the store refuse writes, or take them again.
    pub fn set_health(&self, health: StoreHealth) {
        self.state().health = health;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} objects)", self.state().objects.len())
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

    fn write(&mut self, job: &mut WriteJob, clock: &dyn Clock) -> WriteResult {
        if job.done.is_abandoned() {
            return Err(StoreError::Abandoned);
        }
        let key = (job.tier, job.id.clone());
        let now = self.latest(clock.wall());
        let current = self.objects.get(&key).filter(|object| !object.is_expired(now.secs()));
        let version = self.versions.tick(now);
        let written = match job.change.clone().decide(&job.id, current, now.secs(), version) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(Decision::Keep { object, created }) => {
                self.objects.insert(key, object);
                Written::Kept { version, created }
            }
            Ok(Decision::Remove) => {
                self.objects.remove(&key);
                Written::Removed
            }
        };
        self.counts.writes += 1;
        self.counts.batches += 1;
        Ok(Ok(written))
    }

    fn sweep(&mut self, limit: usize, now: UnixSecs) -> Swept {
        let expired = self.objects.iter().filter(|(_, object)| object.is_expired(now));
        let keys: Vec<_> = expired.map(|(key, _)| key.clone()).take(limit + 1).collect();
        let more = keys.len() > limit;
        let removed = keys.len().min(limit);
        for key in keys.iter().take(limit) {
            self.objects.remove(key);
        }
        self.counts.swept += removed as u64;
        Swept { removed, more }
    }
}

impl ObjectStore for MemoryStore {
    fn submit(&self, job: Job) {
        let mut state = self.state();
        if let Some(reason) = state.health.refusal() {
            let error = StoreError::ReadOnly { reason: reason.to_owned() };
            drop(state);
            return refuse(job, &error);
        }
        match job {
            Job::Write(mut job) => {
                let result = state.write(&mut job, &*self.clock);
                drop(state);
                job.done.complete(Receipt { result, queued_us: 0, commit_us: 0, batch_len: 1 });
            }
            Job::Sweep { limit, done } => {
                let now = state.latest(self.clock.wall()).secs();
                let swept = state.sweep(limit, now);
                drop(state);
                done(Ok(swept));
            }
        }
    }

    fn get(&self, tier: Tier, id: &ObjectId, now: UnixSecs) -> Result<Option<Object>, StoreError> {
        let mut state = self.state();
        let now = state.latest_secs(now);
        let object = state.objects.get(&(tier, id.clone())).cloned();
        Ok(object.filter(|object| !object.is_expired(now)))
    }

    fn list(
        &self,
        tier: Tier,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        now: UnixSecs,
    ) -> Result<Page, StoreError> {
        let mut state = self.state();
        let now = state.latest_secs(now);
        let mut page = Page::default();
        for ((at, id), object) in &state.objects {
            let wanted = *at == tier
                && id.as_str().starts_with(prefix)
                && after.is_none_or(|after| id.as_str() > after)
                && !object.is_expired(now);
            if !wanted {
                continue;
            }
            if page.items.len() == limit {
                page.next = page.items.last().map(|meta| meta.id.clone());
                break;
            }
            page.items.push(object.meta());
        }
        Ok(page)
    }

    fn health(&self) -> StoreHealth {
        self.state().health.clone()
    }

    fn counts(&self) -> StoreCounts {
        self.state().counts
    }
}
