//! What both edges do with a decoded request: begin it, ask an actor, finish it. REST and gRPC differ only in how they
//! decode and encode around these calls.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::HeaderValue;
use tokio::sync::watch;

use super::{
    admission::Admission,
    error::{ApiError, ErrorCode},
    metrics::{Metrics, StoreStats},
};
use nomad_actors::{
    Address, Context, Kit,
    group_view::GroupView,
    group_write::WritePath,
    ledger::{LedgerGauge, LedgerMsg},
    local_store::LocalStoreMsg,
    membership::MembershipMsg,
    outbox::OutboxGauge,
    recorder::{Outcome, TraceRecord},
    repair_sweeper::{RepairGauge, RepairSweeperMsg},
    replica_reader::ReadPath,
};
use nomad_config::{Config, Durability};
use nomad_core::{
    group::{
        RetrievalMode, SettingChange, Settings, StorageMode,
        control::{ControlError, ControlRequest},
        offer::Offer,
        replication,
    },
    ledger::{LIMIT_ENTRIES, LedgerPage},
    listing::{ListingPage, ListingQuery},
    model::{
        change::{Change, WriteRefusal, Written},
        object::{Object, ObjectId, Tier},
        time::MonotonicUs,
        trace::{SpanId, TraceContext, TraceId},
    },
    world::Position,
};
use nomad_ports::{PeerProbe, overlay::OverlayState};

/// Where a node is between its start and its end. Before its store is open it has no phase: see
/// [`Starting`](super::starting::Starting).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePhase {
    /// It takes requests.
    Serving,
    /// Finishing what was accepted.
    Draining,
}

/// What lies around the node's group. Read, never asked: nobody waits for it.
#[derive(Clone)]
pub struct Network {
    /// Returns the groups that the node has heard of lately, the nearest to a position first.
    pub known: Arc<dyn Fn(Position) -> Vec<Offer> + Send + Sync>,
    /// Returns how the network looks from here.
    pub state: Arc<dyn Fn() -> NetworkState + Send + Sync>,
}

/// How the network looks from here.
#[derive(Debug, Clone, Default)]
pub struct NetworkState {
    /// The overlay.
    pub overlay: OverlayState,
    /// How many links to members stand.
    pub links: u64,
}

impl Network {
    /// The network of a node that has none.
    pub fn none() -> Self {
        Self { known: Arc::new(|_| Vec::new()), state: Arc::new(NetworkState::default) }
    }
}

/// Everything that the edges need of the node.
pub struct Backend {
    /// What all actors share.
    pub kit: Kit,
    /// The store's writer.
    pub store: Address<LocalStoreMsg>,
    /// The way to read.
    pub reads: ReadPath,
    /// The way to write objects of the group.
    pub writes: WritePath,
    /// The node and its group as they are.
    pub view: GroupView,
    /// Who decides about the group and its members.
    pub membership: Address<MembershipMsg>,
    /// Who knows who holds which object.
    pub ledger: Address<LedgerMsg>,
    /// How the group's objects stand.
    pub ledger_gauge: Arc<LedgerGauge>,
    /// What waits to be replicated.
    pub outbox_gauge: Arc<OutboxGauge>,
    /// Who repairs replicas.
    pub sweeper: Address<RepairSweeperMsg>,
    /// What it has done.
    pub repair_gauge: Arc<RepairGauge>,
    /// What lies around the group.
    pub network: Network,
    /// The node's phase.
    pub phase: watch::Receiver<NodePhase>,
    /// The effective configuration.
    pub config: Config,
    /// Permits.
    pub admission: Arc<Admission>,
    /// Figures.
    pub metrics: Metrics,
    /// The store's state.
    pub store_stats: StoreStats,
    /// Looks at other nodes.
    pub probe: Arc<dyn PeerProbe>,
    /// When the node started.
    pub started: MonotonicUs,
}

/// The names of those who send without being actors: shared, because every request's records carry them.
static NAMES: LazyLock<[Arc<str>; 3]> =
    LazyLock::new(|| ["client".into(), "rest".into(), "grpc".into()]);

/// A request in hand. Finished once, by [`Call::finish`] or by being dropped when its client has gone.
pub struct Call(Box<State>);

/// What is known of a request. Boxed, because a call is handed through several futures, and each would copy it.
pub struct State {
    backend: Arc<Backend>,
    edge: &'static str,
    edge_name: Arc<str>,
    kind: &'static str,
    cx: Context,
    parent: SpanId,
    start: MonotonicUs,
    object: Option<ObjectId>,
    finished: bool,
    /// What is exported of the request at this edge; ends with it.
    _span: tracing::Span,
}

impl Deref for Call {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Call {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl Call {
    /// Begins a request on `edge` (`rest` or `grpc`). It belongs to the trace that it brings, or to a new one;
    /// its deadline is `timeout` from now, at most `limits.requestTimeout`.
    pub fn begin(
        backend: &Arc<Backend>,
        edge: &'static str,
        kind: &'static str,
        brought: Option<TraceContext>,
        timeout: Option<Duration>,
    ) -> Self {
        let kit = &backend.kit;
        let [_, rest, grpc] = &*NAMES;
        let edge_name = Arc::clone(if edge == "rest" { rest } else { grpc });
        let trace = brought.unwrap_or_else(|| kit.recorder.new_trace());
        let start = kit.clock.monotonic();
        let longest = backend.config.limits.request_timeout;
        let timeout = timeout.map_or(longest, |timeout| timeout.min(longest));
        let deadline = start.plus_us(timeout.as_micros() as u64);
        let own = kit.recorder.new_span();
        let span = tracing::info_span!(
            target: "nomad::message",
            "request",
            actor = edge,
            kind,
            request = %trace.trace,
        );
        Self(Box::new(State {
            backend: Arc::clone(backend),
            edge,
            edge_name,
            kind,
            cx: Context { trace: trace.child(own), deadline: Some(deadline) },
            parent: trace.span,
            start,
            object: None,
            finished: false,
            _span: nomad_telemetry::adopt_step(span, trace, own),
        }))
    }

    /// Says that the whole body is in: the time for the work starts here. How long a body may take is limited by
    /// `limits.bodyTimeout`.
    pub fn body_is_in(&mut self) {
        let backend = &self.backend;
        let longest = backend.config.limits.request_timeout;
        let now = backend.kit.clock.monotonic();
        self.cx.deadline = Some(now.plus_us(longest.as_micros() as u64));
    }

    /// Returns the name of the request, as `Nomad-Request-Id` gives it.
    pub fn request_id(&self) -> TraceId {
        self.cx.trace.trace
    }

    /// Returns the node.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Says which object the request is about, for its record.
    pub fn about(&mut self, id: &ObjectId) {
        self.object = Some(id.clone());
    }

    /// Reads an object, in the node's mode unless the request names one.
    ///
    /// # Errors
    /// When no reader answers in time or the store cannot read.
    pub async fn get(
        &mut self,
        tier: Tier,
        id: &ObjectId,
        mode: Option<RetrievalMode>,
    ) -> Result<Option<Object>, ApiError> {
        self.about(id);
        let mode = {
            let view = self.backend.view.load();
            replication::serves(&view, tier)?;
            mode.unwrap_or(view.settings.retrieval_mode)
        };
        let clock = &self.backend.kit.clock;
        let start = clock.monotonic();
        let read = self.backend.reads.get(&self.edge_name, self.cx, tier, id, mode).await;
        if tier == Tier::Group {
            let took_us = clock.monotonic().since(start);
            self.backend.metrics.operations().on_read(mode, took_us);
        }
        Ok(read?)
    }

    /// Writes, in the node's mode unless the request names one. The outer error is a failure, the inner one a refusal
    /// that left everything as it was. The header is the durability that the answer states.
    ///
    /// # Errors
    /// When the change may not be made at all, or the store cannot make it.
    pub async fn write(
        &mut self,
        tier: Tier,
        id: &ObjectId,
        change: Change,
        mode: Option<StorageMode>,
    ) -> Result<(Result<Written, WriteRefusal>, HeaderValue), ApiError> {
        self.about(id);
        let mode = {
            let view = self.backend.view.load();
            replication::serves(&view, tier)?;
            mode.unwrap_or(view.settings.storage_mode)
        };
        if let Change::Write { content, .. } = &change {
            let now = self.backend.kit.clock.wall().secs();
            content.check(now, self.backend.config.node.storage.max_object_bytes)?;
        }
        let written = match tier {
            Tier::Group => {
                let clock = &self.backend.kit.clock;
                let (start, writes) = (clock.monotonic(), &self.backend.writes);
                let written = writes.write(&self.edge_name, self.cx, id, change, mode).await;
                let took_us = clock.monotonic().since(start);
                self.backend.metrics.operations().on_write(mode, took_us);
                written?
            }
            Tier::Overlay => {
                let make = |reply| LocalStoreMsg::Write { tier, id: id.clone(), change, reply };
                self.backend.store.ask(&self.edge_name, self.cx, make).await??
            }
        };
        Ok((written, self.backend.durability_header(tier, Some(mode))))
    }

    /// Lists objects, at most `limit`, which the node caps at `limits.pageSize`.
    ///
    /// # Errors
    /// When no reader answers in time, too few members of the group do, or the store cannot read.
    pub async fn list(
        &mut self,
        tier: Tier,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListingPage, ApiError> {
        let limit = limit.min(self.backend.config.limits.page_size);
        replication::serves(&self.backend.view.load(), tier)?;
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        let wanted = ListingQuery { prefix, after, limit };
        Ok(self.backend.reads.list(&self.edge_name, self.cx, tier, wanted).await?)
    }

    /// Changes a setting and returns the settings with that change, which may take a moment to come back from the group.
    ///
    /// # Errors
    /// When the value is out of range, or the group does not take it.
    pub async fn set(&mut self, change: SettingChange) -> Result<Settings, ApiError> {
        let make = |reply| MembershipMsg::Set { change, reply };
        self.backend.membership.ask(&self.edge_name, self.cx, make).await??;
        let mut settings = self.backend.view.load().settings();
        settings.set(change)?;
        Ok(settings)
    }

    /// Asks whoever decides about members. The inner error is a refusal that left everything as it was.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn control(
        &mut self,
        request: ControlRequest,
    ) -> Result<Result<bool, ControlError>, ApiError> {
        let make = |reply| MembershipMsg::Control { request, reply };
        Ok(self.backend.membership.ask(&self.edge_name, self.cx, make).await?)
    }

    /// Returns who holds the objects behind an id, as the group's ledger has it: at most `limit` holders, unless a single
    /// object has more.
    ///
    /// # Errors
    /// When nobody who keeps it answers in time.
    pub async fn ledger(
        &mut self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<LedgerPage, ApiError> {
        let (mut whole, mut left) = (LedgerPage::default(), limit);
        whole.next = after.map(str::to_owned);
        loop {
            let (after, limit) = (whole.next.take(), left.min(LIMIT_ENTRIES));
            let make = |reply| LedgerMsg::Page { after, limit, reply };
            let page = self.backend.ledger.ask(&self.edge_name, self.cx, make).await??;
            let holders: usize = page.items.iter().map(|listed| listed.holders.len()).sum();
            left = left.saturating_sub(holders);
            whole.items.extend(page.items);
            whole.next = page.next;
            // A part that is short, and not empty, was cut because the next object has too many holders for it.
            let is_cut = limit < LIMIT_ENTRIES && holders > 0;
            if whole.next.is_none() || left == 0 || is_cut {
                return Ok(whole);
            }
        }
    }

    /// Enters into the ledger that a member holds an object. `false` = that was known.
    ///
    /// # Errors
    /// When it is not so, or whoever knows does not answer in time.
    pub async fn refer(&mut self, id: &ObjectId, peer: &str) -> Result<bool, ApiError> {
        self.about(id);
        let (id, peer) = (id.clone(), peer.to_owned());
        let make = |reply| LedgerMsg::Refer { id, peer, reply };
        Ok(self.backend.ledger.ask(&self.edge_name, self.cx, make).await??)
    }

    /// Has the ledger forget all that a peer holds. `false` = there was nothing.
    ///
    /// # Errors
    /// When the peer is there, or the super-peer does not answer in time.
    pub async fn forget(&mut self, peer: &str) -> Result<bool, ApiError> {
        let peer = peer.to_owned();
        let make = |reply| LedgerMsg::Forget { peer, reply };
        Ok(self.backend.ledger.ask(&self.edge_name, self.cx, make).await??)
    }

    /// Repairs objects now. `false` = there is one that no replica knows.
    ///
    /// # Errors
    /// When one of them cannot be repaired in time.
    pub async fn repair(&mut self, ids: Vec<ObjectId>) -> Result<bool, ApiError> {
        replication::serves(&self.backend.view.load(), Tier::Group)?;
        let make = |reply| RepairSweeperMsg::Repair { ids, reply };
        Ok(self.backend.sweeper.ask(&self.edge_name, self.cx, make).await??)
    }

    /// Asks whether a node serves at `address`.
    ///
    /// # Errors
    /// When the deadline passes first.
    pub async fn probe(&self, address: SocketAddr) -> Result<bool, ApiError> {
        let late = || {
            let detail = format!("{address} did not answer within the deadline");
            ApiError::new(ErrorCode::DeadlineExceeded, detail)
        };
        let now = self.backend.kit.clock.monotonic();
        let left_us = self.cx.deadline.map_or(u64::MAX, |deadline| deadline.since(now));
        if left_us == 0 {
            return Err(late());
        }
        let probe = self.backend.probe.serves(address);
        tokio::time::timeout(Duration::from_micros(left_us), probe).await.map_err(|_| late())
    }

    /// Ends the request with the HTTP status or gRPC code of its answer, and records it.
    pub fn finish(mut self, code: u16) {
        self.end(Outcome::Answered(code), code);
    }

    fn end(&mut self, outcome: Outcome, code: u16) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let object = self.object.take();
        let kit = &self.backend.kit;
        let [client, ..] = &*NAMES;
        let run_us = kit.clock.monotonic().since(self.start);
        kit.recorder.add(TraceRecord {
            seq: 0,
            trace: self.cx.trace.trace,
            span: self.cx.trace.span,
            parent: self.parent,
            from: Arc::clone(client),
            to: Arc::clone(&self.edge_name),
            kind: self.kind,
            object,
            at: self.start,
            wait_us: 0,
            run_us,
            batch_len: 0,
            outcome,
            detail: None,
        });
        self.backend.metrics.on_answered(self.edge, self.kind, code, run_us);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Outcome::Dropped("the client went away"), 499);
    }
}

impl Backend {
    /// Says how durable what an answer tells is: `quorum` for a safe write in the group, else `local`; with an interval
    /// between fsyncs, that too. `None` = a read.
    pub fn durability(&self, tier: Tier, write: Option<StorageMode>) -> String {
        let word = reach(tier, write);
        match self.config.node.storage.durability {
            Durability::Always => word.to_owned(),
            Durability::Interval(every) => {
                format!("{word};fsync=interval:{}", humantime::format_duration(every))
            }
        }
    }

    /// Says the same in the `Nomad-Durability` of an answer.
    pub fn durability_header(&self, tier: Tier, write: Option<StorageMode>) -> HeaderValue {
        match self.config.node.storage.durability {
            Durability::Always => HeaderValue::from_static(reach(tier, write)),
            Durability::Interval(_) => HeaderValue::try_from(self.durability(tier, write))
                .unwrap_or(HeaderValue::from_static("")),
        }
    }
}

/// Where a write is once it is acknowledged; what a read tells is known to be here.
fn reach(tier: Tier, write: Option<StorageMode>) -> &'static str {
    match (tier, write) {
        (Tier::Group, Some(StorageMode::Safe)) => "quorum",
        _ => "local",
    }
}
