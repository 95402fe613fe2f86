//! The table of links: at most one open link per node. Reports each change once.
//!
//! Senders read a snapshot without a lock; everything else, which is rare, goes through one.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tracing::{debug, info};

use super::{counters::Counters, link::Link};
use nomad_core::model::node_id::NodeId;
use nomad_ports::peer_transport::{LinkEvent, LinkReading};

/// Takes what becomes of links, in the order of its happening. Called under the table's lock: it hands on and returns.
pub type LinkSink = Arc<dyn Fn(LinkEvent) + Send + Sync>;

/// What is known of a node.
#[derive(Default)]
struct Peer {
    /// Where its link is to be opened, while one is to be kept.
    address: Option<String>,
    link: Option<Arc<Link>>,
    counters: Arc<Counters>,
    /// What was said of it last: whether its link is up.
    said: Option<bool>,
    reason: Option<String>,
}

/// Whether a link has got its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkAdmission {
    /// It stands.
    Stands,
    /// Another link to the same node is open, and stays.
    Crossed,
    /// There are as many links to nodes that none is kept to as there may be.
    Full,
}

/// See the module.
pub(super) struct LinkTable {
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    standing: ArcSwap<BTreeMap<NodeId, Arc<Link>>>,
    /// Changes with the addresses.
    moved: watch::Sender<u64>,
    guests_max: usize,
    sink: LinkSink,
}

impl LinkTable {
    pub(super) fn new(guests_max: usize, sink: LinkSink) -> Self {
        Self {
            peers: Mutex::default(),
            standing: ArcSwap::default(),
            moved: watch::channel(0).0,
            guests_max,
            sink,
        }
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock()
    }

    /// Returns the open link to a node.
    pub(super) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        self.standing.load().get(&node).cloned()
    }

    /// Returns the open link to the node at an address.
    pub(super) fn link_at(&self, address: &str) -> Option<Arc<Link>> {
        let peers = self.peers();
        let is_there = |peer: &&Peer| {
            let opened_to = peer.link.as_ref().and_then(|link| link.address.as_deref());
            opened_to == Some(address) || peer.address.as_deref() == Some(address)
        };
        peers.values().filter(is_there).find_map(|peer| peer.link.clone())
    }

    /// Sets to which nodes links are to be kept, and where they are.
    pub(super) fn keep(&self, kept: BTreeMap<NodeId, String>) {
        let mut peers = self.peers();
        for (node, peer) in peers.iter_mut() {
            if !kept.contains_key(node) {
                peer.address = None;
            }
        }
        for (node, address) in kept {
            peers.entry(node).or_default().address = Some(address);
        }
        peers.retain(|_, peer| peer.address.is_some() || peer.link.is_some());
        drop(peers);
        self.moved.send_modify(|times| *times += 1);
    }

    /// Returns where a kept node is.
    pub(super) fn address(&self, node: NodeId) -> Option<String> {
        self.peers().get(&node).and_then(|peer| peer.address.clone())
    }

    /// Returns why a node's link is down.
    pub(super) fn down_reason(&self, node: NodeId) -> Option<String> {
        self.peers().get(&node).filter(|peer| peer.link.is_none())?.reason.clone()
    }

    /// Follows changes of the addresses.
    pub(super) fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Returns the counters of a node, which outlive its links while it is kept.
    pub(super) fn counters(&self, node: NodeId) -> Arc<Counters> {
        self.peers().get(&node).map(|peer| Arc::clone(&peer.counters)).unwrap_or_default()
    }

    /// Gives a link its place, if it is to have it.
    pub(super) fn put(&self, link: &Arc<Link>) -> LinkAdmission {
        let mut peers = self.peers();
        let is_guest = |peer: &Peer| peer.link.is_some() && peer.address.is_none();
        let old = peers.get(&link.node).and_then(|peer| peer.link.clone());
        match &old {
            Some(old) if !link.birth.replaces(&old.birth) => return LinkAdmission::Crossed,
            Some(_) => {}
            None => {
                let is_kept = peers.get(&link.node).is_some_and(|peer| peer.address.is_some());
                let guests = peers.values().filter(|peer| is_guest(peer)).count();
                if !is_kept && guests >= self.guests_max {
                    return LinkAdmission::Full;
                }
            }
        }
        let peer = peers
            .entry(link.node)
            .or_insert_with(|| Peer { counters: Arc::clone(&link.counters), ..Peer::default() });
        peer.link = Some(Arc::clone(link));
        peer.reason = None;
        // The node may have become one to keep while the link was made.
        peer.counters = Arc::clone(&link.counters);
        peer.counters.links.fetch_add(1, Relaxed);
        self.show(&peers);
        if let Some(old) = old {
            old.replace();
        }
        self.say(&mut peers, link.node, None);
        LinkAdmission::Stands
    }

    /// Takes a link out that has ended.
    pub(super) fn remove(&self, link: &Arc<Link>, reason: &str) {
        let mut peers = self.peers();
        let Some(peer) = peers.get_mut(&link.node) else { return };
        if peer.link.as_ref().is_some_and(|standing| Arc::ptr_eq(standing, link)) {
            peer.link = None;
            self.show(&peers);
            self.say(&mut peers, link.node, Some(reason));
        }
    }

    /// Takes note that a kept link could not be made.
    pub(super) fn failed(&self, node: NodeId, reason: &str) {
        let mut peers = self.peers();
        let is_down = peers.get(&node).is_some_and(|peer| peer.link.is_none());
        if is_down {
            self.say(&mut peers, node, Some(reason));
        }
    }

    fn show(&self, peers: &BTreeMap<NodeId, Peer>) {
        let standing = |(node, peer): (&NodeId, &Peer)| Some((*node, peer.link.clone()?));
        self.standing.store(Arc::new(peers.iter().filter_map(standing).collect()));
    }

    /// Says that a node's link is up, or down for a reason, unless that was said last.
    fn say(&self, peers: &mut BTreeMap<NodeId, Peer>, node: NodeId, reason: Option<&str>) {
        let Some(peer) = peers.get_mut(&node) else { return };
        let is_up = reason.is_none();
        peer.reason = reason.map(str::to_owned).or(peer.reason.take());
        if peer.said.replace(is_up) != Some(is_up) {
            let opened_here = peer.link.as_ref().is_some_and(|link| link.address.is_some());
            let why = reason.unwrap_or_default();
            // Guests come and go as they like, which must not fill the log.
            match (peer.address.is_some(), is_up) {
                (true, true) => info!(peer = %node, opened_here, "a link is up"),
                (true, false) => info!(peer = %node, reason = why, "a link is down"),
                (false, _) => {
                    debug!(peer = %node, is_up, reason = why, "a guest's link has changed")
                }
            }
            (self.sink)(match reason {
                None => LinkEvent::Up(node),
                Some(reason) => LinkEvent::Down { node, reason: reason.to_owned() },
            });
        }
        peers.retain(|_, peer| peer.address.is_some() || peer.link.is_some());
    }

    pub(super) fn readings(&self) -> Vec<LinkReading> {
        let peers = self.peers();
        let read = |(node, peer): (&NodeId, &Peer)| {
            let (link, counters) = (peer.link.as_ref(), &peer.counters);
            let outbox = link.map(|link| link.outbox());
            LinkReading {
                node: *node,
                address: link.and_then(|link| link.address.clone()).or(peer.address.clone()),
                is_kept: peer.address.is_some(),
                up_since: link.map(|link| link.since),
                is_ours: link.is_some_and(|link| link.address.is_some()),
                reason: peer.reason.clone(),
                sent: counters.sent.read(),
                received: counters.received.read(),
                reconnects: counters.links.load(Relaxed).saturating_sub(1),
                refused: counters.refused.load(Relaxed),
                turned_away: counters.turned_away.load(Relaxed),
                waiting: outbox.as_ref().map_or(0, |outbox| outbox.waiting()),
                asked: outbox.as_ref().map_or(0, |outbox| outbox.asked()),
                in_hand: link.map_or(0, |link| link.work.count()),
                round_trip_us: Some(counters.round_trip_us.load(Relaxed)).filter(|&us| us > 0),
            }
        };
        peers.iter().map(read).collect()
    }
}
