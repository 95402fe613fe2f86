//! Links: one stream per pair of nodes, for requests, answers and notices in both directions.
//!
//! Decision: all messages that wait when the stream can take more are sent as one. So a busy link sends few large messages,
//! and an idle one sends without delay. Senders put into a bounded queue and learn at once when it is full; there is no task
//! between them and the stream. Rejected: a call per request, which is 3 to 16 times slower (benches/README.md), and a
//! mailbox per link, which would be one more hop and could not be bounded.
//!
//! Both sides of a pair may open a link. When two cross, both sides know from the hellos which one stays
//! (`link::Birth`); the other takes nothing new, finishes what it has and is closed.
//!
//! Invariants: nothing is answered before the other side has proved its key; every queue, count and time is bounded by
//! [`LinkOptions`]; a request that was taken ends with its answer, or as broken, refused or late; nothing that another
//! node sends makes this one panic or hold more than the limits say.

mod answers;
mod connection;
mod counters;
mod following;
mod greet;
mod handshake;
#[allow(clippy::module_inception, reason = "the links, and one link")]
mod link;
mod making;
mod options;
mod outbox;
mod outgoing;
mod sparing;
mod table;
#[cfg(test)]
mod tests;
mod work;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use libp2p_identity::Keypair;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::{
    answers::Answers,
    greet::FrameStream,
    handshake::LinkIdentity,
    link::{Asked, Link},
    outgoing::{Out, Outgoing},
    sparing::Sparing,
    table::LinkTable,
};
pub use self::{connection::watch_socket, options::LinkOptions, table::LinkSink};
use nomad_core::model::{node_id::NodeId, time::MonotonicUs, trace::TraceContext};
use nomad_ports::{
    Clock, Entropy, LinkAcceptor, LinkMaker, PeerHandler, PeerTransport,
    peer_transport::{LinkEnd, LinkError, LinkReading, Service},
};
use nomad_proto::link::{Frames, refusal::Reason};

/// A node's key that is of another kind than its name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the node's key is no ed25519 key, which its links need to prove it")]
pub struct KeyError;

/// All links of a node. They end when it is dropped.
pub struct Links {
    inner: Arc<LinksInner>,
    _stop: DropGuard,
}

struct LinksInner {
    own: LinkIdentity,
    options: Arc<LinkOptions>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    table: LinkTable,
    answers: Answers,
    /// How many links this node has opened.
    opened: AtomicU64,
    /// Places of streams whose other side has not proved who it is.
    strangers: Arc<Semaphore>,
    /// One opening per address at a time.
    opening: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    log: Sparing,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Links {
    /// Prepares the links of the node that holds `key`. `sink` is told what becomes of them, in order and one call at a
    /// time; it must return at once and not call back, except to ask or tell.
    ///
    /// # Errors
    /// When the key is no ed25519 key.
    pub fn new(
        key: Keypair,
        options: LinkOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        sink: LinkSink,
    ) -> Result<Arc<Self>, KeyError> {
        let public = key.public().try_into_ed25519().map_err(|_| KeyError)?;
        let node = NodeId::from_key(public.to_bytes());
        let (network, incarnation) = (options.network.clone(), entropy.next_u64());
        let stop = CancellationToken::new();
        let inner = LinksInner {
            own: LinkIdentity { node, key, network, incarnation },
            table: LinkTable::new(options.guests_max, sink),
            answers: Answers::default(),
            opened: AtomicU64::new(0),
            strangers: Arc::new(Semaphore::new(options.strangers_max)),
            opening: Mutex::default(),
            log: Sparing::default(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
            options: Arc::new(options),
            clock,
            entropy,
        };
        Ok(Arc::new(Self { inner: Arc::new(inner), _stop: stop.drop_guard() }))
    }

    /// Sets what answers for a service. Until then its requests are refused.
    pub fn serve(&self, service: Service, handler: Arc<dyn PeerHandler>) {
        self.inner.answers.serve(service, handler);
    }

    /// Closes all links and takes no new ones, forgets the handlers, and waits for the end of the links' tasks.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.answers.close().await;
    }

    /// Opens a link to the node at `address`, or finds the one that is open.
    async fn reach(inner: &Arc<LinksInner>, address: &str) -> Result<Arc<Link>, LinkError> {
        if let Some(link) = inner.table.link_at(address) {
            return Ok(link);
        }
        let node = inner.open(address, None).await?;
        let reason = || "the link broke as soon as it stood".to_owned();
        let gone = || LinkError::Unreachable { to: address.to_owned(), reason: reason() };
        inner.table.link(node).ok_or_else(gone)
    }
}

impl PeerTransport for Links {
    fn keep(&self, mut peers: BTreeMap<NodeId, String>) {
        peers.remove(&self.inner.own.node);
        self.inner.table.keep(peers);
    }

    fn ask(
        &self,
        to: NodeId,
        service: Service,
        trace: TraceContext,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        // Taken at once, so that the order of the calls is the order in the queue.
        match self.inner.ask(to, service, trace, body, limit) {
            Ok(asked) => wait(asked, to, limit).boxed(),
            Err(error) => futures::future::ready(Err(error)).boxed(),
        }
    }

    fn tell(
        &self,
        to: NodeId,
        service: Service,
        trace: TraceContext,
        body: Bytes,
    ) -> Result<(), LinkError> {
        match self.inner.table.link(to) {
            Some(link) => link.tell(service, trace, body),
            None => Err(self.inner.unreachable(to)),
        }
    }

    fn reaches(&self, node: NodeId) -> bool {
        self.inner.table.link(node).is_some()
    }

    fn ask_address(
        &self,
        address: String,
        service: Service,
        trace: TraceContext,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<(NodeId, Bytes), LinkError>> {
        let inner = Arc::clone(&self.inner);
        let deadline = inner.clock.monotonic().plus_us(limit.as_micros() as u64);
        async move {
            let late = |_| LinkError::TimedOut { to: address.clone(), limit };
            let reached = tokio::time::timeout(limit, Self::reach(&inner, &address));
            let link = reached.await.map_err(late)??;
            let left = left(deadline, inner.clock.monotonic());
            let asked = link.ask(service, trace, body, left)?;
            Ok((link.node, wait(asked, link.node, left).await?))
        }
        .boxed()
    }

    fn readings(&self) -> Vec<LinkReading> {
        self.inner.table.readings()
    }
}

fn left(deadline: MonotonicUs, now: MonotonicUs) -> Duration {
    Duration::from_micros(deadline.since(now))
}

/// Waits for an answer.
async fn wait(asked: Asked, to: NodeId, limit: Duration) -> Result<Bytes, LinkError> {
    let to = || to.to_string();
    match tokio::time::timeout(limit, asked).await {
        Err(_) => Err(LinkError::TimedOut { to: to(), limit }),
        Ok(None) => Err(LinkError::Broken { to: to() }),
        Ok(Some(Err(reason))) => Err(LinkError::Refused { to: to(), reason }),
        Ok(Some(Ok(body))) => Ok(body),
    }
}

impl LinkMaker for Links {
    fn hold(&self, node: NodeId) -> BoxFuture<'static, LinkEnd> {
        let inner = Arc::clone(&self.inner);
        async move {
            let _released = Held { inner: &inner, node };
            inner.hold(node).await
        }
        .boxed()
    }
}

/// Ends a node's link when its holder has gone, unless the link is still to be kept.
struct Held<'a> {
    inner: &'a LinksInner,
    node: NodeId,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let table = &self.inner.table;
        if table.address(self.node).is_some()
            && let Some(link) = table.link(self.node)
        {
            let reason = "what held it here has ended";
            table.remove(&link, reason);
            link.end(reason);
        }
    }
}

impl LinkAcceptor<Frames> for Links {
    fn message_bytes_max(&self) -> usize {
        self.inner.options.message_bytes_max()
    }

    fn accept(
        &self,
        messages: FrameStream,
        proven: Box<dyn FnOnce() + Send>,
    ) -> BoxStream<'static, Frames> {
        let (sender, outgoing) = Outgoing::new();
        let refuse = |reason, detail: &str| {
            let _ = sender.try_send(Out::Message(Box::new(handshake::refusal(reason, detail))));
        };
        let place = Arc::clone(&self.inner.strangers).try_acquire_owned();
        match place {
            _ if self.inner.stop.is_cancelled() => refuse(Reason::Stopping, "the node is stopping"),
            Err(_) => refuse(Reason::Full, "too many nodes are in their handshakes; try again"),
            Ok(place) => {
                let inner = Arc::clone(&self.inner);
                self.inner.tasks.spawn(async move {
                    let mut messages = messages;
                    let greeted = inner.accept(&mut messages, &sender, proven).await;
                    drop(place);
                    if let Some(link) = greeted {
                        // The stream has all that the handshake sends.
                        drop(sender);
                        inner.follow(link, messages, None).await;
                    }
                });
            }
        }
        outgoing.boxed()
    }
}

impl LinksInner {
    fn ask(
        &self,
        to: NodeId,
        service: Service,
        trace: TraceContext,
        body: Bytes,
        limit: Duration,
    ) -> Result<Asked, LinkError> {
        match self.table.link(to) {
            Some(link) => link.ask(service, trace, body, limit),
            None => Err(self.unreachable(to)),
        }
    }

    fn unreachable(&self, to: NodeId) -> LinkError {
        let reason = match self.table.down_reason(to) {
            Some(reason) => reason,
            None if self.table.address(to).is_some() => "it is being opened".to_owned(),
            None => "none is to be kept".to_owned(),
        };
        LinkError::Unreachable { to: to.to_string(), reason }
    }
}
