//! Which rpc a path names, and which of the two listeners serves it.

use crate::core::object::Tier;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rpc {
    /// `get` of a storage service.
    Get(Tier),
    /// `put` of a storage service.
    Put(Tier),
    /// `update` of a storage service.
    Update(Tier),
    /// `delete` of a storage service.
    Delete(Tier),
    /// `healthCheck` and `grpc.health.v1.Health/Check`: they differ in what they are asked about.
    Check {
        /// Whether the request names a service.
        named: bool,
    },
    /// `healthCheckWatch` and `grpc.health.v1.Health/Watch`.
    Watch {
        /// Whether the request names a service.
        named: bool,
    },
    /// Server reflection.
    Reflect,
    /// Everything about groups and peers.
    Control(Control),
}

/// What a request about groups and peers asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// `addToGroupLedger` and `addObjectReference`, which have the same messages.
    AddReference,
    /// `removePeerGroupLedger` of either service; both have the same messages.
    RemovePeerGroupLedger,
    /// `PeerService/addPeer`.
    AddPeer,
    /// `PeerService/removePeer`.
    RemovePeer,
    /// `PeerService/handleSuperPeerLeave`.
    HandleSuperPeerLeave,
    /// `PeerService/repairObjects`.
    RepairObjects,
    /// `SuperPeerService/handleJoin`.
    HandleJoin,
    /// `SuperPeerService/handleLeave`.
    HandleLeave,
    /// `SuperPeerService/repair`.
    Repair,
    /// `SuperPeerService/migrate`.
    Migrate,
    /// `SuperPeerService/notifyPeers`.
    NotifyPeers,
    /// `SuperPeerService/pingPeer`.
    PingPeer,
    /// `SuperPeerService/updatePositionReference`.
    UpdatePositionReference,
}

/// One path of a listener.
#[derive(Debug)]
pub struct Route {
    /// The path on the wire.
    pub path: &'static str,
    /// What it asks for.
    pub rpc: Rpc,
}

const fn route(path: &'static str, rpc: Rpc) -> Route {
    Route { path, rpc }
}

const fn control(path: &'static str, control: Control) -> Route {
    Route { path, rpc: Rpc::Control(control) }
}

impl Route {
    /// Returns the service without its package, and the method: what records and figures call the rpc.
    pub fn kind(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, kind)| kind)
    }

    /// Returns the full name of the service.
    pub fn service(&self) -> &'static str {
        let path = self.path.trim_start_matches('/');
        path.split_once('/').map_or(path, |(service, _)| service)
    }
}

/// Returns the route of a path.
pub fn find<'a>(routes: &'a [Route], path: &str) -> Option<&'a Route> {
    routes.iter().find(|route| route.path == path)
}

/// The paths of the storage listener, the busy ones first.
pub static STORAGE: [Route; 16] = [
    route("/grpc.groupstorage.GroupStorageService/get", Rpc::Get(Tier::Group)),
    route("/grpc.groupstorage.GroupStorageService/put", Rpc::Put(Tier::Group)),
    route("/grpc.groupstorage.GroupStorageService/update", Rpc::Update(Tier::Group)),
    route("/grpc.groupstorage.GroupStorageService/delete", Rpc::Delete(Tier::Group)),
    route("/grpc.peerstorage.PeerStorageService/get", Rpc::Get(Tier::Overlay)),
    route("/grpc.peerstorage.PeerStorageService/put", Rpc::Put(Tier::Overlay)),
    route("/grpc.peerstorage.PeerStorageService/update", Rpc::Update(Tier::Overlay)),
    route("/grpc.peerstorage.PeerStorageService/delete", Rpc::Delete(Tier::Overlay)),
    control("/grpc.groupstorage.GroupStorageService/addToGroupLedger", Control::AddReference),
    control(
        "/grpc.groupstorage.GroupStorageService/removePeerGroupLedger",
        Control::RemovePeerGroupLedger,
    ),
    route("/grpc.groupstorage.GroupStorageService/healthCheck", Rpc::Check { named: false }),
    route("/grpc.groupstorage.GroupStorageService/healthCheckWatch", Rpc::Watch { named: false }),
    route("/grpc.health.v1.Health/Check", Rpc::Check { named: true }),
    route("/grpc.health.v1.Health/Watch", Rpc::Watch { named: true }),
    route("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rpc::Reflect),
    route("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rpc::Reflect),
];

/// The paths of the peer listener.
pub static PEER: [Route; 17] = [
    control("/grpc.peerservice.PeerService/addPeer", Control::AddPeer),
    control("/grpc.peerservice.PeerService/removePeer", Control::RemovePeer),
    control("/grpc.peerservice.PeerService/handleSuperPeerLeave", Control::HandleSuperPeerLeave),
    control("/grpc.peerservice.PeerService/repairObjects", Control::RepairObjects),
    control("/grpc.superpeerservice.SuperPeerService/handleJoin", Control::HandleJoin),
    control("/grpc.superpeerservice.SuperPeerService/handleLeave", Control::HandleLeave),
    control("/grpc.superpeerservice.SuperPeerService/repair", Control::Repair),
    control("/grpc.superpeerservice.SuperPeerService/migrate", Control::Migrate),
    control("/grpc.superpeerservice.SuperPeerService/addObjectReference", Control::AddReference),
    control(
        "/grpc.superpeerservice.SuperPeerService/removePeerGroupLedger",
        Control::RemovePeerGroupLedger,
    ),
    control("/grpc.superpeerservice.SuperPeerService/notifyPeers", Control::NotifyPeers),
    control("/grpc.superpeerservice.SuperPeerService/pingPeer", Control::PingPeer),
    control(
        "/grpc.superpeerservice.SuperPeerService/updatePositionReference",
        Control::UpdatePositionReference,
    ),
    route("/grpc.health.v1.Health/Check", Rpc::Check { named: true }),
    route("/grpc.health.v1.Health/Watch", Rpc::Watch { named: true }),
    route("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rpc::Reflect),
    route("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rpc::Reflect),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message as _;
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::*;
    use crate::proto::FILE_DESCRIPTOR_SET;

    fn contract() -> FileDescriptorSet {
        FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap()
    }

    #[test]
    fn every_method_of_the_contract_is_served_by_exactly_one_listener_and_nothing_else_is() {
        let mut declared = BTreeSet::new();
        for file in contract().file {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    declared.insert(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
        let mut served = BTreeSet::new();
        let shared = |path: &str| path.contains(".health.v1.") || path.contains(".reflection.");
        for route in STORAGE.iter().chain(&PEER).filter(|route| !shared(route.path)) {
            assert!(served.insert(route.path.to_owned()), "{} is served twice", route.path);
        }
        assert_eq!(served, declared);
    }

    /// The fields of each message, by message.
    fn shapes(package: &str) -> BTreeMap<String, Vec<(i32, i32)>> {
        let fields = |message: &DescriptorProto| {
            message.field.iter().map(|field| (field.number(), field.r#type() as i32)).collect()
        };
        let file = contract().file.into_iter().find(|file| file.package() == package).unwrap();
        file.message_type.iter().map(|m| (m.name().to_owned(), fields(m))).collect()
    }

    #[test]
    fn services_that_share_a_handler_have_messages_of_the_same_form() {
        let (group, peer, super_peer) = (
            shapes("grpc.groupstorage"),
            shapes("grpc.peerstorage"),
            shapes("grpc.superpeerservice"),
        );
        for (name, fields) in &peer {
            assert_eq!(Some(fields), group.get(name), "{name}");
        }
        for (ours, theirs) in [
            ("AddToGroupLedgerRequest", "AddObjectRequest"),
            ("AddToGroupLedgerResponse", "AddObjectResponse"),
            ("RemovePeerGroupLedgerRequest", "RemovePeerGroupLedgerRequest"),
            ("RemovePeerGroupLedgerResponse", "RemovePeerGroupLedgerResponse"),
        ] {
            assert_eq!(group[ours], super_peer[theirs], "{ours}");
        }
    }

    #[test]
    fn a_route_knows_its_kind_and_its_service() {
        let route = find(&STORAGE, "/grpc.groupstorage.GroupStorageService/get").unwrap();
        assert_eq!(route.kind(), "GroupStorageService/get");
        assert_eq!(route.service(), "grpc.groupstorage.GroupStorageService");
        assert!(find(&PEER, route.path).is_none());
    }
}
