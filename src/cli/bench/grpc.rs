//! The gRPC side: `GroupStorageService` over a few tonic channels that all workers share.

use std::time::Duration;

use heck::ToShoutySnakeCase as _;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use super::{
    BenchError,
    client::{BAD_RESPONSE, Client, OpFailure, OpReply, causes},
    mix::OpKind,
    plan::{BenchPlan, Mode},
    target::StorageAddress,
    workload::BenchOperation,
};
use nomad_proto::{
    groupstorage::{
        DeleteObjectRequest, GetObjectRequest, PutObjectRequest, UpdateObjectRequest,
        group_storage_service_client::GroupStorageServiceClient,
    },
    models::GameObjectGrpc,
};

/// Room in a message for everything but the value.
const MESSAGE_EXTRA_BYTES: usize = 1024 * 1024;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Opens the plan's connections and gives each worker a client on one of them.
pub(super) async fn connect_all(
    plan: &BenchPlan,
    storage: &StorageAddress,
) -> Result<Vec<GrpcClient>, BenchError> {
    let refuse = |reason: String| BenchError::Connect { address: storage.to_string(), reason };
    let endpoint = Endpoint::from_shared(format!("http://{storage}"))
        .map_err(|error| refuse(error.to_string()))?
        .connect_timeout(plan.timeout)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(plan.timeout)
        .tcp_nodelay(true);
    let mut clients: Vec<GroupStorageServiceClient<Channel>> = Vec::new();
    for _ in 0..plan.connection_count() {
        let channel = endpoint.connect().await.map_err(|error| refuse(causes(&error)))?;
        let limit_bytes = plan.value_size_bytes + MESSAGE_EXTRA_BYTES;
        clients.push(
            GroupStorageServiceClient::new(channel)
                .max_decoding_message_size(limit_bytes)
                .max_encoding_message_size(limit_bytes),
        );
    }
    let workers = clients.iter().cycle().take(plan.concurrency);
    Ok(workers.map(|client| GrpcClient { client: client.clone(), mode: plan.mode }).collect())
}

/// One worker's client.
pub(super) struct GrpcClient {
    client: GroupStorageServiceClient<Channel>,
    mode: Option<Mode>,
}

impl GrpcClient {
    fn request<T>(&self, kind: OpKind, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(mode) = self.mode {
            let mode = MetadataValue::from_static(mode.for_operation(kind));
            request.metadata_mut().insert("nomad-mode", mode);
        }
        request
    }
}

impl Client for GrpcClient {
    async fn call(&mut self, op: &BenchOperation) -> Result<OpReply, OpFailure> {
        let id = || op.key.clone();
        let object = || {
            Some(GameObjectGrpc { id: id(), value: op.value.clone(), ..GameObjectGrpc::default() })
        };
        let (is_done, value_bytes) = match op.kind {
            OpKind::Get => {
                let request = self.request(op.kind, GetObjectRequest { id: id() });
                let answer = self.client.get(request).await.map_err(failure)?.into_inner();
                (answer.result, read_bytes(op, answer.result, answer.object)?)
            }
            OpKind::Put => {
                let request = self.request(op.kind, PutObjectRequest { object: object() });
                let answer = self.client.put(request).await.map_err(failure)?;
                (answer.into_inner().result, 0)
            }
            OpKind::Update => {
                let request = self.request(op.kind, UpdateObjectRequest { object: object() });
                let answer = self.client.update(request).await.map_err(failure)?;
                (answer.into_inner().result, 0)
            }
            OpKind::Delete => {
                let message = DeleteObjectRequest { id: id(), ..DeleteObjectRequest::default() };
                let request = self.request(op.kind, message);
                let answer = self.client.delete(request).await.map_err(failure)?;
                (answer.into_inner().result, 0)
            }
        };
        if is_done { Ok(OpReply { value_bytes }) } else { Err(OpFailure::refused(op)) }
    }
}

fn read_bytes(
    op: &BenchOperation,
    is_found: bool,
    object: Option<GameObjectGrpc>,
) -> Result<u64, OpFailure> {
    match object {
        Some(object) if is_found => Ok(object.value.len() as u64),
        None if is_found => {
            let detail = format!("get {:?} answered result=true without an object", op.key);
            Err(OpFailure::answered(BAD_RESPONSE, detail))
        }
        _ => Ok(0),
    }
}

/// A status that tonic made itself has a cause; one that the node sent has none.
fn failure(status: Status) -> OpFailure {
    let Some(cause) = std::error::Error::source(&status) else {
        return OpFailure::answered(name(status.code()), status.message());
    };
    let detail = format!("{}: {}", status.message(), causes(cause));
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => {
            OpFailure::connection(detail)
        }
        code => OpFailure::answered(name(code), detail),
    }
}

/// A code as the contract writes it, such as `NOT_FOUND`.
fn name(code: Code) -> String {
    format!("{code:?}").to_shouty_snake_case()
}

#[cfg(test)]
pub(super) mod tests;
