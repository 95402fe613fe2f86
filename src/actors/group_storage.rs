//! The actors that keep the objects of the node's group, made and wired as one: a worker per shard, the outbox, the reader,
//! and the ways to read and write that the edges use.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::{
    group_view::GroupView,
    group_write::WritePath,
    ledger::HoldsListener,
    named_writes::NamedWrites,
    outbox::{self, OutboxActor, OutboxGauge, OutboxMsg},
    replica_reader::{self, ListingDoor, ReadPath, ReplicaReader},
    replica_writer::{self, Endings, ReplicaDoor, ReplicaWriter, Rescans, RoundsGauge, Writers},
    shell::{Address, Kit, worker},
    supervisor::ChildSpec,
};
use nomad_core::{outbox::Limits, register::SHARDS};
use nomad_ports::{ObjectStore, PeerTransport};

/// What they are made with.
pub struct GroupStorageParts {
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
    /// Is told what this node holds after each change.
    pub holds: HoldsListener,
    /// Is told that the node has to come back under a new claim.
    pub left_behind: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for GroupStorageParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parts(below {})", self.supervisor)
    }
}

/// The actors, not running yet, and the ways to them.
pub struct GroupStorage {
    /// How their supervisor starts them.
    pub children: Vec<ChildSpec>,
    /// The way to read.
    pub reads: ReadPath,
    /// The way to write.
    pub writes: WritePath,
    /// The way to the rounds.
    pub writers: Writers,
    /// Who keeps fast writes.
    pub outbox: Address<OutboxMsg>,
    /// What the outbox holds.
    pub gauge: Arc<OutboxGauge>,
    /// What has become of the rounds.
    pub rounds: Arc<RoundsGauge>,
    /// Which rescans are done.
    pub rescans: Arc<Rescans>,
    /// What is known of earlier groups.
    pub endings: Arc<Endings>,
    /// Where the other members' messages come in.
    pub door: Arc<ReplicaDoor>,
    /// Where their questions about what this node keeps come in.
    pub listing: Arc<ListingDoor>,
}

impl fmt::Debug for GroupStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupStorage")
    }
}

impl GroupStorage {
    /// Makes them.
    pub fn new(parts: &GroupStorageParts) -> Self {
        let GroupStorageParts { kit, supervisor, store, transport, view, .. } = parts;
        let (rescans, endings) = (Arc::<Rescans>::default(), Arc::<Endings>::default());
        let rounds = Arc::<RoundsGauge>::default();
        let later = Arc::<OnceLock<Address<OutboxMsg>>>::default();
        let (gauge, mut children, mut workers) =
            (Arc::<OutboxGauge>::default(), Vec::new(), Vec::new());
        for shard in 0..SHARDS {
            let args = replica_writer::ReplicaWriterArgs {
                shard,
                store: Arc::clone(store),
                transport: Arc::clone(transport),
                view: Arc::clone(view),
                rescans: Arc::clone(&rescans),
                endings: Arc::clone(&endings),
                outbox: Arc::clone(&later),
                left_behind: Arc::clone(&parts.left_behind),
                holds: Arc::clone(&parts.holds),
                given: Arc::default(),
                gauge: Arc::clone(&rounds),
            };
            let name = format!("replica_writer-{shard}");
            let (worker, child) = worker::<ReplicaWriter>(kit, &name, supervisor, args);
            workers.push(worker);
            children.push(child);
        }
        let writers = Writers::new(workers.clone(), Arc::clone(&kit.clock));
        let args = outbox::OutboxArgs {
            store: Arc::clone(store),
            drain: Arc::new(writers.clone()),
            limits: parts.limits,
            node_tag: view.load().this.node.tag(),
            gauge: Arc::clone(&gauge),
            running: outbox::ActiveMerges::default(),
        };
        let (outbox, child) = worker::<OutboxActor>(kit, "outbox", supervisor, args);
        children.push(child);
        // Set once: there is one outbox.
        let _ = later.set(outbox.clone());
        let args = replica_reader::ReplicaReaderArgs { store: Arc::clone(store) };
        let (reader, child) = worker::<ReplicaReader>(kit, "replica_reader", supervisor, args);
        children.push(child);
        let listing = Arc::new(ListingDoor::new(kit.clone(), reader.clone(), Arc::clone(view)));
        let of_group = (Arc::clone(view), Arc::clone(transport), writers.clone());
        let reads = ReadPath::new(kit.clone(), reader, Arc::clone(store), of_group);
        let writes = WritePath {
            store: Arc::clone(store),
            writers: writers.clone(),
            outbox: outbox.clone(),
            reads: reads.clone(),
            named: NamedWrites::default(),
        };
        let door = Arc::new(ReplicaDoor::new(kit.clone(), workers, Arc::clone(store)));
        Self {
            children,
            reads,
            writes,
            writers,
            outbox,
            gauge,
            rounds,
            rescans,
            endings,
            door,
            listing,
        }
    }
}
