//! Links over the real peer listener: they need no permit of a request, no limit of one ends them, and who has proved
//! nothing can send little.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use libp2p_identity::Keypair;
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::mpsc};
use tonic::{Code, transport::Endpoint};

use crate::{
    admission::Admission,
    grpc::peer_edge,
    listener::{Gate, Listener, ListenerArgs, ListenerMsg},
    test_backend::TestNode,
};
use nomad_actors::{Context, shell::worker, supervisor::Root};
use nomad_config::Config;
use nomad_core::model::{node_id::NodeId, trace::TraceContext};
use nomad_network::link::{LinkOptions, LinkSink, Links};
use nomad_ports::{
    LinkMaker as _, OsEntropy, PeerHandler, PeerTransport as _, SystemClock,
    peer_transport::{LinkEvent, Service},
};
use nomad_proto::link::{Frames, Hello, link_client::LinkClient};

const PATIENCE: Duration = Duration::from_secs(20);

struct Echo;

impl PeerHandler for Echo {
    fn answer(
        &self,
        _: NodeId,
        _: TraceContext,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        futures::future::ready(Ok(body)).boxed()
    }

    fn heard(&self, _: NodeId, _: TraceContext, _: Bytes) {}
}

fn links() -> (Arc<Links>, NodeId, mpsc::Receiver<LinkEvent>) {
    let (sink, events) = mpsc::channel(100);
    let sink: LinkSink = Arc::new(move |event| drop(sink.try_send(event)));
    let key = Keypair::generate_ed25519();
    let node = NodeId::from_key(key.public().try_into_ed25519().unwrap().to_bytes());
    let options = LinkOptions::new("test", 4 << 20);
    let clock = Arc::new(SystemClock::new());
    let links = Links::new(key, options, clock, Arc::new(OsEntropy), sink).unwrap();
    links.serve(Service::Log, Arc::new(Echo));
    (links, node, events)
}

/// A node whose peer listener is open.
struct Open {
    test: TestNode,
    root: Root,
    listener: nomad_actors::Address<ListenerMsg>,
    links: Arc<Links>,
    node: NodeId,
    address: SocketAddr,
}

impl Open {
    async fn start(config: Config) -> Self {
        let test = TestNode::start_with(config).await;
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let gate = Gate {
            admission: test.backend.admission.clone(),
            exempt: Arc::new(Admission::new(8, 1 << 20)),
            limits: test.backend.config.limits.clone(),
        };
        let (links, node, _) = links();
        let kit = &test.backend.service.kit;
        let edge = peer_edge(test.backend.clone(), Some(links.clone()));
        let args = ListenerArgs::default().with(Arc::new(socket), gate, edge);
        let (listener, spec) = worker::<Listener>(kit, "grpc", "edge", args);
        let root = Root::start(kit, "edge", vec![spec]).await.unwrap();
        Self { test, root, listener, links, node, address }
    }

    async fn stop(self) {
        // What ends the links before the drain is the node's to do.
        self.links.close().await;
        let from: Arc<str> = "test".into();
        let ask =
            self.listener.ask(&from, Context::default(), |reply| ListenerMsg::Drain { reply });
        tokio::time::timeout(PATIENCE, ask).await.expect("no link holds the drain up").unwrap();
        self.root.stop().await;
        self.test.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_outlives_every_limit_of_a_request_and_holds_no_permit() {
    let mut config = Config::default();
    let short = Duration::from_millis(40);
    config.limits.request_timeout = short;
    config.limits.body_timeout = short;
    config.limits.idle_timeout = 2 * short;
    config.limits.header_timeout = short;
    config.limits.requests = 3;
    let open = Open::start(config).await;
    let permits: Vec<_> = (0..3).map(|_| open.test.backend.admission.admit().unwrap()).collect();
    assert!(open.test.backend.admission.admit().is_err(), "the node is busy");
    let (links, _, mut events) = links();
    links.keep(BTreeMap::from([(open.node, open.address.to_string())]));
    let held = tokio::spawn(links.hold(open.node));
    assert_eq!(events.recv().await, Some(LinkEvent::Up(open.node)));
    let ask =
        |body: Bytes| links.ask(open.node, Service::Log, TraceContext::default(), body, PATIENCE);
    let large = Bytes::from(vec![1; 4 << 20]);
    assert_eq!(ask(large.clone()).await.unwrap(), large);
    for _ in 0..3 {
        // A connection that says nothing is closed after its time, which a link then has outlived.
        let mut silent = TcpStream::connect(open.address).await.unwrap();
        let mut rest = Vec::new();
        // The server's settings, then the end.
        let closed = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest));
        assert!(closed.await.is_ok());
    }
    assert_eq!(ask(Bytes::from_static(b"still")).await.unwrap(), "still");
    assert_eq!(open.test.backend.admission.in_hand(), 3);
    assert!(events.try_recv().is_err());
    drop(permits);
    held.abort();
    links.close().await;
    open.stop().await;
}

#[tokio::test]
async fn who_has_proved_nothing_can_send_little() {
    let open = Open::start(Config::default()).await;
    let channel = Endpoint::from_shared(format!("http://{}", open.address)).unwrap();
    let mut client = LinkClient::new(channel.connect().await.unwrap());
    let hello = Hello { network: "n".repeat(20 << 10), ..Hello::default() };
    let hello = Frames { hello: Some(hello), ..Frames::default() };
    let mut answers = client.open(futures::stream::iter([hello])).await.unwrap().into_inner();
    let refusal = answers.next().await.unwrap().unwrap().refusal.expect("a refusal");
    assert!(refusal.detail.contains("16384"), "{refusal:?}");
    assert!(open.links.readings().is_empty());
    open.stop().await;
}

#[tokio::test]
async fn a_node_without_links_says_so() {
    let test = TestNode::start().await;
    let edge = peer_edge(test.backend.clone(), None);
    let answer =
        super::send(&edge, "/nomad.link.v1.Link/Open", &[], Bytes::new()).await.1.unwrap_err();
    assert_eq!(answer.code(), Code::Unavailable, "{answer}");
    test.stop().await;
}
