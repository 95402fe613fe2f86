//! The gRPC edge: the storage listener and the peer listener.
//!
//! Decision: tonic's generated servers answer the calls, inside the accept loop that all our listeners share. They frame
//! messages, encode statuses and trailers, and stream. tonic's own transport is not used: its loop knows no permits, no
//! limits of a body and no drain that ends watches, and a router in front of the servers would match paths that are
//! matched here already. What is left to do around a server: look its path up, check the head, begin and finish the
//! call, name the request in the answer, and give a text and the right code to what tonic refuses by itself, since it
//! calls a malformed message INTERNAL. Rejected: framing by hand, which is faster by a few boxes a call and would be
//! ours to keep right.
//!
//! Invariants: no bare UNKNOWN or INTERNAL for what a caller did; every answer carries `nomad-request-id` and
//! `nomad-durability`; every request that is answered is recorded with its code; no stream outlives the drain, except
//! links, which whoever holds them ends before.

mod control;
mod head;
mod health;
mod held;
mod link;
mod object;
mod peers;
mod reflection;
mod route;
mod status;
mod storage;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, request::Parts};
use hyper::body::Incoming;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service as _},
};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::{
    v1::server_reflection_server::ServerReflectionServer,
    v1alpha::server_reflection_server::ServerReflectionServer as ServerReflectionAlphaServer,
};

use self::{
    health::HealthService,
    held::CallSlot,
    route::{LINK, PEER, Route, STORAGE, Server},
};
use super::{
    backend::{Backend, Call, durability_header},
    body::{BoxError, LimitedBody},
    brought::{self, REQUEST_ID},
    error::{ApiError, ErrorCode},
    listener::{Edge, HttpProtocol},
};
use nomad_core::model::{object::Tier, trace::TraceId};
use nomad_ports::LinkAcceptor;
use nomad_proto::{
    groupstorage::group_storage_service_server::GroupStorageServiceServer,
    link::{Frames, link_server::LinkServer},
    peerservice::peer_service_server::PeerServiceServer,
    peerstorage::peer_storage_service_server::PeerStorageServiceServer,
    superpeerservice::super_peer_service_server::SuperPeerServiceServer,
};
use nomad_service::Entrance;

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
    servers: Servers,
    message_bytes_max: u64,
}

/// What takes the links that other nodes open.
pub type FrameAcceptor = Arc<dyn LinkAcceptor<Frames>>;

/// What implements the generated traits. The calls bring everything else that they need.
struct Services {
    /// The full names of the services of this listener, sorted.
    names: Arc<[&'static str]>,
    health: HealthService,
    links: Option<FrameAcceptor>,
}

/// tonic's servers of all services. The routes say which of them a listener has.
struct Servers {
    group_storage: GroupStorageServiceServer<Services>,
    peer_storage: PeerStorageServiceServer<Services>,
    peer: PeerServiceServer<Services>,
    super_peer: SuperPeerServiceServer<Services>,
    health: HealthServer<Services>,
    link: LinkServer<Services>,
    reflection: ServerReflectionServer<Services>,
    reflection_alpha: ServerReflectionAlphaServer<Services>,
}

/// A request whose head is in order.
struct Accepted {
    server: Server,
    timeout: Option<Duration>,
}

/// Returns the edge of the storage listener: the two storage services, health and reflection.
pub fn storage_edge(backend: Arc<Backend>) -> GrpcEdge {
    GrpcEdge::new(backend, &STORAGE, None)
}

/// Returns the edge of the peer listener: the links between nodes, the two control services, health and reflection.
/// Without `links` no node can open one.
pub fn peer_edge(backend: Arc<Backend>, links: Option<FrameAcceptor>) -> GrpcEdge {
    GrpcEdge::new(backend, &PEER, links)
}

impl Servers {
    fn new(services: &Arc<Services>, message_bytes_max: usize) -> Self {
        let link_max = services.links.as_ref().map_or(0, |links| links.message_bytes_max());
        let services = || Arc::clone(services);
        let max = message_bytes_max;
        let question_max = reflection::QUESTION_BYTES_MAX;
        Self {
            group_storage: GroupStorageServiceServer::from_arc(services())
                .max_decoding_message_size(max),
            peer_storage: PeerStorageServiceServer::from_arc(services())
                .max_decoding_message_size(max),
            peer: PeerServiceServer::from_arc(services()).max_decoding_message_size(max),
            super_peer: SuperPeerServiceServer::from_arc(services()).max_decoding_message_size(max),
            health: HealthServer::from_arc(services()).max_decoding_message_size(max),
            link: LinkServer::from_arc(services())
                .max_decoding_message_size(link_max)
                .max_encoding_message_size(usize::MAX),
            reflection: ServerReflectionServer::from_arc(services())
                .max_decoding_message_size(question_max),
            reflection_alpha: ServerReflectionAlphaServer::from_arc(services())
                .max_decoding_message_size(question_max),
        }
    }

    /// Lets a server answer. A generated server is always ready.
    fn answer<B>(
        &self,
        server: Server,
        request: Request<B>,
    ) -> BoxFuture<Response<Body>, Infallible>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
    {
        match server {
            Server::GroupStorage => self.group_storage.clone().call(request),
            Server::PeerStorage => self.peer_storage.clone().call(request),
            Server::Peer => self.peer.clone().call(request),
            Server::SuperPeer => self.super_peer.clone().call(request),
            Server::Health => self.health.clone().call(request),
            Server::Link => self.link.clone().call(request),
            Server::Reflection => self.reflection.clone().call(request),
            Server::ReflectionAlpha => self.reflection_alpha.clone().call(request),
        }
    }
}

impl GrpcEdge {
    fn new(backend: Arc<Backend>, routes: &'static [Route], links: Option<FrameAcceptor>) -> Self {
        let mut names: Vec<_> = routes.iter().map(Route::service).collect();
        names.sort_unstable();
        names.dedup();
        let names: Arc<[_]> = names.into();
        let health = HealthService::new(&backend, Arc::clone(&names));
        let message_bytes_max = backend.config.node.storage.max_object_bytes + OVERHEAD_BYTES;
        let services = Arc::new(Services { names, health, links });
        let servers = Servers::new(&services, message_bytes_max as usize);
        Self { inner: Arc::new(Inner { backend, routes, servers, message_bytes_max }) }
    }

    /// Answers a request, whatever its body comes from.
    async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
    {
        let (mut parts, body) = request.into_parts();
        let (call, accepted) = self.begin(&parts);
        let Accepted { server, timeout } = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return refusal(call, &error),
        };
        let id = call.request_id();
        let slot = CallSlot::new(call, timeout);
        parts.extensions.insert(slot.clone());
        let request = Request::from_parts(parts, body);
        let Ok(mut response) = self.inner.servers.answer(server, request).await;
        if let Some(call) = slot.take() {
            // No handler took it: tonic could not read the message.
            let status = response.extensions().get::<Status>();
            let error = status.map_or_else(unanswered, status::unreadable);
            return refusal(call, &error);
        }
        describe(&mut response, &self.inner.backend, id);
        response
    }

    /// Begins the call, and says why it goes no further if it does not.
    fn begin(&self, parts: &Parts) -> (Call, Result<Accepted, ApiError>) {
        let path = parts.uri.path();
        let route = route::find(self.inner.routes, path);
        let timeout = head::timeout(&parts.headers);
        let call = Call::begin(
            &self.inner.backend,
            Entrance::Grpc,
            route.map_or("unknown", Route::kind),
            brought::trace(&parts.headers),
            timeout.as_ref().ok().copied().flatten(),
        );
        let accepted = head::check(parts)
            .and_then(|()| brought::check(&parts.headers))
            .and_then(|()| route.ok_or_else(|| self.no_such_method(path)))
            .and_then(|route| Ok(Accepted { server: route.server, timeout: timeout? }));
        (call, accepted)
    }

    fn no_such_method(&self, path: &str) -> ApiError {
        let this = self.inner.backend.service.view.load().this.clone();
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

/// Ends a call that never reached its handler.
fn refusal(call: Call, error: &ApiError) -> Response<Body> {
    let id = call.request_id();
    let mut response = status::response(error, id);
    describe(&mut response, call.backend(), id);
    held::finish(call, error.code.grpc());
    response
}

/// Names the request, and says how durable what the answer tells is, unless a write has said so.
fn describe(response: &mut Response<Body>, backend: &Backend, id: TraceId) {
    name_request(response, id);
    let headers = response.headers_mut();
    if !headers.contains_key(held::DURABILITY) {
        headers.insert(
            held::DURABILITY,
            durability_header(backend.service.assurance(Tier::Group, None)),
        );
    }
}

/// Names the request in its answer.
fn name_request(response: &mut Response<Body>, id: TraceId) {
    if let Ok(mut name) = HeaderValue::from_bytes(&id.digits()) {
        // Not secret, but never the same twice: it would only push other headers out of the compression's table.
        name.set_sensitive(true);
        response.headers_mut().insert(REQUEST_ID, name);
    }
}

/// Answers a request that reaches no edge with an error.
pub(super) fn refused(error: &ApiError, id: TraceId) -> Response<Body> {
    let mut response = status::response(error, id);
    name_request(&mut response, id);
    response
}

/// The table of routes names a method that its server does not know.
fn unanswered() -> ApiError {
    ApiError::new(ErrorCode::Internal, "the server of this service does not know its method")
}

impl Edge for GrpcEdge {
    type Body = Body;

    const PROTOCOL: HttpProtocol = HttpProtocol::Http2;

    fn body_bytes_max(&self) -> u64 {
        // A message over its limit is refused by its head, with a better text, before its body reaches this one.
        self.inner.message_bytes_max + OVERHEAD_BYTES
    }

    fn is_exempt(&self, path: &str) -> bool {
        route::find(self.inner.routes, path).is_some_and(|route| route.is_health)
    }

    fn is_stream(&self, path: &str) -> bool {
        path.ends_with("Watch") || path.ends_with("/ServerReflectionInfo")
    }

    fn is_link(&self, path: &str) -> bool {
        path == LINK && route::find(self.inner.routes, path).is_some()
    }

    fn call(
        &self,
        request: Request<LimitedBody<Incoming>>,
    ) -> impl Future<Output = Response<Body>> + Send {
        self.answer(request)
    }

    fn refuse(&self, request: &Request<Incoming>, error: &ApiError) -> Response<Body> {
        let path = request.uri().path();
        let kind = route::find(self.inner.routes, path).map_or("unknown", Route::kind);
        let trace = brought::trace(request.headers());
        let call = Call::begin(&self.inner.backend, Entrance::Grpc, kind, trace, None);
        refusal(call, error)
    }
}
