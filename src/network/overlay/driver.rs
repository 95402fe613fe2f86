//! One run of the swarm: its loop, and its periodic work: dial, close surplus connections, announce again, save known nodes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, Swarm, mdns as libp2p_mdns,
    multiaddr::Protocol,
    request_response::OutboundRequestId,
    swarm::{
        ConnectionId, DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    MulticastPlan, OverlayOptions,
    addresses::{ip_of, of_hostname, of_socket, split_peer},
    behaviour::{self, Behaviour, Names},
    book::{AddressBook, ENOUGH, Try},
    exchange::QUESTIONS_PER_S,
    mdns::{Heard, OneInterface},
    remembered::{REMEMBERED_MAX, Remembered},
    shared::{Finder, OverlayShared},
    strangers::Strangers,
};
use nomad_core::model::{node_id::NodeId, time::MonotonicUs};
use nomad_ports::overlay::OverlayState;

/// How often the driver looks at what is due.
const TICK: Duration = Duration::from_millis(250);
/// How long a connection may take to say who it is.
const IDENTIFY_LIMIT_US: u64 = 10_000_000;
/// Above the first number of connected nodes, those that gossip does not need are let go, down to the second.
const CONNECTED_MAX: usize = 48;
const CONNECTED_KEPT: usize = 32;
/// How long the first listening address may take.
const LISTEN_LIMIT: Duration = Duration::from_secs(5);
/// The shortest time between two writes of the remembered nodes.
const SAVE_PAUSE_US: u64 = 10_000_000;
/// How much later the greater of two nodes dials, when both hear of each other at once.
const YIELD_US: u64 = 400_000;
/// The most addresses that are known to be this node's own.
const OWN_ADDRESSES_MAX: usize = 64;

/// A connected node.
pub(super) struct OverlayPeer {
    pub since: MonotonicUs,
    /// Set once it is known to be one of ours.
    pub node: Option<NodeId>,
    pub remote: Option<IpAddr>,
    pub addresses: Vec<Multiaddr>,
    /// When the connection to a refused node is closed.
    pub close_at: Option<MonotonicUs>,
    pub window_start: MonotonicUs,
    pub questions_in_window: u32,
}

/// The run.
pub struct SwarmDriver {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) names: Names,
    pub(super) network: String,
    pub(super) shared: Arc<OverlayShared>,
    pub(super) book: AddressBook,
    pub(super) peers: BTreeMap<PeerId, OverlayPeer>,
    pub(super) strangers: Strangers,
    /// Dials to configured places, by the place.
    pub(super) dials: HashMap<ConnectionId, usize>,
    pub(super) asks: HashMap<OutboundRequestId, Arc<Finder>>,
    pub(super) questions_left: f64,
    pub(super) published: MonotonicUs,
    pub(super) announce_at: MonotonicUs,
    /// Whether the last announcement reached no node.
    pub(super) is_unheard: bool,
    /// Addresses behind which this node found itself.
    own_addresses: BTreeSet<Multiaddr>,
    lookups: JoinSet<(usize, io::Result<Vec<Multiaddr>>)>,
    listens: watch::Sender<Vec<Multiaddr>>,
    heard: mpsc::Receiver<Heard>,
    multicast: Option<OneInterface>,
    remembered: Option<Remembered>,
    is_unsaved: bool,
    saved: MonotonicUs,
    ticked: MonotonicUs,
}

impl SwarmDriver {
    /// Makes a swarm and waits until it listens.
    pub async fn start(
        options: &OverlayOptions,
        port: u16,
        shared: Arc<OverlayShared>,
    ) -> Result<Self, String> {
        let names = Names::of(&options.network);
        let plan = MulticastPlan::of(options);
        let everywhere = plan.everywhere.map(|enable_ipv6| libp2p_mdns::Config {
            ttl: Duration::from_secs(120),
            query_interval: Duration::from_secs(60),
            enable_ipv6,
        });
        let swarm = behaviour::swarm(&options.keypair, &names, options.dht_bootstrap, everywhere);
        let mut swarm = swarm.map_err(|error| error.to_string())?;
        if let Some(hostname) = &options.hostname {
            match of_hostname(hostname, port) {
                Some(address) => swarm.add_external_address(address),
                None => tracing::warn!(hostname, "the overlay's host name is no host"),
            }
        }
        let (to_heard, heard) = mpsc::channel(64);
        let (listens, of_listens) = watch::channel(Vec::new());
        let multicast = plan.on.map(|ip| {
            let me = *swarm.local_peer_id();
            OneInterface { ip, me, listens: of_listens, heard: to_heard }
        });
        let now = shared.clock.monotonic();
        let mut driver = Self {
            swarm,
            names,
            network: options.network.clone(),
            shared,
            book: AddressBook::new(&options.peers, &options.dns),
            peers: BTreeMap::new(),
            strangers: Strangers::default(),
            dials: HashMap::new(),
            asks: HashMap::new(),
            questions_left: QUESTIONS_PER_S,
            published: MonotonicUs(0),
            announce_at: now,
            is_unheard: false,
            own_addresses: BTreeSet::new(),
            lookups: JoinSet::new(),
            listens,
            heard,
            multicast,
            remembered: super::remembered(options),
            is_unsaved: false,
            saved: MonotonicUs(0),
            ticked: now,
        };
        driver.listen(SocketAddr::new(options.listen, port)).await?;
        let met = driver.remembered.as_ref().map(Remembered::read).unwrap_or_default();
        for (peer, addresses) in met {
            driver.book.learn(now, peer, addresses, 0);
        }
        Ok(driver)
    }

    async fn listen(&mut self, at: SocketAddr) -> Result<(), String> {
        self.swarm.listen_on(of_socket(at)).map_err(|error| error.to_string())?;
        let listening = async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { .. } => return Ok(()),
                    SwarmEvent::ListenerClosed { reason: Err(error), .. }
                    | SwarmEvent::ListenerError { error, .. } => return Err(error.to_string()),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(LISTEN_LIMIT, listening)
            .await
            .map_err(|_| format!("{at} has no address to listen on"))??;
        // With 0.0.0.0 there is one for each interface; the others come right behind.
        while let Some(Some(_)) = self.swarm.next().now_or_never() {}
        self.on_listens();
        Ok(())
    }

    /// Tells whether there is any node to dial, or a way to hear of one.
    pub fn has_sources(&self) -> bool {
        let is_multicast = self.multicast.is_some() || self.swarm.behaviour().mdns.is_enabled();
        is_multicast || !self.book.is_empty()
    }

    /// Runs until the listener is lost.
    pub async fn run(mut self) -> String {
        let _multicast = self
            .multicast
            .take()
            .map(|multicast| AbortOnDropHandle::new(tokio::spawn(keep_multicast(multicast))));
        let shared = Arc::clone(&self.shared);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => {
                    if let Some(reason) = self.on_event(event) {
                        return reason;
                    }
                }
                () = shared.wake.notified() => {
                    self.announce();
                    self.ask();
                }
                Some(looked_up) = self.lookups.join_next() => {
                    if let Ok((index, outcome)) = looked_up {
                        self.on_looked_up(index, outcome);
                    }
                }
                Some((peer, addresses)) = self.heard.recv() => self.on_heard(peer, addresses),
                _ = tick.tick() => self.on_tick(),
            }
        }
    }

    pub(super) fn now(&self) -> MonotonicUs {
        self.shared.clock.monotonic()
    }

    /// Takes news of where a node is, from the local network. Of two that hear of each other at once, one waits.
    pub(super) fn on_heard(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if self.strangers.is_out(&peer) || self.peers.contains_key(&peer) {
            return;
        }
        let delay = if *self.swarm.local_peer_id() > peer { YIELD_US } else { 0 };
        let now = self.now();
        self.book.learn(now, peer, addresses, delay);
        self.dial(now);
    }

    fn on_tick(&mut self) {
        let now = self.now();
        self.refill(now.since(self.ticked));
        self.ticked = now;
        for peer in self.strangers.let_back(now) {
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
        self.close_unwanted(now);
        self.dial(now);
        self.announce();
        self.ask();
        self.shared.expire();
        self.save(now);
    }

    fn close_unwanted(&mut self, now: MonotonicUs) {
        let refused = |peer: &OverlayPeer| peer.close_at.is_some_and(|at| at <= now);
        let refused = self.peers.iter().filter(|(_, peer)| refused(peer));
        let (out, mut close): (Vec<_>, Vec<_>) =
            refused.map(|(id, _)| *id).partition(|id| self.strangers.is_out(id));
        for peer in out {
            self.swarm.behaviour_mut().blocked.block_peer(peer);
        }
        let silent =
            |peer: &OverlayPeer| peer.node.is_none() && now.since(peer.since) >= IDENTIFY_LIMIT_US;
        let silent = self.peers.iter().filter(|(_, peer)| silent(peer));
        close.extend(silent.map(|(id, _)| *id));
        let connected = self.connected();
        if connected.len() > CONNECTED_MAX {
            let needed: BTreeSet<_> =
                self.swarm.behaviour().gossip.all_mesh_peers().copied().collect();
            let mut spare: Vec<_> = connected.difference(&needed).copied().collect();
            spare.sort_by_key(|id| self.peers.get(id).map(|peer| peer.since));
            spare.truncate(connected.len() - CONNECTED_KEPT);
            close.extend(spare);
        }
        for peer in close {
            // One that has gone meanwhile is what was wanted.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// The connected nodes of this network.
    pub(super) fn connected(&self) -> BTreeSet<PeerId> {
        let ours = self.peers.iter().filter(|(_, peer)| peer.node.is_some());
        ours.map(|(id, _)| *id).collect()
    }

    fn dial(&mut self, now: MonotonicUs) {
        let connected = self.connected();
        for due in self.book.due(now, &connected) {
            match due {
                Try::Place(index, place) => {
                    self.lookups.spawn(async move { (index, place.resolve().await) });
                }
                Try::Node(peer, addresses) => {
                    let opts = DialOpts::peer_id(peer)
                        .condition(PeerCondition::DisconnectedAndNotDialing)
                        .addresses(addresses)
                        .allocate_new_port();
                    if let Err(error) = self.swarm.dial(opts.build()) {
                        tracing::debug!(%peer, %error, "a node was not dialled");
                    }
                }
            }
        }
    }

    fn on_looked_up(&mut self, index: usize, outcome: io::Result<Vec<Multiaddr>>) {
        self.book.looked_up(index, &outcome);
        for address in outcome.unwrap_or_default() {
            let (bare, peer) = split_peer(&address);
            if peer == Some(*self.swarm.local_peer_id()) || self.is_own(&bare) {
                continue;
            }
            let at = |of: &OverlayPeer| of.node.is_some() && of.addresses.contains(&bare);
            let there = self.peers.iter().find(|(id, of)| peer == Some(**id) || at(of));
            if let Some((there, _)) = there {
                self.book.found(index, *there);
                continue;
            }
            let opts: DialOpts = match peer {
                Some(peer) => DialOpts::peer_id(peer)
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .addresses(vec![bare])
                    .allocate_new_port()
                    .build(),
                None => DialOpts::unknown_peer_id().address(bare).allocate_new_port().build(),
            };
            let connection = opts.connection_id();
            if self.swarm.dial(opts).is_ok() {
                self.dials.insert(connection, index);
            }
        }
    }

    fn is_own(&self, address: &Multiaddr) -> bool {
        self.own_addresses.contains(address)
            || self.swarm.listeners().any(|own| own == address)
            || self.swarm.external_addresses().any(|own| own == address)
    }

    pub(super) fn on_dial_failed(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        error: &DialError,
    ) {
        self.dials.remove(&connection);
        match error {
            DialError::LocalPeerId { address } => {
                if self.own_addresses.len() < OWN_ADDRESSES_MAX {
                    self.own_addresses.insert(split_peer(address).0);
                }
                if let Some(peer) = peer {
                    self.book.misled(&peer, &split_peer(address).0);
                }
            }
            DialError::WrongPeerId { obtained, address } => {
                let (address, now) = (split_peer(address).0, self.now());
                if let Some(peer) = peer {
                    self.book.misled(&peer, &address);
                }
                self.book.learn(now, *obtained, vec![address], 0);
            }
            error => tracing::debug!(?peer, %error, "a dial failed"),
        }
    }

    /// Publishes where this node listens: first what it was told to advertise, last what leads nowhere but here.
    pub(super) fn on_listens(&mut self) {
        let mut bound: Vec<_> = self.swarm.listeners().cloned().collect();
        bound.sort_by_key(|address| {
            let is_here = ip_of(address).is_some_and(|ip| ip.is_loopback());
            (is_here, address.to_string())
        });
        self.listens.send_replace(bound.clone());
        let me = *self.swarm.local_peer_id();
        let all = self.swarm.external_addresses().cloned().chain(bound);
        let all = all.map(|address| address.with(Protocol::P2p(me)).to_string());
        let listens = all.collect();
        self.publish_state(|state| state.listens = listens);
    }

    pub(super) fn publish_state(&self, change: impl FnOnce(&mut OverlayState)) {
        self.shared.state.send_modify(|state| {
            state.connected = self.peers.values().filter_map(|peer| peer.node).collect();
            state.refused = self.shared.refused.load(Relaxed);
            change(state);
        });
    }

    pub(super) fn on_met(&mut self) {
        self.is_unsaved = true;
        self.publish_state(|_| {});
        self.ask();
    }

    /// Writes the nodes that were met, in the background.
    fn save(&mut self, now: MonotonicUs) {
        let Some(file) = self.remembered.clone() else { return };
        let is_early = self.saved != MonotonicUs(0) && now.since(self.saved) < SAVE_PAUSE_US;
        if !self.is_unsaved || is_early {
            return;
        }
        (self.is_unsaved, self.saved) = (false, now);
        let here = self.peers.iter().filter(|(_, peer)| peer.node.is_some());
        let mut met: Vec<_> = here.map(|(id, peer)| (*id, peer.addresses.clone())).collect();
        let others = self.book.worth_remembering().into_iter();
        met.extend(others.filter(|(id, _)| self.peers.get(id).is_none_or(|p| p.node.is_none())));
        met.retain(|(_, addresses)| !addresses.is_empty());
        met.truncate(REMEMBERED_MAX.max(ENOUGH));
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || match file.write(&met) {
            Ok(()) => shared.saved.send_modify(|count| *count += 1),
            Err(error) => {
                tracing::warn!(%error, "the nodes that were met cannot be remembered; check the data directory");
            }
        });
    }
}

/// Runs mDNS on one interface, again after a pause when the system refuses.
async fn keep_multicast(mut multicast: OneInterface) {
    let mut is_logged = false;
    loop {
        let Err(error) = multicast.run().await else { return };
        if !is_logged {
            is_logged = true;
            tracing::warn!(ip = %multicast.ip, %error, "mDNS does not work on this interface; it is tried again every half minute");
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}
