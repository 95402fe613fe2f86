//! Counts and times what the workers did. Histograms have a fixed size and are shared by many workers, so memory does
//! not grow with the run's length, its concurrency or its errors.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;

use super::{client::OpFailure, mix::OpKind};

/// Latencies below this many nanoseconds are not told apart.
const LOWEST_NS: u64 = 100;
/// Latencies above ten minutes are recorded as ten minutes.
const HIGHEST_NS: u64 = 600_000_000_000;
/// Three significant digits: an error below 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;
/// More error codes than this are counted together.
const ERROR_CODES_MAX: usize = 32;
const OTHER: &str = "OTHER";
/// Longest error text that is kept.
const EXAMPLE_CHARS_MAX: usize = 300;

/// One histogram of latencies in nanoseconds.
#[derive(Debug, Clone)]
pub(super) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        let made = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS);
        Latencies(made.expect("the bounds are constants that satisfy hdrhistogram"))
    }
}

impl Latencies {
    fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// The histogram itself, in nanoseconds.
    pub(super) fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

/// When one operation happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// From the intended start (open loop) or the real one (closed loop) to the end.
    pub response: Duration,
    /// From the real start to the end; `None` in a closed loop, where it is the same.
    pub service: Option<Duration>,
    /// The operation was meant to start inside the measured window.
    pub is_measured: bool,
    /// The operation ended inside the measured window.
    pub ended_in_window: bool,
}

/// What is known about one kind of operation.
#[derive(Debug, Clone, Default)]
pub(super) struct OpRecord {
    pub ok_count: u64,
    pub error_count: u64,
    /// Successes that ended inside the window: what throughput is computed from.
    pub ended_in_window: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub response: Latencies,
    pub service: Option<Latencies>,
}

impl OpRecord {
    pub(super) fn merge(&mut self, other: &OpRecord) {
        self.ok_count += other.ok_count;
        self.error_count += other.error_count;
        self.ended_in_window += other.ended_in_window;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.response.merge(&other.response);
        if let Some(service) = &other.service {
            self.service.get_or_insert_default().merge(service);
        }
    }
}

/// One error code: how often, and the first text seen with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ErrorRecord {
    pub count: u64,
    pub example: String,
}

/// Everything recorded by one group of workers, or by all of them after merging.
#[derive(Debug, Default)]
pub(super) struct BenchRecorder {
    pub ops: BTreeMap<OpKind, OpRecord>,
    pub errors: BTreeMap<Cow<'static, str>, ErrorRecord>,
    /// All successes and errors, measured or not: for progress.
    pub done_total: u64,
    pub error_total: u64,
}

impl BenchRecorder {
    /// Records a success.
    pub(super) fn succeeded(&mut self, kind: OpKind, timing: Timing, sent: u64, received: u64) {
        self.done_total += 1;
        if !timing.is_measured && !timing.ended_in_window {
            return;
        }
        let op = self.ops.entry(kind).or_default();
        if timing.ended_in_window {
            op.ended_in_window += 1;
        }
        if timing.is_measured {
            op.ok_count += 1;
            op.sent_bytes += sent;
            op.received_bytes += received;
            op.response.record(timing.response);
            if let Some(service) = timing.service {
                op.service.get_or_insert_default().record(service);
            }
        }
    }

    /// Records an error. Its latency is not recorded: a quick refusal must not look like a quick answer.
    pub(super) fn failed(&mut self, kind: OpKind, is_measured: bool, failure: OpFailure) {
        self.error_total += 1;
        if is_measured {
            self.ops.entry(kind).or_default().error_count += 1;
            let example = failure.detail.chars().take(EXAMPLE_CHARS_MAX).collect();
            self.add_error(failure.code, ErrorRecord { count: 1, example });
        }
    }

    /// Adds everything that `other` recorded.
    pub(super) fn merge(&mut self, other: &BenchRecorder) {
        for (kind, op) in &other.ops {
            self.ops.entry(*kind).or_default().merge(op);
        }
        for (code, error) in &other.errors {
            self.add_error(code.clone(), error.clone());
        }
        self.done_total += other.done_total;
        self.error_total += other.error_total;
    }

    fn add_error(&mut self, code: Cow<'static, str>, error: ErrorRecord) {
        let is_room = self.errors.len() < ERROR_CODES_MAX || self.errors.contains_key(&code);
        let code = if is_room { code } else { Cow::Borrowed(OTHER) };
        self.errors
            .entry(code)
            .and_modify(|known| known.count += error.count)
            .or_insert_with(|| error);
    }
}

/// The recorders of a run. Workers are spread over a few of them, so that a lock is almost never waited for.
pub(super) struct Shards(Vec<Mutex<BenchRecorder>>);

impl Shards {
    /// One recorder per processor.
    pub(super) fn new() -> Shards {
        let count = std::thread::available_parallelism().map_or(2, usize::from);
        Shards((0..count).map(|_| Mutex::default()).collect())
    }

    /// The recorder of worker `worker`.
    pub(super) fn of(&self, worker: usize) -> MutexGuard<'_, BenchRecorder> {
        let shard = self.0.get(worker % self.0.len()).expect("a remainder is below the length");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All successes and errors so far, measured or not.
    pub(super) fn totals(&self) -> (u64, u64) {
        (0..self.0.len()).map(|shard| self.of(shard)).fold((0, 0), |(done, errors), recorder| {
            (done + recorder.done_total, errors + recorder.error_total)
        })
    }

    /// Everything recorded, merged.
    pub(super) fn merged(&self) -> BenchRecorder {
        let mut all = BenchRecorder::default();
        for shard in 0..self.0.len() {
            all.merge(&self.of(shard));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(response_ms: u64) -> Timing {
        let response = Duration::from_millis(response_ms);
        Timing { response, service: None, is_measured: true, ended_in_window: true }
    }

    #[test]
    fn latencies_keep_three_digits_from_a_microsecond_to_ten_minutes() {
        for exact_ns in [1_000_u64, 93_500, 180_000, 4_000_000, 59_999_000_000, HIGHEST_NS] {
            let mut latencies = Latencies::default();
            latencies.record(Duration::from_nanos(exact_ns));
            let kept = latencies.histogram().value_at_quantile(0.5);
            let error = kept.abs_diff(exact_ns) as f64 / exact_ns as f64;
            // The lowest values are exact to LOWEST_NS, the others to a thousandth.
            assert!(error < 0.1 && (exact_ns < 65_000 || error < 0.001), "{exact_ns} as {kept}");
        }
        let mut latencies = Latencies::default();
        latencies.record(Duration::MAX);
        assert!(latencies.histogram().max() >= HIGHEST_NS);
    }

    #[test]
    fn merging_shards_loses_nothing() {
        let shards = Shards::new();
        for worker in 0..100_usize {
            shards.of(worker).succeeded(OpKind::Get, measured(worker as u64 + 1), 0, 100);
            shards.of(worker).failed(OpKind::Put, true, OpFailure::answered("UNAVAILABLE", "x"));
        }
        let all = shards.merged();
        let get = &all.ops[&OpKind::Get];
        assert_eq!((get.ok_count, get.received_bytes, get.ended_in_window), (100, 10_000, 100));
        assert_eq!(get.response.histogram().len(), 100);
        let p50_ms = get.response.histogram().value_at_quantile(0.5) / 1_000_000;
        assert!((49..=51).contains(&p50_ms), "p50 {p50_ms} ms");
        assert_eq!(all.ops[&OpKind::Put].error_count, 100);
        assert_eq!(all.errors["UNAVAILABLE"].count, 100);
        assert_eq!(shards.totals(), (100, 100));
    }

    #[test]
    fn warmup_counts_for_progress_only() {
        let mut recorder = BenchRecorder::default();
        let timing = Timing { is_measured: false, ended_in_window: false, ..measured(1) };
        recorder.succeeded(OpKind::Get, timing, 0, 100);
        recorder.failed(OpKind::Get, false, OpFailure::connection("gone"));
        assert!(recorder.ops.is_empty() && recorder.errors.is_empty());
        assert_eq!((recorder.done_total, recorder.error_total), (1, 1));
    }

    #[test]
    fn an_operation_across_the_window_s_edge_counts_on_one_side_each() {
        let mut recorder = BenchRecorder::default();
        let ends_in = Timing { is_measured: false, ..measured(1) };
        let starts_in = Timing { ended_in_window: false, ..measured(1) };
        recorder.succeeded(OpKind::Get, ends_in, 0, 100);
        recorder.succeeded(OpKind::Get, starts_in, 0, 100);
        let get = &recorder.ops[&OpKind::Get];
        assert_eq!((get.ended_in_window, get.ok_count, get.received_bytes), (1, 1, 100));
        assert_eq!(get.response.histogram().len(), 1);
    }

    #[test]
    fn error_codes_and_texts_are_bounded() {
        let mut recorder = BenchRecorder::default();
        for code in 0..1000 {
            let failure = OpFailure::answered(format!("CODE_{code}"), "x".repeat(5000));
            recorder.failed(OpKind::Get, true, failure);
        }
        assert_eq!(recorder.errors.len(), ERROR_CODES_MAX + 1);
        assert_eq!(recorder.errors[OTHER].count, 1000 - ERROR_CODES_MAX as u64);
        assert!(recorder.errors.values().all(|error| error.example.len() == EXAMPLE_CHARS_MAX));
    }
}
