//! The options of the log, and the errors of opening it.

use std::{fmt, path::PathBuf, time::Duration};

use openraft::{Config, SnapshotPolicy};
use thiserror::Error;

use nomad_core::model::node_id::NodeId;
use nomad_storage::{self as storage, FaultInjector};

/// How many entries are applied before the table is written down as a whole.
const SNAPSHOT_EVERY: u64 = 1_000;
/// How many entries are kept behind a snapshot, for members that are only a little behind.
const KEPT_BEHIND: u64 = 200;
/// The most entries of one message; `log_store` limits their bytes.
const ENTRIES_MAX: u64 = 256;

/// The times of the log: heartbeats, elections, proposals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTimes {
    /// How often the leader says that it is there.
    pub heartbeat: Duration,
    /// How long a silent leader stays the leader: before that, no voter helps to replace it. It should be at least three heartbeats.
    pub election_min: Duration,
    /// When the last voter has taken its turn to stand for election: the turns are spread from the minimum to here.
    pub election_max: Duration,
    /// How long a proposal and a change of the voters may take.
    pub propose_limit: Duration,
}

impl Default for RaftTimes {
    /// 500 ms; 1.5 to 2.5 s; 5 s.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            election_min: Duration::from_millis(1_500),
            election_max: Duration::from_millis(2_500),
            propose_limit: Duration::from_secs(5),
        }
    }
}

impl RaftTimes {
    /// Returns what openraft is configured with.
    pub(super) fn config(&self, group: &str) -> Config {
        let ms = |duration: Duration| duration.as_millis().try_into().unwrap_or(u64::MAX / 4);
        // Openraft looks at its clock every one and a half of its heartbeats, and speaks then.
        let heartbeat = (ms(self.heartbeat) * 2 / 3).max(1);
        // Its lease is the greater of these two; it starts no elections by itself.
        let lease = ms(self.election_min).max(heartbeat + 2);
        Config {
            cluster_name: group.to_owned(),
            heartbeat_interval: heartbeat,
            election_timeout_min: lease - 1,
            election_timeout_max: lease,
            enable_elect: false,
            install_snapshot_timeout: 10_000,
            max_payload_entries: ENTRIES_MAX,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
            max_in_snapshot_log_to_keep: KEPT_BEHIND,
            purge_batch_size: 1,
            replication_lag_threshold: 2 * SNAPSHOT_EVERY,
            ..Config::default()
        }
    }
}

/// How the log is opened.
#[derive(Clone)]
pub struct RaftOptions {
    /// The directory of its database; made when it is not there.
    pub dir: PathBuf,
    /// This node.
    pub node: NodeId,
    /// Its times.
    pub times: RaftTimes,
    /// Faults of the disk to inject, for tests.
    pub faults: Option<FaultInjector>,
}

impl RaftOptions {
    /// Opens `dir` for `node`, with the default times.
    pub fn new(dir: impl Into<PathBuf>, node: NodeId) -> Self {
        Self { dir: dir.into(), node, times: RaftTimes::default(), faults: None }
    }
}

impl fmt::Debug for RaftOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftOptions")
            .field("dir", &self.dir)
            .field("node", &self.node)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

/// Why the log does not open.
#[derive(Debug, Error)]
pub enum LogOpenError {
    /// The engine does not open its directory.
    #[error("the group's log does not open: {0}")]
    Engine(storage::StoreOpenError),
    /// A newer or older program wrote it.
    #[error(
        "the group's log in {} has format {found}; this program reads format {expected}. Use the version of nomad that wrote \
         it",
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
    /// It is the log of another node.
    #[error(
        "the group's log in {} belongs to {owner}, and this node is {node}; put the key of that node back, or move the log \
         away to look for a group anew",
        dir.display()
    )]
    Stranger {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: NodeId,
        /// This node.
        node: NodeId,
    },
    /// Something in it does not read back.
    #[error(
        "the group's log in {} is damaged: {what}. Move it away, and the node looks for a group anew; do not put an older copy \
         in its place, which would undo votes that others count on",
        dir.display()
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What does not read back.
        what: String,
    },
    /// It reads back, but openraft cannot go on from it.
    #[error("the group's log in {} cannot be taken up again: {reason}", dir.display())]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// What openraft says.
        reason: String,
    },
}
