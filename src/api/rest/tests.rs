//! The edge over real actors and a store in memory: what each request is decoded to, and what it is answered with.

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower_service::Service as _;

use super::{DOCUMENTED, RestEdge, edge, listing, row::Row};
use crate::{
    api::{
        backend::Phase,
        listener::Edge as _,
        test_backend::{NODE, NOW, TestNode},
    },
    config::Config,
    ports::object_store::StoreHealth,
};

/// A whole answer.
struct Said {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, field and detail of a problem, and that it is a whole one.
    #[track_caller]
    fn problem(&self) -> (u16, String, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{:?}", self.body);
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["requestId"], self.header("nomad-request-id"));
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        (self.status, text("field"), text("detail"))
    }
}

struct Client {
    node: TestNode,
    edge: RestEdge,
}

impl Client {
    async fn start() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        let node = TestNode::start_with(config).await;
        Self { edge: edge(node.backend.clone()), node }
    }

    async fn send(&self, call: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Said {
        let (method, path) = call.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let mut service = warp::service(self.edge.routes.clone());
        let Ok(response) = service.call(request).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!(head.headers["nomad-request-id"].len(), 32, "{call}");
        Said { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, path: &str) -> Said {
        self.send(&format!("GET {path}"), &[], "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Said {
        self.send(&format!("POST {path}"), &[], body.to_string()).await
    }
}

#[tokio::test]
async fn every_documented_call_has_a_route_and_every_other_method_is_405() {
    let client = Client::start().await;
    for row in DOCUMENTED {
        let path = row.path().replace("{id}", "some%2Fid").replace("{name}", "some");
        for call in row.calls {
            let method = call.split_once(' ').unwrap().0;
            let said = client.send(&format!("{method} {path}"), &[], "").await;
            let detail = said.json()["detail"].to_string();
            let routed = said.status != 405 && !detail.contains("there is no path");
            assert!(routed, "{call}: {} {detail}", said.status);
            assert!(row.allow.split(", ").any(|allowed| allowed == method), "{call}");
        }
        let refused = client.send(&format!("PATCH {path}"), &[], "").await;
        let (status, _, detail) = refused.problem();
        assert!(status == 405 && detail.contains("PATCH"), "{path}: {status} {detail}");
        assert_eq!(refused.header("allow"), row.allow);
        let allows = |method: &str| row.call(&Method::from_bytes(method.as_bytes()).unwrap());
        for method in row.allow.split(", ") {
            assert!(allows(method).is_some(), "{method} {path}");
        }
    }
    client.node.stop().await;
}

#[tokio::test]
async fn what_nobody_takes_is_404_and_names_the_path() {
    let client = Client::start().await;
    let traced = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
    for path in ["/nomad", "/nomad/storage", "/nomad/storage/get", "/nomad/v1/x/y", "/x", "//"] {
        let said = client.send(&format!("GET {path}"), &traced, "").await;
        let (status, _, detail) = said.problem();
        assert!(status == 404 && detail.contains(path), "{path}: {status} {detail}");
        assert_eq!(said.header("nomad-request-id"), "4bf92f3577b34da6a3ce929d0e0e4736");
    }
    client.node.stop().await;
}

#[tokio::test]
async fn ids_in_paths_are_decoded_once_and_checked() {
    let client = Client::start().await;
    for (raw, id) in [
        ("a%2Fb", "a/b"),
        ("a/b", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("%68ealth", "health"),
        ("a+b", "a+b"),
        ("%C3%BC", "ü"),
        ("x/", "x/"),
    ] {
        let put = client.send(&format!("PUT /nomad/v1/objects/{raw}"), &[], raw).await;
        assert!(matches!(put.status, 201 | 204), "{raw}: {:?}", put.body);
        let object = client.get(&format!("/nomad/storage/get/{raw}")).await;
        assert_eq!(object.json()["id"], id, "{raw}");
    }
    let long = "x".repeat(1025);
    for (raw, named) in [
        ("", "empty"),
        ("%FF", "UTF-8"),
        ("a%00", "control"),
        ("%", "%25"),
        ("%zz", "%25"),
        ("a%2", "%25"),
        (&long, "1025"),
    ] {
        for call in
            ["GET /nomad/storage/get/", "DELETE /nomad/storage/delete/", "PUT /nomad/v1/objects/"]
        {
            let (status, field, detail) =
                client.send(&format!("{call}{raw}"), &[], "").await.problem();
            assert_eq!((status, &*field), (400, "id"), "{call}{raw}");
            assert!(detail.contains(named), "{call}{raw}: {detail}");
        }
    }
    client.node.stop().await;
}

#[tokio::test]
async fn an_object_lives_and_dies_over_the_older_paths() {
    let client = Client::start().await;
    let object = json!({ "id": "a", "value": "eyJ4IjoxfQ==", "ttl": NOW + 10 });
    let put = client.post("/nomad/storage/put", &object).await;
    assert_eq!((put.status, put.json()), (200, json!({ "result": true })));
    assert_eq!(put.header("nomad-durability"), "local");
    assert_eq!(put.header("content-type"), "application/json");
    let again = client.post("/nomad/group-storage/safe-put", &object).await;
    assert_eq!(again.status, 409);
    assert!(again.problem().2.contains("\"a\""));
    let found = client.get("/nomad/storage/get/a").await.json();
    assert_eq!((&found["creationTime"], &found["ttl"]), (&json!(NOW), &json!(NOW + 10)));
    let version = found["version"].as_str().unwrap();
    let update = json!({ "id": "a", "value": "", "version": version });
    assert_eq!(client.post("/nomad/storage/update", &update).await.status, 200);
    let stale = client.post("/nomad/storage/update", &update).await.problem();
    assert!(stale.0 == 412 && stale.2.contains(version), "{stale:?}");
    let quoted = format!("\"{version}\"");
    let headers = [("if-match", &*quoted), ("nomad-mode", "safe")];
    let body = json!({ "id": "a" }).to_string();
    assert_eq!(client.send("PUT /nomad/storage/update", &headers, body.clone()).await.status, 412);
    let any = [("if-match", "*"), ("nomad-mode", "safe")];
    let replaced = client.send("PUT /nomad/storage/update", &any, body).await;
    assert_eq!((replaced.status, replaced.header("nomad-durability")), (200, "quorum"));
    for result in [true, false] {
        let deleted = client.send("DELETE /nomad/storage/delete/a", &[], "").await;
        assert_eq!((deleted.status, deleted.json()), (200, json!({ "result": result })));
    }
    let missing = client.post("/nomad/storage/update", &json!({ "id": "a" })).await.problem();
    assert!(missing.0 == 404 && missing.2.contains("\"a\""), "{missing:?}");
    client.node.stop().await;
}

#[tokio::test]
async fn the_overlay_is_another_tier() {
    let client = Client::start().await;
    assert_eq!(client.post("/nomad/overlay-storage/put", &json!({ "id": "a" })).await.status, 200);
    assert_eq!(client.get("/nomad/overlay-storage/get/a").await.status, 200);
    assert_eq!(client.get("/nomad/storage/get/a").await.problem().0, 404);
    client.node.stop().await;
}

const OBJECT: &str = "/nomad/v1/objects/a";

#[tokio::test]
async fn conditions_of_the_resource_api() {
    let client = Client::start().await;
    let put =
        async |headers: &[(&str, &str)]| client.send(&format!("PUT {OBJECT}"), headers, "x").await;
    assert_eq!(put(&[("if-match", "*")]).await.problem().0, 412);
    let created = put(&[("if-none-match", "*")]).await;
    assert_eq!((created.status, created.header("location")), (201, OBJECT));
    let first = created.header("etag").to_owned();
    assert_eq!(put(&[("if-none-match", "*")]).await.problem().0, 412);
    let replaced =
        put(&[("if-match", &format!("\"0000000000000001-0000000000000001\", {first}"))]).await;
    assert_eq!((replaced.status, replaced.body.len()), (204, 0));
    assert_eq!(put(&[("if-match", &first)]).await.problem().0, 412);
    assert_eq!(
        put(&[("if-match", &format!("W/{}", replaced.header("etag")))]).await.problem().0,
        412
    );
    for (name, value) in [
        ("if-match", "abc"),
        ("if-match", "\"abc\""),
        ("if-none-match", "\"abc\""),
        ("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT"),
        ("nomad-ttl", "0"),
        ("nomad-ttl", "-5"),
        ("nomad-ttl", "9223372036854775807"),
        ("nomad-expires", "5"),
        ("nomad-mode", "parallel"),
        ("content-type", &"x".repeat(256)),
    ] {
        let (status, _, detail) = put(&[(name, value)]).await.problem();
        assert_eq!(status, 400, "{name}: {value}: {detail}");
    }
    assert_eq!(put(&[("nomad-ttl", "5"), ("nomad-expires", "1800000000")]).await.problem().0, 400);
    assert_eq!(put(&[("nomad-ttl", "5"), ("nomad-ttl", "6")]).await.problem().0, 400);
    let delete = async |headers: &[(&str, &str)]| {
        client.send(&format!("DELETE {OBJECT}"), headers, "").await
    };
    assert_eq!(delete(&[("if-match", &first)]).await.problem().0, 412);
    assert_eq!(delete(&[("if-match", "*")]).await.status, 204);
    assert_eq!(delete(&[]).await.problem().0, 404);
    assert_eq!(delete(&[("if-match", "*")]).await.problem().0, 412);
    client.node.stop().await;
}

/// Headers of a read, and the status and the body of its answer.
type Case<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);

#[tokio::test]
async fn a_read_answers_conditions_and_ranges() {
    let client = Client::start().await;
    let headers = [("content-type", "text/plain"), ("nomad-ttl", "100")];
    let tag = client.send(&format!("PUT {OBJECT}"), &headers, "0123456789").await;
    let tag = tag.header("etag");
    let get =
        async |headers: &[(&str, &str)]| client.send(&format!("GET {OBJECT}"), headers, "").await;
    let whole = get(&[]).await;
    assert_eq!((whole.status, &whole.body[..]), (200, &b"0123456789"[..]));
    for (name, value) in [
        ("content-type", "text/plain"),
        ("etag", tag),
        ("nomad-expires", "1750000100"),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
        ("nomad-durability", "local"),
        ("last-modified", "Sun, 15 Jun 2025 15:06:40 GMT"),
    ] {
        assert_eq!(whole.header(name), value, "{name}");
    }
    let modified = whole.header("last-modified");
    let weak = format!("W/{tag}");
    let table: [Case<'_>; 14] = [
        (&[("if-none-match", tag)], 304, ""),
        (&[("if-none-match", &weak)], 304, ""),
        (&[("if-none-match", "\"other\"")], 200, "0123456789"),
        // A tag beats a date.
        (&[("if-none-match", "\"other\""), ("if-modified-since", modified)], 200, "0123456789"),
        (&[("if-modified-since", modified)], 304, ""),
        (&[("if-modified-since", "Sat, 01 Jan 2000 00:00:00 GMT")], 200, "0123456789"),
        (&[("if-modified-since", "yesterday")], 200, "0123456789"),
        (&[("if-match", tag)], 200, "0123456789"),
        (&[("range", "bytes=2-3")], 206, "23"),
        (&[("range", "bytes=2-3"), ("if-range", tag)], 206, "23"),
        (&[("range", "bytes=2-3"), ("if-range", modified)], 206, "23"),
        (&[("range", "bytes=2-3"), ("if-range", "\"other\"")], 200, "0123456789"),
        (&[("range", "lines=2-3")], 200, "0123456789"),
        (&[("range", "bytes=2-3"), ("if-none-match", tag)], 304, ""),
    ];
    for (headers, status, body) in table {
        let said = get(headers).await;
        assert_eq!((said.status, &said.body[..]), (status, body.as_bytes()), "{headers:?}");
        assert_eq!(said.header("etag"), tag);
    }
    assert_eq!(get(&[("if-match", "\"other\"")]).await.problem().0, 412);
    assert_eq!(get(&[("if-match", "other")]).await.problem().0, 400);
    assert_eq!(get(&[("nomad-mode", "quick")]).await.problem().0, 400);
    let outside = get(&[("range", "bytes=10-")]).await;
    assert_eq!((outside.problem().0, outside.header("content-range")), (416, "bytes */10"));
    client.node.clock.advance_ms(100_000);
    assert_eq!(get(&[]).await.problem().0, 404);
    client.node.stop().await;
}

#[tokio::test]
async fn listings_go_page_by_page() {
    let client = Client::start().await;
    for n in 0..5 {
        client.send(&format!("PUT /nomad/v1/objects/p%2F{n}"), &[], "12").await;
    }
    client.send("PUT /nomad/v1/objects/q", &[], "").await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/nomad/v1/objects?prefix=p/&limit=2{cursor}")).await.json();
        let items = page["items"].as_array().unwrap().clone();
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        assert!(items.iter().all(|item| item["size"] == 2 && item["ttl"] == 0));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["p/0", "p/1", "p/2", "p/3", "p/4"]);
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=-1",
        "cursor=%FF",
        "cursor=!",
        "prefix=%FF",
        "limit=1&limit=2",
    ] {
        assert_eq!(
            client.get(&format!("/nomad/v1/objects?{query}")).await.problem().0,
            400,
            "{query}"
        );
    }
    let peers = client.get(&format!("{}?limit=4", listing::PEER_LEDGER.path())).await;
    assert_eq!(peers.json()[NODE].as_array().unwrap().len(), 4);
    let next = peers.header("nomad-next-cursor");
    let rest = client.get(&format!("{}?cursor={next}", listing::PEER_LEDGER.path())).await;
    let expected = json!([{ "id": "p/4", "ttl": 0 }, { "id": "q", "ttl": 0 }]);
    assert_eq!((rest.header("nomad-next-cursor"), &rest.json()[NODE]), ("", &expected));
    let objects = client.get(listing::OBJECT_LEDGER.path()).await.json();
    assert_eq!(objects["q"], json!([{ "id": NODE, "ttl": 0 }]));
    assert_eq!(objects.as_object().unwrap().len(), 6);
    client.node.stop().await;
}

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
    client.node.phase.send_replace(Phase::Draining);
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
    let request = client.post("/nomad/storage/put", &json!({ "id": "a" })).await;
    let request = request.header("nomad-request-id").to_owned();
    for query in ["object=a".to_owned(), format!("request={request}")] {
        let found = client.get(&format!("/nomad/debug/trace?{query}")).await.json();
        let steps = found["steps"].as_array().unwrap();
        let kinds: Vec<_> = steps.iter().map(|step| step["to"].as_str().unwrap()).collect();
        for to in ["local_store", "writer", "rest"] {
            assert!(kinds.contains(&to), "{kinds:?}");
        }
        assert!(steps.iter().all(|step| step["request"] == request.as_str()));
        assert_eq!(found["next"], steps.last().unwrap()["seq"]);
    }
    let last = client.get("/nomad/debug/trace?limit=1").await.json()["next"].clone();
    // Looking leaves no step, so there is nothing new until the next request.
    let none = client.get(&format!("/nomad/debug/trace?after={last}")).await.json();
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
    for body in [json!({}), json!({ "limit": 0 }), json!({ "limit": 10_001 })] {
        assert_eq!(client.post("/nomad/debug/trace", &body).await.problem().1, "limit", "{body}");
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
async fn bodies_have_their_limits() {
    let mut config = Config::default();
    config.node.storage.max_object_bytes = 1_000;
    let client = Client::with(config).await;
    let put = format!("PUT {OBJECT}");
    assert_eq!(client.send(&put, &[], vec![b'x'; 1_001]).await.problem().0, 413);
    assert_eq!(client.send(&put, &[], vec![b'x'; 1_000]).await.status, 201);
    let large = "A".repeat(1_336);
    let (status, field, detail) =
        client.post("/nomad/storage/put", &json!({ "id": "b", "value": large })).await.problem();
    assert_eq!((status, &*field), (413, "value"));
    assert!(detail.contains("1002") && detail.contains("1000"), "{detail}");
    let xml = [("content-type", "application/xml")];
    let (status, _, detail) = client.send("POST /nomad/storage/put", &xml, "<a/>").await.problem();
    assert!(status == 415 && detail.contains("application/xml"), "{detail}");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(client.send("POST /nomad/storage/put", &form, r#"{"id":"c"}"#).await.status, 200);
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

#[tokio::test]
async fn a_busy_node_can_still_be_looked_at() {
    let client = Client::start().await;
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/nomad/storage/get/health",
        "/nomad/v1/status",
        "/nomad/debug/actors",
        "/nomad/debug/trace",
    ] {
        assert!(client.edge.is_exempt(path), "{path}");
    }
    for path in ["/nomad/storage/get/a", "/nomad/v1/objects/healthz", "/", "/nomad/v1/statuses"] {
        assert!(!client.edge.is_exempt(path), "{path}");
    }
    client.node.stop().await;
}

#[test]
fn a_head_is_a_get_where_it_has_no_call_of_its_own() {
    let row = Row::get(&["GET /a/{id}"]);
    assert_eq!(row.call(&Method::HEAD), Some("GET /a/{id}"));
    assert_eq!(row.call(&Method::from_bytes(b"GE").unwrap()), None);
    assert_eq!(row.path(), "/a/{id}");
}

/// warp cannot take such a request, so the edge answers it itself.
#[tokio::test]
async fn a_request_for_a_host_and_no_path_is_405() {
    let client = Client::start().await;
    let request = Request::connect("a:80").body(()).unwrap();
    assert!(request.uri().path_and_query().is_none());
    let response = client.edge.refuse_without_path(&request);
    assert_eq!(response.status(), 405);
    assert!(response.headers().contains_key("allow"));
    client.node.stop().await;
}
