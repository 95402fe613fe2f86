//! Reads objects: today from this node alone, which holds every replica of a group of one, whatever the read's mode.
//!
//! Readers use its [`ReadPath`]. What this node can answer at once is read on the caller's own task, as a step of this
//! actor: a mailbox in between would cost more than the read. Only what has to wait, or reads much, goes through the
//! mailbox. No read waits for the writer.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    recorder::Outcome,
    shell::{Address, AskError, Context, Described, Handling, Kit, Message, Reply, Role, Step},
};
use crate::{
    core::{
        group::RetrievalMode,
        object::{Object, ObjectId, Tier},
        time::MonotonicUs,
    },
    ports::{
        ObjectStore,
        object_store::{Page, StoreError},
    },
};

/// The most listings that run at a time: each may read a hundred thousand records.
const LISTINGS_MAX: usize = 16;
/// How long a read waits before it looks again whether the store has been reopened.
const REOPENING_PAUSE: Duration = Duration::from_millis(20);

// ---- messages ----

/// What a reader can be asked.
#[derive(Debug)]
pub enum ReplicaReaderMsg {
    /// Ask: an object.
    Get {
        /// The tier of the object.
        tier: Tier,
        /// The object.
        id: ObjectId,
        /// How to read it.
        mode: RetrievalMode,
        /// Takes the object.
        reply: Reply<Result<Option<Object>, StoreError>>,
    },
    /// Ask: a page of a listing.
    List {
        /// The tier to list.
        tier: Tier,
        /// What the ids start with.
        prefix: String,
        /// The id behind which the page starts.
        after: Option<String>,
        /// The most objects of the page.
        limit: usize,
        /// Takes the page.
        reply: Reply<Result<Page, StoreError>>,
    },
}

impl Described for ReplicaReaderMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Get { .. } => "Get",
            Self::List { .. } => "List",
        }
    }

    fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::Get { id, .. } => Some(id),
            Self::List { .. } => None,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Get { tier, mode, .. } => format!("{tier:?} tier, mode {}", mode.as_str()),
            Self::List { tier, prefix, after, limit, .. } => {
                format!("{tier:?} tier, prefix {prefix:?}, after {after:?}, at most {limit}")
            }
        }
    }
}

impl Message for ReplicaReaderMsg {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Get { reply, .. } => reply.is_closed(),
            Self::List { reply, .. } => reply.is_closed(),
        }
    }
}

/// The way to read. Cheap to clone.
#[derive(Clone)]
pub struct ReadPath {
    actor: Address<ReplicaReaderMsg>,
    store: Arc<dyn ObjectStore>,
    kit: Kit,
}

impl ReadPath {
    /// Reads through this actor, and at once from the store that it reads.
    pub fn new(kit: Kit, actor: Address<ReplicaReaderMsg>, store: Arc<dyn ObjectStore>) -> Self {
        Self { actor, store, kit }
    }

    /// Reads an object.
    ///
    /// # Errors
    /// The outer one when the read had to wait and got no answer, the inner one when the store cannot read.
    pub async fn get(
        &self,
        from: &Arc<str>,
        cx: Context,
        tier: Tier,
        id: &ObjectId,
        mode: RetrievalMode,
    ) -> Result<Result<Option<Object>, StoreError>, AskError> {
        // A request whose time is over already is not begun, as the shell does with messages.
        let now = self.kit.clock.monotonic();
        if cx.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(AskError::DeadlinePassed { actor: Arc::clone(self.actor.name()) });
        }
        match self.get_at_once(from, cx, now, LocalRead { tier, id, mode }) {
            Err(StoreError::Reopening) => {
                let id = id.clone();
                self.actor
                    .ask(from, cx, |reply| ReplicaReaderMsg::Get { tier, id, mode, reply })
                    .await
            }
            answer => Ok(answer),
        }
    }

    fn get_at_once(
        &self,
        from: &Arc<str>,
        cx: Context,
        now: MonotonicUs,
        read: LocalRead<'_>,
    ) -> Result<Option<Object>, StoreError> {
        let (vitals, from) = (self.actor.vitals(), Arc::clone(from));
        let mut step = Step::begin(&self.kit, vitals, cx, from, (now, None), &read);
        let span = step.enter(cx.trace, read.kind());
        let answer = self.store.get(read.tier, read.id, self.kit.clock.wall().secs());
        drop(span);
        step.end(match &answer {
            Ok(Some(_)) => Outcome::Done("found"),
            Ok(None) => Outcome::Done("absent"),
            Err(StoreError::Reopening) => Outcome::Done("has to wait for the store"),
            Err(error) => Outcome::Failed(error.to_string().into()),
        });
        answer
    }

    /// Reads a page of a listing.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn list(
        &self,
        from: &Arc<str>,
        cx: Context,
        (tier, prefix, after, limit): (Tier, &str, Option<&str>, usize),
    ) -> Result<Result<Page, StoreError>, AskError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        let make = |reply| ReplicaReaderMsg::List { tier, prefix, after, limit, reply };
        self.actor.ask(from, cx, make).await
    }
}

/// A read on the caller's task, described as the message that it stands for.
struct LocalRead<'a> {
    tier: Tier,
    id: &'a ObjectId,
    mode: RetrievalMode,
}

impl Described for LocalRead<'_> {
    fn kind(&self) -> &'static str {
        "Get"
    }

    fn object(&self) -> Option<&ObjectId> {
        Some(self.id)
    }

    fn detail(&self) -> String {
        format!("{:?} tier, mode {}", self.tier, self.mode.as_str())
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

/// The actor.
pub struct ReplicaReader {
    store: Arc<dyn ObjectStore>,
    /// One permit for each listing that may run.
    listings: Arc<Semaphore>,
}

// ---- handler ----

impl Role for ReplicaReader {
    type Msg = ReplicaReaderMsg;
    type Args = Args;

    fn start(args: &Args, _: &Handling<'_, ReplicaReaderMsg>) -> Result<Self, String> {
        let listings = Arc::new(Semaphore::new(LISTINGS_MAX));
        Ok(Self { store: Arc::clone(&args.store), listings })
    }

    fn handle(
        &mut self,
        cx: &Handling<'_, ReplicaReaderMsg>,
        message: ReplicaReaderMsg,
    ) -> Result<Outcome, String> {
        let now = cx.kit.clock.wall().secs();
        match message {
            ReplicaReaderMsg::Get { tier, id, mode, reply } => {
                match self.store.get(tier, &id, now) {
                    // The deadline travels with the message, so this ends.
                    Err(StoreError::Reopening) if cx.cx.deadline.is_some() => {
                        let again = ReplicaReaderMsg::Get { tier, id, mode, reply };
                        cx.tell_me_after(REOPENING_PAUSE, again);
                        Ok(Outcome::Done("waits for the store"))
                    }
                    answer => {
                        let found = matches!(answer, Ok(Some(_)));
                        reply.send(answer);
                        Ok(Outcome::Done(if found { "found" } else { "absent" }))
                    }
                }
            }
            ReplicaReaderMsg::List { tier, prefix, after, limit, reply } => {
                let Ok(permit) = Arc::clone(&self.listings).try_acquire_owned() else {
                    reply.send(Err(StoreError::Full { waiting: LISTINGS_MAX as u64 }));
                    return Ok(Outcome::Done("refused: too many listings are running"));
                };
                let store = Arc::clone(&self.store);
                // A page may read a hundred thousand records: not in a handler.
                tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    // Its caller may have gone while the listing waited for a thread.
                    if reply.is_closed() {
                        return;
                    }
                    reply.send(store.list(tier, &prefix, after.as_deref(), limit, now));
                });
                Ok(Outcome::Done("handed to a blocking thread"))
            }
        }
    }
}

// ---- tests ----

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::{
        AskError,
        test_kit::{Tree, object},
    };

    async fn get(tree: &Tree, id: &str) -> Result<Option<Object>, AskError> {
        let make = |reply| ReplicaReaderMsg::Get {
            tier: Tier::Group,
            id: object(id),
            mode: RetrievalMode::Fast,
            reply,
        };
        Ok(tree.reader.ask(&tree.from, tree.context(1_000), make).await?.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_read_until_it_expires_and_not_after() {
        let tree = Tree::start().await;
        tree.put("a", Some(10)).await.unwrap().unwrap().unwrap();
        assert!(get(&tree, "a").await.unwrap().is_some());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(get(&tree, "a").await.unwrap(), None);
        tree.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn killed_under_load_it_answers_again_and_never_wrongly() {
        let tree = Tree::start().await;
        tree.put("a", None).await.unwrap().unwrap().unwrap();
        for round in 0..4 {
            assert!(tree.kit.census.kill("replica_reader"));
            for _ in 0..20 {
                match get(&tree, "a").await {
                    Ok(found) => assert!(found.is_some()),
                    Err(AskError::Gone { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
            tree.until_restarted("replica_reader", round + 1).await;
            assert!(get(&tree, "a").await.unwrap().is_some());
        }
        tree.root.stop().await;
    }
}
