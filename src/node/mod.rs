//! The composition root: claims the data directory, opens the store, builds the supervision tree, wires the ports.
//!
//! Invariant: the only room that knows all others. The store is opened once and passed down as a handle, because its
//! directory stays locked while any handle lives; sockets are bound once, so that a restarted edge finds them.

mod data_dir;
mod identity;
mod late_store;
mod sockets;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

pub use self::data_dir::DataDirError;
use self::{data_dir::DataDir, identity::Identity, late_store::LateStore, sockets::Sockets};
use crate::{
    actors::{
        Address, Context, Kit, Recorder,
        expiry::{self, Expiry},
        group_table::{self, GroupTable, GroupView},
        local_store::{self, LocalStore},
        replica_reader::{self, ReadPath, ReplicaReader},
        shell::worker,
        supervisor::{Root, nested},
    },
    api::{
        admission::Admission,
        backend::{Backend, Phase},
        grpc,
        listener::{self, Gate, Listener, ListenerMsg},
        metrics::{Metrics, StoreStats},
        rest,
    },
    config::Config,
    core::{
        group::{GroupOfOne, Member, Settings, founded_name},
        world::World,
    },
    network::GrpcProbe,
    ports::{Clock, Entropy, ObjectStore, OsEntropy, SystemClock},
    storage::{Faults, FjallStore, OpenError, StoreOptions},
};

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
    pub faults: Option<Faults>,
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
    Store(#[from] OpenError),
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
    /// An actor did not start.
    #[error("the node's actors did not start: {0}")]
    Actors(String),
}

/// Where a running node can be reached, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Of the REST listener.
    pub rest: SocketAddr,
    /// Of the peer listener.
    pub peer: SocketAddr,
    /// Of the storage listener.
    pub storage: SocketAddr,
    /// The overlay multiaddr. A node that is alone has no overlay listener: it is the peer id alone.
    pub overlay: String,
    /// The node's id.
    pub node_id: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its role.
    pub role: &'static str,
    /// The state of its role.
    pub state: &'static str,
}

/// A running node.
pub struct Node {
    addresses: Addresses,
    backend: Arc<Backend>,
    phase: watch::Sender<Phase>,
    edges: Vec<Address<ListenerMsg>>,
    root: Root,
    store: Arc<LateStore>,
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
    sockets: Sockets,
}

impl Node {
    /// Starts a node and waits until it serves.
    ///
    /// # Errors
    /// Says what cannot be used, with the way out. Nothing keeps running then.
    pub async fn start(options: StartOptions) -> Result<Self, StartError> {
        raise_descriptor_limit();
        let StartOptions { config, permanent, clock, faults } = options;
        let data_dir = DataDir::claim(config.node.data_dir.as_deref())?;
        let identity = Identity::load_or_make(data_dir.path())?;
        let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
        let sockets = Sockets::bind(config.node.listen, &config.node.ports, &*entropy)?;
        let ground = Ground { identity, data_dir, sockets };

        let store_options = StoreOptions {
            durability: config.node.storage.durability,
            cache_bytes: config.node.storage.cache_bytes,
            min_free_bytes: config.node.storage.min_free_bytes,
            max_object_bytes: config.node.storage.max_object_bytes,
            node_tag: ground.identity.node.tag(),
            clock: Arc::clone(&clock),
            faults,
            ..StoreOptions::new(ground.data_dir.path().join("store"))
        };
        let recorder =
            Recorder::new(config.trace.records, Arc::clone(&clock), Arc::clone(&entropy));
        let kit = Kit { clock, entropy, recorder: Arc::new(recorder), census: Arc::default() };
        let node = Self::build(config, permanent, kit, ground).await?;
        match tokio::task::spawn_blocking(|| FjallStore::open(store_options)).await {
            Ok(Ok(store)) => node.store.set(store),
            Ok(Err(error)) => {
                node.stop().await;
                return Err(error.into());
            }
            Err(panic) => {
                node.stop().await;
                return Err(StartError::Actors(panic.to_string()));
            }
        }
        node.data_dir.publish(&node.addresses)?;
        node.phase.send_replace(Phase::Serving);
        Ok(node)
    }

    async fn build(
        config: Config,
        permanent: bool,
        kit: Kit,
        ground: Ground,
    ) -> Result<Self, StartError> {
        let Ground { identity, data_dir, sockets } = ground;
        let view: GroupView =
            Arc::new(ArcSwap::from_pointee(found(&config, permanent, &identity, &sockets)));
        let addresses = sockets.addresses(&identity, data_dir.path(), &view.load());
        let store = Arc::new(LateStore::default());
        let (phase, watched) = watch::channel(Phase::Starting);
        let limits = config.limits.clone();
        let gate = Gate {
            admission: Arc::new(Admission::new(limits.requests, limits.request_bytes)),
            exempt: Arc::new(Admission::new(EXEMPT_REQUESTS_MAX, EXEMPT_BYTES_MAX)),
            limits: limits.clone(),
        };

        let (writer, writer_spec) = worker::<LocalStore>(
            &kit,
            "local_store",
            "storage",
            local_store::Args { store: store.clone() },
        );
        let expiry_args =
            expiry::Args { store: writer.clone(), interval: config.schedule.db_cleanup };
        let (_, expiry_spec) = worker::<Expiry>(&kit, "expiry", "storage", expiry_args);
        let mut storage = vec![writer_spec, expiry_spec];
        let reader_args = replica_reader::Args { store: store.clone() };
        let (reader, reader_spec) =
            worker::<ReplicaReader>(&kit, "replica_reader", "storage", reader_args);
        storage.push(reader_spec);
        let table_args = group_table::Args { view: Arc::clone(&view) };
        let (group_table, table_spec) =
            worker::<GroupTable>(&kit, "group_table", "group", table_args);

        let stats_of = Arc::clone(&store);
        let store_stats: StoreStats = Arc::new(move || (stats_of.health(), stats_of.counts()));
        let metrics = Metrics::new(
            Arc::clone(&kit.census),
            Arc::clone(&store_stats),
            Arc::clone(&gate.admission),
        );
        let backend = Arc::new(Backend {
            kit: kit.clone(),
            store: writer,
            reads: ReadPath::new(kit.clone(), reader, store.clone()),
            group_table,
            view,
            phase: watched,
            config,
            admission: Arc::clone(&gate.admission),
            metrics,
            store_stats,
            probe: Arc::new(GrpcProbe),
            started: kit.clock.monotonic(),
        });

        let rest_args = listener::Args::default().with(
            sockets.rest,
            gate.clone(),
            rest::edge(Arc::clone(&backend)),
        );
        let grpc_args = listener::Args::default()
            .with(sockets.storage, gate.clone(), grpc::storage_edge(Arc::clone(&backend)))
            .with(sockets.peer, gate, grpc::peer_edge(Arc::clone(&backend), None));
        let (rest, rest_spec) = worker::<Listener>(&kit, "rest", "edge", rest_args);
        let (grpc, grpc_spec) = worker::<Listener>(&kit, "grpc", "edge", grpc_args);
        let children = vec![
            nested(&kit, "storage", "node", storage),
            nested(&kit, "group", "node", vec![table_spec]),
            nested(&kit, "edge", "node", vec![rest_spec, grpc_spec]),
        ];
        let root = Root::start(&kit, "node", children).await.map_err(StartError::Actors)?;
        let edges = vec![rest, grpc];
        let drain = limits.drain;
        Ok(Self { addresses, backend, phase, edges, root, store, data_dir, drain })
    }

    /// Returns where the node can be reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Returns what the edges use, for programs that embed a node and for tests.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Waits until the supervision tree gives up, which it does when an actor fails too often, and says why.
    pub async fn ended(&mut self) -> String {
        self.root.ended().await
    }

    /// Stops the node: not ready, finish what was accepted within `limits.drain`, flush, close.
    pub async fn stop(self) {
        self.phase.send_replace(Phase::Draining);
        let admission = &self.backend.admission;
        admission.close();
        let drained = async {
            admission.drained().await;
            let from: Arc<str> = "node".into();
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

/// Founds the group of one.
fn found(config: &Config, permanent: bool, identity: &Identity, sockets: &Sockets) -> GroupOfOne {
    let node = identity.node;
    let hosts = &config.node.network_hostnames;
    let peer_host = if permanent { &hosts.super_peer_server } else { &hosts.peer_server };
    let advertise = |host: &Option<String>, bound: SocketAddr| match host {
        None => bound.to_string(),
        Some(host) if host.contains(':') => host.clone(),
        Some(host) => format!("{host}:{}", bound.port()),
    };
    GroupOfOne {
        name: founded_name(&node),
        epoch: 1,
        permanent,
        capacity: config.node.max_peers as u32,
        this: Member {
            node,
            rest: sockets.rest_address.to_string(),
            peer: advertise(peer_host, sockets.peer_address),
            storage: advertise(&hosts.group_storage_server, sockets.storage_address),
            position: config.node.position,
        },
        world: World { width: config.node.world.width, height: config.node.world.height },
        settings: Settings {
            storage_mode: config.node.storage.storage_mode,
            retrieval_mode: config.node.storage.retrieval_mode,
            migration: config.node.group.migration,
            replication_factor: config.node.storage.replication_factor as u32,
        },
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
