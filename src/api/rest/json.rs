//! Reads a JSON object of scalars, as all bodies here are, without trusting it: members are kept as they were given, so
//! that a refusal can name the member and its value. Nested values are skipped; serde_json bounds their depth.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::ApiError;
use nomad_core::model::text;

/// The most members that an object may have, known or not.
const MEMBERS_MAX: usize = 64;

/// The most characters of a refused value that are shown.
const SHOWN_MAX: usize = 100;

/// The greatest integer that a float can hold without doubt: 2^53.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A JSON value as it was given.
#[derive(Debug, Clone, PartialEq)]
enum Given<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Array,
    Object,
}

/// The members of a JSON object.
#[derive(Debug)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Given<'a>)>);

impl<'a> Members<'a> {
    /// Reads a body that must be one JSON object and nothing else.
    ///
    /// # Errors
    /// Says where the body stops being one.
    pub fn read(body: &'a [u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::invalid("body", "the body is empty; send a JSON object"));
        }
        serde_json::from_slice(body).map_err(|error| {
            ApiError::invalid("body", format!("the body is no JSON object as wanted: {error}"))
        })
    }

    /// Returns a member; `null` counts as absent.
    fn get(&self, name: &str) -> Option<&Given<'a>> {
        let found = self.0.iter().find(|(key, _)| key == name).map(|(_, given)| given);
        found.filter(|given| **given != Given::Null)
    }

    /// Returns a text; absent = `None`.
    ///
    /// # Errors
    /// When it is no string.
    pub fn text(&self, name: &'static str) -> Result<Option<&str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Given::Text(text)) => Ok(Some(text)),
            Some(other) => Err(refuse(name, other, "must be a string")),
        }
    }

    /// Returns a truth value; absent = `None`.
    ///
    /// # Errors
    /// When it is neither `true` nor `false`.
    pub fn flag(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Given::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(refuse(name, other, "must be true or false")),
        }
    }

    /// Returns an integer, given as a number; absent = `None`.
    ///
    /// # Errors
    /// When it is none, or beyond 64 bits.
    pub fn number(&self, name: &'static str) -> Result<Option<i64>, ApiError> {
        match self.get(name) {
            Some(text @ Given::Text(_)) => Err(refuse(name, text, "must be a number")),
            _ => self.integer(name),
        }
    }

    /// Returns an integer, given as a number or as a decimal string; absent = `None`.
    ///
    /// # Errors
    /// When it is none, or beyond 64 bits.
    pub fn integer(&self, name: &'static str) -> Result<Option<i64>, ApiError> {
        let Some(given) = self.get(name) else { return Ok(None) };
        let integer = match given {
            Given::Signed(number) => Some(*number),
            Given::Unsigned(number) => i64::try_from(*number).ok(),
            Given::Float(number) if number.fract() == 0.0 && number.abs() <= EXACT_MAX => {
                Some(*number as i64)
            }
            Given::Text(text) => decimal(text),
            _ => None,
        };
        let range = "must be an integer from 0 to 9223372036854775807, as a number or as a string of digits";
        integer.map(Some).ok_or_else(|| refuse(name, given, range))
    }

    /// Returns a number that may not be negative, such as a Unix time; absent = 0.
    ///
    /// # Errors
    /// When it is no integer, or negative.
    pub fn unsigned(&self, name: &'static str) -> Result<u64, ApiError> {
        match self.integer(name)?.unwrap_or_default() {
            number @ 0.. => Ok(number.unsigned_abs()),
            number => {
                let detail = format!("{name} is {number}, but must not be negative");
                Err(ApiError::invalid(name, detail))
            }
        }
    }

    /// Returns bytes that were given in standard base64; absent = none.
    ///
    /// # Errors
    /// When it is no standard base64 with padding.
    pub fn base64(&self, name: &'static str) -> Result<Vec<u8>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(Vec::new()) };
        STANDARD.decode(text).map_err(|error| {
            let (shown, form) = (shorten(text), "the standard alphabet with its padding");
            let detail = format!("{name} is {shown:?}, which is no base64 in {form}: {error}");
            ApiError::invalid(name, detail)
        })
    }
}

fn refuse(name: &'static str, given: &Given<'_>, wanted: &str) -> ApiError {
    ApiError::invalid(name, format!("{name} is {given}, but {wanted}"))
}

/// Reads a decimal string: digits, with a minus before them at most.
pub fn decimal(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Cuts a refused value to what is worth showing.
pub fn shorten(text: &str) -> Cow<'_, str> {
    text::shorten(text, SHOWN_MAX)
}

impl fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(flag) => flag.fmt(f),
            Self::Unsigned(number) => number.fmt(f),
            Self::Signed(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Text(text) => write!(f, "{:?}", shorten(text)),
            Self::Array => f.write_str("an array"),
            Self::Object => f.write_str("an object"),
        }
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members: Vec<(Cow<'de, str>, Given<'de>)> = Vec::new();
        while let Some(Given::Text(key)) = map.next_key::<Given<'de>>()? {
            if members.iter().any(|(known, _)| *known == key) {
                let key = shorten(&key);
                return Err(A::Error::custom(format_args!("the member {key:?} is there twice")));
            }
            if members.len() == MEMBERS_MAX {
                let text = format_args!("it has more than {MEMBERS_MAX} members");
                return Err(A::Error::custom(text));
            }
            members.push((key, map.next_value()?));
        }
        Ok(Members(members))
    }
}

impl<'de> Deserialize<'de> for Given<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GivenVisitor)
    }
}

struct GivenVisitor;

impl<'de> Visitor<'de> for GivenVisitor {
    type Value = Given<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Given<'de>, E> {
        Ok(Given::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Given<'de>, E> {
        Ok(Given::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Given<'de>, E> {
        Ok(Given::Unsigned(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Given<'de>, E> {
        Ok(Given::Signed(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Given<'de>, E> {
        Ok(Given::Float(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Given<'de>, E> {
        Ok(Given::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Given<'de>, E> {
        Ok(Given::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Given<'de>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Given::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Given::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(json: &str) -> Result<Option<i64>, String> {
        let body = format!(r#"{{"n":{json}}}"#);
        let members = Members::read(body.as_bytes()).map_err(|error| error.detail)?;
        members.integer("n").map_err(|error| error.detail)
    }

    #[test]
    fn an_integer_is_a_number_or_a_decimal_string_and_nothing_else() {
        let table = [
            ("5", Some(5)),
            ("\"5\"", Some(5)),
            ("-5", Some(-5)),
            ("\"-5\"", Some(-5)),
            ("1e3", Some(1000)),
            ("7.0", Some(7)),
            ("null", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("\"9223372036854775807\"", Some(i64::MAX)),
        ];
        for (json, expected) in table {
            assert_eq!(integer(json), Ok(expected), "{json}");
        }
        let refused = [
            ("1.5", "1.5"),
            ("9223372036854775808", "9223372036854775808"),
            ("\"9223372036854775808\"", "9223372036854775808"),
            ("1e30", "1000000000000000000000000000000"),
            ("\"\"", "\"\""),
            ("\" 5\"", "\" 5\""),
            ("\"+5\"", "\"+5\""),
            ("\"1e3\"", "\"1e3\""),
            ("true", "true"),
            ("[5]", "an array"),
            ("{}", "an object"),
            ("1e400", "out of range"),
            ("NaN", "JSON"),
        ];
        for (json, named) in refused {
            let error = integer(json).unwrap_err();
            assert!(error.contains(named), "{json}: {error}");
        }
    }

    #[test]
    fn only_one_whole_object_with_distinct_members_is_read() {
        let deep = format!(r#"{{"a":{}}}"#, "[".repeat(200));
        let wide =
            format!("{{{}\"z\":1}}", (0..64).map(|n| format!("\"{n}\":1,")).collect::<String>());
        for body in
            ["", "{", "[]", "null", "7", "\"a\"", "{} {}", "{}x", r#"{"a":1,"a":2}"#, &deep, &wide]
        {
            let error = Members::read(body.as_bytes()).unwrap_err();
            assert_eq!(error.field, Some("body"), "{body}");
        }
        assert!(Members::read(br#"{"a":"\ud800"}"#).is_err());
        assert!(Members::read(b"{\"a\":\"\xff\"}").is_err());
        let members = Members::read(br#" {"\u0061":"b\n", "n":null, "x":{"a":[1]}} "#).unwrap();
        assert_eq!(members.text("a"), Ok(Some("b\n")));
        assert!(members.get("n").is_none() && members.get("x").is_some());
    }

    #[test]
    fn base64_is_standard_and_padded() {
        let value = |json: &str| {
            let body = format!(r#"{{"value":{json}}}"#);
            Members::read(body.as_bytes()).unwrap().base64("value").map_err(|error| error.detail)
        };
        assert_eq!(value("\"eyJ4IjoxfQ==\""), Ok(b"{\"x\":1}".to_vec()));
        assert_eq!(value("\"\""), Ok(Vec::new()));
        assert_eq!(value("null"), Ok(Vec::new()));
        for bad in ["\"***\"", "\"abc\"", "\"eyJ4 IjoxfQ==\"", "\"_-8=\"", "\"AB==\"", "5"] {
            let error = value(bad).unwrap_err();
            assert!(error.contains("value"), "{error}");
        }
    }
}
