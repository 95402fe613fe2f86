//! Decides what is read, compared and repaired, and when.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    RegisterCursor, RepairAnswer, RepairRequest, RepairStatus, ReplicaHead, Scope, SharedPart,
    Survey,
    burying::{Burials, ExpirySearch},
    comparing::Comparison,
    running::RepairRounds,
};
use crate::{
    machine::{Core, NoAnswer, Now, Ticket},
    model::{
        node_id::NodeId,
        object::{ObjectId, Version},
        time::{MonotonicUs, UnixSecs},
    },
    register::{RegisterOrder, RegisterOutcome},
    repair::digest::BucketSet,
};

/// How much later the second of two members compares, so that they do not repair the same at the same time.
const SECOND_US: u64 = 30_000_000;

/// How much, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairOptions {
    /// How often each other member is compared with.
    pub interval_us: u64,
    /// How soon after a change of the group, or after a member is back.
    pub soon_us: u64,
    /// How often expired objects are looked for.
    pub expire_us: u64,
    /// How often tombstones are.
    pub bury_us: u64,
    /// The most rounds at a time.
    pub rounds_max: usize,
    /// The most bytes of values that repairs move in a second.
    pub bytes_per_s: u64,
}

/// An object of the group whose time has come, and that only a round may make a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// The object.
    pub id: ObjectId,
    /// Its version.
    pub version: Version,
    /// Since when it is absent.
    pub expires_at: UnixSecs,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum RepairEvent {
    /// The group, and which of its members answer; `None` = there is none, or it changes.
    Viewed(Option<(Scope, BTreeSet<NodeId>)>),
    /// A pass over this node's registers has ended.
    Surveyed(Ticket, Result<Survey, NoAnswer>),
    /// What a question has brought.
    Answered(Ticket, Result<RepairAnswer, NoAnswer>),
    /// A part of what this node shares with another one.
    Walked(Ticket, Result<SharedPart, NoAnswer>),
    /// What this node has of some objects.
    Looked(Ticket, Result<Vec<Option<ReplicaHead>>, NoAnswer>),
    /// Objects that have expired, oldest first.
    Outlived(Ticket, Result<Vec<Expired>, NoAnswer>),
    /// Up to which version this node will submit nothing any more.
    Watermark(Ticket, Result<Version, NoAnswer>),
    /// A round has ended.
    Ended(Ticket, RegisterOutcome),
    /// Time has passed.
    Tick,
}

/// What is to be done. Each has one event as its answer, unless it is about a comparison that was given up meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepairEffect {
    /// Pass over this node's registers.
    Survey {
        /// Names it.
        ticket: Ticket,
        /// The replica sets.
        scope: Scope,
        /// Which members answer.
        alive: BTreeSet<NodeId>,
    },
    /// Ask another member.
    Ask {
        /// Names it.
        ticket: Ticket,
        /// Whom.
        to: NodeId,
        /// What.
        question: RepairRequest,
    },
    /// Read a part of what this node shares with another one.
    Walk {
        /// Names it.
        ticket: Ticket,
        /// The replica sets.
        scope: Scope,
        /// The other one.
        other: NodeId,
        /// In which buckets.
        buckets: BucketSet,
        /// Behind which place.
        from: RegisterCursor,
    },
    /// Look at some registers of this node.
    Look {
        /// Names it.
        ticket: Ticket,
        /// The objects.
        ids: Vec<ObjectId>,
    },
    /// List objects that have expired.
    Outlived {
        /// Names it.
        ticket: Ticket,
        /// Behind which one.
        after: Option<Expired>,
    },
    /// Have this node promise to submit nothing old any more.
    Watermark {
        /// Names it.
        ticket: Ticket,
    },
    /// Run a round.
    Run {
        /// Names it.
        ticket: Ticket,
        /// The object.
        id: ObjectId,
        /// What.
        order: RegisterOrder,
    },
}

/// When a member is compared with next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub at: MonotonicUs,
    pub failures: u32,
}

/// The sweeper of one node.
#[derive(Debug)]
pub struct Sweeper {
    pub(super) options: RepairOptions,
    pub(super) scope: Option<Scope>,
    pub(super) alive: BTreeSet<NodeId>,
    pub(super) due: BTreeMap<NodeId, Due>,
    pub(super) comparison: Option<Comparison>,
    pub(super) expiry: ExpirySearch,
    pub(super) burials: Burials,
    pub(super) running: RepairRounds,
    pub(super) status: RepairStatus,
    last_ticket: Ticket,
    pub(super) out: Vec<RepairEffect>,
}

impl Core for Sweeper {
    type Event = RepairEvent;
    type Effect = RepairEffect;
    type Shelf<'a> = ();

    fn step(&mut self, now: Now, event: RepairEvent, (): &()) -> Vec<RepairEffect> {
        match event {
            RepairEvent::Viewed(view) => self.on_view(now, view),
            RepairEvent::Surveyed(ticket, survey) => self.on_surveyed(now, ticket, survey),
            RepairEvent::Answered(ticket, answer) => self.on_answered(now, ticket, answer),
            RepairEvent::Walked(ticket, part) => self.on_walked(now, ticket, part),
            RepairEvent::Looked(ticket, heads) => self.on_looked(now, ticket, heads),
            RepairEvent::Outlived(ticket, found) => self.on_outlived(now, ticket, found),
            RepairEvent::Watermark(ticket, watermark) => {
                self.on_own_watermark(now, ticket, watermark)
            }
            RepairEvent::Ended(ticket, ended) => {
                self.running.on_ended(now, ticket, &ended, &mut self.status);
            }
            RepairEvent::Tick => {}
        }
        self.on_time(now);
        std::mem::take(&mut self.out)
    }

    fn next_due(&self) -> Option<MonotonicUs> {
        let idle = self.scope.is_some() && self.comparison.is_none();
        let with = self.due.iter().filter(|(node, _)| self.alive.contains(node));
        let compares = with.map(|(_, due)| due.at).min().filter(|_| idle);
        let chores = [self.expire_due(), self.bury_due()];
        let chores = chores.into_iter().flatten().min().filter(|_| self.scope.is_some());
        [compares, chores, self.running.next_due()].into_iter().flatten().min()
    }
}

impl Sweeper {
    /// Starts the sweeper of a node that has no group yet. `before` is what earlier ones of the node have done.
    pub fn new(options: RepairOptions, now: MonotonicUs, before: RepairStatus) -> Self {
        Self {
            options,
            scope: None,
            alive: BTreeSet::new(),
            due: BTreeMap::new(),
            comparison: None,
            expiry: ExpirySearch::new(now.plus_us(options.expire_us)),
            burials: Burials::new(now.plus_us(options.bury_us)),
            running: RepairRounds::new(options, now),
            status: RepairStatus { kept_tombstones: 0, kept_for: None, ..before },
            last_ticket: Ticket::default(),
            out: Vec::new(),
        }
    }

    /// Returns what has been done and what is left.
    pub fn status(&self) -> RepairStatus {
        let left = self.running.left();
        let found = self.comparison.as_ref().map_or(0, Comparison::candidates);
        RepairStatus {
            left: (left + found) as u64,
            comparing: self.comparison.as_ref().map(|comparison| comparison.with),
            oldest: self.running.oldest(),
            ..self.status.clone()
        }
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.last_ticket.draw()
    }

    /// Compares with everybody and looks for what can be cleared away, soon.
    pub fn hurry(&mut self, now: MonotonicUs) {
        let soon = now.plus_us(self.options.soon_us);
        self.due.values_mut().for_each(|due| due.at = due.at.min(soon));
        self.expiry.hurry(soon);
        self.burials.hurry(soon);
    }

    fn on_view(&mut self, now: Now, view: Option<(Scope, BTreeSet<NodeId>)>) {
        let (scope, alive) = match view {
            Some((scope, alive)) => (Some(scope), alive),
            None => (None, BTreeSet::new()),
        };
        let soon = Due { at: now.monotonic.plus_us(self.options.soon_us), failures: 0 };
        if scope != self.scope {
            // What was under way is about other replica sets, or other members.
            self.comparison = None;
            self.burials.give_up(now.monotonic.plus_us(self.options.soon_us));
            self.expiry.give_up(now.monotonic.plus_us(self.options.soon_us));
            let epoch = scope.as_ref().map(|scope| scope.epoch);
            self.running.keep_epoch(epoch);
            let others = scope.iter().flat_map(|scope| {
                scope.members.iter().filter(|node| **node != scope.this).copied()
            });
            self.due = others.map(|node| (node, soon)).collect();
            self.scope = scope;
            self.alive.clear();
        }
        let this = self.scope.as_ref().map(|scope| scope.this);
        for node in alive.difference(&self.alive) {
            if let Some(due) = self.due.get_mut(node) {
                // One of the two repairs both. The other one looks a little later whether it has.
                let is_second = this.is_some_and(|this| this > *node);
                let later = if is_second { SECOND_US.min(self.options.interval_us / 2) } else { 0 };
                *due = Due { at: soon.at.plus_us(later), failures: 0 };
            }
        }
        self.alive = alive;
    }

    fn on_time(&mut self, now: Now) {
        if self.scope.is_some() {
            self.expire_on(now);
            self.bury_on(now);
            self.compare_on(now);
        }
        let is_busy = self.comparison.is_some() || self.running.left() > 0;
        match (is_busy, self.status.running_since) {
            (true, None) => self.status.running_since = Some(now.wall),
            (false, Some(_)) => self.status.running_since = None,
            _ => {}
        }
        self.running.run(now, &mut self.last_ticket, &mut self.out);
    }
}

#[cfg(test)]
mod tests;
