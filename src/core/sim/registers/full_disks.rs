//! Stores that refuse for a while: objects alone, as with little room left, or everything, as when the disk fails. They draw
//! from numbers of their own, so that the seeds of other faults stay what they are.

use std::collections::BTreeMap;

use crate::{
    machine::Ticket,
    register::{Declined, RegisterEvent, Value},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{MS, Mistakes, S, World, machine::Job};

pub struct FullDisks {
    rng: SmallRng,
    /// How often, in a hundred steps, a disk becomes full.
    share: u32,
    /// Until when the disks of machines are full, and for what.
    full: BTreeMap<usize, (u64, Declined)>,
}

impl Default for FullDisks {
    fn default() -> Self {
        Self { rng: SmallRng::seed_from_u64(0), share: 0, full: BTreeMap::new() }
    }
}

impl FullDisks {
    /// One run of three has full disks.
    pub fn draw(seed: u64, mistakes: Mistakes) -> Self {
        let mut rng = SmallRng::seed_from_u64(!seed);
        let share = [0, 0, 0, 0, 5, 25][rng.random_range(0..6)];
        let share = match mistakes {
            mistakes if mistakes.is_about_full_disks() => 25,
            mistakes if mistakes == Mistakes::NONE => share,
            _ => 0,
        };
        Self { rng, share, full: BTreeMap::new() }
    }
}

impl World {
    /// Now and then a disk becomes full.
    pub fn fill_disks(&mut self) {
        let (now, count) = (self.now, self.machines.len());
        let FullDisks { rng, share, full } = &mut self.full_disks;
        if rng.random_range(0..100) >= *share {
            return;
        }
        let long = [50 * MS, 500 * MS, 2 * S][rng.random_range(0..3)];
        let what = if rng.random_bool(0.7) { Declined::Objects } else { Declined::Writes };
        full.insert(rng.random_range(0..count), (now + rng.random_range(0..long), what));
    }

    fn declined_by(&self, n: usize) -> Option<Declined> {
        let (until, what) = self.full_disks.full.get(&n)?;
        (*until > self.now && !self.is_healed).then_some(*what)
    }

    /// What a process is told of its disk: it may be late.
    pub fn shown_declines(&mut self, n: usize) -> Option<Declined> {
        let declined = self.declined_by(n)?;
        self.full_disks.rng.random_bool(0.7).then_some(declined)
    }

    /// Tells whether the queue of a machine's disk takes no more.
    pub fn is_queue_full(&mut self, n: usize) -> bool {
        self.declined_by(n).is_some() && self.full_disks.rng.random_bool(0.1)
    }

    /// Tells whether the disk refuses the oldest job.
    pub fn refuses_next(&self, n: usize) -> Option<Ticket> {
        let declined = self.declined_by(n)?;
        let machine = &self.machines[n];
        let Some(Job::Keep(ticket, _, writes)) = machine.jobs.front() else { return None };
        let brings_object = writes.iter().any(|(id, register)| {
            let kept = machine.disk.registers.get(id).map(|kept| &kept.value);
            let wanted = register.as_ref().map(|register| &register.value);
            matches!(wanted, Some(Value::Live(_))) && kept != wanted
        });
        (declined == Declined::Writes || brings_object).then_some(*ticket)
    }

    /// The disk has refused a job.
    pub fn refused(&mut self, n: usize, ticket: Ticket) {
        self.print_trace(n, || format!("has its disk refuse {ticket:?}"));
        self.step(n, RegisterEvent::Refused { ticket, reason: "the disk is full".into() });
    }
}
