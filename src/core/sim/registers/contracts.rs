//! What the callers of the registers rely on. One schedule each.

use crate::{
    machine::Core,
    model::{
        change::{Change, Condition, Content, WriteRefusal},
        object::{Object, ObjectId, Version},
        time::{MonotonicUs, UnixSecs},
        trace::TraceContext,
    },
    register::{
        Ballot, Body, OpId, Past, Register, RegisterEvent, RegisterFaults, RegisterMessage,
        RegisterOrder, RegisterOutcome, Tombstone, Value,
    },
};

use super::{
    GROUP, MS, S,
    oracle::token_of,
    scenario::{
        Kind::{Accept, Behind, Chain, Prepare, Query},
        Scenario, node, nodes, object_on,
    },
};
use crate::sim::linearizability::{Action, Condition as Told, Verdict};

const ALL: [usize; 3] = [0, 1, 2];

fn scenario() -> Scenario {
    Scenario::new(3, &ALL, RegisterFaults::NONE)
}

fn put(token: u64) -> Action {
    Action::Write { token, condition: Told::Any }
}

fn live(scenario: &Scenario, text: &'static str, time: u64) -> Value {
    Value::Live(Object {
        id: scenario.id.clone(),
        value: text.into(),
        creation_time: UnixSecs(1),
        expires_at: None,
        last_modified: UnixSecs(1),
        version: Version { time, node: 7 },
        content_type: None,
    })
}

impl Scenario {
    fn outcome(&self, n: usize, op: OpId) -> &RegisterOutcome {
        self.ended.get(&(n, op)).unwrap_or_else(|| panic!("n{n} has not ended {op}"))
    }

    fn is_open(&self, n: usize, op: OpId) -> bool {
        !self.ended.contains_key(&(n, op))
    }

    fn send(&mut self, from: usize, to: usize, epoch: u64, body: Body) {
        self.hear(from, to, RegisterMessage { group: GROUP.into(), epoch, body });
    }

    /// Lets a node try again until nothing waits.
    fn retry_until_idle(&mut self, n: usize) {
        for _ in 0..10 {
            self.pass(n, 2 * S);
            self.flow();
        }
    }

    fn counter(&self, n: usize) -> u64 {
        self.actors[n].disk[&self.id].promised.counter
    }
}

/// A safe write costs a prepare and an accept for each other replica, the next one of the same node only the accept.
#[test]
fn a_safe_write_sends_two_messages_per_replica_and_the_next_one_sends_one() {
    let mut scenario = scenario();
    for (token, messages) in [(1, 2), (2, 1), (3, 1)] {
        let before = scenario.sent;
        let op = scenario.client(0, put(token));
        scenario.flow();
        let created = token == 1;
        assert!(
            matches!(scenario.outcome(0, op), RegisterOutcome::Written { created: c, .. } if *c == created)
        );
        // As many answers as questions.
        assert_eq!(scenario.sent - before, 2 * 2 * messages, "write {token}");
    }
    // A write of another node ends that advantage.
    scenario.client(1, put(4));
    scenario.flow();
    let before = scenario.sent;
    scenario.client(0, put(5));
    scenario.flow();
    assert!(scenario.sent - before > 4);
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

/// A node that does not know that others have written offers too low, is refused, and learns what became of its offer.
#[test]
fn an_overtaken_write_is_told_what_became_of_it() {
    let mut scenario = scenario();
    scenario.client(0, put(1));
    scenario.flow();
    // No other replica has accepted it, and another write was decided first: it is offered again.
    let late = scenario.client(0, put(2));
    scenario.lose_all();
    scenario.client(1, put(3));
    scenario.flow_among(&[1, 2]);
    scenario.lose_all();
    scenario.retry_until_idle(0);
    assert!(matches!(scenario.outcome(0, late), RegisterOutcome::Written { created: false, .. }));
    // One replica has accepted it, and another node has completed it: it was decided before the other node's write.
    let seen = scenario.client(0, put(4));
    scenario.deliver(0, 1, Accept);
    scenario.lose_all();
    scenario.raise_counter(2);
    scenario.client(2, put(5));
    scenario.flow_among(&[1, 2]);
    scenario.lose_all();
    scenario.retry_until_idle(0);
    assert!(matches!(scenario.outcome(0, seen), RegisterOutcome::Written { .. }));
    let last = scenario.read(1);
    scenario.flow();
    let RegisterOutcome::Read(Some(object)) = scenario.outcome(1, last) else { panic!() };
    assert_eq!(token_of(&object.value), 5, "it is not written over what came after it");
    // A condition that does not hold any more is a refusal, not an unknown outcome.
    let create = Action::Write { token: 6, condition: Told::Absent };
    scenario.client(0, Action::Delete { condition: Told::Any });
    scenario.flow();
    let refused = scenario.client(0, create);
    scenario.lose_all();
    scenario.client(1, Action::Write { token: 7, condition: Told::Absent });
    scenario.flow_among(&[1, 2]);
    scenario.lose_all();
    scenario.retry_until_idle(0);
    assert!(matches!(
        scenario.outcome(0, refused),
        RegisterOutcome::Refused(WriteRefusal::Exists { .. })
    ));
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

const NAME: &str = "0123456789abcdef0123456789abcdef";

/// A request that its client has named is carried out once, whichever member it comes to the second time.
#[test]
fn a_named_request_that_comes_twice_is_carried_out_once() {
    let mut scenario = scenario();
    let create = |token| Action::Write { token, condition: Told::Absent };
    let plain = std::mem::replace(&mut scenario.trace, TraceContext::parse_name(NAME).unwrap());
    let mut ended = Vec::new();
    for n in ALL {
        let op = scenario.client(n, create(1));
        scenario.flow();
        ended.push(scenario.outcome(n, op).clone());
    }
    scenario.trace = plain;
    assert!(
        matches!(ended[0], RegisterOutcome::Written { version: Some(_), created: true }),
        "{ended:?}"
    );
    assert!(ended.iter().all(|other| *other == ended[0]), "{ended:?}");
    let op = scenario.client(1, create(9));
    scenario.flow();
    assert!(matches!(
        scenario.outcome(1, op),
        RegisterOutcome::Refused(WriteRefusal::Exists { .. })
    ));
}

/// Without a way to a quorum nothing is offered: a write that fails then has certainly not happened.
#[test]
fn without_a_way_to_a_quorum_nothing_is_offered() {
    let mut scenario = scenario();
    scenario.client(0, put(1));
    scenario.flow();
    scenario.cut_off.extend([1, 2]);
    let order = RegisterOrder::Change(Change::Delete { condition: Condition::Any });
    let op = scenario.order_for(0, order, S);
    scenario.lose_all();
    scenario.pass(0, 2 * S);
    assert_eq!(*scenario.outcome(0, op), RegisterOutcome::NoQuorum { answered: 1, needed: 2 });
}

/// A group of one keeps everything with one write each and no message, and reads what it writes.
#[test]
fn a_node_alone_writes_once_and_sends_nothing() {
    let mut scenario = Scenario::new(1, &[0], RegisterFaults::NONE);
    for action in [put(1), Action::Read, Action::Delete { condition: Told::Any }, Action::Read] {
        let op = scenario.client(0, action);
        scenario.outcome(0, op);
    }
    let version = scenario.held(0).unwrap().version().unwrap();
    let op = scenario.order(0, RegisterOrder::Clear(version));
    assert_eq!(*scenario.outcome(0, op), RegisterOutcome::Done);
    assert_eq!((scenario.held(0), scenario.sent), (None, 0));
    // What was removed is not written by anything that was promised before.
    assert!(scenario.actors[0].state.as_ref().unwrap().floor > Ballot::NONE);
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

/// Many requests for one object at once share rounds.
#[test]
fn a_hot_object_is_served_in_few_rounds() {
    let mut scenario = scenario();
    scenario.client(0, put(1));
    let ops: Vec<_> = (2..22).map(|token| scenario.client(0, put(token))).collect();
    let reads: Vec<_> = (0..20).map(|_| scenario.read(0)).collect();
    let before = scenario.sent;
    scenario.flow();
    for op in ops.iter().chain(&reads) {
        scenario.outcome(0, *op);
    }
    assert!(scenario.sent - before < 30, "{} messages", scenario.sent - before);
    assert_eq!(scenario.actors[0].registers.status().counts.batched, 19);
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

/// A read of what all agree on asks once and writes nothing.
#[test]
fn a_read_of_settled_objects_asks_once() {
    let mut scenario = scenario();
    scenario.client(0, put(1));
    scenario.flow();
    let (before, promised) = (scenario.sent, scenario.counter(1));
    let op = scenario.read(1);
    scenario.flow();
    assert!(matches!(scenario.outcome(1, op), RegisterOutcome::Read(Some(_))));
    assert_eq!((scenario.sent - before, scenario.counter(1)), (4, promised));
}

/// A member that keeps no copy writes and reads like any other.
#[test]
fn a_node_outside_of_the_replica_set_serves_all_the_same() {
    let members = [0, 1, 2, 3];
    let mut scenario = Scenario::new(4, &members, RegisterFaults::NONE);
    scenario.id = object_on(&[0, 1, 2], &members);
    for action in [put(1), put(2), Action::Read] {
        let op = scenario.client(3, action);
        scenario.flow();
        scenario.outcome(3, op);
    }
    assert_eq!(scenario.held(3), None);
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

/// Before anything was offered a request that is given up did not happen. After that nobody knows.
#[test]
fn a_deadline_before_the_second_phase_means_no_quorum_and_after_it_unknown() {
    let mut scenario = scenario();
    let change = |token: u64| {
        let content = Content {
            value: token.to_le_bytes().to_vec().into(),
            creation_time: None,
            expires_at: None,
            content_type: None,
        };
        RegisterOrder::Change(Change::Write { content, condition: Condition::Any })
    };
    let early = scenario.order_for(0, change(1), 100 * MS);
    let waits = scenario.order_for(0, change(2), 100 * MS);
    scenario.pass(0, 150 * MS);
    assert_eq!(*scenario.outcome(0, early), RegisterOutcome::NoQuorum { answered: 1, needed: 2 });
    assert!(matches!(scenario.outcome(0, waits), RegisterOutcome::NoQuorum { needed: 2, .. }));
    scenario.lose_all();
    let late = scenario.order_for(0, change(3), 100 * MS);
    scenario.ask(0, 1, Prepare);
    scenario.pass(0, 150 * MS);
    assert_eq!(*scenario.outcome(0, late), RegisterOutcome::Unknown);
    // Nothing is left behind, and nothing is sent any more.
    assert_eq!(scenario.actors[0].registers.status().in_hand, 0);
    assert_eq!(scenario.actors[0].registers.next_due(), None);
    let missed = scenario.order_for(0, change(4), 0);
    assert!(matches!(scenario.outcome(0, missed), RegisterOutcome::NoQuorum { .. }));
}

/// A lost message is sent again under the same ballot.
#[test]
fn lost_messages_are_sent_again() {
    let mut scenario = scenario();
    let op = scenario.client(0, put(1));
    scenario.lose_all();
    scenario.pass(0, 300 * MS);
    scenario.ask(0, 1, Prepare);
    // The promise is lost this time, and the acceptor gives it again.
    scenario.lose_all();
    scenario.pass(0, 600 * MS);
    scenario.flow();
    assert!(
        scenario.is_open(0, op)
            || matches!(scenario.outcome(0, op), RegisterOutcome::Written { .. })
    );
    scenario.pass(0, 600 * MS);
    scenario.flow();
    assert!(matches!(scenario.outcome(0, op), RegisterOutcome::Written { created: true, .. }));
    assert_eq!(scenario.actors[0].registers.status().counts.conflicts, 0);
}

/// The client has gone: its request is removed from the queue.
#[test]
fn an_abandoned_request_is_forgotten() {
    let mut scenario = scenario();
    for order in [RegisterOrder::Read, RegisterOrder::Repair, RegisterOrder::Expire] {
        let op = scenario.order(0, order);
        scenario.step(0, RegisterEvent::Abandon { op });
        assert!(scenario.is_open(0, op));
    }
    let status = scenario.actors[0].registers.status();
    assert_eq!((status.in_hand, status.rounds, status.queries), (0, 0, 0));
}

/// Every queue has a limit.
#[test]
fn too_many_requests_for_one_object_are_refused() {
    let mut scenario = scenario();
    let ops: Vec<_> = (0..3_000).map(|_| scenario.order(0, RegisterOrder::Expire)).collect();
    let busy = ops
        .iter()
        .filter(|op| scenario.ended.get(&(0, **op)) == Some(&RegisterOutcome::Busy))
        .count();
    assert!((1_900..2_000).contains(&busy), "{busy}");
}

/// A node that is no member, or has heard of no configuration, takes nothing in hand.
#[test]
fn a_node_without_a_configuration_is_not_ready() {
    let mut scenario = Scenario::new(4, &ALL, RegisterFaults::NONE);
    let op = scenario.order(3, RegisterOrder::Read);
    assert_eq!(*scenario.outcome(3, op), RegisterOutcome::NotReady);
    // A chain that does not name it is not its own.
    scenario.configure(3);
    assert_eq!(scenario.actors[3].registers.epoch(), None);
    // One that leaves ends what it has begun.
    let op = scenario.order(2, RegisterOrder::Read);
    scenario.join(&[0, 1, 3]);
    scenario.settle();
    scenario.configure(2);
    assert_eq!(*scenario.outcome(2, op), RegisterOutcome::NotReady);
}

/// After a restart no ballot comes twice, and rounds go on.
#[test]
fn a_restarted_node_uses_no_counter_twice() {
    let mut scenario = scenario();
    scenario.client(0, put(1));
    scenario.flow();
    let before = scenario.counter(0);
    scenario.restart(0);
    let op = scenario.client(0, put(2));
    scenario.flow();
    assert!(matches!(scenario.outcome(0, op), RegisterOutcome::Written { created: false, .. }));
    assert!(scenario.counter(0) > before + 1_000);
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

/// A register that does not read back takes no part; the others go on without it.
#[test]
fn a_damaged_register_is_silent() {
    struct Damaged;
    impl crate::register::RegisterShelf for Damaged {
        fn register(&self, _: &ObjectId) -> Result<Option<Register>, String> {
            Err("damaged".to_owned())
        }
    }
    let mut scenario = scenario();
    let id = scenario.id.clone();
    let ballot = Ballot { epoch: 1, counter: 5, node: node(1).tag() };
    let message = RegisterMessage {
        group: GROUP.into(),
        epoch: 1,
        body: Body::Prepare { id: id.clone(), ballot },
    };
    let now = crate::machine::Now {
        monotonic: MonotonicUs(S),
        wall: crate::model::time::UnixMs(1),
        entropy: 1,
    };
    let trace = TraceContext::default();
    let event = RegisterEvent::Heard { from: node(1), message, trace };
    assert_eq!(scenario.actors[0].registers.step(now, event, &Damaged), Vec::new());
    assert_eq!(scenario.actors[0].registers.status().counts.damaged, 1);
}

/// Messages that cannot be true change nothing.
#[test]
fn nonsense_from_other_nodes_changes_nothing() {
    let mut scenario = Scenario::new(4, &ALL, RegisterFaults::NONE);
    let id = scenario.id.clone();
    let of = |n: usize, epoch: u64, counter: u64| Ballot { epoch, counter, node: node(n).tag() };
    let prepare = |ballot| Body::Prepare { id: id.clone(), ballot };
    let accept_after = |ballot, value, past| Body::Accept { id: id.clone(), ballot, value, past };
    let accept = |ballot, value| accept_after(ballot, value, Past::default());
    let mut other = live(&scenario, "x", 9);
    if let Value::Live(object) = &mut other {
        object.id = ObjectId::parse("another").unwrap();
    }
    let late = live(&scenario, "x", u64::MAX);
    let plain = live(&scenario, "x", 9);
    // A sender that is no member, a ballot of another node or epoch, counters and versions that are too high, a value of
    // another object, a past that is in the future.
    scenario.send(3, 0, 1, prepare(of(3, 1, 5)));
    scenario.send(1, 0, 1, prepare(of(2, 1, 5)));
    scenario.send(1, 0, 1, prepare(of(1, 2, 5)));
    scenario.send(1, 0, 1, prepare(of(1, 1, u64::MAX)));
    scenario.send(1, 0, 1, prepare(of(1, 1, 1 << 61)));
    scenario.send(1, 0, 1, accept(of(1, 1, u64::MAX - 1), plain.clone()));
    scenario.send(1, 0, 1, accept(of(1, 1, 5), other));
    scenario.send(1, 0, 1, accept(of(1, 1, 5), late));
    let ahead = Past::begin(9, Ballot::NONE);
    scenario.send(1, 0, 1, accept_after(of(1, 1, 5), plain.clone(), ahead.clone()));
    scenario.send(1, 0, 1, Body::Drop { id: id.clone(), ballot: of(2, 1, 5) });
    let foreign = RegisterMessage { group: "other".into(), epoch: 1, body: prepare(of(1, 1, 5)) };
    scenario.hear(1, 0, foreign);
    // Answers to nothing.
    let ballot = of(0, 1, 1);
    scenario.send(1, 0, 1, Body::Accepted { id: id.clone(), ballot });
    scenario.send(1, 0, 1, Body::Conflict { id: id.clone(), ballot, promised: of(1, 1, u64::MAX) });
    let accepted = of(1, 9, 9);
    let value = plain.clone();
    let (past, floor) = (Past::default(), accepted);
    scenario.send(1, 0, 1, Body::Promise { id: id.clone(), ballot, accepted, value, past, floor });
    scenario.send(1, 0, 1, Body::Reading { id: id.clone(), query: 1, accepted, value: plain });
    scenario.send(1, 0, 1, Body::Chain { configurations: Vec::new() });
    assert!(scenario.actors[0].disk.is_empty() && scenario.net.is_empty());

    // An answer that cannot be true does not end the round that it is about.
    let op = scenario.client(0, put(1));
    let Body::Prepare { ballot, .. } = scenario.lose(0, 1, Prepare).body else { panic!() };
    let value = live(&scenario, "x", 9);
    let high = of(1, 9, 9);
    let promise = |value, accepted, past| {
        let floor = accepted;
        Body::Promise { id: id.clone(), ballot, accepted, value, past, floor }
    };
    scenario.send(1, 0, 1, promise(value.clone(), high, Past::default()));
    scenario.send(1, 0, 1, promise(value, of(1, 1, 1), ahead));
    scenario.send(1, 0, 1, Body::Conflict { id: id.clone(), ballot, promised: of(1, 1, u64::MAX) });
    scenario.flow();
    scenario.pass(0, 2 * S);
    scenario.flow();
    assert!(matches!(scenario.outcome(0, op), RegisterOutcome::Written { .. }));
    assert!(scenario.counter(0) < 1 << 30);
}

/// A chain that another member invents is not adopted.
#[test]
fn a_chain_that_does_not_follow_is_not_adopted() {
    let mut scenario = scenario();
    let first = scenario.chain[0].clone();
    scenario.join(&[0, 1]);
    let joint = scenario.chain[1].clone();
    scenario.settle();
    let stable = scenario.chain[2].clone();
    let mut wrong = Vec::new();
    // A gap, two stable configurations in a row, wrong old members, a forced one with nothing before it, one without members.
    wrong.push(vec![stable.clone()]);
    wrong.push(vec![crate::group::table::Configuration { epoch: 2, ..first }]);
    let mut other = joint.clone();
    other.old.as_mut().unwrap().members = nodes(&[1, 2]);
    wrong.push(vec![other]);
    let mut forced = joint.clone();
    forced.old.as_mut().unwrap().lost = nodes(&[2]);
    wrong.push(vec![forced]);
    let mut empty = joint.clone();
    empty.members.clear();
    wrong.push(vec![empty]);
    for configurations in wrong {
        scenario.send(1, 0, 3, Body::Chain { configurations });
        assert_eq!(scenario.actors[0].registers.epoch(), Some(1));
    }
    scenario.send(1, 0, 3, Body::Chain { configurations: vec![joint, stable] });
    assert_eq!(scenario.actors[0].registers.epoch(), Some(3));
}

/// A member that is behind learns it from the first message, sent or received. No request to it is lost.
#[test]
fn a_member_that_is_behind_catches_up_from_the_others() {
    let members = [0, 1, 2, 3];
    let mut scenario = Scenario::new(4, &ALL, RegisterFaults::NONE);
    scenario.join(&members);
    scenario.configure(0);
    scenario.configure(3);
    scenario.lose_all();
    // It is asked by one that is ahead.
    let op = scenario.client(0, put(1));
    scenario.deliver(0, 1, Prepare);
    scenario.deliver(1, 0, Behind);
    scenario.deliver(0, 1, Chain);
    assert_eq!(scenario.actors[1].registers.epoch(), Some(2));
    scenario.flow();
    scenario.outcome(0, op);
    // It asks, being behind.
    scenario.settle();
    scenario.configure(0);
    scenario.configure(1);
    let op = scenario.read(2);
    scenario.ask(2, 0, Query);
    assert_eq!(scenario.actors[2].registers.epoch(), Some(3));
    scenario.flow();
    assert!(matches!(scenario.outcome(2, op), RegisterOutcome::Read(_)));
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

/// A member that is so far behind that no member has the chain any more reports it once, and takes no part any more.
#[test]
fn a_member_that_is_too_far_behind_says_so() {
    let mut scenario = scenario();
    let op = scenario.order(0, RegisterOrder::Repair);
    for _ in 0..3 {
        scenario.join(&[0, 1]);
        scenario.settle();
    }
    scenario.chain.drain(..2);
    scenario.configure(0);
    assert!(scenario.left_behind.contains(&0));
    assert_eq!(*scenario.outcome(0, op), RegisterOutcome::NotReady);
    let (before, op) = (scenario.sent, scenario.order(0, RegisterOrder::Read));
    assert_eq!(*scenario.outcome(0, op), RegisterOutcome::NotReady);
    scenario.send(1, 0, 1, Body::Query { id: scenario.id.clone(), query: 1 });
    scenario.configure(0);
    assert_eq!(scenario.sent, before);
}

/// After a restart in the middle of a change the rescan comes again.
#[test]
fn a_rescan_begins_again_after_a_restart() {
    let mut scenario = Scenario::new(4, &ALL, RegisterFaults::NONE);
    scenario.id = object_on(&[0, 1, 3], &[0, 1, 2, 3]);
    scenario.client(0, put(1));
    scenario.flow();
    scenario.join(&[0, 1, 2, 3]);
    for n in [0, 1, 2, 3] {
        scenario.configure(n);
    }
    scenario.lose_all();
    assert!(scenario.rescanned.contains(&(3, 2)) && !scenario.rescanned.contains(&(0, 2)));
    scenario.restart(0);
    assert_eq!(scenario.actors[0].registers.status().rescan_left, Some(1));
    scenario.flow();
    assert!(scenario.rescanned.contains(&(0, 2)));
    assert!(scenario.held(3).is_some(), "the newcomer has it");
}

/// After a forced change an object is read from its only copy, and no quorum is possible without that copy.
#[test]
fn after_a_forced_change_the_last_copy_wins() {
    let members = [0, 1, 2, 3, 4];
    let mut scenario = Scenario::new(5, &members, RegisterFaults::NONE);
    scenario.id = object_on(&[0, 1, 2], &members);
    scenario.client(0, put(1));
    scenario.ask(0, 2, Prepare);
    scenario.ask(0, 2, Accept);
    scenario.lose_all();
    // 0 and 1 are lost: a majority of the three, and 2 alone has the write.
    scenario.join(&[2, 3, 4]);
    for n in [2, 3, 4] {
        scenario.configure(n);
    }
    scenario.lose_all();
    scenario.force(&[0, 1]);
    for n in [2, 3, 4] {
        scenario.configure(n);
    }
    scenario.lose_all();
    scenario.read(3);
    scenario.flow_among(&[3, 4]);
    scenario.pass(3, S);
    scenario.flow_among(&[3, 4]);
    scenario.raise_counter(2);
    for _ in 0..20 {
        for n in [2, 3, 4] {
            scenario.pass(n, S);
        }
        scenario.net.retain(|(_, to, _)| *to >= 2);
        scenario.flow();
    }
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
    assert!([2, 3, 4].iter().all(|n| scenario.rescanned.contains(&(*n, 3))));
}

/// What has the majority of its replicas left goes on with that majority in a forced change, whoever else is silent.
#[test]
fn what_has_its_majority_left_is_not_forced() {
    let members = [0, 1, 2, 3, 4];
    let mut scenario = Scenario::new(5, &members, RegisterFaults::NONE);
    scenario.id = object_on(&[0, 1, 2], &members);
    scenario.client(0, put(1));
    scenario.flow();
    scenario.join(&[0, 1, 4]);
    scenario.force(&[2, 3]);
    for n in [0, 1, 4] {
        scenario.configure(n);
    }
    scenario.lose_all();
    // 4 is silent, and new for this object. 0 and 1 are two of the three that there were, and two of the three that come.
    let op = scenario.client(0, put(2));
    for _ in 0..10 {
        scenario.flow_among(&[0, 1]);
        scenario.pass(0, S);
    }
    assert!(matches!(scenario.outcome(0, op), RegisterOutcome::Written { .. }));
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

/// Newest wins, whatever comes first and however often.
#[test]
fn merges_keep_the_newest() {
    let mut scenario = scenario();
    for (n, time, newest) in [(0, 50, 50), (1, 40, 50), (2, 60, 60), (0, 50, 60), (1, 60, 60)] {
        let value = live(&scenario, "x", time);
        let op = scenario.order(n, RegisterOrder::Merge(value));
        scenario.flow();
        assert_eq!(*scenario.outcome(n, op), RegisterOutcome::Done);
        let holding = (0..3).filter(|n| {
            scenario.held(*n).and_then(Value::version).map(|version| version.time) == Some(newest)
        });
        assert!(holding.count() >= 2, "{time} from {n}");
    }
    let tombstone = Value::Tombstone(Tombstone { version: Version { time: 70, node: 7 } });
    scenario.order(0, RegisterOrder::Merge(tombstone.clone()));
    scenario.flow();
    let value = live(&scenario, "old", 65);
    scenario.order(1, RegisterOrder::Merge(value));
    scenario.flow();
    assert!((0..3).filter(|n| scenario.held(*n) == Some(&tombstone)).count() >= 2);
}

/// An expired object becomes a tombstone of its own version: what is newer wins over it, and the object itself does not.
#[test]
fn an_expiry_does_not_win_over_a_newer_write() {
    let mut scenario = scenario();
    let mut mortal = live(&scenario, "mortal", 50);
    if let Value::Live(object) = &mut mortal {
        object.expires_at = Some(UnixSecs(1_005));
    }
    scenario.order(0, RegisterOrder::Merge(mortal.clone()));
    scenario.flow();
    let op = scenario.order(0, RegisterOrder::Expire);
    scenario.flow();
    assert_eq!(
        (scenario.outcome(0, op), scenario.held(0)),
        (&RegisterOutcome::Done, Some(&mortal)),
        "too early"
    );
    scenario.wall_s = 1_005;
    let op = scenario.order(0, RegisterOrder::Expire);
    scenario.flow();
    let version = mortal.version().unwrap();
    let tombstone = Value::Tombstone(Tombstone { version });
    assert_eq!(
        (scenario.outcome(0, op), scenario.held(0)),
        (&RegisterOutcome::Done, Some(&tombstone))
    );
    scenario.order(1, RegisterOrder::Merge(mortal));
    scenario.flow();
    assert_eq!(scenario.held(0), Some(&tombstone));
    let newer = live(&scenario, "newer", 51);
    scenario.order(2, RegisterOrder::Merge(newer.clone()));
    scenario.flow();
    assert_eq!(scenario.held(0), Some(&newer));
}

/// A repair also reaches the replica that a quorum does not need. It stops when a client uses the object.
#[test]
fn a_repair_reaches_laggards() {
    let mut scenario = scenario();
    scenario.client(0, put(1));
    scenario.flow_among(&[0, 1]);
    scenario.lose_all();
    assert_eq!(scenario.held(2), None);
    let op = scenario.order(1, RegisterOrder::Repair);
    scenario.flow();
    assert_eq!(*scenario.outcome(1, op), RegisterOutcome::Done);
    assert_eq!(scenario.held(2), scenario.held(0));
    // With one replica away it ends in time, or at once if the object is wanted.
    let op = scenario.order(1, RegisterOrder::Repair);
    scenario.flow_among(&[0, 1]);
    assert!(scenario.is_open(1, op));
    let read = scenario.client(1, put(2));
    scenario.flow_among(&[0, 1]);
    scenario.outcome(1, op);
    scenario.outcome(1, read);
    let op = scenario.order(1, RegisterOrder::Repair);
    for _ in 0..10 {
        scenario.flow_among(&[0, 1]);
        scenario.pass(1, 500 * MS);
    }
    assert_eq!(*scenario.outcome(1, op), RegisterOutcome::Done);
}

/// A tombstone is removed when all replicas have it, and only then.
#[test]
fn a_tombstone_stays_while_a_replica_is_away() {
    let mut scenario = scenario();
    scenario.client(0, put(1));
    scenario.flow();
    scenario.delete(0);
    scenario.flow();
    let op = scenario.clear(1);
    for _ in 0..10 {
        scenario.flow_among(&[0, 1]);
        scenario.pass(1, 500 * MS);
    }
    assert!(matches!(scenario.outcome(1, op), RegisterOutcome::NoQuorum { needed: 3, .. }));
    assert!((0..3).all(|n| matches!(scenario.held(n), Some(Value::Tombstone(_)))));
    // It stops when a client uses the object, and it does not touch any other version.
    scenario.lose_all();
    let op = scenario.clear(1);
    let write = scenario.client(1, put(2));
    scenario.flow();
    assert_eq!(*scenario.outcome(1, op), RegisterOutcome::Busy);
    assert!(matches!(scenario.outcome(1, write), RegisterOutcome::Written { created: true, .. }));
    let op = scenario.order(0, RegisterOrder::Clear(Version::default()));
    scenario.flow();
    assert_eq!(*scenario.outcome(0, op), RegisterOutcome::Done);
    assert!((0..3).all(|n| matches!(scenario.held(n), Some(Value::Live(_)))));
}

/// Refused changes of an object that does not exist leave nothing behind. Removing such an object is no error.
#[test]
fn a_refused_change_leaves_nothing() {
    let mut scenario = scenario();
    let op = scenario.delete(0);
    scenario.flow();
    assert!(matches!(scenario.outcome(0, op), RegisterOutcome::Refused(_)));
    assert!((0..3).all(|n| scenario.held(n).is_none()));
    let op = scenario.order(2, RegisterOrder::Clear(Version::default()));
    scenario.flow();
    assert_eq!(*scenario.outcome(2, op), RegisterOutcome::Done);
    assert!((0..3).all(|n| scenario.held(n).is_none()));
}
