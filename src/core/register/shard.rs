//! One step of a shard: handles an event, and returns the effects.

use super::{
    Ballot, Body, Home, Now, OpId, Places, RegisterEffect, RegisterEvent, RegisterMessage,
    RegisterOptions, RegisterOrder, RegisterOutcome, RegisterShelf, Registers, ShardCounts,
    ShardState, StepContext, Ticket, Timer, Value,
    adoption::Adoption,
    keeping::{After, Keeping},
    line::{PendingOp, QueuedTask, RoundTask},
    numbers::Numbers,
    placement::names,
    promises::Promises,
    ready::ReadyObjects,
};
use crate::machine::Core;
use crate::model::{node_id::NodeId, object::Version, time::MonotonicUs, trace::TraceContext};
use rand::{RngCore as _, SeedableRng as _, rngs::SmallRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

impl Core for Registers {
    type Event = RegisterEvent;
    type Effect = RegisterEffect;
    /// What the shard has kept, and whom it reaches.
    type Shelf<'a> = dyn RegisterShelf + 'a;

    fn step(
        &mut self,
        now: Now,
        event: RegisterEvent,
        shelf: &(dyn RegisterShelf + '_),
    ) -> Vec<RegisterEffect> {
        let step = StepContext { now, shelf };
        self.entropy = now.entropy;
        match event {
            RegisterEvent::Begin { op, id, order, deadline, trace } => {
                let waiter = PendingOp { id, deadline, trace, is_offered: false };
                self.on_begin(now, op, order, waiter);
            }
            RegisterEvent::Abandon { op } => self.on_abandon(op),
            RegisterEvent::Heard { from, message, trace } => {
                self.on_heard(step, from, message, trace)
            }
            RegisterEvent::Kept { ticket } => self.on_kept(step, ticket),
            RegisterEvent::Refused { ticket, reason } => {
                self.keeping.refused(ticket, &reason);
                self.undo_refused(step);
            }
            RegisterEvent::Configured { chain } => self.on_configured(chain),
            RegisterEvent::Adopted { epoch, rescan } => self.on_adopted(step, epoch, rescan),
            RegisterEvent::Tick => {}
        }
        self.on_due(step);
        self.settle(step);
        self.move_on();
        self.flush();
        std::mem::take(&mut self.out)
    }

    fn next_due(&self) -> Option<MonotonicUs> {
        if self.adoption.is_resuming() {
            return Some(MonotonicUs(0));
        }
        self.timers.first().map(|(due, _)| *due)
    }
}

impl Registers {
    /// Starts a shard with what it has kept. A state of another group or claim is not its own and counts as none; its registers
    /// have to be wiped before. `latest_version` is the greatest version that this node is known to have given.
    pub fn new(
        home: Home,
        state: Option<ShardState>,
        latest_version: Option<Version>,
        options: RegisterOptions,
    ) -> Self {
        let is_own = |state: &ShardState| state.group == home.group && state.claim == home.claim;
        let state = state.filter(is_own);
        let numbers =
            Numbers::new(home.node.tag(), state.as_ref(), latest_version, options.faults());
        let promises = Promises::new(state.as_ref(), options.faults());
        Self {
            numbers,
            promises,
            adoption: Adoption::new(state.as_ref()),
            home,
            options,
            state,
            is_state_news: false,
            is_state_owed: false,
            keeping: Keeping::default(),
            rescan: None,
            lines: BTreeMap::new(),
            waiters: BTreeMap::new(),
            timers: BTreeSet::new(),
            ready: ReadyObjects::default(),
            unwilling: BTreeMap::new(),
            counts: ShardCounts::default(),
            entropy: 0,
            local: VecDeque::new(),
            again: BTreeSet::new(),
            out: Vec::new(),
        }
    }

    /// Returns a version that no version is above which this shard has given.
    pub fn last_version(&self) -> Version {
        self.numbers.last_version()
    }

    /// Returns the epoch adopted last, or being adopted.
    pub fn epoch(&self) -> Option<u64> {
        self.state.as_ref().map(|state| state.configuration.epoch)
    }

    /// Returns what has happened since the start.
    pub fn counts(&self) -> &ShardCounts {
        &self.counts
    }

    fn on_begin(&mut self, now: Now, op: OpId, order: RegisterOrder, waiter: PendingOp) {
        self.count(&order);
        if let Some(ended) = self.refusal(now, &order, &waiter) {
            return self.say_end(op, ended);
        }
        let id = waiter.id.clone();
        self.timers.insert((waiter.deadline, Timer::Deadline(op)));
        self.waiters.insert(op, waiter);
        let line = self.lines.entry(id.clone()).or_default();
        let task = match order {
            RegisterOrder::Read => {
                line.readers.push(op);
                self.again.insert(id);
                return;
            }
            RegisterOrder::Change(change) => RoundTask::Changes(vec![(op, change)]),
            RegisterOrder::Merge(value) => RoundTask::Merge(value),
            RegisterOrder::Expire => RoundTask::Expire,
            RegisterOrder::Clear(version) => RoundTask::Clear(version),
            RegisterOrder::Repair => RoundTask::Repair,
        };
        line.queue.push_back(QueuedTask { op: Some(op), task });
        self.again.insert(id);
    }

    fn count(&mut self, order: &RegisterOrder) {
        let counts = &mut self.counts;
        *match order {
            RegisterOrder::Change(_) => &mut counts.changes,
            RegisterOrder::Read => &mut counts.reads,
            RegisterOrder::Merge(_) => &mut counts.merges,
            RegisterOrder::Expire => &mut counts.expiries,
            RegisterOrder::Clear(_) => &mut counts.clears,
            RegisterOrder::Repair => &mut counts.repairs,
        } += 1;
    }

    /// Ends a request that is refused at once.
    fn refusal(
        &self,
        now: Now,
        order: &RegisterOrder,
        waiter: &PendingOp,
    ) -> Option<RegisterOutcome> {
        if !self.is_named() || self.adoption.is_over() {
            return Some(RegisterOutcome::NotReady);
        }
        if matches!(order, RegisterOrder::Merge(Value::Absent)) {
            return Some(RegisterOutcome::Done);
        }
        if waiter.deadline <= now.monotonic {
            let (answered, needed) = self.set_of(&waiter.id).shortage(Places::default());
            return Some(RegisterOutcome::NoQuorum { answered, needed });
        }
        let is_full = self.lines.get(&waiter.id).is_some_and(|line| {
            let waiting = line.queue.len() + line.readers.len() + line.beyond.len();
            waiting >= self.options.queue_max
        });
        (is_full || self.waiters.len() >= self.options.in_hand_max).then_some(RegisterOutcome::Busy)
    }

    /// A message has come.
    pub(super) fn on_heard(
        &mut self,
        step: StepContext<'_>,
        from: NodeId,
        message: RegisterMessage,
        trace: TraceContext,
    ) {
        let Some(epoch) = self.epoch() else { return };
        if message.group != self.home.group || from == self.home.node || self.adoption.is_over() {
            return;
        }
        match message.body {
            Body::Behind => {
                self.tell_chain(from, message.epoch, trace);
                return;
            }
            Body::Chain { configurations } => return self.on_chain(from, configurations),
            _ => {}
        }
        let is_member = self.is_member(from);
        if message.epoch > epoch {
            if is_member {
                self.hear_ahead(step, from, message, trace);
            }
        } else if !self.adoption.is_open() {
            self.hold(from, message, trace);
        } else if message.epoch < epoch && !self.options.faults().no_epoch_check {
            if message.body.request_bytes().is_some() {
                self.tell_late(step, from, message.epoch, trace);
            }
        } else if is_member {
            self.on_said(step, from, message, trace);
        }
    }

    /// A member of this epoch says something about a register.
    fn on_said(
        &mut self,
        step: StepContext<'_>,
        from: NodeId,
        message: RegisterMessage,
        trace: TraceContext,
    ) {
        if message.body.request_bytes().is_none() {
            return self.on_answer(step, from, message.body);
        }
        let (unkept, bytes) = self.keeping.unkept();
        let has_room = unkept < self.options.unkept_max && bytes < self.options.unkept_bytes_max;
        if has_room && self.is_sound(step, from, message.epoch, &message.body) {
            self.serve(step, from, message.body, trace);
        } else {
            self.counts.dropped += 1;
        }
    }

    /// A replica answers to a round or a read of this node.
    fn on_answer(&mut self, step: StepContext<'_>, from: NodeId, body: Body) {
        match body {
            Body::Promise { .. } => self.on_promise(step, from, body),
            Body::Accepted { id, ballot } => self.on_accepted(step, from, &id, ballot),
            Body::Conflict { id, ballot, promised } => {
                self.on_conflict(step, from, &id, (ballot, promised));
            }
            Body::Reading { .. } => self.on_reading(step, from, body),
            Body::Declined { id, ballot, what, reason } => {
                self.on_declined(step, from, &id, (ballot, what), reason);
            }
            _ => {}
        }
    }

    fn on_kept(&mut self, step: StepContext<'_>, ticket: Ticket) {
        while let Some(kept) = self.keeping.kept(ticket) {
            if let Some(limits) = kept.limits {
                let (counter, version, ceiling) = limits;
                self.numbers.kept((counter, version));
                self.promises.kept(ceiling);
            }
            for after in kept.after {
                self.run(after);
            }
            self.undo_refused(step);
        }
    }

    /// Does what the clock says.
    fn on_due(&mut self, step: StepContext<'_>) {
        while let Some((due, _)) = self.timers.first() {
            if *due > step.now.monotonic {
                return;
            }
            let Some((_, timer)) = self.timers.pop_first() else { return };
            match timer {
                Timer::Deadline(op) => self.on_deadline(op),
                Timer::Round(id) => self.on_round_due(step, &id),
                Timer::Query(id) => self.on_query_due(step, &id),
            }
        }
    }

    /// Does what has come up within this step, until nothing is left.
    fn settle(&mut self, step: StepContext<'_>) {
        loop {
            if let Some(body) = self.local.pop_front() {
                self.on_answer(step, self.home.node, body);
            } else if let Some(id) = self.again.pop_first() {
                self.advance(step, &id);
            } else {
                return;
            }
        }
    }

    fn flush(&mut self) {
        self.is_state_news |= self.is_state_owed && self.keeping.has_staged();
        let news = self.state.as_ref().filter(|_| self.is_state_news);
        let mut news = news.cloned();
        if let Some(state) = news.as_mut().filter(|_| self.options.faults().volatile_floor) {
            state.floor = Ballot::NONE;
        }
        self.is_state_owed &= !self.is_state_news;
        self.is_state_news = false;
        let keep = self.keeping.flush(news);
        self.out.extend(keep);
    }

    /// Tells whether this step has something to keep.
    pub(super) fn has_staged(&self) -> bool {
        self.is_state_news || self.keeping.has_staged()
    }

    /// Reserves the numbers in use. Returns what has to be durable before they leave.
    pub(super) fn reserve(&mut self) -> Option<Ticket> {
        let state = self.state.as_mut()?;
        if self.options.faults().volatile_counter {
            return None;
        }
        let (is_news, is_uncovered) = self.numbers.reserve(state);
        self.is_state_news |= is_news || (is_uncovered && self.is_state_owed);
        let ticket =
            if self.is_state_news { self.keeping.ticket() } else { self.keeping.last_with_state() };
        is_uncovered.then_some(ticket)
    }

    /// Tells whether this node is a member in the configuration adopted.
    pub(super) fn is_named(&self) -> bool {
        self.is_member(self.home.node)
    }

    /// Tells whether a node is a member in the configuration adopted.
    pub(super) fn is_member(&self, node: NodeId) -> bool {
        self.state.as_ref().is_some_and(|state| names(&state.configuration, node))
    }

    /// Makes a message of this epoch.
    pub(super) fn message(&self, body: Body) -> RegisterMessage {
        let epoch = self.epoch().unwrap_or(0);
        RegisterMessage { group: self.home.group.clone(), epoch, body }
    }

    /// Says something that depends on nothing.
    pub(super) fn say(&mut self, to: NodeId, body: Body, trace: TraceContext) {
        let message = self.message(body);
        self.out.push(RegisterEffect::Send { to, message, trace });
    }

    /// Does something once `ticket` is durable.
    pub(super) fn after(&mut self, ticket: Option<Ticket>, after: After) {
        let ticket = ticket.filter(|_| !self.options.faults().reply_before_durable);
        if let Some(after) = self.keeping.defer(ticket, after) {
            self.run(after);
        }
    }

    fn run(&mut self, after: After) {
        match after {
            After::Say { to, message, trace } => {
                self.out.push(RegisterEffect::Send { to, message, trace });
            }
            After::Reply(body) => self.local.push_back(body),
            After::End { op, ended } => self.end(op, ended),
        }
    }

    /// Returns a random number, which follows from the one that came with the step.
    pub(super) fn draw(&mut self) -> u64 {
        // Few steps draw, and then once or twice: a generator is made where it is wanted.
        self.entropy = SmallRng::seed_from_u64(self.entropy).next_u64();
        self.entropy
    }
}
