//! What actor tests share: a kit whose clock is tokio's, so that paused time rules everything, and a tree to kill in.

use std::sync::Arc;

use super::{
    Address, Context, Kit, TraceRecorder,
    local_store::{self, LocalStore, LocalStoreMsg},
    replica_reader::{self, ReplicaReader, ReplicaReaderMsg},
    shell::worker,
    supervisor::{ChildSpec, Root, nested},
};
use nomad_core::model::{
    change::{Change, Condition, Content},
    object::{ObjectId, Tier},
    time::{MonotonicUs, UnixMs},
};
use nomad_ports::{Clock, ObjectStore, OsEntropy, object_store::WriteResult};
use nomad_storage::MemoryStore;

/// Reads tokio's clock; the wall clock starts at a fixed time.
pub struct TokioClock {
    start: tokio::time::Instant,
}

impl TokioClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the test clock reads tokio's, which tests drive"
    )]
    pub fn new() -> Self {
        Self { start: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn wall(&self) -> UnixMs {
        UnixMs(1_700_000_000_000 + self.start.elapsed().as_millis() as u64)
    }

    fn monotonic(&self) -> MonotonicUs {
        MonotonicUs(1_000_000 + self.start.elapsed().as_micros() as u64)
    }
}

pub fn kit() -> Kit {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let entropy = Arc::new(OsEntropy);
    let recorder = TraceRecorder::new(1_000, Arc::clone(&clock), entropy.clone());
    Kit { clock, entropy, recorder: Arc::new(recorder), census: Arc::default() }
}

/// A tree with a memory store under it.
pub struct Tree {
    pub kit: Kit,
    pub store: Arc<MemoryStore>,
    pub writer: Address<LocalStoreMsg>,
    pub reader: Address<ReplicaReaderMsg>,
    pub root: Root,
    pub from: Arc<str>,
}

impl Tree {
    pub async fn start() -> Self {
        Self::with(|_, _| Vec::new()).await
    }

    /// Starts the tree with further children under `storage`.
    pub async fn with(more: impl FnOnce(&Kit, &Address<LocalStoreMsg>) -> Vec<ChildSpec>) -> Self {
        let kit = kit();
        let store = Arc::new(MemoryStore::new(Arc::clone(&kit.clock)));
        let dynamic: Arc<dyn ObjectStore> = store.clone();
        let args = local_store::LocalStoreArgs { store: Arc::clone(&dynamic) };
        let (writer, writer_spec) = worker::<LocalStore>(&kit, "local_store", "storage", args);
        let args = replica_reader::ReplicaReaderArgs { store: dynamic };
        let (reader, reader_spec) =
            worker::<ReplicaReader>(&kit, "replica_reader", "storage", args);
        let mut children = vec![writer_spec, reader_spec];
        children.extend(more(&kit, &writer));
        let storage = nested(&kit, "storage", "node", children);
        let root = Root::start(&kit, "node", vec![storage]).await.unwrap();
        Self { kit, store, writer, reader, root, from: "test".into() }
    }

    /// A request with a deadline in this many milliseconds.
    pub fn context(&self, ms: u64) -> Context {
        let deadline = Some(self.kit.clock.monotonic().plus_us(ms * 1000));
        Context { trace: self.kit.recorder.new_trace(), deadline }
    }

    pub async fn put(
        &self,
        id: &str,
        expires_in_s: Option<u64>,
    ) -> Result<WriteResult, super::AskError> {
        let now = self.kit.clock.wall().secs().0;
        let content = Content {
            value: id.to_owned().into(),
            creation_time: None,
            expires_at: expires_in_s.map(|s| nomad_core::model::time::UnixSecs(now + s)),
            content_type: None,
        };
        let change = Change::Write { content, condition: Condition::Any };
        let make =
            |reply| LocalStoreMsg::Write { tier: Tier::Group, id: object(id), change, reply };
        self.writer.ask(&self.from, self.context(1_000), make).await
    }

    /// Waits until a killed actor has been started again.
    pub async fn until_restarted(&self, name: &str, times: u64) {
        until_restarted(&self.kit, name, times).await;
    }
}

/// Waits until a killed actor has been started again.
pub async fn until_restarted(kit: &Kit, name: &str, times: u64) {
    let restarted = async {
        loop {
            let actors = kit.census.read();
            let actor = actors.iter().find(|actor| &*actor.name == name).unwrap();
            if actor.restarts >= times && actor.state == super::vitals::ActorState::Running {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), restarted).await.expect("restarts");
}

pub fn object(id: &str) -> ObjectId {
    ObjectId::parse(id).unwrap()
}
