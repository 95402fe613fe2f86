//! What is counted of the links to one node, over all of them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nomad_ports::peer_transport::LinkFlow;

/// Figures of all links that there were to one node.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: Flow,
    pub(super) received: Flow,
    pub(super) refused: AtomicU64,
    pub(super) turned_away: AtomicU64,
    pub(super) links: AtomicU64,
    /// 0 = none yet.
    pub(super) round_trip_us: AtomicU64,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Flow {
    messages: AtomicU64,
    bytes: AtomicU64,
    batches: AtomicU64,
}

impl Flow {
    pub(super) fn add(&self, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.batches.fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> LinkFlow {
        LinkFlow {
            messages: self.messages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            batches: self.batches.load(Relaxed),
        }
    }
}

impl Counters {
    pub(super) fn on_round_trip(&self, us: u64) {
        // One reader per link writes, and a lost reading does no harm.
        let old = self.round_trip_us.load(Relaxed);
        let new = if old == 0 { us } else { old - old / 8 + us / 8 };
        self.round_trip_us.store(new.max(1), Relaxed);
    }
}
