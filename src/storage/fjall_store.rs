//! The store on fjall: the queue to the one writer thread, and reads beside it.
//!
//! Whatever waits when the writer is free becomes one batch with one fsync. When a write fails, the store turns
//! read-only, answers writes with the reason, and opens the database again by itself until that works.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use fjall::{PersistMode, Readable as _};
use tracing::{error, info};

use super::{
    OpenError, StoreOptions,
    engine::{Answer, Engine, Queued, Staged},
    format, recovery,
};
use crate::{
    core::{
        change::Change,
        durability::Durability,
        hlc::HybridClock,
        object::{Object, ObjectId, Tier},
        time::{MonotonicUs, UnixSecs},
    },
    ports::{
        ObjectStore,
        object_store::{Job, Page, Receipt, StoreCounts, StoreError, StoreHealth},
    },
};

/// The most jobs that wait for the writer.
const QUEUE_MAX: usize = 16_384;
/// The most jobs, and the most bytes of values, in one batch.
const BATCH_MAX: usize = 1_024;
const BATCH_BYTES_MAX: usize = 16 << 20;
/// The most records that one page of a listing looks at, however many of them have expired.
const SCAN_MAX: usize = 100_000;
/// The first and the longest pause between attempts to recover; it doubles from the one to the other.
const RECOVERY_PAUSE_MS: u64 = 250;
const RECOVERY_PAUSE_MS_MAX: u64 = 8_000;

/// A store on fjall. Dropping it, or [`close`](Self::close), finishes what waits and stops the writer.
#[derive(Debug)]
pub struct FjallStore {
    shared: Arc<Shared>,
    queue: Mutex<Option<SyncSender<Queued>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    options: StoreOptions,
    /// `None` only while the database is being opened again.
    engine: RwLock<Option<EngineSlot>>,
    health: RwLock<StoreHealth>,
    counts: Counts,
}

struct EngineSlot(Engine);

impl std::fmt::Debug for EngineSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl Deref for EngineSlot {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.0
    }
}

#[derive(Debug, Default)]
struct Counts {
    writes: AtomicU64,
    batches: AtomicU64,
    fsyncs: AtomicU64,
    swept: AtomicU64,
    recoveries: AtomicU64,
    waiting: AtomicU64,
}

impl FjallStore {
    /// Opens the store of a directory and starts its writer thread.
    ///
    /// # Errors
    /// Says why it does not open, with the way out.
    pub fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let (engine, last) = recovery::open(&options)?;
        let clock = HybridClock::new(options.node_tag, last);
        let shared = Arc::new(Shared {
            options,
            engine: RwLock::new(Some(EngineSlot(engine))),
            health: RwLock::new(StoreHealth::Up),
            counts: Counts::default(),
        });
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let writer = Writer {
            shared: Arc::clone(&shared),
            clock,
            unsynced_since: None,
            attempt_at: MonotonicUs(0),
            attempt_pause_ms: RECOVERY_PAUSE_MS,
        };
        let writer = thread::Builder::new()
            .name("nomad-writer".into())
            .spawn(move || writer.run(&jobs))
            .map_err(|source| OpenError::Dir { dir: shared.options.dir.clone(), source })?;
        Ok(Self { shared, queue: Mutex::new(Some(queue)), writer: Mutex::new(Some(writer)) })
    }

    /// Returns the options that the store was opened with.
    pub fn options(&self) -> &StoreOptions {
        &self.shared.options
    }

    /// Finishes what waits, makes it durable, and closes the database. Later writes get [`StoreError::Closed`].
    pub fn close(&self) {
        lock(&self.queue).take();
        if let Some(writer) = lock(&self.writer).take()
            && writer.join().is_err()
        {
            error!("the writer thread ended in a panic");
        }
        *write(&self.shared.engine) = None;
    }
}

impl Drop for FjallStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl ObjectStore for FjallStore {
    fn submit(&self, job: Job) {
        let at = self.shared.options.clock.monotonic();
        let queue = lock(&self.queue);
        let Some(queue) = queue.as_ref() else {
            return refuse(job, &StoreError::Closed);
        };
        let waiting = self.shared.counts.waiting.fetch_add(1, Relaxed);
        match queue.try_send(Queued { job, at }) {
            Ok(()) => {}
            Err(TrySendError::Full(Queued { job, .. })) => {
                self.shared.counts.waiting.fetch_sub(1, Relaxed);
                refuse(job, &StoreError::Full { waiting });
            }
            Err(TrySendError::Disconnected(Queued { job, .. })) => {
                self.shared.counts.waiting.fetch_sub(1, Relaxed);
                refuse(job, &StoreError::Closed);
            }
        }
    }

    fn get(&self, tier: Tier, id: &ObjectId, now: UnixSecs) -> Result<Option<Object>, StoreError> {
        let object = self.shared.with_engine(|engine| engine.read(tier, id))?;
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
        self.shared.with_engine(|engine| list(engine, tier, prefix, after, limit, now))
    }

    fn health(&self) -> StoreHealth {
        if lock(&self.writer).as_ref().is_some_and(JoinHandle::is_finished) {
            return StoreHealth::Failed { reason: "the store's writer thread has panicked".into() };
        }
        self.shared.health.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn counts(&self) -> StoreCounts {
        let counts = &self.shared.counts;
        let disk_bytes = self.shared.with_engine(|engine| {
            engine.db.disk_space().map_err(|error| StoreError::Engine(error.to_string()))
        });
        StoreCounts {
            writes: counts.writes.load(Relaxed),
            batches: counts.batches.load(Relaxed),
            fsyncs: counts.fsyncs.load(Relaxed),
            swept: counts.swept.load(Relaxed),
            recoveries: counts.recoveries.load(Relaxed),
            waiting: counts.waiting.load(Relaxed),
            disk_bytes: disk_bytes.unwrap_or_default(),
        }
    }
}

impl Shared {
    /// Reads without ever waiting for a recovery: while the database is being opened again, that is the answer.
    fn with_engine<T>(
        &self,
        read: impl FnOnce(&Engine) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let slot = match self.engine.try_read() {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(StoreError::Reopening),
        };
        slot.as_ref().map_or(Err(StoreError::Reopening), |engine| read(engine))
    }

    fn set_health(&self, health: StoreHealth) {
        *self.health.write().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// Says why the disk is too full for `wanted` more bytes, if it is.
    fn shortage(&self, wanted: u64, min_free: u64) -> Option<String> {
        let dir = &self.options.dir;
        let stat = rustix::fs::statvfs(dir).ok()?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        (free < min_free.saturating_add(wanted)).then(|| {
            format!(
                "only {free} bytes are free on the disk of {}, and node.storage.minFreeBytes keeps {min_free} free; \
                 make room, or delete objects",
                dir.display()
            )
        })
    }
}

/// The state of the writer thread.
struct Writer {
    shared: Arc<Shared>,
    clock: HybridClock,
    /// Since when there is something that no fsync covers; always `None` with [`Durability::Always`].
    unsynced_since: Option<MonotonicUs>,
    /// When to try again to recover, and how long to wait after that attempt.
    attempt_at: MonotonicUs,
    attempt_pause_ms: u64,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Queued>) {
        loop {
            let first = match self.pause() {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(pause) => jobs.recv_timeout(pause),
            };
            match first {
                Ok(first) => self.on_batch(gather(first, jobs)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.sync_when_due();
            self.recover_when_needed();
        }
        self.sync();
    }

    /// How long to wait for a job before there is something else to do; `None` = nothing else.
    fn pause(&self) -> Option<Duration> {
        if self.is_read_only() {
            let now = self.shared.options.clock.monotonic();
            return Some(Duration::from_micros(self.attempt_at.since(now)));
        }
        let Durability::Interval(interval) = self.shared.options.durability else { return None };
        let since = self.unsynced_since?;
        let passed = Duration::from_micros(self.shared.options.clock.monotonic().since(since));
        Some(interval.saturating_sub(passed))
    }

    fn is_read_only(&self) -> bool {
        let health = self.shared.health.read().unwrap_or_else(PoisonError::into_inner);
        matches!(*health, StoreHealth::ReadOnly { .. })
    }

    fn on_batch(&mut self, batch: Vec<Queued>) {
        let shared = Arc::clone(&self.shared);
        shared.counts.waiting.fetch_sub(batch.len() as u64, Relaxed);
        let health = read(&shared.health).clone();
        if let StoreHealth::ReadOnly { reason } = health {
            let error = StoreError::ReadOnly { reason };
            return batch.into_iter().for_each(|queued| refuse(queued.job, &error));
        }
        let batch = self.refuse_what_has_no_room(batch);
        let slot = read(&shared.engine);
        let Some(engine) = slot.as_ref() else {
            return batch.into_iter().for_each(|queued| refuse(queued.job, &StoreError::Reopening));
        };
        let clock = &shared.options.clock;
        let start = clock.monotonic();
        let mut staged = engine.stage(batch, start, &mut self.clock, clock.wall());
        let sync = shared.options.durability == Durability::Always;
        match engine.commit(&mut staged, &self.clock, sync, shared.options.faults.as_ref()) {
            Ok(wrote) => self.on_committed(staged, start, wrote, sync),
            Err(reason) => {
                error!(%reason, "a batch could not be written; writes are refused until the store has recovered");
                let reason = format!("a write to the disk failed: {reason}");
                shared.set_health(StoreHealth::ReadOnly { reason: reason.clone() });
                let commit_us = clock.monotonic().since(start);
                answer(staged, Some(&StoreError::OutcomeUnknown { reason }), commit_us);
            }
        }
    }

    fn on_committed(&mut self, staged: Staged, start: MonotonicUs, wrote: bool, sync: bool) {
        let counts = &self.shared.counts;
        counts.writes.fetch_add(staged.writes, Relaxed);
        counts.swept.fetch_add(staged.swept, Relaxed);
        if wrote {
            counts.batches.fetch_add(1, Relaxed);
            if sync {
                counts.fsyncs.fetch_add(1, Relaxed);
            } else if self.unsynced_since.is_none() {
                self.unsynced_since = Some(self.shared.options.clock.monotonic());
            }
        }
        let commit_us = self.shared.options.clock.monotonic().since(start);
        answer(staged, None, commit_us);
    }

    /// Refuses, while the disk is nearly full, what needs more room; a delete may use half of the reserve.
    fn refuse_what_has_no_room(&self, batch: Vec<Queued>) -> Vec<Queued> {
        let min_free = self.shared.options.min_free_bytes;
        let wanted = batch.iter().map(|queued| value_bytes(&queued.job) as u64).sum();
        let Some(reason) = self.shared.shortage(wanted, min_free) else { return batch };
        let no_room_for_deletes = self.shared.shortage(0, min_free / 2).is_some();
        let mut kept = Vec::with_capacity(batch.len());
        for queued in batch {
            if no_room_for_deletes || grows(&queued.job) {
                refuse(queued.job, &StoreError::ReadOnly { reason: reason.clone() });
            } else {
                kept.push(queued);
            }
        }
        kept
    }

    fn sync_when_due(&mut self) {
        let Durability::Interval(interval) = self.shared.options.durability else { return };
        let Some(since) = self.unsynced_since else { return };
        let passed = self.shared.options.clock.monotonic().since(since);
        if Duration::from_micros(passed) >= interval {
            self.sync();
        }
    }

    /// Makes durable what no fsync covers yet.
    fn sync(&mut self) {
        if self.unsynced_since.take().is_none() {
            return;
        }
        let shared = &self.shared;
        let slot = read(&shared.engine);
        let Some(engine) = slot.as_ref() else { return };
        let fault = shared.options.faults.as_ref().map_or(Ok(()), |f| f(super::FaultPoint::Fsync));
        let synced = fault
            .map_err(|error| error.to_string())
            .and_then(|()| engine.db.persist(PersistMode::SyncData).map_err(|e| e.to_string()));
        match synced {
            Ok(()) => {
                shared.counts.fsyncs.fetch_add(1, Relaxed);
            }
            Err(reason) => {
                error!(%reason, "the journal could not be flushed; writes are refused until the store has recovered");
                shared.set_health(StoreHealth::ReadOnly {
                    reason: format!("a flush to the disk failed: {reason}"),
                });
            }
        }
    }

    fn recover_when_needed(&mut self) {
        let now = self.shared.options.clock.monotonic();
        if !self.is_read_only() || now < self.attempt_at {
            return;
        }
        let shared = &self.shared;
        let mut slot = write(&shared.engine);
        // The directory stays locked until the last handle is gone.
        *slot = None;
        match recovery::reopen(&shared.options) {
            Ok((engine, last)) => {
                *slot = Some(EngineSlot(engine));
                drop(slot);
                if let Some(last) = last {
                    self.clock.observe(last);
                }
                shared.counts.recoveries.fetch_add(1, Relaxed);
                self.attempt_pause_ms = RECOVERY_PAUSE_MS;
                shared.set_health(StoreHealth::Up);
                info!("the store has recovered and takes writes again");
            }
            Err(reason) => {
                // Reads go on with whatever can be opened.
                *slot = recovery::open(&shared.options).ok().map(|(engine, _)| EngineSlot(engine));
                drop(slot);
                shared.set_health(StoreHealth::ReadOnly {
                    reason: format!("the disk still fails: {reason}"),
                });
                self.attempt_at = now.plus_us(self.attempt_pause_ms * 1000);
                self.attempt_pause_ms = (self.attempt_pause_ms * 2).min(RECOVERY_PAUSE_MS_MAX);
            }
        }
    }
}

/// Takes whatever waits behind the first job, within the limits of a batch.
fn gather(first: Queued, jobs: &Receiver<Queued>) -> Vec<Queued> {
    let mut bytes = value_bytes(&first.job);
    let mut batch = vec![first];
    while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
        match jobs.try_recv() {
            Ok(queued) => {
                bytes += value_bytes(&queued.job);
                batch.push(queued);
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
    batch
}

fn value_bytes(job: &Job) -> usize {
    match job {
        Job::Write(job) => job.change.value_bytes(),
        Job::Sweep { .. } => 0,
    }
}

fn grows(job: &Job) -> bool {
    matches!(job, Job::Write(job) if matches!(job.change, Change::Write { .. }))
}

fn answer(staged: Staged, failure: Option<&StoreError>, commit_us: u64) {
    let batch_len = staged.answers.len();
    for answer in staged.answers {
        Answer::send(answer, failure, commit_us, batch_len);
    }
}

/// Answers a job that was not begun.
pub(super) fn refuse(job: Job, error: &StoreError) {
    match job {
        Job::Write(job) => job.done.complete(Receipt {
            result: Err(error.clone()),
            queued_us: 0,
            commit_us: 0,
            batch_len: 0,
        }),
        Job::Sweep { done, .. } => done(Err(error.clone())),
    }
}

fn list(
    engine: &Engine,
    tier: Tier,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    now: UnixSecs,
) -> Result<Page, StoreError> {
    let failed = |error: fjall::Error| StoreError::Engine(error.to_string());
    let mut start = format::object_key(tier, prefix);
    if let Some(after) = after {
        let mut behind = format::object_key(tier, after);
        behind.push(0);
        start = start.max(behind);
    }
    let end = vec![format::tier_tag(tier) + 1];
    let snapshot = engine.db.snapshot();
    let mut page = Page::default();
    let mut last = None;
    for (scanned, guard) in snapshot.range(&engine.objects, start..end).enumerate() {
        let (key, record) = guard.into_inner().map_err(failed)?;
        let id = ObjectId::parse_bytes(key.get(1..).unwrap_or_default())
            .map_err(|error| StoreError::Engine(error.to_string()))?;
        if !id.as_str().starts_with(prefix) {
            break;
        }
        if page.items.len() == limit || scanned == SCAN_MAX {
            page.next = last;
            break;
        }
        let object = format::decode_object(&id, Bytes::from(record))?;
        if !object.is_expired(now) {
            page.items.push(object.meta());
        }
        last = Some(id);
    }
    Ok(page)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
