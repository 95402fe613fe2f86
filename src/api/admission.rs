//! Admission: a permit per request, bounded in number and in bytes held. Over a limit the answer is an immediate refusal.
//!
//! Mailboxes are unbounded, so this is where the node's memory is bounded: nothing enters without a permit, and the
//! permit is held until the request is answered.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, ErrorCode};

/// Bytes are counted in units of this size, because a semaphore counts to 2^29.
const UNIT_BYTES: u64 = 1024;

/// The limits of what a node has in hand.
#[derive(Debug)]
pub struct Admission {
    requests: Arc<Semaphore>,
    units: Arc<Semaphore>,
    requests_max: usize,
    bytes_max: u64,
    refused: AtomicU64,
    closed: AtomicBool,
}

/// The right to have one request in hand. Given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    _request: OwnedSemaphorePermit,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    units: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// Admits at most `requests_max` requests that hold at most `bytes_max` bytes together.
    pub fn new(requests_max: usize, bytes_max: u64) -> Self {
        let units = (bytes_max / UNIT_BYTES).max(1) as usize;
        Self {
            requests: Arc::new(Semaphore::new(requests_max)),
            units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            requests_max,
            bytes_max,
            refused: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Admits a request, or refuses it at once.
    ///
    /// # Errors
    /// [`ErrorCode::ResourceExhausted`] with a hint when to try again; [`ErrorCode::Unavailable`] once closed.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, ApiError> {
        if self.closed.load(Relaxed) {
            return Err(ApiError::new(ErrorCode::Unavailable, "the node is shutting down"));
        }
        let request = Arc::clone(&self.requests).try_acquire_owned().map_err(|_| {
            self.refuse(format!(
                "the node has {} requests in hand, as many as limits.requests allows",
                self.requests_max
            ))
        })?;
        Ok(Permit { admission: Arc::clone(self), _request: request, held: Mutex::default() })
    }

    fn refuse(&self, detail: String) -> ApiError {
        self.refused.fetch_add(1, Relaxed);
        ApiError::new(ErrorCode::ResourceExhausted, detail)
    }

    /// Admits nothing more.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Waits until nothing is in hand. Close first.
    pub async fn drained(&self) {
        let all = u32::try_from(self.requests_max).unwrap_or(u32::MAX);
        // A semaphore that nobody closes gives its permits in the end.
        let _ = self.requests.acquire_many(all).await;
    }

    /// Returns how many requests are in hand.
    pub fn in_hand(&self) -> u64 {
        self.requests_max.saturating_sub(self.requests.available_permits()) as u64
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
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = held.bytes.div_ceil(UNIT_BYTES);
        held.bytes += bytes;
        let more = held.bytes.div_ceil(UNIT_BYTES) - before;
        if more == 0 {
            return Ok(());
        }
        let admission = &self.admission;
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let taken = Arc::clone(&admission.units).try_acquire_many_owned(more).map_err(|_| {
            admission.refuse(format!(
                "the requests in hand hold as many bytes as limits.requestBytes ({}) allows",
                admission.bytes_max
            ))
        })?;
        match held.units.as_mut() {
            Some(units) => units.merge(taken),
            None => held.units = Some(taken),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_a_limit_is_refused_at_once_and_room_comes_back() {
        let admission = Arc::new(Admission::new(2, 10 * UNIT_BYTES));
        let (first, second) = (admission.admit().unwrap(), admission.admit().unwrap());
        let refused = admission.admit().unwrap_err();
        assert_eq!(refused.code, ErrorCode::ResourceExhausted);
        assert!(refused.retry_after.is_some() && refused.detail.contains('2'), "{refused}");
        first.grow(9 * UNIT_BYTES).unwrap();
        second.grow(100).unwrap();
        second.grow(100).unwrap();
        assert!(second.grow(UNIT_BYTES).is_err());
        drop(first);
        second.grow(UNIT_BYTES).unwrap();
        assert_eq!((admission.in_hand(), admission.refused()), (1, 2));
    }
}
