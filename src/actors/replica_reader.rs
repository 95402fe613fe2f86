//! Reads objects: from this node what it has, from the other replicas what it has not, and by a quorum what must be
//! linearizable.
//!
//! Readers use its [`ReadPath`]. What this node can answer at once is read on the caller's own task, as a step of this
//! actor: a mailbox in between would cost more than the read. Only what has to wait, or reads much, goes through the
//! mailbox. No read waits for the writer.

mod door;
mod group_list;
mod group_read;
mod quantile;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use thiserror::Error;
use tokio::sync::Semaphore;

pub use self::door::ListingDoor;
use self::group_read::{AbsenceQuorum, Hedge};
use super::{
    group_view::GroupView,
    local_read::{self, Fetched},
    recorder::Outcome,
    replica_writer::Writers,
    shell::{
        ActorMessage, Address, AskError, Context, Described, Handling, Kit, Reply, Role, StepGuard,
    },
};
use nomad_core::{
    group::{RetrievalMode, replication::NotDone},
    listing::{Known, ListingPage, ListingQuery, QueuedWrites},
    model::{
        object::{Object, ObjectId, Tier},
        time::MonotonicUs,
    },
    register::Value,
};
use nomad_ports::{ObjectStore, PeerTransport, object_store::StoreError};

/// The most listings that run at a time, each of which may read a hundred thousand records, and the most that run or wait.
const LISTINGS_MAX: usize = 16;
const LISTINGS_WAITING_MAX: usize = 256;
/// How long a replica that has nothing of an object waits for others that may have, before it takes it to be absent.
const CONFIRM_LIMIT: Duration = Duration::from_millis(200);
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
        /// Takes what this node has of it.
        reply: Reply<Result<Fetched, StoreError>>,
    },
    /// Ask: a page of what this node keeps.
    List {
        /// The tier to list.
        tier: Tier,
        /// Which page.
        wanted: ListingQuery,
        /// Whether the fast writes that wait here are wanted too.
        with_queued: bool,
        /// Takes the page.
        reply: Reply<Result<(QueuedWrites, ListingPage), StoreError>>,
    },
    /// Ask: what this node knows of objects of the group.
    Look {
        /// The objects.
        ids: Vec<ObjectId>,
        /// Takes what is known, in their order.
        reply: Reply<Result<Vec<Known>, StoreError>>,
    },
}

impl Described for ReplicaReaderMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Get { .. } => "Get",
            Self::List { .. } => "List",
            Self::Look { .. } => "Look",
        }
    }

    fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::Get { id, .. } => Some(id),
            Self::List { .. } | Self::Look { .. } => None,
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Get { tier, mode, .. } => format!("{tier:?} tier, mode {}", mode.as_str()),
            Self::List { tier, wanted: ListingQuery { prefix, after, limit }, .. } => {
                format!("{tier:?} tier, prefix {prefix:?}, after {after:?}, at most {limit}")
            }
            Self::Look { ids, .. } => format!("{} objects", ids.len()),
        }
    }
}

impl ActorMessage for ReplicaReaderMsg {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Get { reply, .. } => reply.is_closed(),
            Self::List { reply, .. } => reply.is_closed(),
            Self::Look { reply, .. } => reply.is_closed(),
        }
    }
}

/// Why an object could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// This node's store cannot read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An actor of this node did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The members that keep it did not answer.
    #[error(transparent)]
    NotDone(#[from] NotDone),
}

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
}

impl ReadPath {
    /// Reads through this actor, at once from the store that it reads, and from the other members of the group.
    pub fn new(
        kit: Kit,
        actor: Address<ReplicaReaderMsg>,
        store: Arc<dyn ObjectStore>,
        (view, transport, writers): (GroupView, Arc<dyn PeerTransport>, Writers),
    ) -> Self {
        let (hedge, hedges) = Default::default();
        Self { actor, store, kit, view, transport, writers, hedge, hedges }
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
    ) -> Result<Option<Object>, ReadError> {
        // A request whose time is over already is not begun, as the shell does with messages.
        let now = self.kit.clock.monotonic();
        if cx.deadline.is_some_and(|deadline| now >= deadline) {
            let actor = Arc::clone(self.actor.name());
            return Err(AskError::DeadlinePassed { actor }.into());
        }
        let is_local = tier == Tier::Overlay || self.is_alone();
        if mode == RetrievalMode::Safe && !is_local {
            return self.read_safe(from, cx, id).await;
        }
        let fetched = match self.get_at_once(from, cx, now, LocalRead { tier, id, mode }) {
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
    ) -> Result<Value, ReadError> {
        let fetched = fetch(&*self.store, Tier::Group, id, self.kit.clock.wall().secs())?;
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

    /// Tells whether this node alone keeps the objects of its group.
    pub fn is_alone(&self) -> bool {
        self.view.load().group().is_none_or(|table| table.seats.len() == 1)
    }

    fn get_at_once(
        &self,
        from: &Arc<str>,
        cx: Context,
        now: MonotonicUs,
        read: LocalRead<'_>,
    ) -> Result<Fetched, StoreError> {
        let (vitals, from) = (self.actor.vitals(), Arc::clone(from));
        let mut step = StepGuard::begin(&self.kit, vitals, cx, from, (now, None), &read);
        let span = step.enter(cx.trace, read.kind());
        let answer = fetch(&*self.store, read.tier, read.id, self.kit.clock.wall().secs());
        drop(span);
        step.end(match &answer {
            Ok(Fetched::Live(_)) => Outcome::Done("found"),
            Ok(Fetched::Gone(_)) => Outcome::Done("deleted"),
            Ok(Fetched::Nothing) => Outcome::Done("absent"),
            Err(StoreError::Reopening) => Outcome::Done("has to wait for the store"),
            Err(error) => Outcome::Failed(error.to_string().into()),
        });
        answer
    }
}

/// Looks up what this node has.
fn fetch(
    store: &dyn ObjectStore,
    tier: Tier,
    id: &ObjectId,
    now: nomad_core::model::time::UnixSecs,
) -> Result<Fetched, StoreError> {
    match tier {
        Tier::Group => local_read::find(store, id, now),
        Tier::Overlay => Ok(store.get(tier, id, now)?.map_or(Fetched::Nothing, Fetched::Live)),
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
pub struct ReplicaReaderArgs {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
}

// ---- state ----

/// The actor.
pub struct ReplicaReader {
    store: Arc<dyn ObjectStore>,
    /// One permit for each listing that may run.
    listings: Arc<Semaphore>,
    /// One permit for each that runs or waits.
    places: Arc<Semaphore>,
}

// ---- handler ----

impl Role for ReplicaReader {
    type Msg = ReplicaReaderMsg;
    type Args = ReplicaReaderArgs;

    fn start(args: &ReplicaReaderArgs, _: &Handling<'_, ReplicaReaderMsg>) -> Result<Self, String> {
        let listings = Arc::new(Semaphore::new(LISTINGS_MAX));
        let places = Arc::new(Semaphore::new(LISTINGS_WAITING_MAX));
        Ok(Self { store: Arc::clone(&args.store), listings, places })
    }

    fn handle(
        &mut self,
        cx: &Handling<'_, ReplicaReaderMsg>,
        message: ReplicaReaderMsg,
    ) -> Result<Outcome, String> {
        let now = cx.kit.clock.wall().secs();
        match message {
            ReplicaReaderMsg::Get { tier, id, mode, reply } => {
                match fetch(&*self.store, tier, &id, now) {
                    // The deadline travels with the message, so this ends.
                    Err(StoreError::Reopening) if cx.cx.deadline.is_some() => {
                        let again = ReplicaReaderMsg::Get { tier, id, mode, reply };
                        cx.tell_me_after(REOPENING_PAUSE, again);
                        Ok(Outcome::Done("waits for the store"))
                    }
                    answer => {
                        let found = matches!(answer, Ok(Fetched::Live(_)));
                        reply.send(answer);
                        Ok(Outcome::Done(if found { "found" } else { "absent" }))
                    }
                }
            }
            ReplicaReaderMsg::List { tier, wanted, with_queued, reply } => {
                Ok(self.read(reply, move |store| {
                    // An entry that leaves the outbox meanwhile is among what is kept.
                    let queued = match with_queued {
                        true => local_read::queued(store, &wanted, now)?,
                        false => QueuedWrites::default(),
                    };
                    let ListingQuery { prefix, after, limit } = &wanted;
                    let page = store.list(tier, prefix, after.as_deref(), *limit, now)?;
                    Ok((queued, page))
                }))
            }
            ReplicaReaderMsg::Look { ids, reply } => {
                Ok(self.read(reply, move |store| local_read::look(store, &ids, now)))
            }
        }
    }
}

impl ReplicaReader {
    /// Reads much, on a thread that may wait: a page may read a hundred thousand records.
    fn read<T: Send + 'static>(
        &self,
        reply: Reply<Result<T, StoreError>>,
        read: impl FnOnce(&dyn ObjectStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Outcome {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            reply.send(Err(StoreError::Full { waiting: LISTINGS_WAITING_MAX as u64 }));
            return Outcome::Refused("too many listings wait");
        };
        let (store, listings) = (Arc::clone(&self.store), Arc::clone(&self.listings));
        tokio::spawn(async move {
            let Ok(permit) = listings.acquire_owned().await else { return };
            tokio::task::spawn_blocking(move || {
                let _held = (place, permit);
                // Its caller may have gone while the listing waited.
                if !reply.is_closed() {
                    reply.send(read(&*store));
                }
            });
        });
        Outcome::Done("handed to a blocking thread")
    }
}
