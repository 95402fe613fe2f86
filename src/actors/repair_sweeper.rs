//! Repair: the shell around `core::repair`, which decides everything. Passes over the registers, asks other members, has
//! rounds run, and answers what other members ask to find out whether their replicas differ.
//!
//! Killed, it begins again, with a comparison of all soon; nothing that it knows has to be kept.

mod door;
mod now;
mod store_work;
mod surveys;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{sync::Semaphore, task::AbortHandle};

pub use self::{door::RepairDoor, now::RepairError, surveys::Surveyed};
use self::{
    door::{ASK_LIMIT, VERSION},
    surveys::Surveys,
};
use super::{
    alarm::Alarm,
    codec,
    group_view::GroupView,
    recorder::Outcome,
    shell::{Context, Described, Handling, Message, Reply, Role},
};
use nomad_core::{
    node_id::NodeId,
    object::{ObjectId, Version},
    register::{Ended, Order},
    repair::{
        Answer, Effect, Event, Failure, Now, OUTLIVED_MAX, Options, Question, RepairStatus, Scope,
        Sweeper, Ticket,
    },
};
use nomad_ports::{ObjectStore, PeerTransport, Rounds, peer_transport::Service};

/// How long a round of a repair may take.
const ROUND_LIMIT_US: u64 = 10_000_000;
/// How many readings of the store for other members run at a time.
const READINGS_MAX: usize = 2;
/// How many of them wait.
const READINGS_WAITING_MAX: usize = 64;

// ---- messages ----

/// What the sweeper can be asked and told.
#[derive(Debug)]
pub enum RepairSweeperMsg {
    /// Ask: repair these objects now.
    Repair {
        /// The objects.
        ids: Vec<ObjectId>,
        /// Takes whether all of them are there, and complete; `false` = there is one that no replica knows.
        reply: Reply<Result<bool, RepairError>>,
    },
    /// Tell: compare with all members, and look for what can be cleared away, soon.
    Hurry,
    /// Tell: the node's view of its group has changed.
    ViewChanged,
    /// Ask: another member's question.
    Asked {
        /// The member; it has proved that.
        from: NodeId,
        /// Its question.
        question: Question,
        /// Takes the answer.
        reply: Reply<Answer>,
    },
    /// Tell: what became of an effect of this life of the actor. Later lives leave it unread.
    Happened {
        /// The life.
        life: u64,
        /// What happened.
        event: Event,
    },
    /// Tell: a pass over the registers has ended, in this life of the actor.
    Surveyed {
        /// The life.
        life: u64,
        /// What it has found.
        surveyed: Box<Surveyed>,
    },
    /// Timer: the time that the core wanted to be woken at has come.
    Tick,
}

impl Described for RepairSweeperMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Repair { .. } => "Repair",
            Self::Hurry => "Hurry",
            Self::ViewChanged => "ViewChanged",
            Self::Asked { question, .. } => question.kind(),
            Self::Happened { event, .. } => match event {
                Event::Answered(..) => "Answered",
                Event::Walked(..) => "Walked",
                Event::Looked(..) => "Looked",
                Event::Outlived(..) => "Outlived",
                Event::Floor(..) => "Promised",
                Event::Ended(..) => "Ended",
                Event::Viewed(_) | Event::Surveyed(..) | Event::Tick => "Happened",
            },
            Self::Surveyed { .. } => "Surveyed",
            Self::Tick => "Tick",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Repair { ids, .. } => format!("{} objects", ids.len()),
            Self::Asked { from, .. } => format!("{} of {from}", self.kind()),
            Self::Happened { event: Event::Ended(_, ended), .. } => format!("{ended:?}"),
            _ => self.kind().to_owned(),
        }
    }
}

impl Message for RepairSweeperMsg {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Repair { reply, .. } => reply.is_closed(),
            Self::Asked { reply, .. } => reply.is_closed(),
            _ => false,
        }
    }
}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct Args {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The way to other members.
    pub transport: Arc<dyn PeerTransport>,
    /// The node and its group.
    pub view: GroupView,
    /// Who runs rounds.
    pub rounds: Arc<dyn Rounds>,
    /// How much, and how often.
    pub options: Options,
    /// Where others read what has been done.
    pub gauge: Arc<RepairGauge>,
}

impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Args")
    }
}

/// Returns how much and how often: comparisons every `repair` (`schedule.repair`), and expired objects every `cleanup`
/// (`schedule.dbCleanup`). Tombstones are looked for as often as differences, and at least every ten minutes.
pub fn options(repair: Duration, cleanup: Duration) -> Options {
    let us = |duration: Duration| duration.as_micros() as u64;
    Options {
        interval_us: us(repair),
        soon_us: us(Duration::from_secs(2).min(repair)),
        expire_us: us(cleanup),
        bury_us: us(repair.min(Duration::from_secs(600))),
        rounds_max: 32,
        bytes_per_s: 16 << 20,
    }
}

/// What repair has done since the node was started, for whoever wants to see it.
#[derive(Debug, Default)]
pub struct RepairGauge(Mutex<RepairStatus>);

impl RepairGauge {
    /// Returns what has been done.
    pub fn read(&self) -> RepairStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, status: RepairStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

// ---- state ----

/// The actor.
pub struct RepairSweeper {
    core: Sweeper,
    args: Args,
    life: u64,
    surveys: Surveys,
    /// One permit for each reading for another member that may run.
    readings: Arc<Semaphore>,
    /// One permit for each that runs or waits.
    places: Arc<Semaphore>,
    alarm: Alarm,
    watcher: AbortHandle,
}

impl fmt::Debug for RepairSweeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RepairSweeper")
    }
}

impl Drop for RepairSweeper {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

// ---- handler ----

impl Role for RepairSweeper {
    type Msg = RepairSweeperMsg;
    type Args = Args;

    fn start(args: &Args, cx: &Handling<'_, RepairSweeperMsg>) -> Result<Self, String> {
        let mut changes = args.view.watch();
        let (me, from) = (cx.me.clone(), Arc::clone(cx.me.name()));
        let watcher = tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                me.tell(&from, Context::default(), RepairSweeperMsg::ViewChanged);
            }
        });
        let before = args.gauge.read();
        let mut actor = Self {
            core: Sweeper::new(args.options, cx.kit.clock.monotonic(), before),
            args: args.clone(),
            life: cx.kit.entropy.next_u64(),
            surveys: Surveys::default(),
            readings: Arc::new(Semaphore::new(READINGS_MAX)),
            places: Arc::new(Semaphore::new(READINGS_WAITING_MAX)),
            alarm: Alarm::default(),
            watcher: watcher.abort_handle(),
        };
        actor.look(cx);
        Ok(actor)
    }

    fn handle(
        &mut self,
        cx: &Handling<'_, RepairSweeperMsg>,
        message: RepairSweeperMsg,
    ) -> Result<Outcome, String> {
        let event = match message {
            RepairSweeperMsg::Repair { ids, reply } => return Ok(self.on_repair(cx, ids, reply)),
            RepairSweeperMsg::Hurry => {
                self.core.hurry(cx.kit.clock.monotonic());
                Event::Tick
            }
            RepairSweeperMsg::ViewChanged => {
                self.look(cx);
                return Ok(Outcome::Done("looked"));
            }
            RepairSweeperMsg::Asked { from, question, reply } => {
                return Ok(self.on_asked(cx, from, question, reply));
            }
            RepairSweeperMsg::Happened { life, .. } | RepairSweeperMsg::Surveyed { life, .. }
                if life != self.life =>
            {
                return Ok(Outcome::Dropped("it was owed to an earlier life"));
            }
            RepairSweeperMsg::Happened { event, .. } => event,
            RepairSweeperMsg::Surveyed { surveyed, .. } => {
                self.on_surveyed(cx, *surveyed);
                return Ok(Outcome::Done("surveyed"));
            }
            RepairSweeperMsg::Tick => {
                self.alarm.rang();
                Event::Tick
            }
        };
        self.step(cx, event);
        Ok(Outcome::Done("stepped"))
    }
}

impl RepairSweeper {
    fn look(&mut self, cx: &Handling<'_, RepairSweeperMsg>) {
        let scope = Scope::of(&self.args.view.load());
        self.step(cx, Event::Viewed(scope));
    }

    fn step(&mut self, cx: &Handling<'_, RepairSweeperMsg>, event: Event) {
        let now = Now { monotonic: cx.kit.clock.monotonic(), wall: cx.kit.clock.wall() };
        for effect in self.core.step(now, event) {
            self.carry_out(cx, effect);
        }
        self.alarm.set(cx, self.core.next_due(), || RepairSweeperMsg::Tick);
        self.args.gauge.set(self.core.status());
    }

    fn carry_out(&mut self, cx: &Handling<'_, RepairSweeperMsg>, effect: Effect) {
        match effect {
            Effect::Survey { ticket, scope, alive } => {
                self.survey(cx, scope, alive, surveys::Waiter::Core(ticket));
            }
            Effect::Ask { ticket, to, question } => self.ask(cx, ticket, to, &question),
            Effect::Walk { ticket, scope, other, buckets, from } => {
                self.read(cx, move |store| {
                    let part = store_work::walk(store, &scope, other, &buckets, &from);
                    Event::Walked(ticket, part)
                });
            }
            Effect::Look { ticket, ids } => {
                self.read(cx, move |store| Event::Looked(ticket, store_work::heads(store, &ids)));
            }
            Effect::Outlived { ticket, after } => {
                let now = cx.kit.clock.wall().secs();
                self.read(cx, move |store| {
                    let found = store_work::outlived(store, now, after.as_ref(), OUTLIVED_MAX);
                    Event::Outlived(ticket, found)
                });
            }
            Effect::Floor { ticket } => {
                let floor = self.args.rounds.floor();
                let floor = async move { Event::Floor(ticket, floor.await.ok_or(Failure)) };
                self.spawn(cx, floor);
            }
            Effect::Run { ticket, id, order } => self.run(cx, ticket, id, order),
        }
    }

    /// Waits for something, and then says so to the core.
    fn spawn(
        &self,
        cx: &Handling<'_, RepairSweeperMsg>,
        event: impl Future<Output = Event> + Send + 'static,
    ) {
        let (me, life) = (cx.me.clone(), self.life);
        let context = Context { deadline: None, ..cx.cx };
        tokio::spawn(async move {
            let event = event.await;
            me.tell(me.name(), context, RepairSweeperMsg::Happened { life, event });
        });
    }

    /// Reads the store on a thread that may wait, and then says so to the core.
    fn read(
        &self,
        cx: &Handling<'_, RepairSweeperMsg>,
        read: impl FnOnce(&dyn ObjectStore) -> Event + Send + 'static,
    ) {
        let (store, me, life) = (Arc::clone(&self.args.store), cx.me.clone(), self.life);
        let context = Context { deadline: None, ..cx.cx };
        tokio::task::spawn_blocking(move || {
            let event = read(&*store);
            me.tell(me.name(), context, RepairSweeperMsg::Happened { life, event });
        });
    }

    fn ask(
        &self,
        cx: &Handling<'_, RepairSweeperMsg>,
        ticket: Ticket,
        to: NodeId,
        question: &Question,
    ) {
        let transport = Arc::clone(&self.args.transport);
        let (trace, body) = (cx.cx.trace, codec::encode(VERSION, question));
        let asking: BoxFuture<'static, Result<Answer, String>> = Box::pin(async move {
            let asked = transport.ask(to, Service::Repair, trace, body?, ASK_LIMIT).await;
            let bytes = asked.map_err(|error| error.to_string())?;
            codec::decode(VERSION, &bytes)
        });
        self.spawn(cx, async move {
            let answer = asking.await.map_err(|reason| {
                tracing::debug!(%to, reason, "a member does not compare its replicas");
                Failure
            });
            Event::Answered(ticket, answer)
        });
    }

    fn run(&self, cx: &Handling<'_, RepairSweeperMsg>, ticket: Ticket, id: ObjectId, order: Order) {
        // Each object's round is a request of its own, to be followed.
        let trace = cx.kit.recorder.new_trace();
        let deadline = cx.kit.clock.monotonic().plus_us(ROUND_LIMIT_US);
        let run = self.args.rounds.run(id, order, trace, deadline);
        self.spawn(cx, async move { Event::Ended(ticket, run.await) });
    }

    // ---- other members ----

    fn on_asked(
        &mut self,
        cx: &Handling<'_, RepairSweeperMsg>,
        from: NodeId,
        question: Question,
        reply: Reply<Answer>,
    ) -> Outcome {
        let view = Scope::of(&self.args.view.load());
        let fits = |scope: &Scope| {
            question.about() == (scope.group.as_str(), scope.epoch) && scope.members.contains(&from)
        };
        let Some((scope, alive)) = view.filter(|(scope, _)| fits(scope) && from != scope.this)
        else {
            reply.send(Answer::Elsewhere);
            return Outcome::Refused("another group or epoch");
        };
        match question {
            Question::Compare { root, .. } => {
                let waiter = surveys::Waiter::Member { from, root, reply };
                self.survey(cx, scope, alive, waiter);
            }
            Question::Walk { buckets, from: place, .. } => self.answer(reply, move |store| {
                store_work::walk(store, &scope, from, &buckets, &place).map(Answer::Part)
            }),
            Question::Heads { ids, .. } if ids.len() <= nomad_core::repair::HEADS_MAX => {
                self.answer(reply, move |store| store_work::heads(store, &ids).map(Answer::Heads));
            }
            Question::Heads { .. } => reply.send(Answer::Elsewhere),
            Question::Floor { .. } => {
                let floor = self.args.rounds.floor();
                tokio::spawn(async move {
                    let floor: Option<Version> = floor.await;
                    reply.send(floor.map_or(Answer::Later, Answer::Floor));
                });
            }
        }
        Outcome::Done("taken on")
    }

    /// Answers another member with what is read from the store, on a thread that may wait.
    fn answer(
        &self,
        reply: Reply<Answer>,
        read: impl FnOnce(&dyn ObjectStore) -> Result<Answer, Failure> + Send + 'static,
    ) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return reply.send(Answer::Later);
        };
        let (store, readings) = (Arc::clone(&self.args.store), Arc::clone(&self.readings));
        tokio::spawn(async move {
            let Ok(permit) = readings.acquire_owned().await else { return };
            tokio::task::spawn_blocking(move || {
                let _held = (place, permit);
                // Whoever has asked may have gone while the reading waited.
                if !reply.is_closed() {
                    reply.send(read(&*store).unwrap_or(Answer::Later));
                }
            });
        });
    }

    // ---- clients ----

    fn on_repair(
        &self,
        cx: &Handling<'_, RepairSweeperMsg>,
        ids: Vec<ObjectId>,
        reply: Reply<Result<bool, RepairError>>,
    ) -> Outcome {
        let latest = cx.kit.clock.monotonic().plus_us(ROUND_LIMIT_US);
        let deadline = cx.cx.deadline.unwrap_or(latest);
        let by = (Arc::clone(&self.args.rounds), Arc::clone(&self.args.store));
        let repair = now::repair(by, ids, cx.cx.trace, deadline);
        tokio::spawn(async move { reply.send(repair.await) });
        Outcome::Done("begun")
    }
}

impl From<&Ended> for RepairError {
    fn from(ended: &Ended) -> Self {
        match ended {
            Ended::NoQuorum { answered, needed } => {
                Self::NoQuorum { answered: *answered, needed: *needed }
            }
            Ended::NotReady => Self::NotReady,
            Ended::Busy => Self::Busy,
            _ => Self::Unknown,
        }
    }
}
