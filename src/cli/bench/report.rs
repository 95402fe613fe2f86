//! What a load run measured. The JSON form has stable keys: keys may be added, none is renamed or removed.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    mix::{Mix, OpKind},
    plan::{BenchPlan, Mode},
    record::{BenchRecorder, OpRecord},
    target::{BenchApi, BenchTarget},
};

/// What the latencies of a report count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LatencyKind {
    /// Closed loop: from sending a request to its answer. A slow server also slows the sending down, so requests that
    /// it kept from being sent are not in the figures.
    Service,
    /// Open loop: from a request's intended start to its answer, without coordinated omission.
    Response,
}

/// The part of the plan that a reader needs to judge the figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanSummary {
    /// `rest` or `grpc`.
    pub protocol: &'static str,
    /// The REST API in use; `null` for gRPC.
    pub api: Option<BenchApi>,
    /// The address under load.
    pub target: String,
    /// Weights of the operations.
    pub mix: Mix,
    /// The mode asked for; `null` is the node's default.
    pub mode: Option<Mode>,
    /// Bytes per value.
    pub value_bytes: usize,
    /// Size of the key space.
    pub keys: u64,
    /// Whether the key space was written first.
    pub preload: bool,
    /// Most requests in flight.
    pub concurrency: usize,
    /// Connections opened.
    pub connections: usize,
    /// Planned length of the measurement.
    pub duration_ms: u64,
    /// Load before the measurement.
    pub warmup_ms: u64,
    /// Requests per second of an open loop; `null` is a closed loop.
    pub rate: Option<f64>,
    /// Seed of keys, values and order.
    pub seed: u64,
}

/// Percentiles in microseconds. All are 0 when nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct LatencyReport {
    /// Smallest.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    #[serde(rename = "p999")]
    pub p99_9: f64,
    /// Largest.
    pub max: f64,
}

impl LatencyReport {
    fn new(histogram: &Histogram<u64>) -> LatencyReport {
        if histogram.is_empty() {
            return LatencyReport::default();
        }
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        LatencyReport {
            min: micros(histogram.min()),
            mean: (histogram.mean()).round() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: micros(histogram.max()),
        }
    }
}

/// One kind of operation, or all of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpReport {
    /// Successful requests that were meant to start in the measured window.
    pub count: u64,
    /// Failed requests that were meant to start in the measured window.
    pub errors: u64,
    /// Successful requests that ended in the measured window, per second.
    pub throughput: f64,
    /// Bytes of values written.
    pub value_bytes_sent: u64,
    /// Bytes of values read.
    pub value_bytes_received: u64,
    /// Latency of the successful requests, of the report's kind.
    pub latency_us: LatencyReport,
    /// Open loop only: latency from the real start. The difference to `latency_us` is time spent waiting for a worker.
    pub service_us: Option<LatencyReport>,
}

impl OpReport {
    fn new(record: &OpRecord, span: Duration) -> OpReport {
        let seconds = span.as_secs_f64();
        let throughput = if seconds > 0.0 { record.ended_in_window as f64 / seconds } else { 0.0 };
        OpReport {
            count: record.ok_count,
            errors: record.error_count,
            throughput: (throughput * 10.0).round() / 10.0,
            value_bytes_sent: record.sent_bytes,
            value_bytes_received: record.received_bytes,
            latency_us: LatencyReport::new(record.response.histogram()),
            service_us: record.service.as_ref().map(|it| LatencyReport::new(it.histogram())),
        }
    }
}

/// How an open loop kept to its timetable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OpenLoopReport {
    /// Requests that were meant to start in the measured window.
    pub scheduled: u64,
    /// Those that were never sent because all workers were waiting. If this is not 0, the server or the concurrency was
    /// too small for the rate, and the true percentiles are worse than the ones reported.
    pub unsent: u64,
}

/// The result of a load run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchReport {
    /// What was run.
    pub plan: PlanSummary,
    /// Length of the measured window; shorter than planned when the run was stopped.
    pub measured_ms: u64,
    /// What `latencyUs` counts.
    pub latency_kind: LatencyKind,
    /// All operations together.
    pub overall: OpReport,
    /// Each operation that was sent.
    pub operations: BTreeMap<&'static str, OpReport>,
    /// Errors by code. `CONNECTION`, `TIMEOUT` and `BAD_RESPONSE` are the load generator's own.
    pub errors: BTreeMap<String, u64>,
    /// The first text seen with each code.
    pub error_examples: BTreeMap<String, String>,
    /// Open loop only.
    pub open_loop: Option<OpenLoopReport>,
}

/// What the clock says about a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Length of the measured window.
    pub span: Duration,
    /// Open loop: requests meant to start in it.
    pub scheduled: Option<u64>,
}

impl BenchReport {
    pub(super) fn new(
        plan: &BenchPlan,
        recorder: &BenchRecorder,
        measured: Measured,
    ) -> BenchReport {
        let mut all = OpRecord::default();
        let mut operations = BTreeMap::new();
        for (kind, record) in &recorder.ops {
            all.merge(record);
            operations.insert(kind.name(), OpReport::new(record, measured.span));
        }
        let open_loop = measured.scheduled.map(|scheduled| {
            let unsent = scheduled.saturating_sub(all.ok_count + all.error_count);
            OpenLoopReport { scheduled, unsent }
        });
        let errors = recorder.errors.iter();
        BenchReport {
            plan: PlanSummary::new(plan),
            measured_ms: millis(measured.span),
            latency_kind: match plan.rate {
                Some(_) => LatencyKind::Response,
                None => LatencyKind::Service,
            },
            overall: OpReport::new(&all, measured.span),
            operations,
            errors: errors.clone().map(|(code, it)| (code.to_string(), it.count)).collect(),
            error_examples: errors
                .map(|(code, it)| (code.to_string(), it.example.clone()))
                .collect(),
            open_loop,
        }
    }

    /// What one operation measured; `None` when the run sent none of it.
    pub fn operation(&self, kind: OpKind) -> Option<&OpReport> {
        self.operations.get(kind.name())
    }
}

impl PlanSummary {
    fn new(plan: &BenchPlan) -> PlanSummary {
        let (protocol, api, target) = match &plan.target {
            BenchTarget::Rest { base, api } => ("rest", Some(*api), base.to_string()),
            BenchTarget::Grpc { storage } => ("grpc", None, storage.to_string()),
        };
        PlanSummary {
            protocol,
            api,
            target,
            mix: plan.mix,
            mode: plan.mode,
            value_bytes: plan.value_size_bytes,
            keys: plan.key_count,
            preload: plan.preload,
            concurrency: plan.concurrency,
            connections: plan.connection_count(),
            duration_ms: millis(plan.duration),
            warmup_ms: millis(plan.warmup),
            rate: plan.rate,
            seed: plan.seed,
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bench::{client::OpFailure, record::Timing};

    fn report(rate: Option<f64>) -> BenchReport {
        let target = BenchTarget::Grpc { storage: "127.0.0.1:6735".parse().unwrap() };
        let plan = BenchPlan { rate, ..BenchPlan::new(target) };
        let mut recorder = BenchRecorder::default();
        for micros in 1..=1000_u64 {
            let response = Duration::from_micros(micros);
            let service = rate.map(|_| Duration::from_micros(1));
            let timing = Timing { response, service, is_measured: true, ended_in_window: true };
            let kind = if micros % 10 == 0 { OpKind::Put } else { OpKind::Get };
            recorder.succeeded(kind, timing, u64::from(kind == OpKind::Put), 100);
        }
        recorder.failed(OpKind::Put, true, OpFailure::answered("UNAVAILABLE", "no quorum"));
        let measured = Measured { span: Duration::from_secs(2), scheduled: rate.map(|_| 1200) };
        BenchReport::new(&plan, &recorder, measured)
    }

    #[test]
    fn figures_are_those_recorded() {
        let report = report(None);
        let overall = &report.overall;
        assert_eq!((overall.count, overall.errors, overall.throughput), (1000, 1, 500.0));
        assert_eq!((overall.value_bytes_sent, overall.value_bytes_received), (100, 100_000));
        let latency = &overall.latency_us;
        for (name, value, expected) in
            [("p50", latency.p50, 500.0), ("p99", latency.p99, 990.0), ("max", latency.max, 1000.0)]
        {
            assert!((value - expected).abs() < expected / 500.0, "{name} is {value}");
        }
        assert_eq!(
            report.operation(OpKind::Put).map(|put| (put.count, put.errors)),
            Some((100, 1))
        );
        assert_eq!(report.operation(OpKind::Delete), None);
        assert_eq!(report.open_loop, None);
    }

    #[test]
    fn an_open_loop_reports_both_latencies_and_what_was_not_sent() {
        let report = report(Some(600.0));
        assert_eq!(report.latency_kind, LatencyKind::Response);
        assert_eq!(report.open_loop, Some(OpenLoopReport { scheduled: 1200, unsent: 199 }));
        let service = report.overall.service_us.unwrap();
        assert!(service.max < 1.1 && report.overall.latency_us.max > 990.0);
    }

    #[test]
    fn the_json_keys_are_stable() {
        fn keys(value: &Value) -> Vec<&str> {
            value.as_object().unwrap().keys().map(String::as_str).collect()
        }
        let json = serde_json::to_value(report(Some(600.0))).unwrap();
        let top = "errorExamples errors latencyKind measuredMs openLoop operations overall plan";
        assert_eq!(keys(&json).join(" "), top);
        let plan = "api concurrency connections durationMs keys mix mode preload protocol rate seed \
                    target valueBytes warmupMs";
        assert_eq!(keys(&json["plan"]).join(" "), plan);
        let op = "count errors latencyUs serviceUs throughput valueBytesReceived valueBytesSent";
        assert_eq!(keys(&json["overall"]).join(" "), op);
        assert_eq!(keys(&json["operations"]).join(" "), "get put");
        assert_eq!(keys(&json["operations"]["get"]).join(" "), op);
        let latency = "max mean min p50 p90 p99 p999";
        assert_eq!(keys(&json["overall"]["latencyUs"]).join(" "), latency);
        assert_eq!(json["errors"], json!({"UNAVAILABLE": 1}));
        assert_eq!(json["errorExamples"], json!({"UNAVAILABLE": "no quorum"}));
        assert_eq!(json["latencyKind"], "response");
        assert_eq!(json["openLoop"], json!({"scheduled": 1200, "unsent": 199}));
    }

    #[test]
    fn a_run_without_a_single_answer_has_a_report() {
        let target = BenchTarget::Grpc { storage: "127.0.0.1:6735".parse().unwrap() };
        let measured = Measured { span: Duration::ZERO, scheduled: None };
        let report = BenchReport::new(&BenchPlan::new(target), &BenchRecorder::default(), measured);
        assert_eq!((report.overall.count, report.overall.throughput), (0, 0.0));
        assert_eq!(report.overall.latency_us, LatencyReport::default());
    }
}
