//! The control calls of the contract on running groups: what each of them does, and that bad arguments are refused and change
//! nothing.

use std::{fmt::Debug, time::Duration};

use crate::support::{
    cluster::{Cluster, Role, SETTLE, View},
    grpc::{peer, refused, super_peer},
    http::segment,
    node::Node,
    say,
};
use nomad_proto::{
    peerservice::{AddPeerRequest, RemovePeerRequest},
    superpeerservice::{
        JoinRequest, LeaveRequest, MigrationRequest, NotifyPeersRequest, PingRequest,
        PositionUpdateRequest, VirtualPosition,
    },
};
use serde_json::json;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

/// A port on which nothing listens: reserved, and never used by a server here.
const UNUSED_ADDRESS: &str = "127.0.0.1:1";

const BAD_ADDRESSES: [&str; 6] =
    ["", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "a b:80"];

fn unknown_peer_id() -> String {
    libp2p_identity::Keypair::generate_ed25519().public().to_peer_id().to_string()
}

fn at(x: f64, y: f64) -> Option<VirtualPosition> {
    Some(VirtualPosition { x, y, z: 0.0 })
}

fn join(peer: &str, storage: &str, position: Option<VirtualPosition>) -> JoinRequest {
    JoinRequest {
        peer_server_host: peer.to_owned(),
        group_storage_server_host: storage.to_owned(),
        position,
    }
}

fn join_of(node: &Node) -> JoinRequest {
    join(&node.peer, &node.storage, at(5.0, 5.0))
}

fn leave_of(node: &Node) -> LeaveRequest {
    LeaveRequest {
        peer_server_hostname: node.peer.clone(),
        group_storage_server_hostname: node.storage.clone(),
    }
}

fn ping(host: &str) -> PingRequest {
    PingRequest { hostname: host.to_owned() }
}

fn position_of(id: &str, position: Option<VirtualPosition>) -> PositionUpdateRequest {
    PositionUpdateRequest { position, peer_id: id.to_owned() }
}

/// Asserts a refusal: the answer `false`, or a status that says whose fault it is.
#[track_caller]
fn assert_refused<T: Debug>(
    what: &str,
    result: Result<Response<T>, Status>,
    yes: impl Fn(&T) -> bool,
) -> String {
    match result {
        Ok(answer) => {
            let answer = answer.into_inner();
            assert!(!yes(&answer), "{what}: {answer:?}");
            String::new()
        }
        Err(status) => {
            let known = [
                Code::FailedPrecondition,
                Code::Unavailable,
                Code::ResourceExhausted,
                Code::NotFound,
            ];
            assert!(known.contains(&status.code()), "{what}: {status:?}");
            assert!(status.message().len() > 10, "{what}: {status:?}");
            status.message().to_owned()
        }
    }
}

/// A super-peer and so many peers.
async fn group_of(peers: usize, cluster: Cluster) -> Cluster {
    let mut cluster = cluster;
    cluster.add(Role::SuperPeer).await;
    cluster.add_many(Role::Peer, peers).await;
    cluster.agree(0..=peers, SETTLE).await;
    cluster
}

/// Adds a node without a bootstrap address: it founds a group of its own.
async fn add_node_without_bootstrap(cluster: &mut Cluster, role: Role) -> usize {
    let builder = match role {
        Role::Peer => cluster.builder_without_bootstrap(),
        Role::SuperPeer => cluster.builder_without_bootstrap().arg("--type").arg("super-peer"),
    };
    let number = cluster.add_all([builder]).await.start;
    cluster.agree([number], SETTLE).await;
    number
}

/// Every call with invalid arguments, on the super-peer and on a peer: it is refused, and nothing changes.
#[tokio::test]
async fn bad_arguments_are_refused_and_change_nothing() {
    let cluster = group_of(2, Cluster::new()).await;
    let before = cluster.agree(0..3, SETTLE).await;
    for number in [0, 1] {
        let node = cluster.node(number);
        let (mut control, mut peers) = (super_peer(node).await, peer(node).await);
        for host in BAD_ADDRESSES {
            let bad = |what| (Code::InvalidArgument, what);
            let (code, named) = bad(host);
            let fine = "127.0.0.1:6735";
            refused(control.handle_join(join(host, fine, at(1.0, 1.0))).await, code, named);
            refused(control.handle_join(join(fine, host, at(1.0, 1.0))).await, code, named);
            refused(control.ping_peer(ping(host)).await, code, named);
            let notify = NotifyPeersRequest { host: host.to_owned() };
            refused(control.notify_peers(notify).await, code, named);
            refused(peers.add_peer(AddPeerRequest { host: host.to_owned() }).await, code, named);
            let remove = RemovePeerRequest { host: host.to_owned() };
            refused(peers.remove_peer(remove).await, code, named);
            let leave = LeaveRequest {
                peer_server_hostname: host.to_owned(),
                group_storage_server_hostname: fine.to_owned(),
            };
            refused(control.handle_leave(leave).await, code, named);
        }
        for (x, y, named) in [(-1.0, 2.0, "-1"), (2.0, 10.5, "10.5"), (f64::NAN, 1.0, "NaN")] {
            let answer = control.handle_join(join(UNUSED_ADDRESS, UNUSED_ADDRESS, at(x, y))).await;
            refused(answer, Code::InvalidArgument, named);
            let answer = control.update_position_reference(position_of(&before.id, at(x, y))).await;
            refused(answer, Code::InvalidArgument, named);
        }
        let nowhere = control.update_position_reference(position_of(&before.id, None)).await;
        refused(nowhere, Code::InvalidArgument, "position");
        let nobody = unknown_peer_id();
        let answer = control.update_position_reference(position_of(&nobody, at(1.0, 1.0))).await;
        refused(answer, Code::FailedPrecondition, &nobody);
        let of = |peer: &str, to: &str| MigrationRequest {
            peer_id: peer.to_owned(),
            new_super_peer_id: to.to_owned(),
        };
        for bad in ["", "nonsense"] {
            let answer = control.migrate(of(bad, &before.id)).await;
            refused(answer, Code::InvalidArgument, bad);
            let answer = control.migrate(of(cluster.id(2), bad)).await;
            refused(answer, Code::InvalidArgument, bad);
        }
        assert_refused(
            "a stranger's migration",
            control.migrate(of(&nobody, &before.id)).await,
            |a| a.succeed,
        );
        let answer = control.migrate(of(cluster.id(2), &nobody)).await;
        assert_refused("a migration to a stranger", answer, |answer| answer.succeed);
        let answer = control.handle_join(join(UNUSED_ADDRESS, UNUSED_ADDRESS, at(1.0, 1.0))).await;
        assert_refused("the join of nobody", answer, |answer| answer.accepted);
        let leave = LeaveRequest {
            peer_server_hostname: UNUSED_ADDRESS.to_owned(),
            group_storage_server_hostname: UNUSED_ADDRESS.to_owned(),
        };
        assert_refused("the leave of nobody", control.handle_leave(leave).await, |answer| {
            answer.success
        });
        assert_refused(
            "nobody as a peer",
            peers.add_peer(AddPeerRequest { host: UNUSED_ADDRESS.to_owned() }).await,
            |a| a.response,
        );
        let remove = RemovePeerRequest { host: UNUSED_ADDRESS.to_owned() };
        assert_refused("the removal of nobody", peers.remove_peer(remove).await, |answer| {
            answer.response
        });
    }
    let after = cluster.agree(0..3, SETTLE).await;
    assert_eq!((after.epoch, after.group), (before.epoch, before.group));
}

#[tokio::test]
async fn ping_peer_knows_living_members_from_dead_ones() {
    let mut cluster = group_of(2, Cluster::new()).await;
    for from in 0..3 {
        let mut control = super_peer(cluster.node(from)).await;
        for to in 0..3 {
            let answer = control.ping_peer(ping(&cluster.node(to).peer)).await.unwrap();
            assert!(answer.into_inner().result, "{to} from {from}");
        }
        assert!(!control.ping_peer(ping(UNUSED_ADDRESS)).await.unwrap().into_inner().result);
    }
    let address = cluster.node(2).peer.clone();
    cluster.kill_9(2);
    let answer = super_peer(cluster.node(0)).await.ping_peer(ping(&address)).await.unwrap();
    assert!(!answer.into_inner().result);
}

/// A node that is asked for by its addresses becomes a member; asking again changes nothing.
#[tokio::test]
async fn handle_join_takes_a_living_node_in() {
    let mut cluster = group_of(1, Cluster::new().env("NODE_MAXPEERS", 3)).await;
    let before = cluster.agree(0..2, SETTLE).await;
    let new = add_node_without_bootstrap(&mut cluster, Role::Peer).await;
    let mut control = super_peer(cluster.node(0)).await;
    let answer = control.handle_join(join_of(cluster.node(new))).await.unwrap().into_inner();
    assert!(answer.accepted, "{answer:?}");
    assert_eq!(answer.replication_factor, 3);
    let after = cluster.agree(0..3, SETTLE).await;
    assert_eq!(after.group, before.group);
    assert!(after.epoch > before.epoch);
    let again = control.handle_join(join_of(cluster.node(new))).await.unwrap().into_inner();
    assert!(again.accepted, "a member already: {again:?}");
    assert_eq!(cluster.agree(0..3, SETTLE).await.epoch, after.epoch);
    // Now the group is full.
    let fourth = add_node_without_bootstrap(&mut cluster, Role::Peer).await;
    let full = control.handle_join(join_of(cluster.node(fourth))).await.unwrap().into_inner();
    assert!(!full.accepted, "{full:?}");
    assert!(full.reason.contains("full") || full.reason.contains("place"), "{full:?}");
    assert_eq!(cluster.agree(0..3, SETTLE).await.epoch, after.epoch);
    cluster.agree([fourth], SETTLE).await;
    cluster.assert_one_history();
}

/// A member that does not lead says who does.
#[tokio::test]
async fn handle_join_at_a_peer_names_the_super_peer() {
    let mut cluster = group_of(1, Cluster::new()).await;
    let new = add_node_without_bootstrap(&mut cluster, Role::Peer).await;
    let leader = cluster.agree([0, 1], SETTLE).await;
    let answer = super_peer(cluster.node(1)).await.handle_join(join_of(cluster.node(new))).await;
    let answer = answer.unwrap().into_inner();
    assert!(!answer.accepted, "{answer:?}");
    let named = [&leader.id, &cluster.node(0).peer].contains(&&answer.super_peer);
    assert!(named, "{answer:?}");
    assert!(!answer.reason.is_empty(), "{answer:?}");
    let still = cluster.agree([0, 1], SETTLE).await;
    assert_eq!(still.epoch, leader.epoch);
}

#[tokio::test]
async fn handle_leave_takes_a_member_out() {
    let cluster = group_of(2, Cluster::new()).await;
    let before = cluster.agree(0..3, SETTLE).await;
    let mut control = super_peer(cluster.node(0)).await;
    let answer = control.handle_leave(leave_of(cluster.node(2))).await.unwrap().into_inner();
    assert!(answer.success);
    let after = cluster.agree([0, 1], SETTLE).await;
    assert_eq!(after.group, before.group);
    // Who has left is no member, so it cannot leave again.
    let again = control.handle_leave(leave_of(cluster.node(2))).await;
    assert_refused("a second leave", again, |answer| answer.success);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.agree([0, 1], SETTLE).await.epoch, after.epoch, "it does not come back");
    let out = cluster.view(2).await.unwrap();
    assert!(!out.ready && out.group.is_empty() && out.reason.contains("left"), "{}", out.line());
    // It comes when it is asked.
    let host = cluster.node(2).peer.clone();
    let added = peer(cluster.node(0)).await.add_peer(AddPeerRequest { host }).await.unwrap();
    assert!(added.into_inner().response);
    assert_eq!(cluster.agree(0..3, SETTLE).await.group, before.group);
    cluster.assert_one_history();
}

/// A node that was told to leave looks for a group again when it is started again.
#[tokio::test]
async fn a_node_that_has_left_comes_back_with_a_restart() {
    let mut cluster = group_of(2, Cluster::new()).await;
    let before = cluster.agree(0..3, SETTLE).await;
    // Asked of a member that does not lead, about another one.
    let leave = leave_of(cluster.node(2));
    let answer = super_peer(cluster.node(1)).await.handle_leave(leave).await.unwrap();
    assert!(answer.into_inner().success);
    cluster.agree([0, 1], SETTLE).await;
    cluster.stop(2).await;
    cluster.start([2]).await;
    assert_eq!(cluster.agree(0..3, SETTLE).await.group, before.group);
    cluster.assert_one_history();
}

/// Two dedicated super-peers in two corners of the world, each with a group of its own, and a peer in the first.
async fn two_groups_far_apart() -> (Cluster, View, View, usize) {
    let mut cluster = Cluster::new();
    for corner in [1.0, 9.0] {
        let builder = cluster.builder(Role::SuperPeer);
        let builder = builder.env("NODE_POSITION_X", corner).env("NODE_POSITION_Y", corner);
        cluster.add_all([builder]).await;
    }
    let here = cluster.agree([0], SETTLE).await;
    let there = cluster.agree([1], SETTLE).await;
    assert_ne!(here.group, there.group);
    // Only the first group knows of this one.
    let new = add_node_without_bootstrap(&mut cluster, Role::Peer).await;
    let mut control = super_peer(cluster.node(0)).await;
    let answer = control.handle_join(join_of(cluster.node(new))).await.unwrap();
    assert!(answer.into_inner().accepted);
    cluster.agree([0, new], SETTLE).await;
    (cluster, here, there, new)
}

/// Waits until a node has heard of a group: it answers by what it knows.
async fn wait_until_known(cluster: &Cluster, number: usize, group: &str) {
    let path = format!("/nomad/v1/groups/{}", segment(group));
    cluster
        .eventually(&format!("node {number} knows {group}"), SETTLE, async || {
            (cluster.node(number).http().get(&path).await.status == 200).then_some(())
        })
        .await;
}

/// The nearest group answers, no node moves to another group, and every member knows the position that was acknowledged.
#[tokio::test]
async fn update_position_reference_answers_by_the_nearest_site() {
    let (cluster, here, there, peer) = two_groups_far_apart().await;
    wait_until_known(&cluster, 0, &there.group).await;
    let id = cluster.id(peer).to_owned();
    let mut control = super_peer(cluster.node(0)).await;
    for (x, y, nearest) in [(1.5, 1.0, &here), (8.5, 9.0, &there), (2.0, 1.0, &here)] {
        let update = control.update_position_reference(position_of(&id, at(x, y))).await;
        let update = update.unwrap().into_inner();
        assert!(update.acknowledge, "{update:?}");
        assert_eq!(update.new_super_peer, nearest.id, "at {x}, {y}");
        assert_eq!(update.new_group_name, nearest.group, "at {x}, {y}");
        cluster
            .eventually(&format!("every member knows {x}, {y}"), SETTLE, async || {
                let views: Option<Vec<_>> = cluster.views([0, peer]).await.into_iter().collect();
                let moved = views?.iter().all(|view| {
                    let position = &view.member(&id)["position"];
                    (position["x"].as_f64(), position["y"].as_f64()) == (Some(x), Some(y))
                });
                moved.then_some(())
            })
            .await;
    }
    assert_eq!(cluster.agree([0, peer], SETTLE).await.group, here.group);
}

#[tokio::test]
async fn migrate_moves_a_member_to_another_group() {
    let (cluster, here, there, peer) = two_groups_far_apart().await;
    let mut control = super_peer(cluster.node(0)).await;
    let migrate = MigrationRequest {
        peer_id: cluster.id(peer).to_owned(),
        new_super_peer_id: cluster.id(1).to_owned(),
    };
    assert!(control.migrate(migrate.clone()).await.unwrap().into_inner().succeed);
    let moved = cluster.agree([1, peer], SETTLE).await;
    assert_eq!(moved.group, there.group);
    assert_eq!(cluster.agree([0], SETTLE).await.group, here.group);
    // It is no member of the first any more.
    assert_refused("a second migration", control.migrate(migrate).await, |answer| answer.succeed);
    say(&cluster.assert_one_history());
}

/// Nothing changes when there is no place: the member stays where it is.
#[tokio::test]
async fn migrate_to_a_full_group_moves_nobody() {
    let mut cluster = Cluster::new();
    let crowded = cluster.builder(Role::SuperPeer).env("NODE_MAXPEERS", 1);
    cluster.add_all([cluster.builder(Role::SuperPeer)]).await;
    cluster.add_all([crowded.arg("--bootstrap").arg(&cluster.node(0).overlay())]).await;
    cluster.add(Role::Peer).await;
    let before = cluster.agree([0, 2], SETTLE).await;
    let there = cluster.agree([1], SETTLE).await;
    let migrate =
        MigrationRequest { peer_id: cluster.id(2).to_owned(), new_super_peer_id: there.id.clone() };
    for number in [0, 2] {
        let mut control = super_peer(cluster.node(number)).await;
        let said =
            assert_refused("a full group", control.migrate(migrate.clone()).await, |a| a.succeed);
        assert!(said.contains("no free place") && said.contains(&there.id), "{said}");
    }
    let after = cluster.agree([0, 2], SETTLE).await;
    assert_eq!((&after.group, after.epoch), (&before.group, before.epoch));
    assert_eq!(cluster.agree([1], SETTLE).await.epoch, there.epoch);
}

/// A member may be asked to move itself, or another one: its super-peer does it.
#[tokio::test]
async fn migrate_is_passed_on_by_any_member() {
    let (cluster, here, there, peer) = two_groups_far_apart().await;
    let mut control = super_peer(cluster.node(peer)).await;
    let of = |node: &str, to: &str| MigrationRequest {
        peer_id: node.to_owned(),
        new_super_peer_id: to.to_owned(),
    };
    let me = cluster.id(peer);
    assert!(control.migrate(of(me, &here.id)).await.unwrap().into_inner().succeed, "it is there");
    let leader = control.migrate(of(&here.id, &there.id)).await;
    assert_refused("a super-peer with members", leader, |answer| answer.succeed);
    assert!(control.migrate(of(me, &there.id)).await.unwrap().into_inner().succeed);
    assert_eq!(cluster.agree([1, peer], SETTLE).await.group, there.group);
    assert_eq!(cluster.agree([0], SETTLE).await.group, here.group);
    say(&cluster.assert_one_history());
}

/// Any member may be asked to add and to remove one. Who was removed does not come back by itself, but when it is asked.
#[tokio::test]
async fn add_peer_and_remove_peer_are_passed_on_by_any_member() {
    let mut cluster = group_of(2, Cluster::new()).await;
    let before = cluster.agree(0..3, SETTLE).await;
    let mut peers = peer(cluster.node(1)).await;
    let third = cluster.node(2).peer.clone();
    let remove = RemovePeerRequest { host: third.clone() };
    assert!(peers.remove_peer(remove.clone()).await.unwrap().into_inner().response);
    let after = cluster.agree([0, 1], SETTLE).await;
    assert!(!peers.remove_peer(remove).await.unwrap().into_inner().response, "it is no member");
    let alone = cluster.agree([2], SETTLE).await;
    assert_ne!(alone.group, before.group);
    // Longer than it takes to find a better group, and to move there.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(cluster.agree([0, 1], SETTLE).await.epoch, after.epoch, "it does not come back");
    let add = AddPeerRequest { host: third };
    assert!(peers.add_peer(add.clone()).await.unwrap().into_inner().response);
    assert_eq!(cluster.agree(0..3, SETTLE).await.group, before.group);
    // A member may remove itself.
    let host = cluster.node(2).peer.clone();
    let remove = RemovePeerRequest { host: cluster.id(2).to_owned() };
    let removed = peer(cluster.node(2)).await.remove_peer(remove).await.unwrap();
    assert!(removed.into_inner().response);
    cluster.agree([2], SETTLE).await;
    let mut control = super_peer(cluster.node(0)).await;
    let joined = control.handle_join(join(&host, &host, at(1.0, 1.0))).await.unwrap();
    assert!(joined.into_inner().accepted);
    cluster.agree(0..3, SETTLE).await;
    cluster.assert_one_history();
    // A restart ends the rest too.
    let remove = RemovePeerRequest { host };
    assert!(peers.remove_peer(remove).await.unwrap().into_inner().response);
    cluster.agree([0, 1], SETTLE).await;
    cluster.stop(2).await;
    cluster.start([2]).await;
    assert_eq!(cluster.agree(0..3, SETTLE).await.group, before.group);
}

/// The replication factor is the group's, and any member may be asked to change it.
#[tokio::test]
async fn the_replication_factor_is_set_through_any_member() {
    let cluster = group_of(2, Cluster::new()).await;
    for (number, factor) in [(2, 2), (0, 1), (1, 3)] {
        let path = "/nomad/config/groups/replication-factor";
        let wanted = json!({ "replicationFactor": factor });
        // A change of the group may be under way for a moment.
        let set = async || {
            let answer = cluster.node(number).http().post(path, &wanted).await;
            (answer.status == 200).then(|| answer.json())
        };
        let said = cluster.eventually("the factor is set", SETTLE, set).await;
        assert_eq!(said["replicationFactor"], factor);
        for other in 0..3 {
            cluster
                .eventually(
                    &format!("node {other} knows the factor {factor}"),
                    SETTLE,
                    async || {
                        let status = cluster.view(other).await?.document;
                        (status["settings"]["replicationFactor"] == factor).then_some(())
                    },
                )
                .await;
        }
    }
    cluster.agree(0..3, SETTLE).await;
}

/// Without a super-peer an order cannot be carried out: the client may try again later.
#[tokio::test]
async fn orders_without_a_super_peer_are_unavailable() {
    let mut cluster = group_of(1, Cluster::new()).await;
    cluster.kill_9(0);
    let mut peers = peer(cluster.node(1)).await;
    let mut control = super_peer(cluster.node(1)).await;
    let id = cluster.id(0).to_owned();
    let added = peers.add_peer(AddPeerRequest { host: UNUSED_ADDRESS.to_owned() }).await;
    let removed = peers.remove_peer(RemovePeerRequest { host: id.clone() }).await;
    let migrate = MigrationRequest { peer_id: id.clone(), new_super_peer_id: unknown_peer_id() };
    let migrated = control.migrate(migrate).await;
    let moved = control.update_position_reference(position_of(&id, at(1.0, 1.0))).await;
    let statuses = [
        refused(added, Code::Unavailable, "super-peer"),
        refused(removed, Code::Unavailable, "super-peer"),
        refused(migrated, Code::Unavailable, "super-peer"),
        refused(moved, Code::Unavailable, "super-peer"),
    ];
    for status in statuses {
        let retry = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
        assert!(retry.is_some_and(|delay| !delay.is_zero()), "{status:?}");
    }
}

/// The calls that tell a member about others: they succeed for who is there, and the table, not they, says who is a member.
#[tokio::test]
async fn telling_a_member_of_others_changes_no_table() {
    let cluster = group_of(2, Cluster::new()).await;
    let before = cluster.agree(0..3, SETTLE).await;
    let third = cluster.node(2).peer.clone();
    let mut peers = peer(cluster.node(1)).await;
    let added = peers.add_peer(AddPeerRequest { host: third.clone() }).await.unwrap();
    assert!(added.into_inner().response, "a member is added already");
    let mut control = super_peer(cluster.node(0)).await;
    let notified = control.notify_peers(NotifyPeersRequest { host: third.clone() }).await.unwrap();
    assert!(notified.into_inner().result);
    let after = cluster.agree(0..3, SETTLE).await;
    assert_eq!((&after.group, after.ids()), (&before.group, before.ids()));
    let mut control = super_peer(cluster.node(1)).await;
    for host in [third, UNUSED_ADDRESS.to_owned()] {
        let notified = control.notify_peers(NotifyPeersRequest { host }).await.unwrap();
        assert!(notified.into_inner().result);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = cluster.agree(0..3, SETTLE).await;
    assert_eq!(after.ids(), before.ids(), "a living member is not removed by hearsay");
    assert_eq!(after.epoch, before.epoch);
    cluster.assert_one_history();
}

/// A peer is told that its super-peer leaves. It checks that by itself: afterwards there is one super-peer, and no member is
/// lost.
#[tokio::test]
async fn handle_super_peer_leave_leaves_one_super_peer() {
    let cluster = group_of(2, Cluster::new()).await;
    let before = cluster.agree(0..3, SETTLE).await;
    let answer = peer(cluster.node(1)).await.handle_super_peer_leave(()).await;
    say(&format!("handleSuperPeerLeave on a peer: {answer:?}"));
    if let Err(status) = &answer {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = cluster.agree(0..3, SETTLE).await;
    assert_eq!((&after.group, after.ids()), (&before.group, before.ids()));
    cluster.assert_one_history();
}
