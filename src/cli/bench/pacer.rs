//! The timetable of an open loop, and the thread that releases requests when they are due.
//!
//! Tokio's timers are exact to a millisecond only, which would be charged to the server as latency. So a thread waits
//! on a channel with a timeout, which the system wakes within some tens of microseconds, and hands out permits.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use super::clock;

/// The pacer never waits less, so that a high rate is released in small groups and leaves the processor to the load.
const SHORTEST_WAIT: Duration = Duration::from_micros(50);

/// When each request of an open loop is meant to start, counted from the start of the load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Timetable {
    /// Requests per second, above 0.
    pub rate: f64,
    /// Number of requests in the whole run.
    pub total: u64,
}

impl Timetable {
    /// `rate` requests per second for `length`.
    pub(super) fn new(rate: f64, length: Duration) -> Timetable {
        Timetable { rate, total: (rate * length.as_secs_f64()).ceil() as u64 }
    }

    /// When request `index`, from 0, is meant to start.
    pub(super) fn intended(&self, index: u64) -> Duration {
        Duration::try_from_secs_f64(index as f64 / self.rate).unwrap_or(Duration::MAX)
    }

    /// How many requests are meant to have started once `elapsed` has passed; at most `total`.
    pub(super) fn due(&self, elapsed: Duration) -> u64 {
        let due = (elapsed.as_secs_f64() * self.rate).floor() as u64;
        due.saturating_add(1).min(self.total)
    }

    /// How many requests are meant to start from `from` on and before `to`.
    pub(super) fn between(&self, from: Duration, to: Duration) -> u64 {
        let before =
            |moment: Duration| ((moment.as_secs_f64() * self.rate).ceil() as u64).min(self.total);
        before(to).saturating_sub(before(from))
    }
}

/// The releasing thread. It stops when it is dropped.
pub(super) struct Pacer {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pacer {
    /// Adds a permit for each request of `timetable` when it is due, then `worker_count` more, so that every worker
    /// wakes up and sees that nothing is left.
    pub(super) fn start(
        timetable: Timetable,
        begin: Instant,
        permits: Arc<Semaphore>,
        worker_count: usize,
    ) -> Pacer {
        let (stop, stopped) = sync_channel::<()>(1);
        let thread = thread::spawn(move || {
            let mut released = 0;
            while released < timetable.total {
                let due = timetable.due(clock::now().saturating_duration_since(begin));
                permits.add_permits((due - released) as usize);
                released = due;
                let next = begin + timetable.intended(released);
                let wait = next.saturating_duration_since(clock::now()).max(SHORTEST_WAIT);
                match stopped.recv_timeout(wait) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            permits.add_permits(worker_count);
        });
        Pacer { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread only counts and waits; if it panicked, the run has already ended with it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_due_exactly_from_its_intended_start() {
        for rate in [0.5, 1.0, 3.0, 1000.0, 33_333.3] {
            let timetable = Timetable::new(rate, Duration::from_secs(4));
            for index in 0..timetable.total.min(5000) {
                let intended = timetable.intended(index);
                // A nanosecond to each side, since the start itself is rounded to one.
                let after = intended + Duration::from_nanos(1);
                assert!(timetable.due(after) > index, "rate {rate}, request {index}");
                if let Some(before) = intended.checked_sub(Duration::from_nanos(1)) {
                    assert!(timetable.due(before) <= index, "rate {rate}, request {index}");
                }
            }
            assert_eq!(timetable.due(Duration::MAX), timetable.total);
        }
    }

    #[test]
    fn windows_side_by_side_hold_every_request_once() {
        let timetable = Timetable::new(1000.0, Duration::from_secs(5));
        let seconds = Duration::from_secs;
        assert_eq!(timetable.total, 5000);
        assert_eq!(timetable.between(seconds(0), seconds(2)), 2000);
        assert_eq!(timetable.between(seconds(2), seconds(5)), 3000);
        assert_eq!(timetable.between(seconds(2), seconds(50)), 3000);
        assert_eq!(timetable.between(seconds(3), seconds(2)), 0);
    }

    #[tokio::test]
    async fn the_pacer_releases_every_request_and_wakes_every_worker() {
        let permits = Arc::new(Semaphore::new(0));
        let timetable = Timetable::new(10_000.0, Duration::from_millis(20));
        let _pacer = Pacer::start(timetable, clock::now(), Arc::clone(&permits), 3);
        permits.acquire_many(203).await.unwrap().forget();
        assert_eq!(permits.available_permits(), 0);
    }

    #[test]
    fn dropping_the_pacer_ends_its_thread_and_frees_the_workers() {
        let permits = Arc::new(Semaphore::new(0));
        let timetable = Timetable::new(0.001, Duration::from_secs(1_000_000));
        let pacer = Pacer::start(timetable, clock::now(), Arc::clone(&permits), 7);
        drop(pacer);
        assert!((7..=8).contains(&permits.available_permits()), "{permits:?}");
    }
}
