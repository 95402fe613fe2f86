//! The resource API: an object as raw bytes under its own URL, with versions, conditions, ranges and expiry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headers::{ContentRange, Header as _, HeaderMapExt as _, IfModifiedSince, LastModified};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use warp::reply::Response;

use super::{
    ask::{RestRequest, RestResult},
    document::{
        BadInput, IdPath, IfMatch, Missing, NoSuchRange, ReadModeHeader, TooLarge, Unmet,
        WriteHeaders,
    },
    etag::{self, Tags},
    game_object::{self, RawBytes},
    json, problem,
    range::{self, RangeAnswer},
    row::{BodyKind, RouteRow},
    storage::{missing, refused},
};
use crate::{
    backend::Call,
    error::{ApiError, ErrorCode},
};
use nomad_core::model::change::Written;
use nomad_core::{
    group::StorageMode,
    model::{
        change::{Change, Condition, Content, WriteRefusal},
        object::{Object, ObjectId, Tier, Version},
        time::UnixSecs,
    },
};
use nomad_service::Assurance;

pub static OBJECT: RouteRow = RouteRow::new(
    "GET, HEAD, PUT, DELETE",
    &[
        "GET /nomad/v1/objects/{id}",
        "HEAD /nomad/v1/objects/{id}",
        "PUT /nomad/v1/objects/{id}",
        "DELETE /nomad/v1/objects/{id}",
    ],
    BodyKind::Raw,
);

/// The header with the time of expiry.
const EXPIRES: HeaderName = HeaderName::from_static("nomad-expires");

/// What a URL may hold unescaped in a segment.
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// The most seconds from now that an object may be asked to live; 0 seconds would be none.
const TTL_SECS_MAX: u64 = 4_000_000_000;

/// How often a write that names several versions is tried.
const TRIES_MAX: usize = 3;

/// Answers all methods of an object's URL.
pub async fn object(ask: RestRequest) -> Response {
    ask.answer(async |call, ask| match *ask.method() {
        Method::PUT => put(call, ask).await,
        Method::DELETE => delete(call, ask).await,
        _ => get(call, ask).await,
    })
    .await
}

// ---- reading ----

/// Reads an object's bytes.
#[utoipa::path(
    get, path = "/nomad/v1/objects/{id}", operation_id = "getObject", tag = "objects",
    params(
        IdPath, ReadModeHeader,
        ("If-None-Match" = Option<String>, Header, description = "Answer 304 if the object still has one of these versions",
         min_length = 1, pattern = r#"^([*]|"[0-9a-f]{16}-[0-9a-f]{16}")$"#),
        ("Range" = Option<String>, Header, description = "Which bytes; anything but one range of bytes is ignored",
         example = "bytes=0-99"),
    ),
    responses(
        (status = 200, description = "The object's bytes, of the media type that was put with them",
         body = inline(RawBytes), content_type = "*/*",
         headers(("ETag" = String, description = "The version, in quotes"), ("Last-Modified" = String),
                 ("Nomad-Expires" = i64, description = "When it expires, in seconds since 1970"))),
        (status = 206, description = "The bytes of the range", body = inline(RawBytes), content_type = "*/*",
         headers(("Content-Range" = String))),
        (status = 304, description = "It still has the version"),
        BadInput, Missing, Unmet, NoSuchRange
    )
)]
pub async fn get(call: &mut Call, ask: &RestRequest) -> RestResult {
    let (id, mode) = (ask.id()?, ask.retrieval_mode()?);
    let (unless, only_if) = (tags(ask, &header::IF_NONE_MATCH)?, tags(ask, &header::IF_MATCH)?);
    let object = call.get(Tier::Group, &id, mode).await?;
    let object = match object {
        Some(object) => object,
        None if only_if.is_some() => return Err(unmet(&id, WriteRefusal::Missing)),
        None => return Err(missing(&id)),
    };
    if only_if.is_some_and(|tags| !tags.name(object.version, false)) {
        let detail = format!(
            "object {:?} is at version {}, which If-Match does not name; it is {}",
            id.as_str(),
            object.version,
            etag::given(ask.headers(), &header::IF_MATCH)
        );
        return Err(ApiError::new(ErrorCode::FailedPrecondition, detail));
    }
    let modified = LastModified::from(date(object.last_modified));
    let known = match &unless {
        Some(tags) => tags.name(object.version, true),
        None => is_unmodified(ask, object.last_modified),
    };
    let mut response = if known {
        problem::empty(StatusCode::NOT_MODIFIED)
    } else {
        content(ask, call, &object, modified)
    };
    describe(response.headers_mut(), &object, modified);
    Ok(response)
}

/// Says what GET would, without the bytes.
#[utoipa::path(
    head, path = "/nomad/v1/objects/{id}", operation_id = "headObject", tag = "objects",
    params(IdPath, ReadModeHeader),
    responses(
        (status = 200, description = "It is there; the headers are those of GET"),
        (status = 304, description = "It still has the version"),
        (status = 400, description = "The id is none"),
        (status = 404, description = "There is no such object"),
        (status = 412, description = "A condition of the request does not hold"),
    )
)]
#[expect(dead_code, reason = "for the document alone: get answers both methods")]
pub fn head() {}

fn tags(ask: &RestRequest, name: &HeaderName) -> Result<Option<Tags>, ApiError> {
    Tags::read(ask.headers(), name)
}

fn date(at: UnixSecs) -> SystemTime {
    // The last day that a header can name is in the year 9999.
    UNIX_EPOCH + Duration::from_secs(at.0.min(253_402_300_799))
}

/// Tells whether `If-Modified-Since` names the object's last change or a later time. What is no date is ignored.
fn is_unmodified(ask: &RestRequest, modified: UnixSecs) -> bool {
    let since = ask.headers().typed_get::<IfModifiedSince>();
    since.is_some_and(|since| !since.is_modified(date(modified)))
}

/// Answers with the bytes, or with those of the range.
fn content(ask: &RestRequest, call: &Call, object: &Object, modified: LastModified) -> Response {
    let value = &object.value;
    let whole = value.len() as u64;
    match asked_range(ask, object, modified) {
        RangeAnswer::Whole => Response::new(value.clone().into()),
        RangeAnswer::Part(part) => {
            let range = ContentRange::bytes(part.start as u64..part.end as u64, whole);
            let mut response = Response::new(value.slice(part).into());
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            if let Ok(range) = range {
                response.headers_mut().typed_insert(range);
            }
            response
        }
        RangeAnswer::Unsatisfiable => {
            let detail = format!(
                "the value of {:?} has {} bytes, none of them in the range {:?}",
                object.id.as_str(),
                value.len(),
                etag::given(ask.headers(), &header::RANGE)
            );
            let error = ApiError {
                field: Some("Range"),
                ..ApiError::new(ErrorCode::RangeNotSatisfiable, detail)
            };
            let mut response = problem::problem(&error, call.request_id());
            response.headers_mut().typed_insert(ContentRange::unsatisfied_bytes(whole));
            response
        }
    }
}

fn asked_range(ask: &RestRequest, object: &Object, modified: LastModified) -> RangeAnswer {
    let wanted = ask.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some(wanted) = wanted.filter(|_| ask.method() == Method::GET) else {
        return RangeAnswer::Whole;
    };
    // A part is of use only to who has the rest of the same version.
    // The type of this header takes a later date for the same version too (RFC 9110, 13.1.5, does not).
    let is_same = |known: &HeaderValue| {
        *known == etag::of(object.version)
            || LastModified::decode(&mut [known].into_iter()).is_ok_and(|known| known == modified)
    };
    match ask.headers().get(header::IF_RANGE) {
        Some(known) if !is_same(known) => RangeAnswer::Whole,
        _ => range::resolve(wanted, object.value.len()),
    }
}

fn describe(headers: &mut HeaderMap, object: &Object, modified: LastModified) {
    // All of them, with what every answer has.
    headers.reserve(12);
    // A problem document has its own type.
    if !headers.contains_key(header::CONTENT_TYPE) {
        let kept = object.content_type.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        let unknown = HeaderValue::from_static("application/octet-stream");
        headers.insert(header::CONTENT_TYPE, kept.unwrap_or(unknown));
    }
    // Anybody may have put the bytes: a browser is to run nothing of them in this node's name.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let sandbox = HeaderValue::from_static("sandbox; default-src 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, sandbox);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    set(headers, header::ETAG, etag::of(object.version));
    headers.typed_insert(modified);
    if let Some(at) = object.expires_at {
        headers.insert(EXPIRES, HeaderValue::from(at.0));
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: String) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

// ---- writing ----

/// Keeps an object's bytes: creates or replaces it, or only one of both under a condition.
#[utoipa::path(
    put, path = "/nomad/v1/objects/{id}", operation_id = "putObject", tag = "objects",
    params(
        IdPath, WriteHeaders, IfMatch,
        ("If-None-Match" = Option<String>, Header, description = "* = only if there is no such object", min_length = 1, pattern = "^[*]$"),
        ("Nomad-Ttl" = Option<u64>, Header, description = "Seconds from now until it expires", minimum = 1, maximum = 4_000_000_000_u64),
        ("Nomad-Expires" = Option<u64>, Header, description = "The Unix time in seconds at which it expires; 0 = never"),
    ),
    request_body(content = inline(RawBytes), description = "The value; its Content-Type is kept", content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is created", headers(("ETag" = String), ("Location" = String))),
        (status = 204, description = "It is replaced", headers(("ETag" = String))),
        BadInput, Unmet, TooLarge
    )
)]
pub async fn put(call: &mut Call, ask: &RestRequest) -> RestResult {
    let (id, mode) = (ask.id()?, ask.storage_mode()?);
    let expires_at = expiry(ask)?;
    let content_type = game_object::content_type(ask.header("content-type")?)?;
    let wanted = wanted(ask)?;
    let value = ask.body()?;
    let content = Content { value, creation_time: None, expires_at, content_type };
    let make = |condition| Change::Write { content: content.clone(), condition };
    let (written, durability) = write(call, &id, wanted, mode, make).await?;
    let mut response = match written {
        Written::Kept { version, created } => {
            let status = if created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
            let mut response = problem::empty(status);
            set(response.headers_mut(), header::ETAG, etag::of(version));
            if created {
                set(response.headers_mut(), header::LOCATION, location(&id));
            }
            response
        }
        Written::Removed => problem::empty(StatusCode::NO_CONTENT),
    };
    problem::state_durability(&mut response, durability);
    Ok(response)
}

/// Removes an object.
#[utoipa::path(
    delete, path = "/nomad/v1/objects/{id}", operation_id = "deleteObject", tag = "objects",
    params(IdPath, WriteHeaders, IfMatch),
    responses((status = 204, description = "It is removed"), BadInput, Missing, Unmet)
)]
pub async fn delete(call: &mut Call, ask: &RestRequest) -> RestResult {
    let (id, mode) = (ask.id()?, ask.storage_mode()?);
    let wanted = wanted(ask)?;
    let (_, durability) =
        write(call, &id, wanted, mode, |condition| Change::Delete { condition }).await?;
    let mut response = problem::empty(StatusCode::NO_CONTENT);
    problem::state_durability(&mut response, durability);
    Ok(response)
}

/// Which state of the object a write wants to meet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// Whatever there is.
    Anything,
    /// Nothing.
    Absent,
    /// Something.
    Present,
    /// One of these versions, tried from this one on.
    OneOf(Version, Vec<Version>),
}

fn wanted(ask: &RestRequest) -> Result<Wanted, ApiError> {
    if ask.headers().contains_key(header::IF_UNMODIFIED_SINCE) {
        let given = etag::given(ask.headers(), &header::IF_UNMODIFIED_SINCE);
        let detail = format!(
            "If-Unmodified-Since is {given:?}, but writes take none, since it is too coarse; use \
             If-Match"
        );
        return Err(ApiError::invalid("If-Unmodified-Since", detail));
    }
    let only_if = tags(ask, &header::IF_MATCH)?.map(|tags| tags.versions()).transpose()?;
    match (only_if, tags(ask, &header::IF_NONE_MATCH)?) {
        (None, None) => Ok(Wanted::Anything),
        (Some(None), None) => Ok(Wanted::Present),
        (Some(Some(versions)), None) => match versions.first() {
            Some(first) => Ok(Wanted::OneOf(*first, versions)),
            None => Err(etag::only_weak(ask.headers())),
        },
        (None, Some(Tags::Any)) if ask.method() == Method::PUT => Ok(Wanted::Absent),
        (Some(_), Some(_)) => {
            let detail = format!(
                "If-Match is {} and If-None-Match is {}, which cannot both hold here; give one of \
                 them",
                etag::given(ask.headers(), &header::IF_MATCH),
                etag::given(ask.headers(), &header::IF_NONE_MATCH)
            );
            Err(ApiError::invalid("If-None-Match", detail))
        }
        (None, Some(_)) => {
            let detail = format!(
                "If-None-Match is {}, but a write takes it only as * and only with PUT; use \
                 If-Match",
                etag::given(ask.headers(), &header::IF_NONE_MATCH)
            );
            Err(ApiError::invalid("If-None-Match", detail))
        }
    }
}

/// Writes under a condition; one that does not hold is 412, also when the object is not there.
async fn write(
    call: &mut Call,
    id: &ObjectId,
    wanted: Wanted,
    mode: Option<StorageMode>,
    make: impl Fn(Condition) -> Change,
) -> Result<(Written, Assurance), ApiError> {
    let (mut condition, versions) = match wanted {
        Wanted::Anything => (Condition::Any, Vec::new()),
        Wanted::Absent => (Condition::Absent, Vec::new()),
        Wanted::Present => (Condition::Present, Vec::new()),
        Wanted::OneOf(first, versions) => (Condition::Version(first), versions),
    };
    for _ in 0..TRIES_MAX {
        let (written, durability) = call.write(Tier::Group, id, make(condition), mode).await?;
        let refusal = match written {
            Ok(written) => return Ok((written, durability)),
            Err(refusal) => refusal,
        };
        match refusal {
            WriteRefusal::VersionMismatch { current, .. } if versions.contains(&current) => {
                condition = Condition::Version(current);
            }
            WriteRefusal::Missing if condition == Condition::Any => return Err(missing(id)),
            refusal => return Err(unmet(id, refusal)),
        }
    }
    let detail = format!("object {:?} changes faster than If-Match can be checked", id.as_str());
    Err(ApiError::new(ErrorCode::FailedPrecondition, detail))
}

fn unmet(id: &ObjectId, refusal: WriteRefusal) -> ApiError {
    ApiError { code: ErrorCode::FailedPrecondition, ..refused(id, refusal) }
}

/// Reads when the object is to expire, given as a time or as seconds from now.
fn expiry(ask: &RestRequest) -> Result<Option<UnixSecs>, ApiError> {
    let number = |name: &'static str| {
        let Some(text) = ask.header(name)? else { return Ok(None) };
        let number = json::decimal(text).and_then(|number| u64::try_from(number).ok());
        number.map(Some).ok_or_else(|| {
            let text = json::shorten(text);
            ApiError::invalid(
                name,
                format!("{name} is {text:?}, but must be a whole number of seconds"),
            )
        })
    };
    match (number("nomad-ttl")?, number("nomad-expires")?) {
        (None, expires) => Ok(expires.filter(|at| *at > 0).map(UnixSecs)),
        (Some(_), Some(_)) => {
            let detail = "Nomad-Ttl and Nomad-Expires say the same thing twice; give one of them";
            Err(ApiError::invalid("nomad-ttl", detail))
        }
        (Some(seconds), None) => {
            let now = ask.backend().service.kit.clock.wall().secs();
            if !(1..=TTL_SECS_MAX).contains(&seconds) {
                let detail = format!(
                    "nomad-ttl is {seconds}, but must be a number of seconds from now, from 1 to {TTL_SECS_MAX}; \
                     without it the object stays for ever"
                );
                return Err(ApiError::invalid("nomad-ttl", detail));
            }
            Ok(Some(UnixSecs(now.0.saturating_add(seconds))))
        }
    }
}

fn location(id: &ObjectId) -> String {
    format!("/nomad/v1/objects/{}", utf8_percent_encode(id.as_str(), SEGMENT))
}
