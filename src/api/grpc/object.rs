//! Objects between the wire and the core.

use crate::error::ApiError;
use nomad_core::model::{
    change::Content,
    object::{Object, ObjectId, parse_content_type},
    time::UnixSecs,
};
use nomad_proto::models::GameObjectGrpc;

/// Takes the object of a `put` or an `update` apart: its id, and what is to be kept.
///
/// # Errors
/// Names the field and its value.
pub(super) fn take(object: Option<GameObjectGrpc>) -> Result<GrpcObject, ApiError> {
    let object = object.ok_or_else(|| {
        ApiError::invalid("object", "the request has no object; set its field `object`")
    })?;
    let id = id("object.id", &object.id)?;
    let creation_time = seconds("object.creationTime", object.creation_time)?;
    let expires_at = seconds("object.ttl", object.ttl)?;
    // Checked like the others, but the node's to set.
    seconds("object.lastModified", object.last_modified)?;
    let content_type = parse_content_type(&object.content_type)
        .map_err(|error| ApiError::invalid("object.contentType", error.to_string()))?;
    let content = Content { value: object.value, creation_time, expires_at, content_type };
    Ok(GrpcObject { id, content, version: object.version })
}

/// An object as a client gives it.
#[derive(Debug)]
pub(super) struct GrpcObject {
    /// Its id.
    pub(super) id: ObjectId,
    /// What to keep.
    pub(super) content: Content,
    /// The text of the version that it names; empty = none.
    pub(super) version: String,
}

/// Reads an id.
///
/// # Errors
/// Names the field.
pub(super) fn id(field: &'static str, text: &str) -> Result<ObjectId, ApiError> {
    ObjectId::parse(text).map_err(|error| ApiError { field: Some(field), ..error.into() })
}

/// Reads a time; 0 is none.
///
/// # Errors
/// Names the field and the value.
pub(super) fn seconds(field: &'static str, value: i64) -> Result<Option<UnixSecs>, ApiError> {
    let value = u64::try_from(value).map_err(|_| {
        let detail =
            format!("the {field} {value} is negative; give Unix seconds, or 0 for none of its own");
        ApiError::invalid(field, detail)
    })?;
    Ok((value != 0).then_some(UnixSecs(value)))
}

/// Says that the field at fault is one of the request's object.
pub(super) fn in_object(mut error: ApiError) -> ApiError {
    error.field = match error.field {
        Some("id") => Some("object.id"),
        Some("ttl") => Some("object.ttl"),
        Some("value") => Some("object.value"),
        Some("version") => Some("object.version"),
        other => other,
    };
    error
}

/// Writes an object. Its value is shared, not copied.
pub(super) fn message(object: Object) -> GameObjectGrpc {
    GameObjectGrpc {
        id: object.id.as_str().to_owned(),
        creation_time: wire(object.creation_time),
        ttl: object.expires_at.map_or(0, wire),
        value: object.value,
        last_modified: wire(object.last_modified),
        version: object.version.to_string(),
        content_type: object.content_type.map_or_else(String::new, |kind| kind.as_ref().to_owned()),
    }
}

/// The greatest time on the wire stands for all later ones.
fn wire(time: UnixSecs) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::error::ErrorCode;
    use nomad_core::model::object::Version;

    fn sent() -> GameObjectGrpc {
        GameObjectGrpc {
            id: "item:1".into(),
            creation_time: 5,
            ttl: 1_800_000_000,
            value: Bytes::from_static(b"v"),
            last_modified: 99,
            version: String::new(),
            content_type: "text/plain; charset=utf-8".into(),
        }
    }

    #[test]
    fn an_object_is_taken_as_it_was_sent_and_zero_and_empty_mean_none() {
        let GrpcObject { id, content, version } = take(Some(sent())).unwrap();
        assert_eq!((id.as_str(), version.as_str()), ("item:1", ""));
        assert_eq!(content.creation_time, Some(UnixSecs(5)));
        assert_eq!(content.expires_at, Some(UnixSecs(1_800_000_000)));
        assert_eq!(content.content_type.as_deref(), Some("text/plain; charset=utf-8"));
        let bare = GameObjectGrpc { id: "a".into(), ..GameObjectGrpc::default() };
        let content = take(Some(bare)).unwrap().content;
        let none = Content {
            value: Bytes::new(),
            creation_time: None,
            expires_at: None,
            content_type: None,
        };
        assert_eq!(content, none);
    }

    #[test]
    fn a_bad_field_is_refused_by_its_name_and_value() {
        let object = sent;
        let table = [
            ("object.id", "empty", GameObjectGrpc { id: String::new(), ..object() }),
            ("object.id", "1025", GameObjectGrpc { id: "x".repeat(1025), ..object() }),
            ("object.id", "U+0007", GameObjectGrpc { id: "a\u{7}".into(), ..object() }),
            ("object.creationTime", "-1", GameObjectGrpc { creation_time: -1, ..object() }),
            ("object.ttl", "-60", GameObjectGrpc { ttl: -60, ..object() }),
            ("object.lastModified", "-7", GameObjectGrpc { last_modified: -7, ..object() }),
            (
                "object.contentType",
                "\\n",
                GameObjectGrpc { content_type: "text/\nplain".into(), ..object() },
            ),
            (
                "object.contentType",
                "256",
                GameObjectGrpc { content_type: "x".repeat(256), ..object() },
            ),
            ("object.contentType", "ü", GameObjectGrpc { content_type: "ü".into(), ..object() }),
        ];
        for (field, text, object) in table {
            let error = take(Some(object)).unwrap_err();
            assert_eq!((error.code, error.field), (ErrorCode::InvalidArgument, Some(field)));
            assert!(error.detail.contains(text), "{error}");
        }
        assert_eq!(take(None).unwrap_err().field, Some("object"));
    }

    #[test]
    fn an_object_is_written_with_all_that_is_kept_of_it() {
        let object = Object {
            id: ObjectId::parse("a").unwrap(),
            value: Bytes::from_static(b"v"),
            creation_time: UnixSecs(1),
            expires_at: None,
            last_modified: UnixSecs(u64::MAX),
            version: Version { time: 1, node: 2 },
            content_type: None,
        };
        let message = message(object);
        assert_eq!((message.creation_time, message.ttl, message.last_modified), (1, 0, i64::MAX));
        assert_eq!(message.version, "0000000000000001-0000000000000002");
        assert_eq!(message.content_type, "");
    }
}
