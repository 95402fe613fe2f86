//! A group of register shards under a seeded schedule. Messages are lost, doubled, delayed and reordered. Nodes crash and lose
//! what was not durable, lose their disks, and come back. Clocks jump, members join and leave, the replication factor changes.

pub mod clients;
pub mod contracts;
mod declines;
pub mod faults;
pub mod final_checks;
pub mod full_disks;
pub mod group;
pub mod machine;
pub mod oracle;
pub mod rounds;
pub mod scenario;
pub mod schedules;
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use crate::{
    group::table::GroupTable,
    machine::{Core, Now, Ticket},
    model::{
        node_id::NodeId,
        object::{ObjectId, Version},
        time::{MonotonicUs, UnixMs},
        trace::TraceContext,
    },
    register::{RegisterEvent, RegisterFaults, RegisterMessage, RegisterOptions, SHARDS},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use full_disks::FullDisks;
use machine::{Machine, Purpose};
use oracle::Oracle;

pub const MS: u64 = 1_000;
pub const S: u64 = 1_000_000;
pub const GROUP: &str = "group-x";

/// Bugs that a test can switch on: in the core, and in the shell around it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mistakes {
    pub core: RegisterFaults,
    /// A node forgets the configurations that it has adopted.
    pub epoch_is_not_durable: bool,
    /// A node does not delete the registers that it does not have to keep any more.
    pub no_purge: bool,
    /// A node whose disk is lost comes back as if nothing had happened.
    pub amnesia: bool,
    /// Tombstones are removed even if older fast writes may still arrive.
    pub no_watermark: bool,
    /// The simulation does not check the disk before a reply leaves. So it is the oracle that has to find the mistake.
    pub blind: bool,
}

impl Mistakes {
    pub const NONE: Self = Self {
        core: RegisterFaults::NONE,
        epoch_is_not_durable: false,
        no_purge: false,
        amnesia: false,
        no_watermark: false,
        blind: false,
    };

    /// Whether these mistakes show only where stores refuse. Other mistakes are looked for without that.
    pub fn is_about_full_disks(&self) -> bool {
        self.core.declined_by_some
    }

    /// Whether these mistakes lose fast writes. Then the run has more fast writes.
    pub fn is_about_fast_writes(&self) -> bool {
        self.no_watermark || self.core.expire_as_newest
    }
}

/// The parameters of a run. The seed decides them.
#[derive(Debug, Clone)]
pub struct Plan {
    pub machines: usize,
    pub replication_factor: u32,
    pub loss: f64,
    pub dup: f64,
    /// The probability that a message takes long.
    pub late: f64,
    pub late_us: u64,
    pub delay_us: u64,
    pub fsync_us: u64,
    /// The share that each kind of fault has.
    pub crash: u32,
    pub cut: u32,
    pub change: u32,
    pub clock: u32,
    pub wipe: u32,
    pub factor: u32,
    /// How often one object is chosen rather than any.
    pub hot: f64,
    pub operations_max: usize,
    pub steps: usize,
    pub pause_us: u64,
    pub options: RegisterOptions,
}

impl Plan {
    pub fn draw(rng: &mut SmallRng, mistakes: Mistakes) -> Self {
        let mut pick = |from: &[u32]| from[rng.random_range(0..from.len())];
        let percent = |n: u32| f64::from(n) / 100.0;
        let mut options = RegisterOptions {
            resend_us: u64::from(pick(&[15, 30, 60])) * MS,
            resend_max_us: 100 * MS,
            patience_us: u64::from(pick(&[1, 5, 20])) * MS,
            straggle_us: 300 * MS,
            back_off_us: MS,
            back_off_max_us: 400 * MS,
            rescans_max: pick(&[1, 2, 64]) as usize,
            batch_max: pick(&[1, 2, 128]) as usize,
            ready_max: pick(&[1, 4_096, 4_096]) as usize,
            held_max: pick(&[0, 4, 256]) as usize,
            ..RegisterOptions::default()
        };
        options.faults = mistakes.core;
        Self {
            machines: pick(&[3, 4, 5, 6, 6]) as usize,
            replication_factor: pick(&[2, 3, 3, 3, 3, 4, 5]),
            loss: percent(pick(&[0, 2, 8, 15])),
            dup: percent(pick(&[0, 3, 10])),
            late: percent(pick(&[0, 5, 20])),
            late_us: u64::from(pick(&[100, 1_000, 4_000])) * MS,
            delay_us: u64::from(pick(&[1, 5, 20])) * MS,
            fsync_us: u64::from(pick(&[0, 2, 10, 30])) * MS,
            crash: pick(&[0, 3, 10]),
            cut: pick(&[0, 3, 10]),
            change: pick(&[0, 6, 12, 20]),
            clock: pick(&[0, 3]),
            wipe: pick(&[0, 2, 6]),
            factor: pick(&[0, 0, 10, 30]),
            hot: percent(pick(&[0, 50, 80])),
            operations_max: pick(&[8, 14, 20]) as usize,
            steps: pick(&[60, 100, 160]) as usize,
            pause_us: u64::from(pick(&[5, 15, 40])) * MS,
            options,
        }
    }
}

pub enum SimEvent {
    /// A message arrives.
    Deliver { from: usize, bytes: Vec<u8> },
    /// The oldest job of a process is durable.
    Stored,
    /// The store has refused what it was to keep.
    Refused(Ticket),
    /// A timer of a process.
    Tick,
    /// A member hears from the group's table.
    Learn,
    /// The group's table hears from a member.
    Acknowledge { claim: u64, epoch: u64 },
    /// A crashed process starts again.
    Start,
}

struct Item {
    at: u64,
    seq: u64,
    node: usize,
    /// Which start of the process it is for; `None` = whichever runs then.
    life: Option<u64>,
    what: SimEvent,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// The group and everything in it.
pub struct World {
    pub now: u64,
    pub rng: SmallRng,
    pub plan: Plan,
    pub mistakes: Mistakes,
    pub machines: Vec<Machine>,
    pub table: GroupTable,
    pub oracle: Oracle,
    pub cut: BTreeSet<(usize, usize)>,
    /// Until when a machine's messages are slow.
    pub slow_until: Vec<u64>,
    pub is_healed: bool,
    pub full_disks: FullDisks,
    pub steps: u64,
    pub trace: bool,
    queue: BinaryHeap<Reverse<Item>>,
    seq: u64,
}

impl World {
    pub fn new(seed: u64, mistakes: Mistakes) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan::draw(&mut rng, mistakes);
        let mut world = Self::with(rng, plan, mistakes);
        world.full_disks = FullDisks::draw(seed, mistakes);
        world
    }

    pub fn with(mut rng: SmallRng, plan: Plan, mistakes: Mistakes) -> Self {
        let machines: Vec<_> = (0..plan.machines)
            .map(|n| {
                let mut key: [u8; 32] = rng.random();
                key[31] = n as u8;
                Machine::new(NodeId::from_key(key), rng.random_range(0..400))
            })
            .collect();
        let founder = group::seat(&machines[0]);
        let settings = group::settings(plan.replication_factor);
        let mut world = Self {
            now: S,
            rng,
            mistakes,
            table: GroupTable::found(GROUP.into(), founder, settings, 64),
            slow_until: vec![0; machines.len()],
            machines,
            oracle: Oracle::default(),
            cut: BTreeSet::new(),
            is_healed: false,
            full_disks: FullDisks::default(),
            steps: 0,
            trace: std::env::var("NOMAD_TRACE").is_ok(),
            queue: BinaryHeap::new(),
            seq: 0,
            plan,
        };
        for n in 0..world.machines.len() {
            world.start(n);
        }
        world
    }

    pub fn at(&mut self, in_us: u64, node: usize, life: Option<u64>, what: SimEvent) {
        self.seq += 1;
        let at = self.now + in_us;
        self.queue.push(Reverse(Item { at, seq: self.seq, node, life, what }));
    }

    pub fn print_trace(&self, n: usize, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>10.4} n{n} {}", self.now as f64 / S as f64, what());
        }
    }

    pub fn index_of(&self, node: NodeId) -> Option<usize> {
        self.machines.iter().position(|machine| machine.id == node)
    }

    /// The time on the clocks of a machine.
    pub fn clocks(&mut self, n: usize) -> Now {
        let machine = &self.machines[n];
        Now {
            monotonic: MonotonicUs(self.now + machine.monotonic_offset),
            wall: UnixMs(self.wall_ms(n)),
            entropy: self.rng.random(),
        }
    }

    pub fn wall_ms(&self, n: usize) -> u64 {
        (1_000_000 + (self.now / MS) as i64 + self.machines[n].wall_offset_ms) as u64
    }

    /// Runs until a time.
    pub fn run_until(&mut self, end: u64) {
        while self.queue.peek().is_some_and(|Reverse(item)| item.at <= end) {
            let Some(Reverse(item)) = self.queue.pop() else { break };
            self.now = item.at;
            if item.life.is_none_or(|life| life == self.machines[item.node].life) {
                self.handle(item.node, item.what);
            }
        }
        self.now = end;
    }

    fn handle(&mut self, n: usize, what: SimEvent) {
        match what {
            SimEvent::Deliver { from, bytes } => self.arrive(from, n, &bytes),
            SimEvent::Stored => self.stored(n),
            SimEvent::Refused(ticket) => self.refused(n, ticket),
            SimEvent::Tick => {
                if let Some(process) = &mut self.machines[n].process {
                    process.tick_at = u64::MAX;
                    self.step(n, RegisterEvent::Tick);
                }
            }
            SimEvent::Learn => self.learn(n),
            SimEvent::Acknowledge { claim, epoch } => self.acknowledge(n, claim, epoch),
            SimEvent::Start => self.start(n),
        }
    }

    /// Sends a message: it may be lost, doubled or late.
    pub fn send(&mut self, from: usize, to: NodeId, message: &RegisterMessage) {
        let Some(to) = self.index_of(to) else { panic!("a message to nobody") };
        assert_ne!(from, to, "a message to the sender itself");
        self.print_trace(from, || {
            format!("-> n{to} e{} {}", message.epoch, oracle::shown(&message.body))
        });
        self.oracle.messages += 1;
        let bytes = postcard::to_stdvec(message).unwrap();
        let is_lost = !self.is_healed && self.rng.random_bool(self.plan.loss);
        if is_lost || self.cut.contains(&(from.min(to), from.max(to))) {
            return;
        }
        let is_doubled = !self.is_healed && self.rng.random_bool(self.plan.dup);
        if is_doubled {
            let delay = self.delay(from, to);
            self.at(delay, to, None, SimEvent::Deliver { from, bytes: bytes.clone() });
        }
        let delay = self.delay(from, to);
        self.at(delay, to, None, SimEvent::Deliver { from, bytes });
    }

    fn delay(&mut self, from: usize, to: usize) -> u64 {
        let plain = self.rng.random_range(MS / 10..=self.plan.delay_us);
        if self.is_healed {
            return plain;
        }
        let is_slow = self.slow_until[from] > self.now || self.slow_until[to] > self.now;
        let is_late = is_slow || self.rng.random_bool(self.plan.late);
        if is_late { self.rng.random_range(0..self.plan.late_us) } else { plain }
    }

    fn arrive(&mut self, from: usize, to: usize, bytes: &[u8]) {
        if self.machines[to].process.is_none() || self.cut.contains(&(from.min(to), from.max(to))) {
            return;
        }
        let message: RegisterMessage = postcard::from_bytes(bytes).unwrap();
        let from = self.machines[from].id;
        self.print_trace(to, || format!("<- e{} {}", message.epoch, oracle::shown(&message.body)));
        self.step(to, RegisterEvent::Heard { from, message, trace: TraceContext::default() });
    }

    /// Gives an event to the process of a machine, and carries out its effects.
    pub fn step(&mut self, n: usize, event: RegisterEvent) {
        self.steps += 1;
        let now = self.clocks(n);
        let declines = self.shown_declines(n);
        let machine = &mut self.machines[n];
        let Some(mut process) = machine.process.take() else { return };
        let effects = process.registers.step(now, event, &machine.shelf(declines));
        let due = process.registers.next_due();
        machine.process = Some(process);
        for effect in effects {
            self.carry_out(n, effect);
        }
        self.plan_tick(n, due);
    }

    fn plan_tick(&mut self, n: usize, due: Option<MonotonicUs>) {
        let machine = &mut self.machines[n];
        let (Some(due), Some(process)) = (due, &mut machine.process) else { return };
        let at = due.0.saturating_sub(machine.monotonic_offset).max(self.now);
        if at < process.tick_at {
            process.tick_at = at;
            let life = Some(machine.life);
            self.at(at - self.now, n, life, SimEvent::Tick);
        }
    }
}

/// The objects of a run: `count` of one kind.
pub fn object(kind: char, n: usize) -> ObjectId {
    let _ = SHARDS;
    ObjectId::parse(&format!("{kind}{n}")).unwrap()
}

/// The version right below.
pub fn below(version: Version) -> Version {
    match version.node.checked_sub(1) {
        Some(node) => Version { node, ..version },
        None => Version { time: version.time.saturating_sub(1), node: u64::MAX },
    }
}

#[allow(unused_imports)]
use Purpose as _;
