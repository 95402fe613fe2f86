//! `get`, `put`, `update` and `delete` of both storage services.
//!
//! The messages of the two are the same on the wire (a test in `route` holds it), so the ones of `groupstorage` stand
//! for both; only the tier differs.

use http::HeaderMap;
use prost::Message;

use super::{answer::Answer, head, object};
use crate::{
    api::{backend::Call, error::ApiError},
    core::{
        change::{Change, Condition, Refusal},
        object::{ObjectId, Tier},
    },
    ports::object_store::Written,
    proto::groupstorage::{
        DeleteObjectRequest, DeleteObjectResponse, GetObjectRequest, GetObjectResponse,
        PutObjectRequest, PutObjectResponse, UpdateObjectRequest, UpdateObjectResponse,
    },
};

/// Reads an object.
///
/// # Errors
/// When the request is malformed or the node cannot read.
pub(super) async fn get(
    call: &mut Call,
    tier: Tier,
    headers: &HeaderMap,
    request: GetObjectRequest,
) -> Result<Answer, ApiError> {
    let id = ObjectId::parse(&request.id)?;
    let mode = head::mode(headers)?;
    let object = call.get(tier, &id, mode).await?.map(object::message);
    let durability = call.backend().durability(tier, None);
    Ok(Answer::unary(&GetObjectResponse { result: object.is_some(), object }, durability))
}

/// Creates an object.
///
/// # Errors
/// When the request is malformed or the node cannot write. An id that is taken is a `false`.
pub(super) async fn put(
    call: &mut Call,
    tier: Tier,
    headers: &HeaderMap,
    request: PutObjectRequest,
) -> Result<Answer, ApiError> {
    let object::Incoming { id, content, .. } = object::take(request.object)?;
    let change = Change::Write { content, condition: Condition::Absent };
    let write = write(call, tier, headers, &id, change, |result| PutObjectResponse { result });
    write.await.map_err(object::in_object)
}

/// Replaces an object.
///
/// # Errors
/// As [`put`], and when the object is not at the version that the request names. A missing object is a `false`.
pub(super) async fn update(
    call: &mut Call,
    tier: Tier,
    headers: &HeaderMap,
    request: UpdateObjectRequest,
) -> Result<Answer, ApiError> {
    let object::Incoming { id, content, version } = object::take(request.object)?;
    let condition = condition(&version).map_err(object::in_object)?;
    let change = Change::Write { content, condition };
    let write = write(call, tier, headers, &id, change, |result| UpdateObjectResponse { result });
    write.await.map_err(object::in_object)
}

/// Removes an object.
///
/// # Errors
/// As [`update`].
pub(super) async fn delete(
    call: &mut Call,
    tier: Tier,
    headers: &HeaderMap,
    request: DeleteObjectRequest,
) -> Result<Answer, ApiError> {
    let id = ObjectId::parse(&request.id)?;
    let change = Change::Delete { condition: condition(&request.version)? };
    write(call, tier, headers, &id, change, |result| DeleteObjectResponse { result }).await
}

/// What an update or a delete is subject to.
fn condition(version: &str) -> Result<Condition, ApiError> {
    Ok(match version {
        "" => Condition::Present,
        version => Condition::Version(version.parse()?),
    })
}

async fn write<M: Message>(
    call: &mut Call,
    tier: Tier,
    headers: &HeaderMap,
    id: &ObjectId,
    change: Change,
    message: fn(bool) -> M,
) -> Result<Answer, ApiError> {
    let mode = head::mode(headers)?;
    let (written, durability) = call.write(tier, id, change, mode).await?;
    Ok(Answer::unary(&message(is_done(written)?), durability))
}

/// What is there or is not there is a business answer; another version than the named one is an error.
fn is_done(written: Result<Written, Refusal>) -> Result<bool, ApiError> {
    match written {
        Ok(_) => Ok(true),
        Err(Refusal::Exists { .. } | Refusal::Missing) => Ok(false),
        Err(refusal @ Refusal::VersionMismatch { .. }) => Err(refusal.into()),
    }
}
