//! The composition root: claims the data directory, opens the store, builds the supervision tree, wires the ports.
//!
//! Invariant: the only room that knows all others. The store is opened once and passed down as a handle, because its
//! directory stays locked while any handle lives; sockets are bound once, so that a restarted edge finds them.

mod advertise;
mod data_dir;
mod door;
mod identity;
mod member;
mod membership_file;
mod sockets;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

use self::{
    data_dir::DataDir, identity::Identity, membership_file::MembershipFile, sockets::NodeSockets,
};
pub use self::{data_dir::DataDirError, door::WriteReceipt};
use nomad_actors::{
    Address, Context, Kit, TraceRecorder,
    group_table::{self, GroupTableActor},
    group_view::Published,
    membership::{self, MembershipActor, MembershipDoor, MembershipMsg},
    overlay::{self, OverlayActor},
    peer_links::PeerLinks,
    shell::worker,
    supervisor::{ChildSpec, Root, nested},
};
pub use nomad_api::status::NodeStatus;
use nomad_api::{
    admission::Admission,
    backend::{Backend, Network, NetworkState, NodePhase, service_limits},
    grpc,
    listener::{Gate, Listener, ListenerArgs, ListenerMsg},
    metrics::{Metrics, StoreStats},
    rest,
    starting::{Starting, StartingGrpc, StartingRest},
    storage_figures::StorageCollector,
};
use nomad_config::{Config, LimitsConfig};
use nomad_consensus::{self as consensus, RaftConsensus, RaftOptions, RaftTimes};
use nomad_core::{
    group::{membership::Durable, view::View},
    model::node_id::NodeId,
    outbox::Limits,
};
use nomad_network::{
    GrpcProbe, Libp2pOverlay, LinkOptions, Links,
    link::{KeyError, watch_socket},
    overlay::{OverlayError, OverlayOptions},
};
use nomad_ports::{
    Clock, Consensus as _, DurableState as _, Entropy, ObjectStore, OsEntropy, Overlay,
    PeerTransport, SystemClock,
    peer_transport::{LinkEvent, Service},
};
use nomad_service::{NodeService, Storage, StorageArgs, durations::Operations};
use nomad_storage::{FaultInjector, FjallStore, StoreOpenError, StoreOptions};

/// Requests that look at the node rather than use it; they are admitted apart, so that a busy node can be looked at.
const EXEMPT_REQUESTS_MAX: usize = 256;
const EXEMPT_BYTES_MAX: u64 = 1 << 20;

/// How a node is started.
#[derive(Clone)]
pub struct StartOptions {
    /// The effective configuration.
    pub config: Config,
    /// Whether it is started as a super-peer.
    pub permanent: bool,
    /// The clock; tests drive their own.
    pub clock: Arc<dyn Clock>,
    /// Faults of the disk to inject, for tests.
    pub faults: Option<FaultInjector>,
}

impl StartOptions {
    /// Starts a peer with this configuration.
    pub fn new(config: Config) -> Self {
        Self { config, permanent: false, clock: Arc::new(SystemClock::new()), faults: None }
    }
}

impl std::fmt::Debug for StartOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartOptions").field("permanent", &self.permanent).finish_non_exhaustive()
    }
}

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] StoreOpenError),
    /// A listener cannot be bound.
    #[error(
        "the {listener} listener cannot be bound to {address}: {source}; choose another {key} or node.listen"
    )]
    Bind {
        /// Which one.
        listener: &'static str,
        /// The address.
        address: SocketAddr,
        /// The key that sets its port.
        key: &'static str,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The group's log does not open.
    #[error(transparent)]
    Log(#[from] consensus::LogOpenError),
    /// The overlay's listener cannot be bound.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The node's key is of no use for links.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An actor did not start.
    #[error("the node's actors did not start: {0}")]
    Actors(String),
}

/// Where a running node can be reached, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddresses {
    /// Of the REST listener.
    pub rest: SocketAddr,
    /// Of the peer listener.
    pub peer: SocketAddr,
    /// Of the storage listener.
    pub storage: SocketAddr,
    /// The overlay listener, as a multiaddr with the peer id.
    pub overlay: String,
    /// The node's id.
    pub node_id: String,
    /// Its data directory.
    pub data_dir: PathBuf,
}

/// A running node.
pub struct Node {
    addresses: NodeAddresses,
    backend: Arc<Backend>,
    phase: watch::Sender<NodePhase>,
    edges: Vec<Address<ListenerMsg>>,
    root: Root,
    store: Arc<FjallStore>,
    links: Arc<Links>,
    log: RaftConsensus,
    data_dir: DataDir,
    drain: Duration,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.addresses.node_id)
    }
}

/// What the start has claimed before the first actor runs.
struct Ground {
    identity: Identity,
    data_dir: DataDir,
    sockets: NodeSockets,
    links: Arc<Links>,
    peer_links: Arc<PeerLinks>,
    links_spec: ChildSpec,
    /// Who is told what becomes of links; set once there is one.
    link_listener: Arc<OnceLock<Address<MembershipMsg>>>,
    overlay: Arc<Libp2pOverlay>,
    store: Arc<FjallStore>,
    log: RaftConsensus,
    times: RaftTimes,
}

impl Node {
    /// Starts a node and waits until it serves.
    ///
    /// # Errors
    /// Says what cannot be used, with the way out. Nothing keeps running then.
    pub async fn start(options: StartOptions) -> Result<Self, StartError> {
        raise_descriptor_limit();
        let StartOptions { config, permanent, clock, faults } = options;
        let data_dir = DataDir::lock(config.node.data_dir.as_deref())?;
        let identity = Identity::load_or_make(data_dir.path())?;
        let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
        let sockets = NodeSockets::bind(config.node.listen, &config.node.ports, &*entropy)?;
        let recorder =
            TraceRecorder::new(config.trace.records, Arc::clone(&clock), Arc::clone(&entropy));
        let kit = Kit {
            clock: Arc::clone(&clock),
            entropy,
            recorder: Arc::new(recorder),
            census: Arc::default(),
        };
        let store_options = StoreOptions {
            durability: config.node.storage.durability,
            cache_bytes: config.node.storage.cache_bytes,
            min_free_bytes: config.node.storage.min_free_bytes,
            health_check: config.schedule.health_check,
            max_object_bytes: config.node.storage.max_object_bytes,
            node_tag: identity.node.tag(),
            clock: Arc::clone(&clock),
            faults,
            ..StoreOptions::new(data_dir.path().join("store"))
        };
        let gate = gate(&config.limits);
        let claimed = (data_dir, identity, sockets);
        let ground = Ground::prepare(&config, claimed, &kit, &gate, store_options).await?;
        let node = Self::build(config, permanent, (kit, gate), ground).await?;
        node.data_dir.publish(&node.addresses)?;
        Ok(node)
    }

    async fn build(
        config: Config,
        permanent: bool,
        (kit, gate): (Kit, Gate),
        ground: Ground,
    ) -> Result<Self, StartError> {
        let Ground { identity, data_dir, sockets, links, link_listener, overlay, .. } = ground;
        let (peer_links, store, log) = (ground.peer_links, ground.store, ground.log);
        let founder = member::founder(&config, permanent, &identity, &sockets);
        let view = Published::new(View::discovering(&founder));
        let listens = overlay.state().listens.into_iter().next().unwrap_or_default();
        let addresses = sockets.addresses(&identity, listens, data_dir.path());
        let (phase, watched) = watch::channel(NodePhase::Serving);
        let limits = gate.limits.clone();

        let behind = Arc::clone(&link_listener);
        let storage = Storage::new(&StorageArgs {
            kit: kit.clone(),
            supervisor: "storage",
            store: store.clone(),
            transport: peer_links.clone(),
            view: Arc::clone(&view),
            limits: Limits { entries: limits.outbox_entries, bytes: limits.outbox_bytes },
            ledger_cleanup: config.schedule.ledger_cleanup,
            repair: config.schedule.repair,
            cleanup: config.schedule.db_cleanup,
            left_behind: Arc::new(move || {
                if let Some(membership) = behind.get() {
                    let from: Arc<str> = "replica_writer".into();
                    membership.tell(&from, Context::default(), MembershipMsg::LeftBehind);
                }
            }),
        });
        for (service, door) in storage.doors {
            links.serve(service, door);
        }
        let table_args = group_table::GroupTableArgs { consensus: Arc::new(log.clone()) };
        let (group_table, table_spec) =
            worker::<GroupTableActor>(&kit, "group_table", "group", table_args);
        let membership_args = membership::MembershipArgs {
            config: member::membership(
                &config,
                founder.settings,
                overlay.has_sources(),
                &ground.times,
            ),
            view: Arc::clone(&view),
            durable: Arc::new(MembershipFile::of(data_dir.path())),
            log: log.watch(),
            group_table,
            transport: peer_links,
            overlay: overlay.clone(),
            rescans: storage.rescans,
            endings: storage.endings,
        };
        let (membership, membership_spec) =
            worker::<MembershipActor>(&kit, "membership", "group", membership_args);
        let overlay_args = overlay::OverlayArgs { run: overlay.clone() };
        let (_, overlay_spec) = worker::<OverlayActor>(&kit, "overlay", "network", overlay_args);
        // Set once: there is one membership in the life of a node.
        let _ = link_listener.set(membership.clone());
        links.serve(Service::Log, log.handler());
        let door = MembershipDoor::new(kit.clone(), membership.clone());
        links.serve(Service::Membership, Arc::new(door));

        let stats_of = Arc::clone(&store);
        let store_stats: StoreStats = Arc::new(move || (stats_of.health(), stats_of.counts()));
        let network = network_of(&overlay, &links);
        let operations = Arc::<Operations>::default();
        let figures = storage.figures;
        let metrics = Metrics::new(
            Arc::clone(&kit.census),
            Arc::clone(&store_stats),
            Arc::clone(&gate.admission),
            (Arc::clone(&view), network.clone()),
            Arc::clone(&operations),
        )
        .with(Box::new(StorageCollector {
            kit: kit.clone(),
            figures: figures.clone(),
            reads: storage.reads.clone(),
        }));
        let service = Arc::new(NodeService {
            kit: kit.clone(),
            store: storage.writer,
            reads: storage.reads,
            writes: storage.writes,
            view,
            membership,
            ledger: storage.ledger,
            sweeper: storage.sweeper,
            probe: Arc::new(GrpcProbe),
            limits: service_limits(&config),
            operations,
        });
        let backend = Arc::new(Backend {
            service,
            figures,
            network,
            phase: watched,
            config,
            admission: Arc::clone(&gate.admission),
            metrics,
            store_stats,
            started: kit.clock.monotonic(),
        });

        let rest_args = ListenerArgs::default().with(
            sockets.rest,
            gate.clone(),
            rest::edge(Arc::clone(&backend)),
        );
        let grpc_args = ListenerArgs::default()
            .with(sockets.storage, gate.clone(), grpc::storage_edge(Arc::clone(&backend)))
            .with(sockets.peer, gate, grpc::peer_edge(Arc::clone(&backend), Some(links.clone())));
        let (rest, rest_spec) = worker::<Listener>(&kit, "rest", "edge", rest_args);
        let (grpc, grpc_spec) = worker::<Listener>(&kit, "grpc", "edge", grpc_args);
        let children = vec![
            nested(&kit, "storage", "node", storage.children),
            nested(&kit, "network", "node", vec![overlay_spec]),
            nested(&kit, "group", "node", vec![table_spec, ground.links_spec, membership_spec]),
            nested(&kit, "edge", "node", vec![rest_spec, grpc_spec]),
        ];
        let root = Root::start(&kit, "node", children).await.map_err(StartError::Actors)?;
        let edges = vec![rest, grpc];
        let drain = limits.drain;
        Ok(Self { addresses, backend, phase, edges, root, store, links, log, data_dir, drain })
    }

    /// Returns where the node can be reached.
    pub fn addresses(&self) -> &NodeAddresses {
        &self.addresses
    }

    /// Returns what the edges use, for the command line and for tests.
    #[doc(hidden)]
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Waits until the supervision tree gives up, which it does when an actor fails too often, and says why.
    pub async fn ended(&mut self) -> String {
        self.root.ended().await
    }

    /// Stops the node: not ready, finish what was accepted within `limits.drain`, flush, close.
    pub async fn stop(self) {
        self.phase.send_replace(NodePhase::Draining);
        let from: Arc<str> = "node".into();
        self.backend.service.membership.tell(&from, Context::default(), MembershipMsg::Stop);
        let admission = &self.backend.admission;
        admission.close();
        let drained = async {
            admission.drained().await;
            // A link is a request without end, which the drain of the edges would wait for.
            self.links.close().await;
            for edge in &self.edges {
                // An edge that is down has nothing to finish.
                let _ =
                    edge.ask(&from, Context::default(), |reply| ListenerMsg::Drain { reply }).await;
            }
        };
        if tokio::time::timeout(self.drain, drained).await.is_err() {
            let left = self.backend.admission.in_hand();
            warn!(left, "requests were cut off: they took longer than limits.drain");
        }
        self.root.stop().await;
        self.log.close().await;
        let store = Arc::clone(&self.store);
        // Closing waits for the writer thread: not on a runtime thread, and not for ever on a disk that hangs.
        let closed = tokio::task::spawn_blocking(move || store.close());
        if !matches!(tokio::time::timeout(self.drain, closed).await, Ok(Ok(()))) {
            warn!("the store did not close in order; what was acknowledged is in its journal");
        }
        self.data_dir.release();
        info!("the node has stopped");
    }
}

impl Ground {
    /// Claims everything that can be in the way of a start, and opens what is kept. Only then may the first actor run.
    async fn prepare(
        config: &Config,
        (data_dir, identity, sockets): (DataDir, Identity, NodeSockets),
        kit: &Kit,
        gate: &Gate,
        store_options: StoreOptions,
    ) -> Result<Self, StartError> {
        let link_listener = Arc::<OnceLock<Address<MembershipMsg>>>::default();
        let listener = Arc::clone(&link_listener);
        let from: Arc<str> = "peer_links".into();
        let tell = move |event: LinkEvent| {
            if let Some(membership) = listener.get() {
                membership.tell(&from, Context::default(), MembershipMsg::Link(event));
            }
        };
        let options = LinkOptions::new(&config.network.name, config.node.storage.max_object_bytes);
        let key = identity.key.clone();
        let (clock, entropy) = (Arc::clone(&kit.clock), Arc::clone(&kit.entropy));
        let links = Links::new(key, options, Arc::clone(&clock), entropy, Arc::new(tell))?;
        // Streams that others open notice a cut cable too.
        watch_socket(&sockets.peer).map_err(|source| StartError::Bind {
            listener: "peer",
            address: sockets.peer_address,
            key: "node.ports.peer",
            source,
        })?;
        let (peer_links, links_spec) = PeerLinks::new(kit, "group", identity.node, links.clone());
        let overlay = Libp2pOverlay::bind(OverlayOptions {
            keypair: identity.key.clone(),
            network: config.network.name.clone(),
            listen: config.node.listen,
            port: config.node.ports.overlay,
            hostname: config.node.network_hostnames.overlay_hostname.clone(),
            peers: config.bootstrap.peers.clone(),
            dns: config.bootstrap.dns.clone(),
            mdns: config.bootstrap.mdns,
            dht_bootstrap: config.schedule.dht_bootstrap,
            data_dir: Some(data_dir.path().to_owned()),
            clock,
        })
        .await?;
        // From here to the end the listeners answer that the node is starting.
        let _listening = answer_while_starting(&sockets, gate, identity.node, kit)?;
        let store = tokio::task::spawn_blocking(|| FjallStore::open(store_options)).await;
        let store = Arc::new(store.map_err(|panic| StartError::Actors(panic.to_string()))??);
        // The log takes the node's group up again at once, so it comes last: a node that replays a long journal is no voter.
        let times = RaftTimes::default();
        let options =
            RaftOptions { times, ..RaftOptions::new(data_dir.path().join("group"), identity.node) };
        let log = RaftConsensus::open(options, peer_links.clone()).await?;
        void_lost_claim(data_dir.path(), &log)?;
        Ok(Self {
            identity,
            data_dir,
            sockets,
            links,
            peer_links,
            links_spec,
            link_listener,
            overlay,
            store,
            log,
            times,
        })
    }
}

/// What all listeners of a node share, before and after its store is open.
fn gate(limits: &LimitsConfig) -> Gate {
    Gate {
        admission: Arc::new(Admission::new(limits.requests, limits.request_bytes)),
        exempt: Arc::new(Admission::new(EXEMPT_REQUESTS_MAX, EXEMPT_BYTES_MAX)),
        limits: limits.clone(),
    }
}

/// Answers on all listeners, until what is returned is dropped, that the node is alive and starting.
fn answer_while_starting(
    sockets: &NodeSockets,
    gate: &Gate,
    node: NodeId,
    kit: &Kit,
) -> Result<Listener, StartError> {
    let starting = Starting::new(node, Arc::clone(&kit.recorder));
    let grpc = StartingGrpc(starting.clone());
    let args = ListenerArgs::default()
        .with(Arc::clone(&sockets.rest), gate.clone(), StartingRest(starting))
        .with(Arc::clone(&sockets.storage), gate.clone(), grpc.clone())
        .with(Arc::clone(&sockets.peer), gate.clone(), grpc);
    Listener::open(&args).map_err(StartError::Actors)
}

/// Voids the claim of a node whose log is not there any more: an empty log under the same claim would vote a second time.
fn void_lost_claim(dir: &Path, log: &RaftConsensus) -> Result<(), DataDirError> {
    let file = MembershipFile::of(dir);
    let io = |source| DataDirError::Io { path: dir.join("membership.json"), source };
    match file.load().map_err(io)? {
        Some(Durable { claim, home: Some(home) }) if log.group().is_none() => {
            warn!(
                group = home,
                claim, "no log of the node's group is here: it comes back as a new member"
            );
            file.save(&Durable { claim: claim + 1, home: None }).map_err(io)
        }
        _ => Ok(()),
    }
}

/// What the edges look at of the network.
fn network_of(overlay: &Arc<Libp2pOverlay>, links: &Arc<Links>) -> Network {
    let (known, state, links) = (Arc::clone(overlay), Arc::clone(overlay), Arc::clone(links));
    Network {
        known: Arc::new(move |near| known.known(near)),
        state: Arc::new(move || NetworkState {
            overlay: state.state(),
            links: links.readings().iter().filter(|link| link.up_since.is_some()).count() as u64,
        }),
    }
}

/// Lets the process have as many descriptors as the system allows: each connection needs one.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            warn!(%error, "the limit of open files could not be raised");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use nomad_config::PortsConfig;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test]
    async fn until_its_store_is_open_a_node_says_that_it_is_alive_and_starting() {
        let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(OsEntropy));
        let recorder = Arc::new(TraceRecorder::new(128, clock.clone(), entropy.clone()));
        let kit = Kit { clock, entropy, recorder, census: Arc::default() };
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let sockets = NodeSockets::bind(ip, &PortsConfig::default(), &OsEntropy).unwrap();
        let gate = gate(&Config::default().limits);
        let node = NodeId::from_key([7; 32]);
        let listening = answer_while_starting(&sockets, &gate, node, &kit).unwrap();
        let ask = async |path: &str| {
            let mut stream = TcpStream::connect(sockets.rest_address).await.unwrap();
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let alive = ask("/healthz").await;
        assert!(alive.starts_with("HTTP/1.1 200") && alive.contains(&node.to_string()), "{alive}");
        for path in ["/readyz", "/nomad/v1/objects/a", "/metrics"] {
            let refused = ask(path).await;
            assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
            assert!(refused.contains("the node is starting"), "{refused}");
        }
        drop(listening);
    }

    #[tokio::test]
    async fn a_store_that_does_not_open_ends_the_start_and_nothing_keeps_running() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.data_dir = Some(dir.path().to_owned());
        config.bootstrap.mdns = false;
        std::fs::write(dir.path().join("store"), "this is no directory").unwrap();
        let error = Node::start(StartOptions::new(config.clone())).await.unwrap_err();
        assert!(matches!(error, StartError::Store(_)), "{error}");
        // The directory, the ports and the listeners are free again.
        std::fs::remove_file(dir.path().join("store")).unwrap();
        let node = Node::start(StartOptions::new(config)).await.unwrap();
        node.stop().await;
    }
}
