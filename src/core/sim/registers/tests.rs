//! Simulates the registers with many seeds. With all faults, safe operations are linearizable for each object, the newest fast
//! write is not lost, and nothing that was deleted comes back. When the faults stop, all requests end.
//!
//! `cargo test` runs a fixed range of seeds. `NOMAD_SOAK=N` draws N new ones, `NOMAD_SEED` runs that one alone, and
//! `NOMAD_TRACE=1` prints every event.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Mistakes, World};
use crate::register::RegisterFaults;
use rand::{TryRngCore, rngs::OsRng};

/// How many seeds the fixed range has, over all tests of it.
const SEEDS: u64 = 20_000;

/// One run: first with faults, then without.
fn run(seed: u64, mistakes: Mistakes) -> World {
    let mut world = World::new(seed, mistakes);
    world.inject_faults();
    world.heal_and_check();
    world
}

/// Runs a seed and says what went wrong.
fn outcome(seed: u64, mistakes: Mistakes) -> Result<World, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, mistakes))).map_err(|why| {
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

/// Goal: no combination of crashes, lost, doubled and late messages, cut links, clock jumps, lost disks and changes of the
/// group breaks a promise. Method: see `sim/registers/mod.rs`.
fn runs_clean(part: u64, parts: u64) {
    let seeds = seeds(part, parts);
    println!("{} seeds from NOMAD_SEED={:?} on", seeds.len(), seeds.first());
    let mut sums = [0; 11];
    for seed in seeds {
        match outcome(seed, Mistakes::default()) {
            Ok(world) => {
                let oracle = &world.oracle;
                let of_run = [
                    world.steps,
                    oracle.messages,
                    oracle.told,
                    oracle.unknown,
                    oracle.changes,
                    oracle.forced,
                    oracle.crashes,
                    oracle.wipes,
                    oracle.drops,
                    oracle.gave_up,
                    oracle.declined,
                ];
                sums.iter_mut().zip(of_run).for_each(|(sum, more)| *sum += more);
            }
            Err(why) => panic!("NOMAD_SEED={seed}: {why}"),
        }
    }
    let [steps, messages, told, unknown, changes, forced, crashes, wipes, drops, gave_up, declined] =
        sums;
    println!(
        "{steps} steps, {messages} messages, {told} operations told, {unknown} unknown, {declined} declined, {changes} configurations, \
         {forced} forced,          {crashes} crashes, {wipes} disks lost, {drops} tombstones removed, {gave_up} searches given up"
    );
}

/// A node on its own builds three writes and a deletion on one another. Its store refuses the writes and takes the deletion: then
/// the writes before it were done, and the one after it was not.
#[test]
fn what_a_later_write_has_in_it_is_done_with_it() {
    for seed in [9_587, 17_425] {
        run(seed, Mistakes::default());
    }
}

#[test]
fn every_object_is_linearizable_in_the_first_half_of_the_seeds() {
    runs_clean(0, 2);
}

#[test]
fn every_object_is_linearizable_in_the_second_half_of_the_seeds() {
    runs_clean(1, 2);
}

/// Goal: the checks find a mistake. Method: the same runs with one bug switched on. Within so many seeds a run must fail, and
/// its message must contain `by`: the promise that the bug breaks.
fn is_caught(mistakes: Mistakes, within: u64, by: &str) {
    let caught = (0..within).find_map(|seed| {
        let why = outcome(seed, mistakes).err()?;
        println!("NOMAD_SEED={seed}: {}", why.lines().next().unwrap_or_default());
        why.contains(by).then_some(seed)
    });
    assert!(caught.is_some(), "{mistakes:?} went unseen in {within} seeds");
}

fn core(core: RegisterFaults) -> Mistakes {
    Mistakes { core, ..Mistakes::default() }
}

macro_rules! mistakes {
    ($(fn $name:ident: $mistakes:expr, $within:expr, $by:expr;)*) => {$(
        #[test]
        fn $name() {
            is_caught($mistakes, $within, $by);
        }
    )*};
}

const F: RegisterFaults = RegisterFaults::NONE;
const M: Mistakes = Mistakes::NONE;
const ORDER: &str = "is not linearizable";

mistakes! {
    fn a_counter_that_is_not_durable_is_caught: core(RegisterFaults { volatile_counter: true, ..F }), 300, "";
    fn a_reply_before_its_state_is_durable_is_caught: core(RegisterFaults { reply_before_durable: true, ..F }), 20, "what is not durable";
    fn a_lost_acceptor_write_is_caught: Mistakes { blind: true, ..core(RegisterFaults { reply_before_durable: true, ..F }) }, 1_000, ORDER;
    fn a_decline_by_some_is_caught: core(RegisterFaults { declined_by_some: true, ..F }), 1_000, ORDER;
    fn a_joint_quorum_of_the_new_set_alone_is_caught: core(RegisterFaults { joint_quorum_of_new: true, ..F }), 100, ORDER;
    fn a_joint_quorum_of_the_old_set_alone_is_caught: core(RegisterFaults { joint_quorum_of_old: true, ..F }), 100, ORDER;
    fn a_change_that_is_evaluated_again_is_caught: core(RegisterFaults { evaluate_again: true, ..F }), 100, ORDER;
    fn a_promise_that_is_not_durable_is_caught: core(RegisterFaults { volatile_promise: true, ..F }), 2_000, "";
    fn a_past_that_is_lost_is_caught: core(RegisterFaults { past_is_lost: true, ..F }), 5_000, ORDER;
    fn an_unconfirmed_refusal_is_caught: core(RegisterFaults { unconfirmed_refusal: true, ..F }), 500, ORDER;
    fn a_read_of_the_highest_is_caught: core(RegisterFaults { read_highest: true, ..F }), 500, ORDER;
    fn no_rescan_is_caught: core(RegisterFaults { no_rescan: true, ..F }), 100, ORDER;
    fn a_rescan_that_is_reported_before_it_is_done_is_caught: core(RegisterFaults { rescanned_at_once: true, ..F }), 100, ORDER;
    fn a_piggyback_without_a_promise_is_caught: core(RegisterFaults { piggyback_without_promise: true, ..F }), 800, ORDER;
    fn an_expiry_that_wins_over_newer_writes_is_caught: core(RegisterFaults { expire_as_newest: true, ..F }), 4_000, "the newest fast write";
    fn a_forced_change_that_hears_a_majority_is_caught: core(RegisterFaults { forced_hears_majority: true, ..F }), 5_000, "";
    fn an_epoch_that_is_not_durable_is_caught: Mistakes { epoch_is_not_durable: true, ..M }, 500, ORDER;
    fn amnesia_is_caught: Mistakes { amnesia: true, ..M }, 200, ORDER;
    fn no_watermark_is_caught: Mistakes { no_watermark: true, ..M }, 4_000, "the newest fast write";
}
