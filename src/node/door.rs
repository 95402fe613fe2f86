//! The front door for programs that embed a node: what the REST and gRPC edges offer, as methods. They come in where the edges
//! do, at the room `service`, and leave the same records, under the name `embedded`.

use bytes::Bytes;

use super::Node;
use nomad_actors::recorder::Outcome;
use nomad_api::status::NodeStatus;
use nomad_core::{
    listing::ListingPage,
    model::{
        change::{Change, Condition, Content, Written},
        object::{Object, ObjectId, Tier, Version},
    },
};
use nomad_service::{
    Assurance, Entrance, ErrorKind, ReadOptions, ServiceCall, ServiceError, WriteOptions,
};

/// What became of a write that took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteReceipt {
    /// The version that the object has now; `None` = it is there no more.
    pub version: Option<Version>,
    /// Whether there was no such object before.
    pub created: bool,
    /// Whose disks have it.
    pub assurance: Assurance,
}

impl Node {
    /// Waits until the node takes requests: until it is in a group. A node that finds none founds one.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + use<> {
        let backend = self.backend.clone();
        async move {
            let mut views = backend.service.view.watch();
            while backend.unready().is_some() {
                // The view outlives its watch.
                let _ = views.changed().await;
            }
        }
    }

    /// Returns what the node tells of itself, as `GET /nomad/v1/status` does.
    pub fn status(&self) -> NodeStatus {
        self.backend.status()
    }

    /// Creates an object. Under [`Condition::Any`] it creates or replaces.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] when there is one; else see [`ServiceError`].
    pub async fn put(
        &self,
        id: &str,
        value: impl Into<Bytes>,
        options: WriteOptions,
    ) -> Result<WriteReceipt, ServiceError> {
        self.keep("put", id, value.into(), (Condition::Absent, options)).await
    }

    /// Replaces an object that is there. It keeps its creation time.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] when there is none, [`ErrorKind::Unmet`] when it has another version than the one named; else see
    /// [`ServiceError`].
    pub async fn update(
        &self,
        id: &str,
        value: impl Into<Bytes>,
        options: WriteOptions,
    ) -> Result<WriteReceipt, ServiceError> {
        self.keep("update", id, value.into(), (Condition::Present, options)).await
    }

    /// Removes an object.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub async fn delete(
        &self,
        id: &str,
        options: WriteOptions,
    ) -> Result<WriteReceipt, ServiceError> {
        let condition = options.condition.unwrap_or(Condition::Present);
        self.write("delete", id, Change::Delete { condition }, &options).await
    }

    /// Reads an object; `None` = there is none.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn get(
        &self,
        id: &str,
        options: ReadOptions,
    ) -> Result<Option<Object>, ServiceError> {
        let id = ObjectId::parse(id)?;
        let mut call = self.begin("get", options.timeout);
        let found = call.get(Tier::Group, &id, options.mode).await;
        end(call, found)
    }

    /// Lists the objects of the group whose ids start with `prefix`, in the order of their ids: at most `limit` of those behind
    /// the id `after`. The page says where the next one starts.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListingPage, ServiceError> {
        let mut call = self.begin("list", None);
        let page = call.list(Tier::Group, prefix, after, limit).await;
        end(call, page)
    }

    fn begin(&self, kind: &'static str, timeout: Option<std::time::Duration>) -> ServiceCall {
        ServiceCall::begin(&self.backend.service, Entrance::Embedded, kind, None, timeout)
    }

    async fn keep(
        &self,
        kind: &'static str,
        id: &str,
        value: Bytes,
        (usual, options): (Condition, WriteOptions),
    ) -> Result<WriteReceipt, ServiceError> {
        let content = Content {
            value,
            creation_time: None,
            expires_at: options.expires_at,
            content_type: options.content_type.clone(),
        };
        let condition = options.condition.unwrap_or(usual);
        self.write(kind, id, Change::Write { content, condition }, &options).await
    }

    async fn write(
        &self,
        kind: &'static str,
        id: &str,
        change: Change,
        options: &WriteOptions,
    ) -> Result<WriteReceipt, ServiceError> {
        let id = ObjectId::parse(id)?;
        let mut call = self.begin(kind, options.timeout);
        let written = match call.write(Tier::Group, &id, change, options.mode).await {
            Ok((Ok(Written::Kept { version, created }), assurance)) => {
                Ok(WriteReceipt { version: Some(version), created, assurance })
            }
            Ok((Ok(Written::Removed), assurance)) => {
                Ok(WriteReceipt { version: None, created: false, assurance })
            }
            Ok((Err(refusal), _)) => Err(refusal.into()),
            Err(error) => Err(error),
        };
        end(call, written)
    }
}

/// Ends a request with what came out of it.
fn end<T>(mut call: ServiceCall, answer: Result<T, ServiceError>) -> Result<T, ServiceError> {
    call.end(match &answer {
        Ok(_) => Outcome::Done("answered"),
        Err(error) => match error.kind() {
            ErrorKind::Exists => Outcome::Refused("the id is taken"),
            ErrorKind::Missing => Outcome::Refused("there is no such object"),
            ErrorKind::Unmet => Outcome::Refused("a condition does not hold"),
            _ => Outcome::Failed(error.to_string().into()),
        },
    });
    answer
}
