//! The group's table. There is one true table, as the group's log would give it. Members hear of its changes sooner or later.

use std::collections::BTreeSet;

use crate::{
    group::{
        Member, RetrievalMode, SettingChange, Settings, StorageMode,
        table::{Applied, Configuration, Old, Seat, TableCommand},
    },
    model::node_id::NodeId,
    register::RegisterEvent,
    world::Position,
};
use rand::Rng;

use super::{MS, SimEvent, World, machine::Machine};

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

    /// Forces a change that waits for members whose disks are lost (rule 14). The lost members are named in the command: members
    /// that are still there have to finish their rescans.
    pub fn force(&mut self) {
        let last = self.table.configuration().clone();
        let is_lost =
            |node: &NodeId| self.index_of(*node).is_some_and(|n| self.machines[n].is_lost);
        let Some(old) = last.old.as_ref().filter(|_| last.everybody().iter().any(is_lost)) else {
            return;
        };
        let rest = |nodes: &BTreeSet<NodeId>| -> BTreeSet<NodeId> {
            nodes.iter().copied().filter(|node| !is_lost(node)).collect()
        };
        let (members, of_old) = (rest(&last.members), rest(&old.members));
        if members.is_empty() || of_old.is_empty() {
            return;
        }
        let old = Old { members: of_old, forced: true, ..old.clone() };
        let next = Configuration { epoch: last.epoch + 1, members, old: Some(old), ..last };
        let everybody = next.everybody();
        self.table.seats.retain(|node, _| everybody.contains(node));
        if !next.members.contains(&self.table.super_peer) {
            self.table.super_peer = *next.members.first().unwrap();
        }
        self.table.acknowledged.clear();
        self.table.chain.push_back(next);
        self.oracle.forced += 1;
        self.tell_all();
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

    /// Whether a disk may be lost now: never two at a time, and never the only copy of an object.
    pub fn may_lose(&self, n: usize) -> bool {
        let last = self.table.configuration();
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
