//! The rounds that repair wants: a few at a time, and no more bytes per second than the limit for repair.

use std::collections::{BTreeMap, VecDeque};

use super::{Now, RepairEffect, RepairOptions, Ticket};
use crate::{
    model::{
        node_id::NodeId,
        object::ObjectId,
        pause,
        time::{MonotonicUs, UnixMs},
    },
    register::{RegisterOrder, RegisterOutcome},
};

/// The most rounds that wait.
const QUEUE_MAX: usize = 4_096;
/// How often a round is tried before the next comparison has to find the object again.
const TRIES_MAX: u32 = 3;
/// How soon a round is tried again that did not succeed.
const AGAIN_US: u64 = 1_000_000;
/// What a round costs beside the values.
const ROUND_BYTES: u64 = 256;

/// What the sweeper has done since it was started, and what it is at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairStatus {
    /// Since when it is at work; `None` = there is nothing to do.
    pub running_since: Option<UnixMs>,
    /// The member that it is comparing with.
    pub comparing: Option<NodeId>,
    /// Comparisons that were finished.
    pub compared: u64,
    /// Those that found no difference.
    pub equal: u64,
    /// Comparisons that were not finished.
    pub interrupted: u64,
    /// When the last one was finished.
    pub last_compared: Option<UnixMs>,
    /// Objects whose replicas differed.
    pub differing: u64,
    /// Those of them that were repaired.
    pub repaired: u64,
    /// Bytes that repairs have moved, by estimate.
    pub repaired_bytes: u64,
    /// Expired objects that were made tombstones.
    pub expired: u64,
    /// Tombstones that were cleared away.
    pub cleared: u64,
    /// Tombstones that were looked at last and have to stay for now.
    pub kept_tombstones: u64,
    /// The member for whose promise they stay, if it is one.
    pub kept_for: Option<NodeId>,
    /// Rounds that were given up; the next pass finds their objects again.
    pub failed: u64,
    /// Objects that wait for a round, or are in one.
    pub left: u64,
    /// Since when the oldest of them waits.
    pub oldest: Option<UnixMs>,
}

/// Why a round is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    Differs,
    Expired,
    Tombstone,
}

/// A round that is wanted.
#[derive(Debug, Clone)]
pub(super) struct RepairTask {
    pub id: ObjectId,
    pub order: RegisterOrder,
    pub reason: Reason,
    /// The bytes that it will move.
    pub bytes: u64,
    /// The only epoch in which it may be run; `None` = any.
    pub epoch: Option<u64>,
    pub since: UnixMs,
    pub tries: u32,
}

/// The rounds.
#[derive(Debug)]
pub(super) struct RepairRounds {
    options: RepairOptions,
    queue: VecDeque<RepairTask>,
    again: BTreeMap<(MonotonicUs, Ticket), RepairTask>,
    under_way: BTreeMap<Ticket, RepairTask>,
    counts: BTreeMap<Reason, usize>, // invariant: how many tasks of each reason the three above have
    /// How many bytes may be spent; below 0 = too many were.
    budget: i64,
    filled: MonotonicUs,
}

impl RepairRounds {
    pub fn new(options: RepairOptions, now: MonotonicUs) -> Self {
        Self {
            options,
            queue: VecDeque::new(),
            again: BTreeMap::new(),
            under_way: BTreeMap::new(),
            counts: BTreeMap::new(),
            budget: 0,
            filled: now,
        }
    }

    /// Returns how many more rounds may be wanted.
    pub fn room(&self) -> usize {
        QUEUE_MAX.saturating_sub(self.left())
    }

    pub fn left(&self) -> usize {
        self.queue.len() + self.again.len() + self.under_way.len()
    }

    /// Returns how many rounds for this reason are wanted or under way.
    pub fn count(&self, reason: Reason) -> usize {
        self.counts.get(&reason).copied().unwrap_or_default()
    }

    /// Tells whether there are any.
    pub fn has(&self, reason: Reason) -> bool {
        self.count(reason) > 0
    }

    fn drop_one(&mut self, reason: Reason) {
        if let Some(count) = self.counts.get_mut(&reason) {
            *count -= 1;
        }
    }

    pub fn oldest(&self) -> Option<UnixMs> {
        self.tasks().map(|task| task.since).min()
    }

    fn tasks(&self) -> impl Iterator<Item = &RepairTask> {
        self.queue.iter().chain(self.again.values()).chain(self.under_way.values())
    }

    pub fn want(&mut self, task: RepairTask) {
        *self.counts.entry(task.reason).or_default() += 1;
        self.queue.push_back(task);
    }

    /// Drops what may only be run in another epoch, if it has not begun.
    pub fn keep_epoch(&mut self, epoch: Option<u64>) {
        let fits = |task: &RepairTask| task.epoch.is_none() || task.epoch == epoch;
        self.queue.retain(fits);
        self.again.retain(|_, task| fits(task));
        let reasons: Vec<_> = self.tasks().map(|task| task.reason).collect();
        self.counts.clear();
        for reason in reasons {
            *self.counts.entry(reason).or_default() += 1;
        }
    }

    pub fn on_ended(
        &mut self,
        now: Now,
        ticket: Ticket,
        ended: &RegisterOutcome,
        status: &mut super::RepairStatus,
    ) {
        let Some(mut task) = self.under_way.remove(&ticket) else { return };
        if *ended == RegisterOutcome::Done {
            self.drop_one(task.reason);
            match task.reason {
                Reason::Differs => {
                    status.repaired += 1;
                    status.repaired_bytes += task.bytes;
                }
                Reason::Expired => status.expired += 1,
                Reason::Tombstone => status.cleared += 1,
            }
            return;
        }
        task.tries += 1;
        if task.tries >= TRIES_MAX {
            self.drop_one(task.reason);
            status.failed += 1;
            return;
        }
        let at = now.monotonic.plus_us(pause::doubled(AGAIN_US, task.tries, AGAIN_US << TRIES_MAX));
        self.again.insert((at, ticket), task);
    }

    fn refill(&mut self, now: MonotonicUs) {
        let rate = self.options.bytes_per_s.max(1);
        let us = now.since(self.filled).min(1_000_000);
        let added = (u128::from(rate) * u128::from(us) / 1_000_000) as i64;
        if added > 0 {
            self.budget = self.budget.saturating_add(added).min(rate as i64);
            self.filled = now;
        }
    }

    pub fn next_due(&self) -> Option<MonotonicUs> {
        let again = self.again.keys().next().map(|(at, _)| *at);
        let is_held = self.budget < 0 && !self.queue.is_empty();
        let rate = self.options.bytes_per_s.max(1);
        let us = u128::from(self.budget.unsigned_abs()) * 1_000_000 / u128::from(rate) + 1_000;
        let paid = is_held.then(|| self.filled.plus_us(us.min(1_000_000) as u64));
        let paid = paid.filter(|_| self.under_way.len() < self.options.rounds_max);
        again.into_iter().chain(paid).min()
    }

    /// Begins what may be begun.
    pub fn run(&mut self, now: Now, last: &mut Ticket, effects: &mut Vec<RepairEffect>) {
        self.refill(now.monotonic);
        while let Some(entry) = self.again.first_entry() {
            if entry.key().0 > now.monotonic {
                break;
            }
            self.queue.push_back(entry.remove());
        }
        while self.under_way.len() < self.options.rounds_max && self.budget >= 0 {
            let Some(task) = self.queue.pop_front() else { break };
            self.budget = self.budget.saturating_sub_unsigned(task.bytes + ROUND_BYTES);
            let (id, order) = (task.id.clone(), task.order.clone());
            let ticket = last.draw();
            effects.push(RepairEffect::Run { ticket, id, order });
            self.under_way.insert(ticket, task);
        }
    }
}
