//! What this node holds itself: read from its store in parts, and kept up to date by the reports of its workers.

use super::{Bookkeeper, LedgerEffect, NOTICE_PAUSE_US, NoAnswer, Now, Ticket};
use crate::{
    ledger::{HeldObject, LIMIT_ENTRIES, LedgerChange, Notice},
    model::{object::ObjectId, time::MonotonicUs},
    register::SHARDS,
    repair::digest::BUCKETS_PER_SHARD,
};

/// How soon a read of the store that failed is tried again.
const AGAIN_US: u64 = 200_000;
/// The most changes that are kept while a part of the store is read; with more it is read again.
const MEANWHILE_MAX: usize = 50_000;

/// The reading of the store.
#[derive(Debug)]
pub(super) struct Scan {
    /// Where it stands; `None` = it is over.
    at: Option<(u8, Option<ObjectId>)>,
    /// The part that is being read.
    reading: Option<Ticket>,
    /// When the next part is to be read.
    due: MonotonicUs,
    /// What has changed since the reading of the part began: the part may be older, or newer.
    meanwhile: Vec<LedgerChange>,
    /// Whether the store was read once.
    once: bool,
    /// Whether this reading has found anything that was not known.
    has_news: bool,
}

impl Scan {
    pub fn new(now: MonotonicUs) -> Self {
        let (at, meanwhile) = (Some((0, None)), Vec::new());
        Self { at, reading: None, due: now, meanwhile, once: false, has_news: false }
    }

    /// Begins from the start.
    pub fn again(&mut self, now: MonotonicUs) {
        *self = Self { once: self.once, ..Self::new(now) };
    }

    pub fn due(&self) -> Option<MonotonicUs> {
        (self.at.is_some() && self.reading.is_none()).then_some(self.due)
    }

    /// Tells whether what the node holds is known.
    pub fn is_complete(&self) -> bool {
        self.once
    }
}

impl Bookkeeper {
    /// Asks for the next part of the store.
    pub(super) fn scan_on(&mut self, now: MonotonicUs) {
        if self.scan.due().is_none_or(|due| now < due) {
            return;
        }
        let Some((shard, after)) = self.scan.at.clone() else { return };
        let ticket = self.ticket();
        self.scan.reading = Some(ticket);
        self.scan.meanwhile.clear();
        self.out.push(LedgerEffect::Scan { ticket, shard, after });
    }

    pub(super) fn on_scanned(
        &mut self,
        now: Now,
        ticket: Ticket,
        part: Result<(Vec<HeldObject>, Option<ObjectId>), NoAnswer>,
    ) {
        if self.scan.reading != Some(ticket) {
            return;
        }
        self.scan.reading = None;
        let (Ok((entries, until)), Some((shard, after))) = (part, self.scan.at.take()) else {
            self.scan.at.get_or_insert((0, None));
            self.scan.due = now.monotonic.plus_us(AGAIN_US);
            return;
        };
        let first = u16::from(shard) * BUCKETS_PER_SHARD;
        let buckets = first..first + BUCKETS_PER_SHARD;
        let (after, last) = (after.as_ref(), until.as_ref());
        let changed = self.ledger.reconcile(self.this, buckets, after, last, entries);
        self.scan.has_news |= changed > 0;
        for change in std::mem::take(&mut self.scan.meanwhile) {
            self.take(self.this, change);
        }
        self.changed_at = now.monotonic;
        self.scan.due = now.monotonic;
        self.scan.at = match until {
            Some(until) => Some((shard, Some(until))),
            None if shard + 1 < SHARDS => Some((shard + 1, None)),
            None => None,
        };
        if self.scan.at.is_none() {
            let is_first = !std::mem::replace(&mut self.scan.once, true);
            if is_first || self.scan.has_news {
                self.call_for_comparison();
            }
        }
    }

    /// Has the other ledgers compare soon what they know of this node, by leaving out a number.
    fn call_for_comparison(&mut self) {
        self.flush();
        self.seq += 1;
        self.notify(Vec::new());
    }

    pub(super) fn on_changed(&mut self, now: Now, changes: Vec<LedgerChange>) {
        if changes.is_empty() {
            return;
        }
        if self.scan.reading.is_some() {
            if self.scan.meanwhile.len() + changes.len() > MEANWHILE_MAX {
                self.scan.reading = None;
                self.scan.meanwhile.clear();
                self.scan.due = now.monotonic.plus_us(AGAIN_US);
            } else {
                self.scan.meanwhile.extend(changes.iter().cloned());
            }
        }
        self.changed_at = now.monotonic;
        let has_listeners = self.listeners().next().is_some();
        for change in changes {
            self.take(self.this, change.clone());
            if has_listeners {
                self.pending.push(change);
                if self.pending.len() >= LIMIT_ENTRIES {
                    self.flush();
                }
            }
        }
        if !self.pending.is_empty() && self.flush_due.is_none() {
            self.flush_due = Some(now.monotonic.plus_us(NOTICE_PAUSE_US));
        }
    }

    /// Returns the members that keep a ledger beside this node.
    fn listeners(&self) -> impl Iterator<Item = super::NodeId> {
        let keepers = self.site.iter().flat_map(|site| &site.keepers).copied();
        keepers.filter(|node| *node != self.this)
    }

    /// Tells what has changed since the last notice.
    pub(super) fn flush(&mut self) {
        self.flush_due = None;
        let changes = std::mem::take(&mut self.pending);
        if !changes.is_empty() {
            self.notify(changes);
        }
    }

    fn notify(&mut self, changes: Vec<LedgerChange>) {
        let Some(site) = &self.site else { return };
        self.seq += 1;
        let (group, life, seq) = (site.group.clone(), self.life, self.seq);
        let notice = Notice::Changed { group, life, seq, changes };
        let tell = |to| LedgerEffect::Tell { to, notice: notice.clone() };
        let told: Vec<_> = self.listeners().map(tell).collect();
        self.out.extend(told);
    }
}
