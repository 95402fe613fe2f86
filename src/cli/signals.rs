//! The signals that end what runs in this process: SIGTERM and SIGINT.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;

/// The signals that end a node.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them over from the system's defaults.
    pub(super) fn open() -> Result<Self, CliError> {
        let open = |kind| signal(kind).map_err(CliError::setup("listen for signals"));
        Ok(Self {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one and returns the exit code that a shell would give for it.
    pub(super) async fn next(&mut self) -> i32 {
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        };
        128 + kind.as_raw_value()
    }
}
