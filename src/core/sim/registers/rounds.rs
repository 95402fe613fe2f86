//! What a proposer does when messages come twice, when an epoch ends under its round, and when others want the object: one
//! schedule each.

use crate::register::{Body, OpId, RegisterFaults, RegisterMessage, RegisterOutcome, Value};

use super::directed::{
    Kind::{Accept, Accepted, Conflict, Prepare, Promise},
    Stage, object_on,
};
use crate::sim::linearizability::{Action, Condition, Verdict};

fn stage() -> Stage {
    Stage::new(3, &[0, 1, 2], RegisterFaults::NONE)
}

fn put(token: u64) -> Action {
    Action::Write { token, condition: Condition::Any }
}

impl Stage {
    fn is_written(&self, n: usize, op: OpId) -> bool {
        matches!(self.ended.get(&(n, op)), Some(RegisterOutcome::Written { .. }))
    }

    /// What a node has sent and nobody has heard.
    fn waiting_from(&self, n: usize) -> Vec<&RegisterMessage> {
        self.net.iter().filter(|(from, ..)| *from == n).map(|(.., message)| message).collect()
    }
}

/// A second round of a node waits for the end of the first one (rule 5).
#[test]
fn one_round_of_an_object_runs_at_a_time() {
    let mut stage = stage();
    let first = stage.client(0, put(1));
    let in_phase_1 = stage.sent;
    let second = stage.client(0, put(2));
    assert_eq!(stage.sent, in_phase_1);
    stage.ask(0, 1, Prepare);
    let in_phase_2 = stage.sent;
    let third = stage.client(0, put(3));
    assert_eq!(stage.sent, in_phase_2);
    assert!([first, second, third].iter().all(|op| !stage.ended.contains_key(&(0, *op))));
    stage.flow();
    assert!([first, second, third].iter().all(|op| stage.is_written(0, *op)));
    assert_eq!(stage.verdict(), Verdict::Linearizable);
}

/// A round that had offered its value in one epoch asks again in the next, before it offers anything there (rule 5).
#[test]
fn a_round_that_another_epoch_overtakes_begins_anew() {
    let members = [0, 1, 2, 3];
    let mut stage = Stage::new(4, &[0, 1, 2], RegisterFaults::NONE);
    let op = stage.client(0, put(1));
    stage.ask(0, 1, Prepare);
    let late = stage.lose(0, 1, Accept);
    stage.lose_all();
    stage.join(&members);
    stage.configure(0);
    let sent = stage.waiting_from(0);
    let begins_anew = |message: &&RegisterMessage| match message.body {
        Body::Prepare { ballot, .. } => ballot.epoch == 2,
        _ => false,
    };
    assert!(!sent.is_empty() && sent.iter().all(begins_anew), "{sent:?}");
    for n in [1, 2, 3] {
        stage.configure(n);
    }
    // What was on its way in the old epoch does nothing any more.
    stage.hear(0, 1, late);
    assert!(matches!(stage.held(1), None | Some(Value::Absent)));
    stage.flow();
    assert!(stage.is_written(0, op));
    assert_eq!(stage.verdict(), Verdict::Linearizable);
}

/// The first phase comes a second time, after the second phase: it meets the round's own promise, and both replicas say so
/// (rule 5). The round goes on.
#[test]
fn a_message_that_comes_twice_is_no_conflict() {
    let mut stage = stage();
    let op = stage.client(0, put(1));
    let twice = [1, 2].map(|n| (n, stage.lose(0, n, Prepare)));
    for (n, message) in &twice {
        stage.hear(0, *n, message.clone());
        stage.deliver(*n, 0, Promise);
    }
    for (n, message) in twice {
        stage.deliver(0, n, Accept);
        stage.hear(0, n, message);
        stage.deliver(n, 0, Conflict);
    }
    assert!(!stage.ended.contains_key(&(0, op)));
    stage.deliver(1, 0, Accepted);
    assert!(stage.is_written(0, op), "the round was given up");
    assert_eq!(stage.actors[0].registers.counts().conflicts, 0);
}

/// Who keeps no copy does not hear what the replicas do, and a replica that has promised more knows better: their rounds
/// begin with the first phase, whatever was promised along with the last one (rule 11).
#[test]
fn only_a_replica_counts_on_what_was_promised_along() {
    let members = [0, 1, 2, 3];
    let mut stage = Stage::new(4, &members, RegisterFaults::NONE);
    stage.id = object_on(&[0, 1, 2], &members);
    for (n, starts_with_offer) in [(3, false), (0, true)] {
        stage.client(n, put(1));
        stage.flow();
        stage.client(n, put(2));
        let offers = |message: &&RegisterMessage| matches!(message.body, Body::Accept { .. });
        assert_eq!(stage.waiting_from(n).iter().all(offers), starts_with_offer, "node {n}");
        stage.flow();
    }
    stage.client(1, put(3));
    stage.deliver(1, 0, Prepare);
    stage.lose_all();
    stage.client(0, put(4));
    let asks = |message: &&RegisterMessage| matches!(message.body, Body::Prepare { .. });
    let sent = stage.waiting_from(0);
    assert!(!sent.is_empty() && sent.iter().all(asks), "{sent:?}");
}
