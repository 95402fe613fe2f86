//! Following a trace: steps are held until their request is answered, so that it is shown as one tree.
//!
//! Invariant: what is held is bounded, in time and in number, and every step comes out once.

use std::collections::{BTreeMap, BTreeSet};

use super::step::TraceStep;
use nomad_core::model::time::MonotonicUs;

/// How long a request that got no further step is held, such as one of the node's own, which no edge answers.
const HELD_MAX_US: u64 = 1_000_000;
/// The most requests that are held.
const REQUESTS_MAX: usize = 1000;
/// How many of the newest steps are remembered as taken; only a request that is still going on comes again.
const TAKEN_MAX: usize = 100_000;

/// What was not shown yet.
#[derive(Debug, Default)]
pub(super) struct HeldSteps {
    requests: BTreeMap<String, Waiting>,
    taken: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Waiting {
    steps: Vec<TraceStep>,
    grown: MonotonicUs,
}

impl HeldSteps {
    /// Takes the steps of one answer of the node, in which some of an earlier one can come again, and returns those of
    /// the requests that are complete.
    pub(super) fn step(&mut self, now: MonotonicUs, steps: Vec<TraceStep>) -> Vec<TraceStep> {
        for step in steps {
            if self.take(step.seq) {
                let waiting = self.requests.entry(step.request.clone()).or_default();
                waiting.grown = now;
                waiting.steps.push(step);
            }
        }
        let is_full = self.requests.len() > REQUESTS_MAX;
        let is_complete = |waiting: &Waiting| {
            is_full
                || waiting.steps.iter().any(TraceStep::is_answer)
                || now.since(waiting.grown) >= HELD_MAX_US
        };
        let complete = self.requests.extract_if(.., |_, waiting| is_complete(waiting));
        complete.flat_map(|(_, waiting)| waiting.steps).collect()
    }

    /// Tells whether the step with this `seq` comes for the first time.
    pub(super) fn take(&mut self, seq: u64) -> bool {
        let is_new = self.taken.insert(seq);
        if self.taken.len() > TAKEN_MAX {
            self.taken.pop_first();
        }
        is_new
    }

    /// Takes steps and returns all that is held with them.
    pub(super) fn flush(&mut self, now: MonotonicUs, steps: Vec<TraceStep>) -> Vec<TraceStep> {
        let mut all = self.step(now, steps);
        all.extend(std::mem::take(&mut self.requests).into_values().flat_map(|held| held.steps));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(seq: u64, request: &str, from: &str) -> TraceStep {
        TraceStep { seq, request: request.into(), from: from.into(), ..TraceStep::default() }
    }

    fn seqs(steps: &[TraceStep]) -> Vec<u64> {
        steps.iter().map(|step| step.seq).collect()
    }

    #[test]
    fn a_request_comes_out_whole_when_it_is_answered() {
        let mut held = HeldSteps::default();
        let now = MonotonicUs(1);
        assert!(held.step(now, vec![step(1, "a", "rest"), step(2, "b", "rest")]).is_empty());
        let out = held.step(now, vec![step(1, "a", "rest"), step(3, "a", "client")]);
        assert_eq!(seqs(&out), [1, 3], "and a step that comes again is not shown again");
        assert_eq!(seqs(&held.flush(now, vec![step(4, "c", "rest")])), [2, 4]);
        assert!(held.flush(now, vec![step(4, "c", "rest")]).is_empty());
    }

    #[test]
    fn what_nobody_answers_comes_out_after_a_while() {
        let mut held = HeldSteps::default();
        assert!(held.step(MonotonicUs(0), vec![step(1, "tick", "expiry")]).is_empty());
        assert!(held.step(MonotonicUs(HELD_MAX_US - 1), vec![]).is_empty());
        assert_eq!(seqs(&held.step(MonotonicUs(HELD_MAX_US), vec![])), [1]);
    }

    #[test]
    fn no_more_than_so_many_requests_are_held() {
        let mut held = HeldSteps::default();
        let many =
            |count: usize| (0..count as u64).map(|n| step(n, &n.to_string(), "rest")).collect();
        assert!(held.step(MonotonicUs(0), many(REQUESTS_MAX)).is_empty());
        assert_eq!(held.step(MonotonicUs(0), many(REQUESTS_MAX + 1)).len(), REQUESTS_MAX + 1);
    }
}
