//! Opens the database: checks the journals, the format, reads the clock. Also used to open it again after a failure.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

use super::{
    FaultPoint, StoreOpenError, StoreOptions,
    engine::Engine,
    format::{self, FORMAT, FORMAT_MIN, KEY_CLOCK, KEY_FORMAT, KEY_LOOSE, tier_tag},
    journal_check,
    reading::Facts,
    records::register_key,
    table::RecordTable as _,
};
use nomad_core::model::{
    durability::Durability,
    object::{ObjectId, Tier, Version},
    time::UnixMs,
};
use nomad_ports::object_store::StoreError;

/// Memory for writes not yet in a sorted table. Small, so that a node with a million objects stays small.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Journals on disk before the engine forces a flush; the engine allows no less than 64 MiB.
const JOURNAL_BYTES: u64 = 128 << 20;

/// How often, and after which pause, to try for the lock of the directory.
const LOCK_ATTEMPTS: u32 = 3;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// How many objects are looked at to find out whether all of them have a register.
const LOOSE_SCAN_MAX: usize = 100_000;
/// What is written to find out whether the disk works again.
const PROBE_BYTES: usize = 1 << 20;

/// A database of the engine on disk, and what it is opened with.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The directory; made when it is not there.
    pub dir: PathBuf,
    /// The name of its one keyspace.
    pub keyspace: &'static str,
    /// Whether each batch is made durable by itself, with an fsync.
    pub durable: bool,
    /// Bytes of memory for blocks that were read.
    pub cache_bytes: u64,
    /// Bytes of memory for writes that are not yet in a table.
    pub memtable_bytes: u64,
    /// How many threads the engine keeps for flushes and compactions.
    pub worker_threads: usize,
}

fn place(options: &StoreOptions) -> EngineOptions {
    EngineOptions {
        dir: options.dir.clone(),
        keyspace: "nomad",
        durable: options.durability == Durability::Always,
        cache_bytes: options.cache_bytes,
        memtable_bytes: MEMTABLE_BYTES,
        worker_threads: 2,
    }
}

/// What an opened database knows.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// The greatest version that it has given or seen.
    pub clock: Option<Version>,
    /// The latest time that it has seen.
    pub latest: UnixMs,
    pub facts: Facts,
}

/// Opens the database of a directory.
///
/// # Errors
/// Says why it does not open, with the way out.
pub fn open(options: &StoreOptions) -> Result<(Engine, Opened), StoreOpenError> {
    let engine = open_engine(&place(options))?;
    check_format(&engine, &options.dir)?;
    let opened = look(&engine).map_err(|error| StoreOpenError::Engine {
        dir: options.dir.clone(),
        reason: error.to_string(),
    })?;
    Ok((engine, opened))
}

fn look(engine: &Engine) -> Result<Opened, StoreError> {
    let clock = engine.get(KEY_CLOCK)?.and_then(|bytes| format::decode_clock(&bytes));
    let mut facts = Facts::of(engine)?;
    facts.is_loose = facts.is_loose && has_loose(engine)?;
    let latest = clock.map_or(UnixMs(0), |(_, latest)| latest);
    Ok(Opened { clock: clock.map(|(version, _)| version), latest, facts })
}

/// Finds out whether there is an object of the group tier without a register, as far as a look over some of them tells.
fn has_loose(engine: &Engine) -> Result<bool, StoreError> {
    let tag = tier_tag(Tier::Group);
    for (scanned, entry) in engine.range(vec![tag], vec![tag + 1]).enumerate() {
        let id = ObjectId::parse_bytes(entry?.0.get(1..).unwrap_or_default());
        let is_kept = match id {
            Ok(id) if scanned < LOOSE_SCAN_MAX => engine.get(&register_key(&id))?.is_some(),
            _ => false,
        };
        if !is_kept {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens the engine of a directory, after a look over its journals.
///
/// # Errors
/// Says why it does not open, with the way out.
pub fn open_engine(place: &EngineOptions) -> Result<Engine, StoreOpenError> {
    let dir = &place.dir;
    fs::create_dir_all(dir).map_err(|source| StoreOpenError::Dir { dir: dir.clone(), source })?;
    let engine_error = |error: fjall::Error| match error {
        fjall::Error::Locked => StoreOpenError::Locked { dir: dir.clone() },
        error => StoreOpenError::Engine { dir: dir.clone(), reason: error.to_string() },
    };
    let unusable = |source| StoreOpenError::Dir { dir: dir.clone(), source };
    {
        // What is looked over, and cut, is nobody else's. The engine takes the lock again below.
        let _lock = lock(dir)?;
        journal_check::clear_first_start(dir).map_err(unusable)?;
        journal_check::check(dir, place.durable)?;
    }
    let db = Database::builder(dir)
        .cache_size(place.cache_bytes)
        .max_journaling_size(JOURNAL_BYTES)
        .journal_compression(fjall::CompressionType::None)
        .max_cached_files(Some(256))
        .worker_threads(place.worker_threads)
        .open()
        .map_err(engine_error)?;
    let objects = db
        .keyspace(place.keyspace, || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(place.memtable_bytes)
                .manual_journal_persist(true)
        })
        .map_err(engine_error)?;
    Ok(Engine { db, objects })
}

/// Takes the lock of the engine until the file is closed.
fn lock(dir: &Path) -> Result<File, StoreOpenError> {
    let unusable = |source| StoreOpenError::Dir { dir: dir.to_owned(), source };
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(unusable)?;
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // One that has just been stopped may still be closing its files.
            Err(TryLockError::WouldBlock) => thread::park_timeout(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
    }
    Err(StoreOpenError::Locked { dir: dir.to_owned() })
}

/// Finds out whether the disk takes writes again, before anything that still reads is given up: writes a file, makes it
/// durable and removes it. `needed` is how many bytes must be free besides.
///
/// # Errors
/// Says what still fails.
pub fn probe(options: &StoreOptions, needed: u64) -> Result<(), String> {
    if let Some(faults) = &options.faults {
        faults(FaultPoint::Reopen).map_err(|error| error.to_string())?;
    }
    let path = options.dir.join("probe");
    let written = write_durably(&path, &vec![1; PROBE_BYTES]).and_then(|()| sync_dir(&options.dir));
    let removed = match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    written.and(removed).map_err(|error| error.to_string())?;
    let free = rustix::fs::statvfs(&options.dir).map_err(|error| error.to_string())?;
    let free = free.f_bavail.saturating_mul(free.f_frsize);
    if free < needed {
        return Err(format!("{free} bytes are free, and to recover takes {needed}; make room"));
    }
    Ok(())
}

/// Opens the database again after a failed write, see [`renew`].
///
/// # Errors
/// Says what still fails.
pub fn reopen(options: &StoreOptions) -> Result<(Engine, Opened), String> {
    renew(&place(options))?;
    let (engine, opened) = open(options).map_err(|error| error.to_string())?;
    let mut probe = engine.db.batch();
    probe.insert(&engine.objects, KEY_FORMAT, [FORMAT]);
    let done = probe.durability(Some(PersistMode::SyncAll)).commit();
    done.map_err(|error| error.to_string())?;
    Ok((engine, opened))
}

/// Makes everything that is visible in a database durable again. After a failed fsync the operating system may believe that
/// pages are on disk which are not. So the journal cannot be trusted, and nothing may be appended to it (Rebello et al., "Can
/// Applications Recover from fsync Failures?", ATC 2020). All that it holds goes into tables, and a new journal takes its place.
/// The database must not be open.
///
/// # Errors
/// Says what still fails.
pub fn renew(place: &EngineOptions) -> Result<(), String> {
    let engine = open_engine(place).map_err(|error| error.to_string())?;
    engine.objects.rotate_memtable().map_err(|error| error.to_string())?;
    engine.wait_flushed(0)?;
    drop(engine);
    retire_journals(&place.dir).map_err(|error| error.to_string())
}

/// Puts an empty journal in the place of all that are there. There is one at any time: without any the engine would
/// count its batches from the start again.
fn retire_journals(dir: &Path) -> io::Result<()> {
    let retired = journal_check::journals(dir)?;
    let newest = retired.last().map_or(0, |(number, _)| *number);
    write_durably(&dir.join(format!("{}.jnl", newest.saturating_add(1))), &[])?;
    sync_dir(dir)?;
    for (_, path) in retired {
        fs::remove_file(path)?;
    }
    sync_dir(dir)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Checks the format, and brings an older one that can be read to the present one.
fn check_format(engine: &Engine, dir: &Path) -> Result<(), StoreOpenError> {
    let failed = |error: fjall::Error| StoreOpenError::Engine {
        dir: dir.to_owned(),
        reason: error.to_string(),
    };
    let found = engine.objects.get(KEY_FORMAT).map_err(failed)?;
    let mut batch = engine.db.batch();
    match found.as_deref() {
        Some([FORMAT]) => return Ok(()),
        // Its objects have no registers.
        Some([FORMAT_MIN..FORMAT]) => batch.insert(&engine.objects, KEY_LOOSE, []),
        Some(other) => {
            return Err(StoreOpenError::Format {
                dir: dir.to_owned(),
                found: other.first().copied().unwrap_or_default(),
                expected: FORMAT,
            });
        }
        None => {}
    }
    batch.insert(&engine.objects, KEY_FORMAT, [FORMAT]);
    batch.durability(Some(PersistMode::SyncAll)).commit().map_err(failed)
}
