//! The group's table. There is one true table, as the group's log would give it. Members hear of its changes sooner or later.

use std::collections::BTreeSet;

use crate::{
    group::{
        Member, RetrievalMode, SettingChange, Settings, StorageMode,
        table::{Applied, Seat, TableCommand},
    },
    model::node_id::NodeId,
    register::{RegisterEvent, ReplicaSet, is_forced, replicas},
    world::Position,
};
use rand::Rng;

use super::{
    MS, SimEvent, World,
    clients::{fast_objects, safe_objects},
    machine::Machine,
};

pub fn settings(replication_factor: u32) -> Settings {
    Settings {
        storage_mode: StorageMode::Safe,
        retrieval_mode: RetrievalMode::Safe,
        migration: false,
        replication_factor,
    }
}

pub fn seat(machine: &Machine) -> Seat {
    let member = Member {
        node: machine.id,
        rest: String::new(),
        peer: String::new(),
        storage: String::new(),
        position: Position { x: 0.0, y: 0.0 },
    };
    Seat { member, claim: machine.claim, permanent: false }
}

impl World {
    /// Writes an entry into the group's log.
    pub fn propose(&mut self, command: &TableCommand) -> bool {
        let before = self.table.epoch();
        let applied = self.table.apply(command);
        if self.table.epoch() != before {
            self.tell_all();
        }
        applied == Applied::Done
    }

    /// Tells the members about a new configuration, after random delays.
    fn tell_all(&mut self) {
        self.oracle.changes += 1;
        self.print_trace(99, || format!("configuration {:?}", self.shown()));
        for n in 0..self.machines.len() {
            let wait = match self.rng.random_range(0..10) {
                _ if self.is_healed => self.rng.random_range(0..20 * MS),
                0..6 => self.rng.random_range(0..20 * MS),
                6..9 => self.rng.random_range(0..500 * MS),
                _ => self.rng.random_range(0..3_000 * MS),
            };
            self.at(wait, n, None, SimEvent::Learn);
        }
    }

    fn shown(&self) -> String {
        let last = self.table.configuration();
        let places = |nodes: &BTreeSet<_>| {
            let mut places: Vec<_> = nodes.iter().filter_map(|node| self.index_of(*node)).collect();
            places.sort_unstable();
            format!("{places:?}")
        };
        let old = last.old.as_ref();
        let old =
            old.map(|old| format!("{} x{} -> ", places(&old.members), old.replication_factor));
        let new = places(&last.members);
        format!("{} {}{new} x{}", last.epoch, old.unwrap_or_default(), last.replication_factor)
    }

    /// A member hears from the table. One that has left still hears, sometimes.
    pub fn learn(&mut self, n: usize) {
        let machine = &self.machines[n];
        let Some(process) = &machine.process else { return };
        let seat = self.table.seats.get(&machine.id);
        let is_seated = seat.is_some_and(|seat| seat.claim == machine.claim);
        let epoch = process.registers.epoch();
        if machine.is_lost || (!is_seated && epoch.is_none()) {
            return;
        }
        let from = match epoch {
            Some(epoch) if self.rng.random_bool(0.5) => epoch,
            _ => 0,
        };
        let chain = self.table.chain.iter().filter(|next| next.epoch >= from).cloned().collect();
        self.step(n, RegisterEvent::Configured { chain });
    }

    /// The table hears that a member has finished its rescan.
    pub fn acknowledge(&mut self, n: usize, claim: u64, epoch: u64) {
        let node = self.machines[n].id;
        if self.table.seats.get(&node).is_some_and(|seat| seat.claim == claim) {
            self.propose(&TableCommand::Acknowledge { node, epoch });
        }
    }

    fn members(&self) -> Vec<usize> {
        let members = &self.table.configuration().members;
        (0..self.machines.len()).filter(|n| members.contains(&self.machines[*n].id)).collect()
    }

    /// Begins a change of the members or of the replication factor.
    pub fn change_group(&mut self) {
        if self.table.configuration().is_joint() {
            return;
        }
        if self.rng.random_range(0..100) < self.plan.factor {
            let factor = self.rng.random_range(1..=5);
            self.propose(&TableCommand::Set(SettingChange::ReplicationFactor(factor)));
            return;
        }
        let members = self.members();
        let seated = |n: &usize| self.table.seats.contains_key(&self.machines[*n].id);
        let mut outside: Vec<_> = (0..self.machines.len()).filter(|n| !seated(n)).collect();
        let mut add = Vec::new();
        let mut remove: Vec<_> =
            members.iter().copied().filter(|n| self.machines[*n].is_lost).collect();
        let kind = self.rng.random_range(0..4);
        if (kind != 0 || members.len() < 3) && !outside.is_empty() {
            let count = self.rng.random_range(1..=outside.len().min(3));
            for _ in 0..count {
                let n = outside.swap_remove(self.rng.random_range(0..outside.len()));
                add.push(n);
            }
        }
        if kind != 1 && members.len() + add.len() > 3 && remove.is_empty() {
            let count = self.rng.random_range(1..=2);
            for _ in 0..count {
                let n = members[self.rng.random_range(0..members.len())];
                if !remove.contains(&n) && members.len() + add.len() > remove.len() + 2 {
                    remove.push(n);
                }
            }
        }
        self.order(&add, &remove);
    }

    /// Writes a change of members.
    pub fn order(&mut self, add: &[usize], remove: &[usize]) {
        let staying = self.members().into_iter().find(|n| !remove.contains(n));
        let Some(staying) = staying else { return };
        self.propose(&TableCommand::Lead { node: self.machines[staying].id });
        for n in add {
            // It joins under a claim that it has not lost a disk under.
            self.machines[*n].is_lost = false;
        }
        let remove = remove
            .iter()
            .map(|n| {
                let node = self.machines[*n].id;
                (node, self.table.seats.get(&node).map_or(0, |seat| seat.claim))
            })
            .collect();
        let add = add.iter().map(|n| seat(&self.machines[*n])).collect();
        self.propose(&TableCommand::Change { add, remove });
    }

    /// Forces a change in which disks are lost (rule 14), as the super-peer does. Of an object that has lost its old majority the
    /// newest value may be lost too: then it is not checked any more. All other objects are.
    pub fn force(&mut self) {
        let last = self.table.configuration().clone();
        let is_lost =
            |node: &NodeId| self.index_of(*node).is_some_and(|n| self.machines[n].is_lost);
        let lost: BTreeSet<_> = last.everybody().into_iter().filter(is_lost).collect();
        let mut rest = &last.members - &lost;
        if rest.is_empty() {
            rest = &last.everybody() - &lost;
        }
        let Some(by) = rest.first().copied().filter(|_| last.is_joint() && !lost.is_empty()) else {
            return;
        };
        if self.propose(&TableCommand::Force { epoch: last.epoch, lost, by }) {
            self.oracle.forced += 1;
            self.find_broken();
        }
    }

    /// Finds the objects that have lost their old majority, and whose newest value nobody has any more.
    fn find_broken(&mut self) {
        let now = self.table.configuration();
        let stable = self.table.chain.iter().rev().find(|last| !last.is_joint());
        let stable = stable.map_or(0, |stable| stable.epoch);
        let old = now.old.as_ref().unwrap();
        let mut broken = Vec::new();
        for id in safe_objects().into_iter().chain(fast_objects()) {
            if !is_forced(&id, now) {
                continue;
            }
            let was_there = replicas(&id, &old.members, old.replication_factor);
            let held = |(_, node): (u32, NodeId)| {
                let machine = &self.machines[self.index_of(node)?];
                let accepted = machine.disk.registers.get(&id)?.accepted;
                // What a new replica has from before this change, it will yet delete.
                (was_there.contains(&node) || accepted.epoch > stable).then_some(accepted)
            };
            let best = ReplicaSet::of(&id, now).nodes().filter_map(held).max();
            if best < self.oracle.newest(&id) {
                broken.push(id);
            }
        }
        self.oracle.broken.extend(broken);
    }

    /// Removes members whose disks are lost, so that the run can end.
    pub fn remove_lost_members(&mut self) {
        if self.table.configuration().is_joint() {
            self.force();
            return;
        }
        let members = self.members();
        let lost: Vec<_> = members.iter().copied().filter(|n| self.machines[*n].is_lost).collect();
        if !lost.is_empty() {
            self.order(&[], &lost);
        }
    }

    /// Whether a disk may be lost now: seldom two at a time, and never the only copy of an object.
    pub fn may_lose(&self, n: usize) -> bool {
        let last = self.table.configuration();
        if self.steps.is_multiple_of(3) && !self.mistakes.amnesia {
            // A second one, perhaps in the middle of the change that the first one has led to.
            let lost = self.machines.iter().filter(|machine| machine.is_lost).count();
            let left = last.members.len().min(last.replication_factor as usize);
            return lost == 1 && left >= 3 && self.machines[n].process.is_some();
        }
        let is_seated = self.table.seats.contains_key(&self.machines[n].id);
        let replicas = last.members.len().min(last.replication_factor as usize);
        let is_waiting =
            |machine: &Machine| machine.is_lost && self.table.seats.contains_key(&machine.id);
        !last.is_joint()
            && !self.machines.iter().any(is_waiting)
            && (!is_seated || replicas >= 2)
            && self.machines[n].process.is_some()
    }
}
