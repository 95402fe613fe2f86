//! The record of work that the store's writer does for an actor: a step of its request like any other.

use std::sync::Arc;

use super::{
    recorder::{Outcome, TraceRecord},
    shell::{ActorMessage, Handling, Kit},
};
use nomad_core::model::{object::ObjectId, time::MonotonicUs, trace::TraceContext};

/// Work that was handed to the writer.
pub(super) struct Commit {
    kit: Kit,
    trace: TraceContext,
    from: Arc<str>,
    object: Option<ObjectId>,
    begun: MonotonicUs,
}

impl Commit {
    /// Begins with work that belongs to the request of `cx`.
    pub fn begin<M: ActorMessage>(cx: &Handling<'_, M>, object: Option<ObjectId>) -> Self {
        let (kit, from) = (cx.kit.clone(), Arc::clone(cx.me.name()));
        let begun = kit.clock.monotonic();
        Self { kit, trace: cx.cx.trace, from, object, begun }
    }

    /// Records what became of it, in a batch of so many.
    pub fn end(self, batch_len: u32, outcome: Outcome) {
        let run_us = self.kit.clock.monotonic().since(self.begun);
        self.end_after(0, run_us, batch_len, outcome);
    }

    /// The same where the writer says how long the work has waited and taken.
    pub fn end_after(self, wait_us: u64, run_us: u64, batch_len: u32, outcome: Outcome) {
        let now = self.kit.clock.monotonic();
        self.kit.recorder.add(TraceRecord {
            seq: 0,
            trace: self.trace.trace,
            span: self.kit.recorder.new_span(),
            parent: self.trace.span,
            from: self.from,
            to: "writer".into(),
            kind: "Commit",
            object: self.object,
            at: MonotonicUs(now.0.saturating_sub(run_us)),
            wait_us,
            run_us,
            batch_len,
            outcome,
            detail: None,
        });
    }
}
