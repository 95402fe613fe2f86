//! A node's inside for tests of the edges: real actors over a store in memory, with a clock that stands still.

use std::{
    collections::VecDeque,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::{
    admission::Admission,
    backend::{Backend, Network, NetworkState, NodePhase, service_limits},
    metrics::{Metrics, StoreStats},
};
use nomad_actors::{
    Kit, TraceRecorder,
    group_view::{GroupView, Published},
    membership::MembershipMsg,
    recorder::Outcome,
    shell::{Handling, Worker, worker},
    supervisor::Root,
    vitals::Census,
};
use nomad_config::Config;
use nomad_core::{
    group::{
        Member, Settings,
        control::{ControlError, ControlRequest},
        decision::{ControlDecision, decide, decide_setting},
        membership::MembershipOrder,
        offer::Offer,
        table::{GroupTable, Seat, TableCommand},
        view::{Founder, Liveness, Sighting, View},
    },
    model::{node_id::NodeId, time::UnixMs},
    outbox::Limits,
    world::World,
};
use nomad_doubles::{ManualClock, MemoryNetwork};
use nomad_ports::{ObjectStore, OsEntropy, PeerProbe};
use nomad_service::{NodeService, Storage, StorageArgs, durations::Operations};
use nomad_storage::MemoryStore;

/// What the clock of a test node says at first, in seconds.
pub const NOW: u64 = 1_750_000_000;

/// The id of a test node.
pub const NODE: &str = "12D3KooWAHoEkEqnKzM5PXFygh2movVBCSX3k8tDsT2cneU68Gyt";

/// A node's inside, to be stopped at the end of the test.
pub struct TestNode {
    /// What the edges take.
    pub backend: Arc<Backend>,
    /// The store below the actors.
    pub store: Arc<MemoryStore>,
    /// The clock of everything.
    pub clock: Arc<ManualClock>,
    /// The node's phase.
    pub phase: watch::Sender<NodePhase>,
    /// What its membership is asked, and what it answers, if it has one.
    pub membership: Arc<Script>,
    /// The groups that it has heard of.
    pub known: Arc<Mutex<Vec<Offer>>>,
    root: Root,
}

/// What a scripted membership is asked, and what it answers: `true` while nothing else is said.
#[derive(Debug, Default)]
pub struct Script {
    /// Set to answer as the core decides, and to publish what that changes; what would need others is `true` at once.
    decides: bool,
    /// What it was asked, oldest first.
    pub asked: Mutex<Vec<ControlRequest>>,
    /// What it answers next, first to last.
    pub answers: Mutex<VecDeque<Result<bool, ControlError>>>,
}

/// Answers what it is told to.
struct Scripted {
    script: Arc<Script>,
    view: GroupView,
}

impl Scripted {
    fn decided(&self, decision: ControlDecision) -> bool {
        let mut view = View::clone(&self.view.load());
        match decision {
            ControlDecision::Answer(answer) => return answer,
            ControlDecision::Describe(member) => view.this = member,
            ControlDecision::Settings(settings) => view.settings = settings,
            ControlDecision::Order(MembershipOrder::Write(command)) => {
                let mut table = GroupTable::clone(view.table.as_ref().unwrap());
                table.apply(&command);
                let (node, epoch) = (view.this.node, table.epoch());
                table.apply(&TableCommand::Acknowledge { node, epoch });
                view.table = Some(Arc::new(table));
            }
            ControlDecision::Order(_) => return true,
        }
        self.view.publish(view);
        true
    }
}

impl Worker for Scripted {
    type Msg = MembershipMsg;
    type Args = (Arc<Script>, GroupView);

    fn start((script, view): &Self::Args, _: &Handling<'_, MembershipMsg>) -> Result<Self, String> {
        Ok(Self { script: Arc::clone(script), view: Arc::clone(view) })
    }

    fn handle(
        &mut self,
        _: &Handling<'_, MembershipMsg>,
        message: MembershipMsg,
    ) -> Result<Outcome, String> {
        let view = self.view.load_full();
        match message {
            MembershipMsg::Control { request, reply } if self.script.decides => {
                let decision = decide(&request, &view, &[]);
                reply.send(decision.map(|decision| self.decided(decision)));
            }
            MembershipMsg::Control { request, reply } => {
                self.script.asked.lock().unwrap().push(request);
                reply.send(self.script.answers.lock().unwrap().pop_front().unwrap_or(Ok(true)));
            }
            MembershipMsg::Set { change, reply } => {
                let decision = decide_setting(change, &view);
                reply.send(decision.map(|decision| self.decided(decision)));
            }
            other => return Err(format!("no test sends {other:?}")),
        }
        Ok(Outcome::Done("answered"))
    }
}

/// Says of every address but the one with port 1 that a node serves there.
struct Probe;

impl PeerProbe for Probe {
    fn serves(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move { address.port() != 1 })
    }
}

/// The network of a node that has none.
pub fn no_network() -> Network {
    Network { known: Arc::new(|_| Vec::new()), state: Arc::new(NetworkState::default) }
}

impl TestNode {
    /// Starts a serving node with the defaults.
    pub async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    /// Starts a serving node.
    pub async fn start_with(config: Config) -> Self {
        Self::build(config, true).await
    }

    /// Starts a serving node whose membership answers what the test says.
    pub async fn scripted() -> Self {
        Self::build(Config::default(), false).await
    }

    async fn build(config: Config, decides: bool) -> Self {
        let clock = Arc::new(ManualClock::at(UnixMs(NOW * 1000)));
        let entropy = Arc::new(OsEntropy);
        let recorder = TraceRecorder::new(config.trace.records, clock.clone(), entropy.clone());
        let kit = Kit {
            clock: clock.clone(),
            entropy,
            recorder: Arc::new(recorder),
            census: Arc::new(Census::default()),
        };
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let port: Arc<dyn ObjectStore> = store.clone();
        let view = Published::new(View::founded("group-TestNode".into(), &founder(&config)));
        let known = Arc::new(Mutex::new(Vec::new()));
        let offers = Arc::clone(&known);
        let known_offers = Arc::new(move |_| offers.lock().unwrap().clone());
        let network = Network { known: known_offers, ..no_network() };
        let script = Arc::new(Script { decides, ..Script::default() });
        let (membership, membership_spec) =
            worker::<Scripted>(&kit, "membership", "node", (script.clone(), view.clone()));

        let founder = founder(&config);
        let net = MemoryNetwork::new();
        let (links, _) = net.join(founder.this.node, &founder.this.peer);
        let (limits, schedule) = (&config.limits, &config.schedule);
        let storage = Storage::new(&StorageArgs {
            kit: kit.clone(),
            supervisor: "node",
            store: port.clone(),
            transport: links,
            view: view.clone(),
            limits: Limits { entries: limits.outbox_entries, bytes: limits.outbox_bytes },
            ledger_cleanup: schedule.ledger_cleanup,
            repair: schedule.repair,
            cleanup: schedule.db_cleanup,
            left_behind: Arc::new(|| {}),
        });

        let (phase, watched) = watch::channel(NodePhase::Serving);
        let admission = Arc::new(Admission::new(limits.requests, limits.request_bytes));
        let store_stats: StoreStats = Arc::new(move || (port.health(), port.counts()));
        let census = kit.census.clone();
        let operations = Arc::<Operations>::default();
        let service = Arc::new(NodeService {
            kit: kit.clone(),
            store: storage.writer,
            reads: storage.reads,
            writes: storage.writes,
            view: view.clone(),
            membership,
            ledger: storage.ledger,
            sweeper: storage.sweeper,
            probe: Arc::new(Probe),
            limits: service_limits(&config),
            operations: operations.clone(),
        });
        let backend = Arc::new(Backend {
            metrics: Metrics::new(
                census,
                store_stats.clone(),
                admission.clone(),
                (view, network.clone()),
                operations,
            ),
            service,
            figures: storage.figures,
            network,
            phase: watched,
            admission,
            store_stats,
            started: nomad_ports::Clock::monotonic(&*clock),
            config,
        });
        let mut children = vec![membership_spec];
        children.extend(storage.children);
        let root = Root::start(&kit, "node", children).await.unwrap();
        Self { backend, store, clock, phase, membership: script, known, root }
    }

    /// Publishes another view.
    pub fn change(&self, change: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.backend.service.view.load());
        change(&mut view);
        self.backend.service.view.publish(view);
    }

    /// Lets another node into the group, alive and with a vote.
    pub fn add_member(&self, key: u8) {
        let seat = Seat { member: Founder::example(key).this, claim: 1, permanent: false };
        let node = seat.member.node;
        self.change(|view| {
            let table = Arc::make_mut(view.table.as_mut().unwrap());
            table.apply(&TableCommand::Change { add: vec![seat], remove: Vec::new() });
            let epoch = table.epoch();
            table.apply(&TableCommand::Acknowledge { node: table.super_peer, epoch });
            view.voters.insert(node);
            let seen = Sighting { liveness: Liveness::Alive, last_seen: Some(UnixMs(NOW * 1000)) };
            view.sightings.insert(node, seen);
        });
    }

    /// Stops the actors.
    pub async fn stop(self) {
        self.root.stop().await;
    }
}

fn founder(config: &Config) -> Founder {
    let storage = &config.node.storage;
    Founder {
        this: Member {
            node: NodeId::from_key([7; 32]),
            rest: "127.0.0.1:8080".into(),
            peer: "127.0.0.1:6731".into(),
            storage: "127.0.0.1:6735".into(),
            position: config.node.position,
        },
        permanent: false,
        claim: 1,
        capacity: config.node.max_peers as u32,
        world: World { width: config.node.world.width, height: config.node.world.height },
        settings: Settings {
            storage_mode: storage.storage_mode,
            retrieval_mode: storage.retrieval_mode,
            migration: config.node.group.migration,
            replication_factor: storage.replication_factor as u32,
        },
    }
}
