//! The one shell that all actors run in: envelope, address, deadline, span, record, counters.
//!
//! A message travels in an envelope that says which request it belongs to, who sent it and when. The shell drops what is
//! late or has lost its caller before the actor sees it, and records everything else with its times and its outcome.

use std::{fmt, marker::PhantomData, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use arc_swap::ArcSwapOption;
use futures::FutureExt as _;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use thiserror::Error;
use tokio::{sync::oneshot, task::JoinHandle};
use tracing::span::EnteredSpan;

use super::{
    recorder::{Outcome, TraceRecord, TraceRecorder},
    restart::Intensity,
    supervisor::ChildSpec,
    vitals::{Census, Vitals},
};
use nomad_core::model::{
    object::ObjectId,
    time::MonotonicUs,
    trace::{SpanId, TraceContext},
};
use nomad_ports::{Clock, Entropy};

/// What all actors of a node share.
#[derive(Clone)]
pub struct Kit {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The trace ring.
    pub recorder: Arc<TraceRecorder>,
    /// All actors by name.
    pub census: Arc<Census>,
}

impl Kit {
    /// Begins a request that nobody outside waits for.
    pub fn new_context(&self) -> Context {
        Context { trace: self.recorder.new_trace(), deadline: None }
    }
}

/// Which request a message belongs to, and until when anybody cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// The request, and the step that sends.
    pub trace: TraceContext,
    /// When the caller gives up; `None` for work that nobody waits for.
    pub deadline: Option<MonotonicUs>,
}

/// What a record says of a message, or of what stands for one.
pub trait Described {
    /// Names the message's kind.
    fn kind(&self) -> &'static str;

    /// Returns the object that it is about.
    fn object(&self) -> Option<&ObjectId> {
        None
    }

    /// Says what it carries, for a capture: sizes and conditions, never the bytes of a value.
    fn detail(&self) -> String {
        self.kind().to_owned()
    }
}

/// A message of an actor.
pub trait ActorMessage: Described + Send + 'static {
    /// Tells whether nobody waits for its answer any more.
    fn is_abandoned(&self) -> bool {
        false
    }
}

/// The way back to an asker.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    /// Answers. An asker that has gone is no error.
    pub fn send(self, answer: T) {
        let _ = self.0.send(answer);
    }

    /// Answers, as the last thing that the message wanted.
    pub fn end(self, answer: T, outcome: Outcome) -> Outcome {
        self.send(answer);
        outcome
    }

    /// Answers with what some work brings, on a task of its own.
    pub fn send_later(self, answer: impl Future<Output = T> + Send + 'static)
    where
        T: Send + 'static,
    {
        tokio::spawn(async move { self.send(answer.await) });
    }

    /// Tells whether the asker has gone.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// A message on its way.
pub struct Envelope<M> {
    cx: Context,
    from: Arc<str>,
    sent: MonotonicUs,
    message: M,
}

/// Why an ask got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AskError {
    /// The actor is down or was restarted before it took the message: nothing was done.
    #[error("the actor {actor} was restarted before it took the request; ask again")]
    Gone {
        /// The actor's name.
        actor: Arc<str>,
    },
    /// No answer came in time: the outcome is unknown.
    #[error("the actor {actor} did not answer within the deadline")]
    DeadlinePassed {
        /// The actor's name.
        actor: Arc<str>,
    },
}

/// Where an actor can be reached, also after it was restarted. Cheap to clone.
pub struct Address<M: ActorMessage> {
    inner: Arc<AddressInner<M>>,
}

struct AddressInner<M: ActorMessage> {
    vitals: Arc<Vitals>,
    clock: Arc<dyn Clock>,
    current: ArcSwapOption<ActorRef<Envelope<M>>>,
}

impl<M: ActorMessage> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<M: ActorMessage> fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.inner.vitals.name)
    }
}

impl<M: ActorMessage> Address<M> {
    fn new(kit: &Kit, vitals: Arc<Vitals>) -> Self {
        let clock = Arc::clone(&kit.clock);
        Self { inner: Arc::new(AddressInner { vitals, clock, current: ArcSwapOption::empty() }) }
    }

    /// Returns the actor's name.
    pub fn name(&self) -> &Arc<str> {
        &self.inner.vitals.name
    }

    /// Returns how many messages wait for it.
    pub fn waiting(&self) -> u64 {
        let Vitals { sent, taken, .. } = &*self.inner.vitals;
        sent.load(Relaxed).saturating_sub(taken.load(Relaxed))
    }

    pub(super) fn vitals(&self) -> &Vitals {
        &self.inner.vitals
    }

    /// Sends a message and does not wait. Returns whether there was an actor to take it.
    pub fn tell(&self, from: &Arc<str>, cx: Context, message: M) -> bool {
        let inner = &*self.inner;
        let current = inner.current.load();
        let Some(actor) = current.as_ref() else { return false };
        let sent = inner.clock.monotonic();
        inner.vitals.sent.fetch_add(1, Relaxed);
        let envelope = Envelope { cx, from: Arc::clone(from), sent, message };
        let told = actor.send_message(envelope).is_ok();
        if !told {
            inner.vitals.taken.fetch_add(1, Relaxed);
        }
        told
    }

    /// Sends a message and waits for its answer until the deadline of `cx`, or half a minute where it has none. For
    /// edges, `node` and tests only.
    ///
    /// # Errors
    /// When there is no actor, or no answer in time.
    pub async fn ask<T>(
        &self,
        from: &Arc<str>,
        cx: Context,
        make: impl FnOnce(Reply<T>) -> M,
    ) -> Result<T, AskError> {
        let actor = || Arc::clone(self.name());
        let (reply, answer) = oneshot::channel();
        if !self.tell(from, cx, make(Reply(reply))) {
            return Err(AskError::Gone { actor: actor() });
        }
        let left_us = cx.deadline.map_or(30_000_000, |at| at.since(self.inner.clock.monotonic()));
        match tokio::time::timeout(Duration::from_micros(left_us), answer).await {
            Ok(Ok(answer)) => Ok(answer),
            // The shell drops late messages together with their replies.
            Ok(Err(_)) if cx.deadline.is_some_and(|at| at <= self.inner.clock.monotonic()) => {
                Err(AskError::DeadlinePassed { actor: actor() })
            }
            Ok(Err(_)) => Err(AskError::Gone { actor: actor() }),
            Err(_) => Err(AskError::DeadlinePassed { actor: actor() }),
        }
    }
}

/// How a message was handled.
pub type Handled = Result<Outcome, String>;

/// What an actor does with a message. The whole difference between one actor and another.
pub trait Worker: Sized + Send + 'static {
    /// Its messages.
    type Msg: ActorMessage;
    /// What it is started with, also after a failure.
    type Args: Clone + Send + Sync + 'static;

    /// Makes its state.
    ///
    /// # Errors
    /// When it cannot start; the supervisor tries again.
    fn start(args: &Self::Args, me: &Handling<'_, Self::Msg>) -> Result<Self, String>;

    /// Handles one message at once, without waiting for anything. A failure that is the sender's goes back through the
    /// reply; an `Err` here means "restart me".
    ///
    /// # Errors
    /// When its state can no longer be trusted.
    fn handle(&mut self, cx: &Handling<'_, Self::Msg>, message: Self::Msg) -> Handled;
}

/// What a handler knows beside its message.
pub struct Handling<'a, M: ActorMessage> {
    /// The context that what it sends belongs to.
    pub cx: Context,
    /// Its own address.
    pub me: &'a Address<M>,
    /// What all actors share.
    pub kit: &'a Kit,
}

impl<M: ActorMessage> Handling<'_, M> {
    /// Returns the same as part of another request.
    pub fn of(&self, cx: Context) -> Handling<'_, M> {
        Handling { cx, me: self.me, kit: self.kit }
    }

    /// Tells another actor something as part of the same request.
    pub fn tell<N: ActorMessage>(&self, to: &Address<N>, message: N) -> bool {
        to.tell(self.me.name(), self.cx, message)
    }

    /// Tells this actor what some work brings, as part of a request.
    pub(super) fn tell_me(
        &self,
        cx: Context,
        work: impl Future<Output = M> + Send + 'static,
    ) -> JoinHandle<()> {
        let me = self.me.clone();
        tokio::spawn(async move {
            me.tell(me.name(), cx, work.await);
        })
    }

    /// Tells this actor something later, as part of the same request.
    pub fn tell_me_after(&self, pause: Duration, message: M) {
        self.tell_me(self.cx, tokio::time::sleep(pause).map(|()| message));
    }

    /// Tells this actor something later, as the start of a new request of its own.
    pub fn tick_after(&self, pause: Duration, message: M) -> JoinHandle<()> {
        self.tell_me(self.kit.new_context(), tokio::time::sleep(pause).map(|()| message))
    }
}

/// Runs a role as a ractor actor.
pub struct Shell<R: Worker> {
    kit: Kit,
    args: R::Args,
    address: Address<R::Msg>,
    role: PhantomData<fn() -> R>,
}

impl<R: Worker> Shell<R> {
    fn handling(&self, cx: Context) -> Handling<'_, R::Msg> {
        Handling { cx, me: &self.address, kit: &self.kit }
    }

    fn run(&self, role: &mut R, envelope: Envelope<R::Msg>) -> Result<(), String> {
        let Envelope { cx, from, sent, message } = envelope;
        let (kit, vitals) = (&self.kit, &self.address.inner.vitals);
        vitals.taken.fetch_add(1, Relaxed);
        let start = kit.clock.monotonic();
        let mut step = StepGuard::begin(kit, vitals, cx, from, (start, Some(sent)), &message);
        let span = step.span();
        if cx.deadline.is_some_and(|deadline| start >= deadline) {
            step.end(Outcome::Dropped("its deadline had passed"));
            return Ok(());
        }
        if message.is_abandoned() {
            step.end(Outcome::Dropped("its caller had gone"));
            return Ok(());
        }
        let guard = step.enter(cx.trace, message.kind());
        let cx = Context { trace: cx.trace.child(span), ..cx };
        let handled = role.handle(&self.handling(cx), message);
        drop(guard);
        match handled {
            Ok(outcome) => {
                step.end(outcome);
                Ok(())
            }
            Err(reason) => {
                step.end(Outcome::Failed(reason.as_str().into()));
                Err(reason)
            }
        }
    }
}

/// The record of a message being handled; also written when the handler panics.
pub(super) struct StepGuard<'a> {
    kit: &'a Kit,
    vitals: &'a Vitals,
    start: MonotonicUs,
    record: Option<TraceRecord>,
}

impl<'a> StepGuard<'a> {
    /// Begins a step of the request `cx` at `start`. `sent` is when its message was, if it came through a mailbox.
    pub(super) fn begin(
        kit: &'a Kit,
        vitals: &'a Vitals,
        cx: Context,
        from: Arc<str>,
        (start, sent): (MonotonicUs, Option<MonotonicUs>),
        message: &impl Described,
    ) -> Self {
        let record = TraceRecord {
            seq: 0,
            trace: cx.trace.trace,
            span: kit.recorder.new_span(),
            parent: cx.trace.span,
            from,
            to: Arc::clone(&vitals.name),
            kind: message.kind(),
            object: message.object().cloned(),
            at: start,
            wait_us: sent.map_or(0, |sent| start.since(sent)),
            run_us: 0,
            batch_len: 0,
            outcome: Outcome::Done(""),
            detail: kit.recorder.wants_detail().then(|| message.detail().into()),
        };
        Self { kit, vitals, start, record: Some(record) }
    }

    fn span(&self) -> SpanId {
        self.record.as_ref().map(|record| record.span).unwrap_or_default()
    }

    /// Enters the step's span.
    pub(super) fn enter(&self, trace: TraceContext, kind: &'static str) -> EnteredSpan {
        let span = tracing::info_span!(
            target: "nomad::message",
            "message",
            actor = %self.vitals.name,
            kind,
            request = %trace.trace,
        );
        nomad_telemetry::adopt_step(span, trace, self.span()).entered()
    }

    pub(super) fn end(&mut self, outcome: Outcome) {
        let Some(mut record) = self.record.take() else { return };
        record.run_us = self.kit.clock.monotonic().since(self.start);
        let counter = match outcome {
            Outcome::Failed(_) => &self.vitals.failed,
            Outcome::Dropped(_) => &self.vitals.dropped,
            _ => &self.vitals.handled,
        };
        counter.fetch_add(1, Relaxed);
        record.outcome = outcome;
        self.vitals.record_times(record.wait_us, record.run_us);
        self.kit.recorder.add(record);
    }
}

impl Drop for StepGuard<'_> {
    fn drop(&mut self) {
        self.end(Outcome::Failed("panicked".into()));
    }
}

impl<R: Worker> Actor for Shell<R> {
    type Msg = Envelope<R::Msg>;
    type State = R;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<R, ActorProcessingErr> {
        // What waited for an earlier incarnation ended with it.
        let vitals = &self.address.inner.vitals;
        vitals.taken.store(vitals.sent.load(Relaxed), Relaxed);
        // The address is set first, so that a role may tell itself something as it starts.
        self.address.inner.current.store(Some(Arc::new(myself)));
        R::start(&self.args, &self.handling(self.kit.new_context())).map_err(Into::into)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        role: &mut R,
    ) -> Result<(), ActorProcessingErr> {
        self.run(role, envelope).map_err(Into::into)
    }
}

/// Prepares a worker: its address, which outlives its restarts, and how its supervisor starts it.
pub fn worker<R: Worker>(
    kit: &Kit,
    name: &str,
    parent: &str,
    args: R::Args,
) -> (Address<R::Msg>, ChildSpec) {
    let vitals = kit.census.enter(name, Some(parent));
    let address = Address::new(kit, Arc::clone(&vitals));
    let (kit, to) = (kit.clone(), address.clone());
    let spawn = move |supervisor: ActorCell| {
        let shell = Shell::<R> {
            kit: kit.clone(),
            args: args.clone(),
            address: to.clone(),
            role: PhantomData,
        };
        async move {
            let (actor, _) = Actor::spawn_linked(None, shell, (), supervisor)
                .await
                .map_err(|error| error.to_string())?;
            Ok(actor.get_cell())
        }
    };
    (address, ChildSpec::new(vitals, Intensity::default(), spawn))
}
