//! Reads: asks all replicas and returns what a quorum agrees on; if none does, a round settles it (rule 8).
//!
//! All reads of an object that came before a query has begun are answered by it; those that come while it runs wait for the
//! next one. So a busy object costs one query at a time, however many read it.

use super::{
    Ballot, Body, OpId, RegisterOutcome, Registers, StepContext, Ticket, Timer, Value,
    line::Query,
    placement::{Places, ReplicaSet},
};
use crate::model::{node_id::NodeId, object::ObjectId};

impl Registers {
    /// Begins the next query of an object if there are reads for it.
    pub(super) fn begin_query(&mut self, step: StepContext<'_>, id: &ObjectId, set: ReplicaSet) {
        let Some(line) = self.lines.get_mut(id) else { return };
        if line.query.is_some() || line.readers.is_empty() {
            return;
        }
        let readers = std::mem::take(&mut line.readers);
        let first = readers.first().and_then(|op| self.waiters.get(op));
        let trace = first.map(|waiter| waiter.trace).unwrap_or_default();
        // Its number comes from the durable counter: an answer to a question of an earlier run is never taken for one to this.
        let number = self.numbers.counter() + 1;
        self.numbers.pass_counter(number);
        let query = Query {
            number,
            readers,
            set,
            answered: Places::default(),
            answers: Vec::new(),
            resends: 0,
            due: self.resend_at(step, 0),
            trace,
        };
        self.ask(step, id, &query);
        self.put_query(id, query);
    }

    fn ask(&mut self, step: StepContext<'_>, id: &ObjectId, query: &Query) {
        let body = Body::Query { id: id.clone(), query: query.number };
        self.ask_replicas(step, &query.set, &body, query.answered, query.trace);
    }

    fn put_query(&mut self, id: &ObjectId, query: Query) {
        self.timers.insert((query.due, Timer::Query(id.clone())));
        self.lines.entry(id.clone()).or_default().query = Some(query);
    }

    fn take_query(&mut self, id: &ObjectId) -> Option<Query> {
        let query = self.lines.get_mut(id)?.query.take()?;
        self.timers.remove(&(query.due, Timer::Query(id.clone())));
        Some(query)
    }

    /// A replica has said what it holds.
    pub(super) fn on_reading(&mut self, step: StepContext<'_>, from: NodeId, body: Body) {
        let Body::Reading { id, query: number, accepted, value } = body else { return };
        let epoch = self.epoch().unwrap_or(0);
        let running = self.lines.get(&id).and_then(|line| line.query.as_ref());
        let is_it = running.is_some_and(|query| query.number == number);
        if !is_it || accepted.epoch > epoch || !value.is_sound_for(&id) {
            return;
        }
        let Some(mut query) = self.take_query(&id) else { return };
        if let Some(place) = query.set.place_of(from).filter(|place| !query.answered.has(*place)) {
            query.add(place, accepted, value);
        }
        if let Some(value) = query.agreed(self.options.faults().read_highest) {
            self.counts.agreed += 1;
            self.answer_readers(step, query.readers, &value);
            self.again.insert(id);
        } else if query.is_split() {
            self.go_beyond(id, query);
        } else {
            if query.set.sees(query.answered) {
                let patience = step.now.monotonic.plus_us(self.options.patience_us);
                query.due = query.due.min(patience);
            }
            self.put_query(&id, query);
        }
    }

    /// The time of a query has come.
    pub(super) fn on_query_due(&mut self, step: StepContext<'_>, id: &ObjectId) {
        let Some(mut query) = self.take_query(id) else { return };
        if query.readers.is_empty() {
            self.again.insert(id.clone());
        } else if query.set.sees(query.answered) {
            self.go_beyond(id.clone(), query);
        } else {
            query.resends += 1;
            self.counts.resends += 1;
            query.due = self.resend_at(step, query.resends);
            self.ask(step, id, &query);
            self.put_query(id, query);
        }
    }

    /// No quorum agrees: the next round of the object settles what it is.
    fn go_beyond(&mut self, id: ObjectId, query: Query) {
        self.lines.entry(id.clone()).or_default().beyond.extend(query.readers);
        self.again.insert(id);
    }

    /// Ends reads with what was found.
    pub(super) fn answer_readers(
        &mut self,
        step: StepContext<'_>,
        readers: Vec<OpId>,
        value: &Value,
    ) {
        self.answer_readers_after(step, None, readers, value);
    }

    /// Ends reads with what was found, once that is durable.
    pub(super) fn answer_readers_after(
        &mut self,
        step: StepContext<'_>,
        ticket: Option<Ticket>,
        readers: Vec<OpId>,
        value: &Value,
    ) {
        let object = value.live(step.now.wall.secs());
        for op in readers {
            self.end_after(ticket, op, RegisterOutcome::Read(object.cloned()));
        }
    }
}

impl Query {
    fn add(&mut self, place: u32, accepted: Ballot, value: Value) {
        self.answered = self.answered.with(place);
        match self.answers.iter_mut().find(|(ballot, ..)| *ballot == accepted) {
            Some((_, _, places)) => *places = places.with(place),
            None => self.answers.push((accepted, value, Places::default().with(place))),
        }
    }

    /// Returns the value that a quorum has under one ballot.
    fn agreed(&self, takes_highest: bool) -> Option<Value> {
        if takes_highest && self.set.sees(self.answered) {
            let highest = self.answers.iter().max_by_key(|(ballot, ..)| *ballot);
            return highest.map(|(_, value, _)| value.clone());
        }
        let agreed = self.answers.iter().find(|(_, _, places)| self.set.sees(*places));
        agreed.map(|(_, value, _)| value.clone())
    }

    /// Tells whether no quorum can agree any more, with any answers from the others.
    fn is_split(&self) -> bool {
        let rest = self.set.all().without(self.answered);
        let none_can = |places: Places| !self.set.sees(places.or(rest));
        none_can(Places::default()) && self.answers.iter().all(|(_, _, places)| none_can(*places))
    }
}
