//! What a node answers while its store is being opened: that it is alive, and to everything else that it is starting. A long
//! journal may take minutes to replay; the actors, and the edges with them, come after that.

use std::{
    future::{Future, ready},
    sync::Arc,
};

use http::Request;
use hyper::body::Incoming;
use warp::reply::Response;

use super::{
    body::LimitedBody,
    brought,
    error::{ApiError, ErrorCode},
    grpc,
    listener::{Edge, HttpProtocol},
    rest,
};
use nomad_actors::TraceRecorder;
use nomad_core::model::{node_id::NodeId, trace::TraceId};

/// A node that is starting.
#[derive(Debug, Clone)]
pub struct Starting {
    node: NodeId,
    recorder: Arc<TraceRecorder>,
}

impl Starting {
    /// Answers for this node.
    pub fn new(node: NodeId, recorder: Arc<TraceRecorder>) -> Self {
        Self { node, recorder }
    }

    /// Names a request.
    fn name<B>(&self, request: &Request<B>) -> TraceId {
        brought::trace(request.headers()).unwrap_or_else(|| self.recorder.new_trace()).trace
    }

    fn rest<B>(&self, request: &Request<B>) -> Response {
        if rest::is_liveness(request.uri().path()) {
            return rest::alive(self.node, self.name(request));
        }
        rest::problem::problem(&starting(), self.name(request))
    }
}

fn starting() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the node is starting: its store is being opened")
}

/// The REST listener of a node that is starting.
#[derive(Debug, Clone)]
pub struct StartingRest(pub Starting);

impl Edge for StartingRest {
    type Body = <Response as rest::Parts>::Body;

    const PROTOCOL: HttpProtocol = HttpProtocol::Http1;

    fn body_bytes_max(&self) -> u64 {
        0
    }

    fn is_exempt(&self, path: &str) -> bool {
        rest::is_liveness(path)
    }

    fn call(
        &self,
        request: Request<LimitedBody<Incoming>>,
    ) -> impl Future<Output = Response> + Send {
        ready(self.0.rest(&request))
    }

    fn refuse(&self, request: &Request<Incoming>, error: &ApiError) -> Response {
        rest::problem::problem(error, self.0.name(request))
    }
}

/// A gRPC listener of a node that is starting.
#[derive(Debug, Clone)]
pub struct StartingGrpc(pub Starting);

impl Edge for StartingGrpc {
    type Body = tonic::body::Body;

    const PROTOCOL: HttpProtocol = HttpProtocol::Http2;

    fn body_bytes_max(&self) -> u64 {
        0
    }

    fn is_exempt(&self, _: &str) -> bool {
        false
    }

    fn call(
        &self,
        request: Request<LimitedBody<Incoming>>,
    ) -> impl Future<Output = http::Response<Self::Body>> + Send {
        ready(grpc::refused(&starting(), self.0.name(&request)))
    }

    fn refuse(&self, request: &Request<Incoming>, error: &ApiError) -> http::Response<Self::Body> {
        grpc::refused(error, self.0.name(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nomad_core::model::time::UnixMs;
    use nomad_doubles::ManualClock;
    use nomad_ports::OsEntropy;

    /// What REST answers is tested where the sockets are, in the room `node`.
    #[test]
    fn a_grpc_client_is_told_that_the_node_is_starting() {
        let clock = Arc::new(ManualClock::at(UnixMs(1_000)));
        let recorder = TraceRecorder::new(128, clock, Arc::new(OsEntropy));
        let node = Starting::new(NodeId::from_key([7; 32]), Arc::new(recorder));
        let request = Request::post("/grpc.health.v1.Health/Check").body(()).unwrap();
        let refused = grpc::refused(&starting(), node.name(&request));
        assert_eq!(refused.headers()["grpc-status"], "14");
        assert!(refused.headers().contains_key("nomad-request-id"));
    }
}
