//! Reads an object from the members that keep it: nearest first with a hedge (fast), all at once (parallel), or by a
//! quorum (safe).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::sleep;

use super::{ReadPath, quantile::Quantile};
use crate::ServiceError;
use nomad_actors::{Context, local_read::Fetched};
use nomad_core::{
    group::{
        replication::NotDone,
        view::{Liveness, View},
    },
    model::{
        node_id::NodeId,
        object::{Object, ObjectId},
        trace::TraceContext,
    },
    register::{RegisterOrder, placement::ReplicaSet},
};
use nomad_ports::peer_transport::{LinkError, Service};

/// How long one member may take to answer a read.
const FETCH_LIMIT: Duration = Duration::from_secs(2);
/// The first guess of how long 95 of 100 members take, and the bounds of what it leads to.
const GUESS_US: u64 = 10_000;
const HEDGE_US_MIN: u64 = 1_000;
const HEDGE_US_MAX: u64 = 500_000;

/// How long members take to answer, and what became of hedges.
#[derive(Debug)]
pub(super) struct Hedge {
    latency: Mutex<Quantile>,
}

impl Default for Hedge {
    fn default() -> Self {
        Self { latency: Mutex::new(Quantile::new(0.95, GUESS_US)) }
    }
}

impl Hedge {
    fn pause(&self) -> Duration {
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_micros(latency.estimate_us().clamp(HEDGE_US_MIN, HEDGE_US_MAX))
    }

    fn observe(&self, took_us: u64) {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).observe(took_us);
    }
}

/// How many replicas that have nothing of an object are enough to take it to be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AbsenceQuorum {
    /// All that answer: some of them may not have what is on its way to them.
    All,
    /// More than half: what a quorum has kept is at one of them.
    Majority,
}

impl ReadPath {
    /// Reads by a quorum.
    pub(super) async fn read_safe(
        &self,
        from: &std::sync::Arc<str>,
        cx: Context,
        id: &ObjectId,
    ) -> Result<Option<Object>, ServiceError> {
        Ok(self.writers.run(from, cx, id, RegisterOrder::Read).await?.read()?)
    }

    /// Asks the other replicas, nearest first: the next one when one has nothing, does not answer, or is slower than most.
    pub(super) async fn read_near(
        &self,
        cx: Context,
        id: &ObjectId,
        view: &View,
        enough: AbsenceQuorum,
    ) -> Result<Fetched, ServiceError> {
        let (others, is_replica) = self.others(id, view);
        let asked = others.len();
        let replicas = asked + usize::from(is_replica);
        let enough = match enough {
            AbsenceQuorum::All => replicas,
            AbsenceQuorum::Majority => replicas / 2 + 1,
        };
        let mut waiting = others.into_iter();
        let mut asks = FuturesUnordered::new();
        let mut answered = usize::from(is_replica);
        let least = self.own_writes.bound(id);
        let mut newest = Fetched::Nothing;
        loop {
            if answered > 0 && answered >= enough {
                return Ok(newest);
            }
            if asks.is_empty() {
                match waiting.next() {
                    Some(node) => asks.push(self.fetch(cx.trace, node, id)),
                    None if answered > 0 => return Ok(newest),
                    None => return Err(NotDone::NoReplica { asked }.into()),
                }
            }
            tokio::select! {
                Some(answer) = asks.next() => match answer {
                    Ok(Fetched::Nothing) => answered += 1,
                    Ok(found) if least.is_none_or(|least| least.is_met_by(&found)) => return Ok(found),
                    Ok(older) => {
                        answered += 1;
                        newest = newest.newer(older);
                    }
                    Err(_) => {}
                },
                () = sleep(self.hedge.pause()), if waiting.len() > 0 => {
                    if let Some(node) = waiting.next() {
                        self.hedges.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        asks.push(self.fetch(cx.trace, node, id));
                    }
                }
            }
        }
    }

    /// Asks all other replicas at once: the first that knows wins.
    pub(super) async fn read_parallel(
        &self,
        cx: Context,
        id: &ObjectId,
        view: &View,
    ) -> Result<Fetched, ServiceError> {
        let (others, is_replica) = self.others(id, view);
        let asked = others.len();
        let mut asks: FuturesUnordered<_> =
            others.into_iter().map(|node| self.fetch(cx.trace, node, id)).collect();
        let mut answered = usize::from(is_replica);
        let least = self.own_writes.bound(id);
        let mut newest = Fetched::Nothing;
        while let Some(answer) = asks.next().await {
            match answer {
                Ok(Fetched::Nothing) => answered += 1,
                Ok(found) if least.is_none_or(|least| least.is_met_by(&found)) => return Ok(found),
                Ok(older) => {
                    answered += 1;
                    newest = newest.newer(older);
                }
                Err(_) => {}
            }
        }
        if answered > 0 { Ok(newest) } else { Err(NotDone::NoReplica { asked }.into()) }
    }

    /// Tells whether this node keeps an object.
    pub(super) fn keeps(&self, id: &ObjectId, view: &View) -> bool {
        view.group().is_some_and(|table| {
            ReplicaSet::of(id, table.configuration()).place_of(view.this.node).is_some()
        })
    }

    /// Returns the replicas but this node, the nearest that live first, and whether this node is one.
    fn others(&self, id: &ObjectId, view: &View) -> (Vec<NodeId>, bool) {
        let Some(table) = view.group() else { return (Vec::new(), false) };
        let set = ReplicaSet::of(id, table.configuration());
        let mut nodes: Vec<_> = set.nodes().map(|(_, node)| node).collect();
        let before = nodes.len();
        nodes.retain(|node| *node != view.this.node);
        let is_replica = nodes.len() < before;
        let readings = self.transport.readings();
        let distance = |node: &NodeId| {
            let link = readings.iter().find(|link| link.node == *node);
            let is_up = link.is_some_and(|link| link.up_since.is_some());
            let is_alive = view.sighting(node).liveness == Liveness::Alive;
            let round_trip_us = link.and_then(|link| link.round_trip_us).unwrap_or(u64::MAX);
            (!is_up, !is_alive, round_trip_us)
        };
        nodes.sort_by_cached_key(distance);
        (nodes, is_replica)
    }

    async fn fetch(
        &self,
        trace: TraceContext,
        node: NodeId,
        id: &ObjectId,
    ) -> Result<Fetched, LinkError> {
        let start = self.kit.clock.monotonic();
        let body = bytes::Bytes::copy_from_slice(id.as_str().as_bytes());
        let answer = self.transport.ask(node, Service::Replica, trace, body, FETCH_LIMIT).await?;
        self.hedge.observe(self.kit.clock.monotonic().since(start));
        Fetched::decode(id, &answer)
            .map_err(|reason| LinkError::Refused { to: node.to_string(), reason })
    }
}
