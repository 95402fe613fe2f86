//! What the shell around the registers and its callers count on, one schedule each.

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
    book::token_of,
    directed::{
        Kind::{Accept, Behind, Chain, Prepare, Query},
        Stage, node, nodes, object_on,
    },
};
use crate::sim::linearizability::{Action, Condition as Told, Verdict};

const ALL: [usize; 3] = [0, 1, 2];

fn stage() -> Stage {
    Stage::new(3, &ALL, RegisterFaults::NONE)
}

fn put(token: u64) -> Action {
    Action::Write { token, condition: Told::Any }
}

fn live(stage: &Stage, text: &'static str, time: u64) -> Value {
    Value::Live(Object {
        id: stage.id.clone(),
        value: text.into(),
        creation_time: UnixSecs(1),
        expires_at: None,
        last_modified: UnixSecs(1),
        version: Version { time, node: 7 },
        content_type: None,
    })
}

impl Stage {
    fn how(&self, n: usize, op: OpId) -> &RegisterOutcome {
        self.ended.get(&(n, op)).unwrap_or_else(|| panic!("n{n} has not ended {op}"))
    }

    fn is_open(&self, n: usize, op: OpId) -> bool {
        !self.ended.contains_key(&(n, op))
    }

    fn say(&mut self, from: usize, to: usize, epoch: u64, body: Body) {
        self.hear(from, to, RegisterMessage { group: GROUP.into(), epoch, body });
    }

    /// Lets a node try again until nothing waits.
    fn go_on(&mut self, n: usize) {
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
    let mut stage = stage();
    for (token, messages) in [(1, 2), (2, 1), (3, 1)] {
        let before = stage.sent;
        let op = stage.client(0, put(token));
        stage.flow();
        let created = token == 1;
        assert!(
            matches!(stage.how(0, op), RegisterOutcome::Written { created: c, .. } if *c == created)
        );
        // As many answers as questions.
        assert_eq!(stage.sent - before, 2 * 2 * messages, "write {token}");
    }
    // Another node's write takes that away.
    stage.client(1, put(4));
    stage.flow();
    let before = stage.sent;
    stage.client(0, put(5));
    stage.flow();
    assert!(stage.sent - before > 4);
    assert_eq!(stage.verdict(), Verdict::Linearizable);
}

/// A node that does not know that others have written offers too low, is refused, and learns what became of its offer.
#[test]
fn an_overtaken_write_is_told_what_became_of_it() {
    let mut stage = stage();
    stage.client(0, put(1));
    stage.flow();
    // Taken by nobody else, and overtaken: it is offered again.
    let late = stage.client(0, put(2));
    stage.lose_all();
    stage.client(1, put(3));
    stage.flow_among(&[1, 2]);
    stage.lose_all();
    stage.go_on(0);
    assert!(matches!(stage.how(0, late), RegisterOutcome::Written { created: false, .. }));
    // Taken by one replica, and taken up by another node: it is in the line.
    let seen = stage.client(0, put(4));
    stage.deliver(0, 1, Accept);
    stage.lose_all();
    stage.raise_counter(2);
    stage.client(2, put(5));
    stage.flow_among(&[1, 2]);
    stage.lose_all();
    stage.go_on(0);
    assert!(matches!(stage.how(0, seen), RegisterOutcome::Written { .. }));
    let last = stage.read(1);
    stage.flow();
    let RegisterOutcome::Read(Some(object)) = stage.how(1, last) else { panic!() };
    assert_eq!(token_of(&object.value), 5, "it is not written over what came after it");
    // A condition that does not hold any more is a refusal, not an unknown outcome.
    let create = Action::Write { token: 6, condition: Told::Absent };
    stage.client(0, Action::Delete { condition: Told::Any });
    stage.flow();
    let refused = stage.client(0, create);
    stage.lose_all();
    stage.client(1, Action::Write { token: 7, condition: Told::Absent });
    stage.flow_among(&[1, 2]);
    stage.lose_all();
    stage.go_on(0);
    assert!(matches!(stage.how(0, refused), RegisterOutcome::Refused(WriteRefusal::Exists { .. })));
    assert_eq!(stage.verdict(), Verdict::Linearizable);
}

const NAME: &str = "0123456789abcdef0123456789abcdef";

/// A request that its client has named is carried out once, whichever member it comes to the second time.
#[test]
fn a_named_request_that_comes_twice_is_carried_out_once() {
    let mut stage = stage();
    let create = |token| Action::Write { token, condition: Told::Absent };
    let plain = std::mem::replace(&mut stage.trace, TraceContext::parse_name(NAME).unwrap());
    let mut ended = Vec::new();
    for n in ALL {
        let op = stage.client(n, create(1));
        stage.flow();
        ended.push(stage.how(n, op).clone());
    }
    stage.trace = plain;
    assert!(
        matches!(ended[0], RegisterOutcome::Written { version: Some(_), created: true }),
        "{ended:?}"
    );
    assert!(ended.iter().all(|other| *other == ended[0]), "{ended:?}");
    let op = stage.client(1, create(9));
    stage.flow();
    assert!(matches!(stage.how(1, op), RegisterOutcome::Refused(WriteRefusal::Exists { .. })));
}

/// Without a way to a quorum nothing is offered: a write that fails then has certainly not happened.
#[test]
fn without_a_way_to_a_quorum_nothing_is_offered() {
    let mut stage = stage();
    stage.client(0, put(1));
    stage.flow();
    stage.cut_off.extend([1, 2]);
    let order = RegisterOrder::Change(Change::Delete { condition: Condition::Any });
    let op = stage.order_for(0, order, S);
    stage.lose_all();
    stage.pass(0, 2 * S);
    assert_eq!(*stage.how(0, op), RegisterOutcome::NoQuorum { answered: 1, needed: 2 });
}

/// A group of one keeps everything with one write each and no message, and reads what it writes.
#[test]
fn a_node_alone_writes_once_and_sends_nothing() {
    let mut stage = Stage::new(1, &[0], RegisterFaults::NONE);
    for action in [put(1), Action::Read, Action::Delete { condition: Told::Any }, Action::Read] {
        let op = stage.client(0, action);
        stage.how(0, op);
    }
    let version = stage.held(0).unwrap().version().unwrap();
    let op = stage.order(0, RegisterOrder::Clear(version));
    assert_eq!(*stage.how(0, op), RegisterOutcome::Done);
    assert_eq!((stage.held(0), stage.sent), (None, 0));
    // What was removed is not written by anything that was promised before.
    assert!(stage.actors[0].state.as_ref().unwrap().floor > Ballot::NONE);
    assert_eq!(stage.verdict(), Verdict::Linearizable);
}

/// However many want one object at once, they share rounds.
#[test]
fn a_hot_object_is_served_in_few_rounds() {
    let mut stage = stage();
    stage.client(0, put(1));
    let ops: Vec<_> = (2..22).map(|token| stage.client(0, put(token))).collect();
    let reads: Vec<_> = (0..20).map(|_| stage.read(0)).collect();
    let before = stage.sent;
    stage.flow();
    for op in ops.iter().chain(&reads) {
        stage.how(0, *op);
    }
    assert!(stage.sent - before < 30, "{} messages", stage.sent - before);
    assert_eq!(stage.actors[0].registers.status().counts.batched, 19);
    assert_eq!(stage.verdict(), Verdict::Linearizable);
}

/// A read of what all agree on asks once and writes nothing.
#[test]
fn a_read_of_settled_objects_asks_once() {
    let mut stage = stage();
    stage.client(0, put(1));
    stage.flow();
    let (before, promised) = (stage.sent, stage.counter(1));
    let op = stage.read(1);
    stage.flow();
    assert!(matches!(stage.how(1, op), RegisterOutcome::Read(Some(_))));
    assert_eq!((stage.sent - before, stage.counter(1)), (4, promised));
}

/// A member that keeps no copy writes and reads like any other.
#[test]
fn a_node_outside_of_the_replica_set_serves_all_the_same() {
    let members = [0, 1, 2, 3];
    let mut stage = Stage::new(4, &members, RegisterFaults::NONE);
    stage.id = object_on(&[0, 1, 2], &members);
    for action in [put(1), put(2), Action::Read] {
        let op = stage.client(3, action);
        stage.flow();
        stage.how(3, op);
    }
    assert_eq!(stage.held(3), None);
    assert_eq!(stage.verdict(), Verdict::Linearizable);
}

/// Before anything was offered a request that is given up did not happen. After that nobody knows.
#[test]
fn a_deadline_before_the_second_phase_means_no_quorum_and_after_it_unknown() {
    let mut stage = stage();
    let change = |token: u64| {
        let content = Content {
            value: token.to_le_bytes().to_vec().into(),
            creation_time: None,
            expires_at: None,
            content_type: None,
        };
        RegisterOrder::Change(Change::Write { content, condition: Condition::Any })
    };
    let early = stage.order_for(0, change(1), 100 * MS);
    let waits = stage.order_for(0, change(2), 100 * MS);
    stage.pass(0, 150 * MS);
    assert_eq!(*stage.how(0, early), RegisterOutcome::NoQuorum { answered: 1, needed: 2 });
    assert!(matches!(stage.how(0, waits), RegisterOutcome::NoQuorum { needed: 2, .. }));
    stage.lose_all();
    let late = stage.order_for(0, change(3), 100 * MS);
    stage.ask(0, 1, Prepare);
    stage.pass(0, 150 * MS);
    assert_eq!(*stage.how(0, late), RegisterOutcome::Unknown);
    // Nothing is left behind, and nothing is sent any more.
    assert_eq!(stage.actors[0].registers.status().in_hand, 0);
    assert_eq!(stage.actors[0].registers.next_due(), None);
    let missed = stage.order_for(0, change(4), 0);
    assert!(matches!(stage.how(0, missed), RegisterOutcome::NoQuorum { .. }));
}

/// A lost message is sent again under the same ballot.
#[test]
fn lost_messages_are_sent_again() {
    let mut stage = stage();
    let op = stage.client(0, put(1));
    stage.lose_all();
    stage.pass(0, 300 * MS);
    stage.ask(0, 1, Prepare);
    // The promise is lost this time, and the acceptor gives it again.
    stage.lose_all();
    stage.pass(0, 600 * MS);
    stage.flow();
    assert!(stage.is_open(0, op) || matches!(stage.how(0, op), RegisterOutcome::Written { .. }));
    stage.pass(0, 600 * MS);
    stage.flow();
    assert!(matches!(stage.how(0, op), RegisterOutcome::Written { created: true, .. }));
    assert_eq!(stage.actors[0].registers.status().counts.conflicts, 0);
}

/// Whoever asked has gone: its request takes no place any more.
#[test]
fn an_abandoned_request_is_forgotten() {
    let mut stage = stage();
    for order in [RegisterOrder::Read, RegisterOrder::Repair, RegisterOrder::Expire] {
        let op = stage.order(0, order);
        stage.step(0, RegisterEvent::Abandon { op });
        assert!(stage.is_open(0, op));
    }
    let status = stage.actors[0].registers.status();
    assert_eq!((status.in_hand, status.rounds, status.queries), (0, 0, 0));
}

/// Every queue has a limit.
#[test]
fn too_many_requests_for_one_object_are_refused() {
    let mut stage = stage();
    let ops: Vec<_> = (0..3_000).map(|_| stage.order(0, RegisterOrder::Expire)).collect();
    let busy =
        ops.iter().filter(|op| stage.ended.get(&(0, **op)) == Some(&RegisterOutcome::Busy)).count();
    assert!((1_900..2_000).contains(&busy), "{busy}");
}

/// A node that is no member, or has heard of no configuration, takes nothing in hand.
#[test]
fn a_node_without_a_configuration_is_not_ready() {
    let mut stage = Stage::new(4, &ALL, RegisterFaults::NONE);
    let op = stage.order(3, RegisterOrder::Read);
    assert_eq!(*stage.how(3, op), RegisterOutcome::NotReady);
    // A chain that does not name it is not its own.
    stage.configure(3);
    assert_eq!(stage.actors[3].registers.epoch(), None);
    // One that leaves ends what it has begun.
    let op = stage.order(2, RegisterOrder::Read);
    stage.join(&[0, 1, 3]);
    stage.settle();
    stage.configure(2);
    assert_eq!(*stage.how(2, op), RegisterOutcome::NotReady);
}

/// After a restart no ballot comes twice, and rounds go on.
#[test]
fn a_restarted_node_uses_no_counter_twice() {
    let mut stage = stage();
    stage.client(0, put(1));
    stage.flow();
    let before = stage.counter(0);
    stage.restart(0);
    let op = stage.client(0, put(2));
    stage.flow();
    assert!(matches!(stage.how(0, op), RegisterOutcome::Written { created: false, .. }));
    assert!(stage.counter(0) > before + 1_000);
    assert_eq!(stage.verdict(), Verdict::Linearizable);
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
    let mut stage = stage();
    let id = stage.id.clone();
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
    assert_eq!(stage.actors[0].registers.step(now, event, &Damaged), Vec::new());
    assert_eq!(stage.actors[0].registers.status().counts.damaged, 1);
}

/// What other nodes say is no reason to trust them.
#[test]
fn nonsense_from_other_nodes_changes_nothing() {
    let mut stage = Stage::new(4, &ALL, RegisterFaults::NONE);
    let id = stage.id.clone();
    let of = |n: usize, epoch: u64, counter: u64| Ballot { epoch, counter, node: node(n).tag() };
    let prepare = |ballot| Body::Prepare { id: id.clone(), ballot };
    let accept_after = |ballot, value, past| Body::Accept { id: id.clone(), ballot, value, past };
    let accept = |ballot, value| accept_after(ballot, value, Past::default());
    let mut other = live(&stage, "x", 9);
    if let Value::Live(object) = &mut other {
        object.id = ObjectId::parse("another").unwrap();
    }
    let late = live(&stage, "x", u64::MAX);
    let plain = live(&stage, "x", 9);
    // A stranger, another's ballot, another epoch's, absurd counters and versions, another object's value, a past that
    // is to come.
    stage.say(3, 0, 1, prepare(of(3, 1, 5)));
    stage.say(1, 0, 1, prepare(of(2, 1, 5)));
    stage.say(1, 0, 1, prepare(of(1, 2, 5)));
    stage.say(1, 0, 1, prepare(of(1, 1, u64::MAX)));
    stage.say(1, 0, 1, prepare(of(1, 1, 1 << 61)));
    stage.say(1, 0, 1, accept(of(1, 1, u64::MAX - 1), plain.clone()));
    stage.say(1, 0, 1, accept(of(1, 1, 5), other));
    stage.say(1, 0, 1, accept(of(1, 1, 5), late));
    let ahead = Past::begin(9, Ballot::NONE);
    stage.say(1, 0, 1, accept_after(of(1, 1, 5), plain.clone(), ahead.clone()));
    stage.say(1, 0, 1, Body::Drop { id: id.clone(), ballot: of(2, 1, 5) });
    let foreign = RegisterMessage { group: "other".into(), epoch: 1, body: prepare(of(1, 1, 5)) };
    stage.hear(1, 0, foreign);
    // Answers to nothing.
    let ballot = of(0, 1, 1);
    stage.say(1, 0, 1, Body::Accepted { id: id.clone(), ballot });
    stage.say(1, 0, 1, Body::Conflict { id: id.clone(), ballot, promised: of(1, 1, u64::MAX) });
    let accepted = of(1, 9, 9);
    let value = plain.clone();
    let (past, floor) = (Past::default(), accepted);
    stage.say(1, 0, 1, Body::Promise { id: id.clone(), ballot, accepted, value, past, floor });
    stage.say(1, 0, 1, Body::Reading { id: id.clone(), query: 1, accepted, value: plain });
    stage.say(1, 0, 1, Body::Chain { configurations: Vec::new() });
    assert!(stage.actors[0].disk.is_empty() && stage.net.is_empty());

    // An answer that cannot be true does not end the round that it is about.
    let op = stage.client(0, put(1));
    let Body::Prepare { ballot, .. } = stage.lose(0, 1, Prepare).body else { panic!() };
    let value = live(&stage, "x", 9);
    let high = of(1, 9, 9);
    let promise = |value, accepted, past| {
        let floor = accepted;
        Body::Promise { id: id.clone(), ballot, accepted, value, past, floor }
    };
    stage.say(1, 0, 1, promise(value.clone(), high, Past::default()));
    stage.say(1, 0, 1, promise(value, of(1, 1, 1), ahead));
    stage.say(1, 0, 1, Body::Conflict { id: id.clone(), ballot, promised: of(1, 1, u64::MAX) });
    stage.flow();
    stage.pass(0, 2 * S);
    stage.flow();
    assert!(matches!(stage.how(0, op), RegisterOutcome::Written { .. }));
    assert!(stage.counter(0) < 1 << 30);
}

/// A chain that another member invents is not adopted.
#[test]
fn a_chain_that_does_not_follow_is_not_adopted() {
    let mut stage = stage();
    let first = stage.chain[0].clone();
    stage.join(&[0, 1]);
    let joint = stage.chain[1].clone();
    stage.settle();
    let stable = stage.chain[2].clone();
    let mut wrong = Vec::new();
    // A gap, two stable ones in a row, other old members, a forced one from nowhere, nobody in it.
    wrong.push(vec![stable.clone()]);
    wrong.push(vec![crate::group::table::Configuration { epoch: 2, ..first }]);
    let mut other = joint.clone();
    other.old.as_mut().unwrap().members = nodes(&[1, 2]);
    wrong.push(vec![other]);
    let mut forced = joint.clone();
    forced.old.as_mut().unwrap().forced = true;
    wrong.push(vec![forced]);
    let mut empty = joint.clone();
    empty.members.clear();
    wrong.push(vec![empty]);
    for configurations in wrong {
        stage.say(1, 0, 3, Body::Chain { configurations });
        assert_eq!(stage.actors[0].registers.epoch(), Some(1));
    }
    stage.say(1, 0, 3, Body::Chain { configurations: vec![joint, stable] });
    assert_eq!(stage.actors[0].registers.epoch(), Some(3));
}

/// A member that is behind hears so from the first message, in either direction, and nothing that it was asked is lost.
#[test]
fn a_member_that_is_behind_catches_up_from_the_others() {
    let members = [0, 1, 2, 3];
    let mut stage = Stage::new(4, &ALL, RegisterFaults::NONE);
    stage.join(&members);
    stage.configure(0);
    stage.configure(3);
    stage.lose_all();
    // It is asked by one that is ahead.
    let op = stage.client(0, put(1));
    stage.deliver(0, 1, Prepare);
    stage.deliver(1, 0, Behind);
    stage.deliver(0, 1, Chain);
    assert_eq!(stage.actors[1].registers.epoch(), Some(2));
    stage.flow();
    stage.how(0, op);
    // It asks, being behind.
    stage.settle();
    stage.configure(0);
    stage.configure(1);
    let op = stage.read(2);
    stage.ask(2, 0, Query);
    assert_eq!(stage.actors[2].registers.epoch(), Some(3));
    stage.flow();
    assert!(matches!(stage.how(2, op), RegisterOutcome::Read(_)));
    assert_eq!(stage.verdict(), Verdict::Linearizable);
}

/// A member for which the chain is gone says so once, and takes part no more.
#[test]
fn a_member_that_is_too_far_behind_says_so() {
    let mut stage = stage();
    let op = stage.order(0, RegisterOrder::Repair);
    for _ in 0..3 {
        stage.join(&[0, 1]);
        stage.settle();
    }
    stage.chain.drain(..2);
    stage.configure(0);
    assert!(stage.left_behind.contains(&0));
    assert_eq!(*stage.how(0, op), RegisterOutcome::NotReady);
    let (before, op) = (stage.sent, stage.order(0, RegisterOrder::Read));
    assert_eq!(*stage.how(0, op), RegisterOutcome::NotReady);
    stage.say(1, 0, 1, Body::Query { id: stage.id.clone(), query: 1 });
    stage.configure(0);
    assert_eq!(stage.sent, before);
}

/// After a restart in the middle of a change the rescan comes again.
#[test]
fn a_rescan_begins_again_after_a_restart() {
    let mut stage = Stage::new(4, &ALL, RegisterFaults::NONE);
    stage.id = object_on(&[0, 1, 3], &[0, 1, 2, 3]);
    stage.client(0, put(1));
    stage.flow();
    stage.join(&[0, 1, 2, 3]);
    for n in [0, 1, 2, 3] {
        stage.configure(n);
    }
    stage.lose_all();
    assert!(stage.rescanned.contains(&(3, 2)) && !stage.rescanned.contains(&(0, 2)));
    stage.restart(0);
    assert_eq!(stage.actors[0].registers.status().rescan_left, Some(1));
    stage.flow();
    assert!(stage.rescanned.contains(&(0, 2)));
    assert!(stage.held(3).is_some(), "the newcomer has it");
}

/// After a forced change an object is taken from the only copy that is left, and nobody decides without it.
#[test]
fn after_a_forced_change_the_last_copy_wins() {
    let members = [0, 1, 2, 3, 4];
    let mut stage = Stage::new(5, &members, RegisterFaults::NONE);
    stage.id = object_on(&[0, 1, 2], &members);
    stage.client(0, put(1));
    stage.ask(0, 2, Prepare);
    stage.ask(0, 2, Accept);
    stage.lose_all();
    // 0 and 1 are lost: a majority of the three, and 2 alone has the write.
    stage.join(&[2, 3, 4]);
    for n in [2, 3, 4] {
        stage.configure(n);
    }
    stage.lose_all();
    stage.force(&[0, 1]);
    for n in [2, 3, 4] {
        stage.configure(n);
    }
    stage.lose_all();
    stage.read(3);
    stage.flow_among(&[3, 4]);
    stage.pass(3, S);
    stage.flow_among(&[3, 4]);
    stage.raise_counter(2);
    for _ in 0..20 {
        for n in [2, 3, 4] {
            stage.pass(n, S);
        }
        stage.net.retain(|(_, to, _)| *to >= 2);
        stage.flow();
    }
    assert_eq!(stage.verdict(), Verdict::Linearizable);
    assert!([2, 3, 4].iter().all(|n| stage.rescanned.contains(&(*n, 3))));
}

/// Newest wins, whatever comes first and however often.
#[test]
fn merges_keep_the_newest() {
    let mut stage = stage();
    for (n, time, newest) in [(0, 50, 50), (1, 40, 50), (2, 60, 60), (0, 50, 60), (1, 60, 60)] {
        let value = live(&stage, "x", time);
        let op = stage.order(n, RegisterOrder::Merge(value));
        stage.flow();
        assert_eq!(*stage.how(n, op), RegisterOutcome::Done);
        let holding = (0..3).filter(|n| {
            stage.held(*n).and_then(Value::version).map(|version| version.time) == Some(newest)
        });
        assert!(holding.count() >= 2, "{time} from {n}");
    }
    let tombstone = Value::Tombstone(Tombstone { version: Version { time: 70, node: 7 } });
    stage.order(0, RegisterOrder::Merge(tombstone.clone()));
    stage.flow();
    let value = live(&stage, "old", 65);
    stage.order(1, RegisterOrder::Merge(value));
    stage.flow();
    assert!((0..3).filter(|n| stage.held(*n) == Some(&tombstone)).count() >= 2);
}

/// An expired object becomes a tombstone of its own version: what is newer wins over it, and the object itself does not.
#[test]
fn an_expiry_does_not_win_over_a_newer_write() {
    let mut stage = stage();
    let mut mortal = live(&stage, "mortal", 50);
    if let Value::Live(object) = &mut mortal {
        object.expires_at = Some(UnixSecs(1_005));
    }
    stage.order(0, RegisterOrder::Merge(mortal.clone()));
    stage.flow();
    let op = stage.order(0, RegisterOrder::Expire);
    stage.flow();
    assert_eq!(
        (stage.how(0, op), stage.held(0)),
        (&RegisterOutcome::Done, Some(&mortal)),
        "too early"
    );
    stage.wall_s = 1_005;
    let op = stage.order(0, RegisterOrder::Expire);
    stage.flow();
    let version = mortal.version().unwrap();
    let tombstone = Value::Tombstone(Tombstone { version });
    assert_eq!((stage.how(0, op), stage.held(0)), (&RegisterOutcome::Done, Some(&tombstone)));
    stage.order(1, RegisterOrder::Merge(mortal));
    stage.flow();
    assert_eq!(stage.held(0), Some(&tombstone));
    let newer = live(&stage, "newer", 51);
    stage.order(2, RegisterOrder::Merge(newer.clone()));
    stage.flow();
    assert_eq!(stage.held(0), Some(&newer));
}

/// A repair reaches the replica that a quorum does without; it yields to whoever wants the object.
#[test]
fn a_repair_reaches_laggards() {
    let mut stage = stage();
    stage.client(0, put(1));
    stage.flow_among(&[0, 1]);
    stage.lose_all();
    assert_eq!(stage.held(2), None);
    let op = stage.order(1, RegisterOrder::Repair);
    stage.flow();
    assert_eq!(*stage.how(1, op), RegisterOutcome::Done);
    assert_eq!(stage.held(2), stage.held(0));
    // With one replica away it ends in time, or at once if the object is wanted.
    let op = stage.order(1, RegisterOrder::Repair);
    stage.flow_among(&[0, 1]);
    assert!(stage.is_open(1, op));
    let read = stage.client(1, put(2));
    stage.flow_among(&[0, 1]);
    stage.how(1, op);
    stage.how(1, read);
    let op = stage.order(1, RegisterOrder::Repair);
    for _ in 0..10 {
        stage.flow_among(&[0, 1]);
        stage.pass(1, 500 * MS);
    }
    assert_eq!(*stage.how(1, op), RegisterOutcome::Done);
}

/// A tombstone is removed when all replicas have it, and only then.
#[test]
fn a_tombstone_stays_while_a_replica_is_away() {
    let mut stage = stage();
    stage.client(0, put(1));
    stage.flow();
    stage.delete(0);
    stage.flow();
    let op = stage.clear(1);
    for _ in 0..10 {
        stage.flow_among(&[0, 1]);
        stage.pass(1, 500 * MS);
    }
    assert!(matches!(stage.how(1, op), RegisterOutcome::NoQuorum { needed: 3, .. }));
    assert!((0..3).all(|n| matches!(stage.held(n), Some(Value::Tombstone(_)))));
    // It makes way for whoever wants the object, and does nothing to any other version.
    stage.lose_all();
    let op = stage.clear(1);
    let write = stage.client(1, put(2));
    stage.flow();
    assert_eq!(*stage.how(1, op), RegisterOutcome::Busy);
    assert!(matches!(stage.how(1, write), RegisterOutcome::Written { created: true, .. }));
    let op = stage.order(0, RegisterOrder::Clear(Version::default()));
    stage.flow();
    assert_eq!(*stage.how(0, op), RegisterOutcome::Done);
    assert!((0..3).all(|n| matches!(stage.held(n), Some(Value::Live(_)))));
}

/// Refused changes leave nothing of an object that there never was, and removing that is no error.
#[test]
fn a_refused_change_leaves_nothing() {
    let mut stage = stage();
    let op = stage.delete(0);
    stage.flow();
    assert!(matches!(stage.how(0, op), RegisterOutcome::Refused(_)));
    assert!((0..3).all(|n| stage.held(n).is_none()));
    let op = stage.order(2, RegisterOrder::Clear(Version::default()));
    stage.flow();
    assert_eq!(*stage.how(2, op), RegisterOutcome::Done);
    assert!((0..3).all(|n| stage.held(n).is_none()));
}
