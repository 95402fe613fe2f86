//! The edge over real actors and a store in memory: what each request is decoded to, and what it is answered with.

mod groups;
mod node;
mod objects;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use super::{
    RestEdge, about, actors, edge, leave, listing, openapi, row::RouteRow, settings, storage, trace,
};
use crate::{listener::Edge as _, test_backend::TestNode};
use nomad_config::Config;

/// The rows that the OpenAPI document describes.
pub(in crate::rest) static DOCUMENTED: [&RouteRow; 32] = [
    &storage::GET,
    &super::objects::OBJECT,
    &storage::PUT,
    &storage::UPDATE,
    &storage::DELETE,
    &storage::FAST_PUT,
    &storage::SAFE_PUT,
    &storage::FAST_GET,
    &storage::PARALLEL_GET,
    &storage::SAFE_GET,
    &storage::OVERLAY_PUT,
    &storage::OVERLAY_GET,
    &listing::OBJECTS,
    &listing::PEER_LEDGER,
    &listing::OBJECT_LEDGER,
    &settings::STORAGE,
    &settings::RETRIEVAL,
    &settings::MIGRATION,
    &settings::REPLICATION_FACTOR,
    &about::STORAGE_HEALTH,
    &about::STATUS,
    &about::GROUPS,
    &about::GROUP,
    &leave::LEAVE,
    &about::HEALTHZ,
    &about::READYZ,
    &about::METRICS,
    &actors::ACTORS,
    &actors::KILL,
    &trace::TRACE,
    &trace::CAPTURE,
    &openapi::OPENAPI,
];

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
        Self::of(TestNode::start_with(config).await)
    }

    fn of(node: TestNode) -> Self {
        Self { edge: edge(node.backend.clone()), node }
    }

    async fn send(&self, call: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Said {
        let (method, path) = call.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.edge.answer(request).await;
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
    let row = RouteRow::get(&["GET /a/{id}"]);
    assert_eq!(row.call(&Method::HEAD), Some("GET /a/{id}"));
    assert_eq!(row.call(&Method::from_bytes(b"GE").unwrap()), None);
    assert_eq!(row.path(), "/a/{id}");
}

#[tokio::test]
async fn a_foreign_page_writes_nothing_and_a_foreign_name_reads_nothing() {
    let client = Client::start().await;
    let (foreign, host) = (("origin", "http://evil.example"), ("host", "127.0.0.1:8080"));
    let object = r#"{"id":"a"}"#;
    for call in ["POST /nomad/storage/put", "PUT /nomad/v1/objects/a", "DELETE /nomad/v1/objects/a"]
    {
        let (status, field, detail) = client.send(call, &[host, foreign], object).await.problem();
        assert_eq!((status, &*field), (403, "Origin"), "{call}");
        assert!(detail.contains("http://evil.example"), "{detail}");
    }
    let renamed = client.send("GET /metrics", &[("host", "evil.example:8080")], "").await;
    let (status, field, detail) = renamed.problem();
    assert!(status == 403 && field == "Host" && detail.contains("evil.example:8080"), "{detail}");
    let own = [host, ("origin", "http://127.0.0.1:8080")];
    assert_eq!(client.send("POST /nomad/storage/put", &own, object).await.status, 200);
    client.node.stop().await;
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
