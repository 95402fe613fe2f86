//! Everything about groups and peers, answered truthfully by a node that is alone in its group.
//!
//! Arguments are checked first, so that a caller with a mistake in its request hears of that and not of the group.

use std::net::{Ipv6Addr, SocketAddr};

use super::object;
use crate::{
    api::{backend::Call, error::ApiError},
    core::{
        group::GroupOfOne,
        object::{ObjectId, Tier},
        world::Position,
    },
    proto::{
        peerservice::{AddPeerResponse, SuperPeerLeaveResponse},
        superpeerservice::{
            JoinRequest, JoinResponseWithLedger, LeaveRequest, MigrationRequest,
            PositionUpdateRequest, PositionUpdateResponse, VirtualPosition,
        },
    },
};

/// The most objects that one request may name.
const REPAIR_MAX: usize = 1_000;

/// `addToGroupLedger` and `addObjectReference`.
pub(super) async fn add_reference(
    call: &mut Call,
    object_id: &str,
    peer_id: &str,
    ttl: i64,
) -> Result<bool, ApiError> {
    let id = object::id("objectId", object_id)?;
    named("peerId", peer_id)?;
    object::seconds("ttl", ttl)?;
    let group = call.backend().view.load_full();
    group.member(peer_id)?;
    let is_held = is_held(call, &id).await?;
    Ok(group.add_reference(&id, is_held)?)
}

/// `removePeerGroupLedger` of either service.
pub(super) fn remove_references(call: &Call, peer_id: &str) -> Result<bool, ApiError> {
    named("peerId", peer_id)?;
    Ok(call.backend().view.load().remove_references(peer_id)?)
}

/// `PeerService/addPeer`.
pub(super) fn add_peer(peer: &str) -> Result<AddPeerResponse, ApiError> {
    host("host", peer)?;
    Err(ApiError::alone(&format!("the peer {peer} cannot be added")))
}

/// `PeerService/removePeer`.
pub(super) fn remove_peer(call: &Call, peer: &str) -> Result<bool, ApiError> {
    leave(&call.backend().view.load(), "host", peer)?;
    Ok(false)
}

/// `PeerService/handleSuperPeerLeave`.
pub(super) fn handle_super_peer_leave() -> Result<SuperPeerLeaveResponse, ApiError> {
    Err(ApiError::alone("no other super-peer can leave its group to this node"))
}

/// `SuperPeerService/handleLeave`.
pub(super) fn handle_leave(call: &Call, request: &LeaveRequest) -> Result<bool, ApiError> {
    let group = call.backend().view.load();
    leave(&group, "peerServerHostname", &request.peer_server_hostname)?;
    if !request.group_storage_server_hostname.is_empty() {
        leave(&group, "groupStorageServerHostname", &request.group_storage_server_hostname)?;
    }
    Ok(false)
}

/// A peer that is no member has left already; the only member cannot leave.
fn leave(group: &GroupOfOne, field: &'static str, peer: &str) -> Result<(), ApiError> {
    if group.names_this(peer) {
        return Err(ApiError::alone(&format!("{peer} cannot leave a group that is itself alone")));
    }
    host(field, peer)
}

/// `SuperPeerService/migrate`.
pub(super) fn migrate(call: &Call, request: &MigrationRequest) -> Result<bool, ApiError> {
    named("peerId", &request.peer_id)?;
    named("newSuperPeerId", &request.new_super_peer_id)?;
    if call.backend().view.load().names_this(&request.peer_id) {
        return Err(ApiError::alone(&format!(
            "{} cannot migrate to {}, no other group is known",
            request.peer_id, request.new_super_peer_id
        )));
    }
    Ok(false)
}

/// `SuperPeerService/handleJoin`.
pub(super) fn handle_join(
    call: &Call,
    request: &JoinRequest,
) -> Result<JoinResponseWithLedger, ApiError> {
    host("peerServerHost", &request.peer_server_host)?;
    host("groupStorageServerHost", &request.group_storage_server_host)?;
    position(&call.backend().view.load(), request.position)?;
    Err(ApiError::alone(&format!("the peer {} cannot join", request.peer_server_host)))
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
    for id in &ids {
        if !is_held(call, id).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `SuperPeerService/repair`.
pub(super) async fn repair(call: &mut Call, object_id: &str) -> Result<bool, ApiError> {
    let id = object::id("objectId", object_id)?;
    is_held(call, &id).await
}

async fn is_held(call: &mut Call, id: &ObjectId) -> Result<bool, ApiError> {
    Ok(call.get(Tier::Group, id, None).await?.is_some())
}

/// `SuperPeerService/notifyPeers`.
pub(super) fn notify_peers(peer: &str) -> Result<bool, ApiError> {
    host("host", peer)?;
    // All other members have been told: there are none.
    Ok(true)
}

/// `SuperPeerService/pingPeer`.
pub(super) async fn ping_peer(call: &Call, peer: &str) -> Result<bool, ApiError> {
    let address = peer.parse::<SocketAddr>().ok().filter(|at| at.port() != 0);
    let address = address.ok_or_else(|| {
        let detail =
            format!("the hostname {peer:?} is not ip:port, such as 127.0.0.1:6731 or [::1]:6731");
        ApiError::invalid("hostname", detail)
    })?;
    call.probe(address).await
}

/// `SuperPeerService/updatePositionReference`.
pub(super) async fn update_position(
    call: &mut Call,
    request: &PositionUpdateRequest,
) -> Result<PositionUpdateResponse, ApiError> {
    named("peerId", &request.peer_id)?;
    let group = call.backend().view.load_full();
    let Position { x, y } = position(&group, request.position)?;
    group.member(&request.peer_id)?;
    call.move_to(x, y).await?;
    Ok(PositionUpdateResponse {
        acknowledge: true,
        new_super_peer: group.this.node.to_string(),
        new_group_name: group.name.clone(),
    })
}

/// Reads a position. The world is flat: `z` only has to be a number.
fn position(group: &GroupOfOne, given: Option<VirtualPosition>) -> Result<Position, ApiError> {
    let VirtualPosition { x, y, z } = given.ok_or_else(|| {
        ApiError::invalid("position", "the request has no position; set its field `position`")
    })?;
    if !z.is_finite() {
        return Err(ApiError::invalid("position.z", format!("the z {z} is not a finite number")));
    }
    Ok(group.world.position(x, y)?)
}

fn named(field: &'static str, text: &str) -> Result<(), ApiError> {
    if text.is_empty() {
        return Err(ApiError::invalid(field, format!("the {field} is empty; name a peer")));
    }
    Ok(())
}

/// Checks that a text is `host:port`: a DNS name or an address, IPv6 in brackets, and a port above 0.
fn host(field: &'static str, text: &str) -> Result<(), ApiError> {
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p != 0)
    };
    let is_name = |name: &str| {
        (1..=253).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    let is_host = |host: &str| match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    if text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port)) {
        return Ok(());
    }
    let detail = format!("the {field} {text:?} is not host:port, such as 10.0.0.7:6731");
    Err(ApiError::invalid(field, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port() {
        for text in ["a:1", "peer-1.example.org:6731", "10.0.0.7:65535", "[::1]:6731"] {
            assert_eq!(host("host", text), Ok(()), "{text}");
        }
        for text in ["", "a", "a:", ":1", "a:0", "a:65536", "a:+1", "::1:6731", "[x]:1", "a b:1"] {
            let error = host("host", text).unwrap_err();
            assert_eq!(error.field, Some("host"));
            assert!(error.detail.contains(&format!("{text:?}")), "{error}");
        }
    }
}
