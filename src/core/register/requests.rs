//! The requests of this node, from their start to their end. Each ends once.

use super::{
    OpId, Places, RegisterEffect, RegisterOutcome, Registers, Ticket, Timer,
    keeping::After,
    line::{PendingOp, Query, Round, RoundTask},
};
use crate::model::object::ObjectId;

impl Registers {
    /// Ends a request, unless it has ended.
    pub(super) fn end(&mut self, op: OpId, ended: RegisterOutcome) {
        let Some(waiter) = self.waiters.remove(&op) else { return };
        self.timers.remove(&(waiter.deadline, Timer::Deadline(op)));
        self.say_end(op, ended);
    }

    /// Says that a request has ended.
    pub(super) fn say_end(&mut self, op: OpId, ended: RegisterOutcome) {
        match &ended {
            RegisterOutcome::Unknown => self.counts.unknown += 1,
            RegisterOutcome::NoQuorum { .. } => self.counts.no_quorum += 1,
            RegisterOutcome::Declined { .. } => self.counts.declined += 1,
            RegisterOutcome::Busy => self.counts.busy += 1,
            _ => {}
        }
        self.out.push(RegisterEffect::End { op, ended });
    }

    /// Ends a request once `ticket` is durable.
    pub(super) fn end_after(&mut self, ticket: Option<Ticket>, op: OpId, ended: RegisterOutcome) {
        self.after(ticket, After::End { op, ended });
    }

    /// Ends several requests alike.
    pub(super) fn end_each(
        &mut self,
        ops: impl IntoIterator<Item = OpId>,
        ended: &RegisterOutcome,
    ) {
        for op in ops {
            self.end(op, ended.clone());
        }
    }

    /// From now on the requests of this round may have taken effect.
    pub(super) fn mark_offered(&mut self, round: &Round) {
        for op in round.ops() {
            if let Some(waiter) = self.waiters.get_mut(&op) {
                waiter.is_offered = true;
            }
        }
    }

    /// Tells whether a request may have taken effect.
    pub fn is_offered(&self, op: OpId) -> bool {
        self.waiters.get(&op).is_none_or(|waiter| waiter.is_offered)
    }

    /// Ends a round whose outcome is unknown. Its reads go on with the next one.
    pub(super) fn give_up(&mut self, id: &ObjectId, mut round: Box<Round>) {
        let line = self.lines.entry(id.clone()).or_default();
        line.beyond.append(&mut round.readers);
        self.fail(id, &round);
    }

    /// Ends a round that cannot go on, with all who wait for it.
    pub(super) fn fail(&mut self, id: &ObjectId, round: &Round) {
        self.untime(id, round);
        let no_quorum = no_quorum(round);
        for op in round.ops().into_iter().chain(round.readers.iter().copied()) {
            let is_offered = self.waiters.get(&op).is_some_and(|waiter| waiter.is_offered);
            self.end(op, if is_offered { RegisterOutcome::Unknown } else { no_quorum.clone() });
        }
        self.again.insert(id.clone());
    }

    /// A request's time is over.
    pub(super) fn on_deadline(&mut self, op: OpId) {
        let Some(PendingOp { id, is_offered, .. }) = self.waiters.get(&op) else { return };
        let (id, is_offered) = (id.clone(), *is_offered);
        let ended = if is_offered { RegisterOutcome::Unknown } else { self.shortage(&id) };
        self.end(op, ended);
        self.forget(op, &id);
    }

    /// The caller does not wait for a request any more.
    pub(super) fn on_abandon(&mut self, op: OpId) {
        let Some(waiter) = self.waiters.remove(&op) else { return };
        self.timers.remove(&(waiter.deadline, Timer::Deadline(op)));
        self.forget(op, &waiter.id);
    }

    fn forget(&mut self, op: OpId, id: &ObjectId) {
        let Some(line) = self.lines.get_mut(id) else { return };
        line.forget(op);
        if let Some(round) = line.round.take_if(|round| !round.is_wanted()) {
            self.untime(id, &round);
        }
        let line = self.lines.get_mut(id);
        let unwanted = |query: &mut Query| query.readers.is_empty();
        if let Some(query) = line.and_then(|line| line.query.take_if(unwanted)) {
            self.timers.remove(&(query.due, Timer::Query(id.clone())));
        }
        self.again.insert(id.clone());
    }

    /// Says how many replicas have answered to what runs for an object.
    fn shortage(&self, id: &ObjectId) -> RegisterOutcome {
        let line = self.lines.get(id);
        let round = line.and_then(|line| line.round.as_ref());
        let query = line.and_then(|line| line.query.as_ref());
        match (round, query) {
            (Some(round), _) => no_quorum(round),
            (None, query) => {
                let answered = query.map_or(Places::default(), |query| query.answered);
                let (answered, needed) = self.set_of(id).shortage(answered);
                RegisterOutcome::NoQuorum { answered, needed }
            }
        }
    }

    /// Ends everything: this node is no member any more.
    pub(super) fn end_all(&mut self) {
        let ops: Vec<_> =
            self.waiters.iter().map(|(op, waiter)| (*op, waiter.is_offered)).collect();
        for (op, is_offered) in ops {
            self.end(
                op,
                if is_offered { RegisterOutcome::Unknown } else { RegisterOutcome::NotReady },
            );
        }
        self.lines.clear();
        self.timers.clear();
        self.again.clear();
    }
}

/// Says how many replicas have answered to a round.
fn no_quorum(round: &Round) -> RegisterOutcome {
    let (answered, needed) = round.set.shortage(round.answers().0);
    RegisterOutcome::NoQuorum { answered, needed }
}

impl Round {
    /// Returns the requests that it decides about.
    pub fn ops(&self) -> Vec<OpId> {
        match &self.task {
            RoundTask::Changes(changes) => changes.iter().map(|(op, _)| *op).collect(),
            _ => self.ops.clone(),
        }
    }
}
