//! Reads what this node keeps of objects.
//!
//! What can be read at once is read on the caller's own task, as a step of this actor: see [`LocalRead`]. Only what has to
//! wait, or reads much, goes through the mailbox. No read waits for the writer. How other members are asked, and what a
//! request makes of their answers, is in the room `service`.

mod door;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use strum::IntoStaticStr;

pub use self::door::{LISTING_ASK_LIMIT, LISTING_VERSION, ListingDoor};
use super::{
    local_read::{self, Fetched},
    readings::Readings,
    recorder::Outcome,
    shell::{
        ActorMessage, Address, Context, Described, Handled, Handling, Kit, Reply, StepGuard, Worker,
    },
};
use nomad_core::{
    group::RetrievalMode,
    listing::{Known, ListingPage, ListingQuery, QueuedWrites},
    model::{
        object::{ObjectId, Tier},
        time::UnixSecs,
    },
};
use nomad_ports::{ObjectStore, object_store::StoreError};

/// The most listings that run at a time, each of which may read a hundred thousand records, and the most that run or wait.
const LISTINGS_MAX: usize = 16;
const LISTINGS_WAITING_MAX: usize = 256;
/// How long a read waits before it looks again whether the store has been reopened.
const REOPENING_PAUSE: Duration = Duration::from_millis(20);

// ---- messages ----

/// What a reader can be asked.
#[derive(Debug, IntoStaticStr)]
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
        self.into()
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

/// Looks up what this node has.
fn fetch(
    store: &dyn ObjectStore,
    tier: Tier,
    id: &ObjectId,
    now: UnixSecs,
) -> Result<Fetched, StoreError> {
    match tier {
        Tier::Group => local_read::find(store, id, now),
        Tier::Overlay => Ok(store.get(tier, id, now)?.map_or(Fetched::Nothing, Fetched::Live)),
    }
}

/// A read on the caller's task, described as the message that it stands for.
pub struct LocalRead<'a> {
    /// The tier of the object.
    pub tier: Tier,
    /// The object.
    pub id: &'a ObjectId,
    /// How it is read.
    pub mode: RetrievalMode,
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

impl LocalRead<'_> {
    /// Reads what this node has at once, as a step of the actor.
    ///
    /// # Errors
    /// When the store cannot read.
    pub fn at_once(
        &self,
        kit: &Kit,
        actor: &Address<ReplicaReaderMsg>,
        store: &dyn ObjectStore,
        (from, cx): (&Arc<str>, Context),
    ) -> Result<Fetched, StoreError> {
        let (now, from) = (kit.clock.monotonic(), Arc::clone(from));
        let mut step = StepGuard::begin(kit, actor.vitals(), cx, from, (now, None), self);
        let span = step.enter(cx.trace, self.kind());
        let answer = fetch(store, self.tier, self.id, kit.clock.wall().secs());
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
    listings: Readings,
}

// ---- handler ----

impl Worker for ReplicaReader {
    type Msg = ReplicaReaderMsg;
    type Args = ReplicaReaderArgs;

    fn start(args: &ReplicaReaderArgs, _: &Handling<'_, ReplicaReaderMsg>) -> Result<Self, String> {
        let listings = Readings::new(LISTINGS_MAX, LISTINGS_WAITING_MAX);
        Ok(Self { store: Arc::clone(&args.store), listings })
    }

    fn handle(&mut self, cx: &Handling<'_, Self::Msg>, message: Self::Msg) -> Handled {
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
                    Ok((queued, store.list(tier, &wanted, now)?))
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
        let store = Arc::clone(&self.store);
        match self.listings.answer(reply, move || read(&*store)) {
            Ok(()) => Outcome::Done("handed to a blocking thread"),
            Err(reply) => {
                let full = StoreError::Full { waiting: LISTINGS_WAITING_MAX as u64 };
                reply.end(Err(full), Outcome::Refused("too many listings wait"))
            }
        }
    }
}
