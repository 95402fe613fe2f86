//! The local store: [`ObjectStore`](nomad_ports::ObjectStore) on fjall, and on a map for tests.
//!
//! Invariants: one writer thread per store decides and writes; a write is answered only after the fsync that covers it
//! (unless the store was opened with an interval); readers see only what a batch has written whole; on-disk records
//! carry a format version. `storage` knows `core` and `ports`, no actor and no edge.
//!
//! Decision: one fjall keyspace with a tag byte per kind of record, not one keyspace per kind. A keyspace that is seldom
//! written pins old journals on disk, and one keyspace makes a batch over objects and expiry index one seqno range.
//!
//! What a batch changes (`stage`) and what a reader finds (`reading`) is decided over a table of records. fjall is such a table,
//! and so is a map: the store for tests differs from the real one only in durability.

mod engine;
mod fjall_store;
mod format;
mod journal_check;
mod memory;
mod opened_dir;
mod reading;
mod records;
mod recovery;
mod room;
mod stage;
mod store;
mod table;
mod writer;

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

pub use engine::Engine;
pub use fjall_store::FjallStore;
pub use memory::MemoryStore;
pub use recovery::{EngineOptions, open_engine, renew};
pub use store::{Store, StoreWriteError};
use thiserror::Error;

use nomad_core::model::durability::Durability;
use nomad_ports::{Clock, SystemClock};

/// A step of the writer at which a test can make the disk fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    /// Before a batch is written to the journal.
    Write,
    /// When the journal is flushed to the disk.
    Fsync,
    /// When the store is opened again after a failure.
    Reopen,
}

/// For tests: makes the disk fail. Returns the error for this step.
pub type FaultInjector = Arc<dyn Fn(FaultPoint) -> io::Result<()> + Send + Sync>;

/// How a store is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// The directory of the store; created when it is not there.
    pub dir: PathBuf,
    /// When writes are made durable.
    pub durability: Durability,
    /// Bytes of memory for blocks that were read.
    pub cache_bytes: u64,
    /// Writes are refused while the disk has less free space than this; deletes go on down to what the store itself needs.
    pub min_free_bytes: u64,
    /// How often to look whether the directory is still there, and how much of the disk is free.
    pub health_check: Duration,
    /// The most bytes of one value.
    pub max_object_bytes: u64,
    /// The tag of this node in the versions that it gives.
    pub node_tag: u64,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Faults to inject, for tests.
    pub faults: Option<FaultInjector>,
}

impl StoreOptions {
    /// Opens `dir` with the defaults: every write durable, 32 MiB of cache, 64 MiB kept free, values up to 4 MiB.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            durability: Durability::Always,
            cache_bytes: 32 << 20,
            min_free_bytes: 64 << 20,
            health_check: Duration::from_secs(20),
            max_object_bytes: 4 << 20,
            node_tag: 0,
            clock: Arc::new(SystemClock::new()),
            faults: None,
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum StoreOpenError {
    /// Another process, or another handle of this one, has it open.
    #[error(
        "the data directory {} is in use by another process; stop that one, or choose another directory",
        dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory cannot be made or read.
    #[error("the data directory {} cannot be used: {source}", dir.display())]
    Dir {
        /// The directory.
        dir: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A newer or older program wrote it.
    #[error(
        "the data directory {} has format {found}; this program reads format {expected}. Use the version of nomad that \
         wrote it",
        dir.display()
    )]
    Format {
        /// The directory.
        dir: PathBuf,
        /// The format found.
        found: u8,
        /// The format that this program reads.
        expected: u8,
    },
    /// The journal does not read back and what follows the damage is no torn tail.
    #[error(
        "the journal {} is damaged at byte {at} ({reason}). Restore the directory from a copy, or move it away to start \
         empty; nothing was changed",
        journal.display()
    )]
    Damaged {
        /// The journal file.
        journal: PathBuf,
        /// Where the damage starts.
        at: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The storage engine cannot open it.
    #[error("the store in {} does not open: {reason}", dir.display())]
    Engine {
        /// The directory.
        dir: PathBuf,
        /// What the engine says.
        reason: String,
    },
}
