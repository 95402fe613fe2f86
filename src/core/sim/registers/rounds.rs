//! What a proposer does when messages come twice, when the epoch changes during its round, and when other nodes write the same
//! object. One schedule each.

use crate::register::{Body, OpId, RegisterFaults, RegisterMessage, RegisterOutcome, Value};

use super::scenario::{
    Kind::{Accept, Accepted, Conflict, Prepare, Promise},
    Scenario, object_on,
};
use crate::sim::linearizability::{Action, Condition, Verdict};

fn scenario() -> Scenario {
    Scenario::new(3, &[0, 1, 2], RegisterFaults::NONE)
}

fn put(token: u64) -> Action {
    Action::Write { token, condition: Condition::Any }
}

impl Scenario {
    fn is_written(&self, n: usize, op: OpId) -> bool {
        matches!(self.ended.get(&(n, op)), Some(RegisterOutcome::Written { .. }))
    }

    /// Messages of a node that are not delivered yet.
    fn waiting_from(&self, n: usize) -> Vec<&RegisterMessage> {
        self.net.iter().filter(|(from, ..)| *from == n).map(|(.., message)| message).collect()
    }
}

/// A second round of a node waits for the end of the first one (rule 5).
#[test]
fn one_round_of_an_object_runs_at_a_time() {
    let mut scenario = scenario();
    let first = scenario.client(0, put(1));
    let in_phase_1 = scenario.sent;
    let second = scenario.client(0, put(2));
    assert_eq!(scenario.sent, in_phase_1);
    scenario.ask(0, 1, Prepare);
    let in_phase_2 = scenario.sent;
    let third = scenario.client(0, put(3));
    assert_eq!(scenario.sent, in_phase_2);
    assert!([first, second, third].iter().all(|op| !scenario.ended.contains_key(&(0, *op))));
    scenario.flow();
    assert!([first, second, third].iter().all(|op| scenario.is_written(0, *op)));
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

/// A round that had offered its value in one epoch asks again in the next, before it offers anything there (rule 5).
#[test]
fn a_round_that_another_epoch_overtakes_begins_anew() {
    let members = [0, 1, 2, 3];
    let mut scenario = Scenario::new(4, &[0, 1, 2], RegisterFaults::NONE);
    let op = scenario.client(0, put(1));
    scenario.ask(0, 1, Prepare);
    let late = scenario.lose(0, 1, Accept);
    scenario.lose_all();
    scenario.join(&members);
    scenario.configure(0);
    let sent = scenario.waiting_from(0);
    let begins_anew = |message: &&RegisterMessage| match message.body {
        Body::Prepare { ballot, .. } => ballot.epoch == 2,
        _ => false,
    };
    assert!(!sent.is_empty() && sent.iter().all(begins_anew), "{sent:?}");
    for n in [1, 2, 3] {
        scenario.configure(n);
    }
    // What was on its way in the old epoch does nothing any more.
    scenario.hear(0, 1, late);
    assert!(matches!(scenario.held(1), None | Some(Value::Absent)));
    scenario.flow();
    assert!(scenario.is_written(0, op));
    assert_eq!(scenario.verdict(), Verdict::Linearizable);
}

/// The prepare message arrives a second time, after the accept. It meets the round's own promise, and both replicas answer with a conflict
/// (rule 5). The round goes on.
#[test]
fn a_message_that_comes_twice_is_no_conflict() {
    let mut scenario = scenario();
    let op = scenario.client(0, put(1));
    let twice = [1, 2].map(|n| (n, scenario.lose(0, n, Prepare)));
    for (n, message) in &twice {
        scenario.hear(0, *n, message.clone());
        scenario.deliver(*n, 0, Promise);
    }
    for (n, message) in twice {
        scenario.deliver(0, n, Accept);
        scenario.hear(0, n, message);
        scenario.deliver(n, 0, Conflict);
    }
    assert!(!scenario.ended.contains_key(&(0, op)));
    scenario.deliver(1, 0, Accepted);
    assert!(scenario.is_written(0, op), "the round was given up");
    assert_eq!(scenario.actors[0].registers.counts().conflicts, 0);
}

/// A node that is no replica does not know what the replicas have promised since its last round, and a replica with a newer
/// promise knows that the old one is void. The rounds of both begin with phase 1, whatever was promised with the last round (rule 11).
#[test]
fn only_a_replica_counts_on_what_was_promised_along() {
    let members = [0, 1, 2, 3];
    let mut scenario = Scenario::new(4, &members, RegisterFaults::NONE);
    scenario.id = object_on(&[0, 1, 2], &members);
    for (n, starts_with_offer) in [(3, false), (0, true)] {
        scenario.client(n, put(1));
        scenario.flow();
        scenario.client(n, put(2));
        let offers = |message: &&RegisterMessage| matches!(message.body, Body::Accept { .. });
        assert_eq!(scenario.waiting_from(n).iter().all(offers), starts_with_offer, "node {n}");
        scenario.flow();
    }
    scenario.client(1, put(3));
    scenario.deliver(1, 0, Prepare);
    scenario.lose_all();
    scenario.client(0, put(4));
    let asks = |message: &&RegisterMessage| matches!(message.body, Body::Prepare { .. });
    let sent = scenario.waiting_from(0);
    assert!(!sent.is_empty() && sent.iter().all(asks), "{sent:?}");
}
