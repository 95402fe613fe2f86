//! The command line: arguments, runtime, exit code. What a node does is in `node`; the client commands talk to one over
//! REST, as any other client does.
//!
//! Invariants: nothing panics because a reader of standard output has gone; exit codes are 0 done, 1 failed, 2 bad usage
//! or bad configuration; what a command prints on standard output is its result and nothing else.

mod actors;
mod args;
pub mod bench;
mod dev;
mod error;
mod help;
mod leave;
mod load;
mod node_address;
mod objects;
mod output;
mod rest;
mod shown;
mod signals;
mod start;
mod status;
mod trace;

use std::{
    io::{Write as _, stderr},
    process::ExitCode,
};

use clap::FromArgMatches as _;
use http::Method;
use tokio::runtime::{Builder, Runtime};

use self::{
    args::{Cli, Command, ConfigCommand, ConfigFile, ConnectionArgs, DebugCommand, TraceCommand},
    error::CliError,
    rest::{CliRequest, Rest, encode},
};
use nomad_config::{self as config, Loaded, ProcessEnv, Sources};

/// Does what the arguments of this process say, and returns its exit code.
pub fn run() -> ExitCode {
    let parsed = help::command()
        .try_get_matches()
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with exit code 0. A reader that has gone wants none of it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) if error.is_reader_gone() => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "nomad: {error}");
            error.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Start(args) => return start::run(args),
        Command::Dev(args) => return dev::run(args),
        Command::Config { command: ConfigCommand::Check(file) } => check(file)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut help::command(), "nomad", &mut script);
            output::write(&script)?;
        }
        Command::Put(args) => {
            objects::check(&args.content)?;
            show(&args.connection, async |rest| objects::put(&rest, &args).await)?;
        }
        Command::Update(args) => {
            objects::check(&args.content)?;
            show(&args.connection, async |rest| objects::update(&rest, &args).await)?;
        }
        Command::Get(args) => {
            show(&args.connection, async |rest| objects::get(&rest, &args).await)?
        }
        Command::Delete(args) => {
            show(&args.connection, async |rest| objects::delete(&rest, &args).await)?
        }
        Command::Status(args) => {
            show(&args.connection, async |rest| status::run(&rest, &args).await)?
        }
        Command::Leave(args) => {
            show(&args.connection, async |rest| leave::run(&rest, &args).await)?
        }
        Command::Actors(args) => {
            show(&args.connection, async |rest| actors::run(&rest, &args).await)?
        }
        Command::Trace(mut args) => match args.command.take() {
            Some(TraceCommand::Capture(args)) => {
                show(&args.connection, async |rest| trace::capture::run(&rest, &args).await)?
            }
            None => ask(&args.connection, async |rest| trace::run(&rest, &args).await)?,
        },
        Command::Debug { command: DebugCommand::Kill { actor, connection } } => {
            show(&connection, async |rest| kill(&rest, &actor).await)?;
        }
        Command::Bench(args) => load::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command that talks to a node, and prints what it gives.
fn show(
    connection: &ConnectionArgs,
    command: impl AsyncFnOnce(Rest) -> Result<Vec<u8>, CliError>,
) -> Result<(), CliError> {
    ask(connection, async |rest| output::write(&command(rest).await?))
}

/// Runs a client command against the node that `connection` names.
fn ask(
    connection: &ConnectionArgs,
    command: impl AsyncFnOnce(Rest) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let base = node_address::find(connection, std::env::var_os("NOMAD_URL"), &cwd()?)?;
    let rest = Rest::new(base, connection.timeout);
    runtime(Builder::new_current_thread())?.block_on(command(rest))
}

/// `nomad config check`.
fn check(file: ConfigFile) -> Result<(), CliError> {
    let loaded = load_config(file, Vec::new())?;
    for warning in &loaded.warnings {
        let _ = writeln!(stderr(), "nomad: warning: {warning}");
    }
    output::write(loaded.to_yaml().as_bytes())
}

fn load_config(
    file: ConfigFile,
    flags: Vec<(String, String, &'static str)>,
) -> Result<Loaded, CliError> {
    Ok(config::load(Sources { file: file.file, flags, ..Sources::new(&ProcessEnv) })?)
}

/// `nomad debug kill`.
async fn kill(rest: &Rest, actor: &str) -> Result<Vec<u8>, CliError> {
    let path = format!("/nomad/debug/actors/{}/kill", encode(actor));
    rest.send(CliRequest::new(Method::POST, path, format!("kill {actor:?}"))).await?;
    Ok(format!("killed {actor}; nomad actors shows what became of it\n").into_bytes())
}

fn cwd() -> Result<std::path::PathBuf, CliError> {
    std::env::current_dir().map_err(CliError::setup("find the working directory"))
}

fn runtime(mut builder: Builder) -> Result<Runtime, CliError> {
    builder.enable_all().build().map_err(CliError::setup("start the runtime"))
}
