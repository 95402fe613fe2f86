//! The live tree of actors, and the call that kills one of them where the configuration allows it.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::{
    ask::{RestRequest, RestResult},
    document::{BadInput, Forbidden, Missing},
    json::shorten,
    problem,
    row::{BodyKind, RouteRow},
};
use crate::error::{ApiError, ErrorCode};
use nomad_actors::vitals::{ActorFailure, Reading};

pub static ACTORS: RouteRow = RouteRow::get(&["GET /nomad/debug/actors"]);
pub static KILL: RouteRow =
    RouteRow::post(&["POST /nomad/debug/actors/{name}/kill"], BodyKind::Nothing);

/// All actors.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActorTree {
    /// Sorted by name; `parent` makes the tree.
    actors: Vec<ActorReading>,
}

/// A reading of one actor.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActorReading {
    /// Its name.
    name: String,
    /// The name of its supervisor; null for the root.
    parent: Option<String>,
    /// `starting`, `running`, `restarting` or `stopped`.
    state: &'static str,
    /// Messages waiting for it.
    mailbox: u64,
    /// Messages handled.
    handled: u64,
    /// Messages that ended in a failure of the actor.
    failed: u64,
    /// Messages dropped unread.
    dropped: u64,
    /// Times that it was started again.
    restarts: u64,
    /// The last causes of restarts, oldest first.
    causes: Vec<RestartCause>,
    /// Time in the mailbox.
    wait_micros: Percentiles,
    /// Time in the handler.
    run_micros: Percentiles,
}

/// Why an actor was started again.
#[derive(Debug, Serialize, ToSchema)]
pub struct RestartCause {
    /// When it failed, in milliseconds since 1970.
    at: u64,
    /// What it failed of.
    text: String,
}

/// Microseconds.
#[derive(Debug, Serialize, ToSchema)]
pub struct Percentiles {
    /// The median.
    p50: u64,
    /// The 99th percentile.
    p99: u64,
}

/// The actor that was killed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Killed {
    /// Its name.
    killed: String,
}

impl From<Reading> for ActorReading {
    fn from(reading: Reading) -> Self {
        let percentiles = |(p50, p99)| Percentiles { p50, p99 };
        let cause = |ActorFailure { at, text }| RestartCause { at: at.0, text };
        Self {
            name: reading.name.to_string(),
            parent: reading.parent.as_deref().map(str::to_owned),
            state: reading.state.as_str(),
            mailbox: reading.mailbox,
            handled: reading.handled,
            failed: reading.failed,
            dropped: reading.dropped,
            restarts: reading.restarts,
            causes: reading.causes.into_iter().map(cause).collect(),
            wait_micros: percentiles(reading.wait_us),
            run_micros: percentiles(reading.run_us),
        }
    }
}

/// Shows the live tree of actors.
#[utoipa::path(
    get, path = "/nomad/debug/actors", operation_id = "actors", tag = "debug",
    responses((status = 200, description = "All actors", body = ActorTree))
)]
pub async fn actors(ask: RestRequest) -> Response {
    let actors =
        ask.backend().service.kit.census.read().into_iter().map(ActorReading::from).collect();
    ask.show(Ok(problem::ok(&ActorTree { actors })))
}

/// Kills an actor as a fault would, to see how its supervisor starts it again.
#[utoipa::path(
    post, path = "/nomad/debug/actors/{name}/kill", operation_id = "killActor", tag = "debug",
    params(("name" = String, Path, description = "The actor's name", min_length = 1, example = "local_store")),
    responses(
        (status = 202, description = "It is killed", body = Killed),
        BadInput, Forbidden, Missing
    )
)]
pub async fn kill(ask: RestRequest) -> Response {
    ask.answer(async |_, ask| try_kill(ask)).await
}

fn try_kill(ask: &RestRequest) -> RestResult {
    let name = ask.name()?;
    let backend = ask.backend();
    if !backend.config.debug.allow_kill {
        let detail = "this node lets nobody kill its actors; start it with debug.allowKill: true";
        return Err(ApiError::new(ErrorCode::PermissionDenied, detail));
    }
    if !backend.service.kit.census.kill(&name) {
        let name = shorten(&name);
        let detail = format!("no actor {name:?} is running; GET /nomad/debug/actors names all");
        return Err(ApiError::new(ErrorCode::NotFound, detail));
    }
    Ok(problem::json(StatusCode::ACCEPTED, &Killed { killed: name.into_owned() }))
}
