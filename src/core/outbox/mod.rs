//! Fast writes on their way to a quorum: kept here first, then merged into their registers, in order for each object.
//!
//! One entry per object: the newest. An entry is removed only once a quorum has it or something newer. The outbox decides what
//! is kept, when it is merged and tried again, and which versions this node will not submit any more (rule 12). Invariants: no
//! merge begins before its entry is durable; of one object at most one merge runs; no version is given twice.

mod carrying;
mod entry;
mod event;
mod loading;
mod watermark;

use std::collections::{BTreeMap, BTreeSet};

use self::entry::OutboxEntry;
pub use self::event::{
    Draft, Figures, LoadedEntry, MergeEnd, OutboxEffect, OutboxEvent, OutboxRefusal, OutboxShelf,
};
use crate::{
    machine::{Core, Now, Ticket},
    model::{
        change::{WriteDecision, Written},
        hlc::HybridClock,
        object::{ObjectId, Version},
        pause,
        time::MonotonicUs,
    },
    register::{OpId, Tombstone, Value},
};

/// The most merges under way.
pub const IN_FLIGHT_MAX: usize = 64;
/// The most entries that one removal names.
const REMOVED_MAX: usize = 1_024;
/// The most requests that wait for the entries to be loaded.
const HELD_MAX: usize = 1_024;
/// After so many times that they could not be loaded, requests are refused until they are.
const PATIENT_LOADS: u32 = 3;
/// The first and the longest pause before a merge is tried again.
const PAUSE_US: u64 = 100_000;
const PAUSE_US_MAX: u64 = 30_000_000;
/// What an entry costs beside its id and its bytes.
const ENTRY_BYTES: u64 = 64;

/// What an outbox may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of ids and values, with a little for each entry.
    pub bytes: u64,
}

/// What a ticket stands for.
#[derive(Debug)]
enum OutboxTask {
    /// What was begun before this one started is through.
    Barrier,
    Put(ObjectId, Version),
    Remove(Vec<(ObjectId, Version)>),
    Watermark(OpId, Version),
}

/// How far the entries of an earlier life are known.
#[derive(Debug)]
enum LoadPhase {
    New,
    Loading,
    /// They could not be read; to be tried again then.
    Failed(MonotonicUs),
    Ready,
}

/// The outbox of a node.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    clock: HybridClock,
    phase: LoadPhase,
    failed_loads: u32,
    held: Vec<OutboxEvent>,
    entries: BTreeMap<ObjectId, OutboxEntry>,
    /// Those that wait to be merged, by when.
    due: BTreeSet<(MonotonicUs, ObjectId)>,
    /// All, by the oldest version of each that could still be submitted.
    oldest: BTreeSet<(Version, ObjectId)>,
    bytes: u64,
    in_flight: usize,
    /// Nothing begins before this: the registers take nothing at the moment.
    paused_until: MonotonicUs,
    pauses: u32,
    /// What is done and not yet removed.
    done: Vec<(ObjectId, Version)>,
    is_removing: bool,
    tasks: BTreeMap<Ticket, OutboxTask>,
    last_ticket: Ticket,
    /// The greatest watermark known to be durable.
    watermark: Version,
    discarding: Option<(Version, Vec<OpId>)>,
    /// What has become durable in this step: its merge need not read it back.
    fresh: Option<(ObjectId, Value)>,
    drained: u64,
    retried: u64,
    discarded: u64,
    out: Vec<OutboxEffect>,
}

impl Core for Outbox {
    type Event = OutboxEvent;
    type Effect = OutboxEffect;
    type Shelf<'a> = dyn OutboxShelf + 'a;

    fn step(
        &mut self,
        now: Now,
        event: OutboxEvent,
        shelf: &(dyn OutboxShelf + '_),
    ) -> Vec<OutboxEffect> {
        self.begin_loading(now);
        self.take(now, event, shelf);
        self.discard();
        self.begin_merges(now, shelf);
        self.fresh = None;
        self.begin_removal();
        self.end_discard();
        std::mem::take(&mut self.out)
    }

    fn next_due(&self) -> Option<MonotonicUs> {
        match self.phase {
            LoadPhase::New => Some(MonotonicUs(0)),
            LoadPhase::Failed(at) => Some(at),
            LoadPhase::Ready if self.in_flight < IN_FLIGHT_MAX => {
                self.due.first().map(|(at, _)| (*at).max(self.paused_until))
            }
            LoadPhase::Loading | LoadPhase::Ready => None,
        }
    }
}

impl Outbox {
    /// Makes the outbox of the node with tag `node`. Its first step loads what is kept.
    pub fn new(node: u64, limits: Limits) -> Self {
        Self {
            limits,
            clock: HybridClock::for_outbox(node, None),
            phase: LoadPhase::New,
            failed_loads: 0,
            held: Vec::new(),
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            oldest: BTreeSet::new(),
            bytes: 0,
            in_flight: 0,
            paused_until: MonotonicUs(0),
            pauses: 0,
            done: Vec::new(),
            is_removing: false,
            tasks: BTreeMap::new(),
            last_ticket: Ticket::default(),
            watermark: Version::default(),
            discarding: None,
            fresh: None,
            drained: 0,
            retried: 0,
            discarded: 0,
            out: Vec::new(),
        }
    }

    /// Returns what the outbox holds and has done.
    pub fn figures(&self) -> Figures {
        Figures {
            entries: self.entries.len() as u64,
            bytes: self.bytes,
            oldest: self.oldest.first().map(|(version, _)| *version),
            in_flight: self.in_flight as u64,
            drained: self.drained,
            retried: self.retried,
            discarded: self.discarded,
        }
    }

    fn take(&mut self, now: Now, event: OutboxEvent, shelf: &dyn OutboxShelf) {
        match event {
            OutboxEvent::Put { .. }
            | OutboxEvent::Carry { .. }
            | OutboxEvent::Watermark { .. }
            | OutboxEvent::Discard { .. }
                if !matches!(self.phase, LoadPhase::Ready) =>
            {
                self.hold(event);
            }
            OutboxEvent::Put { op, id, draft } => match self.put(now, op, id, *draft, shelf) {
                Ok(effect) => self.out.push(effect),
                Err(refused) => self.out.push(OutboxEffect::Refuse { op, refused }),
            },
            OutboxEvent::Carry { op, id, value } => match self.carry(op, id, *value, shelf) {
                Ok(effect) => self.out.push(effect),
                Err(refused) => self.out.push(OutboxEffect::Refuse { op, refused }),
            },
            OutboxEvent::Watermark { op } => self.promise(now, op),
            OutboxEvent::Discard { op, upto } => {
                self.clock.observe(upto);
                let (most, ops) = self.discarding.get_or_insert_default();
                *most = upto.max(*most);
                ops.push(op);
            }
            OutboxEvent::Stored { ticket, is_durable } => {
                self.on_stored(now, ticket, is_durable, shelf);
            }
            OutboxEvent::Loaded { page } => self.on_loaded(now, page, shelf),
            OutboxEvent::LoadFailed => self.on_load_failed(now),
            OutboxEvent::Merged { id, end } => self.on_merged(now, &id, end),
            OutboxEvent::Nudge => self.on_nudge(now),
            OutboxEvent::Tick => {}
        }
    }

    // ---- puts ----

    fn put(
        &mut self,
        now: Now,
        op: OpId,
        id: ObjectId,
        draft: Draft,
        shelf: &dyn OutboxShelf,
    ) -> Result<OutboxEffect, OutboxRefusal> {
        let Draft { change, seen } = draft;
        let base = self.newest(&id, seen, shelf)?;
        let current = base.live(now.wall.secs());
        change.check(current)?;
        let bytes = entry_bytes(&id, change.value_bytes());
        self.check_room(&id, bytes)?;
        self.clock.observe(shelf.latest_version());
        self.clock.observe(base.version().unwrap_or_default());
        let version = self.clock.tick(now.wall);
        let (value, written) = match change.apply(&id, current, now.wall.secs(), version) {
            WriteDecision::Keep { object, created } => {
                (Value::Live(object), Written::Kept { version, created })
            }
            WriteDecision::Remove => (Value::Tombstone(Tombstone { version }), Written::Removed),
        };
        Ok(self.keep(op, id, value, (version, bytes), written))
    }

    fn keep(
        &mut self,
        op: OpId,
        id: ObjectId,
        value: Value,
        (version, bytes): (Version, u64),
        written: Written,
    ) -> OutboxEffect {
        let entry = self.entries.entry(id.clone()).or_insert_with(OutboxEntry::empty);
        self.bytes = self.bytes - entry.bytes + bytes;
        entry.bytes = bytes;
        entry.pending.push_back(value.clone());
        self.settle(&id);
        let ticket = self.ticket(OutboxTask::Put(id.clone(), version));
        OutboxEffect::Keep { ticket, op, id, value, written }
    }

    /// Returns the newest value of an object: what its writer has seen, or what is here and newer.
    fn newest(
        &self,
        id: &ObjectId,
        seen: Value,
        shelf: &dyn OutboxShelf,
    ) -> Result<Value, OutboxRefusal> {
        let Some(entry) = self.entries.get(id) else { return Ok(seen) };
        let own = match entry.pending.back() {
            Some(value) => value.clone(),
            None => shelf.entry(id).map_err(OutboxRefusal::Unreadable)?.unwrap_or_default(),
        };
        Ok(if own.version() > seen.version() { own } else { seen })
    }

    fn check_room(&self, id: &ObjectId, bytes: u64) -> Result<(), OutboxRefusal> {
        let (before, is_new) = match self.entries.get(id) {
            Some(entry) => (entry.bytes, false),
            None => (0, true),
        };
        let entries = self.entries.len() as u64;
        let has_room = bytes <= before || self.bytes - before + bytes <= self.limits.bytes;
        if has_room && (!is_new || entries < self.limits.entries) {
            return Ok(());
        }
        Err(OutboxRefusal::Full { entries, bytes: self.bytes, limits: self.limits })
    }

    fn on_stored(&mut self, now: Now, ticket: Ticket, is_durable: bool, shelf: &dyn OutboxShelf) {
        match self.tasks.remove(&ticket) {
            Some(OutboxTask::Put(id, version)) => self.on_put_stored(now, &id, version, is_durable),
            Some(OutboxTask::Remove(entries)) => self.on_removed(now, entries, is_durable),
            Some(OutboxTask::Watermark(op, watermark)) if is_durable => {
                self.watermark = self.watermark.max(watermark);
                self.out.push(OutboxEffect::Promised { op, watermark });
            }
            Some(OutboxTask::Watermark(op, _)) => {
                self.out.push(OutboxEffect::Refuse { op, refused: OutboxRefusal::NotKept });
            }
            Some(OutboxTask::Barrier) if is_durable => {
                self.clock.observe(shelf.latest_version());
                self.out.push(OutboxEffect::Load { after: None });
            }
            Some(OutboxTask::Barrier) => self.on_load_failed(now),
            None => {}
        }
    }

    fn on_put_stored(&mut self, now: Now, id: &ObjectId, version: Version, is_durable: bool) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let place = entry.pending.iter().position(|value| value.version() == Some(version));
        let stored = place.and_then(|place| entry.pending.remove(place));
        if is_durable {
            // An older one is no more what is kept, and with a newer one under way the disk may have that.
            let is_newest = entry.pending.is_empty() && entry.kept <= Some(version);
            self.fresh = stored.filter(|_| is_newest).map(|value| (id.clone(), value));
            entry.kept = entry.kept.max(Some(version));
            entry.is_unsure = false;
        } else {
            // Nobody knows; the next look at the entry tells.
            entry.kept = Some(entry.kept.map_or(version, |kept| kept.min(version)));
            entry.is_unsure = true;
        }
        self.wait(id, now.monotonic);
    }

    // ---- merges ----

    fn begin_merges(&mut self, now: Now, shelf: &dyn OutboxShelf) {
        if !matches!(self.phase, LoadPhase::Ready) {
            return;
        }
        while self.in_flight < IN_FLIGHT_MAX && self.paused_until <= now.monotonic {
            let Some((at, _)) = self.due.first() else { return };
            if *at > now.monotonic {
                return;
            }
            let Some((_, id)) = self.due.pop_first() else { return };
            let merge = self.begin_merge(now, id, shelf);
            self.out.extend(merge);
        }
    }

    fn begin_merge(
        &mut self,
        now: Now,
        id: ObjectId,
        shelf: &dyn OutboxShelf,
    ) -> Option<OutboxEffect> {
        let entry = self.entries.get_mut(&id)?;
        entry.due = None;
        let fresh = self.fresh.take_if(|(fresh, _)| *fresh == id);
        let value = match fresh.map_or_else(|| shelf.entry(&id), |(_, value)| Ok(Some(value))) {
            Ok(value) => value,
            Err(_) => {
                entry.attempts += 1;
                let at = now.monotonic.plus_us(pause_us(entry.attempts, now.entropy));
                self.wait(&id, at);
                return None;
            }
        };
        entry.is_unsure = false;
        entry.kept = value.as_ref().and_then(Value::version);
        entry.merging = entry.kept;
        if entry.pending.is_empty() {
            let bytes = entry_bytes(&id, value.as_ref().map_or(0, Value::len_bytes));
            self.bytes = self.bytes - entry.bytes + bytes;
            entry.bytes = bytes;
        }
        self.settle(&id);
        let value = value?;
        self.in_flight += 1;
        Some(OutboxEffect::Merge { id, value })
    }

    fn on_merged(&mut self, now: Now, id: &ObjectId, end: MergeEnd) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(version) = entry.merging.take() else { return };
        self.in_flight -= 1;
        let mut at = now.monotonic;
        match end {
            MergeEnd::Done => {
                self.drained += 1;
                self.pauses = 0;
                entry.attempts = 0;
                if entry.kept == Some(version) {
                    entry.is_removing = true;
                    self.done.push((id.clone(), version));
                }
            }
            MergeEnd::NoQuorum => {
                self.retried += 1;
                self.pauses = 0;
                entry.attempts += 1;
                at = at.plus_us(pause_us(entry.attempts, now.entropy));
            }
            MergeEnd::Busy | MergeEnd::NotReady => {
                self.retried += 1;
                // Those under way together count once.
                if self.paused_until <= now.monotonic {
                    self.pauses += 1;
                    self.paused_until = at.plus_us(pause_us(self.pauses, now.entropy));
                }
            }
        }
        self.wait(id, at);
    }

    fn on_nudge(&mut self, now: Now) {
        self.paused_until = now.monotonic;
        self.pauses = 0;
        let waiting = std::mem::take(&mut self.due);
        for (_, id) in waiting {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.due = None;
                entry.attempts = 0;
            }
            self.schedule(&id, now.monotonic);
        }
    }

    // ---- removals ----

    fn begin_removal(&mut self) {
        if self.is_removing || self.done.is_empty() {
            return;
        }
        self.is_removing = true;
        let entries: Vec<_> = self.done.drain(..self.done.len().min(REMOVED_MAX)).collect();
        let ticket = self.ticket(OutboxTask::Remove(entries.clone()));
        self.out.push(OutboxEffect::Remove { ticket, entries });
    }

    fn on_removed(&mut self, now: Now, entries: Vec<(ObjectId, Version)>, is_durable: bool) {
        self.is_removing = false;
        for (id, version) in entries {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.is_removing = false;
            let mut at = now.monotonic;
            if is_durable && !entry.is_unsure && entry.kept == Some(version) {
                entry.kept = None;
            } else if !is_durable {
                entry.attempts += 1;
                at = at.plus_us(pause_us(entry.attempts, now.entropy));
            }
            self.wait(&id, at);
        }
    }

    // ---- bookkeeping ----

    fn ticket(&mut self, task: OutboxTask) -> Ticket {
        let ticket = self.last_ticket.draw();
        self.tasks.insert(ticket, task);
        ticket
    }

    /// Puts an entry into the queue for its merge, if it needs one and is not in the queue already.
    fn wait(&mut self, id: &ObjectId, at: MonotonicUs) {
        let Some(entry) = self.entries.get(id) else { return };
        if entry.kept.is_some() && !entry.is_busy() && entry.due.is_none() {
            self.schedule(id, at);
        }
        self.settle(id);
    }

    fn schedule(&mut self, id: &ObjectId, at: MonotonicUs) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.due = Some(at);
            self.due.insert((at, id.clone()));
        }
    }

    /// Puts an entry to its place by version, or drops it when nothing of it is left.
    fn settle(&mut self, id: &ObjectId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let oldest = entry.oldest();
        if entry.indexed == oldest {
            return;
        }
        if let Some(version) = entry.indexed {
            self.oldest.remove(&(version, id.clone()));
        }
        entry.indexed = oldest;
        match oldest {
            Some(version) => {
                self.oldest.insert((version, id.clone()));
            }
            None => {
                self.bytes -= entry.bytes;
                self.entries.remove(id);
            }
        }
    }
}

fn entry_bytes(id: &ObjectId, value_bytes: usize) -> u64 {
    (id.as_str().len() + value_bytes) as u64 + ENTRY_BYTES
}

/// The pause before attempt `attempts` + 1: it doubles, and half of it is left to chance.
fn pause_us(attempts: u32, entropy: u64) -> u64 {
    let whole = pause::doubled(PAUSE_US, attempts.saturating_sub(1), PAUSE_US_MAX);
    whole / 2 + entropy % (whole / 2 + 1)
}
