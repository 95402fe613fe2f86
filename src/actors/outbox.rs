//! The outbox: the shell around `core::outbox`, which decides everything. Fast writes are durable here before they are
//! acknowledged, and go from here to their registers.
//!
//! The store keeps the entries; the actor knows them by version and reads them back for their merge. A caller is answered by
//! the store's writer, also when the actor is killed meanwhile.

mod merging;
#[cfg(test)]
mod test_outbox;

use std::{collections::HashMap, sync::Arc};

use strum::IntoStaticStr;
use thiserror::Error;
use tracing::warn;

pub use self::merging::{ActiveMerges, Drain, PendingMerge};
use super::{
    commit::Commit,
    driver::{DrivenMessage, Driver, News, Told},
    gauge::Gauge,
    recorder::Outcome,
    shell::{ActorMessage, Context, Described, Handled, Handling, Reply, Worker},
};
use nomad_core::{
    machine::{NoAnswer, Ticket},
    model::{
        change::{Change, WriteRefusal, Written},
        object::{ObjectId, Version},
    },
    outbox::{
        self, Draft, Figures, Limits, LoadedEntry, MergeEnd, OutboxEffect, OutboxEvent,
        OutboxRefusal, OutboxShelf,
    },
    register::{OpId, Value},
};
use nomad_ports::{
    ObjectStore,
    object_store::{JobDone, OutboxChange, OutboxJob, StoreError, StoreJob},
};

/// How long a merge may take before it counts as failed.
const MERGE_US: u64 = 10_000_000;
/// The most entries of an earlier life that are read at a time.
const PAGE: usize = 256;

// ---- messages ----

/// Why the outbox did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OutboxError {
    /// It does not take it.
    #[error(transparent)]
    Refused(OutboxRefusal),
    /// The store does not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a fast write ended.
pub type PutResult = Result<Result<Written, WriteRefusal>, OutboxError>;

/// What the outbox can be asked and told.
#[derive(Debug, IntoStaticStr)]
pub enum OutboxMsg {
    /// Ask: write; answered once it is durable here.
    Put {
        /// The object.
        id: ObjectId,
        /// What to do.
        change: Change,
        /// The newest value of the object that the caller can read, deleted and expired ones too.
        seen: Value,
        /// Takes how it ended.
        reply: Reply<PutResult>,
    },
    /// Ask: take over what this node kept of a group that is no more; answered once it is durable here. A refusal says that
    /// something newer is here.
    Carry {
        /// The object.
        id: ObjectId,
        /// What was kept.
        value: Value,
        /// Takes how it ended.
        reply: Reply<PutResult>,
    },
    /// Ask: up to which version will this node never submit anything again? (rule 12)
    Watermark {
        /// Takes the version. It is durable: it holds across restarts.
        reply: Reply<Result<Version, OutboxError>>,
    },
    /// Ask: drop what is not newer than `upto`, which others have gone on without (rule 12).
    Discard {
        /// The version.
        upto: Version,
        /// Takes that nothing is left of it.
        reply: Reply<Result<(), OutboxError>>,
    },
    /// Tell: merges may succeed again, so that none should wait for its time.
    Nudge,
    /// Tell: what its own work has brought.
    Told(Told<OutboxNews>),
}

/// What the outbox's own work brings.
#[derive(Debug)]
pub struct OutboxNews {
    /// The object that it is about, if it is about one.
    about: Option<ObjectId>,
    event: OutboxEvent,
}

impl From<OutboxEvent> for OutboxNews {
    fn from(event: OutboxEvent) -> Self {
        Self { about: None, event }
    }
}

impl Described for OutboxNews {
    fn kind(&self) -> &'static str {
        match self.event {
            OutboxEvent::Merged { .. } => "Merged",
            OutboxEvent::Stored { .. } => "Stored",
            _ => "Loaded",
        }
    }

    fn object(&self) -> Option<&ObjectId> {
        self.about.as_ref()
    }

    fn detail(&self) -> String {
        match &self.event {
            OutboxEvent::Merged { end, .. } => format!("{end:?}"),
            OutboxEvent::Stored { is_durable, .. } => format!("durable: {is_durable}"),
            OutboxEvent::Loaded { page } => format!("{} entries", page.len()),
            _ => self.kind().to_owned(),
        }
    }
}

impl Described for OutboxMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Told(told) => told.kind(),
            other => other.into(),
        }
    }

    fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::Put { id, .. } | Self::Carry { id, .. } => Some(id),
            Self::Told(told) => told.object(),
            _ => None,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Put { change, seen, .. } => {
                let (Change::Write { condition, .. } | Change::Delete { condition }) = change;
                let bytes = change.value_bytes();
                format!("{bytes} bytes, condition {condition:?}, seen {:?}", seen.version())
            }
            Self::Discard { upto, .. } => format!("up to {upto}"),
            Self::Told(told) => told.detail(),
            _ => self.kind().to_owned(),
        }
    }
}

impl ActorMessage for OutboxMsg {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Put { reply, .. } | Self::Carry { reply, .. } => reply.is_closed(),
            Self::Watermark { reply } => reply.is_closed(),
            // What is to be discarded is, whether somebody waits for it or not.
            _ => false,
        }
    }
}

impl DrivenMessage for OutboxMsg {
    type News = OutboxNews;

    fn told(told: Told<OutboxNews>) -> Self {
        Self::Told(told)
    }
}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct OutboxArgs {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The way to the registers.
    pub drain: Arc<dyn Drain>,
    /// What the outbox may hold.
    pub limits: Limits,
    /// The tag of this node in the versions that it gives.
    pub node_tag: u64,
    /// Where others read what it holds.
    pub gauge: Arc<OutboxGauge>,
    /// What is being merged, by any life of the actor.
    pub running: ActiveMerges,
}

/// What the outbox holds and has done since the node started, for whoever wants to see it.
pub type OutboxGauge = Gauge<Figures>;

// ---- state ----

/// Who waits for an answer of the core.
enum Asker {
    Put(Reply<PutResult>, Context),
    Watermark(Reply<Result<Version, OutboxError>>),
    Discard(Reply<Result<(), OutboxError>>),
}

/// The actor.
pub struct OutboxActor {
    driver: Driver<outbox::Outbox>,
    args: OutboxArgs,
    /// What the lives before this one have done.
    before: Figures,
    askers: HashMap<OpId, Asker>,
    next_op: OpId,
}

/// What the core reads of the store.
struct Kept<'a>(&'a dyn ObjectStore);

impl OutboxShelf for Kept<'_> {
    fn entry(&self, id: &ObjectId) -> Result<Option<Value>, String> {
        self.0.outbox_entry(id).map_err(|error| {
            if matches!(error, StoreError::Damaged { .. }) {
                warn!(%error, "a fast write cannot be replicated");
            }
            error.to_string()
        })
    }

    fn latest_version(&self) -> Version {
        self.0.latest_version()
    }
}

// ---- handler ----

/// What a step of this actor has at hand.
type OutboxCx<'a> = Handling<'a, OutboxMsg>;

impl Worker for OutboxActor {
    type Msg = OutboxMsg;
    type Args = OutboxArgs;

    fn start(args: &OutboxArgs, cx: &OutboxCx<'_>) -> Result<Self, String> {
        let mut actor = Self {
            driver: Driver::new(cx, outbox::Outbox::new(args.node_tag, args.limits)),
            args: args.clone(),
            before: args.gauge.read(),
            askers: HashMap::new(),
            next_op: 0,
        };
        actor.step(cx, None, OutboxEvent::Tick);
        Ok(actor)
    }

    fn handle(&mut self, cx: &OutboxCx<'_>, message: OutboxMsg) -> Handled {
        let (about, event) = match message {
            OutboxMsg::Put { id, change, seen, reply } => {
                let op = self.ask(Asker::Put(reply, cx.cx));
                (None, OutboxEvent::Put { op, id, draft: Box::new(Draft { change, seen }) })
            }
            OutboxMsg::Carry { id, value, reply } => {
                let op = self.ask(Asker::Put(reply, cx.cx));
                (None, OutboxEvent::Carry { op, id, value: Box::new(value) })
            }
            OutboxMsg::Watermark { reply } => {
                (None, OutboxEvent::Watermark { op: self.ask(Asker::Watermark(reply)) })
            }
            OutboxMsg::Discard { upto, reply } => {
                (None, OutboxEvent::Discard { op: self.ask(Asker::Discard(reply)), upto })
            }
            OutboxMsg::Nudge => (None, OutboxEvent::Nudge),
            OutboxMsg::Told(told) => match self.driver.take(cx, told) {
                Err(outcome) => return Ok(outcome),
                Ok(News::Happened(OutboxNews { about, event })) => (about, event),
                Ok(News::Due | News::ViewChanged) => (None, OutboxEvent::Tick),
            },
        };
        self.step(cx, about.as_ref(), event);
        Ok(Outcome::Done("stepped"))
    }
}

impl OutboxActor {
    fn ask(&mut self, asker: Asker) -> OpId {
        self.next_op += 1;
        self.askers.insert(self.next_op, asker);
        self.next_op
    }

    fn step(&mut self, cx: &OutboxCx<'_>, about: Option<&ObjectId>, event: OutboxEvent) {
        let store = Arc::clone(&self.args.store);
        for effect in self.driver.step(cx, event, &Kept(&*store)) {
            self.perform(cx, about, effect);
        }
        let mut figures = self.driver.core().figures();
        figures.drained += self.before.drained;
        figures.retried += self.before.retried;
        figures.discarded += self.before.discarded;
        self.args.gauge.set(figures);
    }

    fn perform(&mut self, cx: &OutboxCx<'_>, about: Option<&ObjectId>, effect: OutboxEffect) {
        match effect {
            OutboxEffect::Keep { ticket, op, id, value, written } => {
                let done = self.kept(cx, (ticket, op), id.clone(), written);
                self.change(
                    OutboxChange { put: vec![(id, value)], ..OutboxChange::default() },
                    done,
                );
            }
            OutboxEffect::Remove { ticket, entries } => {
                let done = self.stored(cx, None, ticket);
                self.change(OutboxChange { remove: entries, ..OutboxChange::default() }, done);
            }
            OutboxEffect::Raise { ticket, watermark } => {
                let done = self.stored(cx, None, ticket);
                self.change(
                    OutboxChange { watermark: Some(watermark), ..OutboxChange::default() },
                    done,
                );
            }
            OutboxEffect::Load { after } => self.load(cx, after),
            OutboxEffect::Merge { id, value } => self.merge(cx, about, id, value),
            OutboxEffect::Refuse { op, refused } => self.refuse(op, refused),
            OutboxEffect::Promised { op, watermark } => {
                if let Some(Asker::Watermark(reply)) = self.askers.remove(&op) {
                    reply.send(Ok(watermark));
                }
            }
            OutboxEffect::Discarded { op } => {
                if let Some(Asker::Discard(reply)) = self.askers.remove(&op) {
                    reply.send(Ok(()));
                }
            }
        }
    }

    fn change(&self, change: OutboxChange, done: JobDone) {
        self.args.store.submit(StoreJob::Outbox(OutboxJob { change, done }));
    }

    fn refuse(&mut self, op: OpId, refused: OutboxRefusal) {
        match (self.askers.remove(&op), refused) {
            (Some(Asker::Put(reply, _)), OutboxRefusal::Condition(refusal)) => {
                reply.send(Ok(Err(refusal)));
            }
            (Some(Asker::Put(reply, _)), refused) => reply.send(Err(OutboxError::Refused(refused))),
            (Some(Asker::Watermark(reply)), refused) => {
                reply.send(Err(OutboxError::Refused(refused)))
            }
            (Some(Asker::Discard(reply)), refused) => {
                reply.send(Err(OutboxError::Refused(refused)));
            }
            (None, _) => {}
        }
    }

    /// Answers a put from the store's writer, and leaves a record of the batch.
    fn kept(
        &mut self,
        cx: &OutboxCx<'_>,
        (ticket, op): (Ticket, OpId),
        id: ObjectId,
        written: Written,
    ) -> JobDone {
        let asker = self.askers.remove(&op);
        let asked = match &asker {
            Some(Asker::Put(_, asked)) => *asked,
            _ => Context::default(),
        };
        let cx = cx.of(asked);
        let commit = Commit::begin(&cx, Some(id.clone()));
        let stored = self.stored(&cx, Some(id), ticket);
        Box::new(move |result| {
            if let Some(Asker::Put(reply, _)) = asker {
                commit.end(0, Outcome::of(&result, "kept in the outbox"));
                reply.send(result.clone().map(|()| Ok(written)).map_err(OutboxError::Store));
            }
            stored(result);
        })
    }

    fn stored(&self, cx: &OutboxCx<'_>, about: Option<ObjectId>, ticket: Ticket) -> JobDone {
        let news = move |is_durable| OutboxNews {
            about: about.clone(),
            event: OutboxEvent::Stored { ticket, is_durable },
        };
        let owed = self.driver.owed(cx, news(false));
        Box::new(move |result| owed.pay(news(result.is_ok())))
    }

    /// Reads a page of what an earlier life has kept.
    fn load(&self, cx: &OutboxCx<'_>, after: Option<ObjectId>) {
        let store = Arc::clone(&self.args.store);
        let read = move || {
            let entries = store.outbox(after.as_ref(), PAGE).map_err(|_| NoAnswer)?;
            let page = entries.into_iter().filter_map(|(id, value)| {
                let bytes = value.len_bytes();
                value.version().map(|version| LoadedEntry { id, version, bytes })
            });
            Ok::<Vec<_>, NoAnswer>(page.collect())
        };
        let news = |page: Result<_, NoAnswer>| {
            page.map_or(OutboxEvent::LoadFailed, |page| OutboxEvent::Loaded { page }).into()
        };
        self.driver.read(cx, read, news);
    }

    /// Begins a merge. The first one of a write belongs to its request.
    fn merge(&self, cx: &OutboxCx<'_>, about: Option<&ObjectId>, id: ObjectId, value: Value) {
        let is_first = about == Some(&id);
        let trace = if is_first { cx.cx.trace } else { cx.kit.recorder.new_trace() };
        let deadline = Some(cx.kit.clock.monotonic().plus_us(MERGE_US));
        let context = Context { trace, deadline };
        let owed = self.driver.owed(&cx.of(context), merging::ended(&id, MergeEnd::Busy));
        if let Some(merging) = PendingMerge::begin(&self.args.running, owed, id.clone()) {
            self.args.drain.merge(context, id, value, merging);
        }
    }
}
