//! How the outbox loads what an earlier run has kept. It waits until no write of that run can reach the store any more.

use super::{
    HELD_MAX, LoadPhase, LoadedEntry, Outbox, OutboxEffect, OutboxEntry, OutboxEvent,
    OutboxRefusal, OutboxShelf, OutboxTask, PATIENT_LOADS, entry_bytes, pause_us,
};
use crate::{machine::Now, model::object::Version};

impl Outbox {
    pub(super) fn begin_loading(&mut self, now: Now) {
        let is_time = match self.phase {
            LoadPhase::New => true,
            LoadPhase::Failed(at) => at <= now.monotonic,
            LoadPhase::Loading | LoadPhase::Ready => false,
        };
        if is_time {
            self.phase = LoadPhase::Loading;
            let ticket = self.ticket(OutboxTask::Barrier);
            self.out.push(OutboxEffect::Raise { ticket, watermark: Version::default() });
        }
    }

    pub(super) fn hold(&mut self, event: OutboxEvent) {
        // A node that has just started may open its store a little later than its group takes it in.
        let is_failed = matches!(self.phase, LoadPhase::Failed(_));
        let is_late = is_failed && self.failed_loads > PATIENT_LOADS;
        if !is_late && self.held.len() < HELD_MAX {
            self.held.push(event);
        } else if let OutboxEvent::Put { op, .. }
        | OutboxEvent::Carry { op, .. }
        | OutboxEvent::Watermark { op }
        | OutboxEvent::Discard { op, .. } = event
        {
            self.out.push(OutboxEffect::Refuse { op, refused: OutboxRefusal::NotLoaded });
        }
    }

    pub(super) fn on_loaded(&mut self, now: Now, page: Vec<LoadedEntry>, shelf: &dyn OutboxShelf) {
        if !matches!(self.phase, LoadPhase::Loading) {
            return;
        }
        let Some(last) = page.last().map(|kept| kept.id.clone()) else {
            self.phase = LoadPhase::Ready;
            self.failed_loads = 0;
            for event in std::mem::take(&mut self.held) {
                self.take(now, event, shelf);
            }
            return;
        };
        for LoadedEntry { id, version, bytes } in page {
            self.clock.observe(version);
            let bytes = entry_bytes(&id, bytes);
            let is_new =
                self.entries.insert(id.clone(), OutboxEntry::kept(version, bytes)).is_none();
            debug_assert!(is_new, "{id} was loaded twice");
            self.bytes += bytes;
            self.oldest.insert((version, id.clone()));
            self.schedule(&id, now.monotonic);
        }
        self.out.push(OutboxEffect::Load { after: Some(last) });
    }

    pub(super) fn on_load_failed(&mut self, now: Now) {
        if !matches!(self.phase, LoadPhase::Loading) {
            return;
        }
        // What was loaded so far is loaded again.
        self.entries.clear();
        self.due.clear();
        self.oldest.clear();
        self.bytes = 0;
        self.failed_loads += 1;
        self.phase =
            LoadPhase::Failed(now.monotonic.plus_us(pause_us(self.failed_loads, now.entropy)));
        for event in std::mem::take(&mut self.held) {
            self.hold(event);
        }
    }
}
