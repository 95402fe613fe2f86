//! The gRPC client against a service in the same process, over loopback.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Response, transport::Server};

use super::*;
use crate::bench::{
    client::CONNECTION,
    target::BenchTarget,
    workload::{ValuePool, Workload},
};
use nomad_proto::groupstorage::{
    AddToGroupLedgerRequest, AddToGroupLedgerResponse, DeleteObjectResponse, GetObjectResponse,
    HealthCheckResponse, PutObjectResponse, RemovePeerGroupLedgerRequest,
    RemovePeerGroupLedgerResponse, UpdateObjectResponse,
    group_storage_service_server::{GroupStorageService, GroupStorageServiceServer},
};

/// Objects in a map, and the modes that were asked for.
#[derive(Default, Clone)]
struct MapService {
    objects: Arc<Mutex<BTreeMap<String, GameObjectGrpc>>>,
    modes: Arc<Mutex<Vec<Option<String>>>>,
}

impl MapService {
    fn note<T>(&self, request: Request<T>) -> T {
        let mode = request.metadata().get("nomad-mode").map(|it| it.to_str().unwrap().to_owned());
        self.modes.lock().unwrap().push(mode);
        request.into_inner()
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl GroupStorageService for MapService {
    async fn get(&self, request: Request<GetObjectRequest>) -> Answer<GetObjectResponse> {
        let id = self.note(request).id;
        let object = self.objects.lock().unwrap().get(&id).cloned();
        Ok(Response::new(GetObjectResponse { result: object.is_some(), object }))
    }

    async fn put(&self, request: Request<PutObjectRequest>) -> Answer<PutObjectResponse> {
        let object = self.note(request).object.unwrap();
        if object.value.is_empty() {
            return Err(Status::resource_exhausted("full"));
        }
        let mut objects = self.objects.lock().unwrap();
        let result = !objects.contains_key(&object.id);
        objects.entry(object.id.clone()).or_insert(object);
        Ok(Response::new(PutObjectResponse { result }))
    }

    async fn update(&self, request: Request<UpdateObjectRequest>) -> Answer<UpdateObjectResponse> {
        let object = self.note(request).object.unwrap();
        let mut objects = self.objects.lock().unwrap();
        let known = objects.get_mut(&object.id);
        let result = known.map(|known| *known = object).is_some();
        Ok(Response::new(UpdateObjectResponse { result }))
    }

    async fn delete(&self, request: Request<DeleteObjectRequest>) -> Answer<DeleteObjectResponse> {
        let id = self.note(request).id;
        let result = self.objects.lock().unwrap().remove(&id).is_some();
        Ok(Response::new(DeleteObjectResponse { result }))
    }

    async fn add_to_group_ledger(
        &self,
        _: Request<AddToGroupLedgerRequest>,
    ) -> Answer<AddToGroupLedgerResponse> {
        Err(Status::unimplemented("not under test"))
    }

    async fn remove_peer_group_ledger(
        &self,
        _: Request<RemovePeerGroupLedgerRequest>,
    ) -> Answer<RemovePeerGroupLedgerResponse> {
        Err(Status::unimplemented("not under test"))
    }

    async fn health_check(&self, _: Request<()>) -> Answer<HealthCheckResponse> {
        Err(Status::unimplemented("not under test"))
    }

    type healthCheckWatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn health_check_watch(&self, _: Request<()>) -> Answer<Self::healthCheckWatchStream> {
        Err(Status::unimplemented("not under test"))
    }
}

/// A service that serves.
pub(in crate::bench) struct Serving {
    service: MapService,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Serving {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap();
    }
}

async fn serve_at(address: &str) -> (StorageAddress, Serving) {
    let listener = TcpListener::bind(address).await.unwrap();
    let storage = listener.local_addr().unwrap().to_string().parse().unwrap();
    let service = MapService::default();
    let (stop, stopped) = oneshot::channel();
    let server = Server::builder()
        .add_service(GroupStorageServiceServer::new(service.clone()))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
            let _ = stopped.await;
        });
    let served = tokio::spawn(async move { server.await.unwrap() });
    (storage, Serving { service, stop, served })
}

/// Serves an empty map, and gives the plan of one worker for it.
pub(in crate::bench) async fn serve() -> (BenchPlan, Serving) {
    let (storage, serving) = serve_at("127.0.0.1:0").await;
    (BenchPlan { concurrency: 1, ..BenchPlan::new(BenchTarget::Grpc { storage }) }, serving)
}

async fn client(plan: &BenchPlan) -> (GrpcClient, Workload) {
    let BenchTarget::Grpc { storage } = &plan.target else { panic!("a gRPC plan") };
    let client = connect_all(plan, storage).await.unwrap().pop().unwrap();
    (client, Workload::new(plan, ValuePool::new(plan), "run", 0))
}

#[tokio::test]
async fn every_operation_reaches_its_object_with_its_mode() {
    let (plan, serving) = serve().await;
    let plan = BenchPlan { mode: Some(Mode::Parallel), ..plan };
    let (mut client, mut workload) = client(&plan).await;
    let written = Ok(OpReply { value_bytes: 0 });
    let code = |result: Result<OpReply, OpFailure>| result.unwrap_err().code.into_owned();

    assert_eq!(code(client.call(&workload.fill(OpKind::Get, 1)).await), "NOT_FOUND");
    assert_eq!(code(client.call(&workload.fill(OpKind::Update, 1)).await), "NOT_FOUND");
    assert_eq!(client.call(&workload.fill(OpKind::Put, 1)).await, written);
    assert_eq!(code(client.call(&workload.fill(OpKind::Put, 1)).await), "ALREADY_EXISTS");
    assert_eq!(client.call(&workload.fill(OpKind::Update, 1)).await, written);
    assert_eq!(client.call(&workload.fill(OpKind::Get, 1)).await, Ok(OpReply { value_bytes: 100 }));
    assert_eq!(client.call(&workload.fill(OpKind::Delete, 1)).await, written);
    assert_eq!(code(client.call(&workload.fill(OpKind::Delete, 1)).await), "NOT_FOUND");

    let modes = serving.service.modes.lock().unwrap().clone();
    let named: Vec<_> = modes.iter().map(|mode| mode.as_deref().unwrap_or("none")).collect();
    assert_eq!(named.join(" "), "parallel safe safe safe safe parallel safe safe");
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_text_and_the_connection() {
    let (plan, _serving) = serve().await;
    let (mut client, mut workload) = client(&BenchPlan { value_size_bytes: 0, ..plan }).await;
    let failure = client.call(&workload.fill(OpKind::Put, 1)).await.unwrap_err();
    assert_eq!(failure, OpFailure::answered("RESOURCE_EXHAUSTED", "full"));
}

#[tokio::test]
async fn a_server_that_is_gone_is_a_lost_connection_until_it_is_back() {
    let (plan, serving) = serve().await;
    let (mut client, mut workload) = client(&plan).await;
    assert!(client.call(&workload.fill(OpKind::Put, 1)).await.is_ok());
    serving.stop().await;
    for _ in 0..3 {
        let failure = client.call(&workload.fill(OpKind::Get, 1)).await.unwrap_err();
        assert_eq!((failure.code.as_ref(), failure.is_connection_lost), (CONNECTION, true));
    }
    let BenchTarget::Grpc { storage } = &plan.target else { panic!("a gRPC plan") };
    let (_, _serving) = serve_at(&storage.to_string()).await;
    assert_eq!(client.call(&workload.fill(OpKind::Put, 1)).await, Ok(OpReply { value_bytes: 0 }));
}

#[tokio::test]
async fn connecting_to_nobody_names_the_address() {
    let (plan, serving) = serve().await;
    serving.stop().await;
    let BenchTarget::Grpc { storage } = &plan.target else { panic!("a gRPC plan") };
    let error = connect_all(&plan, storage).await.err().unwrap().to_string();
    assert!(error.contains(&storage.to_string()) && error.contains("refused"), "{error}");
}
