//! The outbox in the store, the same on both: one entry per object, the newest; counted, durable, in order.

use crate::stores::*;
use nomad_core::{
    model::{
        object::{ObjectId, Tier, Version},
        time::UnixMs,
    },
    register::{Tombstone, Value},
};
use nomad_ports::object_store::{OutboxChange, StoreError};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::collections::BTreeMap;

fn put(id: &ObjectId, counter: u64) -> OutboxChange {
    let put = vec![(id.clone(), Value::Live(object(id, counter, None)))];
    OutboxChange { put, ..OutboxChange::default() }
}

fn remove(id: &ObjectId, counter: u64) -> OutboxChange {
    OutboxChange { remove: vec![(id.clone(), version(counter))], ..OutboxChange::default() }
}

fn entry(test_store: &TestStore, id: &ObjectId) -> Option<Version> {
    test_store.store.outbox_entry(id).unwrap().and_then(|value| value.version())
}

#[test]
fn the_newest_version_stays_and_only_that_one_is_removed() {
    for mut test_store in TestStore::both() {
        let a = id("a");
        assert_eq!(test_store.store.outbox_entry(&a).unwrap(), None);
        test_store.outbox(put(&a, 5)).unwrap();
        test_store.outbox(put(&a, 3)).unwrap();
        assert_eq!(entry(&test_store, &a), Some(version(5)));
        let gone = Value::Tombstone(Tombstone { version: version(7) });
        let delete =
            OutboxChange { put: vec![(a.clone(), gone.clone())], ..OutboxChange::default() };
        test_store.outbox(delete).unwrap();
        test_store.outbox(remove(&a, 5)).unwrap();
        test_store.restart();
        assert_eq!(test_store.store.outbox_entry(&a).unwrap(), Some(gone), "{}", test_store.name);
        // It is no object of the group yet.
        assert_eq!((test_store.get(&a), test_store.store.register(&a).unwrap()), (None, None));
        test_store.outbox(remove(&a, 7)).unwrap();
        test_store.restart();
        assert_eq!(test_store.store.outbox_entry(&a).unwrap(), None);
        let counts = test_store.store.counts();
        assert_eq!((counts.outbox_entries, counts.outbox_bytes), (0, 0));
    }
}

#[test]
fn one_change_puts_first_and_removes_then_and_what_has_no_version_is_none() {
    for test_store in TestStore::both() {
        let (a, b, c) = (id("a"), id("b"), id("c"));
        let value = |id: &ObjectId, counter| Value::Live(object(id, counter, None));
        let change = OutboxChange {
            put: vec![
                (a.clone(), value(&a, 2)),
                (a.clone(), value(&a, 4)),
                (a.clone(), value(&a, 3)),
                (b.clone(), value(&b, 2)),
                (c.clone(), Value::Absent),
            ],
            remove: vec![(b.clone(), version(2)), (a.clone(), version(2)), (c.clone(), version(1))],
            watermark: None,
        };
        test_store.outbox(change).unwrap();
        assert_eq!((entry(&test_store, &a), entry(&test_store, &b)), (Some(version(4)), None));
        assert_eq!(test_store.store.counts().outbox_entries, 1, "{}", test_store.name);
    }
}

#[test]
fn a_floor_is_kept_though_nothing_else_changes() {
    for mut test_store in TestStore::both() {
        let watermark = Version { time: (START.0 + 5_000) << 16, node: u64::MAX };
        test_store
            .outbox(OutboxChange { watermark: Some(watermark), ..OutboxChange::default() })
            .unwrap();
        test_store.clock.set_wall(UnixMs(START.0 - 60_000));
        test_store.restart();
        assert!(test_store.store.latest_version().time >= watermark.time, "{}", test_store.name);
        let overlay = id("a");
        test_store.write(Tier::Overlay, &overlay, content("x", None)).unwrap().unwrap();
        let written = test_store.store.get(Tier::Overlay, &overlay, NOW).unwrap().unwrap();
        assert!(written.version > watermark);
        // And that of an entry.
        test_store.outbox(put(&overlay, 1 << 40)).unwrap();
        test_store.restart();
        assert!(test_store.store.latest_version() >= version(1 << 40));
    }
}

#[test]
fn pages_are_in_order_complete_and_bounded_in_bytes() {
    for test_store in TestStore::both() {
        let ids: Vec<_> = (0..60).map(|index| id(&format!("k{index:02}"))).collect();
        for (index, id) in (0..).zip(ids.iter().rev()) {
            let mut large = object(id, index, None);
            large.value = vec![7; 1 << 20].into();
            let put = vec![(id.clone(), Value::Live(large))];
            test_store.outbox(OutboxChange { put, ..OutboxChange::default() }).unwrap();
        }
        let mut found: Vec<ObjectId> = Vec::new();
        loop {
            let page = test_store.store.outbox(found.last(), 100).unwrap();
            assert!(page.len() <= 4, "{} of a megabyte each", page.len());
            if page.is_empty() {
                break;
            }
            found.extend(page.into_iter().map(|(id, _)| id));
        }
        assert_eq!(found, ids, "{}", test_store.name);
    }
}

#[test]
fn a_nearly_full_disk_takes_deletes_and_what_is_done() {
    let mut test_store = TestStore::fjall(|_| {});
    let (a, b) = (id("a"), id("b"));
    test_store.outbox(put(&a, 1)).unwrap();
    test_store.restart_with(|options| {
        let stat = rustix::fs::statvfs(options.dir.parent().unwrap()).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        options.min_free_bytes = free + free / 4;
    });
    let refused = test_store.outbox(put(&b, 2)).unwrap_err();
    assert!(
        matches!(&refused, StoreError::ReadOnly { reason } if reason.contains("make room")),
        "{refused}"
    );
    let gone = Value::Tombstone(Tombstone { version: version(3) });
    test_store
        .outbox(OutboxChange { put: vec![(b.clone(), gone)], ..OutboxChange::default() })
        .unwrap();
    test_store.outbox(remove(&a, 1)).unwrap();
    assert_eq!((entry(&test_store, &a), entry(&test_store, &b)), (None, Some(version(3))));
}

/// Goal: the entries, and what they are counted for, are those of a map, on both stores and across restarts.
#[test]
fn both_stores_hold_what_the_model_holds() {
    for mut test_store in TestStore::both() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut model: BTreeMap<ObjectId, Value> = BTreeMap::new();
        for step in 0..400_u64 {
            let id = id(&format!("k{}", rng.random_range(0..12)));
            match rng.random_range(0..10) {
                0..6 => {
                    let counter = step.saturating_sub(rng.random_range(0..20));
                    let value = if rng.random() {
                        Value::Live(object(&id, counter, None))
                    } else {
                        Value::Tombstone(Tombstone { version: version(counter) })
                    };
                    let put = vec![(id.clone(), value.clone())];
                    test_store.outbox(OutboxChange { put, ..OutboxChange::default() }).unwrap();
                    let entry = model.entry(id).or_default();
                    if value.version() > entry.version() {
                        *entry = value;
                    }
                }
                6..9 => {
                    let newest = model.get(&id).and_then(Value::version).unwrap_or_default();
                    let named = if rng.random() { newest } else { version(step + 1) };
                    let remove = vec![(id.clone(), named)];
                    test_store.outbox(OutboxChange { remove, ..OutboxChange::default() }).unwrap();
                    if named == newest {
                        model.remove(&id);
                    }
                }
                _ => test_store.restart(),
            }
            let kept: BTreeMap<_, _> =
                test_store.store.outbox(None, 100).unwrap().into_iter().collect();
            assert_eq!(kept, model, "{} step {step}", test_store.name);
            let counts = test_store.store.counts();
            assert_eq!(counts.outbox_entries, model.len() as u64);
            assert_eq!(counts.outbox_bytes == 0, model.is_empty());
        }
    }
}
