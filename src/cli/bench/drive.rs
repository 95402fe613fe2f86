//! Drives the workers: fills the key space, warms up, measures, and reports progress once a second.

use std::{
    future::{Future, pending},
    pin::{Pin, pin},
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    BenchError, BenchReport,
    client::Client,
    clock,
    pacer::{Pacer, Timetable},
    plan::BenchPlan,
    record::Shards,
    report::Measured,
    worker::{BenchWorker, Schedule},
    workload::{ValuePool, Workload},
};

const TICK: Duration = Duration::from_secs(1);

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchPhase {
    /// Writing the key space.
    Fill,
    /// Load that is not counted.
    Warmup,
    /// Load that is counted.
    Measure,
}

/// A look at a run in progress.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// What the run is doing.
    pub phase: BenchPhase,
    /// Time since the phase began.
    pub elapsed: Duration,
    /// How long the phase takes; `None` where that is not known (filling).
    pub planned: Option<Duration>,
    /// Successful requests since the run began.
    pub done: u64,
    /// Failed requests since the run began.
    pub errors: u64,
    /// Successful requests per second since the last report.
    pub per_second: f64,
}

/// When the load begins, when it counts, when it ends.
#[derive(Debug)]
pub(super) struct Window {
    pub begin: Instant,
    pub measure_from: Instant,
    planned_end: Instant,
    cut: OnceLock<Instant>,
}

impl Window {
    /// A window that begins at `begin`.
    pub(super) fn new(begin: Instant, plan: &BenchPlan) -> Window {
        let measure_from = begin + plan.warmup;
        Window {
            begin,
            measure_from,
            planned_end: measure_from + plan.duration,
            cut: OnceLock::new(),
        }
    }

    /// No request starts later.
    pub(super) fn end(&self) -> Instant {
        self.cut.get().copied().unwrap_or(self.planned_end)
    }

    /// Whether `moment` lies in the measured part.
    pub(super) fn measures(&self, moment: Instant) -> bool {
        moment >= self.measure_from && moment < self.end()
    }

    /// Ends the window at `now` if it would end later.
    fn cut(&self, now: Instant) {
        let _ = self.cut.set(now.min(self.planned_end));
    }

    /// Length of the measured part.
    fn measured_span(&self) -> Duration {
        self.end().saturating_duration_since(self.measure_from)
    }
}

/// The workers of one run and what they have recorded.
struct Crew<C> {
    plan: Arc<BenchPlan>,
    workers: Vec<BenchWorker<C>>,
    shards: Arc<Shards>,
}

impl<C: Client> Crew<C> {
    fn new(plan: BenchPlan, clients: Vec<C>) -> Crew<C> {
        let (run, values) = (clock::run_name(), ValuePool::new(&plan));
        let shards = Arc::new(Shards::new());
        let workers = clients.into_iter().enumerate().map(|(id, client)| {
            let workload = Workload::new(&plan, values.clone(), &run, id);
            BenchWorker::new(id, client, workload, Arc::clone(&shards), plan.timeout)
        });
        Crew { workers: workers.collect(), shards, plan: Arc::new(plan) }
    }
}

/// Runs the whole plan with one client per worker.
pub(super) async fn drive<C: Client>(
    plan: BenchPlan,
    clients: Vec<C>,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(Progress),
) -> Result<BenchReport, BenchError> {
    let mut crew = Crew::new(plan, clients);
    let mut stop = pin!(stop);
    let mut is_stopped = false;
    if crew.plan.preload {
        is_stopped = !fill_keys(&mut crew, stop.as_mut(), &mut progress).await?;
    }
    let window = Arc::new(Window::new(clock::now(), &crew.plan));
    if is_stopped {
        window.cut(window.begin);
    }
    measure(crew, window, stop, progress, Pacer::start).await
}

/// Only writes the key space.
pub(super) async fn fill<C: Client>(
    plan: BenchPlan,
    clients: Vec<C>,
    mut progress: impl FnMut(Progress),
) -> Result<(), BenchError> {
    let mut crew = Crew::new(plan, clients);
    fill_keys(&mut crew, pin!(pending()), &mut progress).await.map(|_| ())
}

/// Writes every key of the key space once. `false` when `stop` came first.
async fn fill_keys<C: Client>(
    crew: &mut Crew<C>,
    mut stop: Pin<&mut impl Future<Output = ()>>,
    progress: &mut impl FnMut(Progress),
) -> Result<bool, BenchError> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for worker in crew.workers.drain(..) {
        tasks.spawn(worker.fill(Arc::clone(&next), crew.plan.key_count));
    }
    let mut ticker = Ticker::new(Arc::clone(&crew.shards));
    let (begin, mut ticks) = (clock::now(), ticks());
    loop {
        tokio::select! {
            biased;
            joined = tasks.join_next() => match joined {
                None => break,
                Some(Ok(result)) => crew.workers.push(result?),
                Some(Err(died)) => return Err(BenchError::WorkerDied(died.to_string())),
            },
            () = &mut stop => return Ok(false),
            _ = ticks.tick() => progress(ticker.look(BenchPhase::Fill, begin, None)),
        }
    }
    crew.workers.sort_by_key(|worker| worker.id);
    Ok(true)
}

/// Warms up and measures. `pace` starts the releasing of an open loop's requests.
async fn measure<C: Client>(
    crew: Crew<C>,
    window: Arc<Window>,
    mut stop: Pin<&mut impl Future<Output = ()>>,
    mut progress: impl FnMut(Progress),
    pace: impl FnOnce(Timetable, Instant, Arc<Semaphore>, usize) -> Pacer,
) -> Result<BenchReport, BenchError> {
    let Crew { plan, workers, shards } = crew;
    let timetable = plan.rate.map(|rate| Timetable::new(rate, plan.warmup + plan.duration));
    let schedule = timetable.map(|timetable| Arc::new(Schedule::new(timetable)));
    let mut pacer = schedule.as_ref().map(|schedule| {
        pace(schedule.timetable, window.begin, Arc::clone(&schedule.permits), plan.concurrency)
    });
    let mut tasks = JoinSet::new();
    for worker in workers {
        let window = Arc::clone(&window);
        match &schedule {
            Some(schedule) => tasks.spawn(worker.open_loop(window, Arc::clone(schedule))),
            None => tasks.spawn(worker.closed_loop(window)),
        };
    }
    let (mut ticker, mut ticks) = (Ticker::new(Arc::clone(&shards)), ticks());
    let mut is_stopped = false;
    loop {
        tokio::select! {
            biased;
            joined = tasks.join_next() => match joined {
                None => break,
                Some(Ok(())) => {}
                Some(Err(died)) => return Err(BenchError::WorkerDied(died.to_string())),
            },
            () = &mut stop, if !is_stopped => {
                is_stopped = true;
                window.cut(clock::now());
                pacer = None;
            }
            _ = ticks.tick() => progress(ticker.look_at(&window, &plan)),
        }
    }
    drop(pacer);
    let scheduled =
        timetable.map(|timetable| timetable.between(plan.warmup, window.end() - window.begin));
    let measured = Measured { span: window.measured_span(), scheduled };
    Ok(BenchReport::new(&plan, &shards.merged(), measured))
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval_at(clock::now() + TICK, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Turns totals into progress.
struct Ticker {
    shards: Arc<Shards>,
    last: Instant,
    last_done: u64,
}

impl Ticker {
    fn new(shards: Arc<Shards>) -> Ticker {
        let (last_done, _) = shards.totals();
        Ticker { shards, last: clock::now(), last_done }
    }

    fn look_at(&mut self, window: &Window, plan: &BenchPlan) -> Progress {
        if clock::now() < window.measure_from {
            self.look(BenchPhase::Warmup, window.begin, Some(plan.warmup))
        } else {
            self.look(BenchPhase::Measure, window.measure_from, Some(plan.duration))
        }
    }

    fn look(&mut self, phase: BenchPhase, since: Instant, planned: Option<Duration>) -> Progress {
        let now = clock::now();
        let (done, errors) = self.shards.totals();
        let seconds = (now - self.last).as_secs_f64().max(1e-3);
        let per_second = (done - self.last_done) as f64 / seconds;
        (self.last, self.last_done) = (now, done);
        Progress { phase, elapsed: now - since, planned, done, errors, per_second }
    }
}

#[cfg(test)]
mod tests;
