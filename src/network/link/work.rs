//! Requests of other nodes that are being handled: their number and size, per link and in total.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::options::LinkOptions;

/// What is in hand.
#[derive(Debug, Default)]
pub(super) struct WorkGauge {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

impl WorkGauge {
    pub(super) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.count.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        self.count.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

/// A request that is being handled; its place is free again when its answer is sent, or it is dropped.
#[derive(Debug)]
pub(super) struct Work {
    link: Arc<WorkGauge>,
    all: Arc<WorkGauge>,
    bytes: usize,
}

impl Work {
    /// Takes a place for a request, if there is room. On a link without requests, one is always taken.
    pub(super) fn take(
        link: &Arc<WorkGauge>,
        all: &Arc<WorkGauge>,
        bytes: usize,
        options: &LinkOptions,
    ) -> Option<Self> {
        // Only the link's own reader adds, so its limits are exact; those of all together may be passed by one each.
        let is_over = link.count() >= options.work_max
            || link.bytes.load(Relaxed) + bytes > options.work_bytes_max
            || all.bytes.load(Relaxed) + bytes > options.work_bytes_total_max;
        if is_over && link.count() > 0 {
            return None;
        }
        link.add(bytes);
        all.add(bytes);
        Some(Self { link: Arc::clone(link), all: Arc::clone(all), bytes })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.link.subtract(self.bytes);
        self.all.subtract(self.bytes);
    }
}
