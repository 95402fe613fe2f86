//! The call that takes this node out of its group.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::{
    ask::{RestRequest, RestResult},
    document::{NotOffered, Unmet, Unready},
    problem,
    row::{BodyKind, RouteRow},
};
use crate::backend::Call;
use nomad_core::group::control::ControlRequest;

pub static LEAVE: RouteRow = RouteRow::post(&["POST /nomad/v1/leave"], BodyKind::Nothing);

/// That the node is on its way out.
#[derive(Debug, Serialize, ToSchema)]
pub struct Leaving {
    /// The group that it leaves.
    group: Option<String>,
}

/// Takes this node out of its group.
///
/// The answer comes once the node is on its way out; it has left when `group` of its status is null. It then looks for no
/// other group until it is started again or asked into one (`addPeer`, `handleJoin`). Stopping a node is not leaving: it
/// comes back as the same member.
#[utoipa::path(
    post, path = "/nomad/v1/leave", operation_id = "leave", tag = "node",
    responses(
        (status = 202, description = "It is on its way out", body = Leaving),
        Unmet, NotOffered, Unready
    )
)]
pub async fn leave(ask: RestRequest) -> Response {
    ask.answer(async |call, _| begin_to_leave(call).await).await
}

async fn begin_to_leave(call: &mut Call) -> RestResult {
    let group = call.backend().service.view.load().group().map(|table| table.name.clone());
    call.control(ControlRequest::Leave).await??;
    let mut response = problem::ok(&Leaving { group });
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}
