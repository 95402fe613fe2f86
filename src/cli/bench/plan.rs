//! What a load run sends, to whom, for how long. Value types and their checks only; no IO.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::{
    BenchError,
    mix::{Mix, OpKind},
    problem::PlanProblem,
    target::BenchTarget,
};

const MAX_VALUE_BYTES: usize = 64 * 1024 * 1024;
const MAX_KEYS: u64 = 1_000_000_000;
const MAX_CONCURRENCY: usize = 10_000;
const MAX_RATE: f64 = 10_000_000.0;
const MAX_PREFIX_BYTES: usize = 512;
const HOUR: Duration = Duration::from_secs(3600);

/// The mode that each request asks for; the node's own default when absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One replica, soonest answer.
    Fast,
    /// A quorum of the replicas.
    Safe,
    /// All replicas at once for get; writes, which have no such mode, ask for safe.
    Parallel,
}

impl Mode {
    /// The mode's name on the wire for one operation.
    pub(super) fn for_operation(self, kind: OpKind) -> &'static str {
        match (self, kind) {
            (Mode::Fast, _) => "fast",
            (Mode::Parallel, OpKind::Get) => "parallel",
            (Mode::Safe | Mode::Parallel, _) => "safe",
        }
    }
}

/// One load run. [`BenchPlan::new`] gives the defaults of `nomad bench`.
#[derive(Debug, Clone)]
pub struct BenchPlan {
    /// Who is loaded.
    pub target: BenchTarget,
    /// How often each operation is sent.
    pub mix: Mix,
    /// The mode that requests ask for; `None` sends none.
    pub mode: Option<Mode>,
    /// Size of every written value in bytes.
    pub value_size_bytes: usize,
    /// Number of keys that get and update choose from.
    pub key_count: u64,
    /// What every key begins with.
    pub key_prefix: String,
    /// Whether the key space is written before the measurement.
    pub preload: bool,
    /// Most requests in flight.
    pub concurrency: usize,
    /// Number of connections; `None` is one for gRPC, one per worker for REST.
    pub connections: Option<usize>,
    /// Length of the measurement.
    pub duration: Duration,
    /// Load before the measurement that is not counted.
    pub warmup: Duration,
    /// Requests per second of an open loop; `None` is a closed loop.
    pub rate: Option<f64>,
    /// When a request without an answer is given up.
    pub timeout: Duration,
    /// Decides keys, values and the order of operations.
    pub seed: u64,
}

impl BenchPlan {
    /// The default load for `target`.
    pub fn new(target: BenchTarget) -> BenchPlan {
        BenchPlan {
            target,
            mix: Mix { get: 90, put: 10, update: 0, delete: 0 },
            mode: None,
            value_size_bytes: 100,
            key_count: 10_000,
            key_prefix: "bench".to_owned(),
            preload: false,
            concurrency: 64,
            connections: None,
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(2),
            rate: None,
            timeout: Duration::from_secs(10),
            seed: 1,
        }
    }

    /// The number of connections that the plan opens.
    pub fn connection_count(&self) -> usize {
        self.connections.unwrap_or(match self.target {
            BenchTarget::Rest { .. } => self.concurrency,
            BenchTarget::Grpc { .. } => 1,
        })
    }

    /// Checks the plan as a whole.
    ///
    /// # Errors
    ///
    /// [`BenchError::InvalidPlan`] with every problem, not only the first.
    pub fn validate(&self) -> Result<(), BenchError> {
        let mut problems: Vec<PlanProblem> = self.mix.problem().into_iter().collect();
        problems.extend(self.number_problems());
        problems.extend(self.span_problems());
        if let Some(rate) = self.rate.filter(|rate| !(*rate > 0.0 && *rate <= MAX_RATE)) {
            problems.push(PlanProblem::Rate(rate));
        }
        let prefix = &self.key_prefix;
        if prefix.is_empty()
            || prefix.len() > MAX_PREFIX_BYTES
            || prefix.chars().any(char::is_control)
        {
            problems.push(PlanProblem::KeyPrefix(prefix.clone()));
        }
        if problems.is_empty() { Ok(()) } else { Err(BenchError::InvalidPlan(problems)) }
    }

    fn number_problems(&self) -> Vec<PlanProblem> {
        let mut problems = Vec::new();
        let mut check = |name, value: u64, max: u64| {
            if value < 1 || value > max {
                problems.push(PlanProblem::OutOfRange { name, value, min: 1, max });
            }
        };
        check("keys", self.key_count, MAX_KEYS);
        check("concurrency", self.concurrency as u64, MAX_CONCURRENCY as u64);
        let (connections, concurrency) = (self.connection_count(), self.concurrency);
        match self.target {
            BenchTarget::Grpc { .. } => {
                check("connections", connections as u64, concurrency as u64)
            }
            BenchTarget::Rest { .. } if connections != concurrency => {
                problems.push(PlanProblem::RestConnections { connections, concurrency });
            }
            BenchTarget::Rest { .. } => {}
        }
        if self.value_size_bytes > MAX_VALUE_BYTES {
            let (size_bytes, size_bytes_max) = (self.value_size_bytes, MAX_VALUE_BYTES);
            problems.push(PlanProblem::ValueTooLarge { size_bytes, size_bytes_max });
        }
        problems
    }

    fn span_problems(&self) -> Vec<PlanProblem> {
        let millisecond = Duration::from_millis(1);
        let limits = [
            ("duration", self.duration, millisecond, 7 * 24 * HOUR),
            ("warmup", self.warmup, Duration::ZERO, HOUR),
            ("timeout", self.timeout, millisecond, HOUR),
        ];
        limits
            .into_iter()
            .filter(|(_, value, min, max)| value < min || value > max)
            .map(|(name, value, min, max)| PlanProblem::SpanOutOfRange { name, value, min, max })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::target::BenchApi;

    fn grpc_plan() -> BenchPlan {
        BenchPlan::new(BenchTarget::Grpc { storage: "127.0.0.1:6735".parse().unwrap() })
    }

    fn rest_plan() -> BenchPlan {
        let base = "http://127.0.0.1:8080".parse().unwrap();
        BenchPlan::new(BenchTarget::Rest { base, api: BenchApi::Objects })
    }

    fn problems(plan: &BenchPlan) -> Vec<PlanProblem> {
        match plan.validate() {
            Err(BenchError::InvalidPlan(problems)) => problems,
            other => panic!("expected problems, got {other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        grpc_plan().validate().unwrap();
        rest_plan().validate().unwrap();
        assert_eq!(grpc_plan().connection_count(), 1);
        assert_eq!(rest_plan().connection_count(), 64);
    }

    #[test]
    fn all_problems_of_a_plan_are_reported_together() {
        let plan = BenchPlan {
            key_count: 0,
            concurrency: 0,
            connections: Some(0),
            value_size_bytes: MAX_VALUE_BYTES + 1,
            duration: Duration::ZERO,
            warmup: 2 * HOUR,
            timeout: Duration::ZERO,
            rate: Some(f64::NAN),
            key_prefix: "a\nb".to_owned(),
            mix: Mix { get: 0, put: 0, update: 0, delete: 0 },
            ..grpc_plan()
        };
        assert_eq!(problems(&plan).len(), 10, "{:?}", problems(&plan));
    }

    #[test]
    fn rest_connections_must_equal_concurrency() {
        let plan = BenchPlan { connections: Some(4), ..rest_plan() };
        let expected = PlanProblem::RestConnections { connections: 4, concurrency: 64 };
        assert_eq!(problems(&plan), [expected]);
        BenchPlan { connections: Some(4), ..grpc_plan() }.validate().unwrap();
    }

    #[test]
    fn parallel_reads_ask_for_parallel_and_writes_for_safe() {
        assert_eq!(Mode::Parallel.for_operation(OpKind::Get), "parallel");
        assert_eq!(Mode::Parallel.for_operation(OpKind::Put), "safe");
        assert_eq!(Mode::Fast.for_operation(OpKind::Get), "fast");
    }
}
