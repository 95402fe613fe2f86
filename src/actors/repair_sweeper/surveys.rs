//! One pass over the registers at a time, for everybody who needs one. As long as nothing is written, the last one holds.

use std::{collections::BTreeSet, sync::Arc};

use super::{RepairNews, RepairSweeper, SweeperCx, store_work};
use crate::shell::Reply;
use nomad_core::{
    machine::{NoAnswer, Ticket},
    model::{node_id::NodeId, time::MonotonicUs},
    repair::{RepairAnswer, RepairEvent, Scope, Survey, digest::Sum},
};
use nomad_ports::ObjectStore;

/// For how long a pass is good enough while objects are written: each difference is looked at again before it is repaired.
const FRESH_US: u64 = 5_000_000;
/// The most that wait for a pass.
const WAITING_MAX: usize = 256;

/// A pass.
#[derive(Debug, Clone)]
pub struct Surveyed {
    scope: Scope,
    alive: BTreeSet<NodeId>,
    /// How much had been written when it began.
    writes: u64,
    begun: MonotonicUs,
    survey: Result<Survey, NoAnswer>,
}

/// Who waits for a pass.
#[derive(Debug)]
pub(super) enum SurveyWaiter {
    /// This node's own repair.
    Core(Ticket),
    /// Another member, which compares.
    Member { from: NodeId, root: Sum, reply: Reply<RepairAnswer> },
}

/// The passes.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    last: Option<Surveyed>,
    is_running: bool,
    waiting: Vec<(Scope, BTreeSet<NodeId>, SurveyWaiter)>,
}

fn writes(store: &dyn ObjectStore) -> u64 {
    let counts = store.counts();
    counts.writes.wrapping_add(counts.register_writes)
}

impl RepairSweeper {
    /// Has somebody get a pass: the last one, if that holds.
    pub(super) fn survey(
        &mut self,
        cx: &SweeperCx<'_>,
        scope: Scope,
        alive: BTreeSet<NodeId>,
        waiter: SurveyWaiter,
    ) {
        let now = cx.kit.clock.monotonic();
        let written = writes(&*self.args.store);
        let holds = |last: &&Surveyed| {
            let is_fresh = last.writes == written || now.since(last.begun) < FRESH_US;
            last.scope == scope && last.alive == alive && last.survey.is_ok() && is_fresh
        };
        if let Some(last) = self.surveys.last.as_ref().filter(holds) {
            let survey = last.survey.clone();
            return self.hand_over(cx, waiter, survey);
        }
        if self.surveys.waiting.len() >= WAITING_MAX {
            return self.hand_over(cx, waiter, Err(NoAnswer));
        }
        self.surveys.waiting.push((scope, alive, waiter));
        self.begin(cx);
    }

    fn begin(&mut self, cx: &SweeperCx<'_>) {
        let Some((scope, alive, _)) =
            self.surveys.waiting.first().filter(|_| !self.surveys.is_running)
        else {
            return;
        };
        self.surveys.is_running = true;
        let (scope, alive) = (scope.clone(), alive.clone());
        let store = Arc::clone(&self.args.store);
        let (begun, writes) = (cx.kit.clock.monotonic(), writes(&*store));
        let of = (scope.clone(), alive.clone());
        let news = move |survey| {
            let (scope, alive) = of.clone();
            RepairNews::Surveyed(Box::new(Surveyed { scope, alive, writes, begun, survey }))
        };
        self.driver.read(cx, move || store_work::survey(&*store, &scope, &alive), news);
    }

    pub(super) fn on_surveyed(&mut self, cx: &SweeperCx<'_>, surveyed: Surveyed) {
        self.surveys.is_running = false;
        let waiting = std::mem::take(&mut self.surveys.waiting);
        for (scope, alive, waiter) in waiting {
            if scope == surveyed.scope && alive == surveyed.alive {
                self.hand_over(cx, waiter, surveyed.survey.clone());
            } else {
                self.surveys.waiting.push((scope, alive, waiter));
            }
        }
        self.surveys.last = Some(surveyed);
        self.begin(cx);
    }

    fn hand_over(
        &mut self,
        cx: &SweeperCx<'_>,
        waiter: SurveyWaiter,
        survey: Result<Survey, NoAnswer>,
    ) {
        match waiter {
            SurveyWaiter::Core(ticket) => {
                // As a message: the core is in the middle of a step.
                let event = RepairNews::Event(RepairEvent::Surveyed(ticket, survey));
                self.driver.tell(cx, event);
            }
            SurveyWaiter::Member { from, root, reply } => {
                let shared = survey.ok().and_then(|mut survey| survey.shared.remove(&from));
                reply.send(match shared {
                    None => RepairAnswer::Later,
                    Some(digest) if digest.root() == root => RepairAnswer::Equal,
                    Some(digest) => RepairAnswer::Buckets(digest.buckets().to_vec()),
                });
            }
        }
    }
}
