//! A request body that is limited in size, in bytes held by all requests together, and in time.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::{
    admission::Permit,
    error::{ApiError, ErrorCode},
};

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A body that fails with an [`ApiError`] when it breaks a limit.
pub struct LimitedBody<B> {
    inner: B,
    left_bytes: u64,
    max_bytes: u64,
    bound: Bound,
}

/// What else a body is bound to.
enum Bound {
    /// The permit of its request, and a time from its first delay on. The timer is set once the client has made us wait.
    Request { permit: Arc<Permit>, timeout: Duration, timer: Option<Pin<Box<Sleep>>> },
    /// Nothing more once the other side has proved who it is.
    Link(Proven),
}

/// Lifts the limit of a link's body. Stands in the extensions of its request.
#[derive(Debug, Clone, Default)]
pub struct Proven(Arc<AtomicBool>);

impl Proven {
    /// Says that the other side has proved who it is.
    pub fn set(&self) {
        self.0.store(true, Relaxed);
    }
}

impl<B> LimitedBody<B> {
    /// Limits a body to `max_bytes`, and to `timeout` from its first delay on. The permit is held until the body is
    /// dropped.
    pub fn new(inner: B, permit: Arc<Permit>, max_bytes: u64, timeout: Duration) -> Self {
        let bound = Bound::Request { permit, timeout, timer: None };
        Self { inner, left_bytes: max_bytes, max_bytes, bound }
    }

    /// Limits the body of a link, which lasts for as long as both nodes do, to `max_bytes` until `proven` is set. How
    /// long that may take is for whoever sets it to say.
    pub fn of_link(inner: B, max_bytes: u64, proven: Proven) -> Self {
        Self { inner, left_bytes: max_bytes, max_bytes, bound: Bound::Link(proven) }
    }

    fn take(&mut self, len: u64) -> Result<(), ApiError> {
        if let Bound::Link(proven) = &self.bound
            && proven.0.load(Relaxed)
        {
            return Ok(());
        }
        self.left_bytes = self.left_bytes.checked_sub(len).ok_or_else(|| {
            let detail =
                format!("the body has more than the {} bytes allowed here", self.max_bytes);
            ApiError::new(ErrorCode::TooLarge, detail)
        })?;
        match &self.bound {
            Bound::Request { permit, .. } => permit.grow(len),
            Bound::Link(_) => Ok(()),
        }
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            let Bound::Request { timeout, timer, .. } = &mut this.bound else {
                return Poll::Pending;
            };
            let timeout = *timeout;
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
            ready!(timer.as_mut().poll(cx));
            let detail = format!("the body did not arrive within {timeout:?} (limits.bodyTimeout)");
            let error = ApiError::new(ErrorCode::RequestTimeout, detail);
            return Poll::Ready(Some(Err(error.into())));
        };
        let frame = match frame {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref()
            && let Err(error) = this.take(data.len() as u64)
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
