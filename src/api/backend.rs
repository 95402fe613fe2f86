//! What both edges do with a decoded request: begin it, ask an actor, finish it. REST and gRPC differ only in how they
//! decode and encode around these calls.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::HeaderValue;
use serde::Serialize;
use tokio::sync::watch;

use super::{
    admission::Admission,
    error::{ApiError, ErrorCode},
    metrics::{Metrics, StoreStats},
};
use crate::{
    actors::{
        Address, Context, Kit,
        group_table::{GroupTableMsg, GroupView},
        local_store::LocalStoreMsg,
        recorder::{Outcome, Record},
        replica_reader::ReadPath,
    },
    config::{Config, Durability},
    core::{
        change::{Change, Refusal},
        group::{GroupOfOne, Member, RetrievalMode, SettingChange, StorageMode},
        object::{Object, ObjectId, Tier},
        time::MonotonicUs,
        trace::{SpanId, TraceContext, TraceId},
    },
    ports::{
        PeerProbe,
        object_store::{Page, Written},
    },
};

/// Where a node is between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not ready yet.
    Starting,
    /// Ready.
    Serving,
    /// Finishing what was accepted.
    Draining,
}

/// Everything that the edges need of the node.
pub struct Backend {
    /// What all actors share.
    pub kit: Kit,
    /// The store's writer.
    pub store: Address<LocalStoreMsg>,
    /// The way to read.
    pub reads: ReadPath,
    /// The group table.
    pub group_table: Address<GroupTableMsg>,
    /// The group as it is.
    pub view: GroupView,
    /// The node's phase.
    pub phase: watch::Receiver<Phase>,
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
    /// Begins a request on `edge` (`rest` or `grpc`). It belongs to the trace that `traceparent` names, or to a new one;
    /// its deadline is `timeout` from now, at most `limits.requestTimeout`.
    pub fn begin(
        backend: &Arc<Backend>,
        edge: &'static str,
        kind: &'static str,
        traceparent: Option<&str>,
        timeout: Option<Duration>,
    ) -> Self {
        let kit = &backend.kit;
        let [_, rest, grpc] = &*NAMES;
        let edge_name = Arc::clone(if edge == "rest" { rest } else { grpc });
        let trace =
            traceparent.and_then(TraceContext::parse).unwrap_or_else(|| kit.recorder.new_trace());
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
            _span: crate::telemetry::adopt_step(span, trace, own),
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
        let mode = mode.unwrap_or_else(|| self.backend.view.load().settings.retrieval_mode);
        Ok(self.backend.reads.get(&self.edge_name, self.cx, tier, id, mode).await??)
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
    ) -> Result<(Result<Written, Refusal>, HeaderValue), ApiError> {
        self.about(id);
        let mode = mode.unwrap_or_else(|| self.backend.view.load().settings.storage_mode);
        if let Change::Write { content, .. } = &change {
            let now = self.backend.kit.clock.wall().secs();
            content.check(now, self.backend.config.node.storage.max_object_bytes)?;
        }
        let make = |reply| LocalStoreMsg::Write { tier, id: id.clone(), change, reply };
        let written = self.backend.store.ask(&self.edge_name, self.cx, make).await??;
        Ok((written, self.backend.durability_header(tier, Some(mode))))
    }

    /// Lists objects, at most `limit`, which the node caps at `limits.pageSize`.
    ///
    /// # Errors
    /// When no reader answers in time or the store cannot read.
    pub async fn list(
        &mut self,
        tier: Tier,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, ApiError> {
        let limit = limit.min(self.backend.config.limits.page_size);
        let wanted = (tier, prefix, after, limit);
        Ok(self.backend.reads.list(&self.edge_name, self.cx, wanted).await??)
    }

    /// Changes a setting and returns the group as it then is.
    ///
    /// # Errors
    /// When the value is out of range.
    pub async fn set(&mut self, change: SettingChange) -> Result<Arc<GroupOfOne>, ApiError> {
        let make = |reply| GroupTableMsg::Set { change, reply };
        self.backend.group_table.ask(&self.edge_name, self.cx, make).await??;
        Ok(self.backend.view.load_full())
    }

    /// Moves this node.
    ///
    /// # Errors
    /// When the point is not in the world.
    pub async fn move_to(&mut self, x: f64, y: f64) -> Result<(), ApiError> {
        let make = |reply| GroupTableMsg::Move { x, y, reply };
        Ok(self.backend.group_table.ask(&self.edge_name, self.cx, make).await??)
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
        kit.recorder.add(Record {
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

    /// Says why the node is not ready, if it is not.
    pub fn unready(&self) -> Option<&'static str> {
        match *self.phase.borrow() {
            Phase::Starting => Some("the node is starting"),
            Phase::Serving => None,
            Phase::Draining => Some("the node is shutting down"),
        }
    }

    /// Describes this node.
    pub fn status(&self) -> Status {
        let group = self.view.load();
        let (health, counts) = (self.store_stats)();
        let unready = self.unready();
        let read_only = health.refusal();
        let member = MemberStatus::of(&group.this, unready == Some("the node is shutting down"));
        Status {
            node_id: group.this.node.to_string(),
            role: "super-peer",
            state: group.state(),
            permanent: group.permanent,
            group: group.name.clone(),
            epoch: group.epoch,
            super_peer: Some(group.this.node.to_string()),
            ready: unready.is_none(),
            reason: unready
                .map(str::to_owned)
                .or_else(|| read_only.map(|why| format!("writes are refused: {why}"))),
            members: vec![member],
            capacity: group.capacity,
            settings: SettingsStatus::of(&group),
            store: StoreStatus {
                state: if read_only.is_some() { "read-only" } else { "up" },
                durability: self.durability(Tier::Group, None),
                writes: counts.writes,
                fsyncs: counts.fsyncs,
                waiting: counts.waiting,
                disk_bytes: counts.disk_bytes,
                recoveries: counts.recoveries,
            },
            network: self.config.network.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.kit.clock.monotonic().since(self.started) / 1_000_000,
            resident_bytes: super::metrics::resident_bytes(),
            requests_in_hand: self.admission.in_hand(),
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

/// What `GET /nomad/v1/status` tells.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The node's id.
    pub node_id: String,
    /// `peer` or `super-peer`.
    pub role: &'static str,
    /// The state of its role.
    pub state: &'static str,
    /// Whether it was started as a super-peer.
    pub permanent: bool,
    /// The name of its group.
    pub group: String,
    /// The number of the group's configuration.
    pub epoch: u64,
    /// The id of the group's super-peer.
    pub super_peer: Option<String>,
    /// Whether it takes requests.
    pub ready: bool,
    /// Why it is not ready, or what it refuses.
    pub reason: Option<String>,
    /// The group's members.
    pub members: Vec<MemberStatus>,
    /// The most members that the group may have.
    pub capacity: u32,
    /// What clients may change.
    pub settings: SettingsStatus,
    /// The local store.
    pub store: StoreStatus,
    /// The name of the network.
    pub network: String,
    /// The program's version.
    pub version: &'static str,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Requests admitted and not answered yet.
    pub requests_in_hand: u64,
}

/// One member of a group.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its id.
    pub node_id: String,
    /// `peer` or `super-peer`.
    pub role: &'static str,
    /// `alive`, `suspect`, `dead` or `leaving`.
    pub state: &'static str,
    /// Whether it votes on the group table.
    pub voter: bool,
    /// Its REST address.
    pub rest: String,
    /// Its peer address.
    pub peer: String,
    /// Its storage address.
    pub storage: String,
    /// Where it stands.
    pub position: PositionStatus,
}

impl MemberStatus {
    fn of(member: &Member, leaving: bool) -> Self {
        Self {
            node_id: member.node.to_string(),
            role: "super-peer",
            state: if leaving { "leaving" } else { "alive" },
            voter: true,
            rest: member.rest.clone(),
            peer: member.peer.clone(),
            storage: member.storage.clone(),
            position: PositionStatus { x: member.position.x, y: member.position.y },
        }
    }
}

/// A point of the world.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
pub struct PositionStatus {
    /// From 0 to the world's width.
    pub x: f64,
    /// From 0 to the world's height.
    pub y: f64,
}

/// The settings that clients may change.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettingsStatus {
    /// The mode of a write that names none.
    pub storage_mode: &'static str,
    /// The mode of a read that names none.
    pub retrieval_mode: &'static str,
    /// Whether nodes move to the group of the cell they are in.
    pub migration: bool,
    /// How many members keep each object, where the group has so many.
    pub replication_factor: u32,
}

impl SettingsStatus {
    fn of(group: &GroupOfOne) -> Self {
        let settings = group.settings;
        Self {
            storage_mode: settings.storage_mode.as_str(),
            retrieval_mode: settings.retrieval_mode.as_str(),
            migration: settings.migration,
            replication_factor: settings.replication_factor,
        }
    }
}

/// The local store.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// `up` or `read-only`.
    pub state: &'static str,
    /// How durable an acknowledged write is.
    pub durability: String,
    /// Writes that took effect since the start.
    pub writes: u64,
    /// Flushes of the journal since the start.
    pub fsyncs: u64,
    /// Writes waiting.
    pub waiting: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Times that the store was reopened after a failure.
    pub recoveries: u64,
}
