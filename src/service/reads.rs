//! Reads objects: from this node what it has, from the other replicas what it has not, and by a quorum what must be
//! linearizable.
//!
//! What this node can answer at once is read on the caller's own task, as a step of the `replica_reader`: a mailbox in between
//! would cost more than the read. Only what has to wait, or reads much, goes through the mailbox. No read waits for the writer.

mod group_list;
mod group_read;
mod quantile;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use self::group_read::{AbsenceQuorum, Hedge};
use super::{ServiceError, own_writes::OwnWrites};
use nomad_actors::{
    Address, AskError, Context, Kit,
    group_view::GroupView,
    local_read::{self, Fetched},
    replica_reader::{LocalRead, ReplicaReaderMsg},
    replica_writer::Writers,
};
use nomad_core::{
    group::RetrievalMode,
    model::{
        change::Written,
        object::{Object, ObjectId, Tier, Version},
    },
    register::Value,
};
use nomad_ports::{ObjectStore, PeerTransport, object_store::StoreError};

/// How long a replica that has nothing of an object waits for others that may have, before it takes it to be absent.
const CONFIRM_LIMIT: Duration = Duration::from_millis(200);

/// The way to read. Cheap to clone.
#[derive(Clone)]
pub struct ReadPath {
    actor: Address<ReplicaReaderMsg>,
    store: Arc<dyn ObjectStore>,
    kit: Kit,
    view: GroupView,
    transport: Arc<dyn PeerTransport>,
    writers: Writers,
    hedge: Arc<Hedge>,
    hedges: Arc<AtomicU64>,
    own_writes: OwnWrites,
}

impl ReadPath {
    /// Reads through this actor, at once from the store that it reads, and from the other members of the group.
    pub fn new(
        kit: Kit,
        actor: Address<ReplicaReaderMsg>,
        store: Arc<dyn ObjectStore>,
        (view, transport, writers): (GroupView, Arc<dyn PeerTransport>, Writers),
    ) -> Self {
        let (hedge, hedges, own_writes) = Default::default();
        Self { actor, store, kit, view, transport, writers, hedge, hedges, own_writes }
    }

    /// Notes a fast write of this node, which its later reads are to show. `seen` is the version that was there before.
    pub(super) fn note_own(&self, id: &ObjectId, written: Written, seen: Option<Version>) {
        if !self.keeps(id, &self.view.load()) {
            self.own_writes.note(id, written, seen);
        }
    }

    /// Returns how many reads asked a second member because the first was slow.
    pub fn hedges(&self) -> u64 {
        self.hedges.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When it had to wait and got no answer, or the store cannot read.
    pub async fn get(
        &self,
        from: &Arc<str>,
        cx: Context,
        tier: Tier,
        id: &ObjectId,
        mode: RetrievalMode,
    ) -> Result<Option<Object>, ServiceError> {
        // A request whose time is over already is not begun, as the shell does with messages.
        let now = self.kit.clock.monotonic();
        if cx.deadline.is_some_and(|deadline| now >= deadline) {
            let actor = Arc::clone(self.actor.name());
            return Err(AskError::DeadlinePassed { actor }.into());
        }
        let is_local = tier == Tier::Overlay || self.view.load().is_alone();
        if mode == RetrievalMode::Safe && !is_local {
            return self.read_safe(from, cx, id).await;
        }
        let read = LocalRead { tier, id, mode };
        let fetched = match read.at_once(&self.kit, &self.actor, &*self.store, (from, cx)) {
            Err(StoreError::Reopening) => {
                let id = id.clone();
                let make = |reply| ReplicaReaderMsg::Get { tier, id, mode, reply };
                self.actor.ask(from, cx, make).await??
            }
            answer => answer?,
        };
        let fetched = match fetched {
            Fetched::Nothing if !is_local => {
                let view = self.view.load_full();
                if mode == RetrievalMode::Parallel {
                    self.read_parallel(cx, id, &view).await?
                } else {
                    self.read_near(cx, id, &view, AbsenceQuorum::All).await?
                }
            }
            fetched => fetched,
        };
        match fetched {
            Fetched::Live(object) => Ok(Some(object)),
            Fetched::Gone(_) | Fetched::Nothing => Ok(None),
        }
    }

    /// Returns the newest value of an object that this node can see without a quorum: its own, or where it has none of it,
    /// that of a replica that does. `is_certain`: it matters whether the object is there. A replica that has nothing of it may
    /// lag behind; then it asks as many others as it takes to meet one that does not.
    ///
    /// # Errors
    /// When nobody who may keep it answers.
    pub async fn seen_from_here(
        &self,
        cx: Context,
        id: &ObjectId,
        is_certain: bool,
    ) -> Result<Value, ServiceError> {
        let fetched = local_read::find(&*self.store, id, self.kit.clock.wall().secs())?;
        let view = self.view.load_full();
        let is_replica = self.keeps(id, &view);
        if fetched != Fetched::Nothing || (is_replica && !is_certain) {
            return Ok(fetched.into_value());
        }
        let read = self.read_near(cx, id, &view, AbsenceQuorum::Majority);
        if !is_replica {
            return Ok(read.await?.into_value());
        }
        // It may decide by itself when the others are slow.
        let read = tokio::time::timeout(CONFIRM_LIMIT, read).await;
        Ok(read.unwrap_or(Ok(Fetched::Nothing))?.into_value())
    }
}
