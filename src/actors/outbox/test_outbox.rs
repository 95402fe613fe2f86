//! The outbox over the memory store under paused time, with registers that the test plays.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use super::*;
use crate::{
    AskError, Kit,
    recorder::Filter,
    shell::{Address, worker},
    supervisor::{Root, nested},
    test_kit::{kit, object, until_restarted},
};
use nomad_core::model::change::{Condition, Content};
use nomad_ports::object_store::StoreHealth;
use nomad_storage::MemoryStore;

/// Registers: what they hold, and how merges end.
#[derive(Default)]
struct Registers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: BTreeMap<ObjectId, Value>,
    /// `None` = a merge is kept in `waiting` until the test ends it.
    end: Option<MergeEnd>,
    waiting: Vec<(ObjectId, Value, PendingMerge)>,
    begun: usize,
}

impl Registers {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    fn version(&self, id: &ObjectId) -> Option<Version> {
        self.with(|state| state.held.get(id).and_then(Value::version))
    }
}

impl Drain for Registers {
    fn merge(&self, cx: Context, id: ObjectId, value: Value, ended: PendingMerge) {
        assert!(cx.deadline.is_some());
        let end = self.with(|state| {
            state.begun += 1;
            let Some(end) = state.end else {
                state.waiting.push((id, value, ended));
                return None;
            };
            if end == MergeEnd::Done {
                let held = state.held.entry(id).or_default();
                if value.version() > held.version() {
                    *held = value;
                }
            }
            Some((ended, end))
        });
        if let Some((ended, end)) = end {
            ended.end(end);
        }
    }
}

struct Bench {
    kit: Kit,
    store: Arc<MemoryStore>,
    registers: Arc<Registers>,
    gauge: Arc<OutboxGauge>,
    outbox: Address<OutboxMsg>,
    root: Root,
    from: Arc<str>,
}

impl Bench {
    async fn start(end: Option<MergeEnd>, limits: Limits) -> Self {
        let kit = kit();
        let store = Arc::new(MemoryStore::new(Arc::clone(&kit.clock)));
        let registers = Arc::new(Registers::default());
        registers.with(|state| state.end = end);
        let gauge = Arc::new(OutboxGauge::default());
        let args = OutboxArgs {
            store: store.clone(),
            drain: registers.clone(),
            limits,
            node_tag: 7,
            gauge: gauge.clone(),
            running: ActiveMerges::default(),
        };
        let (outbox, spec) = worker::<OutboxActor>(&kit, "outbox", "storage", args);
        let storage = nested(&kit, "storage", "node", vec![spec]);
        let root = Root::start(&kit, "node", vec![storage]).await.unwrap();
        Self { kit, store, registers, gauge, outbox, root, from: "test".into() }
    }

    fn context(&self) -> Context {
        let deadline = Some(self.kit.clock.monotonic().plus_us(1_000_000));
        Context { trace: self.kit.recorder.new_trace(), deadline }
    }

    async fn change(&self, id: &str, change: Change) -> Result<PutResult, AskError> {
        let id = object(id);
        let make = |reply| OutboxMsg::Put { id, change, seen: Value::Absent, reply };
        self.outbox.ask(&self.from, self.context(), make).await
    }

    async fn put(&self, id: &str) -> Result<PutResult, AskError> {
        self.change(id, write(id)).await
    }

    async fn watermark(&self) -> Version {
        let make = |reply| OutboxMsg::Watermark { reply };
        self.outbox.ask(&self.from, self.context(), make).await.unwrap().unwrap()
    }

    /// Lets time pass until the outbox holds this many entries.
    async fn until_holds(&self, entries: u64) {
        let held = async {
            while self.gauge.read().entries != entries {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), held).await.expect("drains");
    }
}

fn write(value: &str) -> Change {
    let content = Content {
        value: value.to_owned().into(),
        creation_time: None,
        expires_at: None,
        content_type: None,
    };
    Change::Write { content, condition: Condition::Any }
}

fn version(answer: Result<PutResult, AskError>) -> Version {
    match answer {
        Ok(Ok(Ok(Written::Kept { version, .. }))) => version,
        other => panic!("{other:?}"),
    }
}

const LIMITS: Limits = Limits { entries: 1_000, bytes: 1 << 20 };

#[tokio::test(start_paused = true)]
async fn a_fast_write_is_readable_at_once_and_leaves_when_its_register_has_it() {
    let bench = Bench::start(None, LIMITS).await;
    let version = version(bench.put("a").await);
    let entry = bench.store.outbox_entry(&object("a")).unwrap().unwrap();
    assert_eq!(entry.version(), Some(version));
    assert_eq!(bench.gauge.read().oldest, Some(version));
    let (id, value, merging) = bench.registers.with(|state| state.waiting.pop()).unwrap();
    assert_eq!((id, value), (object("a"), entry));
    merging.end(MergeEnd::Done);
    bench.until_holds(0).await;
    assert_eq!(bench.store.outbox_entry(&object("a")).unwrap(), None);
    assert_eq!(bench.gauge.read().drained, 1);
    // The request's trace has the write, its batch, and its merge.
    let filter = Filter { object: Some("a".into()), ..Filter::default() };
    let records = bench.kit.recorder.find(&filter, 10);
    let kinds: Vec<_> = records.iter().map(|record| record.kind).collect();
    for kind in ["Put", "Commit", "Stored", "Merged"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    assert!(records.iter().all(|record| record.trace == records[0].trace), "{records:?}");
    bench.root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_outbox_says_so_and_a_store_that_refuses_is_passed_on() {
    let bench = Bench::start(Some(MergeEnd::NoQuorum), Limits { entries: 2, ..LIMITS }).await;
    version(bench.put("a").await);
    version(bench.put("b").await);
    let full = bench.put("c").await.unwrap().unwrap_err();
    assert!(full.to_string().contains("limits.outboxEntries allows 2"), "{full}");
    let reason = "the disk is full".to_owned();
    bench.store.set_health(StoreHealth::ReadOnly { reason });
    let refused = bench.put("a").await.unwrap().unwrap_err();
    assert!(matches!(refused, OutboxError::Store(StoreError::ReadOnly { .. })), "{refused}");
    bench.store.set_health(StoreHealth::Up);
    bench.registers.with(|state| state.end = Some(MergeEnd::Done));
    bench.until_holds(0).await;
    version(bench.put("c").await);
    bench.root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_merge_that_fails_is_tried_again_less_and_less_often_until_a_nudge() {
    let bench = Bench::start(Some(MergeEnd::NoQuorum), LIMITS).await;
    version(bench.put("a").await);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let begun = bench.registers.with(|state| state.begun);
    // Pauses of 100 ms doubled to 30 s, at least half of each: 8 to 16 of the short ones, then one in 15 to 30 s.
    assert!((25..=60).contains(&begun), "{begun}");
    bench.registers.with(|state| state.end = Some(MergeEnd::Done));
    assert!(bench.outbox.tell(&bench.from, Context::default(), OutboxMsg::Nudge));
    let start = bench.kit.clock.monotonic();
    bench.until_holds(0).await;
    assert!(bench.kit.clock.monotonic().since(start) < 10_000);
    bench.root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_merge_whose_worker_was_killed_is_tried_again() {
    let bench = Bench::start(None, LIMITS).await;
    version(bench.put("a").await);
    bench.registers.with(|state| state.waiting.clear());
    bench.registers.with(|state| state.end = Some(MergeEnd::Done));
    bench.until_holds(0).await;
    assert_eq!(bench.gauge.read().retried, 1);
    bench.root.stop().await;
}

/// Goal: killed at any moment, it loses no acknowledged write, and merges no object twice at a time.
#[tokio::test(start_paused = true)]
async fn killed_under_load_it_loses_no_acknowledged_write() {
    let bench = Bench::start(Some(MergeEnd::Done), LIMITS).await;
    let mut acknowledged = BTreeMap::new();
    let mut watermark = Version::default();
    for index in 0..200_u64 {
        if index % 50 == 25 {
            // Some are on their way, some wait.
            bench.registers.with(|state| state.end = None);
            for waiting in 0..3 {
                let id = format!("w{waiting}");
                acknowledged.insert(object(&id), version(bench.put(&id).await));
            }
            assert!(bench.kit.census.kill("outbox"));
            until_restarted(&bench.kit, "outbox", index / 50 + 1).await;
            bench.registers.with(|state| state.end = Some(MergeEnd::Done));
        }
        let id = format!("k{}", index % 7);
        match bench.put(&id).await {
            Ok(Ok(Ok(Written::Kept { version, .. }))) => {
                assert!(version > watermark);
                let last = acknowledged.insert(object(&id), version);
                assert!(last < Some(version));
            }
            Err(AskError::Gone { .. }) => {}
            other => panic!("{id}: {other:?}"),
        }
        if index % 10 == 0 {
            watermark = bench.watermark().await;
        }
        // What an earlier life has begun ends some time.
        let waiting = bench.registers.with(|state| std::mem::take(&mut state.waiting));
        for (id, value, merging) in waiting {
            bench.registers.with(|state| state.held.insert(id, value));
            merging.end(MergeEnd::Done);
        }
    }
    bench.until_holds(0).await;
    for (id, version) in acknowledged {
        assert!(bench.registers.version(&id) >= Some(version), "{id}");
    }
    bench.root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn while_an_earlier_life_merges_an_object_the_next_one_waits() {
    let bench = Bench::start(None, LIMITS).await;
    let first = version(bench.put("a").await);
    assert!(bench.kit.census.kill("outbox"));
    until_restarted(&bench.kit, "outbox", 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.registers.with(|state| state.begun), 1);
    assert!(bench.watermark().await < first);
    let (.., merging) = bench.registers.with(|state| state.waiting.pop()).unwrap();
    merging.end(MergeEnd::Done);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.registers.with(|state| state.begun), 2);
    assert!(bench.watermark().await < first);
    bench.root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_put_before_the_process_ended_is_merged_by_the_next_one() {
    let bench = Bench::start(Some(MergeEnd::NotReady), LIMITS).await;
    for index in 0..600 {
        version(bench.put(&format!("k{index}")).await);
    }
    // Another actor over the same store stands for another process.
    let registers = Arc::new(Registers::default());
    registers.with(|state| state.end = Some(MergeEnd::Done));
    let args = OutboxArgs {
        store: bench.store.clone(),
        drain: registers.clone(),
        limits: LIMITS,
        node_tag: 7,
        gauge: Arc::default(),
        running: ActiveMerges::default(),
    };
    bench.root.stop().await;
    let kit = kit();
    let gauge = args.gauge.clone();
    let (_, spec) = worker::<OutboxActor>(&kit, "outbox", "storage", args);
    let root =
        Root::start(&kit, "node", vec![nested(&kit, "storage", "node", vec![spec])]).await.unwrap();
    while gauge.read().drained < 600 || gauge.read().entries > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(registers.with(|state| state.held.len()), 600);
    assert_eq!(bench.store.counts().outbox_entries, 0);
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_discarded_is_not_merged_any_more() {
    let bench = Bench::start(Some(MergeEnd::NotReady), LIMITS).await;
    version(bench.put("a").await);
    let upto = version(bench.put("b").await);
    let kept = version(bench.put("c").await);
    let make = |reply| OutboxMsg::Discard { upto, reply };
    bench.outbox.ask(&bench.from, bench.context(), make).await.unwrap().unwrap();
    assert_eq!(bench.gauge.read().discarded, 2);
    bench.registers.with(|state| state.end = Some(MergeEnd::Done));
    bench.until_holds(0).await;
    assert_eq!(bench.registers.with(|state| state.held.len()), 1);
    assert_eq!(bench.registers.version(&object("c")), Some(kept));
    bench.root.stop().await;
}
