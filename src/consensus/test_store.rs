//! The store under openraft's own suite, crashes, failures and damage.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use openraft::{
    EntryPayload, LogId, RaftSnapshotBuilder as _, Vote,
    storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _},
    testing::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{
    LogOpenError, RaftOptions,
    log_store::LogStore,
    machine::{AppliedState, Machine},
    store::{Kept, RaftStore},
    test_cluster::{id, table_of},
    types::{Participant, RaftEntry, RaftLogId, RaftRecord, StorageError, Types, first_entries},
};
use nomad_core::group::table::{GroupClaim, TableCommand};
use nomad_storage::FaultPoint;

struct Stores;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let store = RaftStore::open(&RaftOptions::new(dir.path(), id(1)), false).await.unwrap();
        let handle = store.handle();
        let machine = Machine::new(handle.clone(), watch::Sender::default()).unwrap();
        Ok((dir, LogStore::new(handle), machine))
    }
}

#[test]
fn openrafts_own_storage_suite_passes() {
    Suite::test_all(Stores).unwrap();
}

fn me() -> Participant {
    Participant { node: id(1), claim: 1 }
}

fn log_id(term: u64, index: u64) -> RaftLogId {
    RaftLogId { leader_id: openraft::LeaderId::new(term, me().number()), index }
}

fn entry(term: u64, index: u64) -> RaftEntry {
    let record = RaftRecord::Do(TableCommand::Dissolve { into: Some(format!("group-{index}")) });
    RaftEntry { log_id: log_id(term, index), payload: EntryPayload::Normal(record) }
}

fn bond(group: &str) -> GroupClaim {
    GroupClaim { group: group.to_owned(), claim: 1 }
}

/// Everything that the store is ever asked to do, in an order that makes sense.
async fn step(store: &Arc<RaftStore>, number: usize) -> Result<(), String> {
    let text = |error: StorageError| error.to_string();
    if number == 0 {
        let first = first_entries(me(), table_of("group-a", 1));
        return store.replace(Some(&bond("group-a")), &first).await;
    }
    if number == 9 {
        return store.replace(Some(&bond("group-b")), &[]).await;
    }
    let handle = store.handle();
    let mut log = LogStore::new(handle.clone());
    match number {
        1 => log.save_vote(&Vote::new(1, me().number())).await.map_err(text),
        2 => log.blocking_append([entry(1, 2), entry(1, 3)]).await.map_err(text),
        3 => log.save_committed(Some(log_id(1, 2))).await.map_err(text),
        4 => log.blocking_append((4..40).map(|index| entry(1, index))).await.map_err(text),
        5 => log.truncate(log_id(1, 30)).await.map_err(text),
        6 => log.save_vote(&Vote::new_committed(2, me().number())).await.map_err(text),
        7 => {
            let (mut machine, _) = machine(&handle);
            let entries = handle.read(|kept| {
                kept.log.range(..20).map(|(_, (entry, _))| entry.clone()).collect::<Vec<_>>()
            });
            machine.apply(entries).await.map_err(text)?;
            let mut builder = machine.get_snapshot_builder().await;
            builder.build_snapshot().await.map(|_| ()).map_err(text)
        }
        8 => log.purge(log_id(1, 10)).await.map_err(text),
        10 => log.save_vote(&Vote::new(1, 2)).await.map_err(text),
        11 => log.blocking_append([entry(1, 0)]).await.map_err(text),
        _ => store.replace(None, &[]).await,
    }
}

const STEPS: usize = 13;

fn machine(handle: &super::store::Handle) -> (Machine, watch::Receiver<AppliedState>) {
    let (published, state) = watch::channel(AppliedState::default());
    (Machine::new(handle.clone(), published).unwrap(), state)
}

fn options(dir: &Path) -> RaftOptions {
    RaftOptions::new(dir, id(1))
}

async fn kept_in(dir: &Path) -> Result<Kept, LogOpenError> {
    let store = RaftStore::open(&options(dir), false).await?;
    let kept = store.read(Clone::clone);
    store.close().await;
    Ok(kept)
}

/// Returns the length without the zeros at the end, to which the engine extends a journal beforehand.
fn used(bytes: &[u8]) -> usize {
    const STEP: usize = 64 << 10;
    let zeros = vec![0; STEP];
    let mut len = bytes.len();
    while len >= STEP && bytes[len - STEP..len] == zeros {
        len -= STEP;
    }
    bytes[..len].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Copies a database as it is; the zeros at the end of journals stay holes.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let (path, to) = {
            let file = file.unwrap();
            (file.path(), to.join(file.file_name()))
        };
        if path.is_dir() {
            copy(&path, &to);
            continue;
        }
        // A file that the engine has just removed is one that it does not need.
        let Ok(bytes) = fs::read(&path) else { continue };
        fs::write(&to, &bytes[..used(&bytes)]).unwrap();
        fs::OpenOptions::new().write(true).open(&to).unwrap().set_len(bytes.len() as u64).unwrap();
    }
}

#[tokio::test]
async fn a_crash_at_any_write_leaves_the_state_before_it_or_after_it() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let points: Arc<Mutex<Vec<(FaultPoint, PathBuf)>>> = Arc::default();
    let mut options = options(dir.path());
    let (seen, source, target) =
        (Arc::clone(&points), dir.path().to_owned(), copies.path().to_owned());
    options.faults = Some(Arc::new(move |point| {
        let mut seen = seen.lock().unwrap();
        let to = target.join(seen.len().to_string());
        copy(&source, &to);
        seen.push((point, to));
        Ok(())
    }));
    let store = RaftStore::open(&options, false).await.unwrap();
    let mut before = store.read(Clone::clone);
    let mut checked = 0;
    for number in 0..STEPS {
        step(&store, number).await.unwrap();
        let after = store.read(Clone::clone);
        let crashes = std::mem::take(&mut *points.lock().unwrap());
        for (point, crashed) in crashes {
            let found = kept_in(&crashed).await.unwrap();
            let is_known = found == before || (found == after && point == FaultPoint::Fsync);
            assert!(is_known, "step {number} at {point:?}: {found:?}");
            fs::remove_dir_all(crashed).unwrap();
            checked += 1;
        }
        before = after;
    }
    assert!(checked >= 2 * STEPS, "only {checked} crashes");
}

#[tokio::test]
async fn what_was_done_is_there_when_the_store_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..STEPS {
        let store = RaftStore::open(&options(dir.path()), false).await.unwrap();
        step(&store, number).await.unwrap();
        let kept = store.read(Clone::clone);
        store.close().await;
        assert_eq!(kept_in(dir.path()).await.unwrap(), kept, "step {number}");
    }
    assert_eq!(kept_in(dir.path()).await.unwrap(), Kept::default());
}

#[tokio::test]
async fn a_failed_fsync_ends_the_store_until_it_is_opened_anew() {
    for fails_at in [FaultPoint::Write, FaultPoint::Fsync] {
        let dir = tempfile::tempdir().unwrap();
        let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut options = options(dir.path());
        let is_broken = Arc::clone(&broken);
        options.faults = Some(Arc::new(move |point| {
            let fails = point == fails_at && is_broken.load(std::sync::atomic::Ordering::SeqCst);
            if fails { Err(std::io::Error::other("the disk is gone")) } else { Ok(()) }
        }));
        let store = RaftStore::open(&options, false).await.unwrap();
        for number in 0..3 {
            step(&store, number).await.unwrap();
        }
        let before = store.read(Clone::clone);
        broken.store(true, std::sync::atomic::Ordering::SeqCst);
        let error = step(&store, 4).await.unwrap_err();
        assert!(error.contains("the disk is gone"), "{error}");
        broken.store(false, std::sync::atomic::Ordering::SeqCst);
        step(&store, 6).await.unwrap_err();
        let tried = store.read(Clone::clone);
        assert!(store.failure().unwrap().contains("the disk is gone"));
        store.close().await;
        let store = RaftStore::open(&options, true).await.unwrap();
        let found = store.read(Clone::clone);
        assert!(found == before || found == tried, "{found:?}");
        step(&store, 6).await.unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn a_handle_of_a_group_that_was_left_writes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(&options(dir.path()), false).await.unwrap();
    let mut old = LogStore::new(store.handle());
    store.replace(Some(&bond("group-b")), &[]).await.unwrap();
    old.save_vote(&Vote::new(9, 9)).await.unwrap_err();
    assert_eq!(store.read(|kept| kept.vote), None);
    store.close().await;
}

/// Writes a record behind the store's back.
fn plant(dir: &Path, key: &[u8], value: &[u8]) {
    let db = fjall::Database::builder(dir).open().unwrap();
    let keyspace = db.keyspace("group", fjall::KeyspaceCreateOptions::default).unwrap();
    keyspace.insert(key, value).unwrap();
    db.persist(fjall::PersistMode::SyncAll).unwrap();
}

#[tokio::test]
async fn another_format_a_stranger_and_a_hole_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = RaftStore::open(&options(dir.path()), false).await.unwrap();
    for number in 0..5 {
        step(&store, number).await.unwrap();
    }
    store.close().await;
    let other = RaftOptions::new(dir.path(), id(2));
    let error = RaftStore::open(&other, false).await.unwrap_err();
    assert!(matches!(error, LogOpenError::Stranger { owner, .. } if owner == id(1)), "{error}");
    plant(dir.path(), b"\x01vote", &[1, 0xff]);
    let error = kept_in(dir.path()).await.unwrap_err().to_string();
    assert!(error.contains("the record vote does not read back"), "{error}");
    plant(dir.path(), b"\x02\0\0\0\0\0\0\0\xff", &[]);
    plant(dir.path(), b"\x01vote", &[1, 1, 1, 1]);
    let error = kept_in(dir.path()).await.unwrap_err().to_string();
    assert!(error.contains("entry 40 of the log is not there"), "{error}");
    plant(dir.path(), b"\x01format", &[7]);
    let error = kept_in(dir.path()).await.unwrap_err();
    assert!(matches!(error, LogOpenError::Format { found: 7, expected: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_flipped_byte_is_an_error_or_costs_no_more_than_the_last_write() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = RaftStore::open(&options(dir.path()), false).await.unwrap();
    let mut states = Vec::new();
    for number in 0..5 {
        step(&store, number).await.unwrap();
        states.push(store.read(Clone::clone));
    }
    store.close().await;
    let [.., last_but_one, last] = &states[..] else { panic!("too few states") };
    let journal = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    let journal = journal.filter(|path| path.extension().is_some_and(|end| end == "jnl")).max();
    let journal = journal.unwrap();
    let bytes = fs::read(&journal).unwrap();
    let used = used(&bytes);
    let mut outcomes = BTreeMap::<&str, u32>::new();
    for at in (0..used).step_by(used / 24) {
        let to = copies.path().join(at.to_string());
        copy(dir.path(), &to);
        let damaged = to.join(journal.file_name().unwrap());
        let damaged = fs::OpenOptions::new().write(true).open(&damaged).unwrap();
        damaged.write_all_at(&[bytes[at] ^ 0x20], at as u64).unwrap();
        let outcome = match kept_in(&to).await {
            Ok(kept) if kept == *last => "whole",
            Ok(kept) if kept == *last_but_one => "without the last write",
            Ok(kept) => panic!("byte {at}: {kept:?}"),
            Err(LogOpenError::Damaged { .. }) => "damaged",
            Err(error) => panic!("byte {at}: {error}"),
        };
        *outcomes.entry(outcome).or_default() += 1;
        fs::remove_dir_all(to).unwrap();
    }
    assert!(outcomes["damaged"] > 0, "{outcomes:?}");
}

#[test]
fn log_ids_are_ordered_by_term_first() {
    assert!(log_id(2, 0) > log_id(1, 9));
    assert_eq!(LogId::default(), first_entries(me(), table_of("group-a", 1))[0].log_id);
}
