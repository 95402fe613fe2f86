//! What the architecture promises of groups, one test for each promise, named after it. The promise that safe operations
//! are linearizable has its test in `tests/fire`, where everything else goes wrong at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::support::{
    cluster::{Cluster, Role, SETTLE, View},
    eventually,
    grpc::{group, in_mode, object, refused},
    json::base64,
    load::{holders, listed},
    node::Node,
    objects::{Answer, Client, Edge, Failed, Held, Mode, When, resource},
    say, unix_now,
};
use bytes::Bytes;
use futures::future::join_all;
use nomad_proto::{
    groupstorage::{PutObjectRequest, UpdateObjectRequest},
    models::GameObjectGrpc,
};
use serde_json::json;
use tonic::Code;

async fn group_of(members: usize, cluster: Cluster) -> Cluster {
    let mut cluster = cluster
        .env("NODE_MAXPEERS", 8)
        .env("SCHEDULE_DBCLEANUP", "1s")
        .env("SCHEDULE_LEDGERCLEANUP", "1s")
        .env("SCHEDULE_REPAIR", "3s");
    cluster.add_group(Role::SuperPeer, members).await;
    cluster
}

fn clients(cluster: &Cluster) -> Vec<Client> {
    cluster.members().values().map(Client::of).collect()
}

/// Waits until every running node says of every object what is expected, in every mode.
async fn wait_until_all_return(cluster: &Cluster, expected: &BTreeMap<String, Option<Bytes>>) {
    for (number, member) in cluster.members() {
        let mut client = Client::of(&member);
        for mode in Mode::ALL {
            let mut left: Vec<_> = expected.iter().collect();
            let what = format!("{} objects at node {number} in mode {mode:?}", left.len());
            cluster
                .eventually(&what, SETTLE * 2, async || {
                    while let Some((id, value)) = left.last() {
                        let held = client.read(Edge::Grpc, mode, id).await.ok()?;
                        if held.map(|held| held.value) != **value {
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

/// Waits until so many seconds of the wall clock have passed, on which expiry and clean-up depend.
async fn wait_seconds(count: i64) {
    let over = unix_now() + count;
    eventually("the wall clock", SETTLE, async || (unix_now() > over).then_some(())).await;
}

/// "Safe write acknowledged: durable on a majority of the replica set; survives the loss of any minority of it; never
/// undone by a later epoch."
///
/// Method: on five replicas of five, two members lose their disks at once, right after the last acknowledgement; both
/// are replaced, which is at least one later epoch. Then all are killed at once. Twice, with other members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_a_safe_write_survives_the_loss_of_any_minority_and_every_later_epoch() {
    let cluster =
        Cluster::new().env("GROUP_REMOVEAFTER", "3s").env("NODE_STORAGE_REPLICATIONFACTOR", 5);
    let mut cluster = group_of(5, cluster).await;
    let mut expected = BTreeMap::new();
    for lost in [[1, 4], [2, 3]] {
        let before = cluster.agree(0..5, SETTLE * 2).await;
        let mut clients = clients(&cluster);
        for number in 0..50 {
            let (id, client) = (format!("kept/{}-{number}", lost[0]), &mut clients[number % 5]);
            let value = Bytes::from(format!("{number} of {lost:?}"));
            let done =
                client.write(Edge::Grpc, Mode::Safe, &id, value.clone(), &When::Absent).await;
            let done = done.unwrap();
            assert_eq!((done.answer, done.durability.as_str()), (Answer::Created, "quorum"));
            expected.insert(id, Some(value));
        }
        for number in lost {
            cluster.kill_9(number);
        }
        for number in lost {
            cluster.wipe(number);
        }
        wait_until_all_return(&cluster, &expected).await;
        cluster.start(lost).await;
        let after = cluster.agree(0..5, SETTLE * 3).await;
        assert!(after.epoch > before.epoch, "{} then {}", before.line(), after.line());
        wait_until_all_return(&cluster, &expected).await;
        (0..5).for_each(|number| cluster.kill_9(number));
        cluster.start(0..5).await;
        cluster.agree(0..5, SETTLE * 2).await;
        wait_until_all_return(&cluster, &expected).await;
    }
    say(&cluster.assert_one_history());
}

/// "Fast write acknowledged: durable on one node; reaches R replicas without further action while that node lives; newest
/// version wins."
///
/// Method: one node takes the writes while no other runs, and is killed right after that. Then all members write the same
/// objects at once: the greatest version that a client got must win.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_a_fast_write_reaches_its_replicas_and_the_newest_version_wins() {
    let mut cluster = group_of(5, Cluster::new()).await;
    (1..5).for_each(|number| cluster.kill_9(number));
    let mut client = Client::of(&cluster.member(0));
    let mut expected = BTreeMap::new();
    for number in 0..40 {
        let (id, value) = (format!("alone/{number}"), Bytes::from(format!("{number}")));
        let done = client.write(Edge::Resource, Mode::Fast, &id, value.clone(), &When::Always);
        let done = done.await.unwrap();
        assert_eq!((done.answer, done.durability.as_str()), (Answer::Created, "local"));
        expected.insert(id, Some(value));
    }
    cluster.kill_9(0);
    cluster.start([0]).await;
    cluster.start(1..5).await;
    cluster.agree(0..5, SETTLE * 2).await;
    wait_until_all_return(&cluster, &expected).await;
    let (http, members) = (cluster.node(3).http(), cluster.ids(0..5));
    cluster
        .eventually("three replicas of each", SETTLE, async || {
            let held = holders(&http, expected.keys()).await;
            let right = held.values().all(|by| by.len() == 3 && by.is_subset(&members));
            right.then_some(())
        })
        .await;
    // Now everybody at once.
    let mut clients = clients(&cluster);
    let writers = clients.iter_mut().enumerate().map(async |(number, client)| {
        let mut told: BTreeMap<String, (String, Bytes)> = BTreeMap::new();
        for round in 0..10 {
            for object in 0..8 {
                let (id, value) =
                    (format!("all/{object}"), Bytes::from(format!("{round} of {number}")));
                let write =
                    client.write(Edge::Resource, Mode::Fast, &id, value.clone(), &When::Always);
                let version = write.await.unwrap().version.expect("an ETag");
                let own = client.read(Edge::Grpc, Mode::Fast, &id).await.unwrap().unwrap();
                assert!(own.version >= version, "{id}: {own:?} after its own {version}");
                told.insert(id, (version, value));
            }
        }
        told
    });
    let mut newest: BTreeMap<String, (String, Bytes)> = BTreeMap::new();
    for (id, told) in join_all(writers).await.into_iter().flatten() {
        let known = newest.entry(id).or_insert_with(|| told.clone());
        if told.0 > known.0 {
            *known = told;
        }
    }
    for (id, (version, value)) in newest {
        let wanted = Held { version, value };
        for client in &mut clients {
            for mode in Mode::ALL {
                let what = format!("the newest version of {id} in mode {mode:?}");
                cluster
                    .eventually(&what, SETTLE, async || {
                        let held = client.read(Edge::Grpc, mode, &id).await.ok()?;
                        (held.as_ref() == Some(&wanted)).then_some(())
                    })
                    .await;
            }
        }
    }
    say(&cluster.assert_one_history());
}

/// "Delete, expiry: never resurrect."
///
/// Method: one member after the other is stopped while objects are deleted, expire, or are replaced by versions that expire.
/// It comes back with old versions that do not expire. Clean-ups and repairs run more than once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_deleted_and_expired_objects_never_come_back() {
    let mut cluster = group_of(4, Cluster::new()).await;
    let mut everything = BTreeMap::new();
    for away in [3, 2] {
        let mut writers = clients(&cluster);
        let ids: Vec<_> = (0..45).map(|number| format!("end/{away}-{number}")).collect();
        for (number, id) in ids.iter().enumerate() {
            let client = &mut writers[number % 4];
            let put =
                client.write(Edge::Grpc, Mode::Safe, id, "for ever".into(), &When::Absent).await;
            assert_eq!(put.unwrap().answer, Answer::Created);
        }
        let all: BTreeMap<_, _> =
            ids.iter().map(|id| (id.clone(), Some(Bytes::from("for ever")))).collect();
        wait_until_all_return(&cluster, &all).await;
        cluster.kill_9(away);
        let mut writers = clients(&cluster);
        for (number, id) in ids.iter().enumerate() {
            let (client, mode) = (&mut writers[number % 3], Mode::OF_WRITES[number % 2]);
            if number % 3 == 0 {
                let gone = client.delete(Edge::Resource, mode, id, &When::Always).await.unwrap();
                assert_eq!(gone.answer, Answer::Removed, "{id}");
            } else {
                let call = client.http().call("PUT", &resource(id)).header("nomad-ttl", "2");
                let call = call.header("nomad-mode", mode.name()).body("not for long");
                call.send().await.expect(204);
            }
        }
        everything.extend(ids.iter().map(|id| (id.clone(), None)));
        // Everything has expired, and been cleaned up as far as it may be without the one that is away.
        wait_seconds(6).await;
        wait_until_all_return(&cluster, &everything).await;
        cluster.start([away]).await;
        cluster.agree(0..4, SETTLE).await;
        let mut back = Client::of(&cluster.member(away));
        for id in &ids {
            let held = back.read(Edge::Grpc, Mode::Safe, id).await.unwrap();
            assert_eq!(held, None, "{id}, read safely where an old copy is");
        }
        wait_until_all_return(&cluster, &everything).await;
        // Again, after the removal of what was left of them.
        wait_seconds(8).await;
        wait_until_all_return(&cluster, &everything).await;
        for (number, client) in clients(&cluster).iter().enumerate() {
            let listed = listed(client.http(), "end/", 100).await;
            assert!(listed.is_empty(), "listed at node {number}: {listed:?}");
        }
    }
    // A member that joins later is given none of them, and their ids are free.
    cluster.add(Role::Peer).await;
    cluster.agree(0..5, SETTLE * 2).await;
    wait_until_all_return(&cluster, &everything).await;
    let mut late = Client::of(&cluster.member(4));
    for id in everything.keys().take(10) {
        let put = late.write(Edge::Older, Mode::Safe, id, "again".into(), &When::Absent).await;
        assert_eq!(put.unwrap().answer, Answer::Created, "{id}");
    }
    say(&cluster.assert_one_history());
}

/// "Membership: one truth per group; two groups never both own a member."
///
/// Method: seven nodes in groups of at most four lose their super-peers while clients write; every view of every node is
/// kept, and at rest each node is in exactly one group, whose members all agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_membership_is_one_truth_and_no_member_is_in_two_groups() {
    let mut cluster = Cluster::new().env("NODE_MAXPEERS", 4);
    cluster.add(Role::SuperPeer).await;
    cluster.add_many(Role::Peer, 6).await;
    let mut groups = cluster.groups(SETTLE * 3).await;
    for round in 0..3 {
        let owners = group_of_each_node(&groups);
        assert_eq!(owners.len(), 7, "round {round}: a node without a group: {owners:?}");
        for group in &groups {
            let number = cluster.number(&group.id);
            let mut client = Client::of(&cluster.member(number));
            let id = format!("truth/{round}-{}", group.group);
            let put = client.write(Edge::Grpc, Mode::Safe, &id, "x".into(), &When::Absent).await;
            assert_eq!(put.unwrap().answer, Answer::Created);
        }
        // The largest group loses its super-peer.
        let largest = groups.iter().max_by_key(|view| view.members.len()).unwrap();
        let lead = cluster.number(&largest.id);
        cluster.kill_9(lead);
        let rest: Vec<_> = largest.ids().iter().map(|id| cluster.number(id)).collect();
        cluster
            .eventually("another super-peer", SETTLE, async || {
                let views = cluster.views(rest.iter().copied().filter(|n| *n != lead)).await;
                views.into_iter().flatten().find(View::leads)
            })
            .await;
        cluster.start([lead]).await;
        groups = cluster.groups(SETTLE * 3).await;
    }
    group_of_each_node(&groups);
    say(&cluster.assert_one_history());
}

/// Each node's group. Fails when two groups own a node.
#[track_caller]
fn group_of_each_node(groups: &[View]) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    for view in groups {
        for id in view.ids() {
            let other = owners.insert(id.clone(), view.group.clone());
            assert_eq!(other, None, "{id} is in the group {} too", view.group);
        }
    }
    owners
}

/// "Bad input: refused with a code, nothing changed."
///
/// Method: what is wrong in itself, in every mode at every member, about an object that is there; afterwards every member
/// has the same object, no other, and the same table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_bad_input_is_refused_with_a_code_and_changes_nothing() {
    let cluster = group_of(3, Cluster::new()).await;
    let before = cluster.agree(0..3, SETTLE).await;
    let mut client = Client::of(&cluster.member(0));
    let put = client.write(Edge::Grpc, Mode::Safe, "there", "as it was".into(), &When::Absent);
    put.await.unwrap();
    let held = client.read(Edge::Grpc, Mode::Safe, "there").await.unwrap().unwrap();
    let past = unix_now() - 10;
    for number in 0..3 {
        let node = cluster.node(number);
        let http = node.http();
        for mode in Mode::OF_WRITES.map(Mode::name) {
            let put = |name: &str, value: &str| {
                let call = http.call("PUT", "/nomad/v1/objects/there").header("nomad-mode", mode);
                call.header(name, value).body("changed").send()
            };
            for (name, value) in [
                ("nomad-ttl", "-1"),
                ("nomad-ttl", "soon"),
                ("nomad-expires", &past.to_string()),
                ("if-match", "no tag"),
                ("if-match", "\"no version\""),
            ] {
                let answer = put(name, value).await;
                let right = answer.status == 400 || (answer.status == 412 && value.contains('"'));
                assert!(right, "{name}: {value} at node {number}: {answer:?}");
            }
            let long = resource(&"x".repeat(1_025));
            for path in [long.as_str(), "/nomad/v1/objects/a%00b", "/nomad/v1/objects/%FF"] {
                let call = http.call("PUT", path).header("nomad-mode", mode).body("x");
                call.send().await.problem(400, "INVALID_ARGUMENT");
            }
            let big = http.call("PUT", "/nomad/v1/objects/there").header("nomad-mode", mode);
            let big = big.body(vec![b'x'; (4 << 20) + 1]).send().await;
            big.problem(413, "TOO_LARGE");
            refuse_grpc(node, mode, past).await;
            let older = format!("/nomad/group-storage/{mode}-put");
            for body in [
                json!({ "value": base64("x") }),
                json!({ "id": "", "value": base64("x") }),
                json!({ "id": "new", "value": "not base64!" }),
                json!({ "id": "new", "value": base64("x"), "ttl": past }),
                json!({ "id": "new", "value": base64("x"), "ttl": "tomorrow" }),
            ] {
                http.post(&older, &body).await.problem(400, "INVALID_ARGUMENT");
            }
        }
        let call = http.call("PUT", "/nomad/v1/objects/there").header("nomad-mode", "slow");
        call.body("x").send().await.problem(400, "INVALID_ARGUMENT");
        let call = http.call("PUT", "/nomad/v1/objects/there").header("nomad-mode", "parallel");
        call.body("x").send().await.problem(400, "INVALID_ARGUMENT");
    }
    for number in 0..3 {
        let mut client = Client::of(&cluster.member(number));
        for mode in Mode::ALL {
            let now = client.read(Edge::Resource, mode, "there").await.unwrap();
            assert_eq!(now.as_ref(), Some(&held), "node {number} in mode {mode:?}");
        }
        let all = listed(client.http(), "", 100).await;
        assert_eq!(all, BTreeSet::from(["there".to_owned()]), "node {number}");
    }
    let after = cluster.agree(0..3, SETTLE).await;
    assert_eq!((after.epoch, after.ids()), (before.epoch, before.ids()));
}

async fn refuse_grpc(node: &Node, mode: &str, past: i64) {
    let mut client = group(node).await;
    let put = |object| in_mode(mode, PutObjectRequest { object });
    let bad: [(Option<GameObjectGrpc>, &str); 4] = [
        (None, "object"),
        (Some(object("", "x")), "id"),
        (Some(object("a\u{7}b", "x")), "control"),
        (Some(GameObjectGrpc { ttl: past, ..object("new", "x") }), "past"),
    ];
    for (object, named) in bad {
        refused(client.put(put(object)).await, Code::InvalidArgument, named);
    }
    let version = "no version".to_owned();
    let object = Some(GameObjectGrpc { version, ..object("there", "x") });
    let update = in_mode(mode, UpdateObjectRequest { object });
    refused(client.update(update).await, Code::InvalidArgument, "version");
}

/// Memory that a flood may make a node keep: what is in flight, and buffers that its allocator holds on to.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

fn resident_bytes(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// "Overload: refused early, memory bounded, what was accepted is finished."
///
/// Method: one member of three accepts sixteen requests at a time and is sent four hundred. Another member is paused for a part
/// of it. Every refusal comes at once and asks to try again; every acknowledged write is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_overload_is_refused_early_and_what_was_accepted_is_finished() {
    let cluster = Cluster::new()
        .env("LIMITS_REQUESTS", 16)
        .env("LIMITS_REQUESTBYTES", "8MiB")
        .env("LIMITS_REQUESTTIMEOUT", "5s");
    let cluster = group_of(3, cluster).await;
    let before: Vec<_> = (0..3).map(|number| resident_bytes(cluster.node(number))).collect();
    let value = Bytes::from(vec![b'x'; 20_000]);
    let mut expected = BTreeMap::new();
    let (mut refusals, mut unknown) = (0, BTreeSet::new());
    for (round, mode) in [Mode::Safe, Mode::Fast, Mode::Safe].into_iter().enumerate() {
        let mut clients: Vec<_> = (0..40).map(|_| Client::of(&cluster.member(0))).collect();
        // In the last round the writes wait for one that does not answer: what piles up must not grow without end.
        if round == 2 {
            cluster.pause(1);
        }
        let floods = clients.iter_mut().enumerate().map(async |(client_number, client)| {
            let mut ends = Vec::new();
            for number in 0..10 {
                let id = format!("flood/{round}-{client_number}-{number}");
                let edge = Edge::ALL[number % 3];
                let start = crate::support::started();
                let written = client.write(edge, mode, &id, value.clone(), &When::Absent).await;
                ends.push((id, written, start.elapsed()));
            }
            ends
        });
        let ends = join_all(floods).await;
        if round == 2 {
            cluster.resume(1);
        }
        for (id, written, took) in ends.into_iter().flatten() {
            match written {
                Ok(done) => {
                    assert_eq!(done.answer, Answer::Created, "{id}");
                    expected.insert(id, Some(value.clone()));
                }
                Err(Failed::NotDone(why)) => {
                    refusals += 1;
                    assert!(
                        took < Duration::from_secs(6),
                        "{id} was refused after {took:?}: {why}"
                    );
                    expected.insert(id, None);
                }
                Err(Failed::Unknown(_)) => {
                    unknown.insert(id);
                }
            }
        }
    }
    let done = expected.values().flatten().count();
    say(&format!("a flood: {done} done, {refusals} refused, {} unknown", unknown.len()));
    assert!(done > 0 && refusals > 0, "{done} done, {refusals} refused: no flood");
    cluster.agree(0..3, SETTLE).await;
    wait_until_all_return(&cluster, &expected).await;
    for (number, before) in before.into_iter().enumerate() {
        let now = resident_bytes(cluster.node(number));
        say(&format!("node {number} held {} MiB, then {} MiB", before >> 20, now >> 20));
        assert!(now < before + GROWTH_BYTES_MAX, "node {number}: {before} bytes, then {now}");
    }
}
