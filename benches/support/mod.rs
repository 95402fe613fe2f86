//! What the benches share: the servers under load as child processes, the yardsticks among them, figures and tables.
//!
//! Everything here loads 127.0.0.1 only. Children die with the bench: on a normal end, on an error, on a panic and on
//! Ctrl-C.

pub mod args;
pub mod counters;
pub mod figures;
pub mod process;
pub mod server;
pub mod yardstick;

use std::{future::Future, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use nomad::cli::bench::BenchReport;
use tokio::signal::unix::{SignalKind, signal};

/// The node's allocator, so that the yardsticks and the client pay the same for memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs `bench` on a runtime of the node's shape and turns its end into an exit code.
pub fn run(bench: impl Future<Output = Result<()>>) -> ExitCode {
    let ended = runtime().and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                ended = bench => ended,
                stopped = stop_signal() => stopped.and_then(|()| bail!("stopped by a signal")),
            }
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A multi-thread runtime with the default number of workers, as the node has.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start a tokio runtime")
}

/// Shows the first error of each kind that a load met; a result with errors is never a pass.
pub fn show_errors(what: &str, reports: &[BenchReport]) {
    for (code, example) in reports.iter().flat_map(|report| &report.error_examples) {
        eprintln!("{what}: {code}: {example}");
    }
}

async fn stop_signal() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
