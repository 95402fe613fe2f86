//! The REST edge, on warp: one filter per path, made from the table of routes, in front of one handler each.
//!
//! Invariants: a handler never rejects, it answers; only a path or a method that nobody takes is rejected, and one
//! `recover` turns that into a problem document. Nothing here reads a body but `body`, and what is read by hand is
//! described to the OpenAPI document beside it.
//!
//! Decision: paths are matched whole and not segment by segment, because an id may hold an encoded slash, and because an
//! empty id is to be refused by name. The most frequent paths stand first and unboxed.

mod about;
mod actors;
mod ask;
mod body;
mod document;
mod etag;
mod game_object;
mod json;
mod leave;
mod listing;
mod objects;
mod openapi;
mod origin;
pub(crate) mod problem;
mod range;
mod row;
mod settings;
mod storage;
#[cfg(test)]
mod tests;
mod trace;

use std::{convert::Infallible, error::Error, future::Future, sync::Arc};

use http::{Method, Request};
use hyper::body::Incoming;
use tower_service::Service as _;
use warp::{Filter, Rejection, filters::BoxedFilter, reply::Response};

use self::{
    ask::{RestContext, RestRequest},
    row::{At, NotAllowed, RequestHead, RouteRow, Unknown},
};
use super::{
    backend::{Backend, Call},
    body::LimitedBody,
    brought,
    error::{ApiError, ErrorCode},
    listener::{Edge, HttpProtocol},
};
use nomad_core::model::{
    node_id::NodeId,
    trace::{TraceContext, TraceId},
};
use nomad_service::Entrance;

/// Filters that answer.
type Routes = BoxedFilter<(Response,)>;

/// Answers REST requests.
#[derive(Clone)]
pub struct RestEdge {
    shared: RestContext,
    routes: Routes,
}

/// Makes the REST edge of a node.
pub fn edge(backend: Arc<Backend>) -> RestEdge {
    let shared = RestContext::new(backend);
    RestEdge { routes: routes(&shared), shared }
}

/// Tells whether a path asks no more than that the process is alive.
pub fn is_liveness(path: &str) -> bool {
    about::HEALTHZ.is_at(path)
}

/// Says that a node is alive.
pub fn alive(node: NodeId, request: TraceId) -> Response {
    let mut response = about::alive(node);
    problem::name_request(&mut response, request);
    response
}

/// Gives warp's body, which has no public name, one.
pub trait Parts {
    /// The body.
    type Body;
}

impl<B> Parts for http::Response<B> {
    type Body = B;
}

impl Edge for RestEdge {
    type Body = <Response as Parts>::Body;

    const PROTOCOL: HttpProtocol = HttpProtocol::Http1;

    fn body_bytes_max(&self) -> u64 {
        body::object_bytes_max(self.shared.backend.config.node.storage.max_object_bytes)
    }

    fn is_exempt(&self, path: &str) -> bool {
        let fixed = [
            &about::HEALTHZ,
            &about::READYZ,
            &about::METRICS,
            &about::STORAGE_HEALTH,
            &about::STATUS,
        ];
        path.starts_with("/nomad/debug/") || fixed.iter().any(|row| row.is_at(path))
    }

    fn call(
        &self,
        request: Request<LimitedBody<Incoming>>,
    ) -> impl Future<Output = Response> + Send {
        self.answer(request)
    }

    fn refuse(&self, request: &Request<Incoming>, error: &ApiError) -> Response {
        let trace = brought::trace(request.headers());
        let backend = &self.shared.backend;
        ask::finish(backend, ask::trace_of(backend, trace), Err(error.clone()))
    }
}

impl RestEdge {
    /// Answers a request, whatever its body comes from.
    async fn answer<B>(&self, request: Request<B>) -> Response
    where
        B: http_body::Body<Error: Into<Box<dyn Error + Send + Sync>>> + Send + Sync + 'static,
        B::Data: Send + 'static,
    {
        if request.uri().path_and_query().is_none() {
            return self.refuse_without_path(&request);
        }
        let (headers, listen) = (request.headers(), self.shared.backend.config.node.listen);
        if let Err(error) = origin::check(request.method(), headers, listen) {
            let trace = brought::trace(headers);
            return refuse(&self.shared, "a request from elsewhere", trace, error);
        }
        if let Err(error) = brought::check(headers) {
            return refuse(&self.shared, "a request with a broken id", None, error);
        }
        let mut service = warp::service(self.routes.clone());
        let Ok(response) = service.call(request).await;
        response
    }

    /// Answers a request that names no path but a host, as CONNECT does. warp would panic on it.
    fn refuse_without_path<B>(&self, request: &Request<B>) -> Response {
        let method = request.method().clone();
        let trace = brought::trace(request.headers());
        let allow = "GET, HEAD, PUT, POST, DELETE";
        not_taken(&self.shared, &NotAllowed { method, allow, trace })
    }
}

// ---- routes ----

fn routes(shared: &RestContext) -> Routes {
    let recovering = shared.clone();
    // Each `or` around a route is one more future to poll and to carry its answer: the most frequent has two, and no box.
    let no_query = || warp::any().map(String::new);
    with(shared, &objects::OBJECT, no_query(), objects::object)
        .or(with(shared, &storage::GET, no_query(), storage::get).or(others(shared)).unify())
        .unify()
        .recover(move |rejection| {
            std::future::ready(Ok::<_, Infallible>(recover(&recovering, &rejection)))
        })
        .unify()
        .boxed()
}

/// All other routes; those below `/nomad` are branched by the next segment.
fn others(b: &RestContext) -> Routes {
    let beneath =
        |segment, routes| warp::path("nomad").and(warp::path(segment)).and(routes).boxed();
    let v1 = first_of([
        route(b, &listing::OBJECTS, listing::objects),
        route(b, &about::STATUS, about::status),
        route(b, &about::GROUPS, about::groups),
        route(b, &about::GROUP, about::group),
        route(b, &leave::LEAVE, leave::leave),
    ]);
    let storage = first_of([
        route(b, &storage::PUT, storage::put),
        route(b, &storage::UPDATE, storage::update),
        route(b, &storage::DELETE, storage::delete),
        route(b, &about::STORAGE_HEALTH, about::storage_health),
        route(b, &listing::PEER_LEDGER, listing::peer_ledger),
        route(b, &listing::OBJECT_LEDGER, listing::object_ledger),
    ]);
    let group_storage = first_of([
        route(b, &storage::FAST_PUT, storage::fast_put),
        route(b, &storage::SAFE_PUT, storage::safe_put),
        route(b, &storage::FAST_GET, storage::fast_get),
        route(b, &storage::PARALLEL_GET, storage::parallel_get),
        route(b, &storage::SAFE_GET, storage::safe_get),
    ]);
    let overlay_storage = first_of([
        route(b, &storage::OVERLAY_PUT, storage::overlay_put),
        route(b, &storage::OVERLAY_GET, storage::overlay_get),
    ]);
    let config = first_of([
        route(b, &settings::STORAGE, settings::storage),
        route(b, &settings::RETRIEVAL, settings::retrieval),
        route(b, &settings::MIGRATION, settings::migration),
        route(b, &settings::REPLICATION_FACTOR, settings::replication_factor),
    ]);
    let debug = first_of([
        route(b, &trace::TRACE, trace::trace),
        route(b, &trace::CAPTURE, trace::capture),
        route(b, &actors::ACTORS, actors::actors),
        route(b, &actors::KILL, actors::kill),
    ]);
    first_of([
        beneath("v1", v1),
        beneath("storage", storage),
        beneath("group-storage", group_storage),
        beneath("overlay-storage", overlay_storage),
        beneath("config", config),
        beneath("debug", debug),
        route(b, &about::HEALTHZ, about::healthz),
        route(b, &about::READYZ, about::readyz),
        route(b, &about::METRICS, about::metrics),
        route(b, &openapi::OPENAPI, openapi::document),
        route(b, &openapi::SWAGGER, openapi::swagger),
        route(b, &openapi::SWAGGER_UI, openapi::swagger),
        route(b, &openapi::SWAGGER_BARE, openapi::to_swagger),
        route(b, &openapi::SWAGGER_UI_BARE, openapi::to_swagger),
        route(b, &openapi::ROOT, openapi::to_swagger),
    ])
}

/// The first of these that takes a request; it is unknown where none does.
fn first_of<const COUNT: usize>(routes: [Routes; COUNT]) -> Routes {
    let later = |later: Routes, route: Routes| route.or(later).unify().boxed();
    routes.into_iter().rev().fold(row::unknown().boxed(), later)
}

/// Makes the filter of a row.
fn route<F, A>(shared: &RestContext, row: &'static RouteRow, handler: F) -> Routes
where
    F: Fn(RestRequest) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    with(shared, row, row::query(), handler).boxed()
}

/// Path, then method, then query and body, then the handler.
fn with<F, A, Q>(
    shared: &RestContext,
    row: &'static RouteRow,
    query: Q,
    handler: F,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<F, A, Q>
where
    F: Fn(RestRequest) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response> + Send + 'static,
    Q: Filter<Extract = (String,), Error = Infallible> + Clone + Send + Sync + 'static,
{
    let shared = shared.clone();
    row::at(row).and(row::only(row)).and(query).and(warp::body::stream()).then(
        move |at: At, head: RequestHead, query: String, parts| {
            let (shared, handler) = (shared.clone(), handler.clone());
            async move {
                let has_body = matches!(head.method, Method::PUT | Method::POST);
                let mut ask = RestRequest::new(shared, at, head, query);
                if has_body {
                    ask.read(row.body, parts).await;
                }
                handler(ask).await
            }
        },
    )
}

/// Answers what no row took.
fn recover(shared: &RestContext, rejection: &Rejection) -> Response {
    if let Some(refused) = rejection.find() {
        return not_taken(shared, refused);
    }
    let unknown = rejection.find::<Unknown>();
    let path = json::shorten(unknown.map_or("", |unknown| &unknown.path));
    let detail = format!("there is no path {path:?}; /nomad/openapi.json describes all");
    let trace = unknown.and_then(|unknown| unknown.trace);
    refuse(shared, "an unknown path", trace, ApiError::new(ErrorCode::NotFound, detail))
}

fn not_taken(shared: &RestContext, refused: &NotAllowed) -> Response {
    let NotAllowed { method, allow, trace } = refused;
    let detail = format!("the path does not take {method}; it takes {allow}");
    let error = ApiError::new(ErrorCode::MethodNotAllowed, detail);
    let error = ApiError { allow: Some(allow), ..error };
    refuse(shared, "a method that is not taken", *trace, error)
}

fn refuse(
    shared: &RestContext,
    kind: &'static str,
    trace: Option<TraceContext>,
    error: ApiError,
) -> Response {
    let call = Call::begin(&shared.backend, Entrance::Rest, kind, trace, None);
    let response = ask::finish(&shared.backend, call.request_id(), Err(error));
    call.finish(response.status().as_u16());
    response
}
