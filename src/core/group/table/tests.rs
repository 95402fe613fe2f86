//! Tests of the group table.

use proptest::prelude::*;

use super::*;
use crate::group::{RetrievalMode, StorageMode};

fn node(n: u8) -> NodeId {
    NodeId::from_key([n; 32])
}

fn seat(n: u8, claim: u64) -> Seat {
    let member = Member {
        node: node(n),
        rest: String::new(),
        peer: format!("n{n}:1"),
        storage: format!("n{n}:2"),
        position: Position { x: f64::from(n), y: 0.0 },
    };
    Seat { member, claim, permanent: n == 9 }
}

fn founded(capacity: u32, replication_factor: u32) -> GroupTable {
    let settings = Settings {
        storage_mode: StorageMode::Fast,
        retrieval_mode: RetrievalMode::Fast,
        migration: false,
        replication_factor,
    };
    GroupTable::found("group-x".into(), seat(1, 1), settings, capacity)
}

fn change(add: &[Seat], remove: &[(NodeId, u64)]) -> TableCommand {
    TableCommand::Change { add: add.to_vec(), remove: remove.to_vec() }
}

fn acknowledge(table: &mut GroupTable, n: u8) -> Applied {
    let epoch = table.epoch();
    table.apply(&TableCommand::Acknowledge { node: node(n), epoch })
}

/// A stable group of the nodes 1 to `count`.
fn group_of(count: u8, replication_factor: u32) -> GroupTable {
    let mut table = founded(u32::from(count) + 2, replication_factor);
    let newcomers: Vec<_> = (2..=count).map(|n| seat(n, 1)).collect();
    if !newcomers.is_empty() {
        assert_eq!(table.apply(&change(&newcomers, &[])), Applied::Done);
        assert_eq!(acknowledge(&mut table, 1), Applied::Done);
    }
    assert!(!table.configuration().is_joint());
    table
}

#[test]
fn a_change_goes_joint_then_stable_and_waits_for_the_old_members_alone() {
    let mut table = group_of(3, 3);
    assert_eq!((table.epoch(), table.count()), (3, 3));
    assert_eq!(table.apply(&change(&[seat(4, 1)], &[(node(3), 1)])), Applied::Done);
    assert_eq!((table.epoch(), table.count(), table.seats.len()), (4, 3, 4));
    // The newcomer's word settles nothing; of three replicas one may be missing, two may not.
    assert_eq!(acknowledge(&mut table, 4), Applied::Done);
    assert_eq!(acknowledge(&mut table, 1), Applied::Done);
    assert_eq!(acknowledge(&mut table, 1), Applied::Nothing);
    assert_eq!(table.epoch(), 4);
    assert_eq!(acknowledge(&mut table, 2), Applied::Done);
    assert_eq!((table.epoch(), table.seats.len()), (5, 3));
    assert!(!table.seats.contains_key(&node(3)));
}

#[test]
fn how_many_may_miss_the_rescan_follows_from_the_replicas_not_from_the_members() {
    for (members, factor, allowed) in
        [(5, 3, 1), (5, 1, 0), (5, 2, 1), (5, 4, 2), (2, 3, 1), (3, 5, 1)]
    {
        let mut table = group_of(members, factor);
        table.apply(&change(&[seat(20, 1)], &[]));
        for n in 1..=members {
            let missing = members - n + 1;
            assert_eq!(table.configuration().is_joint(), missing > allowed, "{members} {factor}");
            if table.configuration().is_joint() {
                acknowledge(&mut table, n);
            }
        }
    }
}

#[test]
fn one_change_at_a_time() {
    let mut table = group_of(2, 3);
    table.apply(&change(&[seat(3, 1)], &[]));
    let waits_for = [1, 2].map(node).into();
    let refused = Applied::Refused(TableRefusal::Joint { epoch: table.epoch(), waits_for });
    assert_eq!(table.apply(&change(&[seat(4, 1)], &[])), refused);
    let factor = TableCommand::Set(SettingChange::ReplicationFactor(2));
    assert_eq!(table.apply(&factor), refused);
    // What needs no rescan need not wait.
    let mode = TableCommand::Set(SettingChange::StorageMode(StorageMode::Safe));
    assert_eq!(table.apply(&mode), Applied::Done);
}

#[test]
fn a_late_removal_does_not_remove_the_newcomer() {
    let mut table = group_of(2, 3);
    table.apply(&change(&[], &[(node(2), 1)]));
    acknowledge(&mut table, 1);
    table.apply(&change(&[seat(2, 2)], &[]));
    acknowledge(&mut table, 1);
    assert_eq!(table.apply(&change(&[], &[(node(2), 1)])), Applied::Nothing);
    assert_eq!(table.seats[&node(2)].claim, 2);
    // Nor does one claim take the place of another without an end of the first.
    let refused = Applied::Refused(TableRefusal::NotAMember { node: node(2) });
    assert_eq!(table.apply(&change(&[seat(2, 3)], &[])), refused);
    assert_eq!(table.apply(&change(&[seat(2, 3)], &[(node(2), 2)])), refused);
}

#[test]
fn the_super_peer_stays_and_only_one_who_stays_becomes_it() {
    let mut table = group_of(3, 3);
    let refused = Applied::Refused(TableRefusal::SuperPeer);
    assert_eq!(table.apply(&change(&[], &[(node(1), 1)])), refused);
    table.apply(&change(&[], &[(node(2), 1)]));
    let out = Applied::Refused(TableRefusal::NotAMember { node: node(2) });
    assert_eq!(table.apply(&TableCommand::Lead { node: node(2) }), out);
    assert_eq!(table.apply(&TableCommand::Lead { node: node(3) }), Applied::Done);
    assert_eq!((table.super_peer, table.site.x), (node(3), 3.0));
}

#[test]
fn a_full_group_takes_nobody_and_members_that_go_make_room() {
    let mut table = founded(2, 3);
    let full = Applied::Refused(TableRefusal::Full { members: 2, capacity: 2 });
    assert_eq!(table.apply(&change(&[seat(2, 1), seat(3, 1)], &[])), full);
    table.apply(&change(&[seat(2, 1)], &[]));
    acknowledge(&mut table, 1);
    assert_eq!(table.apply(&change(&[seat(3, 1)], &[])), full);
    assert_eq!(table.apply(&change(&[seat(3, 1)], &[(node(2), 1)])), Applied::Done);
}

#[test]
fn two_members_never_share_their_number_in_the_log() {
    let mut table = founded(5, 3);
    let mut key = [1; 32];
    key[0] = 7;
    let mut twin = seat(1, 1);
    twin.member.node = NodeId::from_key(key);
    let refused = Applied::Refused(TableRefusal::SameTag { node: twin.member.node });
    assert_eq!(table.apply(&change(&[twin], &[])), refused);
}

/// Rule 14: the lost leave both configurations, and all others do the rescan.
#[test]
fn a_forced_change_leaves_out_the_lost_and_waits_for_all_others() {
    let mut table = group_of(5, 3);
    table.apply(&change(&[], &[(node(5), 1)]));
    acknowledge(&mut table, 1);
    acknowledge(&mut table, 2);
    acknowledge(&mut table, 3);
    let epoch = table.epoch();
    assert!(table.configuration().is_joint());
    let force = |epoch| TableCommand::Force { epoch, lost: [4, 5].map(node).into(), by: node(1) };
    assert_eq!(table.apply(&force(epoch)), Applied::Done);
    assert_eq!((table.epoch(), table.forced), (epoch + 1, 1));
    let survivors = BTreeSet::from([node(1), node(2), node(3)]);
    assert_eq!(table.configuration().everybody(), survivors);
    assert_eq!(table.seats.keys().copied().collect::<BTreeSet<_>>(), survivors);
    let old = table.configuration().old.clone().unwrap();
    assert_eq!(
        (old.members.len(), old.lost),
        (5, [4, 5].map(node).into()),
        "a majority is one of all"
    );
    acknowledge(&mut table, 1);
    acknowledge(&mut table, 2);
    assert!(table.configuration().is_joint(), "one survivor may hold the only copy");
    acknowledge(&mut table, 3);
    assert_eq!((table.configuration().is_joint(), table.count()), (false, 3));
    let over = Applied::Refused(TableRefusal::Over { given: epoch, epoch: table.epoch() });
    assert_eq!(table.apply(&force(epoch)), over);
}

/// Who is lost says nothing of those who have not finished yet: they live, and are waited for. A new member may have the last
/// copy as well as an old one.
#[test]
fn a_forced_change_waits_for_everybody_who_is_not_lost() {
    let mut table = group_of(5, 3);
    table.apply(&change(&[seat(6, 1)], &[(node(4), 1), (node(5), 1)]));
    let epoch = table.epoch();
    let gone: BTreeSet<_> = [4, 5].map(node).into();
    assert!(table.configuration().needs_force(&gone));
    assert!(
        !table.configuration().needs_force(&[node(5)].into()),
        "two of three replicas are left"
    );
    assert!(!table.configuration().needs_force(&[node(9)].into()), "a stranger");
    assert_eq!(
        table.apply(&TableCommand::Force { epoch, lost: gone.clone(), by: node(1) }),
        Applied::Done
    );
    assert!(!table.configuration().needs_force(&gone), "that is done");
    for n in [1, 2, 3] {
        assert_eq!(acknowledge(&mut table, n), Applied::Done);
    }
    assert_eq!(table.unfinished(), [node(6)].into());
    assert!(table.configuration().needs_force(&[node(6)].into()), "nobody may be missing");
    acknowledge(&mut table, 6);
    assert_eq!((table.configuration().is_joint(), table.count()), (false, 4));
}

/// Newcomers that die before they have anything end no group: they are left out, and nothing is lost.
#[test]
fn newcomers_that_are_lost_are_taken_back() {
    let mut table = group_of(1, 3);
    table.apply(&change(&[seat(2, 1), seat(3, 1)], &[]));
    let (epoch, gone) = (table.epoch(), BTreeSet::from([node(2), node(3)]));
    assert!(table.configuration().needs_force(&gone));
    assert_eq!(table.apply(&TableCommand::Force { epoch, lost: gone, by: node(1) }), Applied::Done);
    assert_eq!((table.forced, table.count()), (0, 1), "no object has lost its majority");
    acknowledge(&mut table, 1);
    assert_eq!((table.configuration().is_joint(), table.seats.len()), (false, 1));
}

#[test]
fn a_forced_change_does_not_leave_out_its_own_super_peer() {
    let mut table = group_of(3, 1);
    table.apply(&change(&[seat(4, 1)], &[]));
    let before = table.clone();
    let (epoch, lost, by) = (table.epoch(), [node(1), node(2)].into(), node(1));
    let force = TableCommand::Force { epoch, lost, by };
    assert_eq!(table.apply(&force), Applied::Refused(TableRefusal::SuperPeer));
    assert_eq!(table, before);
}

/// All who were to stay are lost: those who were to go are the group again.
#[test]
fn a_change_to_members_that_are_all_lost_is_taken_back() {
    let mut table = group_of(3, 3);
    table.apply(&change(&[], &[(node(2), 1), (node(3), 1)]));
    let (epoch, lost) = (table.epoch(), BTreeSet::from([node(1)]));
    assert!(table.configuration().needs_force(&lost));
    assert_eq!(table.apply(&TableCommand::Force { epoch, lost, by: node(2) }), Applied::Done);
    assert_eq!((table.super_peer, table.count(), table.forced), (node(2), 2, 0));
    acknowledge(&mut table, 2);
    assert!(table.configuration().is_joint(), "one of three may be missing, and one is lost");
    acknowledge(&mut table, 3);
    assert_eq!((table.configuration().is_joint(), table.count()), (false, 2));
}

#[test]
fn nothing_follows_the_end() {
    let mut table = group_of(2, 3);
    let end = TableCommand::Dissolve { into: Some("group-y".into()) };
    assert_eq!(table.apply(&end), Applied::Done);
    let before = table.clone();
    assert_eq!(table.apply(&change(&[seat(3, 1)], &[])), Applied::Refused(TableRefusal::Dissolved));
    assert_eq!(table, before);
}

#[test]
fn the_chain_keeps_the_last_thousand() {
    let mut table = founded(3, 3);
    for claim in 1..=600 {
        table.apply(&change(&[seat(2, claim)], &[]));
        acknowledge(&mut table, 1);
        table.apply(&change(&[], &[(node(2), claim)]));
        acknowledge(&mut table, 1);
    }
    assert_eq!((table.epoch(), table.chain.len()), (2_401, CHAIN_MAX));
    assert_eq!(table.chain[0].epoch, 1_402);
}

fn command() -> impl Strategy<Value = TableCommand> {
    let who = 1u8..7;
    let claim = 1u64..4;
    let epoch = 0u64..60;
    let seats = prop::collection::vec((who.clone(), claim.clone()), 0..4);
    prop_oneof![
        4 => (seats.clone(), seats).prop_map(|(add, remove)| TableCommand::Change {
            add: add.into_iter().map(|(n, claim)| seat(n, claim)).collect(),
            remove: remove.into_iter().map(|(n, claim)| (node(n), claim)).collect(),
        }),
        8 => (who.clone(), epoch.clone())
            .prop_map(|(n, epoch)| TableCommand::Acknowledge { node: node(n), epoch }),
        1 => (epoch, prop::collection::btree_set(who.clone().prop_map(node), 0..3), who.clone())
            .prop_map(|(epoch, lost, by)| TableCommand::Force { epoch, lost, by: node(by) }),
        1 => (-1i64..6).prop_map(|f| TableCommand::Set(SettingChange::ReplicationFactor(f))),
        1 => (who.clone(), claim)
            .prop_map(|(n, claim)| TableCommand::Describe { member: seat(n, 1).member, claim }),
        2 => who.prop_map(|n| TableCommand::Lead { node: node(n) }),
    ]
}

/// Aims at the present epoch where a command names one: else nearly all would be refused.
fn aimed(command: TableCommand, table: &GroupTable) -> TableCommand {
    match command {
        TableCommand::Acknowledge { node, epoch } if epoch % 8 != 0 => {
            TableCommand::Acknowledge { node, epoch: table.epoch() }
        }
        TableCommand::Force { epoch, lost, by } if epoch % 2 == 0 => {
            TableCommand::Force { epoch: table.epoch(), lost, by }
        }
        other => other,
    }
}

fn check(before: &GroupTable, after: &GroupTable, applied: &Applied) {
    if !matches!(applied, Applied::Done) {
        assert_eq!(before, after, "{applied:?} changed something");
    }
    let configuration = after.configuration();
    assert!(configuration.members.contains(&after.super_peer), "a stranger leads");
    assert!(after.count() <= after.capacity);
    let seated: BTreeSet<_> = after.seats.keys().copied().collect();
    assert_eq!(seated, configuration.everybody(), "a member without a seat, or the reverse");
    assert!(configuration.is_joint() || after.acknowledged.is_empty());
    assert!(after.acknowledged.is_subset(&configuration.everybody()));
    let chain: Vec<_> = after.chain.iter().collect();
    for pair in chain.windows(2) {
        assert_eq!(pair[0].epoch + 1, pair[1].epoch);
        let is_forced = pair[0].is_joint() && pair[1].is_joint();
        assert_eq!(pair[0].is_joint() && !is_forced, !pair[1].is_joint());
        if let (true, Some(before), Some(old)) = (is_forced, &pair[0].old, &pair[1].old) {
            assert!(old.members == before.members && old.lost.is_superset(&before.lost));
            let is_back = pair[1].members == &old.members - &old.lost;
            assert!(is_back || pair[1].members.is_subset(&pair[0].members));
            assert!(pair[1].members.is_disjoint(&old.lost));
        }
    }
    let removed = before
        .seats
        .iter()
        .filter(|(node, seat)| after.seats.get(node).is_some_and(|now| now.claim != seat.claim));
    assert_eq!(removed.count(), 0, "one claim took the place of another at once");
}

proptest! {
    /// Whatever is written in whatever order: what must hold of a table holds, and all members come to the same one.
    #[test]
    fn every_order_of_entries_keeps_the_table_sound(
        commands in prop::collection::vec(command(), 1..80),
        capacity in 1u32..6,
        factor in 1u32..5,
    ) {
        let mut table = founded(capacity, factor);
        let mut other = table.clone();
        for command in commands {
            let command = aimed(command, &table);
            let before = table.clone();
            let applied = table.apply(&command);
            check(&before, &table, &applied);
            prop_assert_eq!(other.apply(&command), applied);
        }
        prop_assert_eq!(table, other);
    }
}
