//! The watermark of fast writes (rule 12): this node submits no version up to it any more.

use super::{Outbox, OutboxEffect, OutboxTask};
use crate::{
    machine::Now,
    model::object::{ObjectId, Version},
    register::OpId,
};

impl Outbox {
    /// Promises durably that nothing up to some version is submitted any more, and finds out which.
    pub(super) fn promise(&mut self, now: Now, op: OpId) {
        let watermark = match self.oldest.first() {
            Some((oldest, _)) => below(*oldest),
            None => Version { time: self.clock.tick(now.wall).time, node: u64::MAX },
        };
        if watermark <= self.watermark {
            self.out.push(OutboxEffect::Promised { op, watermark });
        } else {
            let ticket = self.ticket(OutboxTask::Watermark(op, watermark));
            self.out.push(OutboxEffect::Raise { ticket, watermark });
        }
    }

    /// Drops what is not to be submitted any more, but for what is under way.
    pub(super) fn discard(&mut self) {
        let Some((upto, _)) = &self.discarding else { return };
        let oldest = self.oldest.iter().take_while(|(version, _)| version <= upto);
        let dropped: Vec<_> = oldest.map(|(_, id)| id.clone()).collect();
        for id in dropped {
            self.discard_one(&id);
        }
    }

    fn discard_one(&mut self, id: &ObjectId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let (Some(version), false) = (entry.kept, entry.is_busy()) else { return };
        entry.is_removing = true;
        if let Some(at) = entry.due.take() {
            self.due.remove(&(at, id.clone()));
        }
        self.done.push((id.clone(), version));
        self.discarded += 1;
    }

    pub(super) fn end_discard(&mut self) {
        let Some((upto, _)) = &self.discarding else { return };
        if self.oldest.first().is_some_and(|(version, _)| version <= upto) {
            return;
        }
        let ops = self.discarding.take().map(|(_, ops)| ops).unwrap_or_default();
        self.out.extend(ops.into_iter().map(|op| OutboxEffect::Discarded { op }));
    }
}

/// The greatest version below `version`, of any node.
fn below(version: Version) -> Version {
    Version { time: version.time.saturating_sub(1), node: u64::MAX }
}
