//! The two control services over gRPC, on a node that is alone in its group. Each rpc answers correctly for a group of one. What
//! needs a second node is refused, and the message says so.

use std::fmt::Debug;

use crate::support::{
    grpc::{group, object, peer, refused, super_peer},
    node::{Node, Shared},
    unique,
};
use nomad_proto::{
    groupstorage::PutObjectRequest,
    peerservice::{AddPeerRequest, RemovePeerRequest, RepairObjectRequest as RepairObjects},
    superpeerservice::{
        AddObjectRequest, JoinRequest, LeaveRequest, MigrationRequest, NotifyPeersRequest,
        PingRequest, PositionUpdateRequest, RemovePeerGroupLedgerRequest, RepairObjectRequest,
        VirtualPosition,
    },
};
use tonic::{Code, Response, Status};

static NODE: Shared = Shared::new();

/// A port on which nothing listens: reserved, and never used by a server here.
const UNUSED_ADDRESS: &str = "127.0.0.1:1";

const BAD_ADDRESSES: [&str; 6] =
    ["", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "a b:80"];

fn unknown_peer_id() -> String {
    libp2p_identity::Keypair::generate_ed25519().public().to_peer_id().to_string()
}

/// A refusal because there is no second node, in words that say so.
#[track_caller]
fn assert_needs_second_node<T: Debug>(result: Result<Response<T>, Status>) {
    let status = result.expect_err("a node alone cannot do this");
    let right = matches!(status.code(), Code::Unimplemented | Code::FailedPrecondition);
    assert!(right, "{status:?}");
    let said = status.message().to_lowercase();
    assert!(said.contains("alone") || said.contains("group"), "{status:?}");
    // An rpc that does not exist is UNIMPLEMENTED too, with no words or with tonic's.
    assert!(said.len() > 20 && !said.contains("not implemented yet"), "{status:?}");
}

async fn put_object(node: &Node, prefix: &str) -> String {
    let id = unique(prefix);
    let put = PutObjectRequest { object: Some(object(&id, "x")) };
    assert!(group(node).await.put(put).await.unwrap().into_inner().result);
    id
}

#[tokio::test]
async fn a_peer_that_nobody_is_cannot_be_added() {
    let node = NODE.get();
    let mut client = peer(&node).await;
    let answer = client.add_peer(AddPeerRequest { host: UNUSED_ADDRESS.to_owned() }).await;
    refused(answer, Code::Unavailable, UNUSED_ADDRESS);
    for host in BAD_ADDRESSES {
        let answer = client.add_peer(AddPeerRequest { host: host.to_owned() }).await;
        refused(answer, Code::InvalidArgument, host);
    }
    assert_eq!(node.status().await["members"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn remove_peer_of_an_unknown_peer_answers_false() {
    let node = NODE.get();
    let mut client = peer(&node).await;
    let answer =
        client.remove_peer(RemovePeerRequest { host: UNUSED_ADDRESS.to_owned() }).await.unwrap();
    assert!(!answer.into_inner().response);
    for host in BAD_ADDRESSES {
        let answer = client.remove_peer(RemovePeerRequest { host: host.to_owned() }).await;
        refused(answer, Code::InvalidArgument, host);
    }
}

#[tokio::test]
async fn handle_super_peer_leave_is_refused_by_a_node_alone() {
    assert_needs_second_node(peer(&NODE.get()).await.handle_super_peer_leave(()).await);
}

#[tokio::test]
async fn repair_objects_is_true_if_every_named_object_is_held() {
    let node = NODE.get();
    let mut client = peer(&node).await;
    let (one, two) = (put_object(&node, "repair").await, put_object(&node, "repair").await);
    let of =
        |ids: &[&str]| RepairObjects { object_ids: ids.iter().map(|id| (*id).into()).collect() };
    let missing = unique("not-held");
    for (ids, held) in [
        (vec![one.as_str()], true),
        (vec![one.as_str(), two.as_str()], true),
        (vec![one.as_str(), missing.as_str()], false),
        (vec![missing.as_str()], false),
    ] {
        let answer = client.repair_objects(of(&ids)).await.unwrap().into_inner();
        assert_eq!(answer.response, held, "{ids:?}");
    }
    refused(client.repair_objects(of(&[&one, ""])).await, Code::InvalidArgument, "id");
    refused(client.repair_objects(of(&["a\u{7}b"])).await, Code::InvalidArgument, "control");
}

#[tokio::test]
async fn handle_join_checks_its_input_and_asks_the_node_back() {
    let node = NODE.get();
    let mut client = super_peer(&node).await;
    let at = |x, y| Some(VirtualPosition { x, y, z: 0.0 });
    let join = |peer: &str, storage: &str, position| JoinRequest {
        peer_server_host: peer.to_owned(),
        group_storage_server_host: storage.to_owned(),
        position,
    };
    let answer = client.handle_join(join(UNUSED_ADDRESS, UNUSED_ADDRESS, at(1.0, 2.0))).await;
    refused(answer, Code::Unavailable, UNUSED_ADDRESS);
    let outside = [(-1.0, 2.0, "-1"), (2.0, 10.5, "10.5"), (f64::NAN, 1.0, "NaN")];
    for (x, y, named) in outside.into_iter().chain([(1.0, f64::INFINITY, "inf")]) {
        let answer = client.handle_join(join("127.0.0.1:6731", "127.0.0.1:6735", at(x, y))).await;
        refused(answer, Code::InvalidArgument, named);
    }
    for host in BAD_ADDRESSES {
        let answer = client.handle_join(join(host, "127.0.0.1:6735", at(1.0, 2.0))).await;
        refused(answer, Code::InvalidArgument, host);
        let answer = client.handle_join(join("127.0.0.1:6731", host, at(1.0, 2.0))).await;
        refused(answer, Code::InvalidArgument, host);
    }
    assert_eq!(node.status().await["members"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn handle_leave_of_an_unknown_peer_answers_false() {
    let node = NODE.get();
    let leave = LeaveRequest {
        peer_server_hostname: UNUSED_ADDRESS.to_owned(),
        group_storage_server_hostname: "127.0.0.1:2".to_owned(),
    };
    let answer = super_peer(&node).await.handle_leave(leave).await.unwrap();
    assert!(!answer.into_inner().success);
    assert_eq!(node.status().await["members"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn repair_is_true_if_the_object_is_held() {
    let node = NODE.get();
    let mut client = super_peer(&node).await;
    let of = |id: &str| RepairObjectRequest { object_id: id.to_owned() };
    let held = put_object(&node, "repair-one").await;
    assert!(client.repair(of(&held)).await.unwrap().into_inner().succeed);
    assert!(!client.repair(of(&unique("not-held"))).await.unwrap().into_inner().succeed);
    refused(client.repair(of("")).await, Code::InvalidArgument, "id");
}

#[tokio::test]
async fn migrate_moves_no_stranger_and_not_itself() {
    let node = NODE.get();
    let (mut client, me) = (super_peer(&node).await, node.id().await);
    let of = |peer: &str| MigrationRequest {
        peer_id: peer.to_owned(),
        new_super_peer_id: unknown_peer_id(),
    };
    assert!(!client.migrate(of(&unknown_peer_id())).await.unwrap().into_inner().succeed);
    assert_needs_second_node(client.migrate(of(&me)).await);
}

#[tokio::test]
async fn add_object_reference_knows_what_this_node_holds() {
    let node = NODE.get();
    let (mut client, me) = (super_peer(&node).await, node.id().await);
    let of = |object: &str, peer: &str| AddObjectRequest {
        object_id: object.to_owned(),
        peer_id: peer.to_owned(),
        ttl: 0,
    };
    let (held, missing, stranger) =
        (put_object(&node, "reference").await, unique("not-held"), unknown_peer_id());
    // A duplicate: the ledger has it already.
    assert!(!client.add_object_reference(of(&held, &me)).await.unwrap().into_inner().succeed);
    let answer = client.add_object_reference(of(&missing, &me)).await;
    refused(answer, Code::FailedPrecondition, &missing);
    let answer = client.add_object_reference(of(&held, &stranger)).await;
    refused(answer, Code::FailedPrecondition, &stranger);
    refused(client.add_object_reference(of("", &me)).await, Code::InvalidArgument, "id");
}

#[tokio::test]
async fn remove_peer_group_ledger_removes_no_stranger_and_not_itself() {
    let node = NODE.get();
    let (mut client, me) = (super_peer(&node).await, node.id().await);
    let of = |peer: &str| RemovePeerGroupLedgerRequest { peer_id: peer.to_owned() };
    let answer = client.remove_peer_group_ledger(of(&unknown_peer_id())).await.unwrap();
    assert!(!answer.into_inner().result);
    refused(client.remove_peer_group_ledger(of(&me)).await, Code::FailedPrecondition, &me);
    assert_eq!(node.status().await["members"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn notify_peers_has_nobody_to_notify() {
    let node = NODE.get();
    let mut client = super_peer(&node).await;
    let of = |host: &str| NotifyPeersRequest { host: host.to_owned() };
    assert!(client.notify_peers(of("127.0.0.1:6731")).await.unwrap().into_inner().result);
    for host in BAD_ADDRESSES {
        refused(client.notify_peers(of(host)).await, Code::InvalidArgument, host);
    }
}

#[tokio::test]
async fn ping_peer_knows_the_living_from_the_dead() {
    let node = NODE.get();
    let mut client = super_peer(&node).await;
    let of = |host: &str| PingRequest { hostname: host.to_owned() };
    assert!(client.ping_peer(of(&node.peer)).await.unwrap().into_inner().result);
    assert!(!client.ping_peer(of(UNUSED_ADDRESS)).await.unwrap().into_inner().result);
    // Somebody listens, but it is no peer: it takes the connection and says nothing.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_address = mute.local_addr().unwrap().to_string();
    let answer = client.ping_peer(of(&mute_address)).await.unwrap();
    assert!(!answer.into_inner().result);
    for host in BAD_ADDRESSES {
        refused(client.ping_peer(of(host)).await, Code::InvalidArgument, host);
    }
}

/// The refusals first: they move nothing. On a node of its own, since the position is one per node.
#[tokio::test]
async fn update_position_reference_moves_this_node_in_the_world() {
    let node = Node::start();
    let mut client = super_peer(&node).await;
    let status = node.status().await;
    let me = status["nodeId"].as_str().unwrap();
    let of = |peer: &str, x, y| PositionUpdateRequest {
        position: Some(VirtualPosition { x, y, z: 0.0 }),
        peer_id: peer.to_owned(),
    };
    let stranger = unknown_peer_id();
    let answer = client.update_position_reference(of(&stranger, 1.0, 1.0)).await;
    refused(answer, Code::FailedPrecondition, &stranger);
    for (x, y, named) in [(-0.5, 1.0, "-0.5"), (1.0, 10.25, "10.25"), (f64::NAN, 1.0, "NaN")] {
        let answer = client.update_position_reference(of(me, x, y)).await;
        refused(answer, Code::InvalidArgument, named);
    }
    let nowhere = PositionUpdateRequest { position: None, peer_id: me.to_owned() };
    let answer = client.update_position_reference(nowhere).await;
    refused(answer, Code::InvalidArgument, "position");
    assert_eq!(node.status().await["members"][0]["position"], status["members"][0]["position"]);
    for (x, y) in [(3.25, 7.5), (0.0, 10.0)] {
        let answer = client.update_position_reference(of(me, x, y)).await.unwrap().into_inner();
        assert!(answer.acknowledge);
        assert_eq!(answer.new_super_peer, me);
        assert_eq!(status["group"], answer.new_group_name);
        let position = node.status().await["members"][0]["position"].clone();
        assert_eq!((position["x"].as_f64(), position["y"].as_f64()), (Some(x), Some(y)));
    }
}
