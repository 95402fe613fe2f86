//! Where other members' messages about objects come in: decodes them, hands rounds to the worker of their shard, and
//! answers plain reads at once from what is kept here. What arrives is untrusted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use tracing::debug;

use super::{ReplicaWriterMsg, wire};
use crate::{
    local_read,
    shell::{Address, Context, Kit},
};
use nomad_core::model::{node_id::NodeId, object::ObjectId, trace::TraceContext};
use nomad_ports::{ObjectStore, PeerHandler};

/// The most messages that wait in a worker's mailbox before more of them are dropped: they are sent again.
const WAITING_MAX: u64 = 16_384;

/// The handler of other members' messages about objects.
pub struct ReplicaDoor {
    kit: Kit,
    workers: Vec<Address<ReplicaWriterMsg>>,
    store: Arc<dyn ObjectStore>,
    from: Arc<str>,
    dropped: AtomicU64,
}

impl ReplicaDoor {
    /// Makes the door of these workers, one per shard.
    pub fn new(
        kit: Kit,
        workers: Vec<Address<ReplicaWriterMsg>>,
        store: Arc<dyn ObjectStore>,
    ) -> Self {
        Self { kit, workers, store, from: "link".into(), dropped: AtomicU64::new(0) }
    }

    /// Returns how many messages were dropped: too many waited, or they could not be read.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn fetch(&self, body: &[u8]) -> Result<Bytes, String> {
        let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
        let id = ObjectId::parse(text).map_err(|error| error.to_string())?;
        let now = self.kit.clock.wall().secs();
        let found = local_read::find(&*self.store, &id, now).map_err(|error| error.to_string())?;
        found.encode()
    }
}

impl PeerHandler for ReplicaDoor {
    /// Answers a read: the question is the object's id.
    fn answer(
        &self,
        _: NodeId,
        _: TraceContext,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        futures::future::ready(self.fetch(&body)).boxed()
    }

    fn heard(&self, from: NodeId, trace: TraceContext, body: Bytes) {
        let (shard, message) = match wire::decode(&body) {
            Ok(decoded) => decoded,
            Err(reason) => {
                self.dropped.fetch_add(1, Relaxed);
                return debug!(%from, reason, "a message of a member cannot be read");
            }
        };
        let Some(worker) = self.workers.get(usize::from(shard)) else { return };
        if worker.waiting() >= WAITING_MAX {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let cx = Context { trace, deadline: None };
        worker.tell(&self.from, cx, ReplicaWriterMsg::Heard { from, message });
    }
}
