//! `cargo bench --bench slow_clients`: what thousands of connections that send nothing, or one byte a second, do to the
//! latency of everybody else.
//!
//! The slow connections are held by a process of their own, since they need as many file descriptors as one process may
//! have. A connection that the server closes is opened again a second later, as an attacker would do.

mod slow;
#[allow(dead_code, reason = "each bench uses its own part")]
mod support;

use std::{
    env,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nomad::cli::bench::{BenchPlan, BenchReport, Mix, fill, run};
use serde::Serialize;
use slow::{Held, HoldArgs, Style};
use support::{
    args::{CommonArgs, Output},
    figures::{Spread, mark, table},
    process::Process,
    server::{Kind, Server},
    yardstick::Yardstick,
};

const RATIO_MAX: f64 = 2.0;
const KEY_COUNT: u64 = 10_000;
/// How many seconds the connections may take to open.
const OPENING_SECONDS_MAX: u32 = 60;
/// The count is steady when it did not rise for so many seconds.
const STEADY_SECONDS: u32 = 5;
const LINE_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(2);

/// Compares the p99 of normal clients with and without slow connections.
#[derive(Debug, Clone, Parser)]
#[command(name = "slow_clients")]
struct Flags {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    hold: HoldArgs,
    /// Slow connections.
    #[arg(long, default_value_t = 10_000)]
    connections: u32,
    /// How often the order without, with, with, without is gone through.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Length of one measurement.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Normal clients.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Requests per second of the normal clients [default: as fast as the answers come].
    #[arg(long)]
    rate: Option<f64>,
    /// Only the rows whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    name: &'static str,
    is_rest: bool,
    style: Style,
}

const ROWS: [Row; 4] = [
    Row { name: "rest-silent", is_rest: true, style: Style::Silent },
    Row { name: "rest-drip", is_rest: true, style: Style::DripHttp },
    Row { name: "grpc-silent", is_rest: false, style: Style::Silent },
    Row { name: "grpc-drip", is_rest: false, style: Style::DripHttp2 },
];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    p99_us: Spread,
    p50_us: Spread,
    per_second: Spread,
    errors: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RowResult {
    name: &'static str,
    without: Side,
    with: Side,
    ratio: f64,
    target: f64,
    pass: bool,
    /// Slow connections at the end of each measurement with them.
    held: Vec<Held>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let (Some(yardstick), Some(dir)) = (flags.common.serve, &flags.common.dir) {
        return support::yardstick::serve(yardstick, dir);
    }
    if let Some(address) = flags.hold.hold {
        return support::run(slow::hold(address, flags.hold.style, flags.connections));
    }
    if !flags.common.is_wanted() {
        return ExitCode::SUCCESS;
    }
    support::run(bench(flags))
}

async fn bench(flags: Flags) -> Result<()> {
    let only = flags.only.clone().unwrap_or_default();
    let rows: Vec<Row> = ROWS.into_iter().filter(|row| row.name.contains(&only)).collect();
    ensure!(!rows.is_empty(), "no row's name contains {only:?}");
    let mut results = Vec::new();
    for row in rows {
        results.push(measure(row, &flags).await.with_context(|| row.name)?);
    }
    match flags.common.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&results)?),
        Output::Text => print!("{}", text(&results, &flags)),
    }
    Ok(())
}

async fn measure(row: Row, flags: &Flags) -> Result<RowResult> {
    let kind = match (flags.common.calibrate, row.is_rest) {
        (false, _) => Kind::Node,
        (true, true) => Kind::Yardstick(Yardstick::BareWarp),
        (true, false) => Kind::Yardstick(Yardstick::Minimal),
    };
    let server = Server::start(kind, &flags.common.scratch)?;
    let (target, address) = match row.is_rest {
        true => (server.rest_target()?, server.rest()?),
        false => (server.grpc_target()?, server.storage()?),
    };
    let plan = BenchPlan {
        mix: Mix::GETS,
        key_count: KEY_COUNT,
        concurrency: flags.clients,
        rate: flags.rate,
        duration: flags.duration,
        warmup: flags.duration / 5,
        ..BenchPlan::new(target)
    };
    if kind != Kind::Yardstick(Yardstick::BareWarp) {
        fill(plan.clone(), |_| {}).await?;
    }
    let (mut without, mut with, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..flags.rounds.max(1) {
        eprintln!("measuring {}, round {} of {} ...", row.name, round + 1, flags.rounds.max(1));
        without.push(run(plan.clone(), |_| {}).await?);
        let mut holder = start_holder(row, address, flags)?;
        let open = wait_until_open(&mut holder, flags.connections)?;
        eprintln!("{} slow connections are open, {} were refused", open.open, open.refused);
        for _ in 0..2 {
            with.push(run(plan.clone(), |_| {}).await?);
            holder.forget_lines();
            held.push(next_line(&mut holder)?);
        }
        drop(holder);
        tokio::time::sleep(PAUSE).await;
        without.push(run(plan.clone(), |_| {}).await?);
    }
    support::show_errors(row.name, &without);
    support::show_errors(row.name, &with);
    Ok(result(row, &without, &with, held))
}

fn start_holder(row: Row, address: &str, flags: &Flags) -> Result<Process> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--hold", address, "--style", row.style.name()]);
    command.arg("--connections").arg(flags.connections.to_string());
    Process::start("the holder of slow connections", command)
}

/// Waits until all slow connections are open, or as many as the server lets in.
fn wait_until_open(holder: &mut Process, wanted: u32) -> Result<Held> {
    let mut best = next_line(holder)?;
    let mut steady_seconds = 0;
    for _ in 0..OPENING_SECONDS_MAX {
        if best.open >= wanted || steady_seconds >= STEADY_SECONDS {
            break;
        }
        let now = next_line(holder)?;
        steady_seconds = if now.open > best.open { 0 } else { steady_seconds + 1 };
        if now.open >= best.open {
            best = now;
        }
    }
    Ok(best)
}

/// What the holder says each second.
fn next_line(holder: &mut Process) -> Result<Held> {
    holder.wait_for(LINE_LIMIT, |line| serde_json::from_str(line).ok())
}

fn result(row: Row, without: &[BenchReport], with: &[BenchReport], held: Vec<Held>) -> RowResult {
    let side = |reports: &[BenchReport]| Side {
        p99_us: Spread::of(reports.iter().map(|it| it.overall.latency_us.p99)),
        p50_us: Spread::of(reports.iter().map(|it| it.overall.latency_us.p50)),
        per_second: Spread::of(reports.iter().map(|it| it.overall.throughput)),
        errors: reports.iter().map(|it| it.overall.errors).sum(),
    };
    let (without, with) = (side(without), side(with));
    let ratio = match without.p99_us.median > 0.0 {
        true => with.p99_us.median / without.p99_us.median,
        false => f64::INFINITY,
    };
    // Percentiles of nothing are zero, so a server that answers nobody must not pass.
    let answers = with.per_second.min > 0.0 && without.errors + with.errors == 0;
    let pass = ratio <= RATIO_MAX && answers;
    RowResult { name: row.name, without, with, ratio, target: RATIO_MAX, pass, held }
}

fn text(results: &[RowResult], flags: &Flags) -> String {
    let head = [
        "row",
        "p99 µs without",
        "min",
        "max",
        "with",
        "min",
        "max",
        "ratio",
        "target",
        "",
        "per second without",
        "with",
        "errors",
        "held open",
        "closed by server",
    ];
    let mut cells: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    for row in results {
        let (without, with) = (&row.without, &row.with);
        let whole = |value: f64| format!("{value:.0}");
        let open = Spread::of(row.held.iter().map(|held| f64::from(held.open)));
        let closed = row.held.iter().map(|held| held.closed).max().unwrap_or(0);
        cells.push(vec![
            row.name.to_owned(),
            whole(without.p99_us.median),
            whole(without.p99_us.min),
            whole(without.p99_us.max),
            whole(with.p99_us.median),
            whole(with.p99_us.min),
            whole(with.p99_us.max),
            format!("{:.2}", row.ratio),
            format!("<= {RATIO_MAX:.1}"),
            mark(row.pass).to_owned(),
            whole(without.per_second.median),
            whole(with.per_second.median),
            (without.errors + with.errors).to_string(),
            whole(open.median),
            closed.to_string(),
        ]);
    }
    format!(
        "{} normal clients, {} slow connections, {} rounds of without, with, with, without\n\n{}",
        flags.clients,
        flags.connections,
        flags.rounds.max(1),
        table(&cells)
    )
}
