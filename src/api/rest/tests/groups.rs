//! What a client sees of groups: status, readiness, groups, leaving, and what is refused for want of a group or of replicas.

use serde_json::json;

use super::Client;
use crate::test_backend::{NODE, NOW, TestNode};
use nomad_core::{
    group::{
        control::{ControlError, ControlRequest},
        offer::Offer,
        view::{Liveness, RoleState, Sighting},
    },
    model::node_id::NodeId,
    world::Position,
};

#[tokio::test]
async fn the_status_shows_every_member_as_it_looks_from_here() {
    let client = Client::start().await;
    let other = NodeId::from_key([8; 32]);
    client.node.add_member(8);
    let status = client.get("/nomad/v1/status").await.json();
    assert_eq!((&status["ready"], &status["reason"]), (&json!(true), &json!(null)));
    assert_eq!((&status["superPeer"], &status["epoch"]), (&json!(NODE), &json!(3)));
    let members = status["members"].as_array().unwrap();
    let of = |id: &str| members.iter().find(|member| member["nodeId"] == id).unwrap();
    let expected = json!({
        "nodeId": other.to_string(), "role": "peer", "state": "alive", "voter": true,
        "rest": "a:80", "peer": "a:81", "storage": "a:82",
        "position": { "x": 0.0, "y": 0.0 }, "lastSeen": NOW * 1000,
    });
    assert_eq!(*of(&other.to_string()), expected);
    let me = of(NODE);
    assert_eq!((&me["role"], &me["state"]), (&json!("super-peer"), &json!("alive")));
    assert_eq!(me["lastSeen"], json!(null));

    let dead = Sighting { liveness: Liveness::Dead, last_seen: None };
    client.node.change(|view| {
        view.sightings.insert(other, dead);
        view.super_peer = None;
        view.state = RoleState::Electing;
        view.has_majority = false;
    });
    let status = client.get("/nomad/v1/status").await.json();
    assert_eq!((&status["superPeer"], &status["ready"]), (&json!(null), &json!(true)));
    assert_eq!((&status["role"], &status["state"]), (&json!("peer"), &json!("electing")));
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("no majority: 1 of its 2 voters"), "{reason}");
    assert_eq!(client.get("/readyz").await.status, 200, "fast mode goes on");
    let metrics = String::from_utf8(client.get("/metrics").await.body.to_vec()).unwrap();
    for line in [
        "nomad_group_members 2.0",
        "nomad_group_dead_members 1.0",
        "nomad_group_majority 0.0",
        "nomad_group_joins_total 1",
        "nomad_role{state=\"electing\"} 1.0",
        "nomad_role{state=\"peer\"} 0.0",
        "nomad_ready 1.0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    client.node.stop().await;
}

#[tokio::test]
async fn without_a_group_the_node_is_not_ready_and_serves_no_objects_of_one() {
    let client = Client::start().await;
    assert_eq!(client.post("/nomad/storage/put", &json!({ "id": "a" })).await.status, 200);
    client.node.change(|view| {
        view.state = RoleState::Discovering;
        view.table = None;
        view.super_peer = None;
    });
    let (status, _, detail) = client.get("/readyz").await.problem();
    assert_eq!((status, detail.as_str()), (503, "looking for a group"));
    let document = client.get("/nomad/v1/status").await.json();
    assert_eq!((&document["group"], &document["members"]), (&json!(null), &json!([])));
    assert_eq!(document["reason"], "looking for a group");
    assert_eq!(client.get("/nomad/v1/groups").await.json(), json!({ "groups": [] }));
    for refused in [
        client.get("/nomad/v1/objects/a").await,
        client.get("/nomad/v1/objects").await,
        client.get("/nomad/storage/get/object-ledger").await,
        client.send("PUT /nomad/v1/objects/a", &[], "x").await,
        client.send("DELETE /nomad/storage/delete/a", &[], "").await,
        client.post("/nomad/group-storage/safe-put", &json!({ "id": "b" })).await,
    ] {
        let (status, _, detail) = refused.problem();
        assert!(status == 503 && detail.contains("no group yet"), "{status} {detail}");
        assert_eq!(refused.header("retry-after"), "1");
    }
    let kept = client.post("/nomad/overlay-storage/put", &json!({ "id": "a" })).await;
    assert_eq!(kept.status, 200);
    client.node.stop().await;
}

#[tokio::test]
async fn a_fast_write_needs_no_other_member_and_is_read_here_at_once() {
    let client = Client::start().await;
    client.node.add_member(8);
    let put = client.send("PUT /nomad/v1/objects/a", &[], "x").await;
    assert_eq!((put.status, put.header("nomad-durability")), (201, "local"));
    let got = client.get("/nomad/v1/objects/a").await;
    assert_eq!((got.status, got.header("etag")), (200, put.header("etag")));
    let again = client.post("/nomad/group-storage/fast-put", &json!({ "id": "a" })).await;
    assert_eq!(again.problem().0, 409);
    let deleted = client.send("DELETE /nomad/v1/objects/a", &[], "").await;
    assert_eq!((deleted.status, deleted.header("nomad-durability")), (204, "local"));
    assert_eq!(client.get("/nomad/v1/objects/a").await.status, 404);
    client.node.stop().await;
}

#[tokio::test]
async fn groups_are_the_own_one_and_those_that_were_heard_of() {
    let client = Client::start().await;
    let offer = |group: &str| Offer {
        group: group.into(),
        super_peer: NodeId::from_key([9; 32]),
        peer: "b:1".into(),
        site: Position { x: 1.0, y: 2.0 },
        members: 4,
        capacity: 6,
        permanent: true,
        epoch: 11,
        seq: 1,
    };
    // What was heard of the own group is older than what the node knows of it.
    *client.node.known.lock().unwrap() = vec![offer("group-b"), offer("group-TestNode")];
    let groups = client.get("/nomad/v1/groups").await.json();
    let other = json!({
        "name": "group-b", "superPeer": NodeId::from_key([9; 32]).to_string(), "members": 4,
        "capacity": 6, "epoch": 11, "site": { "x": 1.0, "y": 2.0 },
    });
    let own = json!({
        "name": "group-TestNode", "superPeer": NODE, "members": 1,
        "capacity": 5, "epoch": 1, "site": { "x": 5.0, "y": 5.0 },
    });
    assert_eq!(groups, json!({ "groups": [own, other] }));
    let one = client.get("/nomad/v1/groups/group-b").await.json();
    assert_eq!(one["groups"], json!([groups["groups"][1]]));
    assert_eq!(client.get("/nomad/v1/groups/group-c").await.problem().0, 404);
    client.node.stop().await;
}

#[tokio::test]
async fn leaving_is_asked_of_membership() {
    let client = Client::of(TestNode::scripted().await);
    let leave =
        async |headers: &[(&str, &str)]| client.send("POST /nomad/v1/leave", headers, "").await;
    let said = leave(&[]).await;
    assert_eq!((said.status, said.json()), (202, json!({ "group": "group-TestNode" })));
    assert_eq!(*client.node.membership.asked.lock().unwrap(), [ControlRequest::Leave]);
    let only = ControlError::OnlyMember { node: NODE.into(), group: "group-TestNode".into() };
    client.node.membership.answers.lock().unwrap().push_back(Err(only));
    let (status, _, detail) = leave(&[]).await.problem();
    assert!(status == 412 && detail.contains("only member"), "{status} {detail}");
    let foreign = [("host", "127.0.0.1:8080"), ("origin", "http://evil.example")];
    assert_eq!(leave(&foreign).await.problem().0, 403, "another page may not");
    assert_eq!(client.node.membership.asked.lock().unwrap().len(), 2);

    client.node.change(|view| view.state = RoleState::Leaving);
    let status = client.get("/nomad/v1/status").await.json();
    assert_eq!((&status["ready"], &status["state"]), (&json!(false), &json!("leaving")));
    assert_eq!(status["members"][0]["state"], "leaving");
    client.node.stop().await;
}
