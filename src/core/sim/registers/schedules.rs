//! One schedule for each mistake that random schedules seldom find. Without the mistake the same schedule is correct.

use crate::register::{Declined, RegisterFaults};

use super::S;
use super::scenario::{
    Kind::{Accept, Accepted, Drop, Prepare, Query},
    Scenario, object_on,
};
use crate::sim::linearizability::{Action, Condition, Token, Verdict};

/// Asserts that the schedule is linearizable without the mistake, and not linearizable with it.
fn shows(
    mistake: RegisterFaults,
    count: usize,
    members: &[usize],
    schedule: impl Fn(&mut Scenario),
) {
    for (faults, verdict) in
        [(RegisterFaults::NONE, Verdict::Linearizable), (mistake, Verdict::NotLinearizable)]
    {
        let mut scenario = Scenario::new(count, members, faults);
        schedule(&mut scenario);
        assert_eq!(scenario.verdict(), verdict, "{faults:?}");
    }
}

impl Scenario {
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
    shows(mistake, 5, &[0, 1, 2], |scenario| {
        scenario.about_to_drop();
        scenario.ask(0, 2, Accept);
        scenario.deliver(0, 1, Drop);
        scenario.lose_all();
        scenario.join(&[2, 3, 4]);
        scenario.configure(0);
        scenario.configure(1);
        scenario.settle();
        scenario.configure(3);
        scenario.configure(4);
        scenario.create(3, 3);
        scenario.ask(3, 4, Prepare);
        scenario.ask(3, 4, Accept);
        scenario.configure(2);
        scenario.lose_all();
        scenario.raise_counter(4);
        scenario.read_with(4, 2);
    });
}

/// A promise is given between the last acceptance of a tombstone and its removal. If the removal forgets it, two creates
/// succeed.
fn promise_before_drop(scenario: &mut Scenario, then: impl Fn(&mut Scenario)) {
    scenario.raise_counter(1);
    scenario.about_to_drop();
    scenario.deliver(0, 2, Accept);
    scenario.create(1, 3);
    scenario.ask(1, 2, Prepare);
    let late = scenario.lose(1, 2, Accept);
    scenario.deliver(2, 0, Accepted);
    scenario.deliver(0, 2, Drop);
    then(scenario);
    scenario.lose_all();
    scenario.create(0, 4);
    scenario.ask(0, 2, Prepare);
    scenario.lose_but(0, 2);
    scenario.flow_among(&[0, 2]);
    scenario.hear(1, 2, late);
    scenario.flow_among(&[1, 2]);
    scenario.flow();
    for _ in 0..10 {
        scenario.pass(0, 2 * S);
        scenario.flow();
    }
}

#[test]
fn no_floor_is_caught() {
    let mistake = RegisterFaults { no_floor: true, ..RegisterFaults::NONE };
    shows(mistake, 3, &[0, 1, 2], |scenario| promise_before_drop(scenario, |_| {}));
}

#[test]
fn a_floor_of_what_was_accepted_is_caught() {
    let mistake = RegisterFaults { floor_is_accepted: true, ..RegisterFaults::NONE };
    shows(mistake, 3, &[0, 1, 2], |scenario| promise_before_drop(scenario, |_| {}));
}

#[test]
fn a_floor_that_is_not_durable_is_caught() {
    // The ceiling of promises is above every floor. It would hide the mistake.
    let mistake =
        RegisterFaults { volatile_floor: true, volatile_promise: true, ..RegisterFaults::NONE };
    shows(mistake, 3, &[0, 1, 2], |scenario| {
        promise_before_drop(scenario, |scenario| scenario.restart(2))
    });
}

/// An update is offered, and one replica accepts it. Then the object expires. If the refusal is not written back, the next
/// reader completes the offer.
#[test]
fn a_refusal_in_spite_of_offers_is_caught() {
    let mistake = RegisterFaults { refuse_with_offers: true, ..RegisterFaults::NONE };
    shows(mistake, 4, &[0, 1, 2, 3], |scenario| {
        scenario.id = object_on(&[0, 1, 2], &[0, 1, 2, 3]);
        let create = Action::Write { token: 1, condition: Condition::Absent };
        scenario.client_until(0, create, Some(1_010));
        scenario.flow();
        scenario.raise_counter(3);
        scenario.client(3, Action::Write { token: 2, condition: Condition::Present });
        scenario.ask(3, 0, Prepare);
        scenario.ask(3, 1, Prepare);
        scenario.deliver(3, 2, Accept);
        scenario.lose_all();
        scenario.expire(1_011);
        scenario.retry(3);
        scenario.ask(3, 0, Prepare);
        scenario.ask(3, 1, Prepare);
        scenario.lose_but(3, 0);
        scenario.flow_among(&[3, 0]);
        scenario.lose_all();
        scenario.raise_counter(2);
        scenario.raise_counter(2);
        scenario.read_with(2, 0);
    });
}

/// One replica accepts an offer. A reader completes it, but its own acceptance comes late. A proposer that has forgotten its
/// first offer does not recognize its own value.
#[test]
fn forgotten_offers_are_caught() {
    let mistake = RegisterFaults { forget_offers: true, ..RegisterFaults::NONE };
    shows(mistake, 5, &[0, 1, 2, 3, 4], |scenario| {
        scenario.id = object_on(&[0, 1, 2], &[0, 1, 2, 3, 4]);
        scenario.create(3, 1);
        scenario.ask(3, 0, Prepare);
        scenario.ask(3, 1, Prepare);
        scenario.deliver(3, 2, Accept);
        scenario.lose_all();
        scenario.raise_counter(4);
        scenario.read(4);
        scenario.ask(4, 0, Query);
        scenario.ask(4, 2, Query);
        scenario.pass(4, 20_000);
        scenario.ask(4, 0, Prepare);
        scenario.ask(4, 2, Prepare);
        let late = scenario.lose(4, 2, Accept);
        scenario.lose_all();
        scenario.raise_counter(3);
        scenario.raise_counter(3);
        scenario.retry(3);
        scenario.ask(3, 0, Prepare);
        scenario.ask(3, 1, Prepare);
        scenario.lose_all();
        scenario.hear(4, 2, late);
        scenario.lose_all();
        scenario.retry(3);
        scenario.ask(3, 1, Prepare);
        scenario.ask(3, 2, Prepare);
        scenario.flow();
        scenario.read(0);
        scenario.flow();
    });
}

/// A create is decided, but its proposer does not know it. Others delete the object, and a change of members removes every
/// trace. A proposer that concludes that its create was never decided creates the object again.
#[test]
fn offers_of_an_earlier_epoch_are_caught() {
    undone_and_forgotten(RegisterFaults { offers_of_any_epoch: true, ..RegisterFaults::NONE });
}

#[test]
fn a_past_without_end_is_caught() {
    undone_and_forgotten(RegisterFaults { past_without_end: true, ..RegisterFaults::NONE });
}

fn undone_and_forgotten(mistake: RegisterFaults) {
    shows(mistake, 5, &[0, 1, 2], |scenario| {
        scenario.id = object_on(&[2, 3, 4], &[0, 2, 3, 4]);
        scenario.create(0, 1);
        scenario.ask(0, 1, Prepare);
        scenario.deliver(0, 1, Accept);
        scenario.lose_all();
        scenario.delete(1);
        scenario.ask(1, 0, Prepare);
        scenario.ask(1, 0, Accept);
        scenario.lose_all();
        scenario.clear(1);
        scenario.ask(1, 0, Accept);
        scenario.ask(1, 2, Accept);
        scenario.flow_among(&[0, 1, 2]);
        scenario.join(&[0, 2, 3, 4]);
        for n in [0, 1, 2] {
            scenario.configure(n);
        }
        scenario.lose_all();
        scenario.settle();
        for n in [0, 2, 3, 4] {
            scenario.configure(n);
        }
        scenario.ask(0, 3, Prepare);
        scenario.ask(0, 4, Prepare);
        scenario.flow();
        scenario.read(3);
        scenario.flow();
    });
}

/// A member leaves and comes back. While it is away the object is deleted and removed.
fn away_and_back(scenario: &mut Scenario, hears_of_it: bool) {
    scenario.flow();
    let others = [0, 1, 3];
    scenario.join(&others);
    for n in others {
        scenario.configure(n);
    }
    scenario.flow_among(&others);
    scenario.settle();
    for n in others {
        scenario.configure(n);
    }
    if hears_of_it {
        scenario.configure(2);
    }
    scenario.lose_all();
    scenario.delete(0);
    scenario.flow_among(&others);
    scenario.clear(0);
    scenario.flow_among(&others);
    scenario.join(&[0, 1, 2]);
    for n in others {
        scenario.configure(n);
    }
    scenario.flow_among(&others);
    scenario.settle();
    for n in [0, 1, 2] {
        scenario.configure(n);
    }
    scenario.lose_all();
}

/// Two replicas have removed the tombstone, and the third still has the object.
#[test]
fn a_drop_by_a_majority_is_caught() {
    let mistake = RegisterFaults { drop_by_majority: true, ..RegisterFaults::NONE };
    shows(mistake, 3, &[0, 1, 2], |scenario| {
        scenario.create(0, 1);
        scenario.flow();
        scenario.delete(0);
        scenario.flow_among(&[0, 1]);
        scenario.lose_all();
        scenario.clear(0);
        scenario.flow_among(&[0, 1]);
        scenario.pass(0, 10 * S);
        scenario.lose_all();
        scenario.read(1);
        scenario.ask(1, 2, Query);
        scenario.pass(1, 20_000);
        scenario.flow();
    });
}

/// A promise that was given with an acceptance is used much later: the object is removed, at nodes that know nothing of it.
#[test]
fn a_piggyback_across_epochs_is_caught() {
    let mistake = RegisterFaults { piggyback_across_epochs: true, ..RegisterFaults::NONE };
    shows(mistake, 6, &[0, 1, 2], |scenario| {
        scenario.id = object_on(&[3, 4, 5], &[1, 3, 4, 5]);
        scenario.create(1, 1);
        scenario.flow();
        scenario.delete(0);
        scenario.flow();
        scenario.clear(0);
        scenario.flow();
        scenario.join(&[1, 3, 4, 5]);
        for n in 0..6 {
            scenario.configure(n);
        }
        scenario.settle();
        for n in 0..6 {
            scenario.configure(n);
        }
        scenario.client(1, Action::Write { token: 2, condition: Condition::Present });
        scenario.flow();
        scenario.read(3);
        scenario.flow();
    });
}

#[test]
fn no_purge_is_caught() {
    for (no_purge, verdict) in [(false, Verdict::Linearizable), (true, Verdict::NotLinearizable)] {
        let mut scenario = Scenario::new(4, &[0, 1, 2], RegisterFaults::NONE);
        scenario.no_purge = no_purge;
        scenario.create(0, 1);
        away_and_back(&mut scenario, true);
        scenario.read(2);
        scenario.ask(2, 0, Query);
        scenario.pass(2, 20_000);
        scenario.flow();
        assert_eq!(scenario.verdict(), verdict, "{no_purge}");
    }
}

#[test]
fn skipped_configurations_are_caught() {
    let mistake = RegisterFaults { skip_configurations: true, ..RegisterFaults::NONE };
    shows(mistake, 4, &[0, 1, 2], |scenario| {
        scenario.create(0, 1);
        away_and_back(scenario, false);
        scenario.read(2);
        scenario.ask(2, 0, Query);
        scenario.pass(2, 20_000);
        scenario.flow();
    });
}

/// A write of an early epoch arrives at a node that has forgotten everything that came after it.
#[test]
fn no_look_at_the_epoch_is_caught() {
    let mistake = RegisterFaults { no_epoch_check: true, ..RegisterFaults::NONE };
    shows(mistake, 4, &[0, 1, 2], |scenario| {
        scenario.create(0, 1);
        scenario.ask(0, 1, Prepare);
        let late = scenario.lose(0, 2, Accept);
        away_and_back(scenario, true);
        scenario.hear(0, 2, late);
        scenario.lose_all();
        scenario.read(2);
        scenario.ask(2, 0, Query);
        scenario.pass(2, 20_000);
        scenario.flow();
    });
}

fn update(token: Token) -> Action {
    Action::Write { token, condition: Condition::Is(1) }
}

/// Counters have leapt above the durable ceiling of a replica that missed it. It says for good that it does not take a value,
/// and forgets that with a restart. A client has been told that nothing was done.
#[test]
fn a_decline_that_is_not_final_is_caught() {
    let mistake = RegisterFaults { declined_is_not_final: true, ..RegisterFaults::NONE };
    shows(mistake, 3, &[0, 1, 2], |scenario| {
        scenario.create(0, 1);
        scenario.flow();
        scenario.client(1, update(2));
        scenario.flow();
        scenario.fill(&[0, 1, 2], Declined::Objects, false);
        scenario.client(0, Action::Write { token: 3, condition: Condition::Is(2) });
        scenario.leap(0, 1);
        scenario.lose(0, 2, Prepare);
        scenario.ask(0, 1, Prepare);
        let copy = scenario.lose(0, 2, Accept);
        scenario.hear(0, 2, copy.clone());
        scenario.flow();
        scenario.full.clear();
        scenario.restart(2);
        scenario.hear(0, 2, copy);
        scenario.lose_all();
        scenario.read_with(1, 2);
        scenario.read(1);
        scenario.flow();
    });
}

/// A store refuses a value, and with it goes the promise that came before. Then an older round decides there, and the newer
/// one at the others.
#[test]
fn a_promise_that_is_lost_with_a_refused_write_is_caught() {
    let mistake = RegisterFaults { undone_promise_is_lost: true, ..RegisterFaults::NONE };
    shows(mistake, 3, &[0, 1, 2], |scenario| {
        scenario.create(0, 1);
        scenario.flow();
        scenario.client(1, update(2));
        scenario.ask(1, 2, Prepare);
        let [late, refused] = [0, 2].map(|n| scenario.lose(1, n, Accept));
        scenario.lose_all();
        scenario.fill(&[2], Declined::Objects, false);
        scenario.hear(1, 2, refused);
        scenario.full.clear();
        scenario.client(0, update(3));
        scenario.flow_among(&[0, 2]);
        scenario.hear(1, 0, late);
        scenario.flow();
        scenario.read(1);
        scenario.flow();
    });
}
