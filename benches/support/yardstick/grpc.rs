//! The storage service over anything that keeps objects; the calls that no bench makes are not implemented.

use std::future::{Future, ready};

use bytes::Bytes;
use nomad::proto::{
    groupstorage::{
        AddToGroupLedgerRequest, AddToGroupLedgerResponse, DeleteObjectRequest,
        DeleteObjectResponse, GetObjectRequest, GetObjectResponse, HealthCheckResponse,
        PutObjectRequest, PutObjectResponse, RemovePeerGroupLedgerRequest,
        RemovePeerGroupLedgerResponse, UpdateObjectRequest, UpdateObjectResponse,
        group_storage_service_server::GroupStorageService,
    },
    models::GameObjectGrpc,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::BARE_VALUE;

/// What a write does.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Creates; refuses an id that exists.
    Put(GameObjectGrpc),
    /// Replaces; refuses an id that does not exist.
    Update(GameObjectGrpc),
    /// Removes; refuses an id that does not exist.
    Delete(String),
}

/// Something that keeps objects.
pub trait Objects: Send + Sync + 'static {
    /// Reads one.
    fn get(
        &self,
        id: String,
    ) -> impl Future<Output = Result<Option<GameObjectGrpc>, Status>> + Send;
    /// Writes one; `false` when it was refused.
    fn write(&self, write: Write) -> impl Future<Output = Result<bool, Status>> + Send;
}

/// The storage service over `T`.
pub struct Service<T>(pub T);

/// Always the same object.
pub struct Fixed(GameObjectGrpc);

impl Fixed {
    /// An object of 100 bytes.
    pub fn new() -> Fixed {
        let value = Bytes::from_static(BARE_VALUE.as_bytes());
        let (id, creation_time) = ("bench:k000000000".to_owned(), 1_700_000_000);
        Fixed(GameObjectGrpc { id, value, creation_time, ..GameObjectGrpc::default() })
    }
}

impl Objects for Fixed {
    fn get(
        &self,
        _: String,
    ) -> impl Future<Output = Result<Option<GameObjectGrpc>, Status>> + Send {
        ready(Ok(Some(self.0.clone())))
    }

    fn write(&self, _: Write) -> impl Future<Output = Result<bool, Status>> + Send {
        ready(Ok(true))
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn given(object: Option<GameObjectGrpc>) -> Result<GameObjectGrpc, Status> {
    object
        .filter(|object| !object.id.is_empty())
        .ok_or_else(|| Status::invalid_argument("no object, or one without an id"))
}

#[tonic::async_trait]
impl<T: Objects> GroupStorageService for Service<T> {
    async fn get(&self, request: Request<GetObjectRequest>) -> Answer<GetObjectResponse> {
        let object = self.0.get(request.into_inner().id).await?;
        Ok(Response::new(GetObjectResponse { result: object.is_some(), object }))
    }

    async fn put(&self, request: Request<PutObjectRequest>) -> Answer<PutObjectResponse> {
        let object = given(request.into_inner().object)?;
        let result = self.0.write(Write::Put(object)).await?;
        Ok(Response::new(PutObjectResponse { result }))
    }

    async fn update(&self, request: Request<UpdateObjectRequest>) -> Answer<UpdateObjectResponse> {
        let object = given(request.into_inner().object)?;
        let result = self.0.write(Write::Update(object)).await?;
        Ok(Response::new(UpdateObjectResponse { result }))
    }

    async fn delete(&self, request: Request<DeleteObjectRequest>) -> Answer<DeleteObjectResponse> {
        let result = self.0.write(Write::Delete(request.into_inner().id)).await?;
        Ok(Response::new(DeleteObjectResponse { result }))
    }

    async fn add_to_group_ledger(
        &self,
        _: Request<AddToGroupLedgerRequest>,
    ) -> Answer<AddToGroupLedgerResponse> {
        Err(Status::unimplemented("a yardstick has no ledger"))
    }

    async fn remove_peer_group_ledger(
        &self,
        _: Request<RemovePeerGroupLedgerRequest>,
    ) -> Answer<RemovePeerGroupLedgerResponse> {
        Err(Status::unimplemented("a yardstick has no ledger"))
    }

    async fn health_check(&self, _: Request<()>) -> Answer<HealthCheckResponse> {
        Err(Status::unimplemented("a yardstick has no health check"))
    }

    type healthCheckWatchStream = Empty<Result<HealthCheckResponse, Status>>;

    async fn health_check_watch(&self, _: Request<()>) -> Answer<Self::healthCheckWatchStream> {
        Err(Status::unimplemented("a yardstick has no health check"))
    }
}
