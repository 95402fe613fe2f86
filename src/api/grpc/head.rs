//! What a request says before its message: that it is gRPC, how long it may take, in which mode it wants to be done.

use std::{str::FromStr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::CONTENT_TYPE, request::Parts};

use crate::error::{ApiError, ErrorCode};
use nomad_core::group::ModeError;

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const MODE: HeaderName = HeaderName::from_static("nomad-mode");

/// Checks that the request is a gRPC call in an encoding that this node takes.
///
/// # Errors
/// Names what it is instead.
pub(super) fn check(parts: &Parts) -> Result<(), ApiError> {
    if parts.method != Method::POST {
        let detail = format!("a gRPC call is a POST, not a {}", parts.method);
        let error = ApiError::new(ErrorCode::MethodNotAllowed, detail);
        return Err(ApiError { allow: Some("POST"), ..error });
    }
    let content_type = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let kind = content_type.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    if !kind.is_some_and(|rest| matches!(rest.first(), None | Some(b';')) || is_proto(rest)) {
        let shown = content_type.map(String::from_utf8_lossy).unwrap_or_default();
        let detail = format!(
            "the content type {shown:?} is not one of application/grpc, application/grpc+proto"
        );
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, detail));
    }
    match parts.headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(encoding) => {
            let shown = String::from_utf8_lossy(encoding);
            let detail = format!(
                "messages encoded with {shown:?} are not taken here; send them as they are, with \
                 the encoding identity"
            );
            Err(ApiError::new(ErrorCode::Unimplemented, detail))
        }
    }
}

fn is_proto(rest: &[u8]) -> bool {
    rest.strip_prefix(b"+proto").is_some_and(|rest| matches!(rest.first(), None | Some(b';')))
}

/// Returns how long the caller waits, if it says so.
///
/// # Errors
/// When the header is none of the gRPC specification: at most 8 digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    match parse_timeout(value.as_bytes()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(ApiError::invalid(
            "grpc-timeout",
            format!(
                "the grpc-timeout {:?} is not 1 to 8 digits and one of the units H, M, S, m, u, n",
                String::from_utf8_lossy(value.as_bytes())
            ),
        )),
    }
}

fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Returns the mode that the request names, if it names one.
///
/// # Errors
/// When it is no mode for this kind of request.
pub(super) fn mode<M: FromStr<Err = ModeError>>(
    headers: &HeaderMap,
) -> Result<Option<M>, ApiError> {
    let Some(value) = headers.get(MODE) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let in_metadata = |error: ModeError| ApiError { field: Some("nomad-mode"), ..error.into() };
    text.parse().map(Some).map_err(in_metadata)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use nomad_core::group::{RetrievalMode, StorageMode};

    fn with(name: &'static str, value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap())])
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit_and_anything_else_is_refused_by_name() {
        let ms = Duration::from_millis;
        let table = [
            ("1H", ms(3_600_000)),
            ("2M", ms(120_000)),
            ("3S", ms(3_000)),
            ("99999999m", ms(99_999_999)),
            ("5000u", ms(5)),
            ("0n", ms(0)),
        ];
        for (text, expected) in table {
            assert_eq!(timeout(&with("grpc-timeout", text.as_bytes())), Ok(Some(expected)));
        }
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        for text in ["", "5", "m", "123456789m", "-1m", "1.5S", "1s", "1 m", "\u{e9}m"] {
            let error = timeout(&with("grpc-timeout", text.as_bytes())).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument, "{text}");
            assert!(error.detail.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_mode_is_read_for_its_kind_of_request() {
        let parallel = with("nomad-mode", b"parallel");
        assert_eq!(mode(&parallel), Ok(Some(RetrievalMode::Parallel)));
        let error = mode::<StorageMode>(&parallel).unwrap_err();
        assert_eq!((error.code, error.field), (ErrorCode::InvalidArgument, Some("nomad-mode")));
        assert!(error.detail.contains("\"parallel\""), "{error}");
        assert!(mode::<StorageMode>(&with("nomad-mode", b"\xff")).is_err());
        assert_eq!(mode::<StorageMode>(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn what_is_no_grpc_call_is_refused_for_what_it_is() {
        let check = |method: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            super::check(&request.body(()).unwrap().into_parts().0).map_err(|error| error.code)
        };
        let grpc = ("content-type", "application/grpc");
        assert_eq!(check("POST", &[grpc]), Ok(()));
        assert_eq!(check("POST", &[grpc, ("grpc-encoding", "identity")]), Ok(()));
        assert_eq!(check("GET", &[grpc]), Err(ErrorCode::MethodNotAllowed));
        assert_eq!(
            check("POST", &[grpc, ("grpc-encoding", "gzip")]),
            Err(ErrorCode::Unimplemented)
        );
        for kind in ["application/grpc+proto", "application/grpc;x=1", "application/grpc+proto;x"] {
            assert_eq!(check("POST", &[("content-type", kind)]), Ok(()), "{kind}");
        }
        for kind in ["", "application/json", "application/grpc-web", "application/grpc+json"] {
            let checked = check("POST", &[("content-type", kind)]);
            assert_eq!(checked, Err(ErrorCode::UnsupportedMediaType), "{kind}");
        }
        assert_eq!(check("POST", &[]), Err(ErrorCode::UnsupportedMediaType));
    }
}
