//! Repair: the shell around `core::repair`, which decides everything. Passes over the registers, asks other members, has
//! rounds run, and answers what other members ask to find out whether their replicas differ.
//!
//! Killed, it begins again, with a comparison of all soon; nothing that it knows has to be kept.

mod now;
mod store_work;
mod surveys;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;

pub use self::surveys::Surveyed;
use self::surveys::Surveys;
use super::{
    door::{self, Door, PeerMessage},
    driver::{DrivenMessage, Driver, News, Told},
    gauge::Gauge,
    group_view::GroupView,
    readings::Readings,
    recorder::Outcome,
    shell::{ActorMessage, Described, Handled, Handling, Reply, Worker},
};
use nomad_core::{
    group::replication::NotDone,
    machine::{NoAnswer, Ticket},
    model::{
        node_id::NodeId,
        object::{ObjectId, Version},
    },
    register::{RegisterOrder, RegisterOutcome},
    repair::{
        OUTLIVED_MAX, RepairAnswer, RepairEffect, RepairEvent, RepairOptions, RepairRequest,
        RepairStatus, Scope, Sweeper,
    },
};
use nomad_ports::{ObjectStore, PeerTransport, Rounds, peer_transport::Service};

/// How long a round of a repair may take.
const ROUND_LIMIT_US: u64 = 10_000_000;
/// The longest that another member waits for an answer. A pass over all registers has to fit.
const ASK_LIMIT: Duration = Duration::from_secs(30);
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
        reply: Reply<Result<bool, NotDone>>,
    },
    /// Tell: compare with all members, and look for what can be cleared away, soon.
    Hurry,
    /// Ask: another member's question.
    Asked {
        /// The member; it has proved that.
        from: NodeId,
        /// Its question.
        question: RepairRequest,
        /// Takes the answer.
        reply: Reply<RepairAnswer>,
    },
    /// Tell: what its own work has brought.
    Told(Told<RepairNews>),
}

/// What the sweeper's own work brings.
#[derive(Debug)]
pub enum RepairNews {
    /// What the core wants to know.
    Event(RepairEvent),
    /// A pass over the registers has ended.
    Surveyed(Box<Surveyed>),
}

impl Described for RepairNews {
    fn kind(&self) -> &'static str {
        match self {
            Self::Event(RepairEvent::Answered(..)) => "Answered",
            Self::Event(RepairEvent::Walked(..)) => "Walked",
            Self::Event(RepairEvent::Looked(..)) => "Looked",
            Self::Event(RepairEvent::Outlived(..)) => "Outlived",
            Self::Event(RepairEvent::Watermark(..)) => "Promised",
            Self::Event(RepairEvent::Ended(..)) => "Ended",
            Self::Event(_) => "Happened",
            Self::Surveyed(_) => "Surveyed",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Event(RepairEvent::Ended(_, ended)) => format!("{ended:?}"),
            _ => self.kind().to_owned(),
        }
    }
}

impl Described for RepairSweeperMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Repair { .. } => "Repair",
            Self::Hurry => "Hurry",
            Self::Asked { question, .. } => question.kind(),
            Self::Told(told) => told.kind(),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Repair { ids, .. } => format!("{} objects", ids.len()),
            Self::Asked { from, .. } => format!("{} of {from}", self.kind()),
            Self::Told(told) => told.detail(),
            _ => self.kind().to_owned(),
        }
    }
}

impl ActorMessage for RepairSweeperMsg {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Repair { reply, .. } => reply.is_closed(),
            Self::Asked { reply, .. } => reply.is_closed(),
            _ => false,
        }
    }
}

impl DrivenMessage for RepairSweeperMsg {
    type News = RepairNews;

    fn told(told: Told<RepairNews>) -> Self {
        Self::Told(told)
    }
}

impl PeerMessage for RepairSweeperMsg {
    type Question = RepairRequest;
    type Answer = RepairAnswer;
    const SERVICE: Service = Service::Repair;
    const VERSION: u8 = 1;
    /// The most ids, each as long as one may be.
    const BODY_MAX: usize = 256 << 10;

    fn limit(_: &RepairRequest) -> Duration {
        ASK_LIMIT
    }

    fn asked(from: NodeId, question: RepairRequest, reply: Reply<RepairAnswer>) -> Self {
        Self::Asked { from, question, reply }
    }
}

/// Where other members' questions about replicas come in.
pub type RepairDoor = Door<RepairSweeperMsg>;

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct RepairSweeperArgs {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The way to other members.
    pub transport: Arc<dyn PeerTransport>,
    /// The node and its group.
    pub view: GroupView,
    /// Who runs rounds.
    pub rounds: Arc<dyn Rounds>,
    /// How much, and how often.
    pub options: RepairOptions,
    /// Where others read what has been done.
    pub gauge: Arc<RepairGauge>,
}

/// Returns how much and how often: comparisons every `repair` (`schedule.repair`), and expired objects every `cleanup`
/// (`schedule.dbCleanup`). Tombstones are looked for as often as differences, and at least every ten minutes.
pub fn options(repair: Duration, cleanup: Duration) -> RepairOptions {
    let us = |duration: Duration| duration.as_micros() as u64;
    RepairOptions {
        interval_us: us(repair),
        soon_us: us(Duration::from_secs(2).min(repair)),
        expire_us: us(cleanup),
        bury_us: us(repair.min(Duration::from_secs(600))),
        rounds_max: 32,
        bytes_per_s: 16 << 20,
    }
}

/// What repair has done since the node was started, for whoever wants to see it.
pub type RepairGauge = Gauge<RepairStatus>;

// ---- state ----

/// The actor.
pub struct RepairSweeper {
    driver: Driver<Sweeper>,
    args: RepairSweeperArgs,
    surveys: Surveys,
    /// For other members.
    readings: Readings,
}

// ---- handler ----

/// What a step of this actor has at hand.
type SweeperCx<'a> = Handling<'a, RepairSweeperMsg>;

impl Worker for RepairSweeper {
    type Msg = RepairSweeperMsg;
    type Args = RepairSweeperArgs;

    fn start(args: &RepairSweeperArgs, cx: &SweeperCx<'_>) -> Result<Self, String> {
        let core = Sweeper::new(args.options, cx.kit.clock.monotonic(), args.gauge.read());
        let mut driver = Driver::new(cx, core);
        driver.watch_view(cx, &args.view);
        let mut actor = Self {
            driver,
            args: args.clone(),
            surveys: Surveys::default(),
            readings: Readings::new(READINGS_MAX, READINGS_WAITING_MAX),
        };
        actor.look(cx);
        Ok(actor)
    }

    fn handle(&mut self, cx: &SweeperCx<'_>, message: RepairSweeperMsg) -> Handled {
        let event = match message {
            RepairSweeperMsg::Repair { ids, reply } => return Ok(self.on_repair(cx, ids, reply)),
            RepairSweeperMsg::Hurry => {
                self.driver.with(cx, |core, now| core.hurry(now.monotonic));
                RepairEvent::Tick
            }
            RepairSweeperMsg::Asked { from, question, reply } => {
                return Ok(self.on_asked(cx, from, question, reply));
            }
            RepairSweeperMsg::Told(told) => match self.driver.take(cx, told) {
                Err(outcome) => return Ok(outcome),
                Ok(News::ViewChanged) => {
                    self.look(cx);
                    return Ok(Outcome::Done("looked"));
                }
                Ok(News::Happened(RepairNews::Surveyed(surveyed))) => {
                    self.on_surveyed(cx, *surveyed);
                    return Ok(Outcome::Done("surveyed"));
                }
                Ok(News::Happened(RepairNews::Event(event))) => event,
                Ok(News::Due) => RepairEvent::Tick,
            },
        };
        self.step(cx, event);
        Ok(Outcome::Done("stepped"))
    }
}

impl RepairSweeper {
    fn look(&mut self, cx: &SweeperCx<'_>) {
        let scope = Scope::of(&self.args.view.load());
        self.step(cx, RepairEvent::Viewed(scope));
    }

    fn step(&mut self, cx: &SweeperCx<'_>, event: RepairEvent) {
        for effect in self.driver.step(cx, event, &()) {
            self.carry_out(cx, effect);
        }
        self.args.gauge.set(self.driver.core().status());
    }

    fn carry_out(&mut self, cx: &SweeperCx<'_>, effect: RepairEffect) {
        match effect {
            RepairEffect::Survey { ticket, scope, alive } => {
                self.survey(cx, scope, alive, surveys::SurveyWaiter::Core(ticket));
            }
            RepairEffect::Ask { ticket, to, question } => self.ask(cx, ticket, to, &question),
            RepairEffect::Walk { ticket, scope, other, buckets, from } => {
                let walk = move |store: &dyn ObjectStore| {
                    store_work::walk(store, &scope, other, &buckets, &from)
                };
                self.read(cx, walk, move |part| RepairEvent::Walked(ticket, part));
            }
            RepairEffect::Look { ticket, ids } => {
                let look = move |store: &dyn ObjectStore| store_work::heads(store, &ids);
                self.read(cx, look, move |heads| RepairEvent::Looked(ticket, heads));
            }
            RepairEffect::Outlived { ticket, after } => {
                let now = cx.kit.clock.wall().secs();
                let list = move |store: &dyn ObjectStore| {
                    store_work::outlived(store, now, after.as_ref(), OUTLIVED_MAX)
                };
                self.read(cx, list, move |found| RepairEvent::Outlived(ticket, found));
            }
            RepairEffect::Watermark { ticket } => {
                let watermark = self.args.rounds.watermark();
                let watermark = async move { watermark.await.ok_or(NoAnswer) };
                let event =
                    move |watermark| RepairNews::Event(RepairEvent::Watermark(ticket, watermark));
                self.driver.wait_for(cx, watermark, event);
            }
            RepairEffect::Run { ticket, id, order } => self.run(cx, ticket, id, order),
        }
    }

    /// Reads the store on a thread that may wait, and then says so to the core.
    fn read<T>(
        &self,
        cx: &SweeperCx<'_>,
        read: impl FnOnce(&dyn ObjectStore) -> Result<T, NoAnswer> + Send + 'static,
        event: impl Fn(Result<T, NoAnswer>) -> RepairEvent + Send + 'static,
    ) {
        let store = Arc::clone(&self.args.store);
        self.driver.read(cx, move || read(&*store), move |read| RepairNews::Event(event(read)));
    }

    fn ask(&self, cx: &SweeperCx<'_>, ticket: Ticket, to: NodeId, question: &RepairRequest) {
        let (transport, trace) = (&self.args.transport, cx.cx.trace);
        let asked = door::ask::<RepairSweeperMsg>(transport, to, trace, question, ASK_LIMIT);
        let answer = async move {
            asked.await.map_err(|reason| {
                tracing::debug!(%to, reason, "a member does not compare its replicas");
                NoAnswer
            })
        };
        let event = move |answer| RepairNews::Event(RepairEvent::Answered(ticket, answer));
        self.driver.wait_for(cx, answer, event);
    }

    fn run(&self, cx: &SweeperCx<'_>, ticket: Ticket, id: ObjectId, order: RegisterOrder) {
        // Each object's round is a request of its own, to be followed.
        let trace = cx.kit.recorder.new_trace();
        let deadline = cx.kit.clock.monotonic().plus_us(ROUND_LIMIT_US);
        let run = self.args.rounds.run(id, order, trace, deadline);
        let event = move |ended: Result<_, NoAnswer>| {
            let ended = ended.unwrap_or(RegisterOutcome::Unknown);
            RepairNews::Event(RepairEvent::Ended(ticket, ended))
        };
        self.driver.wait_for(cx, async move { Ok(run.await) }, event);
    }

    // ---- other members ----

    fn on_asked(
        &mut self,
        cx: &SweeperCx<'_>,
        from: NodeId,
        question: RepairRequest,
        reply: Reply<RepairAnswer>,
    ) -> Outcome {
        let view = Scope::of(&self.args.view.load());
        let fits = |scope: &Scope| {
            question.about() == (scope.group.as_str(), scope.epoch) && scope.members.contains(&from)
        };
        let Some((scope, alive)) = view.filter(|(scope, _)| fits(scope) && from != scope.this)
        else {
            return reply.end(RepairAnswer::Elsewhere, Outcome::Refused("another group or epoch"));
        };
        match question {
            RepairRequest::Compare { root, .. } => {
                let waiter = surveys::SurveyWaiter::Member { from, root, reply };
                self.survey(cx, scope, alive, waiter);
            }
            RepairRequest::Walk { buckets, from: place, .. } => self.answer(reply, move |store| {
                store_work::walk(store, &scope, from, &buckets, &place).map(RepairAnswer::Part)
            }),
            RepairRequest::Heads { ids, .. } if ids.len() <= nomad_core::repair::HEADS_MAX => {
                self.answer(reply, move |store| {
                    store_work::heads(store, &ids).map(RepairAnswer::Heads)
                });
            }
            RepairRequest::Heads { .. } => reply.send(RepairAnswer::Elsewhere),
            RepairRequest::Watermark { .. } => {
                let answer = |watermark: Option<Version>| {
                    watermark.map_or(RepairAnswer::Later, RepairAnswer::Watermark)
                };
                reply.send_later(self.args.rounds.watermark().map(answer));
            }
        }
        Outcome::Done("taken on")
    }

    /// Answers another member with what is read from the store, on a thread that may wait.
    fn answer(
        &self,
        reply: Reply<RepairAnswer>,
        read: impl FnOnce(&dyn ObjectStore) -> Result<RepairAnswer, NoAnswer> + Send + 'static,
    ) {
        let store = Arc::clone(&self.args.store);
        let read = move || read(&*store).unwrap_or(RepairAnswer::Later);
        if let Err(reply) = self.readings.answer(reply, read) {
            reply.send(RepairAnswer::Later);
        }
    }

    // ---- clients ----

    fn on_repair(
        &self,
        cx: &SweeperCx<'_>,
        ids: Vec<ObjectId>,
        reply: Reply<Result<bool, NotDone>>,
    ) -> Outcome {
        let latest = cx.kit.clock.monotonic().plus_us(ROUND_LIMIT_US);
        let deadline = cx.cx.deadline.unwrap_or(latest);
        let by = (Arc::clone(&self.args.rounds), Arc::clone(&self.args.store));
        reply.send_later(now::repair(by, ids, cx.cx.trace, deadline));
        Outcome::Done("begun")
    }
}
