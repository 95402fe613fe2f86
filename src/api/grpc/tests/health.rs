//! Whether the node says that it serves, and that no watch outlives it.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::{Code, body::Body};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};
use tonic_types::StatusExt as _;

use super::{GROUP, call, edges, framed};
use crate::{backend::NodePhase, grpc::GrpcEdge, test_backend::TestNode};
use nomad_config::Config;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

async fn open(edge: &GrpcEdge, path: &str, message: Bytes) -> (Option<tonic::Status>, Body) {
    let request = Request::post(path).header("content-type", "application/grpc");
    let response = edge.answer(request.body(Full::new(message)).unwrap()).await;
    (tonic::Status::from_header_map(response.headers()), response.into_body())
}

/// The next status of a watch, or `None` once it has ended well.
async fn next(watch: &mut Body) -> Option<ServingStatus> {
    let frame = watch.frame().await.unwrap().unwrap();
    match frame.into_data() {
        Ok(data) => Some(HealthCheckResponse::decode(data.slice(5..)).unwrap().status()),
        Err(trailers) => {
            assert_eq!(trailers.into_trailers().unwrap()["grpc-status"], "0");
            assert!(watch.frame().await.is_none());
            None
        }
    }
}

#[tokio::test]
async fn a_node_serves_from_when_it_is_ready_until_it_drains() {
    let node = TestNode::start().await;
    let (storage, peer) = edges(&node);
    let own = format!("{GROUP}/healthCheck");
    for (phase, expected) in [
        (NodePhase::Serving, ServingStatus::Serving),
        (NodePhase::Draining, ServingStatus::NotServing),
    ] {
        node.phase.send_replace(phase);
        let names = ["", "grpc.groupstorage.GroupStorageService"];
        for (edge, names) in
            [(&storage, names), (&peer, ["", "grpc.superpeerservice.SuperPeerService"])]
        {
            for name in names {
                let answer: HealthCheckResponse = call(edge, CHECK, &about(name)).await.unwrap();
                assert_eq!(answer.status(), expected, "{name} {phase:?}");
            }
        }
        let answer: HealthCheckResponse = call(&storage, &own, &()).await.unwrap();
        assert_eq!(answer.status(), expected);
    }
    let elsewhere = about("grpc.peerservice.PeerService");
    let status = call::<HealthCheckResponse>(&storage, CHECK, &elsewhere).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("grpc.peerservice.PeerService"), "{status}");
    node.stop().await;
}

#[tokio::test]
async fn a_watch_tells_each_change_once_and_ends_with_the_drain() {
    let node = TestNode::start().await;
    let table = node.backend.service.view.load().table.clone();
    node.change(|view| view.table = None);
    let (edge, _) = edges(&node);
    let own = format!("{GROUP}/healthCheckWatch");
    let (_, mut named) = open(&edge, WATCH, framed(&about(""))).await;
    let (_, mut unnamed) = open(&edge, &own, framed(&())).await;
    for watch in [&mut named, &mut unnamed] {
        assert_eq!(next(watch).await, Some(ServingStatus::NotServing));
    }
    node.change(|view| view.table = table);
    for watch in [&mut named, &mut unnamed] {
        assert_eq!(next(watch).await, Some(ServingStatus::Serving));
    }
    let (_, mut unknown) = open(&edge, WATCH, framed(&about("nope"))).await;
    assert_eq!(next(&mut unknown).await, Some(ServingStatus::ServiceUnknown));
    node.phase.send_replace(NodePhase::Draining);
    for watch in [&mut named, &mut unnamed] {
        assert_eq!(next(watch).await, Some(ServingStatus::NotServing));
        assert_eq!(next(watch).await, None);
    }
    assert_eq!(next(&mut unknown).await, None);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_at_its_own_deadline_and_says_so() {
    let node = TestNode::start().await;
    let (edge, _) = edges(&node);
    let request = Request::post(WATCH)
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "20M")
        .body(Full::new(framed(&about(""))))
        .unwrap();
    let response = edge.answer(request).await;
    let id = response.headers()["nomad-request-id"].clone();
    let mut watch = response.into_body();
    assert_eq!(next(&mut watch).await, Some(ServingStatus::Serving));
    let trailers = watch.frame().await.unwrap().unwrap().into_trailers().unwrap();
    let status = tonic::Status::from_header_map(&trailers).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let request = status.get_details_request_info().unwrap().request_id;
    assert_eq!(id, request.as_str());
    assert!(watch.frame().await.is_none());
    node.stop().await;
}

#[tokio::test]
async fn watches_are_limited_and_an_ended_one_makes_room() {
    let mut config = Config::default();
    config.limits.requests = 2;
    let node = TestNode::start_with(config).await;
    let (edge, _) = edges(&node);
    let message = framed(&about(""));
    let first = open(&edge, WATCH, message.clone()).await;
    let second = open(&edge, WATCH, message.clone()).await;
    let (refused, _) = open(&edge, WATCH, message.clone()).await;
    assert_eq!(refused.unwrap().code(), Code::ResourceExhausted);
    drop(first);
    assert!(open(&edge, WATCH, message).await.0.is_none());
    drop(second);
    node.stop().await;
}
