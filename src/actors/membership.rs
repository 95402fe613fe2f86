//! Membership: the shell around `core::membership`, which decides everything. Turns messages into events and effects into
//! sends, timers and a published view.
//!
//! Every effect that wants an answer gets exactly one, also when the actor that was to give it is killed: see
//! [`Owed`](super::driver::Owed).

mod effects;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use strum::IntoStaticStr;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    door::{Door, PeerMessage},
    driver::{DrivenMessage, Driver, News, Told},
    group_table::GroupTableMsg,
    group_view::GroupView,
    recorder::Outcome,
    replica_writer::{Endings, Rescans},
    shell::{ActorMessage, Address, Described, Handled, Handling, Reply, Worker},
};
use nomad_core::{
    group::{
        SettingChange,
        control::{ControlError, ControlRequest},
        decision::{ControlDecision, decide, decide_setting},
        log_state::LogState,
        membership::{
            Durable, Membership, MembershipAnswer, MembershipConfig, MembershipEvent,
            MembershipOrder, MembershipRequest, RequestId,
        },
        view::{Sighting, View},
    },
    model::{node_id::NodeId, time::MonotonicUs},
};
use nomad_ports::{
    DurableState, Overlay, PeerTransport,
    peer_transport::{LinkEvent, Service},
};

/// The longest that a question waits for the core's answer: as long as its sender does.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The same for an order that is passed on, which the super-peer may have to ask others about.
const ORDER_LIMIT: Duration = Duration::from_secs(20);
/// The most questions that wait for an answer of the core.
const WAITING_MAX: usize = 1_024;

// ---- messages ----

/// Takes whether a change was made; `false` = there was nothing to do.
pub type ControlReply = Reply<Result<bool, ControlError>>;

/// What membership can be asked and told.
#[derive(Debug, IntoStaticStr)]
pub enum MembershipMsg {
    /// Ask: what a client or an older node wants of the group.
    Control {
        /// What it wants.
        request: ControlRequest,
        /// Takes what became of it: `true` = done, `false` = there was nothing to do.
        reply: ControlReply,
    },
    /// Ask: change a setting, of this node or of its group.
    Set {
        /// The change.
        change: SettingChange,
        /// Takes whether it was done.
        reply: ControlReply,
    },
    /// Ask: another node's question.
    Asked {
        /// The node; it has proved that.
        from: NodeId,
        /// Its question.
        question: MembershipRequest,
        /// Takes the answer.
        reply: Reply<MembershipAnswer>,
    },
    /// Tell: a link stands, or stands no more.
    Link(LinkEvent),
    /// Tell: the log has changed.
    LogChanged(LogState),
    /// Tell: what its own work has brought.
    Told(Told<MembershipEvent>),
    /// Tell: the durable state cannot be kept.
    NotKept {
        /// Why.
        reason: String,
    },
    /// Tell: what this node keeps of its group is too old to go on from.
    LeftBehind,
    /// Tell: the process stops.
    Stop,
}

impl Described for MembershipMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Control { request, .. } => request.kind(),
            Self::Asked { question, .. } => question.kind(),
            Self::Link(LinkEvent::Up(_)) => "LinkUp",
            Self::Link(LinkEvent::Down { .. }) => "LinkDown",
            Self::Told(told) => told.kind(),
            other => other.into(),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Control { request, .. } => format!("{request:?}"),
            Self::Set { change, .. } => format!("{change:?}"),
            Self::Asked { from, question, .. } => format!("{from}: {question:?}"),
            Self::Link(event) => format!("{event:?}"),
            Self::Told(told) => told.detail(),
            Self::NotKept { reason } => reason.clone(),
            Self::LogChanged(log) => format!("term {}, applied {}", log.term, log.applied),
            Self::LeftBehind | Self::Stop => self.kind().to_owned(),
        }
    }
}

impl ActorMessage for MembershipMsg {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Control { reply, .. } | Self::Set { reply, .. } => reply.is_closed(),
            Self::Asked { reply, .. } => reply.is_closed(),
            _ => false,
        }
    }
}

impl DrivenMessage for MembershipMsg {
    type News = MembershipEvent;

    fn told(told: Told<MembershipEvent>) -> Self {
        Self::Told(told)
    }
}

impl PeerMessage for MembershipMsg {
    type Question = MembershipRequest;
    type Answer = MembershipAnswer;
    const SERVICE: Service = Service::Membership;
    const VERSION: u8 = 1;
    /// As much as a link carries.
    const BODY_MAX: usize = usize::MAX;

    fn limit(question: &MembershipRequest) -> Duration {
        match question {
            MembershipRequest::Order { .. } => ORDER_LIMIT,
            _ => ANSWER_LIMIT,
        }
    }

    fn asked(from: NodeId, question: MembershipRequest, reply: Reply<MembershipAnswer>) -> Self {
        Self::Asked { from, question, reply }
    }
}

/// Where other nodes' questions about membership come in.
pub type MembershipDoor = Door<MembershipMsg>;

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct MembershipArgs {
    /// The core's configuration.
    pub config: MembershipConfig,
    /// The view that it publishes; what it says of the node itself is what it starts from, also after a failure.
    pub view: GroupView,
    /// What the node has kept of its membership.
    pub durable: Arc<dyn DurableState>,
    /// The log.
    pub log: watch::Receiver<LogState>,
    /// Who writes to the log.
    pub group_table: Address<GroupTableMsg>,
    /// The way to other nodes.
    pub transport: Arc<dyn PeerTransport>,
    /// The network.
    pub overlay: Arc<dyn Overlay>,
    /// Says which rescans of the node's objects are done.
    pub rescans: Arc<Rescans>,
    /// Is told which groups are no more.
    pub endings: Arc<Endings>,
}

// ---- state ----

/// A client that waits for what it ordered.
struct Ordered {
    /// The address or the node that the order is about.
    about: String,
    reply: ControlReply,
}

/// The actor.
pub struct MembershipActor {
    driver: Driver<Membership>,
    args: MembershipArgs,
    log: LogState,
    keeper: effects::Keeper,
    /// Clients that wait for what they ordered.
    orders: BTreeMap<RequestId, Ordered>,
    /// Nodes that wait for an answer.
    questions: BTreeMap<RequestId, Reply<MembershipAnswer>>,
    next_request: u64,
    /// Waits for the end of the running rescan.
    rescan: Option<AbortOnDropHandle<()>>,
}

// ---- handler ----

/// What a step of this actor has at hand.
type MembershipCx<'a> = Handling<'a, MembershipMsg>;

impl Worker for MembershipActor {
    type Msg = MembershipMsg;
    type Args = MembershipArgs;

    fn start(args: &MembershipArgs, cx: &MembershipCx<'_>) -> Result<Self, String> {
        let durable: Durable =
            args.durable.load().map_err(|error| error.to_string())?.unwrap_or_default();
        let (this, permanent) = {
            let view = args.view.load();
            (view.this.clone(), view.permanent)
        };
        let seed = cx.kit.entropy.next_u64();
        let core = Membership::new(args.config.clone(), this, permanent, durable, seed);
        let mut watched = args.log.clone();
        let log = watched.borrow_and_update().clone();
        let mut driver = Driver::new(cx, core);
        driver.watch(cx, watched, MembershipMsg::LogChanged);
        let keeper = effects::Keeper::start(Arc::clone(&args.durable), cx.me.clone());
        let mut actor = Self {
            driver,
            args: args.clone(),
            log: log.clone(),
            keeper,
            orders: BTreeMap::new(),
            questions: BTreeMap::new(),
            next_request: 0,
            rescan: None,
        };
        actor.step(cx, MembershipEvent::Started { log });
        // Links outlive this actor, and what stands is not told again.
        let standing = args.transport.readings().into_iter().filter(|link| link.up_since.is_some());
        for link in standing {
            actor.step(cx, MembershipEvent::LinkUp(link.node));
        }
        Ok(actor)
    }

    fn handle(&mut self, cx: &MembershipCx<'_>, message: MembershipMsg) -> Handled {
        let event = match message {
            MembershipMsg::Control { request, reply } => {
                return Ok(self.on_control(cx, request, reply));
            }
            MembershipMsg::Set { change, reply } => {
                let decision = decide_setting(change, &self.args.view.load());
                return Ok(self.on_decision(cx, decision, reply));
            }
            MembershipMsg::Asked { from, question, reply } => {
                let Some(request) = self.admit() else {
                    reply.send(MembershipAnswer::Later { after_ms: 1_000 });
                    return Ok(Outcome::Refused("too many questions wait"));
                };
                self.questions.insert(request, reply);
                MembershipEvent::Asked { from, request, question }
            }
            MembershipMsg::Link(LinkEvent::Up(node)) => MembershipEvent::LinkUp(node),
            MembershipMsg::Link(LinkEvent::Down { node, .. }) => MembershipEvent::LinkDown(node),
            MembershipMsg::LogChanged(log) => {
                self.log = log.clone();
                MembershipEvent::LogChanged(log)
            }
            MembershipMsg::Told(told) => match self.driver.take(cx, told) {
                Err(outcome) => return Ok(outcome),
                Ok(News::Happened(event)) => {
                    self.catch_up(cx);
                    event
                }
                Ok(News::Due | News::ViewChanged) => MembershipEvent::Tick,
            },
            MembershipMsg::NotKept { reason } => return Err(reason),
            MembershipMsg::LeftBehind => MembershipEvent::LeftBehind,
            MembershipMsg::Stop => MembershipEvent::Stopping,
        };
        self.step(cx, event);
        Ok(Outcome::Done("stepped"))
    }
}

impl MembershipActor {
    /// Takes in what the log says by now, which the result of a task may rest on.
    fn catch_up(&mut self, cx: &MembershipCx<'_>) {
        let log = self.args.log.borrow().clone();
        if log != self.log {
            self.log = log.clone();
            self.step(cx, MembershipEvent::LogChanged(log));
        }
    }

    fn on_control(
        &mut self,
        cx: &MembershipCx<'_>,
        request: ControlRequest,
        reply: ControlReply,
    ) -> Outcome {
        let view = self.args.view.load_full();
        let offers = self.args.overlay.known(view.this.position);
        let decision = decide(&request, &view, &offers);
        self.on_decision(cx, decision, reply)
    }

    fn on_decision(
        &mut self,
        cx: &MembershipCx<'_>,
        decision: Result<ControlDecision, ControlError>,
        reply: ControlReply,
    ) -> Outcome {
        let order = match decision {
            Err(error) => return reply.end(Err(error), Outcome::Refused("not granted")),
            Ok(ControlDecision::Answer(answer)) => {
                return reply.end(Ok(answer), Outcome::Done("answered at once"));
            }
            Ok(ControlDecision::Describe(member)) => {
                self.republish(|view| view.this = member.clone());
                reply.send(Ok(true));
                self.step(cx, MembershipEvent::Described(member));
                return Outcome::Done("stepped");
            }
            Ok(ControlDecision::Settings(settings)) => {
                self.republish(|view| view.settings = settings);
                return reply.end(Ok(true), Outcome::Done("changed"));
            }
            Ok(ControlDecision::Order(order)) => order,
        };
        self.order(cx, order, reply)
    }

    fn order(
        &mut self,
        cx: &MembershipCx<'_>,
        order: MembershipOrder,
        reply: ControlReply,
    ) -> Outcome {
        let Some(request) = self.admit() else {
            let busy = ControlError::Busy { what: "much else".to_owned() };
            return reply.end(Err(busy), Outcome::Refused("too many orders wait"));
        };
        let about = match &order {
            MembershipOrder::AddPeer { address } => address.clone(),
            MembershipOrder::Migrate { node, .. }
            | MembershipOrder::RemovePeer(node)
            | MembershipOrder::PeerLeaves(node)
            | MembershipOrder::Look(node)
            | MembershipOrder::Stand { node, .. } => node.to_string(),
            MembershipOrder::Leave
            | MembershipOrder::SuperPeerLeave
            | MembershipOrder::Write(_) => String::new(),
        };
        self.orders.insert(request, Ordered { about, reply });
        self.step(cx, MembershipEvent::Ordered { request, order });
        Outcome::Done("stepped")
    }

    /// Draws the number of a question, unless too many wait already.
    fn admit(&mut self) -> Option<RequestId> {
        self.orders.retain(|_, order| !order.reply.is_closed());
        self.questions.retain(|_, reply| !reply.is_closed());
        if self.orders.len() + self.questions.len() >= WAITING_MAX {
            return None;
        }
        self.next_request += 1;
        Some(RequestId(self.next_request))
    }

    fn step(&mut self, cx: &MembershipCx<'_>, event: MembershipEvent) {
        let effects = self.driver.step(cx, event, &());
        self.publish(cx);
        for effect in effects {
            self.carry_out(cx, effect);
        }
    }

    /// Changes what the node says of itself, which outlives this actor in the view.
    fn republish(&self, change: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.args.view.load());
        change(&mut view);
        self.args.view.publish(view);
    }

    fn publish(&self, cx: &MembershipCx<'_>) {
        let (now, wall) = (cx.kit.clock.monotonic(), cx.kit.clock.wall());
        let at = |heard: MonotonicUs| {
            nomad_core::model::time::UnixMs(wall.0.saturating_sub(now.since(heard) / 1_000))
        };
        let core = self.driver.core();
        let seen = core.sightings();
        let sightings = seen.iter().map(|(node, seen)| {
            let last_seen = seen.last_heard.map(at);
            (*node, Sighting { liveness: seen.liveness, last_seen })
        });
        let old = self.args.view.load();
        let has_group = core.durable().home.is_some();
        let view = View {
            this: core.this().clone(),
            permanent: old.permanent,
            state: core.state(),
            table: self.log.table.clone().filter(|_| has_group),
            super_peer: self.log.leader.filter(|_| has_group),
            term: self.log.term,
            voters: self.log.settled_voters.clone(),
            sightings: sightings.collect(),
            has_majority: core.has_majority(),
            world: old.world,
            settings: old.settings,
        };
        if **old != view {
            drop(old);
            self.args.view.publish(view);
        }
    }
}
