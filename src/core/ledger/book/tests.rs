use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn node(key: u8) -> NodeId {
    NodeId::from_key([key; 32])
}

fn id(text: &str) -> ObjectId {
    ObjectId::parse(text).unwrap()
}

fn version(time: u64) -> Version {
    Version { time, node: 1 }
}

fn held(text: &str, time: u64) -> HeldObject {
    HeldObject { id: id(text), version: version(time), expires_at: None }
}

fn expiring(text: &str, at: u64) -> HeldObject {
    HeldObject { expires_at: Some(UnixSecs(at)), ..held(text, 1) }
}

fn ledger_of(keys: impl IntoIterator<Item = u8>) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.keep(&keys.into_iter().map(node).collect());
    ledger
}

fn holders(ledger: &Ledger, text: &str, now: u64) -> Vec<(NodeId, u64)> {
    let entry = ledger.entries(None, None).find(|entry| entry.id == id(text));
    let holders = entry.map(|entry| ledger.holders_of(entry, UnixSecs(now))).unwrap_or_default();
    holders.into_iter().map(|holder| (holder.node, holder.version.time)).collect()
}

fn all(ledger: &Ledger, limit: usize, now: u64) -> BTreeMap<String, Vec<NodeId>> {
    let (mut after, mut shown) = (None, BTreeMap::new());
    loop {
        let page = ledger.page(after.as_deref(), limit, UnixSecs(now));
        for ObjectHolders { id, holders } in page.items {
            let nodes = holders.into_iter().map(|holder| holder.node).collect();
            assert_eq!(shown.insert(id.to_string(), nodes), None);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return shown,
        }
    }
}

#[test]
fn what_is_known_already_or_older_is_refused() {
    let mut ledger = ledger_of([1]);
    assert_eq!(ledger.add(node(1), held("a", 5)), Added::New);
    assert_eq!(ledger.add(node(1), held("a", 5)), Added::Duplicate);
    assert_eq!(ledger.add(node(1), held("a", 4)), Added::Older);
    assert_eq!(holders(&ledger, "a", 0), [(node(1), 5)]);
    assert_eq!(ledger.add(node(1), held("a", 6)), Added::Newer);
    assert_eq!(ledger.add(node(2), held("a", 6)), Added::Stranger);
    assert_eq!(holders(&ledger, "a", 0), [(node(1), 6)]);
    assert_eq!((ledger.objects(), ledger.holdings()), (1, 1));
    // The member's own word counts, whatever it is.
    assert!(ledger.set(node(1), held("a", 2)) && !ledger.set(node(1), held("a", 2)));
    assert_eq!(holders(&ledger, "a", 0), [(node(1), 2)]);
    assert!(ledger.remove(node(1), "a") && !ledger.remove(node(1), "a"));
    assert_eq!((ledger.objects(), ledger.digest(&node(1))), (0, Some(&Digest::default())));
}

#[test]
fn what_a_forgotten_member_held_is_shown_no_more_and_leaves_part_by_part() {
    let mut ledger = ledger_of([1, 2]);
    for n in 0..100 {
        ledger.set(node(1), held(&format!("o{n}"), 1));
    }
    ledger.set(node(2), held("o0", 1));
    assert!(ledger.forget(node(1)) && !ledger.forget(node(1)));
    assert_eq!(all(&ledger, 10, 0), BTreeMap::from([("o0".into(), vec![node(2)])]));
    assert_eq!((ledger.objects(), ledger.holdings()), (100, 1));
    // It says again what it holds before the old entries are gone.
    ledger.set(node(1), held("o7", 2));
    ledger.keep(&[node(1), node(3)].into());
    let mut steps = 0;
    while ledger.purge(100) {
        steps += 1;
    }
    assert_eq!((steps > 10, ledger.objects(), ledger.holdings()), (true, 1, 1));
    assert_eq!(holders(&ledger, "o7", 0), [(node(1), 2)]);
    // Numbers are used again.
    ledger.keep(&[node(4), node(5), node(1)].into());
    while ledger.purge(BUCKETS) {}
    assert!(ledger.seats.len() <= 4, "{}", ledger.seats.len());
}

#[test]
fn what_has_expired_is_not_shown_and_leaves_with_the_sweep() {
    let mut ledger = ledger_of([1, 2]);
    for node in [node(1), node(2)] {
        ledger.set(node, expiring("a", 10));
        ledger.set(node, expiring("b", 20));
    }
    ledger.set(node(2), held("a", 7));
    assert_eq!(holders(&ledger, "a", 9).len(), 2);
    assert_eq!(holders(&ledger, "a", 10), [(node(2), 7)]);
    assert_eq!(all(&ledger, 10, 20).len(), 1);
    assert_eq!(ledger.sweep(0..BUCKETS, UnixSecs(10)), 1);
    assert_eq!(ledger.sweep(0..BUCKETS, UnixSecs(20)), 2);
    assert_eq!((ledger.objects(), ledger.holdings()), (1, 1));
    assert_eq!(ledger.digest(&node(1)).unwrap().root().count, 0);
}

#[test]
fn objects_on_too_few_members_are_counted_and_named() {
    let mut ledger = ledger_of([1, 2, 3]);
    let census = |ledger: &Ledger, settled: u64, now: u64| {
        let mut found = Vec::new();
        let counted = (3, version(settled), UnixSecs(now));
        (ledger.census(0..BUCKETS, counted, &mut found, 1), found)
    };
    for key in 1..=3 {
        ledger.set(node(key), held("full", 1));
    }
    for key in 1..=2 {
        ledger.set(node(key), held("lacks", 1));
        ledger.set(node(key), expiring("expired", 10));
    }
    ledger.set(node(3), held("behind", 1));
    ledger.set(node(1), held("behind", 50));
    let few = |objects, under_replicated| LedgerTotals { objects, under_replicated };
    assert_eq!(census(&ledger, 40, 10), (few(3, 1), vec![id("lacks")]));
    let (counts, found) = census(&ledger, 60, 10);
    assert_eq!((counts, found.len()), (few(3, 2), 1));
    assert_eq!(census(&ledger, 0, 9).0, few(4, 0));
    // What only a forgotten member has is no object any more.
    ledger.keep(&[node(2), node(3)].into());
    assert_eq!(census(&ledger, 60, 10).0, few(3, 3));
    ledger.keep(&[node(4)].into());
    assert_eq!(census(&ledger, 60, 10).0, few(0, 0));
}

/// Figures for the reader: `cargo test --lib size_of_a_million -- --nocapture`. The bound is on what the entries take; the
/// allocator adds to it.
#[test]
fn the_size_of_a_million_objects_is_known() {
    let mut ledger = ledger_of([1, 2, 3, 4, 5]);
    let count: u64 = if std::env::var_os("NOMAD_SOAK").is_some() { 1_000_000 } else { 50_000 };
    for n in 0..count {
        for key in 0..3 {
            ledger.set(node(((n + key) % 5) as u8 + 1), held(&format!("object-{n:013}"), n + 1));
        }
    }
    let places: usize = ledger.buckets.iter().map(Vec::capacity).sum();
    // The id: its bytes, two counters, rounded up as allocators do.
    let bytes = places * size_of::<LedgerObject>() + count as usize * 48;
    let each = bytes as f64 / count as f64;
    eprintln!("{count} objects, 3 holders each: {each:.0} bytes per object, {places} places");
    assert_eq!((ledger.objects(), ledger.holdings()), (count, 3 * count));
    assert!(each < 130.0, "{each}");
}

#[derive(Debug, Clone)]
enum Step {
    Set(u8, u8, u64),
    Add(u8, u8, u64),
    Remove(u8, u8),
    Reconcile(u8, Vec<(u8, u64)>),
    Keep(Vec<u8>),
    Forget(u8),
    Purge(u16),
    Sweep(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (node, object, time) = (1u8..6, 0u8..30, 1u64..40);
    prop_oneof![
        6 => (node.clone(), object.clone(), time.clone()).prop_map(|(n, o, t)| Step::Set(n, o, t)),
        2 => (node.clone(), object.clone(), time.clone()).prop_map(|(n, o, t)| Step::Add(n, o, t)),
        3 => (node.clone(), object.clone()).prop_map(|(n, o)| Step::Remove(n, o)),
        1 => (node.clone(), prop::collection::vec((object, time), 0..10)).prop_map(|(n, h)| Step::Reconcile(n, h)),
        1 => prop::collection::vec(node.clone(), 1..5).prop_map(Step::Keep),
        1 => node.prop_map(Step::Forget),
        1 => (1u16..800).prop_map(Step::Purge),
        1 => (0u64..30).prop_map(Step::Sweep),
    ]
}

proptest! {
    /// Against plain maps, whatever is done in which order: both directions, digests, pages, inventories, counts.
    #[test]
    fn the_ledger_is_what_was_said(steps in prop::collection::vec(step(), 1..80), limit in 1usize..9) {
        let mut ledger = ledger_of(1..6);
        let mut plain: BTreeMap<NodeId, BTreeMap<String, u64>> = (1..6).map(|key| (node(key), BTreeMap::new())).collect();
        // Even times never expire; an odd one is its expiry.
        let held = |object: &str, time: u64| HeldObject { expires_at: (time % 2 == 1).then_some(UnixSecs(time)), ..held(object, time) };
        for step in steps {
            match step {
                Step::Set(key, object, time) => {
                    let object = format!("o{object}");
                    let changed = ledger.set(node(key), held(&object, time));
                    let old = plain.get_mut(&node(key)).map(|of| of.insert(object, time));
                    prop_assert_eq!(changed, old.is_some_and(|old| old != Some(time)));
                }
                Step::Add(key, object, time) => {
                    let object = format!("o{object}");
                    let added = ledger.add(node(key), held(&object, time));
                    let known = plain.get(&node(key)).map(|of| of.get(&object).copied());
                    let expected = match known {
                        None => Added::Stranger,
                        Some(None) => Added::New,
                        Some(Some(known)) if known < time => Added::Newer,
                        Some(Some(known)) if known == time => Added::Duplicate,
                        Some(Some(_)) => Added::Older,
                    };
                    prop_assert_eq!(added, expected);
                    if matches!(added, Added::New | Added::Newer) {
                        plain.get_mut(&node(key)).unwrap().insert(object, time);
                    }
                }
                Step::Remove(key, object) => {
                    let object = format!("o{object}");
                    let removed = ledger.remove(node(key), &object);
                    let was = plain.get_mut(&node(key)).and_then(|of| of.remove(&object));
                    prop_assert_eq!(removed, was.is_some());
                }
                Step::Reconcile(key, objects) => {
                    let objects: BTreeMap<_, _> = objects.into_iter().map(|(o, t)| (format!("o{o}"), t)).collect();
                    let all = objects.iter().map(|(object, time)| held(object, *time)).collect();
                    ledger.reconcile(node(key), 0..BUCKETS, None, None, all);
                    if let Some(of) = plain.get_mut(&node(key)) {
                        *of = objects;
                    }
                }
                Step::Keep(keys) => {
                    let nodes: BTreeSet<_> = keys.into_iter().map(node).collect();
                    ledger.keep(&nodes);
                    plain.retain(|node, _| nodes.contains(node));
                    for node in nodes {
                        plain.entry(node).or_default();
                    }
                }
                Step::Forget(key) => {
                    let was = plain.get_mut(&node(key)).map(std::mem::take);
                    prop_assert_eq!(ledger.forget(node(key)), was.is_some_and(|of| !of.is_empty()));
                }
                Step::Purge(buckets) => {
                    ledger.purge(buckets);
                }
                Step::Sweep(now) => {
                    let before: usize = plain.values().map(BTreeMap::len).sum();
                    for of in plain.values_mut() {
                        of.retain(|_, time| *time % 2 == 0 || *time > now);
                    }
                    let after: usize = plain.values().map(BTreeMap::len).sum();
                    prop_assert_eq!(ledger.sweep(0..BUCKETS, UnixSecs(now)), before - after);
                }
            }
            prop_assert_eq!(ledger.holdings(), plain.values().map(|of| of.len() as u64).sum::<u64>());
        }
        let mut by_object: BTreeMap<String, Vec<NodeId>> = BTreeMap::new();
        for (node, of) in &plain {
            let mut digest = Digest::default();
            for (object, time) in of {
                by_object.entry(object.clone()).or_default().push(*node);
                digest.add(bucket_of(object), Fingerprint::of_version(object, version(*time)));
                prop_assert_eq!(ledger.held(*node, &id(object)), Some(held(object, *time)));
            }
            prop_assert_eq!(ledger.digest(node), Some(&digest));
            let (mut after, mut inventory) = (None, BTreeMap::new());
            loop {
                let part = ledger.inventory(*node, &BucketSet::all(), after.as_ref(), limit);
                prop_assert!(part.entries.len() <= limit);
                inventory.extend(part.entries.into_iter().map(|held| (held.id.to_string(), held.version.time)));
                after = part.next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(&inventory, of);
        }
        prop_assert_eq!(all(&ledger, limit, 0), by_object.clone());
        while ledger.purge(BUCKETS) {}
        prop_assert_eq!(ledger.objects(), by_object.len() as u64);
    }
}
