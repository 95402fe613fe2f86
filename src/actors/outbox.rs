//! The outbox: the shell around `core::outbox`, which decides everything. Fast writes are durable here before they are
//! acknowledged, and go from here to their registers.
//!
//! The store keeps the entries; the actor knows them by version and reads them back for their merge. A caller is answered by
//! the store's writer, also when the actor is killed meanwhile.

mod merging;
#[cfg(test)]
mod test_outbox;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::task::AbortHandle;
use tracing::warn;

use self::merging::Loading;
pub use self::merging::{ActiveMerges, Drain, PendingMerge};
use super::{
    recorder::{Outcome, TraceRecord},
    shell::{ActorMessage, Context, Described, Handling, Reply, Role},
};
use nomad_core::{
    model::{
        change::{Change, WriteRefusal, Written},
        object::{ObjectId, Version},
        time::MonotonicUs,
    },
    outbox::{
        self, Draft, Figures, Limits, MergeEnd, OutboxEffect, OutboxEvent, OutboxRefusal,
        OutboxShelf,
    },
    register::{Now, OpId, Ticket, Value},
};
use nomad_ports::{
    ObjectStore,
    object_store::{JobDone, OutboxChange, OutboxJob, StoreError, StoreJob},
};

/// How long a merge may take before it counts as failed.
const MERGE_US: u64 = 10_000_000;

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
#[derive(Debug)]
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
    Floor {
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
    /// Tell: what became of an effect of this life of the actor. Later lives leave it unread.
    Happened {
        /// The life.
        life: u64,
        /// The object that it is about, if it is about one.
        about: Option<ObjectId>,
        /// What happened.
        event: OutboxEvent,
    },
    /// Timer: the time that the core wanted to be woken at has come.
    Tick,
}

impl Described for OutboxMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Put { .. } => "Put",
            Self::Carry { .. } => "Carry",
            Self::Floor { .. } => "Floor",
            Self::Discard { .. } => "Discard",
            Self::Nudge => "Nudge",
            Self::Happened { event: OutboxEvent::Merged { .. }, .. } => "Merged",
            Self::Happened { event: OutboxEvent::Stored { .. }, .. } => "Stored",
            Self::Happened { .. } => "Loaded",
            Self::Tick => "Tick",
        }
    }

    fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::Put { id, .. } | Self::Carry { id, .. } => Some(id),
            Self::Happened { about, .. } => about.as_ref(),
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
            Self::Happened { event: OutboxEvent::Merged { end, .. }, .. } => format!("{end:?}"),
            Self::Happened { event: OutboxEvent::Stored { is_durable, .. }, .. } => {
                format!("durable: {is_durable}")
            }
            Self::Happened { event: OutboxEvent::Loaded { page }, .. } => {
                format!("{} entries", page.len())
            }
            _ => self.kind().to_owned(),
        }
    }
}

impl ActorMessage for OutboxMsg {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Put { reply, .. } | Self::Carry { reply, .. } => reply.is_closed(),
            Self::Floor { reply } => reply.is_closed(),
            // What is to be discarded is, whether somebody waits for it or not.
            _ => false,
        }
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
#[derive(Debug, Default)]
pub struct OutboxGauge(Mutex<Figures>);

impl OutboxGauge {
    /// Returns the figures.
    pub fn read(&self) -> Figures {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, figures: Figures) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }
}

// ---- state ----

/// Who waits for an answer of the core.
enum Asker {
    Put(Reply<PutResult>, Context),
    Floor(Reply<Result<Version, OutboxError>>),
    Discard(Reply<Result<(), OutboxError>>),
}

/// The actor.
pub struct OutboxActor {
    core: outbox::Outbox,
    args: OutboxArgs,
    life: u64,
    /// What the lives before this one have done.
    before: Figures,
    askers: HashMap<OpId, Asker>,
    next_op: OpId,
    timer: Option<(MonotonicUs, AbortHandle)>,
}

impl fmt::Debug for OutboxActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}

impl Drop for OutboxActor {
    fn drop(&mut self) {
        if let Some((_, timer)) = &self.timer {
            timer.abort();
        }
    }
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

impl Role for OutboxActor {
    type Msg = OutboxMsg;
    type Args = OutboxArgs;

    fn start(args: &OutboxArgs, cx: &Handling<'_, OutboxMsg>) -> Result<Self, String> {
        let mut actor = Self {
            core: outbox::Outbox::new(args.node_tag, args.limits),
            args: args.clone(),
            life: cx.kit.entropy.next_u64(),
            before: args.gauge.read(),
            askers: HashMap::new(),
            next_op: 0,
            timer: None,
        };
        actor.step(cx, None, OutboxEvent::Tick);
        Ok(actor)
    }

    fn handle(
        &mut self,
        cx: &Handling<'_, OutboxMsg>,
        message: OutboxMsg,
    ) -> Result<Outcome, String> {
        let (about, event) = match message {
            OutboxMsg::Put { id, change, seen, reply } => {
                let op = self.ask(Asker::Put(reply, cx.cx));
                (None, OutboxEvent::Put { op, id, draft: Box::new(Draft { change, seen }) })
            }
            OutboxMsg::Carry { id, value, reply } => {
                let op = self.ask(Asker::Put(reply, cx.cx));
                (None, OutboxEvent::Carry { op, id, value: Box::new(value) })
            }
            OutboxMsg::Floor { reply } => {
                (None, OutboxEvent::Floor { op: self.ask(Asker::Floor(reply)) })
            }
            OutboxMsg::Discard { upto, reply } => {
                (None, OutboxEvent::Discard { op: self.ask(Asker::Discard(reply)), upto })
            }
            OutboxMsg::Nudge => (None, OutboxEvent::Nudge),
            OutboxMsg::Happened { life, .. } if life != self.life => {
                return Ok(Outcome::Dropped("it was owed to an earlier life"));
            }
            OutboxMsg::Happened { about, event, .. } => (about, event),
            OutboxMsg::Tick => {
                self.timer = None;
                (None, OutboxEvent::Tick)
            }
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

    fn step(&mut self, cx: &Handling<'_, OutboxMsg>, about: Option<&ObjectId>, event: OutboxEvent) {
        let now = Now {
            monotonic: cx.kit.clock.monotonic(),
            wall: cx.kit.clock.wall(),
            entropy: cx.kit.entropy.next_u64(),
        };
        let store = Arc::clone(&self.args.store);
        for effect in self.core.step(now, event, &Kept(&*store)) {
            self.perform(cx, about, effect);
        }
        self.wake(cx, now.monotonic);
        let mut figures = self.core.figures();
        figures.drained += self.before.drained;
        figures.retried += self.before.retried;
        figures.discarded += self.before.discarded;
        self.args.gauge.set(figures);
    }

    fn perform(
        &mut self,
        cx: &Handling<'_, OutboxMsg>,
        about: Option<&ObjectId>,
        effect: OutboxEffect,
    ) {
        match effect {
            OutboxEffect::Keep { ticket, op, id, value, written } => {
                let done = self.kept(cx, (ticket, op), id.clone(), written);
                self.change(
                    OutboxChange { put: vec![(id, value)], ..OutboxChange::default() },
                    done,
                );
            }
            OutboxEffect::Remove { ticket, entries } => {
                let done = self.stored(cx, ticket);
                self.change(OutboxChange { remove: entries, ..OutboxChange::default() }, done);
            }
            OutboxEffect::Raise { ticket, floor } => {
                let done = self.stored(cx, ticket);
                self.change(OutboxChange { floor: Some(floor), ..OutboxChange::default() }, done);
            }
            OutboxEffect::Load { after } => {
                Loading::begin(cx, self.life, Arc::clone(&self.args.store), after);
            }
            OutboxEffect::Merge { id, value } => self.merge(cx, about, id, value),
            OutboxEffect::Refuse { op, refused } => self.refuse(op, refused),
            OutboxEffect::Promised { op, floor } => {
                if let Some(Asker::Floor(reply)) = self.askers.remove(&op) {
                    reply.send(Ok(floor));
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
            (Some(Asker::Floor(reply)), refused) => reply.send(Err(OutboxError::Refused(refused))),
            (Some(Asker::Discard(reply)), refused) => {
                reply.send(Err(OutboxError::Refused(refused)));
            }
            (None, _) => {}
        }
    }

    /// Answers a put from the store's writer, and leaves a record of the batch.
    fn kept(
        &mut self,
        cx: &Handling<'_, OutboxMsg>,
        (ticket, op): (Ticket, OpId),
        id: ObjectId,
        written: Written,
    ) -> JobDone {
        let asker = self.askers.remove(&op);
        let (me, kit, life) = (cx.me.clone(), cx.kit.clone(), self.life);
        let began = kit.clock.monotonic();
        Box::new(move |result| {
            let is_durable = result.is_ok();
            let mut context = Context::default();
            if let Some(Asker::Put(reply, asked)) = asker {
                context.trace = asked.trace;
                kit.recorder.add(TraceRecord {
                    seq: 0,
                    trace: asked.trace.trace,
                    span: kit.recorder.new_span(),
                    parent: asked.trace.span,
                    from: Arc::clone(me.name()),
                    to: "writer".into(),
                    kind: "Commit",
                    object: Some(id.clone()),
                    at: began,
                    wait_us: 0,
                    run_us: kit.clock.monotonic().since(began),
                    batch_len: 0,
                    outcome: match &result {
                        Ok(()) => Outcome::Done("kept in the outbox"),
                        Err(error) => Outcome::Failed(error.to_string().into()),
                    },
                    detail: None,
                });
                reply.send(result.map(|()| Ok(written)).map_err(OutboxError::Store));
            }
            let event = OutboxEvent::Stored { ticket, is_durable };
            me.tell(me.name(), context, OutboxMsg::Happened { life, about: Some(id), event });
        })
    }

    fn stored(&self, cx: &Handling<'_, OutboxMsg>, ticket: Ticket) -> JobDone {
        let (me, life) = (cx.me.clone(), self.life);
        let context = Context { deadline: None, ..cx.cx };
        Box::new(move |result| {
            let event = OutboxEvent::Stored { ticket, is_durable: result.is_ok() };
            me.tell(me.name(), context, OutboxMsg::Happened { life, about: None, event });
        })
    }

    /// Begins a merge. The first one of a write belongs to its request.
    fn merge(
        &self,
        cx: &Handling<'_, OutboxMsg>,
        about: Option<&ObjectId>,
        id: ObjectId,
        value: Value,
    ) {
        let is_first = about == Some(&id);
        let trace = if is_first { cx.cx.trace } else { cx.kit.recorder.new_trace() };
        let deadline = Some(cx.kit.clock.monotonic().plus_us(MERGE_US));
        let context = Context { trace, deadline };
        match PendingMerge::begin(cx.me.clone(), trace, self.life, &self.args.running, id.clone()) {
            Ok(merging) => self.args.drain.merge(context, id, value, merging),
            // An earlier life has begun one; to be tried again.
            Err(refused) => refused.tell(MergeEnd::NoQuorum),
        }
    }

    fn wake(&mut self, cx: &Handling<'_, OutboxMsg>, now: MonotonicUs) {
        let due = self.core.next_due();
        if self.timer.as_ref().map(|(at, _)| *at) == due {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            timer.abort();
        }
        let Some(due) = due else { return };
        let (me, trace) = (cx.me.clone(), cx.kit.recorder.new_trace());
        let wake = async move {
            tokio::time::sleep(Duration::from_micros(due.since(now))).await;
            me.tell(me.name(), Context { trace, deadline: None }, OutboxMsg::Tick);
        };
        self.timer = Some((due, tokio::spawn(wake).abort_handle()));
    }
}
