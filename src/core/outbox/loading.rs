//! How the outbox learns what an earlier life has kept: behind a barrier, so that nothing of that life comes after it.

use super::{
    Effect, Entry, Event, HELD_MAX, Kept, Outbox, PATIENT_LOADS, Phase, Refused, Shelf, Task,
    entry_bytes, pause_us,
};
use crate::{object::Version, register::Now};

impl Outbox {
    pub(super) fn begin_loading(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let is_time = match self.phase {
            Phase::New => true,
            Phase::Failed(at) => at <= now.monotonic,
            Phase::Loading | Phase::Ready => false,
        };
        if is_time {
            self.phase = Phase::Loading;
            let ticket = self.ticket(Task::Barrier);
            effects.push(Effect::Raise { ticket, floor: Version::default() });
        }
    }

    pub(super) fn hold(&mut self, event: Event, effects: &mut Vec<Effect>) {
        // A node that has just started may open its store a little later than its group takes it in.
        let is_failed = matches!(self.phase, Phase::Failed(_));
        let is_late = is_failed && self.failed_loads > PATIENT_LOADS;
        if !is_late && self.held.len() < HELD_MAX {
            self.held.push(event);
        } else if let Event::Put { op, .. }
        | Event::Carry { op, .. }
        | Event::Floor { op }
        | Event::Discard { op, .. } = event
        {
            effects.push(Effect::Refuse { op, refused: Refused::NotLoaded });
        }
    }

    pub(super) fn on_loaded(
        &mut self,
        now: Now,
        page: Vec<Kept>,
        shelf: &impl Shelf,
        effects: &mut Vec<Effect>,
    ) {
        if !matches!(self.phase, Phase::Loading) {
            return;
        }
        let Some(last) = page.last().map(|kept| kept.id.clone()) else {
            self.phase = Phase::Ready;
            self.failed_loads = 0;
            for event in std::mem::take(&mut self.held) {
                self.take(now, event, shelf, effects);
            }
            return;
        };
        for Kept { id, version, bytes } in page {
            self.clock.observe(version);
            let bytes = entry_bytes(&id, bytes);
            let is_new = self.entries.insert(id.clone(), Entry::kept(version, bytes)).is_none();
            debug_assert!(is_new, "{id} was loaded twice");
            self.bytes += bytes;
            self.oldest.insert((version, id.clone()));
            self.schedule(&id, now.monotonic);
        }
        effects.push(Effect::Load { after: Some(last) });
    }

    pub(super) fn on_load_failed(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Loading) {
            return;
        }
        // What was loaded so far is loaded again.
        self.entries.clear();
        self.due.clear();
        self.oldest.clear();
        self.bytes = 0;
        self.failed_loads += 1;
        self.phase = Phase::Failed(now.monotonic.plus_us(pause_us(self.failed_loads, now.entropy)));
        for event in std::mem::take(&mut self.held) {
            self.hold(event, effects);
        }
    }
}
