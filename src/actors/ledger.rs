//! The ledger: the shell around `core::ledger`, which decides everything. Takes in what this node holds and what others say,
//! asks them, and answers who holds what.
//!
//! A node that keeps no ledger of its group asks the super-peer. Killed, it begins again: with this node's store, then with
//! the other members.

mod asking;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use strum::IntoStaticStr;

use super::{
    door::{self, Door, PeerMessage},
    driver::{DrivenMessage, Driver, News, Told},
    gauge::Gauge,
    group_view::GroupView,
    membership::ControlReply,
    recorder::Outcome,
    shell::{ActorMessage, Address, Context, Described, Handled, Handling, Reply, Worker},
};
use nomad_core::{
    group::control::ControlError,
    ledger::{
        Bookkeeper, HeldObject, LedgerAnswer, LedgerChange, LedgerEffect, LedgerEvent, LedgerPage,
        LedgerRequest, LedgerScope, LedgerStanding, Notice,
    },
    machine::{NoAnswer, Ticket},
    model::{node_id::NodeId, object::ObjectId},
};
use nomad_ports::{
    ObjectStore, PeerTransport,
    object_store::{RegisterHead, StoreError},
    peer_transport::Service,
};

/// The longest that another member waits for an answer.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// How many registers are read at a time.
const SCAN_MAX: usize = 1_000;

// ---- messages ----

/// What the ledger can be asked and told.
#[derive(Debug, IntoStaticStr)]
pub enum LedgerMsg {
    /// Tell: what this node holds has changed, durably; oldest first.
    Changed(Vec<LedgerChange>),
    /// Tell: read what this node holds from its store again.
    Recount,
    /// Tell: another member says something.
    Heard {
        /// The member; it has proved that.
        from: NodeId,
        /// What.
        notice: Notice,
    },
    /// Ask: another member's question.
    Asked {
        /// The member; it has proved that.
        from: NodeId,
        /// Its question.
        question: LedgerRequest,
        /// Takes the answer.
        reply: Reply<LedgerAnswer>,
    },
    /// Ask: a part of the ledger.
    Page {
        /// Behind which id.
        after: Option<String>,
        /// The most holders, at most [`LIMIT_ENTRIES`](nomad_core::ledger::LIMIT_ENTRIES).
        limit: usize,
        /// Takes the part.
        reply: Reply<Result<LedgerPage, ControlError>>,
    },
    /// Ask: enter that a member holds an object.
    Refer {
        /// The object.
        id: ObjectId,
        /// The member's id, or one of its addresses.
        peer: String,
        /// Takes whether it was entered: `false` = it was known.
        reply: ControlReply,
    },
    /// Ask: forget all that a peer holds.
    Forget {
        /// The peer's id, or one of its addresses.
        peer: String,
        /// Takes whether there was something.
        reply: ControlReply,
    },
    /// Tell: what its own work has brought.
    Told(Told<LedgerEvent>),
}

impl Described for LedgerEvent {
    fn kind(&self) -> &'static str {
        match self {
            Self::Scanned { .. } => "Scanned",
            _ => "Answered",
        }
    }
}

impl Described for LedgerMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Asked { question, .. } => question.kind(),
            Self::Told(told) => told.kind(),
            other => other.into(),
        }
    }

    fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::Refer { id, .. } => Some(id),
            _ => None,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Changed(changes) => format!("{} changes", changes.len()),
            Self::Heard { from, notice: Notice::Changed { seq, changes, .. } } => {
                format!("{} changes in notice {seq} of {from}", changes.len())
            }
            Self::Heard { from, notice: Notice::Forget { member, .. } } => {
                format!("{from}: forget {member}")
            }
            Self::Asked { from, .. } => format!("{} of {from}", self.kind()),
            Self::Page { after, limit, .. } => format!("at most {limit} after {after:?}"),
            Self::Refer { peer, .. } | Self::Forget { peer, .. } => format!("peer {peer:?}"),
            _ => self.kind().to_owned(),
        }
    }
}

impl ActorMessage for LedgerMsg {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Asked { reply, .. } => reply.is_closed(),
            Self::Page { reply, .. } => reply.is_closed(),
            Self::Refer { reply, .. } | Self::Forget { reply, .. } => reply.is_closed(),
            _ => false,
        }
    }
}

impl DrivenMessage for LedgerMsg {
    type News = LedgerEvent;

    fn told(told: Told<LedgerEvent>) -> Self {
        Self::Told(told)
    }
}

impl PeerMessage for LedgerMsg {
    type Question = LedgerRequest;
    type Answer = LedgerAnswer;
    const SERVICE: Service = Service::Ledger;
    const VERSION: u8 = 1;
    /// The most changes, with the longest ids.
    const BODY_MAX: usize = 2 << 20;

    fn limit(_: &LedgerRequest) -> Duration {
        ASK_LIMIT
    }

    fn asked(from: NodeId, question: LedgerRequest, reply: Reply<LedgerAnswer>) -> Self {
        Self::Asked { from, question, reply }
    }

    /// One that is dropped because too many wait is missed by a comparison.
    fn heard(from: NodeId, body: &[u8]) -> Result<Self, String> {
        Ok(Self::Heard { from, notice: door::decode::<Self, _>(body)? })
    }
}

/// Where other members' notices and questions about the ledger come in.
pub type LedgerDoor = Door<LedgerMsg>;

/// Is told how what a node holds has changed, once that is durable. With nothing named, registers went that nobody has named.
pub type HoldsListener = Arc<dyn Fn(Vec<LedgerChange>) + Send + Sync>;

/// Returns what those call who change what this node holds.
pub fn holds_listener(ledger: Address<LedgerMsg>) -> HoldsListener {
    let from: Arc<str> = "writer".into();
    Arc::new(move |changes| {
        let message = match changes.is_empty() {
            true => LedgerMsg::Recount,
            false => LedgerMsg::Changed(changes),
        };
        // A ledger that is down reads the store when it is started again.
        ledger.tell(&from, Context::default(), message);
    })
}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct LedgerArgs {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The way to other members.
    pub transport: Arc<dyn PeerTransport>,
    /// The node and its group.
    pub view: GroupView,
    /// How often digests are compared, and expired entries removed.
    pub cleanup: Duration,
    /// Where others read how the objects stand.
    pub gauge: Arc<LedgerGauge>,
}

/// How the objects stand as the ledger has it, for whoever wants to see it.
pub type LedgerGauge = Gauge<LedgerStanding>;

// ---- state ----

/// The actor.
pub struct LedgerActor {
    driver: Driver<Bookkeeper>,
    args: LedgerArgs,
}

// ---- handler ----

/// What a step of this actor has at hand.
type LedgerCx<'a> = Handling<'a, LedgerMsg>;

impl Worker for LedgerActor {
    type Msg = LedgerMsg;
    type Args = LedgerArgs;

    fn start(args: &LedgerArgs, cx: &LedgerCx<'_>) -> Result<Self, String> {
        let this = args.view.load().this.node;
        let cleanup_us = args.cleanup.as_micros() as u64;
        let run = cx.kit.entropy.next_u64();
        let core = Bookkeeper::new(this, run, cleanup_us, cx.kit.clock.monotonic());
        let mut driver = Driver::new(cx, core);
        driver.watch_view(cx, &args.view);
        let mut actor = Self { driver, args: args.clone() };
        actor.look(cx);
        Ok(actor)
    }

    fn handle(&mut self, cx: &LedgerCx<'_>, message: LedgerMsg) -> Handled {
        let event = match message {
            LedgerMsg::Changed(changes) => LedgerEvent::Changed(changes),
            LedgerMsg::Recount => LedgerEvent::Recount,
            LedgerMsg::Heard { from, notice } => LedgerEvent::Noticed { from, notice },
            LedgerMsg::Asked { from, question, reply } => {
                return Ok(self.on_asked(cx, from, question, reply));
            }
            LedgerMsg::Page { after, limit, reply } => {
                return Ok(self.on_page(cx, after, limit, reply));
            }
            LedgerMsg::Refer { id, peer, reply } => return Ok(self.on_refer(cx, id, &peer, reply)),
            LedgerMsg::Forget { peer, reply } => return Ok(self.on_forget(cx, &peer, reply)),
            LedgerMsg::Told(told) => match self.driver.take(cx, told) {
                Err(outcome) => return Ok(outcome),
                Ok(News::ViewChanged) => {
                    self.look(cx);
                    return Ok(Outcome::Done("looked"));
                }
                Ok(News::Happened(event)) => event,
                Ok(News::Due) => LedgerEvent::Tick,
            },
        };
        self.step(cx, event);
        Ok(Outcome::Done("stepped"))
    }
}

impl LedgerActor {
    fn look(&mut self, cx: &LedgerCx<'_>) {
        let site = LedgerScope::of(&self.args.view.load());
        self.step(cx, LedgerEvent::Viewed(site));
    }

    fn step(&mut self, cx: &LedgerCx<'_>, event: LedgerEvent) {
        let effects = self.driver.step(cx, event, &());
        self.carry_out(cx, effects);
    }

    fn carry_out(&mut self, cx: &LedgerCx<'_>, effects: Vec<LedgerEffect>) {
        for effect in effects {
            match effect {
                LedgerEffect::Tell { to, notice } => self.tell(cx, to, &notice),
                LedgerEffect::Ask { ticket, to, question } => {
                    self.ask_for(cx, ticket, to, &question)
                }
                LedgerEffect::Scan { ticket, shard, after } => self.scan(cx, ticket, shard, after),
            }
        }
        self.args.gauge.set(self.driver.core().standing());
    }

    /// Reads a part of the store on a thread that may wait.
    fn scan(&self, cx: &LedgerCx<'_>, ticket: Ticket, shard: u8, after: Option<ObjectId>) {
        let store = Arc::clone(&self.args.store);
        let read = move || {
            read_part(&*store, shard, after.as_ref()).map_err(|error| {
                tracing::debug!(%error, "the ledger cannot read the store; it tries again");
                NoAnswer
            })
        };
        self.driver.read(cx, read, move |part| LedgerEvent::Scanned { ticket, part });
    }
}

/// Reads the live objects of a part of a shard, and up to where; `None` = to its end.
fn read_part(
    store: &dyn ObjectStore,
    shard: u8,
    after: Option<&ObjectId>,
) -> Result<(Vec<HeldObject>, Option<ObjectId>), StoreError> {
    let heads = store.registers(shard, after, SCAN_MAX)?;
    let until = heads.last().map(|head| head.id.clone());
    let held = |head: RegisterHead| {
        let RegisterHead { id, version, is_live, expires_at, is_damaged, .. } = head;
        let version = version.filter(|_| is_live && !is_damaged)?;
        Some(HeldObject { id, version, expires_at })
    };
    Ok((heads.into_iter().filter_map(held).collect(), until))
}
