//! Opens the database: checks the journals, the format, reads the clock. Also used to open it again after a failure.

use std::{fs, path::Path};

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

use super::{
    FaultPoint, OpenError, StoreOptions,
    engine::Engine,
    format::{FORMAT, KEY_CLOCK, KEY_FORMAT, decode_version},
    journal_check,
};
use crate::core::object::Version;

/// Memory for writes not yet in a sorted table. Small, so that a node with a million objects stays small.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Journals on disk before the engine forces a flush; the engine allows no less than 64 MiB.
const JOURNAL_BYTES: u64 = 128 << 20;

/// Opens the database of a directory, and tells the greatest version that it has given.
///
/// # Errors
/// Says why it does not open, with the way out.
pub fn open(options: &StoreOptions) -> Result<(Engine, Option<Version>), OpenError> {
    let dir = &options.dir;
    fs::create_dir_all(dir).map_err(|source| OpenError::Dir { dir: dir.clone(), source })?;
    let engine_error = |error: fjall::Error| match error {
        fjall::Error::Locked => OpenError::Locked { dir: dir.clone() },
        error => OpenError::Engine { dir: dir.clone(), reason: error.to_string() },
    };
    journal_check::check(dir)?;
    let db = Database::builder(dir)
        .cache_size(options.cache_bytes)
        .max_journaling_size(JOURNAL_BYTES)
        .journal_compression(fjall::CompressionType::None)
        .max_cached_files(Some(256))
        .worker_threads(2)
        .open()
        .map_err(engine_error)?;
    let objects = db
        .keyspace("nomad", || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES)
                .manual_journal_persist(true)
        })
        .map_err(engine_error)?;
    let engine = Engine { db, objects };
    check_format(&engine, dir)?;
    let clock = engine.objects.get(KEY_CLOCK).map_err(engine_error)?;
    let clock = clock.and_then(|bytes| decode_version(&bytes));
    Ok((engine, clock))
}

/// Opens the database again after a failed write, and makes all that is visible in it durable anew: after a failed
/// fsync the operating system may hold pages that it believes to be on disk and that are not, so the journal alone is
/// not to be trusted (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
///
/// # Errors
/// Says what still fails.
pub fn reopen(options: &StoreOptions) -> Result<(Engine, Option<Version>), String> {
    if let Some(faults) = &options.faults {
        faults(FaultPoint::Reopen).map_err(|error| error.to_string())?;
    }
    let (engine, clock) = open(options).map_err(|error| error.to_string())?;
    let failed = |error: fjall::Error| error.to_string();
    engine.objects.rotate_memtable_and_wait().map_err(failed)?;
    let mut probe = engine.db.batch();
    probe.insert(&engine.objects, KEY_FORMAT, [FORMAT]);
    probe.durability(Some(PersistMode::SyncAll)).commit().map_err(failed)?;
    Ok((engine, clock))
}

fn check_format(engine: &Engine, dir: &Path) -> Result<(), OpenError> {
    let failed =
        |error: fjall::Error| OpenError::Engine { dir: dir.to_owned(), reason: error.to_string() };
    match engine.objects.get(KEY_FORMAT).map_err(failed)?.as_deref() {
        Some([FORMAT]) => Ok(()),
        Some(other) => Err(OpenError::Format {
            dir: dir.to_owned(),
            found: other.first().copied().unwrap_or_default(),
            expected: FORMAT,
        }),
        None => {
            let mut batch = engine.db.batch();
            batch.insert(&engine.objects, KEY_FORMAT, [FORMAT]);
            batch.durability(Some(PersistMode::SyncAll)).commit().map_err(failed)
        }
    }
}
