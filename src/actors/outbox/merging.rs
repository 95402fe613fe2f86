//! Merges under way: at most one of each object, whichever life of the outbox has begun it. The end of each comes once.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;

use super::{OutboxMsg, OutboxNews};
use crate::{driver::Owed, shell::Context};
use nomad_core::{
    model::object::ObjectId,
    outbox::{MergeEnd, OutboxEvent},
    register::Value,
};

/// The way to the registers.
pub trait Drain: Send + Sync + 'static {
    /// Lets the register of an object keep the newer of what it holds and `value`, until the deadline of `cx`, and says how
    /// that ended. Once that is said, nothing of it may begin any more: a round that is still under way then must not outlive
    /// the next one for the same object.
    fn merge(&self, cx: Context, id: ObjectId, value: Value, ended: PendingMerge);
}

/// The objects that are being merged, whichever life of the outbox has begun it.
#[derive(Debug, Clone, Default)]
pub struct ActiveMerges(Arc<Mutex<HashSet<ObjectId>>>);

impl ActiveMerges {
    fn with<T>(&self, change: impl FnOnce(&mut HashSet<ObjectId>) -> T) -> T {
        change(&mut self.0.lock())
    }
}

/// A merge under way. Dropped without a word it has failed, as when the worker that had it was killed.
pub struct PendingMerge {
    // In this order: whoever learns of the end may begin the next one at once.
    place: MergePlace,
    owed: Owed<OutboxMsg>,
}

/// The only merge of an object.
struct MergePlace {
    running: ActiveMerges,
    id: ObjectId,
}

impl Drop for MergePlace {
    fn drop(&mut self) {
        self.running.with(|running| running.remove(&self.id));
    }
}

impl PendingMerge {
    /// Begins one, unless an earlier life has begun one of the same object: then it is to be tried again.
    pub(super) fn begin(
        running: &ActiveMerges,
        owed: Owed<OutboxMsg>,
        id: ObjectId,
    ) -> Option<Self> {
        if !running.with(|running| running.insert(id.clone())) {
            owed.pay(ended(&id, MergeEnd::NoQuorum));
            return None;
        }
        Some(Self { place: MergePlace { running: running.clone(), id }, owed })
    }

    /// Says how it ended.
    pub fn end(self, end: MergeEnd) {
        let news = ended(&self.place.id, end);
        drop(self.place);
        self.owed.pay(news);
    }
}

/// The news of the end of a merge.
pub(super) fn ended(id: &ObjectId, end: MergeEnd) -> OutboxNews {
    OutboxNews { about: Some(id.clone()), event: OutboxEvent::Merged { id: id.clone(), end } }
}
