//! What has become of the rounds of this node, published by the workers for whoever wants to see it.

use parking_lot::Mutex;

use nomad_core::register::{SHARDS, ShardCounts};

/// What all workers have counted since the node started. Each has a place of its own, so that none waits for another.
#[derive(Debug, Default)]
pub struct RoundsGauge([Mutex<Tally>; SHARDS as usize]);

/// What one worker has counted.
#[derive(Debug, Default)]
struct Tally {
    /// With the registers that it has now.
    now: ShardCounts,
    /// With those of before.
    before: ShardCounts,
}

impl RoundsGauge {
    /// Returns what was counted.
    pub fn read(&self) -> ShardCounts {
        let mut sum = ShardCounts::default();
        for tally in &self.0 {
            let tally = tally.lock();
            sum.add(&tally.before);
            sum.add(&tally.now);
        }
        sum
    }

    /// Says what a worker has counted with its registers.
    pub(super) fn set(&self, shard: u8, counts: &ShardCounts) {
        if let Some(tally) = self.0.get(usize::from(shard)) {
            tally.lock().now = *counts;
        }
    }

    /// Says that a worker holds copies of objects that have lost the majority of their old replicas.
    pub(super) fn forced(&self, shard: u8, count: u64) {
        if let Some(tally) = self.0.get(usize::from(shard)) {
            tally.lock().before.forced += count;
        }
    }

    /// Says that a worker takes up registers anew, which count from 0.
    pub(super) fn begin(&self, shard: u8) {
        if let Some(tally) = self.0.get(usize::from(shard)) {
            let mut tally = tally.lock();
            let counted = std::mem::take(&mut tally.now);
            tally.before.add(&counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_outlives_a_worker() {
        let gauge = RoundsGauge::default();
        for shard in [0, SHARDS - 1] {
            gauge.begin(shard);
            gauge.set(shard, &ShardCounts { prepares: 2, unknown: 1, ..ShardCounts::default() });
            gauge.set(shard, &ShardCounts { prepares: 3, unknown: 1, ..ShardCounts::default() });
            gauge.forced(shard, 3);
            gauge.begin(shard);
            gauge.set(shard, &ShardCounts { prepares: 1, ..ShardCounts::default() });
        }
        gauge.set(SHARDS, &ShardCounts { prepares: 9, ..ShardCounts::default() });
        let sum = ShardCounts { prepares: 8, unknown: 2, forced: 6, ..ShardCounts::default() };
        assert_eq!(gauge.read(), sum);
    }
}
