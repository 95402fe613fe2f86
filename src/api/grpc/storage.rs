//! The two storage services. Their messages are types of their own with the same fields; what they do differs in the
//! tier alone.

use tonic::Request;

use super::{
    Services, control,
    held::{GrpcCall, GrpcResult, MessageStream},
    object,
};
use crate::error::ApiError;
use nomad_core::model::change::Written;
use nomad_core::model::{
    change::{Change, Condition, WriteRefusal},
    object::{ObjectId, Tier},
};
use nomad_proto::{
    groupstorage::{
        self as group, AddToGroupLedgerRequest, AddToGroupLedgerResponse, HealthCheckResponse,
        RemovePeerGroupLedgerRequest, RemovePeerGroupLedgerResponse,
        group_storage_service_server::GroupStorageService,
    },
    models::GameObjectGrpc,
    peerstorage::{self as overlay, peer_storage_service_server::PeerStorageService},
};

#[tonic::async_trait]
impl GroupStorageService for Services {
    async fn get(
        &self,
        request: Request<group::GetObjectRequest>,
    ) -> GrpcResult<group::GetObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let found = get(&mut held, Tier::Group, &request.id).await;
        held.answer(
            found.map(|object| group::GetObjectResponse { result: object.is_some(), object }),
        )
    }

    async fn put(
        &self,
        request: Request<group::PutObjectRequest>,
    ) -> GrpcResult<group::PutObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = put(&mut held, Tier::Group, request.object).await;
        held.answer(done.map(|result| group::PutObjectResponse { result }))
    }

    async fn update(
        &self,
        request: Request<group::UpdateObjectRequest>,
    ) -> GrpcResult<group::UpdateObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = update(&mut held, Tier::Group, request.object).await;
        held.answer(done.map(|result| group::UpdateObjectResponse { result }))
    }

    async fn delete(
        &self,
        request: Request<group::DeleteObjectRequest>,
    ) -> GrpcResult<group::DeleteObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = delete(&mut held, Tier::Group, &request.id, &request.version).await;
        held.answer(done.map(|result| group::DeleteObjectResponse { result }))
    }

    async fn add_to_group_ledger(
        &self,
        request: Request<AddToGroupLedgerRequest>,
    ) -> GrpcResult<AddToGroupLedgerResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let AddToGroupLedgerRequest { object_id, peer_id, ttl } = request;
        let done = control::add_reference(&mut held.call, &object_id, &peer_id, ttl).await;
        held.answer(done.map(|result| AddToGroupLedgerResponse { result }))
    }

    async fn remove_peer_group_ledger(
        &self,
        request: Request<RemovePeerGroupLedgerRequest>,
    ) -> GrpcResult<RemovePeerGroupLedgerResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = control::remove_references(&mut held.call, &request.peer_id).await;
        held.answer(done.map(|result| RemovePeerGroupLedgerResponse { result }))
    }

    async fn health_check(&self, request: Request<()>) -> GrpcResult<HealthCheckResponse> {
        let (held, ()) = GrpcCall::take(request)?;
        // The statuses of both health services have the same numbers.
        let status = self.health.check("").map(Into::into);
        held.answer(status.map(|status| HealthCheckResponse { status }))
    }

    type healthCheckWatchStream = MessageStream<HealthCheckResponse>;

    async fn health_check_watch(
        &self,
        request: Request<()>,
    ) -> GrpcResult<Self::healthCheckWatchStream> {
        let (held, ()) = GrpcCall::take(request)?;
        held.stream(self.health.watch("", |status| HealthCheckResponse { status: status.into() }))
    }
}

#[tonic::async_trait]
impl PeerStorageService for Services {
    async fn get(
        &self,
        request: Request<overlay::GetObjectRequest>,
    ) -> GrpcResult<overlay::GetObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let found = get(&mut held, Tier::Overlay, &request.id).await;
        held.answer(
            found.map(|object| overlay::GetObjectResponse { result: object.is_some(), object }),
        )
    }

    async fn put(
        &self,
        request: Request<overlay::PutObjectRequest>,
    ) -> GrpcResult<overlay::PutObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = put(&mut held, Tier::Overlay, request.object).await;
        held.answer(done.map(|result| overlay::PutObjectResponse { result }))
    }

    async fn update(
        &self,
        request: Request<overlay::UpdateObjectRequest>,
    ) -> GrpcResult<overlay::UpdateObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = update(&mut held, Tier::Overlay, request.object).await;
        held.answer(done.map(|result| overlay::UpdateObjectResponse { result }))
    }

    async fn delete(
        &self,
        request: Request<overlay::DeleteObjectRequest>,
    ) -> GrpcResult<overlay::DeleteObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = delete(&mut held, Tier::Overlay, &request.id, &request.version).await;
        held.answer(done.map(|result| overlay::DeleteObjectResponse { result }))
    }
}

/// Reads an object.
///
/// # Errors
/// When the request is malformed or the node cannot read.
async fn get(
    held: &mut GrpcCall,
    tier: Tier,
    id: &str,
) -> Result<Option<GameObjectGrpc>, ApiError> {
    let id = ObjectId::parse(id)?;
    let mode = held.mode()?;
    let found = held.call.get(tier, &id, mode).await?;
    held.carries(found.as_ref().map_or(0, |object| object.value.len()));
    Ok(found.map(object::message))
}

/// Creates an object.
///
/// # Errors
/// When the request is malformed or the node cannot write. An id that is taken is a `false`.
async fn put(
    held: &mut GrpcCall,
    tier: Tier,
    object: Option<GameObjectGrpc>,
) -> Result<bool, ApiError> {
    let object::GrpcObject { id, content, .. } = object::take(object)?;
    let change = Change::Write { content, condition: Condition::Absent };
    write(held, tier, &id, change).await.map_err(object::in_object)
}

/// Replaces an object.
///
/// # Errors
/// As [`put`], and when the object is not at the version that the request names. A missing object is a `false`.
async fn update(
    held: &mut GrpcCall,
    tier: Tier,
    object: Option<GameObjectGrpc>,
) -> Result<bool, ApiError> {
    let object::GrpcObject { id, content, version } = object::take(object)?;
    let condition = condition(&version).map_err(object::in_object)?;
    let change = Change::Write { content, condition };
    write(held, tier, &id, change).await.map_err(object::in_object)
}

/// Removes an object.
///
/// # Errors
/// As [`update`].
async fn delete(
    held: &mut GrpcCall,
    tier: Tier,
    id: &str,
    version: &str,
) -> Result<bool, ApiError> {
    let id = ObjectId::parse(id)?;
    let change = Change::Delete { condition: condition(version)? };
    write(held, tier, &id, change).await
}

/// What an update or a delete is subject to.
fn condition(version: &str) -> Result<Condition, ApiError> {
    Ok(match version {
        "" => Condition::Present,
        version => Condition::Version(version.parse()?),
    })
}

async fn write(
    held: &mut GrpcCall,
    tier: Tier,
    id: &ObjectId,
    change: Change,
) -> Result<bool, ApiError> {
    let mode = held.mode()?;
    let (written, durability) = held.call.write(tier, id, change, mode).await?;
    held.wrote(durability);
    is_done(written)
}

/// What is there or is not there is a business answer; another version than the named one is an error.
fn is_done(written: Result<Written, WriteRefusal>) -> Result<bool, ApiError> {
    match written {
        Ok(_) => Ok(true),
        Err(WriteRefusal::Exists { .. } | WriteRefusal::Missing) => Ok(false),
        Err(refusal @ WriteRefusal::VersionMismatch { .. }) => Err(refusal.into()),
    }
}
