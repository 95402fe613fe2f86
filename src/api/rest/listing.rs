//! Listings: pages of the objects of the node's group, and the group's ledger, shown both ways.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::{
    ask::{RestRequest, RestResult},
    document::BadInput,
    game_object::AsText,
    json::shorten,
    problem,
    row::RouteRow,
};
use crate::{backend::Call, error::ApiError};
use nomad_core::{
    ledger::ObjectHolders,
    model::object::{ObjectId, ObjectMeta, Tier, Version},
};

pub static OBJECTS: RouteRow = RouteRow::get(&["GET /nomad/v1/objects"]);
pub static PEER_LEDGER: RouteRow = RouteRow::get(&["GET /nomad/storage/get/peer-ledger"]);
pub static OBJECT_LEDGER: RouteRow = RouteRow::get(&["GET /nomad/storage/get/object-ledger"]);

/// The objects of a page that asks for no number.
const PAGE_DEFAULT: usize = 100;

/// The most entries of one answer about a ledger.
const LEDGER_MAX: usize = 10_000;

/// Says where the rest of a ledger starts.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("nomad-next-cursor");

/// A page of objects, without their bytes.
#[derive(Debug, Serialize, ToSchema)]
pub struct ObjectPage {
    /// The objects, sorted by id.
    items: Vec<ObjectItem>,
    /// Where the next page starts, as `cursor`; null on the last one.
    next: Option<String>,
}

/// An object without its bytes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectItem {
    /// Its id.
    #[schema(value_type = String)]
    id: AsText<ObjectId>,
    /// The bytes of its value.
    size: u64,
    /// When it was created, in seconds since 1970.
    creation_time: u64,
    /// From when on it is absent, in seconds since 1970; 0 = never.
    ttl: u64,
    /// The node's time at the last change, in seconds since 1970.
    last_modified: u64,
    /// The version of the last change.
    #[schema(value_type = String)]
    version: AsText<Version>,
    /// The media type of the value; null where none came with it.
    #[schema(value_type = Option<String>)]
    content_type: Option<std::sync::Arc<str>>,
}

impl From<ObjectMeta> for ObjectItem {
    fn from(meta: ObjectMeta) -> Self {
        Self {
            size: meta.size_bytes,
            creation_time: meta.creation_time.0,
            ttl: meta.expires_at.unwrap_or_default().0,
            last_modified: meta.last_modified.0,
            version: AsText(meta.version),
            content_type: meta.content_type,
            id: AsText(meta.id),
        }
    }
}

/// One entry of a ledger.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LedgerEntry {
    /// The object, or the peer that holds it.
    id: String,
    /// Until when, in seconds since 1970; 0 = for ever.
    ttl: u64,
}

/// Lists the objects that this group holds, whichever members keep them.
///
/// Each is named once. A page may have fewer objects than its limit although there are more: only `next` tells. Where too
/// few members answer for a whole list, the answer is 503.
#[utoipa::path(
    get, path = "/nomad/v1/objects", operation_id = "listObjects", tag = "objects",
    params(
        ("prefix" = Option<String>, Query, description = "What the ids start with"),
        ("limit" = Option<u32>, Query, description = "The most objects of the page, 100 by default, up to limits.pageSize",
         minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "The `next` of the page before", max_length = 1366, pattern = "^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?$"),
    ),
    responses((status = 200, description = "A page", body = ObjectPage), BadInput)
)]
pub async fn objects(ask: RestRequest) -> Response {
    ask.answer(page).await
}

async fn page(call: &mut Call, ask: &RestRequest) -> RestResult {
    let prefix = ask.query("prefix")?.unwrap_or_default();
    let most = ask.backend().config.limits.page_size;
    let limit = ask.query_number("limit", 1..=most as u64)?;
    let limit = limit.map_or(PAGE_DEFAULT.min(most), |limit| limit as usize);
    let after = cursor(ask)?;
    let page = call.list(Tier::Group, &prefix, after.as_deref(), limit).await?;
    let items = page.items.into_iter().map(ObjectItem::from).collect();
    Ok(problem::ok(&ObjectPage {
        items,
        next: page.next.as_ref().map(|id| cursor_of(id.as_str())),
    }))
}

/// Shows which objects each peer of the group holds. The pages have an order of their own.
#[utoipa::path(
    get, path = "/nomad/storage/get/peer-ledger", operation_id = "peerLedger", tag = "storage",
    params(
        ("limit" = Option<u32>, Query, description = "The most entries, 10000 by default. The peers of one object stay together, so that there may be a few more", minimum = 1, maximum = 10_000),
        ("cursor" = Option<String>, Query, description = "The `Nomad-Next-Cursor` of the answer before", max_length = 1366, pattern = "^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?$"),
    ),
    responses(
        (status = 200, description = "The objects by peer", body = BTreeMap<String, Vec<LedgerEntry>>,
         headers(("Nomad-Next-Cursor" = String, description = "Where the rest starts, if there is more"))),
        BadInput
    )
)]
pub async fn peer_ledger(ask: RestRequest) -> Response {
    ask.answer(async |call, ask| ledger(call, ask, |object, peer| (peer, object)).await).await
}

/// Shows which peers of the group hold each object. The pages have an order of their own.
#[utoipa::path(
    get, path = "/nomad/storage/get/object-ledger", operation_id = "objectLedger", tag = "storage",
    params(
        ("limit" = Option<u32>, Query, description = "The most entries, 10000 by default. The peers of one object stay together, so that there may be a few more", minimum = 1, maximum = 10_000),
        ("cursor" = Option<String>, Query, description = "The `Nomad-Next-Cursor` of the answer before", max_length = 1366, pattern = "^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?$"),
    ),
    responses(
        (status = 200, description = "The peers by object", body = BTreeMap<String, Vec<LedgerEntry>>,
         headers(("Nomad-Next-Cursor" = String, description = "Where the rest starts, if there is more"))),
        BadInput
    )
)]
pub async fn object_ledger(ask: RestRequest) -> Response {
    ask.answer(async |call, ask| ledger(call, ask, |object, peer| (object, peer)).await).await
}

/// Reads the ledger up to a bound, and puts each entry where it belongs: given are the object, the peer and the ttl.
async fn ledger(
    call: &mut Call,
    ask: &RestRequest,
    sorted: fn(String, String) -> (String, String),
) -> RestResult {
    let limit = ask.query_number("limit", 1..=LEDGER_MAX as u64)?;
    let limit = limit.map_or(LEDGER_MAX, |limit| limit as usize);
    let page = call.ledger(cursor(ask)?.as_deref(), limit).await?;
    let mut entries = BTreeMap::<String, Vec<LedgerEntry>>::new();
    for ObjectHolders { id, holders } in page.items {
        for holder in holders {
            let ttl = holder.expires_at.unwrap_or_default().0;
            let (of, id) = sorted(id.to_string(), holder.node.to_string());
            entries.entry(of).or_default().push(LedgerEntry { id, ttl });
        }
    }
    entries.values_mut().for_each(|of| of.sort_unstable_by(|a, b| a.id.cmp(&b.id)));
    let mut response = problem::ok(&entries);
    let next = page.next.and_then(|id| HeaderValue::try_from(cursor_of(&id)).ok());
    if let Some(next) = next {
        response.headers_mut().insert(NEXT_CURSOR, next);
    }
    Ok(response)
}

fn cursor_of(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

/// Reads where to go on: a place in the order of ids, which need not be an id. An empty cursor is the start.
fn cursor(ask: &RestRequest) -> Result<Option<String>, ApiError> {
    let Some(text) = ask.query("cursor")?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let place = URL_SAFE_NO_PAD.decode(&text).ok();
    let place = place.filter(|place| place.len() <= ObjectId::BYTES_MAX);
    let place = place.ok_or_else(|| {
        let text = shorten(&text);
        let detail = format!(
            "cursor is {text:?}, which no page of this node gave; leave it out to start anew"
        );
        ApiError::invalid("cursor", detail)
    })?;
    Ok(Some(String::from_utf8_lossy(&place).into_owned()))
}
