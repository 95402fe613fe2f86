//! The node's figures in the OpenMetrics text format. One registry per node, so that several run in one process.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::{admission::Admission, backend::Network, group_figures::GroupFigures};
use nomad_actors::{group_view::GroupView, vitals::Census};
use nomad_ports::object_store::{StoreCounts, StoreHealth};
use nomad_service::durations::{Durations, Operations};

/// Reads the store's state without going through its writer.
pub type StoreStats = Arc<dyn Fn() -> (StoreHealth, StoreCounts) + Send + Sync>;

/// Which request a figure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct Operation {
    /// `rest` or `grpc`.
    pub edge: &'static str,
    /// The route or the rpc.
    pub operation: &'static str,
}

/// Which request a figure is about, and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct Ended {
    /// `rest` or `grpc`.
    pub edge: &'static str,
    /// The route or the rpc.
    pub operation: &'static str,
    /// The HTTP status or the gRPC code.
    pub code: u16,
}

/// The figures of a node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Arc<Requests>,
}

impl Metrics {
    /// Registers everything that the node shows.
    pub fn new(
        census: Arc<Census>,
        store: StoreStats,
        admission: Arc<Admission>,
        (view, network): (GroupView, Network),
        operations: Arc<Operations>,
    ) -> Self {
        let mut registry = Registry::with_prefix("nomad");
        let requests = Arc::<Requests>::default();
        let shown = Shown(Arc::clone(&requests), operations);
        registry.register_collector(Box::new(shown));
        registry.register_collector(Box::new(State { census, store, admission }));
        registry.register_collector(Box::new(GroupFigures { view, network }));
        Self { registry, requests }
    }

    /// Shows more figures.
    #[must_use]
    pub fn with(mut self, figures: Box<dyn Collector>) -> Self {
        self.registry.register_collector(figures);
        self
    }

    /// Counts one answered request.
    pub fn on_answered(&self, edge: &'static str, operation: &'static str, code: u16, us: u64) {
        let ended = Ended { edge, operation, code };
        if let Some(durations) =
            self.requests.0.read().unwrap_or_else(PoisonError::into_inner).get(&ended)
        {
            durations.observe(us);
            return;
        }
        let mut requests = self.requests.0.write().unwrap_or_else(PoisonError::into_inner);
        requests.entry(ended).or_default().observe(us);
    }

    /// Writes all figures as text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing into a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

/// The requests answered, by how they ended. The library's own families would be looked up once for the number of
/// requests and once for their durations.
#[derive(Debug, Default)]
struct Requests(RwLock<BTreeMap<Ended, Durations>>);

#[derive(Debug)]
struct Shown(Arc<Requests>, Arc<Operations>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let requests = self.0.0.read().unwrap_or_else(PoisonError::into_inner);
        let help = "Requests answered, by edge, operation and code.";
        let mut counters =
            encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        let mut operations: BTreeMap<Operation, Durations> = BTreeMap::new();
        for (ended, durations) in &*requests {
            let count = ConstCounter::new(durations.count());
            count.encode(counters.encode_family(ended)?)?;
            let &Ended { edge, operation, .. } = ended;
            operations.entry(Operation { edge, operation }).or_default().add(durations);
        }
        let (name, help) = ("request_duration", "Time from the head of a request to its answer.");
        let unit = Some(&Unit::Seconds);
        let mut histograms = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (operation, durations) in &operations {
            durations.encode(histograms.encode_family(operation)?)?;
        }
        self.1.encode(&mut encoder)
    }
}

/// Figures that are read when asked for.
struct State {
    census: Arc<Census>,
    store: StoreStats,
    admission: Arc<Admission>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("State")
    }
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (health, counts) = (self.store)();
        let counters = [
            ("store_writes", "Writes that took effect", counts.writes),
            ("store_batches", "Batches written", counts.batches),
            ("store_fsyncs", "Flushes of the journal to the disk", counts.fsyncs),
            ("store_swept", "Expired objects removed from the disk", counts.swept),
            ("store_recoveries", "Times the store was reopened after a failure", counts.recoveries),
            ("requests_refused", "Requests refused by admission", self.admission.refused()),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            let metric_encoder =
                encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode(metric_encoder)?;
        }
        let read_only = u64::from(health.refusal().is_some());
        let gauges = [
            ("store_waiting", "Writes waiting for the store", counts.waiting),
            ("store_disk_bytes", "Bytes on disk", counts.disk_bytes),
            ("store_read_only", "1 while the store refuses writes", read_only),
            (
                "requests_in_hand",
                "Requests admitted and not answered yet",
                self.admission.in_hand(),
            ),
            ("resident_bytes", "Resident memory of the process", resident_bytes()),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::<f64>::new(value as f64);
            let metric_encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode(metric_encoder)?;
        }
        self.encode_actors(&mut encoder)
    }
}

type ActorFigure =
    (&'static str, &'static str, MetricType, fn(&nomad_actors::vitals::Reading) -> u64);

const ACTOR_FIGURES: [ActorFigure; 5] = [
    ("actor_handled", "Messages handled", MetricType::Counter, |actor| actor.handled),
    ("actor_failed", "Messages that ended in a failure", MetricType::Counter, |actor| actor.failed),
    ("actor_dropped", "Messages dropped unread", MetricType::Counter, |actor| actor.dropped),
    ("actor_restarts", "Times an actor was started again", MetricType::Counter, |actor| {
        actor.restarts
    }),
    ("actor_mailbox", "Messages waiting for an actor", MetricType::Gauge, |actor| actor.mailbox),
];

impl State {
    fn encode_actors(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let actors = self.census.read();
        for (name, help, kind, figure) in ACTOR_FIGURES {
            let mut family: MetricEncoder<'_> =
                encoder.encode_descriptor(name, help, None, kind)?;
            for actor in &actors {
                let labels = [("actor", actor.name.to_string())];
                let labeled = family.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => ConstCounter::new(figure(actor)).encode(labeled)?,
                    _ => ConstGauge::<f64>::new(figure(actor) as f64).encode(labeled)?,
                }
            }
        }
        Ok(())
    }
}

/// Returns the resident memory of this process in bytes, 0 where the system does not say.
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_backend::no_network;
    use nomad_actors::group_view::Published;
    use nomad_core::group::{
        RetrievalMode, StorageMode,
        view::{Founder, View},
    };

    #[test]
    fn requests_are_counted_by_code_and_timed_by_operation() {
        let store: StoreStats = Arc::new(|| (StoreHealth::Up, StoreCounts::default()));
        let admission = Arc::new(Admission::new(1, 1));
        let operations = Arc::<Operations>::default();
        let metrics = Metrics::new(
            Arc::new(Census::default()),
            store,
            admission,
            (Published::new(View::discovering(&Founder::example(7))), no_network()),
            Arc::clone(&operations),
        );
        for (operation, code, us) in
            [("get", 200, 50), ("get", 200, 51), ("get", 404, 1), ("put", 201, 1)]
        {
            metrics.on_answered("rest", operation, code, us);
        }
        operations.on_read(RetrievalMode::Parallel, 51);
        operations.on_write(StorageMode::Safe, 7);
        let text = metrics.encode();
        for line in [
            "# TYPE nomad_requests counter",
            r#"nomad_requests_total{edge="rest",operation="get",code="200"} 2"#,
            r#"nomad_requests_total{edge="rest",operation="get",code="404"} 1"#,
            r#"nomad_requests_total{edge="rest",operation="put",code="201"} 1"#,
            "# TYPE nomad_request_duration_seconds histogram",
            "# UNIT nomad_request_duration_seconds seconds",
            r#"nomad_request_duration_seconds_count{edge="rest",operation="get"} 3"#,
            r#"nomad_request_duration_seconds_bucket{le="0.00005",edge="rest",operation="get"} 2"#,
            r#"nomad_request_duration_seconds_bucket{le="+Inf",edge="rest",operation="get"} 3"#,
            r#"nomad_operation_duration_seconds_count{operation="read",mode="parallel"} 1"#,
            r#"nomad_operation_duration_seconds_count{operation="read",mode="fast"} 0"#,
            r#"nomad_operation_duration_seconds_bucket{le="0.00005",operation="write",mode="safe"} 1"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }
}
