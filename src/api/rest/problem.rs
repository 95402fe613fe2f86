//! Answers: JSON, nothing, or a problem document (RFC 9457).

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use crate::{
    backend::durability_header,
    brought::REQUEST_ID,
    error::{ApiError, ErrorCode},
};
use nomad_core::model::trace::TraceId;
use nomad_service::Assurance;

/// The header that says how durable what the answer tells is.
pub const DURABILITY: HeaderName = HeaderName::from_static("nomad-durability");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Names the kind of problem; one per code.
    #[serde(rename = "type")]
    #[schema(example = "urn:nomad:error:not-found")]
    kind: String,
    /// The same text for every problem of this kind.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What failed, with which value, and the way out.
    detail: String,
    /// The code of the closed set that gRPC uses too.
    #[schema(example = "NOT_FOUND")]
    code: &'static str,
    /// The request, as in `Nomad-Request-Id`.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    request_id: String,
    /// The part of the request that is at fault, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
}

/// Answers with a problem document.
pub fn problem(error: &ApiError, request: TraceId) -> Response {
    let ApiError { code, detail, field, retry_after, allow } = error;
    let document = Problem {
        kind: format!("urn:nomad:error:{}", code.as_str().to_ascii_lowercase().replace('_', "-")),
        title: code.title(),
        status: code.http().as_u16(),
        detail: detail.clone(),
        code: code.as_str(),
        request_id: request.to_string(),
        field: *field,
    };
    let mut response = json(code.http(), &document);
    let headers = response.headers_mut();
    let problem_json = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, problem_json);
    if let Some(pause) = retry_after {
        // Rounded up: nobody is to come back too early.
        let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, seconds.max(1).into());
    }
    if let Some(allow) = allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if *code == ErrorCode::RequestTimeout {
        // The rest of the request may still come: this connection is of no more use.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    name_request(&mut response, request);
    response
}

/// Answers with JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut text = Vec::with_capacity(256);
    // What is written here has string keys and no failing parts, and memory takes all of it.
    let _ = serde_json::to_writer(&mut text, value);
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// Answers 200 with JSON.
pub fn ok(value: &impl Serialize) -> Response {
    json(StatusCode::OK, value)
}

/// Answers without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Writes the request's name into the answer.
pub fn name_request(response: &mut Response, request: TraceId) {
    if let Ok(value) = HeaderValue::from_bytes(&request.digits()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
}

/// Says how durable what the answer tells is.
pub fn state_durability(response: &mut Response, assurance: Assurance) {
    response.headers_mut().insert(DURABILITY, durability_header(assurance));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_problem_carries_what_the_contract_names() {
        let mut error = ApiError::new(ErrorCode::ResourceExhausted, "full");
        error.retry_after = Some(Duration::from_millis(1_200));
        let id = TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        let response = problem(&error, id);
        assert_eq!(response.status(), 429);
        let header = |name| response.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!(header("retry-after"), "2");
        assert_eq!(header("content-type"), "application/problem+json");
        assert_eq!(header("nomad-request-id"), id.to_string());
        name_request(&mut Response::default(), TraceId(1));
    }
}
