//! Steps as trees for people: a request a tree, the step that caused another above it.

use std::collections::{BTreeMap, BTreeSet};

use super::step::TraceStep;
use crate::shown::{micros, one_line, time};

/// The steps as one tree per request, oldest request first.
pub(super) fn render(steps: &[TraceStep]) -> String {
    let mut requests: BTreeMap<&str, Vec<&TraceStep>> = BTreeMap::new();
    for step in steps {
        requests.entry(&step.request).or_default().push(step);
    }
    let mut requests: Vec<Vec<&TraceStep>> = requests.into_values().collect();
    requests.sort_by_cached_key(|steps| steps.iter().map(|step| step.begin()).min());
    let pages: Vec<String> = requests.into_iter().map(request).collect();
    pages.join("\n")
}

/// A step and how deep it stands in its request.
type Placed<'a> = (usize, &'a TraceStep);

/// One request: a line about all of it, and its steps.
fn request(mut steps: Vec<&TraceStep>) -> String {
    steps.sort_by_cached_key(|step| step.begin());
    let placed = placed(&steps);
    let roots: Vec<&TraceStep> =
        placed.iter().filter(|(depth, _)| *depth == 0).map(|p| p.1).collect();
    let mut text = match &roots[..] {
        [] => return String::new(),
        [root] => {
            let object = root.object.as_deref().map(|id| format!("{id}  ")).unwrap_or_default();
            let (outcome, ran) = (outcome(root), micros(root.run_micros));
            let line = format!("{}  {object}{outcome} in {ran}  at {}", root.kind, time(&root.at));
            format!("request {}  {}\n", one_line(&root.request), one_line(&line))
        }
        [first, ..] => {
            let at = time(&first.at);
            format!("request {}  in {} parts  from {at}\n", one_line(&first.request), roots.len())
        }
    };
    rows(&placed, &mut text);
    text
}

/// Each step below the one that caused it. A step whose cause is not among them stands at the top.
fn placed<'a>(steps: &[&'a TraceStep]) -> Vec<Placed<'a>> {
    let spans: BTreeSet<&str> = steps.iter().map(|step| &*step.span).collect();
    let mut children: BTreeMap<&str, Vec<&'a TraceStep>> = BTreeMap::new();
    let mut tops = Vec::new();
    for step in steps {
        match step.parent.as_deref().filter(|parent| spans.contains(parent)) {
            Some(parent) => children.entry(parent).or_default().push(step),
            None => tops.push(*step),
        }
    }
    let mut placed = Vec::new();
    let mut done = BTreeSet::new();
    // Behind the tops come all others: those in a circle have no top, and nobody is lost.
    for step in tops.into_iter().chain(steps.iter().copied()) {
        place(0, step, &children, &mut done, &mut placed);
    }
    placed
}

fn place<'a>(
    depth: usize,
    step: &'a TraceStep,
    children: &BTreeMap<&str, Vec<&'a TraceStep>>,
    done: &mut BTreeSet<(&'a str, u64)>,
    placed: &mut Vec<Placed<'a>>,
) {
    if !done.insert((&step.node, step.seq)) {
        return;
    }
    placed.push((depth, step));
    for child in children.get(&*step.span).into_iter().flatten() {
        place(depth + 1, child, children, done, placed);
    }
}

/// The rows, their columns aligned within the request.
fn rows(placed: &[Placed<'_>], text: &mut String) {
    let cells: Vec<[String; 5]> = placed.iter().map(|(depth, step)| cells(*depth, step)).collect();
    let mut widths = [0; 4];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let [path_width, what_width, wait_width, run_width] = widths;
    for ([path, what, wait, run, end], (depth, step)) in cells.iter().zip(placed) {
        text.push_str(&format!(
            "{path:<path_width$}  {what:<what_width$}  waited {wait:>wait_width$}  ran {run:>run_width$}  {end}\n"
        ));
        if let Some(detail) = &step.detail {
            text.push_str(&format!("{}| {}\n", indent(depth + 1), one_line(detail)));
        }
    }
}

fn cells(depth: usize, step: &TraceStep) -> [String; 5] {
    // The line above the tree names the object of the whole request.
    let object = step.object.as_deref().filter(|_| depth > 0);
    let object = object.map(|id| format!(" {id}")).unwrap_or_default();
    let at = if step.node.is_empty() { String::new() } else { format!(" @{}", step.node) };
    [
        one_line(&format!("{}{} → {}{at}", indent(depth), step.from, step.to)),
        one_line(&format!("{}{object}", step.kind)),
        micros(step.wait_micros),
        micros(step.run_micros),
        one_line(&outcome(step)),
    ]
}

fn outcome(step: &TraceStep) -> String {
    match step.batch {
        Some(jobs) if jobs > 0 => format!("{} (batch of {jobs})", step.outcome),
        _ => step.outcome.clone(),
    }
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const NONE: &str = "0000000000000000";

    fn step(seq: u64, span: &str, parent: &str, path: (&str, &str), kind: &str) -> TraceStep {
        TraceStep {
            seq,
            at: 1_700_000_000_000u64.into(),
            request: REQUEST.to_owned(),
            span: span.to_owned(),
            parent: Some(parent.to_owned()),
            from: path.0.to_owned(),
            to: path.1.to_owned(),
            kind: kind.to_owned(),
            object: Some("item:99".to_owned()),
            outcome: "done".to_owned(),
            ..TraceStep::default()
        }
    }

    #[test]
    fn a_put_reads_from_the_client_to_the_disk() {
        let steps = [
            TraceStep {
                wait_micros: 12,
                run_micros: 3,
                outcome: "handed to the writer".into(),
                ..step(1, "b", "a", ("rest", "local_store"), "Write")
            },
            TraceStep {
                wait_micros: 5,
                run_micros: 350,
                batch: Some(1),
                outcome: "created".into(),
                detail: Some("100 bytes,\nno condition".into()),
                ..step(2, "c", "b", ("local_store", "writer"), "Commit")
            },
            TraceStep {
                run_micros: 412,
                batch: Some(0),
                outcome: "answered 200".into(),
                ..step(3, "a", NONE, ("client", "rest"), "POST /nomad/storage/put")
            },
        ];
        let expected = "\
request 4bf92f3577b34da6a3ce929d0e0e4736  POST /nomad/storage/put  item:99  answered 200 in 412 µs  at 2023-11-14T22:13:20.000Z
  client → rest             POST /nomad/storage/put  waited  0 µs  ran 412 µs  answered 200
    rest → local_store      Write item:99            waited 12 µs  ran   3 µs  handed to the writer
      local_store → writer  Commit item:99           waited  5 µs  ran 350 µs  created (batch of 1)
        | 100 bytes, no condition
";
        assert_eq!(render(&steps), expected);
    }

    #[test]
    fn requests_stand_oldest_first_whatever_their_ids() {
        let mut late = step(9, "a", NONE, ("client", "rest"), "GET");
        late.request = "0".repeat(32);
        late.at = 1_700_000_000_001u64.into();
        let text = render(&[late, step(1, "a", NONE, ("client", "rest"), "GET")]);
        let ids: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("request ")?.split_whitespace().next())
            .collect();
        assert_eq!(ids, [REQUEST, &"0".repeat(32)]);
        assert!(text.contains("\n\nrequest "), "a blank line between: {text}");
    }

    #[test]
    fn no_step_is_lost_or_shown_twice() {
        let path = ("x", "y");
        let steps = [
            step(1, "a", "gone", path, "Orphan"),
            step(2, "b", "b", path, "OwnParent"),
            step(3, "c", "d", path, "Circle"),
            step(4, "d", "c", path, "Circle"),
            step(5, "a", NONE, path, "SameSpan"),
            step(6, "e", "a", path, "Child"),
        ];
        let text = render(&steps);
        for (kind, count) in
            [("Orphan", 1), ("OwnParent", 1), ("Circle", 2), ("SameSpan", 1), ("Child", 1)]
        {
            assert_eq!(text.matches(kind).count(), count, "{text}");
        }
        assert_eq!(render(&[]), "");
    }
}
