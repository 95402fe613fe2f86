//! What is kept: an object, its id, its version. Owns the rules of what a legal id is and when an object has expired.

use std::{
    borrow::Borrow,
    fmt::{self, Write as _},
    str::FromStr,
    sync::Arc,
};

use bytes::Bytes;
use const_hex::Buffer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{hex, text::shorten, time::UnixSecs};

/// An object's name: 1 to 1024 bytes of UTF-8 with no control characters. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ObjectId(Arc<str>);

/// Why a text is no object id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ObjectIdError {
    /// The text is empty.
    #[error("the object id is empty; give 1 to {} bytes of UTF-8", ObjectId::BYTES_MAX)]
    Empty,
    /// The text has more bytes than an id may have.
    #[error("the object id has {len_bytes} bytes; at most {} are allowed", ObjectId::BYTES_MAX)]
    TooLong {
        /// The length of the refused text.
        len_bytes: usize,
    },
    /// The text has a control character.
    #[error("the object id {id:?} has the control character U+{code:04X} at byte {at}; remove it")]
    ControlCharacter {
        /// The refused text.
        id: String,
        /// The character's code point.
        code: u32,
        /// Where it stands, in bytes from the start.
        at: usize,
    },
    /// The bytes are not UTF-8.
    #[error("the object id {shown:?} is not UTF-8 from byte {at} on")]
    NotUtf8 {
        /// The refused bytes, with each bad one replaced.
        shown: String,
        /// Where the first bad byte stands.
        at: usize,
    },
}

impl ObjectId {
    /// The most bytes that an id may have.
    pub const BYTES_MAX: usize = 1024;

    /// Takes a text as an id.
    ///
    /// # Errors
    /// Says which rule of an id the text breaks.
    pub fn parse(text: &str) -> Result<Self, ObjectIdError> {
        if text.is_empty() {
            return Err(ObjectIdError::Empty);
        }
        if text.len() > Self::BYTES_MAX {
            return Err(ObjectIdError::TooLong { len_bytes: text.len() });
        }
        let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let control = || text.char_indices().find(|(_, c)| c.is_control());
        if !is_plain && let Some((at, found)) = control() {
            return Err(ObjectIdError::ControlCharacter {
                id: text.to_owned(),
                code: u32::from(found),
                at,
            });
        }
        Ok(Self(text.into()))
    }

    /// Takes bytes as an id, as they come percent-decoded from a path.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and [`ObjectIdError::NotUtf8`].
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, ObjectIdError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text),
            Err(_) if bytes.len() > Self::BYTES_MAX => {
                Err(ObjectIdError::TooLong { len_bytes: bytes.len() })
            }
            Err(error) => Err(ObjectIdError::NotUtf8 {
                shown: String::from_utf8_lossy(bytes).into_owned(),
                at: error.valid_up_to(),
            }),
        }
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ObjectId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ObjectId {
    type Error = ObjectIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl FromStr for ObjectId {
    type Err = ObjectIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// The most bytes of a content type.
const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// Why a text cannot be kept as a content type.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContentTypeError {
    /// The text has more bytes than may be.
    #[error(
        "the content type {shown:?} and so on has {len_bytes} bytes; at most {} are allowed",
        CONTENT_TYPE_BYTES_MAX
    )]
    TooLong {
        /// The start of the refused text.
        shown: String,
        /// The length of the refused text.
        len_bytes: usize,
    },
    /// The text could not be given back in a header.
    #[error("the content type {0:?} cannot stand in a header; use printable ASCII characters")]
    NotPrintable(String),
}

/// Takes a text as the media type of a value; empty = none. Blanks around it are left out.
///
/// # Errors
/// When it is too long, or has anything but printable ASCII characters.
pub fn parse_content_type(text: &str) -> Result<Option<Arc<str>>, ContentTypeError> {
    let text = text.trim_matches(' ');
    if text.len() > CONTENT_TYPE_BYTES_MAX {
        let shown = text.chars().take(80).collect();
        return Err(ContentTypeError::TooLong { shown, len_bytes: text.len() });
    }
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(ContentTypeError::NotPrintable(text.to_owned()));
    }
    Ok((!text.is_empty()).then(|| text.into()))
}

/// Orders the writes of one object: a hybrid logical time, then the node that gave it. The newer write has the greater one.
///
/// The text form, as in an `ETag`, is 16 hex digits of time, a hyphen, 16 hex digits of node.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Version {
    /// Milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
    pub time: u64,
    /// The tag of the node that made the write.
    pub node: u64,
}

/// A text that is no [`Version`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the version {0:?} is not one that this store gives; copy it from an ETag or a `version` field"
)]
pub struct VersionError(pub String);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Buffer::<8>::new().format(&self.time.to_be_bytes()))?;
        f.write_char('-')?;
        f.write_str(Buffer::<8>::new().format(&self.node.to_be_bytes()))
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let refused = || VersionError(shorten(text, 80).into_owned());
        let part = |text| hex::read(text, 16).map(|number| number as u64);
        let (time, node) = text.split_once('-').ok_or_else(refused)?;
        match (part(time), part(node)) {
            (Some(time), Some(node)) => Ok(Self { time, node }),
            _ => Err(refused()),
        }
    }
}

/// Where an object is kept: on its group's members, or in the network-wide overlay. The same id may stand in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The group tier.
    Group,
    /// The overlay tier.
    Overlay,
}

/// An object as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its name.
    pub id: ObjectId,
    /// Its bytes.
    #[serde(with = "plain_bytes")]
    pub value: Bytes,
    /// When it was created, as the client said or else the node's time. An update keeps it.
    pub creation_time: UnixSecs,
    /// From when on it is absent; `None` = never (`ttl` 0 on the wire).
    pub expires_at: Option<UnixSecs>,
    /// The node's time at the last change.
    pub last_modified: UnixSecs,
    /// The version of the last change.
    pub version: Version,
    /// The media type that came with the value, if one did.
    pub content_type: Option<Arc<str>>,
}

/// Bytes as they are: `bytes` would read them one by one.
mod plain_bytes {
    use std::fmt;

    use bytes::Bytes;
    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes::copy_from_slice(bytes))
            }
        }

        from.deserialize_bytes(Visitor)
    }
}

impl Object {
    /// Tells whether the object is absent at `now` because its time has come.
    pub fn is_expired(&self, now: UnixSecs) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Returns all but the value.
    pub fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            id: self.id.clone(),
            size_bytes: self.value.len() as u64,
            creation_time: self.creation_time,
            expires_at: self.expires_at,
            last_modified: self.last_modified,
            version: self.version,
            content_type: self.content_type.clone(),
        }
    }
}

/// What a listing says of an object: all but its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Its name.
    pub id: ObjectId,
    /// The length of its value.
    pub size_bytes: u64,
    /// When it was created.
    pub creation_time: UnixSecs,
    /// From when on it is absent; `None` = never.
    pub expires_at: Option<UnixSecs>,
    /// The node's time at the last change.
    pub last_modified: UnixSecs,
    /// The version of the last change.
    pub version: Version,
    /// The media type that came with the value, if one did.
    pub content_type: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_has_1_to_1024_bytes_and_no_control_character() {
        assert_eq!(ObjectId::parse(""), Err(ObjectIdError::Empty));
        assert!(ObjectId::parse(&"x".repeat(1024)).is_ok());
        assert_eq!(
            ObjectId::parse(&"ü".repeat(513)),
            Err(ObjectIdError::TooLong { len_bytes: 1026 })
        );
        let error = ObjectId::parse("a\u{7}b").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"the object id "a\u{7}b" has the control character U+0007 at byte 1; remove it"#
        );
        assert!(ObjectId::parse("städte/Zürich:1 2").is_ok());
        assert!(matches!(
            ObjectId::parse_bytes(b"ab\xff"),
            Err(ObjectIdError::NotUtf8 { at: 2, .. })
        ));
    }

    #[test]
    fn a_content_type_is_at_most_255_printable_characters() {
        for (text, kept) in [
            ("", None),
            ("  ", None),
            (" text/plain; charset=utf-8 ", Some("text/plain; charset=utf-8")),
            ("~", Some("~")),
        ] {
            assert_eq!(parse_content_type(text).unwrap().as_deref(), kept, "{text:?}");
        }
        assert!(parse_content_type(&"x".repeat(255)).is_ok());
        let error = parse_content_type(&"x".repeat(256)).unwrap_err().to_string();
        assert!(error.contains("256") && error.contains("xxx"), "{error}");
        for text in ["a\nb", "a\n", "a\tb", "\u{7f}", "ü"] {
            let error = parse_content_type(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn an_object_is_absent_from_the_second_at_which_it_expires() {
        let object = Object {
            id: ObjectId::parse("a").unwrap(),
            value: Bytes::new(),
            creation_time: UnixSecs(1),
            expires_at: Some(UnixSecs(10)),
            last_modified: UnixSecs(1),
            version: Version::default(),
            content_type: None,
        };
        assert!(!object.is_expired(UnixSecs(9)));
        assert!(object.is_expired(UnixSecs(10)));
        assert!(!Object { expires_at: None, ..object }.is_expired(UnixSecs(u64::MAX)));
    }

    proptest! {
        #[test]
        fn a_version_reads_back_from_its_text_and_keeps_its_order(a: (u64, u64), b: (u64, u64)) {
            let (a, b) = (Version { time: a.0, node: a.1 }, Version { time: b.0, node: b.1 });
            prop_assert_eq!(a.to_string().parse::<Version>(), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn no_other_text_is_a_version(text in ".{0,40}") {
            if let Ok(version) = text.parse::<Version>() {
                prop_assert_eq!(version.to_string(), text);
            }
        }
    }
}
