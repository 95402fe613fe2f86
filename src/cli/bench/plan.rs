//! What a load run sends, to whom, for how long. Value types and their checks only; no IO.

use std::time::Duration;

use clap::{Args, Command, FromArgMatches as _, ValueEnum};
use serde::Serialize;

use super::{
    BenchError,
    mix::{Mix, OpKind},
    problem::PlanProblem,
    target::{BenchTarget, StorageAddress},
};
use nomad_config::UnitError;

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

/// One load run, and its flags. [`BenchPlan::new`] gives the defaults of `nomad bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchPlan {
    /// Who is loaded.
    // Which flags name it depends on the protocol: see `BenchArgs::plan`.
    #[arg(skip = BenchTarget::Grpc { storage: StorageAddress(String::new()) })]
    pub target: BenchTarget,
    /// Weights of get, put, update and delete.
    #[arg(long, default_value = "get=90,put=10", value_name = "OP=WEIGHT,..")]
    pub mix: Mix,
    /// Size of each written value: bytes, or with a unit KiB, MiB or GiB.
    #[arg(long = "value-size", default_value = "100B", value_parser = value_size, value_name = "SIZE")]
    pub value_size_bytes: usize,
    /// Number of keys that get and update choose from.
    #[arg(long = "keys", default_value_t = 10_000, value_name = "KEYS")]
    pub key_count: u64,
    /// Write all keys before measuring. Without it they must be there from an earlier run with the same --key-prefix.
    #[arg(long)]
    pub preload: bool,
    /// Most requests in flight.
    #[arg(long, default_value_t = 64)]
    pub concurrency: usize,
    /// Number of connections [default: 1 for grpc, the concurrency for rest].
    #[arg(long)]
    pub connections: Option<usize>,
    /// How long to measure, such as 10s or 2m.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// How long to load before measuring.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Requests per second in total (open loop) [default: as fast as the answers come].
    #[arg(long)]
    pub rate: Option<f64>,
    /// When a request without an answer counts as an error.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Mode to ask for [default: the node's]. With parallel, writes ask for safe.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// What every key begins with.
    #[arg(long, default_value = "bench")]
    pub key_prefix: String,
    /// Decides keys, values and the order of operations.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

fn value_size(text: &str) -> Result<usize, UnitError> {
    nomad_config::parse_size(text).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

impl BenchPlan {
    /// The default load for `target`.
    pub fn new(target: BenchTarget) -> BenchPlan {
        let flags = BenchPlan::augment_args(Command::new("bench")).get_matches_from(["bench"]);
        let defaults = BenchPlan::from_arg_matches(&flags).expect("each flag has a default");
        BenchPlan { target, ..defaults }
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
