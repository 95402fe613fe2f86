//! Tests the outbox with a store that loses what is not durable, and with registers that keep the newest value.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    machine::{Core, Now, Ticket},
    model::{
        change::{Change, Condition, Content, WriteRefusal, Written},
        object::{Object, ObjectId, Version},
        time::{MonotonicUs, UnixMs, UnixSecs},
    },
    outbox::{
        Draft, Figures, IN_FLIGHT_MAX, Limits, LoadedEntry, MergeEnd, Outbox, OutboxEffect,
        OutboxEvent, OutboxRefusal, OutboxShelf,
    },
    register::{OpId, Tombstone, Value},
};
use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

/// The first and the longest pause before a merge is tried again.
const PAUSE_US: u64 = 100_000;
const PAUSE_US_MAX: u64 = 30_000_000;
const LIMITS: Limits = Limits { entries: 100, bytes: 100_000 };
const TAG: u64 = 7;

/// A store: what is durable, and the jobs that are not durable yet.
#[derive(Default)]
struct Disk {
    entries: BTreeMap<ObjectId, Value>,
    clock: Version,
    jobs: VecDeque<(Ticket, Job)>,
}

#[derive(Clone)]
enum Job {
    Put(ObjectId, Value),
    Remove(Vec<(ObjectId, Version)>),
    Raise(Version),
}

impl Disk {
    fn apply(&mut self, job: Job) {
        match job {
            Job::Put(id, value) => {
                self.clock = self.clock.max(value.version().unwrap());
                let entry = self.entries.entry(id).or_default();
                if value.version() > entry.version() {
                    *entry = value;
                }
            }
            Job::Remove(entries) => {
                for (id, version) in entries {
                    if self.entries.get(&id).is_some_and(|kept| kept.version() == Some(version)) {
                        self.entries.remove(&id);
                    }
                }
            }
            Job::Raise(watermark) => self.clock = self.clock.max(watermark),
        }
    }
}

impl OutboxShelf for Disk {
    fn entry(&self, id: &ObjectId) -> Result<Option<Value>, String> {
        Ok(self.entries.get(id).cloned())
    }

    fn latest_version(&self) -> Version {
        self.clock
    }
}

/// A node with its outbox, and the answers that it gave.
struct Node {
    outbox: Outbox,
    disk: Disk,
    now: Now,
    merges: BTreeMap<ObjectId, Value>,
    pages: VecDeque<Vec<LoadedEntry>>,
    answers: BTreeMap<OpId, Result<Written, OutboxRefusal>>,
    kept: BTreeMap<Ticket, (OpId, Written)>,
    promised: Vec<(OpId, Version)>,
    discarded: Vec<OpId>,
    next_op: OpId,
}

impl Node {
    fn new() -> Self {
        let now =
            Now { monotonic: MonotonicUs(1_000_000), wall: UnixMs(1_700_000_000_000), entropy: 0 };
        Self {
            outbox: Outbox::new(TAG, LIMITS),
            disk: Disk::default(),
            now,
            merges: BTreeMap::new(),
            pages: VecDeque::new(),
            answers: BTreeMap::new(),
            kept: BTreeMap::new(),
            promised: Vec::new(),
            discarded: Vec::new(),
            next_op: 0,
        }
    }

    /// A node whose outbox is loaded.
    fn ready() -> Self {
        let mut node = Self::new();
        node.step(OutboxEvent::Tick);
        node.store_all();
        node.load_all();
        node
    }

    fn step(&mut self, event: OutboxEvent) {
        for effect in self.outbox.step(self.now, event, &self.disk) {
            match effect {
                OutboxEffect::Keep { ticket, op, id, value, written } => {
                    self.kept.insert(ticket, (op, written));
                    self.disk.jobs.push_back((ticket, Job::Put(id, value)));
                }
                OutboxEffect::Remove { ticket, entries } => {
                    self.disk.jobs.push_back((ticket, Job::Remove(entries)));
                }
                OutboxEffect::Raise { ticket, watermark } => {
                    self.disk.jobs.push_back((ticket, Job::Raise(watermark)));
                }
                OutboxEffect::Load { after } => {
                    let behind = |id: &ObjectId| after.as_ref().is_none_or(|after| id > after);
                    let entries = self.disk.entries.iter().filter(|(id, _)| behind(id)).take(3);
                    let page = entries.map(|(id, value)| LoadedEntry {
                        id: id.clone(),
                        version: value.version().unwrap(),
                        bytes: value.len_bytes(),
                    });
                    self.pages.push_back(page.collect());
                }
                OutboxEffect::Merge { id, value } => {
                    let again = self.merges.insert(id.clone(), value);
                    assert!(again.is_none(), "{id} is merged twice at a time");
                    assert!(self.merges.len() <= IN_FLIGHT_MAX);
                }
                OutboxEffect::Refuse { op, refused } => self.answer(op, Err(refused)),
                OutboxEffect::Promised { op, watermark } => self.promised.push((op, watermark)),
                OutboxEffect::Discarded { op } => self.discarded.push(op),
            }
        }
    }

    fn answer(&mut self, op: OpId, answer: Result<Written, OutboxRefusal>) {
        assert!(self.answers.insert(op, answer).is_none(), "{op} is answered twice");
    }

    fn op(&mut self) -> OpId {
        self.next_op += 1;
        self.next_op
    }

    fn begin(&mut self, id: &str, change: Change, seen: Value) -> OpId {
        let op = self.op();
        let id = object(id);
        self.step(OutboxEvent::Put { op, id, draft: Box::new(Draft { change, seen }) });
        op
    }

    /// Lets the disk do its next job; answers it.
    fn store(&mut self, is_durable: bool) {
        let Some((ticket, job)) = self.disk.jobs.pop_front() else { return };
        if is_durable {
            self.disk.apply(job);
        }
        if let Some((op, written)) = self.kept.remove(&ticket) {
            self.answer(op, if is_durable { Ok(written) } else { Err(OutboxRefusal::NotKept) });
        }
        self.step(OutboxEvent::Stored { ticket, is_durable });
    }

    fn store_all(&mut self) {
        while !self.disk.jobs.is_empty() {
            self.store(true);
        }
    }

    fn load_all(&mut self) {
        while let Some(page) = self.pages.pop_front() {
            self.step(OutboxEvent::Loaded { page });
        }
    }

    fn end(&mut self, id: &str, end: MergeEnd) -> Value {
        let id = object(id);
        let value = self.merges.remove(&id).expect("it is being merged");
        self.step(OutboxEvent::Merged { id, end });
        value
    }

    fn put(&mut self, id: &str, value: &str) -> Version {
        let op = self.begin(id, write(value, Condition::Any), Value::Absent);
        self.store_all();
        match self.answers[&op] {
            Ok(Written::Kept { version, .. }) => version,
            ref other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, us: u64) {
        self.now.monotonic = self.now.monotonic.plus_us(us);
        self.now.wall = UnixMs(self.now.wall.0 + us / 1000);
        self.step(OutboxEvent::Tick);
    }

    /// Kills the process and starts it again. Volatile state is gone; the first `done` jobs are durable, the others are lost.
    fn crash(&mut self, done: usize) {
        for _ in 0..done.min(self.disk.jobs.len()) {
            let (_, job) = self.disk.jobs.pop_front().unwrap();
            self.disk.apply(job);
        }
        self.disk.jobs.clear();
        self.kept.clear();
        self.merges.clear();
        self.pages.clear();
        self.outbox = Outbox::new(TAG, LIMITS);
        self.step(OutboxEvent::Tick);
    }
}

fn object(id: &str) -> ObjectId {
    ObjectId::parse(id).unwrap()
}

fn write(value: &str, condition: Condition) -> Change {
    let content = Content {
        value: Bytes::copy_from_slice(value.as_bytes()),
        creation_time: None,
        expires_at: None,
        content_type: None,
    };
    Change::Write { content, condition }
}

fn live(id: &str, version: Version, expires_at: Option<UnixSecs>) -> Value {
    Value::Live(Object {
        id: object(id),
        value: Bytes::from_static(b"x"),
        creation_time: UnixSecs(1),
        expires_at,
        last_modified: UnixSecs(1),
        version,
        content_type: None,
    })
}

#[test]
fn a_put_is_merged_once_it_is_durable_and_leaves_once_that_is_done() {
    let mut node = Node::ready();
    let op = node.begin("a", write("1", Condition::Absent), Value::Absent);
    assert!(node.merges.is_empty() && !node.answers.contains_key(&op));
    node.store(true);
    assert!(matches!(node.answers[&op], Ok(Written::Kept { created: true, .. })));
    assert_eq!(node.outbox.figures().in_flight, 1);
    node.pass(1_500_000);
    let oldest = node.outbox.figures().oldest.unwrap();
    assert_eq!(node.now.wall.0 - (oldest.time >> 16), 1_500);
    node.end("a", MergeEnd::Done);
    // Until the removal is durable it counts.
    assert_eq!(node.outbox.figures().entries, 1);
    node.store(true);
    let figures = node.outbox.figures();
    assert_eq!(figures, Figures { drained: 1, ..Figures::default() });
    assert!(node.disk.entries.is_empty());
}

#[test]
fn a_newer_write_replaces_one_that_waits_and_follows_one_under_way() {
    let mut node = Node::ready();
    let first = node.put("a", "1");
    let second = node.put("a", "2");
    let third = node.put("a", "3");
    assert!(first < second && second < third);
    assert_eq!(node.end("a", MergeEnd::Done).version(), Some(first));
    node.store_all();
    assert_eq!(node.disk.entries[&object("a")].version(), Some(third));
    assert_eq!(node.end("a", MergeEnd::NoQuorum).version(), Some(third));
    node.pass(PAUSE_US);
    assert_eq!(node.end("a", MergeEnd::Done).version(), Some(third));
    node.store_all();
    assert_eq!(node.outbox.figures().entries, 0);
    assert_eq!(node.outbox.figures().bytes, 0);
}

/// Of two creates at once on one node one wins, though neither can read the other yet.
#[test]
fn conditions_hold_against_what_is_on_its_way_and_what_the_writer_saw() {
    let mut node = Node::ready();
    let first = node.begin("a", write("1", Condition::Absent), Value::Absent);
    let second = node.begin("a", write("2", Condition::Absent), Value::Absent);
    assert!(matches!(
        node.answers[&second],
        Err(OutboxRefusal::Condition(WriteRefusal::Exists { .. }))
    ));
    node.store_all();
    let Ok(Written::Kept { version, .. }) = node.answers[&first] else { panic!("refused") };
    // What is kept here is newer than what the writer saw, and the other way round.
    let seen = live("a", Version { time: 1, node: 1 }, None);
    let stale = Condition::Version(seen.version().unwrap());
    let third = node.begin("a", write("3", stale), seen);
    let mismatch = OutboxRefusal::Condition(WriteRefusal::VersionMismatch {
        current: version,
        wanted: Version { time: 1, node: 1 },
    });
    assert_eq!(node.answers[&third], Err(mismatch));
    let deleted = Value::Tombstone(Tombstone { version: Version { time: u64::MAX / 2, node: 1 } });
    let fourth = node.begin("a", write("4", Condition::Present), deleted.clone());
    assert_eq!(node.answers[&fourth], Err(OutboxRefusal::Condition(WriteRefusal::Missing)));
    let fifth = node.begin("a", write("5", Condition::Absent), deleted.clone());
    node.store_all();
    let Ok(Written::Kept { version, created: true }) = node.answers[&fifth] else { panic!() };
    assert!(Some(version) > deleted.version());
    let delete = Change::Delete { condition: Condition::Version(version) };
    let sixth = node.begin("a", delete, Value::Absent);
    node.store_all();
    assert_eq!(node.answers[&sixth], Ok(Written::Removed));
    assert!(matches!(node.disk.entries[&object("a")], Value::Tombstone(_)));
}

#[test]
fn an_expired_object_is_absent_to_a_condition() {
    let mut node = Node::ready();
    let expired = live("a", Version { time: 1, node: 1 }, Some(node.now.wall.secs()));
    let update = node.begin("a", write("1", Condition::Present), expired.clone());
    assert_eq!(node.answers[&update], Err(OutboxRefusal::Condition(WriteRefusal::Missing)));
    let create = node.begin("a", write("1", Condition::Absent), expired);
    node.store_all();
    assert!(matches!(node.answers[&create], Ok(Written::Kept { created: true, .. })));
}

#[test]
fn a_full_outbox_refuses_what_makes_it_grow_and_says_the_way_out() {
    let mut node = Node::ready();
    for index in 0..LIMITS.entries {
        node.put(&format!("k{index}"), "x");
    }
    let full = node.begin("more", write("x", Condition::Any), Value::Absent);
    let text = node.answers[&full].as_ref().unwrap_err().to_string();
    assert!(text.contains("100 fast writes") && text.contains("limits.outboxEntries"), "{text}");
    node.put("k7", "y");
    let large = "x".repeat(LIMITS.bytes as usize);
    let full = node.begin("k7", write(&large, Condition::Any), Value::Absent);
    assert!(matches!(node.answers[&full], Err(OutboxRefusal::Full { entries: 100, .. })));
    // A change that makes it smaller is accepted.
    let delete = Change::Delete { condition: Condition::Any };
    let deleted = node.begin("k7", delete, Value::Absent);
    node.store_all();
    assert_eq!(node.answers[&deleted], Ok(Written::Removed));
    assert_eq!(node.merges.len(), IN_FLIGHT_MAX);
    let ids: Vec<_> = node.merges.keys().map(ToString::to_string).collect();
    node.end(&ids[0], MergeEnd::Done);
    node.store_all();
    node.put("more", "x");
}

#[test]
fn pauses_double_up_to_half_a_minute_and_a_nudge_ends_them() {
    let mut node = Node::ready();
    node.put("a", "1");
    let mut pauses = Vec::new();
    for _ in 0..12 {
        node.end("a", MergeEnd::NoQuorum);
        let due = node.outbox.next_due().unwrap();
        let pause = due.since(node.now.monotonic);
        pauses.push(pause / 1000);
        node.pass(pause - 1);
        assert!(node.merges.is_empty());
        node.pass(1);
        assert_eq!(node.merges.len(), 1);
    }
    // Chance is 0 here: half of each pause.
    let expected = [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 15_000, 15_000, 15_000];
    assert_eq!(pauses, expected);
    node.now.entropy = u64::MAX;
    node.end("a", MergeEnd::NoQuorum);
    let most = node.outbox.next_due().unwrap().since(node.now.monotonic);
    assert!((15_000_000..=30_000_000).contains(&most), "{most}");
    node.step(OutboxEvent::Nudge);
    assert_eq!(node.merges.len(), 1);
    node.end("a", MergeEnd::NoQuorum);
    assert!(node.outbox.next_due().unwrap().since(node.now.monotonic) <= 100_000);
    assert_eq!(node.outbox.figures().retried, 14);
}

#[test]
fn while_the_registers_take_nothing_all_wait_together() {
    let mut node = Node::ready();
    for index in 0..10 {
        node.put(&format!("k{index}"), "x");
    }
    let ids: Vec<_> = node.merges.keys().map(ToString::to_string).collect();
    assert_eq!(ids.len(), 10);
    for id in ids {
        node.end(&id, MergeEnd::NotReady);
    }
    assert!(node.merges.is_empty());
    let pause = node.outbox.next_due().unwrap().since(node.now.monotonic);
    assert_eq!(pause, PAUSE_US / 2);
    node.pass(pause);
    assert_eq!(node.merges.len(), 10);
}

#[test]
fn what_was_acknowledged_survives_a_crash_and_is_merged_again() {
    let mut node = Node::ready();
    let versions: Vec<_> = (0..10).map(|index| node.put(&format!("k{index}"), "x")).collect();
    let lost = node.begin("lost", write("x", Condition::Any), Value::Absent);
    node.crash(0);
    let held = node.begin("k3", write("y", Condition::Absent), Value::Absent);
    assert!(node.merges.is_empty());
    node.store_all();
    node.load_all();
    assert!(!node.answers.contains_key(&lost));
    assert!(matches!(
        node.answers[&held],
        Err(OutboxRefusal::Condition(WriteRefusal::Exists { .. }))
    ));
    assert_eq!(node.merges.len(), 10);
    for (index, version) in versions.into_iter().enumerate() {
        assert_eq!(node.merges[&object(&format!("k{index}"))].version(), Some(version));
    }
    assert!(node.put("k3", "z") > node.merges[&object("k3")].version().unwrap());
}

#[test]
fn entries_that_cannot_be_read_are_tried_again_and_requests_are_told() {
    let mut node = Node::new();
    let op = node.begin("a", write("1", Condition::Any), Value::Absent);
    // A store that is opened a little late costs nobody an answer.
    for _ in 0..3 {
        node.store(false);
        assert!(!node.answers.contains_key(&op));
        let due = node.outbox.next_due().unwrap().since(node.now.monotonic);
        node.pass(due);
    }
    node.store(false);
    assert_eq!(node.answers[&op], Err(OutboxRefusal::NotLoaded));
    let again = node.begin("a", write("1", Condition::Any), Value::Absent);
    assert_eq!(node.answers[&again], Err(OutboxRefusal::NotLoaded));
    let due = node.outbox.next_due().unwrap().since(node.now.monotonic);
    node.pass(due);
    node.store(true);
    node.pages.clear();
    node.step(OutboxEvent::LoadFailed);
    let due = node.outbox.next_due().unwrap().since(node.now.monotonic);
    node.pass(due);
    node.store(true);
    node.load_all();
    node.put("a", "1");
}

/// A write of unknown outcome is sent if it is on the disk, and forgotten if not.
#[test]
fn an_unknown_outcome_is_found_out_by_the_next_look() {
    for (first, is_there) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut node = Node::ready();
        let kept = first.then(|| node.put("a", "1"));
        node.begin("a", write("2", Condition::Any), Value::Absent);
        if is_there {
            let (_, job) = node.disk.jobs[0].clone();
            node.disk.apply(job);
        }
        let newest = node.disk.entries.get(&object("a")).and_then(Value::version);
        assert_eq!(kept.is_some() || is_there, newest.is_some());
        node.store(false);
        for _ in 0..3 {
            if !node.merges.is_empty() {
                node.end("a", MergeEnd::Done);
            }
            node.store_all();
        }
        assert!(node.disk.entries.is_empty(), "{first} {is_there}");
        assert_eq!(node.outbox.figures().entries, 0, "{first} {is_there}");
        assert_eq!(node.outbox.figures().bytes, 0, "{first} {is_there}");
    }
}

#[test]
fn a_watermark_is_below_every_entry_and_every_later_version_and_durable() {
    let mut node = Node::ready();
    let op = node.op();
    node.step(OutboxEvent::Watermark { op });
    assert!(node.promised.is_empty(), "not before it is durable");
    node.store_all();
    let (_, idle) = node.promised.pop().unwrap();
    assert!(idle.time >> 16 >= node.now.wall.0, "an idle node does not hold others back");
    let first = node.put("a", "1");
    assert!(first > idle);
    node.begin("b", write("1", Condition::Any), Value::Absent);
    node.put("a", "2");
    node.step(OutboxEvent::Watermark { op });
    node.store_all();
    let (_, watermark) = node.promised.pop().unwrap();
    // The first version is still under way.
    assert!(idle <= watermark && watermark < first);
    node.end("a", MergeEnd::Done);
    node.end("a", MergeEnd::Done);
    node.end("b", MergeEnd::Done);
    // Until the removal is durable, a restart would submit it again.
    node.step(OutboxEvent::Watermark { op });
    assert!(node.promised.pop().is_none_or(|(_, watermark)| watermark < first));
    node.store_all();
    node.promised.clear();
    node.step(OutboxEvent::Watermark { op });
    node.store_all();
    let (_, watermark) = node.promised.pop().unwrap();
    assert!(watermark > first);
    // The clock is set back, and the node restarted.
    node.now.wall = UnixMs(node.now.wall.0 - 3_600_000);
    node.crash(0);
    node.store_all();
    node.load_all();
    assert!(node.put("c", "1") > watermark);
}

#[test]
fn what_others_have_gone_on_without_is_discarded() {
    let mut node = Node::ready();
    let old: Vec<_> = (0..5).map(|index| node.put(&format!("k{index}"), "x")).collect();
    node.end("k0", MergeEnd::NoQuorum);
    let op = node.op();
    node.step(OutboxEvent::Discard { op, upto: old[3] });
    node.store_all();
    assert!(node.discarded.is_empty(), "what is under way has to end first");
    for id in ["k1", "k2", "k3"] {
        node.end(id, MergeEnd::NoQuorum);
    }
    node.store_all();
    assert_eq!(node.discarded, [op]);
    assert_eq!(node.disk.entries.len(), 1);
    assert_eq!(node.outbox.figures().discarded, 4);
    let far = Version { time: old[4].time + (1 << 40), node: 0 };
    node.step(OutboxEvent::Discard { op, upto: far });
    node.end("k4", MergeEnd::NotReady);
    node.store_all();
    assert_eq!((node.discarded.len(), node.disk.entries.len()), (2, 0));
    assert!(node.put("k4", "y") > far);
}

/// Goal: no order of failures loses an acknowledged write or sends one below a promise, and in the end the outbox is empty.
#[test]
fn no_order_of_failures_loses_an_acknowledged_write() {
    let seeds = match std::env::var("NOMAD_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..2_000).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        Run::new(seed).run();
    }
}

struct Run {
    seed: u64,
    rng: SmallRng,
    node: Node,
    /// The registers: the newest version merged.
    registers: BTreeMap<ObjectId, Version>,
    acknowledged: BTreeMap<ObjectId, Version>,
    ops: BTreeMap<OpId, ObjectId>,
    watermark: Version,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: SmallRng::seed_from_u64(seed),
            node: Node::new(),
            registers: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            ops: BTreeMap::new(),
            watermark: Version::default(),
        }
    }

    fn run(mut self) {
        for _ in 0..400 {
            self.act();
            self.check();
        }
        // All faults end.
        for _ in 0..2_000 {
            self.node.pass(PAUSE_US_MAX);
            self.node.load_all();
            while let Some(id) = self.node.merges.keys().next().cloned() {
                self.merge(&id, MergeEnd::Done);
            }
            self.node.store_all();
            self.check();
            let is_idle = self.node.disk.jobs.is_empty() && self.node.pages.is_empty();
            if is_idle && self.node.outbox.figures().entries == 0 {
                break;
            }
        }
        let seed = self.seed;
        assert!(
            self.node.disk.entries.is_empty(),
            "NOMAD_SEED={seed}: {:?}",
            self.node.disk.entries
        );
        let figures = self.node.outbox.figures();
        assert_eq!(
            (figures.entries, figures.bytes, figures.in_flight),
            (0, 0, 0),
            "NOMAD_SEED={seed}"
        );
        for (id, version) in &self.acknowledged {
            let merged = self.registers.get(id);
            assert!(
                merged >= Some(version),
                "NOMAD_SEED={seed}: {id} lost {version}, has {merged:?}"
            );
        }
    }

    fn act(&mut self) {
        self.node.now.entropy = self.rng.random();
        match self.rng.random_range(0..100) {
            0..25 => self.put(),
            25..55 => self.node.store(true),
            55..58 => self.fail_store(),
            58..78 => {
                let ids: Vec<_> = self.node.merges.keys().cloned().collect();
                if !ids.is_empty() {
                    let id = ids[self.rng.random_range(0..ids.len())].clone();
                    let end = match self.rng.random_range(0..10) {
                        0..6 => MergeEnd::Done,
                        6..8 => MergeEnd::NoQuorum,
                        8 => MergeEnd::Busy,
                        _ => MergeEnd::NotReady,
                    };
                    self.merge(&id, end);
                }
            }
            78..88 => self.node.pass(self.rng.random_range(0..400_000)),
            88..91 => {
                let op = self.node.op();
                self.node.step(OutboxEvent::Watermark { op });
            }
            91..93 => self.node.step(OutboxEvent::Nudge),
            93..96 => self.node.load_all(),
            96..97 => {
                let back = self.rng.random_range(0..10_000);
                self.node.now.wall = UnixMs(self.node.now.wall.0 - back);
            }
            97..98 if !self.node.pages.is_empty() => {
                self.node.pages.clear();
                self.node.step(OutboxEvent::LoadFailed);
            }
            98..100 => {
                let done = self.rng.random_range(0..4);
                self.node.crash(done);
            }
            _ => {}
        }
    }

    fn put(&mut self) {
        let id = format!("k{}", self.rng.random_range(0..6));
        let change = match self.rng.random_range(0..4) {
            0 => Change::Delete { condition: Condition::Any },
            1 => write("x", Condition::Absent),
            _ => write("xy", Condition::Any),
        };
        let seen = match self.rng.random_range(0..3) {
            0 => Value::Absent,
            _ => self.registers.get(&object(&id)).map_or(Value::Absent, |at| live(&id, *at, None)),
        };
        let op = self.node.begin(&id, change, seen);
        self.ops.insert(op, object(&id));
    }

    /// The disk fails: the job may have been done or not.
    fn fail_store(&mut self) {
        if let Some((_, job)) = self.node.disk.jobs.front().cloned()
            && self.rng.random()
        {
            self.node.disk.apply(job);
        }
        self.node.store(false);
    }

    fn merge(&mut self, id: &ObjectId, end: MergeEnd) {
        let version = self.node.merges[id].version().unwrap();
        let seed = self.seed;
        assert!(
            version > self.watermark,
            "NOMAD_SEED={seed}: {id} {version} after {}",
            self.watermark
        );
        // It may have been merged although this node does not know it.
        if end == MergeEnd::Done || self.rng.random() {
            let merged = self.registers.entry(id.clone()).or_default();
            *merged = version.max(*merged);
        }
        self.node.end(id.as_str(), end);
    }

    fn check(&mut self) {
        for (op, answer) in std::mem::take(&mut self.node.answers) {
            let Some(id) = self.ops.remove(&op) else { continue };
            if let Ok(Written::Kept { version, .. }) = answer {
                let last = self.acknowledged.entry(id).or_default();
                assert!(version > *last, "NOMAD_SEED={}: {version} after {last}", self.seed);
                assert!(version > self.watermark, "NOMAD_SEED={}: below the watermark", self.seed);
                *last = version;
            }
        }
        for (_, watermark) in std::mem::take(&mut self.node.promised) {
            assert!(watermark >= self.watermark, "NOMAD_SEED={}: a promise taken back", self.seed);
            self.watermark = watermark;
        }
        // What was on its way when the promise was given is above it too.
        for value in self.node.merges.values().chain(self.node.disk.entries.values()) {
            assert!(value.version() > Some(self.watermark), "NOMAD_SEED={}", self.seed);
        }
    }
}
