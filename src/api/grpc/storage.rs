//! The two storage services. Their messages are types of their own with the same fields; what they do differs in the
//! tier alone.

use tonic::Request;

use super::{
    Services, control,
    held::{GrpcCall, GrpcResult, MessageStream, answers},
    object,
};
use crate::error::ApiError;
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

answers! {
    GroupStorageService, held {
        get(request: group::GetObjectRequest) -> group::GetObjectResponse { result, object } =
            get(held, Tier::Group, &request.id);
        put(request: group::PutObjectRequest) -> group::PutObjectResponse { result } =
            put(held, Tier::Group, request.object);
        update(request: group::UpdateObjectRequest) -> group::UpdateObjectResponse { result } =
            update(held, Tier::Group, request.object);
        delete(request: group::DeleteObjectRequest) -> group::DeleteObjectResponse { result } =
            delete(held, Tier::Group, &request.id, &request.version);
        add_to_group_ledger(request: AddToGroupLedgerRequest) -> AddToGroupLedgerResponse { result } =
            control::add_reference(&mut held.call, &request.object_id, &request.peer_id, request.ttl);
        remove_peer_group_ledger(request: RemovePeerGroupLedgerRequest) -> RemovePeerGroupLedgerResponse { result } =
            control::remove_references(&mut held.call, &request.peer_id);
    } {
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
}

answers! {
    PeerStorageService, held {
        get(request: overlay::GetObjectRequest) -> overlay::GetObjectResponse { result, object } =
            get(held, Tier::Overlay, &request.id);
        put(request: overlay::PutObjectRequest) -> overlay::PutObjectResponse { result } =
            put(held, Tier::Overlay, request.object);
        update(request: overlay::UpdateObjectRequest) -> overlay::UpdateObjectResponse { result } =
            update(held, Tier::Overlay, request.object);
        delete(request: overlay::DeleteObjectRequest) -> overlay::DeleteObjectResponse { result } =
            delete(held, Tier::Overlay, &request.id, &request.version);
    } {}
}

/// Reads an object: whether it is there, and itself.
///
/// # Errors
/// When the request is malformed or the node cannot read.
async fn get(
    held: &mut GrpcCall,
    tier: Tier,
    id: &str,
) -> Result<(bool, Option<GameObjectGrpc>), ApiError> {
    let id = ObjectId::parse(id)?;
    let mode = held.mode()?;
    let found = held.call.get(tier, &id, mode).await?;
    held.carries(found.as_ref().map_or(0, |object| object.value.len()));
    Ok((found.is_some(), found.map(object::message)))
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

/// What is there or is not there is a business answer; another version than the named one is an error.
async fn write(
    held: &mut GrpcCall,
    tier: Tier,
    id: &ObjectId,
    change: Change,
) -> Result<bool, ApiError> {
    let mode = held.mode()?;
    let (written, durability) = held.call.write(tier, id, change, mode).await?;
    held.wrote(durability);
    match written {
        Ok(_) => Ok(true),
        Err(WriteRefusal::Exists { .. } | WriteRefusal::Missing) => Ok(false),
        Err(refusal @ WriteRefusal::VersionMismatch { .. }) => Err(refusal.into()),
    }
}
