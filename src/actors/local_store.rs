//! The only way to the store's writer: takes writes, hands them on, and lets the writer answer the callers.
//!
//! It decides nothing and waits for nothing. When it is killed, what it had handed on is still answered by the writer;
//! what waited in its mailbox was not begun.

use std::sync::Arc;

use super::{
    expiry::ExpiryMsg,
    recorder::{Outcome, Record, Recorder},
    shell::{Address, Context, Handling, Message, Reply, Role},
};
use crate::{
    core::{
        change::Change,
        object::{ObjectId, Tier},
    },
    ports::{
        Clock, ObjectStore,
        object_store::{Completion, Job, Receipt, StoreError, WriteJob, WriteResult, Written},
    },
};

// ---- messages ----

/// What the store's writer can be asked.
#[derive(Debug)]
pub enum LocalStoreMsg {
    /// Ask: decide and keep a change; answered once it is durable.
    Write {
        /// The tier of the object.
        tier: Tier,
        /// The object.
        id: ObjectId,
        /// What to do.
        change: Change,
        /// Takes how it ended.
        reply: Reply<WriteResult>,
    },
    /// Tell: remove up to `limit` expired objects, then tell `to`.
    Sweep {
        /// The most to remove in one batch.
        limit: usize,
        /// Who wants to know.
        to: Address<ExpiryMsg>,
    },
}

impl Message for LocalStoreMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Write { change: Change::Write { .. }, .. } => "Write",
            Self::Write { change: Change::Delete { .. }, .. } => "Delete",
            Self::Sweep { .. } => "Sweep",
        }
    }

    fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::Write { id, .. } => Some(id),
            Self::Sweep { .. } => None,
        }
    }

    fn is_abandoned(&self) -> bool {
        matches!(self, Self::Write { reply, .. } if reply.is_closed())
    }

    fn detail(&self) -> String {
        match self {
            Self::Write { tier, change, .. } => {
                let (Change::Write { condition, .. } | Change::Delete { condition }) = change;
                format!("{tier:?} tier, {} bytes, condition {condition:?}", change.value_bytes())
            }
            Self::Sweep { limit, .. } => format!("at most {limit}"),
        }
    }
}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct Args {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
}

// ---- state ----

/// The actor: the one that may submit writes.
pub struct LocalStore {
    store: Arc<dyn ObjectStore>,
    writer: Arc<str>,
}

/// A caller waiting for its batch, with what the batch's record needs.
struct Waiting {
    reply: Reply<WriteResult>,
    recorder: Arc<Recorder>,
    clock: Arc<dyn Clock>,
    cx: Context,
    from: Arc<str>,
    to: Arc<str>,
    id: ObjectId,
}

impl Completion for Waiting {
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
            || self.cx.deadline.is_some_and(|deadline| self.clock.monotonic() >= deadline)
    }

    fn complete(self: Box<Self>, receipt: Receipt) {
        let Receipt { result, queued_us, commit_us, batch_len } = receipt;
        let outcome = match &result {
            Ok(Ok(Written::Kept { created: true, .. })) => Outcome::Done("created"),
            Ok(Ok(Written::Kept { created: false, .. })) => Outcome::Done("replaced"),
            Ok(Ok(Written::Removed)) => Outcome::Done("removed"),
            Ok(Err(_)) => Outcome::Refused("its condition does not hold"),
            Err(StoreError::Abandoned) => Outcome::Dropped("its caller had gone"),
            Err(error) => Outcome::Failed(error.to_string().into()),
        };
        let now = self.clock.monotonic();
        self.recorder.add(Record {
            seq: 0,
            trace: self.cx.trace.trace,
            span: self.recorder.new_span(),
            parent: self.cx.trace.span,
            from: self.from,
            to: self.to,
            kind: "Commit",
            object: Some(self.id),
            at: crate::core::time::MonotonicUs(now.0.saturating_sub(commit_us)),
            wait_us: queued_us,
            run_us: commit_us,
            batch_len: batch_len as u32,
            outcome,
            detail: None,
        });
        self.reply.send(result);
    }
}

// ---- handler ----

impl Role for LocalStore {
    type Msg = LocalStoreMsg;
    type Args = Args;

    fn start(args: &Args, _: &Handling<'_, LocalStoreMsg>) -> Result<Self, String> {
        Ok(Self { store: Arc::clone(&args.store), writer: "writer".into() })
    }

    fn handle(
        &mut self,
        cx: &Handling<'_, LocalStoreMsg>,
        message: LocalStoreMsg,
    ) -> Result<Outcome, String> {
        match message {
            LocalStoreMsg::Write { tier, id, change, reply } => {
                let done = Box::new(Waiting {
                    reply,
                    recorder: Arc::clone(&cx.kit.recorder),
                    clock: Arc::clone(&cx.kit.clock),
                    cx: cx.cx,
                    from: Arc::clone(cx.me.name()),
                    to: Arc::clone(&self.writer),
                    id: id.clone(),
                });
                self.store.submit(Job::Write(WriteJob { tier, id, change, done }));
            }
            LocalStoreMsg::Sweep { limit, to } => {
                let (from, context) = (Arc::clone(cx.me.name()), cx.cx);
                let done = move |swept| {
                    to.tell(&from, context, ExpiryMsg::Swept(swept));
                };
                self.store.submit(Job::Sweep { limit, done: Box::new(done) });
            }
        }
        Ok(Outcome::Done("handed to the writer"))
    }
}
