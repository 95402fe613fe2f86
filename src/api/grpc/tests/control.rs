//! What a node alone answers about its group.

use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{GROUP, call, edges};
use crate::{
    api::{
        grpc::GrpcEdge,
        test_backend::{NODE, TestNode},
    },
    proto::{
        groupstorage::{
            AddToGroupLedgerRequest, AddToGroupLedgerResponse, PutObjectRequest, PutObjectResponse,
            RemovePeerGroupLedgerRequest, RemovePeerGroupLedgerResponse,
        },
        models::GameObjectGrpc,
        peerservice::{AddPeerRequest, RemovePeerRequest, RepairObjectRequest},
        superpeerservice::{
            self, JoinRequest, LeaveRequest, MigrationRequest, NotifyPeersRequest, PingRequest,
            PositionUpdateRequest, PositionUpdateResponse, VirtualPosition,
        },
    },
};

const PEER: &str = "/grpc.peerservice.PeerService";
const SUPER: &str = "/grpc.superpeerservice.SuperPeerService";

/// All answers but one are a single flag; they have the same form on the wire.
async fn flag(edge: &GrpcEdge, path: &str, message: &impl Message) -> Result<bool, Status> {
    call::<AddToGroupLedgerResponse>(edge, path, message).await.map(|answer| answer.result)
}

fn is(answer: Result<bool, Status>, code: Code, text: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(text), "{status}");
}

async fn put(edge: &GrpcEdge, id: &str) {
    let object = GameObjectGrpc { id: id.into(), ..GameObjectGrpc::default() };
    let path = format!("{GROUP}/put");
    let message = PutObjectRequest { object: Some(object) };
    call::<PutObjectResponse>(edge, &path, &message).await.unwrap();
}

#[tokio::test]
async fn the_ledger_of_a_node_alone_is_what_it_holds() {
    let node = TestNode::start().await;
    let (storage, peer) = edges(&node);
    put(&storage, "held").await;
    let add = |id: &str, peer: &str, ttl| AddToGroupLedgerRequest {
        object_id: id.into(),
        peer_id: peer.into(),
        ttl,
    };
    let on_storage = (&storage, format!("{GROUP}/addToGroupLedger"));
    let on_peer = (&peer, format!("{SUPER}/addObjectReference"));
    for (edge, path) in [on_storage, on_peer] {
        assert!(!flag(edge, &path, &add("held", NODE, 0)).await.unwrap());
        assert!(!flag(edge, &path, &add("held", "127.0.0.1:6731", 0)).await.unwrap());
        let absent = flag(edge, &path, &add("absent", NODE, 0)).await;
        is(absent, Code::FailedPrecondition, "\"absent\"");
        let stranger = flag(edge, &path, &add("held", "stranger", 0)).await;
        is(stranger, Code::FailedPrecondition, NODE);
        is(flag(edge, &path, &add("", NODE, 0)).await, Code::InvalidArgument, "empty");
        is(flag(edge, &path, &add("held", "", 0)).await, Code::InvalidArgument, "peerId");
        is(flag(edge, &path, &add("held", NODE, -7)).await, Code::InvalidArgument, "-7");
    }
    let remove = |peer: &str| RemovePeerGroupLedgerRequest { peer_id: peer.into() };
    for (edge, service) in [(&storage, GROUP), (&peer, SUPER)] {
        let path = format!("{service}/removePeerGroupLedger");
        let gone: RemovePeerGroupLedgerResponse = call(edge, &path, &remove("x")).await.unwrap();
        assert!(!gone.result);
        is(flag(edge, &path, &remove(NODE)).await, Code::FailedPrecondition, "alive");
        is(flag(edge, &path, &remove("")).await, Code::InvalidArgument, "peerId");
    }
    node.stop().await;
}

#[tokio::test]
async fn what_needs_another_node_says_so_after_its_arguments_were_checked() {
    let node = TestNode::start().await;
    let (_, edge) = edges(&node);
    let at = |x: f64, z: f64| Some(VirtualPosition { x, y: 1.0, z });
    let join = |host: &str, position| JoinRequest {
        peer_server_host: host.into(),
        group_storage_server_host: "b:2".into(),
        position,
    };
    let path = format!("{SUPER}/handleJoin");
    is(flag(&edge, &path, &join("a:1", at(1.0, 0.0))).await, Code::Unimplemented, "alone");
    is(flag(&edge, &path, &join("a", at(1.0, 0.0))).await, Code::InvalidArgument, "\"a\"");
    is(flag(&edge, &path, &join("a:1", None)).await, Code::InvalidArgument, "position");
    is(flag(&edge, &path, &join("a:1", at(99.0, 0.0))).await, Code::InvalidArgument, "99");
    is(flag(&edge, &path, &join("a:1", at(f64::NAN, 0.0))).await, Code::InvalidArgument, "NaN");
    is(
        flag(&edge, &path, &join("a:1", at(1.0, f64::INFINITY))).await,
        Code::InvalidArgument,
        "inf",
    );

    let path = format!("{PEER}/addPeer");
    let add = |host: &str| AddPeerRequest { host: host.into() };
    is(flag(&edge, &path, &add("a:1")).await, Code::Unimplemented, "a:1");
    is(flag(&edge, &path, &add("a:x")).await, Code::InvalidArgument, "\"a:x\"");
    let path = format!("{PEER}/handleSuperPeerLeave");
    is(flag(&edge, &path, &()).await, Code::Unimplemented, "alone");

    let path = format!("{PEER}/removePeer");
    let remove = |host: &str| RemovePeerRequest { host: host.into() };
    assert!(!flag(&edge, &path, &remove("a:1")).await.unwrap());
    is(flag(&edge, &path, &remove("127.0.0.1:6731")).await, Code::Unimplemented, "alone");
    is(flag(&edge, &path, &remove(NODE)).await, Code::Unimplemented, "alone");
    for host in ["", "nonsense"] {
        is(flag(&edge, &path, &remove(host)).await, Code::InvalidArgument, &format!("{host:?}"));
    }

    let path = format!("{SUPER}/handleLeave");
    let leave = |host: &str| LeaveRequest {
        peer_server_hostname: host.into(),
        group_storage_server_hostname: "b:2".into(),
    };
    assert!(!flag(&edge, &path, &leave("a:1")).await.unwrap());
    is(flag(&edge, &path, &leave("nonsense")).await, Code::InvalidArgument, "nonsense");
    is(flag(&edge, &path, &leave("127.0.0.1:6731")).await, Code::Unimplemented, "alone");

    let path = format!("{SUPER}/migrate");
    let migrate =
        |peer: &str| MigrationRequest { peer_id: peer.into(), new_super_peer_id: "other".into() };
    assert!(!flag(&edge, &path, &migrate("stranger")).await.unwrap());
    is(flag(&edge, &path, &migrate(NODE)).await, Code::Unimplemented, "other");
    node.stop().await;
}

#[tokio::test]
async fn repair_is_true_of_what_is_held_here() {
    let node = TestNode::start().await;
    let (storage, edge) = edges(&node);
    put(&storage, "a").await;
    put(&storage, "b").await;
    let path = format!("{SUPER}/repair");
    for (id, held) in [("a", true), ("x", false)] {
        let message = superpeerservice::RepairObjectRequest { object_id: id.into() };
        assert_eq!(flag(&edge, &path, &message).await.unwrap(), held, "{id}");
    }
    let path = format!("{PEER}/repairObjects");
    let repair = |ids: &[&str]| RepairObjectRequest {
        object_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
    };
    for (ids, held) in [(&["a", "b"][..], true), (&["a", "x"], false), (&[], true)] {
        assert_eq!(flag(&edge, &path, &repair(ids)).await.unwrap(), held, "{ids:?}");
    }
    is(flag(&edge, &path, &repair(&["x", ""])).await, Code::InvalidArgument, "empty");
    is(flag(&edge, &path, &repair(&["a"; 1001])).await, Code::InvalidArgument, "1001");
    node.stop().await;
}

#[tokio::test]
async fn peers_are_pinged_where_they_are_and_notified_if_there_are_any() {
    let node = TestNode::start().await;
    let (_, edge) = edges(&node);
    let path = format!("{SUPER}/pingPeer");
    let ping = |hostname: &str| PingRequest { hostname: hostname.into() };
    assert!(flag(&edge, &path, &ping("127.0.0.1:2")).await.unwrap());
    assert!(!flag(&edge, &path, &ping("127.0.0.1:1")).await.unwrap());
    for bad in ["", "localhost:1", "127.0.0.1", "127.0.0.1:0", "::1:5"] {
        is(flag(&edge, &path, &ping(bad)).await, Code::InvalidArgument, &format!("{bad:?}"));
    }
    let path = format!("{SUPER}/notifyPeers");
    let notify = |host: &str| NotifyPeersRequest { host: host.into() };
    assert!(flag(&edge, &path, &notify("a:1")).await.unwrap());
    is(flag(&edge, &path, &notify("a")).await, Code::InvalidArgument, "\"a\"");
    node.stop().await;
}

#[tokio::test]
async fn a_position_update_moves_this_node_and_no_other() {
    let node = TestNode::start().await;
    let (_, edge) = edges(&node);
    let path = format!("{SUPER}/updatePositionReference");
    let update = |peer: &str, x| PositionUpdateRequest {
        position: Some(VirtualPosition { x, y: 3.0, z: 0.0 }),
        peer_id: peer.into(),
    };
    let answer: PositionUpdateResponse = call(&edge, &path, &update(NODE, 2.0)).await.unwrap();
    assert!(answer.acknowledge);
    assert_eq!(
        (answer.new_super_peer.as_str(), answer.new_group_name.as_str()),
        (NODE, "group-TestNode")
    );
    let position = node.backend.view.load().this.position;
    assert_eq!((position.x, position.y), (2.0, 3.0));
    is(flag(&edge, &path, &update("stranger", 4.0)).await, Code::FailedPrecondition, NODE);
    is(flag(&edge, &path, &update(NODE, -4.0)).await, Code::InvalidArgument, "-4");
    let nowhere = PositionUpdateRequest { position: None, peer_id: NODE.into() };
    let status = call::<PositionUpdateResponse>(&edge, &path, &nowhere).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "position");
    assert_eq!(node.backend.view.load().this.position, position);
    node.stop().await;
}
