//! Reading JSON documents whose exact shape the contract leaves open: find a key wherever it stands.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

/// Standard base64 of `bytes`.
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of an object's `value`; absent means empty.
#[track_caller]
pub fn value_of(object: &Value) -> Vec<u8> {
    STANDARD.decode(object["value"].as_str().unwrap_or_default()).unwrap()
}

/// An integer field that may be absent when it is zero, and is written as a number.
#[track_caller]
pub fn int_of(object: &Value, name: &str) -> i64 {
    match &object[name] {
        Value::Null => 0,
        Value::Number(number) => number.as_i64().unwrap(),
        other => panic!("{name} is {other}, not a number, in {object}"),
    }
}

/// Every value under `key`, at any depth.
pub fn all<'a>(document: &'a Value, key: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    walk(document, &mut |value| {
        found.extend(value.as_object().and_then(|fields| fields.get(key)));
    });
    found
}

/// Every JSON object in the document, at any depth, that has a text field equal to `text` (or `.../text`).
pub fn objects_named<'a>(document: &'a Value, text: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    walk(document, &mut |value| {
        let fields = value.as_object().into_iter().flat_map(|fields| fields.values());
        if fields.filter_map(Value::as_str).any(|field| field == text) {
            found.push(value);
        }
    });
    found
}

fn walk<'a>(value: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(fields) => fields.values().for_each(|field| walk(field, visit)),
        _ => {}
    }
}
