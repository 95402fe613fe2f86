//! What is being written to the disk: the newest state of each object that is not durable yet, and everything that waits for it.
//!
//! Invariant: what depends on a ticket leaves only after that ticket and all earlier ones are durable (rule 2).

use std::collections::{BTreeMap, VecDeque};

use super::{
    Ballot, Body, OpId, Register, RegisterEffect, RegisterMessage, RegisterOutcome, ShardState,
    Ticket,
};
use crate::model::{node_id::NodeId, object::ObjectId, trace::TraceContext};

/// What is done once something is durable.
#[derive(Debug)]
pub(super) enum After {
    /// Another node is told.
    Say { to: NodeId, message: RegisterMessage, trace: TraceContext },
    /// The local replica answers to this node's own round.
    Reply(Body),
    /// A request ends.
    End { op: OpId, ended: RegisterOutcome },
}

/// The state of an object that is not durable yet.
#[derive(Debug)]
struct Unkept {
    /// `None` = deleted.
    register: Option<Register>,
    ticket: Ticket,
}

/// What one ticket stands for.
#[derive(Debug, Default)]
pub(super) struct Kept {
    ids: Vec<ObjectId>,
    pub after: Vec<After>,
    /// The limits of the counter, of the versions and of the promises that it makes durable.
    pub limits: Option<(u64, u64, Ballot)>,
    /// Why the store has refused it, if so.
    refused: Option<String>,
}

/// What the store has refused to keep.
#[derive(Debug)]
pub(super) struct Undone {
    /// What has waited for it.
    pub after: Vec<After>,
    /// The objects that are again as they were kept before, each with what was promised of it; `None` = it was deleted.
    pub objects: Vec<(ObjectId, Option<Ballot>)>,
    /// Whether the state of the shard was in it.
    pub had_state: bool,
    /// Why it was refused.
    pub reason: String,
}

#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// The tickets that are not durable, in order.
    outstanding: VecDeque<Kept>,
    /// How many were before.
    done: u64,
    unkept: BTreeMap<ObjectId, Unkept>,
    bytes: usize,
    /// What this step writes.
    staged: Kept,
    last_with_state: Ticket,
}

impl Keeping {
    /// Returns the ticket of what this step writes.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.done + self.outstanding.len() as u64 + 1)
    }

    /// Returns the ticket that a state of the shard was kept with last; 0 = none.
    pub fn last_with_state(&self) -> Ticket {
        self.last_with_state
    }

    /// Tells whether everything is durable.
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Tells whether this step writes an object.
    pub fn has_staged(&self) -> bool {
        !self.staged.ids.is_empty()
    }

    /// Returns how many objects are not durable, and the bytes of their values.
    pub fn unkept(&self) -> (usize, usize) {
        (self.unkept.len(), self.bytes)
    }

    /// Returns the newest state of an object and its ticket, if it is not durable yet.
    pub fn newest(&self, id: &ObjectId) -> Option<(Option<&Register>, Ticket)> {
        self.unkept.get(id).map(|unkept| (unkept.register.as_ref(), unkept.ticket))
    }

    /// Returns the ticket after which what is known of an object is durable; `None` = it is.
    pub fn pending(&self, id: &ObjectId) -> Option<Ticket> {
        self.unkept.get(id).map(|unkept| unkept.ticket)
    }

    /// Writes an object in this step; `None` deletes it.
    pub fn write(&mut self, id: &ObjectId, register: Option<Register>) -> Ticket {
        let ticket = self.ticket();
        self.bytes += len_bytes(register.as_ref());
        let before = self.unkept.insert(id.clone(), Unkept { register, ticket });
        self.bytes -= before.as_ref().map_or(0, |before| len_bytes(before.register.as_ref()));
        if before.is_none_or(|before| before.ticket != ticket) {
            self.staged.ids.push(id.clone());
        }
        ticket
    }

    /// Gives `after` back if nothing has to be waited for.
    pub fn defer(&mut self, ticket: Option<Ticket>, after: After) -> Option<After> {
        let Some(place) = ticket.and_then(|ticket| ticket.0.checked_sub(self.done + 1)) else {
            return Some(after);
        };
        let kept = self.outstanding.get_mut(place as usize).unwrap_or(&mut self.staged);
        kept.after.push(after);
        None
    }

    /// Ends a step: returns what it wants kept. `state` is the shard's, if it has changed.
    pub fn flush(&mut self, state: Option<ShardState>) -> Option<RegisterEffect> {
        if self.staged.ids.is_empty() && state.is_none() {
            return None;
        }
        let ticket = self.ticket();
        let mut kept = std::mem::take(&mut self.staged);
        if let Some(state) = &state {
            self.last_with_state = ticket;
            kept.limits = Some((state.counter_limit, state.version_limit, state.ceiling));
        }
        let register = |id: &ObjectId| self.unkept.get(id).and_then(|held| held.register.clone());
        let writes = kept.ids.iter().map(|id| (id.clone(), register(id))).collect();
        self.outstanding.push_back(kept);
        Some(RegisterEffect::Keep { ticket, state, writes })
    }

    /// Takes the next ticket, up to `ticket`, as durable.
    pub fn kept(&mut self, ticket: Ticket) -> Option<Kept> {
        if self.done >= ticket.0 {
            return None;
        }
        let kept = self.outstanding.pop_front()?;
        self.done += 1;
        for id in &kept.ids {
            if self.unkept.get(id).is_some_and(|held| held.ticket == Ticket(self.done)) {
                let held = self.unkept.remove(id);
                self.bytes -= held.map_or(0, |held| len_bytes(held.register.as_ref()));
            }
        }
        Some(kept)
    }
}

impl Keeping {
    /// Notes that the store has refused a ticket. The answers to earlier ones may still come: until they have, what is durable in
    /// the end is not known.
    pub fn refused(&mut self, ticket: Ticket, reason: &str) {
        let place = ticket.0.checked_sub(self.done + 1);
        if let Some(slot) = place.and_then(|place| self.outstanding.get_mut(place as usize)) {
            slot.refused = Some(reason.to_owned());
        }
    }

    /// Returns the next ticket that writes an object. What an earlier one was to write is in it.
    pub fn next_of(&self, id: &ObjectId) -> Option<Ticket> {
        self.unkept.get(id)?;
        let writes = |kept: &Kept| kept.ids.contains(id);
        let place = self.outstanding.iter().position(writes).unwrap_or(self.outstanding.len());
        Some(Ticket(self.done + 1 + place as u64))
    }

    /// Takes back the next ticket if the store has refused it. What a later ticket writes again is not undone: it has all of it.
    pub fn next_undone(&mut self) -> Option<Undone> {
        let next = self.outstanding.pop_front_if(|next| next.refused.is_some())?;
        self.done += 1;
        let mut objects = Vec::new();
        for id in next.ids {
            if self.unkept.get(&id).is_none_or(|held| held.ticket != Ticket(self.done)) {
                continue;
            }
            if let Some(Unkept { register, .. }) = self.unkept.remove(&id) {
                self.bytes -= len_bytes(register.as_ref());
                objects.push((id, register.map(|register| register.promised)));
            }
        }
        let had_state = next.limits.is_some();
        let reason = next.refused.unwrap_or_default();
        Some(Undone { after: next.after, objects, had_state, reason })
    }
}

fn len_bytes(register: Option<&Register>) -> usize {
    register.map_or(0, |register| register.value.len_bytes())
}
