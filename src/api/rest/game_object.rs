//! The JSON form of an object, as the older paths take and give it.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Serialize, Serializer};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, SchemaFormat,
        schema::{Schema, Type},
    },
};

use super::json::Members;
use crate::error::ApiError;
use nomad_core::model::{
    change::Content,
    object::{Object, ObjectId, Version, parse_content_type},
    time::UnixSecs,
};

/// An object.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GameObject<'a> {
    /// Its name: 1 to 1024 bytes of UTF-8 without control characters.
    id: &'a str,
    /// When it was created, in seconds since 1970.
    creation_time: u64,
    /// From when on it is absent, in seconds since 1970; 0 = never.
    ttl: u64,
    /// The node's time at the last change, in seconds since 1970.
    last_modified: u64,
    /// Its bytes in standard base64.
    #[schema(value_type = String, format = Byte)]
    value: Base64<'a>,
    /// The version of the last change; the `ETag` of the resource API.
    #[schema(value_type = String)]
    version: AsText<Version>,
    /// The media type that came with the value, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
}

#[derive(Debug)]
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

/// Something that JSON shows as its text.
#[derive(Debug)]
pub struct AsText<T>(pub T);

impl<T: std::fmt::Display> Serialize for AsText<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'a> GameObject<'a> {
    /// Shows an object.
    pub fn of(object: &'a Object) -> Self {
        Self {
            id: object.id.as_str(),
            creation_time: object.creation_time.0,
            ttl: object.expires_at.unwrap_or_default().0,
            last_modified: object.last_modified.0,
            value: Base64(&object.value),
            version: AsText(object.version),
            content_type: object.content_type.as_deref(),
        }
    }
}

/// An object as a client sends it.
#[derive(Debug)]
pub struct RestObject {
    /// Its id.
    pub id: ObjectId,
    /// What is to be kept.
    pub content: Content,
    /// The version that an update is to replace, if it names one.
    pub version: Option<Version>,
}

impl RestObject {
    /// Reads the body of a put or an update.
    ///
    /// # Errors
    /// Names the member that is wrong, and its value.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let members = Members::read(body)?;
        let id = ObjectId::parse(members.text("id")?.unwrap_or_default())?;
        let seconds = |name| members.unsigned(name).map(|n| (n > 0).then_some(UnixSecs(n)));
        let (creation_time, expires_at) = (seconds("creationTime")?, seconds("ttl")?);
        // Checked like the others, but the node's to set.
        seconds("lastModified")?;
        let value = Bytes::from(members.base64("value")?);
        let content_type = content_type(members.text("contentType")?)?;
        let version = members.text("version")?.filter(|text| !text.is_empty());
        let version = version.map(str::parse).transpose()?;
        let content = Content { value, creation_time, expires_at, content_type };
        Ok(Self { id, content, version })
    }
}

/// Takes a content type to be kept; empty = none.
///
/// # Errors
/// When it is too long, or could not be given back in a header.
pub fn content_type(given: Option<&str>) -> Result<Option<Arc<str>>, ApiError> {
    parse_content_type(given.unwrap_or_default())
        .map_err(|error| ApiError::invalid("contentType", error.to_string()))
}

// Only for the OpenAPI document: `Given::read` reads what it says.
/// An object to be kept.
#[derive(Debug, ToSchema)]
#[schema(
    rename_all = "camelCase",
    example = json!({ "id": "item:99", "ttl": 0, "value": "eyJ4IjoxfQ==" })
)]
#[expect(dead_code, reason = "it describes what is read by hand")]
pub struct NewObject {
    /// Its name: 1 to 1024 bytes of UTF-8 without control characters.
    #[schema(
        min_length = 1,
        max_length = 1024,
        example = "item:99",
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$"
    )]
    id: String,
    /// When it was created; 0 or absent = now. An update keeps the time that is there.
    creation_time: Option<Integer>,
    /// The Unix time in seconds at which it expires, which must lie in the future; 0 or absent = never.
    ttl: Option<Integer>,
    /// Accepted and not used: the node sets it.
    last_modified: Option<Integer>,
    /// Its bytes in standard base64 with padding; absent = none.
    #[schema(
        nullable, format = Byte, example = "eyJ4IjoxfQ==",
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    value: Option<String>,
    /// In an update: replace this version only. Copy it from a `version` or an `ETag`.
    #[schema(nullable, pattern = "^([0-9a-f]{16}-[0-9a-f]{16})?$")]
    version: Option<String>,
    /// The media type of the value.
    #[schema(
        nullable,
        max_length = 255,
        pattern = r"^[\x20-\x7e]*$",
        example = "application/json"
    )]
    content_type: Option<String>,
}

// Only for the OpenAPI document, like the object.
/// A whole number that is not negative, as a number or, as proto3 JSON writes it, as a string of digits.
#[derive(Debug)]
pub struct Integer;

impl PartialSchema for Integer {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        let number = number.maximum(Some(i64::MAX as isize));
        let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,18}$"));
        OneOfBuilder::new()
            .item(number)
            .item(text)
            .description(Some("A whole number, also as a string of digits"))
            .into()
    }
}

/// Bytes as they are.
#[derive(Debug)]
pub struct RawBytes;

impl PartialSchema for RawBytes {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for RawBytes {}

impl ToSchema for Integer {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Integer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> ApiError {
        RestObject::read(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn an_object_reads_as_the_contract_writes_it() {
        let body = r#"{"id":"item:99","creationTime":1700000000,"ttl":"1800000000","value":"eyJ4IjoxfQ==","x":[1]}"#;
        let RestObject { id, content, version } = RestObject::read(body.as_bytes()).unwrap();
        assert_eq!((id.as_str(), version), ("item:99", None));
        assert_eq!(content.creation_time, Some(UnixSecs(1_700_000_000)));
        assert_eq!(content.expires_at, Some(UnixSecs(1_800_000_000)));
        assert_eq!(&content.value[..], br#"{"x":1}"#);
        let bare = RestObject::read(br#"{"id":"a","ttl":0,"creationTime":null}"#).unwrap().content;
        assert_eq!((bare.creation_time, bare.expires_at, bare.content_type), (None, None, None));
        assert!(bare.value.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        let table = [
            ("{}", "id", "empty"),
            (r#"{"id":5}"#, "id", "5"),
            (r#"{"id":"a\u0007"}"#, "id", "control"),
            (r#"{"id":"a","ttl":-1}"#, "ttl", "-1"),
            (r#"{"id":"a","ttl":"-7"}"#, "ttl", "-7"),
            (r#"{"id":"a","ttl":"soon"}"#, "ttl", "soon"),
            (r#"{"id":"a","creationTime":1.5}"#, "creationTime", "1.5"),
            (r#"{"id":"a","lastModified":true}"#, "lastModified", "true"),
            (r#"{"id":"a","value":"***"}"#, "value", "base64"),
            (r#"{"id":"a","version":"abc"}"#, "version", "abc"),
            (r#"{"id":"a","contentType":"a\nb"}"#, "contentType", "ASCII"),
            (r#"{"id":"a","contentType":"ü"}"#, "contentType", "ASCII"),
        ];
        for (body, field, named) in table {
            let error = refused(body);
            assert_eq!(error.field, Some(field), "{body}: {error}");
            assert!(error.detail.contains(named), "{body}: {error}");
        }
        let long = format!(r#"{{"id":"a","contentType":"{}"}}"#, "x".repeat(256));
        assert!(refused(&long).detail.contains("255"));
    }

    #[test]
    fn an_object_is_written_with_numbers() {
        let object = Object {
            id: ObjectId::parse("a\"b").unwrap(),
            value: Bytes::from_static(b"{\"x\":1}"),
            creation_time: UnixSecs(5),
            expires_at: None,
            last_modified: UnixSecs(7),
            version: Version { time: 1, node: 2 },
            content_type: Some("text/plain".into()),
        };
        let text = serde_json::to_string(&GameObject::of(&object)).unwrap();
        assert_eq!(
            text,
            r#"{"id":"a\"b","creationTime":5,"ttl":0,"lastModified":7,"value":"eyJ4IjoxfQ==","version":"0000000000000001-0000000000000002","contentType":"text/plain"}"#
        );
    }
}
