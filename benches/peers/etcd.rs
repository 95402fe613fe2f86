//! Three etcd servers, and a client of the few calls that are needed. The messages are written out by hand after etcd's
//! `rpc.proto` and `kv.proto` (v3.4, Apache-2.0), so that the package needs no other protobuf files than its own.
//!
//! A put is acknowledged when a majority has it on disk; a range is linearizable unless it asks to be `serializable`.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use prost::Message;
use tonic::{
    Request as Call,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    Programs, free_ports,
    load::{Client, Kind, Request},
    start, subdir, until,
};
use crate::support::process::Process;

/// Room for everything that a long run writes: etcd keeps every version until it is told otherwise.
const QUOTA_BYTES: u64 = 8 << 30;

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// Three servers that have a leader.
pub struct Etcd {
    _servers: Vec<Process>,
    /// The leader's first.
    endpoints: Vec<String>,
}

impl Etcd {
    /// Starts them with their data under `dir`; `None` when the program is not there.
    pub async fn start(programs: &Programs, dir: &Path) -> Result<Option<Self>> {
        let clients = free_ports::<3>()?;
        let peers = free_ports::<3>()?;
        let members: Vec<_> = peers
            .iter()
            .enumerate()
            .map(|(number, port)| format!("etcd-{number}=http://127.0.0.1:{port}"))
            .collect();
        let mut servers = Vec::new();
        for (number, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let name = format!("etcd-{number}");
            let Some(mut command) = programs.command("etcd") else { return Ok(None) };
            let (client, peer) =
                (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            command.args(["--name", &name, "--data-dir", "data"]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &members.join(","), "--logger", "zap"]);
            command.args(["--initial-cluster-state", "new", "--log-level", "error"]);
            command.args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()]);
            servers.push(start(&name, command, &subdir(dir, &name)?)?);
        }
        let mut endpoints: Vec<_> =
            clients.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let leader = until("an etcd leader", async || leader(&endpoints).await).await?;
        endpoints.swap(0, leader);
        Ok(Some(Self { _servers: servers, endpoints }))
    }

    /// So many clients on one connection to the leader, or on one to each server.
    pub async fn clients(&self, count: usize, spread: bool) -> Result<Vec<EtcdClient>> {
        let wanted = if spread { self.endpoints.len() } else { 1 };
        let mut channels = Vec::new();
        for endpoint in self.endpoints.iter().take(wanted) {
            channels.push(connect(endpoint).await?);
        }
        let all = channels.iter().cycle().take(count);
        Ok(all.map(|channel| EtcdClient(Grpc::new(channel.clone()))).collect())
    }
}

async fn connect(endpoint: &str) -> Result<Channel> {
    let endpoint: Endpoint = endpoint.parse()?;
    Ok(endpoint.tcp_nodelay(true).connect().await?)
}

/// Which of them leads.
async fn leader(endpoints: &[String]) -> Result<usize> {
    for (number, endpoint) in endpoints.iter().enumerate() {
        let mut client = EtcdClient(Grpc::new(connect(endpoint).await?));
        let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
        let status: StatusResponse = client.unary(path, StatusRequest {}).await?;
        let own = status.header.context("a status without a header")?.member_id;
        if status.leader != 0 && status.leader == own {
            return Ok(number);
        }
    }
    bail!("none of {} servers leads", endpoints.len())
}

/// One worker's client.
pub struct EtcdClient(Grpc<Channel>);

impl EtcdClient {
    async fn unary<Q, A>(&mut self, path: PathAndQuery, message: Q) -> Result<A>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.0.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.0.unary(Call::new(message), path, codec).await?.into_inner())
    }
}

impl Client for EtcdClient {
    async fn call(&mut self, request: Request) -> Result<()> {
        let key = Bytes::from(request.key);
        if request.kind == Kind::Get {
            let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
            let answer: RangeResponse = self.unary(path, RangeRequest { key }).await?;
            let found = answer.kvs.first().is_some_and(|kv| !kv.value.is_empty());
            return if found { Ok(()) } else { bail!("the key is not there") };
        }
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let _: PutResponse = self.unary(path, PutRequest { key, value: request.value }).await?;
        Ok(())
    }
}
