//! An [`ApiError`] as a gRPC status with the details of `google.rpc`, and tonic's own statuses as an [`ApiError`].

use std::{borrow::Cow, collections::HashMap, error::Error as _};

use http::{HeaderValue, Response};
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::error::{ApiError, ErrorCode};
use nomad_core::model::trace::TraceId;

/// The longest text of an error. It goes out percent-encoded and twice more in base64, and common clients take 8 KiB
/// of trailers in all.
const TEXT_BYTES_MAX: usize = 960;

/// Returns the answer that is an error: a head and nothing else.
pub(super) fn response(error: &ApiError, id: TraceId) -> Response<Body> {
    let mut response = status(error, id).into_http::<Body>();
    match error.code {
        // A client that does not speak gRPC looks at the HTTP status.
        ErrorCode::MethodNotAllowed | ErrorCode::UnsupportedMediaType => {
            *response.status_mut() = error.code.http();
        }
        ErrorCode::Unimplemented => {
            let encodings = HeaderValue::from_static("identity");
            response.headers_mut().insert("grpc-accept-encoding", encodings);
        }
        _ => {}
    }
    response
}

/// Returns the status.
pub(super) fn status(error: &ApiError, id: TraceId) -> Status {
    let text = shortened(&error.detail);
    let mut details = ErrorDetails::new();
    details.set_error_info(error.code.as_str(), "nomad", HashMap::new());
    details.set_request_info(id.to_string(), "");
    if let Some(field) = error.field {
        details.add_bad_request_violation(field, text.as_ref());
    }
    if error.retry_after.is_some() {
        details.set_retry_info(error.retry_after);
    }
    Status::with_error_details(error.code.grpc(), text, details)
}

/// Says in our codes why tonic could not read a request. It blames itself or nobody in particular; but either a limit of
/// the body was broken, whose error lies at the bottom, or the caller sent something that is no message.
pub(super) fn unreadable(status: &Status) -> ApiError {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ApiError>() {
            return error.clone();
        }
        cause = error.source();
    }
    let said = status.message();
    match status.code() {
        Code::OutOfRange => ApiError::new(
            ErrorCode::TooLarge,
            format!(
                "the message is too large: {said}; that is node.storage.maxObjectBytes and room \
                 for the other fields, or less where no object is sent"
            ),
        ),
        _ => ApiError::new(
            ErrorCode::InvalidArgument,
            format!("the message cannot be read: {said}; send a whole one, not compressed"),
        ),
    }
}

/// Takes out the middle of a long text: what failed stands at its start, the way out at its end.
fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_BYTES_MAX {
        return text.into();
    }
    let half = TEXT_BYTES_MAX / 2;
    let start = text.get(..text.floor_char_boundary(half)).unwrap_or_default();
    let end = text.get(text.ceil_char_boundary(text.len() - half)..).unwrap_or_default();
    format!("{start} [...] {end}").into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ID: TraceId = TraceId(0xabc);

    #[test]
    fn every_code_comes_out_as_its_status_with_reason_request_field_and_pause() {
        for &code in ErrorCode::ALL {
            let error = ApiError { field: Some("id"), ..ApiError::new(code, "the value 7") };
            let response = response(&error, ID);
            let status = Status::from_header_map(response.headers()).unwrap();
            assert_eq!(status.code(), code.grpc());
            assert_eq!(status.message(), "the value 7");
            assert_ne!(status.code(), Code::Unknown);
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (code.as_str(), "nomad"));
            assert_eq!(details.request_info().unwrap().request_id, ID.to_string());
            let [violation] = &details.bad_request().unwrap().field_violations[..] else {
                panic!("{details:?}")
            };
            assert_eq!(
                (violation.field.as_str(), violation.description.as_str()),
                ("id", "the value 7")
            );
            let again = matches!(code, ErrorCode::ResourceExhausted | ErrorCode::Unavailable);
            let pause = details.retry_info().and_then(|info| info.retry_delay);
            assert_eq!(pause, again.then_some(Duration::from_secs(1)), "{code:?}");
        }
    }

    #[test]
    fn the_longest_text_fits_into_what_clients_take_and_keeps_both_ends() {
        let detail = format!("first {} last", "ü".repeat(9_000));
        let error = ApiError::invalid("id", detail);
        let response = response(&error, ID);
        let bytes: usize =
            response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(bytes < 7 << 10, "{bytes}");
        let status = Status::from_header_map(response.headers()).unwrap();
        assert!(status.message().starts_with("first ü") && status.message().ends_with("ü last"));
    }
    #[test]
    fn what_tonic_could_not_read_is_the_callers_or_a_limit_of_the_body() {
        let limit = ApiError::new(ErrorCode::RequestTimeout, "too slow");
        let status = Status::from_error(Box::new(Status::from_error(Box::new(limit.clone()))));
        assert_eq!(unreadable(&status), limit);
        for (status, code) in [
            (Status::internal("x 7"), ErrorCode::InvalidArgument),
            (Status::unknown("x 7"), ErrorCode::InvalidArgument),
            (Status::out_of_range("x 7"), ErrorCode::TooLarge),
        ] {
            let error = unreadable(&status);
            assert_eq!(error.code, code);
            assert!(error.detail.contains("x 7"), "{error}");
        }
    }
}
