//! What a group lists, over links in memory and under paused time: the group of the actors' own tests, with the way to read.

use std::{sync::Arc, time::Duration};

use super::{ReadPath, ServiceError};
use nomad_actors::replica_writer::ReplicaDoor;
use nomad_core::{
    group::{RetrievalMode, replication::NotDone, view::Liveness},
    listing::ListingQuery,
    model::{
        change::Written,
        object::{Object, Tier, Version},
        time::UnixSecs,
    },
    register::{Ballot, Register, Tombstone, Value},
};
use nomad_ports::{
    ObjectStore as _,
    object_store::{OutboxChange, OutboxJob, StoreError, StoreJob},
    peer_transport::Service,
};
use test_group::{Group, Member, keep, node, pass};
use test_kit::object;

// What these two files take from the room that they stand in.
use nomad_actors::{
    Address, AskError, Context, Kit, TraceRecorder, group_view, ledger, local_store,
    repair_sweeper, replica_reader, shell, supervisor, vitals,
};

#[path = "../actors/test_group.rs"]
#[expect(dead_code, reason = "the actors' tests use all of it")]
mod test_group;
#[path = "../actors/test_kit.rs"]
#[expect(dead_code, reason = "the actors' tests use all of it")]
mod test_kit;

/// The way of a member to read. There are no workers to run safe reads.
fn reads(member: &Member) -> ReadPath {
    let writers =
        nomad_actors::replica_writer::Writers::new(Vec::new(), Arc::clone(&member.kit.clock));
    let of_group = (Arc::clone(&member.view), member.links.clone() as _, writers);
    ReadPath::new(member.kit.clone(), member.reader.clone(), member.store.clone(), of_group)
}

/// All that a member lists, page by page.
async fn listed(
    group: &Group,
    key: u8,
    prefix: &str,
    limit: usize,
) -> Result<Vec<String>, ServiceError> {
    let member = group.member(key);
    let (mut after, mut ids) = (None, Vec::new());
    loop {
        let wanted = ListingQuery { prefix: prefix.into(), after, limit };
        let cx = member.context(10_000);
        let page = reads(member).list(&group.from, cx, Tier::Group, wanted).await?;
        assert!(page.items.len() <= limit, "{} on a page of {limit}", page.items.len());
        ids.extend(page.items.iter().map(|item| item.id.to_string()));
        match page.next {
            Some(next) => after = Some(next.to_string()),
            None => return Ok(ids),
        }
    }
}

fn tombstone(version: Version) -> Register {
    let accepted = Ballot { epoch: 1, counter: 9_999_999, node: 1 };
    let value = Value::Tombstone(Tombstone { version });
    Register { promised: accepted, accepted, value, ..Register::default() }
}

fn queue(group: &Group, key: u8, id: &str, value: Value) {
    let change = OutboxChange { put: vec![(object(id), value)], ..OutboxChange::default() };
    let done = Box::new(|kept: Result<(), StoreError>| kept.unwrap());
    group.member(key).store.submit(StoreJob::Outbox(OutboxJob { change, done }));
}

#[tokio::test(start_paused = true)]
async fn every_member_lists_every_object_once_in_pages_of_any_size() {
    let group = Group::start(5, 3).await;
    let names: Vec<_> = (1_000..1_100).map(|n| format!("a/{n}")).collect();
    for name in &names {
        group.write(name, None);
    }
    group.write("b", None);
    group.write("a", None);
    for key in 1..=5 {
        for limit in [1, 7, 100, 5_000] {
            let found = listed(&group, key, "a/", limit).await.unwrap();
            assert_eq!(found, names, "member {key}, pages of {limit}");
        }
        assert_eq!(listed(&group, key, "", 60).await.unwrap().len(), 102);
        assert!(listed(&group, key, "a/1000x", 5).await.unwrap().is_empty());
        assert!(listed(&group, key, "a\u{7}", 5).await.unwrap().is_empty());
    }
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_page_longer_than_a_member_gives_at_once_is_made_of_several() {
    let group = Group::start(3, 3).await;
    for n in 0..2_300 {
        group.write(&format!("{n:05}"), None);
    }
    let wanted = ListingQuery { prefix: String::new(), after: None, limit: 2_100 };
    let member = group.member(2);
    let cx = member.context(10_000);
    let page = reads(member).list(&group.from, cx, Tier::Group, wanted).await.unwrap();
    assert_eq!((page.items.len(), page.next), (2_100, Some(object("02099"))));
    assert_eq!(listed(&group, 3, "", 2_100).await.unwrap().len(), 2_300);
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_missed_a_delete_does_not_bring_the_object_back() {
    let group = Group::start(5, 3).await;
    for name in ["a", "b", "c"] {
        group.write(name, None);
    }
    let later = Version { time: 1_000, node: 1 };
    for node in &group.replicas("b")[..2] {
        let member = group.members.iter().find(|member| member.node == *node).unwrap();
        keep(&member.store, &object("b"), Some(tombstone(later)));
    }
    for key in 1..=5 {
        assert_eq!(listed(&group, key, "", 2).await.unwrap(), ["a", "c"], "member {key}");
    }
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_members_own_fast_writes_are_in_its_listing() {
    let group = Group::start(5, 3).await;
    for name in ["p/a", "p/b", "p/c", "q"] {
        group.write(name, None);
    }
    let later = Version { time: 1_000, node: 1 };
    let at = group.write_at(&[], "p/x", None);
    let object_of = |id: &str, version| {
        Value::Live(Object {
            id: object(id),
            value: "waits".into(),
            creation_time: UnixSecs(1),
            expires_at: None,
            last_modified: UnixSecs(1),
            version,
            content_type: None,
        })
    };
    queue(&group, 2, "p/b", Value::Tombstone(Tombstone { version: later }));
    for id in ["p/", "p/bb", "r"] {
        queue(&group, 2, id, object_of(id, at));
    }
    for limit in [1, 2, 3, 10] {
        let own = listed(&group, 2, "p/", limit).await.unwrap();
        assert_eq!(own, ["p/", "p/a", "p/bb", "p/c"], "pages of {limit}");
        let others = listed(&group, 1, "p/", limit).await.unwrap();
        assert_eq!(others, ["p/a", "p/b", "p/c"], "pages of {limit}");
    }
    let all = listed(&group, 2, "", 2).await.unwrap();
    assert_eq!(all, ["p/", "p/a", "p/bb", "p/c", "q", "r"]);
    // A newer delete at the replicas outlives what waits.
    for node in group.replicas("p/bb") {
        let member = group.members.iter().find(|member| member.node == node).unwrap();
        keep(&member.store, &object("p/bb"), Some(tombstone(later)));
    }
    assert_eq!(listed(&group, 2, "p/b", 5).await.unwrap(), [""; 0]);
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_whole_or_refused_when_members_do_not_answer() {
    let group = Group::start(5, 3).await;
    let names: Vec<_> = (100..130).map(|n| n.to_string()).collect();
    for name in &names {
        group.write(name, None);
    }
    group.network.cut(node(1), node(2));
    group.network.cut(node(1), node(3));
    assert_eq!(listed(&group, 1, "", 7).await.unwrap(), names);
    // A member that is slow to answer is waited for no longer than it is worth.
    group.show(4, Liveness::Suspect);
    group.network.delay(node(1), node(4), Duration::from_secs(20));
    let start = group.member(1).kit.clock.monotonic();
    let refused = listed(&group, 1, "", 7).await.unwrap_err();
    assert_eq!(refused, NotDone::TooFewMembers { answered: 2, members: 5 }.into());
    assert!(refused.to_string().contains("2 of the group's 5 members"), "{refused}");
    let took_us = group.member(1).kit.clock.monotonic().since(start);
    assert!(took_us < 500_000, "{took_us}");
    group.network.heal_all();
    group.network.delay(node(1), node(4), Duration::ZERO);
    pass(Duration::from_secs(1)).await;
    assert_eq!(listed(&group, 1, "", 7).await.unwrap(), names);
    group.change_views(|view| view.table = None);
    assert_eq!(listed(&group, 1, "", 7).await.unwrap_err(), NotDone::NotReady.into());
    group.stop().await;
}

/// A quorum has a fast write of this node, and one replica lacks it for a moment: it may be the one that answers first.
#[tokio::test(start_paused = true)]
async fn a_node_that_keeps_nothing_of_an_object_reads_no_older_than_its_own_write() {
    let group = Group::start(5, 3).await;
    for member in &group.members {
        let door = ReplicaDoor::new(member.kit.clone(), Vec::new(), member.store.clone());
        member.links.serve(Service::Replica, Arc::new(door));
    }
    let keepers = group.replicas("a");
    let outsider = group.members.iter().find(|member| !keepers.contains(&member.node)).unwrap();
    let reads = reads(outsider);
    for late in &keepers {
        let before = group.write("a", None);
        let up: Vec<_> = keepers.iter().copied().filter(|node| node != late).collect();
        let version = group.write_at(&up, "a", None);
        reads.note_own(&object("a"), Written::Kept { version, created: false }, Some(before));
        for mode in [RetrievalMode::Fast, RetrievalMode::Parallel] {
            let cx = outsider.context(5_000);
            let read = reads.get(&group.from, cx, Tier::Group, &object("a"), mode).await.unwrap();
            assert_eq!(read.map(|object| object.version), Some(version), "{mode:?}");
        }
    }
    // When nobody has it any more, what there is is better than nothing.
    let other = group.write("a", None);
    let lost = Version { time: u64::MAX, node: 1 };
    reads.note_own(&object("a"), Written::Kept { version: lost, created: false }, None);
    let cx = outsider.context(5_000);
    let fast = RetrievalMode::Fast;
    let read = reads.get(&group.from, cx, Tier::Group, &object("a"), fast).await.unwrap();
    assert_eq!(read.map(|object| object.version), Some(other));
    group.stop().await;
}
