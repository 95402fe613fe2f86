//! The end of a run: all faults stop, all requests end, and what the replicas hold is checked.

use crate::{
    model::object::ObjectId,
    register::{Register, RegisterOrder, Value, replicas},
};

use super::{
    MS, S, World,
    clients::{fast_objects, is_mixed, safe_objects},
    machine::Purpose,
};
use crate::sim::linearizability::Action;

/// How long it may take until nothing is left to do.
const REST_US: u64 = 120 * S;

impl World {
    /// Stops all faults and checks what has to hold then.
    pub fn heal_and_check(&mut self) {
        self.is_healed = true;
        self.cut.clear();
        self.slow_until.fill(0);
        for n in 0..self.machines.len() {
            self.start(n);
        }
        self.run_until_idle();
        let members = self.seated();
        for id in safe_objects() {
            for n in &members {
                self.operate(*n, &id, Action::Read);
            }
        }
        self.run_until_idle();
        self.repair(&members);
        if let Err(why) = self.oracle.check() {
            panic!("{why}");
        }
    }

    fn seated(&self) -> Vec<usize> {
        let members = &self.table.configuration().members;
        (0..self.machines.len()).filter(|n| members.contains(&self.machines[*n].id)).collect()
    }

    /// Runs until nothing is left to do.
    fn run_until_idle(&mut self) {
        let end = self.now + REST_US;
        while !self.is_idle() {
            assert!(self.now < end, "no rest: {}", self.busy_nodes());
            self.remove_lost_members();
            for n in 0..self.machines.len() {
                let process = self.machines[n].process.as_ref();
                if process.is_some_and(|process| process.ops.is_empty()) {
                    self.drain(n);
                }
            }
            self.run_until(self.now + 100 * MS);
        }
    }

    fn is_idle(&self) -> bool {
        let configuration = self.table.configuration();
        !configuration.is_joint()
            && self.machines.iter().all(|machine| {
                let Some(process) = &machine.process else { return false };
                let is_member = configuration.members.contains(&machine.id);
                let has_adopted = process.registers.epoch() == Some(configuration.epoch);
                let status = process.registers.status();
                process.ops.is_empty()
                    && machine.jobs.is_empty()
                    && (!is_member
                        || (has_adopted && machine.outbox.is_empty() && !machine.is_lost))
                    && (!is_member || !status.is_adopting)
            })
    }

    fn busy_nodes(&self) -> String {
        let mut text = format!("{:?}\n", self.table.configuration());
        for (n, machine) in self.machines.iter().enumerate() {
            let status = machine.process.as_ref().map(|process| process.registers.status());
            let ops = machine.process.as_ref().map(|process| process.ops.len());
            let (outbox, lost) = (machine.outbox.len(), machine.is_lost);
            text += &format!("n{n} {ops:?} ops, {outbox} in the outbox, lost {lost}, {status:?}\n");
        }
        text
    }

    /// Repairs every object, checks that all replicas hold the same, and removes the tombstones.
    fn repair(&mut self, members: &[usize]) {
        // Fast writes on a machine that has left the group are not lost, but they do not reach their replicas either.
        for n in 0..self.machines.len() {
            if !members.contains(&n) {
                let left: Vec<_> =
                    std::mem::take(&mut self.machines[n].outbox).into_iter().collect();
                self.oracle.lost(left);
            }
        }
        let Some(first) = members.first().copied() else { return };
        let mut objects = safe_objects();
        objects.extend(fast_objects());
        for id in &objects {
            self.begin(first, id, RegisterOrder::Repair, 100 * S, Purpose::Other);
        }
        self.run_until_idle();
        for id in &objects {
            let copies = self.copies(id);
            let first = &copies[0];
            let is_same = |copy: &Option<Register>| {
                copy.as_ref().map(|copy| (copy.accepted, &copy.value))
                    == first.as_ref().map(|first| (first.accepted, &first.value))
            };
            let all_absent = copies
                .iter()
                .all(|copy| copy.as_ref().is_none_or(|copy| copy.value == Value::Absent));
            assert!(all_absent || copies.iter().all(is_same), "{id} is not repaired: {copies:?}");
            let found = first.as_ref().map_or(Value::Absent, |first| first.value.clone());
            if fast_objects().contains(id) && !self.oracle.broken.contains(id) {
                let checked = if is_mixed(id) {
                    self.oracle.check_not_older(id, &found)
                } else {
                    self.oracle.check_fast(id, &found)
                };
                if let Err(why) = checked {
                    panic!("{why}");
                }
            }
        }
        self.remove_all(first, &objects);
    }

    /// Removes every tombstone, and checks that nothing is left of it.
    fn remove_all(&mut self, n: usize, objects: &[ObjectId]) {
        for id in objects {
            let held = self.copies(id).into_iter().flatten().next();
            let version = match held.map(|held| held.value) {
                Some(Value::Tombstone(tombstone)) => tombstone.version,
                Some(Value::Absent) => Default::default(),
                _ => continue,
            };
            self.begin(n, id, RegisterOrder::Clear(version), 100 * S, Purpose::Other);
            self.run_until_idle();
            // Time for the drop messages to arrive.
            self.run_until(self.now + 300 * MS);
            let left: Vec<_> = self.copies(id).into_iter().flatten().collect();
            assert!(left.is_empty(), "{id} is not removed: {left:?}");
        }
    }

    /// What the replicas of an object have on their disks.
    fn copies(&self, id: &ObjectId) -> Vec<Option<Register>> {
        let configuration = self.table.configuration();
        let nodes = replicas(id, &configuration.members, configuration.replication_factor);
        let machine = |node| self.index_of(node).map(|n| &self.machines[n]);
        let of = |node| machine(node).and_then(|machine| machine.disk.registers.get(id).cloned());
        nodes.into_iter().map(of).collect()
    }
}
