//! The links between the nodes of one process, without sockets: for tests, and under paused time.
//!
//! Every message is encoded and decoded on its way. Links can be cut, healed and delayed; a node can be removed and come
//! back. A link is open while both nodes are there, one of them wants to keep the other, and the link is not cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::warn;

use nomad_core::model::{
    node_id::NodeId,
    trace::{SpanId, TraceContext, TraceId},
};
use nomad_ports::{
    PeerHandler, PeerTransport,
    peer_transport::{LinkError, LinkEvent, Service},
};

/// The most link events that wait to be looked at; more are lost.
const EVENTS_MAX: usize = 4_096;

/// A message as it travels.
#[derive(Serialize, Deserialize)]
struct Frame {
    from: NodeId,
    service: u32,
    trace: (u128, u64, bool),
    body: Vec<u8>,
}

/// What a node has sent to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// How many messages, answers included.
    pub messages: u64,
    /// How many bytes their bodies had.
    pub bytes: u64,
}

struct Site {
    address: String,
    /// Which stay of the node in the network this is: what an earlier one left under way is lost.
    stay: u64,
    keeps: BTreeSet<NodeId>,
    handlers: BTreeMap<Service, Arc<dyn PeerHandler>>,
    events: mpsc::Sender<LinkEvent>,
}

#[derive(Default)]
struct Net {
    sites: BTreeMap<NodeId, Site>,
    cut: BTreeSet<(NodeId, NodeId)>,
    delays: BTreeMap<(NodeId, NodeId), Duration>,
    sent: BTreeMap<(NodeId, NodeId), Sent>,
    /// How many questions are under way to an address, by link.
    visits: BTreeMap<(NodeId, NodeId), u32>,
    /// The links that stand, by the number of times that they have been made.
    up: BTreeMap<(NodeId, NodeId), u64>,
    made: u64,
}

/// A network of one process.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<Net>>);

impl std::fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryNetwork")
    }
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Net {
    /// Makes and breaks links as it should be now, and tells both ends.
    fn settle(&mut self, reason: &str) {
        let mut wanted: BTreeSet<_> = self.visits.keys().copied().collect();
        wanted.retain(|(a, b)| self.sites.contains_key(a) && self.sites.contains_key(b));
        for (&node, site) in &self.sites {
            let there = site.keeps.iter().filter(|other| self.sites.contains_key(other));
            wanted.extend(there.filter(|other| **other != node).map(|&other| pair(node, other)));
        }
        wanted.retain(|link| !self.cut.contains(link));
        let broken: Vec<_> =
            self.up.keys().filter(|link| !wanted.contains(link)).copied().collect();
        for (a, b) in broken {
            self.up.remove(&(a, b));
            self.tell(a, LinkEvent::Down { node: b, reason: reason.to_owned() });
            self.tell(b, LinkEvent::Down { node: a, reason: reason.to_owned() });
        }
        for (a, b) in wanted {
            if !self.up.contains_key(&(a, b)) {
                self.made += 1;
                self.up.insert((a, b), self.made);
                self.tell(a, LinkEvent::Up(b));
                self.tell(b, LinkEvent::Up(a));
            }
        }
    }

    fn tell(&self, node: NodeId, event: LinkEvent) {
        let Some(site) = self.sites.get(&node) else { return };
        if let Err(error) = site.events.try_send(event) {
            warn!(%node, %error, "a link event is lost");
        }
    }

    fn count(&mut self, from: NodeId, to: NodeId, bytes: usize) {
        let sent = self.sent.entry((from, to)).or_default();
        sent.messages += 1;
        sent.bytes += bytes as u64;
    }

    fn delay(&self, a: NodeId, b: NodeId) -> Duration {
        self.delays.get(&pair(a, b)).copied().unwrap_or_default()
    }
}

impl MemoryNetwork {
    /// Makes an empty network.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock()
    }

    /// Puts a node into the network, or puts it there again; returns its links and what becomes of them.
    pub fn join(
        &self,
        node: NodeId,
        address: &str,
    ) -> (Arc<MemoryLinks>, mpsc::Receiver<LinkEvent>) {
        let (events, heard) = mpsc::channel(EVENTS_MAX);
        let mut net = self.lock();
        net.made += 1;
        let stay = net.made;
        let site = Site {
            address: address.to_owned(),
            stay,
            keeps: BTreeSet::new(),
            handlers: BTreeMap::new(),
            events,
        };
        net.sites.remove(&node);
        net.settle("the node went away");
        net.sites.insert(node, site);
        net.settle("");
        (Arc::new(MemoryLinks { network: self.clone(), node, stay }), heard)
    }

    /// Takes a node away, as if its process had been killed.
    pub fn kill(&self, node: NodeId) {
        let mut net = self.lock();
        net.sites.remove(&node);
        net.settle("the node went away");
    }

    /// Cuts the link between two nodes.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        let mut net = self.lock();
        net.cut.insert(pair(a, b));
        net.settle("the link was cut");
    }

    /// Allows the link between two nodes again.
    pub fn heal(&self, a: NodeId, b: NodeId) {
        let mut net = self.lock();
        net.cut.remove(&pair(a, b));
        net.settle("");
    }

    /// Cuts all links between nodes of different sides.
    pub fn partition(&self, sides: &[&[NodeId]]) {
        let mut net = self.lock();
        for (at, side) in sides.iter().enumerate() {
            let others = sides.iter().skip(at + 1).flat_map(|other| other.iter());
            for &other in others {
                net.cut.extend(side.iter().map(|&node| pair(node, other)));
            }
        }
        net.settle("the network was cut");
    }

    /// Heals all that was cut.
    pub fn heal_all(&self) {
        let mut net = self.lock();
        net.cut.clear();
        net.settle("");
    }

    /// Sets how long a message takes between two nodes, each way.
    pub fn delay(&self, a: NodeId, b: NodeId, delay: Duration) {
        self.lock().delays.insert(pair(a, b), delay);
    }

    /// Returns what a node has sent to another one since it was asked last.
    pub fn take_sent(&self, from: NodeId, to: NodeId) -> Sent {
        self.lock().sent.remove(&(from, to)).unwrap_or_default()
    }
}

/// The links of one node.
#[derive(Debug)]
pub struct MemoryLinks {
    network: MemoryNetwork,
    node: NodeId,
    stay: u64,
}

impl MemoryLinks {
    /// Sets who answers the messages for a service.
    pub fn serve(&self, service: Service, handler: Arc<dyn PeerHandler>) {
        let mut net = self.network.lock();
        if let Some(site) = net.sites.get_mut(&self.node).filter(|site| site.stay == self.stay) {
            site.handlers.insert(service, handler);
        }
    }

    fn way(&self, to: NodeId) -> Result<Way, LinkError> {
        let net = self.network.lock();
        let is_here = net.sites.get(&self.node).is_some_and(|site| site.stay == self.stay);
        match net.up.get(&pair(self.node, to)) {
            Some(&made) if is_here => {
                Ok(Way { network: self.network.clone(), from: self.node, to, made })
            }
            _ => {
                let reason = "none stands".to_owned();
                Err(LinkError::Unreachable { to: to.to_string(), reason })
            }
        }
    }

    fn frame(&self, service: Service, trace: TraceContext, body: &Bytes) -> Vec<u8> {
        let trace = (trace.trace.0, trace.span.0, trace.sampled);
        let frame = Frame { from: self.node, service: service as u32, trace, body: body.to_vec() };
        postcard::to_allocvec(&frame).unwrap_or_default()
    }
}

/// A link as it stood when a message was sent.
#[derive(Clone)]
struct Way {
    network: MemoryNetwork,
    from: NodeId,
    to: NodeId,
    made: u64,
}

impl Way {
    fn broken(&self) -> LinkError {
        LinkError::Broken { to: self.to.to_string() }
    }

    /// Carries a body from one end to the other.
    async fn carry(&self, from: NodeId, to: NodeId, bytes: usize) -> Result<(), LinkError> {
        let delay = {
            let mut net = self.network.lock();
            net.count(from, to, bytes);
            net.delay(from, to)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let stands = self.network.lock().up.get(&pair(from, to)) == Some(&self.made);
        if stands { Ok(()) } else { Err(self.broken()) }
    }

    fn received(&self, frame: &[u8]) -> Result<(Arc<dyn PeerHandler>, Frame), LinkError> {
        let refused = |reason: &str| LinkError::Refused {
            to: self.to.to_string(),
            reason: reason.to_owned(),
        };
        let frame: Frame =
            postcard::from_bytes(frame).map_err(|error| refused(&error.to_string()))?;
        let net = self.network.lock();
        let handlers = net.sites.get(&self.to).map(|site| &site.handlers);
        let service = Service::of(frame.service);
        let handler = service.and_then(|service| handlers?.get(&service).cloned());
        handler.map(|handler| (handler, frame)).ok_or_else(|| refused("it does not serve that"))
    }

    async fn ask(self, frame: Vec<u8>, body_len: usize) -> Result<Bytes, LinkError> {
        self.carry(self.from, self.to, body_len).await?;
        let (handler, frame) = self.received(&frame)?;
        // The other node goes on with it, whoever waits.
        let (from, trace, body) = (frame.from, frame.trace(), frame.body.into());
        let answer = tokio::spawn(async move { handler.answer(from, trace, body).await }).await;
        let answer = answer.map_err(|_| self.broken())?;
        let len = answer.as_ref().map_or_else(String::len, Bytes::len);
        self.carry(self.to, self.from, len).await?;
        answer.map_err(|reason| LinkError::Refused { to: self.to.to_string(), reason })
    }
}

/// Keeps a link for one question to an address.
struct Visit {
    network: MemoryNetwork,
    link: (NodeId, NodeId),
}

impl Visit {
    fn new(network: &MemoryNetwork, a: NodeId, b: NodeId) -> Self {
        let link = pair(a, b);
        let mut net = network.lock();
        *net.visits.entry(link).or_default() += 1;
        net.settle("");
        Self { network: network.clone(), link }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut net = self.network.lock();
        let left = net.visits.get(&self.link).map_or(0, |visits| visits - 1);
        match left {
            0 => net.visits.remove(&self.link),
            _ => net.visits.insert(self.link, left),
        };
        net.settle("it was idle");
    }
}

impl Frame {
    fn trace(&self) -> TraceContext {
        let (trace, span, sampled) = self.trace;
        TraceContext { trace: TraceId(trace), span: SpanId(span), sampled, named: false }
    }
}

impl PeerTransport for MemoryLinks {
    fn keep(&self, peers: BTreeMap<NodeId, String>) {
        let mut net = self.network.lock();
        if let Some(site) = net.sites.get_mut(&self.node).filter(|site| site.stay == self.stay) {
            site.keeps = peers.into_keys().collect();
        }
        net.settle("nobody keeps the link");
    }

    fn ask(
        &self,
        to: NodeId,
        service: Service,
        trace: TraceContext,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        let (way, frame) = (self.way(to), self.frame(service, trace, &body));
        Box::pin(async move {
            let asked = tokio::time::timeout(limit, way?.ask(frame, body.len())).await;
            asked.unwrap_or_else(|_| Err(LinkError::TimedOut { to: to.to_string(), limit }))
        })
    }

    fn reaches(&self, node: NodeId) -> bool {
        self.way(node).is_ok()
    }

    fn tell(
        &self,
        to: NodeId,
        service: Service,
        trace: TraceContext,
        body: Bytes,
    ) -> Result<(), LinkError> {
        let (way, frame) = (self.way(to)?, self.frame(service, trace, &body));
        tokio::spawn(async move {
            if way.carry(way.from, way.to, body.len()).await.is_ok()
                && let Ok((handler, frame)) = way.received(&frame)
            {
                handler.heard(frame.from, frame.trace(), frame.body.into());
            }
        });
        Ok(())
    }

    fn ask_address(
        &self,
        address: String,
        service: Service,
        trace: TraceContext,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<(NodeId, Bytes), LinkError>> {
        let (network, node, stay) = (self.network.clone(), self.node, self.stay);
        let frame = self.frame(service, trace, &body);
        Box::pin(async move {
            let unreachable = |reason: &str| {
                Err(LinkError::Unreachable { to: address.clone(), reason: reason.to_owned() })
            };
            let found = {
                let net = network.lock();
                let is_here = net.sites.get(&node).is_some_and(|site| site.stay == stay);
                let site = net.sites.iter().find(|(_, site)| is_here && site.address == address);
                site.map(|(&to, _)| to)
            };
            let Some(to) = found else { return unreachable("nobody answers there") };
            let visit = Visit::new(&network, node, to);
            let made = network.lock().up.get(&visit.link).copied();
            let Some(made) = made else { return unreachable("the link is cut") };
            let way = Way { network: network.clone(), from: node, to, made };
            let asked = tokio::time::timeout(limit, way.ask(frame, body.len())).await;
            drop(visit);
            match asked {
                Ok(answer) => answer.map(|answer| (to, answer)),
                Err(_) => Err(LinkError::TimedOut { to: address, limit }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl PeerHandler for Echo {
        fn answer(
            &self,
            from: NodeId,
            _: TraceContext,
            body: Bytes,
        ) -> BoxFuture<'static, Result<Bytes, String>> {
            Box::pin(async move {
                match body.as_ref() {
                    b"no" => Err("it does not want to".into()),
                    b"late" => std::future::pending().await,
                    _ => Ok([from.key().as_slice(), &body].concat().into()),
                }
            })
        }

        fn heard(&self, _: NodeId, _: TraceContext, _: Bytes) {}
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn id(n: u8) -> NodeId {
        NodeId::from_key([n; 32])
    }

    fn two() -> (MemoryNetwork, [Arc<MemoryLinks>; 2], [mpsc::Receiver<LinkEvent>; 2]) {
        let network = MemoryNetwork::new();
        let (one, one_events) = network.join(id(1), "one:1");
        let (two, two_events) = network.join(id(2), "two:2");
        two.serve(Service::Log, Arc::new(Echo));
        (network, [one, two], [one_events, two_events])
    }

    async fn ask(links: &MemoryLinks, to: u8, body: &'static [u8]) -> Result<Bytes, LinkError> {
        let (trace, body) = (TraceContext::default(), Bytes::from_static(body));
        links.ask(id(to), Service::Log, trace, body, SECOND).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_link_carries_questions_until_it_is_cut() {
        let (network, [one, _two], [mut events, mut others]) = two();
        assert!(matches!(ask(&one, 2, b"x").await, Err(LinkError::Unreachable { .. })));
        one.keep([(id(2), "two:2".to_owned())].into());
        assert_eq!(events.recv().await, Some(LinkEvent::Up(id(2))));
        assert_eq!(others.recv().await, Some(LinkEvent::Up(id(1))));
        let answer = ask(&one, 2, b"x").await.unwrap();
        assert_eq!(answer, [id(1).key().as_slice(), b"x"].concat());
        assert_eq!(network.take_sent(id(1), id(2)), Sent { messages: 1, bytes: 1 });
        assert!(matches!(ask(&one, 2, b"no").await, Err(LinkError::Refused { .. })));
        assert!(matches!(ask(&one, 2, b"late").await, Err(LinkError::TimedOut { .. })));
        network.cut(id(1), id(2));
        assert!(matches!(events.recv().await, Some(LinkEvent::Down { node, .. }) if node == id(2)));
        assert!(matches!(ask(&one, 2, b"x").await, Err(LinkError::Unreachable { .. })));
        network.heal(id(1), id(2));
        ask(&one, 2, b"x").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_when_the_link_is_cut_is_lost() {
        let (network, [one, _two], _events) = two();
        one.keep([(id(2), "two:2".to_owned())].into());
        network.delay(id(1), id(2), SECOND / 4);
        let asked = tokio::spawn(async move { ask(&one, 2, b"x").await });
        tokio::task::yield_now().await;
        network.partition(&[&[id(1)], &[id(2)]]);
        network.heal_all();
        assert!(matches!(asked.await.unwrap(), Err(LinkError::Broken { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_came_back_is_another_one() {
        let (network, [one, two], _events) = two();
        one.keep([(id(2), "two:2".to_owned())].into());
        network.kill(id(2));
        assert!(matches!(ask(&one, 2, b"x").await, Err(LinkError::Unreachable { .. })));
        let (again, _events) = network.join(id(2), "two:2");
        two.serve(Service::Log, Arc::new(Echo));
        assert!(matches!(ask(&one, 2, b"x").await, Err(LinkError::Refused { .. })));
        again.serve(Service::Log, Arc::new(Echo));
        ask(&one, 2, b"x").await.unwrap();
        assert!(matches!(ask(&two, 1, b"x").await, Err(LinkError::Unreachable { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_asked_over_a_link_of_its_own() {
        let (_network, [one, _two], [mut events, _]) = two();
        let body = Bytes::from_static(b"x");
        let asked = one.ask_address(
            "two:2".into(),
            Service::Log,
            TraceContext::default(),
            body.clone(),
            SECOND,
        );
        let (who, _) = asked.await.unwrap();
        assert_eq!(who, id(2));
        assert_eq!(events.recv().await, Some(LinkEvent::Up(id(2))));
        assert!(matches!(events.recv().await, Some(LinkEvent::Down { .. })));
        let trace = TraceContext::default();
        let nobody = one.ask_address("three:3".into(), Service::Log, trace, body, SECOND).await;
        assert!(matches!(nobody, Err(LinkError::Unreachable { .. })));
    }
}
