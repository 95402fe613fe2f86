//! The writer thread: the only one that decides and writes.
//!
//! All jobs that wait when it is free become one batch with one fsync. When a write fails, the store becomes read-only. It then
//! refuses writes with the reason, and opens the database again and again until that works.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    thread,
    time::Duration,
};

use fjall::PersistMode;
use tracing::{error, info};

use super::{
    FaultPoint,
    engine::{CommitError, Engine},
    fjall_store::{StoreShared, WRITER_FAILED},
    recovery,
    room::Room,
    stage::{BatchStage, PendingAnswer, QueuedJob, Staged},
};
use nomad_core::model::{
    durability::Durability,
    hlc::HybridClock,
    pause,
    time::{MonotonicUs, UnixMs},
};
use nomad_ports::object_store::{StoreError, StoreHealth, StoreJob};

/// The most jobs, and the most bytes of values, in one batch.
const BATCH_MAX: usize = 1_024;
const BATCH_BYTES_MAX: usize = 16 << 20;
/// The first and the longest pause between attempts to recover; it doubles from the one to the other.
const RECOVERY_PAUSE_US: u64 = 250_000;
const RECOVERY_PAUSE_US_MAX: u64 = 8_000_000;
/// What a record costs beside the bytes of its value.
const RECORD_BYTES: usize = 128;
/// How often to look how much room there is, and how much is used.
const MEASURE_PAUSE: Duration = Duration::from_secs(1);

/// The state of the writer thread.
pub(super) struct Writer {
    shared: Arc<StoreShared>,
    clock: HybridClock,
    /// Since when there is something that no fsync covers; always `None` with [`Durability::Always`].
    unsynced_since: Option<MonotonicUs>,
    /// When to try again to recover, and how often that has failed.
    attempt_at: MonotonicUs,
    attempts: u32,
    /// Where the sweep goes on; empty = at the start.
    sweep_from: Vec<u8>,
    measured_at: MonotonicUs,
    /// When it last looked whether its directory is there, and how much room.
    looked_at: MonotonicUs,
}

/// Tells the others when the thread ends in a panic.
struct OnPanic(Arc<StoreShared>);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.writer_failed.store(true, Relaxed);
        }
    }
}

impl Writer {
    pub fn new(shared: Arc<StoreShared>, clock: HybridClock) -> Self {
        Self {
            shared,
            clock,
            unsynced_since: None,
            attempt_at: MonotonicUs(0),
            attempts: 0,
            sweep_from: Vec::new(),
            measured_at: MonotonicUs(0),
            looked_at: MonotonicUs(0),
        }
    }

    pub fn run(mut self, jobs: &Receiver<QueuedJob>) {
        let _on_panic = OnPanic(Arc::clone(&self.shared));
        loop {
            match jobs.recv_timeout(self.pause()) {
                Ok(first) => self.on_batch(gather(first, jobs)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.sync_when_due();
            self.recover_when_needed();
            self.look_around();
        }
        self.sync();
    }

    /// How long to wait for a job before there is something else to do.
    fn pause(&self) -> Duration {
        let now = self.shared.options.clock.monotonic();
        if self.is_read_only() {
            return Duration::from_micros(self.attempt_at.since(now));
        }
        let looked = Duration::from_micros(now.since(self.looked_at));
        let look = self.look_pause().saturating_sub(looked);
        self.sync_pause().map_or(look, |sync| sync.min(look))
    }

    /// How often to look at the disk.
    fn look_pause(&self) -> Duration {
        if self.shared.is_short() { MEASURE_PAUSE } else { self.shared.options.health_check }
    }

    fn sync_pause(&self) -> Option<Duration> {
        let Durability::Interval(interval) = self.shared.options.durability else { return None };
        let since = self.unsynced_since?;
        let passed = Duration::from_micros(self.shared.options.clock.monotonic().since(since));
        Some(interval.saturating_sub(passed))
    }

    fn is_read_only(&self) -> bool {
        matches!(*self.shared.health.read(), StoreHealth::ReadOnly { .. })
    }

    fn on_batch(&mut self, batch: Vec<QueuedJob>) {
        let shared = Arc::clone(&self.shared);
        let bytes = batch.iter().map(|queued| value_bytes(&queued.job) as u64).sum();
        shared.waiting.jobs.fetch_sub(batch.len() as u64, Relaxed);
        shared.waiting.bytes.fetch_sub(bytes, Relaxed);
        let health = shared.health.read().clone();
        if let StoreHealth::ReadOnly { reason } = health {
            return refuse_all(batch, &StoreError::ReadOnly { reason });
        }
        let short = match shared.look_at_room(bytes) {
            Room::Enough => None,
            Room::ForDeletions(reason) => Some(reason),
            Room::None(reason) => return refuse_all(batch, &StoreError::ReadOnly { reason }),
        };
        let slot = shared.engine.read();
        let Some(engine) = slot.as_ref() else {
            return refuse_all(batch, &StoreError::Reopening);
        };
        let clock = &shared.options.clock;
        let start = clock.monotonic();
        let now = shared.latest_ms(clock.wall());
        let mut staged = self.stage(engine, batch, (start, now), short.as_deref());
        let sync = shared.options.durability == Durability::Always;
        let faults = shared.options.faults.as_ref();
        let commit = || engine.commit(&mut staged, (&self.clock, now), sync, faults);
        let committed = catch_unwind(AssertUnwindSafe(commit)).unwrap_or_else(|panic| {
            shared.writer_failed.store(true, Relaxed);
            // The batch may be on the disk: to drop the answers would say that it was not begun.
            let unknown = StoreError::OutcomeUnknown { reason: WRITER_FAILED.into() };
            answer(std::mem::take(&mut staged), Some(&unknown), clock.monotonic().since(start));
            resume_unwind(panic)
        });
        match committed {
            Ok(wrote) => self.on_committed(staged, start, wrote, sync),
            Err(failure) => {
                error!(reason = %failure, "a batch could not be written; writes are refused until the store has recovered");
                let reason = format!("a write to the disk failed: {failure}");
                shared.set_health(StoreHealth::ReadOnly { reason: reason.clone() });
                self.sweep_from.clear();
                let commit_us = clock.monotonic().since(start);
                let failure = match failure {
                    CommitError::NotBegun(_) => StoreError::ReadOnly { reason },
                    CommitError::Failed(_) => StoreError::OutcomeUnknown { reason },
                };
                answer(staged, Some(&failure), commit_us);
            }
        }
    }

    fn stage(
        &mut self,
        engine: &Engine,
        batch: Vec<QueuedJob>,
        (start, now): (MonotonicUs, UnixMs),
        short: Option<&str>,
    ) -> Staged {
        let facts = *self.shared.facts.lock();
        let stage = BatchStage {
            table: engine,
            clock: &mut self.clock,
            now,
            sweep_from: &mut self.sweep_from,
            short,
            staged: Staged { facts, ..Staged::default() },
        };
        let staged = stage.run(batch, start);
        self.shared.latest_version.store(self.clock.last().time, Relaxed);
        staged
    }

    fn on_committed(&mut self, staged: Staged, start: MonotonicUs, wrote: bool, sync: bool) {
        *self.shared.facts.lock() = staged.facts;
        let mut counts = self.shared.counts.lock();
        counts.writes += staged.writes;
        counts.swept += staged.swept;
        counts.register_writes += staged.register_writes;
        counts.batches += u64::from(wrote);
        counts.fsyncs += u64::from(wrote && sync);
        drop(counts);
        let now = self.shared.options.clock.monotonic();
        if wrote && !sync {
            self.unsynced_since.get_or_insert(now);
        }
        answer(staged, None, now.since(start));
        if Duration::from_micros(now.since(self.measured_at)) >= MEASURE_PAUSE {
            self.measure();
        }
    }

    /// Measures how much of the disk is used.
    pub fn measure(&mut self) {
        self.measured_at = self.shared.options.clock.monotonic();
        let used = self.shared.engine.read().as_ref().map(|engine| engine.db.disk_space());
        if let Some(Ok(used)) = used {
            self.shared.counts.lock().disk_bytes = used;
        }
    }

    /// Looks now and then whether the directory is still there, and how much room. So the first write after a change is refused
    /// before it begins.
    fn look_around(&mut self) {
        let now = self.shared.options.clock.monotonic();
        let looked = Duration::from_micros(now.since(self.looked_at));
        if self.is_read_only() || looked < self.look_pause() {
            return;
        }
        self.looked_at = now;
        if let Err(reason) = self.shared.opened.check() {
            error!(%reason, "the store has lost its directory; writes are refused");
            return self.shared.set_health(StoreHealth::ReadOnly { reason });
        }
        self.shared.look_at_room(0);
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
        let slot = shared.engine.read();
        let Some(engine) = slot.as_ref() else { return };
        let fault = shared.options.faults.as_ref().map_or(Ok(()), |f| f(FaultPoint::Fsync));
        let synced = fault
            .map_err(|error| error.to_string())
            .and_then(|()| engine.db.persist(PersistMode::SyncData).map_err(|e| e.to_string()));
        match synced {
            Ok(()) => shared.counts.lock().fsyncs += 1,
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
        let shared = Arc::clone(&self.shared);
        // What has been written reads well until the disk is known to take more: only then is it given up.
        let needed = shared.needed_bytes();
        let is_there = shared.opened.check();
        if let Err(reason) = is_there.and_then(|()| recovery::probe(&shared.options, needed)) {
            return self.postpone_recovery(&reason);
        }
        let mut slot = shared.engine.write();
        // The directory stays locked until the last handle is gone.
        *slot = None;
        match recovery::reopen(&shared.options) {
            Ok((engine, opened)) => {
                *slot = Some(engine);
                *shared.facts.lock() = opened.facts;
                drop(slot);
                if let Some(last) = opened.clock {
                    self.clock.observe(last);
                }
                self.unsynced_since = None;
                shared.counts.lock().recoveries += 1;
                self.attempts = 0;
                shared.set_health(StoreHealth::Up);
                self.measure();
                info!("the store has recovered and takes writes again");
            }
            Err(reason) => {
                drop(slot);
                self.postpone_recovery(&reason);
            }
        }
    }

    fn postpone_recovery(&mut self, reason: &str) {
        let now = self.shared.options.clock.monotonic();
        let reason = format!("the disk still fails: {reason}");
        self.shared.set_health(StoreHealth::ReadOnly { reason });
        let pause_us = pause::doubled(RECOVERY_PAUSE_US, self.attempts, RECOVERY_PAUSE_US_MAX);
        self.attempt_at = now.plus_us(pause_us);
        self.attempts += 1;
    }
}

/// Takes the jobs that wait behind the first one, within the limits of a batch.
fn gather(first: QueuedJob, jobs: &Receiver<QueuedJob>) -> Vec<QueuedJob> {
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

/// What a job adds to the journal, roughly.
pub(super) fn value_bytes(job: &StoreJob) -> usize {
    match job {
        StoreJob::Write(job) => job.change.value_bytes(),
        StoreJob::Sweep { .. } => 0,
        StoreJob::Registers(job) => {
            let values = job.writes.iter().filter_map(|(_, register)| register.as_ref());
            values.map(|register| register.value.len_bytes()).sum::<usize>()
                + job.writes.len() * RECORD_BYTES
        }
        StoreJob::Outbox(job) => {
            let change = &job.change;
            change.put.iter().map(|(_, value)| value.len_bytes()).sum::<usize>()
                + (change.put.len() + change.remove.len()) * RECORD_BYTES
        }
    }
}

fn refuse_all(batch: Vec<QueuedJob>, error: &StoreError) {
    for queued in batch {
        queued.job.refuse(error.clone());
    }
}

fn answer(staged: Staged, failure: Option<&StoreError>, commit_us: u64) {
    let batch_len = staged.answers.len();
    for answer in staged.answers {
        PendingAnswer::send(answer, failure, commit_us, batch_len);
    }
}
