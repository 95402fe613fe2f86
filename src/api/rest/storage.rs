//! The older paths: objects as JSON with the value in base64, in the group's storage and in the overlay.

use http::header;
use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::{
    ask::{RestRequest, RestResult},
    document::{
        BadInput, Conflict, IdPath, IfMatch, MediaType, Missing, ReadModeHeader, TooLarge, Unmet,
        WriteHeaders,
    },
    etag::{self, Tags},
    game_object::{GameObject, NewObject, RestObject},
    problem,
    row::{BodyKind, RouteRow},
};
use crate::{backend::Call, error::ApiError};
use nomad_core::{
    group::{RetrievalMode, StorageMode},
    model::{
        change::{Change, Condition, WriteRefusal},
        object::{ObjectId, Tier, Version},
    },
};
use nomad_service::Assurance;

// ---- routes ----

pub static GET: RouteRow = RouteRow::get(&["GET /nomad/storage/get/{id}"]).except(&[
    "health",
    "peer-ledger",
    "object-ledger",
]);
pub static PUT: RouteRow = RouteRow::post(&["POST /nomad/storage/put"], BodyKind::Object);
pub static UPDATE: RouteRow = RouteRow::new(
    "PUT, POST",
    &["PUT /nomad/storage/update", "POST /nomad/storage/update"],
    BodyKind::Object,
);
pub static DELETE: RouteRow =
    RouteRow::new("DELETE", &["DELETE /nomad/storage/delete/{id}"], BodyKind::Nothing);

// ---- handlers ----

/// Whether a write took effect.
#[derive(Debug, Serialize, ToSchema)]
pub struct Done {
    /// For a delete, whether the object was there; else true.
    result: bool,
}

/// Reads an object.
#[utoipa::path(
    get, path = "/nomad/storage/get/{id}", operation_id = "get", tag = "storage",
    params(IdPath, ReadModeHeader),
    responses((status = 200, description = "The object", body = GameObject), BadInput, Missing)
)]
pub async fn get(ask: RestRequest) -> Response {
    read(ask, Tier::Group, None).await
}

/// Keeps a new object.
#[utoipa::path(
    post, path = "/nomad/storage/put", operation_id = "put", tag = "storage",
    params(WriteHeaders), request_body = NewObject,
    responses((status = 200, description = "It is kept", body = Done), BadInput, Conflict, TooLarge, MediaType)
)]
pub async fn put(ask: RestRequest) -> Response {
    create(ask, Tier::Group, None).await
}

/// Replaces an object that is there. It keeps its creation time.
#[utoipa::path(
    put, path = "/nomad/storage/update", operation_id = "update", tag = "storage",
    params(WriteHeaders, IfMatch), request_body = NewObject,
    responses(
        (status = 200, description = "It is replaced", body = Done),
        BadInput, Missing, Unmet, TooLarge, MediaType
    )
)]
pub async fn update(ask: RestRequest) -> Response {
    ask.answer(replace).await
}

/// Replaces an object that is there, as an older client asks for it.
#[utoipa::path(
    post, path = "/nomad/storage/update", operation_id = "updateByPost", tag = "storage",
    params(WriteHeaders, IfMatch), request_body = NewObject,
    responses(
        (status = 200, description = "It is replaced", body = Done),
        BadInput, Missing, Unmet, TooLarge, MediaType
    )
)]
#[expect(dead_code, reason = "for the document alone: update answers both methods")]
pub fn update_by_post() {}

/// Removes an object.
#[utoipa::path(
    delete, path = "/nomad/storage/delete/{id}", operation_id = "delete", tag = "storage",
    params(IdPath, WriteHeaders),
    responses((status = 200, description = "Whether it was there", body = Done), BadInput)
)]
pub async fn delete(ask: RestRequest) -> Response {
    ask.answer(remove).await
}

// ---- those whose paths name the tier and the mode ----

/// Makes the row and the handler of each read, with its part of the document.
macro_rules! reads {
    ($($(#[$doc:meta])* $row:ident, $handler:ident: $path:tt, $name:tt, $tag:tt => $tier:expr, $mode:expr;)+) => {$(
        pub static $row: RouteRow = RouteRow::get(&[concat!("GET ", $path)]);

        $(#[$doc])*
        #[utoipa::path(
            get, path = $path, operation_id = $name, tag = $tag, params(IdPath),
            responses((status = 200, description = "The object", body = GameObject), BadInput, Missing)
        )]
        pub async fn $handler(ask: RestRequest) -> Response {
            read(ask, $tier, $mode).await
        }
    )+};
}

/// As `reads`, of writes that create an object.
macro_rules! creates {
    ($($(#[$doc:meta])* $row:ident, $handler:ident: $path:tt, $name:tt, $tag:tt => $tier:expr, $mode:expr;)+) => {$(
        pub static $row: RouteRow = RouteRow::post(&[concat!("POST ", $path)], BodyKind::Object);

        $(#[$doc])*
        #[utoipa::path(
            post, path = $path, operation_id = $name, tag = $tag, request_body = NewObject,
            responses((status = 200, description = "It is kept", body = Done), BadInput, Conflict, TooLarge, MediaType)
        )]
        pub async fn $handler(ask: RestRequest) -> Response {
            create(ask, $tier, $mode).await
        }
    )+};
}

reads! {
    /// Reads an object from the nearest replica.
    FAST_GET, fast_get: "/nomad/group-storage/fast-get/{id}", "fastGet", "group-storage"
        => Tier::Group, Some(RetrievalMode::Fast);
    /// Reads an object from the first replica that has it.
    PARALLEL_GET, parallel_get: "/nomad/group-storage/parallel-get/{id}", "parallelGet", "group-storage"
        => Tier::Group, Some(RetrievalMode::Parallel);
    /// Reads an object on which a quorum agrees.
    SAFE_GET, safe_get: "/nomad/group-storage/safe-get/{id}", "safeGet", "group-storage"
        => Tier::Group, Some(RetrievalMode::Safe);
    /// Reads an object of the overlay tier.
    OVERLAY_GET, overlay_get: "/nomad/overlay-storage/get/{id}", "overlayGet", "overlay-storage"
        => Tier::Overlay, None;
}

creates! {
    /// Keeps a new object, answered once it is durable on this node.
    FAST_PUT, fast_put: "/nomad/group-storage/fast-put", "fastPut", "group-storage"
        => Tier::Group, Some(StorageMode::Fast);
    /// Keeps a new object, answered once a quorum of its replicas has it durable.
    SAFE_PUT, safe_put: "/nomad/group-storage/safe-put", "safePut", "group-storage"
        => Tier::Group, Some(StorageMode::Safe);
    /// Keeps a new object in the overlay tier.
    OVERLAY_PUT, overlay_put: "/nomad/overlay-storage/put", "overlayPut", "overlay-storage"
        => Tier::Overlay, None;
}

// ---- what they do ----

async fn read(ask: RestRequest, tier: Tier, mode: Option<RetrievalMode>) -> Response {
    ask.answer(async |call, ask| {
        let id = ask.id()?;
        let mode = match mode {
            None => ask.retrieval_mode()?,
            given => given,
        };
        let object = call.get(tier, &id, mode).await?.ok_or_else(|| missing(&id))?;
        Ok(problem::ok(&GameObject::of(&object)))
    })
    .await
}

async fn create(ask: RestRequest, tier: Tier, mode: Option<StorageMode>) -> Response {
    ask.answer(async |call, ask| {
        let mode = match mode {
            None => ask.storage_mode()?,
            given => given,
        };
        let RestObject { id, content, .. } = RestObject::read(&ask.body()?)?;
        let change = Change::Write { content, condition: Condition::Absent };
        let (written, durability) = call.write(tier, &id, change, mode).await?;
        written.map_err(|refusal| refused(&id, refusal))?;
        Ok(done(true, durability))
    })
    .await
}

async fn replace(call: &mut Call, ask: &RestRequest) -> RestResult {
    let mode = ask.storage_mode()?;
    let RestObject { id, content, version } = RestObject::read(&ask.body()?)?;
    let condition = condition(ask, version)?;
    let change = Change::Write { content, condition };
    let (written, durability) = call.write(Tier::Group, &id, change, mode).await?;
    written.map_err(|refusal| refused(&id, refusal))?;
    Ok(done(true, durability))
}

/// An update names the version that it replaces in its body or in `If-Match`, if at all.
fn condition(ask: &RestRequest, in_body: Option<Version>) -> Result<Condition, ApiError> {
    let tags = Tags::read(ask.headers(), &header::IF_MATCH)?;
    let in_header = tags.map_or(Ok(None), |tags| tags.versions())?;
    match (in_header.as_deref(), in_body) {
        (None, None) => Ok(Condition::Present),
        (None, Some(version)) => Ok(Condition::Version(version)),
        (Some([version]), body) if body.is_none_or(|body| body == *version) => {
            Ok(Condition::Version(*version))
        }
        (Some([]), _) => Err(etag::only_weak(ask.headers())),
        (Some([version]), body) => {
            let body = body.unwrap_or_default();
            let detail = format!(
                "If-Match names the version {version} and the body {body}; give one of them"
            );
            Err(ApiError::invalid("If-Match", detail))
        }
        (Some(_), _) => {
            let given = etag::given(ask.headers(), &header::IF_MATCH);
            let detail = format!(
                "If-Match is {given}, but an update takes one version in it; the resource API \
                 takes several"
            );
            Err(ApiError::invalid("If-Match", detail))
        }
    }
}

async fn remove(call: &mut Call, ask: &RestRequest) -> RestResult {
    let (id, mode) = (ask.id()?, ask.storage_mode()?);
    let change = Change::Delete { condition: Condition::Any };
    let (written, durability) = call.write(Tier::Group, &id, change, mode).await?;
    Ok(done(written.is_ok(), durability))
}

fn done(result: bool, durability: Assurance) -> Response {
    let mut response = problem::ok(&Done { result });
    problem::state_durability(&mut response, durability);
    response
}

/// Says that there is no such object.
pub fn missing(id: &ObjectId) -> ApiError {
    refused(id, WriteRefusal::Missing)
}

/// Says which object a refusal is about.
pub fn refused(id: &ObjectId, refusal: WriteRefusal) -> ApiError {
    let error = ApiError::from(refusal);
    ApiError { detail: format!("object {:?}: {}", id.as_str(), error.detail), ..error }
}
