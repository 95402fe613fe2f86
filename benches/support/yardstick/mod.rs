//! The servers that the node is measured against. Each runs in a process of its own, started from the bench's binary
//! with `--serve`, prints one line of JSON when it serves, and ends when its input is closed.

mod grpc;
mod minimal;

use std::{
    io::{Write as _, stdin, stdout},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use nomad::proto::groupstorage::group_storage_service_server::GroupStorageServiceServer;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};
use warp::Filter as _;

use self::{
    grpc::{Fixed, Service},
    minimal::Minimal,
};
use super::counters::Counters;

/// What the bare servers answer with: 100 bytes.
const BARE_VALUE: &str = "a fixed answer of one hundred bytes, as long as an object that the node is asked for in the same run";

/// A server to measure against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Yardstick {
    /// warp that answers every GET with the same 100 bytes.
    BareWarp,
    /// tonic that answers every get of the storage service with the same 100-byte object.
    BareTonic,
    /// The storage service on tonic and fjall with a group commit, and nothing else: no actors, no limits, no traces.
    Minimal,
}

impl Yardstick {
    /// Its name in tables and for `--serve`.
    pub fn name(self) -> &'static str {
        match self {
            Yardstick::BareWarp => "bare-warp",
            Yardstick::BareTonic => "bare-tonic",
            Yardstick::Minimal => "minimal",
        }
    }
}

/// Where a yardstick serves.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// `host:port` of its HTTP listener.
    pub rest: Option<String>,
    /// `host:port` of its gRPC listener.
    pub storage: Option<String>,
}

/// Serves until the input is closed.
pub fn serve(yardstick: Yardstick, dir: &Path) -> ExitCode {
    let served = super::runtime().and_then(|runtime| {
        let counters = runtime.block_on(start(yardstick, dir))?;
        answer_control_lines(&*counters)
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error:#}", yardstick.name());
            ExitCode::FAILURE
        }
    }
}

/// What a control line asks for.
type ReadCounters = dyn Fn() -> Counters;

/// Starts serving in tasks of the runtime and says where.
async fn start(yardstick: Yardstick, dir: &Path) -> Result<Box<ReadCounters>> {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    match yardstick {
        Yardstick::BareWarp => {
            let listener = TcpListener::bind(anywhere).await?;
            let rest = listener.local_addr()?.to_string();
            let hello = warp::get().map(|| BARE_VALUE);
            tokio::spawn(warp::serve(hello).incoming(listener).run());
            say(&Ready { rest: Some(rest), storage: None })?;
            Ok(Box::new(Counters::default))
        }
        Yardstick::BareTonic => {
            start_grpc(anywhere, GroupStorageServiceServer::new(Service(Fixed::new())))?;
            Ok(Box::new(Counters::default))
        }
        Yardstick::Minimal => {
            let minimal = Arc::new(Minimal::open(dir)?);
            let service = Service(Arc::clone(&minimal));
            start_grpc(anywhere, GroupStorageServiceServer::new(service))?;
            Ok(Box::new(move || minimal.counters()))
        }
    }
}

fn start_grpc<T: grpc::Objects>(
    address: SocketAddr,
    service: GroupStorageServiceServer<Service<T>>,
) -> Result<()> {
    let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
    let storage = incoming.local_addr()?.to_string();
    let service = service.max_decoding_message_size(8 << 20);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    say(&Ready { rest: None, storage: Some(storage) })
}

/// Answers each line of the input with the counters, until the input is closed.
fn answer_control_lines(counters: &ReadCounters) -> Result<()> {
    for line in stdin().lines() {
        line.context("reading a control line")?;
        say(&counters())?;
    }
    Ok(())
}

fn say(message: &impl Serialize) -> Result<()> {
    let mut out = stdout().lock();
    serde_json::to_writer(&mut out, message)?;
    out.write_all(b"\n")?;
    out.flush().context("nobody reads what this server says")
}
