//! Several bookkeepers, over a network that loses, delays and disorders; the truth is a map per node.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom as _};

use super::*;
use crate::{
    model::time::UnixMs,
    register::{SHARDS, shard_of},
    repair::digest::{Digest, Fingerprint, bucket_of},
};

const CLEANUP_US: u64 = 1_000_000;

fn node(key: u8) -> NodeId {
    NodeId::from_key([key; 32])
}

fn held(text: &str, time: u64) -> HeldObject {
    let version = Version { time, node: 1 };
    HeldObject { id: ObjectId::parse(text).unwrap(), version, expires_at: None }
}

/// What goes over the network.
#[derive(Clone)]
enum Sent {
    Notice(Notice),
    Question(Ticket, LedgerRequest),
    Answer(Ticket, Result<LedgerAnswer, NoAnswer>),
}

/// What a member holds, a page of it, and where the next one begins.
type ReadPage = (Vec<HeldObject>, Option<ObjectId>);

struct Member {
    keeper: Bookkeeper,
    store: BTreeMap<ObjectId, HeldObject>,
    /// Reads of the store that are under way: each is answered with the store as it was at some moment after it was asked for.
    reads: VecDeque<(Ticket, Result<ReadPage, NoAnswer>)>,
}

struct Net {
    now: Now,
    rng: SmallRng,
    members: BTreeMap<NodeId, Member>,
    flying: Vec<(u64, NodeId, NodeId, Sent)>,
    loss: f64,
    lives: u64,
}

impl Net {
    fn new(seed: u64) -> Self {
        let now =
            Now { monotonic: MonotonicUs(1_000_000), wall: UnixMs(1_700_000_000_000), entropy: 0 };
        let rng = SmallRng::seed_from_u64(seed);
        Self { now, rng, members: BTreeMap::new(), flying: Vec::new(), loss: 0.0, lives: 0 }
    }

    fn start(&mut self, node: NodeId) {
        let store = self.members.remove(&node).map(|member| member.store).unwrap_or_default();
        self.lives += 1;
        let keeper = Bookkeeper::new(node, self.lives, CLEANUP_US, self.now.monotonic);
        self.members.insert(node, Member { keeper, store, reads: VecDeque::new() });
    }

    fn site(&self, keepers: &[NodeId]) -> LedgerScope {
        let members: BTreeSet<_> = self.members.keys().copied().collect();
        LedgerScope {
            group: "group-x".into(),
            keepers: keepers.iter().copied().filter(|node| members.contains(node)).collect(),
            super_peer: keepers.first().copied(),
            alive: members.clone(),
            replicas: 3,
            members,
        }
    }

    fn view(&mut self, keepers: &[NodeId]) {
        let site = self.site(keepers);
        for node in site.members.clone() {
            self.step(node, LedgerEvent::Viewed(Some(site.clone())));
        }
    }

    fn step(&mut self, node: NodeId, event: LedgerEvent) {
        let now = self.now;
        let Some(member) = self.members.get_mut(&node) else { return };
        let effects = member.keeper.step(now, event, &());
        self.carry_out(node, effects);
    }

    fn carry_out(&mut self, node: NodeId, effects: Vec<LedgerEffect>) {
        for effect in effects {
            match effect {
                LedgerEffect::Tell { to, notice } => self.send(node, to, Sent::Notice(notice)),
                LedgerEffect::Ask { ticket, to, question } => {
                    self.send(node, to, Sent::Question(ticket, question));
                }
                LedgerEffect::Scan { ticket, shard, after } => {
                    let fails = self.rng.random_bool(0.05);
                    let member = self.members.get_mut(&node).unwrap();
                    let limit = 3;
                    let of_shard = member.store.values().filter(|held| {
                        shard_of(&held.id) == shard
                            && after.as_ref().is_none_or(|after| held.id > *after)
                    });
                    let part: Vec<_> = of_shard.take(limit).cloned().collect();
                    let until =
                        part.last().filter(|_| part.len() == limit).map(|held| held.id.clone());
                    let part = if fails { Err(NoAnswer) } else { Ok((part, until)) };
                    member.reads.push_back((ticket, part));
                }
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, sent: Sent) {
        if self.rng.random_bool(self.loss) {
            // Whoever asks hears in the end that there is no answer.
            let asker = match sent {
                Sent::Question(ticket, _) => Some((ticket, from, to)),
                Sent::Answer(ticket, _) => Some((ticket, to, from)),
                Sent::Notice(_) => None,
            };
            if let Some((ticket, asker, other)) = asker {
                let at = self.now.monotonic.0 + 2_000_000;
                self.flying.push((at, other, asker, Sent::Answer(ticket, Err(NoAnswer))));
            }
            return;
        }
        let at = self.now.monotonic.0 + self.rng.random_range(0..30_000);
        self.flying.push((at, from, to, sent));
    }

    /// Lets time pass, in small pieces.
    fn run(&mut self, us: u64) {
        let end = self.now.monotonic.0 + us;
        while self.now.monotonic.0 < end {
            let pause = self.rng.random_range(1_000..40_000);
            self.now.monotonic.0 += pause;
            self.now.wall.0 += pause / 1_000;
            self.flying.sort_by_key(|flying| flying.0);
            while let Some(first) =
                self.flying.first().filter(|first| first.0 <= self.now.monotonic.0)
            {
                let (_, from, to, sent) = first.clone();
                self.flying.remove(0);
                self.arrive(from, to, sent);
            }
            for node in self.members.keys().copied().collect::<Vec<_>>() {
                if self.rng.random_bool(0.7)
                    && let Some((ticket, part)) =
                        self.members.get_mut(&node).unwrap().reads.pop_front()
                {
                    self.step(node, LedgerEvent::Scanned { ticket, part });
                }
                let mut ticks = 0;
                while self
                    .members
                    .get(&node)
                    .unwrap()
                    .keeper
                    .next_due()
                    .is_some_and(|due| due <= self.now.monotonic)
                {
                    self.step(node, LedgerEvent::Tick);
                    ticks += 1;
                    assert!(
                        ticks < 200,
                        "{:?}",
                        self.members.get(&node).unwrap().keeper.next_due()
                    );
                }
            }
        }
    }

    fn arrive(&mut self, from: NodeId, to: NodeId, sent: Sent) {
        let now = self.now;
        let Some(member) = self.members.get_mut(&to) else {
            if let Sent::Question(ticket, _) = sent {
                self.step(from, LedgerEvent::Answered { ticket, answer: Err(NoAnswer) });
            }
            return;
        };
        match sent {
            Sent::Notice(notice) => self.step(to, LedgerEvent::Noticed { from, notice }),
            Sent::Answer(ticket, answer) => self.step(to, LedgerEvent::Answered { ticket, answer }),
            Sent::Question(ticket, question) => {
                let answer = member.keeper.answer(now, from, &question);
                let effects = member.keeper.take_effects();
                self.carry_out(to, effects);
                self.send(to, from, Sent::Answer(ticket, Ok(answer)));
            }
        }
    }

    fn change(&mut self, node: NodeId, change: LedgerChange) {
        let store = &mut self.members.get_mut(&node).unwrap().store;
        match &change {
            LedgerChange::Held(held) => store.insert(held.id.clone(), held.clone()),
            LedgerChange::Dropped(id) => store.remove(id),
        };
        self.step(node, LedgerEvent::Changed(vec![change]));
    }

    /// Checks the ledgers of these keepers against what all members have in their stores.
    fn check(&self, keepers: &[NodeId], why: &str) {
        for keeper in keepers {
            let keeper = &self.members.get(keeper).unwrap().keeper;
            assert!(keeper.standing().complete, "{why}");
            for (node, member) in &self.members {
                let mut truth = Digest::default();
                for held in member.store.values() {
                    let (id, version) = (held.id.as_str(), held.version);
                    truth.add(bucket_of(id), Fingerprint::of_version(id, version));
                }
                let kept = keeper.ledger.digest(node).unwrap();
                assert_eq!(kept.root(), truth.root(), "{why}: {node} at {}", keeper.this);
            }
        }
        for (node, member) in self.members.iter().filter(|(node, _)| !keepers.contains(node)) {
            let members: Vec<_> = member.keeper.ledger.members().collect();
            assert_eq!(members, [node], "{why}: only its own");
        }
    }
}

/// Goal: whatever is lost, in the end every ledger is what the members hold. Method: random changes of objects, members,
/// keepers and lives from a seed, then quiet, then the comparison with the truth.
#[test]
fn ledgers_agree_with_what_is_held_once_it_is_quiet() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let fixed = 0..number("NOMAD_SOAK").unwrap_or(60);
    for seed in number("NOMAD_SEED").map_or(fixed, |seed| seed..seed + 1) {
        let mut net = Net::new(seed);
        (1..=4).for_each(|key| net.start(node(key)));
        let mut keepers = vec![node(1), node(2)];
        net.view(&keepers);
        net.loss = if net.rng.random_bool(0.5) { 0.2 } else { 0.0 };
        let mut clock = 0;
        for _ in 0..net.rng.random_range(20..120) {
            let nodes: Vec<_> = net.members.keys().copied().collect();
            let at = *nodes.choose(&mut net.rng).unwrap();
            clock += 1;
            match net.rng.random_range(0..100) {
                0..70 => {
                    let name = format!("o{}", net.rng.random_range(0..40));
                    // Also back to an older version, and without one.
                    let time = clock - net.rng.random_range(0..clock.min(3));
                    let change = match net.rng.random_bool(0.3) {
                        true => LedgerChange::Dropped(held(&name, 0).id),
                        false => LedgerChange::Held(held(&name, time)),
                    };
                    net.change(at, change);
                }
                70..74 => {
                    net.start(at);
                    net.view(&keepers);
                }
                74..77 => {
                    let shard = net.rng.random_range(0..SHARDS);
                    net.members.get_mut(&at).unwrap().store.retain(|id, _| shard_of(id) != shard);
                    net.step(at, LedgerEvent::Recount);
                }
                77..80 => net.step(at, LedgerEvent::Recount),
                80..83 if nodes.len() > 2 && !keepers.contains(&at) => {
                    net.members.remove(&at);
                    net.view(&keepers);
                }
                83..86 if nodes.len() < 6 => {
                    let new = node(net.rng.random_range(10..60));
                    net.start(new);
                    net.view(&keepers);
                }
                86..89 => {
                    keepers = nodes.choose_multiple(&mut net.rng, 2).copied().collect();
                    net.view(&keepers);
                }
                _ => {
                    let us = net.rng.random_range(1_000..1_500_000);
                    net.run(us);
                }
            }
        }
        net.loss = 0.0;
        net.run(60 * CLEANUP_US);
        net.check(&keepers, &format!("NOMAD_SEED={seed}"));
    }
}

fn two(seed: u64) -> Net {
    let mut net = Net::new(seed);
    (1..=2).for_each(|key| net.start(node(key)));
    net.view(&[node(1), node(2)]);
    net.run(CLEANUP_US);
    net
}

/// Goal: equal ledgers cost a few bytes, however many objects there are, and also while objects change.
#[test]
fn without_a_loss_only_sums_are_compared() {
    let mut net = two(7);
    for n in 0..200 {
        net.change(node(1), LedgerChange::Held(held(&format!("o{n}"), 1)));
        if n % 10 == 0 {
            net.run(CLEANUP_US / 10);
        }
    }
    net.run(10 * CLEANUP_US);
    let standing = net.members.get(&node(2)).unwrap().keeper.standing();
    assert_eq!((standing.holdings, standing.corrected, standing.gaps), (200, 0, 0));
    assert!(standing.notices < 40, "{}", standing.notices);
}

#[test]
fn what_was_lost_is_found_by_the_next_comparison_and_nothing_else_is_sent() {
    let mut net = two(8);
    for n in 0..50 {
        net.change(node(1), LedgerChange::Held(held(&format!("o{n}"), 1)));
    }
    net.run(CLEANUP_US);
    net.loss = 1.0;
    net.change(node(1), LedgerChange::Held(held("lost", 1)));
    net.run(NOTICE_PAUSE_US * 2);
    net.loss = 0.0;
    net.run(20 * CLEANUP_US);
    let standing = net.members.get(&node(2)).unwrap().keeper.standing();
    assert_eq!((standing.holdings, standing.corrected), (51, 1));
}

#[test]
fn a_member_speaks_of_itself_only_and_of_its_own_group() {
    let mut net = two(9);
    let notice =
        |group: &str, seq, changes| Notice::Changed { group: group.into(), life: 77, seq, changes };
    let change = || vec![LedgerChange::Held(held("a", 1))];
    let holds = |net: &Net, key| {
        net.members.get(&node(1)).unwrap().keeper.ledger.held(node(key), &held("a", 1).id).is_some()
    };
    for (from, notice) in [
        (3, notice("group-x", 1, change())),
        (2, notice("group-y", 1, change())),
        (2, notice("group-x", 1, vec![LedgerChange::Held(held("a", 1)); LIMIT_ENTRIES + 1])),
    ] {
        net.step(node(1), LedgerEvent::Noticed { from: node(from), notice });
        assert!(!holds(&net, 1) && !holds(&net, 2) && !holds(&net, 3), "{from}");
    }
    let heard = LedgerEvent::Noticed { from: node(2), notice: notice("group-x", 5, change()) };
    net.step(node(1), heard);
    assert!(holds(&net, 2) && !holds(&net, 1));
    // A late notice changes nothing.
    let late = vec![LedgerChange::Dropped(held("a", 1).id)];
    net.step(node(1), LedgerEvent::Noticed { from: node(2), notice: notice("group-x", 4, late) });
    assert!(holds(&net, 2));
}

#[test]
fn questions_of_strangers_are_not_answered_and_damaged_inventories_change_nothing() {
    let mut net = two(10);
    net.change(node(1), LedgerChange::Held(held("a", 1)));
    let now = net.now;
    let keeper = &mut net.members.get_mut(&node(1)).unwrap().keeper;
    let root = |group: &str| LedgerRequest::Root { group: group.into() };
    assert_eq!(keeper.answer(now, node(2), &root("group-y")), LedgerAnswer::Elsewhere);
    assert_eq!(keeper.answer(now, node(3), &root("group-x")), LedgerAnswer::Elsewhere);
    assert!(matches!(keeper.answer(now, node(2), &root("group-x")), LedgerAnswer::Root { .. }));
    let long =
        LedgerRequest::Pages { group: "group-x".into(), after: Some("x".repeat(1_025)), limit: 9 };
    assert_eq!(keeper.answer(now, node(2), &long), LedgerAnswer::Elsewhere);

    let ask = |keeper: &mut Bookkeeper| {
        let mut later = now;
        later.monotonic.0 += 100 * CLEANUP_US;
        let effects = keeper.step(later, LedgerEvent::Tick, &());
        let asked = effects.into_iter().find_map(|effect| match effect {
            LedgerEffect::Ask { ticket, .. } => Some(ticket),
            _ => None,
        });
        (later, asked.unwrap())
    };
    let (later, ticket) = ask(keeper);
    let sums = vec![crate::repair::digest::Sum { count: 9, sum: 9 }; usize::from(BUCKETS)];
    let root = LedgerAnswer::Root { life: 5, seq: 5, root: sums[0] };
    let next = keeper.step(later, LedgerEvent::Answered { ticket, answer: Ok(root) }, &());
    let [LedgerEffect::Ask { ticket, question: LedgerRequest::Buckets { .. }, .. }] = &next[..]
    else {
        panic!("{next:?}")
    };
    let answer = Ok(LedgerAnswer::Buckets { life: 5, seq: 5, buckets: sums });
    let next = keeper.step(later, LedgerEvent::Answered { ticket: *ticket, answer }, &());
    let [LedgerEffect::Ask { ticket, question: LedgerRequest::Inventory { .. }, .. }] = &next[..]
    else {
        panic!("{next:?}")
    };
    // The same place again and again would never end.
    let entries = vec![held("b", 1), held("b", 1)];
    let part = super::super::Inventory { entries, next: None };
    keeper.step(
        later,
        LedgerEvent::Answered { ticket: *ticket, answer: Ok(LedgerAnswer::Inventory(part)) },
        &(),
    );
    assert_eq!(keeper.ledger.holdings(), 1);
    // It is tried again later, and not at once for ever.
    for _ in 0..BUCKETS {
        let next = keeper.step(later, LedgerEvent::Tick, &());
        assert!(next.iter().all(|effect| !matches!(effect, LedgerEffect::Ask { .. })), "{next:?}");
    }
    assert!(keeper.next_due().unwrap() > later.monotonic);
}

#[test]
fn a_word_about_a_member_is_taken_from_nobody_but_it() {
    let mut net = two(11);
    net.change(node(1), LedgerChange::Held(held("mine", 1)));
    net.change(node(2), LedgerChange::Held(held("its", 1)));
    net.run(CLEANUP_US);
    let now = net.now;
    let keeper = &mut net.members.get_mut(&node(1)).unwrap().keeper;
    let id = |text| held(text, 1).id;
    assert_eq!(keeper.refer(node(1), &id("mine")), Word::Known);
    assert_eq!(keeper.refer(node(1), &id("no")), Word::Untrue);
    assert_eq!(keeper.refer(node(2), &id("its")), Word::Known);
    assert_eq!(keeper.refer(node(2), &id("new")), Word::AskMember);
    keeper.step(now, LedgerEvent::Referred { member: node(2), held: held("new", 1) }, &());
    assert_eq!(keeper.refer(node(2), &id("new")), Word::Known);
    assert_eq!(keeper.forget_if_gone(now, node(2)), LedgerAnswer::Alive);
    assert_eq!(keeper.forget_if_gone(now, node(1)), LedgerAnswer::Alive);
    assert_eq!(keeper.forget_if_gone(now, node(3)), LedgerAnswer::Done(false));
    keeper.take_effects();
    let mut site = keeper.site().unwrap().clone();
    site.alive.remove(&node(2));
    keeper.step(now, LedgerEvent::Viewed(Some(site)), &());
    assert_eq!(keeper.forget_if_gone(now, node(2)), LedgerAnswer::Done(true));
    let effects = keeper.take_effects();
    assert!(
        matches!(&effects[..], [LedgerEffect::Tell { notice: Notice::Forget { .. }, .. }]),
        "{effects:?}"
    );
    assert_eq!(keeper.forget_if_gone(now, node(2)), LedgerAnswer::Done(false));
}

#[test]
fn a_node_that_keeps_no_ledger_knows_where_to_look() {
    let mut net = Net::new(12);
    (1..=3).for_each(|key| net.start(node(key)));
    let look = |net: &Net, key| net.members.get(&node(key)).unwrap().keeper.look();
    assert_eq!(look(&net, 1), Reference::Nowhere);
    net.view(&[node(1), node(2)]);
    net.run(5 * CLEANUP_US);
    assert_eq!(look(&net, 1), Reference::Here);
    assert_eq!(look(&net, 2), Reference::Here);
    assert_eq!(look(&net, 3), Reference::At(node(1)));
    let mut site = net.site(&[node(1), node(2)]);
    site.super_peer = None;
    site.alive.remove(&node(1));
    net.step(node(3), LedgerEvent::Viewed(Some(site)));
    assert_eq!(look(&net, 3), Reference::At(node(2)));
    // A new super-peer asks nobody, also before it knows all.
    net.start(node(2));
    net.view(&[node(2)]);
    assert_eq!(look(&net, 2), Reference::Here);
}
