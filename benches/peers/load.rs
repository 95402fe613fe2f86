//! A closed loop over any of the systems: so many workers, each sends its next request when the last one is answered. The
//! loop, the keys and the values are the same for all of them.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::SmallRng};
use serde::Serialize;
use tokio::task::JoinSet;

use super::now;

/// Values are cut from this many random bytes more than one needs.
const POOL_EXTRA_BYTES: usize = 64 * 1024;
/// A worker whose request failed waits so long.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest that a request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Writes a key that was never used.
    Create,
    /// Writes a key that is there.
    Update,
    /// Reads a key that is there.
    Get,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it does.
    pub kind: Kind,
    /// To which key.
    pub key: String,
    /// With which value; empty for a read.
    pub value: Bytes,
}

/// One worker's client.
pub trait Client: Send + 'static {
    /// Sends a request and waits for its end; anything but a success is an error.
    fn call(&mut self, request: Request) -> impl Future<Output = Result<()>> + Send;
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Always the same.
    pub kind: Kind,
    /// Bytes of each value.
    pub size_bytes: usize,
    /// How many keys there are to read and to update.
    pub keys: u64,
    /// For how long it counts.
    pub duration: Duration,
    /// For how long it does not count yet.
    pub warmup: Duration,
    /// Tells this run's new keys from those of every other.
    pub run: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Successes in the time that counts, per second.
    pub per_second: f64,
    /// Half were answered within so many microseconds.
    pub p50_us: f64,
    /// Of a hundred, all but one.
    pub p99_us: f64,
    /// Failures in the whole time.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Successes in the whole time.
    pub done: u64,
}

/// Bytes that values are cut from.
#[derive(Clone)]
pub struct Values {
    pool: Bytes,
    size_bytes: usize,
}

impl Values {
    /// Values of this size.
    pub fn of(size_bytes: usize) -> Self {
        let mut pool = vec![0; size_bytes + POOL_EXTRA_BYTES];
        SmallRng::seed_from_u64(size_bytes as u64).fill_bytes(&mut pool);
        Self { pool: pool.into(), size_bytes }
    }

    /// One of them.
    pub fn cut(&self, rng: &mut SmallRng) -> Bytes {
        let start = rng.random_range(0..POOL_EXTRA_BYTES);
        self.pool.slice(start..start + self.size_bytes)
    }
}

/// A key that is there; those of different sizes are different ones.
pub fn key(size_bytes: usize, index: u64) -> String {
    format!("bench:{size_bytes}:k{index:07}")
}

struct Tally {
    histogram: Histogram<u64>,
    counted: u64,
    done: u64,
    errors: u64,
    first_error: Option<String>,
}

/// Runs one plan with a worker for each client, and gives the clients back.
pub async fn drive<C: Client>(clients: Vec<C>, plan: &Plan) -> Result<(Run, Vec<C>)> {
    let plan = Arc::new(plan.clone());
    let values = Values::of(plan.size_bytes);
    let begin = now() + plan.warmup;
    let end = begin + plan.duration;
    let mut workers = JoinSet::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        let (plan, values) = (Arc::clone(&plan), values.clone());
        let mut rng = SmallRng::seed_from_u64(plan.run.rotate_left(32) ^ number as u64);
        workers.spawn(async move {
            let histogram = Histogram::new_with_bounds(100, 600_000_000_000, 3)?;
            let mut tally = Tally { histogram, counted: 0, done: 0, errors: 0, first_error: None };
            let mut next = 0_u64;
            while now() < end {
                next += 1;
                let key = match plan.kind {
                    Kind::Create => format!("new:{}:{}:{number}:{next}", plan.size_bytes, plan.run),
                    Kind::Update | Kind::Get => {
                        key(plan.size_bytes, rng.random_range(0..plan.keys))
                    }
                };
                let value = match plan.kind {
                    Kind::Get => Bytes::new(),
                    Kind::Create | Kind::Update => values.cut(&mut rng),
                };
                let started = now();
                let request = Request { kind: plan.kind, key, value };
                let ended = match tokio::time::timeout(LIMIT, client.call(request)).await {
                    Ok(ended) => ended,
                    // What it waits for may still come, as the answer to another request.
                    Err(_) => bail!("no answer within {LIMIT:?}"),
                };
                let back = now();
                match ended {
                    Ok(()) => {
                        tally.done += 1;
                        if started >= begin && back < end {
                            tally.counted += 1;
                            let took = (back - started).as_nanos();
                            tally.histogram.saturating_record(took as u64);
                        }
                    }
                    Err(error) => {
                        tally.errors += 1;
                        tally.first_error.get_or_insert_with(|| format!("{error:#}"));
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            Ok((tally, client))
        });
    }
    let mut run = Run::default();
    let (mut counted, mut clients) = (0, Vec::new());
    let mut histogram = Histogram::<u64>::new_with_bounds(100, 600_000_000_000, 3)?;
    while let Some(worker) = workers.join_next().await {
        let (tally, client) = worker??;
        histogram.add(&tally.histogram)?;
        counted += tally.counted;
        run.done += tally.done;
        run.errors += tally.errors;
        run.first_error = run.first_error.or(tally.first_error);
        clients.push(client);
    }
    run.per_second = counted as f64 / plan.duration.as_secs_f64();
    run.p50_us = histogram.value_at_quantile(0.5) as f64 / 1_000.0;
    run.p99_us = histogram.value_at_quantile(0.99) as f64 / 1_000.0;
    Ok((run, clients))
}

/// Writes all keys of a size, each once.
pub async fn fill<C: Client>(clients: Vec<C>, size_bytes: usize, keys: u64) -> Result<Vec<C>> {
    let values = Values::of(size_bytes);
    let count = clients.len() as u64;
    let mut workers = JoinSet::new();
    for (first, mut client) in (0..).zip(clients) {
        let values = values.clone();
        workers.spawn(async move {
            let mut rng = SmallRng::seed_from_u64(first);
            for index in (first..keys).step_by(count as usize) {
                let (key, value) = (key(size_bytes, index), values.cut(&mut rng));
                client.call(Request { kind: Kind::Create, key, value }).await?;
            }
            anyhow::Ok(client)
        });
    }
    let mut clients = Vec::new();
    while let Some(worker) = workers.join_next().await {
        clients.push(worker??);
    }
    Ok(clients)
}
