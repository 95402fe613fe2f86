//! How the actors of the storage are made and wired: those that keep the objects of the node's group, those that look after
//! them, and the ways to read and write that requests use. Nothing runs yet: a supervisor starts the children.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::BoxFuture;

use super::{ReadPath, WritePath, named_writes::NamedWrites};
use nomad_actors::{
    Address, Context, Kit,
    expiry::{ExpiryActor, ExpiryArgs},
    group_view::GroupView,
    ledger::{self, LedgerActor, LedgerArgs, LedgerDoor, LedgerGauge, LedgerMsg},
    local_store::{LocalStore, LocalStoreArgs, LocalStoreMsg},
    outbox::{ActiveMerges, OutboxActor, OutboxArgs, OutboxGauge, OutboxMsg},
    repair_sweeper::{
        self, RepairDoor, RepairGauge, RepairSweeper, RepairSweeperArgs, RepairSweeperMsg,
    },
    replica_reader::{ListingDoor, ReplicaReader, ReplicaReaderArgs},
    replica_writer::{
        Endings, ReplicaDoor, ReplicaWriter, ReplicaWriterArgs, Rescans, RoundsGauge, Writers,
    },
    shell::worker,
    supervisor::ChildSpec,
};
use nomad_core::{
    model::{
        object::{ObjectId, Version},
        time::MonotonicUs,
        trace::TraceContext,
    },
    outbox::Limits,
    register::{RegisterOrder, RegisterOutcome, SHARDS},
};
use nomad_ports::{
    Clock, ObjectStore, PeerHandler, PeerTransport, Rounds, peer_transport::Service,
};

/// How long the outbox may take to make its promise durable.
const WATERMARK_LIMIT_US: u64 = 5_000_000;

/// What the storage is made with.
pub struct StorageArgs {
    /// What all actors share.
    pub kit: Kit,
    /// The name of their supervisor.
    pub supervisor: &'static str,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The way to the other members.
    pub transport: Arc<dyn PeerTransport>,
    /// The node and its group.
    pub view: GroupView,
    /// What the outbox may hold.
    pub limits: Limits,
    /// How often the ledger compares digests and removes what has expired (`schedule.ledgerCleanup`).
    pub ledger_cleanup: Duration,
    /// How often replicas are compared with those of the other members (`schedule.repair`).
    pub repair: Duration,
    /// How often expired objects are looked for (`schedule.dbCleanup`).
    pub cleanup: Duration,
    /// Is told that the node has to come back under a new claim.
    pub left_behind: Arc<dyn Fn() + Send + Sync>,
}

/// The actors of the storage, not running yet, and the ways to them.
pub struct Storage {
    /// How their supervisor starts them.
    pub children: Vec<ChildSpec>,
    /// The store's writer.
    pub writer: Address<LocalStoreMsg>,
    /// The way to read.
    pub reads: ReadPath,
    /// The way to write.
    pub writes: WritePath,
    /// Who knows who holds which object.
    pub ledger: Address<LedgerMsg>,
    /// Who repairs replicas.
    pub sweeper: Address<RepairSweeperMsg>,
    /// Which rescans are done.
    pub rescans: Arc<Rescans>,
    /// What is known of earlier groups.
    pub endings: Arc<Endings>,
    /// What they show of themselves.
    pub figures: StorageFigures,
    /// Where the other members' messages come in.
    pub doors: [(Service, Arc<dyn PeerHandler>); 4],
}

/// What the actors of the storage show of themselves.
#[derive(Clone)]
pub struct StorageFigures {
    /// What waits to be replicated.
    pub outbox: Arc<OutboxGauge>,
    /// What has become of the rounds.
    pub rounds: Arc<RoundsGauge>,
    /// How the group's objects stand.
    pub ledger: Arc<LedgerGauge>,
    /// What repair has done.
    pub repair: Arc<RepairGauge>,
}

impl Storage {
    /// Makes the actors and the ways to them.
    pub fn new(args: &StorageArgs) -> Self {
        let StorageArgs { kit, supervisor, store, transport, view, .. } = args;
        let figures = StorageFigures {
            outbox: Arc::default(),
            rounds: Arc::default(),
            ledger: Arc::default(),
            repair: Arc::default(),
        };
        let (rescans, endings) = (Arc::<Rescans>::default(), Arc::<Endings>::default());

        let writer_args = LocalStoreArgs { store: Arc::clone(store) };
        let (writer, writer_spec) =
            worker::<LocalStore>(kit, "local_store", supervisor, writer_args);
        let expiry_args = ExpiryArgs { store: writer.clone(), interval: args.cleanup };
        let (_, expiry_spec) = worker::<ExpiryActor>(kit, "expiry", supervisor, expiry_args);
        let ledger_args = LedgerArgs {
            store: Arc::clone(store),
            transport: Arc::clone(transport),
            view: Arc::clone(view),
            cleanup: args.ledger_cleanup,
            gauge: Arc::clone(&figures.ledger),
        };
        let (ledger, ledger_spec) = worker::<LedgerActor>(kit, "ledger", supervisor, ledger_args);

        let outbox_set_later = Arc::<OnceLock<Address<OutboxMsg>>>::default();
        let shards = (0..SHARDS).map(|shard| {
            let args = ReplicaWriterArgs {
                shard,
                store: Arc::clone(store),
                transport: Arc::clone(transport),
                view: Arc::clone(view),
                rescans: Arc::clone(&rescans),
                endings: Arc::clone(&endings),
                outbox: Arc::clone(&outbox_set_later),
                left_behind: Arc::clone(&args.left_behind),
                holds: ledger::holds_listener(ledger.clone()),
                given: Arc::default(),
                gauge: Arc::clone(&figures.rounds),
            };
            worker::<ReplicaWriter>(kit, &format!("replica_writer-{shard}"), supervisor, args)
        });
        let (workers, shard_specs): (Vec<_>, Vec<_>) = shards.unzip();
        let writers = Writers::new(workers.clone(), Arc::clone(&kit.clock));
        let outbox_args = OutboxArgs {
            store: Arc::clone(store),
            drain: Arc::new(writers.clone()),
            limits: args.limits,
            node_tag: view.load().this.node.tag(),
            gauge: Arc::clone(&figures.outbox),
            running: ActiveMerges::default(),
        };
        let (outbox, outbox_spec) = worker::<OutboxActor>(kit, "outbox", supervisor, outbox_args);
        // Set once: there is one outbox.
        let _ = outbox_set_later.set(outbox.clone());
        let reader_args = ReplicaReaderArgs { store: Arc::clone(store) };
        let (reader, reader_spec) =
            worker::<ReplicaReader>(kit, "replica_reader", supervisor, reader_args);
        let sweeper_args = RepairSweeperArgs {
            store: Arc::clone(store),
            transport: Arc::clone(transport),
            view: Arc::clone(view),
            rounds: Arc::new(GroupRounds {
                writers: writers.clone(),
                outbox: outbox.clone(),
                clock: Arc::clone(&kit.clock),
                from: "repair_sweeper".into(),
            }),
            options: repair_sweeper::options(args.repair, args.cleanup),
            gauge: Arc::clone(&figures.repair),
        };
        let (sweeper, sweeper_spec) =
            worker::<RepairSweeper>(kit, "repair_sweeper", supervisor, sweeper_args);

        let doors: [(Service, Arc<dyn PeerHandler>); 4] = [
            (Service::Replica, Arc::new(ReplicaDoor::new(kit.clone(), workers, Arc::clone(store)))),
            (Service::Ledger, Arc::new(LedgerDoor::new(kit.clone(), ledger.clone()))),
            (Service::Repair, Arc::new(RepairDoor::new(kit.clone(), sweeper.clone()))),
            (
                Service::Listing,
                Arc::new(ListingDoor::new(kit.clone(), reader.clone(), Arc::clone(view))),
            ),
        ];
        let mut children = vec![writer_spec, expiry_spec];
        children.extend(shard_specs);
        children.extend([outbox_spec, reader_spec, ledger_spec, sweeper_spec]);
        let of_group = (Arc::clone(view), Arc::clone(transport), writers.clone());
        let reads = ReadPath::new(kit.clone(), reader, Arc::clone(store), of_group);
        let writes = WritePath {
            store: Arc::clone(store),
            view: Arc::clone(view),
            writers,
            outbox,
            reads: reads.clone(),
            named: NamedWrites::default(),
        };
        Self { children, writer, reads, writes, ledger, sweeper, rescans, endings, figures, doors }
    }
}

/// The rounds of this node, by its workers.
struct GroupRounds {
    writers: Writers,
    outbox: Address<OutboxMsg>,
    clock: Arc<dyn Clock>,
    from: Arc<str>,
}

impl Rounds for GroupRounds {
    fn run(
        &self,
        id: ObjectId,
        order: RegisterOrder,
        trace: TraceContext,
        deadline: MonotonicUs,
    ) -> BoxFuture<'static, RegisterOutcome> {
        let (writers, from) = (self.writers.clone(), Arc::clone(&self.from));
        Box::pin(async move {
            let cx = Context { trace, deadline: Some(deadline) };
            writers.outcome(&from, cx, &id, order).await
        })
    }

    fn watermark(&self) -> BoxFuture<'static, Option<Version>> {
        let (outbox, from) = (self.outbox.clone(), Arc::clone(&self.from));
        let deadline = Some(self.clock.monotonic().plus_us(WATERMARK_LIMIT_US));
        Box::pin(async move {
            let cx = Context { deadline, ..Context::default() };
            let asked = outbox.ask(&from, cx, |reply| OutboxMsg::Watermark { reply }).await;
            asked.ok().and_then(Result::ok)
        })
    }
}
