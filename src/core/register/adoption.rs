//! Follows the group's configurations: strictly in order, none skipped, one at a time (rules 3 and 4).
//!
//! A configuration is adopted in two stages. First nothing new is begun, until all that was to be kept is durable. Then the
//! configuration itself is made durable. What other nodes ask meanwhile waits, within limits.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Ballot, Body, RegisterEffect, RegisterMessage, RegisterOutcome, Registers, ShardState,
    StepContext, Timer, line::RoundTask, placement::names, promises,
};
use crate::{
    group::table::{CHAIN_MAX, Configuration},
    model::{node_id::NodeId, object::ObjectId, time::MonotonicUs, trace::TraceContext},
};

/// How many configurations one message carries. Who needs more asks again.
const CHAIN_PART: usize = 64;
/// The most members that a configuration may name that another node has sent.
const MEMBERS_MAX: usize = 4_096;
/// How long an answer to the question for what follows is waited for.
const ASK_US: u64 = 100_000;
/// A member that sends much while it is behind is told so once in this time.
const TELL_US: u64 = 20_000;

#[derive(Debug, Default)]
pub(super) struct Adoption {
    /// The configurations known, with no gap from the adopted one on.
    known: BTreeMap<u64, Configuration>,
    stage: Stage,
    held: VecDeque<Held>,
    held_bytes: usize,
    asked: Option<MonotonicUs>,
    /// Which epoch each member was last told that it is behind in, and when.
    told: BTreeMap<NodeId, (u64, MonotonicUs)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// Rounds run, or could if a configuration had been adopted.
    #[default]
    Open,
    /// What was adopted before a restart has to be adopted again.
    Resuming,
    /// The next configuration is adopted as soon as all is durable.
    Closing,
    /// It is being made durable.
    Adopting,
    /// The next configuration is not to be had any more.
    Over,
}

/// A message that waits.
#[derive(Debug)]
struct Held {
    from: NodeId,
    message: RegisterMessage,
    trace: TraceContext,
}

impl Adoption {
    pub fn new(state: Option<&ShardState>) -> Self {
        let known = state.map(|state| (state.configuration.epoch, state.configuration.clone()));
        // A change that was under way needs its rescan again (rule 9).
        let is_joint = state.is_some_and(|state| state.configuration.is_joint());
        let stage = if is_joint { Stage::Resuming } else { Stage::Open };
        Self { known: known.into_iter().collect(), stage, ..Self::default() }
    }

    /// Tells whether rounds may run.
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Tells whether this node takes part no more.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Tells whether there is something to be done without an event.
    pub fn is_resuming(&self) -> bool {
        self.stage == Stage::Resuming
    }

    fn newest(&self) -> Option<&Configuration> {
        self.known.last_key_value().map(|(_, newest)| newest)
    }

    fn trim(&mut self, epoch: u64) {
        while self.known.len() > CHAIN_MAX {
            match self.known.first_key_value() {
                Some((oldest, _)) if *oldest < epoch => self.known.pop_first(),
                _ => break,
            };
        }
    }
}

/// Tells whether a configuration may come right after another.
fn follows(last: &Configuration, next: &Configuration) -> bool {
    let is_whole = (1..=MEMBERS_MAX).contains(&next.members.len())
        && (1..=64).contains(&next.replication_factor)
        && next.old.as_ref().is_none_or(|old| {
            (1..=MEMBERS_MAX).contains(&old.members.len())
                && (1..=64).contains(&old.replication_factor)
        });
    let is_next = last.epoch.checked_add(1) == Some(next.epoch);
    is_whole
        && is_next
        && match (&last.old, &next.old) {
            (None, Some(old)) => {
                old.lost.is_empty()
                    && old.members == last.members
                    && old.replication_factor == last.replication_factor
            }
            (Some(_), None) => {
                next.members == last.members && next.replication_factor == last.replication_factor
            }
            (Some(before), Some(old)) => {
                let is_back = next.members == &old.members - &old.lost;
                old.members == before.members
                    && old.replication_factor == before.replication_factor
                    && next.replication_factor == last.replication_factor
                    && before.lost.is_subset(&old.lost)
                    && old.lost.is_subset(&old.members)
                    && (is_back || next.members.is_subset(&last.members))
                    && next.members.is_disjoint(&old.lost)
            }
            (None, None) => false,
        }
}

impl Registers {
    /// Takes configurations from the group's table.
    pub(super) fn on_configured(&mut self, chain: Vec<Configuration>) {
        let Some(epoch) = self.epoch() else { return self.start_with(chain) };
        for next in chain {
            if next.epoch > epoch || !self.adoption.known.contains_key(&next.epoch) {
                self.adoption.known.insert(next.epoch, next);
            }
        }
        self.adoption.trim(epoch);
    }

    /// A node without a past starts with the newest configuration: until then it has kept nothing, as if it had heard nothing.
    fn start_with(&mut self, chain: Vec<Configuration>) {
        let node = self.home.node;
        let Some(configuration) = chain.last().filter(|last| names(last, node)).cloned() else {
            return;
        };
        self.adoption.known = chain.into_iter().map(|next| (next.epoch, next)).collect();
        let state = ShardState {
            group: self.home.group.clone(),
            claim: self.home.claim,
            configuration,
            counter_limit: 0,
            version_limit: 0,
            floor: Ballot::NONE,
            ceiling: Ballot::NONE,
        };
        self.adopt(state);
    }

    /// Takes configurations from another member.
    pub(super) fn on_chain(&mut self, from: NodeId, configurations: Vec<Configuration>) {
        let Some(epoch) = self.epoch().filter(|_| self.is_member(from)) else { return };
        self.adoption.asked = None;
        for next in configurations.into_iter().take(CHAIN_MAX) {
            let Some(newest) = self.adoption.newest() else { return };
            if next.epoch <= newest.epoch {
                continue;
            }
            if !follows(newest, &next) || next.epoch - epoch > CHAIN_MAX as u64 {
                self.counts.dropped += 1;
                return;
            }
            self.adoption.known.insert(next.epoch, next);
        }
        self.adoption.trim(epoch);
    }

    /// A node that is behind has said something: tells it so, but not for every message.
    pub(super) fn tell_late(
        &mut self,
        step: StepContext<'_>,
        to: NodeId,
        epoch: u64,
        trace: TraceContext,
    ) {
        let now = step.now.monotonic;
        let is_told = |(told, at): &(u64, MonotonicUs)| *told == epoch && now.since(*at) < TELL_US;
        if !self.adoption.told.get(&to).is_some_and(is_told) && self.tell_chain(to, epoch, trace) {
            self.adoption.told.insert(to, (epoch, now));
        }
    }

    /// Tells a node that is behind what follows its epoch, if it was a member then or is one later.
    pub(super) fn tell_chain(&mut self, to: NodeId, epoch: u64, trace: TraceContext) -> bool {
        let Some(own) = self.epoch().filter(|own| *own > epoch) else { return false };
        let was_there = |next: &Configuration| names(next, to);
        let knew = self.adoption.known.get(&epoch).is_some_and(was_there);
        let follow = self.adoption.known.range(epoch + 1..=own);
        let configurations: Vec<_> =
            follow.take(CHAIN_PART).map(|(_, next)| next).cloned().collect();
        let is_next = configurations.first().is_some_and(|first| first.epoch - epoch == 1);
        let may_know = is_next && (knew || configurations.iter().any(was_there));
        if may_know {
            self.say(to, Body::Chain { configurations }, trace);
        }
        may_know
    }

    /// A member is ahead: this node asks for what follows, and keeps the message until then.
    pub(super) fn hear_ahead(
        &mut self,
        step: StepContext<'_>,
        from: NodeId,
        message: RegisterMessage,
        trace: TraceContext,
    ) {
        let now = step.now.monotonic;
        if self.adoption.asked.is_none_or(|asked| now.since(asked) >= ASK_US) {
            self.adoption.asked = Some(now);
            self.say(from, Body::Behind, trace);
        }
        self.hold(from, message, trace);
    }

    /// Keeps a request until the next configuration is adopted, within limits.
    pub(super) fn hold(&mut self, from: NodeId, message: RegisterMessage, trace: TraceContext) {
        let Some(len_bytes) = message.body.request_bytes() else { return };
        let adoption = &mut self.adoption;
        let has_room = adoption.held.len() < self.options.held_max
            && adoption.held_bytes + len_bytes <= self.options.held_bytes_max;
        if !has_room {
            self.counts.dropped += 1;
            return;
        }
        adoption.held_bytes += len_bytes;
        adoption.held.push_back(Held { from, message, trace });
    }

    /// Goes on with the adoption as far as possible. A step does this last, before it decides what it keeps.
    pub(super) fn move_on(&mut self) {
        let Some(state) = &self.state else { return };
        match self.adoption.stage {
            Stage::Resuming => {
                let state = state.clone();
                self.adopt(state);
            }
            Stage::Open | Stage::Closing => {
                let epoch = state.configuration.epoch;
                let Some(configuration) = self.next_after(epoch) else {
                    return self.check_gap(epoch);
                };
                let next = ShardState { configuration, ..state.clone() };
                if self.adoption.stage == Stage::Open {
                    self.adoption.stage = Stage::Closing;
                    self.park_all();
                }
                // What is kept in this step is flushed first, and has to be durable too.
                if self.keeping.is_idle() && !self.has_staged() {
                    self.adopt(next);
                }
            }
            Stage::Adopting | Stage::Over => {}
        }
    }

    fn next_after(&self, epoch: u64) -> Option<Configuration> {
        let known = &self.adoption.known;
        let next = if self.options.faults().skip_configurations {
            known.last_key_value().map(|(_, last)| last).filter(|last| last.epoch > epoch)
        } else {
            known.get(&(epoch + 1))
        };
        next.cloned()
    }

    /// Ends this node's part if what follows its epoch is not to be had any more.
    fn check_gap(&mut self, epoch: u64) {
        let Some((oldest, _)) = self.adoption.known.range(epoch + 1..).next() else { return };
        let oldest = *oldest;
        self.adoption.stage = Stage::Over;
        self.adoption.held.clear();
        self.end_all();
        self.out.push(RegisterEffect::LeftBehind { epoch, oldest });
    }

    fn adopt(&mut self, mut state: ShardState) {
        self.adoption.stage = Stage::Adopting;
        let epoch = state.configuration.epoch;
        let counter = self.numbers.counter();
        state.ceiling = promises::above(state.ceiling, Ballot { epoch, counter, node: 0 });
        (self.is_state_news, self.is_state_owed) = (false, false);
        self.state = Some(state.clone());
        if !self.options.faults().piggyback_across_epochs {
            self.ready.clear();
        }
        self.rescan = None;
        self.adoption.told.clear();
        self.out.push(RegisterEffect::Adopt { state });
    }

    /// The configuration is durable.
    pub(super) fn on_adopted(&mut self, step: StepContext<'_>, epoch: u64, rescan: Vec<ObjectId>) {
        let Some(state) = &self.state else { return };
        if self.adoption.stage != Stage::Adopting || state.configuration.epoch != epoch {
            return;
        }
        self.numbers.kept((state.counter_limit, state.version_limit));
        self.promises.kept(state.ceiling);
        self.promises.enter();
        self.adoption.stage = Stage::Open;
        let is_joint = state.configuration.is_joint();
        let is_last = !self.adoption.known.contains_key(&(epoch + 1));
        if !is_last {
            // The next one follows at once: nothing is begun, and a rescan would be of no use any more.
            return;
        }
        if is_joint {
            self.begin_rescan(epoch, rescan);
        }
        self.restart_all(step);
        let held = std::mem::take(&mut self.adoption.held);
        self.adoption.held_bytes = 0;
        for Held { from, message, trace } in held {
            self.on_heard(step, from, message, trace);
        }
    }

    /// Stops every round and read, on the way to another configuration.
    fn park_all(&mut self) {
        let ids: Vec<_> = self.lines.keys().cloned().collect();
        for id in ids {
            let Some(mut line) = self.lines.remove(&id) else { continue };
            if let Some(query) = line.query.take() {
                self.timers.remove(&(query.due, Timer::Query(id.clone())));
                line.readers.splice(0..0, query.readers);
            }
            line.queue.retain(|waiting| !matches!(waiting.task, RoundTask::Rescan));
            if let Some(mut round) = line.round.take() {
                self.untime(&id, &round);
                match round.task {
                    RoundTask::Rescan => line.beyond.append(&mut round.readers),
                    RoundTask::Clear(_) => self.end_each(round.ops, &RegisterOutcome::Busy),
                    _ => {
                        round.leave_epoch();
                        line.round = Some(round);
                    }
                }
            }
            if !line.is_idle() {
                self.lines.insert(id, line);
            }
        }
    }

    /// Continues everything that waits, under the configuration that is adopted now.
    fn restart_all(&mut self, step: StepContext<'_>) {
        if !self.is_named() {
            return self.end_all();
        }
        let ids: Vec<_> = self.lines.keys().cloned().collect();
        for id in ids {
            if let Some(round) = self.take_round(&id) {
                self.prepare(step, &id, round);
            }
            self.again.insert(id);
        }
    }
}
