//! Writes objects of the group: safe ones by a quorum of their replicas, fast ones into this node's outbox, from where they
//! reach the replicas by themselves.

use std::sync::Arc;

use super::{
    ReadPath, ServiceError,
    named_writes::{NamedWriteState, NamedWrites},
};
use nomad_actors::{
    Address, Context, group_view::GroupView, outbox::OutboxMsg, replica_writer::Writers,
};
use nomad_core::{
    group::{StorageMode, replication::NotDone},
    model::{
        change::{Change, Condition, WriteRefusal, Written},
        object::ObjectId,
    },
    register::{RegisterOrder, Value},
};
use nomad_ports::{ObjectStore, object_store::StoreError};

/// The way to write objects of the group. Cheap to clone.
#[derive(Clone)]
pub struct WritePath {
    /// What this node keeps.
    pub(super) store: Arc<dyn ObjectStore>,
    /// The node and its group.
    pub(super) view: GroupView,
    /// Who runs the rounds.
    pub(super) writers: Writers,
    /// Who keeps fast writes.
    pub(super) outbox: Address<OutboxMsg>,
    /// How to see what is there.
    pub(super) reads: ReadPath,
    /// The fast writes that clients gave a name.
    pub(super) named: NamedWrites,
}

impl WritePath {
    /// Writes an object. The inner error is a refusal that left everything as it was.
    ///
    /// # Errors
    /// When it is not done, or not known to be.
    pub async fn write(
        &self,
        from: &Arc<str>,
        cx: Context,
        id: &ObjectId,
        change: Change,
        mode: StorageMode,
    ) -> Result<Result<Written, WriteRefusal>, ServiceError> {
        let health = self.store.health();
        let refusal =
            if change.is_delete() { health.refusal_of_deletions() } else { health.refusal() };
        if let Some(reason) = refusal {
            return Err(StoreError::ReadOnly { reason: reason.to_owned() }.into());
        }
        // Alone, this node is every quorum there is: one fsync either way.
        if mode == StorageMode::Safe || self.view.load().is_alone() {
            return self.write_safe(from, cx, id, change).await;
        }
        self.write_fast(from, cx, id, change).await
    }

    async fn write_safe(
        &self,
        from: &Arc<str>,
        cx: Context,
        id: &ObjectId,
        change: Change,
    ) -> Result<Result<Written, WriteRefusal>, ServiceError> {
        let ended = self.writers.run(from, cx, id, RegisterOrder::Change(change)).await?;
        Ok(ended.written()?)
    }

    async fn write_fast(
        &self,
        from: &Arc<str>,
        cx: Context,
        id: &ObjectId,
        change: Change,
    ) -> Result<Result<Written, WriteRefusal>, ServiceError> {
        let turn = match cx.trace.name().map(|name| self.named.begin(name, id)) {
            Some(NamedWriteState::Done(written)) => return Ok(Ok(written)),
            Some(NamedWriteState::Running) => return Err(NotDone::Running.into()),
            Some(NamedWriteState::First(turn)) => Some(turn),
            None => None,
        };
        let seen = self.see(cx, id, &change).await?;
        let seen_version = seen.version();
        let make = |reply| OutboxMsg::Put { id: id.clone(), change, seen, reply };
        let ended = self.outbox.ask(from, cx, make).await??;
        if let Ok(written) = &ended {
            self.reads.note_own(id, *written, seen_version);
        }
        if let (Some(turn), Ok(written)) = (turn, &ended) {
            turn.done(*written);
        }
        Ok(ended)
    }

    /// Looks up what a fast write is decided by.
    async fn see(
        &self,
        cx: Context,
        id: &ObjectId,
        change: &Change,
    ) -> Result<Value, ServiceError> {
        // Only of a write under no condition it does not matter whether the object is there.
        let any = Condition::Any;
        let is_certain = !matches!(change, Change::Write { condition, .. } if *condition == any);
        match self.reads.seen_from_here(cx, id, is_certain).await {
            // Fast writes go on when none of the replicas can be seen: what would create the object here is kept as the
            // newest of it. What needs one to be there cannot be decided.
            Err(ServiceError::NotDone(NotDone::NoReplica { .. })) if change.check(None).is_ok() => {
                Ok(Value::Absent)
            }
            seen => seen,
        }
    }
}
