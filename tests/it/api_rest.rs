//! The REST paths that older clients and scripts use: storage, group storage, overlay storage and the ledgers.
//! Each test reads back what it wrote, so that no row of the contract's table can be a stub.

use crate::support::{
    http::{Answer, Http, segment},
    json::{base64, int_of, value_of},
    node::{Node, Shared},
    raw::raw_http,
    unique, unix_now,
};
use serde_json::{Value, json};

static NODE: Shared = Shared::new();

/// The object of the contract's example lines.
const EXAMPLE: &str =
    r#"{"id":"item:99","creationTime":1700000000,"ttl":1800000000,"value":"eyJ4IjoxfQ=="}"#;
const EXAMPLE_TTL: i64 = 1_800_000_000;

async fn put(http: &Http, id: &str, value: &str) -> Answer {
    http.post("/nomad/storage/put", &json!({ "id": id, "value": base64(value) })).await
}

async fn get(http: &Http, id: &str) -> Answer {
    http.get(&format!("/nomad/storage/get/{}", segment(id))).await
}

async fn delete(http: &Http, id: &str) -> Value {
    http.delete(&format!("/nomad/storage/delete/{}", segment(id))).await.ok()
}

#[tokio::test]
async fn put_creates_an_object_that_get_gives_back_whole() {
    let (node, id) = (NODE.get(), unique("whole"));
    let (http, before) = (node.http(), unix_now());
    let ttl = before + 1_000;
    let body =
        json!({ "id": id, "creationTime": 1_700_000_000, "ttl": ttl, "value": base64("body") });
    let answer = http.post("/nomad/storage/put", &body).await.expect(200).durability("local");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.json(), json!({ "result": true }));
    let answer = get(&http, &id).await.expect(200).durability("local");
    assert_eq!(answer.header("content-type"), "application/json");
    let object = answer.json();
    assert_eq!(object["id"], id);
    assert_eq!(int_of(&object, "creationTime"), 1_700_000_000);
    assert_eq!(int_of(&object, "ttl"), ttl);
    assert_eq!(value_of(&object), b"body");
    assert!((before..=unix_now()).contains(&int_of(&object, "lastModified")), "{object}");
}

#[tokio::test]
async fn put_of_an_id_that_exists_is_refused_and_changes_nothing() {
    let (node, id) = (NODE.get(), unique("twice"));
    let http = node.http();
    put(&http, &id, "first").await.expect(200);
    let detail = put(&http, &id, "second").await.problem(409, "ALREADY_EXISTS");
    crate::support::assert_says(&detail, &id);
    assert_eq!(value_of(&get(&http, &id).await.ok()), b"first");
}

#[tokio::test]
async fn zero_and_empty_fields_may_be_absent() {
    let (node, id) = (NODE.get(), unique("bare"));
    let (http, before) = (node.http(), unix_now());
    http.post("/nomad/storage/put", &json!({ "id": id })).await.ok();
    let object = get(&http, &id).await.ok();
    assert_eq!(value_of(&object), b"");
    assert_eq!(int_of(&object, "ttl"), 0);
    // No creation time in a put means the node's time.
    assert!((before..=unix_now()).contains(&int_of(&object, "creationTime")), "{object}");
}

#[tokio::test]
async fn integers_may_be_decimal_strings_and_come_back_as_numbers() {
    let (node, id) = (NODE.get(), unique("strings"));
    let (http, ttl) = (node.http(), unix_now() + 500);
    let body = json!({
        "id": id, "creationTime": "1700000000", "ttl": ttl.to_string(), "lastModified": "5",
        "value": base64("x"),
    });
    http.post("/nomad/storage/put", &body).await.ok();
    let object = get(&http, &id).await.ok();
    assert_eq!(object["creationTime"], 1_700_000_000);
    assert_eq!(object["ttl"], ttl);
    // lastModified is the node's to set.
    assert!(int_of(&object, "lastModified") > 5, "{object}");
}

#[tokio::test]
async fn fields_that_the_contract_does_not_know_are_accepted() {
    let (node, id) = (NODE.get(), unique("unknown-field"));
    let http = node.http();
    let body = json!({ "id": id, "value": base64("x"), "colour": "blue", "nested": { "a": [1] } });
    http.post("/nomad/storage/put", &body).await.ok();
    assert_eq!(value_of(&get(&http, &id).await.ok()), b"x");
}

#[tokio::test]
async fn every_byte_survives_the_base64() {
    let (node, id) = (NODE.get(), unique("bytes"));
    let (http, bytes) = (node.http(), (0..=255).cycle().take(1_000).collect::<Vec<u8>>());
    let body = json!({ "id": id, "value": base64(&bytes) });
    http.post("/nomad/storage/put", &body).await.ok();
    assert_eq!(value_of(&get(&http, &id).await.ok()), bytes);
}

#[tokio::test]
async fn get_of_a_missing_object_is_404() {
    let (node, id) = (NODE.get(), unique("missing"));
    crate::support::assert_says(&get(&node.http(), &id).await.problem(404, "NOT_FOUND"), &id);
}

#[tokio::test]
async fn update_replaces_but_keeps_the_creation_time() {
    let (node, ttl) = (NODE.get(), unix_now() + 900);
    let http = node.http();
    for method in ["PUT", "POST"] {
        let id = unique("update");
        let body = json!({ "id": id, "creationTime": 1_700_000_000, "value": base64("old") });
        http.post("/nomad/storage/put", &body).await.ok();
        let before = unix_now();
        let body = json!({ "id": id, "creationTime": 5, "ttl": ttl, "value": base64("new") });
        let answer = http.call(method, "/nomad/storage/update").json(&body).send().await;
        assert_eq!(answer.durability("local").ok(), json!({ "result": true }));
        let object = get(&http, &id).await.ok();
        assert_eq!(value_of(&object), b"new");
        assert_eq!(int_of(&object, "creationTime"), 1_700_000_000);
        assert_eq!(int_of(&object, "ttl"), ttl);
        assert!(int_of(&object, "lastModified") >= before, "{object}");
    }
}

#[tokio::test]
async fn update_of_a_missing_object_is_404_and_creates_nothing() {
    let node = NODE.get();
    let http = node.http();
    for method in ["PUT", "POST"] {
        let id = unique("update-missing");
        let body = json!({ "id": id, "value": base64("x") });
        let answer = http.call(method, "/nomad/storage/update").json(&body).send().await;
        crate::support::assert_says(&answer.problem(404, "NOT_FOUND"), &id);
        get(&http, &id).await.problem(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn delete_says_whether_the_object_was_there() {
    let (node, id) = (NODE.get(), unique("delete"));
    let http = node.http();
    put(&http, &id, "x").await.expect(200);
    let path = format!("/nomad/storage/delete/{}", segment(&id));
    let answer = http.delete(&path).await.expect(200).durability("local");
    assert_eq!(answer.json(), json!({ "result": true }));
    get(&http, &id).await.problem(404, "NOT_FOUND");
    assert_eq!(delete(&http, &id).await, json!({ "result": false }));
    // And the id is free again.
    put(&http, &id, "again").await.expect(200);
    assert_eq!(value_of(&get(&http, &id).await.ok()), b"again");
}

#[tokio::test]
async fn storage_health_says_up() {
    let node = NODE.get();
    assert_eq!(node.http().get("/nomad/storage/get/health").await.ok()["status"], "UP");
}

#[tokio::test]
async fn the_ledgers_name_every_object_and_its_holder() {
    let (node, id) = (NODE.get(), unique("ledger"));
    let (http, ttl, me) = (node.http(), unix_now() + 700, node.id().await);
    let body = json!({ "id": id, "ttl": ttl, "value": base64("x") });
    http.post("/nomad/storage/put", &body).await.ok();
    let held = |ledger: &Value, key: &str, entry: &str| {
        let entries = ledger[key].as_array().cloned().unwrap_or_default();
        entries.into_iter().find(|found| found["id"] == entry)
    };
    let ledgers = async || {
        let peers = http.get("/nomad/storage/get/peer-ledger").await.ok();
        let objects = http.get("/nomad/storage/get/object-ledger").await.ok();
        (held(&peers, &me, &id), held(&objects, &id, &me))
    };
    let (object, peer) = ledgers().await;
    assert_eq!(int_of(&object.expect("the object under this peer"), "ttl"), ttl);
    assert_eq!(int_of(&peer.expect("this peer under the object"), "ttl"), ttl);
    delete(&http, &id).await;
    assert_eq!(ledgers().await, (None, None), "after the delete");
}

#[tokio::test]
async fn group_storage_takes_the_mode_of_each_call() {
    let node = NODE.get();
    let http = node.http();
    for (mode, durability) in [("fast", "local"), ("safe", "quorum")] {
        let id = unique(mode);
        let (path, value) = (format!("/nomad/group-storage/{mode}-put"), base64(mode));
        let body = json!({ "id": id, "value": value, "creationTime": 1_700_000_000 });
        let answer = http.post(&path, &body).await.expect(200).durability(durability);
        assert_eq!(answer.json(), json!({ "result": true }));
        crate::support::assert_says(
            &http.post(&path, &body).await.problem(409, "ALREADY_EXISTS"),
            &id,
        );
        for read in ["fast-get", "parallel-get", "safe-get"] {
            let path = format!("/nomad/group-storage/{read}");
            let answer = http.get(&format!("{path}/{}", segment(&id))).await.expect(200);
            let object = answer.durability("local").json();
            assert_eq!(object["id"], id, "{read}");
            assert_eq!(value_of(&object), mode.as_bytes(), "{read}");
            assert_eq!(int_of(&object, "creationTime"), 1_700_000_000, "{read}");
            let missing = unique("missing");
            let answer = http.get(&format!("{path}/{missing}")).await;
            crate::support::assert_says(&answer.problem(404, "NOT_FOUND"), &missing);
        }
    }
}

/// A safe call must not make the next plain one safe.
#[tokio::test]
async fn the_mode_of_a_call_is_not_the_mode_of_the_node() {
    let node = NODE.get();
    let http = node.http();
    let body = json!({ "id": unique("safe-call"), "value": base64("x") });
    http.post("/nomad/group-storage/safe-put", &body).await.expect(200).durability("quorum");
    http.get(&format!("/nomad/group-storage/safe-get/{}", body["id"].as_str().unwrap())).await.ok();
    put(&http, &unique("plain"), "x").await.expect(200).durability("local");
    let update = json!({ "id": body["id"], "value": base64("y") });
    http.put("/nomad/storage/update", &update).await.expect(200).durability("local");
}

#[tokio::test]
async fn the_mode_header_works_on_the_plain_paths_too() {
    let (node, id) = (NODE.get(), unique("mode-header"));
    let http = node.http();
    let body = json!({ "id": id, "value": base64("x") });
    let call = http.call("POST", "/nomad/storage/put").json(&body).header("nomad-mode", "safe");
    call.send().await.expect(200).durability("quorum");
    assert_eq!(value_of(&get(&http, &id).await.ok()), b"x");
}

#[tokio::test]
async fn overlay_storage_puts_and_gets_in_its_tier() {
    let (node, id) = (NODE.get(), unique("overlay"));
    let (http, ttl) = (node.http(), unix_now() + 800);
    let body = json!({
        "id": id, "creationTime": 1_700_000_000, "ttl": ttl, "value": base64("over"),
    });
    let path = format!("/nomad/overlay-storage/get/{}", segment(&id));
    crate::support::assert_says(&http.get(&path).await.problem(404, "NOT_FOUND"), &id);
    assert_eq!(
        http.post("/nomad/overlay-storage/put", &body).await.ok(),
        json!({ "result": true })
    );
    let object = http.get(&path).await.ok();
    assert_eq!(object["id"], id);
    assert_eq!(value_of(&object), b"over");
    assert_eq!((int_of(&object, "creationTime"), int_of(&object, "ttl")), (1_700_000_000, ttl));
    let answer = http.post("/nomad/overlay-storage/put", &body).await;
    crate::support::assert_says(&answer.problem(409, "ALREADY_EXISTS"), &id);
}

#[tokio::test]
async fn the_request_id_is_the_trace_id_and_differs_per_request() {
    let node = NODE.get();
    let http = node.http();
    let first = http.get("/nomad/storage/get/health").await.expect(200);
    let second = http.get("/nomad/storage/get/health").await.expect(200);
    assert_ne!(first.request_id(), second.request_id());
    // A caller that brings a trace of its own finds the request under that trace.
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let call = http.call("GET", "/nomad/storage/get/nothing-here").header("traceparent", parent);
    let answer = call.send().await;
    answer.problem(404, "NOT_FOUND");
    assert_eq!(answer.request_id(), trace);
}

#[tokio::test]
async fn a_client_that_names_no_content_type_is_served() {
    let (node, id) = (NODE.get(), unique("no-content-type"));
    let body = json!({ "id": id, "value": base64("x") }).to_string();
    let (host, length) = (&node.rest, body.len());
    let request = format!(
        "POST /nomad/storage/put HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    assert_eq!(raw_http(host, request).await.ok(), json!({ "result": true }));
    assert_eq!(value_of(&get(&node.http(), &id).await.ok()), b"x");
}

/// Runs `curl -s ARGS`; `None` where there is no curl.
async fn curl(args: &[&str]) -> Option<String> {
    let output = tokio::process::Command::new("curl").arg("-s").args(args).output().await;
    match output {
        Ok(output) => {
            assert!(output.status.success(), "curl {args:?}: {output:?}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

/// The contract's three lines as a person types them, with and without naming the content type (curl then says
/// `application/x-www-form-urlencoded`).
#[tokio::test]
async fn the_curl_lines_of_the_contract_work_as_they_stand() {
    // On a node of its own, since the id is fixed.
    let node = Node::start();
    let url = format!("http://{}", node.rest);
    let (put, get) =
        (format!("{url}/nomad/storage/put"), format!("{url}/nomad/storage/get/item:99"));
    let delete = format!("{url}/nomad/storage/delete/item:99");
    let json_header = ["-H", "Content-Type: application/json"];
    for header in [&json_header[..], &[]] {
        let args = [&["-X", "POST", &put], header, &["-d", EXAMPLE]].concat();
        let Some(said) = curl(&args).await else {
            eprintln!("no curl on this machine");
            return;
        };
        let said: Value = serde_json::from_str(&said).unwrap();
        if unix_now() >= EXAMPLE_TTL {
            // The example's expiry is a day in January 2027: from then on it lies in the past.
            crate::support::assert_says(said["detail"].as_str().unwrap(), "1800000000");
            continue;
        }
        assert_eq!(said, json!({ "result": true }));
        let object: Value = serde_json::from_str(&curl(&[&get]).await.unwrap()).unwrap();
        assert_eq!(object["id"], "item:99");
        assert_eq!(object["creationTime"], 1_700_000_000);
        assert_eq!(object["ttl"], EXAMPLE_TTL);
        assert_eq!(object["value"], "eyJ4IjoxfQ==");
        for result in [true, false] {
            let said = curl(&["-X", "DELETE", &delete]).await.unwrap();
            let said: Value = serde_json::from_str(&said).unwrap();
            assert_eq!(said, json!({ "result": result }));
        }
        let said: Value = serde_json::from_str(&curl(&[&get]).await.unwrap()).unwrap();
        assert_eq!(said["code"], "NOT_FOUND");
    }
}
