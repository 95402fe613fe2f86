//! Where a shard stands, as tests look at it.

use super::{Registers, ShardCounts};

/// How a shard stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardStatus {
    /// The configuration adopted last; `None` = none yet.
    pub epoch: Option<u64>,
    /// Whether it is a joint one.
    pub is_joint: bool,
    /// Whether the next one is being adopted.
    pub is_adopting: bool,
    /// Rounds that run.
    pub rounds: usize,
    /// Reads that ask a quorum.
    pub queries: usize,
    /// Requests of this node that run, including those in rounds.
    pub in_hand: usize,
    /// Objects with something that is not durable yet.
    pub unkept: usize,
    /// Objects that are still to be rescanned; `None` = there is no rescan.
    pub rescan_left: Option<usize>,
    /// What has happened.
    pub counts: ShardCounts,
}

impl Registers {
    /// Returns the status of the shard. It counts what runs, so it is too slow for every step.
    pub fn status(&self) -> ShardStatus {
        ShardStatus {
            epoch: self.epoch(),
            is_joint: self.state.as_ref().is_some_and(|state| state.configuration.is_joint()),
            is_adopting: !self.adoption.is_open(),
            rounds: self.lines.values().filter(|line| line.round.is_some()).count(),
            queries: self.lines.values().filter(|line| line.query.is_some()).count(),
            in_hand: self.waiters.len(),
            unkept: self.keeping.unkept().0,
            rescan_left: self.rescan.as_ref().map(super::rescan::ShardRescan::left),
            counts: self.counts,
        }
    }
}
