//! Cleans up: a round makes a tombstone of an expired object (rule 10), and a round removes a tombstone once every member has
//! promised to submit nothing older (rule 12). While a member does not answer, the tombstones stay.

use std::collections::BTreeMap;

use super::{
    Burial, Expired, NoAnswer, Now, RepairAnswer, RepairEffect, RepairRequest, Survey, Sweeper,
    Ticket,
    running::{Reason, RepairTask},
};
use crate::{
    model::{node_id::NodeId, object::Version, time::MonotonicUs},
    register::RegisterOrder,
};

/// The most expired objects that are looked at, at a time.
pub const OUTLIVED_MAX: usize = 512;
/// After so many seconds any replica makes an expired object a tombstone, not only the one that should.
const ANYBODY_S: u64 = 600;

/// The search for expired objects.
#[derive(Debug)]
pub(super) struct ExpirySearch {
    due: MonotonicUs,
    under_way: Option<Ticket>,
    after: Option<Expired>,
}

impl ExpirySearch {
    pub fn new(due: MonotonicUs) -> Self {
        Self { due, under_way: None, after: None }
    }

    pub fn hurry(&mut self, due: MonotonicUs) {
        self.due = self.due.min(due);
    }

    pub fn give_up(&mut self, due: MonotonicUs) {
        *self = Self::new(due.min(self.due));
    }

    fn next_due(&self) -> Option<MonotonicUs> {
        self.under_way.is_none().then_some(self.due)
    }
}

/// The removal of tombstones.
#[derive(Debug)]
pub(super) struct Burials {
    due: MonotonicUs,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Surveying(Ticket),
    /// Whose promises are awaited, by ticket; and what was promised so far.
    Asking {
        waiting: BTreeMap<Ticket, NodeId>,
        watermark: Version,
        burials: Vec<Burial>,
        more: bool,
    },
}

impl Burials {
    pub fn new(due: MonotonicUs) -> Self {
        Self { due, stage: Stage::Idle }
    }

    pub fn hurry(&mut self, due: MonotonicUs) {
        self.due = self.due.min(due);
    }

    pub fn give_up(&mut self, due: MonotonicUs) {
        *self = Self::new(due.min(self.due));
    }

    fn next_due(&self) -> Option<MonotonicUs> {
        matches!(self.stage, Stage::Idle).then_some(self.due)
    }
}

impl Sweeper {
    // ---- expired objects ----

    /// Returns when expired objects are looked for. What was found last comes first.
    pub(super) fn expire_due(&self) -> Option<MonotonicUs> {
        self.expiry.next_due().filter(|_| !self.running.has(Reason::Expired))
    }

    pub(super) fn expire_on(&mut self, now: Now) {
        if self.expire_due().is_none_or(|due| now.monotonic < due) {
            return;
        }
        let ticket = self.ticket();
        self.expiry.under_way = Some(ticket);
        self.out.push(RepairEffect::Outlived { ticket, after: self.expiry.after.clone() });
    }

    pub(super) fn on_outlived(
        &mut self,
        now: Now,
        ticket: Ticket,
        found: Result<Vec<Expired>, NoAnswer>,
    ) {
        if self.expiry.under_way != Some(ticket) {
            return;
        }
        self.expiry.under_way = None;
        let Some(scope) = &self.scope else { return };
        let found = found.unwrap_or_default();
        self.expiry.after = found.last().cloned();
        let goes_on = !found.is_empty();
        for Expired { id, expires_at, .. } in found.into_iter().take(OUTLIVED_MAX) {
            let is_old = expires_at.0.saturating_add(ANYBODY_S) <= now.wall.secs().0;
            let is_ours = scope.looks_after(&id, &self.alive);
            let is_ours = is_ours || is_old && scope.replicas(&id).contains(&scope.this);
            if is_ours && self.running.room() > 0 {
                let (order, reason, since) = (RegisterOrder::Expire, Reason::Expired, now.wall);
                self.running.want(RepairTask {
                    id,
                    order,
                    reason,
                    bytes: 0,
                    epoch: None,
                    since,
                    tries: 0,
                });
            }
        }
        let pause = if goes_on { 0 } else { self.options.expire_us };
        self.expiry.due = now.monotonic.plus_us(pause);
    }

    // ---- tombstones ----

    /// Returns when tombstones are looked for. What was found last comes first.
    pub(super) fn bury_due(&self) -> Option<MonotonicUs> {
        self.burials.next_due().filter(|_| !self.running.has(Reason::Tombstone))
    }

    pub(super) fn bury_on(&mut self, now: Now) {
        let is_due = self.bury_due().is_some_and(|due| now.monotonic >= due);
        let Some(scope) = self.scope.clone().filter(|_| is_due) else { return };
        let silent = |node: &&NodeId| **node != scope.this && !self.alive.contains(node);
        self.status.kept_for = scope.members.iter().find(silent).copied();
        if self.status.kept_for.is_some() {
            self.burials.due = now.monotonic.plus_us(self.options.bury_us);
            return;
        }
        let ticket = self.ticket();
        self.burials.stage = Stage::Surveying(ticket);
        self.out.push(RepairEffect::Survey { ticket, scope, alive: self.alive.clone() });
    }

    /// Takes a survey that was for burials. Gives it back if it was not.
    pub(super) fn on_survey_for_burials(
        &mut self,
        now: Now,
        ticket: Ticket,
        survey: Result<Survey, NoAnswer>,
    ) -> Option<Result<Survey, NoAnswer>> {
        if !matches!(self.burials.stage, Stage::Surveying(of) if of == ticket) {
            return Some(survey);
        }
        self.burials = Burials::new(now.monotonic.plus_us(self.options.bury_us));
        let (Ok(survey), Some(scope)) = (survey, self.scope.clone()) else { return None };
        let (of_nothing, tombstones): (Vec<_>, Vec<_>) =
            survey.burials.into_iter().partition(|burial| burial.version == Version::default());
        self.status.kept_tombstones = 0;
        self.status.kept_for = None;
        self.bury(now, of_nothing);
        if tombstones.is_empty() {
            return None;
        }
        self.status.kept_tombstones = tombstones.len() as u64;
        let mut waiting = BTreeMap::new();
        for node in &scope.members {
            let ticket = self.ticket();
            waiting.insert(ticket, *node);
            if *node == scope.this {
                self.out.push(RepairEffect::Watermark { ticket });
            } else {
                let (group, epoch) = (scope.group.clone(), scope.epoch);
                let question = RepairRequest::Watermark { group, epoch };
                self.out.push(RepairEffect::Ask { ticket, to: *node, question });
            }
        }
        let watermark = Version { time: u64::MAX, node: u64::MAX };
        let more = survey.more_burials;
        self.burials.stage = Stage::Asking { waiting, watermark, burials: tombstones, more };
        None
    }

    pub(super) fn on_own_watermark(
        &mut self,
        now: Now,
        ticket: Ticket,
        watermark: Result<Version, NoAnswer>,
    ) {
        self.on_watermark(now, ticket, watermark.map(RepairAnswer::Watermark));
    }

    /// Takes a member's promise. Returns the answer if no such promise was expected.
    pub(super) fn on_watermark(
        &mut self,
        now: Now,
        ticket: Ticket,
        answer: Result<RepairAnswer, NoAnswer>,
    ) -> Option<Result<RepairAnswer, NoAnswer>> {
        let Stage::Asking { waiting, watermark, .. } = &mut self.burials.stage else {
            return Some(answer);
        };
        let Some(node) = waiting.remove(&ticket) else { return Some(answer) };
        let Ok(RepairAnswer::Watermark(promised)) = answer else {
            // It may hold any older write: nothing is cleared away before it has promised.
            self.status.kept_for = Some(node);
            self.burials = Burials::new(now.monotonic.plus_us(self.options.bury_us));
            return None;
        };
        *watermark = promised.min(*watermark);
        if !waiting.is_empty() {
            return None;
        }
        let again = now.monotonic.plus_us(self.options.bury_us);
        let asked = std::mem::replace(&mut self.burials, Burials::new(again));
        if let Stage::Asking { watermark, burials, more, .. } = asked.stage {
            let all = burials.len();
            let (free, kept): (Vec<_>, Vec<_>) =
                burials.into_iter().partition(|burial| burial.version <= watermark);
            self.status.kept_tombstones = kept.len() as u64;
            if more && free.len() * 2 > all {
                self.burials.due = now.monotonic.plus_us(self.options.soon_us);
            }
            self.bury(now, free);
        }
        None
    }

    fn bury(&mut self, now: Now, burials: Vec<Burial>) {
        let epoch = self.scope.as_ref().map(|scope| scope.epoch);
        let room = self.running.room();
        for Burial { id, version } in burials.into_iter().take(room) {
            let (order, reason) = (RegisterOrder::Clear(version), Reason::Tombstone);
            let since = now.wall;
            self.running.want(RepairTask { id, order, reason, bytes: 0, epoch, since, tries: 0 });
        }
    }
}
