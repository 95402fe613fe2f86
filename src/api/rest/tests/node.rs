//! The node: settings, what it tells of itself, steps, actors, the Swagger UI.

use std::time::Duration;

use serde_json::{Value, json};

use super::Client;
use crate::{backend::NodePhase, test_backend::NODE};
use nomad_config::Config;
use nomad_ports::object_store::StoreHealth;

#[tokio::test]
async fn settings_are_set_by_body_or_query() {
    let client = Client::start().await;
    let post = async |path: &str, body: &str| {
        client.send(&format!("POST /nomad/config/{path}"), &[], body.to_owned()).await
    };
    let table = [
        ("storage", r#"{"mode":"safe"}"#, json!({ "storageMode": "safe" })),
        ("storage?storageMode=fast", "", json!({ "storageMode": "fast" })),
        ("retrieval", r#"{"mode":"parallel"}"#, json!({ "retrievalMode": "parallel" })),
        ("retrieval?retrievalMode=safe", "{}", json!({ "retrievalMode": "safe" })),
        ("groups/migration", r#"{"migration":true}"#, json!({ "migration": true })),
        ("groups/migration?enabled=false", "", json!({ "migration": false })),
        (
            "groups/replication-factor",
            r#"{"replicationFactor":4}"#,
            json!({ "replicationFactor": 4 }),
        ),
        ("groups/replication-factor?rf=2", "", json!({ "replicationFactor": 2 })),
    ];
    for (path, body, expected) in table {
        let said = post(path, body).await;
        assert_eq!((said.status, said.json()), (200, expected), "{path}");
    }
    let before = client.node.backend.status().settings;
    for (path, body, named) in [
        ("storage", "", "mode"),
        ("storage", "{}", "mode"),
        ("storage", r#"{"mode":"parallel"}"#, "parallel"),
        ("storage", r#"{"mode":7}"#, "7"),
        ("storage?storageMode=fast", r#"{"mode":"safe"}"#, "storageMode"),
        ("retrieval?retrievalMode=slow", "", "slow"),
        ("groups/migration", r#"{"migration":"yes"}"#, "yes"),
        ("groups/migration?enabled=1", "", "1"),
        ("groups/replication-factor", r#"{"replicationFactor":0}"#, "0"),
        ("groups/replication-factor", r#"{"replicationFactor":65}"#, "65"),
        ("groups/replication-factor", r#"{"replicationFactor":"4"}"#, "\"4\""),
        ("groups/replication-factor?rf=many", "", "many"),
    ] {
        let (status, _, detail) = post(path, body).await.problem();
        assert!(status == 400 && detail.contains(named), "{path} {body}: {detail}");
    }
    let after = client.node.backend.status().settings;
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    client.node.stop().await;
}

#[tokio::test]
async fn the_node_tells_of_itself() {
    let client = Client::start().await;
    assert_eq!(client.get("/healthz").await.json(), json!({ "status": "UP", "nodeId": NODE }));
    assert_eq!(client.get("/readyz").await.json(), json!({ "ready": true }));
    assert_eq!(client.get("/nomad/v1/status").await.json()["nodeId"], NODE);
    let groups = client.get("/nomad/v1/groups").await.json();
    assert_eq!(groups["groups"][0]["name"], "group-TestNode");
    assert_eq!(client.get("/nomad/v1/groups/group-TestNode").await.json(), groups);
    let (status, _, detail) = client.get("/nomad/v1/groups/other").await.problem();
    assert!(status == 404 && detail.contains("other"), "{detail}");
    let metrics = client.get("/metrics").await;
    assert!(
        metrics.header("content-type").starts_with("application/openmetrics-text; version=1.0.0")
    );
    assert!(metrics.body.ends_with(b"# EOF\n"));
    client.node.phase.send_replace(NodePhase::Draining);
    let unready = client.get("/readyz").await;
    assert_eq!((unready.problem().0, unready.header("retry-after")), (503, "1"));
    assert!(unready.problem().2.contains("shutting down"));
    client.node.store.set_health(StoreHealth::ReadOnly { reason: "the disk is full".into() });
    let refused = client.post("/nomad/storage/put", &json!({ "id": "a" })).await;
    assert_eq!((refused.problem().0, refused.header("retry-after")), (503, "1"));
    assert!(refused.problem().2.contains("the disk is full"));
    client.node.stop().await;
}

#[tokio::test]
async fn steps_can_be_asked_for_captured_and_followed() {
    let client = Client::start().await;
    // Once one of the same shard is done, what its worker does at its start is over.
    client.post("/nomad/storage/put", &json!({ "id": "world/7/tree:42" })).await;
    let request = client.post("/nomad/storage/put", &json!({ "id": "a" })).await;
    let request = request.header("nomad-request-id").to_owned();
    for query in ["object=a".to_owned(), format!("request={request}")] {
        let found = client.get(&format!("/nomad/debug/trace?{query}")).await.json();
        let steps = found["steps"].as_array().unwrap();
        let kinds: Vec<_> = steps.iter().map(|step| step["to"].as_str().unwrap()).collect();
        for to in ["replica_writer-", "writer", "rest"] {
            assert!(kinds.iter().any(|kind| kind.starts_with(to)), "{kinds:?}");
        }
        let is_of_it = |step: &&Value| step["request"] == request.as_str();
        // What a worker does once for all, before its first write, belongs to no request.
        let of_it = steps.iter().filter(is_of_it).count();
        let least = if query.starts_with("request") { steps.len() } else { 2 };
        assert!(of_it >= least, "{steps:?}");
        assert_eq!(found["next"], steps.last().unwrap()["seq"]);
    }
    let last = client.get("/nomad/debug/trace?limit=1").await.json()["next"].clone();
    // Looking leaves no step, so there is nothing new at the edge until the next request.
    let none = client.get(&format!("/nomad/debug/trace?after={last}&actor=rest")).await.json();
    assert_eq!(none, json!({ "steps": [], "next": last }));
    let follow = format!("/nomad/debug/trace?after={last}&wait=30&object=b");
    let object = json!({ "id": "b" });
    let (followed, put) =
        tokio::join!(client.get(&follow), client.post("/nomad/storage/put", &object));
    assert_eq!((followed.json()["steps"][0]["object"].as_str(), put.status), (Some("b"), 200));
    for query in ["limit=0", "limit=10001", "limit=none", "wait=31", "request=abc", "after=-1"] {
        assert_eq!(
            client.get(&format!("/nomad/debug/trace?{query}")).await.problem().0,
            400,
            "{query}"
        );
    }
    assert_eq!(client.get("/nomad/debug/trace/capture").await.problem().0, 404);
    for (body, named) in [
        (json!({}), "missing"),
        (json!({ "limit": 0 }), "limit is 0"),
        (json!({ "limit": -3 }), "limit is -3"),
        (json!({ "limit": 10_001 }), "limit is 10001"),
    ] {
        let (_, field, detail) = client.post("/nomad/debug/trace", &body).await.problem();
        assert!(field == "limit" && detail.contains(named), "{body}: {detail}");
    }
    let started = client.post("/nomad/debug/trace", &json!({ "limit": 1, "object": "a" })).await;
    assert_eq!((started.status, &started.json()["limit"]), (202, &json!(1)));
    client.get("/nomad/storage/get/a").await;
    let capture = client.get("/nomad/debug/trace/capture").await.json();
    assert_eq!(capture["kept"], 1);
    assert!(capture["steps"][0]["detail"].as_str().unwrap().contains("Group tier"));
    assert_eq!(client.send("DELETE /nomad/debug/trace", &[], "").await.status, 204);
    assert_eq!(client.get("/nomad/debug/trace/capture").await.status, 404);
    client.node.stop().await;
}

#[tokio::test]
async fn followers_are_few_and_go_when_the_node_stops() {
    let client = Client::start().await;
    let follow = "/nomad/debug/trace?wait=30&object=none";
    let draining = async { client.node.phase.send(NodePhase::Draining).unwrap() };
    let followers = futures::future::join_all((0..40).map(|_| client.get(follow)));
    let both = async { tokio::join!(followers, draining).0 };
    let followers = tokio::time::timeout(Duration::from_secs(20), both).await.expect("they go");
    let (answered, refused): (Vec<_>, Vec<_>) =
        followers.iter().partition(|said| said.status == 200);
    assert_eq!((answered.len(), refused.len()), (32, 8));
    let (status, _, detail) = refused[0].problem();
    assert!(status == 429 && detail.contains("32"), "{status} {detail}");
    assert!(refused[0].headers.contains_key("retry-after"));
    client.node.stop().await;
}

#[tokio::test]
async fn actors_are_shown_and_killed_only_where_that_is_allowed() {
    let client = Client::start().await;
    let tree = client.get("/nomad/debug/actors").await.json();
    let store =
        tree["actors"].as_array().unwrap().iter().find(|actor| actor["name"] == "local_store");
    let store = store.unwrap();
    assert_eq!((&store["state"], &store["parent"]), (&json!("running"), &json!("node")));
    assert!(store["waitMicros"]["p99"].is_u64() && store["causes"].is_array(), "{store}");
    let kill = "/nomad/debug/actors/local_store/kill";
    let (status, _, detail) = client.send(&format!("POST {kill}"), &[], "").await.problem();
    assert!(status == 403 && detail.contains("debug.allowKill"), "{detail}");
    client.node.stop().await;

    let mut config = Config::default();
    config.debug.allow_kill = true;
    let client = Client::with(config).await;
    let nobody = client.send("POST /nomad/debug/actors/nobody/kill", &[], "").await;
    assert_eq!(nobody.problem().0, 404);
    let killed = client.send(&format!("POST {kill}"), &[], "").await;
    assert_eq!((killed.status, killed.json()), (202, json!({ "killed": "local_store" })));
    client.node.stop().await;
}

#[tokio::test]
async fn the_swagger_ui_is_served_with_our_document() {
    let client = Client::start().await;
    for page in ["/swagger/index.html", "/nomad/swagger-ui/", "/swagger/"] {
        let said = client.get(page).await;
        assert_eq!((said.status, said.header("content-type")), (200, "text/html"), "{page}");
    }
    let script = client.get("/swagger/swagger-initializer.js").await;
    assert!(String::from_utf8_lossy(&script.body).contains("/nomad/openapi.json"));
    assert_eq!(client.get("/swagger/no-such-file").await.problem().0, 404);
    for page in ["/", "/swagger", "/nomad/swagger-ui"] {
        let said = client.get(page).await;
        assert_eq!((said.status, said.header("location")), (307, "/swagger/index.html"), "{page}");
    }
    assert_eq!(client.get("/nomad/openapi.json").await.json()["openapi"], "3.1.0");
    client.node.stop().await;
}
