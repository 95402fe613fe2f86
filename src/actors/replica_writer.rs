//! The registers of one shard: the shell around `core::register`. Coordinates this node's rounds, and answers those of
//! other members. One worker per shard, so that rounds of different objects do not wait for each other.
//!
//! Nothing leaves before it is durable: the core holds back what depends on a [`RegisterEffect::Keep`] until the store has it.
//! Killed, a worker forgets its rounds and begins again from what is kept; whoever waited learns that the outcome is
//! unknown.

mod adoption;
mod carrying;
mod door;
mod gauge;
mod rescans;
mod wire;
mod writers;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::task::AbortHandle;
use tracing::{error, warn};

pub use self::{
    carrying::Endings, door::ReplicaDoor, gauge::RoundsGauge, rescans::Rescans, writers::Writers,
};
use super::{
    group_view::GroupView,
    outbox::OutboxMsg,
    recorder::{Outcome, TraceRecord},
    shell::{ActorMessage, Address, Context, Described, Handling, Reply, Role},
};
use nomad_core::{
    model::{
        node_id::NodeId,
        object::{ObjectId, Version},
        time::{MonotonicUs, UnixSecs},
        trace::TraceContext,
    },
    register::{
        self, Now, OpId, Register, RegisterEffect, RegisterEvent, RegisterOrder, RegisterOutcome,
        RegisterShelf, Registers, ShardState, Ticket, Value,
    },
};
use nomad_ports::{
    ObjectStore, PeerTransport,
    object_store::{RegisterJob, StoreError, StoreHealth, StoreJob},
    peer_transport::Service,
};

/// How long a worker whose store has failed waits before it looks again.
const STORE_PAUSE: Duration = Duration::from_millis(200);
/// The most requests that wait for the worker to be ready.
const EARLY_MAX: usize = 1_024;

// ---- messages ----

/// What a worker can be asked and told.
#[derive(Debug)]
pub enum ReplicaWriterMsg {
    /// Ask: this node wants something of an object.
    Begin {
        /// The object.
        id: ObjectId,
        /// What is wanted.
        order: RegisterOrder,
        /// When it is given up.
        round: MonotonicUs,
        /// Takes how it ended.
        reply: Reply<RegisterOutcome>,
    },
    /// Tell: another member says something.
    Heard {
        /// The member; it has proved that.
        from: NodeId,
        /// What it says.
        message: register::RegisterMessage,
    },
    /// Tell: the store has kept something of this life of the worker.
    Kept {
        /// The life.
        life: u64,
        /// What.
        what: ShardCommit,
        /// Whether it is durable.
        result: Result<(), StoreError>,
    },
    /// Tell: what a configuration means for the registers of this shard is known.
    Listed {
        /// The life of the worker that wanted to know.
        life: u64,
        /// What it means.
        listed: Result<AdoptionPlan, StoreError>,
    },
    /// Tell: the objects of a group that is no more are in the outbox.
    Carried {
        /// The life of the worker that wanted it.
        life: u64,
        /// How many there were.
        result: Result<usize, StoreError>,
    },
    /// Tell: the node's view of its group has changed.
    ViewChanged,
    /// Timer.
    Tick {
        /// The life of the worker that has set it.
        life: u64,
    },
}

/// What the store was to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardCommit {
    /// What the core has named so.
    Ticket(Ticket),
    /// A configuration, with its epoch and the objects to rescan.
    Adoption(u64, Vec<ObjectId>),
    /// Nothing of an earlier group any more.
    Wipe,
}

/// What a configuration means for the registers of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptionPlan {
    /// What is kept with it.
    state: ShardState,
    /// Registers that are not this node's any more.
    purge: Vec<ObjectId>,
    /// Objects to rescan.
    rescan: Vec<ObjectId>,
}

impl Described for ReplicaWriterMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Begin { order, .. } => match order {
                RegisterOrder::Change(change) if change.is_delete() => "Delete",
                RegisterOrder::Change(_) => "Write",
                RegisterOrder::Read => "SafeRead",
                RegisterOrder::Merge(_) => "Merge",
                RegisterOrder::Expire => "Expire",
                RegisterOrder::Clear(_) => "Clear",
                RegisterOrder::Repair => "Repair",
            },
            Self::Heard { message, .. } => wire::kind(&message.body),
            Self::Kept { what: ShardCommit::Ticket(_), .. } => "Kept",
            Self::Kept { what: ShardCommit::Adoption(..), .. } => "Adopted",
            Self::Kept { what: ShardCommit::Wipe, .. } => "Wiped",
            Self::Listed { .. } => "Listed",
            Self::Carried { .. } => "Carried",
            Self::ViewChanged => "ViewChanged",
            Self::Tick { .. } => "Tick",
        }
    }

    fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::Begin { id, .. } => Some(id),
            Self::Heard { message, .. } => message.body.object(),
            _ => None,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Begin { .. } | Self::ViewChanged | Self::Tick { .. } => self.kind().to_owned(),
            Self::Heard { from, message } => {
                format!("from {from} in epoch {}: {}", message.epoch, self.kind())
            }
            Self::Kept { result, .. } => format!("{result:?}"),
            Self::Carried { result, .. } => format!("{result:?}"),
            Self::Listed { listed, .. } => match listed {
                Ok(AdoptionPlan { purge, rescan, .. }) => {
                    format!("{} to purge, {} to rescan", purge.len(), rescan.len())
                }
                Err(error) => error.to_string(),
            },
        }
    }
}

impl ActorMessage for ReplicaWriterMsg {
    fn is_abandoned(&self) -> bool {
        matches!(self, Self::Begin { reply, .. } if reply.is_closed())
    }
}

// ---- arguments ----

/// What a node holds of an object after a change: its version and its expiry; `None` = nothing.
pub type Held = (ObjectId, Option<(Version, Option<UnixSecs>)>);

/// Is told what a node holds. With nothing named, registers went that nobody has named.
pub type HoldsListener = Arc<dyn Fn(Vec<Held>) + Send + Sync>;

/// What a worker is started with.
#[derive(Clone)]
pub struct ReplicaWriterArgs {
    /// Which shard it works for.
    pub shard: u8,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The way to the other members.
    pub transport: Arc<dyn PeerTransport>,
    /// The node and its group.
    pub view: GroupView,
    /// Who is told which rescans are done.
    pub rescans: Arc<Rescans>,
    /// Which groups are no more.
    pub endings: Arc<Endings>,
    /// Who takes over what was kept of a group that is no more; set once it is there.
    pub outbox: Arc<OnceLock<Address<OutboxMsg>>>,
    /// Is told that the node has to come back under a new claim.
    pub left_behind: Arc<dyn Fn() + Send + Sync>,
    /// Is told what this node holds after each change.
    pub holds: HoldsListener,
    /// The time of the last version that the worker has given in this process; 0 = none. It outlives the worker.
    pub given: Arc<AtomicU64>,
    /// Where others read what has become of the rounds.
    pub gauge: Arc<RoundsGauge>,
}

impl fmt::Debug for ReplicaWriterArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Args(shard {})", self.shard)
    }
}

// ---- state ----

/// Reads registers for the core, and knows the links.
struct StoreShelf<'a>(&'a dyn ObjectStore, &'a dyn PeerTransport);

impl RegisterShelf for StoreShelf<'_> {
    fn register(&self, id: &ObjectId) -> Result<Option<Register>, String> {
        self.0.register(id).map_err(|error| error.to_string())
    }

    fn reaches(&self, node: NodeId) -> bool {
        self.1.reaches(node)
    }
}

/// The group and the claim that the registers belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bond {
    group: String,
    claim: u64,
}

/// Where a worker stands.
enum WriterState {
    /// There is no group, or the store does not work.
    Idle,
    /// The registers of an earlier group are carried over, or removed.
    Clearing,
    /// It takes part.
    Working(Bond, Box<Registers>),
}

/// A request of this node.
struct Request {
    trace: TraceContext,
    /// When it is given up.
    round: MonotonicUs,
    id: ObjectId,
    order: RegisterOrder,
    reply: Reply<RegisterOutcome>,
}

/// The worker.
pub struct ReplicaWriter {
    args: ReplicaWriterArgs,
    life: u64,
    standing: WriterState,
    ops: HashMap<OpId, Reply<RegisterOutcome>>,
    next_op: OpId,
    early: Vec<Request>,
    /// How many keeps are on their way to the disk.
    keeping: usize,
    /// A configuration that waits for them.
    adopting: Option<ShardState>,
    timer: Option<(MonotonicUs, AbortHandle)>,
    watcher: AbortHandle,
}

impl Drop for ReplicaWriter {
    fn drop(&mut self) {
        self.watcher.abort();
        if let Some((_, timer)) = &self.timer {
            timer.abort();
        }
        for (_, reply) in self.ops.drain() {
            reply.send(RegisterOutcome::Unknown);
        }
    }
}

// ---- handler ----

impl Role for ReplicaWriter {
    type Msg = ReplicaWriterMsg;
    type Args = ReplicaWriterArgs;

    fn start(
        args: &ReplicaWriterArgs,
        cx: &Handling<'_, ReplicaWriterMsg>,
    ) -> Result<Self, String> {
        let mut changes = args.view.watch();
        let (me, from) = (cx.me.clone(), Arc::clone(cx.me.name()));
        let watcher = tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                me.tell(&from, Context::default(), ReplicaWriterMsg::ViewChanged);
            }
        });
        cx.me.tell(cx.me.name(), Context::default(), ReplicaWriterMsg::ViewChanged);
        Ok(Self {
            args: args.clone(),
            life: cx.kit.entropy.next_u64(),
            standing: WriterState::Idle,
            ops: HashMap::new(),
            next_op: 0,
            early: Vec::new(),
            keeping: 0,
            adopting: None,
            timer: None,
            watcher: watcher.abort_handle(),
        })
    }

    fn handle(
        &mut self,
        cx: &Handling<'_, ReplicaWriterMsg>,
        message: ReplicaWriterMsg,
    ) -> Result<Outcome, String> {
        match message {
            ReplicaWriterMsg::Begin { id, order, round, reply } => {
                let request = Request { trace: cx.cx.trace, round, id, order, reply };
                return Ok(self.on_begin(cx, request));
            }
            ReplicaWriterMsg::Heard { from, message } => {
                let trace = cx.cx.trace;
                self.step(cx, RegisterEvent::Heard { from, message, trace });
            }
            ReplicaWriterMsg::Kept { life, .. }
            | ReplicaWriterMsg::Listed { life, .. }
            | ReplicaWriterMsg::Carried { life, .. }
                if life != self.life =>
            {
                return Ok(Outcome::Dropped("it was for an earlier life"));
            }
            ReplicaWriterMsg::Kept { result: Err(reason), .. }
            | ReplicaWriterMsg::Listed { listed: Err(reason), .. }
            | ReplicaWriterMsg::Carried { result: Err(reason), .. } => {
                self.on_store_failed(cx, &reason);
                return Ok(Outcome::Failed(reason.to_string().into()));
            }
            ReplicaWriterMsg::Kept { what, .. } => self.on_kept(cx, what),
            ReplicaWriterMsg::Listed { listed: Ok(listed), .. } => self.on_listed(cx, listed),
            ReplicaWriterMsg::Carried { result: Ok(count), .. } => self.on_carried(cx, count),
            ReplicaWriterMsg::ViewChanged => self.on_view(cx),
            ReplicaWriterMsg::Tick { life } if life != self.life => {
                return Ok(Outcome::Dropped("a timer of an earlier life"));
            }
            ReplicaWriterMsg::Tick { .. } => {
                self.timer = None;
                match self.standing {
                    WriterState::Working(..) => self.step(cx, RegisterEvent::Tick),
                    _ => self.on_view(cx),
                }
            }
        }
        Ok(Outcome::Done("stepped"))
    }
}

impl ReplicaWriter {
    fn on_begin(&mut self, cx: &Handling<'_, ReplicaWriterMsg>, request: Request) -> Outcome {
        if self.is_ready() {
            self.begin(cx, request);
            return Outcome::Done("begun");
        }
        if self.args.view.load().group().is_none() || self.early.len() >= EARLY_MAX {
            request.reply.send(RegisterOutcome::NotReady);
            return Outcome::Refused("the node's registers are not ready");
        }
        self.early.push(request);
        Outcome::Done("waits until the registers are ready")
    }

    fn is_ready(&self) -> bool {
        matches!(&self.standing, WriterState::Working(_, core) if core.epoch().is_some())
    }

    fn begin(&mut self, cx: &Handling<'_, ReplicaWriterMsg>, request: Request) {
        let Request { trace, round: deadline, id, order, reply } = request;
        // One that has waited belongs to its own request, not to the message that ended its wait.
        let cx = &Handling { cx: Context { trace, deadline: None }, me: cx.me, kit: cx.kit };
        self.next_op += 1;
        let op = self.next_op;
        self.ops.insert(op, reply);
        self.step(cx, RegisterEvent::Begin { op, id, order, deadline, trace });
    }

    /// Begins what has waited for the registers to be ready.
    fn begin_early(&mut self, cx: &Handling<'_, ReplicaWriterMsg>) {
        if !self.is_ready() || self.early.is_empty() {
            return;
        }
        let now = cx.kit.clock.monotonic();
        for request in std::mem::take(&mut self.early) {
            if request.reply.is_closed() {
                continue;
            }
            if now < request.round {
                self.begin(cx, request);
            } else {
                request.reply.send(RegisterOutcome::NotReady);
            }
        }
    }

    fn step(&mut self, cx: &Handling<'_, ReplicaWriterMsg>, event: RegisterEvent) {
        let WriterState::Working(_, core) = &mut self.standing else { return };
        let clock = &cx.kit.clock;
        let now = Now {
            monotonic: clock.monotonic(),
            wall: clock.wall(),
            entropy: cx.kit.entropy.next_u64(),
        };
        let effects = core.step(now, event, &StoreShelf(&*self.args.store, &*self.args.transport));
        self.args.given.fetch_max(core.last_version().time, Relaxed);
        let due = core.next_due();
        self.args.gauge.set(self.args.shard, core.counts());
        for effect in effects {
            self.carry_out(cx, effect);
        }
        self.wake_at(cx, due);
    }

    fn carry_out(&mut self, cx: &Handling<'_, ReplicaWriterMsg>, effect: RegisterEffect) {
        match effect {
            RegisterEffect::Keep { ticket, state, writes } => {
                self.keep(cx, ShardCommit::Ticket(ticket), false, state, writes);
            }
            RegisterEffect::Adopt { state } => {
                self.adopting = Some(state);
                self.list_when_quiet(cx);
            }
            RegisterEffect::Send { to, message, trace } => self.send(to, &message, trace),
            RegisterEffect::End { op, ended } => {
                if let Some(reply) = self.ops.remove(&op) {
                    reply.send(ended);
                }
            }
            RegisterEffect::LeftBehind { epoch, oldest } => self.on_left_behind(epoch, oldest),
            RegisterEffect::Rescanned { epoch } => {
                if let WriterState::Working(bond, _) = &self.standing {
                    self.args.rescans.done(self.args.shard, &bond.group, epoch);
                }
            }
        }
    }

    /// The table does not go back as far as this shard: what it keeps cannot be trusted any more (rule 3).
    fn on_left_behind(&self, epoch: u64, oldest: u64) {
        warn!(
            shard = self.args.shard,
            epoch,
            oldest,
            "the registers are too far behind their group: the node comes back as a new member"
        );
        (self.args.left_behind)();
    }

    fn send(&self, to: NodeId, message: &register::RegisterMessage, trace: TraceContext) {
        match wire::encode(self.args.shard, message) {
            // What is lost is sent again by whoever waits for the answer.
            Ok(body) => drop(self.args.transport.tell(to, Service::Replica, trace, body)),
            Err(reason) => error!(%to, reason, "a message to a member cannot be encoded"),
        }
    }

    /// Hands registers to the store's writer.
    fn keep(
        &mut self,
        cx: &Handling<'_, ReplicaWriterMsg>,
        what: ShardCommit,
        wipe: bool,
        state: Option<ShardState>,
        writes: Vec<(ObjectId, Option<Register>)>,
    ) {
        self.keeping += 1;
        let (life, me, of, kit) = (self.life, cx.me.clone(), cx.cx, cx.kit.clone());
        let held = if wipe { Vec::new() } else { held(&writes) };
        let holds = Arc::clone(&self.args.holds);
        let object = writes.first().map(|(id, _)| id.clone());
        let (start, batch_len) = (kit.clock.monotonic(), writes.len() as u32);
        let done = Box::new(move |result: Result<(), StoreError>| {
            let outcome = match &result {
                Ok(()) => Outcome::Done("kept"),
                Err(error) => Outcome::Failed(error.to_string().into()),
            };
            let run_us = kit.clock.monotonic().since(start);
            kit.recorder.add(TraceRecord {
                seq: 0,
                trace: of.trace.trace,
                span: kit.recorder.new_span(),
                parent: of.trace.span,
                from: Arc::clone(me.name()),
                to: "writer".into(),
                kind: "Commit",
                object,
                at: start,
                wait_us: 0,
                run_us,
                batch_len,
                outcome,
                detail: None,
            });
            if result.is_ok() && (wipe || !held.is_empty()) {
                holds(held);
            }
            let cx = Context { trace: of.trace, deadline: None };
            me.tell(me.name(), cx, ReplicaWriterMsg::Kept { life, what, result });
        });
        let shard = self.args.shard;
        self.args.store.submit(StoreJob::Registers(RegisterJob {
            shard,
            wipe,
            state,
            writes,
            done,
        }));
    }

    fn on_kept(&mut self, cx: &Handling<'_, ReplicaWriterMsg>, what: ShardCommit) {
        self.keeping = self.keeping.saturating_sub(1);
        match what {
            ShardCommit::Ticket(ticket) => {
                self.step(cx, RegisterEvent::Kept { ticket });
                self.list_when_quiet(cx);
            }
            ShardCommit::Adoption(epoch, rescan) => self.on_adopted(cx, epoch, rescan),
            ShardCommit::Wipe => self.on_wiped(cx),
        }
        self.begin_early(cx);
    }

    /// Forgets everything that is not on disk, and begins again once the store works.
    fn on_store_failed(&mut self, cx: &Handling<'_, ReplicaWriterMsg>, reason: &StoreError) {
        warn!(shard = self.args.shard, %reason, "the store did not keep registers; they are taken up again once it does");
        self.start_over(cx);
        self.wake_at(cx, Some(cx.kit.clock.monotonic().plus_us(STORE_PAUSE.as_micros() as u64)));
    }

    /// Begins another life: whatever the present one has under way may or may not have happened.
    fn start_over(&mut self, cx: &Handling<'_, ReplicaWriterMsg>) {
        self.life = cx.kit.entropy.next_u64();
        self.standing = WriterState::Idle;
        self.keeping = 0;
        self.adopting = None;
        if let Some((_, timer)) = self.timer.take() {
            timer.abort();
        }
        for (_, reply) in self.ops.drain() {
            reply.send(RegisterOutcome::Unknown);
        }
    }

    fn store_works(&self) -> bool {
        self.args.store.health() == StoreHealth::Up
    }

    fn wake_at(&mut self, cx: &Handling<'_, ReplicaWriterMsg>, due: Option<MonotonicUs>) {
        let Some(due) = due else { return };
        match &self.timer {
            Some((set, _)) if *set <= due => return,
            Some((_, timer)) => timer.abort(),
            None => {}
        }
        let pause = Duration::from_micros(due.since(cx.kit.clock.monotonic()));
        let (me, trace, life) = (cx.me.clone(), cx.kit.recorder.new_trace(), self.life);
        let wake = async move {
            tokio::time::sleep(pause).await;
            let cx = Context { trace, deadline: None };
            me.tell(me.name(), cx, ReplicaWriterMsg::Tick { life });
        };
        self.timer = Some((due, tokio::spawn(wake).abort_handle()));
    }
}

/// Returns what these writes say about which objects this node holds, at which version and until when.
fn held(writes: &[(ObjectId, Option<Register>)]) -> Vec<Held> {
    let of = |(id, register): &(ObjectId, Option<Register>)| {
        let value = register.as_ref().map(|register| &register.value);
        let held = match value {
            Some(Value::Live(object)) => Some((object.version, object.expires_at)),
            _ => None,
        };
        (id.clone(), held)
    };
    writes.iter().map(of).collect()
}
