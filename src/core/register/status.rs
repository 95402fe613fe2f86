//! The status of a shard of registers.

/// What has happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardCounts {
    /// Requests for a change.
    pub changes: u64,
    /// Requests for a read.
    pub reads: u64,
    /// Requests to merge.
    pub merges: u64,
    /// Requests to make an expired object a tombstone.
    pub expiries: u64,
    /// Requests to remove a tombstone.
    pub clears: u64,
    /// Requests to repair.
    pub repairs: u64,
    /// Rescans of an object.
    pub rescans: u64,
    /// Copies of objects that had lost the majority of their old replicas (rule 14).
    pub forced: u64,
    /// First phases that were begun.
    pub prepares: u64,
    /// Second phases that were begun.
    pub accepts: u64,
    /// Second phases that needed no first one (rule 11).
    pub piggybacks: u64,
    /// Changes that were decided along with others of the same object.
    pub batched: u64,
    /// Reads that a quorum's agreement answered.
    pub agreed: u64,
    /// Rounds that met another one and began again.
    pub conflicts: u64,
    /// Messages that were sent again.
    pub resends: u64,
    /// Requests whose outcome is unknown.
    pub unknown: u64,
    /// Requests that had no quorum in time.
    pub no_quorum: u64,
    /// Requests that were refused because stores of replicas do not take them.
    pub declined: u64,
    /// Requests that were refused as busy.
    pub busy: u64,
    /// Messages of other nodes that were dropped: there were too many, or no member sends such a message.
    pub dropped: u64,
    /// Messages that were dropped because the register does not read back.
    pub damaged: u64,
}

impl ShardCounts {
    /// Adds what another shard, or an earlier life of this one, has counted.
    pub fn add(&mut self, other: &Self) {
        self.changes += other.changes;
        self.reads += other.reads;
        self.merges += other.merges;
        self.expiries += other.expiries;
        self.clears += other.clears;
        self.repairs += other.repairs;
        self.rescans += other.rescans;
        self.forced += other.forced;
        self.prepares += other.prepares;
        self.accepts += other.accepts;
        self.piggybacks += other.piggybacks;
        self.batched += other.batched;
        self.agreed += other.agreed;
        self.conflicts += other.conflicts;
        self.resends += other.resends;
        self.unknown += other.unknown;
        self.no_quorum += other.no_quorum;
        self.declined += other.declined;
        self.busy += other.busy;
        self.dropped += other.dropped;
        self.damaged += other.damaged;
    }
}
