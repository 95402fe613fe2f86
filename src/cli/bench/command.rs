//! `nomad bench` as a command: progress on standard error, the report on standard output.

use std::{
    fmt::Write as _,
    future::Future,
    io::{IsTerminal as _, Write, stderr},
    time::Duration,
};

use super::{
    BenchError, BenchPhase, BenchReport, Progress,
    args::{BenchArgs, OutputFormat},
    report::{LatencyKind, LatencyReport, OpReport},
    run_until,
};

/// Runs the load that `args` describe and writes the report to `out`. `find` gives the address when the flags name none
/// (see [`BenchArgs::plan`]). When `stop` completes (the user's Ctrl-C), the report covers what was measured so far.
///
/// # Errors
///
/// As [`BenchArgs::plan`] and [`super::run`], and [`BenchError::Output`]. Failed requests are part of the report; the
/// caller may look at `report.overall.count` for whether anything succeeded.
pub async fn execute(
    args: &BenchArgs,
    find: impl FnOnce(&BenchArgs) -> Result<String, String>,
    stop: impl Future<Output = ()>,
    out: &mut impl Write,
) -> Result<BenchReport, BenchError> {
    let plan = args.plan(find)?;
    let is_terminal = stderr().is_terminal();
    let is_shown = is_terminal || args.progress;
    let report = run_until(plan, stop, |progress| {
        if is_shown {
            show(progress, is_terminal);
        }
    })
    .await?;
    if is_terminal {
        // Removes the progress line. Progress is a courtesy: a closed standard error stops no run.
        let _ = write!(stderr(), "\r\x1b[K");
    }
    match args.output {
        OutputFormat::Text => out.write_all(report.text().as_bytes())?,
        OutputFormat::Json => {
            serde_json::to_writer_pretty(&mut *out, &report).map_err(std::io::Error::from)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    Ok(report)
}

/// One progress line: overwritten in place on a terminal, else a line of its own.
fn show(progress: Progress, is_terminal: bool) {
    let line = line(progress);
    let _ = match is_terminal {
        true => write!(stderr(), "\r\x1b[K{line}"),
        false => writeln!(stderr(), "{line}"),
    };
}

fn line(progress: Progress) -> String {
    let phase = match progress.phase {
        BenchPhase::Fill => "filling",
        BenchPhase::Warmup => "warm-up",
        BenchPhase::Measure => "measuring",
    };
    let mut line = format!("{phase} {}s", progress.elapsed.as_secs_f64().round());
    if let Some(planned) = progress.planned {
        let _ = write!(line, "/{}s", planned.as_secs_f64());
    }
    let Progress { per_second, done, errors, .. } = progress;
    let _ = write!(line, "  {per_second:.0}/s  {done} done  {errors} errors");
    line
}

impl BenchReport {
    /// The report as a table for people.
    pub fn text(&self) -> String {
        let plan = &self.plan;
        let mut text = String::new();
        let loop_kind = match plan.rate {
            Some(rate) => format!("open loop at {rate}/s"),
            None => "closed loop".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} {}  {}  {} B values  {} concurrent on {} connections  {loop_kind}  {:.1} s",
            plan.protocol,
            plan.target,
            plan.mix,
            plan.value_bytes,
            plan.concurrency,
            plan.connections,
            Duration::from_millis(self.measured_ms).as_secs_f64(),
        );
        let _ = writeln!(
            text,
            "\n{:<8}{:>12}{:>10}{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "per second", "count", "errors", "min µs", "p50", "p90", "p99", "p99.9", "max"
        );
        for (name, op) in &self.operations {
            row(&mut text, name, op, &op.latency_us);
        }
        row(&mut text, "all", &self.overall, &self.overall.latency_us);
        if let Some(service) = &self.overall.service_us {
            row(&mut text, "service", &self.overall, service);
        }
        let (sent, received) = (self.overall.value_bytes_sent, self.overall.value_bytes_received);
        let _ = writeln!(text, "\nvalue bytes: {sent} written, {received} read");
        let _ = writeln!(text, "{}", self.meaning());
        for (code, count) in &self.errors {
            let example = self.error_examples.get(code).map_or("", String::as_str);
            let _ = writeln!(text, "{count} errors {code}: {example}");
        }
        if self.errors.contains_key("NOT_FOUND") && !plan.preload {
            let _ = writeln!(text, "get and update need the key space: fill it with --preload");
        }
        text
    }

    fn meaning(&self) -> String {
        match (self.latency_kind, self.open_loop) {
            (LatencyKind::Response, Some(open)) if open.unsent > 0 => format!(
                "latency counts from each request's intended start; {} of {} requests were never sent, so the true \
                 percentiles are worse: lower --rate or raise --concurrency",
                open.unsent, open.scheduled
            ),
            (LatencyKind::Response, _) => {
                "latency counts from each request's intended start (no coordinated \
                                           omission); the service row counts from the real one"
                    .to_owned()
            }
            (LatencyKind::Service, _) => {
                "latency is plain service time of a closed loop: what a stall kept from \
                                          being sent is not in it; use --rate for that"
                    .to_owned()
            }
        }
    }
}

fn row(text: &mut String, name: &str, op: &OpReport, latency: &LatencyReport) {
    let _ = writeln!(
        text,
        "{name:<8}{:>12.1}{:>10}{:>8}{:>10.0}{:>10.0}{:>10.0}{:>10.0}{:>10.0}{:>10.0}",
        op.throughput,
        op.count,
        op.errors,
        latency.min,
        latency.p50,
        latency.p90,
        latency.p99,
        latency.p99_9,
        latency.max,
    );
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use clap::Parser;
    use serde_json::Value;

    use super::*;
    use crate::bench::{
        grpc, plan::BenchPlan, record::BenchRecorder, report::Measured, target::BenchTarget,
    };

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    async fn output(flags: &str) -> String {
        let words = ["bench"].into_iter().chain(flags.split_whitespace());
        let args = Cli::try_parse_from(words).unwrap().bench;
        let mut out = Vec::new();
        execute(&args, |_| Err("no node".to_owned()), pending(), &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn a_grpc_load_of_all_operations_runs_without_an_error() {
        let (plan, _serving) = grpc::tests::serve().await;
        let BenchTarget::Grpc { storage } = plan.target else { panic!("a gRPC plan") };
        let load = "--mix get=4,put=3,update=2,delete=1 --keys 20 --preload --concurrency 8 --connections 2 \
                    --warmup 0ms --duration 200ms --output json";
        for rate in ["", "--rate 2000"] {
            let text = output(&format!("--storage {storage} {load} {rate}")).await;
            let json: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["overall"]["errors"], 0, "{text}");
            assert!(json["overall"]["count"].as_u64().unwrap() > 0, "{text}");
        }
    }

    #[tokio::test]
    async fn a_rest_load_runs_and_its_text_has_a_row_per_operation() {
        use warp::Filter as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving =
            tokio::spawn(warp::serve(warp::any().map(|| "value")).incoming(listener).run());
        let flags = "--mix get=1,put=1 --concurrency 4 --warmup 0ms --duration 200ms";
        let text = output(&format!("--protocol rest --url http://{address} {flags}")).await;
        for row in ["get ", "put ", "all ", "value bytes: "] {
            assert!(text.lines().any(|line| line.starts_with(row)), "no {row:?} in {text}");
        }
        let is_error = |line: &str| line.contains(" errors ") && line.contains(':');
        assert!(!text.lines().any(is_error), "{text}");
        serving.abort();
    }

    #[test]
    fn a_report_says_what_its_figures_leave_out() {
        let target = BenchTarget::Grpc { storage: "127.0.0.1:1".parse().unwrap() };
        let measured = Measured { span: Duration::from_secs(1), scheduled: Some(10) };
        let plan = BenchPlan { rate: Some(10.0), ..BenchPlan::new(target) };
        let text = BenchReport::new(&plan, &BenchRecorder::default(), measured).text();
        assert!(text.contains("10 of 10 requests were never sent"), "{text}");
        let closed = BenchPlan { rate: None, ..plan };
        let measured = Measured { scheduled: None, ..measured };
        let text = BenchReport::new(&closed, &BenchRecorder::default(), measured).text();
        assert!(text.contains("closed loop") && text.contains("use --rate for that"), "{text}");
    }

    #[test]
    fn a_progress_line_names_phase_time_and_errors() {
        let progress = Progress {
            phase: BenchPhase::Measure,
            elapsed: Duration::from_millis(3004),
            planned: Some(Duration::from_secs(10)),
            done: 3600,
            errors: 2,
            per_second: 1200.4,
        };
        assert_eq!(line(progress), "measuring 3s/10s  1200/s  3600 done  2 errors");
    }
}
