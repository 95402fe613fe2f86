//! Collects a request's body within its limits. Nothing else here reads one.

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, header};

use super::row::BodyKind;
use crate::error::{ApiError, ErrorCode};

/// The bytes that a JSON body may have beside its value: the other members, escaped.
const BESIDE_VALUE_BYTES: u64 = 16 << 10;

/// The most bytes of a small JSON body.
const SMALL_BYTES: u64 = 16 << 10;

/// The most parts of a refused body that are read and thrown away, so that a client that sends before it reads still
/// gets its answer. A part is what one read of the socket brings, 16 KiB as a rule.
const DISCARDED_MAX: usize = 256;

/// Returns the most bytes that the body of a JSON object with a value of `value_bytes` may have.
pub fn object_bytes_max(value_bytes: u64) -> u64 {
    value_bytes.div_ceil(3) * 4 + BESIDE_VALUE_BYTES
}

/// Collects the body that a row reads.
///
/// # Errors
/// When it is of a media type that is not taken, too large, too slow, or ends early.
pub async fn collect<S, B>(
    kind: BodyKind,
    headers: &HeaderMap,
    value_bytes_max: u64,
    mut parts: S,
) -> Result<Bytes, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin,
    B: Buf,
{
    let (max, of_what) = match kind {
        BodyKind::Nothing => return Ok(Bytes::new()),
        BodyKind::Object => {
            (object_bytes_max(value_bytes_max), "a value of node.storage.maxObjectBytes in base64")
        }
        BodyKind::Small => (SMALL_BYTES, "a call without a value"),
        BodyKind::Raw => (value_bytes_max, "node.storage.maxObjectBytes"),
    };
    let too_large = || {
        let detail = format!("the body has more than the {max} bytes allowed for {of_what}");
        ApiError { field: Some("body"), ..ApiError::new(ErrorCode::TooLarge, detail) }
    };
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let declared = declared.and_then(|text| text.parse::<u64>().ok());
    let refused = match check_types(kind, headers) {
        Ok(()) if declared.is_some_and(|len| len > max) => Some(too_large()),
        Ok(()) => None,
        Err(error) => Some(error),
    };
    if let Some(error) = refused {
        // A client that asks first is not made to send.
        if !headers.contains_key(header::EXPECT) {
            discard(&mut parts).await;
        }
        return Err(error);
    }
    let collected = read(&mut parts, max, too_large).await;
    if collected.is_err() {
        discard(&mut parts).await;
    }
    collected
}

async fn read<S, B>(
    parts: &mut S,
    max: u64,
    too_large: impl Fn() -> ApiError,
) -> Result<Bytes, ApiError>
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin,
    B: Buf,
{
    // A body that came in one part, as small ones do, is not copied.
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(part) = parts.next().await {
        let mut part = part.map_err(|error| reason_of(&error))?;
        if (first.len() + all.len() + part.remaining()) as u64 > max {
            return Err(too_large());
        }
        let part = part.copy_to_bytes(part.remaining());
        if first.is_empty() && all.is_empty() {
            first = part;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&part);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

async fn discard<S, B>(parts: &mut S)
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin,
{
    for _ in 0..DISCARDED_MAX {
        match parts.next().await {
            None => return,
            Some(Ok(_)) => {}
            Some(Err(error)) => match reason_of(&error).code {
                // Parts over the limit are errors too, and the next one can still be read.
                ErrorCode::TooLarge | ErrorCode::ResourceExhausted => {}
                _ => return,
            },
        }
    }
}

fn reason_of(error: &warp::Error) -> ApiError {
    let reason = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    reason.cloned().unwrap_or_else(|| {
        ApiError::invalid("body", format!("the body did not arrive whole: {error}"))
    })
}

/// JSON is also taken when it claims to be a form, because that is what `curl -d` says of everything.
fn check_types(kind: BodyKind, headers: &HeaderMap) -> Result<(), ApiError> {
    let refuse = |detail| Err(ApiError::new(ErrorCode::UnsupportedMediaType, detail));
    if let Some(coding) = headers.get(header::CONTENT_ENCODING)
        && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return refuse(format!(
            "the content coding {coding:?} is not taken; send the bytes as they are"
        ));
    }
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    if kind == BodyKind::Raw {
        return Ok(());
    }
    let text = String::from_utf8_lossy(given.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let taken = matches!(&*essence, "application/json" | "application/x-www-form-urlencoded")
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if taken || essence.is_empty() {
        return Ok(());
    }
    refuse(format!("the content type {text:?} is not taken here; send JSON as application/json"))
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
    }

    async fn collected(kind: BodyKind, headers: HeaderMap, parts: &[&'static str]) -> String {
        let parts = stream::iter(parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))));
        match collect(kind, &headers, 6, parts).await {
            Ok(body) => String::from_utf8(body.to_vec()).unwrap(),
            Err(error) => error.code.as_str().to_owned(),
        }
    }

    #[tokio::test]
    async fn a_body_is_whole_or_refused() {
        let none = HeaderMap::new;
        assert_eq!(collected(BodyKind::Raw, none(), &["abc", "", "def"]).await, "abcdef");
        assert_eq!(collected(BodyKind::Raw, none(), &["abcdef"]).await, "abcdef");
        assert_eq!(collected(BodyKind::Raw, none(), &["abc", "defg"]).await, "TOO_LARGE");
        assert_eq!(collected(BodyKind::Nothing, none(), &["abcdefg"]).await, "");
        let declared = headers("content-length", "7");
        assert_eq!(collected(BodyKind::Raw, declared, &["a"]).await, "TOO_LARGE");
        let coded = headers("content-encoding", "gzip");
        assert_eq!(collected(BodyKind::Raw, coded, &["a"]).await, "UNSUPPORTED_MEDIA_TYPE");
    }

    #[tokio::test]
    async fn json_may_say_that_it_is_json_or_what_curl_says() {
        let table = [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/x-www-form-urlencoded", true),
            ("application/merge-patch+json", true),
            ("text/xml", false),
            ("application/xml", false),
            ("application/jsonp", false),
        ];
        for (content_type, taken) in table {
            let given = headers("content-type", content_type);
            let body = collected(BodyKind::Small, given, &["{}"]).await;
            assert_eq!(body == "{}", taken, "{content_type}: {body}");
        }
        let raw = headers("content-type", "text/xml");
        assert_eq!(collected(BodyKind::Raw, raw, &["<a/>"]).await, "<a/>");
    }
}
