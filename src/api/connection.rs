//! One connection: its protocol, its permits, and the times after which it is closed.
//!
//! hyper times only the head of an HTTP/1 request, with a timer per request, and neither a client that does not read nor
//! one that says nothing on HTTP/2; its pings take a lock for every frame. Here one timer per connection ticks a few
//! times per limit, and looks at what the stream and the requests have noted: a limit is kept to within a quarter of
//! itself, and a request costs no timer.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    admission::Permit,
    body::{LimitedBody, Proven},
    listener::{Edge, Gate, HttpProtocol},
    streams::Streams,
};
use nomad_config::LimitsConfig;

/// The most streams that one HTTP/2 connection may have open.
const STREAMS_MAX: usize = 4_096;

/// The most bytes that another node may send before it has proved who it is.
const STRANGER_BYTES_MAX: u64 = 16 << 10;

/// Serves a connection until it ends; once `stop` is cancelled it ends after the requests that it has begun.
pub(super) async fn serve<E: Edge>(
    stream: TcpStream,
    gate: Arc<Gate>,
    edge: E,
    stop: CancellationToken,
) {
    let limits = gate.limits.clone();
    let pace = Arc::new(Pace::new(&limits));
    let service = {
        let pace = Arc::clone(&pace);
        service_fn(move |request: Request<Incoming>| {
            let (gate, edge, busy) = (Arc::clone(&gate), edge.clone(), Busy::new(&pace));
            async move { Ok::<_, Infallible>(answer(&gate, &edge, request, busy).await) }
        })
    };
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&pace), E::PROTOCOL));
    // A connection that breaks is the client's affair: its requests are recorded where they are handled.
    let watch = Watch::new(&pace, stop);
    match E::PROTOCOL {
        HttpProtocol::Http1 => {
            let connection = hyper::server::conn::http1::Builder::new()
                .header_read_timeout(None)
                .max_buf_size((limits.header_bytes as usize).max(8 << 10))
                .half_close(true)
                .serve_connection(io, service);
            drive(connection, |connection| connection.graceful_shutdown(), watch).await;
        }
        HttpProtocol::Http2 => {
            let streams = Streams::default();
            let connection = hyper::server::conn::http2::Builder::new(streams.executor())
                .max_concurrent_streams(limits.requests.min(STREAMS_MAX) as u32)
                .max_header_list_size(limits.header_bytes as u32)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .serve_connection(io, service);
            drive(connection, |connection| connection.graceful_shutdown(), watch).await;
        }
    }
}

/// Lets a connection run until it has ended, or is cut.
async fn drive<C: Future>(connection: C, finish: impl Fn(Pin<&mut C>), mut watch: Watch<'_>) {
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            verdict = watch.next() => match verdict {
                Verdict::Finish => finish(connection.as_mut()),
                Verdict::Cut => return,
            },
        }
    }
}

/// Takes a permit and lets the edge answer, or refuses at once. The permit is held until the answer has been sent.
async fn answer<E: Edge>(
    gate: &Gate,
    edge: &E,
    request: Request<Incoming>,
    busy: Busy,
) -> Response<Held<E::Body>> {
    let path = request.uri().path();
    if edge.is_link(path) {
        return link(gate, edge, request, busy).await;
    }
    let is_stream = edge.is_stream(path);
    let admission = if edge.is_exempt(path) { &gate.exempt } else { &gate.admission };
    let permit = match admission.admit() {
        Ok(permit) => Arc::new(permit),
        Err(error) => {
            return edge.refuse(&request, &error).map(|body| Held::new(body, None, busy));
        }
    };
    let limited = |body| {
        let timeout = gate.limits.body_timeout;
        LimitedBody::new(body, Arc::clone(&permit), edge.body_bytes_max(), timeout)
    };
    let response = edge.call(request.map(limited)).await;
    let weight = response.extensions().get::<Weight>().map_or(0, |weight| weight.0);
    permit.hold(response.body().size_hint().lower().max(weight));
    let permit = (!is_stream).then_some(permit);
    response.map(|body| Held::new(body, permit, busy))
}

/// Lets the edge answer with a link to another node: no permit, no limit of time, none of size once that node is known.
/// How many there may be is for the edge to say. Its opening needs a place among the exempt requests.
async fn link<E: Edge>(
    gate: &Gate,
    edge: &E,
    mut request: Request<Incoming>,
    busy: Busy,
) -> Response<Held<E::Body>> {
    let _permit = match gate.exempt.admit() {
        Ok(permit) => permit,
        Err(error) => {
            return edge.refuse(&request, &error).map(|body| Held::new(body, None, busy));
        }
    };
    let proven = Proven::default();
    request.extensions_mut().insert(proven.clone());
    let limited = |body| LimitedBody::of_link(body, STRANGER_BYTES_MAX, proven);
    let response = edge.call(request.map(limited)).await;
    response.map(|body| Held::new(body, None, busy))
}

/// In a response's extensions: the bytes that its body holds, where the body itself cannot say.
#[derive(Debug, Clone, Copy)]
pub struct Weight(pub u64);

/// The body of an answer, with what is given back once it has been sent or dropped.
pub(super) struct Held<B> {
    inner: B,
    _permit: Option<Arc<Permit>>,
    _busy: Busy,
}

impl<B> Held<B> {
    fn new(inner: B, permit: Option<Arc<Permit>>, busy: Busy) -> Self {
        Self { inner, _permit: permit, _busy: busy }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Held<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What is known of a connection's pace. Times are counts of ticks; where 0 means "no", a time is one more than its tick.
#[derive(Debug)]
struct Pace {
    tick: AtomicU32,
    requests: AtomicU32,
    /// Since when a head, or on HTTP/2 the preface, is on its way.
    head_since: AtomicU32,
    /// Since when a write waits for the peer to read.
    write_since: AtomicU32,
    idle_since: AtomicU32,
    period: Duration,
    head_ticks: u32,
    write_ticks: u32,
    idle_ticks: u32,
}

impl Pace {
    fn new(limits: &LimitsConfig) -> Self {
        let shortest = limits.header_timeout.min(limits.body_timeout).min(limits.idle_timeout);
        let period = (shortest / 4).max(Duration::from_millis(10));
        let ticks = |limit: Duration| (limit.as_millis() / period.as_millis()).max(1) as u32;
        Self {
            tick: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            head_since: AtomicU32::new(1),
            write_since: AtomicU32::new(0),
            idle_since: AtomicU32::new(0),
            period,
            head_ticks: ticks(limits.header_timeout),
            write_ticks: ticks(limits.body_timeout),
            idle_ticks: ticks(limits.idle_timeout),
        }
    }

    /// Marks `since` with the present tick, unless it is marked.
    fn mark(&self, since: &AtomicU32) {
        if since.load(Relaxed) == 0 {
            since.store(self.tick.load(Relaxed) + 1, Relaxed);
        }
    }

    /// Takes one tick and judges.
    fn on_tick(&self) -> Option<Verdict> {
        let now = self.tick.fetch_add(1, Relaxed) + 1;
        let is_over = |since: &AtomicU32, limit: u32| {
            let since = since.load(Relaxed);
            since != 0 && now.saturating_sub(since - 1) >= limit
        };
        if is_over(&self.head_since, self.head_ticks)
            || is_over(&self.write_since, self.write_ticks)
        {
            return Some(Verdict::Cut);
        }
        let is_idle = self.requests.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0;
        let idle_ticks = now.saturating_sub(self.idle_since.load(Relaxed));
        match idle_ticks.checked_sub(self.idle_ticks) {
            Some(over) if is_idle && over >= self.head_ticks => Some(Verdict::Cut),
            // A peer that is gone does not answer the farewell: it has as long as for a head.
            Some(_) if is_idle => Some(Verdict::Finish),
            _ => None,
        }
    }
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Finish what was begun, then close.
    Finish,
    /// Close now.
    Cut,
}

/// Waits for the end that a connection is to be given.
struct Watch<'a> {
    pace: &'a Pace,
    ticks: tokio::time::Interval,
    stop: CancellationToken,
    stopping: bool,
}

impl<'a> Watch<'a> {
    fn new(pace: &'a Pace, stop: CancellationToken) -> Self {
        let mut ticks = interval(pace.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        // A token of its own: whoever looks at a token locks it, and a connection looks at each of its steps.
        Self { pace, ticks, stop: stop.child_token(), stopping: false }
    }

    async fn next(&mut self) -> Verdict {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if !self.stopping => {
                    self.stopping = true;
                    return Verdict::Finish;
                }
                _ = self.ticks.tick() => {
                    if let Some(verdict) = self.pace.on_tick() {
                        return verdict;
                    }
                }
            }
        }
    }
}

/// A request in hand on a connection, until its answer has been sent.
struct Busy(Arc<Pace>);

impl Busy {
    fn new(pace: &Arc<Pace>) -> Self {
        pace.requests.fetch_add(1, Relaxed);
        pace.head_since.store(0, Relaxed);
        Self(Arc::clone(pace))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let pace = &self.0;
        pace.idle_since.store(pace.tick.load(Relaxed), Relaxed);
        pace.requests.fetch_sub(1, Relaxed);
    }
}

/// A stream that notes when its peer begins to say something, and when it does not read.
struct Watched {
    stream: TcpStream,
    pace: Arc<Pace>,
    protocol: HttpProtocol,
    preface_bytes: usize,
}

impl Watched {
    /// The HTTP/2 client preface and the header of the settings frame behind it.
    const PREFACE_BYTES: usize = 24 + 9;

    fn new(stream: TcpStream, pace: Arc<Pace>, protocol: HttpProtocol) -> Self {
        Self { stream, pace, protocol, preface_bytes: 0 }
    }

    fn on_read(&mut self, len: usize) {
        match self.protocol {
            HttpProtocol::Http1 if len > 0 && self.pace.requests.load(Relaxed) == 0 => {
                self.pace.mark(&self.pace.head_since);
            }
            HttpProtocol::Http2 if self.preface_bytes < Self::PREFACE_BYTES => {
                self.preface_bytes += len;
                if self.preface_bytes >= Self::PREFACE_BYTES {
                    self.pace.head_since.store(0, Relaxed);
                }
            }
            _ => {}
        }
    }

    fn on_write(&self, wrote: &Poll<io::Result<usize>>) {
        match wrote {
            Poll::Pending => self.pace.mark(&self.pace.write_since),
            Poll::Ready(_) if self.pace.write_since.load(Relaxed) != 0 => {
                self.pace.write_since.store(0, Relaxed);
            }
            Poll::Ready(_) => {}
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let len = buf.filled().len() - before;
        self.on_read(len);
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.on_write(&wrote);
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.on_write(&wrote);
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Arc<Pace> {
        let limits = LimitsConfig {
            header_timeout: Duration::from_secs(4),
            body_timeout: Duration::from_secs(8),
            idle_timeout: Duration::from_secs(16),
            ..LimitsConfig::default()
        };
        Arc::new(Pace::new(&limits))
    }

    fn ticks(pace: &Pace, count: u32) -> Vec<Verdict> {
        (0..count).filter_map(|_| pace.on_tick()).collect()
    }

    #[test]
    fn a_client_that_says_nothing_is_cut_off_after_the_header_timeout() {
        let pace = pace();
        assert_eq!(ticks(&pace, 3), []);
        assert_eq!(pace.on_tick(), Some(Verdict::Cut));
    }

    #[test]
    fn a_connection_may_be_idle_for_the_idle_timeout_and_a_busy_one_for_ever() {
        let pace = pace();
        let busy = Busy::new(&pace);
        assert_eq!(ticks(&pace, 100), []);
        drop(busy);
        assert_eq!(ticks(&pace, 15), []);
        assert_eq!(ticks(&pace, 4), [Verdict::Finish; 4]);
        assert_eq!(pace.on_tick(), Some(Verdict::Cut), "a peer that is gone says no farewell");
    }

    #[test]
    fn a_head_that_does_not_end_and_a_peer_that_does_not_read_are_cut_off() {
        let pace = pace();
        drop(Busy::new(&pace));
        pace.mark(&pace.head_since);
        assert_eq!(ticks(&pace, 3), []);
        assert_eq!(pace.on_tick(), Some(Verdict::Cut));
        let pace = self::pace();
        let _busy = Busy::new(&pace);
        pace.mark(&pace.write_since);
        assert_eq!(ticks(&pace, 7), []);
        assert_eq!(pace.on_tick(), Some(Verdict::Cut));
    }
}
