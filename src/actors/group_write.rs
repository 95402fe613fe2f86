//! Writes objects of the group: safe ones by a quorum of their replicas, fast ones into this node's outbox, from where they
//! reach the replicas by themselves.

use std::sync::Arc;

use thiserror::Error;

use super::{
    named_writes::{NamedWriteState, NamedWrites},
    outbox::{OutboxError, OutboxMsg},
    replica_reader::{ReadError, ReadPath},
    replica_writer::Writers,
    shell::{Address, AskError, Context},
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

/// Why an object could not be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupWriteError {
    /// This node's store cannot write.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An actor of this node did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The members that keep it did not take it.
    #[error(transparent)]
    NotDone(#[from] NotDone),
    /// The outbox did not take it.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// What is there could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The way to write objects of the group. Cheap to clone.
#[derive(Clone)]
pub struct WritePath {
    /// What this node keeps.
    pub store: Arc<dyn ObjectStore>,
    /// Who runs the rounds.
    pub writers: Writers,
    /// Who keeps fast writes.
    pub outbox: Address<OutboxMsg>,
    /// How to see what is there.
    pub reads: ReadPath,
    /// The fast writes that clients gave a name.
    pub named: NamedWrites,
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
    ) -> Result<Result<Written, WriteRefusal>, GroupWriteError> {
        if let Some(reason) = self.store.health().refusal().filter(|_| !change.is_delete()) {
            return Err(StoreError::ReadOnly { reason: reason.to_owned() }.into());
        }
        // Alone, this node is every quorum there is: one fsync either way.
        if mode == StorageMode::Safe || self.reads.is_alone() {
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
    ) -> Result<Result<Written, WriteRefusal>, GroupWriteError> {
        let ended = self.writers.run(from, cx, id, RegisterOrder::Change(change)).await?;
        Ok(ended.written()?)
    }

    async fn write_fast(
        &self,
        from: &Arc<str>,
        cx: Context,
        id: &ObjectId,
        change: Change,
    ) -> Result<Result<Written, WriteRefusal>, GroupWriteError> {
        let turn = match cx.trace.name().map(|name| self.named.begin(name, id)) {
            Some(NamedWriteState::Done(written)) => return Ok(Ok(written)),
            Some(NamedWriteState::Running) => return Err(NotDone::Running.into()),
            Some(NamedWriteState::First(turn)) => Some(turn),
            None => None,
        };
        let seen = self.see(cx, id, &change).await?;
        let make = |reply| OutboxMsg::Put { id: id.clone(), change, seen, reply };
        let ended = self.outbox.ask(from, cx, make).await??;
        if let (Some(turn), Ok(written)) = (turn, &ended) {
            turn.done(*written);
        }
        Ok(ended)
    }

    /// Looks up what a fast write is decided by.
    async fn see(&self, cx: Context, id: &ObjectId, change: &Change) -> Result<Value, ReadError> {
        // Only of a write under no condition it does not matter whether the object is there.
        let any = Condition::Any;
        let is_certain = !matches!(change, Change::Write { condition, .. } if *condition == any);
        match self.reads.seen_from_here(cx, id, is_certain).await {
            // Fast writes go on when none of the replicas can be seen: what would create the object here is kept as the
            // newest of it. What needs one to be there cannot be decided.
            Err(ReadError::NotDone(NotDone::NoReplica { .. })) if change.check(None).is_ok() => {
                Ok(Value::Absent)
            }
            seen => seen,
        }
    }
}
