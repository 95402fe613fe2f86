//! The store on fjall: the queue to the one writer thread (see `writer`), and reads beside it.
//!
//! Nothing here waits for the writer, for an fsync, or for the database to be opened again.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use fjall::Readable as _;
use tracing::error;

use super::{
    OpenError, StoreOptions,
    engine::{Engine, Queued},
    format, recovery,
    writer::{Writer, value_bytes},
};
use crate::{
    core::{
        hlc::HybridClock,
        object::{Object, ObjectId, Tier, Version},
        time::{UnixMs, UnixSecs},
    },
    ports::{
        ObjectStore,
        object_store::{Job, Page, Receipt, StoreCounts, StoreError, StoreHealth},
    },
};

/// The most jobs that wait for the writer.
const QUEUE_MAX: usize = 16_384;
/// The most bytes of values that wait for the writer.
const QUEUE_BYTES_MAX: u64 = 256 << 20;
/// What is said once the writer thread has ended by a defect.
pub(super) const WRITER_FAILED: &str = "the store's writer thread has panicked";
/// The most records that one page of a listing looks at, however many of them have expired.
const SCAN_MAX: usize = 100_000;

/// A store on fjall. Dropping it, or [`close`](Self::close), finishes what waits and stops the writer.
#[derive(Debug)]
pub struct FjallStore {
    shared: Arc<Shared>,
    queue: Mutex<Option<SyncSender<Queued>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer and the readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub options: StoreOptions,
    /// `None` only while the database is being opened again.
    pub engine: RwLock<Option<EngineSlot>>,
    pub health: RwLock<StoreHealth>,
    /// Why the disk is too full for more, while it is. Nothing has failed then.
    pub shortage: RwLock<Option<String>>,
    pub writer_failed: AtomicBool,
    /// The latest time seen, in milliseconds. A wall clock that is set back does not bring back what has expired.
    latest_ms: AtomicU64,
    pub counts: Counts,
}

pub(super) struct EngineSlot(pub Engine);

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
pub(super) struct Counts {
    pub writes: AtomicU64,
    pub batches: AtomicU64,
    pub fsyncs: AtomicU64,
    pub swept: AtomicU64,
    pub recoveries: AtomicU64,
    pub waiting: AtomicU64,
    pub waiting_bytes: AtomicU64,
    /// As the writer has measured it last: the engine measures under the lock that an fsync holds.
    pub disk_bytes: AtomicU64,
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
            shortage: RwLock::new(None),
            writer_failed: AtomicBool::new(false),
            latest_ms: AtomicU64::new(last.map_or(0, version_ms)),
            counts: Counts::default(),
        });
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let mut writer = Writer::new(Arc::clone(&shared), clock);
        writer.measure();
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
        // Nobody else waits at the lock for the writer to end.
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer
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
        let counts = &self.shared.counts;
        let bytes = value_bytes(&job) as u64;
        let waiting = counts.waiting.fetch_add(1, Relaxed);
        let waiting_bytes = counts.waiting_bytes.fetch_add(bytes, Relaxed);
        let sent = if waiting > 0 && waiting_bytes.saturating_add(bytes) > QUEUE_BYTES_MAX {
            Err(TrySendError::Full(Queued { job, at }))
        } else {
            queue.try_send(Queued { job, at })
        };
        let Err(error) = sent else { return };
        counts.waiting.fetch_sub(1, Relaxed);
        counts.waiting_bytes.fetch_sub(bytes, Relaxed);
        match error {
            TrySendError::Full(Queued { job, .. }) => refuse(job, &StoreError::Full { waiting }),
            TrySendError::Disconnected(Queued { job, .. }) => refuse(job, &StoreError::Closed),
        }
    }

    fn get(&self, tier: Tier, id: &ObjectId, now: UnixSecs) -> Result<Option<Object>, StoreError> {
        let now = self.shared.latest(now);
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
        let now = self.shared.latest(now);
        self.shared.with_engine(|engine| list(engine, tier, prefix, after, limit, now))
    }

    fn health(&self) -> StoreHealth {
        if self.shared.writer_failed.load(Relaxed) {
            return StoreHealth::Failed { reason: WRITER_FAILED.into() };
        }
        let health = read(&self.shared.health).clone();
        match (health, &*read(&self.shared.shortage)) {
            (StoreHealth::Up, Some(reason)) => StoreHealth::ReadOnly { reason: reason.clone() },
            (health, _) => health,
        }
    }

    fn counts(&self) -> StoreCounts {
        let counts = &self.shared.counts;
        StoreCounts {
            writes: counts.writes.load(Relaxed),
            batches: counts.batches.load(Relaxed),
            fsyncs: counts.fsyncs.load(Relaxed),
            swept: counts.swept.load(Relaxed),
            recoveries: counts.recoveries.load(Relaxed),
            waiting: counts.waiting.load(Relaxed),
            disk_bytes: counts.disk_bytes.load(Relaxed),
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

    pub fn set_health(&self, health: StoreHealth) {
        *write(&self.health) = health;
    }

    /// Returns `now`, or the latest time seen before if the clock was set back.
    pub fn latest_ms(&self, now: UnixMs) -> UnixMs {
        // Read first: a write on each read of an object would make all of them wait for one another.
        let latest = self.latest_ms.load(Relaxed);
        if now.0 <= latest {
            UnixMs(latest)
        } else {
            UnixMs(self.latest_ms.fetch_max(now.0, Relaxed).max(now.0))
        }
    }

    fn latest(&self, now: UnixSecs) -> UnixSecs {
        self.latest_ms(UnixMs(now.0.saturating_mul(1000))).secs()
    }

    /// Says why the disk is too full for `wanted` more bytes, if it is.
    pub fn shortage(&self, wanted: u64, min_free: u64) -> Option<String> {
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

/// The wall clock's part of a version, in milliseconds.
fn version_ms(version: Version) -> u64 {
    version.time >> 16
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

pub(super) fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
