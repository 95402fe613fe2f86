//! The recorded steps of requests: asked for once, followed as they come, or captured with their details.

use std::{pin::pin, time::Duration};

use http::StatusCode;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use warp::reply::Response;

use super::{
    ask::{RestRequest, RestResult},
    document::{BadInput, MediaType, Missing},
    json::{Members, shorten},
    problem,
    row::{BodyKind, RouteRow},
};
use crate::{
    backend::NodePhase,
    error::{ApiError, ErrorCode},
};
use nomad_actors::recorder::{CAPTURE_MAX, CaptureState, Filter, TraceRecord, TraceRecorder};
use nomad_core::model::trace::{SpanId, TraceId};

pub static TRACE: RouteRow = RouteRow::new(
    "GET, HEAD, POST, DELETE",
    &["GET /nomad/debug/trace", "POST /nomad/debug/trace", "DELETE /nomad/debug/trace"],
    BodyKind::Small,
);
pub static CAPTURE: RouteRow = RouteRow::get(&["GET /nomad/debug/trace/capture"]);

/// The steps of an answer that asks for no number.
const STEPS_DEFAULT: usize = 200;

/// The most steps of an answer.
const STEPS_MAX: usize = 10_000;

/// The longest that an answer waits for a step, in seconds.
const WAIT_MAX: u64 = 30;

/// How long a follower lets steps gather before it looks again, so that a busy node is not searched for each of them.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Steps of requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct Steps {
    /// Oldest first.
    steps: Vec<Step>,
    /// The `seq` of the last one, or what `after` was: give it as `after` to go on from here.
    next: u64,
}

/// One step: a message that an actor handled, or a request that an edge answered.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Its place in the order of recording; steps are recorded when they end.
    seq: u64,
    /// When its handling began, in milliseconds since 1970.
    at: u64,
    /// The request it belongs to, as in `Nomad-Request-Id`.
    request: String,
    /// Its own name.
    span: String,
    /// The step that caused it; null for a first one.
    parent: Option<String>,
    /// Who sent it.
    from: String,
    /// Who handled it.
    to: String,
    /// What it was.
    kind: &'static str,
    /// The object it was about.
    object: Option<String>,
    /// Microseconds that it waited.
    wait_micros: u64,
    /// Microseconds that it ran.
    run_micros: u64,
    /// How many jobs shared its batch; 0 where there is no batch.
    batch: u32,
    /// How it ended.
    outcome: String,
    /// What the message said; in a capture only.
    detail: Option<String>,
}

/// A capture.
#[derive(Debug, Serialize, ToSchema)]
pub struct Capture {
    /// How many steps it is to keep.
    limit: usize,
    /// How many it has kept.
    kept: usize,
    /// The steps, oldest first.
    steps: Vec<Step>,
}

/// Which steps a capture is to keep.
#[derive(Debug, ToSchema)]
#[schema(example = json!({ "limit": 100 }))]
#[expect(dead_code, reason = "it describes what is read by hand")]
pub struct NewCapture {
    /// How many: the capture ends with them.
    #[schema(minimum = 1, maximum = 10_000, example = 100)]
    limit: u32,
    /// Only those about this object.
    #[schema(nullable)]
    object: Option<String>,
    /// Only those of this request.
    #[schema(nullable, pattern = "^[0-9a-f]{32}$")]
    request: Option<String>,
    /// Only those from or to this actor.
    #[schema(nullable)]
    actor: Option<String>,
}

/// Which recorded steps are asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes what is read by hand")]
pub struct Wanted {
    /// Only requests that touched this object, with all their steps.
    object: Option<String>,
    /// Only this request.
    #[param(pattern = "^[0-9a-f]{32}$")]
    request: Option<String>,
    /// Only steps from or to this actor.
    actor: Option<String>,
    /// Only steps recorded after this one.
    #[param(minimum = 0, maximum = 9_223_372_036_854_775_807_u64)]
    after: Option<u64>,
    /// The most steps, the newest of them; 200 by default.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u32>,
    /// How many seconds to wait for a step where there is none yet.
    #[param(minimum = 0, maximum = 30)]
    wait: Option<u32>,
}

impl Step {
    fn of(recorder: &TraceRecorder, record: TraceRecord) -> Self {
        Self {
            seq: record.seq,
            at: recorder.wall_of(record.at).0,
            request: record.trace.to_string(),
            span: record.span.to_string(),
            parent: (record.parent != SpanId(0)).then(|| record.parent.to_string()),
            from: record.from.to_string(),
            to: record.to.to_string(),
            kind: record.kind,
            object: record.object.map(|id| id.to_string()),
            wait_micros: record.wait_us,
            run_micros: record.run_us,
            batch: record.batch_len,
            outcome: record.outcome.to_string(),
            detail: record.detail.map(String::from),
        }
    }
}

// ---- handlers ----

/// Answers all methods of the trace.
pub async fn trace(ask: RestRequest) -> Response {
    match ask.method().as_str() {
        "POST" => start(ask).await,
        "DELETE" => stop(ask).await,
        _ => find(ask).await,
    }
}

/// Shows recorded steps, and can wait for the next one.
#[utoipa::path(
    get, path = "/nomad/debug/trace", operation_id = "trace", tag = "debug",
    params(Wanted),
    responses((status = 200, description = "The steps", body = Steps), BadInput)
)]
pub async fn find(ask: RestRequest) -> Response {
    // A look is not recorded: it would wake everybody who follows, themselves too.
    let answer = steps(&ask).await;
    ask.show(answer)
}

/// Starts to keep the next steps with what their messages said, in place of an earlier capture.
#[utoipa::path(
    post, path = "/nomad/debug/trace", operation_id = "startCapture", tag = "debug",
    request_body = NewCapture,
    responses((status = 202, description = "It has begun", body = Capture), BadInput, MediaType)
)]
pub async fn start(ask: RestRequest) -> Response {
    ask.answer(async |_, ask| begin_capture(ask)).await
}

/// Ends the capture and forgets what it kept.
#[utoipa::path(
    delete, path = "/nomad/debug/trace", operation_id = "stopCapture", tag = "debug",
    responses((status = 204, description = "There is no capture any more"))
)]
pub async fn stop(ask: RestRequest) -> Response {
    ask.answer(async |_, ask| {
        ask.backend().service.kit.recorder.stop_capture();
        Ok(problem::empty(StatusCode::NO_CONTENT))
    })
    .await
}

/// Shows what the capture has kept.
#[utoipa::path(
    get, path = "/nomad/debug/trace/capture", operation_id = "capture", tag = "debug",
    responses((status = 200, description = "The capture", body = Capture), Missing)
)]
pub async fn capture(ask: RestRequest) -> Response {
    let recorder = &ask.backend().service.kit.recorder;
    let answer = recorder.captured().map_or_else(
        || {
            let detail = "there is no capture; start one with POST /nomad/debug/trace";
            Err(ApiError::new(ErrorCode::NotFound, detail))
        },
        |(CaptureState { limit, kept }, records)| {
            let steps = records.into_iter().map(|record| Step::of(recorder, record)).collect();
            Ok(problem::ok(&Capture { limit, kept, steps }))
        },
    );
    ask.show(answer)
}

// ---- what they do ----

async fn steps(ask: &RestRequest) -> RestResult {
    let recorder = &ask.backend().service.kit.recorder;
    let trace = ask.query("request")?.map(|text| trace_id(&text)).transpose()?;
    let after = ask.query_number("after", 0..=i64::MAX.unsigned_abs())?;
    let (object, actor) = (ask.query("object")?, ask.query("actor")?);
    let filter = Filter { object, trace, actor, after };
    let limit = ask.query_number("limit", 1..=STEPS_MAX as u64)?;
    let limit = limit.map_or(STEPS_DEFAULT, |limit| limit as usize);
    let wait = ask.query_number("wait", 0..=WAIT_MAX)?.unwrap_or_default();
    let _place = if wait > 0 { Some(ask.begin_waiting()?) } else { None };
    let mut phase = ask.backend().phase.clone();
    // A node that stops waits for its requests, so none of them may wait for the node. A phase that nobody sets any more
    // is the end too.
    let stopping = async move {
        let _ = phase.wait_for(|phase| *phase == NodePhase::Draining).await;
    };
    let (mut end, mut stopping) =
        (pin!(tokio::time::sleep(Duration::from_secs(wait))), pin!(stopping));
    let records = loop {
        // Listening starts before the look, so that nothing recorded in between is missed.
        let mut grown = pin!(recorder.grown());
        grown.as_mut().enable();
        let mut records = recorder.find(&filter, limit);
        // An object brings its whole requests, also what was shown before.
        records.retain(|record| after.is_none_or(|after| record.seq > after));
        if !records.is_empty() || wait == 0 {
            break records;
        }
        tokio::select! {
            biased;
            () = &mut end => break records,
            () = &mut stopping => break records,
            () = grown => tokio::time::sleep(LOOK_PAUSE).await,
        }
    };
    let next = records.last().map_or(after.unwrap_or_default(), |record| record.seq);
    let steps = records.into_iter().map(|record| Step::of(recorder, record)).collect();
    Ok(problem::ok(&Steps { steps, next }))
}

fn begin_capture(ask: &RestRequest) -> RestResult {
    let body = ask.body()?;
    let members = Members::read(&body)?;
    let given = members.number("limit")?;
    let limit = given.and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.filter(|limit| (1..=CAPTURE_MAX).contains(limit)).ok_or_else(|| {
        let given = given.map_or_else(|| "missing".to_owned(), |limit| limit.to_string());
        let detail = format!("limit is {given}, but must be an integer from 1 to {CAPTURE_MAX}");
        ApiError::invalid("limit", detail)
    })?;
    let text = |name| members.text(name).map(|text| text.map(str::to_owned));
    let trace = text("request")?.map(|text| trace_id(&text)).transpose()?;
    let filter = Filter { object: text("object")?, trace, actor: text("actor")?, after: None };
    ask.backend().service.kit.recorder.start_capture(filter, limit);
    let capture = Capture { limit, kept: 0, steps: Vec::new() };
    Ok(problem::json(StatusCode::ACCEPTED, &capture))
}

fn trace_id(text: &str) -> Result<TraceId, ApiError> {
    let is_id = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| text.parse().ok()).flatten().ok_or_else(|| {
        let text = shorten(text);
        let detail = format!(
            "request is {text:?}, but must be 32 hex digits, as Nomad-Request-Id gives them"
        );
        ApiError::invalid("request", detail)
    })
}
