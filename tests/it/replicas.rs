//! The objects of a group of five real processes: every mode on every endpoint of the contract, from every member. All
//! tests share the group; each has objects of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::support::{
    assert_says, cli,
    cluster::{Cluster, Role, SETTLE, short},
    eventually,
    grpc::{self, peer, refused, super_peer},
    json::{all, base64, int_of},
    load::{holders, ledger, listed},
    objects::{Answer, Client, Edge, Failed, Held, Mode, When, resource},
    shared::SharedCluster,
    unique, unix_now,
};
use bytes::Bytes;
use futures::future::join_all;
use nomad_proto::{
    groupstorage::{AddToGroupLedgerRequest, RemovePeerGroupLedgerRequest as ForgetPeer},
    peerservice::RepairObjectRequest as RepairObjects,
    superpeerservice::{
        AddObjectRequest, RemovePeerGroupLedgerRequest as SuperPeerForgetPeer, RepairObjectRequest,
    },
};
use serde_json::{Value, json};
use tonic::Code;

const MEMBERS: usize = 5;
const REPLICAS: usize = 3;

static GROUP: SharedCluster = SharedCluster::new();

fn group() -> &'static Cluster {
    GROUP.get(|| async {
        let mut cluster = Cluster::new()
            .env("SCHEDULE_DBCLEANUP", "1s")
            .env("SCHEDULE_LEDGERCLEANUP", "1s")
            .env("SCHEDULE_REPAIR", "5s");
        cluster.add_group(Role::SuperPeer, MEMBERS).await;
        cluster
    })
}

/// A client of each member.
fn clients() -> Vec<Client> {
    let cluster = group();
    (0..MEMBERS).map(|number| Client::of(&cluster.member(number))).collect()
}

/// What one member says of an object, over every edge.
async fn read_at(client: &mut Client, mode: Mode, id: &str) -> Vec<Option<Held>> {
    let mut found = Vec::new();
    for edge in Edge::ALL {
        let read = client.read(edge, mode, id).await;
        found.push(read.unwrap_or_else(|failed| panic!("{edge:?} {mode:?} {id}: {failed:?}")));
    }
    found
}

/// What every member says of an object, over every edge.
async fn read_all(clients: &mut [Client], mode: Mode, id: &str) -> Vec<Option<Held>> {
    let reads = clients.iter_mut().map(|client| read_at(client, mode, id));
    join_all(reads).await.into_iter().flatten().collect()
}

/// The one thing that all say, if it is one.
fn agreed(said: Vec<Option<Held>>) -> Option<Option<Held>> {
    let mut distinct = said;
    distinct.dedup();
    (distinct.len() == 1).then(|| distinct.remove(0))
}

/// Asserts that all members hold this value, or nothing. At once if the write and the read are safe, otherwise soon. Returns
/// the version, which is the same everywhere.
async fn assert_at_all_members(
    clients: &mut [Client],
    written: Mode,
    id: &str,
    value: Option<&str>,
) -> Option<String> {
    let is_it =
        |held: &Option<Held>| held.as_ref().map(|held| &held.value[..]) == value.map(str::as_bytes);
    if written == Mode::Safe {
        let said = read_all(clients, Mode::Safe, id).await;
        assert!(said.iter().all(is_it), "{id}, safe after safe: not {value:?} but {said:?}");
        agreed(said).unwrap_or_else(|| panic!("{id}: versions differ"));
    }
    let mut found = None;
    for mode in Mode::ALL {
        let what = format!("{id} is {value:?} at all members, read in mode {mode:?}");
        let held = eventually(&what, SETTLE, async || {
            let said = read_all(clients, mode, id).await;
            agreed(said).filter(is_it)
        })
        .await;
        let version = held.map(|held| held.version);
        assert_eq!(*found.get_or_insert_with(|| version.clone()), version, "{id} in {mode:?}");
    }
    found.flatten()
}

/// Create, update and delete one object, each at another member.
async fn full_life_cycle(edge: Edge, mode: Mode) {
    let mut clients = clients();
    for first in 0..MEMBERS {
        let id = unique(&format!("life-{edge:?}-{}", mode.name()));
        let turn = |n: usize| (first + n) % MEMBERS;
        let write = async |client: &mut Client, value: &'static str, when: When| {
            let done = client.write(edge, mode, &id, Bytes::from(value), &when).await;
            let done =
                done.unwrap_or_else(|failed| panic!("{edge:?} {mode:?} {when:?}: {failed:?}"));
            let has_effect = matches!(done.answer, Answer::Created | Answer::Replaced);
            assert!(!has_effect || done.durability == mode.durability(), "{done:?}");
            done
        };
        let created = write(&mut clients[turn(0)], "one", When::Absent).await;
        assert_eq!(created.answer, Answer::Created);
        // The member that took a write returns it at once, in every mode that asks no other member.
        let own = read_at(&mut clients[turn(0)], Mode::Fast, &id).await;
        assert!(own.iter().flatten().all(|held| held.value == "one"), "{own:?}");
        assert_eq!(own.iter().flatten().count(), Edge::ALL.len(), "{own:?}");
        let one = assert_at_all_members(&mut clients, mode, &id, Some("one")).await.unwrap();
        assert!(created.version.is_none_or(|version| version == one), "{id}");
        for other in 1..MEMBERS {
            let again = write(&mut clients[turn(other)], "other", When::Absent).await;
            assert_eq!(again.answer, Answer::Exists, "{id}, created again at {other}");
        }
        let replaced = write(&mut clients[turn(1)], "two", When::Present).await;
        assert_eq!(replaced.answer, Answer::Replaced);
        let two = assert_at_all_members(&mut clients, mode, &id, Some("two")).await.unwrap();
        assert!(two > one, "{id}: version {two} after {one}");
        let swapped = write(&mut clients[turn(2)], "three", When::Version(two.clone())).await;
        assert_eq!(swapped.answer, Answer::Replaced);
        let three = assert_at_all_members(&mut clients, mode, &id, Some("three")).await.unwrap();
        assert!(three > two, "{id}: version {three} after {two}");
        let stale = write(&mut clients[turn(3)], "four", When::Version(two.clone())).await;
        assert!(matches!(stale.answer, Answer::Other | Answer::Unmet), "{id}: {stale:?}");
        let gone = clients[turn(4)].delete(edge, mode, &id, &When::Always).await.unwrap();
        assert_eq!((gone.answer, gone.durability.as_str()), (Answer::Removed, mode.durability()));
        assert_at_all_members(&mut clients, mode, &id, None).await;
        for (other, client) in clients.iter_mut().enumerate() {
            let again = client.delete(edge, mode, &id, &When::Always).await.unwrap();
            assert_eq!(again.answer, Answer::Missing, "{id}, deleted again at {other}");
            let update = write(client, "no", When::Present).await;
            assert_eq!(update.answer, Answer::Missing, "{id}, updated at {other}");
            let swap = write(client, "no", When::Version(three.clone())).await;
            assert!(matches!(swap.answer, Answer::Missing | Answer::Unmet), "{id}: {swap:?}");
        }
        let anew = write(&mut clients[turn(3)], "anew", When::Absent).await;
        assert_eq!(anew.answer, Answer::Created, "{id}, after its delete");
        let four = assert_at_all_members(&mut clients, mode, &id, Some("anew")).await.unwrap();
        assert!(four > three, "{id}: version {four} after {three} and a delete");
    }
}

#[tokio::test]
async fn safe_over_the_resource_api_from_every_member() {
    full_life_cycle(Edge::Resource, Mode::Safe).await;
}

#[tokio::test]
async fn safe_over_the_older_paths_from_every_member() {
    full_life_cycle(Edge::Older, Mode::Safe).await;
}

#[tokio::test]
async fn safe_over_grpc_from_every_member() {
    full_life_cycle(Edge::Grpc, Mode::Safe).await;
}

#[tokio::test]
async fn fast_over_the_resource_api_from_every_member() {
    full_life_cycle(Edge::Resource, Mode::Fast).await;
}

#[tokio::test]
async fn fast_over_the_older_paths_from_every_member() {
    full_life_cycle(Edge::Older, Mode::Fast).await;
}

#[tokio::test]
async fn fast_over_grpc_from_every_member() {
    full_life_cycle(Edge::Grpc, Mode::Fast).await;
}

/// HEAD, ranges, 304, media type, expiry and the rest of the resource API do not depend on who is asked.
#[tokio::test]
async fn the_resource_api_says_the_same_at_every_member() {
    let cluster = group();
    for writer in 0..MEMBERS {
        let id = unique("resource");
        let path = resource(&id);
        let there = cluster.node(writer).http();
        let call = there.call("PUT", &path).header("content-type", "text/plain");
        let call = call.header("nomad-ttl", "500").header("nomad-mode", "safe").body("0123456789");
        let created = call.send().await.expect(201).durability("quorum");
        let tag = created.header("etag").to_owned();
        let expires = there.get(&path).await.expect(200).header("nomad-expires").to_owned();
        let expires: i64 = expires.parse().unwrap();
        assert!((unix_now() + 400..=unix_now() + 501).contains(&expires), "{expires}");
        for reader in 0..MEMBERS {
            let http = cluster.node(reader).http();
            let ask = |method, name, value: &str| {
                http.call(method, &path).header("nomad-mode", "safe").header(name, value).send()
            };
            let whole = ask("GET", "accept", "*/*").await.expect(200);
            assert_eq!(whole.body, "0123456789");
            let head = ask("HEAD", "accept", "*/*").await.expect(200);
            assert!(head.body.is_empty() && head.header("content-length") == "10", "{head:?}");
            for answer in [&whole, &head] {
                assert_eq!(answer.header("etag"), tag);
                assert_eq!(answer.header("content-type"), "text/plain");
                assert_eq!(answer.header("nomad-expires"), expires.to_string());
                assert_eq!(answer.header("last-modified"), whole.header("last-modified"));
                let durability = answer.header("nomad-durability");
                assert!(["local", "quorum"].contains(&durability), "{durability}");
            }
            let part = ask("GET", "range", "bytes=2-4").await.expect(206);
            assert_eq!((&part.body[..], part.header("etag")), (&b"234"[..], tag.as_str()));
            assert_eq!(part.header("content-range"), "bytes 2-4/10");
            ask("GET", "range", "bytes=10-").await.problem(416, "RANGE_NOT_SATISFIABLE");
            for method in ["GET", "HEAD"] {
                let same = ask(method, "if-none-match", &tag).await.expect(304);
                assert!(same.body.is_empty() && same.header("etag") == tag);
            }
        }
        let other = cluster.node((writer + 1) % MEMBERS).http();
        let call = other.call("PUT", &path).header("if-match", &tag).header("nomad-mode", "safe");
        let second = call.body("second").send().await.expect(204);
        for reader in 0..MEMBERS {
            let http = cluster.node(reader).http();
            let call = http.call("GET", &path).header("nomad-mode", "safe");
            let now = call.header("if-none-match", &tag).send().await.expect(200);
            assert_eq!(now.header("etag"), second.header("etag"));
            let call = http.call("DELETE", &path).header("nomad-mode", "safe");
            call.header("if-match", &tag).send().await.problem(412, "FAILED_PRECONDITION");
        }
    }
}

/// A request that is tried again under its name is carried out once, at whichever member, and told what it did.
#[tokio::test]
async fn a_request_that_is_tried_again_is_carried_out_once() {
    let cluster = group();
    let name = |n: u64| format!("{n:032x}");
    for (number, mode) in [(1, "safe"), (2, "fast")] {
        let (path, name) = (resource(&unique("again")), name(number * 1_000 + unix_now() as u64));
        // A fast one is known where it came to.
        let places = if mode == "safe" { [0, 1, 4] } else { [3, 3, 3] };
        let mut told = BTreeSet::new();
        for place in places {
            let http = cluster.node(place).http();
            let call =
                http.call("PUT", &path).header("nomad-mode", mode).header("if-none-match", "*");
            let answer =
                call.header("nomad-request-id", &name).body("one").send().await.expect(201);
            assert_eq!(answer.request_id(), name);
            told.insert(answer.header("etag").to_owned());
        }
        assert_eq!(told.len(), 1, "{told:?}");
        let http = cluster.node(places[0]).http();
        let call = http.call("PUT", &path).header("nomad-mode", mode).header("if-none-match", "*");
        call.body("two").send().await.problem(412, "FAILED_PRECONDITION");
    }
    let http = cluster.node(0).http();
    let call = http.call("PUT", &resource("never")).header("nomad-request-id", "mine").body("x");
    call.send().await.problem(400, "INVALID_ARGUMENT");
}

/// The older documents carry the same fields wherever they are read.
#[tokio::test]
async fn the_older_document_is_the_same_at_every_member() {
    let cluster = group();
    let id = unique("document");
    let body = json!({
        "id": id, "value": base64("x"), "creationTime": 1_700_000_000, "ttl": unix_now() + 1_000,
    });
    let put = cluster.node(2).http().post("/nomad/group-storage/safe-put", &body).await;
    assert_eq!(put.durability("quorum").ok(), json!({ "result": true }));
    let mut documents = BTreeSet::new();
    for reader in 0..MEMBERS {
        let path = format!("/nomad/group-storage/safe-get/{id}");
        let document = cluster.node(reader).http().get(&path).await.ok();
        assert_eq!(int_of(&document, "creationTime"), 1_700_000_000, "{document}");
        assert_eq!(document["ttl"], body["ttl"], "{document}");
        documents.insert(document.to_string());
    }
    assert_eq!(documents.len(), 1, "{documents:?}");
}

/// The mode that a node is set to is that of the requests that name none, and of no others.
#[tokio::test]
async fn the_configured_modes_are_only_defaults() {
    let http = group().node(4).http();
    let set = async |what: &str, mode: &str| {
        http.post(&format!("/nomad/config/{what}"), &json!({ "mode": mode })).await.ok()
    };
    let put = |id: &str| json!({ "id": id, "value": base64("x") });
    for (mode, durability) in [("safe", "quorum"), ("fast", "local")] {
        assert_eq!(set("storage", mode).await["storageMode"], mode);
        let id = unique("default");
        let answer = http.post("/nomad/storage/put", &put(&id)).await;
        answer.durability(durability).ok();
        let path = resource(&unique("default"));
        http.call("PUT", &path).body("x").send().await.expect(201).durability(durability);
        for (named, durability) in [("safe", "quorum"), ("fast", "local")] {
            let call = http.call("PUT", &path).header("nomad-mode", named).body("y");
            call.send().await.expect(204).durability(durability);
        }
        let answer = http.post("/nomad/group-storage/fast-put", &put(&unique("default"))).await;
        answer.durability("local").ok();
        let answer = http.post("/nomad/group-storage/safe-put", &put(&unique("default"))).await;
        answer.durability("quorum").ok();
    }
    for mode in ["safe", "parallel", "fast"] {
        assert_eq!(set("retrieval", mode).await["retrievalMode"], mode);
        let id = unique("default");
        http.post("/nomad/group-storage/safe-put", &put(&id)).await.ok();
        assert_eq!(http.get(&format!("/nomad/storage/get/{id}")).await.ok()["id"], id);
    }
}

/// A value of the largest size, and an empty one, reach everybody whole.
#[tokio::test]
async fn values_of_every_size_reach_every_member() {
    let mut clients = clients();
    for (number, size) in [0, 1, 70_000, 1 << 20, 4 << 20].into_iter().enumerate() {
        let value: Bytes = (0..size).map(|at: usize| (at % 251) as u8).collect();
        for mode in Mode::OF_WRITES {
            let id = unique(&format!("size-{size}-{}", mode.name()));
            let edge = Edge::ALL[number % 3];
            let done = clients[number].write(edge, mode, &id, value.clone(), &When::Absent).await;
            assert_eq!(done.unwrap().answer, Answer::Created, "{id}");
            for client in &mut clients {
                eventually(&format!("{id} at {}", short(&client.member.id)), SETTLE, async || {
                    let held = client.read(Edge::Grpc, mode, &id).await.unwrap();
                    held.filter(|held| held.value == value)
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn any_valid_id_works_from_member_to_member() {
    let (mut clients, mark) = (clients(), unique("odd"));
    let odd = ["a/b", "a b", "ü", "日本語", "🦀", "100%", "%2F", "?x=1#y", ".", "..", "a\"b"];
    let fixed = ["health", "peer-ledger", "object-ledger"].map(str::to_owned);
    let long = ["é".repeat(512), "x".repeat(1024)];
    for id in odd.iter().map(|id| format!("{id}{mark}")).chain(fixed).chain(long) {
        let value = Bytes::from(id.clone());
        let done = clients[1].write(Edge::Resource, Mode::Safe, &id, value, &When::Absent).await;
        assert_eq!(done.unwrap().answer, Answer::Created, "{id}");
        for edge in [Edge::Resource, Edge::Grpc] {
            let held = clients[3].read(edge, Mode::Safe, &id).await.unwrap().unwrap();
            assert_eq!(held.value, id.as_bytes());
        }
        let done = clients[4].delete(Edge::Resource, Mode::Safe, &id, &When::Always).await;
        assert_eq!(done.unwrap().answer, Answer::Removed, "{id}");
    }
}

/// Of writes that exclude each other, made at all members at once, one wins, and everybody then says which.
#[tokio::test]
async fn of_conditional_writes_at_all_members_one_wins() {
    let mut clients = clients();
    for edge in Edge::ALL {
        let id = unique("race");
        let race = async |clients: &mut [Client], round: &str, when: When| {
            // A clone of a client is a client of its own: all of them write at the same time.
            let mut racers: Vec<Client> = clients.iter().cycle().take(20).cloned().collect();
            let writes = racers.iter_mut().enumerate().map(|(number, client)| {
                let value = Bytes::from(format!("{round} {number}"));
                let (id, when) = (id.clone(), when.clone());
                async move {
                    match client.write(edge, Mode::Safe, &id, value.clone(), &when).await {
                        Ok(done) => matches!(done.answer, Answer::Created | Answer::Replaced),
                        // Nothing was changed.
                        Err(Failed::NotDone(_)) => false,
                        // Not every round of so many on one object ends in time. A safe read says what became of it.
                        Err(Failed::Unknown(_)) => {
                            let what = format!("{id} is read");
                            let read = async || client.read(edge, Mode::Safe, &id).await.ok();
                            eventually(&what, SETTLE, read)
                                .await
                                .is_some_and(|held| held.value == value)
                        }
                    }
                }
            });
            let won = join_all(writes).await;
            let winners: Vec<_> = (0..won.len()).filter(|at| won[*at]).collect();
            assert_eq!(winners.len(), 1, "{edge:?}, {round}: {winners:?}");
            let value = format!("{round} {}", winners[0]);
            assert_at_all_members(clients, Mode::Safe, &id, Some(&value)).await.unwrap()
        };
        let version = race(&mut clients, "create", When::Absent).await;
        let version = race(&mut clients, "swap", When::Version(version)).await;
        race(&mut clients, "swap again", When::Version(version)).await;
    }
}

/// From the moment of its expiry an object is absent everywhere, in every mode, and its id is free.
#[tokio::test]
async fn an_expired_object_is_absent_at_every_member() {
    let (cluster, mut clients) = (group(), clients());
    let mut ids = Vec::new();
    for (number, mode) in (0..MEMBERS).zip(Mode::OF_WRITES.into_iter().cycle()) {
        let id = unique("expiring");
        let http = cluster.node(number).http();
        let call = http.call("PUT", &resource(&id)).header("nomad-ttl", "3");
        call.header("nomad-mode", mode.name()).body("snow").send().await.expect(201);
        ids.push(id);
    }
    let over = unix_now() + 4;
    eventually("the time of expiry", SETTLE, async || (unix_now() > over).then_some(())).await;
    for id in &ids {
        for mode in Mode::ALL {
            let said = read_all(&mut clients, mode, id).await;
            assert!(said.iter().all(Option::is_none), "{id} in mode {mode:?}: {said:?}");
        }
    }
    for number in 0..MEMBERS {
        let http = cluster.node(number).http();
        let listed = listed(&http, "expiring", 100).await;
        assert!(ids.iter().all(|id| !listed.contains(id)), "listed at {number}: {listed:?}");
        eventually("the ledger forgets it", SETTLE, async || {
            let held = holders(&http, &ids).await;
            held.values().all(BTreeSet::is_empty).then_some(())
        })
        .await;
    }
    for (number, id) in ids.iter().enumerate() {
        let client = &mut clients[(number + 1) % MEMBERS];
        let update = client.write(Edge::Older, Mode::Safe, id, "x".into(), &When::Present).await;
        assert_eq!(update.unwrap().answer, Answer::Missing, "{id}");
        let create = client.write(Edge::Grpc, Mode::Safe, id, "x".into(), &When::Absent).await;
        assert_eq!(create.unwrap().answer, Answer::Created, "{id}");
        assert_at_all_members(&mut clients, Mode::Safe, id, Some("x")).await;
    }
}

/// Objects under a prefix of their own, put safely by all members in turn.
async fn put_objects(clients: &mut [Client], prefix: &str, count: usize) -> Vec<String> {
    let ids: Vec<_> = (0..count).map(|n| format!("{prefix}/{n:03}")).collect();
    for (number, id) in ids.iter().enumerate() {
        let client = &mut clients[number % MEMBERS];
        let done = client.write(Edge::Grpc, Mode::Safe, id, "held".into(), &When::Absent).await;
        assert_eq!(done.unwrap().answer, Answer::Created);
    }
    ids
}

/// Every member lists the objects of the group, not only those that it holds itself.
#[tokio::test]
async fn every_member_lists_every_object_of_the_group_once() {
    let (cluster, mut clients, prefix) = (group(), clients(), unique("listed"));
    let ids: BTreeSet<_> = put_objects(&mut clients, &prefix, 40).await.into_iter().collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let http = cluster.node(number).http();
        for limit in [1, 7, 40, 100] {
            let what = format!("all of them at node {number} in pages of {limit}");
            eventually(&what, SETTLE, async || {
                (listed(&http, &format!("{prefix}/"), limit).await == ids).then_some(())
            })
            .await;
        }
        let page = http.get(&format!("/nomad/v1/objects?prefix={prefix}&limit=1")).await.ok();
        let item = &page["items"][0];
        let held = client.read(Edge::Grpc, Mode::Safe, &format!("{prefix}/000")).await;
        assert_eq!(item["version"], held.unwrap().unwrap().version, "{item}");
        assert_eq!(item["size"], 4, "{item}");
    }
}

/// Every member's ledgers show exactly the replicas of each object, and the two are the same thing from both sides.
#[tokio::test]
async fn the_ledgers_show_every_replica_at_every_member() {
    let (cluster, mut clients, prefix) = (group(), clients(), unique("ledger"));
    let ids = put_objects(&mut clients, &prefix, 30).await;
    let members = cluster.ids(0..MEMBERS);
    let mut seen: Option<BTreeMap<String, BTreeSet<String>>> = None;
    for number in 0..MEMBERS {
        let http = cluster.node(number).http();
        let what = format!("{REPLICAS} holders of each object in the ledger of node {number}");
        let held = eventually(&what, SETTLE, async || {
            let held = holders(&http, &ids).await;
            held.values().all(|holders| holders.len() == REPLICAS).then_some(held)
        })
        .await;
        assert!(held.values().all(|holders| holders.is_subset(&members)), "{held:?}");
        let by_object = seen.get_or_insert_with(|| held.clone());
        assert_eq!(*by_object, held, "node {number} knows other holders than the node before");
        let by_peer = eventually("the same from the other side", SETTLE, async || {
            let by_peer = ledger(&http, "peer-ledger", 10_000).await;
            let mut turned: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (peer, objects) in &by_peer {
                for object in objects.iter().filter(|object| object.starts_with(&prefix)) {
                    turned.entry(object.clone()).or_default().insert(peer.clone());
                }
            }
            (turned == *by_object).then_some(by_peer)
        })
        .await;
        assert!(by_peer.keys().all(|peer| members.contains(peer)), "{:?}", by_peer.keys());
    }
    // The replicas are spread: no member holds them all.
    let seen = seen.unwrap();
    let spread: BTreeSet<_> = seen.values().collect();
    assert!(spread.len() > 3, "30 objects on {} sets of members: {spread:?}", spread.len());
    // In small pages it is the same ledger.
    let http = cluster.node(1).http();
    let paged = eventually("the same in pages", SETTLE, async || {
        let mut paged = ledger(&http, "object-ledger", 7).await;
        paged.retain(|id, _| ids.contains(id));
        (paged == seen).then_some(paged)
    })
    .await;
    assert_eq!(paged.len(), ids.len());
}

/// The ledger says until when a replica is kept.
#[tokio::test]
async fn the_ledger_says_when_a_replica_expires() {
    let cluster = group();
    let (id, at) = (unique("until"), unix_now() + 5_000);
    let http = cluster.node(3).http();
    let call = http.call("PUT", &resource(&id)).header("nomad-expires", at.to_string());
    call.header("nomad-mode", "safe").body("x").send().await.expect(201);
    for number in 0..MEMBERS {
        let http = cluster.node(number).http();
        eventually("its entries in the ledger", SETTLE, async || {
            let ledger = http.get("/nomad/storage/get/object-ledger").await.ok();
            let entries = ledger[&id].as_array()?.clone();
            let right = entries.iter().all(|entry| entry["ttl"] == at);
            (right && entries.len() == REPLICAS).then_some(())
        })
        .await;
    }
}

/// The ledger calls of both gRPC services, at every member: a real holder is a duplicate, a node that does not hold the object
/// is not entered, and a member that is alive is not forgotten.
#[tokio::test]
async fn the_ledger_calls_work_at_every_member() {
    let (cluster, mut clients, prefix) = (group(), clients(), unique("referred"));
    let ids = put_objects(&mut clients, &prefix, 1).await;
    let members = cluster.ids(0..MEMBERS);
    let stranger = libp2p_identity::Keypair::generate_ed25519().public().to_peer_id().to_string();
    for number in 0..MEMBERS {
        let node = cluster.node(number);
        let (http, what) = (node.http(), format!("the holders at node {number}"));
        let held = eventually(&what, SETTLE, async || {
            let held = holders(&http, &ids).await.remove(&ids[0])?;
            (held.len() == REPLICAS).then_some(held)
        })
        .await;
        let (mut storage, mut super_peer) = (grpc::group(node).await, super_peer(node).await);
        for id in members.iter().chain([&stranger]) {
            let (object_id, peer_id) = (ids[0].clone(), id.clone());
            let added = AddToGroupLedgerRequest { object_id, peer_id, ttl: 0 };
            let added = storage.add_to_group_ledger(added).await;
            let (object_id, peer_id) = (ids[0].clone(), id.clone());
            let referred = AddObjectRequest { object_id, peer_id, ttl: 0 };
            let referred = super_peer.add_object_reference(referred).await;
            if held.contains(id) {
                assert!(!added.unwrap().into_inner().result, "node {number} did not know {id}");
                assert!(!referred.unwrap().into_inner().succeed, "node {number}");
            } else {
                refused(added, Code::FailedPrecondition, id);
                refused(referred, Code::FailedPrecondition, id);
            }
            let forgotten =
                storage.remove_peer_group_ledger(ForgetPeer { peer_id: id.clone() }).await;
            let of = SuperPeerForgetPeer { peer_id: id.clone() };
            let other = super_peer.remove_peer_group_ledger(of).await;
            if *id == stranger {
                assert!(!forgotten.unwrap().into_inner().result, "node {number}");
                assert!(!other.unwrap().into_inner().result, "node {number}");
            } else {
                refused(forgotten, Code::FailedPrecondition, id);
                refused(other, Code::FailedPrecondition, id);
            }
        }
        assert_eq!(holders(&http, &ids).await[&ids[0]], held, "node {number}");
    }
}

/// The repair calls of the contract, at every member: true when every named object has its replicas, false when there
/// is no such object.
#[tokio::test]
async fn the_repair_calls_work_at_every_member() {
    let (cluster, mut clients, prefix) = (group(), clients(), unique("repaired"));
    let ids = put_objects(&mut clients, &prefix, 10).await;
    for number in 0..MEMBERS {
        let node = cluster.node(number);
        let (mut peer, mut super_peer) = (peer(node).await, super_peer(node).await);
        let of = |ids: Vec<String>| RepairObjects { object_ids: ids };
        let all = peer.repair_objects(of(ids.clone())).await.unwrap().into_inner();
        assert!(all.response, "node {number}");
        let missing = unique("not-there");
        let with = peer.repair_objects(of(vec![ids[0].clone(), missing.clone()])).await;
        assert!(!with.unwrap().into_inner().response, "node {number}");
        let one = |id: &str| RepairObjectRequest { object_id: id.to_owned() };
        assert!(super_peer.repair(one(&ids[1])).await.unwrap().into_inner().succeed);
        assert!(!super_peer.repair(one(&missing)).await.unwrap().into_inner().succeed);
    }
    for id in &ids {
        assert_at_all_members(&mut clients, Mode::Safe, id, Some("held")).await;
    }
}

/// One command shows a safe put from the edge through the worker, the links, and the others' workers and stores.
#[tokio::test]
async fn a_trace_of_a_safe_put_crosses_the_nodes() {
    let cluster = group();
    for number in [0, 3] {
        let node = cluster.node(number);
        let http = node.http();
        let call = http.call("PUT", &resource(&unique("traced"))).header("nomad-mode", "safe");
        let answer = call.body("x").send().await.expect(201);
        let request = answer.request_id().to_owned();
        let others: Vec<_> = (0..MEMBERS).filter(|n| *n != number).map(|n| cluster.id(n)).collect();
        let shown = eventually("the whole trace", Duration::from_secs(15), async || {
            let ran = cli::nomad(["trace", "--request", &request]).on(node).ok().await;
            let text = ran.text();
            let named = others.iter().filter(|id| text.contains(short(id))).count();
            // Two of the three replicas at most are other nodes' when this one holds it too.
            (named >= 1 && text.matches("replica_writer").count() >= 2).then_some(text)
        });
        let shown = shown.await;
        for part in ["rest", "replica_writer", "link", "writer", "µs"] {
            assert_says(&shown, part);
        }
    }
}

/// The figures that the objects of a group add: each is in the metrics of every member, and in the status what people
/// ask for first.
#[tokio::test]
async fn status_and_metrics_tell_of_replicas_and_repair() {
    let (cluster, mut clients) = (group(), clients());
    put_objects(&mut clients, &unique("figures"), 10).await;
    for number in 0..MEMBERS {
        let http = cluster.node(number).http();
        let metrics = http.get("/metrics").await.page(200).text();
        for word in ["outbox", "under_replicated", "round", "conflict", "hedge", "repair"] {
            let mut samples = metrics.lines().filter(|line| !line.starts_with('#'));
            let named =
                samples.any(|line| line.split(['{', ' ']).next().is_some_and(|n| n.contains(word)));
            assert!(named, "no metric of {word} at node {number}:\n{metrics}");
        }
        let status = http.get("/nomad/v1/status").await.ok();
        assert_says(&status.to_string(), "outbox");
        // Other tests write to the same group: nothing is missing for long.
        eventually("no object is under-replicated", SETTLE, async || {
            let status = http.get("/nomad/v1/status").await.ok();
            let missing = under_replicated(&status);
            assert!(!missing.is_empty(), "no number of under-replicated objects in {status}");
            missing.iter().all(|count| *count == 0).then_some(())
        })
        .await;
    }
}

/// How many objects the status says have too few replicas.
fn under_replicated(status: &Value) -> Vec<u64> {
    let names = ["underReplicated", "underReplicatedObjects"];
    let found = names.iter().flat_map(|name| all(status, name));
    found.filter_map(Value::as_u64).collect()
}
