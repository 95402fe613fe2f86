//! Whether the node serves, which it does while it is ready: `grpc.health.v1.Health`, and what `GroupStorageService` says
//! of the same. A watch ends when the node drains.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_stream::wrappers::WatchStream;
use tonic::Request;
use tonic_health::pb::{
    self, HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};

use super::{
    Services,
    held::{GrpcCall, GrpcResult, MessageStream},
};
use crate::{
    backend::{Backend, NodePhase},
    error::{ApiError, ErrorCode},
};
use nomad_actors::group_view::GroupView;

#[tonic::async_trait]
impl pb::health_server::Health for Services {
    async fn check(&self, request: Request<HealthCheckRequest>) -> GrpcResult<HealthCheckResponse> {
        let (held, request) = GrpcCall::take(request)?;
        let status = self.health.check(&request.service).map(Into::into);
        held.answer(status.map(|status| HealthCheckResponse { status }))
    }

    type WatchStream = MessageStream<HealthCheckResponse>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> GrpcResult<Self::WatchStream> {
        let (held, request) = GrpcCall::take(request)?;
        let message = |status: ServingStatus| HealthCheckResponse { status: status.into() };
        held.stream(self.health.watch(&request.service, message))
    }
}

/// The health of one listener's services.
pub(super) struct HealthService {
    services: Arc<[&'static str]>,
    phase: watch::Receiver<NodePhase>,
    view: GroupView,
    /// A watch holds no permit of a request, so the number of watches has a limit of its own.
    places: Arc<Semaphore>,
    places_max: usize,
}

impl HealthService {
    pub(super) fn new(backend: &Backend, services: Arc<[&'static str]>) -> Self {
        let places_max = backend.config.limits.requests;
        Self {
            services,
            phase: backend.phase.clone(),
            view: Arc::clone(&backend.service.view),
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
    pub(super) fn check(&self, service: &str) -> Result<ServingStatus, ApiError> {
        if !self.knows(service) {
            let detail = format!(
                "this listener does not serve {service:?}; it serves {}",
                self.services.join(", ")
            );
            return Err(ApiError::new(ErrorCode::NotFound, detail));
        }
        Ok(serving(*self.phase.borrow(), &self.view))
    }

    /// Tells the status of a service now and whenever it changes, each time in a message of the caller's. A service that
    /// is not served here stays unknown.
    ///
    /// # Errors
    /// [`ErrorCode::ResourceExhausted`] when too many watch already.
    pub(super) fn watch<M: 'static>(
        &self,
        service: &str,
        message: fn(ServingStatus) -> M,
    ) -> Result<impl Stream<Item = Result<M, ApiError>> + Send + use<M>, ApiError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let detail = format!(
                "{} clients watch this listener's health, as many as limits.requests allows",
                self.places_max
            );
            ApiError::new(ErrorCode::ResourceExhausted, detail)
        })?;
        let watch = Watch {
            phases: WatchStream::new(self.phase.clone()),
            phase: *self.phase.borrow(),
            views: WatchStream::new(self.view.watch()),
            view: Arc::clone(&self.view),
            is_known: self.knows(service),
            last: None,
            is_ending: false,
            _place: place,
        };
        Ok(watch.map(move |status| Ok(message(status))))
    }
}

fn serving(phase: NodePhase, view: &GroupView) -> ServingStatus {
    match phase {
        NodePhase::Serving if view.load().unready().is_none() => ServingStatus::Serving,
        _ => ServingStatus::NotServing,
    }
}

/// The statuses that one watch tells.
struct Watch {
    phases: WatchStream<NodePhase>,
    /// The last one of them.
    phase: NodePhase,
    views: WatchStream<()>,
    view: GroupView,
    is_known: bool,
    last: Option<ServingStatus>,
    is_ending: bool,
    _place: OwnedSemaphorePermit,
}

impl Stream for Watch {
    type Item = ServingStatus;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServingStatus>> {
        while !self.is_ending {
            match self.phases.poll_next_unpin(cx) {
                Poll::Ready(Some(phase)) => self.phase = phase,
                Poll::Ready(None) => break,
                // The view outlives the watch, so that this stream does not end.
                Poll::Pending => {
                    ready!(self.views.poll_next_unpin(cx));
                }
            }
            self.is_ending = self.phase == NodePhase::Draining;
            let status = match self.is_known {
                true => serving(self.phase, &self.view),
                false => ServingStatus::ServiceUnknown,
            };
            if self.last.replace(status) != Some(status) {
                return Poll::Ready(Some(status));
            }
        }
        Poll::Ready(None)
    }
}
