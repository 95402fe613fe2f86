//! What a request brings to be known by: a name that its client uses again when it tries again, or the trace that it
//! belongs to.

use http::{HeaderMap, HeaderName};

use super::error::ApiError;
use nomad_core::model::trace::TraceContext;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Names a request, on the way in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("nomad-request-id");

/// Returns the trace that a request brings: its own name first, else that of the trace that it is a part of.
pub fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let named = text(REQUEST_ID).and_then(TraceContext::parse_name);
    named.or_else(|| text(TRACEPARENT).and_then(TraceContext::parse))
}

/// Checks the name that a request brings, if it brings one.
///
/// # Errors
/// Names what it is instead.
pub fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(REQUEST_ID) else { return Ok(()) };
    if value.to_str().ok().and_then(TraceContext::parse_name).is_some() {
        return Ok(());
    }
    let shown = String::from_utf8_lossy(value.as_bytes());
    let shown: String = shown.chars().take(64).collect();
    let detail = format!(
        "the request id {shown:?} is not 32 lower-case hex digits, at least one of them not 0; leave it out to be given one"
    );
    Err(ApiError::invalid("nomad-request-id", detail))
}
