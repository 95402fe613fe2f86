//! The one error of a request. It says what failed with which value, whether anything may have changed, and when to try again.

use std::{net::SocketAddr, time::Duration};

use thiserror::Error;

use nomad_actors::{AskError, outbox::OutboxError};
use nomad_core::{
    group::{ReplicationFactorError, control::ControlError, replication::NotDone},
    model::{
        change::{ContentError, WriteRefusal},
        object::ObjectIdError,
    },
    outbox::OutboxRefusal,
};
use nomad_ports::object_store::StoreError;

/// How long to wait before the next try, where that helps.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request was not done, or is not known to be.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ServiceError {
    /// The id is none.
    #[error(transparent)]
    Id(#[from] ObjectIdError),
    /// The content may not be kept, whatever is there.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The condition of the write does not hold.
    #[error(transparent)]
    Refused(#[from] WriteRefusal),
    /// The members that keep the object did not do it, or there are none.
    #[error(transparent)]
    NotDone(#[from] NotDone),
    /// This node's outbox did not take a fast write.
    #[error(transparent)]
    Outbox(OutboxRefusal),
    /// This node's store cannot do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An actor of this node did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Whoever decides about the group does not grant it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The group may not have such a replication factor.
    #[error(transparent)]
    ReplicationFactor(#[from] ReplicationFactorError),
    /// Another node did not answer in time.
    #[error("{0} did not answer within the deadline")]
    Silent(SocketAddr),
}

/// What kind of failure it is. The edges give each kind its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong, and will be the next time.
    Invalid,
    /// The value is too large.
    TooLarge,
    /// There is no such object.
    Missing,
    /// The id is taken.
    Exists,
    /// A condition does not hold.
    Unmet,
    /// There is too much to do.
    Busy,
    /// It cannot be done at the moment.
    Unavailable,
    /// It may have been done, and may still be.
    OutcomeUnknown,
    /// The node has a defect.
    Defect,
}

impl ServiceError {
    /// Returns what kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        use ErrorKind as Kind;
        match self {
            Self::Id(_)
            | Self::Content(ContentError::ExpiryPassed { .. })
            | Self::ReplicationFactor(_) => Kind::Invalid,
            Self::Content(ContentError::TooLarge { .. }) => Kind::TooLarge,
            Self::Refused(refusal) => match refusal {
                WriteRefusal::Exists { .. } => Kind::Exists,
                WriteRefusal::Missing => Kind::Missing,
                WriteRefusal::VersionMismatch { .. } => Kind::Unmet,
            },
            Self::NotDone(error) => match error {
                NotDone::NoGroup { .. }
                | NotDone::NoQuorum { .. }
                | NotDone::Declined { .. }
                | NotDone::NoReplica { .. }
                | NotDone::TooFewMembers { .. }
                | NotDone::NotReady
                | NotDone::Running => Kind::Unavailable,
                NotDone::Unknown => Kind::OutcomeUnknown,
                NotDone::Busy => Kind::Busy,
            },
            Self::Outbox(refused) => match refused {
                OutboxRefusal::Condition(refusal) => Self::Refused(refusal.clone()).kind(),
                OutboxRefusal::Full { .. } => Kind::Busy,
                OutboxRefusal::NotLoaded => Kind::Unavailable,
                OutboxRefusal::Unreadable(_) => Kind::Defect,
                OutboxRefusal::NotKept => Kind::OutcomeUnknown,
            },
            Self::Store(error) => match error {
                StoreError::ReadOnly { .. }
                | StoreError::Reopening
                | StoreError::Closed
                | StoreError::Abandoned => Kind::Unavailable,
                StoreError::OutcomeUnknown { .. } => Kind::OutcomeUnknown,
                StoreError::Full { .. } => Kind::Busy,
                StoreError::Damaged { .. }
                | StoreError::Engine(_)
                | StoreError::Replicated { .. } => Kind::Defect,
            },
            Self::Ask(AskError::Gone { .. }) => Kind::Unavailable,
            Self::Ask(AskError::DeadlinePassed { .. }) | Self::Silent(_) => Kind::OutcomeUnknown,
            Self::Control(error) => of_control(error),
        }
    }

    /// Tells whether it is known what became of the request: then nothing has changed. Else it may have been done; read the
    /// object to see.
    pub fn is_outcome_known(&self) -> bool {
        self.kind() != ErrorKind::OutcomeUnknown
    }

    /// Says when to try the same again, where that helps.
    pub fn retry_after(&self) -> Option<Duration> {
        let again = matches!(self.kind(), ErrorKind::Busy | ErrorKind::Unavailable);
        again.then_some(RETRY_AFTER)
    }

    /// Names the part of the request that is at fault, if one is.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Id(_) => Some("id"),
            Self::Content(ContentError::TooLarge { .. }) => Some("value"),
            Self::Content(ContentError::ExpiryPassed { .. }) => Some("ttl"),
            Self::ReplicationFactor(_) | Self::Control(ControlError::ReplicationFactor(_)) => {
                Some("replicationFactor")
            }
            Self::Control(ControlError::Position(_)) => Some("position"),
            _ => None,
        }
    }
}

fn of_control(error: &ControlError) -> ErrorKind {
    use ControlError as E;
    match error {
        E::ReplicationFactor(_) | E::Position(_) => ErrorKind::Invalid,
        E::NoGroup { .. }
        | E::Election { .. }
        | E::SilentSuperPeer { .. }
        | E::Busy { .. }
        | E::Unreachable { .. } => ErrorKind::Unavailable,
        E::Peer(_)
        | E::NotSuperPeer { .. }
        | E::Full { .. }
        | E::OnlyMember { .. }
        | E::UnknownSuperPeer { .. }
        | E::NoPlace { .. }
        | E::Declined { .. }
        | E::Refused { .. } => ErrorKind::Unmet,
        E::Unknown { .. } => ErrorKind::OutcomeUnknown,
    }
}

impl From<OutboxError> for ServiceError {
    fn from(error: OutboxError) -> Self {
        match error {
            OutboxError::Refused(refused) => Self::Outbox(refused),
            OutboxError::Store(error) => Self::Store(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_whether_its_outcome_is_known_and_when_to_try_again() {
        let no_quorum = ServiceError::from(NotDone::NoQuorum { answered: 1, needed: 2 });
        assert!(no_quorum.is_outcome_known());
        assert_eq!(no_quorum.retry_after(), Some(RETRY_AFTER));
        let declined = NotDone::Declined { reason: "the disk is full".into() };
        for known in [
            ServiceError::from(declined),
            ServiceError::from(StoreError::Abandoned),
            ServiceError::from(StoreError::ReadOnly { reason: "full".into() }),
        ] {
            assert!(known.is_outcome_known(), "{known}");
            assert_eq!(known.kind(), ErrorKind::Unavailable, "{known}");
        }
        let unknown = ServiceError::from(NotDone::Unknown);
        assert!(!unknown.is_outcome_known());
        assert_eq!(unknown.retry_after(), None);
        let missing = ServiceError::from(WriteRefusal::Missing);
        assert!(missing.is_outcome_known());
        assert_eq!((missing.kind(), missing.retry_after()), (ErrorKind::Missing, None));
    }
}
