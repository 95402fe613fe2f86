//! Parts of the OpenAPI document that many operations share: parameters and the problems they answer with.

use utoipa::{IntoParams, IntoResponses};

use super::problem::Problem;

/// The id in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it describes what is read by hand")]
pub struct IdPath {
    /// The object's id: 1 to 1024 bytes of UTF-8 without control characters, percent-encoded.
    #[param(
        min_length = 1,
        max_length = 1024,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$",
        example = "item:99"
    )]
    id: String,
}

/// The mode of a read.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what is read by hand")]
pub struct ReadModeHeader {
    /// How to read, for this call alone; absent = the node's setting.
    #[param(rename = "Nomad-Mode", pattern = "^(fast|safe|parallel)$")]
    mode: Option<String>,
}

/// The mode of a write, and its name.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what is read by hand")]
pub struct WriteHeaders {
    /// When to answer, for this call alone: once durable on this node, or on a quorum; absent = the node's setting.
    #[param(rename = "Nomad-Mode", pattern = "^(fast|safe)$")]
    mode: Option<String>,
    /// Names the write, so that it is carried out once however often it is tried: 32 lower-case hex digits, not all 0,
    /// the same for each try; absent = the node gives it one.
    #[param(
        rename = "Nomad-Request-Id",
        min_length = 32,
        max_length = 32,
        pattern = "^[0-9a-f]*[1-9a-f][0-9a-f]*$",
        example = "4bf92f3577b34da6a3ce929d0e0e4736"
    )]
    request_id: Option<String>,
}

/// The condition of a replacement.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what is read by hand")]
pub struct IfMatch {
    /// Only if the object has this version, in quotes as an `ETag` gives it; `*` = only if it is there.
    #[param(
        rename = "If-Match",
        min_length = 1,
        pattern = r#"^([*]|"[0-9a-f]{16}-[0-9a-f]{16}")$"#
    )]
    if_match: Option<String>,
}

/// Makes a response of the document out of each problem that operations name.
macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident: $status:tt;)+) => {$(
        $(#[$doc])*
        #[derive(IntoResponses)]
        #[response(status = $status, content_type = "application/problem+json")]
        pub struct $name(#[expect(dead_code, reason = "names the schema")] Problem);
    )+};
}

problems! {
    /// What the request says is malformed or out of range.
    BadInput: 400;
    /// There is no such thing.
    Missing: 404;
    /// The id is taken.
    Conflict: 409;
    /// A condition of the request does not hold; nothing was changed.
    Unmet: 412;
    /// The value is larger than `node.storage.maxObjectBytes`.
    TooLarge: 413;
    /// The body is of a media type that is not taken here.
    MediaType: 415;
    /// No byte of the value is in the range.
    NoSuchRange: 416;
    /// The node does not allow it.
    Forbidden: 403;
    /// The node does not offer this.
    NotOffered: 501;
    /// The node takes no requests at the moment; `detail` says why.
    Unready: 503;
}
