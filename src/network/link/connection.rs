//! Outgoing connections: one for each link that this node opens, and how a dead one is noticed.
//!
//! A dead peer is noticed in two ways. The kernel sends a probe when nothing has come for two seconds, and closes the
//! connection when nothing was acknowledged for three and a half. That costs this process nothing, and works on both sides,
//! since accepted sockets inherit the setting of the listener. HTTP/2 pings, from the side that opened the link, notice a
//! process that is stopped on a machine that still runs.

use std::{
    future::Future,
    io,
    os::fd::AsFd,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt as _, future::BoxFuture, stream::BoxStream};
use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, task::AbortHandle};
use tonic::body::Body;

use super::{options::LinkOptions, outgoing::Outgoing};
use nomad_proto::link::{Frames, link_client::LinkClient};

/// After how long without a sign of life the kernel asks, how often it asks again, and when it gives up.
const PROBE_AFTER: Duration = Duration::from_secs(2);
const PROBE_EVERY: Duration = Duration::from_secs(1);
const GONE_AFTER: Duration = Duration::from_millis(3_500);

/// What may be on its way on a link before it is read.
const WINDOW_BYTES: u32 = 4 << 20;

/// Makes the kernel notice within about four seconds that the other side of a connection is gone. For streams, and for
/// listeners, whose streams inherit it.
///
/// # Errors
/// When the operating system refuses.
pub fn watch_socket(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY);
    socket.set_tcp_keepalive(&probes.with_retries(2))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(GONE_AFTER))?;
    Ok(())
}

/// A connection's tasks, which end with it.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let task = tokio::spawn(task).abort_handle();
        // One for the connection and one for the body of its only request.
        self.0.lock().push(task);
    }
}

/// An open connection. Dropping it closes it at once.
pub(super) struct LinkConnection(Tasks);

impl Drop for LinkConnection {
    fn drop(&mut self) {
        let tasks = std::mem::take(&mut *self.0.0.lock());
        tasks.iter().for_each(AbortHandle::abort);
    }
}

/// hyper's sender as tonic's clients want it.
struct Sender(http2::SendRequest<Body>);

impl tower_service::Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Opens a stream to the peer listener at `address`. The error is a text for people.
pub(super) async fn open(
    address: &str,
    outgoing: Outgoing,
    options: &LinkOptions,
) -> Result<(LinkConnection, BoxStream<'static, Result<Frames, String>>), String> {
    let origin = format!("http://{address}");
    let origin = Uri::try_from(origin).map_err(|error| format!("it is no host:port: {error}"))?;
    let connecting = tokio::time::timeout(options.connect_limit, TcpStream::connect(address));
    let stream = match connecting.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no connection within {:?}", options.connect_limit)),
    };
    stream.set_nodelay(true).and_then(|()| watch_socket(&stream)).map_err(|e| e.to_string())?;
    let tasks = Tasks::default();
    let connection = LinkConnection(tasks.clone());
    let (sender, driver) = http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_limit)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| told(&error))?;
    hyper::rt::Executor::execute(&tasks, async move {
        // How it ends is what the stream says.
        let _ = driver.await;
    });
    let mut client = LinkClient::with_origin(Sender(sender), origin)
        .max_decoding_message_size(options.message_bytes_max())
        .max_encoding_message_size(usize::MAX);
    let answer = client.open(outgoing).await.map_err(|status| told_status(&status))?;
    let messages = answer.into_inner().map(|m| m.map_err(|status| told_status(&status)));
    Ok((connection, messages.boxed()))
}

/// What a status says of a broken stream.
pub(super) fn told_status(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => told(source),
        None => super::handshake::shown(status.message()),
    }
}

/// The innermost cause, which is the one that says something.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_streams_of_a_watched_listener_are_watched_too() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        watch_socket(&socket).unwrap();
        let address = socket.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), socket.accept());
        let (near, (far, _)) = (near.unwrap(), far.unwrap());
        let far = SockRef::from(&far);
        assert!(far.keepalive().unwrap());
        assert_eq!(far.tcp_keepalive_time().unwrap(), PROBE_AFTER);
        assert_eq!(far.tcp_keepalive_interval().unwrap(), PROBE_EVERY);
        assert_eq!(far.tcp_user_timeout().unwrap(), Some(GONE_AFTER));
        assert!(!SockRef::from(&near).keepalive().unwrap());
    }
}
