//! `cargo bench --bench link`: what a request over a link costs next to bare gRPC on the same machine in the same run.
//!
//! Three servers answer with what they were asked, each on a listener and a runtime thread pool of its own kind: the link
//! (queue, limits, handlers, batches), a bare bidirectional stream of tonic with one message per request and none of that,
//! and a bare unary call. Each is loaded by a closed loop with so many requests outstanding, in an order that alternates.
//! benches/README.md explains the rows.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use libp2p_identity::Keypair;
use nomad::{
    core::model::{node_id::NodeId, trace::TraceContext},
    network::link::{LinkOptions, LinkSink, Links},
    ports::{
        LinkAcceptor, LinkMaker, OsEntropy, PeerHandler, PeerTransport, SystemClock,
        peer_transport::{LinkEvent, Service},
    },
    proto::{
        link::{
            Frame, Frames,
            link_client::LinkClient,
            link_server::{Link, LinkServer},
        },
        models::GameObjectGrpc,
        peerstorage::{
            DeleteObjectRequest, DeleteObjectResponse, GetObjectRequest, GetObjectResponse,
            PutObjectRequest, PutObjectResponse, UpdateObjectRequest, UpdateObjectResponse,
            peer_storage_service_client::PeerStorageServiceClient,
            peer_storage_service_server::{PeerStorageService, PeerStorageServiceServer},
        },
    },
};
use serde::Serialize;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const OUTSTANDING: [usize; 4] = [1, 16, 64, 256];
const LIMIT: Duration = Duration::from_secs(10);

/// Prints the ratios of the link to bare gRPC.
#[derive(Debug, Clone, Parser)]
#[command(name = "link")]
struct Flags {
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Bytes of a request and of its answer.
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Three rounds of half a second: a look, not a result.
    #[arg(long)]
    quick: bool,
    /// How often each server is measured [default: 7, quick: 3].
    #[arg(long)]
    rounds: Option<u32>,
    /// Length of one measurement [default: 2s, quick: 500ms].
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Set by `cargo bench`. Without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Output {
    /// A table for people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Link,
    BareStream,
    BareUnary,
}

const KINDS: [Kind; 3] = [Kind::Link, Kind::BareStream, Kind::BareUnary];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    outstanding: usize,
    /// Requests per second: medians, in the order of the kinds.
    per_second: [f64; 3],
    to_stream: f64,
    to_unary: f64,
    /// Messages of the link that were sent at once.
    batch: f64,
}

/// Answers with what it is asked.
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

type Opened = BoxStream<'static, Result<Frames, Status>>;

/// The link's service over a bare tonic server.
struct LinkService(Arc<Links>);

#[tonic::async_trait]
impl Link for LinkService {
    type OpenStream = Opened;

    async fn open(&self, request: Request<Streaming<Frames>>) -> Result<Response<Opened>, Status> {
        let messages = request.into_inner().map(|m| m.map_err(|status| status.to_string()));
        Ok(Response::new(self.0.accept(messages.boxed(), Box::new(|| {})).map(Ok).boxed()))
    }
}

/// Sends each message back as it comes: the yardstick of streams, and of single calls.
struct Bare;

#[tonic::async_trait]
impl Link for Bare {
    type OpenStream = Opened;

    async fn open(&self, request: Request<Streaming<Frames>>) -> Result<Response<Opened>, Status> {
        Ok(Response::new(request.into_inner().boxed()))
    }
}

/// The yardstick of single calls: `get` gives back its id as a value.
#[tonic::async_trait]
impl PeerStorageService for Bare {
    async fn get(
        &self,
        request: Request<GetObjectRequest>,
    ) -> Result<Response<GetObjectResponse>, Status> {
        let value = request.into_inner().id.into();
        let object = Some(GameObjectGrpc { value, ..GameObjectGrpc::default() });
        Ok(Response::new(GetObjectResponse { object, result: true }))
    }

    async fn put(
        &self,
        _: Request<PutObjectRequest>,
    ) -> Result<Response<PutObjectResponse>, Status> {
        Err(Status::unimplemented("a yardstick keeps nothing"))
    }

    async fn update(
        &self,
        _: Request<UpdateObjectRequest>,
    ) -> Result<Response<UpdateObjectResponse>, Status> {
        Err(Status::unimplemented("a yardstick keeps nothing"))
    }

    async fn delete(
        &self,
        _: Request<DeleteObjectRequest>,
    ) -> Result<Response<DeleteObjectResponse>, Status> {
        Err(Status::unimplemented("a yardstick keeps nothing"))
    }
}

async fn serve(service: impl Link) -> Result<String> {
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    let address = socket.local_addr()?.to_string();
    let service = LinkServer::new(service).max_decoding_message_size(usize::MAX);
    let accepted = TcpListenerStream::new(socket).map(|stream| {
        // As the node's listeners do: tonic leaves it to whoever accepts.
        stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
    });
    let server = Server::builder()
        .add_service(service)
        .add_service(PeerStorageServiceServer::new(Bare))
        .serve_with_incoming(accepted);
    tokio::spawn(server);
    Ok(address)
}

fn links(sink: LinkSink) -> Result<(Arc<Links>, NodeId)> {
    let key = Keypair::generate_ed25519();
    let node = NodeId::from_key(key.public().try_into_ed25519()?.to_bytes());
    let options = LinkOptions::new("bench", 4 << 20);
    Ok((Links::new(key, options, Arc::new(SystemClock::new()), Arc::new(OsEntropy), sink)?, node))
}

/// Everything that is measured, connected.
struct Bench {
    links: Arc<Links>,
    to: NodeId,
    stream: String,
    unary: Channel,
    body: Bytes,
}

impl Bench {
    async fn start(size: usize) -> Result<Self> {
        let (server, to) = links(Arc::new(|_| {}))?;
        server.serve(Service::Replica, Arc::new(Echo));
        let address = serve(LinkService(server)).await?;
        let (sink, mut events) = mpsc::channel(16);
        let sink: LinkSink = Arc::new(move |event| drop(sink.try_send(event)));
        let (links, _) = links(sink)?;
        links.keep(BTreeMap::from([(to, address)]));
        tokio::spawn(links.hold(to));
        let event = events.recv().await.context("no event")?;
        anyhow::ensure!(event == LinkEvent::Up(to), "the link is not up: {event:?}");
        let stream = serve(Bare).await?;
        let unary = Endpoint::from_shared(format!("http://{}", serve(Bare).await?))?;
        let unary = unary.tcp_nodelay(true).connect().await?;
        Ok(Self { links, to, stream, unary, body: Bytes::from(vec![7; size]) })
    }

    /// Loads a server for as long, and returns the requests per second.
    async fn measure(&self, kind: Kind, outstanding: usize, duration: Duration) -> Result<f64> {
        let start = now();
        let count = match kind {
            Kind::Link => self.load_link(outstanding, start + duration).await?,
            Kind::BareStream => self.load_stream(outstanding, start + duration).await?,
            Kind::BareUnary => self.load_unary(outstanding, start + duration).await?,
        };
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }

    async fn load_link(&self, outstanding: usize, end: Instant) -> Result<u64> {
        let mut workers = JoinSet::new();
        for _ in 0..outstanding {
            let (links, to, body) = (Arc::clone(&self.links), self.to, self.body.clone());
            workers.spawn(async move {
                let mut count = 0;
                while now() < end {
                    let trace = TraceContext::default();
                    links.ask(to, Service::Replica, trace, body.clone(), LIMIT).await?;
                    count += 1;
                }
                anyhow::Ok(count)
            });
        }
        total(workers).await
    }

    /// As many workers, each waiting for its own answer, over one stream without batches: the least that a program must
    /// do which asks over a stream.
    async fn load_stream(&self, outstanding: usize, end: Instant) -> Result<u64> {
        type Askers = Mutex<BTreeMap<u64, tokio::sync::oneshot::Sender<Bytes>>>;
        let channel = Endpoint::from_shared(format!("http://{}", self.stream))?;
        let channel = channel.tcp_nodelay(true).connect().await?;
        let (sender, messages) = mpsc::channel::<Frames>(outstanding);
        let mut client = LinkClient::new(channel);
        let mut answers = client.open(ReceiverStream::new(messages)).await?.into_inner();
        let askers: Arc<Askers> = Arc::default();
        let waiting = Arc::clone(&askers);
        let reading = tokio::spawn(async move {
            while let Some(Ok(answer)) = answers.next().await {
                for frame in answer.frames {
                    let asker = waiting.lock().ok().and_then(|mut all| all.remove(&frame.id));
                    if let Some(asker) = asker {
                        let _ = asker.send(frame.body);
                    }
                }
            }
        });
        let mut workers = JoinSet::new();
        for worker in 0..outstanding as u64 {
            let (sender, askers, body) = (sender.clone(), Arc::clone(&askers), self.body.clone());
            workers.spawn(async move {
                let mut count = 0;
                while now() < end {
                    let id = (count << 16) + worker;
                    let (asker, answer) = tokio::sync::oneshot::channel();
                    if let Ok(mut all) = askers.lock() {
                        all.insert(id, asker);
                    }
                    let frame = Frame { id, body: body.clone(), ..Frame::default() };
                    let message = Frames { frames: vec![frame], ..Frames::default() };
                    sender.send(message).await?;
                    answer.await?;
                    count += 1;
                }
                anyhow::Ok(count)
            });
        }
        drop(sender);
        let count = total(workers).await;
        reading.abort();
        count
    }

    async fn load_unary(&self, outstanding: usize, end: Instant) -> Result<u64> {
        let mut workers = JoinSet::new();
        for _ in 0..outstanding {
            let mut client = PeerStorageServiceClient::new(self.unary.clone());
            let id = "7".repeat(self.body.len());
            workers.spawn(async move {
                let mut count = 0;
                while now() < end {
                    client.get(GetObjectRequest { id: id.clone() }).await?;
                    count += 1;
                }
                anyhow::Ok(count)
            });
        }
        total(workers).await
    }
}

async fn total(mut workers: JoinSet<Result<u64>>) -> Result<u64> {
    let mut count = 0;
    while let Some(worker) = workers.join_next().await {
        count += worker??;
    }
    Ok(count)
}

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

async fn run(flags: &Flags) -> Result<Vec<Row>> {
    let bench = Bench::start(flags.size).await?;
    let rounds = flags.rounds.unwrap_or(if flags.quick { 3 } else { 7 }).max(1);
    let duration =
        flags.duration.unwrap_or(Duration::from_millis(if flags.quick { 500 } else { 2_000 }));
    let mut rows = Vec::new();
    for outstanding in OUTSTANDING {
        let sent = || bench.links.readings().first().map(|link| link.sent).unwrap_or_default();
        let (mut runs, before) = ([const { Vec::new() }; 3], sent());
        for round in 0..rounds {
            // Forwards and backwards in turn.
            let mut order = [0, 1, 2];
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let (Some(kind), Some(runs)) = (KINDS.get(index), runs.get_mut(index)) else {
                    continue;
                };
                bench.measure(*kind, outstanding, duration / 5).await?;
                runs.push(bench.measure(*kind, outstanding, duration).await?);
            }
        }
        let after = sent();
        let per_second = runs.map(|mut runs| median(&mut runs));
        let [link, stream, unary] = per_second;
        let batches = (after.batches - before.batches).max(1);
        rows.push(Row {
            outstanding,
            per_second,
            to_stream: link / stream,
            to_unary: link / unary,
            batch: (after.messages - before.messages) as f64 / batches as f64,
        });
    }
    Ok(rows)
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if !flags.bench {
        println!("nothing measured: run it with cargo bench");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(&flags)));
    let rows = match ended {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match flags.output {
        Output::Json => match serde_json::to_string_pretty(&rows) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("error: {error}"),
        },
        Output::Text => {
            println!(
                "requests of {} bytes per second, medians\n\n{:>11}  {:>9}  {:>11}  {:>10}  {:>12}  {:>11}  {:>9}",
                flags.size,
                "outstanding",
                "link",
                "bare stream",
                "bare unary",
                "link/stream",
                "link/unary",
                "per batch"
            );
            for row in rows {
                let [link, stream, unary] = row.per_second;
                println!(
                    "{:>11}  {link:>9.0}  {stream:>11.0}  {unary:>10.0}  {:>12.2}  {:>11.2}  {:>9.1}",
                    row.outstanding, row.to_stream, row.to_unary, row.batch
                );
            }
        }
    }
    ExitCode::SUCCESS
}
