//! Server reflection, v1 and v1alpha, so that a generic client works with no proto files at hand.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, request::Parts};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::service::Routes;
use tonic_reflection::server::Builder;
use tower::Service as _;

use crate::{api::backend::Phase, proto::FILE_DESCRIPTOR_SET};

/// The reflection services of one listener.
pub(super) struct Reflection {
    routes: Routes,
    phase: watch::Receiver<Phase>,
}

impl Reflection {
    /// Describes these services.
    pub(super) fn new(services: &[&str], phase: watch::Receiver<Phase>) -> Self {
        let builder = || {
            let builder = Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
            services.iter().fold(builder, |builder, name| builder.with_service_name(*name))
        };
        let mut routes = Routes::default();
        // The descriptors are constants of this program.
        #[expect(clippy::expect_used, reason = "the descriptors are constants that a test reads")]
        {
            routes = routes.add_service(builder().build_v1().expect("descriptors are valid"));
            routes = routes.add_service(builder().build_v1alpha().expect("descriptors are valid"));
        }
        Self { routes: routes.prepare(), phase }
    }

    /// Answers a stream of questions, until the client or the node ends it.
    pub(super) async fn answer<B>(&self, parts: Parts, body: B) -> Response<tonic::body::Body>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let phases = WatchStream::new(self.phase.clone());
        let request = Request::from_parts(parts, UntilDrain { body, phases });
        match self.routes.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// A body that ends when the node drains, and with it the answer.
struct UntilDrain<B> {
    body: B,
    phases: WatchStream<Phase>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for UntilDrain<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        while let Poll::Ready(phase) = self.phases.poll_next_unpin(cx) {
            if matches!(phase, None | Some(Phase::Draining)) {
                return Poll::Ready(None);
            }
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
