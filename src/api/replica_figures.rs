//! The figures of the objects of the group as this node writes and reads them: its outbox, its rounds, its hedges. Read when
//! they are asked for.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use serde::Serialize;

use nomad_actors::{Kit, outbox::OutboxGauge, replica_writer::RoundsGauge};
use nomad_core::{model::hlc, outbox::Figures};
use nomad_service::ReadPath;

/// Reads them.
pub struct ReplicaFigures {
    /// For the time.
    pub kit: Kit,
    /// What waits to be replicated.
    pub outbox: Arc<OutboxGauge>,
    /// What has become of the rounds.
    pub rounds: Arc<RoundsGauge>,
    /// The way to read, which counts hedges.
    pub reads: ReadPath,
}

impl fmt::Debug for ReplicaFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplicaFigures")
    }
}

impl Collector for ReplicaFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let outbox = self.outbox.read();
        let now = self.kit.clock.wall().0;
        let age_ms = outbox.oldest.map_or(0, |oldest| now.saturating_sub(hlc::at(oldest).0));
        let gauges = [
            ("outbox_entries", "Fast writes that wait to be replicated", outbox.entries as f64),
            ("outbox_bytes", "Bytes of these writes", outbox.bytes as f64),
            ("outbox_oldest_seconds", "Age of the oldest of them", age_ms as f64 / 1_000.0),
            ("outbox_merging", "Those that are being replicated", outbox.in_flight as f64),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::<f64>::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let rounds = self.rounds.read();
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
            ("unknown_outcomes", "Requests for a round whose outcome is unknown", rounds.unknown),
            ("no_quorum", "Requests for a round that had no quorum in time", rounds.no_quorum),
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
