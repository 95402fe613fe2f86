//! The least that keeps the node's promise about a durable write: fjall, one writer thread, a group commit. Whatever
//! waits is written as one batch with one fsync, and each caller is answered after it. Reads go straight to fjall.
//!
//! The fjall options and the limits of a batch are the node's (`src/storage/recovery.rs`, `fjall_store.rs`), so that
//! a ratio compares what surrounds the store and not how it is tuned.

use std::{
    collections::HashMap,
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use anyhow::Result;
use bytes::{BufMut as _, Bytes};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use nomad::{
    ports::{Clock as _, SystemClock},
    proto::models::GameObjectGrpc,
};
use tokio::sync::oneshot;
use tonic::Status;

use super::{
    super::counters::Counters,
    grpc::{Objects, Write},
};

const CACHE_BYTES: u64 = 32 << 20;
const MEMTABLE_BYTES: u64 = 16 << 20;
const JOURNAL_BYTES: u64 = 128 << 20;
const CACHED_FILES_MAX: usize = 256;
const WORKER_THREADS: usize = 2;
const PERSIST_MODE: PersistMode = PersistMode::SyncData;
const QUEUE_MAX: usize = 16_384;
const BATCH_MAX: usize = 1_024;
const BATCH_BYTES_MAX: usize = 16 << 20;

/// Creation time, expiry and last change, 8 bytes each, before the value.
const HEAD_BYTES: usize = 24;

struct Queued {
    write: Write,
    reply: oneshot::Sender<Result<bool, Status>>,
}

#[derive(Default)]
struct Counts {
    fsyncs: AtomicU64,
    writes: AtomicU64,
}

/// The store and the way to its writer.
pub struct Minimal {
    objects: Keyspace,
    queue: SyncSender<Queued>,
    counts: Arc<Counts>,
}

impl Minimal {
    /// Opens a store and starts its writer, which ends with the last handle.
    pub fn open(dir: &Path) -> Result<Minimal> {
        let db = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .journal_compression(CompressionType::None)
            .max_cached_files(Some(CACHED_FILES_MAX))
            .worker_threads(WORKER_THREADS)
            .open()?;
        let objects = db.keyspace("nomad", || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .manual_journal_persist(true)
        })?;
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let counts = Arc::new(Counts::default());
        let writer = Writer {
            db,
            objects: objects.clone(),
            clock: SystemClock::new(),
            counts: Arc::clone(&counts),
        };
        thread::Builder::new().name("writer".to_owned()).spawn(move || writer.run(&jobs))?;
        Ok(Minimal { objects, queue, counts })
    }

    /// Counts since the start.
    pub fn counters(&self) -> Counters {
        let (fsyncs, writes) = (&self.counts.fsyncs, &self.counts.writes);
        Counters { fsyncs: fsyncs.load(Relaxed), writes: writes.load(Relaxed) }
    }
}

impl Objects for Arc<Minimal> {
    async fn get(&self, id: String) -> Result<Option<GameObjectGrpc>, Status> {
        let record = self.objects.get(&id).map_err(internal)?;
        record.map(|record| decode(id, Bytes::from(record))).transpose()
    }

    fn write(&self, write: Write) -> impl Future<Output = Result<bool, Status>> + Send {
        let (reply, answer) = oneshot::channel();
        let sent = self.queue.try_send(Queued { write, reply });
        async move {
            sent.map_err(|error| match error {
                TrySendError::Full(_) => Status::resource_exhausted("too many writes wait"),
                TrySendError::Disconnected(_) => Status::internal("the writer has ended"),
            })?;
            answer.await.map_err(|_| Status::internal("the writer has ended"))?
        }
    }
}

struct Writer {
    db: Database,
    objects: Keyspace,
    clock: SystemClock,
    counts: Arc<Counts>,
}

impl Writer {
    fn run(self, jobs: &Receiver<Queued>) {
        while let Ok(first) = jobs.recv() {
            let mut bytes = size_bytes(&first.write);
            let mut waiting = vec![first];
            while waiting.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
                let Ok(next) = jobs.try_recv() else { break };
                bytes += size_bytes(&next.write);
                waiting.push(next);
            }
            self.commit(waiting);
        }
    }

    /// Decides all writes, makes those that are not refused durable together, then answers all.
    fn commit(&self, waiting: Vec<Queued>) {
        let mut batch = self.db.batch().durability(Some(PERSIST_MODE));
        let mut pending: HashMap<String, bool> = HashMap::new();
        let mut answers = Vec::with_capacity(waiting.len());
        let mut write_count = 0;
        let now = self.clock.wall().0 as i64 / 1000;
        for Queued { write, reply } in waiting {
            let id = match &write {
                Write::Put(object) | Write::Update(object) => object.id.clone(),
                Write::Delete(id) => id.clone(),
            };
            let is_there = match pending.get(&id) {
                Some(is_there) => Ok(*is_there),
                None => self.objects.contains_key(&id),
            };
            let is_done = is_there.map(|is_there| is_there != matches!(write, Write::Put(_)));
            if matches!(is_done, Ok(true)) {
                write_count += 1;
                pending.insert(id.clone(), !matches!(write, Write::Delete(_)));
                match write {
                    Write::Put(object) | Write::Update(object) => {
                        batch.insert(&self.objects, id, encode(&object, now));
                    }
                    Write::Delete(_) => batch.remove(&self.objects, id),
                }
            }
            answers.push((reply, is_done.map_err(internal)));
        }
        let committed = if write_count > 0 { batch.commit() } else { Ok(()) };
        if write_count > 0 && committed.is_ok() {
            self.counts.fsyncs.fetch_add(1, Relaxed);
            self.counts.writes.fetch_add(write_count, Relaxed);
        }
        let failure = committed.err().map(internal);
        for (reply, answer) in answers {
            // A caller that has gone needs no answer.
            let _ = reply.send(failure.clone().map_or(answer, Err));
        }
    }
}

fn size_bytes(write: &Write) -> usize {
    match write {
        Write::Put(object) | Write::Update(object) => object.value.len(),
        Write::Delete(_) => 0,
    }
}

fn encode(object: &GameObjectGrpc, now: i64) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD_BYTES + object.value.len());
    record.put_i64(if object.creation_time == 0 { now } else { object.creation_time });
    record.put_i64(object.ttl);
    record.put_i64(now);
    record.put_slice(&object.value);
    record
}

fn decode(id: String, record: Bytes) -> Result<GameObjectGrpc, Status> {
    use bytes::Buf as _;
    if record.len() < HEAD_BYTES {
        return Err(Status::data_loss(format!("the record of {id:?} is cut short")));
    }
    let mut value = record;
    let (creation_time, ttl, last_modified) = (value.get_i64(), value.get_i64(), value.get_i64());
    Ok(GameObjectGrpc { id, creation_time, ttl, value, last_modified, ..GameObjectGrpc::default() })
}

fn internal(error: fjall::Error) -> Status {
    Status::internal(error.to_string())
}
