//! Entity tags: versions in quotes, and the conditions that are made of them (RFC 9110, section 13.1).

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, header};

use super::json::shorten;
use crate::error::{ApiError, ErrorCode};
use nomad_core::model::object::Version;

/// Returns the entity tag of a version.
pub fn of(version: Version) -> String {
    let mut tag = String::with_capacity(35);
    // Writing into a string does not fail.
    let _ = write!(tag, "\"{version}\"");
    tag
}

/// What `If-Match` or `If-None-Match` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    /// `*`: any version.
    Any,
    /// These; not empty.
    These(Vec<Tag>),
}

/// One entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Whether it has a `W/` before it.
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: String,
}

impl Tags {
    /// Reads a condition header, whose values make one list; absent = `None`.
    ///
    /// # Errors
    /// When it is neither `*` nor a list of quoted tags.
    pub fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, ApiError> {
        let field = if *name == header::IF_MATCH { "If-Match" } else { "If-None-Match" };
        let refuse = |value: &str| {
            let value = shorten(value);
            let detail = format!(
                "{field} is {value:?}, but must be * or versions in double quotes, as an ETag gives them"
            );
            ApiError::invalid(field, detail)
        };
        let mut tags = Vec::new();
        let mut values = headers.get_all(name).iter().peekable();
        if values.peek().is_none() {
            return Ok(None);
        }
        for value in values {
            let text = value.to_str().map_err(|_| refuse(&format!("{value:?}")))?.trim();
            if text == "*" {
                return Ok(Some(Self::Any));
            }
            tags.extend(list(text).ok_or_else(|| refuse(text))?);
        }
        if tags.is_empty() { Err(refuse("")) } else { Ok(Some(Self::These(tags))) }
    }

    /// Tells whether a version is named, when weak tags count (`If-None-Match`) or do not (`If-Match`).
    pub fn name(&self, version: Version, weak_counts: bool) -> bool {
        let version = version.to_string();
        match self {
            Self::Any => true,
            Self::These(tags) => {
                tags.iter().any(|tag| (weak_counts || !tag.weak) && tag.opaque == version)
            }
        }
    }

    /// Returns the versions that a write may replace; `None` = any.
    ///
    /// # Errors
    /// When a tag is none that this node gives.
    pub fn versions(&self) -> Result<Option<Vec<Version>>, ApiError> {
        let Self::These(tags) = self else { return Ok(None) };
        // A weak tag never matches here, so it may as well be a text of somebody else.
        let strong = tags.iter().filter(|tag| !tag.weak);
        let versions = strong.map(|tag| {
            let parsed = tag.opaque.parse::<Version>();
            parsed.map_err(|error| ApiError::invalid("If-Match", error.to_string()))
        });
        versions.collect::<Result<_, _>>().map(Some)
    }
}

/// Shows a condition header as it was given.
pub fn given(headers: &HeaderMap, name: &HeaderName) -> String {
    let values =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    shorten(&values.collect::<Vec<_>>().join(", ")).into_owned()
}

/// Says that a write can meet no version, since all the tags of its `If-Match` are weak.
pub fn only_weak(headers: &HeaderMap) -> ApiError {
    let given = given(headers, &header::IF_MATCH);
    let detail = format!(
        "If-Match is {given}, which are only weak tags, and a weak tag never matches; leave out the W/"
    );
    ApiError::new(ErrorCode::FailedPrecondition, detail)
}

/// Reads `"a", W/"b"`. A tag may hold a comma, so this is no mere splitting.
fn list(text: &str) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let (opaque, behind) = quoted.strip_prefix('"')?.split_once('"')?;
        tags.push(Tag { weak, opaque: opaque.to_owned() });
        let behind = behind.trim_start();
        rest = match behind.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if behind.is_empty() => behind,
            None => return None,
        };
    }
    Some(tags)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const V1: Version = Version { time: 1, node: 2 };
    const V1_TAG: &str = "\"0000000000000001-0000000000000002\"";

    fn read(values: &[&str]) -> Result<Option<Tags>, ApiError> {
        let pairs = values.iter().map(|v| (header::IF_MATCH, HeaderValue::from_str(v).unwrap()));
        Tags::read(&HeaderMap::from_iter(pairs), &header::IF_MATCH)
    }

    #[test]
    fn a_condition_is_a_star_or_a_list_of_quoted_versions() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["*"]), Ok(Some(Tags::Any)));
        let weak = format!("W/{V1_TAG}");
        let table = [
            (V1_TAG.to_owned(), true, true),
            (format!("\"other, one\", {V1_TAG}"), true, true),
            (format!("{V1_TAG} ,"), true, true),
            (weak, true, false),
            ("\"other\"".to_owned(), false, false),
        ];
        for (text, by_weak, by_strong) in table {
            let tags = read(&[&text]).unwrap().unwrap();
            assert_eq!((tags.name(V1, true), tags.name(V1, false)), (by_weak, by_strong), "{text}");
        }
        for broken in ["", "abc", "\"open", "\"a\" \"b\"", "w/\"a\"", "\"a\", *"] {
            let error = read(&[broken]).unwrap_err();
            assert_eq!(error.field, Some("If-Match"), "{broken}");
        }
    }

    #[test]
    fn a_write_takes_only_versions_of_this_store() {
        assert_eq!(read(&[V1_TAG]).unwrap().unwrap().versions(), Ok(Some(vec![V1])));
        assert_eq!(read(&["*"]).unwrap().unwrap().versions(), Ok(None));
        let error = read(&["\"abc\""]).unwrap().unwrap().versions().unwrap_err();
        assert!(error.detail.contains("abc"), "{error}");
        assert_eq!(of(V1), V1_TAG);
    }
}
