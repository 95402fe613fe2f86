//! Registers and the outbox when the disk fails, a batch is torn, a record is damaged, or an older version wrote them.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use crate::stores::*;
use nomad_core::{
    model::{
        object::{ObjectId, Tier},
        time::UnixSecs,
    },
    register::{Ballot, Value, shard_of},
};
use nomad_ports::{
    ObjectStore as _,
    object_store::{OutboxChange, OutboxJob, StoreError, StoreHealth, StoreJob},
};
use nomad_storage::{FaultPoint, FjallStore, StoreOpenError, StoreOptions};

fn journal(dir: &Path) -> PathBuf {
    let mut journals: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "jnl"))
        .collect();
    journals.sort();
    journals.pop().expect("a store has a journal")
}

/// The bytes of a journal up to its last one that is not zero.
fn written_len(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1)
}

/// A job over several registers and its state, and what it changes: it is there whole or not at all.
fn job_over(ids: &[ObjectId], counter: u64) -> Registers {
    let later = Some(UnixSecs(NOW.0 + 100 + counter));
    let writes = ids.iter().map(|id| (id.clone(), Some(live(id, counter, later)))).collect();
    Registers { shard: shard_of(&ids[0]), wipe: false, state: Some(state(counter)), writes }
}

/// Tells under which counter the job is there, and checks that all of it is.
fn check_job_is_whole(store: &FjallStore, ids: &[ObjectId], what: &str) -> u64 {
    let shard = shard_of(&ids[0]);
    let counter = store.shard_state(shard).unwrap().map_or(0, |state| state.counter_limit);
    for id in ids {
        let register = store.register(id).unwrap();
        let later = Some(UnixSecs(NOW.0 + 100 + counter));
        let expected = (counter > 0).then(|| live(id, counter, later));
        assert_eq!(register, expected, "{what}: {id}");
    }
    let expired = store.expired(UnixSecs(NOW.0 + 10_000), None, 100).unwrap();
    let expired: Vec<_> = expired.into_iter().map(|e| (e.id, e.version)).collect();
    let expected: Vec<_> = ids.iter().map(|id| (id.clone(), version(counter))).collect();
    assert_eq!(expired, if counter > 0 { expected } else { Vec::new() }, "{what}");
    counter
}

#[test]
fn a_torn_batch_is_there_whole_or_not_at_all() {
    let test_store = TestStore::fjall(|_| {});
    let ids = ids_of(2, "k", 3);
    test_store.keep(job_over(&ids, 1)).unwrap();
    let before = written_len(&journal(test_store.dir()));
    test_store.keep(job_over(&ids, 2)).unwrap();
    let after = written_len(&journal(test_store.dir()));
    let copies = tempfile::tempdir().unwrap();
    let crashed = copies.path().join("crashed");
    // Copied while open: what a killed process leaves behind.
    copy(test_store.dir(), &crashed);
    test_store.close();
    for cut in (before..after).step_by(17).chain([after]) {
        let copied = copies.path().join(format!("cut{cut}"));
        copy(&crashed, &copied);
        OpenOptions::new().write(true).open(journal(&copied)).unwrap().set_len(cut as u64).unwrap();
        let store = FjallStore::open(StoreOptions::new(&copied)).unwrap();
        let counter = check_job_is_whole(&store, &ids, &format!("cut at {cut}"));
        assert_eq!(counter, if cut == after { 2 } else { 1 });
        drop(store);
        fs::remove_dir_all(&copied).unwrap();
    }
}

/// Goal: of what was answered nothing is lost, and nothing is there in part, whenever the process is killed.
/// Method: a thread keeps on, the directory is copied under it.
#[test]
fn what_was_answered_survives_a_kill_at_any_moment() {
    let test_store = TestStore::fjall(|_| {});
    let (store, stop) = (test_store.store.clone(), Arc::new(AtomicBool::new(false)));
    let ids = ids_of(2, "k", 3);
    let outbox = id("fast");
    let (acknowledged, answers) = mpsc::channel();
    let writer = {
        let (ids, outbox, stop) = (ids.clone(), outbox.clone(), stop.clone());
        thread::spawn(move || {
            for counter in 1.. {
                if stop.load(SeqCst) {
                    return;
                }
                let (done, first) = channel();
                store.submit(StoreJob::Registers(job_over(&ids, counter).with(done)));
                let (done, second) = channel();
                let put = vec![(outbox.clone(), Value::Live(object(&outbox, counter, None)))];
                let change = OutboxChange { put, ..OutboxChange::default() };
                store.submit(StoreJob::Outbox(OutboxJob { change, done }));
                first.recv().unwrap().unwrap();
                second.recv().unwrap().unwrap();
                acknowledged.send(counter).unwrap();
            }
        })
    };
    let copies = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..5 {
        for _ in 0..20 {
            last = answers.recv().unwrap();
        }
        last = answers.try_iter().last().unwrap_or(last);
        let copied = copies.path().join(format!("copy{round}"));
        copy(test_store.dir(), &copied);
        let store = FjallStore::open(StoreOptions::new(&copied)).unwrap();
        let counter = check_job_is_whole(&store, &ids, &format!("copy {round}"));
        assert!(counter >= last, "{counter} of {last}");
        let entry = store.outbox_entry(&outbox).unwrap().unwrap();
        assert!(entry.version() >= Some(version(last)));
        assert_eq!(store.counts().outbox_entries, 1);
        assert!(store.latest_version() >= version(last));
    }
    stop.store(true, SeqCst);
    writer.join().unwrap();
}

#[test]
fn a_failing_disk_answers_unknown_keeps_nothing_half_and_recovers() {
    for step in [FaultPoint::Write, FaultPoint::Fsync] {
        let broken = Arc::new(AtomicBool::new(false));
        let is_broken = broken.clone();
        let test_store = TestStore::fjall(|options| {
            options.clock = Arc::new(nomad_ports::SystemClock::new());
            options.faults = Some(Arc::new(move |at| {
                let fails = is_broken.load(SeqCst) && (at == step || at == FaultPoint::Reopen);
                if fails { Err(io::Error::other("injected")) } else { Ok(()) }
            }));
        });
        let ids = ids_of(2, "k", 3);
        let (a, b) = (id("a"), id("b"));
        let put = |id: &ObjectId, counter| OutboxChange {
            put: vec![(id.clone(), Value::Live(object(id, counter, None)))],
            ..OutboxChange::default()
        };
        test_store.keep(job_over(&ids, 1)).unwrap();
        test_store.outbox(put(&a, 1)).unwrap();
        broken.store(true, SeqCst);
        let unknown = test_store.keep(job_over(&ids, 2)).unwrap_err();
        assert!(matches!(unknown, StoreError::OutcomeUnknown { .. }), "{step:?}: {unknown}");
        let refused = test_store.outbox(put(&b, 2)).unwrap_err();
        assert!(matches!(refused, StoreError::ReadOnly { .. }), "{step:?}: {refused}");
        // What was there reads on.
        assert!(test_store.store.register(&ids[0]).unwrap().is_some());
        assert!(test_store.store.outbox_entry(&a).unwrap().is_some());
        broken.store(false, SeqCst);
        while test_store.store.health() != StoreHealth::Up {
            thread::park_timeout(Duration::from_millis(5));
        }
        let copies = tempfile::tempdir().unwrap();
        copy(test_store.dir(), &copies.path().join("copy"));
        let store = FjallStore::open(StoreOptions::new(copies.path().join("copy"))).unwrap();
        let counter = check_job_is_whole(&store, &ids, &format!("{step:?}"));
        assert!(counter == 1 || (counter == 2 && step == FaultPoint::Fsync), "{step:?}: {counter}");
        assert_eq!(test_store.store.counts().outbox_entries, 1);
        test_store.keep(job_over(&ids, 3)).unwrap();
        test_store.outbox(put(&b, 3)).unwrap();
        assert_eq!(test_store.store.counts().outbox_entries, 2);
    }
}

#[test]
fn a_damaged_register_names_its_object_and_the_others_go_on() {
    let mut test_store = TestStore::fjall(|_| {});
    let ids = ids_of(2, "k", 6);
    for id in &ids {
        test_store.keep_one(id, Some(live(id, 1, Some(UnixSecs(NOW.0 + 10))))).unwrap();
    }
    let key = |tag: &[u8], id: &ObjectId| [tag, id.as_str().as_bytes()].concat();
    test_store.edit_while_closed(|dir| {
        edit(dir, |records| {
            // Another format, cut short, nothing, another version of the object, no object.
            records.insert(key(&[5, 2], &ids[0]), [9, 1, 2]).unwrap();
            let short = records.get(key(&[5, 2], &ids[1])).unwrap().unwrap();
            records.insert(key(&[5, 2], &ids[1]), &short[..40]).unwrap();
            records.insert(key(&[5, 2], &ids[2]), []).unwrap();
            let other = records.get(key(&[2], &ids[5])).unwrap().unwrap().to_vec();
            let mut other = other;
            other[8] ^= 1;
            records.insert(key(&[2], &ids[3]), other).unwrap();
            records.remove(key(&[2], &ids[4])).unwrap();
        });
    });
    for id in &ids[..5] {
        let damaged = test_store.store.register(id).unwrap_err();
        assert!(matches!(&damaged, StoreError::Damaged { id: named, .. } if named == id.as_str()));
        assert!(damaged.to_string().contains(id.as_str()), "{damaged}");
    }
    assert!(test_store.store.register(&ids[5]).unwrap().is_some());
    let heads = test_store.heads(2, 2);
    assert_eq!(
        heads.iter().map(|head| &head.id).collect::<Vec<_>>(),
        ids.iter().collect::<Vec<_>>()
    );
    let damaged: Vec<_> = heads.iter().map(|head| head.is_damaged).collect();
    assert_eq!(damaged, [true, true, true, false, false, false]);
    assert_eq!(heads[0].accepted, Ballot::NONE);
    // They can be written over and deleted, and leave nothing behind.
    test_store.keep_one(&ids[0], Some(live(&ids[0], 2, None))).unwrap();
    test_store.keep_one(&ids[1], Some(tombstone(2))).unwrap();
    test_store.keep_one(&ids[2], None).unwrap();
    test_store.keep_one(&ids[3], Some(live(&ids[3], 2, None))).unwrap();
    test_store.keep_one(&ids[4], None).unwrap();
    assert_eq!(test_store.store.register(&ids[0]).unwrap(), Some(live(&ids[0], 2, None)));
    assert_eq!(test_store.get(&ids[1]), None);
    let expired = test_store.store.expired(UnixSecs(NOW.0 + 10), None, 10).unwrap();
    assert_eq!(expired.iter().map(|e| &e.id).collect::<Vec<_>>(), [&ids[5]]);
    test_store.keep(Registers { shard: 2, wipe: true, ..Registers::default() }).unwrap();
    assert_eq!(test_store.heads(2, 10), []);
}

#[test]
fn a_damaged_shard_state_or_entry_is_named_and_the_others_go_on() {
    let mut test_store = TestStore::fjall(|_| {});
    for shard in [1, 2] {
        test_store
            .keep(Registers { shard, state: Some(state(1)), ..Registers::default() })
            .unwrap();
    }
    let (a, b) = (id("a"), id("b"));
    for id in [&a, &b] {
        let put = vec![(id.clone(), Value::Live(object(id, 1, None)))];
        test_store.outbox(OutboxChange { put, ..OutboxChange::default() }).unwrap();
    }
    test_store.edit_while_closed(|dir| {
        edit(dir, |records| {
            let state = records.get([6, 1]).unwrap().unwrap();
            records.insert([6, 1], &state[..5]).unwrap();
            records.insert(b"\x07a", [1, 1, 9]).unwrap();
        });
    });
    let damaged = test_store.store.shard_state(1).unwrap_err().to_string();
    assert!(damaged.contains("shard 1"), "{damaged}");
    assert_eq!(test_store.store.shard_state(2).unwrap(), Some(state(1)));
    let damaged = test_store.store.outbox_entry(&a).unwrap_err();
    assert!(matches!(damaged, StoreError::Damaged { id, .. } if id == "a"));
    let listed = test_store.store.outbox(None, 10).unwrap();
    assert_eq!(listed.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [b]);
    // Any newer write takes its place.
    let put = vec![(a.clone(), Value::Live(object(&a, 1, None)))];
    test_store.outbox(OutboxChange { put, ..OutboxChange::default() }).unwrap();
    assert_eq!(test_store.store.outbox(None, 10).unwrap().len(), 2);
    assert_eq!(test_store.store.counts().outbox_entries, 2);
}

/// Makes of a directory what the program before this one would have left.
fn downgrade_to_format_1(dir: &Path) {
    edit(dir, |records| {
        records.insert(b"\x01format", [1]).unwrap();
        records.remove(b"\x01loose").unwrap();
        let clock = records.get(b"\x01clock").unwrap().unwrap();
        records.insert(b"\x01clock", &clock[..16]).unwrap();
    });
}

#[test]
fn a_directory_of_format_1_is_read_and_its_objects_take_part() {
    let mut test_store = TestStore::fjall(|_| {});
    let ids: Vec<_> = (0..20).map(|index| id(&format!("k{index:02}"))).collect();
    for (index, id) in (0..).zip(&ids) {
        let at = (index % 2 == 0).then_some(UnixSecs(NOW.0 + 10));
        test_store.write(Tier::Group, id, content("x", at)).unwrap().unwrap();
    }
    let last = test_store.store.latest_version();
    test_store.edit_while_closed(downgrade_to_format_1);
    for _ in 0..2 {
        assert!(test_store.store.latest_version() >= last);
        assert!(ids.iter().all(|id| test_store.get(id).is_some()));
        let mut listed: Vec<_> = (0..8).flat_map(|shard| test_store.heads(shard, 3)).collect();
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(
            listed.iter().map(|head| &head.id).collect::<Vec<_>>(),
            ids.iter().collect::<Vec<_>>()
        );
        assert!(listed.iter().all(|head| head.accepted.epoch == 0 && head.accepted > Ballot::NONE));
        test_store.restart();
    }
    // Once all have a register, nobody looks for others any more, and the sweep leaves them alone.
    for id in &ids {
        let register = test_store.store.register(id).unwrap().unwrap();
        test_store.keep_one(id, Some(promise(&register, 9))).unwrap();
    }
    test_store.restart();
    test_store.clock.advance_ms(10_000);
    assert_eq!(test_store.sweep(100).removed, 0);
    assert_eq!(test_store.store.expired(test_store.now(), None, 100).unwrap().len(), 10);
    assert_eq!((0..8).map(|shard| test_store.heads(shard, 3).len()).sum::<usize>(), 20);
    test_store.close();
    edit(test_store.dir(), |records| {
        assert_eq!(&*records.get(b"\x01format").unwrap().unwrap(), [2]);
        records.insert(b"\x01format", [3]).unwrap();
    });
    let newer = FjallStore::open(StoreOptions::new(test_store.dir())).unwrap_err();
    assert!(matches!(newer, StoreOpenError::Format { found: 3, expected: 2, .. }), "{newer}");
}
