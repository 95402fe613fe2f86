//! What is answered about groups: by a node alone, and by one whose membership decides.

use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{GROUP, call, edges};
use crate::{
    grpc::GrpcEdge,
    test_backend::{NODE, TestNode},
};
use nomad_core::{
    group::{
        control::{ControlError, ControlRequest},
        offer::Offer,
    },
    model::node_id::NodeId,
    world::Position,
};
use nomad_proto::{
    groupstorage::{
        AddToGroupLedgerRequest, AddToGroupLedgerResponse, PutObjectRequest, PutObjectResponse,
        RemovePeerGroupLedgerRequest, RemovePeerGroupLedgerResponse,
    },
    models::GameObjectGrpc,
    peerservice::{AddPeerRequest, RemovePeerRequest, RepairObjectRequest},
    superpeerservice::{
        self, JoinRequest, JoinResponseWithLedger, LeaveRequest, MigrationRequest,
        NotifyPeersRequest, PingRequest, PositionUpdateRequest, PositionUpdateResponse,
        VirtualPosition,
    },
};

const PEER: &str = "/grpc.peerservice.PeerService";
/// The id of a node that is no member.
const STRANGER: &str = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu";
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
        let stranger = flag(edge, &path, &add("held", STRANGER, 0)).await;
        is(stranger, Code::FailedPrecondition, NODE);
        let nobody = flag(edge, &path, &add("held", "nobody", 0)).await;
        is(nobody, Code::InvalidArgument, "\"nobody\"");
        is(flag(edge, &path, &add("", NODE, 0)).await, Code::InvalidArgument, "empty");
        is(flag(edge, &path, &add("held", "", 0)).await, Code::InvalidArgument, "peerId");
        is(flag(edge, &path, &add("held", NODE, -7)).await, Code::InvalidArgument, "-7");
    }
    let remove = |peer: &str| RemovePeerGroupLedgerRequest { peer_id: peer.into() };
    for (edge, service) in [(&storage, GROUP), (&peer, SUPER)] {
        let path = format!("{service}/removePeerGroupLedger");
        let gone: RemovePeerGroupLedgerResponse =
            call(edge, &path, &remove(STRANGER)).await.unwrap();
        assert!(!gone.result);
        is(flag(edge, &path, &remove("x")).await, Code::InvalidArgument, "\"x\"");
        is(flag(edge, &path, &remove(NODE)).await, Code::FailedPrecondition, "alive");
        is(flag(edge, &path, &remove("")).await, Code::InvalidArgument, "peerId");
    }
    node.stop().await;
}

#[tokio::test]
async fn what_is_asked_of_the_group_is_checked_before_anybody_decides() {
    let node = TestNode::start().await;
    let (_, edge) = edges(&node);
    let at = |x: f64, z: f64| Some(VirtualPosition { x, y: 1.0, z });
    let join = |host: &str, position| JoinRequest {
        peer_server_host: host.into(),
        group_storage_server_host: "b:2".into(),
        position,
    };
    let path = format!("{SUPER}/handleJoin");
    assert!(flag(&edge, &path, &join("a:1", at(1.0, 0.0))).await.unwrap());
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
    assert!(flag(&edge, &path, &add("a:1")).await.unwrap());
    // This node is a member already.
    assert!(flag(&edge, &path, &add("127.0.0.1:6731")).await.unwrap());
    is(flag(&edge, &path, &add("a:x")).await, Code::InvalidArgument, "\"a:x\"");
    let path = format!("{PEER}/handleSuperPeerLeave");
    assert!(flag(&edge, &path, &()).await.unwrap());

    let path = format!("{PEER}/removePeer");
    let remove = |host: &str| RemovePeerRequest { host: host.into() };
    assert!(!flag(&edge, &path, &remove("a:1")).await.unwrap());
    assert!(flag(&edge, &path, &remove("127.0.0.1:6731")).await.unwrap());
    assert!(flag(&edge, &path, &remove(NODE)).await.unwrap());
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
    assert!(flag(&edge, &path, &leave("127.0.0.1:6731")).await.unwrap());

    let path = format!("{SUPER}/migrate");
    let migrate = |peer: &str, to: &str| MigrationRequest {
        peer_id: peer.into(),
        new_super_peer_id: to.into(),
    };
    assert!(!flag(&edge, &path, &migrate(STRANGER, "b:2")).await.unwrap());
    assert!(flag(&edge, &path, &migrate(NODE, NODE)).await.unwrap(), "it is there already");
    let unknown = flag(&edge, &path, &migrate(NODE, "b:2")).await;
    is(unknown, Code::FailedPrecondition, "\"b:2\"");
    for bad in ["", "nonsense", "127.0.0.1", "127.0.0.1:", "a:0", "a b:80", "12D3KooW"] {
        let named = format!("{bad:?}");
        is(flag(&edge, &path, &migrate(bad, NODE)).await, Code::InvalidArgument, &named);
        is(flag(&edge, &path, &migrate(NODE, bad)).await, Code::InvalidArgument, &named);
    }
    let long = "x".repeat(100_000);
    let status = flag(&edge, &path, &migrate(&long, NODE)).await.unwrap_err();
    assert!(status.message().len() < 400, "{}", status.message().len());
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
    let position = node.backend.service.view.load().this.position;
    assert_eq!((position.x, position.y), (2.0, 3.0));
    is(flag(&edge, &path, &update(STRANGER, 4.0)).await, Code::FailedPrecondition, NODE);
    is(flag(&edge, &path, &update("nobody", 4.0)).await, Code::InvalidArgument, "\"nobody\"");
    is(flag(&edge, &path, &update(NODE, -4.0)).await, Code::InvalidArgument, "-4");
    let nowhere = PositionUpdateRequest { position: None, peer_id: NODE.into() };
    let status = call::<PositionUpdateResponse>(&edge, &path, &nowhere).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "position");
    assert_eq!(node.backend.service.view.load().this.position, position);
    node.stop().await;
}

fn offer(group: &str, key: u8, x: f64) -> Offer {
    Offer {
        group: group.into(),
        super_peer: NodeId::from_key([key; 32]),
        peer: format!("10.0.0.{key}:6731"),
        site: Position { x, y: 5.0 },
        members: 2,
        capacity: 5,
        permanent: true,
        epoch: 7,
        seq: 1,
    }
}

#[tokio::test]
async fn every_control_call_is_asked_of_membership_and_its_word_is_the_answer() {
    let node = TestNode::scripted().await;
    let (_, edge) = edges(&node);
    let (a, b) = ("a:1".to_owned(), "b:2".to_owned());
    let me = || NODE.to_owned();
    let asks: Vec<(String, Vec<u8>, ControlRequest)> = vec![
        (
            format!("{PEER}/addPeer"),
            AddPeerRequest { host: a.clone() }.encode_to_vec(),
            ControlRequest::AddPeer { address: a.clone() },
        ),
        (
            format!("{PEER}/removePeer"),
            RemovePeerRequest { host: me() }.encode_to_vec(),
            ControlRequest::RemovePeer { name: me() },
        ),
        (format!("{PEER}/handleSuperPeerLeave"), Vec::new(), ControlRequest::SuperPeerLeaves),
        (
            format!("{SUPER}/handleLeave"),
            LeaveRequest {
                peer_server_hostname: a.clone(),
                group_storage_server_hostname: b.clone(),
            }
            .encode_to_vec(),
            ControlRequest::PeerLeaves { name: a.clone() },
        ),
        (
            format!("{SUPER}/migrate"),
            MigrationRequest { peer_id: me(), new_super_peer_id: b.clone() }.encode_to_vec(),
            ControlRequest::Migrate { peer: me(), new_super_peer: b.clone() },
        ),
        (
            format!("{SUPER}/notifyPeers"),
            NotifyPeersRequest { host: a.clone() }.encode_to_vec(),
            ControlRequest::Notify { host: a.clone() },
        ),
    ];
    for (path, message, expected) in asks {
        let raw = Raw(message);
        for answer in [true, false] {
            node.membership.answers.lock().unwrap().push_back(Ok(answer));
            assert_eq!(flag(&edge, &path, &raw).await.unwrap(), answer, "{path}");
        }
        assert_eq!(node.membership.asked.lock().unwrap().pop(), Some(expected), "{path}");
        let refused = ControlError::NotSuperPeer { group: "g".into(), super_peer: "c:3".into() };
        node.membership.answers.lock().unwrap().push_back(Err(refused));
        is(flag(&edge, &path, &raw).await, Code::FailedPrecondition, "c:3");
        let refused = ControlError::Election { group: "g".into() };
        node.membership.answers.lock().unwrap().push_back(Err(refused));
        is(flag(&edge, &path, &raw).await, Code::Unavailable, "election");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_join_is_accepted_with_the_ledgers_or_sent_to_the_right_super_peer() {
    let node = TestNode::scripted().await;
    let (storage, edge) = edges(&node);
    put(&storage, "held").await;
    let path = format!("{SUPER}/handleJoin");
    let message = JoinRequest {
        peer_server_host: "a:1".into(),
        group_storage_server_host: "b:2".into(),
        position: Some(VirtualPosition { x: 1.0, y: 2.0, z: 0.0 }),
    };
    let join = async || call::<JoinResponseWithLedger>(&edge, &path, &message).await;
    let joined = join().await.unwrap();
    assert!(joined.accepted && joined.reason.is_empty() && joined.super_peer.is_empty());
    assert_eq!(joined.replication_factor, 3);
    let by_object = joined.object_ledger.unwrap().key_pair;
    assert_eq!(by_object["held"].values[0].id, NODE);
    assert_eq!(joined.peer_ledger.unwrap().key_pair[NODE].values[0].id, "held");
    let asked = node.membership.asked.lock().unwrap().pop();
    let position = Position { x: 1.0, y: 2.0 };
    let expected = ControlRequest::Join { peer: "a:1".into(), storage: "b:2".into(), position };
    assert_eq!(asked, Some(expected));

    let (group, next) = ("g".to_owned(), Some("c:3".to_owned()));
    for (error, super_peer) in [
        (ControlError::NotSuperPeer { group: group.clone(), super_peer: "c:3".into() }, "c:3"),
        (ControlError::Full { group: group.clone(), members: 5, capacity: 5, next }, "c:3"),
        (ControlError::Full { group: group.clone(), members: 5, capacity: 5, next: None }, ""),
    ] {
        let text = error.to_string();
        node.membership.answers.lock().unwrap().push_back(Err(error));
        let answer = join().await.unwrap();
        assert!(!answer.accepted && answer.object_ledger.is_none(), "{answer:?}");
        assert_eq!((answer.reason, answer.super_peer.as_str()), (text, super_peer));
    }
    let declined = ControlError::Declined { address: "a:1".into(), reason: "busy".into() };
    let lost = ControlError::NoGroup { reason: "looking for a group" };
    for (error, code) in [(declined, Code::FailedPrecondition), (lost, Code::Unavailable)] {
        node.membership.answers.lock().unwrap().push_back(Err(error));
        assert_eq!(join().await.unwrap_err().code(), code);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_position_update_names_the_nearest_group_that_is_known() {
    let node = TestNode::scripted().await;
    let (_, edge) = edges(&node);
    *node.known.lock().unwrap() = vec![offer("group-far", 9, 9.0)];
    let path = format!("{SUPER}/updatePositionReference");
    let update = |x| PositionUpdateRequest {
        position: Some(VirtualPosition { x, y: 5.0, z: 0.0 }),
        peer_id: "a:1".into(),
    };
    for (x, group) in [(5.0, "group-TestNode"), (8.0, "group-far")] {
        let answer: PositionUpdateResponse = call(&edge, &path, &update(x)).await.unwrap();
        assert_eq!((answer.acknowledge, answer.new_group_name.as_str()), (true, group));
    }
    let asked = node.membership.asked.lock().unwrap().pop();
    let position = Position { x: 8.0, y: 5.0 };
    assert_eq!(asked, Some(ControlRequest::PositionOf { peer: "a:1".into(), position }));
    node.stop().await;
}

/// A message as bytes.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        unreachable!("it is only sent")
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}
