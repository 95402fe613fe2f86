//! The open database. Writes a decided batch atomically, with one fsync: the core of the group commit.

use std::{thread, time::Duration};

use fjall::{Database, Keyspace, PersistMode};
use thiserror::Error;

use super::{
    FaultInjector, FaultPoint,
    format::{self, encode_clock},
    stage::Staged,
};
use nomad_core::model::{hlc::HybridClock, time::UnixMs};

/// The most sealed memtables that a batch is written behind. From four on the engine itself would wait for their flush,
/// and go on waiting after the flush has failed.
const SEALED_MAX: usize = 2;
/// How often, and how many times, to look whether a flush is done: a minute in all.
const FLUSH_PAUSE: Duration = Duration::from_millis(10);
const FLUSH_PAUSES_MAX: u32 = 6_000;

/// Why a batch was not written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommitError {
    /// Nothing of it was written.
    #[error("{0}")]
    NotBegun(String),
    /// It may or may not be on the disk.
    #[error("{0}")]
    Failed(String),
}

impl From<fjall::Error> for CommitError {
    fn from(error: fjall::Error) -> Self {
        // An engine that has failed before looks at that first.
        match error {
            fjall::Error::Poisoned => Self::NotBegun(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// The open database.
pub struct Engine {
    /// The database.
    pub db: Database,
    /// Its one keyspace.
    pub objects: Keyspace,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl Engine {
    /// Waits until at most `most` memtables wait to be written to a table.
    ///
    /// The engine's own ways to wait never look whether the flush has failed meanwhile, and would wait for ever.
    ///
    /// # Errors
    /// Says that the flush failed, or that it takes too long.
    pub fn wait_flushed(&self, most: usize) -> Result<(), String> {
        let mut pauses = 0;
        while self.objects.sealed_memtable_count() > most {
            // Fails once a worker of the engine has failed.
            self.db.persist(PersistMode::Buffer).map_err(|error| error.to_string())?;
            if pauses == FLUSH_PAUSES_MAX {
                return Err("the disk does not take the tables of the last minute".into());
            }
            pauses += 1;
            thread::park_timeout(FLUSH_PAUSE);
        }
        Ok(())
    }

    /// Writes the staged batch whole, with the clock. `sync` makes it durable before it becomes visible. Returns whether
    /// there was anything to write.
    ///
    /// # Errors
    /// What the engine says, and whether the batch may be on disk then.
    pub fn commit(
        &self,
        staged: &mut Staged,
        (clock, now): (&HybridClock, UnixMs),
        sync: bool,
        faults: Option<&FaultInjector>,
    ) -> Result<bool, CommitError> {
        if staged.ops.is_empty() && !staged.keeps_clock {
            return Ok(false);
        }
        self.wait_flushed(SEALED_MAX).map_err(CommitError::NotBegun)?;
        let mut batch = self.db.batch();
        for (key, record) in std::mem::take(&mut staged.ops) {
            match record {
                Some(record) => batch.insert(&self.objects, key, record),
                None => batch.remove(&self.objects, key),
            }
        }
        batch.insert(&self.objects, format::KEY_CLOCK, encode_clock(clock.last(), now));
        if let Some(faults) = faults {
            let failed = |error: std::io::Error| CommitError::Failed(error.to_string());
            faults(FaultPoint::Write).map_err(failed)?;
            if sync && let Err(error) = faults(FaultPoint::Fsync) {
                // As when the disk fails: the journal may hold the batch, and nobody knows.
                let _ = batch.commit();
                return Err(failed(error));
            }
        }
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        batch.durability(Some(mode)).commit()?;
        Ok(true)
    }
}
