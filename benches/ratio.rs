//! `cargo bench --bench ratio`: how fast the node is next to servers that do as little as possible.
//!
//! Node and yardsticks run in processes of their own, on the same machine and in the same run, loaded by the same client
//! in an order that alternates (ABBA), so that what slows the machine down slows all of them. What counts is the ratio of
//! the medians; the figures themselves say something only about a quiet machine. benches/README.md explains the rows.

#[allow(dead_code, reason = "each bench uses its own part")]
mod support;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nomad::cli::bench::{BenchPlan, BenchReport, Mix, fill, run};
use serde::Serialize;
use support::{
    args::{CommonArgs, Output},
    counters::Counters,
    figures::{Spread, mark, short, table},
    server::{Kind, Server},
    yardstick::Yardstick,
};

/// Rest between two measurements, in which what the last one left (compaction, closing connections) can end.
const PAUSE: Duration = Duration::from_millis(200);
const KEY_COUNT: u64 = 10_000;

/// Prints the ratio table: the node next to servers that do as little as possible.
#[derive(Debug, Clone, Parser)]
#[command(name = "ratio")]
struct Flags {
    #[command(flatten)]
    common: CommonArgs,
    /// Only the rows whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Three rounds of one second: a look, not a result.
    #[arg(long)]
    quick: bool,
    /// How often each server of a row is measured [default: 5, quick: 3].
    #[arg(long)]
    rounds: Option<u32>,
    /// Length of one measurement [default: 3s, quick: 1s].
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

impl Flags {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 }).max(1)
    }

    fn duration(&self) -> Duration {
        self.duration.unwrap_or(Duration::from_secs(if self.quick { 1 } else { 3 }))
    }
}

/// One comparison.
#[derive(Debug, Clone)]
struct Row {
    name: String,
    /// The least ratio that is wanted.
    target: f64,
    is_rest: bool,
    mix: Mix,
    concurrency: usize,
    value_size_bytes: usize,
    yardstick: Yardstick,
    /// Measured with the others, for orientation.
    beside: Option<Yardstick>,
}

fn rows() -> Vec<Row> {
    let get = |name: &str, target, is_rest, concurrency, yardstick, beside| Row {
        name: name.to_owned(),
        target,
        is_rest,
        mix: Mix::GETS,
        concurrency,
        value_size_bytes: 100,
        yardstick,
        beside,
    };
    let mut rows = vec![
        get("rest-get-64", 0.70, true, 64, Yardstick::BareWarp, None),
        get("grpc-get-64", 0.85, false, 64, Yardstick::Minimal, Some(Yardstick::BareTonic)),
        get("grpc-get-1", 0.90, false, 1, Yardstick::Minimal, Some(Yardstick::BareTonic)),
    ];
    for (size_name, value_size_bytes) in [("100B", 100), ("1KiB", 1024)] {
        for concurrency in [1, 16, 64, 256] {
            rows.push(Row {
                name: format!("grpc-put-{size_name}-{concurrency}"),
                target: 0.85,
                is_rest: false,
                mix: Mix::PUTS,
                concurrency,
                value_size_bytes,
                yardstick: Yardstick::Minimal,
                beside: None,
            });
        }
    }
    rows
}

/// One server of a row and what it has done so far.
struct Subject {
    server: Server,
    plan: BenchPlan,
    reports: Vec<BenchReport>,
    counters_before: Option<Counters>,
}

/// What one server of a row measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    server: &'static str,
    per_second: Spread,
    p50_us: Spread,
    p99_us: Spread,
    errors: u64,
    fsyncs_per_put: Option<f64>,
    runs: Vec<f64>,
}

/// The result of a row.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RowResult {
    name: String,
    ratio: f64,
    /// Of the ratios of each round.
    ratio_spread: Spread,
    target: f64,
    pass: bool,
    subject: Figures,
    yardstick: Figures,
    beside: Option<Figures>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RatioReport {
    rounds: u32,
    duration_ms: u128,
    cores: usize,
    calibrate: bool,
    rows: Vec<RowResult>,
    failures: Vec<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let (Some(yardstick), Some(dir)) = (flags.common.serve, &flags.common.dir) {
        return support::yardstick::serve(yardstick, dir);
    }
    if !flags.common.is_wanted() {
        return ExitCode::SUCCESS;
    }
    support::run(bench(flags))
}

async fn bench(flags: Flags) -> Result<()> {
    let only = flags.only.clone().unwrap_or_default();
    let rows: Vec<Row> = rows().into_iter().filter(|row| row.name.contains(&only)).collect();
    ensure!(!rows.is_empty(), "no row's name contains {only:?}");
    let mut report = RatioReport {
        rounds: flags.rounds(),
        duration_ms: flags.duration().as_millis(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        calibrate: flags.common.calibrate,
        rows: Vec::new(),
        failures: Vec::new(),
    };
    for row in &rows {
        eprintln!("measuring {} ...", row.name);
        match measure(row, &flags).await {
            Ok(result) => report.rows.push(result),
            Err(error) => {
                eprintln!("error: {}: {error:#}", row.name);
                report.failures.push(format!("{}: {error:#}", row.name));
            }
        }
    }
    match flags.common.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Text => print!("{}", text(&report)),
    }
    ensure!(report.failures.is_empty(), "{} rows did not run", report.failures.len());
    Ok(())
}

async fn measure(row: &Row, flags: &Flags) -> Result<RowResult> {
    let node = match flags.common.calibrate {
        true => Kind::Yardstick(row.yardstick),
        false => Kind::Node,
    };
    let kinds = [Some(node), Some(Kind::Yardstick(row.yardstick)), row.beside.map(Kind::Yardstick)];
    let mut subjects = Vec::new();
    for kind in kinds.into_iter().flatten() {
        subjects.push(prepare(row, kind, flags).await?);
    }
    for round in 0..flags.rounds() {
        // Forwards and backwards in turn: A B B A A B ...
        let mut turn: Vec<&mut Subject> = subjects.iter_mut().collect();
        if round % 2 == 1 {
            turn.reverse();
        }
        for subject in turn {
            tokio::time::sleep(PAUSE).await;
            let plan = BenchPlan { seed: u64::from(round) + 1, ..subject.plan.clone() };
            subject.reports.push(run(plan, |_| {}).await?);
        }
    }
    let mut figures = Vec::new();
    for subject in &mut subjects {
        figures.push(subject.figures(row).await?);
    }
    let mut figures = figures.into_iter();
    let (subject, yardstick) = (figures.next(), figures.next());
    Ok(result(
        row,
        subject.context("no subject")?,
        yardstick.context("no yardstick")?,
        figures.next(),
    ))
}

/// Starts a server for a row and fills it when the row reads.
async fn prepare(row: &Row, kind: Kind, flags: &Flags) -> Result<Subject> {
    let mut server = Server::start(kind, &flags.common.scratch)?;
    let target = if row.is_rest { server.rest_target()? } else { server.grpc_target()? };
    let plan = BenchPlan {
        mix: row.mix,
        value_size_bytes: row.value_size_bytes,
        key_count: KEY_COUNT,
        concurrency: row.concurrency,
        duration: flags.duration(),
        warmup: flags.duration() / 5,
        ..BenchPlan::new(target)
    };
    let keeps_objects =
        !matches!(kind, Kind::Yardstick(Yardstick::BareWarp | Yardstick::BareTonic));
    if row.mix.get > 0 && keeps_objects {
        let filling = BenchPlan { concurrency: 64, ..plan.clone() };
        fill(filling, |_| {}).await.with_context(|| format!("filling {}", kind.name()))?;
    }
    let counters_before = if row.mix.put > 0 { server.counters().await? } else { None };
    Ok(Subject { server, plan, reports: Vec::new(), counters_before })
}

impl Subject {
    async fn figures(&mut self, row: &Row) -> Result<Figures> {
        let after = if row.mix.put > 0 { self.server.counters().await? } else { None };
        let added = after.zip(self.counters_before).map(|(after, before)| after.since(before));
        let runs: Vec<f64> = self.reports.iter().map(|it| it.overall.throughput).collect();
        let name = self.server.kind().name();
        support::show_errors(&format!("{}: {name}", row.name), &self.reports);
        Ok(Figures {
            server: name,
            per_second: Spread::of(runs.iter().copied()),
            p50_us: Spread::of(self.reports.iter().map(|it| it.overall.latency_us.p50)),
            p99_us: Spread::of(self.reports.iter().map(|it| it.overall.latency_us.p99)),
            errors: self.reports.iter().map(|it| it.overall.errors).sum(),
            fsyncs_per_put: added.and_then(Counters::fsyncs_per_write),
            runs,
        })
    }
}

fn result(row: &Row, subject: Figures, yardstick: Figures, beside: Option<Figures>) -> RowResult {
    let ratio_of = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    let ratio = ratio_of(subject.per_second.median, yardstick.per_second.median);
    let pairs = subject.runs.iter().zip(&yardstick.runs);
    let ratio_spread = Spread::of(pairs.map(|(a, b)| ratio_of(*a, *b)));
    let is_clean = subject.errors == 0 && yardstick.errors == 0;
    let pass = ratio >= row.target && is_clean;
    let (name, target) = (row.name.clone(), row.target);
    RowResult { name, ratio, ratio_spread, target, pass, subject, yardstick, beside }
}

fn text(report: &RatioReport) -> String {
    let head = [
        "row",
        "node/s",
        "min",
        "max",
        "yardstick",
        "/s",
        "min",
        "max",
        "ratio",
        "rounds",
        "target",
        "",
        "p99 µs",
        "of yardstick",
        "fsyncs/put",
        "of yardstick",
        "errors",
    ];
    let mut cells: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    for row in &report.rows {
        let (node, yardstick) = (&row.subject, &row.yardstick);
        cells.push(vec![
            row.name.clone(),
            short(node.per_second.median),
            short(node.per_second.min),
            short(node.per_second.max),
            yardstick.server.to_owned(),
            short(yardstick.per_second.median),
            short(yardstick.per_second.min),
            short(yardstick.per_second.max),
            format!("{:.2}", row.ratio),
            format!("{:.2}-{:.2}", row.ratio_spread.min, row.ratio_spread.max),
            format!("{:.2}", row.target),
            mark(row.pass).to_owned(),
            format!("{:.0}", node.p99_us.median),
            format!("{:.0}", yardstick.p99_us.median),
            fsyncs(node),
            fsyncs(yardstick),
            (node.errors + yardstick.errors).to_string(),
        ]);
    }
    let mut text = format!(
        "{} rounds of {} ms, order alternating, {} cores, medians{}\n\n{}",
        report.rounds,
        report.duration_ms,
        report.cores,
        if report.calibrate { ", yardstick in the node's place" } else { "" },
        table(&cells)
    );
    for row in &report.rows {
        if let Some(beside) = &row.beside {
            let Spread { median, min, max } = beside.per_second;
            text += &format!(
                "\n{}: for orientation, {} does {}/s ({}-{})",
                row.name,
                beside.server,
                short(median),
                short(min),
                short(max)
            );
        }
    }
    text.push('\n');
    text
}

fn fsyncs(figures: &Figures) -> String {
    figures.fsyncs_per_put.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}
