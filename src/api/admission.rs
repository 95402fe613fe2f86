//! Admission: a permit per request, bounded in number and in bytes held. Over a limit the answer is an immediate refusal.
//!
//! Mailboxes are unbounded, so this is where the node's memory is bounded: nothing enters without a permit, and the
//! permit is held until the request is answered.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use tokio::sync::Notify;

use super::error::{ApiError, ErrorCode};

/// The limits of what a node has in hand. Counters rather than a semaphore: nobody waits for a permit, and a release must
/// not take a lock.
#[derive(Debug)]
pub struct Admission {
    requests: AtomicU64,
    bytes: AtomicU64,
    requests_max: u64,
    bytes_max: u64,
    refused: AtomicU64,
    closed: AtomicBool,
    empty: Notify,
}

/// The right to have one request in hand. Given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    bytes: AtomicU64,
}

impl Admission {
    /// Admits at most `requests_max` requests that hold at most `bytes_max` bytes together.
    pub fn new(requests_max: usize, bytes_max: u64) -> Self {
        Self {
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            requests_max: requests_max as u64,
            bytes_max,
            refused: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            empty: Notify::new(),
        }
    }

    /// Admits a request, or refuses it at once.
    ///
    /// # Errors
    /// [`ErrorCode::ResourceExhausted`] with a hint when to try again; [`ErrorCode::Unavailable`] once closed.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, ApiError> {
        // Counted before the look at `closed`: a close that this request does not see yet waits for it.
        if !take(&self.requests, 1, self.requests_max) {
            return Err(self.refuse(format!(
                "the node has {} requests in hand, as many as limits.requests allows",
                self.requests_max
            )));
        }
        if self.bytes.load(Relaxed) >= self.bytes_max {
            self.requests.fetch_sub(1, SeqCst);
            return Err(self.full());
        }
        let permit = Permit { admission: Arc::clone(self), bytes: AtomicU64::new(0) };
        if self.closed.load(SeqCst) {
            return Err(ApiError::new(ErrorCode::Unavailable, "the node is shutting down"));
        }
        Ok(permit)
    }

    fn full(&self) -> ApiError {
        self.refuse(format!(
            "the requests in hand hold as many bytes as limits.requestBytes ({}) allows",
            self.bytes_max
        ))
    }

    fn refuse(&self, detail: String) -> ApiError {
        self.refused.fetch_add(1, Relaxed);
        ApiError::new(ErrorCode::ResourceExhausted, detail)
    }

    /// Admits nothing more.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// Waits until nothing is in hand. Close first.
    pub async fn drained(&self) {
        loop {
            let empty = self.empty.notified();
            if self.in_hand() == 0 {
                return;
            }
            empty.await;
        }
    }

    /// Returns how many requests are in hand.
    pub fn in_hand(&self) -> u64 {
        self.requests.load(SeqCst)
    }

    /// Returns how many requests were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

impl Permit {
    /// Takes room for more bytes of the request.
    ///
    /// # Errors
    /// [`ErrorCode::ResourceExhausted`] when all requests together would hold too much.
    pub fn grow(&self, bytes: u64) -> Result<(), ApiError> {
        let admission = &self.admission;
        if !take(&admission.bytes, bytes, admission.bytes_max) {
            return Err(admission.full());
        }
        self.bytes.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Counts bytes that the answer holds already. New requests are refused while all together hold too much.
    pub fn hold(&self, bytes: u64) {
        self.admission.bytes.fetch_add(bytes, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let admission = &self.admission;
        admission.bytes.fetch_sub(*self.bytes.get_mut(), Relaxed);
        let before = admission.requests.fetch_sub(1, SeqCst);
        if before == 1 && admission.closed.load(SeqCst) {
            admission.empty.notify_waiters();
        }
    }
}

/// Takes `more` from a counter that may reach `max`, or nothing.
fn take(counter: &AtomicU64, more: u64, max: u64) -> bool {
    let room = |now: u64| now.checked_add(more).filter(|&then| then <= max);
    counter.fetch_update(SeqCst, Relaxed, room).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_a_limit_is_refused_at_once_and_room_comes_back() {
        let admission = Arc::new(Admission::new(2, 1_000));
        let (first, second) = (admission.admit().unwrap(), admission.admit().unwrap());
        let refused = admission.admit().unwrap_err();
        assert_eq!(refused.code, ErrorCode::ResourceExhausted);
        assert!(refused.retry_after.is_some() && refused.detail.contains('2'), "{refused}");
        first.grow(900).unwrap();
        second.grow(100).unwrap();
        assert!(second.grow(1).is_err());
        drop(first);
        second.grow(900).unwrap();
        assert_eq!((admission.in_hand(), admission.refused()), (1, 2));
    }
}
