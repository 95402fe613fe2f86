//! gRPC clients of a node, and what every refusal of the contract must look like.

use bytes::Bytes;
use nomad_proto::{
    groupstorage::group_storage_service_client::GroupStorageServiceClient, models::GameObjectGrpc,
    peerservice::peer_service_client::PeerServiceClient,
    peerstorage::peer_storage_service_client::PeerStorageServiceClient,
    superpeerservice::super_peer_service_client::SuperPeerServiceClient,
};
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::{
    ANSWER_LIMIT, assert_says,
    node::Node,
    place::{Connector, Place},
};

/// Messages may be larger than tonic's default, so that the node's limit is the one that is met.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A connection to `address` (host:port).
pub async fn channel(address: &str) -> Channel {
    channel_from(&Place::default(), address).await
}

/// A connection from a place to `address` (host:port).
pub async fn channel_from(place: &Place, address: &str) -> Channel {
    let endpoint: Endpoint = format!("http://{address}").parse().unwrap();
    let endpoint = endpoint.connect_timeout(ANSWER_LIMIT).timeout(ANSWER_LIMIT);
    endpoint.connect_with_connector(Connector(place.clone())).await.unwrap()
}

/// A client of GroupStorageService.
pub async fn group(node: &Node) -> GroupStorageServiceClient<Channel> {
    group_at(&node.storage).await
}

/// A client of GroupStorageService at `address`.
pub async fn group_at(address: &str) -> GroupStorageServiceClient<Channel> {
    GroupStorageServiceClient::new(channel(address).await)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A client of PeerStorageService, the overlay tier.
pub async fn overlay(node: &Node) -> PeerStorageServiceClient<Channel> {
    PeerStorageServiceClient::new(channel(&node.storage).await)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A client of PeerService.
pub async fn peer(node: &Node) -> PeerServiceClient<Channel> {
    PeerServiceClient::new(channel_from(&node.place, &node.peer).await)
}

/// A client of SuperPeerService.
pub async fn super_peer(node: &Node) -> SuperPeerServiceClient<Channel> {
    SuperPeerServiceClient::new(channel_from(&node.place, &node.peer).await)
}

/// A client of the standard health service at `address`.
pub async fn health(address: &str) -> HealthClient<Channel> {
    HealthClient::new(channel(address).await)
}

/// An object with this id and value, and nothing else set.
pub fn object(id: &str, value: impl Into<Bytes>) -> GameObjectGrpc {
    GameObjectGrpc { id: id.to_owned(), value: value.into(), ..Default::default() }
}

/// A request with a mode of its own.
pub fn in_mode<T>(mode: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("nomad-mode", mode.parse().unwrap());
    request
}

/// Asserts the metadata that every answer has, and gives the request id.
#[track_caller]
pub fn assert_metadata<T>(response: &Response<T>, durability: &str) -> String {
    let text = |name: &str| text_of(response.metadata(), name);
    assert_eq!(text("nomad-durability"), durability);
    assert_request_id(&text("nomad-request-id"))
}

#[track_caller]
fn text_of(metadata: &MetadataMap, name: &str) -> String {
    let value = metadata.get(name).unwrap_or_else(|| panic!("no {name} in {metadata:?}"));
    value.to_str().unwrap().to_owned()
}

#[track_caller]
fn assert_request_id(id: &str) -> String {
    let hex = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(hex, "nomad-request-id: {id}");
    id.to_owned()
}

/// Asserts that a call was refused with this code, in words that name `needle`, and gives the status.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(
    result: Result<Response<T>, Status>,
    code: Code,
    needle: &str,
) -> Status {
    let status = result.expect_err("the call was to be refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert_says(status.message(), needle);
    assert!(!status.message().contains(".rs:"), "a trace: {status:?}");
    assert_request_id(&text_of(status.metadata(), "nomad-request-id"));
    status
}

/// Asserts INVALID_ARGUMENT with a field violation for a field whose name contains `field`.
#[track_caller]
pub fn bad_field<T: std::fmt::Debug>(
    result: Result<Response<T>, Status>,
    field: &str,
    needle: &str,
) -> Status {
    let status = refused(result, Code::InvalidArgument, needle);
    let details =
        status.get_details_bad_request().unwrap_or_else(|| panic!("no BadRequest: {status:?}"));
    let found = details
        .field_violations
        .iter()
        .find(|violation| violation.field.to_lowercase().contains(&field.to_lowercase()));
    let found = found.unwrap_or_else(|| panic!("no violation of {field}: {details:?}"));
    assert!(!found.description.is_empty(), "{found:?}");
    status
}
