//! `cargo bench --bench memory`: how much memory the node holds when it is idle, with a million objects, and over a
//! long mixed load. Figures are resident set sizes from `/proc/<pid>/status`.

#[allow(dead_code, reason = "each bench uses its own part")]
mod support;

use std::{fs, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use nomad::cli::bench::{BenchPlan, BenchReport, Mix, fill, run};
use serde::Serialize;
use support::{
    args::{CommonArgs, Output},
    figures::{Spread, mark},
    server::{Kind, Server},
    yardstick::Yardstick,
};

const MIB: f64 = 1024.0 * 1024.0;
const SECOND: Duration = Duration::from_secs(1);
const IDLE_SECONDS: u32 = 5;
const SETTLE_SECONDS: u32 = 10;
const IDLE_MIB_MAX: f64 = 40.0;
const LOADED_MIB_MAX: f64 = 256.0;
/// The full claim is made for this many objects; with fewer the row is only a look.
const CLAIMED_OBJECT_COUNT: u64 = 1_000_000;
/// Growth that is no growth: what two minutes of the same load differ by.
const GROWTH_TOLERANCE: f64 = 0.03;
const GROWTH_TOLERANCE_MIB: f64 = 2.0;

/// Measures the node's resident memory.
#[derive(Debug, Clone, Parser)]
#[command(name = "memory")]
struct Flags {
    #[command(flatten)]
    common: CommonArgs,
    /// Objects of 100 bytes to load.
    #[arg(long, default_value_t = CLAIMED_OBJECT_COUNT)]
    objects: u64,
    /// Minutes of mixed load.
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Seconds in a minute, to try the bench itself.
    #[arg(long, hide = true, default_value_t = 60)]
    seconds: u32,
}

/// Resident memory in MiB.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resident {
    /// All of it.
    total: f64,
    /// Without pages of files (the program itself).
    anonymous: f64,
    /// The most that it ever was.
    peak: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MemoryReport {
    server: &'static str,
    idle_mib: Resident,
    idle_pass: bool,
    objects: u64,
    loaded_mib: Resident,
    loaded_pass: bool,
    minutes_mib: Vec<Spread>,
    growth_mib: f64,
    growth_allowed_mib: f64,
    growth_pass: bool,
    mixed_per_second: f64,
    mixed_errors: u64,
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
    let kind = match flags.common.calibrate {
        true => Kind::Yardstick(Yardstick::Minimal),
        false => Kind::Node,
    };
    let server = Server::start(kind, &flags.common.scratch)?;
    let pid = server.pid();

    let idle = highest(&sample(pid, IDLE_SECONDS).await?)?;
    eprintln!("idle: {:.1} MiB", idle.total);

    let filling = BenchPlan {
        key_count: flags.objects,
        concurrency: 256,
        timeout: Duration::from_secs(60),
        ..BenchPlan::new(server.grpc_target()?)
    };
    let filled = fill(filling, |progress| {
        let now = resident(pid).map_or(0.0, |resident| resident.total);
        eprintln!("loading: {} objects, {:.0}/s, {now:.1} MiB", progress.done, progress.per_second);
    });
    filled.await.context("loading the objects")?;
    let settled = sample(pid, SETTLE_SECONDS).await?;
    let loaded = *settled.last().context("no sample after loading")?;
    eprintln!("{} objects: {:.1} MiB, at most {:.1}", flags.objects, loaded.total, loaded.peak);

    let (minutes, reports) = mixed_load(&server, &flags).await?;
    support::show_errors("mixed load", &reports);
    let mixed_errors = reports.iter().map(|it| it.overall.errors).sum();
    let (growth_mib, growth_allowed_mib) = growth(&minutes);
    let report = MemoryReport {
        server: kind.name(),
        idle_mib: idle,
        idle_pass: idle.total < IDLE_MIB_MAX,
        objects: flags.objects,
        loaded_mib: loaded,
        // The peak counts: what a node needs while it takes the load is what it needs.
        loaded_pass: loaded.peak < LOADED_MIB_MAX && flags.objects >= CLAIMED_OBJECT_COUNT,
        growth_mib,
        growth_allowed_mib,
        // A load of errors is not the load that the claim is about.
        growth_pass: growth_mib <= growth_allowed_mib && minutes.len() >= 3 && mixed_errors == 0,
        minutes_mib: minutes,
        mixed_per_second: reports.iter().map(|it| it.overall.throughput).sum(),
        mixed_errors,
    };
    match flags.common.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Text => print!("{}", text(&report)),
    }
    Ok(())
}

/// Loads both edges for the wanted time and samples memory each second. As many objects are put as deleted.
async fn mixed_load(server: &Server, flags: &Flags) -> Result<(Vec<Spread>, Vec<BenchReport>)> {
    let seconds = flags.seconds.max(1);
    let plan = |target| BenchPlan {
        mix: Mix { get: 70, put: 10, update: 10, delete: 10 },
        key_count: flags.objects,
        concurrency: 32,
        warmup: Duration::ZERO,
        duration: SECOND * (seconds * flags.minutes.max(1)),
        ..BenchPlan::new(target)
    };
    let grpc = run(plan(server.grpc_target()?), |_| {});
    let rest = async {
        match server.rest_target() {
            Ok(target) => run(plan(target), |_| {}).await.map(Some),
            // The minimal server, measured in the node's place, has no REST.
            Err(_) => Ok(None),
        }
    };
    let sampling = async {
        let mut minutes = Vec::new();
        for minute in 1..=flags.minutes.max(1) {
            let samples = sample(server.pid(), seconds).await?;
            let spread = Spread::of(samples.iter().map(|it| it.total));
            let Spread { median, min, max } = spread;
            eprintln!("mixed load, minute {minute}: {median:.1} MiB ({min:.1}-{max:.1})");
            minutes.push(spread);
        }
        anyhow::Ok(minutes)
    };
    let (grpc, rest, minutes) = tokio::join!(grpc, rest, sampling);
    Ok((minutes?, [Some(grpc?), rest?].into_iter().flatten().collect()))
}

/// What the last minute has more than the second, and how much of that is no growth.
fn growth(minutes: &[Spread]) -> (f64, f64) {
    let second = minutes.get(1).or_else(|| minutes.first()).map_or(0.0, |it| it.median);
    let last = minutes.last().map_or(0.0, |it| it.median);
    (last - second, (second * GROWTH_TOLERANCE).max(GROWTH_TOLERANCE_MIB))
}

async fn sample(pid: u32, seconds: u32) -> Result<Vec<Resident>> {
    let mut ticks = tokio::time::interval(SECOND);
    ticks.tick().await;
    let mut samples = Vec::new();
    for _ in 0..seconds {
        ticks.tick().await;
        samples.push(resident(pid)?);
    }
    Ok(samples)
}

fn highest(samples: &[Resident]) -> Result<Resident> {
    let highest = samples.iter().max_by(|a, b| a.total.total_cmp(&b.total));
    highest.copied().context("no sample of an idle server")
}

fn resident(pid: u32) -> Result<Resident> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("{path}: the server ended"))?;
    let read = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let Some(kib) = line.and_then(|rest| rest.split_whitespace().nth(1)?.parse::<f64>().ok())
        else {
            bail!("{path} has no {name}");
        };
        Ok(kib * 1024.0 / MIB)
    };
    Ok(Resident { total: read("VmRSS")?, anonymous: read("RssAnon")?, peak: read("VmHWM")? })
}

fn text(report: &MemoryReport) -> String {
    let mut text = format!("resident memory of the {} in MiB\n\n", report.server);
    text += &format!(
        "idle                 {:>8.1}  ({:.1} anonymous)  target < {IDLE_MIB_MAX}   {}\n",
        report.idle_mib.total,
        report.idle_mib.anonymous,
        mark(report.idle_pass)
    );
    let loaded_mark = match report.objects >= CLAIMED_OBJECT_COUNT {
        true => mark(report.loaded_pass),
        false => "too few objects to judge",
    };
    text += &format!(
        "{:>8} objects     {:>8.1}  ({:.1} anonymous), at most {:.1} on the way  target < {LOADED_MIB_MAX}  {loaded_mark}\n",
        report.objects,
        report.loaded_mib.total,
        report.loaded_mib.anonymous,
        report.loaded_mib.peak
    );
    for (minute, Spread { median, min, max }) in (1..).zip(&report.minutes_mib) {
        text += &format!("mixed load, min. {minute:<3} {median:>8.1}  ({min:.1}-{max:.1})\n");
    }
    let growth_mark = match report.minutes_mib.len() >= 3 {
        true => mark(report.growth_pass),
        false => "too few minutes to judge",
    };
    text += &format!(
        "growth, minute 2 to the last: {:+.1}  target <= {:.1}  {growth_mark}\n",
        report.growth_mib, report.growth_allowed_mib
    );
    let (per_second, errors) = (report.mixed_per_second, report.mixed_errors);
    text += &format!("mixed load: {per_second:.0} requests per second, {errors} errors\n");
    text
}
