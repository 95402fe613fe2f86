//! The faults and requests of a run. The seed decides them.

use rand::Rng;

use super::{MS, S, SimEvent, World};

impl World {
    /// Injects faults and sends requests, for as many steps as the plan says.
    pub fn inject_faults(&mut self) {
        // The others join at once, most of the time.
        let count = self.machines.len();
        let first =
            if self.rng.random_bool(0.8) { self.rng.random_range(2..=count.min(5)) } else { 1 };
        let others: Vec<_> = (1..first).collect();
        self.order(&others, &[]);
        let settled = self.rng.random_range(0..400 * MS);
        self.run_until(self.now + settled);
        let mut is_busy = true;
        let mut left = 0;
        for _ in 0..self.plan.steps {
            if left == 0 {
                is_busy = !is_busy;
                left = self.rng.random_range(5..40);
            }
            left -= 1;
            let pause = self.rng.random_range(0..=self.plan.pause_us);
            self.run_until(self.now + pause);
            self.fill_disks();
            self.inject_one(is_busy);
        }
    }

    fn inject_one(&mut self, is_busy: bool) {
        let plan = &self.plan;
        let (fast, drain, sweep) =
            if self.mistakes.is_about_fast_writes() { (30, 2, 100) } else { (8, 8, 12) };
        let kinds = [
            if is_busy { 60 } else { 15 },
            plan.crash,
            plan.cut,
            plan.change,
            plan.clock,
            plan.wipe,
            // Fast writes, their way to the replicas, promises, clean-ups, safe operations on objects of fast writes, slow machines.
            fast,
            drain,
            4,
            sweep,
            2,
            2,
        ];
        let mut drawn = self.rng.random_range(0..kinds.iter().sum::<u32>());
        let kind = kinds.iter().position(|share| {
            let is_it = drawn < *share;
            drawn = drawn.wrapping_sub(*share);
            is_it
        });
        let n = self.rng.random_range(0..self.machines.len());
        match kind {
            Some(0) => self.client(),
            Some(1) => self.crash_and_return(n),
            Some(2) => self.cut_links(),
            Some(3) if self.rng.random_bool(0.1) => self.force(),
            Some(3) => self.change_group(),
            Some(4) => self.jump_clock(n),
            Some(5) if self.may_lose(n) => self.wipe(n),
            Some(6) => self.write_fast(),
            Some(7) => self.drain(n),
            Some(8) => {
                for n in 0..self.machines.len() {
                    self.promise(n);
                }
            }
            Some(9) => self.sweep(n),
            Some(10) => self.operate_on_mixed(),
            Some(11) => {
                self.slow_until[n] = self.now + self.rng.random_range(0..2 * S);
            }
            _ => {}
        }
    }

    fn crash_and_return(&mut self, n: usize) {
        if self.machines[n].process.is_none() {
            return;
        }
        self.crash(n);
        let away = [10 * MS, 300 * MS, 2 * S][self.rng.random_range(0..3)];
        let away = self.rng.random_range(0..away);
        self.at(away, n, None, SimEvent::Start);
    }

    fn cut_links(&mut self) {
        let count = self.machines.len();
        self.cut.clear();
        match self.rng.random_range(0..4) {
            0 => {
                let side: Vec<bool> = (0..count).map(|_| self.rng.random_bool(0.5)).collect();
                for a in 0..count {
                    for b in a + 1..count {
                        if side[a] != side[b] {
                            self.cut.insert((a, b));
                        }
                    }
                }
            }
            1 => {
                let n = self.rng.random_range(0..count);
                self.cut.extend((0..count).filter(|m| *m != n).map(|m| (n.min(m), n.max(m))));
            }
            2 => {
                for a in 0..count {
                    for b in a + 1..count {
                        if self.rng.random_bool(0.25) {
                            self.cut.insert((a, b));
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// The wall clock of a machine jumps.
    fn jump_clock(&mut self, n: usize) {
        let before = self.wall_ms(n) / 1_000;
        let by = [-5_000, -300, 300, 5_000][self.rng.random_range(0..4)];
        self.machines[n].wall_offset_ms += by;
        let after = self.wall_ms(n) / 1_000;
        self.print_trace(n, || format!("has its clock set by {by} ms"));
        if let Some(process) = &self.machines[n].process {
            self.oracle.seen_wall(process.ops.values(), before);
            self.oracle.seen_wall(process.ops.values(), after);
        }
    }
}
