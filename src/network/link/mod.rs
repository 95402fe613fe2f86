//! Links: one stream per pair of nodes, over which both ask, answer and tell.
//!
//! Decision: whatever waits when the stream can take more goes as one message, so that a busy link pays for few messages
//! and an idle one waits for nothing. Senders put into a bounded queue and learn at once when it is full; there is no task
//! between them and the stream. Rejected: a call per request, which costs five times as much (benches/README.md), and a
//! mailbox per link, which would be one more hop and could not be bounded.
//!
//! Both sides of a pair may open a link. When two cross, both sides know from the hellos which one stays
//! ([`link::Birth`]); the other takes nothing new, finishes what it has and is closed.
//!
//! Invariants: nothing is answered before the other side has proved its key; every queue, count and time is bounded by
//! [`LinkOptions`]; a request that was taken ends with its answer, or as broken, refused or late; nothing that another
//! node sends makes this one panic or hold more than the limits say.

mod answers;
mod connection;
mod greet;
mod handshake;
#[allow(clippy::module_inception, reason = "the links, and one link")]
mod link;
mod options;
mod outbox;
mod sparing;
mod table;
#[cfg(test)]
mod tests;
mod work;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use libp2p_identity::Keypair;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::warn;

use self::{
    answers::Answers,
    connection::Connection,
    greet::{Messages, farewell},
    handshake::{Failed, Own},
    link::{Asked, CLOSED, Fate, Link, Out, Outgoing},
    sparing::Sparing,
    table::Table,
};
pub use self::{connection::watch_socket, options::LinkOptions, table::LinkSink};
use crate::{
    core::{node_id::NodeId, time::MonotonicUs, trace::TraceContext},
    ports::{
        Clock, Entropy, LinkAcceptor, LinkMaker, PeerHandler, PeerTransport,
        peer_transport::{LinkEnd, LinkError, LinkReading, Service},
    },
    proto::link::{Frames, refusal::Reason},
};

/// How often a link that was replaced is looked at, until nothing is under way on it.
const LINGER_TICK: Duration = Duration::from_millis(100);

/// How long the other side of a link that this one ends has to end it too.
const FAREWELL_LIMIT: Duration = Duration::from_millis(250);

/// A node's key that is of another kind than its name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the node's key is no ed25519 key, which its links need to prove it")]
pub struct KeyError;

/// All links of a node. They end when it is dropped.
pub struct Links {
    inner: Arc<Inner>,
    _stop: DropGuard,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Links({})", self.inner.own.node)
    }
}

struct Inner {
    own: Own,
    options: Arc<LinkOptions>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    table: Table,
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
        let inner = Inner {
            own: Own { node, key, network, incarnation },
            table: Table::new(options.guests_max, sink),
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

    /// Opens a link to whoever serves at `address`, or finds the one that stands.
    async fn reach(inner: &Arc<Inner>, address: &str) -> Result<Arc<Link>, LinkError> {
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

/// Ends a node's link when whoever held it has gone, unless it is not to be kept any more.
struct Held<'a> {
    inner: &'a Inner,
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
        messages: Messages,
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

impl Inner {
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

    /// See [`LinkMaker::hold`].
    async fn hold(self: &Arc<Self>, node: NodeId) -> LinkEnd {
        let began = self.clock.monotonic();
        let mut reason: Option<String> = None;
        let mut moves = self.table.moves();
        loop {
            if let Some(link) = self.table.link(node) {
                let mut fate = link.watch();
                let ended = fate.wait_for(|fate| *fate != Fate::Stands).await;
                if let Ok(Fate::Ended(why)) = ended.as_deref() {
                    self.table.remove(&link, why);
                    reason = Some(why.to_string());
                }
                continue;
            }
            if let Some(reason) = reason {
                let stood = Some(left(self.clock.monotonic(), began));
                return LinkEnd {
                    stood,
                    error: LinkError::Unreachable { to: node.to_string(), reason },
                };
            }
            moves.mark_unchanged();
            let Some(address) = self.table.address(node) else {
                return LinkEnd { stood: None, error: self.unreachable(node) };
            };
            let opened = tokio::select! {
                biased;
                opened = self.open(&address, Some(node)) => opened,
                () = self.moved(&mut moves, node, &address) => continue,
            };
            if self.table.link(node).is_some() {
                continue;
            }
            let error = match opened {
                Err(error) => error,
                Ok(_) => {
                    let reason = "it broke as soon as it stood".to_owned();
                    LinkError::Unreachable { to: node.to_string(), reason }
                }
            };
            self.table.failed(node, &error.to_string());
            return LinkEnd { stood: None, error };
        }
    }

    /// Waits until a node has another address than this one.
    async fn moved(
        &self,
        moves: &mut tokio::sync::watch::Receiver<u64>,
        node: NodeId,
        address: &str,
    ) {
        while self.table.address(node).as_deref() == Some(address) {
            if moves.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Opens a link, unless one to whoever answers stands, and says to whom.
    async fn open(
        self: &Arc<Self>,
        address: &str,
        expected: Option<NodeId>,
    ) -> Result<NodeId, LinkError> {
        let turn = {
            let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody waits for are of no use.
            opening.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(opening.entry(address.to_owned()).or_default())
        };
        let _turn = turn.lock().await;
        let standing = expected.and_then(|node| self.table.link(node));
        if let Some(link) = standing.or_else(|| self.table.link_at(address))
            && expected.is_none_or(|expected| expected == link.node)
        {
            return Ok(link.node);
        }
        let limit = self.options.connect_limit + self.options.handshake_limit;
        let late = Failed::Broken(format!("it did not finish the handshake within {limit:?}"));
        let opened = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Failed::Refused("this node is stopping".into())),
            opened = tokio::time::timeout(limit, self.dial(address, expected)) => {
                opened.unwrap_or(Err(late))
            }
        };
        let to = match expected {
            Some(node) => format!("{node} at {address}"),
            None => address.to_owned(),
        };
        match opened {
            Ok(node) | Err(Failed::Crossed(node)) => Ok(node),
            Err(Failed::Stranger(reason)) => {
                self.log_stranger(&format!("the node at {address}"), &reason);
                Err(LinkError::Stranger { to, reason })
            }
            Err(Failed::Refused(reason) | Failed::Broken(reason)) => {
                Err(LinkError::Unreachable { to, reason })
            }
        }
    }

    async fn dial(
        self: &Arc<Self>,
        address: &str,
        expected: Option<NodeId>,
    ) -> Result<NodeId, Failed> {
        let (sender, outgoing) = Outgoing::new();
        let hello = self.hello_as_opener(expected);
        let message = Frames { hello: Some(hello.clone()), ..Frames::default() };
        let _ = sender.try_send(Out::Message(Box::new(message)));
        let opened = connection::open(address, outgoing, &self.options).await;
        let (connection, mut messages) = opened.map_err(Failed::Broken)?;
        let link = self.introduce(address, hello, expected, &mut messages, &sender).await?;
        let (inner, node) = (Arc::clone(self), link.node);
        self.tasks.spawn(async move { inner.follow(link, messages, Some(connection)).await });
        Ok(node)
    }

    /// Takes a stream that another node has opened through the handshake; `None` when it has come to nothing.
    async fn accept(
        &self,
        messages: &mut Messages,
        sender: &mpsc::Sender<Out>,
        proven: Box<dyn FnOnce() + Send>,
    ) -> Option<Arc<Link>> {
        let limit = self.options.handshake_limit;
        let late = Failed::Broken(format!("the handshake took longer than {limit:?}"));
        let greeted = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Failed::Refused("the node is stopping".into())),
            greeted = tokio::time::timeout(limit, self.receive(messages, sender, proven)) => {
                greeted.unwrap_or(Err(late))
            }
        };
        let failed = match greeted {
            Ok(link) => return Some(link),
            Err(failed) => failed,
        };
        if let Failed::Stranger(reason) = &failed {
            self.log_stranger("a node that opened a link", reason);
        }
        let _ = sender.try_send(Out::Message(Box::new(farewell(&failed))));
        None
    }

    fn log_stranger(&self, who: &str, reason: &str) {
        let line = format!("{who} is not one of ours: {reason}");
        if self.log.allows(&line, self.clock.monotonic()) {
            warn!(network = %self.own.network, "{line}");
        }
    }

    /// Follows a link to its end.
    async fn follow(
        &self,
        link: Arc<Link>,
        mut messages: Messages,
        connection: Option<Connection>,
    ) {
        let ending = Ending { inner: self, link: &link };
        let reason = self.take_messages(&link, &mut messages).await;
        self.table.remove(&link, &reason);
        link.end(&reason);
        drop(ending);
        // The other side ends its half when it has seen the end of this one; then nothing of ours is cut off.
        let rest = async { while let Some(Ok(_)) = messages.next().await {} };
        let _ = tokio::time::timeout(FAREWELL_LIMIT, rest).await;
        drop(connection);
    }

    /// Takes what comes until the link is to end, and says why.
    async fn take_messages(&self, link: &Arc<Link>, messages: &mut Messages) -> String {
        let mut fate = link.watch();
        // It may have been replaced before it is followed.
        fate.mark_changed();
        let mut pulse = Pulse::new(self.options.idle_limit / 2);
        let stopped = self.stop.cancelled();
        tokio::pin!(stopped);
        loop {
            let message = tokio::select! {
                biased;
                () = &mut stopped => return "this node is stopping".to_owned(),
                _ = fate.changed() => {
                    let now = fate.borrow_and_update().clone();
                    match now {
                        Fate::Stands => {}
                        Fate::Replaced => pulse = Pulse::new(LINGER_TICK),
                        Fate::Ended(reason) if &*reason == CLOSED => return why_closed(messages).await,
                        Fate::Ended(reason) => return reason.to_string(),
                    }
                    continue;
                }
                _ = pulse.ticks.tick() => match self.look_at(link, &mut pulse) {
                    Some(reason) => return reason.to_owned(),
                    None => continue,
                },
                message = messages.next() => message,
            };
            let taken = match message {
                None => return "the other node closed it".to_owned(),
                Some(Err(reason)) => return reason,
                Some(Ok(Frames {
                    frames,
                    hello: None,
                    proof: None,
                    welcome: None,
                    refusal: None,
                })) => self.answers.take(link, frames),
                Some(Ok(_)) => Err("it sent a part of a handshake".to_owned()),
            };
            if let Err(wrong) = taken {
                return wrong;
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Says why a link is to end that is of no more use.
    fn look_at(&self, link: &Arc<Link>, pulse: &mut Pulse) -> Option<&'static str> {
        pulse.count += 1;
        let activity = link.activity();
        let is_quiet = std::mem::replace(&mut pulse.activity, Some(activity)) == Some(activity);
        let is_idle = is_quiet && link.is_idle();
        if link.fate() == Fate::Replaced {
            let is_late = LINGER_TICK * pulse.count > self.options.linger_limit;
            return (is_idle || is_late).then_some("another link has taken its place");
        }
        let is_guest = self.table.address(link.node).is_none();
        (is_guest && is_idle && pulse.count > 2).then_some("it was idle, and not to be kept")
    }
}

/// What the other half of the stream says of a closed connection, which it does at once.
async fn why_closed(messages: &mut Messages) -> String {
    let error = async {
        loop {
            match messages.next().await {
                Some(Ok(_)) => {}
                Some(Err(reason)) => return reason,
                None => return CLOSED.to_owned(),
            }
        }
    };
    tokio::time::timeout(FAREWELL_LIMIT, error).await.unwrap_or_else(|_| CLOSED.to_owned())
}

/// When a link is looked at, and what was seen.
struct Pulse {
    ticks: tokio::time::Interval,
    count: u32,
    activity: Option<u64>,
}

impl Pulse {
    fn new(period: Duration) -> Self {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { ticks, count: 0, activity: None }
    }
}

/// Sees to it that a link does not stay in the table when its task is gone, however that ends.
struct Ending<'a> {
    inner: &'a Inner,
    link: &'a Arc<Link>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let reason = "its task has ended";
        self.inner.table.remove(self.link, reason);
        self.link.end(reason);
    }
}
