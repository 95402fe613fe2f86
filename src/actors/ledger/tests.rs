//! Ledgers of a group over links in memory, under paused time.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    AskError,
    test_group::{CLEANUP, Group, Member, keep, node, pass, until},
    test_kit::{object, until_restarted},
};
use nomad_core::{
    group::view::Liveness,
    model::{object::Version, time::UnixSecs},
};
use nomad_ports::PeerHandler as _;

const SECOND: Duration = Duration::from_secs(1);

type Shown = BTreeMap<String, BTreeSet<NodeId>>;

async fn page(
    group: &Group,
    key: u8,
    after: Option<String>,
    limit: usize,
) -> Result<LedgerPage, ControlError> {
    let member = group.member(key);
    let make = |reply| LedgerMsg::Page { after, limit, reply };
    member.ledger.ask(&group.from, member.context(10_000), make).await.unwrap()
}

/// The whole ledger as a member shows it, page by page.
async fn shown(group: &Group, key: u8) -> Shown {
    let (mut after, mut shown) = (None, Shown::new());
    loop {
        let page = page(group, key, after, 7).await.unwrap();
        for listed in page.items {
            let nodes = listed.holders.into_iter().map(|holder| holder.node).collect();
            assert_eq!(shown.insert(listed.id.to_string(), nodes), None);
        }
        after = page.next;
        if after.is_none() {
            return shown;
        }
    }
}

fn written(group: &Group, count: usize) -> Shown {
    let mut all = Shown::new();
    for n in 0..count {
        let id = format!("o{n}");
        group.write(&id, None);
        all.insert(id.clone(), group.replicas(&id).into_iter().collect());
    }
    all
}

fn standing(member: &Member) -> LedgerStanding {
    member.ledger_gauge.read()
}

#[tokio::test(start_paused = true)]
async fn every_member_shows_who_holds_what() {
    let group = Group::start(4, 2).await;
    let all = written(&group, 40);
    pass(SECOND).await;
    for key in 1..=4 {
        assert!(shown(&group, key).await == all, "member {key}");
        let standing = standing(group.member(key));
        assert_eq!((standing.keeps, standing.members), (key <= 2, if key <= 2 { 4 } else { 1 }));
    }
    let expires = UnixSecs(group.member(1).kit.clock.wall().secs().0 + 5);
    group.write("brief", Some(expires));
    // No round repairs it.
    group.registers.away.lock().unwrap().extend(group.members.iter().map(|member| member.node));
    group.write_at(&group.replicas("o1")[..1], "o1", None);
    pass(SECOND).await;
    let page = page(&group, 3, None, 1_000).await.unwrap();
    let brief = page.items.iter().find(|listed| listed.id.as_str() == "brief").unwrap();
    assert!(
        brief.holders.len() == 3 && brief.holders.iter().all(|h| h.expires_at == Some(expires))
    );
    let differ = page.items.iter().find(|listed| listed.id.as_str() == "o1").unwrap();
    let versions: BTreeSet<_> = differ.holders.iter().map(|holder| holder.version).collect();
    assert_eq!((differ.holders.len(), versions.len()), (3, 2));
    pass(5 * SECOND).await;
    assert!(shown(&group, 4).await == all);
    // What is under-replicated for a while is counted.
    pass(10 * SECOND).await;
    let counted = standing(group.member(2));
    assert_eq!(counted.census.unwrap().under_replicated, 1);
    assert_eq!(counted.under_replicated, [object("o1")]);
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_on_a_link_is_found_again() {
    let group = Group::start(3, 1).await;
    pass(SECOND).await;
    group.network.cut(node(1), node(3));
    let all = written(&group, 30);
    pass(SECOND).await;
    assert!(shown(&group, 1).await != all);
    group.network.heal(node(1), node(3));
    pass(2 * CLEANUP).await;
    assert!(shown(&group, 1).await == all);
    // From then on the comparisons cost a few bytes each.
    group.network.take_sent(node(1), node(3));
    group.network.take_sent(node(3), node(1));
    pass(10 * CLEANUP).await;
    let [there, back] = [(1, 3), (3, 1)].map(|(a, b)| group.network.take_sent(node(a), node(b)));
    // The sweepers' comparisons go over the same link.
    assert!(there.bytes + back.bytes < 2_000, "{there:?} {back:?}");
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn killed_under_load_a_ledger_knows_all_again() {
    let group = Group::start(3, 2).await;
    let mut all = Shown::new();
    for round in 0..4 {
        all.extend(written(&group, 20 * (round + 1)));
        for key in [1, 3] {
            assert!(group.member(key).kit.census.kill("ledger"));
        }
        group.write("during", None);
        all.insert("during".into(), group.replicas("during").into_iter().collect());
        for key in [1, 3] {
            until_restarted(&group.member(key).kit, "ledger", round as u64 + 1).await;
        }
        let complete = || standing(group.member(1)).complete;
        until("the ledger is complete", 30 * SECOND, complete).await;
        pass(5 * SECOND).await;
        for key in 1..=3 {
            assert!(shown(&group, key).await == all, "member {key} in round {round}");
        }
    }
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_reads_what_it_holds_from_its_store_and_a_new_voter_asks_the_others() {
    let group = Group::start(3, 1).await;
    // Kept behind the ledgers' backs.
    for n in 0..2_500 {
        let id = object(&format!("o{n}"));
        let register = group.member(1).store.register(&id).unwrap();
        assert_eq!(register, None);
        let value = nomad_core::register::Value::Tombstone(nomad_core::register::Tombstone {
            version: Version { time: 1, node: 1 },
        });
        let accepted = nomad_core::register::Ballot { epoch: 1, counter: 1, node: 1 };
        let dead = nomad_core::register::Register {
            promised: accepted,
            accepted,
            value,
            ..Default::default()
        };
        keep(&group.member(2).store, &id, Some(dead));
    }
    let all = written(&group, 2_200);
    group.member(2).ledger.tell(&group.from, Context::default(), LedgerMsg::Recount);
    pass(5 * SECOND).await;
    assert_eq!(standing(group.member(2)).holdings, 2_200);
    assert!(shown(&group, 2).await == all);
    group.change_views(|view| {
        view.voters = [node(2)].into();
        view.super_peer = Some(node(2));
    });
    let knows_all = || standing(group.member(2)).keeps && standing(group.member(2)).complete;
    until("the new voter knows all", 10 * SECOND, knows_all).await;
    assert_eq!(standing(group.member(2)).holdings, 3 * 2_200);
    assert_eq!(standing(group.member(1)).holdings, 2_200, "the old one forgets");
    assert!(shown(&group, 1).await == all);
    let store = &group.member(2).store;
    for n in 0..500 {
        keep(store, &object(&format!("o{n}")), None);
    }
    holds_listener(group.member(2).ledger.clone())(Vec::new());
    pass(SECOND).await;
    assert_eq!(standing(group.member(2)).holdings, 3 * 2_200 - 500);
    group.stop().await;
}

async fn refer(group: &Group, at: u8, id: &str, peer: &str) -> Result<bool, ControlError> {
    let member = group.member(at);
    let make = |reply| LedgerMsg::Refer { id: object(id), peer: peer.to_owned(), reply };
    member.ledger.ask(&group.from, member.context(5_000), make).await.unwrap()
}

async fn forget(group: &Group, at: u8, peer: &str) -> Result<bool, ControlError> {
    let member = group.member(at);
    let make = |reply| LedgerMsg::Forget { peer: peer.to_owned(), reply };
    member.ledger.ask(&group.from, member.context(5_000), make).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_callers_word_is_checked_with_the_member_that_it_is_about() {
    let group = Group::start(3, 2).await;
    group.write("known", None);
    pass(SECOND).await;
    group.network.cut(node(1), node(3));
    group.network.cut(node(2), node(3));
    group.write("unheard", None);
    pass(SECOND).await;
    group.network.heal_all();
    for at in 1..=3 {
        assert_eq!(refer(&group, at, "known", "a:31").await, Ok(false), "{at}");
        for peer in ["a:31", "a:11", &node(2).to_string()] {
            let untrue = refer(&group, at, "no", peer).await.unwrap_err().to_string();
            assert!(untrue.contains("\"no\""), "{untrue}");
        }
        let stranger = refer(&group, at, "known", "a:91").await.unwrap_err().to_string();
        assert!(stranger.contains("a:91"), "{stranger}");
    }
    // Through a member that keeps no ledger, about one whose notice was lost.
    let holders = group.replicas("unheard").into_iter().collect::<BTreeSet<_>>();
    assert_eq!(holders.len(), 3);
    assert!(!shown(&group, 1).await["unheard"].contains(&node(3)));
    assert_eq!(refer(&group, 2, "unheard", "a:31").await, Ok(true));
    assert_eq!(refer(&group, 2, "unheard", "a:31").await, Ok(false));
    assert_eq!(refer(&group, 1, "unheard", "a:32").await, Ok(true));
    assert_eq!(shown(&group, 1).await["unheard"], holders);
    group.network.cut(node(1), node(3));
    let silent = refer(&group, 1, "else", "a:31").await;
    assert!(matches!(silent, Err(ControlError::Unreachable { .. })), "{silent:?}");
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn only_who_does_not_answer_is_forgotten_and_comes_back_by_itself() {
    let group = Group::start(4, 2).await;
    let all = written(&group, 30);
    pass(SECOND).await;
    for at in 1..=4 {
        for peer in ["a:31", "a:32"] {
            let alive = forget(&group, at, peer).await.unwrap_err().to_string();
            assert!(alive.contains("alive"), "{alive}");
        }
        assert_eq!(forget(&group, at, "a:99").await, Ok(false));
    }
    group.network.partition(&[&[node(1), node(2), node(4)], &[node(3)]]);
    group.show(3, Liveness::Suspect);
    pass(SECOND).await;
    assert_eq!(forget(&group, 4, "a:31").await, Ok(true));
    assert_eq!(forget(&group, 4, "a:31").await, Ok(false));
    pass(SECOND).await;
    for at in [1, 2, 4] {
        let shown = shown(&group, at).await;
        assert!(shown.values().all(|holders| !holders.contains(&node(3))), "{at}");
    }
    let cut_off = page(&group, 3, None, 10).await;
    assert!(matches!(cut_off, Err(ControlError::Unreachable { .. })), "{cut_off:?}");
    group.network.heal_all();
    group.show(3, Liveness::Alive);
    pass(2 * CLEANUP).await;
    assert!(shown(&group, 3).await == all);
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_group_or_a_super_peer_it_says_so() {
    let group = Group::start(3, 1).await;
    group.change_views(|view| view.super_peer = None);
    pass(SECOND).await;
    assert!(page(&group, 3, None, 10).await.is_ok(), "a voter is asked");
    group.show(2, Liveness::Suspect);
    assert!(matches!(forget(&group, 3, "a:21").await, Err(ControlError::Election { .. })));
    group.change_views(|view| view.voters.clear());
    pass(SECOND).await;
    assert!(matches!(page(&group, 3, None, 10).await, Err(ControlError::Election { .. })));
    group.change_views(|view| view.table = None);
    pass(SECOND).await;
    assert!(matches!(page(&group, 3, None, 10).await, Err(ControlError::NoGroup { .. })));
    assert!(matches!(refer(&group, 3, "a", "a:31").await, Err(ControlError::NoGroup { .. })));
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_other_nodes_send_is_not_believed_before_it_is_read() {
    let group = Group::start(2, 2).await;
    pass(SECOND).await;
    let first = group.member(1);
    let door = LedgerDoor::new(first.kit.clone(), first.ledger.clone());
    let trace = nomad_core::model::trace::TraceContext::default();
    for body in [&[][..], &[1], &[2, 0], &[1, 255, 255], &vec![1; 3 << 20]] {
        let body = bytes::Bytes::copy_from_slice(body);
        assert!(door.answer(node(2), trace, body.clone()).await.is_err());
        door.heard(node(2), trace, body);
    }
    let stranger = LedgerRequest::Pages { group: "group-x".into(), after: None, limit: 5 };
    let asked = super::super::codec::encode(1, &stranger).unwrap();
    let answer = door.answer(node(9), trace, asked).await.unwrap();
    assert_eq!(super::super::codec::decode(1, &answer), Ok(LedgerAnswer::Elsewhere));
    // More notices than it can take are dropped, and found again by the next comparison.
    let changes = vec![LedgerChange::Dropped(object("a")); 10];
    let mut handled = first.ledger.vitals().handled.load(std::sync::atomic::Ordering::Relaxed);
    for seq in 0..5_000 {
        let changes = changes.clone();
        let notice = Notice::Changed { group: "group-x".into(), life: 1, seq, changes };
        door.heard(node(2), trace, super::super::codec::encode(1, &notice).unwrap());
    }
    pass(SECOND).await;
    handled = first.ledger.vitals().handled.load(std::sync::atomic::Ordering::Relaxed) - handled;
    assert!(handled < 1_200, "{handled}");
    group.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_ask_ends_with_its_deadline() {
    let group = Group::start(2, 1).await;
    pass(SECOND).await;
    group.network.delay(node(1), node(2), 20 * SECOND);
    let member = group.member(2);
    let make = |reply| LedgerMsg::Page { after: None, limit: 5, reply };
    let asked = member.ledger.ask(&group.from, member.context(300), make).await;
    match asked {
        Err(AskError::DeadlinePassed { .. }) => {}
        Ok(Err(ControlError::Unreachable { .. })) => {}
        other => panic!("{other:?}"),
    }
    group.stop().await;
}
