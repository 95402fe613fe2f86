//! A worker over the memory store, whose other members never answer.

use std::time::Duration;

use super::*;
use crate::{
    Kit,
    group_view::Published,
    shell::worker,
    supervisor::{Root, nested},
    test_group::{node, pass, view_of},
    test_kit::{kit, object},
};
use nomad_core::{
    group::view::Founder,
    model::change::{Change, Condition, Content},
    register::shard_of,
};
use nomad_doubles::MemoryNetwork;
use nomad_storage::MemoryStore;

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    kit: Kit,
    network: MemoryNetwork,
    worker: Address<ReplicaWriterMsg>,
    root: Root,
    _links: Vec<Arc<dyn PeerTransport>>,
}

impl Bench {
    /// The first of three members.
    async fn start(id: &ObjectId) -> Self {
        let (kit, network) = (kit(), MemoryNetwork::new());
        let all: Vec<_> = (1..=3).map(|key| Founder::example(key).this).collect();
        let links: Vec<_> = all
            .iter()
            .map(|this| {
                let (links, _) = network.join(this.node, &this.peer);
                let others = all.iter().filter(|other| other.node != this.node);
                links.keep(others.map(|other| (other.node, other.peer.clone())).collect());
                links as Arc<dyn PeerTransport>
            })
            .collect();
        let args = ReplicaWriterArgs {
            shard: shard_of(id),
            store: Arc::new(MemoryStore::new(Arc::clone(&kit.clock))),
            transport: Arc::clone(&links[0]),
            view: Published::new(view_of(1, 3, 3)),
            rescans: Arc::default(),
            endings: Arc::default(),
            outbox: Arc::default(),
            left_behind: Arc::new(|| {}),
            holds: Arc::new(|_| {}),
            given: Arc::default(),
            gauge: Arc::default(),
        };
        let (worker, spec) = worker::<ReplicaWriter>(&kit, "replica_writer-0", "storage", args);
        let storage = nested(&kit, "storage", "node", vec![spec]);
        let root = Root::start(&kit, "node", vec![storage]).await.unwrap();
        Self { kit, network, worker, root, _links: links }
    }

    /// How much the round asks of another member in ten seconds.
    async fn asks(&self) -> u64 {
        self.network.take_sent(node(1), node(2));
        pass(10 * SECOND).await;
        self.network.take_sent(node(1), node(2)).messages
    }
}

#[tokio::test(start_paused = true)]
async fn a_round_stops_when_whoever_wanted_it_has_gone() {
    let id = object("a");
    let bench = Bench::start(&id).await;
    let content =
        Content { value: "x".into(), creation_time: None, expires_at: None, content_type: None };
    let change = Change::Write { content, condition: Condition::Any };
    let round = bench.kit.clock.monotonic().plus_us(60_000_000);
    let (worker, from) = (bench.worker.clone(), Arc::from("test"));
    let context = Context { trace: bench.kit.recorder.new_trace(), deadline: Some(round) };
    let asking = tokio::spawn(async move {
        let order = RegisterOrder::Change(change);
        let make = |reply| ReplicaWriterMsg::Begin { id, order, round, reply };
        worker.ask(&from, context, make).await
    });
    assert!(bench.asks().await > 5, "it goes on while somebody waits");
    asking.abort();
    pass(2 * SECOND).await;
    assert_eq!(bench.asks().await, 0, "nobody waits any more");
    bench.root.stop().await;
}
