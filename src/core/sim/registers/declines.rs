//! What a request is told whose replicas have stores that are full or fail: not done where that is known, unknown where it is
//! not. One schedule each.

use crate::register::{Body, Declined, OpId, RegisterFaults, RegisterOutcome, Value};

use super::{
    S,
    scenario::{
        Kind::{Accept, Accepted, Conflict, Declined as Decline, Prepare},
        Scenario,
    },
};
use crate::sim::linearizability::{Action, Condition, Verdict};

fn put(token: u64) -> Action {
    Action::Write { token, condition: Condition::Any }
}

impl Scenario {
    /// Three members, with an object that node 0 has written.
    fn written() -> Self {
        let mut scenario = Self::new(3, &[0, 1, 2], RegisterFaults::NONE);
        let op = scenario.client(0, put(1));
        scenario.flow();
        assert!(matches!(scenario.told(op), Some(RegisterOutcome::Written { .. })));
        scenario
    }

    fn told(&self, op: OpId) -> Option<&RegisterOutcome> {
        (0..self.actors.len()).find_map(|n| self.ended.get(&(n, op)))
    }

    pub fn fill(&mut self, which: &[usize], what: Declined, is_known: bool) {
        self.full.extend(which.iter().map(|n| (*n, (what, is_known))));
    }

    fn is_declined(&self, op: OpId) -> bool {
        matches!(self.told(op), Some(RegisterOutcome::Declined { reason }) if reason == "full")
    }

    fn offers(&self) -> usize {
        let is_offer = |(.., message): &&(_, _, crate::register::RegisterMessage)| {
            matches!(message.body, Body::Accept { .. })
        };
        self.net.iter().filter(is_offer).count()
    }
}

#[test]
fn what_no_quorum_takes_is_not_offered_and_known_not_to_be_done() {
    for full in [vec![1, 2], vec![0, 1], vec![0, 1, 2]] {
        let mut scenario = Scenario::new(3, &[0, 1, 2], RegisterFaults::NONE);
        scenario.fill(&full, Declined::Objects, true);
        let op = scenario.client(0, put(1));
        while scenario.told(op).is_none() {
            let (from, to, message) = scenario.net.pop_front().expect("it ends at once");
            scenario.hear(from, to, message);
            assert_eq!(scenario.offers(), 0, "{full:?}");
        }
        assert!(scenario.is_declined(op), "{full:?}: {:?}", scenario.told(op));
        let read = scenario.read(0);
        scenario.flow();
        assert_eq!(scenario.told(read), Some(&RegisterOutcome::Read(None)), "{full:?}");
        assert_eq!(scenario.verdict(), Verdict::Linearizable);
    }
}

/// The first answers are those of stores that are full; the one that has room is heard before it is decided.
#[test]
fn a_round_waits_a_moment_for_a_store_that_has_room() {
    let mut scenario = Scenario::new(3, &[0, 1, 2], RegisterFaults::NONE);
    scenario.fill(&[1], Declined::Objects, true);
    let op = scenario.client(0, put(1));
    scenario.ask(0, 1, Prepare);
    assert_eq!(scenario.offers(), 0);
    scenario.flow();
    assert!(matches!(scenario.told(op), Some(RegisterOutcome::Written { .. })));
}

#[test]
fn a_deletion_is_done_where_only_objects_are_refused() {
    let mut scenario = Scenario::written();
    scenario.fill(&[0, 1, 2], Declined::Objects, true);
    let refused = scenario.client(0, put(2));
    scenario.flow();
    let op = scenario.delete(0);
    scenario.flow();
    assert!(scenario.is_declined(refused));
    assert!(matches!(scenario.told(op), Some(RegisterOutcome::Written { version: None, .. })));
    scenario.fill(&[0, 1, 2], Declined::Writes, true);
    let refused = scenario.delete(0);
    scenario.flow();
    // There is nothing to delete: to say so needs no write.
    assert!(matches!(scenario.told(refused), Some(RegisterOutcome::Refused(_))));
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

#[test]
fn what_all_stores_refuse_is_known_not_to_be_done() {
    for what in [Declined::Objects, Declined::Writes] {
        let mut scenario = Scenario::written();
        scenario.fill(&[0, 1, 2], what, false);
        let op = scenario.client(0, put(2));
        scenario.flow();
        assert!(scenario.is_declined(op), "{what:?}: {:?}", scenario.told(op));
        scenario.full.clear();
        let read = scenario.read(1);
        scenario.flow();
        assert!(matches!(scenario.told(read), Some(RegisterOutcome::Read(Some(_)))));
        assert_eq!(scenario.verdict(), Verdict::Linearizable, "{what:?}");
    }
}

#[test]
fn what_one_has_accepted_and_the_others_refuse_is_unknown() {
    let mut scenario = Scenario::written();
    scenario.fill(&[1, 2], Declined::Objects, false);
    let op = scenario.client(0, put(2));
    scenario.flow();
    assert_eq!(scenario.told(op), None);
    scenario.pass(0, 2_000 * S);
    assert_eq!(scenario.told(op), Some(&RegisterOutcome::Unknown));
}

/// Node 2 may have accepted the value: it is silent.
#[test]
fn what_some_refuse_while_others_are_silent_is_unknown() {
    let mut scenario = Scenario::written();
    scenario.fill(&[0, 1], Declined::Objects, false);
    let op = scenario.client(0, put(2));
    scenario.lose(0, 2, Accept);
    scenario.ask(0, 1, Accept);
    assert_eq!(scenario.told(op), None);
    scenario.lose_all();
    scenario.pass(0, 2_000 * S);
    assert_eq!(scenario.told(op), Some(&RegisterOutcome::Unknown));
}

#[test]
fn a_full_store_of_a_minority_does_no_harm() {
    for full in [0, 1, 2] {
        let mut scenario = Scenario::written();
        scenario.fill(&[full], Declined::Writes, false);
        let op = scenario.client(0, put(2));
        scenario.flow();
        assert!(matches!(scenario.told(op), Some(RegisterOutcome::Written { .. })), "node {full}");
        assert_eq!(scenario.verdict(), Verdict::Linearizable);
    }
}

/// What was refused stays refused, also when another copy of the message finds room.
#[test]
fn another_copy_of_what_was_declined_is_not_accepted() {
    let mut scenario = Scenario::written();
    scenario.fill(&[1], Declined::Objects, false);
    let before = scenario.held(1).cloned();
    scenario.client(0, put(2));
    let copy = scenario.lose(0, 1, Accept);
    scenario.hear(0, 1, copy.clone());
    scenario.lose(1, 0, Decline);
    scenario.full.clear();
    scenario.hear(0, 1, copy);
    scenario.lose(1, 0, Conflict);
    assert_eq!(scenario.held(1).cloned(), before);
}

/// The store refuses one write of an object, and takes the next one, which has been built on it.
#[test]
fn alone_a_node_declines_what_its_store_refuses_and_goes_on() {
    let mut scenario = Scenario::new(1, &[0], RegisterFaults::NONE);
    scenario.fill(&[0], Declined::Objects, false);
    let refused = scenario.create(0, 1);
    assert!(scenario.is_declined(refused), "{:?}", scenario.told(refused));
    assert!(!matches!(scenario.held(0), Some(Value::Live(_))));
    let read = scenario.read(0);
    assert_eq!(scenario.told(read), Some(&RegisterOutcome::Read(None)));
    scenario.full.clear();
    let op = scenario.create(0, 2);
    let created = |told: Option<&RegisterOutcome>| {
        matches!(told, Some(RegisterOutcome::Written { created: true, .. }))
    };
    assert!(created(scenario.told(op)), "{:?}", scenario.told(op));
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

/// A round of another node finishes what a minority has accepted; the one whose store is full has promised no less than it said.
#[test]
fn a_promise_outlives_the_refusal_of_what_came_after_it() {
    let mut scenario = Scenario::written();
    let op = scenario.client(1, put(2));
    scenario.ask(1, 2, Prepare);
    let late = scenario.lose(1, 2, Accept);
    scenario.lose_all();
    scenario.fill(&[2], Declined::Objects, false);
    scenario.hear(1, 2, late);
    scenario.deliver(2, 1, Decline);
    scenario.full.clear();
    // A round from before the promise: node 2 still refuses it.
    scenario.client(0, put(3));
    let old = scenario.lose(0, 2, Accept);
    scenario.hear(0, 2, old);
    scenario.lose(2, 0, Conflict);
    assert!(!scenario.net.iter().any(|(from, ..)| *from == 2), "no {Accepted:?}");
    assert_eq!(scenario.told(op), None);
}
