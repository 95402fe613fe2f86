//! The closed set of error codes, and the one table that gives each its HTTP status and its gRPC code.

use std::{fmt, time::Duration};

use http::StatusCode;
use tonic::Code;

use nomad_actors::{
    AskError, group_write::GroupWriteError, outbox::OutboxError, replica_reader::ReadError,
};
use nomad_core::{
    group::{
        ModeError, PeerError, ReplicationFactorError,
        control::ControlError,
        replication::{NotDone, NotServed},
    },
    model::{
        change::{ContentError, WriteRefusal},
        object::{ObjectIdError, VersionError},
    },
    outbox::OutboxRefusal,
    world::PositionError,
};
use nomad_ports::object_store::StoreError;

/// Every way in which a request can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The request is malformed or out of range.
    InvalidArgument,
    /// There is no such object or path.
    NotFound,
    /// The path does not take the method.
    MethodNotAllowed,
    /// The id is taken.
    AlreadyExists,
    /// A condition of the request does not hold.
    FailedPrecondition,
    /// The value, or the body, is too large.
    TooLarge,
    /// The body is of a media type that the path does not take.
    UnsupportedMediaType,
    /// No byte of the value lies in the range asked for.
    RangeNotSatisfiable,
    /// The client took too long to send its request.
    RequestTimeout,
    /// The node has as much to do as it may; try again later.
    ResourceExhausted,
    /// The node cannot do it at the moment; try again later.
    Unavailable,
    /// The deadline passed; whether it was done is unknown.
    DeadlineExceeded,
    /// The caller is not known.
    Unauthenticated,
    /// The caller may not do it.
    PermissionDenied,
    /// This node does not offer it.
    Unimplemented,
    /// A defect of the node.
    Internal,
}

impl ErrorCode {
    /// All codes.
    pub const ALL: [Self; 16] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::AlreadyExists,
        Self::FailedPrecondition,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::RangeNotSatisfiable,
        Self::RequestTimeout,
        Self::ResourceExhausted,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::Unimplemented,
        Self::Internal,
    ];

    /// The table: the code's word, its HTTP status, its gRPC code, its title.
    fn row(self) -> (&'static str, StatusCode, Code, &'static str) {
        use Code as G;
        use StatusCode as H;
        match self {
            Self::InvalidArgument => {
                ("INVALID_ARGUMENT", H::BAD_REQUEST, G::InvalidArgument, "The request is not valid")
            }
            Self::NotFound => ("NOT_FOUND", H::NOT_FOUND, G::NotFound, "There is no such thing"),
            Self::MethodNotAllowed => (
                "METHOD_NOT_ALLOWED",
                H::METHOD_NOT_ALLOWED,
                G::Unimplemented,
                "The path does not take this method",
            ),
            Self::AlreadyExists => {
                ("ALREADY_EXISTS", H::CONFLICT, G::AlreadyExists, "The id is taken")
            }
            Self::FailedPrecondition => (
                "FAILED_PRECONDITION",
                H::PRECONDITION_FAILED,
                G::FailedPrecondition,
                "A condition does not hold",
            ),
            Self::TooLarge => {
                ("TOO_LARGE", H::PAYLOAD_TOO_LARGE, G::InvalidArgument, "The body is too large")
            }
            Self::UnsupportedMediaType => (
                "UNSUPPORTED_MEDIA_TYPE",
                H::UNSUPPORTED_MEDIA_TYPE,
                G::InvalidArgument,
                "The media type is not taken here",
            ),
            Self::RangeNotSatisfiable => (
                "RANGE_NOT_SATISFIABLE",
                H::RANGE_NOT_SATISFIABLE,
                G::OutOfRange,
                "The range holds no byte of the value",
            ),
            Self::RequestTimeout => {
                ("REQUEST_TIMEOUT", H::REQUEST_TIMEOUT, G::Cancelled, "The request came too slowly")
            }
            Self::ResourceExhausted => (
                "RESOURCE_EXHAUSTED",
                H::TOO_MANY_REQUESTS,
                G::ResourceExhausted,
                "The node has all that it can do",
            ),
            Self::Unavailable => (
                "UNAVAILABLE",
                H::SERVICE_UNAVAILABLE,
                G::Unavailable,
                "The node cannot do this at the moment",
            ),
            Self::DeadlineExceeded => (
                "DEADLINE_EXCEEDED",
                H::GATEWAY_TIMEOUT,
                G::DeadlineExceeded,
                "The outcome is unknown",
            ),
            Self::Unauthenticated => {
                ("UNAUTHENTICATED", H::UNAUTHORIZED, G::Unauthenticated, "The caller is not known")
            }
            Self::PermissionDenied => (
                "PERMISSION_DENIED",
                H::FORBIDDEN,
                G::PermissionDenied,
                "The caller may not do this",
            ),
            Self::Unimplemented => (
                "UNIMPLEMENTED",
                H::NOT_IMPLEMENTED,
                G::Unimplemented,
                "This node does not offer this",
            ),
            Self::Internal => {
                ("INTERNAL", H::INTERNAL_SERVER_ERROR, G::Internal, "The node has a defect")
            }
        }
    }

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
            retry_after: again.then_some(Duration::from_secs(1)),
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

impl From<ObjectIdError> for ApiError {
    fn from(error: ObjectIdError) -> Self {
        Self::invalid("id", error.to_string())
    }
}

impl From<VersionError> for ApiError {
    fn from(error: VersionError) -> Self {
        Self::invalid("version", error.to_string())
    }
}

impl From<ModeError> for ApiError {
    fn from(error: ModeError) -> Self {
        Self::invalid("mode", error.to_string())
    }
}

impl From<PositionError> for ApiError {
    fn from(error: PositionError) -> Self {
        Self::invalid("position", error.to_string())
    }
}

impl From<ReplicationFactorError> for ApiError {
    fn from(error: ReplicationFactorError) -> Self {
        Self::invalid("replicationFactor", error.to_string())
    }
}

impl From<PeerError> for ApiError {
    fn from(error: PeerError) -> Self {
        Self::new(ErrorCode::FailedPrecondition, error.to_string())
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        use ControlError as E;
        let code = match error {
            E::Peer(error) => return error.into(),
            E::ReplicationFactor(error) => return error.into(),
            E::Position(error) => return error.into(),
            E::NoGroup { .. }
            | E::Election { .. }
            | E::SilentSuperPeer { .. }
            | E::Busy { .. }
            | E::Unreachable { .. } => ErrorCode::Unavailable,
            E::NotSuperPeer { .. }
            | E::Full { .. }
            | E::OnlyMember { .. }
            | E::UnknownSuperPeer { .. }
            | E::NoPlace { .. }
            | E::Declined { .. }
            | E::Refused { .. } => ErrorCode::FailedPrecondition,
            E::Unknown { .. } => ErrorCode::DeadlineExceeded,
        };
        Self::new(code, error.to_string())
    }
}

impl From<NotServed> for ApiError {
    fn from(error: NotServed) -> Self {
        let code = match error {
            NotServed::NoGroup { .. } => ErrorCode::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

impl From<NotDone> for ApiError {
    fn from(error: NotDone) -> Self {
        let code = match error {
            NotDone::NoQuorum { .. }
            | NotDone::NoReplica { .. }
            | NotDone::TooFewMembers { .. }
            | NotDone::NotReady
            | NotDone::Running => ErrorCode::Unavailable,
            NotDone::Unknown => ErrorCode::DeadlineExceeded,
            NotDone::Busy => ErrorCode::ResourceExhausted,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => error.into(),
            ReadError::Ask(error) => error.into(),
            ReadError::NotDone(error) => error.into(),
        }
    }
}

impl From<GroupWriteError> for ApiError {
    fn from(error: GroupWriteError) -> Self {
        match error {
            GroupWriteError::Store(error) => error.into(),
            GroupWriteError::Ask(error) => error.into(),
            GroupWriteError::NotDone(error) => error.into(),
            GroupWriteError::Read(error) => error.into(),
            GroupWriteError::Outbox(OutboxError::Refused(refused)) => refused.into(),
            GroupWriteError::Outbox(OutboxError::Store(error)) => error.into(),
        }
    }
}

impl From<OutboxRefusal> for ApiError {
    fn from(refused: OutboxRefusal) -> Self {
        let code = match refused {
            OutboxRefusal::Condition(refusal) => return refusal.into(),
            OutboxRefusal::Full { .. } => ErrorCode::ResourceExhausted,
            OutboxRefusal::NotLoaded => ErrorCode::Unavailable,
            OutboxRefusal::Unreadable(_) => ErrorCode::Internal,
            OutboxRefusal::NotKept => ErrorCode::DeadlineExceeded,
        };
        Self::new(code, refused.to_string())
    }
}

impl From<ContentError> for ApiError {
    fn from(error: ContentError) -> Self {
        let detail = error.to_string();
        match error {
            ContentError::TooLarge { .. } => {
                Self { field: Some("value"), ..Self::new(ErrorCode::TooLarge, detail) }
            }
            ContentError::ExpiryPassed { .. } => Self::invalid("ttl", detail),
        }
    }
}

impl From<WriteRefusal> for ApiError {
    fn from(refusal: WriteRefusal) -> Self {
        let code = match refusal {
            WriteRefusal::Exists { .. } => ErrorCode::AlreadyExists,
            WriteRefusal::Missing => ErrorCode::NotFound,
            WriteRefusal::VersionMismatch { .. } => ErrorCode::FailedPrecondition,
        };
        Self::new(code, refusal.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::ReadOnly { .. } | StoreError::Reopening | StoreError::Closed => {
                ErrorCode::Unavailable
            }
            StoreError::OutcomeUnknown { .. } | StoreError::Abandoned => {
                ErrorCode::DeadlineExceeded
            }
            StoreError::Full { .. } => ErrorCode::ResourceExhausted,
            StoreError::Damaged { .. } | StoreError::Engine(_) | StoreError::Replicated { .. } => {
                ErrorCode::Internal
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        let code = match error {
            AskError::Gone { .. } => ErrorCode::Unavailable,
            AskError::DeadlinePassed { .. } => ErrorCode::DeadlineExceeded,
        };
        Self::new(code, error.to_string())
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
        for code in ErrorCode::ALL {
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
