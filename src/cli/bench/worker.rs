//! One load worker: sends operations one after the other over its client and records how they ended.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};

use super::{
    BenchError,
    client::{Client, OpFailure, OpReply, TIMEOUT},
    clock,
    drive::Window,
    mix::OpKind,
    pacer::Timetable,
    record::{Shards, Timing},
    watchdog::Watchdog,
    workload::{BenchOperation, Workload},
};

/// How long a worker waits after it lost its connection, so that a node that is gone is not asked in a busy loop.
const LOST_CONNECTION_PAUSE: Duration = Duration::from_millis(100);
/// Requests of the timetable's last moments may start this much after the end.
const END_GRACE: Duration = Duration::from_millis(10);

/// What the workers of an open loop share.
pub(super) struct Schedule {
    pub timetable: Timetable,
    /// One permit for each request that is due.
    pub permits: Arc<Semaphore>,
    next: AtomicU64,
}

impl Schedule {
    pub(super) fn new(timetable: Timetable) -> Schedule {
        Schedule { timetable, permits: Arc::new(Semaphore::new(0)), next: AtomicU64::new(0) }
    }

    /// Awaits the next due request and takes it; `None` when there are no more.
    async fn take(&self) -> Option<u64> {
        self.permits.acquire().await.ok()?.forget();
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        (index < self.timetable.total).then_some(index)
    }
}

/// One worker.
pub(super) struct BenchWorker<C> {
    pub id: usize,
    client: C,
    workload: Workload,
    shards: Arc<Shards>,
    watchdog: Watchdog,
    timeout: Duration,
}

impl<C: Client> BenchWorker<C> {
    pub(super) fn new(
        id: usize,
        client: C,
        workload: Workload,
        shards: Arc<Shards>,
        timeout: Duration,
    ) -> BenchWorker<C> {
        BenchWorker { id, client, workload, shards, watchdog: Watchdog::new(timeout), timeout }
    }

    /// Sends the next request as soon as the last one has ended, until the window ends.
    pub(super) async fn closed_loop(mut self, window: Arc<Window>) {
        loop {
            let started = clock::now();
            if started >= window.end() {
                break;
            }
            let op = self.workload.next();
            let result = self.send(&op, started).await;
            self.record(&op, result, &window, started, None).await;
        }
    }

    /// Sends requests when they are due, or as soon after as a worker is free.
    pub(super) async fn open_loop(mut self, window: Arc<Window>, schedule: Arc<Schedule>) {
        while let Some(index) = schedule.take().await {
            let intended = window.begin + schedule.timetable.intended(index);
            if clock::now() < intended {
                sleep_until(intended).await;
            }
            let started = clock::now();
            if intended >= window.end() || started >= window.end() + END_GRACE {
                break;
            }
            if intended < window.measure_from && started >= window.measure_from {
                // A backlog of the warm-up is dropped, else a server over its capacity would answer nothing else while
                // it is measured.
                continue;
            }
            let op = self.workload.next();
            let result = self.send(&op, started).await;
            self.record(&op, result, &window, started, Some(intended)).await;
        }
    }

    /// Writes keys of the key space, each once, until all `key_count` are taken.
    pub(super) async fn fill(
        mut self,
        next: Arc<AtomicU64>,
        key_count: u64,
    ) -> Result<Self, BenchError> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= key_count {
                return Ok(self);
            }
            let mut op = self.workload.fill(OpKind::Put, index);
            let mut result = self.send(&op, clock::now()).await;
            if result.as_ref().is_err_and(is_already_there) {
                op = self.workload.fill(OpKind::Update, index);
                result = self.send(&op, clock::now()).await;
            }
            if let Err(failure) = result {
                let (code, detail) = (failure.code.into_owned(), failure.detail);
                return Err(BenchError::Preload { key: op.key, code, detail });
            }
            self.shards.of(self.id).done_total += 1;
        }
    }

    async fn send(&mut self, op: &BenchOperation, started: Instant) -> Result<OpReply, OpFailure> {
        let answer = self.watchdog.watch(started, self.client.call(op)).await;
        answer.unwrap_or_else(|| {
            let detail =
                format!("no answer to {} {:?} in {:?}", op.kind.name(), op.key, self.timeout);
            Err(OpFailure { code: Cow::Borrowed(TIMEOUT), detail, is_connection_lost: false })
        })
    }

    /// Records one ended operation; `intended` is its intended start in an open loop.
    async fn record(
        &mut self,
        op: &BenchOperation,
        result: Result<OpReply, OpFailure>,
        window: &Window,
        started: Instant,
        intended: Option<Instant>,
    ) {
        let ended = clock::now();
        let counts_from = intended.unwrap_or(started);
        let is_measured = window.measures(counts_from);
        match result {
            Ok(reply) => {
                let timing = Timing {
                    response: ended - counts_from,
                    service: intended.map(|_| ended - started),
                    is_measured,
                    ended_in_window: window.measures(ended),
                };
                let sent_bytes = op.value.len() as u64;
                self.shards.of(self.id).succeeded(op.kind, timing, sent_bytes, reply.value_bytes);
                self.workload.succeeded(op);
            }
            Err(failure) => {
                let is_connection_lost = failure.is_connection_lost;
                self.shards.of(self.id).failed(op.kind, is_measured, failure);
                if is_connection_lost {
                    sleep(LOST_CONNECTION_PAUSE).await;
                }
            }
        }
    }
}

/// A create over REST is refused with either code, depending on the API.
fn is_already_there(failure: &OpFailure) -> bool {
    failure.code == "ALREADY_EXISTS" || failure.code == "FAILED_PRECONDITION"
}
