//! The local store as an embedding program uses it: durable, with conditions and expiry, and with clear errors when the disk fails.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use nomad_core::model::{
    change::{Change, Condition, Content, ContentError, WriteRefusal},
    durability::Durability,
    time::{UnixMs, UnixSecs},
};
use nomad_doubles::ManualClock;
use nomad_ports::object_store::{StoreError, StoreHealth};
use nomad_storage::{FaultPoint, Store, StoreOpenError, StoreOptions, StoreWriteError};
use tempfile::tempdir;

const START: UnixMs = UnixMs(1_700_000_000_000);

fn options(dir: &Path) -> (StoreOptions, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(START));
    (StoreOptions { clock: clock.clone(), ..StoreOptions::new(dir) }, clock)
}

fn value(store: &Store, id: &str) -> Option<String> {
    let object = store.get(id).unwrap()?;
    Some(String::from_utf8(object.value.to_vec()).unwrap())
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_the_store_is_opened_again() {
    let dir = tempdir().unwrap();
    let (options, _) = options(dir.path());
    let store = Store::open(options.clone()).unwrap();
    store.put("kept", "1", None).await.unwrap();
    store.put("changed", "1", None).await.unwrap();
    store.update("changed", "2", None).await.unwrap();
    store.put("removed", "1", None).await.unwrap();
    store.delete("removed").await.unwrap();
    store.close().await;

    let store = Store::open(options).unwrap();
    assert_eq!(value(&store, "kept").as_deref(), Some("1"));
    assert_eq!(value(&store, "changed").as_deref(), Some("2"));
    assert_eq!(value(&store, "removed"), None);
}

#[tokio::test]
async fn a_put_refuses_a_duplicate_and_an_update_a_missing_one() {
    let dir = tempdir().unwrap();
    let store = Store::open(options(dir.path()).0).unwrap();
    let version = store.put("a", "1", None).await.unwrap();
    let again = store.put("a", "2", None).await;
    assert_eq!(again, Err(StoreWriteError::Refused(WriteRefusal::Exists { version })));
    let missing = store.update("b", "2", None).await;
    assert_eq!(missing, Err(StoreWriteError::Refused(WriteRefusal::Missing)));
    assert_eq!(store.delete("b").await, Err(StoreWriteError::Refused(WriteRefusal::Missing)));
    assert_eq!(value(&store, "a").as_deref(), Some("1"));
    assert_eq!(value(&store, "b"), None);
}

#[tokio::test]
async fn of_many_conditional_writes_at_once_exactly_one_wins_each_round() {
    let dir = tempdir().unwrap();
    let store = Store::open(options(dir.path()).0).unwrap();
    let mut version = store.put("a", "0", None).await.unwrap();
    for round in 0..10 {
        let writers = (0..16).map(|writer| {
            let (store, condition) = (store.clone(), Condition::Version(version));
            tokio::spawn(async move {
                let value = Bytes::from(format!("{round}:{writer}"));
                let content =
                    Content { value, creation_time: None, expires_at: None, content_type: None };
                store.change("a", Change::Write { content, condition }).await
            })
        });
        let mut won = 0;
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.unwrap() {
                Ok(_) => won += 1,
                Err(StoreWriteError::Refused(WriteRefusal::VersionMismatch { .. })) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
        version = store.get("a").unwrap().unwrap().version;
    }
}

#[tokio::test]
async fn writes_that_wait_together_share_one_fsync() {
    let dir = tempdir().unwrap();
    let store = Store::open(options(dir.path()).0).unwrap();
    let before = store.counts();
    let writers = (0..400).map(|index| {
        let store = store.clone();
        tokio::spawn(async move { store.put(&format!("k{index}"), "x", None).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    let after = store.counts();
    assert_eq!(after.writes - before.writes, 400);
    let fsyncs = after.fsyncs - before.fsyncs;
    assert!(fsyncs < 200, "{fsyncs} fsyncs for 400 writes");
}

#[tokio::test]
async fn an_expired_object_is_absent_before_any_sweep_and_the_sweep_frees_it() {
    let dir = tempdir().unwrap();
    let (options, clock) = options(dir.path());
    let store = Store::open(options).unwrap();
    let ttl = Some(UnixSecs(START.secs().0 + 10));
    for index in 0..5 {
        store.put(&format!("short{index}"), "x", ttl).await.unwrap();
    }
    store.put("forever", "x", None).await.unwrap();
    clock.advance_ms(9_999);
    assert!(value(&store, "short0").is_some());
    clock.advance_ms(1);
    assert_eq!(value(&store, "short0"), None);
    let listed = store.list("", None, 10).unwrap();
    assert_eq!(listed.items.len(), 1);
    assert_eq!(store.update("short1", "y", None).await, Err(WriteRefusal::Missing.into()));
    // The id is free again, and the object that takes it is not the sweep's to remove.
    store.put("short2", "new", None).await.unwrap();

    let swept = store.sweep(3).await.unwrap();
    assert_eq!((swept.removed, swept.more), (3, true));
    let swept = store.sweep(3).await.unwrap();
    assert_eq!((swept.removed, swept.more), (1, false));
    assert_eq!(value(&store, "short2").as_deref(), Some("new"));
    assert_eq!(value(&store, "forever").as_deref(), Some("x"));
}

#[tokio::test]
async fn a_ttl_in_the_past_and_a_value_over_the_limit_are_refused_and_store_nothing() {
    let dir = tempdir().unwrap();
    let (options, _) = options(dir.path());
    let store = Store::open(StoreOptions { max_object_bytes: 4, ..options }).unwrap();
    let past = store.put("a", "x", Some(START.secs())).await;
    assert!(
        matches!(past, Err(StoreWriteError::Content(ContentError::ExpiryPassed { .. }))),
        "{past:?}"
    );
    let large = store.put("a", "12345", None).await;
    assert!(
        matches!(large, Err(StoreWriteError::Content(ContentError::TooLarge { .. }))),
        "{large:?}"
    );
    assert_eq!(value(&store, "a"), None);
}

#[tokio::test]
async fn a_clock_set_back_never_gives_an_older_version_also_across_a_restart() {
    let dir = tempdir().unwrap();
    let (options, clock) = options(dir.path());
    let store = Store::open(options.clone()).unwrap();
    let first = store.put("a", "1", None).await.unwrap();
    clock.set_wall(UnixMs(START.0 - 3_600_000));
    let second = store.update("a", "2", None).await.unwrap();
    assert!(second > first);
    store.close().await;
    clock.set_wall(UnixMs(START.0 - 7_200_000));
    let store = Store::open(options).unwrap();
    let third = store.update("a", "3", None).await.unwrap();
    assert!(third > second);
}

#[tokio::test]
async fn pages_cover_everything_once_in_order() {
    let dir = tempdir().unwrap();
    let store = Store::open(options(dir.path()).0).unwrap();
    let mut expected: Vec<String> = (0..57).map(|index| format!("p/{index:03}")).collect();
    for id in expected.iter().chain(&["o".to_owned(), "q".to_owned()]) {
        store.put(id, "x", None).await.unwrap();
    }
    let (mut found, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = store.list("p/", after.as_deref(), 10).unwrap();
        found.extend(page.items.iter().map(|meta| meta.id.to_string()));
        match page.next {
            Some(next) => after = Some(next.to_string()),
            None => break,
        }
    }
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_directory_is_opened_by_one_at_a_time() {
    let dir = tempdir().unwrap();
    let _store = Store::open(options(dir.path()).0).unwrap();
    let again = Store::open(options(dir.path()).0).unwrap_err();
    assert!(matches!(again, StoreOpenError::Locked { .. }), "{again}");
    assert!(again.to_string().contains(&dir.path().display().to_string()), "{again}");
}

/// A disk that fails while `broken` is set, at one step.
fn breakable(
    step: FaultPoint,
) -> (nomad_storage::FaultInjector, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (broken, hits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_broken, count) = (broken.clone(), hits.clone());
    let faults = move |at: FaultPoint| {
        if is_broken.load(SeqCst) && (at == step || at == FaultPoint::Reopen) {
            count.fetch_add(1, SeqCst);
            return Err(io::Error::other("injected"));
        }
        Ok(())
    };
    (Arc::new(faults), broken, hits)
}

async fn wait_until_writable(store: &Store) {
    let up = async {
        while store.health() != StoreHealth::Up {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), up).await.expect("the store recovers by itself");
}

/// Writes are refused, reads go on, nothing acknowledged is lost, and the store recovers by itself.
#[tokio::test]
async fn a_failing_disk_turns_the_store_read_only_until_it_works_again() {
    for step in [FaultPoint::Write, FaultPoint::Fsync] {
        let dir = tempdir().unwrap();
        let (faults, broken, hits) = breakable(step);
        let store =
            Store::open(StoreOptions { faults: Some(faults), ..StoreOptions::new(dir.path()) })
                .unwrap();
        for index in 0..50 {
            store.put(&format!("before{index}"), "x", None).await.unwrap();
        }
        broken.store(true, SeqCst);
        let failed = store.put("during", "x", None).await;
        assert!(
            matches!(failed, Err(StoreWriteError::Store(StoreError::OutcomeUnknown { .. }))),
            "{step:?}: {failed:?}"
        );
        // Refused again and again, until the store has tried to recover at least twice.
        while hits.load(SeqCst) < 3 {
            let refused = store.put("later", "x", None).await.unwrap_err();
            let refused = refused.to_string();
            assert!(refused.contains("refuses writes"), "{step:?}: {refused}");
            tokio::task::yield_now().await;
        }
        assert!(matches!(store.health(), StoreHealth::ReadOnly { .. }));
        // Without a gap: nothing that reads is given up before the disk is known to work.
        for index in 0..50 {
            assert!(value(&store, &format!("before{index}")).is_some(), "{step:?}");
        }
        broken.store(false, SeqCst);
        wait_until_writable(&store).await;
        store.put("after", "x", None).await.unwrap();
        store.close().await;
        let store = Store::open(StoreOptions::new(dir.path())).unwrap();
        for index in 0..50 {
            assert!(value(&store, &format!("before{index}")).is_some(), "{step:?}");
        }
        assert_eq!(value(&store, "after").as_deref(), Some("x"), "{step:?}");
        assert_eq!(value(&store, "later"), None, "{step:?}");
    }
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_puts_takes_deletes_and_shows_in_the_health() {
    let dir = tempdir().unwrap();
    let store = Store::open(StoreOptions::new(dir.path())).unwrap();
    store.put("a", "x", None).await.unwrap();
    store.close().await;
    let free = rustix_free(dir.path());
    // More than is free.
    let min_free_bytes = free + free / 4;
    let store =
        Store::open(StoreOptions { min_free_bytes, ..StoreOptions::new(dir.path()) }).unwrap();
    let refused = store.put("b", "x", None).await.unwrap_err().to_string();
    assert!(refused.contains("minFreeBytes") && refused.contains("make room"), "{refused}");
    let health = store.health();
    assert!(health.refusal().is_some_and(|why| why.contains("minFreeBytes")), "{health:?}");
    store.delete("a").await.unwrap();
    assert_eq!(value(&store, "a"), None);
    assert_eq!(value(&store, "b"), None);
}

fn rustix_free(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[tokio::test]
async fn with_an_interval_writes_are_acknowledged_before_the_fsync_and_synced_on_close() {
    let dir = tempdir().unwrap();
    let durability = Durability::Interval(Duration::from_secs(3_600));
    let options = StoreOptions { durability, ..StoreOptions::new(dir.path()) };
    let store = Store::open(options.clone()).unwrap();
    let before = store.counts().fsyncs;
    for index in 0..100 {
        store.put(&format!("k{index}"), "x", None).await.unwrap();
    }
    assert_eq!(store.counts().fsyncs, before);
    store.close().await;
    let store = Store::open(options).unwrap();
    assert!((0..100).all(|index| value(&store, &format!("k{index}")).is_some()));
}

/// What a reader sees of a key only moves forward, also when several changes of it share a batch.
#[tokio::test]
async fn a_reader_never_sees_an_older_value_after_a_newer_one() {
    let dir = tempdir().unwrap();
    let store = Store::open(options(dir.path()).0).unwrap();
    store.put("a", "0", None).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (store, done) = (store.clone(), done.clone());
        std::thread::spawn(move || {
            let mut last = store.get("a").unwrap().unwrap().version;
            while !done.load(SeqCst) {
                let version = store.get("a").unwrap().unwrap().version;
                assert!(version >= last, "{version:?} after {last:?}");
                last = version;
            }
        })
    };
    for round in 0..40 {
        let writers = (0..50).map(|index| {
            let store = store.clone();
            tokio::spawn(async move { store.update("a", format!("{round}:{index}"), None).await })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap().unwrap();
        }
    }
    done.store(true, SeqCst);
    reader.join().unwrap();
}

#[tokio::test]
async fn a_clock_set_back_does_not_bring_back_what_has_expired() {
    let dir = tempdir().unwrap();
    let (options, clock) = options(dir.path());
    let store = Store::open(options.clone()).unwrap();
    store.put("a", "1", Some(UnixSecs(START.secs().0 + 10))).await.unwrap();
    clock.advance_ms(10_000);
    assert_eq!(value(&store, "a"), None);
    clock.set_wall(START);
    assert_eq!(value(&store, "a"), None);
    assert_eq!(store.list("", None, 10).unwrap().items, []);
    assert_eq!(store.update("a", "2", None).await, Err(WriteRefusal::Missing.into()));
    clock.advance_ms(20_000);
    store.put("b", "1", None).await.unwrap();
    store.close().await;
    clock.set_wall(START);
    let store = Store::open(options).unwrap();
    assert_eq!(value(&store, "a"), None);
}

#[tokio::test]
async fn sweeps_that_share_a_batch_count_nothing_twice() {
    let dir = tempdir().unwrap();
    let (options, clock) = options(dir.path());
    let store = Store::open(options).unwrap();
    let ttl = Some(UnixSecs(START.secs().0 + 10));
    for index in 0..20 {
        store.put(&format!("k{index}"), "x", ttl).await.unwrap();
    }
    clock.advance_ms(10_000);
    let (a, b, c) = tokio::join!(store.sweep(8), store.sweep(8), store.sweep(8));
    let removed = [a, b, c].map(|swept| swept.unwrap().removed);
    assert_eq!(removed.iter().sum::<usize>(), 20);
    assert_eq!(store.counts().swept, 20);
    // A sweep that was at its end starts over.
    store.put("late", "x", Some(UnixSecs(START.secs().0 + 11))).await.unwrap();
    clock.advance_ms(1_000);
    assert_eq!(store.sweep(8).await.unwrap().removed, 1);
}

/// The journal that a failed fsync has made doubtful is not written on.
#[tokio::test]
async fn after_a_failed_fsync_the_store_goes_on_in_a_new_journal() {
    let dir = tempdir().unwrap();
    let (faults, broken, _) = breakable(FaultPoint::Fsync);
    let options = StoreOptions { faults: Some(faults), ..StoreOptions::new(dir.path()) };
    let store = Store::open(options).unwrap();
    let first = store.put("a", "1", None).await.unwrap();
    broken.store(true, SeqCst);
    store.put("b", "1", None).await.unwrap_err();
    broken.store(false, SeqCst);
    wait_until_writable(&store).await;
    assert!(!dir.path().join("0.jnl").exists() && dir.path().join("1.jnl").exists());
    let second = store.update("a", "2", None).await.unwrap();
    assert!(second > first);
    store.close().await;
    for _ in 0..2 {
        let store = Store::open(StoreOptions::new(dir.path())).unwrap();
        assert_eq!(value(&store, "a").as_deref(), Some("2"));
        store.update("a", "2", None).await.unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn a_writer_that_panics_while_it_writes_leaves_an_unknown_outcome_and_a_failed_store() {
    let dir = tempdir().unwrap();
    let panics = Arc::new(AtomicBool::new(false));
    let armed = panics.clone();
    let faults: nomad_storage::FaultInjector = Arc::new(move |_| {
        assert!(!armed.load(SeqCst), "injected");
        Ok(())
    });
    let options = StoreOptions { faults: Some(faults), ..StoreOptions::new(dir.path()) };
    let store = Store::open(options).unwrap();
    store.put("a", "1", None).await.unwrap();
    panics.store(true, SeqCst);
    let failed = store.put("b", "1", None).await;
    let unknown = matches!(failed, Err(StoreWriteError::Store(StoreError::OutcomeUnknown { .. })));
    assert!(unknown, "{failed:?}");
    assert!(matches!(store.health(), StoreHealth::Failed { .. }));
    assert_eq!(value(&store, "a").as_deref(), Some("1"));
}

/// While the disk hangs, the waiting writes are limited in bytes, and a request for the store's state does not wait.
#[tokio::test]
async fn a_disk_that_stands_still_fills_no_memory_and_holds_up_no_status() {
    let dir = tempdir().unwrap();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let faults: nomad_storage::FaultInjector = Arc::new(move |at| {
        if at == FaultPoint::Write {
            // Ends once the test has dropped its side.
            let _ = gate.lock().unwrap().recv();
        }
        Ok(())
    });
    let options = StoreOptions { faults: Some(faults), ..StoreOptions::new(dir.path()) };
    let store = Store::open(options).unwrap();
    let large = Bytes::from(vec![7; 4 << 20]);
    let mut puts = tokio::task::JoinSet::new();
    for index in 0..80 {
        let (store, large) = (store.clone(), large.clone());
        puts.spawn(async move { store.put(&format!("k{index}"), large, None).await });
    }
    // Only what is refused is answered.
    let refused = puts.join_next().await.unwrap().unwrap();
    assert!(matches!(refused, Err(StoreWriteError::Store(StoreError::Full { .. }))), "{refused:?}");
    assert_eq!(store.health(), StoreHealth::Up);
    assert!(store.counts().waiting > 50 && store.counts().disk_bytes > 0);
    puts.shutdown().await;
    drop(open);
    while let Err(error) = store.put("after", "x", None).await {
        assert!(matches!(error, StoreWriteError::Store(StoreError::Full { .. })), "{error}");
        tokio::task::yield_now().await;
    }
    assert!(value(&store, "after").is_some());
    assert_eq!(store.counts().waiting, 0);
}
