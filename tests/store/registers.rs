//! Registers and shard states, the same on both stores: kept whole, joined with their objects, listed, expired, wiped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
};

use crate::stores::*;
use nomad_core::{
    model::{
        change::{Change, Condition},
        object::{Object, ObjectId, Tier, Version},
        time::{UnixMs, UnixSecs},
    },
    register::{Ballot, Register, SHARDS, ShardState, Value, shard_of},
};
use nomad_ports::{
    Clock as _, SystemClock,
    object_store::{Expired, ListingQuery, RegisterHead, StoreError, StoreJob},
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

const BALLOT_OF_UNREGISTERED: Ballot = Ballot { epoch: 0, counter: 1, node: 0 };

#[test]
fn a_register_reads_back_whatever_it_holds_also_after_a_restart() {
    for mut test_store in TestStore::both() {
        let (a, b, c) = (id("a"), id("b"), id("c"));
        let absent = Register { promised: ballot(4), ..Register::default() };
        let kept = [(a, live(&id("a"), 1, None)), (b, tombstone(2)), (c, absent)];
        test_store.keep_all(kept.iter().map(|(id, r)| (id.clone(), Some(r.clone()))).collect());
        for round in 0..2 {
            for (id, register) in &kept {
                let what = format!("{} {round} {id}", test_store.name);
                assert_eq!(
                    test_store.store.register(id).unwrap().as_ref(),
                    Some(register),
                    "{what}"
                );
                let Value::Live(object) = &register.value else {
                    assert_eq!(test_store.get(id), None, "{what}");
                    continue;
                };
                assert_eq!(test_store.get(id).as_ref(), Some(object), "{what}");
            }
            assert_eq!(test_store.store.register(&id("d")).unwrap(), None);
            test_store.restart();
        }
    }
}

/// A shard that is wiped and kept its state would take itself for the one that it was, and be wiped at every start.
#[test]
fn a_shard_state_reads_back_and_stays_until_a_wipe_names_none() {
    for mut test_store in TestStore::both() {
        assert_eq!(test_store.store.shard_state(2).unwrap(), None);
        let kept = Registers { shard: 2, state: Some(state(10)), ..Registers::default() };
        test_store.keep(kept).unwrap();
        let [one] = &ids_of(2, "k", 1)[..] else { panic!() };
        test_store.keep_one(one, Some(live(one, 1, None))).unwrap();
        test_store.restart();
        assert_eq!(
            test_store.store.shard_state(2).unwrap(),
            Some(state(10)),
            "{}",
            test_store.name
        );
        let wipe =
            Registers { shard: 2, wipe: true, state: Some(state(20)), ..Registers::default() };
        test_store.keep(wipe).unwrap();
        // The wipe of another shard leaves this one's state alone.
        test_store.keep(Registers { shard: 3, wipe: true, ..Registers::default() }).unwrap();
        test_store.restart();
        assert_eq!(
            test_store.store.shard_state(2).unwrap(),
            Some(state(20)),
            "{}",
            test_store.name
        );
        test_store.keep(Registers { shard: 2, wipe: true, ..Registers::default() }).unwrap();
        test_store.restart();
        assert_eq!(test_store.store.shard_state(2).unwrap(), None, "{}", test_store.name);
        assert_eq!(test_store.store.shard_state(3).unwrap(), None);
    }
}

#[test]
fn a_deleted_object_leaves_a_tombstone_and_a_deleted_register_nothing() {
    for mut test_store in TestStore::both() {
        let (a, b) = (id("a"), id("b"));
        let later = Some(UnixSecs(NOW.0 + 10));
        test_store.keep_one(&a, Some(live(&a, 1, later))).unwrap();
        test_store.keep_one(&b, Some(live(&b, 1, later))).unwrap();
        test_store.keep_one(&a, Some(tombstone(2))).unwrap();
        test_store.keep_one(&b, None).unwrap();
        test_store.restart();
        assert_eq!((test_store.get(&a), test_store.get(&b)), (None, None));
        assert_eq!(test_store.store.register(&a).unwrap(), Some(tombstone(2)));
        assert_eq!(test_store.store.register(&b).unwrap(), None);
        test_store.clock.advance_ms(10_000);
        assert_eq!(
            test_store.store.expired(test_store.now(), None, 10).unwrap(),
            [],
            "{}",
            test_store.name
        );
    }
}

/// Only a round may make an expired object a tombstone: the sweep leaves it to the repair.
#[test]
fn expired_objects_with_a_register_are_handed_out_and_not_swept() {
    for mut test_store in TestStore::both() {
        let ids = ids_of(1, "k", 5);
        for (index, id) in (0..).zip(&ids) {
            let at = Some(UnixSecs(NOW.0 + 10 + index / 2));
            test_store.keep_one(id, Some(live(id, index, at))).unwrap();
        }
        let (loose, overlay) = (id("loose"), id("overlay"));
        let at = Some(UnixSecs(NOW.0 + 10));
        test_store.write(Tier::Group, &loose, content("x", at)).unwrap().unwrap();
        test_store.write(Tier::Overlay, &overlay, content("x", at)).unwrap().unwrap();
        assert_eq!(test_store.store.expired(test_store.now(), None, 10).unwrap(), []);
        test_store.clock.advance_ms(11_000);
        for _ in 0..2 {
            let (mut found, mut after) = (Vec::new(), None::<Expired>);
            loop {
                let page = test_store.store.expired(test_store.now(), after.as_ref(), 2).unwrap();
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                found.extend(page.into_iter().map(|expired| (expired.id, expired.version)));
            }
            let expected: Vec<_> =
                (0..).zip(&ids).take(4).map(|(i, id)| (id.clone(), version(i))).collect();
            assert_eq!(found, expected, "{}", test_store.name);
            assert_eq!(test_store.get(&ids[0]), None);
            let swept = test_store.sweep(100).removed;
            assert!(swept == 2 || swept == 0, "{swept}");
            test_store.restart();
        }
        assert_eq!(
            test_store.store.counts().swept,
            if test_store.name == "memory" { 2 } else { 0 }
        );
        assert!(matches!(
            test_store.store.register(&ids[0]).unwrap().unwrap().value,
            Value::Live(_)
        ));
        // A new expiry takes the place of the old one, a promise changes nothing about it.
        let longer = live(&ids[0], 9, Some(UnixSecs(NOW.0 + 100)));
        test_store.keep_one(&ids[0], Some(longer)).unwrap();
        let kept = test_store.store.register(&ids[1]).unwrap().unwrap();
        test_store.keep_one(&ids[1], Some(promise(&kept, 50))).unwrap();
        let left = test_store.store.expired(test_store.now(), None, 9).unwrap();
        assert_eq!(
            left.iter().map(|expired| &expired.id).collect::<Vec<_>>(),
            [&ids[1], &ids[2], &ids[3]]
        );
    }
}

#[test]
fn objects_kept_without_a_register_have_one_below_all_others() {
    for mut test_store in TestStore::both() {
        let ids = ids_of(5, "k", 9);
        for (index, id) in (0..).zip(&ids) {
            match index % 3 {
                0 => test_store.keep_one(id, Some(live(id, index, None))).unwrap(),
                1 => {
                    test_store
                        .write(Tier::Group, id, content("x", Some(UnixSecs(NOW.0 + 9))))
                        .unwrap()
                        .unwrap();
                }
                _ => test_store.keep_one(id, Some(tombstone(index))).unwrap(),
            }
        }
        test_store.write(Tier::Overlay, &ids[0], content("x", None)).unwrap().unwrap();
        test_store.restart();
        for page in [1, 2, 4, 100] {
            let heads = test_store.heads(5, page);
            let listed: Vec<_> = heads.iter().map(|head| &head.id).collect();
            assert_eq!(listed, ids.iter().collect::<Vec<_>>(), "{} by {page}", test_store.name);
            assert_eq!((heads[0].accepted, heads[0].is_live), (ballot(0), true));
            assert_eq!(
                (heads[1].accepted, heads[1].promised),
                (BALLOT_OF_UNREGISTERED, BALLOT_OF_UNREGISTERED)
            );
            assert_eq!(heads[1].expires_at, Some(UnixSecs(NOW.0 + 9)));
            assert_eq!((heads[2].version, heads[2].is_live), (Some(version(2)), false));
        }
        let loose = test_store.store.register(&ids[1]).unwrap().unwrap();
        assert_eq!(
            (loose.accepted, loose.value.live(NOW).map(|o| &o.value[..])),
            (BALLOT_OF_UNREGISTERED, Some(&b"x"[..]))
        );
        // Its first promise makes it one like the others; then only rounds may change it.
        test_store.keep_one(&ids[1], Some(promise(&loose, 7))).unwrap();
        assert_eq!(test_store.store.register(&ids[1]).unwrap(), Some(promise(&loose, 7)));
        for id in [&ids[0], &ids[1], &ids[2]] {
            let refused = test_store.write(Tier::Group, id, content("y", None)).unwrap_err();
            assert_eq!(refused, StoreError::Replicated { id: id.to_string() });
            let delete = Change::Delete { condition: Condition::Any };
            test_store.write(Tier::Group, id, delete).unwrap_err();
        }
        test_store.write(Tier::Group, &ids[4], content("y", None)).unwrap().unwrap();
        test_store.clock.advance_ms(9_000);
        assert_eq!(test_store.sweep(9).removed, 1, "the seventh; the first is handed out");
        let expired = test_store.store.expired(test_store.now(), None, 9).unwrap();
        assert_eq!(
            expired.into_iter().map(|expired| expired.id).collect::<Vec<_>>(),
            [ids[1].clone()]
        );
        // Deleted, an object without a register is gone as well.
        test_store.keep_one(&ids[4], None).unwrap();
        assert_eq!((test_store.get(&ids[4]), test_store.heads(5, 100).len()), (None, 7));
    }
}

#[test]
fn a_wipe_takes_its_shard_and_no_other_and_what_comes_with_it_stays() {
    for mut test_store in TestStore::both() {
        let (mine, other) = (ids_of(3, "k", 20), ids_of(4, "k", 5));
        let later = Some(UnixSecs(NOW.0 + 10));
        for (index, id) in (0..).zip(mine.iter().chain(&other)) {
            match index % 3 {
                0 => test_store.keep_one(id, Some(live(id, index, later))).unwrap(),
                1 => drop(test_store.write(Tier::Group, id, content("x", later)).unwrap().unwrap()),
                _ => test_store.keep_one(id, Some(tombstone(index))).unwrap(),
            }
        }
        test_store.write(Tier::Overlay, &mine[0], content("x", None)).unwrap().unwrap();
        let before = test_store.heads(4, 100);
        let writes =
            vec![(mine[1].clone(), Some(live(&mine[1], 40, later))), (mine[2].clone(), None)];
        let wipe = Registers { shard: 3, wipe: true, state: Some(state(1)), writes };
        test_store.keep(wipe).unwrap();
        test_store.restart();
        let left = test_store.heads(3, 100);
        assert_eq!(
            left.iter().map(|head| &head.id).collect::<Vec<_>>(),
            [&mine[1]],
            "{}",
            test_store.name
        );
        assert_eq!(test_store.store.register(&mine[1]).unwrap(), Some(live(&mine[1], 40, later)));
        assert!(mine.iter().filter(|id| **id != mine[1]).all(|id| test_store.get(id).is_none()));
        assert_eq!(test_store.heads(4, 100), before);
        assert!(test_store.store.get(Tier::Overlay, &mine[0], NOW).unwrap().is_some());
        test_store.clock.advance_ms(10_000);
        let expired = test_store.store.expired(test_store.now(), None, 100).unwrap();
        assert_eq!(expired.iter().filter(|e| shard_of(&e.id) == 3).count(), 1);
        assert_eq!(
            test_store.sweep(100).removed,
            before.iter().filter(|h| h.accepted == BALLOT_OF_UNREGISTERED).count()
        );
    }
}

/// What other nodes gave may lie ahead of this node's clock: its versions follow, its sense of time does not.
#[test]
fn the_clock_stays_above_every_kept_version_and_nothing_expires_by_it() {
    for mut test_store in TestStore::both() {
        let (a, b, c) = (id("a"), id("b"), id("c"));
        let ahead = Version { time: (START.0 + 3_600_000) << 16, node: 9 };
        let mut register = live(&a, 1, Some(UnixSecs(NOW.0 + 60)));
        if let Value::Live(object) = &mut register.value {
            object.version = ahead;
        }
        test_store.keep_one(&a, Some(register)).unwrap();
        test_store.restart();
        assert!(test_store.store.latest_version() >= ahead);
        assert!(
            test_store.get(&a).is_some(),
            "{}: it expires by the clock, not by a version",
            test_store.name
        );
        test_store.write(Tier::Overlay, &b, content("x", None)).unwrap().unwrap();
        let written = test_store.store.get(Tier::Overlay, &b, NOW).unwrap().unwrap();
        assert!(written.version > ahead);
        let further = Version { time: ahead.time + (1 << 40), node: 9 };
        let mut deleted = tombstone(2);
        deleted.value = Value::Tombstone(nomad_core::register::Tombstone { version: further });
        test_store.keep_one(&c, Some(deleted)).unwrap();
        test_store.restart();
        assert!(test_store.store.latest_version() >= further);
        test_store.clock.set_wall(UnixMs(START.0 + 60_000));
        assert_eq!(test_store.get(&a), None);
    }
}

#[test]
fn answers_come_in_the_order_of_the_jobs_also_when_some_are_refused() {
    let mut test_store = TestStore::fjall(|_| {});
    let ids = ids_of(0, "k", 100);
    for id in &ids {
        test_store.keep_one(id, Some(live(id, 1, None))).unwrap();
    }
    test_store.restart_with(|options| {
        let stat = rustix::fs::statvfs(options.dir.parent().unwrap()).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        // More than is free.
        options.min_free_bytes = free + free / 4;
    });
    let (sender, answers) = mpsc::channel();
    for (index, id) in ids.iter().enumerate() {
        let kept = live(id, 1, None);
        let register = match index % 4 {
            0 => Some(live(id, 2, None)),
            1 => Some(promise(&kept, 5)),
            2 => Some(tombstone(2)),
            _ => None,
        };
        let sender = sender.clone();
        let done = Box::new(move |result| sender.send((index, result)).unwrap());
        let writes = vec![(id.clone(), register)];
        let job = Registers { shard: 0, writes, ..Registers::default() };
        test_store.store.submit(StoreJob::Registers(job.with(done)));
    }
    for (index, id) in ids.iter().enumerate() {
        let (answered, result) = answers.recv().unwrap();
        assert_eq!(answered, index);
        let kept = test_store.store.register(id).unwrap();
        match index % 4 {
            0 => {
                let refused = result.unwrap_err().to_string();
                assert!(refused.contains("minFreeBytes"), "{refused}");
                assert_eq!(kept, Some(live(id, 1, None)));
            }
            1 => assert_eq!((result, kept), (Ok(()), Some(promise(&live(id, 1, None), 5)))),
            2 => assert_eq!((result, kept), (Ok(()), Some(tombstone(2)))),
            _ => assert_eq!((result, kept), (Ok(()), None)),
        }
    }
}

/// A change of the members deletes at once what is not this node's any more, however much it is.
#[test]
fn a_hundred_thousand_registers_are_deleted_by_one_job_and_wiped_by_one() {
    let mut test_store = TestStore::fjall(|_| {});
    let later = Some(UnixSecs(NOW.0 + 10));
    let ids = ids_of(6, "an object with a name of some length:", 100_000);
    let fill = |test_store: &TestStore, ids: &[ObjectId]| {
        for part in ids.chunks(2_000) {
            let writes = part.iter().map(|id| (id.clone(), Some(live(id, 1, later)))).collect();
            test_store.keep(Registers { shard: 6, writes, ..Registers::default() }).unwrap();
        }
        assert_eq!(test_store.heads(6, 1_000).len(), ids.len());
    };
    let is_empty = |test_store: &TestStore| {
        assert_eq!(test_store.heads(6, 9).len(), 0);
        let first = ListingQuery { prefix: String::new(), after: None, limit: 1 };
        assert!(test_store.store.list(Tier::Group, &first, NOW).unwrap().items.is_empty());
        assert_eq!(test_store.store.expired(UnixSecs(NOW.0 + 10), None, 1).unwrap(), []);
    };
    let clock = SystemClock::new();
    fill(&test_store, &ids);
    let start = clock.monotonic();
    let writes = ids.iter().map(|id| (id.clone(), None)).collect();
    let purge = Registers { shard: 6, state: Some(state(1)), writes, ..Registers::default() };
    test_store.keep(purge).unwrap();
    println!("{} deletions: {} us", ids.len(), clock.monotonic().since(start));
    test_store.restart();
    is_empty(&test_store);
    assert_eq!(test_store.store.shard_state(6).unwrap(), Some(state(1)));
    let ids = &ids[..20_000];
    fill(&test_store, ids);
    let start = clock.monotonic();
    test_store.keep(Registers { shard: 6, wipe: true, ..Registers::default() }).unwrap();
    println!("a wipe of {}: {} us", ids.len(), clock.monotonic().since(start));
    test_store.restart();
    is_empty(&test_store);
}

// ---- against a model ----

/// What both stores are to hold.
#[derive(Default)]
struct Model {
    registers: BTreeMap<ObjectId, Register>,
    loose: BTreeMap<ObjectId, Object>,
    states: BTreeMap<u8, ShardState>,
}

impl Model {
    fn register(&self, id: &ObjectId) -> Option<Register> {
        let loose = |object: &Object| Register {
            promised: BALLOT_OF_UNREGISTERED,
            accepted: BALLOT_OF_UNREGISTERED,
            value: Value::Live(object.clone()),
            ..Register::default()
        };
        self.registers.get(id).cloned().or_else(|| self.loose.get(id).map(loose))
    }

    fn head(&self, id: &ObjectId) -> RegisterHead {
        let register = self.register(id).unwrap();
        let object = match &register.value {
            Value::Live(object) => Some(object),
            _ => None,
        };
        RegisterHead {
            id: id.clone(),
            promised: register.promised,
            accepted: register.accepted,
            version: register.value.version(),
            is_live: object.is_some(),
            expires_at: object.and_then(|object| object.expires_at),
            is_damaged: false,
        }
    }

    fn apply(&mut self, job: &Registers) {
        if job.wipe {
            self.registers.retain(|id, _| shard_of(id) != job.shard);
            self.loose.retain(|id, _| shard_of(id) != job.shard);
            self.states.remove(&job.shard);
        }
        if let Some(state) = &job.state {
            self.states.insert(job.shard, state.clone());
        }
        for (id, register) in &job.writes {
            self.loose.remove(id);
            match register {
                Some(register) => self.registers.insert(id.clone(), register.clone()),
                None => self.registers.remove(id),
            };
        }
    }

    fn check(&self, test_store: &TestStore, ids: &[ObjectId], page: usize, what: &str) {
        let now = test_store.now();
        for id in ids {
            let register = self.register(id);
            let object = register.as_ref().and_then(|register| register.value.live(now).cloned());
            assert_eq!(test_store.store.register(id).unwrap(), register, "{what}: {id}");
            assert_eq!(test_store.get(id), object, "{what}: {id}");
        }
        let known: BTreeSet<_> = self.registers.keys().chain(self.loose.keys()).collect();
        for shard in 0..SHARDS {
            let heads: Vec<_> =
                known.iter().filter(|id| shard_of(id) == shard).map(|id| self.head(id)).collect();
            assert_eq!(test_store.heads(shard, page), heads, "{what}: shard {shard} by {page}");
            assert_eq!(
                test_store.store.shard_state(shard).unwrap().as_ref(),
                self.states.get(&shard)
            );
        }
        let mut expired: Vec<_> = self.registers.keys().map(|id| self.head(id)).collect();
        expired.retain(|head| head.expires_at.is_some_and(|at| at <= now));
        expired.sort_by_key(|head| (head.expires_at, head.id.clone()));
        let found = test_store.store.expired(now, None, 1_000).unwrap();
        let found: Vec<_> =
            found.into_iter().map(|e| (e.id, Some(e.version), Some(e.expires_at))).collect();
        let expired: Vec<_> =
            expired.into_iter().map(|head| (head.id, head.version, head.expires_at)).collect();
        assert_eq!(found, expired, "{what}");
    }
}

/// Goal: after any jobs in any order, both stores hold the same, and all ways of reading show it.
#[test]
fn both_stores_hold_what_the_model_holds() {
    let seed: u64 = std::env::var("NOMAD_SEED").map_or(1, |seed| seed.parse().unwrap());
    for seed in seed..seed + 4 {
        println!("NOMAD_SEED={seed}");
        for mut test_store in TestStore::both() {
            against_the_model(&mut test_store, seed);
        }
    }
}

fn against_the_model(test_store: &mut TestStore, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let ids: Vec<_> = (0..40).map(|index| id(&format!("k{index:02}"))).collect();
    let mut model = Model::default();
    let mut counter = 10;
    for step in 0..300 {
        counter += 10;
        let what = format!("NOMAD_SEED={seed} {} step {step}", test_store.name);
        match rng.random_range(0..20) {
            0..12 => {
                let job = random_job(&mut rng, &model, &ids, counter, test_store.now());
                model.apply(&job);
                test_store.keep(job).unwrap();
            }
            12..15 => write_past(test_store, &mut rng, &mut model, &ids),
            15..17 => test_store.clock.advance_ms(rng.random_range(0..3_000)),
            17 => {
                let now = test_store.now();
                while test_store.sweep(rng.random_range(1..5)).more {}
                model.loose.retain(|_, object| !object.is_expired(now));
            }
            _ => test_store.restart(),
        }
        if step % 5 == 0 {
            model.check(test_store, &ids, rng.random_range(1..50), &what);
        }
    }
}

fn random_job(
    rng: &mut SmallRng,
    model: &Model,
    ids: &[ObjectId],
    counter: u64,
    now: UnixSecs,
) -> Registers {
    let shard = shard_of(ids.choose(rng).unwrap());
    let mine: Vec<_> = ids.iter().filter(|id| shard_of(id) == shard).collect();
    let wipe = rng.random_range(0..15) == 0;
    let state = rng.random_bool(0.2).then(|| state(counter));
    let mut writes = Vec::new();
    for index in 0..rng.random_range(0..4) {
        let id = (*mine.choose(rng).unwrap()).clone();
        let counter = counter + index;
        let kept = model.register(&id).filter(|_| !wipe);
        let register = match rng.random_range(0..6) {
            0 => None,
            1 => Some(tombstone(counter)),
            // A promise, and the same value again under another ballot.
            2 => kept.map(|kept| promise(&kept, counter)),
            3 => kept.map(|kept| Register { accepted: ballot(counter), ..promise(&kept, counter) }),
            _ => {
                let later = UnixSecs(now.0 + rng.random_range(1..5));
                Some(live(&id, counter, rng.random_bool(0.5).then_some(later)))
            }
        };
        writes.push((id, register));
    }
    Registers { shard, wipe, state, writes }
}

/// A write as the embedded store makes it.
fn write_past(test_store: &TestStore, rng: &mut SmallRng, model: &mut Model, ids: &[ObjectId]) {
    let id = ids.choose(rng).unwrap();
    let at = rng.random_bool(0.5).then(|| UnixSecs(test_store.now().0 + rng.random_range(1..5)));
    let written = test_store.write(Tier::Group, id, content("loose", at));
    if model.registers.contains_key(id) {
        assert_eq!(written, Err(StoreError::Replicated { id: id.to_string() }));
        return;
    }
    written.unwrap().unwrap();
    model.loose.insert(id.clone(), test_store.get(id).unwrap());
}
