//! `nomad start`: configuration, log, node, signals.

use std::{pin::pin, process::ExitCode};

use futures::FutureExt as _;
use tokio::runtime::Builder;
use tracing::{Level, error, info, warn};

use super::{
    args::{RoleArg, StartArgs},
    error::CliError,
    load_config, runtime,
    shown::say,
    signals::Signals,
};
use nomad_config::Config;
use nomad_node::{Node, StartOptions};
use nomad_telemetry as telemetry;

/// Runs a node until it is told to stop, or gives up.
pub(super) fn run(args: StartArgs) -> Result<ExitCode, CliError> {
    let data_dir = args.data_dir.map(|dir| ("node.dataDir".to_owned(), dir, "--data-dir"));
    let bootstrap = args.bootstrap.into_iter();
    let bootstrap = bootstrap.map(|at| ("bootstrap.peers".to_owned(), at, "--bootstrap"));
    let loaded = load_config(args.config, data_dir.into_iter().chain(bootstrap).collect())?;
    let permanent = args.role == RoleArg::SuperPeer;
    let options = StartOptions { permanent, ..StartOptions::new(loaded.config.clone()) };
    run_logged(&loaded.config, async |signals| {
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        Ok(serve(options, signals).await)
    })
}

/// Runs what serves until a signal: with a runtime of its own, and the log of the configuration.
pub(super) fn run_logged(
    config: &Config,
    serve: impl AsyncFnOnce(&mut Signals) -> Result<ExitCode, CliError>,
) -> Result<ExitCode, CliError> {
    let runtime = runtime(Builder::new_multi_thread())?;
    let guard = {
        let _entered = runtime.enter();
        telemetry::install(&config.log, &config.otlp).map_err(CliError::setup("set up the log"))?
    };
    let code = runtime.block_on(async {
        let mut signals = Signals::open()?;
        let code = serve(&mut signals).await;
        tokio::select! {
            biased;
            code = signals.next() => std::process::exit(code),
            () = guard.flush() => code,
        }
    });
    // A thread that still blocks, say on a disk that hangs, does not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn serve(options: StartOptions, signals: &mut Signals) -> ExitCode {
    let started = tokio::select! {
        biased;
        _ = signals.next() => return ExitCode::SUCCESS,
        started = Node::start(options) => started,
    };
    let mut node = match started {
        Ok(node) => node,
        Err(error) => {
            fail(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let mut ready = pin!(node.ready().fuse());
    let code = loop {
        tokio::select! {
            biased;
            _ = signals.next() => {
                info!("stopping; a second signal stops at once");
                break ExitCode::SUCCESS;
            }
            reason = node.ended() => {
                fail(&reason);
                break ExitCode::FAILURE;
            }
            () = &mut ready => say_running(&node),
        }
    };
    tokio::select! {
        biased;
        // At once means now: nothing is flushed, no thread is waited for.
        code = signals.next() => std::process::exit(code),
        () = node.stop() => code,
    }
}

fn say_running(node: &Node) {
    let (addresses, view) = (node.addresses(), node.backend().service.view.load_full());
    info!(
        role = view.role(),
        state = view.state.as_str(),
        REST = %addresses.rest,
        peer = %addresses.peer,
        storage = %addresses.storage,
        overlay = addresses.overlay,
        nodeId = addresses.node_id,
        dataDir = %addresses.data_dir.display(),
        "Node running"
    );
}

/// Says why the node ends. A log that is turned off does not swallow it.
pub(super) fn fail(reason: &str) {
    if tracing::enabled!(Level::ERROR) {
        error!("{reason}");
    } else {
        say(reason);
    }
}
