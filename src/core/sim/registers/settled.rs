//! The end of a run: everything is healed, everything that was begun ends, and what is there is what was promised.

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

/// How long it may take until all is at rest.
const REST_US: u64 = 120 * S;

impl World {
    /// Heals everything and checks what has to be true then.
    pub fn settle(&mut self) {
        self.is_healed = true;
        self.cut.clear();
        self.slow_until.fill(0);
        for n in 0..self.machines.len() {
            self.start(n);
        }
        self.rest();
        let members = self.seated();
        for id in safe_objects() {
            for n in &members {
                self.operate(*n, &id, Action::Read);
            }
        }
        self.rest();
        self.repair(&members);
        if let Err(why) = self.book.check() {
            panic!("{why}");
        }
    }

    fn seated(&self) -> Vec<usize> {
        let members = &self.table.configuration().members;
        (0..self.machines.len()).filter(|n| members.contains(&self.machines[*n].id)).collect()
    }

    /// Runs until nothing is left to be done.
    fn rest(&mut self) {
        let end = self.now + REST_US;
        while !self.is_at_rest() {
            assert!(self.now < end, "no rest: {}", self.restless());
            self.tidy_group();
            for n in 0..self.machines.len() {
                let process = self.machines[n].process.as_ref();
                if process.is_some_and(|process| process.ops.is_empty()) {
                    self.drain(n);
                }
            }
            self.run_until(self.now + 100 * MS);
        }
    }

    fn is_at_rest(&self) -> bool {
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

    fn restless(&self) -> String {
        let mut text = format!("{:?}\n", self.table.configuration());
        for (n, machine) in self.machines.iter().enumerate() {
            let status = machine.process.as_ref().map(|process| process.registers.status());
            let ops = machine.process.as_ref().map(|process| process.ops.len());
            let (outbox, lost) = (machine.outbox.len(), machine.is_lost);
            text += &format!("n{n} {ops:?} ops, {outbox} in the outbox, lost {lost}, {status:?}\n");
        }
        text
    }

    /// Repairs every object, after which all replicas have the same, and then removes the tombstones.
    fn repair(&mut self, members: &[usize]) {
        // What left the group with a machine outside of it is not lost, but on no way to its replicas either.
        for n in 0..self.machines.len() {
            if !members.contains(&n) {
                let left: Vec<_> =
                    std::mem::take(&mut self.machines[n].outbox).into_iter().collect();
                self.book.lost(left);
            }
        }
        let Some(first) = members.first().copied() else { return };
        let mut objects = safe_objects();
        objects.extend(fast_objects());
        for id in &objects {
            self.begin(first, id, RegisterOrder::Repair, 100 * S, Purpose::Other);
        }
        self.rest();
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
            if fast_objects().contains(id) {
                let checked = if is_mixed(id) {
                    self.book.check_not_older(id, &found)
                } else {
                    self.book.check_fast(id, &found)
                };
                if let Err(why) = checked {
                    panic!("{why}");
                }
            }
        }
        self.remove_all(first, &objects);
    }

    /// Removes every tombstone: nothing is left of it anywhere.
    fn remove_all(&mut self, n: usize, objects: &[ObjectId]) {
        for id in objects {
            let held = self.copies(id).into_iter().flatten().next();
            let version = match held.map(|held| held.value) {
                Some(Value::Tombstone(tombstone)) => tombstone.version,
                Some(Value::Absent) => Default::default(),
                _ => continue,
            };
            self.begin(n, id, RegisterOrder::Clear(version), 100 * S, Purpose::Other);
            self.rest();
            // The message to drop it is on its way.
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
