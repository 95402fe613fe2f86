//! What the node tells of itself: status, groups, health, readiness, figures.

use http::{HeaderValue, header};
use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::{
    ask::{RestRequest, RestResult},
    document::{BadInput, Missing, Unready},
    problem,
    row::RouteRow,
};
use crate::{
    backend::Backend,
    error::{ApiError, ErrorCode},
    status::{NodeStatus, PositionStatus},
};
use nomad_core::{
    group::{offer::Offer, table::GroupTable, view::View},
    model::node_id::NodeId,
};

pub static STORAGE_HEALTH: RouteRow = RouteRow::get(&["GET /nomad/storage/get/health"]);
pub static STATUS: RouteRow = RouteRow::get(&["GET /nomad/v1/status"]);
pub static GROUPS: RouteRow = RouteRow::get(&["GET /nomad/v1/groups"]);
pub static GROUP: RouteRow = RouteRow::get(&["GET /nomad/v1/groups/{name}"]);
pub static HEALTHZ: RouteRow = RouteRow::get(&["GET /healthz"]);
pub static READYZ: RouteRow = RouteRow::get(&["GET /readyz"]);
pub static METRICS: RouteRow = RouteRow::get(&["GET /metrics"]);

/// That the node is alive.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `UP`.
    status: &'static str,
    /// The node's id.
    node_id: String,
}

/// That the node takes requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    /// Always true; a node that is not ready answers 503.
    ready: bool,
}

/// Groups.
#[derive(Debug, Serialize, ToSchema)]
pub struct Groups {
    /// The groups that this node knows.
    groups: Vec<GroupSummary>,
}

/// A group.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupSummary {
    /// Its name.
    name: String,
    /// The id of its super-peer; null during an election.
    super_peer: Option<String>,
    /// How many members it has.
    members: u32,
    /// How many it may have.
    capacity: u32,
    /// The number of its configuration.
    epoch: u64,
    /// Where its super-peer stands.
    site: PositionStatus,
}

impl GroupSummary {
    fn own(view: &View, table: &GroupTable) -> Self {
        Self {
            name: table.name.clone(),
            super_peer: view.super_peer.map(|node| node.to_string()),
            members: table.count(),
            capacity: table.capacity,
            epoch: table.epoch(),
            site: PositionStatus::of(table.site),
        }
    }

    fn offered(offer: Offer) -> Self {
        Self {
            name: offer.group,
            super_peer: Some(offer.super_peer.to_string()),
            members: offer.members,
            capacity: offer.capacity,
            epoch: offer.epoch,
            site: PositionStatus::of(offer.site),
        }
    }
}

impl Groups {
    /// The node's own group, as it knows it best, and then those that it has heard of, nearest first.
    fn known(backend: &Backend) -> Self {
        let view = backend.service.view.load();
        let own = view.group();
        let others = (backend.network.known)(view.this.position);
        let others =
            others.into_iter().filter(|offer| own.is_none_or(|own| own.name != offer.group));
        let groups = own.map(|table| GroupSummary::own(&view, table)).into_iter();
        Self { groups: groups.chain(others.map(GroupSummary::offered)).collect() }
    }
}

/// Tells that the node is alive, as older clients ask.
#[utoipa::path(
    get, path = "/nomad/storage/get/health", operation_id = "storageHealth", tag = "storage",
    responses((status = 200, description = "It is alive", body = Health))
)]
pub async fn storage_health(ask: RestRequest) -> Response {
    ask.answer(async |_, ask| Ok(health(ask))).await
}

/// Tells that the process is alive.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "node",
    responses((status = 200, description = "It is alive", body = Health))
)]
pub async fn healthz(ask: RestRequest) -> Response {
    ask.show(Ok(health(&ask)))
}

fn health(ask: &RestRequest) -> Response {
    alive(ask.backend().service.view.load().this.node)
}

/// Says that a node is alive.
pub fn alive(node: NodeId) -> Response {
    problem::ok(&Health { status: "UP", node_id: node.to_string() })
}

/// Tells whether the node takes requests, and if not, why.
///
/// It does once it has started and is in a group, until it stops or leaves. A group that elects, or that has no majority,
/// still takes reads and writes in fast mode, so its members are ready.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "node",
    responses((status = 200, description = "It takes requests", body = Ready), Unready)
)]
pub async fn readyz(ask: RestRequest) -> Response {
    let answer = match ask.backend().unready() {
        None => Ok(problem::ok(&Ready { ready: true })),
        Some(reason) => Err(ApiError::new(ErrorCode::Unavailable, reason)),
    };
    ask.show(answer)
}

/// Describes this node.
#[utoipa::path(
    get, path = "/nomad/v1/status", operation_id = "status", tag = "node",
    responses((status = 200, description = "The node", body = NodeStatus))
)]
pub async fn status(ask: RestRequest) -> Response {
    ask.answer(async |_, ask| Ok(problem::ok(&ask.backend().status()))).await
}

/// Lists the groups that this node knows: its own first, then those whose super-peers it has heard of lately.
#[utoipa::path(
    get, path = "/nomad/v1/groups", operation_id = "listGroups", tag = "node",
    responses((status = 200, description = "The groups", body = Groups))
)]
pub async fn groups(ask: RestRequest) -> Response {
    ask.answer(async |_, ask| Ok(problem::ok(&Groups::known(ask.backend())))).await
}

/// Shows one group, as a list of one.
#[utoipa::path(
    get, path = "/nomad/v1/groups/{name}", operation_id = "getGroup", tag = "node",
    params(("name" = String, Path, description = "The group's name", min_length = 1)),
    responses((status = 200, description = "The group", body = Groups), BadInput, Missing)
)]
pub async fn group(ask: RestRequest) -> Response {
    ask.answer(async |_, ask| one(ask)).await
}

fn one(ask: &RestRequest) -> RestResult {
    let name = ask.name()?;
    let mut known = Groups::known(ask.backend());
    known.groups.retain(|group| group.name == *name);
    if known.groups.is_empty() {
        let name = super::json::shorten(&name);
        let detail = format!(
            "this node knows no group {name:?}; GET /nomad/v1/groups lists those that it does"
        );
        return Err(ApiError::new(ErrorCode::NotFound, detail));
    }
    Ok(problem::ok(&known))
}

/// Shows the node's figures for Prometheus.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "node",
    responses((status = 200, description = "The figures", body = String,
               content_type = "application/openmetrics-text"))
)]
pub async fn metrics(ask: RestRequest) -> Response {
    let mut response = Response::new(ask.backend().metrics.encode().into());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    ask.show(Ok(response))
}
