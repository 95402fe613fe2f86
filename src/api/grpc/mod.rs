//! The gRPC edge: the storage listener and the peer listener.
//!
//! Decision: tonic gives the statuses, the generated messages and the clients, but not the way of a call. A generated
//! server boxes a request five times and cannot say which of its errors are the caller's; here a path is looked up in
//! one table, one message is read, one is written, and every error is an `ApiError` with a text. Rejected: generated
//! servers behind a router, with their statuses rewritten afterwards.
//!
//! Invariants: no bare UNKNOWN or INTERNAL for what a caller did; every answer carries `nomad-request-id`; every
//! request that is answered is recorded with its code; no stream outlives the drain.

mod answer;
mod control;
mod frame;
mod head;
mod health;
mod object;
mod reflection;
mod route;
mod status;
mod storage;
#[cfg(test)]
mod tests;

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request::Parts};
use http_body::Body;
use hyper::body::Incoming;

pub use self::answer::GrpcBody;
use self::{
    answer::Answer,
    health::Health,
    route::{PEER, Route, Rpc, STORAGE},
};
use super::{
    backend::{Backend, Call},
    body::LimitedBody,
    error::{ApiError, ErrorCode},
    listener::{Edge, Protocol},
};

/// What a message may have beside the value of its object.
const OVERHEAD_BYTES: u64 = 64 << 10;

/// Answers gRPC requests on one listener. Cheap to clone.
#[derive(Clone)]
pub struct GrpcEdge {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<Backend>,
    routes: &'static [Route],
    /// The full names of the services, sorted.
    services: Arc<[&'static str]>,
    health: Health,
    message_bytes_max: u64,
}

/// A request whose head is in order.
struct Accepted {
    route: &'static Route,
    timeout: Option<Duration>,
}

/// Returns the edge of the storage listener: the two storage services, health and reflection.
pub fn storage_edge(backend: Arc<Backend>) -> GrpcEdge {
    GrpcEdge::new(backend, &STORAGE)
}

/// Returns the edge of the peer listener: the two control services, health and reflection.
pub fn peer_edge(backend: Arc<Backend>) -> GrpcEdge {
    GrpcEdge::new(backend, &PEER)
}

impl GrpcEdge {
    fn new(backend: Arc<Backend>, routes: &'static [Route]) -> Self {
        let mut services: Vec<_> = routes.iter().map(Route::service).collect();
        services.sort_unstable();
        services.dedup();
        let services: Arc<[_]> = services.into();
        let health = Health::new(&backend, Arc::clone(&services));
        let message_bytes_max = backend.config.node.storage.max_object_bytes + OVERHEAD_BYTES;
        let inner = Inner { backend, routes, services, health, message_bytes_max };
        Self { inner: Arc::new(inner) }
    }

    /// Answers a request, whatever its body comes from.
    async fn answer<B>(&self, request: Request<B>) -> Response<GrpcBody>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let (mut call, accepted) = self.begin(&parts);
        let answered = match accepted {
            Ok(accepted) => self.dispatch(accepted, &mut call, &parts.headers, body).await,
            Err(error) => Err(error),
        };
        answer::finish(call, answered)
    }

    /// Begins the call, and says why it goes no further if it does not.
    fn begin(&self, parts: &Parts) -> (Call, Result<Accepted, ApiError>) {
        let path = parts.uri.path();
        let route = route::find(self.inner.routes, path);
        let timeout = head::timeout(&parts.headers);
        let call = Call::begin(
            &self.inner.backend,
            "grpc",
            route.map_or("unknown", Route::kind),
            parts.headers.get("traceparent").and_then(|value| value.to_str().ok()),
            timeout.as_ref().ok().copied().flatten(),
        );
        let accepted = head::check(parts)
            .and_then(|()| route.ok_or_else(|| self.no_such_method(path)))
            .and_then(|route| Ok(Accepted { route, timeout: timeout? }));
        (call, accepted)
    }

    async fn dispatch<B>(
        &self,
        Accepted { route, timeout }: Accepted,
        call: &mut Call,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Answer, ApiError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let kind = route.kind();
        if route.rpc == Rpc::Reflect {
            let (services, phase) =
                (Arc::clone(&self.inner.services), call.backend().phase.clone());
            let answers = reflection::answers(services, phase, kind, body);
            return Ok(Answer::stream(call, answers, timeout));
        }
        let message = frame::read(body, self.inner.message_bytes_max as usize).await?;
        match route.rpc {
            Rpc::Get(tier) => {
                storage::get(call, tier, headers, frame::decode(kind, message)?).await
            }
            Rpc::Put(tier) => {
                storage::put(call, tier, headers, frame::decode(kind, message)?).await
            }
            Rpc::Update(tier) => {
                storage::update(call, tier, headers, frame::decode(kind, message)?).await
            }
            Rpc::Delete(tier) => {
                storage::delete(call, tier, headers, frame::decode(kind, message)?).await
            }
            Rpc::Check { named } => {
                let service = health::service(named, kind, message)?;
                self.inner.health.check(call, &service)
            }
            Rpc::Watch { named } => {
                let service = health::service(named, kind, message)?;
                self.inner.health.watch(call, &service, timeout)
            }
            Rpc::Control(rpc) => Box::pin(control::answer(call, rpc, kind, message)).await,
            Rpc::Reflect => Err(self.no_such_method(route.path)),
        }
    }

    fn no_such_method(&self, path: &str) -> ApiError {
        let this = self.inner.backend.view.load().this.clone();
        let detail = if route::find(&PEER, path).is_some() {
            format!("{path} is served on this node's peer listener, {}", this.peer)
        } else if route::find(&STORAGE, path).is_some() {
            format!("{path} is served on this node's storage listener, {}", this.storage)
        } else {
            format!("there is no method {path}; server reflection lists those that there are")
        };
        ApiError::new(ErrorCode::Unimplemented, detail)
    }
}

impl Edge for GrpcEdge {
    type Body = GrpcBody;

    const PROTOCOL: Protocol = Protocol::Http2;

    fn body_bytes_max(&self) -> u64 {
        // A message over its limit is refused by its head, with a better text, before its body reaches this one.
        self.inner.message_bytes_max + OVERHEAD_BYTES
    }

    fn is_exempt(&self, path: &str) -> bool {
        let route = route::find(self.inner.routes, path);
        route.is_some_and(|route| matches!(route.rpc, Rpc::Check { .. } | Rpc::Watch { .. }))
    }

    async fn call(&self, request: Request<LimitedBody<Incoming>>) -> Response<GrpcBody> {
        self.answer(request).await
    }

    fn refuse(&self, request: &Request<Incoming>, error: &ApiError) -> Response<GrpcBody> {
        let path = request.uri().path();
        let kind = route::find(self.inner.routes, path).map_or("unknown", Route::kind);
        let traceparent = request.headers().get("traceparent").and_then(|v| v.to_str().ok());
        let call = Call::begin(&self.inner.backend, "grpc", kind, traceparent, None);
        answer::finish(call, Err(error.clone()))
    }
}
