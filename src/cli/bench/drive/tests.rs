//! The loops over a server made of a timer, under virtual time.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::bench::{
    client::{OpFailure, OpReply},
    mix::Mix,
    report::OpenLoopReport,
    target::BenchTarget,
    workload::BenchOperation,
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Answers after `delay`; between `stall.0` and `stall.1` after its start it answers nothing.
#[derive(Clone)]
struct TimerServer {
    begin: Instant,
    delay: Duration,
    stall: Option<(Duration, Duration)>,
    is_gone: bool,
    calls: Arc<AtomicUsize>,
}

impl TimerServer {
    fn new(delay: Duration) -> TimerServer {
        let calls = Arc::new(AtomicUsize::new(0));
        TimerServer { begin: clock::now(), delay, stall: None, is_gone: false, calls }
    }

    fn call_count(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Client for TimerServer {
    async fn call(&mut self, _: &BenchOperation) -> Result<OpReply, OpFailure> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.is_gone {
            return Err(OpFailure::connection("gone"));
        }
        if let Some((from, to)) = self.stall {
            let elapsed = clock::now() - self.begin;
            if elapsed >= from && elapsed < to {
                tokio::time::sleep(to - elapsed).await;
            }
        }
        tokio::time::sleep(self.delay).await;
        Ok(OpReply { value_bytes: 100 })
    }
}

fn plan(concurrency: usize, rate: Option<f64>) -> BenchPlan {
    let target = BenchTarget::Grpc { storage: "127.0.0.1:1".parse().unwrap() };
    let (warmup, duration) = (2 * SECOND, 10 * SECOND);
    BenchPlan { concurrency, rate, warmup, duration, mix: Mix::GETS, ..BenchPlan::new(target) }
}

/// A pacer that has released everything already: the workers then wait for each intended start on the virtual clock.
fn release_all(
    timetable: Timetable,
    begin: Instant,
    permits: Arc<Semaphore>,
    more: usize,
) -> Pacer {
    permits.add_permits(timetable.total as usize);
    let nothing_left = Timetable { total: 0, ..timetable };
    Pacer::start(nothing_left, begin, permits, more)
}

async fn measured(
    plan: BenchPlan,
    server: &TimerServer,
    stop: impl Future<Output = ()>,
) -> BenchReport {
    let clients = vec![server.clone(); plan.concurrency];
    let crew = Crew::new(plan, clients);
    let window = Arc::new(Window::new(clock::now(), &crew.plan));
    measure(crew, window, pin!(stop), |_| {}, release_all).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_closed_loop_counts_the_window_and_nothing_else() {
    let server = TimerServer::new(10 * MILLI);
    let report = measured(plan(4, None), &server, pending()).await;
    // Four workers, 100 requests per second each, ten of twelve seconds.
    assert_eq!((report.overall.count, report.overall.throughput), (4000, 400.0));
    assert_eq!(server.call_count(), 4800);
    assert!((report.overall.latency_us.p50 - 10_000.0).abs() < 20.0);
    assert_eq!(report.overall.value_bytes_received, 400_000);
    assert_eq!(report.overall.service_us, None);
}

#[tokio::test(start_paused = true)]
async fn an_open_loop_charges_a_stall_to_every_request_that_it_held_up() {
    let mut server = TimerServer::new(MILLI);
    server.stall = Some((5 * SECOND, 6 * SECOND));
    let closed = measured(plan(2, None), &server, pending()).await;
    // The closed loop sent two requests into the stall, so its 99th percentile knows nothing of it.
    assert!(closed.overall.latency_us.p99 < 2000.0, "{:?}", closed.overall.latency_us);

    server.begin = clock::now();
    let open = measured(plan(2, Some(100.0)), &server, pending()).await;
    assert_eq!(open.open_loop, Some(OpenLoopReport { scheduled: 1000, unsent: 0 }));
    assert_eq!(open.overall.count, 1000);
    // A tenth of the requests were due during the stall, and waited half of it on average.
    assert!(open.overall.latency_us.p99 > 850_000.0, "{:?}", open.overall.latency_us);
    let mean_us = open.overall.latency_us.mean;
    assert!((45_000.0..60_000.0).contains(&mean_us), "mean {mean_us}");
    let service = open.overall.service_us.unwrap();
    assert!(service.p99 < 2000.0 && service.max > 990_000.0, "{service:?}");
}

#[tokio::test(start_paused = true)]
async fn an_open_loop_over_capacity_says_what_it_could_not_send() {
    let server = TimerServer::new(20 * MILLI);
    // One worker can send 50 of the 100 requests per second. What the warm-up left behind is not sent any more.
    let report = measured(plan(1, Some(100.0)), &server, pending()).await;
    let open = report.open_loop.unwrap();
    assert_eq!(open.scheduled, 1000);
    assert!((498..=502).contains(&open.unsent), "{open:?}");
    assert!((report.overall.throughput - 50.0).abs() < 1.0, "{}", report.overall.throughput);
    // The last request that was sent had waited for half of the window.
    let longest_us = report.overall.latency_us.max;
    assert!((longest_us - 5_000_000.0).abs() < 50_000.0, "{longest_us}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_gone_is_asked_ten_times_a_second_per_worker() {
    let mut server = TimerServer::new(MILLI);
    server.is_gone = true;
    let report = measured(plan(3, None), &server, pending()).await;
    assert_eq!(server.call_count(), 3 * 120);
    assert_eq!((report.overall.count, report.overall.errors), (0, 300));
    assert_eq!(report.errors["CONNECTION"], 300);
    assert_eq!(report.error_examples["CONNECTION"], "gone");
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_is_an_error_and_does_not_hold_the_run() {
    let mut server = TimerServer::new(MILLI);
    server.stall = Some((11 * SECOND, 1000 * SECOND));
    let begin = clock::now();
    let plan = BenchPlan { timeout: 3 * SECOND, ..plan(2, None) };
    let report = measured(plan, &server, pending()).await;
    assert_eq!(report.errors["TIMEOUT"], 2);
    assert!(clock::now() - begin <= 15 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_reports_the_time_that_it_measured() {
    for rate in [None, Some(100.0)] {
        let server = TimerServer::new(10 * MILLI);
        let stop = tokio::time::sleep(5 * SECOND);
        let report = measured(plan(1, rate), &server, stop).await;
        assert_eq!(report.measured_ms, 3000);
        assert!((report.overall.throughput - 100.0).abs() < 1.0, "{}", report.overall.throughput);
        assert!((299..=301).contains(&report.overall.count), "{}", report.overall.count);
    }
}

#[tokio::test(start_paused = true)]
async fn filling_writes_every_key_once() {
    let server = TimerServer::new(MILLI);
    let plan = BenchPlan { key_count: 1000, ..plan(7, None) };
    let mut looks = Vec::new();
    fill(plan, vec![server.clone(); 7], |progress| looks.push(progress)).await.unwrap();
    assert_eq!(server.call_count(), 1000);
    assert!(looks.iter().all(|look| look.phase == BenchPhase::Fill));
}

#[tokio::test(start_paused = true)]
async fn filling_a_server_that_is_gone_names_the_key() {
    let mut server = TimerServer::new(MILLI);
    server.is_gone = true;
    let error = fill(plan(1, None), vec![server], |_| {}).await.unwrap_err();
    let expected = "filling the key space stopped at key \"bench:k000000000\": CONNECTION: gone";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn progress_comes_once_a_second_and_names_the_phase() {
    let server = TimerServer::new(10 * MILLI);
    let crew = Crew::new(plan(1, None), vec![server]);
    let window = Arc::new(Window::new(clock::now(), &crew.plan));
    let mut looks = Vec::new();
    let note = |progress: Progress| looks.push((progress.phase, progress.per_second.round()));
    measure(crew, window, pin!(pending()), note, release_all).await.unwrap();
    let warm = looks.iter().filter(|(phase, _)| *phase == BenchPhase::Warmup).count();
    assert!((1..=2).contains(&warm) && (10..=12).contains(&looks.len()), "{looks:?}");
    assert!(looks.iter().all(|(_, per_second)| (98.0..=101.0).contains(per_second)), "{looks:?}");
}
