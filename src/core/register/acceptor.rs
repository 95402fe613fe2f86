//! Answers the rounds of all members, this node's own included (rules 2, 4, 10 and 11).
//!
//! Each answer comes with a ticket. It may leave once that ticket is durable, since the answer depends on it.

use super::{
    Ballot, Body, Past, Register, Registers, StepContext, Ticket, Value, keeping::After,
    message::COUNTER_MAX, promises,
};
use crate::model::{node_id::NodeId, object::ObjectId, trace::TraceContext};

/// How far ahead of what is known here another node's counter may be. More is no work of rounds, but would leave no room for
/// any.
const COUNTER_LEAD_MAX: u64 = 1 << 48;

/// An answer, and what has to be durable before it leaves.
type Answer = (Body, Option<Ticket>);

impl Registers {
    /// Returns an object's register as it was written last, durable or not; `Err` = it does not read back.
    pub(super) fn register(
        &mut self,
        step: StepContext<'_>,
        id: &ObjectId,
    ) -> Result<Option<Register>, ()> {
        if let Some((newest, _)) = self.keeping.newest(id) {
            return Ok(newest.cloned());
        }
        step.shelf.register(id).map_err(|_| self.counts.damaged += 1)
    }

    pub(super) fn floor(&self) -> Ballot {
        self.state.as_ref().map_or(Ballot::NONE, |state| state.floor)
    }

    /// Returns what is promised of an object here.
    pub(super) fn promised_here(&mut self, step: StepContext<'_>, id: &ObjectId) -> Ballot {
        match self.register(step, id) {
            Ok(held) => self.promised(id, held.as_ref()),
            Err(()) => Ballot::NONE,
        }
    }

    fn promised(&self, id: &ObjectId, held: Option<&Register>) -> Ballot {
        let kept = held.map_or(self.floor(), |held| held.promised);
        kept.max(self.promises.of(id))
    }

    /// Answers a request of a member of this epoch, or of this node itself.
    pub(super) fn serve(
        &mut self,
        step: StepContext<'_>,
        from: NodeId,
        body: Body,
        trace: TraceContext,
    ) {
        let answer = match body {
            Body::Prepare { id, ballot } => self.serve_prepare(step, id, ballot),
            Body::Accept { id, ballot, value, past } => {
                self.serve_accept(step, id, ballot, (value, past))
            }
            Body::Query { id, query } => self.serve_query(step, id, query),
            Body::Drop { id, ballot } => {
                self.serve_drop(step, &id, ballot);
                None
            }
            _ => None,
        };
        let Some((body, ticket)) = answer else { return };
        if let Body::Promise { id, ballot, .. } = &body {
            self.warn_of_store(step, from, (id, *ballot), trace);
        }
        let after = if from == self.home.node {
            After::Reply(body)
        } else {
            After::Say { to: from, message: self.message(body), trace }
        };
        self.after(ticket, after);
    }

    fn serve_prepare(
        &mut self,
        step: StepContext<'_>,
        id: ObjectId,
        ballot: Ballot,
    ) -> Option<Answer> {
        let held = self.register(step, &id).ok()?;
        let floor = self.floor();
        let promised = self.promised(&id, held.as_ref());
        let is_said = held.as_ref().is_some_and(|held| held.promised == ballot)
            || self.promises.held(&id) == ballot;
        let register = held.unwrap_or(Register { promised: floor, ..Register::default() });
        let Register { accepted, value, past, .. } = &register;
        let promise = Body::Promise {
            id: id.clone(),
            ballot,
            accepted: *accepted,
            value: value.clone(),
            past: past.clone(),
            floor,
        };
        if ballot > promised {
            self.raise_ceiling(ballot);
            if self.promises.give(&id, ballot) {
                return Some((promise, self.keeping.pending(&id)));
            }
            let register = Register { promised: ballot, ..register };
            return Some((promise, Some(self.keeping.write(&id, Some(register)))));
        }
        // The same question again: its answer was lost. Nothing was accepted since, or the promise would be a higher one.
        if is_said && ballot == promised && *accepted < ballot {
            return Some((promise, self.keeping.pending(&id)));
        }
        Some((Body::Conflict { id, ballot, promised }, None))
    }

    fn serve_accept(
        &mut self,
        step: StepContext<'_>,
        id: ObjectId,
        ballot: Ballot,
        (value, past): (Value, Past),
    ) -> Option<Answer> {
        let held = self.register(step, &id).ok()?;
        let promised = self.promised(&id, held.as_ref());
        let accepted = Body::Accepted { id: id.clone(), ballot };
        if held.is_some_and(|held| held.accepted == ballot && held.value == value) {
            return Some((accepted, self.keeping.pending(&id)));
        }
        if ballot < promised {
            return Some((Body::Conflict { id, ballot, promised }, None));
        }
        self.promises.forget(&id);
        let ticket = self.keeping.write(&id, Some(self.accepting(ballot, value, past)));
        Some((accepted, Some(ticket)))
    }

    /// Returns the register of an acceptance: it promises the same proposer's next operation along with it (rule 11).
    pub(super) fn accepting(&self, ballot: Ballot, value: Value, past: Past) -> Register {
        let without = self.options.faults().piggyback_without_promise;
        let promised = if without { ballot } else { ballot.piggyback() };
        Register { promised, accepted: ballot, value, past }
    }

    fn serve_query(&mut self, step: StepContext<'_>, id: ObjectId, query: u64) -> Option<Answer> {
        let Register { accepted, value, .. } = self.register(step, &id).ok()?.unwrap_or_default();
        let ticket = self.keeping.pending(&id);
        Some((Body::Reading { id, query, accepted, value }, ticket))
    }

    /// Drops a tombstone that all replicas have. An unknown object counts as promised what this one was (rule 10): else a
    /// message that is still on its way would be accepted again.
    pub(super) fn serve_drop(&mut self, step: StepContext<'_>, id: &ObjectId, ballot: Ballot) {
        let Ok(Some(register)) = self.register(step, id) else { return };
        let Some(state) = &mut self.state else { return };
        if register.accepted != ballot || matches!(register.value, Value::Live(_)) {
            return;
        }
        let faults = self.options.faults();
        let promised = register.promised.max(self.promises.held(id));
        let floor = if faults.floor_is_accepted { register.accepted } else { promised };
        if !faults.no_floor && floor > state.floor {
            state.floor = floor;
            self.is_state_news = true;
        }
        self.promises.forget(id);
        self.keeping.write(id, None);
    }

    /// Sets a new ceiling of promises when rounds come near it, together with what this step writes.
    fn raise_ceiling(&mut self, ballot: Ballot) {
        if let Some(state) = &mut self.state
            && let Some(ceiling) = promises::raised(state.ceiling, ballot)
        {
            state.ceiling = ceiling;
            self.is_state_news = true;
        }
    }

    /// Tells whether a request of another member says what such a request can say.
    pub(super) fn is_sound(
        &mut self,
        step: StepContext<'_>,
        from: NodeId,
        epoch: u64,
        body: &Body,
    ) -> bool {
        let id = match body {
            Body::Prepare { id, .. }
            | Body::Accept { id, .. }
            | Body::Query { id, .. }
            | Body::Drop { id, .. } => id,
            _ => return true,
        };
        if self.set_of(id).place_of(self.home.node).is_none() {
            return false;
        }
        let ballot = match body {
            Body::Prepare { ballot, .. } | Body::Drop { ballot, .. } => *ballot,
            Body::Accept { id, ballot, value, past }
                if value.is_sound_for(id) && past.is_sound(epoch) =>
            {
                *ballot
            }
            Body::Accept { .. } => return false,
            _ => return true,
        };
        let faults = self.options.faults();
        let is_of_epoch =
            ballot.epoch == epoch || faults.ballot_without_epoch || faults.piggyback_across_epochs;
        if !is_of_epoch || ballot.node != from.tag() {
            return false;
        }
        self.is_near(ballot.counter) || {
            let promised = self.promised_here(step, id);
            promised.epoch == ballot.epoch
                && ballot.counter <= promised.counter.saturating_add(COUNTER_LEAD_MAX)
                && ballot.counter < COUNTER_MAX
        }
    }

    /// Tells whether a counter is one that rounds can have come to.
    pub(super) fn is_near(&self, counter: u64) -> bool {
        counter < COUNTER_MAX && counter <= self.numbers.counter().saturating_add(COUNTER_LEAD_MAX)
    }
}
