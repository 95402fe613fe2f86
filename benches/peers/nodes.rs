//! nomad's own nodes: a group of them, or one alone, in the release profile with an fsync before each answer; and a client
//! like that of etcd, on `GroupStorageService`.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nomad::proto::{
    groupstorage::{
        GetObjectRequest, PutObjectRequest, UpdateObjectRequest,
        group_storage_service_client::GroupStorageServiceClient,
    },
    models::GameObjectGrpc,
};
use serde_json::Value;
use tonic::{
    Request as Call,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use super::{
    START_LIMIT, free_port,
    load::{Client, Kind, Request},
    start, subdir, until,
};
use crate::support::{counters, process::Process};

const NODE: &str = env!("CARGO_BIN_EXE_nomad");

/// Which mode requests ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One node.
    Fast,
    /// A quorum.
    Safe,
}

/// A node that runs.
pub struct Node {
    process: Process,
    /// Its id.
    pub id: String,
    /// host:port of its REST listener.
    pub rest: String,
    storage: String,
}

/// A group of nodes.
pub struct Nodes {
    dir: PathBuf,
    network: String,
    bootstrap: String,
    started: usize,
    /// Those that run.
    pub nodes: Vec<Node>,
}

impl Nodes {
    /// Starts so many and waits until they are one group.
    pub async fn start(count: usize, dir: &Path) -> Result<Self> {
        let network = format!("bench-{}-{}", std::process::id(), free_port()?);
        let bootstrap = format!("127.0.0.1:{}", free_port()?);
        let dir = dir.to_owned();
        let mut group = Self { dir, network, bootstrap, started: 0, nodes: Vec::new() };
        for _ in 0..count {
            group.add()?;
        }
        group.agree().await?;
        Ok(group)
    }

    /// Starts one more.
    pub fn add(&mut self) -> Result<()> {
        let name = format!("node-{}", self.started);
        let dir = subdir(&self.dir, &name)?;
        let mut command = Command::new(NODE);
        command.arg("start").arg("--data-dir").arg("data");
        // Nothing of the caller's environment configures the node.
        command.env_clear().envs(env::vars().filter(|(name, _)| name == "PATH" || name == "HOME"));
        command.env("LOG_LEVEL", "info").env("LOG_FORMAT", "json").env("BOOTSTRAP_MDNS", "false");
        command.env("NETWORK_NAME", &self.network).env("NODE_MAXPEERS", "8");
        command.env("BOOTSTRAP_DISCOVERYWINDOW", "1s").env("GROUP_REMOVEAFTER", "5s");
        command.env("SCHEDULE_HEALTHCHECK", "1s");
        if self.started == 0 {
            let (_, port) = self.bootstrap.rsplit_once(':').context("no port")?;
            command.args(["--type", "super-peer"]).env("NODE_PORTS_OVERLAY", port);
        } else {
            command.args(["--bootstrap", &self.bootstrap]);
        }
        self.started += 1;
        let mut process = start(&name, command, &dir)?;
        let running = process.wait_for(START_LIMIT, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line.get("msg")? == "Node running").then_some(line)
        })?;
        let text = |name: &str| {
            let found = running.get(name).and_then(Value::as_str);
            found.map(str::to_owned).with_context(|| format!("no {name} in {running}"))
        };
        let (id, rest, storage) = (text("nodeId")?, text("REST")?, text("storage")?);
        self.nodes.push(Node { process, id, rest, storage });
        Ok(())
    }

    /// Kills one for good, with its disk.
    pub fn kill_for_good(&mut self, number: usize) -> Result<String> {
        ensure!(number < self.nodes.len(), "there is no node {number}");
        let Node { process, id, .. } = self.nodes.remove(number);
        drop(process);
        Ok(id)
    }

    /// Waits until each says that those that run are the group.
    pub async fn agree(&self) -> Result<()> {
        until("a group of nomad's", async || {
            for node in &self.nodes {
                let status: Value =
                    serde_json::from_str(&counters::get(&node.rest, "/nomad/v1/status").await?)?;
                let members = status.get("members").and_then(Value::as_array);
                let count = members.map_or(0, Vec::len);
                let ready = status.get("ready") == Some(&Value::Bool(true));
                ensure!(ready && count == self.nodes.len(), "{count} members at {}", node.rest);
            }
            Ok(())
        })
        .await
    }

    /// So many clients on one connection to the first node, or on one to each.
    pub async fn clients(&self, count: usize, mode: Mode, spread: bool) -> Result<Vec<NodeClient>> {
        let wanted = if spread { self.nodes.len() } else { 1 };
        let nodes = self.nodes.iter().take(wanted);
        NodeClient::connect(nodes.map(|node| node.storage.as_str()), count, Some(mode)).await
    }

    /// The sum of every counter and gauge over all nodes, by its name without labels. Those of actors are left out.
    pub async fn figures(&self) -> Result<BTreeMap<String, f64>> {
        let mut sums = BTreeMap::new();
        for node in &self.nodes {
            let text = counters::get(&node.rest, "/metrics").await?;
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
                if let Some(value) = value.filter(|_| !name.starts_with("nomad_actor")) {
                    *sums.entry(name.to_owned()).or_insert(0.0) += value;
                }
            }
        }
        Ok(sums)
    }

    /// Waits until no outbox holds anything: what a row left behind is not the next one's to pay for. A node that shows no
    /// such figure is given a second.
    pub async fn drained(&self) -> Result<()> {
        let outbox = |name: &&String| name.contains("outbox") && !name.ends_with("_total");
        let shown = self.figures().await?.keys().any(|name| outbox(&name) && holds(name));
        if !shown {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Ok(());
        }
        until("empty outboxes", async || {
            let figures = self.figures().await?;
            let full = figures.iter().filter(|(name, _)| outbox(name) && holds(name));
            let left: f64 = full.map(|(_, value)| value).sum();
            ensure!(left == 0.0, "{left} left in outboxes");
            Ok(())
        })
        .await
    }
}

/// Whether a figure of an outbox says how much it holds, and not how old that is or how much it may be.
fn holds(name: &str) -> bool {
    ["bytes", "entries", "objects"].iter().any(|unit| name.ends_with(unit)) && !name.contains("max")
}

/// One worker's client.
pub struct NodeClient {
    client: GroupStorageServiceClient<Channel>,
    mode: Option<Mode>,
}

impl NodeClient {
    /// So many clients on one connection to each address.
    pub async fn connect<'a>(
        addresses: impl Iterator<Item = &'a str>,
        count: usize,
        mode: Option<Mode>,
    ) -> Result<Vec<Self>> {
        let mut channels = Vec::new();
        for address in addresses {
            let endpoint: Endpoint = format!("http://{address}").parse()?;
            channels.push(endpoint.tcp_nodelay(true).connect().await?);
        }
        let all = channels.into_iter().map(GroupStorageServiceClient::new).collect::<Vec<_>>();
        Ok(all.iter().cycle().take(count).map(|it| Self { client: it.clone(), mode }).collect())
    }

    fn asked<T>(&self, message: T) -> Call<T> {
        let mut call = Call::new(message);
        let mode = self.mode.map(|mode| match mode {
            Mode::Fast => MetadataValue::from_static("fast"),
            Mode::Safe => MetadataValue::from_static("safe"),
        });
        if let Some(mode) = mode {
            call.metadata_mut().insert("nomad-mode", mode);
        }
        call
    }
}

impl Client for NodeClient {
    async fn call(&mut self, request: Request) -> Result<()> {
        let Request { kind, key: id, value } = request;
        let done = match kind {
            Kind::Get => {
                let call = self.asked(GetObjectRequest { id });
                self.client.get(call).await?.into_inner().result
            }
            Kind::Create => {
                let object = Some(GameObjectGrpc { id, value, ..GameObjectGrpc::default() });
                let call = self.asked(PutObjectRequest { object });
                self.client.put(call).await?.into_inner().result
            }
            Kind::Update => {
                let object = Some(GameObjectGrpc { id, value, ..GameObjectGrpc::default() });
                let call = self.asked(UpdateObjectRequest { object });
                self.client.update(call).await?.into_inner().result
            }
        };
        if done { Ok(()) } else { bail!("{kind:?} was refused") }
    }
}
