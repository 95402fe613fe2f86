//! Groups that hold objects, while members join, leave, crash, lose their disks and miss changes, and while the replication factor
//! changes. Nothing acknowledged is lost, and nothing deleted comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::support::{
    cli,
    cluster::{Cluster, Role, SETTLE},
    eventually, grpc,
    load::{Tally, holders, listed},
    objects::{Answer, Client, Edge, Failed, Mode, When, resource},
    say, started, unix_now,
};
use bytes::Bytes;
use futures::future::join_all;
use nomad_core::{
    model::{node_id::NodeId, object::ObjectId},
    register::replicas,
};
use nomad_proto::peerservice::RepairObjectRequest as RepairObjects;
use serde_json::json;

/// A group whose members remove the dead, repair and clean up within seconds.
async fn group_of(members: usize, cluster: Cluster) -> Cluster {
    let mut cluster = cluster
        .env("NODE_MAXPEERS", 7)
        .env("SCHEDULE_DBCLEANUP", "1s")
        .env("SCHEDULE_LEDGERCLEANUP", "1s")
        .env("SCHEDULE_REPAIR", "3s")
        .env("LIMITS_REQUESTTIMEOUT", "5s");
    cluster.add_group(Role::SuperPeer, members).await;
    cluster
}

fn clients(cluster: &Cluster) -> BTreeMap<usize, Client> {
    cluster.members().iter().map(|(number, member)| (*number, Client::of(member))).collect()
}

/// Objects and what they hold.
type Objects = BTreeMap<String, Bytes>;

/// Puts so many objects, at all running nodes in turn.
async fn fill(cluster: &Cluster, prefix: &str, count: usize, mode: Mode) -> Objects {
    let mut clients: Vec<_> = clients(cluster).into_values().collect();
    let share = clients.len();
    let writers = clients.iter_mut().enumerate().map(async |(first, client)| {
        let mut put = Objects::new();
        for number in (first..count).step_by(share) {
            let id = format!("{prefix}/{number:03}");
            let value = Bytes::from(format!("{id} as it was put"));
            let done = client.write(Edge::Grpc, mode, &id, value.clone(), &When::Absent).await;
            assert_eq!(done.unwrap().answer, Answer::Created, "{id}");
            put.insert(id, value);
        }
        put
    });
    join_all(writers).await.into_iter().flatten().collect()
}

/// Waits until every running node gives every object in every mode.
async fn wait_until_readable(cluster: &Cluster, objects: &Objects) {
    for (number, mut client) in clients(cluster) {
        for mode in Mode::ALL {
            let mut left: Vec<_> = objects.iter().collect();
            let what = format!("{} objects at node {number} in mode {mode:?}", objects.len());
            cluster
                .eventually(&what, SETTLE * 2, async || {
                    while let Some((id, value)) = left.last() {
                        let held = client.read(Edge::Grpc, mode, id).await.ok()??;
                        if held.value != *value {
                            return None;
                        }
                        left.pop();
                    }
                    Some(())
                })
                .await;
        }
    }
}

/// Waits until no running node gives any of these in any mode, and none lists them.
async fn wait_until_gone(cluster: &Cluster, prefix: &str, ids: &[String]) {
    for (number, mut client) in clients(cluster) {
        for mode in Mode::ALL {
            cluster
                .eventually(&format!("nothing at node {number} in {mode:?}"), SETTLE, async || {
                    for id in ids {
                        if client.read(Edge::Grpc, mode, id).await.ok()?.is_some() {
                            return None;
                        }
                    }
                    Some(())
                })
                .await;
        }
        let listed = listed(client.http(), prefix, 100).await;
        assert!(ids.iter().all(|id| !listed.contains(id)), "listed at node {number}: {listed:?}");
    }
}

/// Waits until the ledger of this node shows every object at exactly so many holders of these nodes: at those where the
/// protocol places it, and nowhere else.
async fn wait_for_holders(
    cluster: &Cluster,
    at: usize,
    objects: &Objects,
    count: usize,
    among: &BTreeSet<String>,
) -> BTreeMap<String, BTreeSet<String>> {
    let http = cluster.node(at).http();
    let nodes: BTreeSet<NodeId> = among.iter().map(|id| id.parse().unwrap()).collect();
    let place = |id: &String| -> BTreeSet<String> {
        let places = replicas(&ObjectId::parse(id).unwrap(), &nodes, count as u32);
        places.into_iter().map(|node| node.to_string()).collect()
    };
    let placed: BTreeMap<_, _> = objects.keys().map(|id| (id.clone(), place(id))).collect();
    let what = format!("{count} replicas of every object in the ledger of node {at}");
    cluster
        .eventually(&what, SETTLE * 2, async || {
            (holders(&http, objects.keys()).await == placed).then_some(())
        })
        .await;
    placed
}

/// Safe updates of an object of their own, at every running node, until told to stop. Gives how many there were.
async fn keep_updating(cluster: &Cluster, tally: Tally) -> tokio::task::JoinHandle<Objects> {
    let mut clients: Vec<_> = clients(cluster).into_values().collect();
    let count = clients.len();
    tokio::spawn(async move {
        let mut last = Objects::new();
        for number in 0.. {
            if tally.is_stopped() {
                break;
            }
            let (id, value) =
                (format!("meanwhile/{}", number % 10), Bytes::from(format!("{number}")));
            let client = &mut clients[number % count];
            let written =
                client.write(Edge::Resource, Mode::Safe, &id, value.clone(), &When::Always).await;
            match written {
                Ok(_) => {
                    last.insert(id, value);
                    tally.ack();
                }
                // The next one is a new value of the same object, whatever became of this one.
                Err(Failed::NotDone(_) | Failed::Unknown(_)) => {
                    last.remove(&id);
                }
            }
        }
        last
    })
}

/// From three to five, then to two: the ledger follows, every object stays readable in every mode, writers go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replication_factor_changes_with_data() {
    let cluster = group_of(5, Cluster::new()).await;
    let objects = fill(&cluster, "factor", 60, Mode::Safe).await;
    let members = cluster.ids(0..5);
    wait_for_holders(&cluster, 0, &objects, 3, &members).await;
    let tally = Tally::new();
    let meanwhile = keep_updating(&cluster, tally.clone()).await;
    for (asked, factor) in [(2, 5), (4, 2), (0, 3)] {
        let (before, start) = (cluster.view(0).await.unwrap().epoch, started());
        let body = json!({ "replicationFactor": factor });
        let http = cluster.node(asked).http();
        let said = http.post("/nomad/config/groups/replication-factor", &body).await.ok();
        assert_eq!(said["replicationFactor"], factor, "{said}");
        for at in [0, 3] {
            wait_for_holders(&cluster, at, &objects, factor, &members).await;
        }
        let after = cluster.agree(0..5, SETTLE).await;
        assert!(after.epoch > before, "changing the factor is an epoch change: {}", after.line());
        say(&format!("{factor} replicas of every object after {:?}", start.elapsed()));
        tally.more(20).await;
        wait_until_readable(&cluster, &objects).await;
    }
    tally.stop();
    wait_until_readable(&cluster, &meanwhile.await.unwrap()).await;
    for factor in [0, 65] {
        let body = json!({ "replicationFactor": factor });
        let http = cluster.node(1).http();
        let said = http.post("/nomad/config/groups/replication-factor", &body).await;
        said.problem(400, "INVALID_ARGUMENT");
    }
    say(&cluster.assert_one_history());
}

/// A group that grows takes its objects along: each is on as many members as before, new ones among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_grows_spreads_its_objects() {
    let mut cluster = group_of(2, Cluster::new()).await;
    let mut objects = Objects::new();
    for members in 3..=5 {
        objects.extend(fill(&cluster, &format!("grow-{members}"), 20, Mode::Safe).await);
        cluster.add(Role::Peer).await;
        cluster.agree(0..members, SETTLE * 2).await;
        let ids = cluster.ids(0..members);
        let held = wait_for_holders(&cluster, members - 1, &objects, members.min(3), &ids).await;
        let new = cluster.id(members - 1);
        assert!(held.values().any(|by| by.contains(new)), "the new member holds nothing");
        wait_until_readable(&cluster, &objects).await;
    }
    say(&cluster.assert_one_history());
}

/// `nomad leave` moves the replicas first: from the moment that it is through, the node is not needed for anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_leaves_moves_its_replicas_first() {
    let mut cluster = group_of(5, Cluster::new()).await;
    let objects = fill(&cluster, "leave", 60, Mode::Safe).await;
    let mut left = cluster.ids(0..5);
    wait_for_holders(&cluster, 0, &objects, 3, &left).await;
    for leaver in [4, 3] {
        cli::nomad(["leave"]).on(cluster.node(leaver)).ok().await;
        cluster.kill_9(leaver);
        left.remove(cluster.id(leaver));
        cluster.agree(0..leaver, SETTLE).await;
        wait_for_holders(&cluster, 1, &objects, 3, &left).await;
        wait_until_readable(&cluster, &objects).await;
    }
    say(&cluster.assert_one_history());
}

/// A disk that is lost is replaced by a new member, and every object has all its replicas again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_disk_joins_as_new_and_is_filled() {
    let mut cluster = group_of(5, Cluster::new().env("GROUP_REMOVEAFTER", "3s")).await;
    let mut objects = fill(&cluster, "disk", 60, Mode::Safe).await;
    wait_for_holders(&cluster, 0, &objects, 3, &cluster.ids(0..5)).await;
    for lost in [2, 0] {
        let (old, start) = (cluster.id(lost).to_owned(), started());
        cluster.kill_9(lost);
        cluster.wipe(lost);
        objects.extend(fill(&cluster, &format!("disk-{lost}"), 10, Mode::Fast).await);
        cluster.start([lost]).await;
        assert_ne!(cluster.id(lost), old, "who lost everything is somebody else");
        cluster.agree(0..5, SETTLE * 2).await;
        let held = wait_for_holders(&cluster, lost, &objects, 3, &cluster.ids(0..5)).await;
        assert!(held.values().any(|by| by.contains(cluster.id(lost))), "the new one holds nothing");
        say(&format!("a lost disk is made up for after {:?}", start.elapsed()));
        wait_until_readable(&cluster, &objects).await;
    }
    say(&cluster.assert_one_history());
}

/// A member that missed much catches up: what it says in fast mode is then what the others say, and nothing that was
/// deleted meanwhile comes back with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_catches_up_and_brings_nothing_back() {
    let mut cluster = group_of(4, Cluster::new()).await;
    let mut objects = fill(&cluster, "away", 40, Mode::Safe).await;
    let gone = fill(&cluster, "gone", 40, Mode::Safe).await;
    let gone: Vec<_> = gone.into_keys().collect();
    for (round, away) in [3, 1].into_iter().enumerate() {
        if round == 0 {
            cluster.kill_9(away);
        } else {
            cluster.stop(away).await;
        }
        let mut others: Vec<_> = clients(&cluster).into_values().collect();
        for (number, (id, value)) in objects.iter_mut().enumerate() {
            *value = Bytes::from(format!("changed in round {round}"));
            let (client, mode) = (&mut others[number % 3], Mode::OF_WRITES[number % 2]);
            let done = client.write(Edge::Grpc, mode, id, value.clone(), &When::Present).await;
            assert_eq!(done.unwrap().answer, Answer::Replaced, "{id}");
        }
        if round == 0 {
            for (number, id) in gone.iter().enumerate() {
                let (client, mode) = (&mut others[number % 3], Mode::OF_WRITES[number % 2]);
                let done = client.delete(Edge::Grpc, mode, id, &When::Always).await;
                assert_eq!(done.unwrap().answer, Answer::Removed, "{id}");
            }
        }
        // The others go about removing what is left of the deleted ones, as far as they may without it.
        let over = unix_now() + 5;
        eventually("a repair and a clean-up", SETTLE, async || (unix_now() > over).then_some(()))
            .await;
        cluster.start([away]).await;
        cluster.agree(0..4, SETTLE).await;
        wait_until_readable(&cluster, &objects).await;
        wait_until_gone(&cluster, "gone", &gone).await;
    }
    // And not later either, when repairs and clean-ups have passed over it.
    let over = unix_now() + 8;
    eventually("some repairs", SETTLE, async || (unix_now() > over).then_some(())).await;
    wait_until_gone(&cluster, "gone", &gone).await;
    say(&cluster.assert_one_history());
}

/// All stop and all start again, in either order, in order or killed: the group has every object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stop_and_start_keeps_every_object() {
    let mut cluster = group_of(4, Cluster::new()).await;
    let mut objects = fill(&cluster, "safe", 30, Mode::Safe).await;
    for round in 0..2 {
        // Just acknowledged: some of it is in outboxes when the nodes go.
        objects.extend(fill(&cluster, &format!("fast-{round}"), 30, Mode::Fast).await);
        if round == 0 {
            cluster.stop_all().await;
        } else {
            (0..4).for_each(|number| cluster.kill_9(number));
        }
        let order = if round == 0 { [0, 1, 2, 3] } else { [3, 2, 1, 0] };
        cluster.start_in_turn(&order, Duration::from_millis(500)).await;
        cluster.agree(0..4, SETTLE * 2).await;
        wait_until_readable(&cluster, &objects).await;
    }
    say(&cluster.assert_one_history());
}

/// Two of three members do not come back in time. The survivor ends the group, founds another one and takes its objects with it.
/// When the two start again, they join it, with their objects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_survivor_of_a_dissolved_group_carries_its_objects_over() {
    let cluster = Cluster::new().env("GROUP_QUORUMLOSSGRACE", "4s").env("GROUP_REMOVEAFTER", "60s");
    let mut cluster = group_of(3, cluster).await;
    let mut objects = fill(&cluster, "survivor", 30, Mode::Safe).await;
    wait_for_holders(&cluster, 2, &objects, 3, &cluster.ids(0..3)).await;
    let old = cluster.view(2).await.unwrap().group;
    cluster.kill_9(0);
    cluster.kill_9(1);
    cluster
        .eventually("another group of the survivor alone", SETTLE * 2, async || {
            let view = cluster.view(2).await?;
            (view.ready && view.group != old && !view.group.is_empty()).then_some(())
        })
        .await;
    wait_until_readable(&cluster, &objects).await;
    objects.extend(fill(&cluster, "alone", 10, Mode::Safe).await);
    cluster.start([0, 1]).await;
    cluster.agree(0..3, SETTLE * 3).await;
    wait_until_readable(&cluster, &objects).await;
}

/// Without a majority of an object's replica set safe operations on it are refused, soon and with the reason; fast ones
/// go on. When the members are back, so is everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_of_replicas_safe_refuses_and_fast_goes_on() {
    let mut cluster = group_of(5, Cluster::new()).await;
    let objects = fill(&cluster, "majority", 20, Mode::Safe).await;
    let held = wait_for_holders(&cluster, 0, &objects, 3, &cluster.ids(0..5)).await;
    let down = [3, 4];
    let dead = cluster.ids(down);
    for number in down {
        cluster.kill_9(number);
    }
    let alive = |id: &String| held[id].difference(&dead).count();
    let (mut slowest, mut refused) = (Duration::ZERO, 0);
    for (number, mut client) in clients(&cluster) {
        for (id, value) in &objects {
            let start = started();
            let read = client.read(Edge::ALL[number % 3], Mode::Safe, id).await;
            slowest = slowest.max(start.elapsed());
            match (read, alive(id)) {
                (Ok(Some(read)), 2..) => assert_eq!(read.value, *value),
                (Err(Failed::NotDone(why)), 0..2) => {
                    refused += 1;
                    assert!(why.len() > 20, "a reason: {why}");
                }
                (other, alive) => panic!("{id} with {alive} replicas alive: {other:?}"),
            }
            let held = client.read(Edge::Grpc, Mode::Fast, id).await.unwrap();
            assert_eq!(held.unwrap().value, *value, "{id} in fast mode");
        }
    }
    assert!(refused > 0, "no object lost its majority: {held:?}");
    say(&format!("two of five down: the slowest safe read was answered after {slowest:?}"));
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    // Writes: those that cannot be safe are refused, and change nothing.
    let mut after = objects.clone();
    let mut client = Client::of(&cluster.member(1));
    for (id, value) in &mut after {
        let (new, start) = (Bytes::from(format!("{id} later")), started());
        let written = client.write(Edge::Grpc, Mode::Safe, id, new.clone(), &When::Present).await;
        let took = start.elapsed();
        match (written, alive(id)) {
            (Ok(done), 2..) => assert_eq!(done.answer, Answer::Replaced, "{id}"),
            (Err(Failed::NotDone(_)), 0..2) => {
                assert!(took < Duration::from_secs(5), "{id} was refused after {took:?}");
                continue;
            }
            (other, alive) => panic!("{id} with {alive} replicas alive: {other:?}"),
        }
        *value = new;
    }
    let fast = fill(&cluster, "meanwhile", 30, Mode::Fast).await;
    cluster.start(down).await;
    cluster.agree(0..5, SETTLE).await;
    wait_until_readable(&cluster, &after).await;
    wait_until_readable(&cluster, &fast).await;
    wait_for_holders(&cluster, 0, &fast, 3, &cluster.ids(0..5)).await;
    say(&cluster.assert_one_history());
}

/// Fast writes that could not reach other replicas are replicated when members are back, without any action by a client, also
/// when their node was killed in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_survives_and_is_drained_when_the_others_are_back() {
    let mut cluster = group_of(3, Cluster::new()).await;
    let base = fill(&cluster, "before", 10, Mode::Safe).await;
    cluster.kill_9(1);
    cluster.kill_9(2);
    let mut objects = fill(&cluster, "outbox", 50, Mode::Fast).await;
    let mut client = Client::of(&cluster.member(0));
    for (id, value) in objects.iter_mut().take(20) {
        *value = Bytes::from(format!("{id} again"));
        let done = client.write(Edge::Older, Mode::Fast, id, value.clone(), &When::Present).await;
        assert_eq!(done.unwrap().answer, Answer::Replaced);
    }
    let deleted: Vec<_> = base.keys().take(5).cloned().collect();
    for id in &deleted {
        let done = client.delete(Edge::Resource, Mode::Fast, id, &When::Always).await.unwrap();
        assert_eq!(done.answer, Answer::Removed, "{id}");
    }
    cluster.kill_9(0);
    cluster.start([0, 1, 2]).await;
    cluster.agree(0..3, SETTLE * 2).await;
    wait_until_readable(&cluster, &objects).await;
    wait_until_gone(&cluster, "before", &deleted).await;
    wait_for_holders(&cluster, 2, &objects, 3, &cluster.ids(0..3)).await;
    say(&cluster.assert_one_history());
}

/// A repair that is asked for does its work at once, long before the periodic one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_is_asked_for_needs_no_schedule() {
    let mut cluster = Cluster::new();
    cluster.add_group(Role::SuperPeer, 3).await;
    // One of three misses the writes; nothing tells it of them when it is back but a repair.
    cluster.kill_9(2);
    let objects = fill(&cluster, "missed", 30, Mode::Safe).await;
    cluster.start([2]).await;
    cluster.agree(0..3, SETTLE).await;
    let ask = RepairObjects { object_ids: objects.keys().cloned().collect() };
    let answer = grpc::peer(cluster.node(1)).await.repair_objects(ask).await.unwrap();
    assert!(answer.into_inner().response);
    let there = cluster.ids(0..3);
    wait_for_holders(&cluster, 1, &objects, 3, &there).await;
    // It alone is left to read from.
    cluster.kill_9(0);
    cluster.kill_9(1);
    let http = cluster.node(2).http();
    for (id, value) in &objects {
        let call = http.call("GET", &resource(id)).header("nomad-mode", "fast");
        assert_eq!(call.send().await.expect(200).body, *value, "{id}");
    }
}
