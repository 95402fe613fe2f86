//! What a REST caller can get wrong: each gets the right code and words that name the value, nothing is stored, and the
//! node still serves.

use std::collections::BTreeSet;

use crate::support::{
    assert_says,
    http::{Answer, Http, segment},
    json::base64,
    load::listed,
    node::{Node, Shared},
    raw::{Wire, raw_http},
    unique, unix_now,
};
use serde_json::{Value, json};

static NODE: Shared = Shared::new();

const INVALID: (u16, &str) = (400, "INVALID_ARGUMENT");

/// Each path that takes an object in its body.
const PUTS: [&str; 4] = [
    "/nomad/storage/put",
    "/nomad/group-storage/fast-put",
    "/nomad/group-storage/safe-put",
    "/nomad/overlay-storage/put",
];

async fn post(http: &Http, path: &str, body: impl Into<bytes::Bytes>) -> Answer {
    http.call("POST", path).header("content-type", "application/json").body(body).send().await
}

#[track_caller]
fn refused(answer: &Answer, (status, code): (u16, &str), needle: &str) {
    let detail = answer.problem(status, code);
    assert_says(&detail, needle);
}

/// Goal: no refused request leaves anything. A node of its own, so that "nothing" is the whole listing.
#[tokio::test]
async fn refused_objects_leave_nothing_behind() {
    let node = Node::start();
    let http = node.http();
    for path in PUTS {
        for (body, needle) in bad_objects() {
            refused(&post(&http, path, body.clone()).await, INVALID, needle);
            assert!(listed(&http, "", 100).await.is_empty(), "{path} stored something of {body}");
        }
    }
    let overlay = http.get("/nomad/overlay-storage/get/victim").await;
    overlay.problem(404, "NOT_FOUND");
    node.assert_serves().await;
}

/// Bodies that no put may take, each with what the refusal must name.
fn bad_objects() -> Vec<(String, &'static str)> {
    let with = |field: &str, value: Value| {
        let mut object = json!({ "id": "victim", "value": base64("x") });
        object[field] = value;
        object.to_string()
    };
    let raw = |field: &str, value: &str| format!(r#"{{"id":"victim","{field}":{value}}}"#);
    let past = unix_now() - 10;
    let past_named: &'static str = past.to_string().leak();
    vec![
        // Not JSON, or not an object.
        (String::new(), ""),
        ("{".to_owned(), "json"),
        (r#"{"id":"victim""#.to_owned(), "json"),
        (r#"{"id":"victim"} trailing"#.to_owned(), "json"),
        ("[]".to_owned(), ""),
        ("null".to_owned(), ""),
        ("\"victim\"".to_owned(), ""),
        ("7".to_owned(), ""),
        ("[".repeat(100_000), ""),
        // Ids.
        ("{}".to_owned(), "id"),
        (with("id", json!("")), "id"),
        (with("id", json!(null)), ""),
        (with("id", json!(5)), "5"),
        (with("id", json!(["victim"])), ""),
        (with("id", json!("x".repeat(1_025))), "1025"),
        (with("id", json!("é".repeat(513))), "1026"),
        (with("id", json!("a\nb")), "control"),
        (with("id", json!("a\u{0}b")), "control"),
        (with("id", json!("a\u{7f}b")), "control"),
        (with("id", json!("a\u{85}b")), "control"),
        (r#"{"id":"\ud800"}"#.to_owned(), ""),
        // Values.
        (with("value", json!("***")), "base64"),
        (with("value", json!("eyJ4 IjoxfQ==")), "base64"),
        (with("value", json!(5)), "5"),
        (with("value", json!({ "a": 1 })), ""),
        // Times.
        (with("ttl", json!("soon")), "soon"),
        (with("ttl", json!(1.5)), "1.5"),
        (with("ttl", json!(true)), "true"),
        (with("ttl", json!(-1)), "-1"),
        (with("ttl", json!("-7")), "-7"),
        (with("ttl", json!(3_600)), "3600"),
        (with("ttl", json!(1)), "past"),
        (with("ttl", json!(past)), past_named),
        (raw("ttl", "9223372036854775808"), "9223372036854775808"),
        (raw("ttl", "1e400"), ""),
        (raw("ttl", "\"9223372036854775808\""), "9223372036854775808"),
        (with("creationTime", json!(-1)), "-1"),
        (with("creationTime", json!("then")), "then"),
        (with("creationTime", json!({})), ""),
        (raw("creationTime", "18446744073709551616"), ""),
        (raw("creationTime", "NaN"), ""),
    ]
}

/// The same bodies as an update change nothing of an object that is there.
#[tokio::test]
async fn refused_updates_change_nothing() {
    let node = Node::start();
    let http = node.http();
    http.post("/nomad/storage/put", &json!({ "id": "victim", "value": base64("safe") })).await.ok();
    let before = http.get("/nomad/storage/get/victim").await.ok();
    for method in ["PUT", "POST"] {
        for (body, needle) in bad_objects() {
            let call = http.call(method, "/nomad/storage/update").body(body);
            let answer = call.header("content-type", "application/json").send().await;
            refused(&answer, INVALID, needle);
        }
    }
    assert_eq!(http.get("/nomad/storage/get/victim").await.ok(), before);
    assert_eq!(listed(&http, "", 100).await, BTreeSet::from(["victim".to_owned()]));
}

#[tokio::test]
async fn a_relative_ttl_is_refused_in_words_that_explain_it() {
    let (node, id) = (NODE.get(), unique("relative"));
    let body = json!({ "id": id, "ttl": 86_400, "value": base64("x") });
    let answer = node.http().post("/nomad/storage/put", &body).await;
    refused(&answer, INVALID, "past");
    refused(&answer, INVALID, "86400");
    // The farthest time that there is: taken or refused, but no accident.
    let body = json!({ "id": id, "ttl": i64::MAX, "value": base64("x") });
    let answer = node.http().post("/nomad/storage/put", &body).await;
    assert!(matches!(answer.status, 200 | 400), "{answer:?}");
    node.assert_serves().await;
}

/// Every path that takes an id refuses one that breaks the rules, whatever the method.
#[tokio::test]
async fn bad_ids_in_paths_are_refused() {
    let node = NODE.get();
    let http = node.http();
    let long = "x".repeat(1_025);
    let ids = [
        (long.as_str(), "1025"),
        ("a%0Ab", "control"),
        ("%00", "control"),
        ("a%7F", "control"),
        ("%C2%85", "control"),
        ("%FF", "UTF-8"),
        ("a%C3%28b", "UTF-8"),
        ("%ED%A0%80", "UTF-8"),
    ];
    let paths = [
        ("GET", "/nomad/storage/get/"),
        ("DELETE", "/nomad/storage/delete/"),
        ("GET", "/nomad/group-storage/fast-get/"),
        ("GET", "/nomad/group-storage/parallel-get/"),
        ("GET", "/nomad/group-storage/safe-get/"),
        ("GET", "/nomad/overlay-storage/get/"),
        ("PUT", "/nomad/v1/objects/"),
        ("GET", "/nomad/v1/objects/"),
        ("DELETE", "/nomad/v1/objects/"),
    ];
    for (method, path) in paths {
        for (id, needle) in ids {
            let answer = http.call(method, &format!("{path}{id}")).send().await;
            refused(&answer, INVALID, needle);
        }
    }
    assert_eq!(http.head("/nomad/v1/objects/%FF").await.status, 400);
    // Broken percent-encoding means itself or nothing, but never an accident.
    for id in ["%", "%G1", "a%2"] {
        let answer = http.get(&format!("/nomad/v1/objects/{id}")).await;
        assert!(matches!(answer.status, 400 | 404), "{id}: {answer:?}");
    }
    // An empty id.
    for (method, path) in paths {
        let answer = http.call(method, path).send().await;
        assert!(matches!(answer.status, 400 | 404 | 405), "{method} {path}: {answer:?}");
        answer.problem(answer.status, answer.json()["code"].as_str().unwrap());
    }
    node.assert_serves().await;
}

#[tokio::test]
async fn ids_of_just_the_right_length_are_accepted() {
    let node = NODE.get();
    for id in ["x".repeat(1_024), format!("{}é", "y".repeat(1_022)), "z".to_owned()] {
        let body = json!({ "id": id, "value": base64("x") });
        node.http().post("/nomad/storage/put", &body).await.ok();
        let found = node.http().get(&format!("/nomad/storage/get/{}", segment(&id))).await.ok();
        assert_eq!(found["id"], id);
    }
}

#[tokio::test]
async fn bad_headers_of_the_resource_api_are_refused() {
    let (node, id) = (NODE.get(), unique("headers"));
    let (http, past) = (node.http(), (unix_now() - 10).to_string());
    let path = format!("/nomad/v1/objects/{id}");
    let bad = [
        ("nomad-ttl", "soon", "soon"),
        ("nomad-ttl", "-5", "-5"),
        ("nomad-ttl", "1.5", "1.5"),
        ("nomad-ttl", "9223372036854775807", "9223372036854775807"),
        ("nomad-ttl", "99999999999999999999", "99999999999999999999"),
        ("nomad-expires", "tomorrow", "tomorrow"),
        ("nomad-expires", "-5", "-5"),
        ("nomad-expires", past.as_str(), past.as_str()),
        ("nomad-expires", "3600", "past"),
        ("nomad-mode", "quick", "quick"),
        ("nomad-mode", "parallel", "parallel"),
    ];
    for (name, value, needle) in bad {
        let answer = http.call("PUT", &path).header(name, value).body("x").send().await;
        refused(&answer, INVALID, needle);
        http.get(&path).await.problem(404, "NOT_FOUND");
    }
    let answer = http.call("GET", &path).header("nomad-mode", "quick").send().await;
    refused(&answer, INVALID, "quick");
    // A header that is no text at all.
    let answer = http.call("PUT", &path).header("nomad-ttl", [0xFF, 0xFE]).body("x").send().await;
    answer.problem(400, "INVALID_ARGUMENT");
    http.get(&path).await.problem(404, "NOT_FOUND");
    node.assert_serves().await;
}

#[tokio::test]
async fn bad_listing_parameters_are_refused() {
    let node = NODE.get();
    for (query, needle) in [
        ("limit=many", "many"),
        ("limit=-1", "-1"),
        ("limit=99999999999999999999", "99999999999999999999"),
        ("prefix=%FF", "UTF-8"),
        ("cursor=%FF", ""),
    ] {
        let answer = node.http().get(&format!("/nomad/v1/objects?{query}")).await;
        refused(&answer, INVALID, needle);
    }
    let answer = node.http().get("/nomad/debug/trace?limit=none").await;
    refused(&answer, INVALID, "none");
    for query in ["cursor=no-cursor-of-ours", "limit=0", "limit=1000000", "what=ever"] {
        let answer = node.http().get(&format!("/nomad/v1/objects?{query}")).await;
        assert!(matches!(answer.status, 200 | 400), "{query}: {answer:?}");
    }
}

#[tokio::test]
async fn an_object_in_another_media_type_is_415() {
    let (node, id) = (NODE.get(), unique("media"));
    let http = node.http();
    let body = json!({ "id": id, "value": base64("x") }).to_string();
    for path in PUTS.into_iter().chain(["/nomad/storage/update", "/nomad/config/storage"]) {
        let call = http.call("POST", path).header("content-type", "application/xml");
        let answer = call.body(body.clone()).send().await;
        refused(&answer, (415, "UNSUPPORTED_MEDIA_TYPE"), "application/xml");
    }
    http.get(&format!("/nomad/storage/get/{id}")).await.problem(404, "NOT_FOUND");
    let call = http.call("POST", "/nomad/storage/put");
    call.header("content-type", "application/json; charset=utf-8").body(body).send().await.ok();
}

#[tokio::test]
async fn unknown_paths_are_404() {
    let node = NODE.get();
    for path in ["/nomad/storage", "/nomad/storage/get", "/nomad/v2/objects", "/nomad/v1/x/y/z"] {
        node.http().get(path).await.problem(404, "NOT_FOUND");
    }
    let answer = node.http().get("/nomad/no/such/path").await;
    refused(&answer, (404, "NOT_FOUND"), "/nomad/no/such/path");
}

#[tokio::test]
async fn a_method_that_the_path_does_not_have_is_405_and_names_those_it_has() {
    let node = NODE.get();
    let http = node.http();
    for (method, path, allowed) in [
        ("GET", "/nomad/storage/put", "POST"),
        ("DELETE", "/nomad/storage/put", "POST"),
        ("POST", "/nomad/storage/get/a", "GET"),
        ("POST", "/nomad/storage/get/health", "GET"),
        ("GET", "/nomad/storage/delete/a", "DELETE"),
        ("GET", "/nomad/storage/update", "PUT, POST"),
        ("PUT", "/nomad/group-storage/safe-put", "POST"),
        ("POST", "/nomad/group-storage/parallel-get/a", "GET"),
        ("DELETE", "/nomad/overlay-storage/get/a", "GET"),
        ("GET", "/nomad/config/storage", "POST"),
        ("POST", "/nomad/v1/objects/a", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/nomad/v1/objects/a", "GET, HEAD, PUT, DELETE"),
        ("DELETE", "/nomad/v1/objects", "GET"),
        ("POST", "/nomad/v1/status", "GET"),
        ("PUT", "/nomad/v1/groups", "GET"),
        ("POST", "/nomad/openapi.json", "GET"),
        ("BREW", "/nomad/v1/status", "GET"),
    ] {
        let answer = http.call(method, path).send().await;
        refused(&answer, (405, "METHOD_NOT_ALLOWED"), method);
        let said: BTreeSet<_> = answer.header("allow").split(',').map(str::trim).collect();
        for method in allowed.split(", ") {
            assert!(said.contains(method), "{path}: Allow: {said:?}");
        }
        assert!(!said.contains(method), "{path}: Allow: {said:?}");
    }
    http.get("/nomad/v1/objects/a").await.problem(404, "NOT_FOUND");
}

/// Goal: the limit is where it is said to be, for both ways to send a body, and a value over it is not stored.
#[tokio::test]
async fn a_value_over_the_limit_is_413_and_one_at_it_is_stored() {
    let node = Node::builder().env("NODE_STORAGE_MAXOBJECTBYTES", 1_024).start();
    let http = node.http();
    let (fits, over) = (vec![7_u8; 1_024], vec![7_u8; 1_025]);
    http.call("PUT", "/nomad/v1/objects/raw").body(fits.clone()).send().await.expect(201);
    assert_eq!(http.get("/nomad/v1/objects/raw").await.expect(200).body, fits);
    for path in PUTS {
        let id = unique("at-the-limit");
        http.post(path, &json!({ "id": id, "value": base64(&fits) })).await.ok();
        let id = unique("over-the-limit");
        let answer = http.post(path, &json!({ "id": id, "value": base64(&over) })).await;
        refused(&answer, (413, "TOO_LARGE"), "1024");
        http.get(&format!("/nomad/overlay-storage/get/{id}")).await.problem(404, "NOT_FOUND");
        http.get(&format!("/nomad/storage/get/{id}")).await.problem(404, "NOT_FOUND");
    }
    let answer = http.call("PUT", "/nomad/v1/objects/raw").body(over.clone()).send().await;
    refused(&answer, (413, "TOO_LARGE"), "1024");
    let body = json!({ "id": "raw", "value": base64(&over) });
    let answer = http.put("/nomad/storage/update", &body).await;
    refused(&answer, (413, "TOO_LARGE"), "1024");
    let answer = http.call("PUT", "/nomad/v1/objects/new").body(over).send().await;
    refused(&answer, (413, "TOO_LARGE"), "1024");
    http.get("/nomad/v1/objects/new").await.problem(404, "NOT_FOUND");
    assert_eq!(http.get("/nomad/v1/objects/raw").await.expect(200).body, fits);
    node.assert_serves().await;
}

#[tokio::test]
async fn four_mebibytes_are_the_default_limit() {
    let (node, id) = (NODE.get(), unique("four-mebibytes"));
    let http = node.http();
    let fits: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|n| (n % 251) as u8).collect();
    let path = format!("/nomad/v1/objects/{id}");
    http.call("PUT", &path).body(fits.clone()).send().await.expect(201);
    assert!(http.get(&path).await.expect(200).body == fits);
    let json_id = unique("four-mebibytes-json");
    http.post("/nomad/storage/put", &json!({ "id": json_id, "value": base64(&fits) })).await.ok();
    let found = http.get(&format!("/nomad/storage/get/{json_id}")).await.ok();
    assert!(crate::support::json::value_of(&found) == fits);
    let over = [fits, vec![0]].concat();
    let answer = http.call("PUT", &format!("{path}-over")).body(over).send().await;
    refused(&answer, (413, "TOO_LARGE"), "4194304");
}

/// A body of unknown length is cut off at the limit. It is not collected first.
#[tokio::test]
async fn a_chunked_body_over_the_limit_is_413() {
    let node = Node::builder().env("NODE_STORAGE_MAXOBJECTBYTES", 1_024).start();
    let host = &node.rest;
    for (method, path) in [("PUT", "/nomad/v1/objects/chunked"), ("POST", "/nomad/storage/put")] {
        let mut wire = Wire::open(host).await;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        wire.write(head).await;
        // Up to 64 MiB; the node answers long before.
        let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
        let mut sent = 0;
        while sent < 1024 && wire.try_write(&chunk).await {
            sent += 1;
        }
        assert!(sent < 1024, "{path} took 64 MiB");
        node.assert_serves().await;
    }
    // A little over the limit, sent whole: the answer arrives.
    let body = "x".repeat(0x600);
    let request = format!(
        "PUT /nomad/v1/objects/chunked HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n\
         600\r\n{body}\r\n0\r\n\r\n"
    );
    refused(&raw_http(host, request).await, (413, "TOO_LARGE"), "1024");
    // And chunks within the limit are a body like any other.
    let request = format!(
        "PUT /nomad/v1/objects/fits HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    );
    raw_http(host, request).await.expect(201);
    assert_eq!(node.http().get("/nomad/v1/objects/fits").await.expect(200).body, "abcdef");
    node.http().get("/nomad/v1/objects/chunked").await.problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_client_that_disappears_mid_body_stores_nothing() {
    let (node, prefix) = (NODE.get(), unique("vanishing"));
    let host = &node.rest;
    let json = format!(r#"{{"id":"{prefix}/json","value":"eA=="}}"#);
    for (n, head) in [
        format!("PUT /nomad/v1/objects/{prefix}%2Fraw HTTP/1.1\r\nContent-Length: 1000\r\n"),
        format!(
            "PUT /nomad/v1/objects/{prefix}%2Fchunked HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        ),
        format!("POST /nomad/storage/put HTTP/1.1\r\nContent-Length: {}\r\n", json.len() + 1),
    ]
    .into_iter()
    .enumerate()
    {
        let mut wire = Wire::open(host).await;
        wire.write(format!("{head}Host: {host}\r\nExpect: 100-continue\r\n\r\n")).await;
        let interim = wire.read_head().await;
        assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
        let part = ["0123456789", "a\r\n0123456789\r\n", json.as_str()][n];
        wire.write(part).await;
        drop(wire);
    }
    node.assert_serves().await;
    assert!(listed(&node.http(), &prefix, 10).await.is_empty());
}

#[tokio::test]
async fn bytes_that_are_no_http_are_refused() {
    let node = NODE.get();
    let garbage: [&[u8]; 6] = [
        b"\x00\x01\x02\x03\x04\x05\x06\x07\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET no-slash HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PUT /nomad/v1/objects/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        b"PUT /nomad/v1/objects/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"PUT /nomad/v1/objects/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ];
    for bytes in garbage {
        let mut wire = Wire::open(&node.rest).await;
        wire.write(bytes).await;
        let head = wire.read_head().await;
        let code: Option<u16> = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let refused = code.is_none_or(|code| (400..500).contains(&code));
        assert!(refused, "{:?}: {head}", String::from_utf8_lossy(bytes));
    }
    node.http().get("/nomad/v1/objects/x").await.problem(404, "NOT_FOUND");
    node.assert_serves().await;
}
