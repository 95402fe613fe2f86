//! A collector gets the spans of a request, under the trace id that the answer names.

use std::time::Duration;

use crate::support::node::Node;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner()).await;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spans_of_a_request_reach_the_collector_under_its_id() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (spans, mut exported) = mpsc::channel(100);
    let collector = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(Collector(spans)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let collector = tokio::spawn(collector);

    let node = Node::builder().env("OTLP_ENDPOINT", endpoint).start();
    let answer = node.http().call("PUT", "/nomad/v1/objects/traced").body("x").send().await;
    let request = answer.request_id().to_owned();
    let found = async {
        while let Some(export) = exported.recv().await {
            let spans = export.resource_spans.iter().flat_map(|r| &r.scope_spans);
            for span in spans.flat_map(|scope| &scope.spans) {
                let id: String = span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
                if id == request {
                    return span.clone();
                }
            }
        }
        panic!("the collector ended")
    };
    let span = timeout(Duration::from_secs(30), found).await.expect("a span arrives");
    assert!(span.attributes.iter().any(|pair| pair.key == "actor"), "{span:?}");
    collector.abort();
}
