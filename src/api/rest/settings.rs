//! The four calls that change a setting while the node runs. An older client gives the value in the query.

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::{
    ask::RestRequest,
    document::{BadInput, MediaType},
    json::{Members, decimal, shorten},
    problem,
    row::{BodyKind, RouteRow},
};
use crate::error::ApiError;
use nomad_core::group::SettingChange;

pub static STORAGE: RouteRow = RouteRow::post(&["POST /nomad/config/storage"], BodyKind::Small);
pub static RETRIEVAL: RouteRow = RouteRow::post(&["POST /nomad/config/retrieval"], BodyKind::Small);
pub static MIGRATION: RouteRow =
    RouteRow::post(&["POST /nomad/config/groups/migration"], BodyKind::Small);
pub static REPLICATION_FACTOR: RouteRow =
    RouteRow::post(&["POST /nomad/config/groups/replication-factor"], BodyKind::Small);

/// The mode of writes that name none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageModeSet {
    /// `fast` or `safe`.
    storage_mode: &'static str,
}

/// The mode of reads that name none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrievalModeSet {
    /// `fast`, `safe` or `parallel`.
    retrieval_mode: &'static str,
}

/// Whether nodes move to the group of the cell they are in.
#[derive(Debug, Serialize, ToSchema)]
pub struct Migration {
    /// Whether they do.
    migration: bool,
}

/// How many members keep each object.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationFactor {
    /// How many, where the group has so many members.
    #[schema(minimum = 1, maximum = 64)]
    replication_factor: u32,
}

/// A mode of writes.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what is read by hand")]
pub struct NewStorageMode {
    /// `fast` or `safe`.
    #[schema(pattern = "^(fast|safe)$", example = "safe")]
    mode: String,
}

/// A mode of reads.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what is read by hand")]
pub struct NewRetrievalMode {
    /// `fast`, `safe` or `parallel`.
    #[schema(pattern = "^(fast|safe|parallel)$", example = "parallel")]
    mode: String,
}

/// Sets the mode of writes that name none.
///
/// An older client gives `storageMode` in the query instead of a body.
#[utoipa::path(
    post, path = "/nomad/config/storage", operation_id = "setStorageMode", tag = "config",
    request_body = NewStorageMode,
    responses((status = 200, description = "The mode as it now is", body = StorageModeSet), BadInput, MediaType)
)]
pub async fn storage(ask: RestRequest) -> Response {
    set(ask, |ask| Ok(SettingChange::StorageMode(word(ask, "storageMode")?.parse()?))).await
}

/// Sets the mode of reads that name none.
///
/// An older client gives `retrievalMode` in the query instead of a body.
#[utoipa::path(
    post, path = "/nomad/config/retrieval", operation_id = "setRetrievalMode", tag = "config",
    request_body = NewRetrievalMode,
    responses((status = 200, description = "The mode as it now is", body = RetrievalModeSet), BadInput, MediaType)
)]
pub async fn retrieval(ask: RestRequest) -> Response {
    set(ask, |ask| Ok(SettingChange::RetrievalMode(word(ask, "retrievalMode")?.parse()?))).await
}

/// Sets whether nodes move to the group of the cell they are in.
///
/// An older client gives `enabled` in the query instead of a body.
#[utoipa::path(
    post, path = "/nomad/config/groups/migration", operation_id = "setMigration", tag = "config",
    request_body = Migration,
    responses((status = 200, description = "The setting as it now is", body = Migration), BadInput, MediaType)
)]
pub async fn migration(ask: RestRequest) -> Response {
    let read = |ask: &RestRequest| {
        let on = value(
            ask,
            "migration",
            "enabled",
            |members, name| members.flag(name),
            |text| text.parse().ok(),
        )?;
        Ok(SettingChange::Migration(on))
    };
    set(ask, read).await
}

/// Sets how many members keep each object, for the whole group.
///
/// Any member may be asked: it passes the change on to the super-peer. While the group changes its members, or has no
/// super-peer, the answer is 503, to be tried again.
///
/// An older client gives `rf` in the query instead of a body.
#[utoipa::path(
    post, path = "/nomad/config/groups/replication-factor", operation_id = "setReplicationFactor", tag = "config",
    request_body = ReplicationFactor,
    responses((status = 200, description = "The setting as it now is", body = ReplicationFactor), BadInput, MediaType)
)]
pub async fn replication_factor(ask: RestRequest) -> Response {
    let read = |ask: &RestRequest| {
        let factor =
            value(ask, "replicationFactor", "rf", |members, name| members.number(name), decimal)?;
        Ok(SettingChange::ReplicationFactor(factor))
    };
    set(ask, read).await
}

async fn set(
    ask: RestRequest,
    read: impl FnOnce(&RestRequest) -> Result<SettingChange, ApiError> + Send,
) -> Response {
    ask.answer(async |call, ask| {
        let change = read(ask)?;
        let settings = call.set(change).await?;
        Ok(match change {
            SettingChange::StorageMode(_) => {
                problem::ok(&StorageModeSet { storage_mode: settings.storage_mode.as_str() })
            }
            SettingChange::RetrievalMode(_) => {
                problem::ok(&RetrievalModeSet { retrieval_mode: settings.retrieval_mode.as_str() })
            }
            SettingChange::Migration(_) => {
                problem::ok(&Migration { migration: settings.migration })
            }
            SettingChange::ReplicationFactor(_) => {
                problem::ok(&ReplicationFactor { replication_factor: settings.replication_factor })
            }
        })
    })
    .await
}

// ---- decoding ----

fn word(ask: &RestRequest, parameter: &'static str) -> Result<String, ApiError> {
    let in_body =
        |members: &Members<'_>, name| members.text(name).map(|text| text.map(str::to_owned));
    value(ask, "mode", parameter, in_body, |text| Some(text.to_owned()))
}

/// Reads the one value of a call: a member of the body, or a parameter of the query, but not both.
fn value<T>(
    ask: &RestRequest,
    member: &'static str,
    parameter: &'static str,
    in_body: impl Fn(&Members<'_>, &'static str) -> Result<Option<T>, ApiError>,
    in_query: impl Fn(&str) -> Option<T>,
) -> Result<T, ApiError> {
    let body = ask.body()?;
    let from_body = if body.is_empty() { None } else { in_body(&Members::read(&body)?, member)? };
    match (from_body, ask.query(parameter)?) {
        (Some(value), None) => Ok(value),
        (None, Some(text)) => in_query(&text).ok_or_else(|| {
            let text = shorten(&text);
            ApiError::invalid(
                parameter,
                format!("{parameter} is {text:?}, which is no value of this setting"),
            )
        }),
        (None, None) => {
            let detail =
                format!("{member} is missing: give it in a JSON body, as {{\"{member}\": ...}}");
            Err(ApiError::invalid(member, detail))
        }
        (Some(_), Some(_)) => {
            let detail =
                format!("{member} is in the body and {parameter} in the query; give one of them");
            Err(ApiError::invalid(member, detail))
        }
    }
}
