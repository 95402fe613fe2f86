//! What the outbox is owed: the end of a merge, and a page of what was kept. Each comes exactly once, as a failure if
//! nobody pays.

use std::{
    collections::HashSet,
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
};

use super::OutboxMsg;
use crate::shell::{Address, Context, Handling};
use nomad_core::{
    model::{object::ObjectId, trace::TraceContext},
    outbox::{LoadedEntry, MergeEnd, OutboxEvent, value_bytes},
    register::Value,
};
use nomad_ports::ObjectStore;

/// The most entries that are read at a time.
const PAGE: usize = 256;

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
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A merge under way. Dropped without a word it has failed, as when the worker that had it was killed.
pub struct PendingMerge {
    owed: Owed,
    running: ActiveMerges,
}

/// Who is told of the end of a merge.
pub(super) struct Owed {
    to: Address<OutboxMsg>,
    trace: TraceContext,
    life: u64,
    id: ObjectId,
    is_paid: bool,
}

impl fmt::Debug for PendingMerge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Merging({})", self.owed.id)
    }
}

impl PendingMerge {
    /// Begins one, unless one of the same object is under way.
    pub(super) fn begin(
        to: Address<OutboxMsg>,
        trace: TraceContext,
        life: u64,
        running: &ActiveMerges,
        id: ObjectId,
    ) -> Result<Self, Owed> {
        let is_free = running.with(|running| running.insert(id.clone()));
        let owed = Owed { to, trace, life, id, is_paid: false };
        if is_free { Ok(Self { owed, running: running.clone() }) } else { Err(owed) }
    }

    /// Says how it ended.
    pub fn end(mut self, end: MergeEnd) {
        self.pay(end);
    }

    fn pay(&mut self, end: MergeEnd) {
        if !mem::replace(&mut self.owed.is_paid, true) {
            self.running.with(|running| running.remove(&self.owed.id));
            self.owed.tell(end);
        }
    }
}

impl Drop for PendingMerge {
    fn drop(&mut self) {
        self.pay(MergeEnd::Busy);
    }
}

impl Owed {
    pub(super) fn tell(&self, end: MergeEnd) {
        let context = Context { trace: self.trace, deadline: None };
        let (id, about) = (self.id.clone(), Some(self.id.clone()));
        let event = OutboxEvent::Merged { id, end };
        // An actor that is down starts a new life, which is owed nothing.
        self.to.tell(
            self.to.name(),
            context,
            OutboxMsg::Happened { life: self.life, about, event },
        );
    }
}

/// A page that is being read.
pub(super) struct Loading {
    to: Address<OutboxMsg>,
    cx: Context,
    life: u64,
    event: OutboxEvent,
}

impl Loading {
    /// Reads the page behind `after` on a thread that may block.
    pub fn begin(
        cx: &Handling<'_, OutboxMsg>,
        life: u64,
        store: Arc<dyn ObjectStore>,
        after: Option<ObjectId>,
    ) {
        let context = Context { deadline: None, ..cx.cx };
        let mut loading =
            Self { to: cx.me.clone(), cx: context, life, event: OutboxEvent::LoadFailed };
        tokio::task::spawn_blocking(move || {
            if let Ok(entries) = store.outbox(after.as_ref(), PAGE) {
                let page = entries.into_iter().filter_map(|(id, value)| {
                    let bytes = value_bytes(&value);
                    value.version().map(|version| LoadedEntry { id, version, bytes })
                });
                loading.succeed(page.collect());
            }
        });
    }

    fn succeed(&mut self, page: Vec<LoadedEntry>) {
        self.event = OutboxEvent::Loaded { page };
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        let event = mem::replace(&mut self.event, OutboxEvent::LoadFailed);
        let message = OutboxMsg::Happened { life: self.life, about: None, event };
        self.to.tell(self.to.name(), self.cx, message);
    }
}
