//! Links over real sockets on loopback, and handshakes and limits against a peer that is played by hand.

mod by_hand;
mod pairs;
mod played;
mod storms;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use libp2p_identity::Keypair;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::*;
use nomad_ports::{OsEntropy, SystemClock, peer_transport::LinkEvent};
use nomad_proto::link::link_server::{Link as LinkService, LinkServer};

/// How long anything in a test may take that needs no time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that will happen.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} in time"))
}

/// Lets others run until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    soon(what, so).await;
}

/// Hands the streams of a tonic server on.
struct Door(Arc<Links>);

#[tonic::async_trait]
impl LinkService for Door {
    type OpenStream = BoxStream<'static, Result<Frames, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<Frames>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let messages = request.into_inner();
        let messages = messages.map(|m| m.map_err(|status| connection::told_status(&status)));
        let answers = self.0.accept(messages.boxed(), Box::new(|| {}));
        Ok(Response::new(answers.map(Ok).boxed()))
    }
}

/// Answers with what it was asked, counts, and can be made to wait for ever or to break.
#[derive(Default)]
struct Echo {
    asked: AtomicUsize,
    heard: AtomicUsize,
    traces: Mutex<Vec<TraceContext>>,
    news: Notify,
}

impl PeerHandler for Echo {
    fn answer(
        &self,
        _: NodeId,
        trace: TraceContext,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        self.asked.fetch_add(1, SeqCst);
        self.traces.lock().unwrap().push(trace);
        self.news.notify_one();
        match &*body {
            b"wait" => futures::future::pending().boxed(),
            b"refuse" => async { Err("it said no".to_owned()) }.boxed(),
            b"break" => panic!("the handler breaks at once"),
            b"break later" => async {
                tokio::task::yield_now().await;
                panic!("the handler breaks later")
            }
            .boxed(),
            b"later" => async {
                tokio::task::yield_now().await;
                Ok(Bytes::from_static(b"later"))
            }
            .boxed(),
            _ => futures::future::ready(Ok(body)).boxed(),
        }
    }

    fn heard(&self, _: NodeId, _: TraceContext, _: Bytes) {
        self.heard.fetch_add(1, SeqCst);
        self.news.notify_one();
    }
}

fn options() -> LinkOptions {
    LinkOptions::new("test", 4 << 20)
}

type Answer = BoxFuture<'static, Result<Bytes, LinkError>>;

/// A node: its links, its listener, what it says and what it hears.
struct Peer {
    links: Arc<Links>,
    node: NodeId,
    address: String,
    echo: Arc<Echo>,
    events: mpsc::Receiver<LinkEvent>,
    server: AbortHandle,
}

impl Peer {
    async fn start() -> Self {
        Self::start_with(Keypair::generate_ed25519(), options()).await
    }

    async fn start_with(key: Keypair, options: LinkOptions) -> Self {
        let (sink, events) = mpsc::channel(4_096);
        let sink: LinkSink = Arc::new(move |event| {
            let told = sink.try_send(event);
            assert!(!matches!(told, Err(mpsc::error::TrySendError::Full(_))), "room for events");
        });
        let clock = Arc::new(SystemClock::new());
        let links = Links::new(key, options, clock, Arc::new(OsEntropy), sink).unwrap();
        let echo = Arc::new(Echo::default());
        links.serve(Service::Log, echo.clone());
        links.serve(Service::Replica, echo.clone());
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        watch_socket(&socket).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let service = LinkServer::new(Door(Arc::clone(&links)))
            .max_decoding_message_size(links.message_bytes_max())
            .max_encoding_message_size(usize::MAX);
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(socket));
        let server = tokio::spawn(server).abort_handle();
        let node = links.inner.own.node;
        Self { links, node, address, echo, events, server }
    }

    /// Says that a link to another is to be kept.
    fn keep(&self, address: &str, other: &Peer) {
        self.links.keep(BTreeMap::from([(other.node, address.to_owned())]));
    }

    /// Holds the link to a node for ever, with no pause between two tries.
    fn hold(&self, node: NodeId) -> AbortHandle {
        let links = Arc::clone(&self.links);
        let holding = async move {
            loop {
                links.hold(node).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::spawn(holding).abort_handle()
    }

    fn ask(&self, to: NodeId, body: &'static [u8]) -> Answer {
        self.ask_with(to, Bytes::from_static(body))
    }

    fn ask_with(&self, to: NodeId, body: Bytes) -> Answer {
        self.links.ask(to, Service::Log, TraceContext::default(), body, PATIENCE)
    }

    /// Waits for the next event.
    async fn event(&mut self) -> LinkEvent {
        soon("an event", self.events.recv()).await.unwrap()
    }

    async fn up(&mut self, node: NodeId) {
        assert_eq!(self.event().await, LinkEvent::Up(node));
    }

    async fn down(&mut self, other: NodeId) -> String {
        match self.event().await {
            LinkEvent::Down { node, reason } if node == other => reason,
            event => panic!("{event:?}"),
        }
    }

    fn reading(&self, other: NodeId) -> LinkReading {
        let readings = self.links.readings();
        readings.into_iter().find(|reading| reading.node == other).expect("a reading")
    }

    /// How many links have a task, those included that end.
    fn link_count(&self) -> usize {
        self.links.inner.tasks.len()
    }

    /// Waits until no link has a task any more.
    async fn until_linkless(&self) {
        while self.link_count() > 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) {
        self.links.close().await;
        self.server.abort();
    }
}

/// A cable between a link and a listener that can be cut and mended.
struct Cable {
    address: String,
    accepting: AbortHandle,
    wires: Arc<Mutex<JoinSet<()>>>,
    is_cut: Arc<std::sync::atomic::AtomicBool>,
}

impl Cable {
    async fn to(target: &str) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let wires = Arc::new(Mutex::new(JoinSet::new()));
        let is_cut = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (target, all, cut) = (target.to_owned(), Arc::clone(&wires), Arc::clone(&is_cut));
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = socket.accept().await {
                if cut.load(SeqCst) {
                    continue;
                }
                let target = target.clone();
                all.lock().unwrap().spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, accepting: accepting.abort_handle(), wires, is_cut }
    }

    fn cut(&self) {
        self.is_cut.store(true, SeqCst);
        self.wires.lock().unwrap().abort_all();
    }

    fn mend(&self) {
        self.is_cut.store(false, SeqCst);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}
