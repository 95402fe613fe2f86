//! A damaged journal: a clear error or a recovered prefix, never a wrong value. And a disk that is really full.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nomad_core::model::durability::Durability;
use nomad_storage::{Store, StoreOpenError, StoreOptions};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tempfile::{TempDir, tempdir};

/// How often each object is written: the values of `k` are `k:0`, `k:1` and so on.
const ROUNDS: usize = 12;
const KEYS: usize = 8;

fn value_of(key: usize, round: usize) -> String {
    format!("{key}:{round}:{}", "payload ".repeat(key))
}

/// Writes a history and returns the directory with the journal in it, as a kill would leave it.
async fn history() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let store = Store::open(StoreOptions::new(dir.path().join("live"))).unwrap();
    for round in 0..ROUNDS {
        for key in 0..KEYS {
            let (id, value) = (format!("key{key}"), value_of(key, round));
            if round == 0 {
                store.put(&id, value, None).await.unwrap();
            } else {
                store.update(&id, value, None).await.unwrap();
            }
        }
    }
    // Copied while open: what a killed process leaves behind.
    let crashed = dir.path().join("crashed");
    copy(&dir.path().join("live"), &crashed);
    store.close().await;
    (dir, crashed)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

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

/// Opens a damaged copy and checks that it is a prefix of the history: after some round and key, everything before is
/// there at its newest, and nothing of what came behind.
fn check_prefix(dir: &Path, what: &str) -> Result<(), StoreOpenError> {
    let store = Store::open(StoreOptions::new(dir))?;
    let mut rounds = BTreeMap::new();
    for key in 0..KEYS {
        if let Some(object) = store.get(&format!("key{key}")).unwrap() {
            let text = String::from_utf8(object.value.to_vec()).unwrap();
            let round = (0..ROUNDS).find(|&round| value_of(key, round) == text);
            let round = round.unwrap_or_else(|| panic!("{what}: key{key} has the value {text:?}"));
            rounds.insert(key, round);
        }
    }
    // Keys are written in turn, so the rounds of a prefix fall by at most one, once, from left to right.
    let reached = |key: usize| rounds.get(&key).map_or(0, |round| round + 1);
    let first = reached(0);
    let mut dropped = false;
    for key in 1..KEYS {
        let expected = if dropped { first - 1 } else { first };
        if reached(key) != expected {
            assert!(!dropped && reached(key) + 1 == first, "{what}: no prefix: {rounds:?}");
            dropped = true;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_truncated_journal_opens_as_a_prefix() {
    let (dir, crashed) = history().await;
    let len = written_len(&journal(&crashed));
    let mut opened = 0;
    for cut in (0..40).map(|step| len * step / 40) {
        let copied = dir.path().join(format!("cut{cut}"));
        copy(&crashed, &copied);
        OpenOptions::new().write(true).open(journal(&copied)).unwrap().set_len(cut as u64).unwrap();
        match check_prefix(&copied, &format!("cut at {cut}")) {
            Ok(()) => opened += 1,
            Err(error) => assert!(error.to_string().contains("crashed") || cut == 0, "{error}"),
        }
        fs::remove_dir_all(&copied).unwrap();
    }
    assert!(opened > 30, "only {opened} of 40 truncated journals opened");
}

#[tokio::test]
async fn a_flipped_bit_is_a_clear_error_or_a_prefix_and_never_a_wrong_value() {
    let seed: u64 =
        std::env::var("NOMAD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("NOMAD_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let (dir, crashed) = history().await;
    let (len, mut refused) = (written_len(&journal(&crashed)), 0);
    for _ in 0..150 {
        let (at, bit) = (rng.random_range(0..len), rng.random_range(0..8));
        let copied = dir.path().join("flipped");
        copy(&crashed, &copied);
        let path = journal(&copied);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();
        let what = format!("NOMAD_SEED={seed}: bit {bit} of byte {at} of {len}");
        if let Err(error) = check_prefix(&copied, &what) {
            refused += 1;
            assert!(error.to_string().contains("flipped"), "{what}: {error}");
        }
        fs::remove_dir_all(&copied).unwrap();
    }
    assert!(refused > 100, "{refused} of 150 flips were refused");
}

/// A store of one object, and one whose last batch, of `value`, is the last in its journal.
async fn store_with_torn_batch(value: Vec<u8>) -> (TempDir, PathBuf, usize) {
    let dir = tempdir().unwrap();
    let store = Store::open(StoreOptions::new(dir.path().join("live"))).unwrap();
    store.put("first", "1", None).await.unwrap();
    let before = written_len(&journal(&dir.path().join("live")));
    store.put("torn", value, None).await.unwrap();
    let crashed = dir.path().join("crashed");
    copy(&dir.path().join("live"), &crashed);
    store.close().await;
    (dir, crashed, before)
}

async fn holds_only_the_first(dir: &Path) {
    // Twice: what was cut off stays away.
    for _ in 0..2 {
        let store = Store::open(StoreOptions::new(dir)).unwrap();
        assert!(store.get("first").unwrap().is_some());
        assert_eq!(store.get("torn").unwrap(), None);
        store.put("later", "1", None).await.unwrap();
        store.delete("later").await.unwrap();
        store.close().await;
    }
}

/// The disk has written the pages of the last batch out of order when the power failed.
#[tokio::test]
async fn a_last_batch_with_a_page_of_zeros_opens_as_a_prefix() {
    let (dir, crashed, before) = store_with_torn_batch(vec![7; 64 << 10]).await;
    let len = written_len(&journal(&crashed));
    for page in before / 4096..=len / 4096 {
        let copied = dir.path().join(format!("page{page}"));
        copy(&crashed, &copied);
        let mut bytes = fs::read(journal(&copied)).unwrap();
        bytes[(page * 4096).max(before)..((page + 1) * 4096).min(len)].fill(0);
        fs::write(journal(&copied), bytes).unwrap();
        holds_only_the_first(&copied).await;
    }
}

/// A value that holds what looks like batches does not stop a start after a crash.
#[tokio::test]
async fn a_batch_forged_inside_a_torn_value_does_not_stop_the_start() {
    let (_dir, crashed, before) = store_with_torn_batch(vec![7; 1 << 10]).await;
    let mut forged = vec![0; 64];
    for _ in 0..8 {
        forged.extend_from_slice(b"FJL\x03");
        // The journal's own last batch is as good a forgery as any.
        forged.extend_from_slice(&fs::read(journal(&crashed)).unwrap()[before..][..1 << 11]);
    }
    forged.extend_from_slice(&[7; 16 << 10]);
    let (_dir, crashed, before) = store_with_torn_batch(forged).await;
    let len = written_len(&journal(&crashed));
    let file = OpenOptions::new().write(true).open(journal(&crashed)).unwrap();
    file.set_len((len - (8 << 10)) as u64).unwrap();
    assert!(before < len - (8 << 10));
    holds_only_the_first(&crashed).await;
}

#[tokio::test]
async fn a_first_start_that_was_killed_at_any_file_is_begun_again() {
    for marker in [None, Some(&b""[..]), Some(b"FJ"), Some(&[0; 4])] {
        let dir = tempdir().unwrap();
        fs::create_dir_all(dir.path().join("keyspaces")).unwrap();
        fs::write(dir.path().join("lock"), "").unwrap();
        fs::write(dir.path().join("0.jnl"), vec![0; 1 << 20]).unwrap();
        if let Some(marker) = marker {
            fs::write(dir.path().join("version"), marker).unwrap();
        }
        let store = Store::open(StoreOptions::new(dir.path())).unwrap();
        store.put("a", "1", None).await.unwrap();
        store.close().await;
        let store = Store::open(StoreOptions::new(dir.path())).unwrap();
        assert!(store.get("a").unwrap().is_some());
    }
}

/// With an interval a power cut may tear any batch since the last fsync: what is before it opens.
#[tokio::test]
async fn damage_in_the_middle_is_cut_off_when_batches_are_not_durable_one_by_one() {
    let (_dir, crashed) = history().await;
    let path = journal(&crashed);
    let mut bytes = fs::read(&path).unwrap();
    let middle = written_len(&path) / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(check_prefix(&crashed, "durable"), Err(StoreOpenError::Damaged { .. })));
    let durability = Durability::Interval(Duration::from_secs(1));
    let options = StoreOptions { durability, ..StoreOptions::new(&crashed) };
    Store::open(options).unwrap().close().await;
    check_prefix(&crashed, "interval").unwrap();
}

/// A file system of a few megabytes, unmounted when dropped.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// `None` where this process may not mount.
    fn new(megabytes: u32) -> Option<Self> {
        let dir = tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self { dir })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A disk that stays mounted is the test machine's affair, and shows there.
        let _ = Command::new("umount").arg(self.dir.path()).status();
    }
}

/// Goal: on a disk that is full without warning, writes are refused, reads go on, and room brings the store back.
/// Method: a real small file system, the reserve switched off, a ballast file that is removed later.
#[tokio::test]
async fn a_full_disk_refuses_writes_loses_nothing_and_recovers_without_a_hand() {
    let Some(disk) = SmallDisk::new(160) else {
        println!("skipped: this process may not mount a small file system");
        return;
    };
    let ballast = disk.dir.path().join("ballast");
    let store_dir = disk.dir.path().join("store");
    let options = StoreOptions { min_free_bytes: 0, ..StoreOptions::new(&store_dir) };
    let store = Store::open(options.clone()).unwrap();
    fs::write(&ballast, vec![1; 60 << 20]).unwrap();
    let (mut acknowledged, mut failed) = (Vec::new(), None);
    for index in 0..4_000 {
        let id = format!("k{index}");
        match store.put(&id, vec![index as u8; 256 << 10], None).await {
            Ok(_) => acknowledged.push((id, index as u8)),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let failed = failed.expect("160 MiB do not hold 1 GiB");
    println!("after {} puts: {failed}", acknowledged.len());
    fs::remove_file(&ballast).unwrap();
    let recovered = async {
        while store.put("after", "x", None).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), recovered).await.expect("recovers");
    store.close().await;
    let store = Store::open(options).unwrap();
    for (id, byte) in acknowledged {
        let object = store.get(&id).unwrap().unwrap_or_else(|| panic!("{id} was acknowledged"));
        assert!(object.value.iter().all(|&b| b == byte) && object.value.len() == 256 << 10);
    }
}
