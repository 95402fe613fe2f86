//! One machine: its disk, the jobs that are not on the disk yet, and its process, if one runs.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    group::table::Configuration,
    machine::{Core, Ticket},
    model::{
        hlc::HybridClock,
        node_id::NodeId,
        object::{ObjectId, Version},
        time::MonotonicUs,
        trace::TraceContext,
    },
    register::{
        Ballot, Body, Declined, Home, OpId, Register, RegisterEffect, RegisterEvent, RegisterOrder,
        RegisterOutcome, RegisterShelf, Registers, ShardState, Value, is_rescanned, keeps,
    },
};
use rand::Rng;

use super::{GROUP, MS, SimEvent, World};

pub struct Machine {
    pub id: NodeId,
    pub claim: u64,
    /// Its disk is lost, and its old claim is still in the group's table.
    pub is_lost: bool,
    pub disk: Disk,
    pub jobs: VecDeque<Job>,
    /// When the newest job is done.
    pub busy_until: u64,
    pub process: Option<Box<Process>>,
    pub life: u64,
    pub wall_offset_ms: i64,
    pub monotonic_offset: u64,
    /// Fast writes that are not replicated yet. They are durable at once.
    pub outbox: BTreeMap<ObjectId, Value>,
    pub fast_clock: HybridClock,
    /// This machine has promised to send no fast write of this version or an older one.
    pub watermark: Version,
}

#[derive(Default, Clone)]
pub struct Disk {
    pub state: Option<ShardState>,
    pub registers: BTreeMap<ObjectId, Register>,
    /// The state that a node restarts with if it forgets its configurations.
    pub first: Option<Configuration>,
}

/// Something that is to become durable. Jobs are done in order.
pub enum Job {
    Keep(Ticket, Option<ShardState>, Vec<(ObjectId, Option<Register>)>),
    Adopt(ShardState),
}

pub struct Process {
    pub registers: Registers,
    pub tick_at: u64,
    pub ops: BTreeMap<OpId, Purpose>,
    pub next_op: OpId,
    pub next_ticket: Ticket,
}

/// What a request was made for.
pub enum Purpose {
    /// A client's operation, by its place in the object's history.
    Client(ObjectId, usize),
    /// A fast write on its way to the replicas.
    Merge(ObjectId, Version),
    /// Cleaning up.
    Clear(ObjectId, Version),
    /// Something that no history records.
    Other,
}

/// What a process reads from its disk. It never reads what is still on the way to the disk: it has that in memory.
pub struct DiskShelf<'a> {
    disk: &'a Disk,
    jobs: &'a VecDeque<Job>,
    declines: Option<Declined>,
}

impl RegisterShelf for DiskShelf<'_> {
    fn register(&self, id: &ObjectId) -> Result<Option<Register>, String> {
        let is_pending = |job: &Job| match job {
            Job::Keep(_, _, writes) => writes.iter().any(|(written, _)| written == id),
            Job::Adopt(_) => true,
        };
        assert!(!self.jobs.iter().any(is_pending), "{id} is read while it is being written");
        Ok(self.disk.registers.get(id).cloned())
    }

    fn declines(&self) -> Option<(Declined, String)> {
        self.declines.map(|what| (what, "the disk is full".into()))
    }
}

impl Machine {
    pub fn new(id: NodeId, wall_offset_ms: i64) -> Self {
        Self {
            fast_clock: HybridClock::new(id.tag(), None),
            id,
            claim: 1,
            is_lost: false,
            disk: Disk::default(),
            jobs: VecDeque::new(),
            busy_until: 0,
            process: None,
            life: 0,
            wall_offset_ms,
            monotonic_offset: wall_offset_ms as u64 * 7_919 * MS,
            outbox: BTreeMap::new(),
            watermark: Version::default(),
        }
    }

    pub fn shelf(&self, declines: Option<Declined>) -> DiskShelf<'_> {
        DiskShelf { disk: &self.disk, jobs: &self.jobs, declines }
    }

    /// Makes a job durable.
    fn apply(&mut self, job: &Job, keeps_all: bool) {
        match job {
            Job::Keep(_, state, writes) => {
                if let Some(state) = state {
                    self.disk.state = Some(state.clone());
                }
                for (id, register) in writes {
                    match register {
                        Some(register) => {
                            self.disk.registers.insert(id.clone(), register.clone());
                        }
                        None => {
                            self.disk.registers.remove(id);
                        }
                    }
                }
            }
            Job::Adopt(state) => {
                let configuration = &state.configuration;
                self.disk.first.get_or_insert_with(|| configuration.clone());
                if !configuration.is_joint() && !keeps_all {
                    self.disk.registers.retain(|id, _| keeps(self.id, id, configuration));
                }
                self.disk.state = Some(state.clone());
            }
        }
    }

    /// The objects that a rescan has to look at.
    fn to_rescan(&self, configuration: &Configuration) -> Vec<ObjectId> {
        let held = self.disk.registers.iter();
        let accepted = held.filter(|(_, held)| held.accepted > Ballot::NONE).map(|(id, _)| id);
        accepted.filter(|id| is_rescanned(id, configuration)).cloned().collect()
    }
}

impl World {
    /// Starts a machine's process.
    pub fn start(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        if machine.process.is_some() {
            return;
        }
        machine.life += 1;
        let home = Home { node: machine.id, group: GROUP.into(), claim: machine.claim };
        let state = machine.disk.state.clone();
        let greatest = machine.disk.registers.values().filter_map(|r| r.value.version()).max();
        let registers = Registers::new(home, state, greatest, self.plan.options.clone());
        let due = registers.next_due();
        machine.process = Some(Box::new(Process {
            registers,
            tick_at: u64::MAX,
            ops: BTreeMap::new(),
            next_op: 0,
            next_ticket: Ticket(1),
        }));
        self.print_trace(n, || "starts".into());
        if due.is_some() {
            let life = Some(self.machines[n].life);
            self.at(0, n, life, SimEvent::Tick);
        }
        let soon = self.rng.random_range(0..50 * MS);
        self.at(soon, n, None, SimEvent::Learn);
    }

    /// Kills a machine's process. Some of its oldest jobs are durable, the others are lost.
    pub fn crash(&mut self, n: usize) {
        let kept = self.rng.random_range(0..=self.machines[n].jobs.len());
        self.print_trace(n, || format!("crashes, {kept} more are kept"));
        let no_purge = self.mistakes.no_purge;
        let forgets = self.mistakes.epoch_is_not_durable && self.rng.random_bool(0.5);
        let machine = &mut self.machines[n];
        let jobs = std::mem::take(&mut machine.jobs);
        for job in jobs.iter().take(kept) {
            self.oracle.keeps(job);
            machine.apply(job, no_purge);
        }
        if let (true, Some(state), Some(first)) =
            (forgets, &mut machine.disk.state, &machine.disk.first)
        {
            state.configuration = first.clone();
        }
        machine.life += 1;
        machine.busy_until = 0;
        let wall_s = self.wall_ms(n) / 1_000;
        if let Some(process) = self.machines[n].process.take() {
            self.oracle.crashed(process.ops.values(), wall_s);
        }
        self.oracle.crashes += 1;
    }

    /// The disk is lost. The machine comes back under another claim.
    pub fn wipe(&mut self, n: usize) {
        self.crash(n);
        self.print_trace(n, || "loses its disk".into());
        let lost: Vec<_> = std::mem::take(&mut self.machines[n].outbox).into_iter().collect();
        self.oracle.lost(lost);
        let machine = &mut self.machines[n];
        machine.disk = Disk::default();
        if !self.mistakes.amnesia {
            machine.claim += 1;
            machine.is_lost = true;
        }
        self.oracle.wipes += 1;
        self.start(n);
    }

    /// The oldest job of a machine is done.
    pub fn stored(&mut self, n: usize) {
        if let Some(ticket) = self.refuses_next(n) {
            self.machines[n].jobs.pop_front();
            return self.refused(n, ticket);
        }
        let no_purge = self.mistakes.no_purge;
        let machine = &mut self.machines[n];
        let Some(job) = machine.jobs.pop_front() else { return };
        if let Job::Keep(_, _, writes) = &job {
            for (id, register) in writes {
                let before = machine.disk.registers.get(id);
                if let (Some(before), Some(after)) = (before, register) {
                    assert!(before.promised <= after.promised, "{id} promises less than before");
                }
            }
        }
        self.oracle.keeps(&job);
        machine.apply(&job, no_purge);
        let event = match job {
            Job::Keep(ticket, ..) => RegisterEvent::Kept { ticket },
            Job::Adopt(state) => {
                let rescan = machine.to_rescan(&state.configuration);
                RegisterEvent::Adopted { epoch: state.configuration.epoch, rescan }
            }
        };
        self.step(n, event);
    }

    fn enqueue_job(&mut self, n: usize, job: Job) {
        let wait =
            if self.plan.fsync_us == 0 { 0 } else { self.rng.random_range(0..self.plan.fsync_us) };
        let machine = &mut self.machines[n];
        let done = (self.now + wait).max(machine.busy_until);
        machine.busy_until = done;
        machine.jobs.push_back(job);
        let life = Some(machine.life);
        self.at(done - self.now, n, life, SimEvent::Stored);
    }

    /// Carries out one effect of a process.
    pub fn carry_out(&mut self, n: usize, effect: RegisterEffect) {
        match effect {
            RegisterEffect::Keep { ticket, state, writes } => {
                let machine = &mut self.machines[n];
                let process = machine.process.as_mut().unwrap();
                assert_eq!(ticket, process.next_ticket, "tickets are given in order");
                process.next_ticket.draw();
                let is_adopting = machine.jobs.iter().any(|job| matches!(job, Job::Adopt(_)));
                assert!(!is_adopting, "nothing is kept while a configuration is adopted");
                if self.is_queue_full(n) {
                    // Refused at once, before what is on its way is done.
                    let life = Some(self.machines[n].life);
                    return self.at(0, n, life, SimEvent::Refused(ticket));
                }
                self.enqueue_job(n, Job::Keep(ticket, state, writes));
            }
            RegisterEffect::Adopt { state } => {
                self.print_trace(n, || format!("adopts {}", state.configuration.epoch));
                assert!(self.machines[n].jobs.is_empty(), "all is durable before an adoption");
                self.enqueue_job(n, Job::Adopt(state));
            }
            RegisterEffect::Send { to, message, .. } => {
                if !self.mistakes.blind {
                    self.assert_durable(n, &message.body);
                }
                self.send(n, to, &message);
            }
            RegisterEffect::End { op, ended } => self.end(n, op, ended),
            RegisterEffect::Rescanned { epoch } => {
                self.print_trace(n, || format!("has rescanned {epoch}"));
                let (wait, claim) = (self.rng.random_range(0..30 * MS), self.machines[n].claim);
                self.at(wait, n, None, SimEvent::Acknowledge { claim, epoch });
            }
            RegisterEffect::LeftBehind { epoch, oldest } => {
                panic!("n{n} is left behind at {epoch}, the oldest is {oldest}")
            }
        }
    }

    /// Asserts that what a reply says is on the disk.
    fn assert_durable(&self, n: usize, body: &Body) {
        let disk = &self.machines[n].disk;
        let floor = disk.state.as_ref().map_or(Ballot::NONE, |state| state.floor);
        let held = |id: &ObjectId| disk.registers.get(id);
        let is_there = match body {
            Body::Promise { id, ballot, .. } => {
                let ceiling = disk.state.as_ref().map_or(Ballot::NONE, |state| state.ceiling);
                held(id).map_or(floor, |held| held.promised).max(ceiling) >= *ballot
            }
            Body::Accepted { id, ballot } => {
                held(id).map_or(floor, |held| held.accepted) >= *ballot
            }
            Body::Reading { id, accepted, .. } => {
                held(id).map_or(floor, |held| held.accepted) >= *accepted
            }
            _ => true,
        };
        assert!(is_there, "n{n} says what is not durable: {body:?}");
    }

    /// Sends a request to a machine's process.
    pub fn begin(
        &mut self,
        n: usize,
        id: &ObjectId,
        order: RegisterOrder,
        wait_us: u64,
        purpose: Purpose,
    ) -> Option<OpId> {
        let deadline = MonotonicUs(self.now + self.machines[n].monotonic_offset + wait_us);
        let process = self.machines[n].process.as_mut()?;
        process.next_op += 1;
        let op = process.next_op;
        process.ops.insert(op, purpose);
        self.print_trace(n, || format!("begins {op} {id} {order:?}"));
        let trace = TraceContext::default();
        self.step(n, RegisterEvent::Begin { op, id: id.clone(), order, deadline, trace });
        Some(op)
    }

    fn end(&mut self, n: usize, op: OpId, ended: RegisterOutcome) {
        self.print_trace(n, || format!("ends {op} {ended:?}"));
        let process = self.machines[n].process.as_mut().unwrap();
        let Some(purpose) = process.ops.remove(&op) else { panic!("n{n} ends {op} twice") };
        let (now, wall_s) = (self.now, self.wall_ms(n) / 1_000);
        match purpose {
            Purpose::Client(id, place) => self.oracle.ended(&id, place, now, wall_s, &ended),
            Purpose::Merge(id, version) => {
                let outbox = &mut self.machines[n].outbox;
                let is_it = outbox.get(&id).is_some_and(|held| held.version() == Some(version));
                // Sometimes it is not deleted from the outbox in time. Then it is sent a second time.
                if ended == RegisterOutcome::Done
                    && is_it
                    && (self.is_healed || self.rng.random_bool(0.8))
                {
                    outbox.remove(&id);
                }
            }
            Purpose::Clear(id, version) => {
                if ended == RegisterOutcome::Done {
                    self.oracle.cleared(&id, version);
                }
            }
            Purpose::Other => {}
        }
    }
}
