//! Orders about a group: who may give them, and what they change.

use super::{test_bench::*, *};
use crate::{
    group::{
        SettingChange, StorageMode,
        offer::Offer,
        table::{TableCommand, TableRefusal},
    },
    world::Position,
};

// ---- orders that are passed on ----

#[test]
fn a_member_passes_an_order_on_to_its_super_peer_and_gives_back_the_result() {
    for result in [Ok(()), Err(Denied::NotAMember(node(9)))] {
        let mut bench = Bench::of(2, &[1, 2, 3]);
        let asked = bench.order(MembershipOrder::RemovePeer(node(3)));
        assert!(
            asked
                .iter()
                .any(|e| matches!(e, MembershipEffect::AskNode { node: to, .. } if *to == node(1)))
        );
        assert_eq!(*question(&asked).1, passed_on(2, MembershipOrder::RemovePeer(node(3))));
        assert_eq!(done(&asked), None);
        let answer = MembershipAnswer::Ordered(result.clone());
        assert_eq!(done(&bench.answered(&asked, 1, answer)), Some(&result));
    }
}

#[test]
fn an_order_that_cannot_be_passed_on_is_denied() {
    let mut bench = Bench::of(2, &[1, 2, 3]);
    let asked = bench.order(factor(2));
    let unreachable = bench.fails(&asked, AskFailure::Unreachable);
    assert_eq!(done(&unreachable), Some(&Err(Denied::NoAnswer(node(1)))));
    let asked = bench.order(factor(2));
    assert_eq!(done(&bench.fails(&asked, AskFailure::Unknown)), Some(&Err(Denied::Unknown)));
    let asked = bench.order(factor(2));
    let not_leader = MembershipAnswer::NotLeader { leader: Some((node(3), "n3:1".into())) };
    let no_leader = Err(Denied::NotLeader { leader: None });
    let answered = bench.answered(&asked, 1, not_leader);
    assert_eq!(done(&answered), Some(&no_leader));
    assert!(!asks(&answered), "it is asked once");
    bench.log.leader = None;
    let log = bench.log.clone();
    bench.step(MembershipEvent::LogChanged(log));
    assert_eq!(done(&bench.order(factor(2))), Some(&no_leader));
}

#[test]
fn a_super_peer_takes_orders_from_its_members_alone() {
    let order = || MembershipOrder::RemovePeer(node(3));
    let mut bench = Bench::of(1, &[1, 2, 3]);
    // A stranger, a member under a claim that it does not hold, and a member of another group.
    for (from, claim) in [(9, 9), (2, 3), (9, 2)] {
        let effects = bench.asked(from, passed_on(claim, order()));
        assert!(matches!(reply(&effects), Some(MembershipAnswer::NoMember { .. })), "{effects:?}");
        assert!(!asks(&effects));
    }
    let elsewhere = MembershipRequest::Order { group: OTHER.into(), claim: 2, order: order() };
    let effects = bench.asked(2, elsewhere);
    assert_eq!(reply(&effects), Some(&MembershipAnswer::Refused(MembershipRefusal::OtherGroup)));
    // A member: its order is carried out, and answered once the table shows it.
    let told = bench.asked(2, passed_on(2, order()));
    assert_eq!((question(&told).1, reply(&told)), (&dismiss(3, false), None));
    let proposed = bench.answered(&told, 3, MembershipAnswer::Done);
    assert_eq!(reply(&proposed), None);
    let written = bench.apply(&proposed);
    assert_eq!(reply(&written), Some(&MembershipAnswer::Ordered(Ok(()))));
    assert_eq!(done(&written), None, "no client of this node waits");
}

#[test]
fn what_was_passed_on_is_not_passed_on_again() {
    let mut bench = Bench::of(2, &[1, 2, 3]);
    let effects = bench.asked(3, passed_on(3, MembershipOrder::RemovePeer(node(1))));
    let leader = Some((node(1), "n1:1".to_owned()));
    assert_eq!(reply(&effects), Some(&MembershipAnswer::NotLeader { leader }));
    assert!(!asks(&effects));
}

#[test]
fn a_member_cannot_have_everything_written() {
    let mut bench = Bench::of(1, &[1, 2, 3]);
    let describe = TableCommand::Describe { member: seat(3).member, claim: 3 };
    let mode = TableCommand::Set(SettingChange::StorageMode(StorageMode::Safe));
    let nowhere = Position { x: f64::NAN, y: 0.0 };
    for order in [
        MembershipOrder::Leave,
        MembershipOrder::SuperPeerLeave,
        MembershipOrder::Write(TableCommand::Dissolve { into: None }),
        MembershipOrder::Write(TableCommand::Change { add: vec![seat(9)], remove: Vec::new() }),
        MembershipOrder::Write(describe),
        MembershipOrder::Write(mode),
        MembershipOrder::Stand { node: node(3), position: nowhere },
        MembershipOrder::AddPeer { address: String::new() },
        MembershipOrder::AddPeer { address: "a".repeat(1_000) },
    ] {
        let effects = bench.asked(2, passed_on(2, order.clone()));
        let malformed = MembershipAnswer::Refused(MembershipRefusal::Malformed);
        assert_eq!(reply(&effects), Some(&malformed), "{order:?}");
        assert!(proposal(&effects).is_none() && !asks(&effects), "{order:?}");
    }
    let effects = bench.asked(2, passed_on(2, factor(1)));
    let set = TableCommand::Set(SettingChange::ReplicationFactor(1));
    assert_eq!(proposal(&effects).map(|(_, command)| command), Some(set));
    // Of a member's place only the position is written.
    let position = Position { x: 3.0, y: 4.0 };
    let effects = bench.asked(2, passed_on(2, MembershipOrder::Stand { node: node(3), position }));
    let member = Member { position, ..seat(3).member };
    let described = TableCommand::Describe { member, claim: 3 };
    assert_eq!(proposal(&effects).map(|(_, command)| command), Some(described));
}

#[test]
fn a_member_that_is_said_to_have_gone_is_asked() {
    let mut bench = Bench::of(1, &[1, 2, 3]);
    let effects = bench.order(MembershipOrder::Look(node(3)));
    assert_eq!(done(&effects), Some(&Ok(())));
    let confirm = MembershipRequest::Confirm { group: GROUP.into(), claim: 3 };
    assert_eq!(*question(&effects).1, confirm);
    let stranger = bench.order(MembershipOrder::Look(node(9)));
    assert_eq!(done(&stranger), Some(&Err(Denied::NotAMember(node(9)))));
}

// ---- orders while a change waits ----

/// The super-peer of a group of four, in a change that takes node 4 out and that nobody has acknowledged.
fn in_a_change() -> (Bench, Denied) {
    let mut bench = Bench::of(1, &[1, 2, 3, 4]);
    let told = bench.order(MembershipOrder::RemovePeer(node(4)));
    let proposed = bench.answered(&told, 4, MembershipAnswer::Done);
    let written = bench.apply_with(&proposed, false);
    assert_eq!(done(&written), None, "the table still has it");
    let waits_for = [1, 2, 3, 4].map(node).into();
    (bench, Denied::Table(TableRefusal::Joint { epoch: 4, waits_for }))
}

#[test]
fn orders_are_refused_with_what_the_change_before_them_waits_for() {
    let (mut bench, denied) = in_a_change();
    let waits = bench.wait(2 * S);
    let told = waits.iter().filter_map(|effect| match effect {
        MembershipEffect::Report(MembershipReport::ChangeWaits { epoch, is_long, .. }) => {
            Some((*epoch, *is_long))
        }
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(4, false)]);
    for order in [
        MembershipOrder::RemovePeer(node(2)),
        MembershipOrder::PeerLeaves(node(2)),
        MembershipOrder::AddPeer { address: "n5:1".into() },
        MembershipOrder::Leave,
    ] {
        assert_eq!(done(&bench.order(order.clone())), Some(&Err(denied.clone())), "{order:?}");
    }
    // The order that the change is for waits a little longer, and not without end.
    assert_eq!(done(&bench.wait(5 * S)), Some(&Err(denied)));
    let waits = bench.wait(600 * S);
    let told = waits.iter().filter(|effect| {
        matches!(effect, MembershipEffect::Report(MembershipReport::ChangeWaits { .. }))
    });
    assert!((2..=12).contains(&told.count()), "now and again, not each second");
}

#[test]
fn a_change_goes_on_at_once_without_those_who_say_that_they_have_gone() {
    let (mut bench, _) = in_a_change();
    let mut proposed = None;
    let mut asked = bench.wait(30 * S);
    for gone in [2, 3] {
        let confirms = asked.iter().find_map(|effect| match effect {
            MembershipEffect::AskNode {
                ticket,
                node: to,
                question: MembershipRequest::Confirm { .. },
            } if *to == node(gone) => Some(*ticket),
            _ => None,
        });
        let (ticket, answer) = (confirms.expect("it is asked"), Ok(MembershipAnswer::Void));
        let by = Some(node(gone));
        let said = bench.step(MembershipEvent::Answered { ticket, by, answer });
        assert!(proposed.is_none(), "one of three may be lost");
        proposed = proposal(&said).map(|(_, command)| command);
        asked.extend(said);
    }
    let lost = [2, 3].map(node).into();
    assert_eq!(proposed, Some(TableCommand::Force { epoch: 4, lost, by: node(1) }));
}

// ---- leaving by order ----

#[test]
fn who_cannot_be_told_is_taken_out_all_the_same() {
    let mut bench = Bench::of(1, &[1, 2, 3]);
    let told = bench.order(MembershipOrder::PeerLeaves(node(3)));
    assert_eq!(*question(&told).1, dismiss(3, true));
    let proposed = bench.fails(&told, AskFailure::Unreachable);
    assert_eq!(done(&bench.apply(&proposed)), Some(&Ok(())));
    assert!(!bench.log.table.unwrap().seats.contains_key(&node(3)));
}

#[test]
fn only_the_super_peer_can_send_a_member_away_and_only_under_its_claim() {
    let mut bench = Bench::of(2, &[1, 2, 3]);
    for (from, claim) in [(3, 2), (9, 2), (1, 1), (1, 3)] {
        let effects = bench.asked(from, dismiss(claim, true));
        assert_eq!(
            reply(&effects),
            Some(&MembershipAnswer::Refused(MembershipRefusal::OtherGroup))
        );
        assert_eq!(bench.core.state(), RoleState::Electing);
    }
    let effects = bench.asked(1, dismiss(2, true));
    assert_eq!(reply(&effects), Some(&MembershipAnswer::Done));
    assert_eq!(bench.core.state(), RoleState::Leaving);
}

/// Node 2, taken out of its group by order.
fn sent_away(rests: bool) -> (Bench, Vec<MembershipEffect>) {
    let mut bench = Bench::of(2, &[1, 2, 3]);
    let effects = bench.asked(1, dismiss(2, rests));
    let out = bench.answered(&effects, 1, MembershipAnswer::NoMember { epoch: 3 });
    let effects = bench.goes(out);
    (bench, effects)
}

#[test]
fn who_was_removed_stays_away_from_that_group_until_its_rest_is_over_or_it_is_asked() {
    let home = Offer { group: GROUP.into(), super_peer: node(1), peer: "n1:1".into(), ..offer() };
    let (mut bench, searched) = sent_away(false);
    assert_eq!(bench.core.state(), RoleState::Discovering);
    let found = bench.finds(&searched, vec![home.clone()]);
    assert_eq!(joins(&found), None);
    let searched = bench.wait(2 * S);
    // Another group is as good as any.
    let found = bench.finds(&searched, vec![home.clone(), offer()]);
    assert_eq!(joins(&found), Some(OTHER));

    let (mut bench, _) = sent_away(false);
    let asked = bench.asked(1, invite(1, GROUP));
    assert_eq!(reply(&asked), Some(&MembershipAnswer::Done));
    assert_eq!(joins(&bench.goes(asked)), Some(GROUP));

    let (mut bench, searched) = sent_away(false);
    bench.finds(&searched, Vec::new());
    let rest_us = bench.core.config.rest_us;
    let until = bench.now + rest_us;
    let mut searched = bench.wait(S);
    while bench.now < until - 4 * S {
        // It founds no group of its own here: the search is never over.
        bench.core.config.discovery_window_us = 20 * rest_us;
        let found = if searched.iter().any(|e| matches!(e, MembershipEffect::Find { .. })) {
            bench.finds(&searched, vec![home.clone()])
        } else {
            Vec::new()
        };
        assert_eq!(joins(&found), None, "after {} s", bench.now / S);
        searched = bench.wait(S);
    }
    bench.wait(8 * S);
    assert!(!bench.core.rests_from(GROUP));
}

#[test]
fn who_was_told_to_leave_stays_without_a_group_until_it_is_asked_into_one() {
    let (mut bench, effects) = sent_away(true);
    assert_eq!(bench.core.state(), RoleState::Leaving);
    assert!(!effects.iter().any(|effect| matches!(effect, MembershipEffect::Find { .. })));
    assert_eq!(bench.core.durable().home, None);
    assert!(
        bench.wait(60 * S).iter().all(|effect| !matches!(effect, MembershipEffect::Find { .. }))
    );
    let asked = bench.asked(20, invite(20, OTHER));
    assert_eq!(reply(&asked), Some(&MembershipAnswer::Done));
    assert_eq!(joins(&bench.goes(asked)), Some(OTHER));
    assert_eq!(bench.core.state(), RoleState::Joining);
}

#[test]
fn a_super_peer_alone_cannot_be_removed() {
    let mut bench = Bench::of(1, &[1]);
    assert_eq!(
        done(&bench.order(MembershipOrder::RemovePeer(node(1)))),
        Some(&Err(Denied::SuperPeer))
    );
}

// ---- invitations ----

#[test]
fn a_guest_is_a_member_before_the_client_hears_of_it() {
    let mut bench = Bench::of(1, &[1, 2]);
    let asked = bench.order(MembershipOrder::AddPeer { address: "n3:1".into() });
    assert_eq!(*question(&asked).1, invite(1, GROUP));
    let said_yes = bench.answered(&asked, 3, MembershipAnswer::Done);
    assert_eq!(done(&said_yes), None);
    let joined = bench.asked(3, MembershipRequest::Join { group: GROUP.into(), seat: seat(3) });
    bench.answered(&joined, 3, MembershipAnswer::Bound);
    let proposed = bench.wait(S);
    assert_eq!(done(&bench.apply(&proposed)), Some(&Ok(())));

    // One that says yes and does not come.
    let asked = bench.order(MembershipOrder::AddPeer { address: "n4:1".into() });
    assert_eq!(done(&bench.answered(&asked, 4, MembershipAnswer::Done)), None);
    assert_eq!(done(&bench.wait(10 * S)), Some(&Err(Denied::Unknown)));
    // One that does not want to.
    let asked = bench.order(MembershipOrder::AddPeer { address: "n5:1".into() });
    let refused = MembershipAnswer::Refused(MembershipRefusal::Bound);
    assert_eq!(done(&bench.answered(&asked, 5, refused)), Some(&Err(Denied::Bound)));
}

#[test]
fn nobody_is_asked_into_a_full_group() {
    let mut bench = Bench::of(1, &[1, 2, 3, 4, 5]);
    let effects = bench.order(MembershipOrder::AddPeer { address: "n6:1".into() });
    let full = Denied::Table(TableRefusal::Full { members: 5, capacity: 5 });
    assert_eq!(done(&effects), Some(&Err(full)));
    assert!(!asks(&effects));
}

#[test]
fn a_member_follows_no_invitation_but_its_super_peers() {
    let mut bench = Bench::of(2, &[1, 2, 3]);
    for from in [3, 20] {
        let effects = bench.asked(from, invite(20, OTHER));
        assert_eq!(reply(&effects), Some(&MembershipAnswer::Refused(MembershipRefusal::Bound)));
    }
    assert_eq!(reply(&bench.asked(1, invite(20, OTHER))), Some(&MembershipAnswer::Done));
    assert_eq!(bench.core.state(), RoleState::Leaving);
}

// ---- migration ----

fn migrate() -> MembershipOrder {
    MembershipOrder::Migrate { node: node(3), to: node(20) }
}

#[test]
fn a_member_moves_once_a_place_is_kept_for_it_and_it_has_agreed() {
    let mut bench = Bench::of(1, &[1, 2, 3]);
    let searched = bench.order(migrate());
    let asked = bench.finds(&searched, vec![offer()]);
    let place = MembershipRequest::Place { group: OTHER.into(), node: node(3) };
    assert_eq!(*question(&asked).1, place);
    let summoned = bench.answered(&asked, 20, MembershipAnswer::Room(offer()));
    assert_eq!(*question(&summoned).1, invite(20, OTHER));
    assert_eq!(done(&summoned), None);
    let proposed = bench.answered(&summoned, 3, MembershipAnswer::Done);
    let remove = TableCommand::Change { add: Vec::new(), remove: vec![(node(3), 3)] };
    assert_eq!(proposal(&proposed).map(|(_, command)| command), Some(remove));
    assert_eq!(done(&proposed), None);
    assert_eq!(done(&bench.apply(&proposed)), Some(&Ok(())));
}

#[test]
fn nothing_changes_when_the_other_group_is_not_there_or_full_or_the_member_will_not() {
    let mut bench = Bench::of(1, &[1, 2, 3]);
    let searched = bench.order(migrate());
    let unknown = Err(Denied::NoSuchGroup(node(20)));
    assert_eq!(done(&bench.finds(&searched, Vec::new())), Some(&unknown));
    let full = MembershipAnswer::Full { next: None };
    let not_leader = MembershipAnswer::NotLeader { leader: None };
    let later = MembershipAnswer::Later { after_ms: 1 };
    let room = MembershipAnswer::Room(offer());
    for (by, answer, denied) in [
        (20, full, Denied::NoPlace(node(20))),
        (20, not_leader, Denied::NoSuchGroup(node(20))),
        (20, later.clone(), Denied::Busy),
        // Somebody else answers at that address.
        (21, room.clone(), Denied::NoSuchGroup(node(20))),
    ] {
        let searched = bench.order(migrate());
        let asked = bench.finds(&searched, vec![offer()]);
        let effects = bench.answered(&asked, by, answer);
        assert_eq!(done(&effects), Some(&Err(denied)));
        assert!(!asks(&effects) && proposal(&effects).is_none());
    }
    let searched = bench.order(migrate());
    let asked = bench.finds(&searched, vec![offer()]);
    let effects = bench.fails(&asked, AskFailure::Unreachable);
    assert_eq!(done(&effects), Some(&Err(Denied::NoAnswer(node(20)))));
    let searched = bench.order(migrate());
    let asked = bench.finds(&searched, vec![offer()]);
    let summoned = bench.answered(&asked, 20, room);
    let effects = bench.answered(&summoned, 3, later);
    assert_eq!(done(&effects), Some(&Err(Denied::Busy)));
    assert!(proposal(&effects).is_none());
    let none = bench.order(MembershipOrder::Migrate { node: node(3), to: node(2) });
    assert_eq!(done(&none), Some(&Err(Denied::NoSuchGroup(node(2)))));
    let itself = bench.order(MembershipOrder::Migrate { node: node(1), to: node(20) });
    assert_eq!(done(&itself), Some(&Err(Denied::SuperPeer)));
}

#[test]
fn a_place_is_kept_for_one_node_and_for_a_while() {
    let mut bench = Bench::of(1, &[1, 2, 3, 4]);
    let place = |n| MembershipRequest::Place { group: GROUP.into(), node: node(n) };
    let join = |n| MembershipRequest::Join { group: GROUP.into(), seat: seat(n) };
    let is_full = |effects: &[MembershipEffect]| {
        matches!(reply(effects), Some(MembershipAnswer::Full { .. }))
    };
    assert!(matches!(reply(&bench.asked(20, place(6))), Some(MembershipAnswer::Room(_))));
    assert!(matches!(reply(&bench.asked(20, place(6))), Some(MembershipAnswer::Room(_))));
    assert!(is_full(&bench.asked(20, place(7))));
    assert!(is_full(&bench.asked(7, join(7))));
    let joins = bench.asked(6, join(6));
    assert!(asks(&joins), "it is asked back: {joins:?}");
    let proposed = bench.answered(&joins, 6, MembershipAnswer::Bound);
    let mut proposed = proposed;
    proposed.extend(bench.wait(S));
    let change = TableCommand::Change { add: vec![seat(6)], remove: Vec::new() };
    assert_eq!(proposal(&proposed).map(|(_, command)| command), Some(change));

    let mut bench = Bench::of(1, &[1, 2, 3, 4]);
    bench.asked(20, place(6));
    bench.wait(16 * S);
    assert!(!is_full(&bench.asked(7, join(7))));
    // One that does not lead keeps none.
    let mut bench = Bench::of(2, &[1, 2, 3]);
    let answer = bench.asked(20, place(6));
    assert!(matches!(reply(&answer), Some(MembershipAnswer::NotLeader { .. })), "{answer:?}");
}
