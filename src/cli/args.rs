//! Commands and flags, as clap reads them. What they mean together is checked where they are used.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{NonEmptyStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser},
};
use clap_complete::Shell;
use http::HeaderValue;

use super::{
    bench::{BenchArgs, RestBase},
    help,
};
use nomad_core::group::{RetrievalMode, StorageMode};

/// A geo-spatial peer-to-peer object store.
#[derive(Debug, Parser)]
#[command(name = "nomad", version, disable_help_subcommand = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node until it is told to stop
    #[command(after_help = help::START)]
    Start(StartArgs),
    /// Run a whole network on this machine until it is told to stop
    #[command(after_help = help::DEV)]
    Dev(DevArgs),
    /// Check and show configuration
    #[command(after_help = help::CONFIG)]
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Create an object
    #[command(after_help = help::PUT)]
    Put(PutArgs),
    /// Print an object's value
    #[command(after_help = help::GET)]
    Get(GetArgs),
    /// Replace an object that exists
    #[command(after_help = help::UPDATE)]
    Update(UpdateArgs),
    /// Delete an object
    #[command(after_help = help::DELETE)]
    Delete(DeleteArgs),
    /// Show a node: its place, its group, its store
    #[command(after_help = help::STATUS)]
    Status(ShowArgs),
    /// Take a node out of its group
    #[command(after_help = help::LEAVE)]
    Leave(LeaveArgs),
    /// Show a node's actors as a tree: state, mailbox, times, restarts and their causes
    #[command(after_help = help::ACTORS)]
    Actors(ShowArgs),
    /// Show what requests did: who sent what to whom, how long it waited and ran, how it ended
    #[command(after_help = help::TRACE, args_conflicts_with_subcommands = true)]
    Trace(TraceArgs),
    /// Disturb a node to see what it does
    #[command(after_help = help::DEBUG)]
    Debug {
        #[command(subcommand)]
        command: DebugCommand,
    },
    /// Load a node and report throughput and latency percentiles
    Bench(BenchCommand),
    /// Print a completion script for a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// `nomad start`.
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// What the node is in its group
    #[arg(short = 't', long = "type", value_enum, default_value_t)]
    pub role: RoleArg,
    #[command(flatten)]
    pub config: ConfigFile,
    /// Where the node keeps its identity and objects [default: the first free nomad-data/node-N]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Overlay address of a node to start from: a multiaddr or HOST:PORT; may be given several times, in place of
    /// bootstrap.peers
    #[arg(long, value_name = "ADDR")]
    pub bootstrap: Vec<String>,
}

/// `nomad dev`.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// How many peers
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub peers: u32,
    /// How many super-peers
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub super_peers: u32,
    /// Keep the network's data below this directory [default: a directory that goes with the network]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub config: ConfigFile,
}

/// The role that a node is started in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum RoleArg {
    /// Becomes a super-peer only where there is none
    #[default]
    Peer,
    /// Always leads a group
    SuperPeer,
}

/// Which file to read.
#[derive(Debug, Args)]
pub(super) struct ConfigFile {
    /// Configuration file [default: configs/config.yaml, if it is there]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `nomad config ..`.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the effective configuration, or everything that is wrong with it
    #[command(after_help = help::CONFIG_CHECK)]
    Check(ConfigFile),
}

/// Which node a command talks to, and how long it waits.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node")]
pub(super) struct ConnectionArgs {
    /// REST base of the node, such as http://127.0.0.1:8080 [env: NOMAD_URL]
    #[arg(long)]
    pub url: Option<RestBase>,
    /// Data directory of a node that runs on this machine [default: the lowest nomad-data/node-N that runs]
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub data_dir: Option<PathBuf>,
    /// Longest time to wait for the answer
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,
}

/// What an object's value is, and where it comes from.
#[derive(Debug, Args)]
pub(super) struct ContentArgs {
    /// The object's id: 1 to 1024 bytes of UTF-8
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub id: String,
    /// The value; - or nothing reads standard input
    #[arg(allow_negative_numbers = true)]
    pub value: Option<OsString>,
    /// Read the value from this file; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    pub file: Option<PathBuf>,
    /// Expire after this time, such as 90s or 1h
    #[arg(long, value_name = "DURATION", value_parser = ttl, conflicts_with = "expires")]
    pub ttl: Option<Duration>,
    /// Expire at this Unix time in seconds
    #[arg(long, value_name = "SECONDS")]
    pub expires: Option<u64>,
    /// Media type of the value, kept with it
    #[arg(long, value_name = "TYPE", value_parser = header_value)]
    pub content_type: Option<HeaderValue>,
    /// When the write is acknowledged [default: the node's]
    #[arg(long, value_parser = storage_mode())]
    pub mode: Option<StorageMode>,
}

/// `nomad put`.
#[derive(Debug, Args)]
pub(super) struct PutArgs {
    #[command(flatten)]
    pub content: ContentArgs,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `nomad update`.
#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    #[command(flatten)]
    pub content: ContentArgs,
    /// Replace only this version
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub if_version: Option<String>,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `nomad get`.
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The object's id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub id: String,
    /// raw = the value's bytes and nothing else; json = the object, its value in base64
    #[arg(long, value_enum, default_value_t)]
    pub output: GetOutput,
    /// How replicas are asked [default: the node's]
    #[arg(long, value_parser = retrieval_mode())]
    pub mode: Option<RetrievalMode>,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `nomad delete`.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The object's id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub id: String,
    /// Delete only this version
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub if_version: Option<String>,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// A command that shows one document.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// A page for people, or the node's document
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `nomad leave`.
#[derive(Debug, Args)]
pub(super) struct LeaveArgs {
    /// Longest time to wait until the node has left
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub within: Duration,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `nomad trace`.
#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    #[command(subcommand)]
    pub command: Option<TraceCommand>,
    #[command(flatten)]
    pub only: TraceFilter,
    /// Most steps to show; the newest ones are
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Go on with what happens from now on, until interrupted
    #[arg(long)]
    pub follow: bool,
    /// Trees for people, or the records: one document, with --follow one per line
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// Which steps are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(super) struct TraceFilter {
    /// Only requests that touched this object
    #[arg(long, value_name = "ID")]
    pub object: Option<String>,
    /// Only this request: the Nomad-Request-Id of its answer
    #[arg(long, value_name = "ID")]
    pub request: Option<String>,
    /// Only steps from or to this actor
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
}

/// `nomad trace ..`.
#[derive(Debug, Subcommand)]
pub(super) enum TraceCommand {
    /// Record the next steps with what their messages say; show or end such a recording
    #[command(after_help = help::TRACE_CAPTURE)]
    Capture(CaptureArgs),
}

/// `nomad trace capture`.
#[derive(Debug, Args)]
pub(super) struct CaptureArgs {
    /// Begin a capture of this many steps, in place of an earlier one
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: Option<u32>,
    /// End the capture and forget it
    #[arg(long, conflicts_with = "limit")]
    pub stop: bool,
    #[command(flatten)]
    pub only: TraceFilter,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `nomad debug ..`.
#[derive(Debug, Subcommand)]
pub(super) enum DebugCommand {
    /// Kill an actor as a fault would; its supervisor starts it again
    #[command(after_help = help::DEBUG_KILL)]
    Kill {
        /// The actor's name, as nomad actors shows it
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        actor: String,
        #[command(flatten)]
        connection: ConnectionArgs,
    },
}

/// `nomad bench`.
#[derive(Debug, Args)]
pub(super) struct BenchCommand {
    #[command(flatten)]
    pub load: BenchArgs,
    /// Data directory of a node that runs on this machine [default: the lowest nomad-data/node-N that runs]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Text for people or JSON for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    #[default]
    Text,
    Json,
}

/// How `nomad get` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum GetOutput {
    #[default]
    Raw,
    Json,
}

/// The words of a write's mode, each with what it means.
fn storage_mode() -> impl TypedValueParser<Value = StorageMode> {
    PossibleValuesParser::new([
        PossibleValue::new("fast").help("Once durable on this node"),
        PossibleValue::new("safe").help("Once durable on a quorum of the replicas"),
    ])
    .try_map(|word| word.parse::<StorageMode>())
}

/// The words of a read's mode, each with what it means.
fn retrieval_mode() -> impl TypedValueParser<Value = RetrievalMode> {
    PossibleValuesParser::new([
        PossibleValue::new("fast").help("The nearest replica that has it"),
        PossibleValue::new("safe").help("What a quorum of the replicas agrees on"),
        PossibleValue::new("parallel").help("All replicas at once; the first that has it"),
    ])
    .try_map(|word| word.parse::<RetrievalMode>())
}

fn duration(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number with a unit, such as 10s or 1h"))?;
    if span.is_zero() { Err("it must be above 0".to_owned()) } else { Ok(span) }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    match span.subsec_nanos() {
        0 => Ok(span),
        _ => Err("objects expire at full seconds; write whole ones, such as 2s".to_owned()),
    }
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "it must be printable ASCII on one line".to_owned())
}

fn version(text: &str) -> Result<String, String> {
    // As it may have been copied from an ETag.
    let bare = text.trim_matches('"');
    let is_good =
        !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    match is_good {
        true => Ok(bare.to_owned()),
        false => Err("it must be a version as nomad put or the ETag gives it".to_owned()),
    }
}

#[cfg(test)]
mod tests;
