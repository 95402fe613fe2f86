//! Simulates the membership with many seeds. With all faults, each group has one history. When the faults stop, every node
//! gets a group.
//!
//! `cargo test` runs a fixed range of seeds. `NOMAD_SOAK=N` draws N new ones, `NOMAD_SEED` runs that one alone, and
//! `NOMAD_TRACE=1` prints every event.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{S, Sim, config};
use crate::group::membership::MembershipFaults;
use rand::{Rng, TryRngCore, rngs::OsRng};

/// How many seeds the fixed range has, over all tests of it.
const SEEDS: u64 = 10_000;
/// How long the network may need after the last fault. A forced change waits for the grace period twice.
const SETTLED_US: u64 = 300 * S;

/// One run: first with faults, then without.
fn run(seed: u64, faults: MembershipFaults) -> Sim {
    let mut config = config(faults);
    let mut draw = Sim::new(seed, 1, config.clone());
    let count = [3, 3, 3, 4, 4, 5, 6, 8][draw.rng.random_range(0..8)];
    let count = if draw.rng.random_bool(0.02) { 12 } else { count };
    config.capacity = draw.rng.random_range(2..=6);
    config.voronoi_grouping = draw.rng.random_bool(0.3);
    config.voters = [5, 5, 5, 3, 1][draw.rng.random_range(0..5)];
    config.has_sources = !draw.rng.random_bool(0.05);
    let mut sim = Sim::new(seed, count, config);
    // Half of the runs have objects, whose quorums a change needs.
    sim.objects = if seed.is_multiple_of(2) { 0 } else { 20 };
    sim.draw_network();
    for n in 0..count {
        let wait = sim.rng.random_range(0..S);
        sim.run_until(sim.now + wait);
        sim.start(n);
    }
    let fault_us = sim.rng.random_range(15 * S..45 * S);
    sim.inject_faults_until(sim.now + fault_us);
    sim.heal();
    sim.run_until_settled(SETTLED_US);
    sim
}

/// Runs a seed and says what went wrong.
fn outcome(seed: u64, faults: MembershipFaults) -> Result<Sim, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, faults))).map_err(|why| {
        let text = why.downcast_ref::<String>().cloned();
        text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "it panicked".to_owned())
    })
}

/// The seeds of one part of the range. The parts are separate tests, so that they run in parallel.
fn seeds(part: u64, parts: u64) -> Vec<u64> {
    let number = |name: &str| {
        std::env::var(name).ok().map(|text| {
            text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is no unsigned number"))
        })
    };
    if let Some(seed) = number("NOMAD_SEED") {
        return if part == 0 { vec![seed] } else { Vec::new() };
    }
    match number("NOMAD_SOAK") {
        Some(count) => (0..count / parts).map(|_| OsRng.try_next_u64().unwrap()).collect(),
        None => (part * SEEDS / parts..(part + 1) * SEEDS / parts).collect(),
    }
}

/// Goal: no combination of joins, leaves, crashes, restarts, new addresses, cut links, lost, doubled and late messages and clock
/// jumps breaks an invariant, and afterwards the network settles. Method: see `sim/membership/mod.rs`.
fn runs_clean(part: u64, parts: u64) {
    let seeds = seeds(part, parts);
    let (mut steps, mut forced) = (0, 0);
    println!("{} seeds from NOMAD_SEED={:?} on", seeds.len(), seeds.first());
    for seed in seeds {
        match outcome(seed, MembershipFaults::NONE) {
            Ok(sim) => (steps, forced) = (steps + sim.steps, forced + sim.oracle.forced),
            Err(why) => panic!("NOMAD_SEED={seed}: {why}"),
        }
    }
    println!("{steps} steps, {forced} forced changes");
}

#[test]
fn one_truth_per_group_in_the_first_half_of_the_seeds() {
    runs_clean(0, 2);
}

#[test]
fn one_truth_per_group_in_the_second_half_of_the_seeds() {
    runs_clean(1, 2);
}

/// Goal: a change of the members ends within a bound, whatever a partition has left of the group. Method: a group of five with 60
/// objects is cut in two for so long, and healed. Two that have kept what they had finish the rescan; two that have given the
/// group up are forced out; and both pairs are members again in the end.
fn a_partition_ends(cut_us: u64) {
    for seed in 0..60 {
        let mut sim = Sim::new(seed, 5, config(MembershipFaults::NONE));
        sim.objects = 60;
        for n in 0..5 {
            sim.start(n);
        }
        sim.run_until_settled(60 * S);
        for two in [3, 4] {
            for other in [0, 1, 2] {
                sim.cut.insert((other, two));
            }
        }
        sim.network_changed();
        sim.run_until(sim.now + cut_us);
        sim.heal();
        sim.run_until_settled(60 * S);
        assert_eq!(sim.tables(), 1, "NOMAD_SEED={seed}: there is more than one group");
    }
}

#[test]
fn a_change_ends_when_the_removed_come_back_with_all_that_they_had() {
    a_partition_ends(19 * S);
}

#[test]
fn a_change_ends_when_the_removed_have_given_the_group_up() {
    a_partition_ends(30 * S);
}

#[test]
fn a_change_ends_while_the_removed_are_away() {
    a_partition_ends(90 * S);
}

/// Seeds that have found mistakes, which are tested for by themselves too: 2557, a voter that missed a removal counted a
/// newcomer's vote as the old member's (`consensus::test_claims`); 10359302563005418271, one lost proposal left a group
/// neither open nor dissolved (`core::membership::test_groups`).
#[test]
fn seeds_that_have_found_mistakes_run_clean() {
    for seed in [2557, 10_359_302_563_005_418_271] {
        if let Err(why) = outcome(seed, MembershipFaults::NONE) {
            panic!("NOMAD_SEED={seed}: {why}");
        }
    }
}

/// Goal: the invariants find a mistake. Method: the same runs with one bug switched on. Within so many seeds a run must fail,
/// and by the invariant that the bug breaks.
fn is_caught(faults: MembershipFaults, within: u64, by: &str) {
    let caught = (0..within).find_map(|seed| {
        let why = outcome(seed, faults).err()?;
        println!("NOMAD_SEED={seed}: {why}");
        why.contains(by).then_some(seed)
    });
    assert!(caught.is_some(), "{faults:?} went unseen in {within} seeds");
}

#[test]
fn a_claim_that_is_kept_for_the_next_group_is_caught() {
    is_caught(
        MembershipFaults { claim_is_kept: true, ..MembershipFaults::NONE },
        50,
        "two groups have",
    );
}

#[test]
fn a_claim_that_is_used_before_it_is_durable_is_caught() {
    let faults = MembershipFaults { claim_is_not_durable: true, ..MembershipFaults::NONE };
    is_caught(faults, 50, "before it is durable");
}

#[test]
fn a_newcomer_that_is_not_asked_back_is_caught() {
    is_caught(
        MembershipFaults { no_confirm: true, ..MembershipFaults::NONE },
        50,
        "was not asked back",
    );
}

#[test]
fn groups_that_unite_in_any_order_are_caught() {
    let faults = MembershipFaults { unite_without_order: true, ..MembershipFaults::NONE };
    is_caught(faults, 1_000, "go to each other");
}

#[test]
fn acknowledgements_on_behalf_of_others_are_caught() {
    let faults = MembershipFaults { acknowledge_for_others: true, ..MembershipFaults::NONE };
    is_caught(faults, 200, "settled without");
}

#[test]
fn a_removal_on_the_super_peers_word_alone_is_caught() {
    let faults = MembershipFaults { remove_on_own_word: true, ..MembershipFaults::NONE };
    is_caught(faults, 3_000, "though others reached it");
}

#[test]
fn an_even_number_of_voters_is_caught() {
    is_caught(MembershipFaults { even_voters: true, ..MembershipFaults::NONE }, 50, "voters");
}
