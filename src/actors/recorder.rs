//! The trace ring: a record of every message handled, always on, bounded, the oldest overwritten first.
//!
//! It can be turned up for a while: a *capture* keeps the next `limit` matching records, with what the messages said,
//! out of the ring's turnover.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use nomad_core::model::{
    object::ObjectId,
    time::{MonotonicUs, UnixMs},
    trace::{SpanId, TraceContext, TraceId},
};
use nomad_ports::{Clock, Entropy};

/// The most records that a capture keeps.
pub const CAPTURE_MAX: usize = 10_000;

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should; with a word for what came out of it.
    Done(&'static str),
    /// The edge answered with this HTTP status or gRPC code.
    Answered(u16),
    /// With a business refusal.
    Refused(&'static str),
    /// Dropped unread.
    Dropped(&'static str),
    /// With a failure.
    Failed(Box<str>),
}

impl Outcome {
    /// Returns `done` for what went as it should.
    pub fn of<T, E: fmt::Display>(result: &Result<T, E>, done: &'static str) -> Self {
        match result {
            Ok(_) => Self::Done(done),
            Err(error) => Self::Failed(error.to_string().into()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(what) => f.write_str(what),
            Self::Answered(code) => write!(f, "answered {code}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Dropped(why) => write!(f, "dropped: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// One step of a request: a message that an actor handled, a request that an edge answered, a batch that was written.
#[derive(Debug, Clone)]
pub struct TraceRecord {
    /// Its place in the order of recording; steps are recorded when they end.
    pub seq: u64,
    /// The request it belongs to.
    pub trace: TraceId,
    /// The step itself.
    pub span: SpanId,
    /// The step that caused it; 0 for a first one.
    pub parent: SpanId,
    /// Who sent it.
    pub from: Arc<str>,
    /// Who handled it.
    pub to: Arc<str>,
    /// What it was.
    pub kind: &'static str,
    /// The object it was about.
    pub object: Option<ObjectId>,
    /// When its handling began.
    pub at: MonotonicUs,
    /// Microseconds that it waited before.
    pub wait_us: u64,
    /// Microseconds that it ran.
    pub run_us: u64,
    /// How many jobs shared its batch; 0 where there is no batch.
    pub batch_len: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// What the message said, in a capture only.
    pub detail: Option<Box<str>>,
}

/// Which records are wanted. An empty filter wants all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this object, and all else of the requests that touched it.
    pub object: Option<String>,
    /// Of this request.
    pub trace: Option<TraceId>,
    /// From or to this actor.
    pub actor: Option<String>,
    /// Recorded after this one.
    pub after: Option<u64>,
}

impl Filter {
    fn matches(&self, record: &TraceRecord) -> bool {
        let object = self.object.as_deref();
        object.is_none_or(|id| record.object.as_ref().is_some_and(|own| own.as_str() == id))
            && self.trace.is_none_or(|trace| trace == record.trace)
            && self.actor.as_deref().is_none_or(|a| &*record.to == a || &*record.from == a)
            && self.after.is_none_or(|after| record.seq > after)
    }
}

/// Where a capture stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureState {
    /// How many records it was asked to keep.
    pub limit: usize,
    /// How many it has kept.
    pub kept: usize,
}

#[derive(Debug)]
struct Capture {
    filter: Filter,
    limit: usize,
    kept: Vec<TraceRecord>,
}

/// Records steps. Shared by all actors and edges of one node.
pub struct TraceRecorder {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    next_span: AtomicU64,
    next_seq: AtomicU64,
    /// One ring per thread that records, as far as they go round: a lock that two threads share would cost more than the
    /// record, most of all when its holder is taken off the processor.
    rings: Vec<Mutex<Ring>>,
    capturing: AtomicBool,
    capture: Mutex<Option<Capture>>,
    /// Wakes those who follow, if there are any.
    grown: tokio::sync::Notify,
    followed: AtomicBool,
}

struct Ring {
    records: VecDeque<TraceRecord>, // invariant: at most records_max long
    records_max: usize,
}

/// The most rings, and the least records that are worth a ring of their own.
const RINGS_MAX: usize = 8;
const RING_RECORDS_MIN: usize = 1_024;

thread_local! {
    /// Which ring this thread records in, modulo their number.
    static RING: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Relaxed)
    };
}

impl fmt::Debug for TraceRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl TraceRecorder {
    /// Makes a ring of at most `records_max` records.
    pub fn new(records_max: usize, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let first = entropy.next_u64();
        let rings = (records_max / RING_RECORDS_MIN).clamp(1, RINGS_MAX);
        let ring = |_| {
            let records_max = (records_max / rings).max(1);
            Mutex::new(Ring { records: VecDeque::new(), records_max })
        };
        Self {
            clock,
            entropy,
            next_span: AtomicU64::new(first),
            next_seq: AtomicU64::new(1),
            rings: (0..rings).map(ring).collect(),
            capturing: AtomicBool::new(false),
            capture: Mutex::new(None),
            grown: tokio::sync::Notify::new(),
            followed: AtomicBool::new(false),
        }
    }

    /// Names a new request.
    pub fn new_trace(&self) -> TraceContext {
        let (high, low) = (self.entropy.next_u64(), self.entropy.next_u64());
        let id = (u128::from(high) << 64 | u128::from(low)).max(1);
        TraceContext { trace: TraceId(id), span: SpanId(0), sampled: false, named: false }
    }

    /// Names a new step. Steps are numbered from a random start, so that two nodes' steps do not meet.
    pub fn new_span(&self) -> SpanId {
        // An odd increment visits every number once before it repeats.
        SpanId(self.next_span.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed).max(1))
    }

    /// Tells whether steps should bring what their messages say.
    pub fn wants_detail(&self) -> bool {
        self.capturing.load(Relaxed)
    }

    /// Adds a step; its `seq` is given here.
    pub fn add(&self, mut record: TraceRecord) {
        record.seq = self.next_seq.fetch_add(1, Relaxed);
        let captured = self.wants_detail().then(|| record.clone());
        record.detail = None;
        let own = RING.with(|own| own % self.rings.len());
        if let Some(ring) = self.rings.get(own) {
            let mut ring = ring.lock();
            let oldest = if ring.records.len() >= ring.records_max {
                ring.records.pop_front()
            } else {
                None
            };
            ring.records.push_back(record);
            drop(ring);
            drop(oldest);
        }
        if let Some(record) = captured {
            self.keep(record);
        }
        if self.followed.load(Relaxed) && self.followed.swap(false, Relaxed) {
            self.grown.notify_waiters();
        }
    }

    fn keep(&self, record: TraceRecord) {
        let mut capture = self.capture.lock();
        let Some(capture) = capture.as_mut() else { return };
        if capture.filter.matches(&record) {
            capture.kept.push(record);
        }
        if capture.kept.len() >= capture.limit {
            self.capturing.store(false, Relaxed);
        }
    }

    /// Keeps the next `limit` matching records with their details, in place of an earlier capture.
    pub fn start_capture(&self, filter: Filter, limit: usize) {
        let limit = limit.clamp(1, CAPTURE_MAX);
        *self.capture.lock() = Some(Capture { filter, limit, kept: Vec::new() });
        self.capturing.store(true, Relaxed);
    }

    /// Ends the capture and forgets what it kept.
    pub fn stop_capture(&self) {
        self.capturing.store(false, Relaxed);
        *self.capture.lock() = None;
    }

    /// Returns where the capture stands, and what it kept.
    pub fn captured(&self) -> Option<(CaptureState, Vec<TraceRecord>)> {
        let capture = self.capture.lock();
        let capture = capture.as_ref()?;
        let state = CaptureState { limit: capture.limit, kept: capture.kept.len() };
        Some((state, capture.kept.clone()))
    }

    /// Returns the newest `limit` wanted records, oldest first. With an object, the whole requests that touched it.
    pub fn find(&self, filter: &Filter, limit: usize) -> Vec<TraceRecord> {
        let Some(object) = &filter.object else { return self.newest(limit, |r| filter.matches(r)) };
        let hits = self.newest(limit, |record| filter.matches(record));
        debug_assert!(
            hits.iter().all(|r| r.object.as_ref().is_some_and(|id| id.as_str() == object))
        );
        let traces: BTreeSet<TraceId> = hits.iter().map(|record| record.trace).collect();
        self.newest(limit, |record| traces.contains(&record.trace))
    }

    /// Returns the newest `limit` records that are `wanted`, oldest first.
    fn newest(&self, limit: usize, wanted: impl Fn(&TraceRecord) -> bool) -> Vec<TraceRecord> {
        let mut found = Vec::new();
        for ring in &self.rings {
            let ring = ring.lock();
            let records = ring.records.iter().rev();
            found.extend(records.filter(|record| wanted(record)).take(limit).cloned());
        }
        found.sort_by_key(|record| record.seq);
        found.split_off(found.len().saturating_sub(limit))
    }

    /// Waits until a record is added after this call began.
    pub fn grown(&self) -> tokio::sync::futures::Notified<'_> {
        let grown = self.grown.notified();
        self.followed.store(true, Relaxed);
        grown
    }

    /// Turns a reading of the monotonic clock into wall time, by what both say now.
    pub fn wall_of(&self, at: MonotonicUs) -> UnixMs {
        let age_ms = self.clock.monotonic().since(at) / 1000;
        UnixMs(self.clock.wall().0.saturating_sub(age_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nomad_doubles::ManualClock;
    use nomad_ports::OsEntropy;

    fn recorder(records_max: usize) -> TraceRecorder {
        TraceRecorder::new(records_max, Arc::new(ManualClock::default()), Arc::new(OsEntropy))
    }

    fn record(trace: u128, object: Option<&str>) -> TraceRecord {
        TraceRecord {
            seq: 0,
            trace: TraceId(trace),
            span: SpanId(1),
            parent: SpanId(0),
            from: "client".into(),
            to: "rest".into(),
            kind: "GET",
            object: object.map(|id| ObjectId::parse(id).unwrap()),
            at: MonotonicUs(0),
            wait_us: 0,
            run_us: 0,
            batch_len: 0,
            outcome: Outcome::Done("ok"),
            detail: Some("said".into()),
        }
    }

    #[test]
    fn the_ring_keeps_the_newest_records_and_never_more_than_its_limit() {
        let recorder = recorder(3);
        (1..=5).for_each(|trace| recorder.add(record(trace, None)));
        let found = recorder.find(&Filter::default(), 10);
        assert_eq!(found.iter().map(|r| r.trace.0).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(found.iter().map(|r| r.seq).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(recorder.find(&Filter { after: Some(4), ..Filter::default() }, 10).len(), 1);
    }

    #[test]
    fn an_object_brings_the_whole_requests_that_touched_it() {
        let recorder = recorder(10);
        recorder.add(record(1, Some("a")));
        recorder.add(record(1, None));
        recorder.add(record(2, Some("b")));
        let found = recorder.find(&Filter { object: Some("a".into()), ..Filter::default() }, 10);
        assert_eq!(found.iter().map(|r| r.trace.0).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn a_capture_keeps_as_many_as_it_was_told_and_then_ends() {
        let recorder = recorder(1);
        recorder.start_capture(Filter { object: Some("a".into()), ..Filter::default() }, 2);
        for (trace, object) in [(1, "a"), (2, "b"), (3, "a"), (4, "a")] {
            recorder.add(record(trace, Some(object)));
        }
        let (state, kept) = recorder.captured().unwrap();
        assert_eq!(state, CaptureState { limit: 2, kept: 2 });
        assert_eq!(kept.iter().map(|r| r.trace.0).collect::<Vec<_>>(), [1, 3]);
        assert!(kept.iter().all(|record| record.detail.is_some()));
        assert!(!recorder.wants_detail());
    }
}
