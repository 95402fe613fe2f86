//! What the node tells of itself: status, groups, health, readiness, figures.

use std::sync::Arc;

use http::{HeaderValue, header};
use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::{
    ask::{Answer, Ask},
    document::{BadInput, Missing, Unready},
    problem,
    row::Row,
};
use crate::{
    api::{
        backend::{PositionStatus, Status},
        error::{ApiError, ErrorCode},
    },
    core::group::GroupOfOne,
};

pub static STORAGE_HEALTH: Row = Row::get(&["GET /nomad/storage/get/health"]);
pub static STATUS: Row = Row::get(&["GET /nomad/v1/status"]);
pub static GROUPS: Row = Row::get(&["GET /nomad/v1/groups"]);
pub static GROUP: Row = Row::get(&["GET /nomad/v1/groups/{name}"]);
pub static HEALTHZ: Row = Row::get(&["GET /healthz"]);
pub static READYZ: Row = Row::get(&["GET /readyz"]);
pub static METRICS: Row = Row::get(&["GET /metrics"]);

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
    /// The id of its super-peer.
    super_peer: String,
    /// How many members it has.
    members: usize,
    /// How many it may have.
    capacity: u32,
    /// The number of its configuration.
    epoch: u64,
    /// Where its super-peer stands.
    site: PositionStatus,
}

impl Groups {
    fn of(group: &Arc<GroupOfOne>) -> Self {
        let this = &group.this;
        let summary = GroupSummary {
            name: group.name.clone(),
            super_peer: this.node.to_string(),
            members: 1,
            capacity: group.capacity,
            epoch: group.epoch,
            site: PositionStatus { x: this.position.x, y: this.position.y },
        };
        Self { groups: vec![summary] }
    }
}

/// Tells that the node is alive, as older clients ask.
#[utoipa::path(
    get, path = "/nomad/storage/get/health", operation_id = "storageHealth", tag = "storage",
    responses((status = 200, description = "It is alive", body = Health))
)]
pub async fn storage_health(mut ask: Ask) -> Response {
    let call = ask.begin();
    let answer = Ok(health(&ask));
    ask.finish(call, answer)
}

/// Tells that the process is alive.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "node",
    responses((status = 200, description = "It is alive", body = Health))
)]
pub async fn healthz(ask: Ask) -> Response {
    ask.show(Ok(health(&ask)))
}

fn health(ask: &Ask) -> Response {
    let node_id = ask.backend().view.load().this.node.to_string();
    problem::ok(&Health { status: "UP", node_id })
}

/// Tells whether the node takes requests, and if not, why.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "node",
    responses((status = 200, description = "It takes requests", body = Ready), Unready)
)]
pub async fn readyz(ask: Ask) -> Response {
    let answer = match ask.backend().unready() {
        None => Ok(problem::ok(&Ready { ready: true })),
        Some(reason) => Err(ApiError::new(ErrorCode::Unavailable, reason)),
    };
    ask.show(answer)
}

/// Describes this node.
#[utoipa::path(
    get, path = "/nomad/v1/status", operation_id = "status", tag = "node",
    responses((status = 200, description = "The node", body = Status))
)]
pub async fn status(mut ask: Ask) -> Response {
    let call = ask.begin();
    let answer = Ok(problem::ok(&ask.backend().status()));
    ask.finish(call, answer)
}

/// Lists the groups that this node knows.
#[utoipa::path(
    get, path = "/nomad/v1/groups", operation_id = "listGroups", tag = "node",
    responses((status = 200, description = "The groups", body = Groups))
)]
pub async fn groups(mut ask: Ask) -> Response {
    let call = ask.begin();
    let answer = Ok(problem::ok(&Groups::of(&ask.backend().view.load_full())));
    ask.finish(call, answer)
}

/// Shows one group, as a list of one.
#[utoipa::path(
    get, path = "/nomad/v1/groups/{name}", operation_id = "getGroup", tag = "node",
    params(("name" = String, Path, description = "The group's name", min_length = 1)),
    responses((status = 200, description = "The group", body = Groups), BadInput, Missing)
)]
pub async fn group(mut ask: Ask) -> Response {
    let call = ask.begin();
    let answer = one(&ask);
    ask.finish(call, answer)
}

fn one(ask: &Ask) -> Answer {
    let (name, group) = (ask.name()?, ask.backend().view.load_full());
    if *name != group.name {
        let name = super::json::shorten(&name);
        let detail = format!("this node knows no group {name:?}; it is in {:?}", group.name);
        return Err(ApiError::new(ErrorCode::NotFound, detail));
    }
    Ok(problem::ok(&Groups::of(&group)))
}

/// Shows the node's figures for Prometheus.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "node",
    responses((status = 200, description = "The figures", body = String,
               content_type = "application/openmetrics-text"))
)]
pub async fn metrics(ask: Ask) -> Response {
    let mut response = Response::new(ask.backend().metrics.encode().into());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    ask.show(Ok(response))
}
