//! Decides what one worker sends next. Pure and seeded: the same plan and worker number give the same operations,
//! whatever the server answers (only deletes depend on which puts succeeded).

use std::collections::VecDeque;

use bytes::Bytes;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};

use super::{
    mix::{Mix, OpKind},
    plan::BenchPlan,
};

/// How many of its own objects a worker remembers for deletion.
const REMEMBERED_MAX: usize = 1024;
/// Values are cut from a pool of this many random bytes more than one value needs.
const POOL_EXTRA_BYTES: usize = 64 * 1024;

/// One request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BenchOperation {
    /// What it does.
    pub kind: OpKind,
    /// The object's id.
    pub key: String,
    /// The value to write; empty for get and delete.
    pub value: Bytes,
    /// The number of an object that this worker creates or deletes.
    own: u64,
}

/// Random bytes that all values are cut from, so that no two values are alike and none is computed while measuring.
#[derive(Debug, Clone)]
pub(super) struct ValuePool {
    bytes: Bytes,
    value_size_bytes: usize,
}

impl ValuePool {
    pub(super) fn new(plan: &BenchPlan) -> ValuePool {
        let mut bytes = vec![0; plan.value_size_bytes + POOL_EXTRA_BYTES];
        StdRng::seed_from_u64(plan.seed).fill_bytes(&mut bytes);
        ValuePool { bytes: bytes.into(), value_size_bytes: plan.value_size_bytes }
    }

    fn cut(&self, at: u64) -> Bytes {
        let start = (at % POOL_EXTRA_BYTES as u64) as usize;
        self.bytes.slice(start..start + self.value_size_bytes)
    }
}

/// The operations of one worker.
pub(super) struct Workload {
    mix: Mix,
    key_count: u64,
    shared_prefix: String,
    own_prefix: String,
    values: ValuePool,
    rng: StdRng,
    created_count: u64,
    // invariant: at most REMEMBERED_MAX, oldest first.
    deletable: VecDeque<u64>,
}

impl Workload {
    /// The operations of worker `worker` in the run called `run`.
    pub(super) fn new(plan: &BenchPlan, values: ValuePool, run: &str, worker: usize) -> Workload {
        Workload {
            mix: plan.mix,
            key_count: plan.key_count,
            shared_prefix: plan.key_prefix.clone(),
            own_prefix: format!("{}:{run}:{worker}", plan.key_prefix),
            values,
            rng: StdRng::seed_from_u64(plan.seed ^ (worker as u64 + 1).wrapping_mul(0x9E37_79B9)),
            created_count: 0,
            deletable: VecDeque::new(),
        }
    }

    /// The next operation of the mix. A delete with nothing to delete becomes a put.
    pub(super) fn next(&mut self) -> BenchOperation {
        let ticket = self.rng.random_range(0..self.mix.total());
        match self.mix.pick(ticket) {
            OpKind::Get => {
                let index = self.rng.random_range(0..self.key_count);
                self.operation(OpKind::Get, shared_key(&self.shared_prefix, index), 0)
            }
            OpKind::Update => {
                let index = self.rng.random_range(0..self.key_count);
                self.operation(OpKind::Update, shared_key(&self.shared_prefix, index), 0)
            }
            OpKind::Put => self.create(),
            OpKind::Delete => match self.deletable.pop_front() {
                Some(own) => self.operation(OpKind::Delete, self.own_key(own), own),
                None => self.create(),
            },
        }
    }

    /// The write that fills key `index` of the key space. `kind` is put or update.
    pub(super) fn fill(&mut self, kind: OpKind, index: u64) -> BenchOperation {
        self.operation(kind, shared_key(&self.shared_prefix, index), 0)
    }

    /// Learns that `op` succeeded, so that what it created can be deleted.
    pub(super) fn succeeded(&mut self, op: &BenchOperation) {
        if op.kind == OpKind::Put && self.mix.delete > 0 {
            if self.deletable.len() == REMEMBERED_MAX {
                self.deletable.pop_front();
            }
            self.deletable.push_back(op.own);
        }
    }

    fn create(&mut self) -> BenchOperation {
        self.created_count += 1;
        let own = self.created_count;
        self.operation(OpKind::Put, self.own_key(own), own)
    }

    fn own_key(&self, own: u64) -> String {
        format!("{}:{own}", self.own_prefix)
    }

    fn operation(&mut self, kind: OpKind, key: String, own: u64) -> BenchOperation {
        let value = match kind {
            OpKind::Put | OpKind::Update => self.values.cut(self.rng.next_u64()),
            OpKind::Get | OpKind::Delete => Bytes::new(),
        };
        BenchOperation { kind, key, value, own }
    }
}

/// Key `index` of the key space. The same in every run, so that one run can read what another has filled.
fn shared_key(prefix: &str, index: u64) -> String {
    format!("{prefix}:k{index:09}")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::bench::target::BenchTarget;

    fn plan(mix: &str) -> BenchPlan {
        let target = BenchTarget::Grpc { storage: "127.0.0.1:1".parse().unwrap() };
        let mix = mix.parse().unwrap();
        BenchPlan { mix, key_count: 50, key_prefix: "p".to_owned(), ..BenchPlan::new(target) }
    }

    fn workload(plan: &BenchPlan, worker: usize) -> Workload {
        Workload::new(plan, ValuePool::new(plan), "run", worker)
    }

    #[test]
    fn the_same_seed_and_worker_give_the_same_operations() {
        let plan = plan("get=5,put=3,update=2");
        let (mut one, mut two) = (workload(&plan, 3), workload(&plan, 3));
        let mut other = workload(&plan, 4);
        let ops: Vec<_> = (0..200).map(|_| one.next()).collect();
        assert_eq!(ops, (0..200).map(|_| two.next()).collect::<Vec<_>>());
        assert_ne!(ops, (0..200).map(|_| other.next()).collect::<Vec<_>>());
    }

    #[test]
    fn a_put_never_repeats_a_key_of_any_worker_or_of_the_key_space() {
        let plan = plan("get=1,put=1,update=1");
        let (mut created, mut shared) = (BTreeSet::new(), BTreeSet::new());
        for worker in 0..8 {
            let mut workload = workload(&plan, worker);
            for _ in 0..500 {
                let op = workload.next();
                match op.kind {
                    OpKind::Put => assert!(created.insert(op.key.clone()), "{} twice", op.key),
                    _ => {
                        shared.insert(op.key);
                    }
                }
            }
        }
        assert_eq!(shared.len(), 50);
        assert!(created.is_disjoint(&shared));
    }

    #[test]
    fn a_delete_takes_what_was_put_and_only_once() {
        let plan = plan("put=1,delete=1");
        let mut workload = workload(&plan, 0);
        let mut present = BTreeSet::new();
        for turn in 0..2000 {
            let op = workload.next();
            match op.kind {
                OpKind::Delete => assert!(present.remove(&op.key), "{} was not there", op.key),
                // Every third put fails, so its object must not be deleted.
                OpKind::Put if turn % 3 != 0 => {
                    workload.succeeded(&op);
                    present.insert(op.key);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn what_a_worker_remembers_is_bounded() {
        let plan = plan("put=1000,delete=1");
        let mut workload = workload(&plan, 0);
        for _ in 0..5000 {
            let op = workload.next();
            workload.succeeded(&op);
        }
        assert_eq!(workload.deletable.len(), REMEMBERED_MAX);
    }

    #[test]
    fn values_have_the_size_of_the_plan_and_differ() {
        let plan = BenchPlan { value_size_bytes: 100, ..plan("put=1") };
        let mut workload = workload(&plan, 0);
        let mut seen = BTreeMap::new();
        for _ in 0..100 {
            let op = workload.next();
            assert_eq!(op.value.len(), 100);
            *seen.entry(op.value).or_insert(0) += 1;
        }
        assert!(seen.len() > 90, "only {} different values", seen.len());
    }
}
