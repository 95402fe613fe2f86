//! The figures of the ledger and of repair, read when they are asked for.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use serde::Serialize;

use nomad_actors::{Kit, ledger::LedgerGauge, repair_sweeper::RepairGauge};
use nomad_core::{ledger::LedgerStanding, repair::RepairStatus};

/// Reads them.
pub struct UpkeepFigures {
    /// For the time.
    pub kit: Kit,
    /// How the objects stand.
    pub ledger: Arc<LedgerGauge>,
    /// What repair has done.
    pub repair: Arc<RepairGauge>,
}

impl fmt::Debug for UpkeepFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpkeepFigures")
    }
}

impl UpkeepFigures {
    fn oldest_s(&self, repair: &RepairStatus) -> f64 {
        let now = self.kit.clock.wall().0;
        repair.oldest.map_or(0.0, |since| now.saturating_sub(since.0) as f64 / 1_000.0)
    }
}

impl Collector for UpkeepFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (ledger, repair) = (self.ledger.read(), self.repair.read());
        let under = ledger.census.map_or(0, |census| census.under_replicated);
        let gauges = [
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
                under as f64,
            ),
            ("repair_left", "Objects that wait for a repair or are in one", repair.left as f64),
            (
                "repair_oldest_seconds",
                "For how long the oldest of them waits",
                self.oldest_s(&repair),
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
