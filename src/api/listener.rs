//! Listening: the accept loop that all three listeners share, and the actor that owns it.
//!
//! Every connection counts against a limit, every request takes a permit before anything of it is read, every body is
//! limited. Killing the actor closes no connection in the middle of a request: those finish, and the next incarnation
//! accepts on the same socket.

use std::{
    error::Error, future::Future, net::TcpListener as StdListener, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{admission::Admission, body::LimitedBody, connection, error::ApiError};
use nomad_actors::{
    recorder::Outcome,
    shell::{ActorMessage, Described, Handling, Reply, Worker},
};
use nomad_config::LimitsConfig;

/// What answers the requests of a listener.
pub trait Edge: Clone + Send + Sync + 'static {
    /// The body of its answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// Which protocol it speaks.
    const PROTOCOL: HttpProtocol;

    /// The most bytes that a request's body may have.
    fn body_bytes_max(&self) -> u64;

    /// Tells whether a path is answered without a permit, so that a busy node can still be looked at.
    fn is_exempt(&self, path: &str) -> bool;

    /// Tells whether a path is answered by a stream that may stay open. It gives its permit back with its head.
    fn is_stream(&self, path: &str) -> bool {
        let _ = path;
        false
    }

    /// Tells whether a path opens a link between nodes, which stays open both ways for as long as they do.
    fn is_link(&self, path: &str) -> bool {
        let _ = path;
        false
    }

    /// Answers a request.
    fn call(
        &self,
        request: Request<LimitedBody<Incoming>>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Answers a request that got no permit.
    fn refuse(&self, request: &Request<Incoming>, error: &ApiError) -> Response<Self::Body>;
}

/// What a listener speaks, without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge, as gRPC does.
    Http2,
}

/// What all listeners of a node share.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Permits for requests.
    pub admission: Arc<Admission>,
    /// Permits for requests that must be answered by a busy node too.
    pub exempt: Arc<Admission>,
    /// Times and sizes.
    pub limits: LimitsConfig,
}

// ---- messages ----

/// What an edge actor can be asked.
#[derive(Debug)]
pub enum ListenerMsg {
    /// Ask: accept no more, finish what was accepted; answered when all connections have ended.
    Drain {
        /// Takes the end.
        reply: Reply<()>,
    },
}

impl ActorMessage for ListenerMsg {}

impl Described for ListenerMsg {
    fn kind(&self) -> &'static str {
        "Drain"
    }
}

// ---- arguments ----

type Serve = dyn Fn(&CancellationToken, &TaskTracker) -> Result<(), String> + Send + Sync;

/// What the actor is started with: how to serve each of its sockets.
#[derive(Clone, Default)]
pub struct ListenerArgs {
    serve: Vec<Arc<Serve>>,
}

impl ListenerArgs {
    /// Adds a socket and the edge that answers on it.
    #[must_use]
    pub fn with<E: Edge>(mut self, socket: Arc<StdListener>, gate: Gate, edge: E) -> Self {
        let connections = Arc::new(Semaphore::new(gate.limits.connections));
        let gate = Arc::new(gate);
        self.serve.push(Arc::new(move |stop, connections_open| {
            let socket = socket.try_clone().map_err(|error| error.to_string())?;
            socket.set_nonblocking(true).map_err(|error| error.to_string())?;
            let socket = TcpListener::from_std(socket).map_err(|error| error.to_string())?;
            let accept = Accept {
                socket,
                gate: Arc::clone(&gate),
                edge: edge.clone(),
                connections: Arc::clone(&connections),
                stop: stop.clone(),
                tracker: connections_open.clone(),
            };
            tokio::spawn(accept.run());
            Ok(())
        }));
        self
    }
}

// ---- state ----

/// The actor; without one, how a node listens before it has actors. Dropping it stops accepting and lets the open connections finish.
pub struct Listener {
    stop: CancellationToken,
    connections: TaskTracker,
    _guard: DropGuard,
}

impl Listener {
    /// Begins to accept.
    ///
    /// # Errors
    /// When a socket cannot be used.
    pub fn open(args: &ListenerArgs) -> Result<Self, String> {
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        let guard = stop.clone().drop_guard();
        args.serve.iter().try_for_each(|serve| serve(&stop, &connections))?;
        connections.close();
        Ok(Self { stop, connections, _guard: guard })
    }
}

// ---- handler ----

impl Worker for Listener {
    type Msg = ListenerMsg;
    type Args = ListenerArgs;

    fn start(args: &ListenerArgs, _: &Handling<'_, ListenerMsg>) -> Result<Self, String> {
        Self::open(args)
    }

    fn handle(
        &mut self,
        _: &Handling<'_, ListenerMsg>,
        message: ListenerMsg,
    ) -> Result<Outcome, String> {
        let ListenerMsg::Drain { reply } = message;
        self.stop.cancel();
        let connections = self.connections.clone();
        tokio::spawn(async move {
            connections.wait().await;
            reply.send(());
        });
        Ok(Outcome::Done("draining"))
    }
}

/// The loop that accepts connections on one socket.
struct Accept<E> {
    socket: TcpListener,
    gate: Arc<Gate>,
    edge: E,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl<E: Edge> Accept<E> {
    async fn run(self) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or the peer has gone already: others may go before the next try.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // Over the limit the connection is closed at once.
            let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else { continue };
            // Small answers must not wait for the peer's acknowledgement of the one before.
            let _ = stream.set_nodelay(true);
            let (gate, edge) = (Arc::clone(&self.gate), self.edge.clone());
            let stop = self.stop.clone();
            self.tracker.spawn(async move {
                connection::serve(stream, gate, edge, stop).await;
                drop(place);
            });
        }
    }
}
