//! One schedule for each mistake that random schedules seldom show. Without the mistake the same schedule is sound.

use crate::register::RegisterFaults;

use super::S;
use super::directed::{
    Kind::{Accept, Accepted, Drop, Prepare, Query},
    Stage, object_on,
};
use crate::sim::linearizability::{Action, Condition, Verdict};

/// With the mistake the schedule breaks a promise, without it none.
fn shows(mistake: RegisterFaults, count: usize, members: &[usize], schedule: impl Fn(&mut Stage)) {
    for (faults, verdict) in
        [(RegisterFaults::NONE, Verdict::Linearizable), (mistake, Verdict::NotLinearizable)]
    {
        let mut stage = Stage::new(count, members, faults);
        schedule(&mut stage);
        assert_eq!(stage.verdict(), verdict, "{faults:?}");
    }
}

impl Stage {
    /// An object is created and deleted, and its tombstone is at all three replicas and about to be dropped.
    fn about_to_drop(&mut self) {
        self.create(0, 1);
        self.ask(0, 1, Prepare);
        self.ask(0, 1, Accept);
        self.delete(0);
        self.lose(0, 2, Accept);
        self.ask(0, 1, Accept);
        self.lose_all();
        self.clear(0);
        self.ask(0, 1, Accept);
    }
}

/// One replica misses that a tombstone was removed. After a change of members its counter is greater than that of a new
/// write, and the tombstone wins.
#[test]
fn ballots_without_the_epoch_are_caught() {
    let mistake = RegisterFaults { ballot_without_epoch: true, ..RegisterFaults::NONE };
    shows(mistake, 5, &[0, 1, 2], |stage| {
        stage.about_to_drop();
        stage.ask(0, 2, Accept);
        stage.deliver(0, 1, Drop);
        stage.lose_all();
        stage.join(&[2, 3, 4]);
        stage.configure(0);
        stage.configure(1);
        stage.settle();
        stage.configure(3);
        stage.configure(4);
        stage.create(3, 3);
        stage.ask(3, 4, Prepare);
        stage.ask(3, 4, Accept);
        stage.configure(2);
        stage.lose_all();
        stage.raise_counter(4);
        stage.read_with(4, 2);
    });
}

/// A promise is given between the last acceptance of a tombstone and its removal. If the removal forgets it, two creates
/// succeed.
fn promise_before_drop(stage: &mut Stage, then: impl Fn(&mut Stage)) {
    stage.raise_counter(1);
    stage.about_to_drop();
    stage.deliver(0, 2, Accept);
    stage.create(1, 3);
    stage.ask(1, 2, Prepare);
    let late = stage.lose(1, 2, Accept);
    stage.deliver(2, 0, Accepted);
    stage.deliver(0, 2, Drop);
    then(stage);
    stage.lose_all();
    stage.create(0, 4);
    stage.ask(0, 2, Prepare);
    stage.lose_but(0, 2);
    stage.flow_among(&[0, 2]);
    stage.hear(1, 2, late);
    stage.flow_among(&[1, 2]);
    stage.flow();
    for _ in 0..10 {
        stage.pass(0, 2 * S);
        stage.flow();
    }
}

#[test]
fn no_floor_is_caught() {
    let mistake = RegisterFaults { no_floor: true, ..RegisterFaults::NONE };
    shows(mistake, 3, &[0, 1, 2], |stage| promise_before_drop(stage, |_| {}));
}

#[test]
fn a_floor_of_what_was_accepted_is_caught() {
    let mistake = RegisterFaults { floor_is_accepted: true, ..RegisterFaults::NONE };
    shows(mistake, 3, &[0, 1, 2], |stage| promise_before_drop(stage, |_| {}));
}

#[test]
fn a_floor_that_is_not_durable_is_caught() {
    // The ceiling of promises, which is above every floor, would hide it.
    let mistake =
        RegisterFaults { volatile_floor: true, volatile_promise: true, ..RegisterFaults::NONE };
    shows(mistake, 3, &[0, 1, 2], |stage| promise_before_drop(stage, |stage| stage.restart(2)));
}

/// An update is offered and taken by one replica alone; then the object expires. A refusal that is not written back leaves the
/// offer to the next reader.
#[test]
fn a_refusal_in_spite_of_offers_is_caught() {
    let mistake = RegisterFaults { refuse_with_offers: true, ..RegisterFaults::NONE };
    shows(mistake, 4, &[0, 1, 2, 3], |stage| {
        stage.id = object_on(&[0, 1, 2], &[0, 1, 2, 3]);
        let create = Action::Write { token: 1, condition: Condition::Absent };
        stage.client_until(0, create, Some(1_010));
        stage.flow();
        stage.raise_counter(3);
        stage.client(3, Action::Write { token: 2, condition: Condition::Present });
        stage.ask(3, 0, Prepare);
        stage.ask(3, 1, Prepare);
        stage.deliver(3, 2, Accept);
        stage.lose_all();
        stage.expire(1_011);
        stage.retry(3);
        stage.ask(3, 0, Prepare);
        stage.ask(3, 1, Prepare);
        stage.lose_but(3, 0);
        stage.flow_among(&[3, 0]);
        stage.lose_all();
        stage.raise_counter(2);
        stage.raise_counter(2);
        stage.read_with(2, 0);
    });
}

/// An offer that was taken by one replica is taken up by a reader, whose own acceptance comes late. A proposer that has
/// forgotten the first offer does not know its own value again.
#[test]
fn forgotten_offers_are_caught() {
    let mistake = RegisterFaults { forget_offers: true, ..RegisterFaults::NONE };
    shows(mistake, 5, &[0, 1, 2, 3, 4], |stage| {
        stage.id = object_on(&[0, 1, 2], &[0, 1, 2, 3, 4]);
        stage.create(3, 1);
        stage.ask(3, 0, Prepare);
        stage.ask(3, 1, Prepare);
        stage.deliver(3, 2, Accept);
        stage.lose_all();
        stage.raise_counter(4);
        stage.read(4);
        stage.ask(4, 0, Query);
        stage.ask(4, 2, Query);
        stage.pass(4, 20_000);
        stage.ask(4, 0, Prepare);
        stage.ask(4, 2, Prepare);
        let late = stage.lose(4, 2, Accept);
        stage.lose_all();
        stage.raise_counter(3);
        stage.raise_counter(3);
        stage.retry(3);
        stage.ask(3, 0, Prepare);
        stage.ask(3, 1, Prepare);
        stage.lose_all();
        stage.hear(4, 2, late);
        stage.lose_all();
        stage.retry(3);
        stage.ask(3, 1, Prepare);
        stage.ask(3, 2, Prepare);
        stage.flow();
        stage.read(0);
        stage.flow();
    });
}

/// A create that was decided without its proposer's knowledge is undone by others, and all trace of it goes with a change of
/// members. A proposer that takes that for a sign that it was never decided creates the object again.
#[test]
fn offers_of_an_earlier_epoch_are_caught() {
    undone_and_forgotten(RegisterFaults { offers_of_any_epoch: true, ..RegisterFaults::NONE });
}

#[test]
fn a_past_without_end_is_caught() {
    undone_and_forgotten(RegisterFaults { past_without_end: true, ..RegisterFaults::NONE });
}

fn undone_and_forgotten(mistake: RegisterFaults) {
    shows(mistake, 5, &[0, 1, 2], |stage| {
        stage.id = object_on(&[2, 3, 4], &[0, 2, 3, 4]);
        stage.create(0, 1);
        stage.ask(0, 1, Prepare);
        stage.deliver(0, 1, Accept);
        stage.lose_all();
        stage.delete(1);
        stage.ask(1, 0, Prepare);
        stage.ask(1, 0, Accept);
        stage.lose_all();
        stage.clear(1);
        stage.ask(1, 0, Accept);
        stage.ask(1, 2, Accept);
        stage.flow_among(&[0, 1, 2]);
        stage.join(&[0, 2, 3, 4]);
        for n in [0, 1, 2] {
            stage.configure(n);
        }
        stage.lose_all();
        stage.settle();
        for n in [0, 2, 3, 4] {
            stage.configure(n);
        }
        stage.ask(0, 3, Prepare);
        stage.ask(0, 4, Prepare);
        stage.flow();
        stage.read(3);
        stage.flow();
    });
}

/// A member leaves and comes back. While it is away the object is deleted and removed.
fn away_and_back(stage: &mut Stage, hears_of_it: bool) {
    stage.flow();
    let others = [0, 1, 3];
    stage.join(&others);
    for n in others {
        stage.configure(n);
    }
    stage.flow_among(&others);
    stage.settle();
    for n in others {
        stage.configure(n);
    }
    if hears_of_it {
        stage.configure(2);
    }
    stage.lose_all();
    stage.delete(0);
    stage.flow_among(&others);
    stage.clear(0);
    stage.flow_among(&others);
    stage.join(&[0, 1, 2]);
    for n in others {
        stage.configure(n);
    }
    stage.flow_among(&others);
    stage.settle();
    for n in [0, 1, 2] {
        stage.configure(n);
    }
    stage.lose_all();
}

/// Two replicas have removed the tombstone, and the third still has the object.
#[test]
fn a_drop_by_a_majority_is_caught() {
    let mistake = RegisterFaults { drop_by_majority: true, ..RegisterFaults::NONE };
    shows(mistake, 3, &[0, 1, 2], |stage| {
        stage.create(0, 1);
        stage.flow();
        stage.delete(0);
        stage.flow_among(&[0, 1]);
        stage.lose_all();
        stage.clear(0);
        stage.flow_among(&[0, 1]);
        stage.pass(0, 10 * S);
        stage.lose_all();
        stage.read(1);
        stage.ask(1, 2, Query);
        stage.pass(1, 20_000);
        stage.flow();
    });
}

/// What was promised along with an acceptance is used when the object is long gone, at nodes that know nothing of it.
#[test]
fn a_piggyback_across_epochs_is_caught() {
    let mistake = RegisterFaults { piggyback_across_epochs: true, ..RegisterFaults::NONE };
    shows(mistake, 6, &[0, 1, 2], |stage| {
        stage.id = object_on(&[3, 4, 5], &[1, 3, 4, 5]);
        stage.create(1, 1);
        stage.flow();
        stage.delete(0);
        stage.flow();
        stage.clear(0);
        stage.flow();
        stage.join(&[1, 3, 4, 5]);
        for n in 0..6 {
            stage.configure(n);
        }
        stage.settle();
        for n in 0..6 {
            stage.configure(n);
        }
        stage.client(1, Action::Write { token: 2, condition: Condition::Present });
        stage.flow();
        stage.read(3);
        stage.flow();
    });
}

#[test]
fn no_purge_is_caught() {
    for (no_purge, verdict) in [(false, Verdict::Linearizable), (true, Verdict::NotLinearizable)] {
        let mut stage = Stage::new(4, &[0, 1, 2], RegisterFaults::NONE);
        stage.no_purge = no_purge;
        stage.create(0, 1);
        away_and_back(&mut stage, true);
        stage.read(2);
        stage.ask(2, 0, Query);
        stage.pass(2, 20_000);
        stage.flow();
        assert_eq!(stage.verdict(), verdict, "{no_purge}");
    }
}

#[test]
fn skipped_configurations_are_caught() {
    let mistake = RegisterFaults { skip_configurations: true, ..RegisterFaults::NONE };
    shows(mistake, 4, &[0, 1, 2], |stage| {
        stage.create(0, 1);
        away_and_back(stage, false);
        stage.read(2);
        stage.ask(2, 0, Query);
        stage.pass(2, 20_000);
        stage.flow();
    });
}

/// A write of an early epoch arrives where all that came after it is forgotten.
#[test]
fn no_look_at_the_epoch_is_caught() {
    let mistake = RegisterFaults { no_epoch_check: true, ..RegisterFaults::NONE };
    shows(mistake, 4, &[0, 1, 2], |stage| {
        stage.create(0, 1);
        stage.ask(0, 1, Prepare);
        let late = stage.lose(0, 2, Accept);
        away_and_back(stage, true);
        stage.hear(0, 2, late);
        stage.lose_all();
        stage.read(2);
        stage.ask(2, 0, Query);
        stage.pass(2, 20_000);
        stage.flow();
    });
}
