//! Asks another node's peer listener for its health over gRPC, within two seconds in all.

use std::{error::Error, future::Future, net::SocketAddr, pin::Pin, time::Duration};

use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use nomad_ports::PeerProbe;

/// The longest that one look takes.
const LIMIT: Duration = Duration::from_secs(2);

/// Looks over `grpc.health.v1.Health`, on a connection of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct GrpcProbe;

impl PeerProbe for GrpcProbe {
    fn serves(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move {
            let answer = tokio::time::timeout(LIMIT, check(address)).await;
            // Late, unreachable, or no gRPC at all: whatever is there, it does not serve.
            matches!(answer, Ok(Ok(ServingStatus::Serving)))
        })
    }
}

async fn check(address: SocketAddr) -> Result<ServingStatus, Box<dyn Error + Send + Sync>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
    Ok(answer.into_inner().status())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::Server;
    use tonic_health::server::health_reporter;

    use super::*;

    #[tokio::test]
    async fn only_a_node_that_says_it_serves_is_seen_to_serve() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (reporter, service) = health_reporter();
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(socket));
        let server = tokio::spawn(server);
        assert!(GrpcProbe.serves(address).await);
        reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        assert!(!GrpcProbe.serves(address).await);
        server.abort();
        let _ = server.await;
        assert!(!GrpcProbe.serves(address).await, "nobody listens there any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_never_answers_does_not_serve() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(!GrpcProbe.serves(socket.local_addr().unwrap()).await);
    }
}
