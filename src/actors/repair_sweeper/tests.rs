//! Sweepers of a group over links in memory, under paused time. Rounds are played by the test group.

use super::*;
use crate::{
    Context, codec,
    test_group::{CLEANUP, Group, keep, node, pass, until},
    test_kit::{object, until_restarted},
};
use nomad_core::{group::view::Liveness, model::time::UnixSecs, register::Value};
use nomad_ports::PeerHandler as _;

const SECOND: Duration = Duration::from_secs(1);

fn rounds(group: &Group) -> usize {
    group.registers.run.lock().unwrap().len()
}

fn total(group: &Group, of: impl Fn(&RepairStatus) -> u64) -> u64 {
    group.members.iter().map(|member| of(&member.repair_gauge.read())).sum()
}

/// Checks that the replicas of these objects are equal, and there.
fn assert_equal(group: &Group, ids: impl Iterator<Item = String>) {
    for id in ids {
        let held = group.replicas(&id).into_iter().map(|node| {
            let member = group.members.iter().find(|member| member.node == node).unwrap();
            member.store.register(&object(&id)).unwrap().map(|register| register.accepted)
        });
        let held: Vec<_> = held.collect();
        assert!(
            held[0].is_some() && held.iter().all(|accepted| *accepted == held[0]),
            "{id} {held:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn equal_replicas_cost_a_few_bytes_and_no_round() {
    let group = Group::start(3, 1).await;
    for n in 0..300 {
        group.write(&format!("o{n}"), None);
    }
    pass(CLEANUP).await;
    assert_eq!((rounds(&group), total(&group, |status| status.equal)), (0, 6));
    assert!(group.members.iter().all(|member| member.repair_gauge.read().running_since.is_none()));
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lags_behind_is_repaired_as_soon_as_it_is_back() {
    let group = Group::start(4, 1).await;
    pass(CLEANUP).await;
    group.show(4, Liveness::Suspect);
    group.network.partition(&[&[node(1), node(2), node(3)], &[node(4)]]);
    group.registers.away.lock().unwrap().insert(node(4));
    for n in 0..1_500 {
        let id = format!("o{n}");
        let up: Vec<_> = group.replicas(&id).into_iter().filter(|at| *at != node(4)).collect();
        group.write_at(&up, &id, None);
    }
    pass(SECOND).await;
    group.registers.away.lock().unwrap().clear();
    group.network.heal_all();
    group.show(4, Liveness::Alive);
    let lags = (0..1_500).filter(|n| group.replicas(&format!("o{n}")).contains(&node(4))).count();
    let compared = || total(&group, |status| status.repaired) >= lags as u64;
    until("most replicas are repaired", CLEANUP / 2, compared).await;
    pass(CLEANUP / 4).await;
    assert_equal(&group, (0..1_500).map(|n| format!("o{n}")));
    pass(CLEANUP).await;
    assert_eq!(total(&group, |status| status.left), 0);
    // Some differences are seen by two members before one has repaired them; not many.
    assert!(rounds(&group) < 2 * lags, "{} rounds for {lags}", rounds(&group));
    let before = rounds(&group);
    pass(Duration::from_secs(1_300)).await;
    assert_eq!(rounds(&group), before);
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn killed_in_the_middle_it_begins_again_and_finishes() {
    let group = Group::start(3, 1).await;
    for n in 0..1_200 {
        let id = format!("o{n}");
        group.write_at(&group.replicas(&id)[..2], &id, None);
    }
    for round in 1..=4 {
        pass(Duration::from_millis(2_050)).await;
        for member in &group.members {
            assert!(member.kit.census.kill("repair_sweeper"));
        }
        for member in &group.members {
            until_restarted(&member.kit, "repair_sweeper", round).await;
        }
    }
    pass(CLEANUP).await;
    assert_equal(&group, (0..1_200).map(|n| format!("o{n}")));
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_buried_once_every_member_has_promised() {
    let group = Group::start(3, 1).await;
    let soon = UnixSecs(group.member(1).kit.clock.wall().secs().0 + 5);
    for n in 0..50 {
        group.write(&format!("o{n}"), Some(soon));
    }
    group.write("kept", None);
    pass(2 * CLEANUP).await;
    let value = |key, id: &str| {
        let register = group.member(key).store.register(&object(id)).unwrap();
        register.map(|register| register.value)
    };
    assert!(matches!(value(1, "o7"), Some(Value::Tombstone(_))), "{:?}", value(1, "o7"));
    assert_eq!(total(&group, |status| status.expired), 50);
    pass(Duration::from_secs(700)).await;
    assert_eq!(total(&group, |status| status.kept_tombstones), 50);
    let high = Version { time: 1 << 40, node: 0 };
    group.registers.watermarks.lock().unwrap().extend([(node(1), high), (node(2), high)]);
    // The third says nothing: nothing goes.
    group.registers.watermarks.lock().unwrap().remove(&node(3));
    pass(Duration::from_secs(700)).await;
    assert_eq!(total(&group, |status| status.cleared), 0);
    assert_eq!(group.member(1).repair_gauge.read().kept_for, Some(node(3)));
    group.registers.watermarks.lock().unwrap().insert(node(3), high);
    pass(Duration::from_secs(700)).await;
    assert_eq!(total(&group, |status| status.cleared), 50);
    for key in 1..=3 {
        assert_eq!(value(key, "o7"), None);
        assert!(value(key, "kept").is_some());
    }
    group.stop().await;
}

async fn repair(group: &Group, at: u8, ids: &[&str]) -> Result<bool, NotDone> {
    let member = group.member(at);
    let ids = ids.iter().map(|id| object(id)).collect();
    let make = |reply| RepairSweeperMsg::Repair { ids, reply };
    member.sweeper.ask(&group.from, member.context(5_000), make).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn objects_are_repaired_at_once_when_a_caller_wants_it() {
    let group = Group::start(4, 1).await;
    for n in 0..40 {
        let id = format!("o{n}");
        group.write_at(&group.replicas(&id)[1..], &id, None);
    }
    let names: Vec<_> = (0..40).map(|n| format!("o{n}")).collect();
    let ids: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(repair(&group, 1, &ids).await, Ok(true));
    assert_equal(&group, names.iter().cloned());
    assert_eq!(rounds(&group), 40);
    assert_eq!(repair(&group, 4, &["o1", "o1", "never"]).await, Ok(false));
    assert_eq!((rounds(&group), repair(&group, 2, &[]).await), (41, Ok(true)));
    let away = group.replicas("o3");
    group.registers.away.lock().unwrap().extend(&away[..2]);
    let refused = repair(&group, 2, &["o3"]).await;
    assert_eq!(refused, Err(NotDone::NoQuorum { answered: 1, needed: 2 }));
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_register_that_does_not_read_back_ends_no_comparison() {
    let group = Group::start(3, 1).await;
    group.write("a", None);
    pass(CLEANUP).await;
    let before = total(&group, |status| status.interrupted);
    // Another member has what this one has not, and one has a register of an object that never was.
    let register = nomad_core::register::Register::default();
    keep(&group.member(1).store, &object("b"), Some(register));
    for member in &group.members {
        member.sweeper.tell(&group.from, Context::default(), RepairSweeperMsg::Hurry);
    }
    pass(CLEANUP).await;
    assert_eq!(total(&group, |status| status.interrupted), before);
    assert_eq!(total(&group, |status| status.differing), 0);
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn questions_of_strangers_and_of_other_epochs_are_not_answered() {
    let group = Group::start(2, 1).await;
    pass(SECOND).await;
    let first = group.member(1);
    let door = RepairDoor::new(first.kit.clone(), first.sweeper.clone());
    let trace = nomad_core::model::trace::TraceContext::default();
    for body in [&[][..], &[1], &[2, 0], &[1, 255], &vec![1; 1 << 20]] {
        assert!(door.answer(node(2), trace, bytes::Bytes::copy_from_slice(body)).await.is_err());
    }
    let epoch = first.view.load().epoch();
    let ask = async |from, question: &RepairRequest| {
        let body = codec::encode(RepairSweeperMsg::VERSION, question).unwrap();
        let answer = door.answer(node(from), trace, body).await.unwrap();
        codec::decode::<RepairAnswer>(RepairSweeperMsg::VERSION, &answer).unwrap()
    };
    let watermark = |group: &str, epoch| RepairRequest::Watermark { group: group.into(), epoch };
    assert_eq!(
        ask(2, &watermark("group-x", epoch)).await,
        RepairAnswer::Watermark(Version::default())
    );
    assert_eq!(ask(2, &watermark("group-x", epoch + 1)).await, RepairAnswer::Elsewhere);
    assert_eq!(ask(2, &watermark("group-y", epoch)).await, RepairAnswer::Elsewhere);
    assert_eq!(ask(9, &watermark("group-x", epoch)).await, RepairAnswer::Elsewhere);
    let ids = vec![object("a"); nomad_core::repair::HEADS_MAX + 1];
    let many = RepairRequest::Heads { group: "group-x".into(), epoch, ids };
    assert_eq!(ask(2, &many).await, RepairAnswer::Elsewhere);
    group.registers.watermarks.lock().unwrap().clear();
    assert_eq!(ask(2, &watermark("group-x", epoch)).await, RepairAnswer::Later);
    group.stop().await;
}
