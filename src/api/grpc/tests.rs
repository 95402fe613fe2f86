//! The edge over real actors and a store in memory: what each request answers, what a malformed one answers, and that
//! tonic's own client understands it through the real listener.

mod control;
mod health;
mod malformed;
mod storage;
mod test_links;
mod wire;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Request};
use http_body_util::{BodyExt as _, Full};
use prost::Message;
use tonic::Status;

use super::GrpcEdge;
use crate::test_backend::TestNode;

pub(super) const GROUP: &str = "/grpc.groupstorage.GroupStorageService";
pub(super) const OVERLAY: &str = "/grpc.peerstorage.PeerStorageService";

/// An answer: what stands in its head and its trailers, and its message or its status.
pub(super) type Answered<M> = (HeaderMap, Result<M, Status>);

/// A message as it stands in a body.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

/// Sends these bytes as the body of a call.
pub(super) async fn send(
    edge: &GrpcEdge,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Answered<Bytes> {
    let mut request = Request::post(path).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(HeaderName::try_from(*name).unwrap(), *value);
    }
    let response = edge.answer(request.body(Full::new(body)).unwrap()).await;
    let mut head = response.headers().clone();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned();
    let mut message = body.to_bytes();
    head.extend(trailers.unwrap_or_default());
    let status = Status::from_header_map(&head).expect("every answer has a status");
    if status.code() == tonic::Code::Ok {
        (head, Ok(message.split_off(5)))
    } else {
        assert!(message.is_empty(), "an error has no message");
        (head, Err(status))
    }
}

/// Makes a call with metadata.
pub(super) async fn call_with<M: Message + Default>(
    edge: &GrpcEdge,
    path: &str,
    headers: &[(&str, &str)],
    message: &impl Message,
) -> Answered<M> {
    let (head, answer) = send(edge, path, headers, framed(message)).await;
    (head, answer.map(|message| M::decode(message).unwrap()))
}

/// Makes a call.
pub(super) async fn call<M: Message + Default>(
    edge: &GrpcEdge,
    path: &str,
    message: &impl Message,
) -> Result<M, Status> {
    call_with(edge, path, &[], message).await.1
}

/// Both edges of a node.
pub(super) fn edges(node: &TestNode) -> (GrpcEdge, GrpcEdge) {
    (super::storage_edge(node.backend.clone()), super::peer_edge(node.backend.clone(), None))
}
