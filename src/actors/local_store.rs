//! The way of the writes that stay on this node to the store's writer: takes them, hands them on, and lets the writer
//! answer the callers. What is replicated goes to the writer from the actors that own it.
//!
//! It decides nothing and waits for nothing. When it is killed, what it had handed on is still answered by the writer;
//! what waited in its mailbox was not begun.

use std::sync::Arc;

use super::{
    commit::Commit,
    expiry::ExpiryMsg,
    recorder::Outcome,
    shell::{ActorMessage, Address, Described, Handled, Handling, Reply, Worker},
};
use nomad_core::model::{
    change::{Change, Written},
    object::{ObjectId, Tier},
    time::MonotonicUs,
};
use nomad_ports::{
    Clock, ObjectStore,
    object_store::{Completion, Receipt, StoreError, StoreHealth, StoreJob, WriteJob, WriteResult},
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

impl Described for LocalStoreMsg {
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

impl ActorMessage for LocalStoreMsg {
    fn is_abandoned(&self) -> bool {
        matches!(self, Self::Write { reply, .. } if reply.is_closed())
    }
}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct LocalStoreArgs {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
}

// ---- state ----

/// The actor.
pub struct LocalStore {
    store: Arc<dyn ObjectStore>,
}

/// A caller waiting for its batch, with what the batch's record needs.
struct Waiting {
    reply: Reply<WriteResult>,
    clock: Arc<dyn Clock>,
    deadline: Option<MonotonicUs>,
    commit: Commit,
}

impl Completion for Waiting {
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
            || self.deadline.is_some_and(|deadline| self.clock.monotonic() >= deadline)
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
        self.commit.end_after(queued_us, commit_us, batch_len as u32, outcome);
        self.reply.send(result);
    }
}

// ---- handler ----

impl Worker for LocalStore {
    type Msg = LocalStoreMsg;
    type Args = LocalStoreArgs;

    fn start(args: &LocalStoreArgs, _: &Handling<'_, LocalStoreMsg>) -> Result<Self, String> {
        check(&*args.store)?;
        Ok(Self { store: Arc::clone(&args.store) })
    }

    fn handle(&mut self, cx: &Handling<'_, Self::Msg>, message: Self::Msg) -> Handled {
        check(&*self.store)?;
        match message {
            LocalStoreMsg::Write { tier, id, change, reply } => {
                let done = Box::new(Waiting {
                    reply,
                    clock: Arc::clone(&cx.kit.clock),
                    deadline: cx.cx.deadline,
                    commit: Commit::begin(cx, Some(id.clone())),
                });
                self.store.submit(StoreJob::Write(WriteJob { tier, id, change, done }));
            }
            LocalStoreMsg::Sweep { limit, to } => {
                let (from, context) = (Arc::clone(cx.me.name()), cx.cx);
                let done = move |swept| {
                    to.tell(&from, context, ExpiryMsg::Swept(swept));
                };
                self.store.submit(StoreJob::Sweep { limit, done: Box::new(done) });
            }
        }
        Ok(Outcome::Done("handed to the writer"))
    }
}

/// A store without its writer is not mended by a restart of this actor: it fails until the process is given up.
fn check(store: &dyn ObjectStore) -> Result<(), String> {
    match store.health() {
        StoreHealth::Failed { reason } => Err(reason),
        StoreHealth::Up | StoreHealth::ForDeletions { .. } | StoreHealth::ReadOnly { .. } => Ok(()),
    }
}

// ---- tests ----

#[cfg(test)]
mod tests {
    use super::Written;
    use crate::{
        AskError,
        recorder::{Filter, Outcome},
        test_kit::Tree,
    };

    #[tokio::test(start_paused = true)]
    async fn a_write_leaves_a_record_of_the_message_and_one_of_its_batch() {
        let tree = Tree::start().await;
        let written = tree.put("a", None).await.unwrap().unwrap().unwrap();
        assert!(matches!(written, Written::Kept { created: true, .. }));
        let filter = Filter { object: Some("a".into()), ..Filter::default() };
        let records = tree.kit.recorder.find(&filter, 10);
        let steps: Vec<_> = records.iter().map(|r| (&*r.from, &*r.to, r.kind)).collect();
        // A memory store answers within the handler, so its batch ends first.
        assert_eq!(steps, [("local_store", "writer", "Commit"), ("test", "local_store", "Write")]);
        assert_eq!(records[0].parent, records[1].span);
        tree.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_whose_deadline_has_passed_is_dropped_before_it_changes_anything() {
        let tree = Tree::start().await;
        let late = {
            let mut cx = tree.context(0);
            cx.deadline = Some(tree.kit.clock.monotonic());
            let id = crate::test_kit::object("late");
            let change = nomad_core::model::change::Change::Delete {
                condition: nomad_core::model::change::Condition::Any,
            };
            tree.writer
                .ask(&tree.from, cx, |reply| super::LocalStoreMsg::Write {
                    tier: super::Tier::Group,
                    id,
                    change,
                    reply,
                })
                .await
        };
        assert!(matches!(late, Err(AskError::DeadlinePassed { .. })), "{late:?}");
        // The message is taken after the ask has given up.
        tree.put("other", None).await.unwrap().unwrap().unwrap();
        let records = tree.kit.recorder.find(&Filter::default(), 100);
        assert!(records.iter().any(|r| matches!(r.outcome, Outcome::Dropped(_))), "{records:?}");
        tree.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn killed_under_load_it_loses_no_acknowledged_write_and_comes_back() {
        let tree = Tree::start().await;
        let mut acknowledged = Vec::new();
        for index in 0..200 {
            if index % 50 == 25 {
                assert!(tree.kit.census.kill("local_store"));
            }
            let id = format!("k{index}");
            match tree.put(&id, None).await {
                Ok(Ok(Ok(_))) => acknowledged.push(id),
                Err(AskError::Gone { .. }) => {
                    tree.until_restarted("local_store", (index as u64) / 50 + 1).await;
                }
                other => panic!("{id}: {other:?}"),
            }
        }
        assert!(acknowledged.len() >= 190, "{}", acknowledged.len());
        let now = tree.kit.clock.wall().secs();
        for id in acknowledged {
            let id = crate::test_kit::object(&id);
            let kept = super::ObjectStore::get(&*tree.store, super::Tier::Group, &id, now).unwrap();
            assert!(kept.is_some(), "{id}");
        }
        let restarts = tree.kit.census.read();
        let actor = restarts.iter().find(|actor| &*actor.name == "local_store").unwrap();
        assert_eq!(actor.restarts, 4);
        assert!(actor.causes.iter().all(|cause| cause.text.contains("kill")), "{actor:?}");
        assert!(!tree.root.ended.is_finished());
        tree.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_without_its_writer_ends_the_tree() {
        let mut tree = Tree::start().await;
        let reason = "its writer has ended".to_owned();
        tree.store.set_health(nomad_ports::object_store::StoreHealth::Failed { reason });
        assert!(tree.put("a", None).await.is_err());
        let cause = tree.root.ended().await;
        assert!(cause.contains("its writer has ended") || cause.contains("storage"), "{cause}");
    }
}
