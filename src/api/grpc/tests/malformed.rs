//! What is no proper call: a mistake of the caller never looks like one of the node.

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use proptest::prelude::*;
use tonic::{Code, Status};

use super::{GROUP, call, edges, framed, send};
use crate::{
    error::{ApiError, ErrorCode},
    grpc::{
        GrpcEdge,
        route::{PEER, Route, STORAGE},
    },
    test_backend::TestNode,
};
use nomad_proto::{
    groupstorage::{GetObjectRequest, GetObjectResponse, PutObjectRequest},
    models::GameObjectGrpc,
};

fn reflects(route: &Route) -> bool {
    route.path.ends_with("/ServerReflectionInfo")
}

/// Whoever takes links reads what comes on one, and there is none here.
fn links(route: &Route) -> bool {
    route.path.ends_with("Link/Open")
}

async fn refused(edge: &GrpcEdge, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Status {
    send(edge, path, headers, Bytes::copy_from_slice(body)).await.1.unwrap_err()
}

#[tokio::test]
async fn a_path_that_is_not_served_is_unimplemented_and_the_text_says_where_it_is() {
    let node = TestNode::start().await;
    let (storage, peer) = edges(&node);
    for (edge, path, text) in [
        (&storage, "/grpc.groupstorage.GroupStorageService/nope", "GroupStorageService/nope"),
        (&storage, "/", "there is no method /"),
        (&storage, "/grpc.groupstorage.GroupStorageService/get/x", "get/x"),
        (&storage, "/grpc.superpeerservice.SuperPeerService/pingPeer", "127.0.0.1:6731"),
        (&peer, "/grpc.groupstorage.GroupStorageService/get", "127.0.0.1:6735"),
    ] {
        let status = refused(edge, path, &[], b"\0\0\0\0\0").await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
        assert!(status.message().contains(text), "{status}");
    }
    node.stop().await;
}

#[tokio::test]
async fn an_encoding_that_is_not_taken_is_unimplemented_and_names_the_one_that_is() {
    let node = TestNode::start().await;
    let (edge, _) = edges(&node);
    let headers = [("grpc-encoding", "gzip")];
    let body = Bytes::from_static(b"\x01\0\0\0\0");
    let (head, answer) = send(&edge, STORAGE[0].path, &headers, body).await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("gzip") && status.message().contains("identity"));
    assert_eq!(head["grpc-accept-encoding"], "identity");
    node.stop().await;
}

#[tokio::test]
async fn every_unary_call_refuses_every_kind_of_broken_body() {
    let node = TestNode::start().await;
    let (storage, peer) = edges(&node);
    let bodies: [&[u8]; 7] = [
        b"",
        b"\0\0\0",
        b"\0\0\0\0\x05\x0a\x01a",
        b"\x01\0\0\0\x02\x0a\0",
        b"\xff\0\0\0\0",
        b"\0\xff\xff\xff\xff",
        // A field that promises more than there is.
        b"\0\0\0\0\x02\x0a\x09",
    ];
    for (edge, routes) in [(&storage, &STORAGE[..]), (&peer, &PEER[..])] {
        for route in routes.iter().filter(|route| !reflects(route) && !links(route)) {
            for body in bodies {
                let status = refused(edge, route.path, &[], body).await;
                assert_eq!(status.code(), Code::InvalidArgument, "{} {body:?}", route.path);
                assert!(status.message().len() > 20, "{status}");
            }
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn reflection_refuses_a_broken_question_in_its_trailers() {
    let node = TestNode::start().await;
    let (storage, peer) = edges(&node);
    for edge in [&storage, &peer] {
        for route in PEER.iter().filter(|route| reflects(route)) {
            for body in [&b"\0\0\0"[..], b"\x01\0\0\0\0", b"\0\xff\0\0\0", b"\0\0\0\0\x02\x3a\x09"]
            {
                let status = refused(edge, route.path, &[], body).await;
                assert_eq!(status.code(), Code::InvalidArgument, "{body:?}");
            }
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_limit_that_the_body_breaks_keeps_its_code_and_its_text() {
    let node = TestNode::start().await;
    let (edge, _) = edges(&node);
    let limit = ApiError::new(ErrorCode::RequestTimeout, "the body took 7 s");
    for route in STORAGE.iter().filter(|route| !reflects(route)) {
        let frames = [Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x09ab"))), Err(limit.clone())];
        let body = StreamBody::new(futures::stream::iter(frames));
        let request = Request::post(route.path).header("content-type", "application/grpc");
        let response = edge.answer(request.body(body).unwrap()).await;
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!((status.code(), status.message()), (Code::Cancelled, &*limit.detail));
    }
    node.stop().await;
}

#[tokio::test]
async fn what_follows_the_message_of_a_unary_call_is_not_obeyed() {
    let node = TestNode::start().await;
    let (edge, _) = edges(&node);
    let put = |id: &str| {
        let object = GameObjectGrpc { id: id.into(), ..GameObjectGrpc::default() };
        framed(&PutObjectRequest { object: Some(object) })
    };
    let path = format!("{GROUP}/put");
    for (id, rest) in [("a", &b"\0\0"[..]), ("b", b"\x07\0\0\0\0"), ("c", b"\0\0\0\0\x02\x0a\x09")]
    {
        let status = refused(&edge, &path, &[], &[&put(id)[..], rest].concat()).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{id}");
    }
    let two = [put("d"), put("e")].concat();
    send(&edge, &path, &[], two.into()).await.1.unwrap();
    for (id, kept) in [("a", false), ("b", false), ("c", false), ("d", true), ("e", false)] {
        let get = GetObjectRequest { id: id.into() };
        let got: GetObjectResponse = call(&edge, &format!("{GROUP}/get"), &get).await.unwrap();
        assert_eq!(got.result, kept, "{id}");
    }
    node.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_message_at_all_looks_like_a_defect_of_the_node(
        message in proptest::collection::vec(any::<u8>(), 0..40),
        framed in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let node = TestNode::start().await;
            let (storage, peer) = edges(&node);
            let mut body = if framed { vec![0, 0, 0, 0, message.len() as u8] } else { vec![] };
            body.extend(&message);
            for (edge, routes) in [(&storage, &STORAGE[..]), (&peer, &PEER[..])] {
                let unary = |route: &&Route| !reflects(route) && !links(route) && !route.path.ends_with("Watch");
                for route in routes.iter().filter(unary) {
                    let answer = send(edge, route.path, &[], body.clone().into()).await.1;
                    let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
                    assert!(
                        !matches!(code, Code::Unknown | Code::Internal),
                        "{} {body:?}: {code:?}",
                        route.path
                    );
                }
            }
            node.stop().await;
        });
    }
}
