//! Several sweepers over plain maps as registers. A round is played: it takes the highest ballot that it finds, and writes it
//! everywhere it can.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom as _};

use super::*;
use crate::{
    model::time::UnixMs,
    register::{Ballot, shard_of},
    repair::{
        Burial, SharedRegister, SurveyHead,
        digest::{BUCKETS, Sum},
        walk,
    },
};

const S: u64 = 1_000_000;

fn options() -> RepairOptions {
    RepairOptions {
        interval_us: 600 * S,
        soon_us: 2 * S,
        expire_us: 60 * S,
        bury_us: 120 * S,
        rounds_max: 8,
        bytes_per_s: 1 << 20,
    }
}

fn node(key: u8) -> NodeId {
    NodeId::from_key([key; 32])
}

fn id(text: &str) -> ObjectId {
    ObjectId::parse(text).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    accepted: Ballot,
    version: Option<Version>,
    is_live: bool,
    expires_at: Option<u64>,
}

type Store = BTreeMap<ObjectId, Cell>;

fn read(
    store: &Store,
    shard: u8,
    after: Option<&ObjectId>,
    limit: usize,
) -> Result<Vec<SurveyHead>, NoAnswer> {
    let of_shard = store
        .iter()
        .filter(|(id, _)| shard_of(id) == shard && after.is_none_or(|after| *id > after));
    let head = |(id, cell): (&ObjectId, &Cell)| SurveyHead {
        id: id.clone(),
        accepted: cell.accepted,
        version: cell.version,
        is_live: cell.is_live,
    };
    Ok(of_shard.take(limit).map(head).collect())
}

struct Member {
    sweeper: Sweeper,
    store: Store,
    /// The versions of fast writes that it has still to submit.
    outbox: BTreeSet<Version>,
}

struct Net {
    now: Now,
    rng: SmallRng,
    epoch: u64,
    members: BTreeMap<NodeId, Member>,
    /// Those that nobody reaches, and that reach nobody.
    down: BTreeSet<NodeId>,
    events: VecDeque<(u64, NodeId, RepairEvent)>,
    counter: u64,
    /// The bytes of questions and answers, as they would travel.
    sent: usize,
    rounds: u64,
    under_way: u64,
    most_under_way: u64,
    cleared: BTreeMap<ObjectId, Version>,
    damages: bool,
}

impl Net {
    fn new(seed: u64, count: u8) -> Self {
        let now = Now { monotonic: MonotonicUs(S), wall: UnixMs(1_700_000_000_000), entropy: 0 };
        let member = |key| {
            let sweeper = Sweeper::new(options(), now.monotonic, RepairStatus::default());
            (node(key), Member { sweeper, store: Store::new(), outbox: BTreeSet::new() })
        };
        let mut net = Self {
            now,
            rng: SmallRng::seed_from_u64(seed),
            epoch: 1,
            members: (1..=count).map(member).collect(),
            down: BTreeSet::new(),
            events: VecDeque::new(),
            counter: 0,
            sent: 0,
            rounds: 0,
            under_way: 0,
            most_under_way: 0,
            cleared: BTreeMap::new(),
            damages: false,
        };
        net.view();
        net
    }

    fn scope(&self, this: NodeId) -> Scope {
        let members = self.members.keys().copied().collect();
        Scope { this, group: "group-x".into(), epoch: self.epoch, members, replication_factor: 3 }
    }

    /// Tells all who live how the group looks.
    fn view(&mut self) {
        let nodes: Vec<_> = self.members.keys().copied().collect();
        let alive: BTreeSet<_> =
            nodes.iter().filter(|node| !self.down.contains(node)).copied().collect();
        for node in &alive {
            let scope = self.scope(*node);
            self.step(*node, RepairEvent::Viewed(Some((scope, alive.clone()))));
        }
    }

    fn step(&mut self, node: NodeId, event: RepairEvent) {
        if matches!(event, RepairEvent::Ended(..)) {
            self.under_way -= 1;
        }
        let effects = self.members.get_mut(&node).unwrap().sweeper.step(self.now, event, &());
        for effect in effects {
            self.carry_out(node, effect);
        }
    }

    fn later(&mut self, node: NodeId, event: RepairEvent) {
        let at = self.now.monotonic.0 + self.rng.random_range(100..20_000);
        self.events.push_back((at, node, event));
    }

    fn carry_out(&mut self, at: NodeId, effect: RepairEffect) {
        let store = self.members.get(&at).unwrap().store.clone();
        let fails = self.damages && self.rng.random_bool(0.05);
        let or = |fails: bool| if fails { Err(NoAnswer) } else { Ok(()) };
        let event = match effect {
            RepairEffect::Survey { ticket, scope, alive } => {
                let survey = Survey::take(&scope, &alive, |shard, after, limit| {
                    read(&store, shard, after, limit)
                });
                RepairEvent::Surveyed(ticket, or(fails).and(survey))
            }
            RepairEffect::Walk { ticket, scope, other, buckets, from } => {
                let part = walk(&scope, other, &buckets, &from, |shard, after, _| {
                    read(&store, shard, after, 7)
                });
                RepairEvent::Walked(ticket, or(fails).and(part))
            }
            RepairEffect::Look { ticket, ids } => {
                RepairEvent::Looked(ticket, Ok(heads(&store, &ids)))
            }
            RepairEffect::Outlived { ticket, after } => {
                let now = self.now.wall.secs().0;
                let mut found: Vec<_> = store
                    .iter()
                    .filter(|(_, cell)| cell.is_live && cell.expires_at.is_some_and(|at| at <= now))
                    .map(|(id, cell)| Expired {
                        id: id.clone(),
                        version: cell.version.unwrap(),
                        expires_at: UnixSecs(cell.expires_at.unwrap()),
                    })
                    .collect();
                found.sort_by_key(|one| (one.expires_at, one.id.clone()));
                let key = |one: &Expired| (one.expires_at, one.id.clone());
                found.retain(|one| after.as_ref().is_none_or(|after| key(one) > key(after)));
                found.truncate(5);
                RepairEvent::Outlived(ticket, Ok(found))
            }
            RepairEffect::Watermark { ticket } => {
                RepairEvent::Watermark(ticket, Ok(self.watermark(at)))
            }
            RepairEffect::Ask { ticket, to, question } => {
                self.sent += postcard::to_allocvec(&question).unwrap().len();
                let answer = match self.down.contains(&to) || self.down.contains(&at) || fails {
                    true => Err(NoAnswer),
                    false => Ok(self.answer(at, to, &question)),
                };
                self.sent += answer
                    .as_ref()
                    .map_or(0, |answer| postcard::to_allocvec(answer).unwrap().len());
                RepairEvent::Answered(ticket, answer)
            }
            RepairEffect::Run { ticket, id, order } => {
                self.rounds += 1;
                self.under_way += 1;
                self.most_under_way = self.most_under_way.max(self.under_way);
                let ended = match (fails, self.down.contains(&at)) {
                    (true, _) => RegisterOutcome::Unknown,
                    (_, true) => RegisterOutcome::NoQuorum { answered: 1, needed: 2 },
                    _ => self.round(&id, order),
                };
                RepairEvent::Ended(ticket, ended)
            }
        };
        self.later(at, event);
    }

    fn answer(&self, from: NodeId, to: NodeId, question: &RepairRequest) -> RepairAnswer {
        let (scope, store) = (self.scope(to), &self.members.get(&to).unwrap().store);
        if question.about() != (scope.group.as_str(), scope.epoch) {
            return RepairAnswer::Elsewhere;
        }
        let by = |shard, after: Option<&ObjectId>, limit| read(store, shard, after, limit);
        match question {
            RepairRequest::Compare { root, .. } => {
                let survey = Survey::take(&scope, &BTreeSet::new(), by).unwrap();
                let digest = survey.shared.get(&from).unwrap();
                if digest.root() == *root {
                    RepairAnswer::Equal
                } else {
                    RepairAnswer::Buckets(digest.buckets().to_vec())
                }
            }
            RepairRequest::Walk { buckets, from: place, .. } => {
                RepairAnswer::Part(walk(&scope, from, buckets, place, by).unwrap())
            }
            RepairRequest::Heads { ids, .. } => RepairAnswer::Heads(heads(store, ids)),
            RepairRequest::Watermark { .. } => RepairAnswer::Watermark(self.watermark(to)),
        }
    }

    /// The clock, or right below the oldest fast write.
    fn watermark(&self, node: NodeId) -> Version {
        let clock = Version { time: self.counter, node: u64::MAX };
        let oldest = self.members.get(&node).unwrap().outbox.first();
        oldest.map_or(clock, |oldest| Version { time: oldest.time - 1, node: u64::MAX })
    }

    fn round(&mut self, id: &ObjectId, order: RegisterOrder) -> RegisterOutcome {
        let scope = self.scope(node(1));
        let replicas = scope.replicas(id);
        let up: Vec<_> =
            replicas.iter().filter(|node| !self.down.contains(node)).copied().collect();
        if up.len() <= replicas.len() / 2 {
            return RegisterOutcome::NoQuorum { answered: up.len() as u32, needed: 2 };
        }
        let held = up.iter().filter_map(|node| self.members.get(node)?.store.get(id));
        let Some(mut cell) = held.max_by_key(|cell| cell.accepted).copied() else {
            return RegisterOutcome::Done;
        };
        match order {
            RegisterOrder::Clear(version) => {
                if cell.is_live || cell.version.unwrap_or_default() != version {
                    return RegisterOutcome::Done;
                }
                if up.len() < replicas.len() {
                    return RegisterOutcome::Busy;
                }
                for (node, member) in &self.members {
                    let older = member.outbox.iter().find(|held| **held <= version);
                    assert_eq!(
                        older, None,
                        "{id} of {version:?} cleared before a fast write at {node}"
                    );
                }
                self.cleared.insert(id.clone(), version);
                for node in up {
                    self.members.get_mut(&node).unwrap().store.remove(id);
                }
                return RegisterOutcome::Done;
            }
            RegisterOrder::Expire => {
                let is_over = cell.expires_at.is_some_and(|at| at <= self.now.wall.secs().0);
                if cell.is_live && is_over {
                    self.counter += 1;
                    cell.version = Some(Version { time: self.counter, node: 1 });
                    (cell.is_live, cell.expires_at) = (false, None);
                }
            }
            RegisterOrder::Repair => {}
            other => panic!("{other:?}"),
        }
        self.counter += 1;
        cell.accepted = Ballot { epoch: self.epoch, counter: self.counter, node: 1 };
        for node in up {
            self.members.get_mut(&node).unwrap().store.insert(id.clone(), cell);
        }
        RegisterOutcome::Done
    }

    /// Writes at all replicas of an object, or only at those that are up and lucky.
    fn write(&mut self, text: &str, is_live: bool, expires_at: Option<u64>, luck: f64) {
        let id = id(text);
        let scope = self.scope(node(1));
        self.counter += 1;
        let cell = Cell {
            accepted: Ballot { epoch: self.epoch, counter: self.counter, node: 2 },
            version: Some(Version { time: self.counter, node: 2 }),
            is_live,
            expires_at,
        };
        let replicas = scope.replicas(&id);
        let mut up: Vec<_> =
            replicas.iter().filter(|node| !self.down.contains(node)).copied().collect();
        if up.len() <= replicas.len() / 2 {
            return;
        }
        while up.len() > 2 && self.rng.random_bool(1.0 - luck) {
            up.remove(self.rng.random_range(0..up.len()));
        }
        for node in up {
            self.members.get_mut(&node).unwrap().store.insert(id.clone(), cell);
        }
    }

    fn run(&mut self, us: u64) {
        let end = self.now.monotonic.0 + us;
        loop {
            let due = self.members.iter();
            let due =
                due.filter_map(|(node, member)| Some((member.sweeper.next_due()?.0, *node))).min();
            let event =
                self.events.iter().map(|event| event.0).enumerate().min_by_key(|event| event.1);
            let at = [due.map(|due| due.0), event.map(|event| event.1)].into_iter().flatten().min();
            let Some(at) = at.filter(|at| *at <= end) else { break };
            let at = at.max(self.now.monotonic.0);
            self.pass(at);
            match (event, due) {
                (Some((index, time)), _) if time <= at => {
                    let (_, node, event) = self.events.remove(index).unwrap();
                    self.step(node, event);
                }
                (_, Some((_, node))) => {
                    self.step(node, RepairEvent::Tick);
                    // A tick at its time does something, or the sweeper would spin.
                    let next = self.members.get(&node).unwrap().sweeper.next_due();
                    assert!(next.is_none_or(|next| next > self.now.monotonic), "{node} {next:?}");
                }
                _ => break,
            }
        }
        self.pass(end);
    }

    fn pass(&mut self, at: u64) {
        let us = at - self.now.monotonic.0;
        self.now.monotonic.0 = at;
        self.now.wall.0 += us / 1_000;
    }

    fn status(&self, key: u8) -> RepairStatus {
        self.members.get(&node(key)).unwrap().sweeper.status()
    }

    fn total(&self, of: impl Fn(&RepairStatus) -> u64) -> u64 {
        self.members.values().map(|member| of(&member.sweeper.status())).sum()
    }

    /// Checks that all replicas of each object have the same.
    fn check_equal(&self, why: &str) {
        let ids: BTreeSet<_> =
            self.members.values().flat_map(|member| member.store.keys()).collect();
        let scope = self.scope(node(1));
        for id in ids {
            let cells: Vec<_> = scope
                .replicas(id)
                .into_iter()
                .map(|node| self.members.get(&node).unwrap().store.get(id))
                .collect();
            assert!(cells.iter().all(|cell| *cell == cells[0]), "{why}: {id} {cells:?}");
        }
    }
}

fn heads(store: &Store, ids: &[ObjectId]) -> Vec<Option<ReplicaHead>> {
    let seen = |cell: &Cell| ReplicaHead { accepted: cell.accepted, value_bytes: 100 };
    ids.iter().map(|id| store.get(id).map(seen)).collect()
}

#[test]
fn equal_members_exchange_a_sum_and_run_no_round() {
    let mut net = Net::new(1, 5);
    for n in 0..500 {
        net.write(&format!("o{n}"), true, None, 1.0);
    }
    net.run(100 * S);
    assert_eq!((net.rounds, net.total(|status| status.equal)), (0, 20));
    assert!(net.sent < 20 * 60, "{} bytes for 20 comparisons", net.sent);
    let status = net.status(1);
    assert_eq!((status.left, status.running_since, status.oldest), (0, None, None));
    net.run(options().interval_us);
    assert_eq!((net.rounds, net.total(|status| status.compared)), (0, 40));
}

#[test]
fn what_differs_is_repaired_once_and_nothing_else_is_touched() {
    let mut net = Net::new(2, 5);
    for n in 0..800 {
        net.write(&format!("o{n}"), true, None, 1.0);
    }
    let lagging: Vec<_> = (0..40).map(|n| id(&format!("o{}", n * 17))).collect();
    for (n, id) in lagging.iter().enumerate() {
        let replica = net.scope(node(1)).replicas(id)[n % 3];
        let store = &mut net.members.get_mut(&replica).unwrap().store;
        match n % 2 {
            0 => store.remove(id).map(|_| ()).unwrap(),
            _ => store.get_mut(id).unwrap().accepted.counter = 0,
        }
    }
    net.run(40 * S);
    net.check_equal("after the first comparisons");
    // Two replicas that know better may see a difference at the same moment.
    assert!((40..60).contains(&net.rounds), "{}", net.rounds);
    assert_eq!(net.total(|status| status.repaired), net.rounds);
    let before = net.rounds;
    net.run(2 * options().interval_us);
    assert_eq!(net.rounds, before);
}

#[test]
fn a_member_that_was_away_catches_up_as_soon_as_it_is_back() {
    let mut net = Net::new(3, 5);
    net.run(60 * S);
    net.down.insert(node(4));
    net.view();
    for n in 0..300 {
        net.write(&format!("o{n}"), true, None, 1.0);
    }
    net.run(30 * S);
    assert_eq!(net.rounds, 0, "nobody is there to compare with");
    net.down.clear();
    net.view();
    net.run(40 * S);
    net.check_equal("back");
    assert!(net.rounds > 100 && net.total(|status| status.left) == 0);
    assert!(net.most_under_way <= 5 * options().rounds_max as u64);
}

#[test]
fn repairs_keep_to_their_bytes_per_second() {
    let mut net = Net::new(4, 2);
    for member in net.members.values_mut() {
        member.sweeper = Sweeper::new(
            RepairOptions { bytes_per_s: 2_000, ..options() },
            net.now.monotonic,
            RepairStatus::default(),
        );
    }
    net.view();
    for n in 0..100 {
        net.write(&format!("o{n}"), true, None, 1.0);
    }
    net.members.get_mut(&node(2)).unwrap().store.clear();
    net.run(20 * S);
    let early = net.rounds;
    let status = net.status(1);
    assert!(
        status.running_since.is_some() && status.oldest.is_some() && status.left > 0,
        "{status:?}"
    );
    // 456 bytes each: two replicas, 100 bytes there and back, and what a round costs.
    assert!((70..=90).contains(&early), "{early}");
    net.run(20 * S);
    net.check_equal("in the end");
    assert_eq!((net.rounds, net.status(1).repaired), (100, 100));
}

#[test]
fn what_has_expired_becomes_a_tombstone_and_goes_when_all_have_promised() {
    let mut net = Net::new(5, 5);
    let soon = net.now.wall.secs().0 + 10;
    for n in 0..60 {
        net.write(&format!("o{n}"), true, Some(soon), 1.0);
    }
    net.write("kept", true, None, 1.0);
    net.run(70 * S);
    assert_eq!(net.total(|status| status.expired), 60);
    assert!(
        net.members.values().all(|member| member
            .store
            .values()
            .filter(|cell| cell.is_live)
            .count()
            <= 1)
    );
    // One member still has something old to submit.
    let old = Version { time: 1, node: 9 };
    net.members.get_mut(&node(3)).unwrap().outbox.insert(old);
    net.run(130 * S);
    assert_eq!(net.total(|status| status.cleared), 0);
    assert_eq!(net.total(|status| status.kept_tombstones), 60);
    net.members.get_mut(&node(3)).unwrap().outbox.clear();
    net.run(130 * S);
    assert_eq!(net.total(|status| status.cleared), 60);
    let left: BTreeSet<_> = net.members.values().flat_map(|member| member.store.keys()).collect();
    assert_eq!(left, [&id("kept")].into());
    assert_eq!(net.total(|status| status.kept_tombstones), 0);
}

#[test]
fn while_a_member_is_silent_no_tombstone_goes() {
    let mut net = Net::new(6, 5);
    for n in 0..20 {
        net.write(&format!("o{n}"), false, None, 1.0);
    }
    net.down.insert(node(5));
    net.view();
    net.run(400 * S);
    assert_eq!(net.total(|status| status.cleared), 0);
    assert_eq!(net.status(1).kept_for, Some(node(5)));
    net.down.clear();
    net.view();
    net.run(400 * S);
    assert_eq!((net.total(|status| status.cleared), net.status(1).kept_for), (20, None));
}

#[test]
fn a_tombstone_whose_epoch_is_over_waits_for_new_promises() {
    let mut net = Net::new(7, 3);
    let scope = net.scope(node(1));
    let now = net.now;
    let sweeper = &mut net.members.get_mut(&node(1)).unwrap().sweeper;
    let mut later = now;
    later.monotonic.0 += options().bury_us;
    let alive: BTreeSet<_> = scope.members.clone();
    sweeper.due.clear();
    let effects = sweeper.step(later, RepairEvent::Tick, &());
    let surveyed = effects.iter().find_map(|effect| match effect {
        RepairEffect::Survey { ticket, .. } => Some(*ticket),
        _ => None,
    });
    let burials =
        (0..20).map(|n| Burial { id: id(&format!("o{n}")), version: Version { time: 5, node: 1 } });
    let survey = Survey { burials: burials.collect(), ..Survey::default() };
    let asked = sweeper.step(later, RepairEvent::Surveyed(surveyed.unwrap(), Ok(survey)), &());
    let promised = Version { time: 9, node: 0 };
    let mut effects = Vec::new();
    for effect in asked {
        effects = match effect {
            RepairEffect::Ask { ticket, question: RepairRequest::Watermark { .. }, .. } => sweeper
                .step(
                    later,
                    RepairEvent::Answered(ticket, Ok(RepairAnswer::Watermark(promised))),
                    &(),
                ),
            RepairEffect::Watermark { ticket } => {
                sweeper.step(later, RepairEvent::Watermark(ticket, Ok(promised)), &())
            }
            _ => continue,
        };
    }
    let clears = |effects: &[RepairEffect]| {
        let clear = |effect: &&RepairEffect| {
            matches!(effect, RepairEffect::Run { order: RegisterOrder::Clear(_), .. })
        };
        effects.iter().filter(clear).count()
    };
    // As many as may run at a time; then comes another epoch.
    assert_eq!(clears(&effects), 8);
    sweeper.step(later, RepairEvent::Viewed(Some((Scope { epoch: 2, ..scope }, alive))), &());
    let mut next = Vec::new();
    for effect in effects {
        if let RepairEffect::Run { ticket, .. } = effect {
            next.extend(sweeper.step(
                later,
                RepairEvent::Ended(ticket, RegisterOutcome::Done),
                &(),
            ));
        }
    }
    assert_eq!((clears(&next), sweeper.status().left), (0, 0));
}

#[test]
fn what_is_left_of_objects_that_never_were_goes_without_promises() {
    let mut net = Net::new(8, 3);
    for n in 0..5 {
        net.write(&format!("o{n}"), false, None, 1.0);
    }
    for member in net.members.values_mut() {
        member.store.values_mut().for_each(|cell| cell.version = None);
        member.outbox.insert(Version { time: 1, node: 1 });
    }
    net.run(130 * S);
    assert_eq!(net.total(|status| status.cleared), 5);
    assert!(net.members.values().all(|member| member.store.is_empty()));
}

#[test]
fn answers_that_make_no_sense_end_the_comparison_and_nothing_else() {
    let unsorted = SharedPart {
        registers: ["b", "b"]
            .map(|text| SharedRegister { id: id(text), accepted: Ballot::NONE })
            .into(),
        next: None,
    };
    let again = SharedPart { registers: Vec::new(), next: Some(RegisterCursor::default()) };
    let many = vec![Sum::default(); usize::from(BUCKETS) + 1];
    let odd = vec![Sum { count: 3, sum: 3 }; usize::from(BUCKETS)];
    for (first, second) in [
        (RepairAnswer::Buckets(many), None),
        (RepairAnswer::Later, None),
        (RepairAnswer::Part(SharedPart::default()), None),
        (RepairAnswer::Buckets(odd.clone()), Some(RepairAnswer::Part(unsorted))),
        (RepairAnswer::Buckets(odd.clone()), Some(RepairAnswer::Part(again))),
        (RepairAnswer::Buckets(odd), Some(RepairAnswer::Elsewhere)),
    ] {
        let mut net = Net::new(9, 2);
        net.write("a", true, None, 1.0);
        let mut now = net.now;
        now.monotonic.0 += 2 * S;
        let sweeper = &mut net.members.get_mut(&node(1)).unwrap().sweeper;
        let effects = sweeper.step(now, RepairEvent::Tick, &());
        let Some(RepairEffect::Survey { ticket, scope, alive }) = effects.last().cloned() else {
            panic!("{effects:?}")
        };
        let survey = Survey::take(&scope, &alive, |shard, after, limit| {
            read(&Store::new(), shard, after, limit)
        });
        let effects = sweeper.step(now, RepairEvent::Surveyed(ticket, survey), &());
        let ask = |effects: &[RepairEffect]| {
            effects.iter().find_map(|effect| match effect {
                RepairEffect::Ask { ticket, .. } => Some(*ticket),
                _ => None,
            })
        };
        let effects =
            sweeper.step(now, RepairEvent::Answered(ask(&effects).unwrap(), Ok(first)), &());
        if let Some(second) = second {
            sweeper.step(now, RepairEvent::Answered(ask(&effects).unwrap(), Ok(second)), &());
        }
        let status = sweeper.status();
        assert_eq!((status.interrupted, status.comparing, status.left), (1, None, 0));
        assert!(sweeper.next_due().unwrap() > now.monotonic);
    }
}

/// Goal: whatever happens, replicas end equal, nothing is cleared that an older fast write could bring back, and the sweepers
/// come to rest. Method: random writes, losses of replicas, members that go and come, epochs, failures, from a seed.
#[test]
fn replicas_end_equal_whatever_happened() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let fixed = 0..number("NOMAD_SOAK").unwrap_or(60);
    for seed in number("NOMAD_SEED").map_or(fixed, |seed| seed..seed + 1) {
        let count = 3 + (seed % 4) as u8;
        let mut net = Net::new(seed, count);
        net.damages = seed % 2 == 0;
        for _ in 0..net.rng.random_range(10..80) {
            let nodes: Vec<_> = net.members.keys().copied().collect();
            let at = *nodes.choose(&mut net.rng).unwrap();
            match net.rng.random_range(0..100) {
                0..60 => {
                    let name = format!("o{}", net.rng.random_range(0..40));
                    let expires = net.now.wall.secs().0 + net.rng.random_range(0..200);
                    let expires = net.rng.random_bool(0.3).then_some(expires);
                    let is_live = net.rng.random_bool(0.8);
                    net.write(&name, is_live, expires.filter(|_| is_live), 0.7);
                }
                60..65 => {
                    let version = Version { time: net.counter.max(1), node: 7 };
                    net.members.get_mut(&at).unwrap().outbox.insert(version);
                }
                65..70 => net.members.get_mut(&at).unwrap().outbox.clear(),
                70..76 if net.down.is_empty() => {
                    net.down.insert(at);
                    net.view();
                }
                76..82 => {
                    net.down.clear();
                    net.view();
                }
                82..86 => {
                    net.epoch += 1;
                    net.view();
                }
                _ => {
                    let us = net.rng.random_range(S..100 * S);
                    net.run(us);
                }
            }
        }
        net.damages = false;
        net.down.clear();
        net.members.values_mut().for_each(|member| member.outbox.clear());
        net.view();
        net.run(5 * options().interval_us);
        let why = format!("NOMAD_SEED={seed}");
        net.check_equal(&why);
        let dead = |cell: &Cell| !cell.is_live;
        assert!(
            net.members.values().all(|member| !member.store.values().any(dead)),
            "{why}: tombstones"
        );
        assert_eq!(net.total(|status| status.left), 0, "{why}");
        let before = net.rounds;
        net.run(2 * options().interval_us);
        assert_eq!(net.rounds, before, "{why}: at rest");
    }
}
