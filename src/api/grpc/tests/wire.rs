//! tonic's own client against the real listener: the one place here that opens sockets.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;

use super::edges;
use crate::{
    admission::{Admission, Permit},
    backend::NodePhase,
    listener::{Gate, Listener, ListenerArgs, ListenerMsg},
    test_backend::TestNode,
};
use nomad_actors::{Context, shell::worker, supervisor::Root};
use nomad_config::Config;
use nomad_proto::{
    groupstorage::{
        GetObjectRequest, PutObjectRequest,
        group_storage_service_client::GroupStorageServiceClient,
        health_check_response::ServingStatus,
    },
    models::GameObjectGrpc,
};

/// A node whose storage listener is open.
struct Open {
    node: TestNode,
    root: Root,
    listener: nomad_actors::Address<ListenerMsg>,
    channel: Channel,
}

impl Open {
    async fn start(config: Config) -> Self {
        let node = TestNode::start_with(config).await;
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let gate = Gate {
            admission: node.backend.admission.clone(),
            exempt: Arc::new(Admission::new(8, 1 << 20)),
            limits: node.backend.config.limits.clone(),
        };
        let kit = &node.backend.service.kit;
        let args = ListenerArgs::default().with(Arc::new(socket), gate, edges(&node).0);
        let (listener, spec) = worker::<Listener>(kit, "grpc", "edge", args);
        let root = Root::start(kit, "edge", vec![spec]).await.unwrap();
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = channel.connect().await.unwrap();
        Self { node, root, listener, channel }
    }

    fn permits(&self, count: usize) -> Vec<Permit> {
        (0..count).map(|_| self.node.backend.admission.admit().unwrap()).collect()
    }

    async fn stop(self) {
        self.node.phase.send_replace(NodePhase::Draining);
        let from: Arc<str> = "test".into();
        let drained =
            self.listener.ask(&from, Context::default(), |reply| ListenerMsg::Drain { reply });
        drained.await.unwrap();
        self.root.stop().await;
        self.node.stop().await;
    }
}

#[tokio::test]
async fn a_generated_client_puts_and_gets_small_and_large_objects() {
    let open = Open::start(Config::default()).await;
    let mut client =
        GroupStorageServiceClient::new(open.channel.clone()).max_decoding_message_size(usize::MAX);
    for (id, len) in [("empty", 0), ("small", 100), ("large", 4 << 20)] {
        let value = Bytes::from(vec![7; len]);
        let object =
            GameObjectGrpc { id: id.into(), value: value.clone(), ..GameObjectGrpc::default() };
        let put = PutObjectRequest { object: Some(object) };
        let answer = client.put(put).await.unwrap();
        assert_eq!(answer.metadata().get("nomad-durability").unwrap(), "local");
        assert!(answer.into_inner().result);
        let got = client.get(GetObjectRequest { id: id.into() }).await.unwrap().into_inner();
        assert_eq!(got.object.unwrap().value, value);
    }
    let absent = client.get(GetObjectRequest { id: "x".into() }).await.unwrap().into_inner();
    assert!(!absent.result && absent.object.is_none());
    let status = client.get(GetObjectRequest { id: String::new() }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.metadata().get("nomad-request-id").is_some());
    let huge = GameObjectGrpc {
        id: "huge".into(),
        value: vec![7; 9 << 20].into(),
        ..GameObjectGrpc::default()
    };
    let status = client.put(PutObjectRequest { object: Some(huge) }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    open.stop().await;
}

#[tokio::test]
async fn a_busy_node_refuses_with_a_pause_and_still_says_that_it_serves() {
    let mut config = Config::default();
    config.limits.requests = 2;
    let open = Open::start(config).await;
    let mut client = GroupStorageServiceClient::new(open.channel.clone());
    let busy = open.permits(2);
    let status = client.get(GetObjectRequest { id: "a".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    assert!(status.metadata().get("nomad-request-id").is_some());
    let health = client.health_check(()).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    drop(busy);
    assert!(client.get(GetObjectRequest { id: "a".into() }).await.is_ok());
    open.stop().await;
}

#[tokio::test]
async fn reflection_tells_the_services_and_open_streams_do_not_hold_up_the_end() {
    let open = Open::start(Config::default()).await;
    let mut client = ServerReflectionClient::new(open.channel.clone());
    let ask =
        |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("grpc.models.GameObjectGrpc".into())),
        ask(MessageRequest::FileContainingSymbol("nowhere.Nothing".into())),
    ];
    // The client never ends its side.
    let questions = futures::stream::iter(questions).chain(futures::stream::pending());
    let answer = client.server_reflection_info(questions).await.unwrap();
    assert!(answer.metadata().get("nomad-request-id").is_some());
    let mut answers = answer.into_inner();
    let first = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = first else { panic!("{first:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "grpc.groupstorage.GroupStorageService",
            "grpc.health.v1.Health",
            "grpc.peerstorage.PeerStorageService",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]
    );
    let second = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::FileDescriptorResponse(file) = second else { panic!("{second:?}") };
    assert_eq!(file.file_descriptor_proto.len(), 1);
    let third = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ErrorResponse(error) = third else { panic!("{third:?}") };
    assert_eq!(error.error_code, Code::NotFound as i32);

    let mut storage = GroupStorageServiceClient::new(open.channel.clone());
    let mut watch = storage.health_check_watch(()).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    open.stop().await;
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(watch.next().await.is_none());
    assert!(answers.next().await.is_none());
}
