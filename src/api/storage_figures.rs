//! The figures of the objects of the group: the outbox, the rounds, the hedges, the ledger, repair. Read when they are asked for.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use serde::Serialize;

use nomad_actors::Kit;
use nomad_core::{
    ledger::LedgerStanding,
    model::{hlc, time::UnixMs},
    outbox::Figures,
    repair::RepairStatus,
};
use nomad_service::{ReadPath, StorageFigures};

/// Reads them.
pub struct StorageCollector {
    /// For the time.
    pub kit: Kit,
    /// What the actors show of themselves.
    pub figures: StorageFigures,
    /// The way to read, which counts hedges.
    pub reads: ReadPath,
}

impl fmt::Debug for StorageCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageCollector")
    }
}

impl Collector for StorageCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let StorageFigures { outbox, rounds, ledger, repair } = &self.figures;
        let (outbox, rounds) = (outbox.read(), rounds.read());
        let (ledger, repair) = (ledger.read(), repair.read());
        let now = self.kit.clock.wall().0;
        let seconds = |since: Option<UnixMs>| {
            since.map_or(0.0, |since| now.saturating_sub(since.0) as f64 / 1_000.0)
        };
        let gauges = [
            ("outbox_entries", "Fast writes that wait to be replicated", outbox.entries as f64),
            ("outbox_bytes", "Bytes of these writes", outbox.bytes as f64),
            (
                "outbox_oldest_seconds",
                "Age of the oldest of them",
                seconds(outbox.oldest.map(hlc::at)),
            ),
            ("outbox_merging", "Those that are being replicated", outbox.in_flight as f64),
            (
                "ledger_keeps",
                "1 while this node keeps its group's ledger",
                f64::from(u8::from(ledger.keeps)),
            ),
            ("ledger_objects", "Objects in the ledger", ledger.objects as f64),
            ("ledger_replicas", "Replicas in the ledger", ledger.holdings as f64),
            (
                "under_replicated_objects",
                "Objects whose newest version too few members hold, where the ledger is kept",
                ledger.census.map_or(0, |census| census.under_replicated) as f64,
            ),
            ("repair_left", "Objects that wait for a repair or are in one", repair.left as f64),
            (
                "repair_oldest_seconds",
                "For how long the oldest of them waits",
                seconds(repair.oldest),
            ),
            (
                "repair_kept_tombstones",
                "Tombstones that have to stay for now",
                repair.kept_tombstones as f64,
            ),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::<f64>::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let counters = [
            ("outbox_drained", "Fast writes that were replicated", outbox.drained),
            ("outbox_retried", "Times that this failed and is tried again", outbox.retried),
            ("outbox_discarded", "Fast writes dropped as too old", outbox.discarded),
            ("rounds_prepares", "First phases of rounds begun", rounds.prepares),
            ("rounds_accepts", "Second phases of rounds begun", rounds.accepts),
            ("rounds_piggybacks", "Second phases that needed no first one", rounds.piggybacks),
            ("rounds_batched", "Changes decided along with others of their object", rounds.batched),
            ("rounds_agreed", "Safe reads that needed no round", rounds.agreed),
            ("rounds_conflicts", "Rounds that met another one and began again", rounds.conflicts),
            ("rounds_resends", "Messages of rounds sent again", rounds.resends),
            ("rounds_rescans", "Rounds for a change of the members", rounds.rescans),
            (
                "rounds_forced",
                "Copies of objects that had lost the majority of their replicas in a change",
                rounds.forced,
            ),
            ("unknown_outcomes", "Requests for a round whose outcome is unknown", rounds.unknown),
            ("no_quorum", "Requests for a round that had no quorum in time", rounds.no_quorum),
            (
                "rounds_declined",
                "Requests for a round refused because stores of replicas do not take them",
                rounds.declined,
            ),
            ("rounds_busy", "Requests for a round refused as busy", rounds.busy),
            ("rounds_dropped", "Messages of other members dropped", rounds.dropped),
            (
                "rounds_damaged",
                "Messages dropped because the register does not read back",
                rounds.damaged,
            ),
            (
                "read_hedges",
                "Fast reads that asked another member because one was slow",
                self.reads.hedges(),
            ),
            ("ledger_notices", "Notices of other members taken", ledger.notices),
            ("ledger_gaps", "Notices of other members that were missing", ledger.gaps),
            ("ledger_corrected", "Entries that a comparison has corrected", ledger.corrected),
            ("repair_comparisons", "Comparisons with other members finished", repair.compared),
            ("repair_equal", "Comparisons that found no difference", repair.equal),
            ("repair_interrupted", "Comparisons that were not finished", repair.interrupted),
            ("repair_differing", "Objects whose replicas differed", repair.differing),
            ("repair_repaired", "Objects that were repaired", repair.repaired),
            ("repair_repaired_bytes", "Bytes that repairs have moved", repair.repaired_bytes),
            ("repair_expired", "Expired objects that were made tombstones", repair.expired),
            ("repair_cleared", "Tombstones that were cleared away", repair.cleared),
            ("repair_failed", "Rounds of repair that were given up", repair.failed),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

/// The fast writes of this node that no quorum has yet.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutboxStatus {
    /// How many objects are written so.
    pub entries: u64,
    /// Their bytes, with those of the ids and a little for each.
    pub bytes: u64,
    /// When the oldest of them was written, in milliseconds since 1970; null when there are none.
    pub oldest: Option<u64>,
    /// How many are being replicated.
    pub merging: u64,
    /// How many were replicated since the node was started.
    pub drained: u64,
    /// How often that failed, to be tried again.
    pub retried: u64,
}

impl From<Figures> for OutboxStatus {
    fn from(figures: Figures) -> Self {
        Self {
            entries: figures.entries,
            bytes: figures.bytes,
            oldest: figures.oldest.map(|oldest| hlc::at(oldest).0),
            merging: figures.in_flight,
            drained: figures.drained,
            retried: figures.retried,
        }
    }
}

/// The ledger of the group, as this node keeps it.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LedgerStatus {
    /// Whether this node keeps it: the super-peer does, and the redundant ones. If not, the rest is of this node alone.
    pub keeps: bool,
    /// Whether all members have said what they hold.
    pub complete: bool,
    /// How many objects are in it.
    pub objects: u64,
    /// How many replicas of them.
    pub replicas: u64,
    /// How many objects have their newest version on fewer members than they should; null where it is not known.
    pub under_replicated: Option<u64>,
    /// Some of them.
    pub under_replicated_ids: Vec<String>,
}

impl From<LedgerStanding> for LedgerStatus {
    fn from(standing: LedgerStanding) -> Self {
        let ids = standing.under_replicated.iter().map(ToString::to_string);
        Self {
            keeps: standing.keeps,
            complete: standing.complete,
            objects: standing.objects,
            replicas: standing.holdings,
            under_replicated: standing.census.map(|census| census.under_replicated),
            under_replicated_ids: ids.collect(),
        }
    }
}

/// What repair has done since the node was started, and what it is at.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepairStatusShown {
    /// Since when it is at work, in milliseconds since 1970; null when there is nothing to do.
    pub running_since: Option<u64>,
    /// The member that it compares with; null between comparisons.
    pub comparing_with: Option<String>,
    /// Comparisons finished.
    pub compared: u64,
    /// When the last one was, in milliseconds since 1970.
    pub last_compared: Option<u64>,
    /// Objects whose replicas differed.
    pub differing: u64,
    /// Objects that were repaired.
    pub repaired: u64,
    /// Objects that wait for a repair or are in one.
    pub left: u64,
    /// Since when the oldest of them waits, in milliseconds since 1970.
    pub oldest: Option<u64>,
    /// Expired objects that were made tombstones.
    pub expired: u64,
    /// Tombstones that were cleared away.
    pub cleared: u64,
    /// Tombstones that have to stay for now.
    pub kept_tombstones: u64,
    /// The member that does not answer, for whose sake they stay.
    pub kept_for: Option<String>,
    /// Rounds that were given up; the next comparison finds their objects again.
    pub failed: u64,
}

impl From<RepairStatus> for RepairStatusShown {
    fn from(status: RepairStatus) -> Self {
        Self {
            running_since: status.running_since.map(|at| at.0),
            comparing_with: status.comparing.map(|node| node.to_string()),
            compared: status.compared,
            last_compared: status.last_compared.map(|at| at.0),
            differing: status.differing,
            repaired: status.repaired,
            left: status.left,
            oldest: status.oldest.map(|at| at.0),
            expired: status.expired,
            cleared: status.cleared,
            kept_tombstones: status.kept_tombstones,
            kept_for: status.kept_for.map(|node| node.to_string()),
            failed: status.failed,
        }
    }
}
