//! Stores that are full or fail: what this node's own store has refused to keep, and what other replicas decline for that
//! reason (rule 4).
//!
//! Invariant: a request is said not to be done only if no replica has accepted its value, and none ever can.

use super::{
    Ballot, Body, Declined, Places, RegisterOutcome, Registers, StepContext, Timer,
    keeping::{After, Undone},
    line::{PrepareTally, Query, Round, RoundPhase, RoundTask},
    message::REASON_BYTES_MAX,
};
use crate::model::{node_id::NodeId, object::ObjectId, trace::TraceContext};

/// For how long it is remembered that a member's store did not take something. Rounds begin with their first phase then.
const REMEMBERED_US: u64 = 2_000_000;

impl Registers {
    /// Takes back what the store has refused, as far as it has answered: that is as it was before, and what depended on it is
    /// not said.
    pub(super) fn undo_refused(&mut self, step: StepContext<'_>) {
        while let Some(undone) = self.keeping.next_undone() {
            let Undone { after, objects, had_state, reason } = undone;
            self.is_state_owed |= had_state;
            for (id, promised) in objects {
                // Earlier answers may have promised as much, without a write.
                if !self.options.faults().undone_promise_is_lost {
                    self.promises.hold(&id, promised.unwrap_or(self.floor()));
                }
            }
            for after in after {
                self.undo(step, after, &reason);
            }
        }
    }

    fn undo(&mut self, step: StepContext<'_>, after: After, reason: &str) {
        match after {
            After::End { op, ended } => {
                let Some(waiter) = self.waiters.get(&op) else { return };
                let id = waiter.id.clone();
                if let Some(later) = self.keeping.next_of(&id) {
                    self.end_after(Some(later), op, ended);
                } else if matches!(ended, RegisterOutcome::Read(_)) {
                    self.lines.entry(id.clone()).or_default().readers.push(op);
                    self.again.insert(id);
                } else {
                    self.end(op, RegisterOutcome::Declined { reason: reason.to_owned() });
                }
            }
            After::Reply(body) => {
                self.undo_answer(step, self.home.node, body, TraceContext::default(), reason);
            }
            After::Say { to, message, .. } if message.body.request_bytes().is_some() => {
                self.on_unsent(step, to, message.body, reason);
            }
            After::Say { to, message, trace } => {
                self.undo_answer(step, to, message.body, trace, reason);
            }
        }
    }

    fn undo_answer(
        &mut self,
        step: StepContext<'_>,
        to: NodeId,
        body: Body,
        trace: TraceContext,
        reason: &str,
    ) {
        let is_here = to == self.home.node;
        let later = body.object().and_then(|id| self.keeping.next_of(id));
        if later.is_some() {
            // What is written later has this in it.
            let after = if is_here {
                After::Reply(body)
            } else {
                After::Say { to, message: self.message(body), trace }
            };
            return self.after(later, after);
        }
        let (id, ballot, what) = match body {
            Body::Promise { id, ballot, .. } => (id, ballot, Declined::Promise),
            Body::Accepted { id, ballot } => {
                // Another copy of the request may be on its way: it must not be accepted, or it was no refusal.
                // The promise is held here; a restart keeps it only below the durable ceiling.
                let is_final = self.options.faults().declined_is_not_final
                    || self.promises.is_durable(ballot.piggyback());
                if !is_final && !is_here {
                    return;
                }
                (id, ballot, Declined::Value)
            }
            Body::Reading { id, query, .. } => {
                return self.serve(step, to, Body::Query { id, query }, trace);
            }
            _ => return,
        };
        self.tell_declined(to, (id, ballot, what), reason, trace);
    }

    fn tell_declined(
        &mut self,
        to: NodeId,
        (id, ballot, what): (ObjectId, Ballot, Declined),
        reason: &str,
        trace: TraceContext,
    ) {
        let end = reason.floor_char_boundary(REASON_BYTES_MAX);
        let reason = reason.get(..end).unwrap_or_default().to_owned();
        let body = Body::Declined { id, ballot, what, reason };
        if to == self.home.node {
            self.local.push_back(body);
        } else {
            self.say(to, body, trace);
        }
    }

    /// Says, before a promise, what the store would not take after it. A proposer that knows offers nothing in vain.
    pub(super) fn warn_of_store(
        &mut self,
        step: StepContext<'_>,
        to: NodeId,
        (id, ballot): (&ObjectId, Ballot),
        trace: TraceContext,
    ) {
        if let Some((what, reason)) = step.shelf.declines() {
            self.tell_declined(to, (id.clone(), ballot, what), &reason, trace);
        }
    }

    /// A request of this node was not sent: what had to be durable before was refused.
    fn on_unsent(&mut self, step: StepContext<'_>, to: NodeId, body: Body, reason: &str) {
        match body {
            Body::Prepare { id, ballot } => {
                self.on_declined(step, to, &id, (ballot, Declined::Promise), reason.to_owned());
            }
            Body::Accept { id, ballot, .. } => {
                let round = self.lines.get(&id).and_then(|line| line.round.as_ref());
                // An earlier copy may have been sent.
                if round.is_some_and(|round| round.resends == 0) {
                    self.on_declined(step, to, &id, (ballot, Declined::Value), reason.to_owned());
                }
            }
            Body::Query { id, query: number } => {
                let is_it = |query: &mut Query| query.number == number;
                let line = self.lines.get_mut(&id);
                let Some(query) = line.and_then(|line| line.query.take_if(is_it)) else { return };
                self.timers.remove(&(query.due, Timer::Query(id.clone())));
                self.end_each(
                    query.readers,
                    &RegisterOutcome::Declined { reason: reason.to_owned() },
                );
                self.again.insert(id);
            }
            _ => {}
        }
    }

    /// A replica's store does not take something.
    pub(super) fn on_declined(
        &mut self,
        step: StepContext<'_>,
        from: NodeId,
        id: &ObjectId,
        (ballot, what): (Ballot, Declined),
        reason: String,
    ) {
        if reason.len() > REASON_BYTES_MAX {
            self.counts.dropped += 1;
            return;
        }
        self.unwilling.insert(from, step.now.monotonic.plus_us(REMEMBERED_US));
        let Some((mut round, place)) = self.answered(id, from, ballot) else { return };
        round.declined_for = reason;
        let all = round.set.all();
        let is_over = match &mut round.phase {
            RoundPhase::Parked => false,
            RoundPhase::Prepare(found) => {
                match what {
                    Declined::Objects => found.no_objects = found.no_objects.with(place),
                    Declined::Writes => found.no_writes = found.no_writes.with(place),
                    Declined::Promise if !found.promised.has(place) => {
                        found.declined = found.declined.with(place);
                    }
                    Declined::Promise | Declined::Value => {}
                }
                !round.set.sees(all.without(found.declined))
            }
            RoundPhase::Accept { accepted, refused, declined, .. } => {
                if what == Declined::Value && !accepted.has(place) {
                    *declined = declined.with(place);
                }
                !round.set.decides(all.without(*declined).without(*refused))
            }
        };
        if !is_over {
            self.put_round(id, round);
        } else if self.is_undone(&round) {
            self.decline(id, round);
        } else if round.may_be_undone() {
            self.put_round(id, round);
        } else {
            self.back_off(step, id, round);
        }
    }

    /// Tells whether it is known that nothing was done by a round that finds no quorum.
    fn is_undone(&self, round: &Round) -> bool {
        let is_first = round.offers.iter().all(|offer| offer.ballot == round.ballot);
        match (&round.task, &round.phase) {
            // It goes on until it is done.
            (RoundTask::Rescan, _) => false,
            (RoundTask::Identity, _) => true,
            (_, RoundPhase::Accept { accepted, declined, .. }) => {
                let are_all =
                    round.set.has_all(*declined) || self.options.faults().declined_by_some;
                is_first && accepted.is_none() && are_all
            }
            (_, RoundPhase::Prepare(_) | RoundPhase::Parked) => round.offers.is_empty(),
        }
    }

    /// Ends a round that finds no quorum whose stores take what it wants. Nothing was done.
    pub(super) fn decline(&mut self, id: &ObjectId, mut round: Box<Round>) {
        if matches!(round.task, RoundTask::Changes(_)) {
            // Reads need no store: they go on with the next round.
            let line = self.lines.entry(id.clone()).or_default();
            line.beyond.append(&mut round.readers);
        }
        self.untime(id, &round);
        let ended = RegisterOutcome::Declined { reason: std::mem::take(&mut round.declined_for) };
        let readers = std::mem::take(&mut round.readers);
        self.end_each(round.ops().into_iter().chain(readers), &ended);
        self.again.insert(id.clone());
    }

    /// Tells whether a first phase that a quorum has answered waits a little for the others: of those that have answered, too
    /// many have stores that do not take all.
    pub(super) fn waits_for_willing(&self, step: StepContext<'_>, round: &mut Round) -> bool {
        let RoundPhase::Prepare(found) = &round.phase else { return false };
        let willing = found.promised.without(found.unwilling_of_any());
        let is_enough = !found.waits() || round.set.decides(willing);
        if is_enough || round.set.has_all(found.promised.or(found.declined).or(found.refused)) {
            return false;
        }
        round.due = round.due.min(step.now.monotonic.plus_us(self.options.patience_us));
        true
    }

    /// Tells whether nothing is known against the store of a member.
    pub(super) fn is_willing(&self, step: StepContext<'_>, node: NodeId) -> bool {
        if node == self.home.node {
            return step.shelf.declines().is_none();
        }
        self.unwilling.get(&node).is_none_or(|until| *until <= step.now.monotonic)
    }
}

impl PrepareTally {
    fn unwilling_of_any(&self) -> Places {
        self.no_objects.or(self.no_writes)
    }

    /// Tells whether the stores of some do not take all.
    pub fn waits(&self) -> bool {
        !self.unwilling_of_any().is_none()
    }
}

impl Round {
    /// Tells whether the answers that are still to come may show that nothing was done.
    fn may_be_undone(&self) -> bool {
        let RoundPhase::Accept { accepted, refused, declined, .. } = &self.phase else {
            return false;
        };
        accepted.is_none() && !self.set.has_all(declined.or(*refused))
    }

    /// Returns the places that have declined its value, or their promise.
    pub fn declined(&self) -> Places {
        match &self.phase {
            RoundPhase::Parked => Places::default(),
            RoundPhase::Prepare(found) => found.declined,
            RoundPhase::Accept { declined, .. } => *declined,
        }
    }
}
