//! Decides what a write does to an object. The one place where create, replace, delete and conditions mean something.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::model::{
    object::{Object, ObjectId, Version},
    time::UnixSecs,
};

/// What must be true of the object for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: create it or replace it.
    Any,
    /// There is no such object (`put`; `If-None-Match: *`).
    Absent,
    /// There is one (`update`; `If-Match: *`).
    Present,
    /// There is one, and it has this version (`If-Match`).
    Version(Version),
}

/// What a client gives to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The bytes.
    pub value: Bytes,
    /// The client's creation time; `None` = the node's time. Ignored when an object is replaced.
    pub creation_time: Option<UnixSecs>,
    /// From when on the object is absent; `None` = never.
    pub expires_at: Option<UnixSecs>,
    /// The media type of the bytes.
    pub content_type: Option<Arc<str>>,
}

/// A write as a client asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Keep this content under this condition.
    Write {
        /// What to keep.
        content: Content,
        /// When to do so.
        condition: Condition,
    },
    /// Remove the object under this condition. [`Condition::Absent`] is never met by a delete that has an effect.
    Delete {
        /// When to do so.
        condition: Condition,
    },
}

/// What a write does once decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteDecision {
    /// This object is kept from now on.
    Keep {
        /// The object, complete.
        object: Object,
        /// False when it replaces one.
        created: bool,
    },
    /// The object is there no more.
    Remove,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The object is kept under this version.
    Kept {
        /// Its new version.
        version: Version,
        /// False when it replaced one.
        created: bool,
    },
    /// The object is there no more.
    Removed,
}

/// Why a write has no effect. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteRefusal {
    /// It was to create, and there is one.
    #[error("an object with this id exists, at version {version}")]
    Exists {
        /// The version that is there.
        version: Version,
    },
    /// It was to replace or remove, and there is none.
    #[error("there is no object with this id")]
    Missing,
    /// It named a version, and another one is there.
    #[error(
        "the object is at version {current}, not at the version {wanted} that the condition names"
    )]
    VersionMismatch {
        /// The version that is there.
        current: Version,
        /// The version that the condition names.
        wanted: Version,
    },
}

/// Content that may never be stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContentError {
    /// The value has more bytes than one may have.
    #[error("the value has {len_bytes} bytes; node.storage.maxObjectBytes allows {max_bytes}")]
    TooLarge {
        /// The length of the refused value.
        len_bytes: u64,
        /// The most that is allowed.
        max_bytes: u64,
    },
    /// It would be absent at once.
    #[error(
        "the ttl {expires_at} lies in the past (now is {now}): a ttl is the Unix time in seconds at which the object \
         expires, not a number of seconds from now; 0 = never"
    )]
    ExpiryPassed {
        /// The refused time.
        expires_at: UnixSecs,
        /// The node's time.
        now: UnixSecs,
    },
}

impl Content {
    /// Checks what can be said of the content without knowing what is kept.
    ///
    /// # Errors
    /// Says which limit it breaks.
    pub fn check(&self, now: UnixSecs, max_bytes: u64) -> Result<(), ContentError> {
        let len_bytes = self.value.len() as u64;
        if len_bytes > max_bytes {
            return Err(ContentError::TooLarge { len_bytes, max_bytes });
        }
        match self.expires_at {
            Some(expires_at) if expires_at <= now => {
                Err(ContentError::ExpiryPassed { expires_at, now })
            }
            _ => Ok(()),
        }
    }
}

impl Change {
    /// Tells whether it takes an object away.
    pub fn is_delete(&self) -> bool {
        matches!(self, Self::Delete { .. })
    }

    /// Returns the bytes of value that the change carries.
    pub fn value_bytes(&self) -> usize {
        match self {
            Self::Write { content, .. } => content.value.len(),
            Self::Delete { .. } => 0,
        }
    }

    /// Tells whether the change is refused when `current` is there.
    ///
    /// # Errors
    /// Says why it has no effect.
    pub fn check(&self, current: Option<&Object>) -> Result<(), WriteRefusal> {
        let (Self::Write { condition, .. } | Self::Delete { condition }) = *self;
        match (condition, current) {
            (Condition::Absent, Some(object)) => {
                Err(WriteRefusal::Exists { version: object.version })
            }
            (Condition::Present | Condition::Version(_), None) => Err(WriteRefusal::Missing),
            (Condition::Version(wanted), Some(object)) if object.version != wanted => {
                Err(WriteRefusal::VersionMismatch { current: object.version, wanted })
            }
            (_, None) if matches!(self, Self::Delete { .. }) => Err(WriteRefusal::Missing),
            _ => Ok(()),
        }
    }

    /// Carries out a change that [`check`](Self::check) lets through. `current` is what is there and not expired; `version` is a new
    /// one, greater than that of `current`.
    pub fn apply(
        self,
        id: &ObjectId,
        current: Option<&Object>,
        now: UnixSecs,
        version: Version,
    ) -> WriteDecision {
        let Self::Write { content, .. } = self else { return WriteDecision::Remove };
        let creation_time =
            current.map(|object| object.creation_time).or(content.creation_time).unwrap_or(now);
        let object = Object {
            id: id.clone(),
            value: content.value,
            creation_time,
            expires_at: content.expires_at,
            last_modified: now,
            version,
            content_type: content.content_type,
        };
        WriteDecision::Keep { object, created: current.is_none() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSecs = UnixSecs(1_000);
    const V1: Version = Version { time: 1, node: 1 };
    const V2: Version = Version { time: 2, node: 1 };

    fn id() -> ObjectId {
        ObjectId::parse("item:1").unwrap()
    }

    fn content(value: &'static str) -> Content {
        Content {
            value: Bytes::from_static(value.as_bytes()),
            creation_time: Some(UnixSecs(5)),
            expires_at: None,
            content_type: None,
        }
    }

    fn write(condition: Condition) -> Change {
        Change::Write { content: content("new"), condition }
    }

    fn there() -> Object {
        let change = Change::Write { content: content("old"), condition: Condition::Absent };
        match change.apply(&id(), None, UnixSecs(900), V1) {
            WriteDecision::Keep { object, created: true } => object,
            other => panic!("{other:?}"),
        }
    }

    /// Every condition against absent, present and another version, for both kinds of change.
    #[test]
    fn conditions_decide_as_the_contract_says() {
        let old = there();
        let exists = Err(WriteRefusal::Exists { version: V1 });
        let mismatch = Err(WriteRefusal::VersionMismatch { current: V1, wanted: V2 });
        let missing = Err(WriteRefusal::Missing);
        let table = [
            (Condition::Any, Ok(()), Ok(())),
            (Condition::Absent, Ok(()), exists.clone()),
            (Condition::Present, missing.clone(), Ok(())),
            (Condition::Version(V1), missing.clone(), Ok(())),
            (Condition::Version(V2), missing.clone(), mismatch.clone()),
        ];
        for (condition, absent, present) in table {
            assert_eq!(write(condition).check(None), absent, "{condition:?}");
            assert_eq!(write(condition).check(Some(&old)), present, "{condition:?}");
        }
        let delete = |condition| Change::Delete { condition };
        assert_eq!(delete(Condition::Any).check(None), missing);
        assert_eq!(delete(Condition::Any).check(Some(&old)), Ok(()));
        assert_eq!(delete(Condition::Version(V2)).check(Some(&old)), mismatch);
        assert_eq!(delete(Condition::Version(V1)).check(Some(&old)), Ok(()));
    }

    #[test]
    fn an_update_keeps_the_creation_time_and_sets_the_last_change() {
        let old = there();
        let decided = write(Condition::Present).apply(&id(), Some(&old), NOW, V2);
        let WriteDecision::Keep { object, created } = decided else { panic!("{decided:?}") };
        assert!(!created);
        assert_eq!(object.creation_time, UnixSecs(5));
        assert_eq!(object.last_modified, NOW);
        assert_eq!((object.version, &object.value[..]), (V2, &b"new"[..]));
    }

    #[test]
    fn a_put_without_a_creation_time_gets_the_nodes() {
        let change = Change::Write {
            content: Content { creation_time: None, ..content("x") },
            condition: Condition::Absent,
        };
        let WriteDecision::Keep { object, .. } = change.apply(&id(), None, NOW, V1) else {
            panic!("refused")
        };
        assert_eq!(object.creation_time, NOW);
    }

    #[test]
    fn content_that_expires_now_or_is_too_large_is_refused_with_its_value() {
        let late = Content { expires_at: Some(NOW), ..content("x") };
        let error = late.check(NOW, 10).unwrap_err().to_string();
        assert!(error.contains("1000") && error.contains("in the past"), "{error}");
        let large = content("12345");
        assert_eq!(large.check(NOW, 5), Ok(()));
        assert_eq!(large.check(NOW, 4), Err(ContentError::TooLarge { len_bytes: 5, max_bytes: 4 }));
    }
}
