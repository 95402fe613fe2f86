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
#[cfg(test)]
mod tests;
mod wire;
mod writers;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tracing::{error, warn};

pub use self::{
    carrying::Endings, door::ReplicaDoor, gauge::RoundsGauge, rescans::Rescans, writers::Writers,
};
use super::{
    commit::Commit,
    driver::{DrivenMessage, Driver, News, Owed, Told},
    group_view::GroupView,
    ledger::HoldsListener,
    outbox::OutboxMsg,
    recorder::Outcome,
    shell::{ActorMessage, Address, Context, Described, Handled, Handling, Reply, Worker},
};
use nomad_core::{
    group::table::GroupClaim,
    ledger::LedgerChange,
    machine::Ticket,
    model::{node_id::NodeId, object::ObjectId, time::MonotonicUs, trace::TraceContext},
    register::{
        self, Declined, OpId, Register, RegisterEffect, RegisterEvent, RegisterOrder,
        RegisterOutcome, RegisterShelf, Registers, ShardState,
    },
};
use nomad_ports::{
    ObjectStore, PeerTransport,
    object_store::{RegisterJob, StoreError, StoreJob},
    peer_transport::Service,
};

/// How long a worker whose store has failed waits before it looks again.
const STORE_PAUSE_US: u64 = 200_000;
/// How often a worker looks whether those who gave its orders still wait for them, while it has some in hand.
const LOOK_US: u64 = 50_000;
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
    /// Tell: what its own work has brought.
    Told(Told<WriterNews>),
}

/// What a worker's own work brings.
#[derive(Debug)]
pub enum WriterNews {
    /// The store has kept something durably.
    Kept(ShardCommit),
    /// What a configuration means for the registers of this shard is known.
    Listed(Box<AdoptionPlan>),
    /// The objects of a group that is no more are in the outbox; so many.
    Carried(usize),
    /// The store has refused to keep something: nothing of it was done.
    Refused(Ticket, StoreError),
    /// One of these has failed.
    Failed {
        /// Which one.
        kind: &'static str,
        /// Why.
        error: StoreError,
    },
}

impl WriterNews {
    fn of<T>(
        kind: &'static str,
        result: Result<T, StoreError>,
        news: impl FnOnce(T) -> Self,
    ) -> Self {
        result.map_or_else(|error| Self::Failed { kind, error }, news)
    }
}

impl Described for WriterNews {
    fn kind(&self) -> &'static str {
        match self {
            Self::Kept(ShardCommit::Ticket(_)) => "Kept",
            Self::Kept(ShardCommit::Adoption(..)) => "Adopted",
            Self::Kept(ShardCommit::Wipe) => "Wiped",
            Self::Listed(_) => "Listed",
            Self::Carried(_) => "Carried",
            Self::Refused(..) => "Kept",
            Self::Failed { kind, .. } => kind,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Kept(_) => self.kind().to_owned(),
            Self::Listed(plan) => {
                let AdoptionPlan { purge, rescan, .. } = &**plan;
                format!("{} to purge, {} to rescan", purge.len(), rescan.len())
            }
            Self::Carried(count) => format!("{count} objects"),
            Self::Refused(_, error) | Self::Failed { error, .. } => error.to_string(),
        }
    }
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
    /// How many of those have lost the majority of their old replicas, and the first of them (rule 14).
    forced: (u64, Vec<ObjectId>),
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
            Self::Heard { message, .. } => (&message.body).into(),
            Self::Told(told) => told.kind(),
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
            Self::Begin { .. } => self.kind().to_owned(),
            Self::Heard { from, message } => {
                format!("from {from} in epoch {}: {}", message.epoch, self.kind())
            }
            Self::Told(told) => told.detail(),
        }
    }
}

impl ActorMessage for ReplicaWriterMsg {
    fn is_abandoned(&self) -> bool {
        matches!(self, Self::Begin { reply, .. } if reply.is_closed())
    }
}

impl DrivenMessage for ReplicaWriterMsg {
    type News = WriterNews;

    fn told(told: Told<WriterNews>) -> Self {
        Self::Told(told)
    }
}

// ---- arguments ----

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

// ---- state ----

/// Reads registers for the core, and knows the links.
struct StoreShelf<'a>(&'a dyn ObjectStore, &'a dyn PeerTransport);

impl RegisterShelf for StoreShelf<'_> {
    fn register(&self, id: &ObjectId) -> Result<Option<Register>, String> {
        self.0.register(id).map_err(|error| error.to_string())
    }

    fn declines(&self) -> Option<(Declined, String)> {
        let health = self.0.health();
        let reason = health.refusal()?.to_owned();
        let what = match health.refusal_of_deletions() {
            None => Declined::Objects,
            Some(_) => Declined::Writes,
        };
        Some((what, reason))
    }

    fn reaches(&self, node: NodeId) -> bool {
        self.1.reaches(node)
    }
}

/// Where a worker stands.
enum WriterState {
    /// There is no group, or the store does not work.
    Idle,
    /// The registers of an earlier group are carried over, or removed.
    Clearing,
    /// It takes part.
    Working(GroupClaim),
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
    /// Has registers while the worker takes part.
    driver: Driver<Option<Registers>>,
    standing: WriterState,
    ops: HashMap<OpId, Reply<RegisterOutcome>>,
    next_op: OpId,
    /// When it last looked whether somebody waits for them.
    looked: MonotonicUs,
    early: Vec<Request>,
    /// How many keeps are on their way to the disk.
    keeping: usize,
    /// A configuration that waits for them.
    adopting: Option<ShardState>,
}

impl Drop for ReplicaWriter {
    fn drop(&mut self) {
        self.end_all(&RegisterOutcome::Busy);
    }
}

// ---- handler ----

/// What a step of this actor has at hand.
type WriterCx<'a> = Handling<'a, ReplicaWriterMsg>;

impl Worker for ReplicaWriter {
    type Msg = ReplicaWriterMsg;
    type Args = ReplicaWriterArgs;

    fn start(args: &ReplicaWriterArgs, cx: &WriterCx<'_>) -> Result<Self, String> {
        let mut driver = Driver::new(cx, None);
        driver.watch_view(cx, &args.view);
        let view_changed = ReplicaWriterMsg::told(Told::ViewChanged);
        cx.me.tell(cx.me.name(), Context::default(), view_changed);
        Ok(Self {
            args: args.clone(),
            driver,
            standing: WriterState::Idle,
            ops: HashMap::new(),
            next_op: 0,
            looked: MonotonicUs(0),
            early: Vec::new(),
            keeping: 0,
            adopting: None,
        })
    }

    fn handle(&mut self, cx: &WriterCx<'_>, message: ReplicaWriterMsg) -> Handled {
        match message {
            ReplicaWriterMsg::Begin { id, order, round, reply } => {
                let request = Request { trace: cx.cx.trace, round, id, order, reply };
                return Ok(self.on_begin(cx, request));
            }
            ReplicaWriterMsg::Heard { from, message } => {
                let trace = cx.cx.trace;
                self.step(cx, RegisterEvent::Heard { from, message, trace });
            }
            ReplicaWriterMsg::Told(told) => match self.driver.take(cx, told) {
                Err(outcome) => return Ok(outcome),
                Ok(News::Happened(WriterNews::Refused(ticket, error))) => {
                    self.on_refused(cx, ticket, &error);
                    return Ok(Outcome::Failed(error.to_string().into()));
                }
                Ok(News::Happened(WriterNews::Failed { error, .. })) => {
                    self.on_store_failed(cx, &error);
                    return Ok(Outcome::Failed(error.to_string().into()));
                }
                Ok(News::Happened(WriterNews::Kept(what))) => self.on_kept(cx, what),
                Ok(News::Happened(WriterNews::Listed(plan))) => self.on_listed(cx, plan),
                Ok(News::Happened(WriterNews::Carried(count))) => self.on_carried(cx, count),
                Ok(News::Due) if self.driver.core().is_some() => {
                    self.step(cx, RegisterEvent::Tick);
                    self.abandon(cx);
                }
                Ok(News::Due | News::ViewChanged) => self.on_view(cx),
            },
        }
        Ok(Outcome::Done("stepped"))
    }
}

impl ReplicaWriter {
    fn on_begin(&mut self, cx: &WriterCx<'_>, request: Request) -> Outcome {
        if self.is_ready() {
            self.begin(cx, request);
            return Outcome::Done("begun");
        }
        if let Some(reason) = self.store_refusal() {
            // The registers are not taken up while the store fails: nothing is gained by a wait.
            let refused = Outcome::Refused("the store fails");
            return request.reply.end(RegisterOutcome::Declined { reason }, refused);
        }
        if self.args.view.load().group().is_none() || self.early.len() >= EARLY_MAX {
            let refused = Outcome::Refused("the node's registers are not ready");
            return request.reply.end(RegisterOutcome::NotReady, refused);
        }
        self.early.push(request);
        Outcome::Done("waits until the registers are ready")
    }

    fn is_ready(&self) -> bool {
        self.driver.core().as_ref().is_some_and(|core| core.epoch().is_some())
    }

    fn begin(&mut self, cx: &WriterCx<'_>, request: Request) {
        let Request { trace, round: deadline, id, order, reply } = request;
        // One that has waited belongs to its own request, not to the message that ended its wait.
        let cx = &cx.of(Context { trace, deadline: None });
        self.next_op += 1;
        let op = self.next_op;
        self.ops.insert(op, reply);
        self.step(cx, RegisterEvent::Begin { op, id, order, deadline, trace });
    }

    /// Begins what has waited for the registers to be ready.
    fn begin_early(&mut self, cx: &WriterCx<'_>) {
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

    /// Gives up the orders that nobody waits for any more: a round that finds no quorum would go on until its deadline.
    fn abandon(&mut self, cx: &WriterCx<'_>) {
        let now = cx.kit.clock.monotonic();
        if now.since(self.looked) < LOOK_US {
            return;
        }
        self.looked = now;
        let gone = self.ops.extract_if(|_, reply| reply.is_closed());
        let gone: Vec<_> = gone.map(|(op, _)| op).collect();
        for op in gone {
            self.step(cx, RegisterEvent::Abandon { op });
        }
    }

    fn step(&mut self, cx: &WriterCx<'_>, event: RegisterEvent) {
        let shelf = StoreShelf(&*self.args.store, &*self.args.transport);
        let effects = self.driver.step(cx, event, &shelf);
        let Some(core) = self.driver.core() else { return };
        self.args.given.fetch_max(core.last_version().time, Relaxed);
        self.args.gauge.set(self.args.shard, core.counts());
        for effect in effects {
            self.carry_out(cx, effect);
        }
    }

    fn carry_out(&mut self, cx: &WriterCx<'_>, effect: RegisterEffect) {
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
                if let WriterState::Working(bond) = &self.standing {
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
        cx: &WriterCx<'_>,
        what: ShardCommit,
        wipe: bool,
        state: Option<ShardState>,
        writes: Vec<(ObjectId, Option<Register>)>,
    ) {
        self.keeping += 1;
        let change = |(id, register): &(ObjectId, Option<Register>)| {
            LedgerChange::of(id, register.as_ref().map(|register| &register.value))
        };
        let changes: Vec<_> = if wipe { Vec::new() } else { writes.iter().map(change).collect() };
        let holds = Arc::clone(&self.args.holds);
        let commit = Commit::begin(cx, writes.first().map(|(id, _)| id.clone()));
        let batch_len = writes.len() as u32;
        let owed = self.owed(cx, "Kept");
        let done = Box::new(move |result: Result<(), StoreError>| {
            commit.end(batch_len, Outcome::of(&result, "kept"));
            if result.is_ok() && (wipe || !changes.is_empty()) {
                holds(changes);
            }
            owed.pay(match (result, what) {
                (Err(error), ShardCommit::Ticket(ticket)) if error.is_refusal() => {
                    WriterNews::Refused(ticket, error)
                }
                (result, what) => WriterNews::of("Kept", result, |()| WriterNews::Kept(what)),
            });
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

    fn owed(&self, cx: &WriterCx<'_>, kind: &'static str) -> Owed<ReplicaWriterMsg> {
        self.driver.owed(cx, WriterNews::Failed { kind, error: StoreError::Closed })
    }

    fn on_kept(&mut self, cx: &WriterCx<'_>, what: ShardCommit) {
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
    fn on_store_failed(&mut self, cx: &WriterCx<'_>, reason: &StoreError) {
        warn!(shard = self.args.shard, %reason, "the store did not keep registers; they are taken up again once it does");
        self.start_over(cx, &RegisterOutcome::Declined { reason: reason.to_string() });
        self.driver.pause_for(cx, STORE_PAUSE_US);
    }

    /// The store has refused to keep what a ticket stands for.
    fn on_refused(&mut self, cx: &WriterCx<'_>, ticket: Ticket, error: &StoreError) {
        self.keeping = self.keeping.saturating_sub(1);
        let reason = error.to_string();
        self.step(cx, RegisterEvent::Refused { ticket, reason });
        self.list_when_quiet(cx);
    }

    /// Begins another life. What the present one has offered may or may not have happened; of the rest it is known that it did
    /// not: `undone` is said then.
    fn start_over(&mut self, cx: &WriterCx<'_>, undone: &RegisterOutcome) {
        self.end_all(undone);
        self.driver.start_over(cx, None);
        self.standing = WriterState::Idle;
        self.keeping = 0;
        self.adopting = None;
    }

    /// Ends all requests in hand.
    fn end_all(&mut self, undone: &RegisterOutcome) {
        let core = self.driver.core().as_ref();
        for (op, reply) in self.ops.drain() {
            let is_offered = core.is_none_or(|core| core.is_offered(op));
            reply.send(if is_offered { RegisterOutcome::Unknown } else { undone.clone() });
        }
    }

    /// Says why the store keeps nothing now, not even deletions; `None` = it does.
    fn store_refusal(&self) -> Option<String> {
        self.args.store.health().refusal_of_deletions().map(str::to_owned)
    }
}
