//! Listening: the accept loop that all three listeners share, and the actor that owns it.
//!
//! Every connection counts against a limit, every request takes a permit before anything of it is read, every body is
//! limited. Killing the actor closes no connection in the middle of a request: those finish, and the next incarnation
//! accepts on the same socket.

use std::{
    convert::Infallible, error::Error, future::Future, net::TcpListener as StdListener, pin::Pin,
    sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{admission::Admission, body::LimitedBody, error::ApiError};
use crate::{
    actors::{
        recorder::Outcome,
        shell::{Described, Handling, Message, Reply, Role},
    },
    config::LimitsConfig,
};

/// What answers the requests of a listener.
pub trait Edge: Clone + Send + Sync + 'static {
    /// The body of its answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// Which protocol it speaks.
    const PROTOCOL: Protocol;

    /// The most bytes that a request's body may have.
    fn body_bytes_max(&self) -> u64;

    /// Tells whether a path is answered without a permit, so that a busy node can still be looked at.
    fn is_exempt(&self, path: &str) -> bool;

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
pub enum Protocol {
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

impl Message for ListenerMsg {}

impl Described for ListenerMsg {
    fn kind(&self) -> &'static str {
        "Drain"
    }
}

// ---- arguments ----

type Serve = dyn Fn(&CancellationToken, &TaskTracker) -> Result<(), String> + Send + Sync;

/// What the actor is started with: how to serve each of its sockets.
#[derive(Clone, Default)]
pub struct Args {
    serve: Vec<Arc<Serve>>,
}

impl Args {
    /// Adds a socket and the edge that answers on it.
    #[must_use]
    pub fn with<E: Edge>(mut self, socket: StdListener, gate: Gate, edge: E) -> Self {
        let socket = Arc::new(socket);
        let connections = Arc::new(Semaphore::new(gate.limits.connections));
        self.serve.push(Arc::new(move |stop, connections_open| {
            let socket = socket.try_clone().map_err(|error| error.to_string())?;
            socket.set_nonblocking(true).map_err(|error| error.to_string())?;
            let socket = TcpListener::from_std(socket).map_err(|error| error.to_string())?;
            let accept = Accept {
                socket,
                gate: gate.clone(),
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

/// The actor. Dropping it stops accepting and lets the open connections finish.
pub struct Listener {
    stop: CancellationToken,
    connections: TaskTracker,
    _guard: DropGuard,
}

// ---- handler ----

impl Role for Listener {
    type Msg = ListenerMsg;
    type Args = Args;

    fn start(args: &Args, _: &Handling<'_, ListenerMsg>) -> Result<Self, String> {
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        let guard = stop.clone().drop_guard();
        args.serve.iter().try_for_each(|serve| serve(&stop, &connections))?;
        connections.close();
        Ok(Self { stop, connections, _guard: guard })
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
    gate: Gate,
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
            let (gate, edge, stop) = (self.gate.clone(), self.edge.clone(), self.stop.clone());
            self.tracker.spawn(async move {
                serve(stream, gate, edge, stop).await;
                drop(place);
            });
        }
    }
}

/// Serves one connection until it ends; once `stop` is cancelled it ends after the requests it has begun.
async fn serve<E: Edge>(stream: TcpStream, gate: Gate, edge: E, stop: CancellationToken) {
    let limits = gate.limits.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (gate, edge) = (gate.clone(), edge.clone());
        async move { Ok::<_, Infallible>(answer(&gate, &edge, request).await) }
    });
    // A connection that breaks is the client's affair: its requests are recorded where they are handled.
    match E::PROTOCOL {
        Protocol::Http1 => {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_timeout)
                .max_buf_size((limits.header_bytes as usize).max(8 << 10))
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                biased;
                _ = connection.as_mut() => return,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
        Protocol::Http2 => {
            let io = TokioIo::new(Prompt::new(stream, limits.header_timeout));
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits.requests.min(4_096) as u32)
                .max_header_list_size(limits.header_bytes as u32)
                .adaptive_window(false)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .keep_alive_interval(Some(limits.idle_timeout / 2))
                .keep_alive_timeout(limits.idle_timeout / 2)
                .serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                biased;
                _ = connection.as_mut() => return,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }
    }
}

/// Takes a permit and lets the edge answer, or refuses at once.
async fn answer<E: Edge>(gate: &Gate, edge: &E, request: Request<Incoming>) -> Response<E::Body> {
    let exempt = edge.is_exempt(request.uri().path());
    let admission = if exempt { &gate.exempt } else { &gate.admission };
    let permit = match admission.admit() {
        Ok(permit) => Arc::new(permit),
        Err(error) => return edge.refuse(&request, &error),
    };
    let limited = |body| {
        let timeout = gate.limits.body_timeout;
        LimitedBody::new(body, Arc::clone(&permit), edge.body_bytes_max(), timeout)
    };
    let response = edge.call(request.map(limited)).await;
    drop(permit);
    response
}

/// A stream that fails when its peer has not sent a connection preface's worth of bytes in time. hyper has such a limit
/// for HTTP/1 alone.
struct Prompt {
    stream: TcpStream,
    wanted_bytes: usize,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Prompt {
    /// The HTTP/2 client preface and the header of the settings frame behind it.
    const PREFACE_BYTES: usize = 24 + 9;

    fn new(stream: TcpStream, timeout: Duration) -> Self {
        let timer = Some(Box::pin(tokio::time::sleep(timeout)));
        Self { stream, wanted_bytes: Self::PREFACE_BYTES, timer }
    }
}

impl tokio::io::AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.timer.is_none() {
            return read;
        }
        let got = buf.filled().len() - before;
        self.wanted_bytes = self.wanted_bytes.saturating_sub(got);
        if self.wanted_bytes == 0 {
            self.timer = None;
        } else if let Some(timer) = self.timer.as_mut()
            && timer.as_mut().poll(cx).is_ready()
        {
            return std::task::Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl tokio::io::AsyncWrite for Prompt {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
