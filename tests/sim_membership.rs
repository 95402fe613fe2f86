//! Membership under a seeded simulation: whatever happens, one truth per group, and after healing everybody has a group.

mod sim;

use std::panic::{AssertUnwindSafe, catch_unwind};

use nomad::core::membership::Faults;
use rand::Rng;
use sim::{S, Sim, config};

/// One run: bad times, then good ones.
fn run(seed: u64, faults: Faults) -> Sim {
    let mut config = config(faults);
    let mut sim = Sim::new(seed, 3, config.clone());
    let count = [3, 3, 4, 4, 5, 5, 6, 8][sim.rng.random_range(0..8)];
    config.capacity = sim.rng.random_range(2..=6);
    config.voronoi_grouping = sim.rng.random_bool(0.3);
    sim = Sim::new(seed, count, config);
    sim.draw_network();
    for n in 0..count {
        let wait = sim.rng.random_range(0..S);
        sim.run_until(sim.now + wait);
        sim.start(n);
    }
    let chaos_us = sim.rng.random_range(20 * S..60 * S);
    sim.chaos_until(sim.now + chaos_us);
    sim.heal();
    sim.settle(300 * S);
    sim
}

#[test]
fn probe() {
    let from: u64 = std::env::var("FROM").map_or(0, |s| s.parse().unwrap());
    let to: u64 = std::env::var("TO").map_or(100, |s| s.parse().unwrap());
    if from + 1 < to {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let mut failed = 0;
    let (mut steps, mut forced, mut time) = (0, 0, 0);
    for seed in from..to {
        match catch_unwind(AssertUnwindSafe(|| run(seed, Faults::default()))) {
            Ok(sim) => {
                steps += sim.steps;
                forced += sim.judge.forced;
                time += sim.now / S;
            }
            Err(why) => {
                failed += 1;
                let text = why.downcast_ref::<String>().cloned();
                let text = text.or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                eprintln!("NOMAD_SEED={seed}: {}", text.unwrap_or_default().replace('\n', " "));
            }
        }
    }
    eprintln!("{failed} failed, {steps} steps, {forced} forced, {time} s");
    assert_eq!(failed, 0);
}
