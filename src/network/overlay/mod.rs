//! The overlay on libp2p: finds nodes by configured addresses, DNS names, mDNS and memory, and asks them for groups.
//!
//! Kademlia keeps the routing table (server mode, no records yet), gossip carries the announcements of super-peers, a
//! request asks a node for the groups near a position. [`Libp2pOverlay`] is the port; its run, a swarm in one task, is
//! owned and restarted by the `overlay` actor. What was announced and heard outlives a restart.
//!
//! Invariants: nothing of another network is kept; what unknown nodes send is limited before it is stored; an announcement
//! counts only if it comes from the super-peer that it describes. What other nodes say about a group is used in that search only.

mod addresses;
mod behaviour;
mod book;
mod driver;
mod events;
mod exchange;
mod mdns;
mod remembered;
mod shared;
mod strangers;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use libp2p::identity::Keypair;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::mpsc;

pub use self::addresses::DEFAULT_PORT;
use self::{
    driver::SwarmDriver,
    remembered::Remembered,
    shared::{Finder, OverlayShared},
};
use nomad_core::{
    group::{
        directory::merged,
        offer::{OFFERS_MAX, Offer, OverlayAnswer, Seeker, Whereabouts},
    },
    model::node_id::NodeId,
    world::Position,
};
use nomad_ports::{
    Clock,
    overlay::{FoundGroups, Overlay, OverlayRun, OverlayState},
};

/// The most answers of one search that wait to be looked at.
const ANSWERS_WAITING_MAX: usize = 128;

/// What an overlay is started with.
#[derive(Clone)]
pub struct OverlayOptions {
    /// The node's key; it is ed25519.
    pub keypair: Keypair,
    /// `network.name`.
    pub network: String,
    /// `node.listen`.
    pub listen: IpAddr,
    /// `node.ports.overlay`; 0 = a free one.
    pub port: u16,
    /// `node.networkHostnames.overlayHostname`.
    pub hostname: Option<String>,
    /// `bootstrap.peers`.
    pub peers: Vec<String>,
    /// `bootstrap.dns`; a name without a port means port [`DEFAULT_PORT`].
    pub dns: Vec<String>,
    /// `bootstrap.mdns`.
    pub mdns: bool,
    /// `schedule.dhtBootstrap`.
    pub dht_bootstrap: Duration,
    /// Where met nodes are remembered; `None` = nowhere.
    pub data_dir: Option<PathBuf>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for OverlayOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Options({} on {}:{})", self.network, self.listen, self.port)
    }
}

/// Why there is no overlay.
#[derive(Debug, Error)]
pub enum OverlayError {
    /// The port is taken, or the address is not this machine's.
    #[error(
        "the overlay listener cannot be bound to {address}: {source}; choose another node.ports.overlay or node.listen"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// libp2p refuses.
    #[error("the overlay cannot be made: {reason}")]
    Make {
        /// Its reason.
        reason: String,
    },
}

/// The overlay of one node.
pub struct Libp2pOverlay {
    options: OverlayOptions,
    shared: Arc<OverlayShared>,
    /// The port that is bound, the same in every run.
    port: u16,
    has_sources: bool,
    /// The swarm that was made at the start, for the first run.
    first: Mutex<Option<SwarmDriver>>,
}

impl fmt::Debug for Libp2pOverlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Libp2pOverlay({})", self.shared.node)
    }
}

impl Libp2pOverlay {
    /// Binds the listener; [`Overlay::state`] says where from then on. Nothing else happens before the first
    /// [`run`](OverlayRun::run). Needs a tokio runtime.
    ///
    /// # Errors
    /// When the listener cannot be bound; the text names the address and the keys.
    pub async fn bind(options: OverlayOptions) -> Result<Arc<Self>, OverlayError> {
        let make = |reason: String| OverlayError::Make { reason };
        let public = options.keypair.public().try_into_ed25519();
        let public = public.map_err(|error| make(error.to_string()))?;
        let node = NodeId::from_key(public.to_bytes());
        let address = SocketAddr::new(options.listen, options.port);
        // libp2p would share a port with another node of the same user, and each would get half of the connections.
        let free = TcpListener::bind(address)
            .and_then(|socket| socket.local_addr())
            .map_err(|source| OverlayError::Bind { address, source })?;
        let port = free.port();
        let shared = Arc::new(OverlayShared::new(node, Arc::clone(&options.clock)));
        let driver = SwarmDriver::start(&options, port, Arc::clone(&shared)).await.map_err(make)?;
        let has_sources = driver.has_sources();
        let first = Mutex::new(Some(driver));
        Ok(Arc::new(Self { options, shared, port, has_sources, first }))
    }

    /// Returns the port of the listener.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl OverlayRun for Libp2pOverlay {
    fn run(&self) -> BoxFuture<'static, String> {
        let (options, shared, port) = (self.options.clone(), Arc::clone(&self.shared), self.port);
        let first = self.first.lock().take();
        Box::pin(async move {
            let driver = match first {
                Some(driver) => driver,
                None => match SwarmDriver::start(&options, port, shared).await {
                    Ok(driver) => driver,
                    Err(reason) => return reason,
                },
            };
            driver.run().await
        })
    }
}

impl Overlay for Libp2pOverlay {
    fn announce(&self, offer: Option<Offer>) {
        self.shared.announce(offer);
    }

    fn seek(&self, seeker: Option<Seeker>) {
        self.shared.own().seeker = seeker;
    }

    fn tell_whereabouts(&self, whereabouts: Option<Whereabouts>) {
        self.shared.own().whereabouts = whereabouts;
    }

    fn find(
        &self,
        near: Position,
        window: Duration,
        enough: Box<dyn Fn(&FoundGroups) -> bool + Send>,
    ) -> BoxFuture<'static, FoundGroups> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let (answers, received) = mpsc::channel(ANSWERS_WAITING_MAX);
            let finder = Arc::new(Finder { near, answers, asked: Mutex::default() });
            if shared.start_finder(Arc::clone(&finder)).is_none() {
                tracing::debug!("too many searches are under way: this one asks nobody");
            }
            let mut search = Search { shared, near, hearsay: BTreeMap::new() };
            // Whether it ended early or with its window, what it has found is in `search`.
            let _ = tokio::time::timeout(window, search.until(received, enough)).await;
            search.found()
        })
    }

    fn known(&self, near: Position) -> Vec<Offer> {
        self.shared.known(near)
    }

    fn answer(&self, near: Position) -> OverlayAnswer {
        self.shared.answer(near)
    }

    fn state(&self) -> OverlayState {
        self.shared.state.borrow().clone()
    }

    fn has_sources(&self) -> bool {
        self.has_sources
    }
}

/// A search, as its caller sees it.
struct Search {
    shared: Arc<OverlayShared>,
    near: Position,
    /// The last answer of each node; it says what that node has heard, and counts in this search alone.
    hearsay: BTreeMap<NodeId, OverlayAnswer>,
}

impl Search {
    async fn until(
        &mut self,
        mut received: mpsc::Receiver<(NodeId, OverlayAnswer)>,
        enough: Box<dyn Fn(&FoundGroups) -> bool + Send>,
    ) {
        let mut heard = self.shared.heard.subscribe();
        loop {
            if enough(&self.found()) {
                return;
            }
            tokio::select! {
                answer = received.recv() => match answer {
                    Some((node, answer)) => {
                        let said = self.hearsay.entry(node).or_default();
                        said.seeker = answer.seeker;
                        if answer.whereabouts.is_some() {
                            said.whereabouts = answer.whereabouts;
                        }
                        if !answer.offers.is_empty() {
                            said.offers = answer.offers;
                        }
                    }
                    None => std::future::pending().await,
                },
                // The sender is in what this search holds.
                _ = heard.changed() => {}
            }
        }
    }

    fn found(&self) -> FoundGroups {
        let known = self.shared.known(self.near);
        // Of a super-peer that was heard itself, others' word counts no more.
        let said = self.hearsay.values().flat_map(|answer| answer.offers.iter());
        let said =
            said.filter(|said| known.iter().all(|known| known.super_peer != said.super_peer));
        let offers = merged(self.near, known.iter().chain(said).cloned(), OFFERS_MAX);
        FoundGroups {
            offers,
            seekers: self.hearsay.values().filter_map(|answer| answer.seeker).collect(),
            whereabouts: self.hearsay.values().filter_map(|a| a.whereabouts.clone()).collect(),
            answered: self.hearsay.len(),
        }
    }
}

/// Where mDNS has to speak for a listener to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MulticastPlan {
    /// On every interface but loopback, by libp2p's own.
    everywhere: Option<bool>,
    /// On the interface with this address.
    on: Option<Ipv4Addr>,
}

impl MulticastPlan {
    fn of(options: &OverlayOptions) -> Self {
        let nowhere = Self { everywhere: None, on: None };
        match options.listen {
            _ if !options.mdns => nowhere,
            IpAddr::V4(ip) if ip.is_unspecified() => {
                Self { everywhere: Some(false), on: Some(Ipv4Addr::LOCALHOST) }
            }
            IpAddr::V4(ip) => Self { everywhere: None, on: Some(ip) },
            IpAddr::V6(ip) if ip.is_unspecified() => Self { everywhere: Some(true), on: None },
            IpAddr::V6(_) => {
                tracing::warn!(listen = %options.listen, "mDNS over IPv6 needs node.listen to be ::, so it is left out");
                nowhere
            }
        }
    }
}

fn remembered(options: &OverlayOptions) -> Option<Remembered> {
    let dir = options.data_dir.as_deref()?;
    Some(Remembered::in_dir(dir, &options.network))
}
