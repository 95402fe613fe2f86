//! A request timeout that costs next to nothing: one timer per worker, moved only when it fires, instead of one timer
//! per request.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// The timer of one worker.
pub(super) struct Watchdog {
    // invariant: its deadline is never later than the deadline of the request being watched.
    timer: Pin<Box<Sleep>>,
    limit: Duration,
}

impl Watchdog {
    /// A watchdog that gives each request `limit`. Needs a running tokio runtime.
    pub(super) fn new(limit: Duration) -> Watchdog {
        Watchdog { timer: Box::pin(sleep(limit)), limit }
    }

    /// Runs `work`, which began at `started`; `None` when it took longer than the limit. `started` must not go back
    /// from one call to the next.
    pub(super) async fn watch<F: Future>(
        &mut self,
        started: Instant,
        work: F,
    ) -> Option<F::Output> {
        let deadline = started + self.limit;
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            while self.timer.as_mut().poll(cx).is_ready() {
                if self.timer.deadline() >= deadline {
                    return Poll::Ready(None);
                }
                self.timer.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::bench::clock;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_request_gets_the_whole_limit_from_its_own_start() {
        let mut watchdog = Watchdog::new(LIMIT);
        let begin = clock::now();
        for _ in 0..3 {
            let started = clock::now();
            let work = watchdog.watch(started, sleep(Duration::from_secs(9)));
            assert_eq!(work.await, Some(()));
        }
        assert_eq!(clock::now() - begin, Duration::from_secs(27));
        let started = clock::now();
        assert_eq!(watchdog.watch(started, pending::<()>()).await, None);
        assert_eq!(clock::now() - started, LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watchdog_that_fired_watches_the_next_request() {
        let mut watchdog = Watchdog::new(LIMIT);
        assert_eq!(watchdog.watch(clock::now(), pending::<()>()).await, None);
        let started = clock::now();
        assert_eq!(watchdog.watch(started, sleep(Duration::from_secs(1))).await, Some(()));
        assert_eq!(watchdog.watch(started, pending::<()>()).await, None);
        assert_eq!(clock::now() - started, LIMIT);
    }
}
