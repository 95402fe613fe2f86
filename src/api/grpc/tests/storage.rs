//! The four calls on objects, in both tiers.

use bytes::Bytes;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{GROUP, OVERLAY, call, call_with, edges, send};
use crate::{
    grpc::GrpcEdge,
    test_backend::{NOW, TestNode},
};
use nomad_core::model::trace::TraceId;
use nomad_proto::{
    groupstorage::{
        DeleteObjectRequest, DeleteObjectResponse, GetObjectRequest, GetObjectResponse,
        PutObjectRequest, PutObjectResponse, UpdateObjectRequest, UpdateObjectResponse,
    },
    models::GameObjectGrpc,
};

fn object(id: &str, value: &'static [u8]) -> GameObjectGrpc {
    let value = Bytes::from_static(value);
    GameObjectGrpc { id: id.into(), creation_time: 5, value, ..GameObjectGrpc::default() }
}

struct Client {
    edge: GrpcEdge,
    service: &'static str,
}

impl Client {
    async fn get(&self, id: &str) -> Option<GameObjectGrpc> {
        let path = format!("{}/get", self.service);
        let message = GetObjectRequest { id: id.into() };
        let answer: GetObjectResponse = call(&self.edge, &path, &message).await.unwrap();
        assert_eq!(answer.result, answer.object.is_some());
        answer.object
    }

    async fn put(&self, object: GameObjectGrpc) -> Result<bool, tonic::Status> {
        let path = format!("{}/put", self.service);
        let message = PutObjectRequest { object: Some(object) };
        let answer: PutObjectResponse = call(&self.edge, &path, &message).await?;
        Ok(answer.result)
    }

    async fn update(&self, object: GameObjectGrpc) -> Result<bool, tonic::Status> {
        let path = format!("{}/update", self.service);
        let message = UpdateObjectRequest { object: Some(object) };
        let answer: UpdateObjectResponse = call(&self.edge, &path, &message).await?;
        Ok(answer.result)
    }

    async fn delete(&self, id: &str, version: &str) -> Result<bool, tonic::Status> {
        let path = format!("{}/delete", self.service);
        let message = DeleteObjectRequest { id: id.into(), version: version.into() };
        let answer: DeleteObjectResponse = call(&self.edge, &path, &message).await?;
        Ok(answer.result)
    }
}

#[tokio::test]
async fn an_object_is_created_read_replaced_and_removed_in_each_tier_by_itself() {
    let node = TestNode::start().await;
    let (edge, _) = edges(&node);
    let group = Client { edge: edge.clone(), service: GROUP };
    let overlay = Client { edge, service: OVERLAY };
    for (client, other) in [(&group, &overlay), (&overlay, &group)] {
        assert!(!client.update(object("a", b"x")).await.unwrap());
        assert!(client.put(object("a", b"one")).await.unwrap());
        assert!(!client.put(object("a", b"two")).await.unwrap());
        let kept = client.get("a").await.unwrap();
        assert_eq!((&kept.value[..], kept.creation_time, kept.ttl), (&b"one"[..], 5, 0));
        assert_eq!(kept.last_modified, NOW as i64);
        assert_eq!(other.get("a").await, None);
        let replaced = GameObjectGrpc { creation_time: 77, ..object("a", b"two") };
        assert!(client.update(replaced).await.unwrap());
        let now = client.get("a").await.unwrap();
        assert_eq!((&now.value[..], now.creation_time), (&b"two"[..], 5));
        assert!(now.version > kept.version);
        assert!(client.delete("a", "").await.unwrap());
        assert!(!client.delete("a", "").await.unwrap());
        assert_eq!(client.get("a").await, None);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_named_version_guards_an_update_and_a_delete() {
    let node = TestNode::start().await;
    let client = Client { edge: edges(&node).0, service: GROUP };
    client.put(object("a", b"one")).await.unwrap();
    let version = client.get("a").await.unwrap().version;
    let at = |version: &str| GameObjectGrpc { version: version.into(), ..object("a", b"two") };
    assert!(client.update(at(&version)).await.unwrap());
    for refused in [client.update(at(&version)).await, client.delete("a", &version).await] {
        let status = refused.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(&version), "{status}");
    }
    let status = client.update(at("7")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "object.version");
    let version = client.get("a").await.unwrap().version;
    assert!(client.delete("a", &version).await.unwrap());
    assert!(!client.delete("a", &version).await.unwrap());
    node.stop().await;
}

#[tokio::test]
async fn a_refused_object_is_not_kept_and_the_status_names_field_and_value() {
    let node = TestNode::start().await;
    let client = Client { edge: edges(&node).0, service: GROUP };
    let max = node.backend.config.node.storage.max_object_bytes as usize;
    let large = GameObjectGrpc { value: vec![0; max + 1].into(), ..object("b", b"") };
    let passed = GameObjectGrpc { ttl: 60, ..object("b", b"") };
    let negative = GameObjectGrpc { ttl: -1, ..object("b", b"") };
    let huge = GameObjectGrpc { value: vec![0; max + (70 << 10)].into(), ..object("b", b"") };
    let table = [
        (large, Some("object.value"), "TOO_LARGE", max.to_string()),
        (passed, Some("object.ttl"), "INVALID_ARGUMENT", "ttl 60".to_owned()),
        (negative, Some("object.ttl"), "INVALID_ARGUMENT", "-1".to_owned()),
        (huge, None, "TOO_LARGE", (max + (64 << 10)).to_string()),
    ];
    for (object, field, reason, text) in table {
        let status = client.put(object).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(&text), "{status}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, reason);
        let at = details.bad_request().map(|bad| bad.field_violations[0].field.as_str());
        assert_eq!(at, field);
    }
    assert_eq!(client.get("b").await, None);
    let whole = GameObjectGrpc { value: vec![1; max].into(), ..object("b", b"") };
    assert!(client.put(whole).await.unwrap());
    assert_eq!(client.get("b").await.unwrap().value.len(), max);
    node.stop().await;
}

#[tokio::test]
async fn answers_and_errors_carry_the_request_and_how_durable_they_are() {
    let node = TestNode::start().await;
    let (edge, _) = edges(&node);
    let put = |id: &str| PutObjectRequest { object: Some(object(id, b"v")) };
    let path = format!("{GROUP}/put");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let safe = [("nomad-mode", "safe"), ("traceparent", parent.as_str())];
    let (head, answer) = call_with::<PutObjectResponse>(&edge, &path, &safe, &put("a")).await;
    assert!(answer.unwrap().result);
    assert_eq!(head["nomad-durability"], "quorum");
    assert_eq!(head["nomad-request-id"], trace);
    let (head, _) = call_with::<PutObjectResponse>(&edge, &path, &[], &put("b")).await;
    assert_eq!(head["nomad-durability"], "local");
    let id: TraceId = head["nomad-request-id"].to_str().unwrap().parse().unwrap();
    assert_ne!(id, TraceId(0));

    let parallel = [("nomad-mode", "parallel")];
    let (head, answer) = call_with::<PutObjectResponse>(&edge, &path, &parallel, &put("c")).await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = status.get_details_request_info().unwrap().request_id;
    assert_eq!(head["nomad-request-id"], request.as_str());
    assert_eq!(head["nomad-durability"], "local");
    let (head, answer) = send(&edge, "/no/such", &[], Bytes::new()).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(head["nomad-durability"], "local");
    let get = GetObjectRequest { id: "c".into() };
    let path = format!("{GROUP}/get");
    let (head, answer) = call_with::<GetObjectResponse>(&edge, &path, &parallel, &get).await;
    assert!(!answer.unwrap().result);
    assert_eq!(head["nomad-durability"], "local");
    node.stop().await;
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_deadline_exceeded_and_a_broken_one_is_refused() {
    let node = TestNode::start().await;
    let (edge, _) = edges(&node);
    let path = format!("{GROUP}/put");
    let put = PutObjectRequest { object: Some(object("a", b"v")) };
    for (timeout, code) in [("0n", Code::DeadlineExceeded), ("soon", Code::InvalidArgument)] {
        let headers = [("grpc-timeout", timeout)];
        let (_, answer) = call_with::<PutObjectResponse>(&edge, &path, &headers, &put).await;
        assert_eq!(answer.unwrap_err().code(), code, "{timeout}");
    }
    let client = Client { edge, service: GROUP };
    assert_eq!(client.get("a").await, None);
    node.stop().await;
}

#[tokio::test]
async fn each_call_is_recorded_once_with_its_code() {
    let node = TestNode::start().await;
    let client = Client { edge: edges(&node).0, service: OVERLAY };
    client.put(object("a", b"v")).await.unwrap();
    client.put(object("", b"v")).await.unwrap_err();
    let figures = node.backend.metrics.encode();
    for code in [0, 3] {
        let labels = format!(r#"operation="PeerStorageService/put",code="{code}"}} 1"#);
        assert!(figures.contains(&labels), "{figures}");
    }
    node.stop().await;
}
