//! What the node says about itself over REST: status, groups, health, metrics, its actors and their traces; and the calls
//! that change its settings.

use std::collections::BTreeMap;

use crate::support::{
    assert_says,
    http::{Answer, Http, segment},
    json::{all, base64, list_of, objects_named},
    node::{Node, Shared},
    unique, unix_now,
};
use serde_json::{Value, json};

static NODE: Shared = Shared::new();

async fn put(http: &Http, id: &str) -> Answer {
    http.post("/nomad/storage/put", &json!({ "id": id, "value": base64("x") })).await
}

/// The one value under `key`, wherever it stands in the status document.
async fn setting(http: &Http, key: &str) -> Value {
    let status = http.get("/nomad/v1/status").await.ok();
    let found = all(&status, key);
    let first = found.first().unwrap_or_else(|| panic!("no {key} in {status}"));
    (*first).clone()
}

#[tokio::test]
async fn status_describes_a_group_of_one() {
    let node = NODE.get();
    let status = node.status().await;
    let me = status["nodeId"].as_str().unwrap();
    assert!(me.parse::<libp2p_identity::PeerId>().is_ok(), "nodeId {me}");
    // A node alone has founded a group as its provisional super-peer.
    assert_eq!(status["role"], "super-peer");
    assert_eq!(status["permanent"], false);
    assert_eq!(status["superPeer"], me);
    assert_eq!(status["ready"], true);
    assert!(status["reason"].as_str().unwrap_or_default().is_empty(), "{status}");
    assert!(!status["group"].as_str().unwrap().is_empty());
    assert!(status["state"].is_string() && status["epoch"].is_u64(), "{status}");
    let members = status["members"].as_array().unwrap();
    assert_eq!(members.len(), 1, "{status}");
    let member = &members[0];
    assert_eq!(member["nodeId"], me);
    assert_eq!(member["role"], "super-peer");
    assert_eq!(member["state"], "alive");
    assert_eq!(member["voter"], true);
    assert_eq!(member["rest"], node.rest);
    assert_eq!(member["peer"], node.peer);
    assert_eq!(member["storage"], node.storage);
    for axis in ["x", "y"] {
        let at = member["position"][axis].as_f64().unwrap();
        assert!((0.0..=10.0).contains(&at), "{axis} = {at} in a world of 10");
    }
    assert_eq!(node.running["role"], status["role"]);
    assert_eq!(node.running["state"], status["state"]);
}

#[tokio::test]
async fn the_groups_documents_agree_with_the_status() {
    let node = NODE.get();
    let (http, status) = (node.http(), node.status().await);
    let groups = http.get("/nomad/v1/groups").await.ok();
    let groups = groups["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 1);
    let group = &groups[0];
    assert_eq!(group["name"], status["group"]);
    assert_eq!(group["superPeer"], status["nodeId"]);
    assert_eq!(group["members"], 1);
    assert_eq!(group["epoch"], status["epoch"]);
    assert!(group["capacity"].is_u64(), "{group}");
    assert!(group["site"]["x"].is_number() && group["site"]["y"].is_number(), "{group}");
    let name = group["name"].as_str().unwrap();
    let alone = http.get(&format!("/nomad/v1/groups/{}", segment(name))).await.ok();
    let alone = alone.get("groups").map_or(&alone, |groups| &groups[0]);
    assert_eq!(alone, group);
    let answer = http.get("/nomad/v1/groups/no-such-group").await;
    assert_says(&answer.problem(404, "NOT_FOUND"), "no-such-group");
}

#[tokio::test]
async fn a_super_peer_is_permanent() {
    let node = Node::builder().arg("--type").arg("super-peer").start();
    let status = node.status().await;
    assert_eq!((&status["role"], &status["permanent"]), (&json!("super-peer"), &json!(true)));
    assert_eq!(node.running["role"], "super-peer");
}

#[tokio::test]
async fn a_restart_keeps_the_identity_and_the_objects() {
    let dir = tempfile::TempDir::new().unwrap();
    let builder = Node::builder().data_dir(dir.path());
    let mut node = builder.start();
    let id = node.id().await;
    let call = node.http();
    let call = call.call("PUT", "/nomad/v1/objects/kept").header("content-type", "text/plain");
    let tag = call.body("kept").send().await.expect(201).header("etag").to_owned();
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(node.exited(crate::support::ANSWER_LIMIT).await.code(), Some(0));
    let node = builder.start();
    assert_eq!(node.id().await, id);
    let kept = node.http().get("/nomad/v1/objects/kept").await.expect(200);
    assert_eq!((kept.text().as_str(), kept.header("content-type")), ("kept", "text/plain"));
    assert_eq!(kept.header("etag"), tag);
}

/// Each call answers with the setting, the setting is seen in the status, and what it rules has changed.
#[tokio::test]
async fn the_config_calls_change_the_node() {
    let node = Node::start();
    let http = node.http();
    let calls = [
        ("storage", json!({ "mode": "safe" }), "storageMode", json!("safe")),
        ("storage", json!({ "mode": "fast" }), "storageMode", json!("fast")),
        ("retrieval", json!({ "mode": "safe" }), "retrievalMode", json!("safe")),
        ("retrieval", json!({ "mode": "parallel" }), "retrievalMode", json!("parallel")),
        ("retrieval", json!({ "mode": "fast" }), "retrievalMode", json!("fast")),
        ("groups/migration", json!({ "migration": true }), "migration", json!(true)),
        ("groups/migration", json!({ "migration": false }), "migration", json!(false)),
        (
            "groups/replication-factor",
            json!({ "replicationFactor": 2 }),
            "replicationFactor",
            json!(2),
        ),
    ];
    for (path, body, key, value) in calls {
        let said = http.post(&format!("/nomad/config/{path}"), &body).await.ok();
        assert_eq!(said[key], value, "{path}");
        assert_eq!(setting(&http, key).await, value, "{path} in the status");
        let durability = if said["storageMode"] == "safe" { "quorum" } else { "local" };
        put(&http, &unique("after-config")).await.expect(200).durability(durability);
    }
}

#[tokio::test]
async fn the_config_calls_take_the_older_query_parameters() {
    let node = Node::start();
    let http = node.http();
    let calls = [
        ("storage?storageMode=safe", "storageMode", json!("safe")),
        ("retrieval?retrievalMode=parallel", "retrievalMode", json!("parallel")),
        ("groups/migration?enabled=true", "migration", json!(true)),
        ("groups/replication-factor?rf=4", "replicationFactor", json!(4)),
    ];
    for (path, key, value) in calls {
        let answer = http.call("POST", &format!("/nomad/config/{path}")).send().await;
        assert_eq!(answer.ok()[key], value, "{path}");
        assert_eq!(setting(&http, key).await, value, "{path} in the status");
    }
    put(&http, &unique("safe-by-config")).await.expect(200).durability("quorum");
    let id = unique("fast-by-call");
    let body = json!({ "id": id, "value": base64("x") });
    http.post("/nomad/group-storage/fast-put", &body).await.expect(200).durability("local");
    put(&http, &unique("still-safe")).await.expect(200).durability("quorum");
}

#[tokio::test]
async fn bad_settings_are_refused_and_change_nothing() {
    let node = NODE.get();
    let http = node.http();
    let keys = ["storageMode", "retrievalMode", "migration", "replicationFactor"];
    let mut before = Vec::new();
    for key in keys {
        before.push(setting(&http, key).await);
    }
    let bad = [
        ("storage", json!({ "mode": "quick" }), "quick"),
        ("storage", json!({ "mode": "parallel" }), "parallel"),
        ("storage", json!({}), "mode"),
        ("retrieval", json!({ "mode": "slow" }), "slow"),
        ("retrieval", json!({ "mode": 7 }), "7"),
        ("groups/migration", json!({ "migration": "perhaps" }), "perhaps"),
        ("groups/replication-factor", json!({ "replicationFactor": 0 }), "0"),
        ("groups/replication-factor", json!({ "replicationFactor": -3 }), "-3"),
        ("groups/replication-factor", json!({ "replicationFactor": 1e30 }), ""),
        ("groups/replication-factor", json!({ "replicationFactor": "many" }), "many"),
        ("storage?storageMode=quick", json!(null), "quick"),
        ("retrieval?retrievalMode=slow", json!(null), "slow"),
        ("groups/migration?enabled=perhaps", json!(null), "perhaps"),
        ("groups/replication-factor?rf=0", json!(null), "0"),
    ];
    for (path, body, needle) in bad {
        let mut call = http.call("POST", &format!("/nomad/config/{path}"));
        if !body.is_null() {
            call = call.json(&body);
        }
        assert_says(&call.send().await.problem(400, "INVALID_ARGUMENT"), needle);
    }
    for (key, before) in keys.into_iter().zip(before) {
        assert_eq!(setting(&http, key).await, before, "{key}");
    }
}

#[tokio::test]
async fn a_node_that_trades_the_fsync_away_says_so() {
    let builder = Node::builder().env("NODE_STORAGE_DURABILITY", "interval:50ms");
    let node = builder.start();
    let http = node.http();
    put(&http, "a").await.expect(200).durability("local;fsync=interval:50ms");
}

#[tokio::test]
async fn liveness_and_readiness_are_200_on_a_serving_node() {
    let node = NODE.get();
    for path in ["/healthz", "/readyz"] {
        node.http().get(path).await.page(200);
    }
}

/// Every sample of the Prometheus text, by its name with labels.
async fn samples(http: &Http) -> BTreeMap<String, f64> {
    let answer = http.get("/metrics").await.page(200);
    let content_type = answer.header("content-type").to_owned();
    let known = content_type.starts_with("text/plain") || content_type.contains("openmetrics-text");
    assert!(known, "Content-Type: {content_type}");
    let text = answer.text();
    assert!(text.contains("# TYPE ") && text.contains("# HELP "), "{text}");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    });
    parsed.collect()
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let node = Node::start();
    let http = node.http();
    let before = samples(&http).await;
    for _ in 0..25 {
        put(&http, &unique("counted")).await.expect(200);
    }
    let grown = samples(&http)
        .await
        .into_iter()
        .filter(|(name, value)| value - before.get(name).copied().unwrap_or_default() >= 25.0);
    let grown: Vec<_> = grown.map(|(name, _)| name).collect();
    assert!(!grown.is_empty(), "25 puts and no counter grew by as many");
}

#[tokio::test]
async fn the_actors_document_shows_the_live_tree() {
    let node = NODE.get();
    put(&node.http(), &unique("for-the-actors")).await.expect(200);
    let tree = node.http().get("/nomad/debug/actors").await.ok();
    for name in ["local_store", "outbox", "rest", "grpc"] {
        assert!(!objects_named(&tree, name).is_empty(), "no {name} in {tree}");
    }
    let workers: Vec<_> =
        (0..8).flat_map(|shard| objects_named(&tree, &format!("replica_writer-{shard}"))).collect();
    assert_eq!(workers.len(), 8, "{tree}");
    for worker in &workers {
        assert_eq!((&worker["restarts"], &worker["failed"]), (&json!(0), &json!(0)), "{worker}");
    }
    let handled: u64 = workers.iter().map(|worker| worker["handled"].as_u64().unwrap()).sum();
    assert!(handled > 0, "{tree}");
}

#[tokio::test]
async fn the_trace_of_a_put_goes_from_the_edge_to_the_store() {
    let (node, id) = (NODE.get(), unique("traced"));
    let http = node.http();
    let request = put(&http, &id).await.expect(200).request_id().to_owned();
    put(&http, &unique("other")).await.expect(200);
    for query in [format!("object={}", segment(&id)), format!("request={request}")] {
        let answer = http.get(&format!("/nomad/debug/trace?{query}&limit=100")).await;
        let trace = answer.ok();
        let text = trace.to_string();
        assert!(text.contains("\"writer\"") && text.contains(&request), "{query}: {text}");
        assert!(text.contains("rest"), "{query} names no edge: {text}");
    }
    let by_actor = http.get("/nomad/debug/trace?actor=writer&limit=1").await.ok();
    assert_eq!(list_of(&by_actor).len(), 1, "{by_actor}");
    assert_says(&by_actor.to_string(), "\"writer\"");
    let none =
        http.get(&format!("/nomad/debug/trace?object={}&limit=10", unique("never"))).await.ok();
    assert!(!none.to_string().contains("replica_writer"), "{none}");
}

#[tokio::test]
async fn the_ring_of_traces_is_bounded() {
    let node = Node::builder().env("TRACE_RECORDS", 128).start();
    let http = node.http();
    let started = unix_now();
    let first = unique("first");
    put(&http, &first).await.expect(200);
    for _ in 0..128 {
        put(&http, &unique("more")).await.expect(200);
    }
    let query = format!("/nomad/debug/trace?object={}&limit=10", segment(&first));
    let trace = http.get(&query).await.ok();
    assert!(!trace.to_string().contains("replica_writer"), "since {started}: {trace}");
}
