//! Everything about groups and peers: decoded, asked of whoever decides about members, encoded.
//!
//! Arguments are checked first, so that a caller with a mistake in its request hears of that and not of the group. Any
//! client that reaches the peer listener may ask, and may ask any member; what is granted is decided in `core`.

use std::{collections::HashMap, net::SocketAddr};

use super::object;
use crate::{backend::Call, error::ApiError};
use nomad_core::{
    group::{
        control::{ControlError, ControlRequest},
        membership::MembershipRequest,
        view::{self, View},
    },
    ledger::{Holder, ObjectHolders},
    model::{address, node_id::NodeId, text::shorten},
    world::Position,
};
use nomad_proto::superpeerservice::{
    JoinRequest, JoinResponseWithLedger, LeaveRequest, MetaData, MetaDataCollection,
    MigrationRequest, MultiMapPair, PositionUpdateRequest, PositionUpdateResponse, VirtualPosition,
};

/// How much of a name that is none an error shows.
const NAME_CHARS_SHOWN: usize = 100;

/// The most objects that one request may name.
const REPAIR_MAX: usize = 1_000;

/// The most entries of each ledger in the answer to a join: with the longest ids, half of what clients take by default.
const LEDGER_MAX: usize = 1_000;

/// `addToGroupLedger` and `addObjectReference`.
pub(super) async fn add_reference(
    call: &mut Call,
    object_id: &str,
    peer_id: &str,
    ttl: i64,
) -> Result<bool, ApiError> {
    let id = object::id("objectId", object_id)?;
    node_or_host("peerId", peer_id)?;
    object::seconds("ttl", ttl)?;
    Ok(call.refer(&id, peer_id).await?)
}

/// `removePeerGroupLedger` of either service.
pub(super) async fn remove_references(call: &mut Call, peer_id: &str) -> Result<bool, ApiError> {
    node_or_host("peerId", peer_id)?;
    Ok(call.forget(peer_id).await?)
}

/// `PeerService/addPeer`.
pub(super) async fn add_peer(call: &mut Call, peer: &str) -> Result<bool, ApiError> {
    host("host", peer)?;
    ask(call, ControlRequest::AddPeer { address: peer.to_owned() }).await
}

/// `PeerService/removePeer`.
pub(super) async fn remove_peer(call: &mut Call, peer: &str) -> Result<bool, ApiError> {
    node_or_host("host", peer)?;
    ask(call, ControlRequest::RemovePeer { name: peer.to_owned() }).await
}

/// `PeerService/handleSuperPeerLeave`.
pub(super) async fn handle_super_peer_leave(call: &mut Call) -> Result<bool, ApiError> {
    ask(call, ControlRequest::SuperPeerLeaves).await
}

/// `SuperPeerService/handleLeave`. The peer address names who leaves; the storage address only has to be one.
pub(super) async fn handle_leave(
    call: &mut Call,
    request: &LeaveRequest,
) -> Result<bool, ApiError> {
    node_or_host("peerServerHostname", &request.peer_server_hostname)?;
    if !request.group_storage_server_hostname.is_empty() {
        node_or_host("groupStorageServerHostname", &request.group_storage_server_hostname)?;
    }
    ask(call, ControlRequest::PeerLeaves { name: request.peer_server_hostname.clone() }).await
}

/// `SuperPeerService/migrate`.
pub(super) async fn migrate(call: &mut Call, request: &MigrationRequest) -> Result<bool, ApiError> {
    node_or_host("peerId", &request.peer_id)?;
    node_or_host("newSuperPeerId", &request.new_super_peer_id)?;
    let (peer, new_super_peer) = (request.peer_id.clone(), request.new_super_peer_id.clone());
    ask(call, ControlRequest::Migrate { peer, new_super_peer }).await
}

/// `SuperPeerService/handleJoin`. Who is to ask elsewhere is told so in the answer; everything else is an error.
pub(super) async fn handle_join(
    call: &mut Call,
    request: &JoinRequest,
) -> Result<JoinResponseWithLedger, ApiError> {
    host("peerServerHost", &request.peer_server_host)?;
    host("groupStorageServerHost", &request.group_storage_server_host)?;
    let position = position(&call.backend().service.view.load(), request.position)?;
    let join = ControlRequest::Join {
        peer: request.peer_server_host.clone(),
        storage: request.group_storage_server_host.clone(),
        position,
    };
    let joined = call.control(join).await?;
    let replication_factor =
        call.backend().service.view.load().settings().replication_factor as i32;
    let refused = |error: &ControlError, super_peer: &str| JoinResponseWithLedger {
        replication_factor,
        reason: error.to_string(),
        super_peer: super_peer.to_owned(),
        ..JoinResponseWithLedger::default()
    };
    let accepted = match joined {
        Ok(accepted) => accepted,
        Err(error) => {
            return match &error {
                ControlError::NotSuperPeer { super_peer, .. } => Ok(refused(&error, super_peer)),
                ControlError::Full { next, .. } => {
                    Ok(refused(&error, next.as_deref().unwrap_or_default()))
                }
                _ => Err(error.into()),
            };
        }
    };
    let (object_ledger, peer_ledger) = ledgers(call).await;
    Ok(JoinResponseWithLedger {
        accepted,
        object_ledger: Some(object_ledger),
        peer_ledger: Some(peer_ledger),
        replication_factor,
        ..JoinResponseWithLedger::default()
    })
}

/// The first entries of the group's ledger. A joiner that gets none asks for it later: it has joined all the same.
async fn ledgers(call: &mut Call) -> (MultiMapPair, MultiMapPair) {
    let page = call.ledger(None, LEDGER_MAX).await.unwrap_or_default();
    let mut by_object = HashMap::<String, MetaDataCollection>::new();
    let mut by_peer = HashMap::<String, MetaDataCollection>::new();
    for ObjectHolders { id, holders } in page.items {
        for Holder { node, expires_at, .. } in holders {
            let ttl = expires_at.map_or(0, |at| i64::try_from(at.0).unwrap_or(i64::MAX));
            let (object, peer) = (id.to_string(), node.to_string());
            let held = MetaData { id: object.clone(), ttl };
            by_peer.entry(peer.clone()).or_default().values.push(held);
            by_object.entry(object).or_default().values.push(MetaData { id: peer, ttl });
        }
    }
    (MultiMapPair { key_pair: by_object }, MultiMapPair { key_pair: by_peer })
}

async fn ask(call: &mut Call, request: ControlRequest) -> Result<bool, ApiError> {
    Ok(call.control(request).await??)
}

/// `PeerService/repairObjects`.
pub(super) async fn repair_objects(
    call: &mut Call,
    object_ids: &[String],
) -> Result<bool, ApiError> {
    let count = object_ids.len();
    if count > REPAIR_MAX {
        let detail = format!("the request names {count} objects; at most {REPAIR_MAX} are allowed");
        return Err(ApiError::invalid("objectIds", detail));
    }
    let ids = object_ids.iter().map(|text| object::id("objectIds", text));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    Ok(call.repair(ids).await?)
}

/// `SuperPeerService/repair`.
pub(super) async fn repair(call: &mut Call, object_id: &str) -> Result<bool, ApiError> {
    let id = object::id("objectId", object_id)?;
    Ok(call.repair(vec![id]).await?)
}

/// `SuperPeerService/notifyPeers`.
pub(super) async fn notify_peers(call: &mut Call, peer: &str) -> Result<bool, ApiError> {
    host("host", peer)?;
    ask(call, ControlRequest::Notify { host: peer.to_owned() }).await
}

/// `SuperPeerService/pingPeer`.
pub(super) async fn ping_peer(call: &Call, peer: &str) -> Result<bool, ApiError> {
    let address = peer.parse::<SocketAddr>().ok().filter(|at| at.port() != 0);
    let address = address.ok_or_else(|| {
        let detail = format!(
            "the hostname {:?} is not ip:port, such as 127.0.0.1:6731 or [::1]:6731",
            shorten(peer, NAME_CHARS_SHOWN)
        );
        ApiError::invalid("hostname", detail)
    })?;
    Ok(call.probe(address).await?)
}

/// `SuperPeerService/updatePositionReference`. The answer names the group of the nearest site that this node knows.
pub(super) async fn update_position(
    call: &mut Call,
    request: &PositionUpdateRequest,
) -> Result<PositionUpdateResponse, ApiError> {
    node_or_host("peerId", &request.peer_id)?;
    let position = position(&call.backend().service.view.load(), request.position)?;
    let peer = request.peer_id.clone();
    let acknowledge = ask(call, ControlRequest::PositionOf { peer, position }).await?;
    let backend = call.backend();
    let known = (backend.network.known)(position);
    let nearest = view::nearest(&backend.service.view.load(), &known, position);
    let (new_super_peer, new_group_name) =
        nearest.map(|nearest| (nearest.super_peer.to_string(), nearest.group)).unwrap_or_default();
    Ok(PositionUpdateResponse { acknowledge, new_super_peer, new_group_name })
}

/// Reads a position. The world is flat: `z` only has to be a number.
fn position(view: &View, given: Option<VirtualPosition>) -> Result<Position, ApiError> {
    let VirtualPosition { x, y, z } = given.ok_or_else(|| {
        ApiError::invalid("position", "the request has no position; set its field `position`")
    })?;
    if !z.is_finite() {
        return Err(ApiError::invalid("position.z", format!("the z {z} is not a finite number")));
    }
    Ok(view.world.position(x, y)?)
}

/// Checks that a text names a node: by its id, or by an address of it.
fn node_or_host(field: &'static str, text: &str) -> Result<(), ApiError> {
    if text.parse::<NodeId>().is_ok() || is_address(text) {
        return Ok(());
    }
    let text = shorten(text, NAME_CHARS_SHOWN);
    let detail = format!(
        "the {field} {text:?} is neither a node id, such as 12D3KooW..., nor host:port, such as 10.0.0.7:6731"
    );
    Err(ApiError::invalid(field, detail))
}

/// Checks that a text is `host:port`.
fn host(field: &'static str, text: &str) -> Result<(), ApiError> {
    if is_address(text) {
        return Ok(());
    }
    let text = shorten(text, NAME_CHARS_SHOWN);
    let detail = format!("the {field} {text:?} is not host:port, such as 10.0.0.7:6731");
    Err(ApiError::invalid(field, detail))
}

fn is_address(text: &str) -> bool {
    text.len() <= MembershipRequest::TEXT_BYTES_MAX && address::is_host_and_port(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port() {
        assert_eq!(host("host", "[::1]:6731"), Ok(()));
        for text in ["", "a", "::1:6731", "a b:1"] {
            let error = host("host", text).unwrap_err();
            assert_eq!(error.field, Some("host"));
            assert!(error.detail.contains(&format!("{text:?}")), "{error}");
        }
    }
}
