//! What can end a load run before its time. Errors of single requests are counted in the report instead.

use std::io;

use super::problem::PlanProblem;

/// Why a load run did not happen or did not finish.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The plan contradicts itself or leaves a limit; nothing was sent.
    #[error("this load cannot run: {}", join(.0))]
    InvalidPlan(Vec<PlanProblem>),
    /// Neither an address was given nor a running node found.
    #[error("no target: {0}")]
    NoTarget(String),
    /// The target did not accept the first connections.
    #[error("cannot connect to {address}: {reason}; check that the node runs and serves there")]
    Connect {
        /// Host and port.
        address: String,
        /// What the system answered.
        reason: String,
    },
    /// A key of the key space could not be written.
    #[error("filling the key space stopped at key {key:?}: {code}: {detail}")]
    Preload {
        /// The first key that failed.
        key: String,
        /// The error's code, as it would stand in a report.
        code: String,
        /// The error's text.
        detail: String,
    },
    /// A worker ended without its result: a defect of the load generator.
    #[error("a load worker died: {0}")]
    WorkerDied(String),
    /// The report could not be written.
    #[error("cannot write the report: {0}")]
    Output(#[from] io::Error),
}

impl BenchError {
    /// The process exit code for this error: 2 for a plan that cannot run, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            BenchError::InvalidPlan(_) => 2,
            _ => 1,
        }
    }
}

fn join(problems: &[PlanProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
