//! Where a process runs: in the machine's own network, or in a network namespace of the test. A socket belongs to the
//! namespace in which it was made, so a short-lived thread enters the namespace, makes it there, and hands it out.

use std::{
    io,
    net::{SocketAddr, TcpStream as StdTcpStream},
    path::PathBuf,
    pin::Pin,
    process::Command,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{net::TcpStream, sync::oneshot};
use tower_service::Service;

/// How long a connection may take to open.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// The machine's own network by default.
#[derive(Debug, Clone, Default)]
pub struct Place {
    namespace: Option<String>,
}

impl Place {
    /// The namespace of this name, as `ip netns` knows it.
    pub fn namespace(name: &str) -> Self {
        Self { namespace: Some(name.to_owned()) }
    }

    /// `program`, to be run in this place. The process started is the program itself, with no shell around it.
    pub fn command(&self, program: &str) -> Command {
        let Some(namespace) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, program]);
        command
    }

    /// Runs `work` on a thread that stands in this place.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> oneshot::Receiver<io::Result<T>> {
        let (done, result) = oneshot::channel();
        let namespace = self.namespace.clone();
        thread::spawn(move || {
            let _ = done.send(enter(namespace).and_then(|()| work()));
        });
        result
    }

    /// Connects from here to `address`.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        if self.namespace.is_none() {
            return TcpStream::connect(address).await;
        }
        let connected = self.run(move || {
            let stream = StdTcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        TcpStream::from_std(connected.await.map_err(io::Error::other)??)
    }
}

/// Moves the calling thread into a namespace, for good.
fn enter(namespace: Option<String>) -> io::Result<()> {
    let Some(name) = namespace else { return Ok(()) };
    let file = std::fs::File::open(PathBuf::from("/run/netns").join(name))?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Opens the connections of the HTTP and gRPC clients from a place.
#[derive(Debug, Clone)]
pub struct Connector(pub Place);

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let place = self.0.clone();
        Box::pin(async move {
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            let address = authority.parse().map_err(io::Error::other)?;
            let stream = place.connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}
