//! The store alone, for programs that embed it: no actors and no network, only async functions around the group commit.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::oneshot;

use super::{FjallStore, StoreOpenError, StoreOptions};
use nomad_core::model::{
    change::{Change, Condition, Content, ContentError, WriteRefusal, Written},
    object::{Object, ObjectId, ObjectIdError, Tier, Version},
    time::UnixSecs,
};
use nomad_ports::{
    ObjectStore as _,
    object_store::{
        Completion, ListingPage, ListingQuery, Receipt, StoreCounts, StoreError, StoreHealth,
        StoreJob, Swept, WriteJob, WriteResult,
    },
};

/// A durable store of objects in a directory. Cheap to clone; the last clone closes it.
///
/// ```
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # extern crate nomad_storage as nomad;
/// use nomad::{Store, StoreOptions};
/// let store = Store::open(StoreOptions::new(dir.path()))?;
/// store.put("item:1", "hello", None).await?;
/// assert_eq!(&store.get("item:1")?.expect("just put").value[..], b"hello");
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<FjallStore>,
}

/// Why a write was not done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreWriteError {
    /// The id is not one.
    #[error(transparent)]
    Id(#[from] ObjectIdError),
    /// The content may not be kept.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// What is there does not allow it.
    #[error(transparent)]
    Refused(#[from] WriteRefusal),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A caller of [`Store`] that waits for its write.
struct Waiting(oneshot::Sender<WriteResult>);

impl Completion for Waiting {
    fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }

    fn complete(self: Box<Self>, receipt: Receipt) {
        // A caller that has gone meanwhile has given up the answer, not the write.
        let _ = self.0.send(receipt.result);
    }
}

impl Store {
    /// Opens the store of a directory, which one process may have open at a time.
    ///
    /// # Errors
    /// Says why it does not open, with the way out.
    pub fn open(options: StoreOptions) -> Result<Self, StoreOpenError> {
        Ok(Self { inner: Arc::new(FjallStore::open(options)?) })
    }

    /// Creates an object; `ttl` is the Unix time in seconds from which on it is absent. Returns its version once it is
    /// durable.
    ///
    /// # Errors
    /// [`WriteRefusal::Exists`] if the id is taken.
    pub async fn put(
        &self,
        id: &str,
        value: impl Into<Bytes>,
        ttl: Option<UnixSecs>,
    ) -> Result<Version, StoreWriteError> {
        self.keep(id, value.into(), ttl, Condition::Absent).await
    }

    /// Replaces an object and keeps its creation time.
    ///
    /// # Errors
    /// [`WriteRefusal::Missing`] if there is none.
    pub async fn update(
        &self,
        id: &str,
        value: impl Into<Bytes>,
        ttl: Option<UnixSecs>,
    ) -> Result<Version, StoreWriteError> {
        self.keep(id, value.into(), ttl, Condition::Present).await
    }

    /// Removes an object.
    ///
    /// # Errors
    /// [`WriteRefusal::Missing`] if there is none.
    pub async fn delete(&self, id: &str) -> Result<(), StoreWriteError> {
        self.change(id, Change::Delete { condition: Condition::Any }).await.map(|_| ())
    }

    /// Does any change under any condition.
    ///
    /// # Errors
    /// Says what refused it.
    pub async fn change(&self, id: &str, change: Change) -> Result<Written, StoreWriteError> {
        let id = ObjectId::parse(id)?;
        let options = self.inner.options();
        if let Change::Write { content, .. } = &change {
            content.check(options.clock.wall().secs(), options.max_object_bytes)?;
        }
        let (reply, answer) = oneshot::channel();
        self.inner.submit(StoreJob::Write(WriteJob {
            tier: Tier::Group,
            id,
            change,
            done: Box::new(Waiting(reply)),
        }));
        Ok(answer.await.unwrap_or(Err(StoreError::Closed))??)
    }

    /// Returns an object, `None` if there is none or it has expired.
    ///
    /// # Errors
    /// When the id is not one or the engine cannot read.
    pub fn get(&self, id: &str) -> Result<Option<Object>, StoreWriteError> {
        let now = self.inner.options().clock.wall().secs();
        Ok(self.inner.get(Tier::Group, &ObjectId::parse(id)?, now)?)
    }

    /// Returns up to `limit` objects whose ids start with `prefix`, sorted, from the one after `after` on.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListingPage, StoreError> {
        let now = self.inner.options().clock.wall().secs();
        let after = after.map(str::to_owned);
        self.inner.list(Tier::Group, &ListingQuery { prefix: prefix.to_owned(), after, limit }, now)
    }

    /// Removes up to `limit` expired objects from the disk. They are absent already; this makes room.
    ///
    /// # Errors
    /// When the store refuses writes.
    pub async fn sweep(&self, limit: usize) -> Result<Swept, StoreError> {
        let (reply, answer) = oneshot::channel();
        let done = Box::new(move |swept| drop(reply.send(swept)));
        self.inner.submit(StoreJob::Sweep { limit, done });
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Tells what the store can do at the moment.
    pub fn health(&self) -> StoreHealth {
        self.inner.health()
    }

    /// Returns the counters.
    pub fn counts(&self) -> StoreCounts {
        self.inner.counts()
    }

    /// Makes everything durable and closes the store for all clones.
    pub async fn close(self) {
        let inner = self.inner;
        // Joining the writer blocks: not on the caller's runtime thread.
        let closed = tokio::task::spawn_blocking(move || inner.close()).await;
        debug_assert!(closed.is_ok(), "closing the store does not panic");
    }

    async fn keep(
        &self,
        id: &str,
        value: Bytes,
        expires_at: Option<UnixSecs>,
        condition: Condition,
    ) -> Result<Version, StoreWriteError> {
        let content = Content { value, creation_time: None, expires_at, content_type: None };
        match self.change(id, Change::Write { content, condition }).await? {
            Written::Kept { version, .. } => Ok(version),
            Written::Removed => unreachable!("a write of content keeps it"),
        }
    }
}
