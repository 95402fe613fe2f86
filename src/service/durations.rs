//! Histograms of how long things took, and those of the operations on objects of the group, by mode.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use nomad_core::group::{RetrievalMode, StorageMode};

/// How long something took: a histogram of counters. The library's own takes a lock each time.
#[derive(Debug, Default)]
pub struct Durations {
    sum_us: AtomicU64,
    /// The first is for up to [`Durations::FIRST_US`], each next one for twice as much, the last for everything longer.
    buckets: [AtomicU64; Self::BUCKETS + 1],
}

impl Durations {
    const FIRST_US: u64 = 50;
    const BUCKETS: usize = 18;

    /// Takes in one more, in microseconds.
    pub fn observe(&self, us: u64) {
        self.sum_us.fetch_add(us, Relaxed);
        let bounds = (0..Self::BUCKETS).map(|exponent| Self::FIRST_US << exponent);
        let index = bounds.take_while(|&bound| us > bound).count();
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Relaxed);
        }
    }

    /// Takes in all of another one.
    pub fn add(&mut self, others: &Self) {
        *self.sum_us.get_mut() += others.sum_us.load(Relaxed);
        for (own, other) in self.buckets.iter_mut().zip(&others.buckets) {
            *own.get_mut() += other.load(Relaxed);
        }
    }

    /// Returns how many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// Writes them as a histogram.
    ///
    /// # Errors
    /// As the encoder.
    pub fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bound = |index| match index {
            Self::BUCKETS => f64::INFINITY,
            exponent => (Self::FIRST_US << exponent) as f64 / 1e6,
        };
        let counts = self.buckets.iter().map(|bucket| bucket.load(Relaxed));
        let buckets: Vec<(f64, u64)> =
            counts.enumerate().map(|(index, count)| (bound(index), count)).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// What was done with an object of the group, and in which mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EncodeLabelSet)]
struct Way {
    operation: &'static str,
    mode: &'static str,
}

/// How long the operations on objects of the group took, however they ended.
#[derive(Debug, Default)]
pub struct Operations {
    reads: [Durations; 3],
    writes: [Durations; 2],
}

impl Operations {
    const READS: [RetrievalMode; 3] =
        [RetrievalMode::Fast, RetrievalMode::Safe, RetrievalMode::Parallel];
    const WRITES: [StorageMode; 2] = [StorageMode::Fast, StorageMode::Safe];

    /// Takes in a read, in microseconds.
    pub fn on_read(&self, mode: RetrievalMode, us: u64) {
        let of_mode = Self::READS.iter().zip(&self.reads).find(|(of, _)| **of == mode);
        if let Some((_, durations)) = of_mode {
            durations.observe(us);
        }
    }

    /// Takes in a write, in microseconds.
    pub fn on_write(&self, mode: StorageMode, us: u64) {
        let of_mode = Self::WRITES.iter().zip(&self.writes).find(|(of, _)| **of == mode);
        if let Some((_, durations)) = of_mode {
            durations.observe(us);
        }
    }

    /// Writes them as histograms.
    ///
    /// # Errors
    /// As the encoder.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (name, help) = (
            "operation_duration",
            "Time of an operation on an object of the group, by what it does and in which mode.",
        );
        let unit = Some(&Unit::Seconds);
        let mut histograms = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        let reads = Self::READS.iter().map(|mode| ("read", mode.as_str())).zip(&self.reads);
        let writes = Self::WRITES.iter().map(|mode| ("write", mode.as_str())).zip(&self.writes);
        for ((operation, mode), durations) in reads.chain(writes) {
            durations.encode(histograms.encode_family(&Way { operation, mode })?)?;
        }
        Ok(())
    }
}
