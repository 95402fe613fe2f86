//! Links between nodes: hands the stream on to what makes links, and its messages back. The call ends when the stream
//! stands; from then on the link has limits of its own.

use std::error::Error;

use futures::{StreamExt as _, stream::BoxStream};
use tonic::{Request, Status, Streaming};

use super::{
    Services,
    held::{GrpcCall, GrpcResult},
};
use crate::{
    body::Proven,
    error::{ApiError, ErrorCode},
};
use nomad_proto::link::{Frames, link_server::Link};

#[tonic::async_trait]
impl Link for Services {
    type OpenStream = BoxStream<'static, Result<Frames, Status>>;

    async fn open(&self, request: Request<Streaming<Frames>>) -> GrpcResult<Self::OpenStream> {
        let proven = request.extensions().get::<Proven>().cloned().unwrap_or_default();
        let (held, messages) = GrpcCall::take(request)?;
        let links = self.links.as_ref().ok_or_else(|| {
            let detail = "this node takes no links from others";
            ApiError::new(ErrorCode::Unavailable, detail)
        });
        let opened = links.map(|links| {
            let messages = messages.map(|message| message.map_err(|status| told(&status)));
            links.accept(messages.boxed(), Box::new(move || proven.set())).map(Ok).boxed()
        });
        held.answer(opened)
    }
}

/// The innermost cause of a broken stream, which is the one that says something.
fn told(status: &Status) -> String {
    let mut cause = status.source();
    while let Some(inner) = cause.and_then(Error::source) {
        cause = Some(inner);
    }
    cause.map_or_else(|| status.message().to_owned(), ToString::to_string)
}
