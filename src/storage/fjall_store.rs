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

use tracing::error;

use super::{
    StoreOpenError, StoreOptions,
    engine::Engine,
    opened_dir::OpenedDir,
    reading::{self, Facts},
    recovery,
    stage::QueuedJob,
    table::RecordSnapshot,
    writer::{Writer, value_bytes},
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
    ObjectStore,
    object_store::{
        Expired, ListingPage, RegisterHead, StoreCounts, StoreError, StoreHealth, StoreJob,
    },
};

/// The most jobs that wait for the writer.
const QUEUE_MAX: usize = 16_384;
/// The most bytes of values that wait for the writer.
const QUEUE_BYTES_MAX: u64 = 256 << 20;
/// What is said once the writer thread has ended by a defect.
pub(super) const WRITER_FAILED: &str = "the store's writer thread has panicked";

/// A store on fjall. Dropping it, or [`close`](Self::close), finishes what waits and stops the writer.
#[derive(Debug)]
pub struct FjallStore {
    shared: Arc<StoreShared>,
    queue: Mutex<Option<SyncSender<QueuedJob>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer and the readers share.
#[derive(Debug)]
pub(super) struct StoreShared {
    pub options: StoreOptions,
    /// `None` only while the database is being opened again.
    pub engine: RwLock<Option<EngineSlot>>,
    pub health: RwLock<StoreHealth>,
    /// What the store does not do while its disk is too full for more. Nothing has failed then.
    pub shortage: RwLock<StoreHealth>,
    /// The directory that the database was opened in.
    pub opened: OpenedDir,
    /// When somebody last looked how much room there is, in microseconds.
    pub room_seen: AtomicU64,
    pub writer_failed: AtomicBool,
    /// The latest time seen, in milliseconds. A wall clock that is set back does not bring back what has expired.
    latest_ms: AtomicU64,
    /// The time of the greatest version that the writer has given or seen.
    pub latest_version: AtomicU64,
    pub facts: SharedFacts,
    pub counts: Counts,
}

/// What is known of the records; the writer sets it.
#[derive(Debug, Default)]
pub(super) struct SharedFacts {
    has_registers: AtomicBool,
    is_loose: AtomicBool,
    outbox_entries: AtomicU64,
    outbox_bytes: AtomicU64,
}

impl SharedFacts {
    pub fn read(&self) -> Facts {
        Facts {
            has_registers: self.has_registers.load(Relaxed),
            is_loose: self.is_loose.load(Relaxed),
            outbox_entries: self.outbox_entries.load(Relaxed),
            outbox_bytes: self.outbox_bytes.load(Relaxed),
        }
    }

    pub fn set(&self, facts: Facts) {
        self.has_registers.store(facts.has_registers, Relaxed);
        self.is_loose.store(facts.is_loose, Relaxed);
        self.outbox_entries.store(facts.outbox_entries, Relaxed);
        self.outbox_bytes.store(facts.outbox_bytes, Relaxed);
    }
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
    pub register_writes: AtomicU64,
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
    pub fn open(options: StoreOptions) -> Result<Self, StoreOpenError> {
        let (engine, found) = recovery::open(&options)?;
        let opened = OpenedDir::of(&options.dir)
            .map_err(|source| StoreOpenError::Dir { dir: options.dir.clone(), source })?;
        let clock = HybridClock::new(options.node_tag, found.clock);
        let facts = SharedFacts::default();
        facts.set(found.facts);
        let shared = Arc::new(StoreShared {
            options,
            engine: RwLock::new(Some(EngineSlot(engine))),
            health: RwLock::new(StoreHealth::Up),
            shortage: RwLock::new(StoreHealth::Up),
            opened,
            room_seen: AtomicU64::new(0),
            writer_failed: AtomicBool::new(false),
            latest_ms: AtomicU64::new(found.latest.0),
            latest_version: AtomicU64::new(clock.last().time),
            facts,
            counts: Counts::default(),
        });
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let mut writer = Writer::new(Arc::clone(&shared), clock);
        writer.measure();
        let writer = thread::Builder::new()
            .name("nomad-writer".into())
            .spawn(move || writer.run(&jobs))
            .map_err(|source| StoreOpenError::Dir { dir: shared.options.dir.clone(), source })?;
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
    fn submit(&self, job: StoreJob) {
        let at = self.shared.options.clock.monotonic();
        let queue = lock(&self.queue);
        let Some(queue) = queue.as_ref() else {
            return job.refuse(StoreError::Closed);
        };
        let counts = &self.shared.counts;
        let bytes = value_bytes(&job) as u64;
        let waiting = counts.waiting.fetch_add(1, Relaxed);
        let waiting_bytes = counts.waiting_bytes.fetch_add(bytes, Relaxed);
        let sent = if waiting > 0 && waiting_bytes.saturating_add(bytes) > QUEUE_BYTES_MAX {
            Err(TrySendError::Full(QueuedJob { job, at }))
        } else {
            queue.try_send(QueuedJob { job, at })
        };
        let Err(error) = sent else { return };
        counts.waiting.fetch_sub(1, Relaxed);
        counts.waiting_bytes.fetch_sub(bytes, Relaxed);
        match error {
            TrySendError::Full(QueuedJob { job, .. }) => job.refuse(StoreError::Full { waiting }),
            TrySendError::Disconnected(QueuedJob { job, .. }) => job.refuse(StoreError::Closed),
        }
    }

    fn get(&self, tier: Tier, id: &ObjectId, now: UnixSecs) -> Result<Option<Object>, StoreError> {
        let now = self.shared.latest(now);
        let object = self.shared.with_engine(|engine| reading::object(engine, tier, id))?;
        Ok(object.filter(|object| !object.is_expired(now)))
    }

    fn list(
        &self,
        tier: Tier,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        now: UnixSecs,
    ) -> Result<ListingPage, StoreError> {
        let now = self.shared.latest(now);
        self.shared.with_engine(|engine| reading::list(engine, tier, prefix, after, limit, now))
    }

    fn register(&self, id: &ObjectId) -> Result<Option<Register>, StoreError> {
        let is_loose = self.shared.facts.is_loose.load(Relaxed);
        self.shared
            .with_engine(|engine| reading::register(&RecordSnapshot::of(engine), id, is_loose))
    }

    fn registers(
        &self,
        shard: u8,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<RegisterHead>, StoreError> {
        let is_loose = self.shared.facts.is_loose.load(Relaxed);
        self.shared.with_engine(|engine| {
            reading::registers(&RecordSnapshot::of(engine), shard, after, limit, is_loose)
        })
    }

    fn shard_state(&self, shard: u8) -> Result<Option<ShardState>, StoreError> {
        self.shared.with_engine(|engine| reading::shard_state(engine, shard))
    }

    fn expired(
        &self,
        now: UnixSecs,
        after: Option<&Expired>,
        limit: usize,
    ) -> Result<Vec<Expired>, StoreError> {
        let now = self.shared.latest(now);
        self.shared.with_engine(|engine| reading::expired(engine, now, after, limit))
    }

    fn outbox_entry(&self, id: &ObjectId) -> Result<Option<Value>, StoreError> {
        if self.shared.facts.outbox_entries.load(Relaxed) == 0 {
            return Ok(None);
        }
        self.shared.with_engine(|engine| reading::outbox_entry(engine, id))
    }

    fn outbox(
        &self,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, Value)>, StoreError> {
        self.shared.with_engine(|engine| reading::outbox(engine, after, limit))
    }

    fn latest_version(&self) -> Version {
        let time = self.shared.latest_version.load(Relaxed);
        Version { time, node: u64::MAX }
    }

    fn health(&self) -> StoreHealth {
        if self.shared.writer_failed.load(Relaxed) {
            return StoreHealth::Failed { reason: WRITER_FAILED.into() };
        }
        let health = read(&self.shared.health).clone();
        match health {
            StoreHealth::Up => self.shared.shortage(),
            failing => failing,
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
            register_writes: counts.register_writes.load(Relaxed),
            outbox_entries: self.shared.facts.outbox_entries.load(Relaxed),
            outbox_bytes: self.shared.facts.outbox_bytes.load(Relaxed),
        }
    }
}

impl StoreShared {
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
