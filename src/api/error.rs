//! The closed set of error codes, and the one table that gives each its HTTP status and its gRPC code.

use std::{fmt, time::Duration};

use http::StatusCode;
use tonic::Code;

use nomad_core::{
    group::{ModeError, control::ControlError},
    model::{
        change::WriteRefusal,
        object::{ObjectIdError, VersionError},
    },
    world::PositionError,
};
use nomad_service::{ErrorKind, RETRY_AFTER, ServiceError};

/// Makes the set of the codes and their one table: a row is a code with its word, HTTP status, gRPC code and title.
macro_rules! error_codes {
    ($($(#[$doc:meta])* $code:ident: $word:literal, $http:ident, $grpc:ident, $title:literal;)+) => {
        /// Every way in which a request can fail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $code,)+ }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$code),+];

            fn row(self) -> (&'static str, StatusCode, Code, &'static str) {
                match self {
                    $(Self::$code => ($word, StatusCode::$http, Code::$grpc, $title),)+
                }
            }
        }
    };
}

error_codes! {
    /// The request is malformed or out of range.
    InvalidArgument: "INVALID_ARGUMENT", BAD_REQUEST, InvalidArgument, "The request is not valid";
    /// There is no such object or path.
    NotFound: "NOT_FOUND", NOT_FOUND, NotFound, "There is no such thing";
    /// The path does not take the method.
    MethodNotAllowed: "METHOD_NOT_ALLOWED", METHOD_NOT_ALLOWED, Unimplemented, "The path does not take this method";
    /// The id is taken.
    AlreadyExists: "ALREADY_EXISTS", CONFLICT, AlreadyExists, "The id is taken";
    /// A condition of the request does not hold.
    FailedPrecondition: "FAILED_PRECONDITION", PRECONDITION_FAILED, FailedPrecondition, "A condition does not hold";
    /// The value, or the body, is too large.
    TooLarge: "TOO_LARGE", PAYLOAD_TOO_LARGE, InvalidArgument, "The body is too large";
    /// The body is of a media type that the path does not take.
    UnsupportedMediaType: "UNSUPPORTED_MEDIA_TYPE", UNSUPPORTED_MEDIA_TYPE, InvalidArgument, "The media type is not taken here";
    /// No byte of the value lies in the range asked for.
    RangeNotSatisfiable: "RANGE_NOT_SATISFIABLE", RANGE_NOT_SATISFIABLE, OutOfRange, "The range holds no byte of the value";
    /// The client took too long to send its request.
    RequestTimeout: "REQUEST_TIMEOUT", REQUEST_TIMEOUT, Cancelled, "The request came too slowly";
    /// The node has as much to do as it may; try again later.
    ResourceExhausted: "RESOURCE_EXHAUSTED", TOO_MANY_REQUESTS, ResourceExhausted, "The node has all that it can do";
    /// The node cannot do it at the moment; try again later.
    Unavailable: "UNAVAILABLE", SERVICE_UNAVAILABLE, Unavailable, "The node cannot do this at the moment";
    /// The deadline passed; whether it was done is unknown.
    DeadlineExceeded: "DEADLINE_EXCEEDED", GATEWAY_TIMEOUT, DeadlineExceeded, "The outcome is unknown";
    /// The caller is not known.
    Unauthenticated: "UNAUTHENTICATED", UNAUTHORIZED, Unauthenticated, "The caller is not known";
    /// The caller may not do it.
    PermissionDenied: "PERMISSION_DENIED", FORBIDDEN, PermissionDenied, "The caller may not do this";
    /// This node does not offer it.
    Unimplemented: "UNIMPLEMENTED", NOT_IMPLEMENTED, Unimplemented, "This node does not offer this";
    /// A defect of the node.
    Internal: "INTERNAL", INTERNAL_SERVER_ERROR, Internal, "The node has a defect";
}

impl ErrorCode {
    /// Returns the code's word, as in `code` of a problem document.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Returns the HTTP status.
    pub fn http(self) -> StatusCode {
        self.row().1
    }

    /// Returns the gRPC code.
    pub fn grpc(self) -> Code {
        self.row().2
    }

    /// Returns the short text that is the same for every error of this code.
    pub fn title(self) -> &'static str {
        self.row().3
    }
}

/// An error as both edges answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// What kind of error it is.
    pub code: ErrorCode,
    /// What failed, with which value, and the way out.
    pub detail: String,
    /// The field of the request that is at fault, if one is.
    pub field: Option<&'static str>,
    /// When to try again, if that helps.
    pub retry_after: Option<Duration>,
    /// The methods that the path takes, for [`ErrorCode::MethodNotAllowed`].
    pub allow: Option<&'static str>,
}

impl ApiError {
    /// Makes an error of a code; codes that ask for another try get a hint of one second.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let again = matches!(code, ErrorCode::ResourceExhausted | ErrorCode::Unavailable);
        Self {
            code,
            detail: detail.into(),
            field: None,
            retry_after: again.then_some(RETRY_AFTER),
            allow: None,
        }
    }

    /// Makes an [`ErrorCode::InvalidArgument`] about a field of the request.
    pub fn invalid(field: &'static str, detail: impl Into<String>) -> Self {
        Self { field: Some(field), ..Self::new(ErrorCode::InvalidArgument, detail) }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for ApiError {}

/// Makes errors about one field of a request errors of the edge.
macro_rules! invalid_fields {
    ($($error:ty: $field:literal;)+) => {$(
        impl From<$error> for ApiError {
            fn from(error: $error) -> Self {
                Self::invalid($field, error.to_string())
            }
        }
    )+};
}

invalid_fields! {
    ObjectIdError: "id";
    VersionError: "version";
    ModeError: "mode";
    PositionError: "position";
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let code = match error.kind() {
            ErrorKind::Invalid => ErrorCode::InvalidArgument,
            ErrorKind::TooLarge => ErrorCode::TooLarge,
            ErrorKind::Missing => ErrorCode::NotFound,
            ErrorKind::Exists => ErrorCode::AlreadyExists,
            ErrorKind::Unmet => ErrorCode::FailedPrecondition,
            ErrorKind::Busy => ErrorCode::ResourceExhausted,
            ErrorKind::Unavailable => ErrorCode::Unavailable,
            ErrorKind::OutcomeUnknown => ErrorCode::DeadlineExceeded,
            ErrorKind::Defect => ErrorCode::Internal,
        };
        Self { field: error.field(), ..Self::new(code, error.to_string()) }
    }
}

impl From<WriteRefusal> for ApiError {
    fn from(refusal: WriteRefusal) -> Self {
        ServiceError::from(refusal).into()
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        ServiceError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_its_own_word_and_an_error_status() {
        let words: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        for &code in ErrorCode::ALL {
            assert!(code.http().is_client_error() || code.http().is_server_error(), "{code:?}");
            assert_ne!(code.grpc(), Code::Ok);
            assert_ne!(code.grpc(), Code::Unknown, "{code:?}");
            // What the caller did is never the node's defect.
            assert_eq!(
                code.http() == StatusCode::INTERNAL_SERVER_ERROR,
                code.grpc() == Code::Internal
            );
        }
    }
}
