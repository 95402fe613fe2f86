//! `nomad trace`: what the node recorded of its requests, as trees or as it wrote it.

pub(super) mod capture;
mod follow;
mod step;
mod tree;

use std::{
    io::{Write as _, stderr},
    time::Duration,
};

use serde_json::Value;

use self::{
    follow::HeldSteps,
    step::{TracePage, TraceStep},
};
use super::{
    args::{Output, TraceArgs, TraceFilter},
    error::CliError,
    objects::pretty,
    output,
    rest::{CliRequest, Rest},
    status::StatusPage,
};
use nomad_ports::{Clock as _, SystemClock};

const PATH: &str = "/nomad/debug/trace";
/// How long the node may hold back an answer that has nothing to tell yet.
const WAIT: Duration = Duration::from_secs(1);
/// How many steps are taken at once while following.
const FOLLOWED_MAX: u32 = 1000;

/// Runs `nomad trace`.
pub(super) async fn run(rest: &Rest, args: &TraceArgs) -> Result<(), CliError> {
    if args.follow {
        return follow(rest, args).await;
    }
    let answer = rest.send(ask(&args.only, args.limit, None)).await?;
    output::write(&match args.output {
        Output::Json => pretty(&answer.json::<Value>()?),
        Output::Text => {
            let mut steps = answer.json::<TracePage>()?.steps();
            if args.only.request.is_some() {
                steps.extend(steps_of_members(rest, args).await);
            }
            if steps.is_empty() {
                let _ = writeln!(stderr(), "no step that was recorded matches");
            }
            tree::render(&steps).into_bytes()
        }
    })
}

/// What the other members of the node's group recorded of a request. Those that do not answer are named.
async fn steps_of_members(rest: &Rest, args: &TraceArgs) -> Vec<TraceStep> {
    let status = rest.send(CliRequest::get("/nomad/v1/status", "show the members")).await;
    let Ok(status) = status.and_then(|answer| answer.json::<StatusPage>()) else {
        return Vec::new();
    };
    let others = status.members.iter().filter(|member| member.node_id != status.node_id);
    let asked = others.map(async |member| {
        let name = member.node_id.get(member.node_id.len().saturating_sub(6)..).unwrap_or_default();
        let found = async {
            let answer = rest.to(&member.rest).send(ask(&args.only, args.limit, None)).await?;
            answer.json::<TracePage>()
        };
        match found.await {
            Ok(page) => page
                .steps()
                .into_iter()
                .map(|step| TraceStep { node: name.to_owned(), ..step })
                .collect::<Vec<_>>(),
            Err(error) => {
                let _ = writeln!(stderr(), "the member {name} is left out: {error}");
                Vec::new()
            }
        }
    });
    futures::future::join_all(asked).await.concat()
}

/// Shows the last steps, then what happens, until the process is told to end.
async fn follow(rest: &Rest, args: &TraceArgs) -> Result<(), CliError> {
    let clock = SystemClock::new();
    let (mut held, mut after) = (HeldSteps::default(), None);
    loop {
        let limit = if after.is_none() { args.limit } else { FOLLOWED_MAX };
        let answer = rest.send_held(ask(&args.only, limit, after), WAIT).await?;
        let page: TracePage = answer.json()?;
        let is_first = after.is_none();
        after = page.next.or(after).or(Some(0));
        let now = clock.monotonic();
        output::write(&match (args.output, is_first) {
            (Output::Json, _) => lines(&mut held, &page),
            // What is there when it begins is shown at once, however whole it is.
            (Output::Text, true) => spaced(&held.flush(now, page.steps())),
            (Output::Text, false) => spaced(&held.step(now, page.steps())),
        })?;
    }
}

/// Trees with an empty line behind each, so that more can follow.
fn spaced(steps: &[TraceStep]) -> Vec<u8> {
    let trees = tree::render(steps);
    if trees.is_empty() { Vec::new() } else { (trees + "\n").into_bytes() }
}

/// The records that are new, one a line.
fn lines(held: &mut HeldSteps, page: &TracePage) -> Vec<u8> {
    let is_new = |record: &&Value| {
        record.get("seq").and_then(Value::as_u64).is_none_or(|seq| held.take(seq))
    };
    page.records
        .iter()
        .filter(is_new)
        .flat_map(|record| format!("{record}\n").into_bytes())
        .collect()
}

fn ask(only: &TraceFilter, limit: u32, after: Option<u64>) -> CliRequest {
    let wait = after.map(|_| WAIT.as_secs().to_string());
    CliRequest::get(PATH, "show what was recorded").query([
        ("object", only.object.clone()),
        ("request", only.request.clone()),
        ("actor", only.actor.clone()),
        ("limit", Some(limit.to_string())),
        ("after", after.map(|seq| seq.to_string())),
        ("wait", wait),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followed_records_are_written_once_each() {
        let page: TracePage =
            serde_json::from_str(r#"{"steps":[{"seq":1},{"seq":2}],"next":2}"#).unwrap();
        let mut held = HeldSteps::default();
        assert_eq!(lines(&mut held, &page), b"{\"seq\":1}\n{\"seq\":2}\n");
        assert!(lines(&mut held, &page).is_empty());
    }
}
