//! What both edges share: the node behind them, and a request as an edge has it in hand, which ends with a status code. REST
//! and gRPC differ only in how they decode and encode around these calls.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use tokio::sync::watch;

use super::{
    admission::Admission,
    metrics::{Metrics, StoreStats},
};
use nomad_actors::recorder::Outcome;
use nomad_config::Config;
use nomad_core::{
    group::offer::Offer,
    model::{time::MonotonicUs, trace::TraceContext},
    world::Position,
};
use nomad_ports::overlay::OverlayState;
use nomad_service::{Assurance, Entrance, NodeService, ServiceCall, ServiceLimits, StorageFigures};

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

/// Everything that the edges need of the node.
pub struct Backend {
    /// What does what requests ask for.
    pub service: Arc<NodeService>,
    /// What the actors of the storage show of themselves.
    pub figures: StorageFigures,
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
    /// When the node started.
    pub started: MonotonicUs,
}

/// A request in hand at an edge: what can be asked of the node, and the status code that it ends with. Finished once, by
/// [`Call::finish`] or by being dropped when its client has gone. Boxed, because a call is handed through several futures, and
/// each would copy it.
pub struct Call(Box<EdgeCall>);

struct EdgeCall {
    call: ServiceCall,
    backend: Arc<Backend>,
    edge: Entrance,
}

impl Deref for Call {
    type Target = ServiceCall;

    fn deref(&self) -> &ServiceCall {
        &self.0.call
    }
}

impl DerefMut for Call {
    fn deref_mut(&mut self) -> &mut ServiceCall {
        &mut self.0.call
    }
}

impl Call {
    /// Begins a request on an edge: see [`ServiceCall::begin`].
    pub fn begin(
        backend: &Arc<Backend>,
        edge: Entrance,
        kind: &'static str,
        brought: Option<TraceContext>,
        timeout: Option<Duration>,
    ) -> Self {
        let call = ServiceCall::begin(&backend.service, edge, kind, brought, timeout);
        Self(Box::new(EdgeCall { call, backend: Arc::clone(backend), edge }))
    }

    /// Returns the node.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0.backend
    }

    /// Ends the request with the HTTP status or gRPC code of its answer, and records it.
    pub fn finish(mut self, code: u16) {
        self.end(Outcome::Answered(code), code);
    }

    fn end(&mut self, outcome: Outcome, code: u16) {
        let EdgeCall { call, backend, edge } = &mut *self.0;
        if let Some(run_us) = call.end(outcome) {
            backend.metrics.on_answered(edge.as_str(), call.kind(), code, run_us);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(ServiceCall::ABANDONED, 499);
    }
}

/// Returns what requests are held to by a configuration.
pub fn service_limits(config: &Config) -> ServiceLimits {
    ServiceLimits {
        request_timeout: config.limits.request_timeout,
        page_size: config.limits.page_size,
        object_bytes_max: config.node.storage.max_object_bytes,
        durability: config.node.storage.durability,
    }
}

/// Says how durable what an answer tells is, as `Nomad-Durability` does.
pub fn durability_header(assurance: Assurance) -> HeaderValue {
    match assurance.text() {
        std::borrow::Cow::Borrowed(text) => HeaderValue::from_static(text),
        std::borrow::Cow::Owned(text) => {
            HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
        }
    }
}
