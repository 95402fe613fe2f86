//! How long a group needs until every object has all its replicas again after a member is replaced, and what its clients
//! notice of it.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde::Serialize;
use serde_json::Value;

use super::{
    load::{Kind, Plan, drive, fill, key},
    nodes::{Mode, NodeClient, Nodes},
    now,
};
use crate::support::{counters, figures::Spread};

const SIZE_BYTES: usize = 1024;
const REPLICAS: usize = 3;
/// Workers that read, and as many that update.
const WORKERS: usize = 8;
/// Samples of the throughput before anything happens.
const SAMPLES: usize = 8;
const SAMPLE: Duration = Duration::from_secs(1);
/// Entries of the ledger that are looked at in each sample.
const LOOKED_AT: usize = 500;
/// When it is given up.
const LIMIT: Duration = Duration::from_secs(600);

/// What is wanted.
pub const SECONDS_MAX: f64 = 60.0;
/// The share of their throughput that clients are to keep.
pub const SHARE_MIN: f64 = 0.5;

/// How it went.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Objects in the group.
    pub objects: u64,
    /// From the loss of the old member to the last replica.
    pub seconds_from_loss: f64,
    /// From the start of the new member to the last replica.
    pub seconds_from_join: f64,
    /// Requests per second before the loss.
    pub before: Spread,
    /// Requests per second from the loss to the last replica.
    pub during: Spread,
    /// Of the medians.
    pub share: f64,
    /// Requests that failed in that time.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Whether it is what is wanted.
    pub pass: bool,
}

struct Load {
    readers: Vec<NodeClient>,
    writers: Vec<NodeClient>,
    keys: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Load {
    /// Requests per second, reads and updates together, of one sample.
    async fn sample(&mut self) -> Result<f64> {
        let plan = |kind| Plan {
            kind,
            size_bytes: SIZE_BYTES,
            keys: self.keys,
            duration: SAMPLE,
            warmup: Duration::ZERO,
            run: 0,
        };
        let (reads, writes) = (plan(Kind::Get), plan(Kind::Update));
        let readers = drive(std::mem::take(&mut self.readers), &reads);
        let writers = drive(std::mem::take(&mut self.writers), &writes);
        let (readers, writers) = tokio::try_join!(readers, writers)?;
        let (read, written);
        ((read, self.readers), (written, self.writers)) = (readers, writers);
        self.errors += read.errors + written.errors;
        let first = read.first_error.or(written.first_error);
        self.first_error = self.first_error.take().or(first);
        Ok(read.per_second + written.per_second)
    }
}

/// Fills a group of three, takes one member away with its disk, adds another, and waits.
pub async fn recover(dir: &Path, objects: u64) -> Result<Recovery> {
    let mut group = Nodes::start(3, dir).await?;
    let fillers = group.clients(64, Mode::Safe, true).await?;
    fill(fillers, SIZE_BYTES, objects).await.context("filling the group")?;
    let clients = |count| group.clients(count, Mode::Safe, false);
    let (readers, writers) = (clients(WORKERS).await?, clients(WORKERS).await?);
    let mut load = Load { readers, writers, keys: objects, errors: 0, first_error: None };
    let mut before = Vec::new();
    for _ in 0..SAMPLES {
        before.push(load.sample().await?);
    }
    load.errors = 0;
    let lost = now();
    group.kill_for_good(2)?;
    // Started beside the load, as a new machine would be.
    let (joined, mut group) = tokio::task::spawn_blocking(move || {
        let joined = now();
        group.add().map(|()| (joined, group))
    })
    .await??;
    let new = group.nodes.pop().context("no new node")?;
    let rest = group.nodes.first().context("no node")?.rest.clone();
    let (mut during, mut rng) = (Vec::new(), SmallRng::seed_from_u64(objects));
    loop {
        during.push(load.sample().await?);
        let from = rng.random_range(0..objects);
        if ledger_is_complete(&rest, from, &new.id).await? && all(&rest, objects, &new.id).await? {
            break;
        }
        if lost.elapsed() > LIMIT {
            bail!("not every object has {REPLICAS} replicas after {LIMIT:?}");
        }
    }
    let (from_loss, from_join) = (lost.elapsed().as_secs_f64(), joined.elapsed().as_secs_f64());
    let (before, during) = (Spread::of(before), Spread::of(during));
    let share = if before.median > 0.0 { during.median / before.median } else { 0.0 };
    Ok(Recovery {
        objects,
        seconds_from_loss: from_loss,
        seconds_from_join: from_join,
        before,
        during,
        share,
        errors: load.errors,
        first_error: load.first_error,
        pass: from_join <= SECONDS_MAX && share >= SHARE_MIN,
    })
}

/// Whether a part of the ledger, from this object on, shows all replicas, the new member's among them.
async fn ledger_is_complete(rest: &str, from: u64, new: &str) -> Result<bool> {
    let after = URL_SAFE_NO_PAD.encode(key(SIZE_BYTES, from));
    let path = format!("/nomad/storage/get/object-ledger?limit={LOOKED_AT}&cursor={after}");
    let page: BTreeMap<String, Vec<Value>> =
        serde_json::from_str(&counters::get(rest, &path).await?)?;
    Ok(page.values().all(|holders| is_whole(holders, new)))
}

fn is_whole(holders: &[Value], new: &str) -> bool {
    let has_new =
        holders.iter().any(|holder| holder.get("id").and_then(Value::as_str) == Some(new));
    holders.len() == REPLICAS && has_new
}

/// Whether the whole ledger does.
async fn all(rest: &str, objects: u64, new: &str) -> Result<bool> {
    let (mut after, mut seen) = (String::new(), 0);
    loop {
        let path = format!("/nomad/storage/get/object-ledger?limit=5000&cursor={after}");
        let page: BTreeMap<String, Vec<Value>> =
            serde_json::from_str(&counters::get(rest, &path).await?)?;
        let Some((last, _)) = page.last_key_value() else { return Ok(seen >= objects) };
        if !page.values().all(|holders| is_whole(holders, new)) {
            return Ok(false);
        }
        seen += page.len() as u64;
        after = URL_SAFE_NO_PAD.encode(last);
    }
}
