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

/// Every JSON object in the document, at any depth, whose `name` or `actor` is `name`: alone, with its path before it
/// (`node/storage/local_store`) or the node after it (`local_store@12D3..`).
pub fn objects_named<'a>(document: &'a Value, name: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    walk(document, &mut |value| {
        let names = ["name", "actor"].iter().filter_map(|key| value.get(key)?.as_str());
        let mut short = names.map(|text| text.rsplit('/').next().unwrap_or(text));
        if short.any(|text| text.split('@').next() == Some(name)) {
            found.push(value);
        }
    });
    found
}

/// The document's list: itself, or the first array among its fields.
#[track_caller]
pub fn list_of(document: &Value) -> &Vec<Value> {
    let fields = document.as_object().into_iter().flat_map(|fields| fields.values());
    let mut lists = std::iter::once(document).chain(fields).filter_map(Value::as_array);
    lists.next().unwrap_or_else(|| panic!("no list in {document}"))
}

fn walk<'a>(value: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(fields) => fields.values().for_each(|field| walk(field, visit)),
        _ => {}
    }
}
