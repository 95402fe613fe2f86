//! A server under load: the real node or a yardstick, as a child process with its own fresh data directory.

use std::{env, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use nomad::cli::bench::{BenchApi, BenchTarget};
use serde::Deserialize;
use tempfile::TempDir;

use super::{
    counters::{self, Counters},
    process::Process,
    yardstick::{Ready, Yardstick},
};

/// The node's command line.
const NODE: &str = env!("CARGO_BIN_EXE_nomad");
const START_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What kind of server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The node of this package.
    Node,
    /// A server of the bench itself.
    Yardstick(Yardstick),
}

impl Kind {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::Yardstick(yardstick) => yardstick.name(),
        }
    }
}

/// A running server. It ends when it is dropped.
pub struct Server {
    kind: Kind,
    process: Process,
    rest: Option<String>,
    storage: Option<String>,
    _dir: TempDir,
}

/// The node's line that says where it serves.
#[derive(Deserialize)]
struct NodeRunning {
    msg: String,
    #[serde(rename = "REST")]
    rest: String,
    storage: String,
}

impl Server {
    /// Starts a server with its data under `scratch` and waits until it serves.
    pub fn start(kind: Kind, scratch: &Path) -> Result<Server> {
        let dir = tempfile::Builder::new()
            .prefix("nomad-bench-")
            .tempdir_in(scratch)
            .with_context(|| format!("cannot make a directory in {}", scratch.display()))?;
        match kind {
            Kind::Node => Server::start_node(dir),
            Kind::Yardstick(yardstick) => Server::start_yardstick(yardstick, dir),
        }
    }

    fn start_node(dir: TempDir) -> Result<Server> {
        let mut command = Command::new(NODE);
        command.arg("start").arg("--data-dir").arg(dir.path().join("data"));
        // Nothing of the caller's environment configures the node, and its own directory holds no configuration.
        command.env_clear().envs(env::vars().filter(|(name, _)| name == "PATH" || name == "HOME"));
        command
            .env("LOG_LEVEL", "info")
            .env("LOG_FORMAT", "json")
            .env("BOOTSTRAP_MDNS", "false")
            .current_dir(dir.path());
        let mut process = Process::start("the node", command)?;
        let running = process.wait_for(START_LIMIT, |line| {
            serde_json::from_str::<NodeRunning>(line).ok().filter(|it| it.msg == "Node running")
        })?;
        let (rest, storage) = (Some(running.rest), Some(running.storage));
        Ok(Server { kind: Kind::Node, process, rest, storage, _dir: dir })
    }

    fn start_yardstick(yardstick: Yardstick, dir: TempDir) -> Result<Server> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--serve", yardstick.name(), "--dir"]).arg(dir.path());
        let mut process = Process::start(yardstick.name(), command)?;
        let ready: Ready = process.wait_for(START_LIMIT, |line| serde_json::from_str(line).ok())?;
        let kind = Kind::Yardstick(yardstick);
        Ok(Server { kind, process, rest: ready.rest, storage: ready.storage, _dir: dir })
    }

    /// What kind of server it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `host:port` of its REST listener.
    pub fn rest(&self) -> Result<&str> {
        self.rest.as_deref().with_context(|| format!("{} has no REST listener", self.kind.name()))
    }

    /// `host:port` of its storage listener.
    pub fn storage(&self) -> Result<&str> {
        let storage = self.storage.as_deref();
        storage.with_context(|| format!("{} has no gRPC listener", self.kind.name()))
    }

    /// The target of REST load.
    pub fn rest_target(&self) -> Result<BenchTarget> {
        let base = format!("http://{}", self.rest()?).parse()?;
        Ok(BenchTarget::Rest { base, api: BenchApi::Objects })
    }

    /// The target of gRPC load.
    pub fn grpc_target(&self) -> Result<BenchTarget> {
        Ok(BenchTarget::Grpc { storage: self.storage()?.parse()? })
    }

    /// Its counters; `None` for a server that writes nothing.
    pub async fn counters(&mut self) -> Result<Option<Counters>> {
        match self.kind {
            Kind::Node => counters::scrape(self.rest()?).await.map(Some),
            Kind::Yardstick(Yardstick::Minimal) => {
                self.process.tell("counters")?;
                let answer =
                    self.process.wait_for(ANSWER_LIMIT, |line| serde_json::from_str(line).ok())?;
                Ok(Some(answer))
            }
            Kind::Yardstick(Yardstick::BareWarp | Yardstick::BareTonic) => Ok(None),
        }
    }
}
