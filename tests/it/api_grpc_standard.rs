//! What any generic gRPC client expects of both listeners: the standard health service, reflection, deadlines, error
//! details, and that each listener serves the services which belong to it and no others.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    grpc::{bad_field, channel, group, group_at, health, object, refused},
    node::{Node, Shared},
    raw::{RawGrpc, message},
    unique, within,
};
use nomad_proto::{
    groupstorage::{GetObjectRequest, PutObjectRequest},
    peerservice::{RemovePeerRequest, peer_service_client::PeerServiceClient},
    peerstorage,
    superpeerservice::{PingRequest, super_peer_service_client::SuperPeerServiceClient},
};
use prost::Message as _;
use prost_types::FileDescriptorProto;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::{
    v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
    v1alpha,
};

static NODE: Shared = Shared::new();

const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const ON_STORAGE: &[&str] =
    &["grpc.groupstorage.GroupStorageService", "grpc.peerstorage.PeerStorageService"];
const ON_PEER: &[&str] = &[
    "grpc.peerservice.PeerService",
    "grpc.superpeerservice.SuperPeerService",
    "nomad.link.v1.Link",
];

fn health_of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_is_serving_on_both_listeners() {
    let node = NODE.get();
    for (address, services) in [(&node.storage, ON_STORAGE), (&node.peer, ON_PEER)] {
        let mut client = health(address).await;
        for service in services.iter().copied().chain([""]) {
            let answer = client.check(health_of(service)).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
            let mut watch = client.watch(health_of(service)).await.unwrap().into_inner();
            let first =
                within("the status now", crate::support::ANSWER_LIMIT, watch.message()).await;
            assert_eq!(first.unwrap().unwrap().status(), ServingStatus::Serving, "{service:?}");
        }
        let unknown = client.check(health_of("no.such.Service")).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn health_watch_tells_the_change_when_the_node_drains() {
    let mut node = Node::start();
    let limit = Duration::from_secs(10);
    let mut watches = Vec::new();
    for address in [&node.storage, &node.peer] {
        let mut watch = health(address).await.watch(health_of("")).await.unwrap().into_inner();
        let first = within("the status now", limit, watch.message()).await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        watches.push(watch);
    }
    node.signal(rustix::process::Signal::TERM);
    for watch in &mut watches {
        let second = within("the change", limit, watch.message()).await.unwrap().unwrap();
        assert_eq!(second.status(), ServingStatus::NotServing);
    }
    assert_eq!(node.exited(limit).await.code(), Some(0));
}

/// One question to the reflection service at `address`.
async fn reflect(address: &str, question: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(channel(address).await);
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer =
        within("reflection", crate::support::ANSWER_LIMIT, answers.into_inner().message()).await;
    answer.unwrap().unwrap().message_response.unwrap()
}

#[tokio::test]
async fn reflection_lists_the_services_of_each_listener() {
    let node = NODE.get();
    for (address, mine, others) in
        [(&node.storage, ON_STORAGE, ON_PEER), (&node.peer, ON_PEER, ON_STORAGE)]
    {
        let answer = reflect(address, MessageRequest::ListServices(String::new())).await;
        let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
        let names: BTreeSet<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        for service in mine.iter().copied().chain([HEALTH, REFLECTION]) {
            assert!(names.contains(service), "{service} is not in {names:?}");
        }
        for &service in others {
            assert!(!names.contains(service), "{service} is listed but not served there");
        }
    }
}

/// Many generic clients (Python's among them) still speak the older version of reflection only.
#[tokio::test]
async fn the_older_version_of_reflection_answers_too() {
    let node = NODE.get();
    for (address, services) in [(&node.storage, ON_STORAGE), (&node.peer, ON_PEER)] {
        let mut client =
            v1alpha::server_reflection_client::ServerReflectionClient::new(channel(address).await);
        let question =
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
        let request = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(question),
        };
        let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
        let answer =
            within("reflection", crate::support::ANSWER_LIMIT, answers.into_inner().message())
                .await;
        let said = format!("{:?}", answer.unwrap().unwrap().message_response);
        assert!(services.iter().all(|service| said.contains(service)), "{said}");
    }
}

#[tokio::test]
async fn reflection_gives_the_descriptors() {
    let node = NODE.get();
    let cases = [
        (&node.storage, ON_STORAGE[0], 8),
        (&node.storage, ON_STORAGE[1], 4),
        (&node.peer, ON_PEER[0], 4),
        (&node.peer, ON_PEER[1], 9),
        (&node.peer, HEALTH, 2),
    ];
    for (address, name, methods) in cases {
        let question = MessageRequest::FileContainingSymbol(name.to_owned());
        let answer = reflect(address, question).await;
        let MessageResponse::FileDescriptorResponse(files) = answer else { panic!("{answer:?}") };
        let files = files.file_descriptor_proto.iter();
        let files: Vec<_> =
            files.map(|file| FileDescriptorProto::decode(&file[..]).unwrap()).collect();
        let (package, short) = name.rsplit_once('.').unwrap();
        let file = files.iter().find(|file| file.package() == package).unwrap();
        let service = file.service.iter().find(|service| service.name() == short).unwrap();
        assert!(service.method.len() >= methods, "{name} has {} methods", service.method.len());
        // A generic client goes on to fetch what the file imports.
        for import in &file.dependency {
            let answer = reflect(address, MessageRequest::FileByFilename(import.clone())).await;
            let found = matches!(answer, MessageResponse::FileDescriptorResponse(_));
            assert!(found, "{import}: {answer:?}");
        }
    }
    let question = MessageRequest::FileContainingSymbol("no.such.Symbol".to_owned());
    let answer = reflect(&node.storage, question).await;
    let MessageResponse::ErrorResponse(error) = answer else { panic!("{answer:?}") };
    assert_eq!(error.error_code, Code::NotFound as i32);
}

#[tokio::test]
async fn each_listener_serves_its_own_services_only() {
    let node = NODE.get();
    let ping = PingRequest { hostname: node.peer.clone() };
    let remove = RemovePeerRequest { host: "127.0.0.1:1".to_owned() };
    // Where they belong.
    let on_peer = channel(&node.peer).await;
    let mut super_peer = SuperPeerServiceClient::new(on_peer.clone());
    assert!(super_peer.ping_peer(ping.clone()).await.unwrap().into_inner().result);
    let mut peer = PeerServiceClient::new(on_peer.clone());
    assert!(!peer.remove_peer(remove.clone()).await.unwrap().into_inner().response);
    // Where they do not.
    let on_storage = channel(&node.storage).await;
    let mut super_peer = SuperPeerServiceClient::new(on_storage.clone());
    assert_eq!(super_peer.ping_peer(ping).await.unwrap_err().code(), Code::Unimplemented);
    let mut peer = PeerServiceClient::new(on_storage);
    assert_eq!(peer.remove_peer(remove).await.unwrap_err().code(), Code::Unimplemented);
    let mut group = group_at(&node.peer).await;
    let get = GetObjectRequest { id: unique("elsewhere") };
    assert_eq!(group.get(get).await.unwrap_err().code(), Code::Unimplemented);
    let mut overlay =
        peerstorage::peer_storage_service_client::PeerStorageServiceClient::new(on_peer);
    let get = peerstorage::GetObjectRequest { id: unique("elsewhere") };
    assert_eq!(overlay.get(get).await.unwrap_err().code(), Code::Unimplemented);
}

/// By hand, since a client of tonic ends such a call itself before the node could answer.
#[tokio::test]
async fn a_passed_deadline_is_deadline_exceeded() {
    let node = NODE.get();
    let mut storage = RawGrpc::open(&node.storage).await;
    let put = message(&PutObjectRequest { object: Some(object(&unique("late"), "x")) });
    let get = message(&GetObjectRequest { id: unique("late") });
    for (rpc, body) in [("put", put), ("get", get)] {
        let path = format!("/grpc.groupstorage.GroupStorageService/{rpc}");
        let end = storage.call(&path, &[("grpc-timeout", "1n")], body.clone()).await;
        assert_eq!(end.code, Code::DeadlineExceeded as i32, "{rpc}: {end:?}");
        let end = storage.call(&path, &[("grpc-timeout", "20S")], body).await;
        assert!(end.code == 0, "{rpc} with time enough: {end:?}");
    }
    let mut peer = RawGrpc::open(&node.peer).await;
    let path = "/grpc.superpeerservice.SuperPeerService/pingPeer";
    let body = message(&PingRequest { hostname: node.peer.clone() });
    let end = peer.call(path, &[("grpc-timeout", "1n")], body).await;
    assert_eq!(end.code, Code::DeadlineExceeded as i32, "{end:?}");
}

/// A stream that would go on for ever ends at its deadline.
#[tokio::test]
async fn a_watch_ends_at_its_deadline() {
    let node = NODE.get();
    let mut storage = RawGrpc::open(&node.storage).await;
    let start = crate::support::started();
    let path = "/grpc.groupstorage.GroupStorageService/healthCheckWatch";
    let end = storage.call(path, &[("grpc-timeout", "300m")], message(&())).await;
    assert_eq!(end.code, Code::DeadlineExceeded as i32, "{end:?}");
    assert!(start.elapsed() >= Duration::from_millis(250), "after {:?}", start.elapsed());
    let body = message(&HealthCheckRequest::default());
    let end = storage.call("/grpc.health.v1.Health/Watch", &[("grpc-timeout", "300m")], body).await;
    assert_eq!(end.code, Code::DeadlineExceeded as i32, "{end:?}");
}

#[tokio::test]
async fn refusals_carry_their_details() {
    let node = NODE.get();
    let mut client = group(&node).await;
    let status = bad_field(client.get(GetObjectRequest { id: String::new() }).await, "id", "id");
    assert!(!status.details().is_empty());
    let put = PutObjectRequest { object: Some(object(&"x".repeat(1_025), "x")) };
    bad_field(client.put(put).await, "id", "1025");
    bad_field(client.put(PutObjectRequest { object: None }).await, "object", "object");
    let mut request = tonic::Request::new(GetObjectRequest { id: unique("mode") });
    request.metadata_mut().insert("nomad-mode", "quick".parse().unwrap());
    refused(client.get(request).await, Code::InvalidArgument, "quick");
}
