//! `nomad actors`: the live tree as a table, each actor below its supervisor, the causes of its restarts below it.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::{
    args::{Output, ShowArgs},
    error::CliError,
    objects::pretty,
    rest::{CliRequest, Rest},
    shown::{columns, micros, one_line, time},
};

/// How many causes of restarts are shown per actor, the newest ones.
const CAUSES_SHOWN: usize = 3;

const HEADINGS: [&str; 9] = [
    "actor",
    "state",
    "restarts",
    "mailbox",
    "handled",
    "failed",
    "dropped",
    "wait p50/p99",
    "run p50/p99",
];

#[derive(Debug, Deserialize)]
struct Tree {
    actors: Vec<Actor>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Actor {
    name: String,
    parent: Option<String>,
    state: String,
    mailbox: u64,
    handled: u64,
    failed: u64,
    dropped: u64,
    restarts: u64,
    causes: Vec<Cause>,
    wait_micros: Percentiles,
    run_micros: Percentiles,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Cause {
    at: Value,
    text: String,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Percentiles {
    p50: u64,
    p99: u64,
}

/// Shows the actors.
pub(super) async fn run(rest: &Rest, args: &ShowArgs) -> Result<Vec<u8>, CliError> {
    let ask = CliRequest::get("/nomad/debug/actors", "list the node's actors");
    let answer = rest.send(ask).await?;
    match args.output {
        Output::Json => Ok(pretty(&answer.json()?)),
        Output::Text => Ok(table(&answer.json()?).into_bytes()),
    }
}

/// A line of the table, and what stands under it.
struct Row {
    cells: [String; 9],
    notes: Vec<String>,
}

fn table(tree: &Tree) -> String {
    let mut rows = vec![Row { cells: HEADINGS.map(str::to_owned), notes: Vec::new() }];
    let names: BTreeSet<&str> = tree.actors.iter().map(|actor| &*actor.name).collect();
    let is_root = |actor: &&Actor| {
        actor.parent.as_deref().is_none_or(|parent| parent == actor.name || !names.contains(parent))
    };
    let mut shown = BTreeSet::new();
    for actor in tree.actors.iter().filter(is_root) {
        add(tree, actor, 0, &mut shown, &mut rows);
    }
    // Nobody is lost, even in a circle.
    for actor in &tree.actors {
        add(tree, actor, 0, &mut shown, &mut rows);
    }
    written(&rows)
}

fn add<'a>(
    tree: &'a Tree,
    actor: &'a Actor,
    depth: usize,
    shown: &mut BTreeSet<&'a str>,
    rows: &mut Vec<Row>,
) {
    if !shown.insert(&actor.name) {
        return;
    }
    rows.push(row(actor, depth));
    for child in &tree.actors {
        if child.parent.as_deref() == Some(&actor.name) {
            add(tree, child, depth + 1, shown, rows);
        }
    }
}

fn row(actor: &Actor, depth: usize) -> Row {
    let times = |times: Percentiles| format!("{} / {}", micros(times.p50), micros(times.p99));
    let indent = "  ".repeat(depth);
    let cells = [
        format!("{indent}{}", one_line(&actor.name)),
        one_line(&actor.state),
        actor.restarts.to_string(),
        actor.mailbox.to_string(),
        actor.handled.to_string(),
        actor.failed.to_string(),
        actor.dropped.to_string(),
        times(actor.wait_micros),
        times(actor.run_micros),
    ];
    let skipped = actor.causes.len().saturating_sub(CAUSES_SHOWN);
    let notes =
        actor.causes.iter().skip(skipped).map(|cause| {
            format!("{indent}  restarted {}: {}", time(&cause.at), one_line(&cause.text))
        });
    Row { cells, notes: notes.collect() }
}

/// The lines of all rows, each with its notes below it.
fn written(rows: &[Row]) -> String {
    let cells: Vec<_> = rows.iter().map(|row| &row.cells).collect();
    let mut text = String::new();
    for (line, row) in columns(&cells, 2).iter().zip(rows) {
        text.push_str(line);
        for note in &row.notes {
            text.push_str(&format!("{note}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(document: Value) -> Tree {
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn children_stand_under_their_supervisor_and_causes_under_the_actor() {
        let causes: Vec<_> = (1..=4)
            .map(|n| serde_json::json!({"at": n * 1000, "text": format!("killed\nfor the {n}. time")}))
            .collect();
        let tree = tree(serde_json::json!({"actors": [
            {"name": "edge", "parent": "node", "state": "running"},
            {"name": "local_store", "parent": "storage", "state": "restarting", "mailbox": 12, "handled": 3456,
             "failed": 4, "dropped": 1, "restarts": 4, "causes": causes,
             "waitMicros": {"p50": 5, "p99": 12_000}, "runMicros": {"p50": 3, "p99": 350}},
            {"name": "node", "parent": null, "state": "running"},
            {"name": "storage", "parent": "node", "state": "running"}
        ]}));
        let expected = "\
actor            state       restarts  mailbox  handled  failed  dropped    wait p50/p99    run p50/p99
node             running            0        0        0       0        0     0 µs / 0 µs    0 µs / 0 µs
  edge           running            0        0        0       0        0     0 µs / 0 µs    0 µs / 0 µs
  storage        running            0        0        0       0        0     0 µs / 0 µs    0 µs / 0 µs
    local_store  restarting         4       12     3456       4        1  5 µs / 12.0 ms  3 µs / 350 µs
      restarted 1970-01-01T00:00:02.000Z: killed for the 2. time
      restarted 1970-01-01T00:00:03.000Z: killed for the 3. time
      restarted 1970-01-01T00:00:04.000Z: killed for the 4. time
";
        assert_eq!(table(&tree), expected);
    }

    #[test]
    fn orphans_and_circles_are_shown_once() {
        let tree = tree(serde_json::json!({"actors": [
            {"name": "orphan", "parent": "gone"},
            {"name": "self", "parent": "self"},
            {"name": "a", "parent": "b"},
            {"name": "b", "parent": "a"}
        ]}));
        let text = table(&tree);
        let names: Vec<_> =
            text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, ["orphan", "self", "a", "b"]);
    }
}
