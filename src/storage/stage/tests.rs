//! What jobs of one batch change, record by record.

use std::sync::mpsc;

use super::*;
use crate::{
    reading,
    records::{TAG_EXPIRING, TAG_REGISTER},
    table::Map,
};
use nomad_core::{
    model::{
        change::{Condition, Content},
        time::UnixSecs,
    },
    register::{Ballot, Register, ShardState, Tombstone, Value, shard_of},
};
use nomad_ports::object_store::{OutboxChange, RegisterJob};

/// A map with what a writer knows of it.
struct Kept {
    records: Map,
    clock: HybridClock,
    facts: Facts,
}

impl Kept {
    fn new() -> Self {
        Self { records: Map::new(), clock: HybridClock::new(1, None), facts: Facts::default() }
    }

    /// Decides jobs as one batch, applies it, and returns the keys that it writes.
    fn run(&mut self, jobs: Vec<StoreJob>) -> Vec<Vec<u8>> {
        let stage = BatchStage {
            table: &self.records,
            clock: &mut self.clock,
            now: UnixMs(1_000_000),
            sweep_from: &mut Vec::new(),
            short: None,
            staged: Staged { facts: self.facts, ..Staged::default() },
        };
        let batch = jobs.into_iter().map(|job| QueuedJob { job, at: MonotonicUs(0) }).collect();
        let staged = stage.run(batch, MonotonicUs(0));
        self.facts = staged.facts;
        let keys = staged.ops.keys().cloned().collect();
        for (key, op) in staged.ops {
            match op {
                Some(record) => self.records.insert(key, record),
                None => self.records.remove(&key),
            };
        }
        for answer in staged.answers {
            answer.send(None, 0, 1);
        }
        keys
    }

    fn register(&self, id: &ObjectId) -> Option<Register> {
        reading::register(&self.records, id, self.facts.is_loose).unwrap()
    }
}

fn id(text: &str) -> ObjectId {
    ObjectId::parse(text).unwrap()
}

fn ballot(counter: u64) -> Ballot {
    Ballot { epoch: 1, counter, node: 1 }
}

fn live(id: &ObjectId, counter: u64) -> Register {
    let object = Object {
        id: id.clone(),
        value: Bytes::from_static(b"value"),
        creation_time: UnixSecs(1),
        expires_at: Some(UnixSecs(5_000)),
        last_modified: UnixSecs(1),
        version: Version { time: counter, node: 1 },
        content_type: None,
    };
    Register {
        promised: ballot(counter),
        accepted: ballot(counter),
        value: Value::Live(object),
        ..Register::default()
    }
}

fn tombstone(counter: u64) -> Register {
    let value = Value::Tombstone(Tombstone { version: Version { time: counter, node: 1 } });
    Register { promised: ballot(counter), accepted: ballot(counter), value, ..Register::default() }
}

fn keep(id: &ObjectId, register: Option<Register>) -> StoreJob {
    StoreJob::Registers(RegisterJob {
        shard: shard_of(id),
        wipe: false,
        state: None,
        writes: vec![(id.clone(), register)],
        done: Box::new(|result| result.unwrap()),
    })
}

fn wipe(shard: u8) -> StoreJob {
    let done = Box::new(|result: Result<(), _>| result.unwrap());
    StoreJob::Registers(RegisterJob { shard, wipe: true, state: None, writes: Vec::new(), done })
}

struct Done(mpsc::Sender<WriteResult>);

impl Completion for Done {
    fn is_abandoned(&self) -> bool {
        false
    }

    fn complete(self: Box<Self>, receipt: Receipt) {
        let _ = self.0.send(receipt.result);
    }
}

fn put(id: &ObjectId) -> (StoreJob, mpsc::Receiver<WriteResult>) {
    let content = Content {
        value: Bytes::from_static(b"loose"),
        creation_time: None,
        expires_at: Some(UnixSecs(5_000)),
        content_type: None,
    };
    let change = Change::Write { content, condition: Condition::Any };
    let (sender, answer) = mpsc::channel();
    let done = Box::new(Done(sender));
    (StoreJob::Write(WriteJob { tier: Tier::Group, id: id.clone(), change, done }), answer)
}

/// A promise costs the register's record, however large its object is; so does the same value under another ballot.
#[test]
fn an_object_is_written_only_when_it_changes() {
    let (mut kept, a) = (Kept::new(), id("a"));
    assert_eq!(kept.run(vec![keep(&a, Some(live(&a, 1)))]).len(), 3);
    let promise = Register { promised: ballot(5), ..live(&a, 1) };
    assert_eq!(kept.run(vec![keep(&a, Some(promise.clone()))]), [register_key(&a)]);
    let again = Register { promised: ballot(6), accepted: ballot(6), ..promise };
    assert_eq!(kept.run(vec![keep(&a, Some(again.clone()))]), [register_key(&a)]);
    assert_eq!(kept.register(&a), Some(again.clone()));
    // Another value is written even if, by a defect elsewhere, it has the same version.
    let Value::Live(mut object) = again.value else { panic!() };
    object.value = Bytes::from_static(b"another");
    let other = Register {
        promised: ballot(7),
        accepted: ballot(7),
        value: Value::Live(object),
        ..Register::default()
    };
    kept.run(vec![keep(&a, Some(other.clone()))]);
    assert_eq!(kept.register(&a), Some(other));
}

#[test]
fn later_jobs_of_a_batch_see_the_earlier_ones() {
    let (mut kept, a, b) = (Kept::new(), id("a"), id("b"));
    kept.run(vec![
        keep(&a, Some(live(&a, 1))),
        keep(&a, Some(tombstone(2))),
        keep(&b, Some(live(&b, 1))),
        keep(&b, None),
    ]);
    assert_eq!(kept.register(&a), Some(tombstone(2)));
    let tags: Vec<_> = kept.records.keys().map(|key| key[0]).collect();
    assert_eq!(tags, [TAG_REGISTER], "no object and no index entry is left");
    // A write past the registers, and a register over what was just written.
    let ((past, refused), (loose, written)) = (put(&a), put(&b));
    kept.run(vec![past, loose, keep(&b, Some(live(&b, 3)))]);
    assert!(matches!(refused.recv().unwrap(), Err(StoreError::Replicated { .. })));
    assert!(matches!(written.recv().unwrap(), Ok(Ok(Written::Kept { .. }))));
    assert_eq!(kept.register(&b), Some(live(&b, 3)));
    let index: Vec<_> = kept.records.keys().filter(|key| key[0] == TAG_EXPIRING).collect();
    assert_eq!(index.len(), 1);
    assert!(!kept.records.keys().any(|key| key[0] == TAG_EXPIRY));
}

#[test]
fn a_wipe_takes_what_its_own_batch_has_brought() {
    let mut kept = Kept::new();
    let shard = 3;
    let ids: Vec<_> = (0..)
        .map(|index| id(&format!("k{index}")))
        .filter(|id| shard_of(id) == shard)
        .take(5)
        .collect();
    let (on_disk, loose_on_disk) = (put(&ids[1]), keep(&ids[0], Some(live(&ids[0], 1))));
    kept.run(vec![on_disk.0, loose_on_disk]);
    let (loose, _answer) = put(&ids[3]);
    let (after, _answer) = put(&ids[4]);
    kept.run(vec![
        keep(&ids[2], Some(live(&ids[2], 1))),
        loose,
        keep(&ids[0], None),
        wipe(shard),
        keep(&ids[2], Some(tombstone(7))),
        after,
    ]);
    for id in [&ids[0], &ids[1], &ids[3]] {
        assert_eq!(kept.register(id), None, "{id}");
    }
    assert_eq!(kept.register(&ids[2]), Some(tombstone(7)));
    assert!(kept.register(&ids[4]).is_some());
    let index = kept.records.keys().filter(|key| matches!(key[0], TAG_EXPIRING | TAG_EXPIRY));
    assert_eq!(index.count(), 1);
}

#[test]
fn a_wipe_forgets_the_group_that_the_registers_were_of() {
    let (mut kept, shard) = (Kept::new(), 3);
    let state = ShardState {
        group: "group-a".into(),
        claim: 1,
        configuration: nomad_core::group::table::Configuration {
            epoch: 1,
            members: Default::default(),
            replication_factor: 3,
            old: None,
        },
        counter_limit: 9,
        version_limit: 9,
        floor: Default::default(),
        ceiling: Default::default(),
    };
    let done = Box::new(|result: Result<(), _>| result.unwrap());
    let keep =
        RegisterJob { shard, wipe: false, state: Some(state.clone()), writes: Vec::new(), done };
    kept.run(vec![StoreJob::Registers(keep)]);
    assert_eq!(reading::shard_state(&kept.records, shard).unwrap(), Some(state));
    kept.run(vec![wipe(shard)]);
    assert_eq!(reading::shard_state(&kept.records, shard).unwrap(), None);
}

#[test]
fn an_outbox_that_is_empty_is_not_looked_into_and_counts_what_is_in_it() {
    let (mut kept, a) = (Kept::new(), id("a"));
    let change = |put, remove| {
        let done = Box::new(|result: Result<(), _>| result.unwrap());
        StoreJob::Outbox(OutboxJob { change: OutboxChange { put, remove, watermark: None }, done })
    };
    let value = |counter| live(&a, counter).value;
    let version = |counter| Version { time: counter, node: 1 };
    kept.run(vec![
        change(vec![(a.clone(), value(2))], Vec::new()),
        change(Vec::new(), vec![(a.clone(), version(2))]),
        change(vec![(a.clone(), value(1))], Vec::new()),
    ]);
    assert_eq!(kept.facts.outbox_entries, 1);
    let entry = reading::outbox_entry(&kept.records, &a).unwrap();
    assert_eq!(entry, Some(value(1)));
    let counted = Facts::of(&kept.records).unwrap();
    assert_eq!(counted, kept.facts);
    assert!(kept.clock.last() >= version(2));
}
