//! Whether the node serves: `grpc.health.v1.Health`, and the two calls of `GroupStorageService` that say the same.
//!
//! The statuses of both have the same numbers, and their messages the same form. A watch ends when the node drains.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_stream::wrappers::WatchStream;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};

use super::{answer::Answer, frame};
use crate::api::{
    backend::{Backend, Call, Phase},
    error::{ApiError, ErrorCode},
};

/// The health of one listener's services.
pub(super) struct Health {
    services: Arc<[&'static str]>,
    phase: watch::Receiver<Phase>,
    /// A watch holds no permit of a request, so the number of watches has a limit of its own.
    places: Arc<Semaphore>,
    places_max: usize,
}

/// Returns the service that a request asks about: the one it names, or the node as a whole.
///
/// # Errors
/// When the message cannot be read.
pub(super) fn service(named: bool, kind: &str, message: Bytes) -> Result<String, ApiError> {
    if named {
        Ok(frame::decode::<HealthCheckRequest>(kind, message)?.service)
    } else {
        frame::decode::<()>(kind, message).map(|()| String::new())
    }
}

impl Health {
    pub(super) fn new(backend: &Backend, services: Arc<[&'static str]>) -> Self {
        let places_max = backend.config.limits.requests;
        Self {
            services,
            phase: backend.phase.clone(),
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
        }
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }

    /// Tells the status of a service now.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] when this listener does not serve it.
    pub(super) fn check(&self, call: &Call, service: &str) -> Result<Answer, ApiError> {
        if !self.knows(service) {
            let detail = format!(
                "this listener does not serve {service:?}; it serves {}",
                self.services.join(", ")
            );
            return Err(ApiError::new(ErrorCode::NotFound, detail));
        }
        let status = serving(*self.phase.borrow());
        Ok(Answer::read(call, &HealthCheckResponse { status: status.into() }))
    }

    /// Tells the status of a service now and whenever it changes, for at most `timeout`. A service that is not served
    /// here stays unknown.
    ///
    /// # Errors
    /// [`ErrorCode::ResourceExhausted`] when too many watch already.
    pub(super) fn watch(
        &self,
        call: &Call,
        service: &str,
        timeout: Option<Duration>,
    ) -> Result<Answer, ApiError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let detail = format!(
                "{} clients watch this listener's health, as many as limits.requests allows",
                self.places_max
            );
            ApiError::new(ErrorCode::ResourceExhausted, detail)
        })?;
        let watch = Watch {
            phases: WatchStream::new(self.phase.clone()),
            is_known: self.knows(service),
            last: None,
            is_ending: false,
            _place: place,
        };
        Ok(Answer::stream(call, watch, timeout))
    }
}

fn serving(phase: Phase) -> ServingStatus {
    match phase {
        Phase::Serving => ServingStatus::Serving,
        Phase::Starting | Phase::Draining => ServingStatus::NotServing,
    }
}

/// The messages of one watch, each with its head.
struct Watch {
    phases: WatchStream<Phase>,
    is_known: bool,
    last: Option<ServingStatus>,
    is_ending: bool,
    _place: OwnedSemaphorePermit,
}

impl Stream for Watch {
    type Item = Result<Bytes, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.is_ending {
            let Some(phase) = ready!(self.phases.poll_next_unpin(cx)) else { break };
            self.is_ending = phase == Phase::Draining;
            let status = if self.is_known { serving(phase) } else { ServingStatus::ServiceUnknown };
            if self.last.replace(status) != Some(status) {
                let message = HealthCheckResponse { status: status.into() };
                return Poll::Ready(Some(Ok(frame::encode(&message))));
            }
        }
        Poll::Ready(None)
    }
}
