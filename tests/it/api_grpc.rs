//! The two storage services over gRPC, each rpc with a generated client, and what it wrote read back through the other
//! edge where that shows more.

use std::time::Duration;

use crate::support::{
    grpc::{assert_metadata, bad_field, group, in_mode, object, overlay, refused},
    http::segment,
    node::{Node, Shared},
    unique, unix_now,
};
use bytes::Bytes;
use nomad_proto::{
    groupstorage::{
        AddToGroupLedgerRequest, DeleteObjectRequest, GetObjectRequest, PutObjectRequest,
        RemovePeerGroupLedgerRequest, UpdateObjectRequest,
        group_storage_service_client::GroupStorageServiceClient,
        health_check_response::ServingStatus,
    },
    models::GameObjectGrpc,
    peerstorage,
};
use tonic::{Code, transport::Channel};

static NODE: Shared = Shared::new();

fn put_of(object: GameObjectGrpc) -> PutObjectRequest {
    PutObjectRequest { object: Some(object) }
}

fn update_of(object: GameObjectGrpc) -> UpdateObjectRequest {
    UpdateObjectRequest { object: Some(object) }
}

fn delete_of(id: &str) -> DeleteObjectRequest {
    DeleteObjectRequest { id: id.to_owned(), ..Default::default() }
}

/// A peer id of a node that does not exist.
fn unknown_peer_id() -> String {
    libp2p_identity::Keypair::generate_ed25519().public().to_peer_id().to_string()
}

type Group = GroupStorageServiceClient<Channel>;

async fn put(client: &mut Group, id: &str, value: &str) -> bool {
    let object = object(id, Bytes::copy_from_slice(value.as_bytes()));
    client.put(put_of(object)).await.unwrap().into_inner().result
}

async fn get(client: &mut Group, id: &str) -> Option<GameObjectGrpc> {
    let found = client.get(GetObjectRequest { id: id.to_owned() }).await.unwrap().into_inner();
    assert_eq!(found.result, found.object.is_some(), "{found:?}");
    found.object
}

#[tokio::test]
async fn put_and_get_carry_the_whole_object() {
    let (node, id, before) = (NODE.get(), unique("whole"), unix_now());
    let mut client = group(&node).await;
    let sent = GameObjectGrpc {
        creation_time: 1_700_000_000,
        ttl: before + 1_000,
        last_modified: 5,
        content_type: "text/plain".to_owned(),
        ..object(&id, "body")
    };
    let answer = client.put(put_of(sent.clone())).await.unwrap();
    assert_metadata(&answer, "local");
    assert!(answer.into_inner().result);
    let answer = client.get(GetObjectRequest { id: id.clone() }).await.unwrap();
    assert_metadata(&answer, "local");
    let found = answer.into_inner().object.unwrap();
    assert!((before..=unix_now()).contains(&found.last_modified), "{found:?}");
    assert!(!found.version.is_empty());
    // The version is the ETag of the other edge.
    let rest = node.http().get(&format!("/nomad/v1/objects/{}", segment(&id))).await.expect(200);
    assert_eq!(rest.header("etag"), format!("\"{}\"", found.version));
    assert_eq!((rest.header("content-type"), &rest.body[..]), ("text/plain", &b"body"[..]));
    let unset = GameObjectGrpc { last_modified: 5, version: String::new(), ..found };
    assert_eq!(unset, sent);
}

#[tokio::test]
async fn put_of_an_id_that_exists_answers_false_and_changes_nothing() {
    let (node, id) = (NODE.get(), unique("twice"));
    let mut client = group(&node).await;
    assert!(put(&mut client, &id, "first").await);
    assert!(!put(&mut client, &id, "second").await);
    assert_eq!(get(&mut client, &id).await.unwrap().value, "first");
}

#[tokio::test]
async fn get_update_and_delete_of_a_missing_object_answer_false() {
    let (node, id) = (NODE.get(), unique("missing"));
    let mut client = group(&node).await;
    assert_eq!(get(&mut client, &id).await, None);
    assert!(!client.update(update_of(object(&id, "x"))).await.unwrap().into_inner().result);
    assert!(!client.delete(delete_of(&id)).await.unwrap().into_inner().result);
    assert_eq!(get(&mut client, &id).await, None, "nothing was created");
}

#[tokio::test]
async fn update_replaces_but_keeps_the_creation_time() {
    let (node, id) = (NODE.get(), unique("update"));
    let (mut client, ttl) = (group(&node).await, unix_now() + 900);
    let old = GameObjectGrpc { creation_time: 1_700_000_000, ..object(&id, "old") };
    client.put(put_of(old)).await.unwrap();
    let first = get(&mut client, &id).await.unwrap();
    let new = GameObjectGrpc { creation_time: 5, ttl, ..object(&id, "new") };
    let answer = client.update(update_of(new)).await.unwrap();
    assert_metadata(&answer, "local");
    assert!(answer.into_inner().result);
    let second = get(&mut client, &id).await.unwrap();
    assert_eq!(second.value, "new");
    assert_eq!((second.creation_time, second.ttl), (1_700_000_000, ttl));
    assert!(second.last_modified >= first.last_modified);
    assert_ne!(second.version, first.version);
}

#[tokio::test]
async fn delete_removes() {
    let (node, id) = (NODE.get(), unique("delete"));
    let mut client = group(&node).await;
    put(&mut client, &id, "x").await;
    let answer = client.delete(delete_of(&id)).await.unwrap();
    assert_metadata(&answer, "local");
    assert!(answer.into_inner().result);
    assert_eq!(get(&mut client, &id).await, None);
    assert!(!client.delete(delete_of(&id)).await.unwrap().into_inner().result);
    assert!(put(&mut client, &id, "again").await);
}

#[tokio::test]
async fn a_version_in_update_and_delete_is_a_condition() {
    let (node, id) = (NODE.get(), unique("version"));
    let mut client = group(&node).await;
    put(&mut client, &id, "one").await;
    let stale = get(&mut client, &id).await.unwrap().version;
    let with = |version: &str, value: &'static str| {
        update_of(GameObjectGrpc { version: version.to_owned(), ..object(&id, value) })
    };
    assert!(client.update(with(&stale, "two")).await.unwrap().into_inner().result);
    refused(client.update(with(&stale, "three")).await, Code::FailedPrecondition, &stale);
    let conditional =
        |version: &str| DeleteObjectRequest { id: id.clone(), version: version.into() };
    refused(client.delete(conditional(&stale)).await, Code::FailedPrecondition, &stale);
    let found = get(&mut client, &id).await.unwrap();
    assert_eq!(found.value, "two");
    assert!(client.delete(conditional(&found.version)).await.unwrap().into_inner().result);
    assert_eq!(get(&mut client, &id).await, None);
    // A version of something that is not there can hold no more than its absence.
    assert!(!client.delete(delete_of(&id)).await.unwrap().into_inner().result);
}

#[tokio::test]
async fn the_mode_in_the_metadata_is_of_this_call_alone() {
    let (node, id) = (NODE.get(), unique("mode"));
    let mut client = group(&node).await;
    let answer = client.put(in_mode("safe", put_of(object(&id, "x")))).await.unwrap();
    assert_metadata(&answer, "quorum");
    for mode in ["fast", "safe", "parallel"] {
        let answer = client.get(in_mode(mode, GetObjectRequest { id: id.clone() })).await.unwrap();
        assert_metadata(&answer, "local");
        assert_eq!(answer.into_inner().object.unwrap().value, "x");
    }
    let answer = client.update(in_mode("safe", update_of(object(&id, "y")))).await.unwrap();
    assert_metadata(&answer, "quorum");
    assert_metadata(&client.update(update_of(object(&id, "z"))).await.unwrap(), "local");
    let answer = client.delete(in_mode("safe", delete_of(&id))).await.unwrap();
    assert_metadata(&answer, "quorum");
    refused(
        client.put(in_mode("parallel", put_of(object(&id, "x")))).await,
        Code::InvalidArgument,
        "parallel",
    );
    refused(
        client.get(in_mode("quick", GetObjectRequest { id: id.clone() })).await,
        Code::InvalidArgument,
        "quick",
    );
    assert_eq!(get(&mut client, &id).await, None);
}

#[tokio::test]
async fn the_request_id_is_the_callers_trace_id() {
    let (node, trace) = (NODE.get(), "0af7651916cd43dd8448eb211c80319c");
    let mut client = group(&node).await;
    let mut request = tonic::Request::new(GetObjectRequest { id: unique("traced") });
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    assert_eq!(assert_metadata(&client.get(request).await.unwrap(), "local"), trace);
}

#[tokio::test]
async fn add_to_group_ledger_knows_what_this_node_holds() {
    let (node, id) = (NODE.get(), unique("ledger"));
    let (mut client, me) = (group(&node).await, node.id().await);
    put(&mut client, &id, "x").await;
    let entry = |object: &str, peer: &str| AddToGroupLedgerRequest {
        object_id: object.to_owned(),
        peer_id: peer.to_owned(),
        ttl: 0,
    };
    // This node holds it already: a duplicate.
    assert!(!client.add_to_group_ledger(entry(&id, &me)).await.unwrap().into_inner().result);
    let missing = unique("not-held");
    let answer = client.add_to_group_ledger(entry(&missing, &me)).await;
    refused(answer, Code::FailedPrecondition, &missing);
    let stranger = unknown_peer_id();
    let answer = client.add_to_group_ledger(entry(&id, &stranger)).await;
    refused(answer, Code::FailedPrecondition, &stranger);
    bad_field(client.add_to_group_ledger(entry("", &me)).await, "objectId", "id");
    bad_field(client.add_to_group_ledger(entry("a\nb", &me)).await, "objectId", "control");
    let ledger = node.http().get("/nomad/storage/get/object-ledger").await.ok();
    let holders = ledger[&id].as_array().unwrap();
    assert_eq!(holders.len(), 1, "{ledger}");
    assert_eq!(holders[0]["id"], me);
    assert!(ledger[&missing].is_null(), "{ledger}");
}

#[tokio::test]
async fn remove_peer_group_ledger_removes_no_stranger_and_not_itself() {
    let node = NODE.get();
    let (mut client, me) = (group(&node).await, node.id().await);
    let of = |peer: &str| RemovePeerGroupLedgerRequest { peer_id: peer.to_owned() };
    let answer = client.remove_peer_group_ledger(of(&unknown_peer_id())).await.unwrap();
    assert!(!answer.into_inner().result);
    let answer = client.remove_peer_group_ledger(of(&me)).await;
    refused(answer, Code::FailedPrecondition, &me);
    let answer = client.remove_peer_group_ledger(of("")).await;
    refused(answer, Code::InvalidArgument, "peer");
}

#[tokio::test]
async fn health_check_says_serving() {
    let node = NODE.get();
    let answer = group(&node).await.health_check(()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn health_check_watch_tells_the_change_when_the_node_drains() {
    let mut node = Node::start();
    let mut client = group(&node).await;
    let mut watch = client.health_check_watch(()).await.unwrap().into_inner();
    let limit = Duration::from_secs(10);
    let first =
        crate::support::within("the status now", limit, watch.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    node.signal(rustix::process::Signal::TERM);
    let second =
        crate::support::within("the change", limit, watch.message()).await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
    // An open watch holds no drain up.
    assert_eq!(node.exited(limit).await.code(), Some(0));
}

#[tokio::test]
async fn the_overlay_tier_does_all_four() {
    let (node, id, before) = (NODE.get(), unique("overlay"), unix_now());
    let mut client = overlay(&node).await;
    let get = |id: &str| peerstorage::GetObjectRequest { id: id.to_owned() };
    let put = |object| peerstorage::PutObjectRequest { object: Some(object) };
    let update = |object| peerstorage::UpdateObjectRequest { object: Some(object) };
    let delete = |version: &str| peerstorage::DeleteObjectRequest {
        id: id.clone(),
        version: version.to_owned(),
    };
    let absent = client.get(get(&id)).await.unwrap().into_inner();
    assert!(!absent.result && absent.object.is_none());
    assert!(!client.update(update(object(&id, "x"))).await.unwrap().into_inner().result);
    assert!(!client.delete(delete("")).await.unwrap().into_inner().result);
    let sent =
        GameObjectGrpc { creation_time: 1_700_000_000, ttl: before + 900, ..object(&id, "one") };
    assert!(client.put(put(sent.clone())).await.unwrap().into_inner().result);
    assert!(!client.put(put(sent)).await.unwrap().into_inner().result);
    let found = client.get(get(&id)).await.unwrap().into_inner().object.unwrap();
    assert_eq!(found.value, "one");
    assert_eq!((found.creation_time, found.ttl), (1_700_000_000, before + 900));
    assert!(found.last_modified >= before && !found.version.is_empty());
    assert!(client.update(update(object(&id, "two"))).await.unwrap().into_inner().result);
    let rest = format!("/nomad/overlay-storage/get/{}", segment(&id));
    let object = node.http().get(&rest).await.ok();
    assert_eq!(crate::support::json::value_of(&object), b"two");
    refused(client.delete(delete(&found.version)).await, Code::FailedPrecondition, &found.version);
    assert!(client.delete(delete("")).await.unwrap().into_inner().result);
    assert!(!client.get(get(&id)).await.unwrap().into_inner().result);
    node.http().get(&rest).await.problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn the_overlay_tier_checks_its_input() {
    let node = NODE.get();
    let mut client = overlay(&node).await;
    let empty = peerstorage::GetObjectRequest { id: String::new() };
    bad_field(client.get(empty).await, "id", "id");
    let past = GameObjectGrpc { ttl: 3_600, ..object(&unique("past"), "x") };
    let past = peerstorage::PutObjectRequest { object: Some(past) };
    bad_field(client.put(past).await, "ttl", "3600");
    let nothing = peerstorage::UpdateObjectRequest { object: None };
    bad_field(client.update(nothing).await, "object", "object");
}
