//! Runs this node's rounds (rules 5 to 7, 10 and 11): one at a time for each object.

use super::{
    Ballot, Body, OpId, Past, Register, RegisterOutcome, Registers, StepContext, Timer, Value,
    evaluation::Evaluation,
    keeping::After,
    line::{OfferedValue, PrepareTally, Round, RoundPhase, RoundTask},
    message::COUNTER_MAX,
    placement::{Places, ReplicaSet},
};
use crate::{
    group::table::Configuration,
    model::{node_id::NodeId, object::ObjectId, pause, time::MonotonicUs, trace::TraceContext},
};

/// How often the messages of one ballot are sent again before a new round begins, or a clean-up is given up.
const RESENDS_MAX: u32 = 8;
/// How many ballots one round may offer its value under. Then its outcome is unknown.
const OFFERS_MAX: usize = 64;

impl Registers {
    /// Returns who keeps an object in the configuration adopted now.
    pub(super) fn set_of(&self, id: &ObjectId) -> ReplicaSet {
        let configuration =
            self.state.as_ref().map_or(Configuration::nobody(), |state| &state.configuration);
        let set = ReplicaSet::of(id, configuration);
        match self.options.faults() {
            faults if faults.joint_quorum_of_new => set.new_only(),
            faults if faults.joint_quorum_of_old => set.old_only(),
            faults if faults.forced_hears_majority && set.is_forced() => set.new_only(),
            _ => set,
        }
    }

    /// Takes the round of an object out of its line, to be put back or ended.
    pub(super) fn take_round(&mut self, id: &ObjectId) -> Option<Box<Round>> {
        self.lines.get_mut(id)?.round.take()
    }

    pub(super) fn put_round(&mut self, id: &ObjectId, mut round: Box<Round>) {
        if round.timed != Some(round.due) {
            self.untime(id, &round);
            round.timed = Some(round.due);
            self.timers.insert((round.due, Timer::Round(id.clone())));
        }
        self.lines.entry(id.clone()).or_default().round = Some(round);
    }

    /// Stops waiting for a round's time.
    pub(super) fn untime(&mut self, id: &ObjectId, round: &Round) {
        if let Some(timed) = round.timed {
            self.timers.remove(&(timed, Timer::Round(id.clone())));
        }
    }

    /// Begins what waits for an object, as far as it can begin.
    pub(super) fn advance(&mut self, step: StepContext<'_>, id: &ObjectId) {
        let Some(line) = self.lines.get(id) else { return };
        if line.is_idle() {
            self.lines.remove(id);
            return;
        }
        if !self.adoption.is_open() {
            return;
        }
        let is_next = !(line.queue.is_empty() && line.beyond.is_empty());
        let is_asking = line.query.is_none() && !line.readers.is_empty();
        if line.round.is_some() {
            if is_next {
                self.hurry(step, id);
            }
        } else if is_next || is_asking {
            let set = self.set_of(id);
            if set.is_only(self.home.node) {
                return self.serve_alone(step, id);
            }
            if is_next {
                self.begin_next(step, id, set);
            }
        }
        if is_asking {
            let set = self.set_of(id);
            self.begin_query(step, id, set);
        }
    }

    /// A request wants the object: gives up what has to reach all replicas. A repair does not wait for those that lag behind, and a
    /// clean-up is done another time.
    fn hurry(&mut self, step: StepContext<'_>, id: &ObjectId) {
        let line = self.lines.get_mut(id);
        let Some(round) = line.and_then(|line| line.round.take_if(|round| round.is_for_all()))
        else {
            return;
        };
        let (answered, _) = round.answers();
        match (&round.task, &round.phase) {
            (RoundTask::Clear(_), _) => self.yield_round(id, round, &RegisterOutcome::Busy),
            (_, RoundPhase::Prepare(_)) if round.set.sees(answered) => self.decide(step, id, round),
            (_, RoundPhase::Accept { .. }) if round.set.decides(answered) => {
                self.decided(step, id, round);
            }
            _ => self.put_round(id, round),
        }
    }

    fn begin_next(&mut self, step: StepContext<'_>, id: &ObjectId, set: ReplicaSet) {
        let (count_max, bytes_max) = (self.options.batch_max, self.options.batch_bytes_max);
        let Some(line) = self.lines.get_mut(id) else { return };
        let next = line.next_task(count_max, bytes_max);
        let (task, ops) = next.unwrap_or((RoundTask::Identity, Vec::new()));
        let is_joint = self.state.as_ref().is_some_and(|state| state.configuration.is_joint());
        let is_clear = matches!(task, RoundTask::Clear(_));
        if is_clear && (is_joint || self.is_wanted(id)) {
            self.again.insert(id.clone());
            return self.end_each(ops, &RegisterOutcome::Busy);
        }
        let line = self.lines.entry(id.clone()).or_default();
        let mut round = Box::new(Round::new(task, ops, set));
        round.readers = std::mem::take(&mut line.beyond);
        let first = round.ops().first().or(round.readers.first()).copied();
        let waiter = first.and_then(|op| self.waiters.get(&op));
        round.trace = waiter.map(|waiter| waiter.trace).unwrap_or_default();
        self.begin(step, id, round);
    }

    /// Begins a round: with its second phase if the first one was done along with the last acceptance (rule 11).
    fn begin(&mut self, step: StepContext<'_>, id: &ObjectId, mut round: Box<Round>) {
        let ready = match round.task {
            RoundTask::Rescan => None,
            _ => self.ready.take(id),
        };
        let Some((ballot, value, mut past)) = ready else { return self.prepare(step, id, round) };
        let is_here = round.set.place_of(self.home.node).is_some();
        // What was overtaken, or may find no quorum, is not offered: as long as nothing is, a failure is no unknown outcome. Only
        // a replica hears what others do.
        let is_deaf = !is_here && !self.options.faults().piggyback_across_epochs;
        let is_overtaken = is_deaf || (is_here && self.promised_here(step, id) > ballot);
        if is_overtaken || !self.reaches(step, &round.set) {
            return self.prepare(step, id, round);
        }
        self.counts.piggybacks += 1;
        round.ballot = ballot;
        if Self::is_off_target(&round.task, &value) {
            return self.complete(step, id, round, value, Vec::new());
        }
        let verdict = self.evaluate(step, id, &round.task, (&value, &past));
        let Evaluation { value: changed, results, named } = verdict;
        let is_effect = changed.is_some();
        if is_effect {
            round.mark(&mut past, named);
        }
        self.accept(step, id, round, (changed.unwrap_or(value), past), results, is_effect);
    }

    /// Tells whether there is a way to a quorum.
    fn reaches(&self, step: StepContext<'_>, set: &ReplicaSet) -> bool {
        let is_there = |node| {
            self.is_willing(step, node) && (node == self.home.node || step.shelf.reaches(node))
        };
        let there = set.nodes().filter(|(_, node)| is_there(*node));
        set.decides(there.fold(Places::default(), |places, (place, _)| places.with(place)))
    }

    /// Begins the first phase under a new ballot.
    pub(super) fn prepare(&mut self, step: StepContext<'_>, id: &ObjectId, mut round: Box<Round>) {
        self.counts.prepares += 1;
        round.tries += 1;
        round.resends = 0;
        round.quorum_since = None;
        round.set = self.set_of(id);
        if round.offers.is_empty()
            && let Some(line) = self.lines.get_mut(id)
        {
            if let RoundTask::Changes(changes) = &mut round.task {
                line.add_changes(changes, self.options.batch_max, self.options.batch_bytes_max);
            }
            if !matches!(round.task, RoundTask::Clear(_)) {
                round.readers.append(&mut line.beyond);
            }
        }
        let Some(ballot) = self.new_ballot(step, id) else { return self.fail(id, &round) };
        round.ballot = ballot;
        round.phase = RoundPhase::Prepare(PrepareTally::default());
        round.due = self.resend_at(step, 0);
        let body = Body::Prepare { id: id.clone(), ballot };
        self.ask_replicas(step, &round.set, &body, Places::default(), round.trace);
        self.put_round(id, round);
    }

    /// Returns a ballot above all that this node knows; `None` = there is no higher one.
    pub(super) fn new_ballot(&mut self, step: StepContext<'_>, id: &ObjectId) -> Option<Ballot> {
        let epoch = self.epoch()?;
        let faults = self.options.faults();
        let epoch = if faults.ballot_without_epoch { 0 } else { epoch };
        if !faults.volatile_counter {
            let promised = self.promised_here(step, id);
            if promised.epoch == epoch {
                self.numbers.pass_counter(promised.counter);
            }
        }
        let counter = self.numbers.counter() + 1;
        if counter >= COUNTER_MAX {
            return None;
        }
        self.numbers.pass_counter(counter);
        Some(Ballot { epoch, counter, node: self.home.node.tag() })
    }

    /// Sends a request of a round to all its replicas but those at `except`; the local one is asked in this step.
    pub(super) fn ask_replicas(
        &mut self,
        step: StepContext<'_>,
        set: &ReplicaSet,
        body: &Body,
        except: Places,
        trace: TraceContext,
    ) {
        let ticket = self.reserve();
        for (place, to) in set.nodes() {
            if except.has(place) {
                continue;
            }
            if to == self.home.node {
                self.serve(step, to, body.clone(), trace);
            } else {
                let message = self.message(body.clone());
                self.after(ticket, After::Say { to, message, trace });
            }
        }
    }

    /// A replica has promised.
    pub(super) fn on_promise(&mut self, step: StepContext<'_>, from: NodeId, body: Body) {
        let Body::Promise { id, ballot, accepted, value, past, floor } = body else { return };
        let epoch = self.epoch().unwrap_or(0);
        let is_sound = accepted.epoch <= epoch
            && floor.epoch <= epoch
            && value.is_sound_for(&id)
            && past.is_sound(epoch);
        if !is_sound {
            self.counts.dropped += 1;
            return;
        }
        let Some((mut round, place)) = self.answered(&id, from, ballot) else { return };
        if let RoundPhase::Prepare(found) = &mut round.phase
            && !found.promised.has(place)
        {
            found.add(place, (accepted, value, past), floor);
            let promised = found.promised;
            if round.set.sees(promised)
                && !self.waits_for_all(step, &id, &mut round, promised)
                && !self.waits_for_willing(step, &mut round)
            {
                return self.decide(step, &id, round);
            }
        }
        self.put_round(&id, round);
    }

    /// Takes the round out that an answer is about.
    pub(super) fn answered(
        &mut self,
        id: &ObjectId,
        from: NodeId,
        ballot: Ballot,
    ) -> Option<(Box<Round>, u32)> {
        let round = self.lines.get(id)?.round.as_ref()?;
        let is_running = round.ballot == ballot && !matches!(round.phase, RoundPhase::Parked);
        let place = round.set.place_of(from).filter(|_| is_running)?;
        Some((self.take_round(id)?, place))
    }

    /// Tells whether a round that a quorum has answered waits for the other replicas: what is for all of them does.
    fn waits_for_all(
        &self,
        step: StepContext<'_>,
        id: &ObjectId,
        round: &mut Round,
        those: Places,
    ) -> bool {
        if !round.is_for_all() || round.set.has_all(those) {
            return false;
        }
        round.quorum_since.get_or_insert(step.now.monotonic);
        !(matches!(round.task, RoundTask::Repair) && self.is_wanted(id))
    }

    /// Tells whether something waits for the round of an object to end.
    fn is_wanted(&self, id: &ObjectId) -> bool {
        self.lines.get(id).is_some_and(|line| !line.queue.is_empty() || !line.beyond.is_empty())
    }

    /// The first phase is done: decides what the second one offers (rules 6 and 7).
    fn decide(&mut self, step: StepContext<'_>, id: &ObjectId, mut round: Box<Round>) {
        let RoundPhase::Prepare(mut found) =
            std::mem::replace(&mut round.phase, RoundPhase::Parked)
        else {
            return self.put_round(id, round);
        };
        let (highest, value, mut past) = std::mem::take(&mut found.highest);
        let faults = self.options.faults();
        if faults.past_is_lost && highest.node != self.home.node.tag() {
            past = Past::default();
        }
        if highest == Ballot::NONE {
            let epoch = if faults.offers_of_any_epoch { 0 } else { self.epoch().unwrap_or(0) };
            past = Past::begin(epoch, found.floor);
        }
        if !round.offers.is_empty() && !faults.evaluate_again {
            if let Some(offer) = round.offers.iter().find(|offer| past.has(offer.ballot)) {
                // The value descends from an own offer: it is finished, with what that one meant.
                let results = offer.results.clone();
                return self.accept(step, id, round, (value, past), results, false);
            }
            let is_known =
                |offer: &OfferedValue| past.knows(offer.ballot) || faults.past_without_end;
            if !round.offers.iter().all(is_known) {
                return self.give_up(id, round);
            }
            // None was decided so far. Another proposer may still take one up, so they stay in mind.
            if faults.forget_offers {
                round.offers.clear();
            }
        }
        if Self::is_off_target(&round.task, &value) {
            return self.complete(step, id, round, value, Vec::new());
        }
        let verdict = self.evaluate(step, id, &round.task, (&value, &past));
        let Evaluation { value: changed, results, named } = verdict;
        if let Some(changed) = changed {
            let unwilling = found.unwilling(&changed);
            if !round.set.decides(round.set.all().without(unwilling)) {
                // Nothing is offered that no quorum would accept: so it is known that nothing is done.
                return if round.offers.is_empty() {
                    self.decline(id, round)
                } else {
                    self.back_off(step, id, round)
                };
            }
            round.mark(&mut past, named);
            return self.accept(step, id, round, (changed, past), results, true);
        }
        let is_settled = !found.is_mixed
            && (round.offers.is_empty() || faults.evaluate_again || faults.refuse_with_offers)
            && match round.task {
                RoundTask::Clear(_) => false,
                RoundTask::Repair => round.set.has_all(found.promised),
                _ => true,
            };
        let is_unconfirmed = faults.unconfirmed_refusal
            && matches!(round.task, RoundTask::Changes(_) | RoundTask::Identity);
        if is_settled || is_unconfirmed {
            // Nothing was written: there is nothing that the next round could build on.
            round.ballot = Ballot::NONE;
            return self.complete(step, id, round, value, results);
        }
        self.accept(step, id, round, (value, past), results, false);
    }

    /// Begins the second phase.
    fn accept(
        &mut self,
        step: StepContext<'_>,
        id: &ObjectId,
        mut round: Box<Round>,
        (value, past): (Value, Past),
        results: Vec<(OpId, RegisterOutcome)>,
        is_effect: bool,
    ) {
        if round.offers.len() >= OFFERS_MAX {
            return self.give_up(id, round);
        }
        self.counts.accepts += 1;
        // The acceptance promises the next counter too: it is never used for anything else.
        self.numbers.pass_counter(round.ballot.counter + 1);
        if is_effect {
            self.mark_offered(&round);
            if matches!(round.task, RoundTask::Changes(_)) {
                round.offers.push(OfferedValue { ballot: round.ballot, results: results.clone() });
            }
        }
        let body = Body::Accept {
            id: id.clone(),
            ballot: round.ballot,
            value: value.clone(),
            past: past.clone(),
        };
        let none = Places::default();
        let (accepted, refused, declined) = (none, none, none);
        round.phase = RoundPhase::Accept { value, past, results, accepted, refused, declined };
        round.resends = 0;
        round.quorum_since = None;
        round.due = self.resend_at(step, 0);
        self.ask_replicas(step, &round.set, &body, Places::default(), round.trace);
        self.put_round(id, round);
    }

    /// A replica has accepted.
    pub(super) fn on_accepted(
        &mut self,
        step: StepContext<'_>,
        from: NodeId,
        id: &ObjectId,
        ballot: Ballot,
    ) {
        let Some((mut round, place)) = self.answered(id, from, ballot) else { return };
        if let RoundPhase::Accept { accepted, refused, .. } = &mut round.phase {
            *accepted = accepted.with(place);
            *refused = refused.without(*accepted);
            let those = *accepted;
            let is_by_majority =
                self.options.faults().drop_by_majority && matches!(round.task, RoundTask::Clear(_));
            if round.set.decides(those)
                && (is_by_majority || !self.waits_for_all(step, id, &mut round, those))
            {
                return self.decided(step, id, round);
            }
        }
        self.put_round(id, round);
    }

    /// The second phase is done.
    fn decided(&mut self, step: StepContext<'_>, id: &ObjectId, mut round: Box<Round>) {
        let RoundPhase::Accept { value, past, results, .. } =
            std::mem::replace(&mut round.phase, RoundPhase::Parked)
        else {
            return self.put_round(id, round);
        };
        if matches!(round.task, RoundTask::Clear(_)) {
            let body = Body::Drop { id: id.clone(), ballot: round.ballot };
            self.ask_replicas(step, &round.set, &body, Places::default(), round.trace);
            let pending = self.keeping.pending(id);
            for op in std::mem::take(&mut round.ops) {
                self.end_after(pending, op, RegisterOutcome::Done);
            }
        } else {
            self.ready.put(&self.options, id, round.ballot.piggyback(), (&value, past));
        }
        self.complete(step, id, round, value, results);
    }

    /// Ends a round whose outcome is known, and lets the next one begin.
    fn complete(
        &mut self,
        step: StepContext<'_>,
        id: &ObjectId,
        round: Box<Round>,
        value: Value,
        results: Vec<(OpId, RegisterOutcome)>,
    ) {
        self.untime(id, &round);
        let Round { task, ops, readers, .. } = *round;
        self.counts.batched += results.len().saturating_sub(1) as u64;
        for (op, ended) in results {
            self.end(op, ended);
        }
        self.end_each(ops, &RegisterOutcome::Done);
        self.answer_readers(step, readers, &value);
        if matches!(task, RoundTask::Rescan) {
            self.rescanned(id);
        }
        self.again.insert(id.clone());
    }

    /// A replica has promised more to another round (rule 5).
    pub(super) fn on_conflict(
        &mut self,
        step: StepContext<'_>,
        from: NodeId,
        id: &ObjectId,
        (ballot, promised): (Ballot, Ballot),
    ) {
        let is_own = promised.epoch == ballot.epoch
            && promised.node == self.home.node.tag()
            && promised.counter <= ballot.counter.saturating_add(1);
        let Some((mut round, place)) = self.answered(id, from, ballot) else { return };
        if promised.epoch == ballot.epoch && self.is_near(promised.counter) {
            self.numbers.pass_counter(promised.counter);
        }
        let all = round.set.all();
        let is_lost = match &mut round.phase {
            RoundPhase::Parked => false,
            RoundPhase::Prepare(found) if found.promised.has(place) => false,
            RoundPhase::Accept { accepted, .. } if accepted.has(place) => false,
            RoundPhase::Prepare(found) => {
                found.refused = found.refused.with(place);
                !round.set.sees(all.without(found.refused).without(found.declined))
                    || round.is_for_all()
            }
            // An own promise is no conflict: a first phase that came twice was answered after the second one. Only if the
            // second one stays without an answer too, the promise came from another object by way of the floor.
            RoundPhase::Accept { refused, declined, .. } => {
                *refused = refused.with(place);
                // A replica that has promised more accepts under a higher ballot.
                let rest = all.without(*refused).without(*declined);
                !is_own && (!round.set.decides(rest) || round.is_for_all())
            }
        };
        if is_lost { self.back_off(step, id, round) } else { self.put_round(id, round) }
    }

    pub(super) fn back_off(&mut self, step: StepContext<'_>, id: &ObjectId, mut round: Box<Round>) {
        self.counts.conflicts += 1;
        round.park();
        let Self { options, .. } = self;
        let most = pause::doubled(options.back_off_us, round.tries, options.back_off_max_us);
        round.due = step.now.monotonic.plus_us(1 + self.draw() % most.max(1));
        self.put_round(id, round);
    }

    /// The time of a round has come: it sends again what had no answer, or begins again.
    pub(super) fn on_round_due(&mut self, step: StepContext<'_>, id: &ObjectId) {
        let Some(mut round) = self.take_round(id) else { return };
        round.timed = None;
        if !round.is_wanted() {
            self.again.insert(id.clone());
            return;
        }
        let (answered, refused) = round.answers();
        let rest = round.set.all().without(round.declined());
        let is_stuck = !refused.is_none()
            || !round.set.decides(rest)
            || (round.resends >= RESENDS_MAX && round.quorum_since.is_none());
        let waited = round.quorum_since.map_or(0, |since| step.now.monotonic.since(since));
        if waited > self.options.straggle_us {
            return self.end_straggling(id, round);
        }
        let body = match &round.phase {
            RoundPhase::Parked => return self.prepare(step, id, round),
            RoundPhase::Prepare(found)
                if (matches!(round.task, RoundTask::Repair) || found.waits())
                    && round.set.sees(answered) =>
            {
                // The last ones were waited for long enough.
                return self.decide(step, id, round);
            }
            _ if is_stuck => return self.back_off(step, id, round),
            RoundPhase::Prepare(_) => Body::Prepare { id: id.clone(), ballot: round.ballot },
            RoundPhase::Accept { value, past, .. } => Body::Accept {
                id: id.clone(),
                ballot: round.ballot,
                value: value.clone(),
                past: past.clone(),
            },
        };
        round.resends += 1;
        round.due = self.resend_at(step, round.resends);
        self.counts.resends += 1;
        let except = answered.or(round.declined());
        self.ask_replicas(step, &round.set, &body, except, round.trace);
        self.put_round(id, round);
    }

    /// A quorum has answered what is for all replicas, and the rest is not waited for any longer.
    fn end_straggling(&mut self, id: &ObjectId, round: Box<Round>) {
        let ended = if matches!(round.task, RoundTask::Clear(_)) {
            // Not all have it: it stays, and nothing was changed.
            let (answered, needed) = (round.answers().0.count(), round.set.all().count());
            RegisterOutcome::NoQuorum { answered, needed }
        } else {
            RegisterOutcome::Done
        };
        self.yield_round(id, round, &ended);
    }

    fn yield_round(&mut self, id: &ObjectId, mut round: Box<Round>, ended: &RegisterOutcome) {
        self.untime(id, &round);
        self.end_each(std::mem::take(&mut round.ops), ended);
        let line = self.lines.entry(id.clone()).or_default();
        line.beyond.append(&mut round.readers);
        self.again.insert(id.clone());
    }

    pub(super) fn resend_at(&mut self, step: StepContext<'_>, resends: u32) -> MonotonicUs {
        let Self { options, .. } = self;
        let wait = pause::doubled(options.resend_us, resends, options.resend_max_us);
        // Spread by a quarter, so that what was lost together does not come together.
        let spread = self.draw() % (wait / 4).max(1);
        step.now.monotonic.plus_us(wait + spread)
    }

    /// Serves everything that waits for an object which this node alone keeps: both phases are one write.
    fn serve_alone(&mut self, step: StepContext<'_>, id: &ObjectId) {
        while let Some(line) = self.lines.get_mut(id) {
            let mut readers = std::mem::take(&mut line.readers);
            readers.append(&mut line.beyond);
            let next = line.next_task(usize::MAX, usize::MAX);
            if readers.is_empty() && next.is_none() {
                break;
            }
            let (task, ops) = next.unwrap_or((RoundTask::Identity, Vec::new()));
            let Ok(held) = self.register(step, id) else {
                // It does not read back, and nobody else has it.
                let mut round = Round::new(task, ops, self.set_of(id));
                round.readers = readers;
                self.fail(id, &round);
                continue;
            };
            let Register { accepted, value, mut past, .. } = held.unwrap_or_default();
            if accepted == Ballot::NONE {
                past = Past::begin(self.epoch().unwrap_or(0), self.floor());
            }
            self.answer_readers_after(step, self.keeping.pending(id), readers, &value);
            self.serve_task_alone(step, id, (task, ops), (value, past));
        }
        self.again.insert(id.clone());
    }

    fn serve_task_alone(
        &mut self,
        step: StepContext<'_>,
        id: &ObjectId,
        (task, ops): (RoundTask, Vec<OpId>),
        (found, mut past): (Value, Past),
    ) {
        let verdict = self.evaluate(step, id, &task, (&found, &past));
        let Evaluation { value, results, named } = verdict;
        let is_clear = matches!(task, RoundTask::Clear(_)) && !Self::is_off_target(&task, &found);
        if value.is_some() || is_clear {
            let Some(ballot) = self.new_ballot(step, id) else {
                return self.fail(id, &Round::new(task, ops, self.set_of(id)));
            };
            self.numbers.pass_counter(ballot.counter + 1);
            self.reserve();
            // No other proposer is there, and the round ends here: only the names are of use.
            past.name(named);
            let register = self.accepting(ballot, value.unwrap_or(found), past);
            self.keeping.write(id, Some(register));
            if is_clear {
                self.serve_drop(step, id, ballot);
            }
        }
        let pending = self.keeping.pending(id);
        let others = ops.into_iter().map(|op| (op, RegisterOutcome::Done));
        for (op, ended) in results.into_iter().chain(others) {
            if let Some(waiter) = self.waiters.get_mut(&op) {
                waiter.is_offered = !matches!(ended, RegisterOutcome::Refused(_));
            }
            self.end_after(pending, op, ended);
        }
    }
}
