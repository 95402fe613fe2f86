//! The rescan of a joint epoch (rule 9): every object that this node has accepted, and whose replica set changes, is settled at
//! a quorum of both sets. Until the rescan is reported, quorums of the old set are needed as well.

use std::collections::BTreeSet;

use super::{
    RegisterEffect, Registers,
    line::{QueuedTask, RoundTask},
};
use crate::model::object::ObjectId;

#[derive(Debug)]
pub(super) struct ShardRescan {
    epoch: u64,
    /// What has not been begun, in reverse order.
    left: Vec<ObjectId>,
    running: BTreeSet<ObjectId>,
    is_done: bool,
}

impl ShardRescan {
    /// Returns how many objects are not settled.
    pub fn left(&self) -> usize {
        self.left.len() + self.running.len()
    }
}

impl Registers {
    /// Begins the rescan of these objects.
    pub(super) fn begin_rescan(&mut self, epoch: u64, ids: Vec<ObjectId>) {
        let faults = self.options.faults();
        let mut left = if faults.no_rescan { Vec::new() } else { ids };
        left.reverse();
        if faults.rescanned_at_once {
            self.out.push(RegisterEffect::Rescanned { epoch });
        }
        self.rescan = Some(ShardRescan { epoch, left, running: BTreeSet::new(), is_done: false });
        self.go_on_with_rescan();
    }

    fn go_on_with_rescan(&mut self) {
        let Some(rescan) = &mut self.rescan else { return };
        while rescan.running.len() < self.options.rescans_max {
            let Some(id) = rescan.left.pop() else { break };
            if !rescan.running.insert(id.clone()) {
                continue;
            }
            self.counts.rescans += 1;
            // Before what clients want, which may never end on a busy object.
            let line = self.lines.entry(id.clone()).or_default();
            line.queue.push_front(QueuedTask { op: None, task: RoundTask::Rescan });
            self.again.insert(id);
        }
        if rescan.left() == 0 && !rescan.is_done {
            rescan.is_done = true;
            let epoch = rescan.epoch;
            self.out.push(RegisterEffect::Rescanned { epoch });
        }
    }

    /// An object is settled.
    pub(super) fn rescanned(&mut self, id: &ObjectId) {
        if let Some(rescan) = &mut self.rescan {
            rescan.running.remove(id);
            self.go_on_with_rescan();
        }
    }
}
