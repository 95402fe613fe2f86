//! What can end a command. Each text names the value and the way out; each error knows its exit code.

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use super::{
    bench::{BenchError, RestBase},
    rest::CliRefusal,
};
use nomad_config::ConfigErrors;

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// No node is named, and none runs here.
    #[error(
        "no node runs in {}: start one with nomad start, or name one with --url http://HOST:PORT (or NOMAD_URL) or --data-dir DIR", .dir.display()
    )]
    NoNode {
        /// The directory that was looked into.
        dir: PathBuf,
    },
    /// None runs in the data directory that is named.
    #[error(
        "no node runs with the data directory {}: {reason}; start one with nomad start --data-dir, or name one with --url http://HOST:PORT", .dir.display()
    )]
    NoNodeIn {
        /// The data directory.
        dir: PathBuf,
        /// How that is known.
        reason: String,
    },
    /// The environment's URL is none.
    #[error("environment variable NOMAD_URL: {0}")]
    BadUrl(super::bench::PlanProblem),
    /// A part of the request cannot be sent.
    #[error("{what} cannot be part of a request: {reason}")]
    Unsendable {
        /// Which part.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// There is no connection to the node.
    #[error("no answer from the node at {url}: {reason}; check that it runs there")]
    Connection {
        /// Where it was looked for.
        url: RestBase,
        /// What the system said.
        reason: String,
    },
    /// The node took too long.
    #[error(
        "no answer from the node at {url} within {}; whether it did what it was told is unknown; --timeout allows it more time",
        humantime::format_duration(*.waited)
    )]
    Timeout {
        /// Where the node is.
        url: RestBase,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The answer is none of ours.
    #[error("the answer of {url} is not that of a nomad node: {reason}; check the address")]
    Foreign {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The node refused.
    #[error("cannot {what}: {refused}{hint}")]
    Refused {
        /// What it was asked to do.
        what: String,
        /// What it said.
        refused: Box<CliRefusal>,
        /// What to do instead; empty or begins with `; `.
        hint: &'static str,
    },
    /// A capture is narrowed down, but not begun.
    #[error("a capture needs --limit, the number of steps that it ends with")]
    CaptureWithoutLimit,
    /// No value is given.
    #[error("no value: give it as an argument, with --file FILE, or on standard input")]
    NoValue,
    /// The value cannot be read.
    #[error("cannot read the value from {from}: {source}")]
    Input {
        /// File or standard input.
        from: String,
        /// What the system said.
        source: io::Error,
    },
    /// The value is larger than any node takes.
    #[error("the value in {from} has more than {bytes_max} bytes, the most that any node takes")]
    TooLarge {
        /// File or standard input.
        from: String,
        /// The limit.
        bytes_max: u64,
    },
    /// The output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// The configuration is bad.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The load run failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Not one request of the load run succeeded.
    #[error("not one request succeeded")]
    BenchInVain,
    /// The node takes longer to leave than the user waits.
    #[error(
        "the node has not left {group} within {}; it goes on leaving: nomad status shows how far it is, --within waits longer",
        humantime::format_duration(*.within)
    )]
    StillLeaving {
        /// The group.
        group: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// A network of no nodes.
    #[error("--peers 0 and --super-peers 0 make a network of no nodes")]
    NoNodes,
    /// A network that this command does not run.
    #[error("a network of {count} nodes is more than the {max} that run in one process")]
    TooManyNodes {
        /// How many are wanted.
        count: u32,
        /// How many there may be.
        max: u32,
    },
    /// A network's node does not start.
    #[error("node {index} of the network does not start: {reason}")]
    NodeOfNetwork {
        /// Which one.
        index: usize,
        /// Why.
        reason: String,
    },
    /// A directory cannot be made.
    #[error("cannot make the directory {}: {source}", .dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process cannot be set up.
    #[error("cannot {what}: {reason}")]
    Setup {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

impl CliError {
    /// Makes an error of what kept the process from being set up: it could not do `what`.
    pub(super) fn setup<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Setup { what, reason: error.to_string() }
    }

    /// 2 for what the user wrote wrongly, else 1.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::BadUrl(_)
            | Self::CaptureWithoutLimit
            | Self::NoValue
            | Self::NoNodes
            | Self::TooManyNodes { .. }
            | Self::Config(_) => 2,
            Self::Bench(error) => error.exit_code(),
            _ => 1,
        })
    }

    /// Whether the reader of the output has gone, which is no failure: `nomad trace | head -1`.
    pub(super) fn is_reader_gone(&self) -> bool {
        let error = match self {
            Self::Output(error) | Self::Bench(BenchError::Output(error)) => error,
            _ => return false,
        };
        error.kind() == io::ErrorKind::BrokenPipe
    }
}
