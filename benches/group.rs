//! `cargo bench --bench group`: what replicated objects cost. Three nodes of nomad next to three servers of etcd, Redis with
//! two replicas and NATS with three, all up in the same run, loaded in turn by clients of the same make.
//!
//! What counts is the ratio of the medians; the figures themselves say something only about one machine on one day. The
//! peers' programs come from `benches/peers/install.sh`; one that is missing is left out, in words. benches/README.md explains
//! the rows.

mod peers;
#[allow(dead_code, reason = "each bench uses its own part")]
mod support;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use peers::{
    Programs,
    etcd::Etcd,
    nats::Nats,
    nodes::Nodes,
    recovery::{self, Recovery, recover},
    redis::Redis,
    rows::{Figures, Row, RowResult, Subject, Systems, measure, rows},
};
use serde::Serialize;
use support::{
    args::Output,
    figures::{mark, short, table},
    server::{Kind, Server},
};

const SIZES: [usize; 2] = [100, 1024];

/// What each system promises about a write that it has acknowledged, and about a read.
const PROMISES: [(&str, &str); 5] = [
    ("nomad safe", "a majority of the replicas has it on disk; reads are linearizable"),
    ("nomad fast", "one node has it on disk; reads may be old"),
    ("etcd", "a majority of the servers has it on disk; reads are linearizable"),
    (
        "redis",
        "the first server has it on disk, one replica has received it (WAIT 1); a failover can lose it",
    ),
    ("nats", "a majority has received it, the disk follows within two minutes; reads may be old"),
];

/// Prints the speed table of replicated objects.
#[derive(Debug, Clone, Parser)]
#[command(name = "group")]
struct Flags {
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Directory for the servers' data; it must be on a real disk, or fsync costs nothing.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    scratch: PathBuf,
    /// Where `benches/peers/install.sh` has put the other servers.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/../peers"))]
    peers: PathBuf,
    /// Only the rows whose name contains this; `recovery` is one of them.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Clients ask all servers of a system, one connection each, and not only its first (etcd: its leader).
    #[arg(long)]
    spread: bool,
    /// One short round, few keys and objects, 1 and 16 concurrent: a look, not a result.
    #[arg(long)]
    quick: bool,
    /// How often each system of a row is measured [default: 5, quick: 1].
    #[arg(long)]
    rounds: Option<u32>,
    /// Length of one measurement [default: 2s, quick: 300ms].
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Objects of 1 KiB in the group whose member is replaced [default: 100000, quick: 1000].
    #[arg(long)]
    objects: Option<u64>,
    /// Set by `cargo bench`. Without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Flags {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 }).max(1)
    }

    fn duration(&self) -> Duration {
        self.duration.unwrap_or(Duration::from_millis(if self.quick { 300 } else { 2_000 }))
    }

    fn keys(&self) -> u64 {
        if self.quick { 200 } else { 10_000 }
    }

    fn concurrencies(&self) -> &'static [usize] {
        if self.quick { &[1, 16] } else { &[1, 16, 64, 256] }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    rounds: u32,
    duration_ms: u128,
    cores: usize,
    spread: bool,
    missing: Vec<&'static str>,
    rows: Vec<RowResult>,
    recovery: Option<Recovery>,
    failures: Vec<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if !flags.bench {
        println!("nothing measured: run it with cargo bench");
        return ExitCode::SUCCESS;
    }
    support::run(bench(flags))
}

async fn bench(flags: Flags) -> Result<()> {
    let all = rows(flags.concurrencies());
    let rows: Vec<Row> = all.into_iter().filter(|row| row.name.contains(&flags.only)).collect();
    let recovers = "recovery".contains(&flags.only);
    ensure!(!rows.is_empty() || recovers, "no row's name contains {:?}", flags.only);
    let mut report = Report {
        rounds: flags.rounds(),
        duration_ms: flags.duration().as_millis(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        spread: flags.spread,
        missing: Vec::new(),
        rows: Vec::new(),
        recovery: None,
        failures: Vec::new(),
    };
    let dir = tempfile::Builder::new()
        .prefix("nomad-bench-")
        .tempdir_in(&flags.scratch)
        .with_context(|| format!("cannot make a directory in {}", flags.scratch.display()))?;
    if !rows.is_empty() {
        compare(&rows, &flags, dir.path(), &mut report).await?;
    }
    if recovers {
        eprintln!("measuring recovery ...");
        let objects = flags.objects.unwrap_or(if flags.quick { 1_000 } else { 100_000 });
        match recover(&dir.path().join("recovery"), objects).await {
            Ok(recovery) => report.recovery = Some(recovery),
            Err(error) => failed(&mut report, "recovery", &error),
        }
    }
    match flags.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Text => print!("{}", text(&report)),
    }
    ensure!(report.failures.is_empty(), "{} rows did not run", report.failures.len());
    Ok(())
}

fn failed(report: &mut Report, what: &str, error: &anyhow::Error) {
    eprintln!("error: {what}: {error:#}");
    report.failures.push(format!("{what}: {error:#}"));
}

/// Starts every system once and measures all rows on them.
async fn compare(rows: &[Row], flags: &Flags, dir: &Path, report: &mut Report) -> Result<()> {
    let programs = Programs::in_dir(&flags.peers);
    let systems = Systems {
        etcd: Etcd::start(&programs, dir).await.context("starting etcd")?,
        redis: Redis::start(&programs, dir).await.context("starting redis")?,
        nats: Nats::start(&programs, dir).await.context("starting nats")?,
        single: Server::start(Kind::Node, dir).context("starting a node alone")?,
        group: Nodes::start(3, dir).await.context("starting a group")?,
        spread: flags.spread,
    };
    for subject in [Subject::Etcd, Subject::Redis, Subject::Nats] {
        if !systems.has(subject) {
            let name = subject.name();
            eprintln!("{name} is MISSING, and left out: run benches/peers/install.sh");
            report.missing.push(name);
        }
    }
    systems.fill(&SIZES, flags.keys()).await?;
    let mut run = 0;
    for row in rows {
        eprintln!("measuring {} ...", row.name);
        let (rounds, duration) = (flags.rounds(), flags.duration());
        match measure(row, &systems, rounds, duration, flags.keys(), &mut run).await {
            Ok(result) => {
                for figures in &result.figures {
                    if let Some(error) = &figures.first_error {
                        eprintln!("{}: {}: {error}", row.name, figures.subject.name());
                    }
                }
                report.rows.push(result);
            }
            Err(error) => failed(report, &row.name, &error),
        }
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{} rounds of {} ms, order alternating, {} cores, medians, clients ask {}\n",
        report.rounds,
        report.duration_ms,
        report.cores,
        if report.spread { "all servers of a system" } else { "one server of a system" },
    );
    for (name, promise) in PROMISES {
        text += &format!("  {name}: {promise}\n");
    }
    for name in &report.missing {
        text += &format!("  {name} is MISSING here: run benches/peers/install.sh\n");
    }
    for (title, prefix) in
        [("safe, next to etcd", "safe-"), ("fast, next to a node alone", "fast-")]
    {
        let rows: Vec<_> = report.rows.iter().filter(|row| row.name.starts_with(prefix)).collect();
        if !rows.is_empty() {
            text += &format!("\n{title}\n\n{}", speeds(&rows));
        }
    }
    if let Some(recovery) = &report.recovery {
        text += &recovered(recovery);
    }
    for failure in &report.failures {
        text += &format!("\ndid not run: {failure}");
    }
    text.push('\n');
    text
}

fn speeds(rows: &[&RowResult]) -> String {
    let head = [
        "row",
        "nomad/s",
        "yardstick",
        "/s",
        "ratio",
        "rounds",
        "target",
        "aim",
        "",
        "redis/s",
        "nats/s",
        "p50 µs",
        "of yardstick",
        "p99 µs",
        "of yardstick",
        "fsyncs/node",
        "/batch",
        "messages",
        "errors",
    ];
    let mut cells: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| cells_of(row)));
    table(&cells)
}

fn cells_of(row: &RowResult) -> Vec<String> {
    let dash = || "-".to_owned();
    let of = |subject| row.figures.iter().find(|it| it.subject == subject);
    let show = |figures: Option<&Figures>, what: fn(&Figures) -> f64| {
        figures.map_or_else(dash, |figures| short(what(figures)))
    };
    let own = row.figures.first();
    let yardstick = of(Subject::Etcd).or(of(Subject::Single));
    let cost = row.cost.as_ref();
    let messages = cost.map_or_else(dash, |cost| {
        let counts = cost.messages.iter().map(|(name, count)| {
            format!("{}={count:.2}", name.trim_start_matches("nomad_").trim_end_matches("_total"))
        });
        let counts: Vec<_> = counts.collect();
        if counts.is_empty() { dash() } else { counts.join(",") }
    });
    vec![
        row.name.clone(),
        show(own, |it| it.per_second.median),
        yardstick.map_or_else(dash, |it| it.subject.name().to_owned()),
        show(yardstick, |it| it.per_second.median),
        row.ratio.map_or_else(dash, |ratio| format!("{ratio:.2}")),
        format!("{:.2}-{:.2}", row.ratio_spread.min, row.ratio_spread.max),
        format!("{:.2}", row.target),
        row.aim.map_or_else(dash, |aim| format!("{aim:.2}")),
        row.pass.map_or_else(dash, |pass| mark(pass).to_owned()),
        show(of(Subject::Redis), |it| it.per_second.median),
        show(of(Subject::Nats), |it| it.per_second.median),
        show(own, |it| it.p50_us.median),
        show(yardstick, |it| it.p50_us.median),
        show(own, |it| it.p99_us.median),
        show(yardstick, |it| it.p99_us.median),
        cost.map_or_else(dash, |cost| format!("{:.3}", cost.fsyncs_per_node)),
        cost.map_or_else(dash, |cost| format!("{:.3}", cost.fsyncs_per_batch)),
        messages,
        row.figures.iter().map(|it| it.errors).sum::<u64>().to_string(),
    ]
}

fn recovered(recovery: &Recovery) -> String {
    format!(
        "\nrecovery: {} objects of 1 KiB complete again {:.1} s after the new member was started, {:.1} s after the old one \
         was lost (target {:.0} s);\n  clients {}/s before, {}/s meanwhile ({}-{}), which is {:.2} (target {:.2}), {} \
         errors{}: {}\n",
        recovery.objects,
        recovery.seconds_from_join,
        recovery.seconds_from_loss,
        recovery::SECONDS_MAX,
        short(recovery.before.median),
        short(recovery.during.median),
        short(recovery.during.min),
        short(recovery.during.max),
        recovery.share,
        recovery::SHARE_MIN,
        recovery.errors,
        recovery.first_error.as_ref().map_or_else(String::new, |error| format!(" ({error})")),
        mark(recovery.pass)
    )
}
