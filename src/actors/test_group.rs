//! A group in one process: each member with its ledger, its repair and its reader over links in memory. Rounds are played: one takes the
//! highest ballot that it finds and writes it wherever it can.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};

use super::{
    Address, Context, Kit,
    group_view::{GroupView, Published},
    ledger::{self, LedgerActor, LedgerDoor, LedgerGauge, LedgerMsg},
    repair_sweeper::{self, RepairDoor, RepairGauge, RepairSweeper, RepairSweeperMsg},
    replica_reader::{self, ListingDoor, ReplicaReader, ReplicaReaderMsg},
    shell::worker,
    supervisor::{Root, nested},
    test_kit::kit,
};
use nomad_core::{
    group::{
        table::{Configuration, Seat, TableCommand},
        view::{Founder, Liveness, Sighting, View},
    },
    ledger::{HeldObject, LedgerChange},
    model::{
        node_id::NodeId,
        object::{Object, ObjectId, Version},
        time::{MonotonicUs, UnixSecs},
        trace::TraceContext,
    },
    register::{
        Ballot, Register, RegisterOrder, RegisterOutcome, Tombstone, Value, replicas, shard_of,
    },
    repair::RepairOptions,
};
use nomad_doubles::{MemoryLinks, MemoryNetwork};
use nomad_ports::{
    ObjectStore, PeerTransport as _, Rounds,
    object_store::{RegisterJob, StoreJob},
    peer_transport::Service,
};
use nomad_storage::MemoryStore;

pub const CLEANUP: Duration = Duration::from_secs(60);

pub fn repair_options() -> RepairOptions {
    repair_sweeper::options(Duration::from_secs(600), CLEANUP)
}

/// A member's store, and its ledger.
type Kept = (Arc<MemoryStore>, Address<LedgerMsg>);

/// What the members' rounds find and change.
#[derive(Default)]
pub struct Registers {
    members: Mutex<BTreeMap<NodeId, Kept>>,
    counter: Mutex<u64>,
    /// Members that no round reaches.
    pub away: Mutex<BTreeSet<NodeId>>,
    /// What each member has promised; none = it does not.
    pub watermarks: Mutex<BTreeMap<NodeId, Version>>,
    /// How many rounds were run, reads left out.
    pub run: Mutex<Vec<(ObjectId, RegisterOrder)>>,
}

impl Registers {
    /// Gives the next version and ballot.
    fn next(&self) -> (Version, Ballot) {
        let mut counter = self.counter.lock().unwrap();
        *counter += 1;
        (Version { time: *counter, node: 1 }, Ballot { epoch: 1, counter: *counter, node: 1 })
    }

    fn stores(&self) -> BTreeMap<NodeId, (Arc<MemoryStore>, Address<LedgerMsg>)> {
        self.members.lock().unwrap().clone()
    }

    /// Keeps a register at some members, who tell their ledgers.
    fn keep(&self, at: &[NodeId], id: &ObjectId, register: Option<&Register>) {
        let stores = self.stores();
        for (store, ledger) in at.iter().filter_map(|node| stores.get(node)) {
            keep(store, id, register.cloned());
            let live = register.and_then(|register| match &register.value {
                Value::Live(object) => Some(object),
                _ => None,
            });
            let change = match live {
                Some(Object { version, expires_at, .. }) => {
                    let (version, expires_at) = (*version, *expires_at);
                    LedgerChange::Held(HeldObject { id: id.clone(), version, expires_at })
                }
                None => LedgerChange::Dropped(id.clone()),
            };
            ledger.tell(&"writer".into(), Context::default(), LedgerMsg::Changed(vec![change]));
        }
    }

    fn round(&self, now: UnixSecs, id: &ObjectId, order: RegisterOrder) -> RegisterOutcome {
        let stores = self.stores();
        let members: BTreeSet<_> = stores.keys().copied().collect();
        let of = replicas(id, &members, 3);
        let away = self.away.lock().unwrap().clone();
        let up: Vec<_> = of.iter().filter(|node| !away.contains(node)).copied().collect();
        if order != RegisterOrder::Read {
            self.run.lock().unwrap().push((id.clone(), order.clone()));
        }
        if up.len() <= of.len() / 2 {
            return RegisterOutcome::NoQuorum {
                answered: up.len() as u32,
                needed: of.len() as u32 / 2 + 1,
            };
        }
        let found = up.iter().filter_map(|node| stores[node].0.register(id).unwrap());
        let Some(mut register) = found.max_by_key(|register| register.accepted) else {
            return if order == RegisterOrder::Read {
                RegisterOutcome::Read(None)
            } else {
                RegisterOutcome::Done
            };
        };
        match order {
            RegisterOrder::Read => return RegisterOutcome::Read(register.value.live(now).cloned()),
            RegisterOrder::Repair => {}
            RegisterOrder::Expire if register.value.live(now).is_none() => {
                let (version, _) = self.next();
                register.value = Value::Tombstone(Tombstone { version });
            }
            RegisterOrder::Clear(version) if register.value.version() == Some(version) => {
                if up.len() < of.len() {
                    return RegisterOutcome::Busy;
                }
                self.keep(&up, id, None);
                return RegisterOutcome::Done;
            }
            _ => return RegisterOutcome::Done,
        }
        register.accepted = self.next().1;
        self.keep(&up, id, Some(&register));
        RegisterOutcome::Done
    }
}

/// Keeps a register in a store.
pub fn keep(store: &MemoryStore, id: &ObjectId, register: Option<Register>) {
    store.submit(StoreJob::Registers(RegisterJob {
        shard: shard_of(id),
        wipe: false,
        state: None,
        writes: vec![(id.clone(), register)],
        done: Box::new(|kept| kept.unwrap()),
    }));
}

struct RoundsOf {
    node: NodeId,
    kit: Kit,
    registers: Arc<Registers>,
}

impl Rounds for RoundsOf {
    fn run(
        &self,
        id: ObjectId,
        order: RegisterOrder,
        _: TraceContext,
        _: MonotonicUs,
    ) -> BoxFuture<'static, RegisterOutcome> {
        let (registers, now) = (Arc::clone(&self.registers), self.kit.clock.wall().secs());
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            registers.round(now, &id, order)
        }
        .boxed()
    }

    fn watermark(&self) -> BoxFuture<'static, Option<Version>> {
        let watermark = self.registers.watermarks.lock().unwrap().get(&self.node).copied();
        futures::future::ready(watermark).boxed()
    }
}

/// A member.
pub struct Member {
    pub node: NodeId,
    pub kit: Kit,
    pub store: Arc<MemoryStore>,
    pub view: GroupView,
    #[allow(dead_code, reason = "the tests of the room `service` read through it")]
    pub links: Arc<MemoryLinks>,
    pub ledger: Address<LedgerMsg>,
    pub ledger_gauge: Arc<LedgerGauge>,
    pub sweeper: Address<RepairSweeperMsg>,
    pub repair_gauge: Arc<RepairGauge>,
    pub reader: Address<ReplicaReaderMsg>,
    root: Root,
}

impl Member {
    /// A request with a deadline in this many milliseconds.
    pub fn context(&self, ms: u64) -> Context {
        let deadline = Some(self.kit.clock.monotonic().plus_us(ms * 1000));
        Context { trace: self.kit.recorder.new_trace(), deadline }
    }
}

/// A group.
pub struct Group {
    pub network: MemoryNetwork,
    pub registers: Arc<Registers>,
    pub members: Vec<Member>,
    pub from: Arc<str>,
}

pub fn node(key: u8) -> NodeId {
    Founder::example(key).this.node
}

impl Group {
    /// Starts a group of members with the keys from 1 on; the first of them votes and leads, as many as are to vote do.
    pub async fn start(count: u8, voters: u8) -> Self {
        let (network, registers) = (MemoryNetwork::new(), Arc::new(Registers::default()));
        let mut members = Vec::new();
        for key in 1..=count {
            members.push(member(&network, &registers, key, count, voters).await);
        }
        for member in &members {
            let at = (member.store.clone(), member.ledger.clone());
            registers.members.lock().unwrap().insert(member.node, at);
            registers.watermarks.lock().unwrap().insert(member.node, Version::default());
        }
        Self { network, registers, members, from: "test".into() }
    }

    /// Returns the member with a key.
    pub fn member(&self, key: u8) -> &Member {
        &self.members[usize::from(key) - 1]
    }

    /// Publishes another view of each member.
    pub fn change_views(&self, change: impl Fn(&mut View)) {
        for member in &self.members {
            let mut view = View::clone(&member.view.load());
            change(&mut view);
            member.view.publish(view);
        }
    }

    /// Says at all others how a member looks.
    pub fn show(&self, key: u8, liveness: Liveness) {
        self.change_views(|view| {
            if view.this.node != node(key) {
                let seen = Sighting { liveness, last_seen: None };
                view.sightings.insert(node(key), seen);
            }
        });
    }

    /// Returns the members that keep an object.
    pub fn replicas(&self, id: &str) -> Vec<NodeId> {
        let members = self.members.iter().map(|member| member.node).collect();
        replicas(&ObjectId::parse(id).unwrap(), &members, 3)
    }

    /// Writes an object at these of its replicas.
    pub fn write_at(&self, at: &[NodeId], id: &str, expires_at: Option<UnixSecs>) -> Version {
        let id = ObjectId::parse(id).unwrap();
        let (version, accepted) = self.registers.next();
        let object = Object {
            id: id.clone(),
            value: Bytes::from_static(&[b'x'; 100]),
            creation_time: UnixSecs(1),
            expires_at,
            last_modified: UnixSecs(1),
            version,
            content_type: None,
        };
        let register = Register {
            promised: accepted,
            accepted,
            value: Value::Live(object),
            ..Register::default()
        };
        self.registers.keep(at, &id, Some(&register));
        version
    }

    /// Writes an object at all of its replicas.
    pub fn write(&self, id: &str, expires_at: Option<UnixSecs>) -> Version {
        self.write_at(&self.replicas(id), id, expires_at)
    }

    pub async fn stop(self) {
        for member in self.members {
            member.root.stop().await;
        }
    }
}

/// How the group looks to one of its members.
pub fn view_of(key: u8, count: u8, voters: u8) -> View {
    let founder = Founder { capacity: 64, ..Founder::example(1) };
    let mut view = View::founded("group-x".into(), &founder);
    let table = Arc::make_mut(view.table.as_mut().unwrap());
    let seat = |key| Seat { member: Founder::example(key).this, claim: 1, permanent: false };
    let add: Vec<_> = (2..=count).map(seat).collect();
    if !add.is_empty() {
        table.apply(&TableCommand::Change { add, remove: Vec::new() });
        let (node, epoch) = (table.super_peer, table.epoch());
        table.apply(&TableCommand::Acknowledge { node, epoch });
    }
    assert!(!Configuration::is_joint(table.configuration()));
    view.this = Founder::example(key).this;
    view.voters = (1..=voters).map(node).collect();
    let alive = Sighting { liveness: Liveness::Alive, last_seen: None };
    view.sightings = (1..=count).filter(|n| *n != key).map(|n| (node(n), alive)).collect();
    view
}

async fn member(
    network: &MemoryNetwork,
    registers: &Arc<Registers>,
    key: u8,
    count: u8,
    voters: u8,
) -> Member {
    let kit = kit();
    let node = node(key);
    let (links, _) = network.join(node, &Founder::example(key).this.peer);
    let others =
        (1..=count).filter(|other| *other != key).map(|other| Founder::example(other).this);
    links.keep(others.map(|member| (member.node, member.peer)).collect());
    let store = Arc::new(MemoryStore::new(Arc::clone(&kit.clock)));
    let view = Published::new(view_of(key, count, voters));
    let ledger_gauge = Arc::new(LedgerGauge::default());
    let args = ledger::LedgerArgs {
        store: store.clone(),
        transport: links.clone(),
        view: Arc::clone(&view),
        cleanup: CLEANUP,
        gauge: Arc::clone(&ledger_gauge),
    };
    let (ledger, ledger_spec) = worker::<LedgerActor>(&kit, "ledger", "storage", args);
    let repair_gauge = Arc::new(RepairGauge::default());
    let args = repair_sweeper::RepairSweeperArgs {
        store: store.clone(),
        transport: links.clone(),
        view: Arc::clone(&view),
        rounds: Arc::new(RoundsOf { node, kit: kit.clone(), registers: Arc::clone(registers) }),
        options: repair_options(),
        gauge: Arc::clone(&repair_gauge),
    };
    let (sweeper, sweeper_spec) = worker::<RepairSweeper>(&kit, "repair_sweeper", "storage", args);
    links.serve(Service::Ledger, Arc::new(LedgerDoor::new(kit.clone(), ledger.clone())));
    links.serve(Service::Repair, Arc::new(RepairDoor::new(kit.clone(), sweeper.clone())));
    let args = replica_reader::ReplicaReaderArgs { store: store.clone() };
    let (reader, reader_spec) = worker::<ReplicaReader>(&kit, "replica_reader", "storage", args);
    let door = ListingDoor::new(kit.clone(), reader.clone(), Arc::clone(&view));
    links.serve(Service::Listing, Arc::new(door));
    let children = vec![ledger_spec, sweeper_spec, reader_spec];
    let storage = nested(&kit, "storage", "node", children);
    let root = Root::start(&kit, "node", vec![storage]).await.unwrap();
    Member {
        node,
        kit,
        store,
        view,
        links,
        ledger,
        ledger_gauge,
        sweeper,
        repair_gauge,
        reader,
        root,
    }
}

/// Lets virtual time pass.
pub async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Waits until something is so.
pub async fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(limit, so).await.is_err() {
        panic!("{what}: not within {limit:?}");
    }
}
