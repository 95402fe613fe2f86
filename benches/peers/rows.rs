//! The rows of the speed table: what is compared, in which order it is measured, and what is to come out.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    etcd::{Etcd, EtcdClient},
    load::{Client, Kind, Plan, Request, Run, drive, fill},
    nats::{Nats, NatsClient},
    nodes::{Mode, NodeClient, Nodes},
    redis::{Redis, RedisClient},
};
use crate::support::{figures::Spread, server::Server};

/// Rest between two measurements, in which what the last one left can end.
const PAUSE: Duration = Duration::from_millis(200);
/// Workers that fill a system before it is measured.
const FILLERS: usize = 64;

/// Everything that runs.
pub struct Systems {
    /// Three nodes of nomad.
    pub group: Nodes,
    /// A node alone.
    pub single: Server,
    /// Three servers.
    pub etcd: Option<Etcd>,
    /// A server and two replicas.
    pub redis: Option<Redis>,
    /// Three servers.
    pub nats: Option<Nats>,
    /// Whether clients ask all servers of a system, or one.
    pub spread: bool,
}

/// One of the systems, in one way of asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// Three nodes of nomad, in mode safe.
    Safe,
    /// Three nodes of nomad, in mode fast.
    Fast,
    /// A node of nomad alone.
    Single,
    /// etcd.
    Etcd,
    /// Redis.
    Redis,
    /// NATS.
    Nats,
}

impl Subject {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safe => "nomad safe",
            Self::Fast => "nomad fast",
            Self::Single => "single node",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::Nats => "nats",
        }
    }
}

/// A client of any of them.
pub enum AnyClient {
    /// Of nomad.
    Node(NodeClient),
    /// Of etcd.
    Etcd(EtcdClient),
    /// Of Redis.
    Redis(RedisClient),
    /// Of NATS.
    Nats(NatsClient),
}

impl Client for AnyClient {
    async fn call(&mut self, request: Request) -> Result<()> {
        match self {
            Self::Node(client) => client.call(request).await,
            Self::Etcd(client) => client.call(request).await,
            Self::Redis(client) => client.call(request).await,
            Self::Nats(client) => client.call(request).await,
        }
    }
}

impl Systems {
    /// Whether it runs.
    pub fn has(&self, subject: Subject) -> bool {
        match subject {
            Subject::Safe | Subject::Fast | Subject::Single => true,
            Subject::Etcd => self.etcd.is_some(),
            Subject::Redis => self.redis.is_some(),
            Subject::Nats => self.nats.is_some(),
        }
    }

    async fn clients(&self, subject: Subject, count: usize) -> Result<Vec<AnyClient>> {
        let missing = || format!("{} does not run", subject.name());
        let nodes = |clients: Vec<NodeClient>| clients.into_iter().map(AnyClient::Node).collect();
        Ok(match subject {
            Subject::Safe => nodes(self.group.clients(count, Mode::Safe, self.spread).await?),
            Subject::Fast => nodes(self.group.clients(count, Mode::Fast, self.spread).await?),
            Subject::Single => {
                let address = std::iter::once(self.single.storage()?);
                nodes(NodeClient::connect(address, count, None).await?)
            }
            Subject::Etcd => {
                let etcd = self.etcd.as_ref().with_context(missing)?;
                let clients = etcd.clients(count, self.spread).await?;
                clients.into_iter().map(AnyClient::Etcd).collect()
            }
            Subject::Redis => {
                let redis = self.redis.as_ref().with_context(missing)?;
                redis.clients(count).await?.into_iter().map(AnyClient::Redis).collect()
            }
            Subject::Nats => {
                let nats = self.nats.as_ref().with_context(missing)?;
                let clients = nats.clients(count, self.spread).await?;
                clients.into_iter().map(AnyClient::Nats).collect()
            }
        })
    }

    /// Writes the keys that are read and updated, in every system.
    pub async fn fill(&self, sizes: &[usize], keys: u64) -> Result<()> {
        let all = [Subject::Safe, Subject::Single, Subject::Etcd, Subject::Redis, Subject::Nats];
        for subject in all.into_iter().filter(|subject| self.has(*subject)) {
            for size in sizes {
                let clients = self.clients(subject, FILLERS).await?;
                let filled = fill(clients, *size, keys).await;
                filled.with_context(|| format!("filling {}", subject.name()))?;
            }
        }
        Ok(())
    }
}

/// One comparison.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What is judged.
    pub subject: Subject,
    /// What it is judged by.
    pub yardstick: Subject,
    /// What stands beside them.
    pub beside: Vec<Subject>,
    /// The least ratio that is wanted.
    pub target: f64,
    /// The ratio that is hoped for.
    pub aim: Option<f64>,
    kind: Kind,
    size_bytes: usize,
    concurrency: usize,
}

/// All rows.
pub fn rows(concurrencies: &[usize]) -> Vec<Row> {
    let mut rows = Vec::new();
    let kinds = [(Kind::Create, "create"), (Kind::Update, "update"), (Kind::Get, "get")];
    for (kind, verb) in kinds {
        for (size, size_bytes) in [("100B", 100), ("1KiB", 1024)] {
            for concurrency in concurrencies.iter().copied() {
                let (target, aim) = if kind == Kind::Get { (2.0, 3.0) } else { (1.5, 2.5) };
                rows.push(Row {
                    name: format!("safe-{verb}-{size}-{concurrency}"),
                    subject: Subject::Safe,
                    yardstick: Subject::Etcd,
                    beside: vec![Subject::Redis, Subject::Nats],
                    target,
                    aim: Some(aim),
                    kind,
                    size_bytes,
                    concurrency,
                });
            }
        }
    }
    for (kind, verb) in [(Kind::Create, "put"), (Kind::Get, "get")] {
        for concurrency in concurrencies.iter().copied() {
            rows.push(Row {
                name: format!("fast-{verb}-100B-{concurrency}"),
                subject: Subject::Fast,
                yardstick: Subject::Single,
                beside: Vec::new(),
                target: 0.8,
                aim: None,
                kind,
                size_bytes: 100,
                concurrency,
            });
        }
    }
    rows
}

/// How one subject did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Which.
    pub subject: Subject,
    /// Requests per second.
    pub per_second: Spread,
    /// Latencies.
    pub p50_us: Spread,
    /// Latencies.
    pub p99_us: Spread,
    /// Failed requests in all rounds.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    runs: Vec<f64>,
}

impl Figures {
    fn of(subject: Subject, runs: &[Run]) -> Self {
        Self {
            subject,
            per_second: Spread::of(runs.iter().map(|run| run.per_second)),
            p50_us: Spread::of(runs.iter().map(|run| run.p50_us)),
            p99_us: Spread::of(runs.iter().map(|run| run.p99_us)),
            errors: runs.iter().map(|run| run.errors).sum(),
            first_error: runs.iter().find_map(|run| run.first_error.clone()),
            runs: runs.iter().map(|run| run.per_second).collect(),
        }
    }
}

/// What a request of the group cost it, on average over the row.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Flushes to the disk for each request and node.
    pub fsyncs_per_node: f64,
    /// Flushes for each batch of the store.
    pub fsyncs_per_batch: f64,
    /// What else the nodes count of messages, for each request, over all nodes.
    pub messages: BTreeMap<String, f64>,
}

/// The result of a row.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RowResult {
    /// Its name.
    pub name: String,
    /// Of the medians; `None` when there is nothing to compare with.
    pub ratio: Option<f64>,
    /// Of the single rounds.
    pub ratio_spread: Spread,
    /// The least that is wanted.
    pub target: f64,
    /// What is hoped for.
    pub aim: Option<f64>,
    /// Whether it is reached, without a failed request.
    pub pass: Option<bool>,
    /// The subject, the yardstick, and those beside.
    pub figures: Vec<Figures>,
    /// What a write cost the group.
    pub cost: Option<Cost>,
}

/// Measures a row: all subjects in turn, forwards in one round and backwards in the next.
pub async fn measure(
    row: &Row,
    systems: &Systems,
    rounds: u32,
    duration: Duration,
    keys: u64,
    run: &mut u64,
) -> Result<RowResult> {
    let all = [row.subject, row.yardstick].into_iter().chain(row.beside.iter().copied());
    let subjects: Vec<_> = all.filter(|subject| systems.has(*subject)).collect();
    let mut clients = BTreeMap::new();
    for subject in &subjects {
        clients.insert(*subject, systems.clients(*subject, row.concurrency).await?);
    }
    let mut runs: BTreeMap<Subject, Vec<Run>> = BTreeMap::new();
    let mut cost = Costs::default();
    for round in 0..rounds {
        let mut turn = subjects.clone();
        if round % 2 == 1 {
            turn.reverse();
        }
        for subject in turn {
            tokio::time::sleep(PAUSE).await;
            *run += 1;
            let plan = Plan {
                kind: row.kind,
                size_bytes: row.size_bytes,
                keys,
                duration,
                warmup: duration / 5,
                run: *run,
            };
            let own = subject == row.subject;
            let before = if own { Some(systems.group.figures().await?) } else { None };
            let workers = clients.remove(&subject).unwrap_or_default();
            let measured = drive(workers, &plan).await;
            let (done, workers) = measured.with_context(|| subject.name())?;
            clients.insert(subject, workers);
            if let Some(before) = before {
                cost.add(&before, &systems.group.figures().await?, done.done);
            }
            if subject == Subject::Fast && row.kind != Kind::Get {
                systems.group.drained().await?;
            }
            runs.entry(subject).or_default().push(done);
        }
    }
    let figures: Vec<_> = subjects
        .iter()
        .map(|subject| Figures::of(*subject, runs.get(subject).map_or(&[], Vec::as_slice)))
        .collect();
    let cost = (row.kind != Kind::Get).then(|| cost.per_request(systems.group.nodes.len()));
    Ok(verdict_of(row, figures, cost))
}

fn verdict_of(row: &Row, figures: Vec<Figures>, cost: Option<Cost>) -> RowResult {
    let of = |subject| figures.iter().find(|it| it.subject == subject);
    let pair = of(row.subject).zip(of(row.yardstick));
    let ratio_of = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    let ratio = pair.map(|(a, b)| ratio_of(a.per_second.median, b.per_second.median));
    let rounds = pair.map(|(a, b)| a.runs.iter().zip(&b.runs).map(|(a, b)| ratio_of(*a, *b)));
    let ratio_spread = Spread::of(rounds.into_iter().flatten());
    let clean = pair.is_some_and(|(a, b)| a.errors + b.errors == 0);
    let pass = ratio.map(|ratio| clean && ratio >= row.target);
    let (name, target, aim) = (row.name.clone(), row.target, row.aim);
    RowResult { name, ratio, ratio_spread, target, aim, pass, cost, figures }
}

/// What the nodes counted while a row's subject was measured.
#[derive(Default)]
struct Costs {
    added: BTreeMap<String, f64>,
    requests: u64,
}

impl Costs {
    fn add(
        &mut self,
        before: &BTreeMap<String, f64>,
        after: &BTreeMap<String, f64>,
        requests: u64,
    ) {
        self.requests += requests;
        for (name, value) in after.iter().filter(|(name, _)| name.ends_with("_total")) {
            let before = before.get(name).copied().unwrap_or_default();
            *self.added.entry(name.clone()).or_default() += value - before;
        }
    }

    fn per_request(&self, nodes: usize) -> Cost {
        let requests = (self.requests as f64).max(1.0);
        let of = |name: &str| self.added.get(name).copied().unwrap_or_default();
        let fsyncs = of("nomad_store_fsyncs_total");
        let is_message = |name: &str| name.contains("message") || name.contains("frame");
        let messages = self.added.iter().filter(|(name, value)| is_message(name) && **value > 0.0);
        Cost {
            fsyncs_per_node: fsyncs / requests / nodes as f64,
            fsyncs_per_batch: fsyncs / of("nomad_store_batches_total").max(1.0),
            messages: messages.map(|(name, value)| (name.clone(), value / requests)).collect(),
        }
    }
}
