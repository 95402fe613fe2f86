//! `nomad bench`: a load generator over REST or gRPC, as a library and as a command.
//!
//! A [`BenchPlan`] says what to send; [`run`] sends it and returns a [`BenchReport`]. Without a rate the load is a closed loop:
//! each worker sends its next request when the last one is answered, and latency is plain service time. With a rate it
//! is an open loop: every request has an intended start time, and its latency counts from there, so that a server that
//! stalls cannot hide the requests which it kept from being sent.
//!
//! Invariants: nothing is retried, so an error is an error and is counted; memory is bounded whatever the server does
//! (histograms of fixed size, a limited number of error codes); a server that goes away ends no run.

mod args;
mod client;
mod clock;
mod command;
mod drive;
mod error;
mod grpc;
mod mix;
mod pacer;
mod plan;
mod problem;
mod record;
mod report;
mod rest;
mod rest_api;
mod target;
mod watchdog;
mod worker;
mod workload;

use std::future::{Future, pending};

pub use args::{BenchArgs, BenchProtocol, OutputFormat};
pub use command::execute;
pub use drive::{BenchPhase, Progress};
pub use error::BenchError;
pub use mix::{Mix, OpKind};
pub use plan::{BenchPlan, Mode};
pub use problem::PlanProblem;
pub use report::{BenchReport, LatencyKind, LatencyReport, OpReport, OpenLoopReport, PlanSummary};
pub use target::{BenchApi, BenchTarget, RestBase, StorageAddress};

/// Runs `plan` to its end and returns what it measured. `progress` is called about once a second.
///
/// # Errors
///
/// [`BenchError::InvalidPlan`] before anything is sent; [`BenchError::Connect`] when the target does not accept the
/// first connections; [`BenchError::Preload`] when the key space cannot be filled. Errors of single requests are no
/// error here: they are counted in the report.
pub async fn run(
    plan: BenchPlan,
    progress: impl FnMut(Progress),
) -> Result<BenchReport, BenchError> {
    run_until(plan, pending(), progress).await
}

/// Like [`run`], but ends early, with the report of what was measured so far, when `stop` completes.
///
/// # Errors
///
/// As [`run`].
pub async fn run_until(
    plan: BenchPlan,
    stop: impl Future<Output = ()>,
    progress: impl FnMut(Progress),
) -> Result<BenchReport, BenchError> {
    plan.validate()?;
    match plan.target.clone() {
        BenchTarget::Rest { base, api } => {
            let clients = rest::connect_all(&plan, &base, api).await?;
            drive::drive(plan, clients, stop, progress).await
        }
        BenchTarget::Grpc { storage } => {
            let clients = grpc::connect_all(&plan, &storage).await?;
            drive::drive(plan, clients, stop, progress).await
        }
    }
}

/// Only fills the key space of `plan`: writes every key once, replacing what is there.
///
/// # Errors
///
/// As [`run`].
pub async fn fill(plan: BenchPlan, progress: impl FnMut(Progress)) -> Result<(), BenchError> {
    plan.validate()?;
    match plan.target.clone() {
        BenchTarget::Rest { base, api } => {
            let clients = rest::connect_all(&plan, &base, api).await?;
            drive::fill(plan, clients, progress).await
        }
        BenchTarget::Grpc { storage } => {
            let clients = grpc::connect_all(&plan, &storage).await?;
            drive::fill(plan, clients, progress).await
        }
    }
}
