//! Which paths each of the two listeners serves, and which generated server answers them.

/// The generated server that a path belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// `GroupStorageService`.
    GroupStorage,
    /// `PeerStorageService`.
    PeerStorage,
    /// `PeerService`.
    Peer,
    /// `SuperPeerService`.
    SuperPeer,
    /// `grpc.health.v1.Health`.
    Health,
    /// `nomad.link.v1.Link`.
    Link,
    /// Server reflection.
    Reflection,
    /// Server reflection as older clients ask for it.
    ReflectionAlpha,
}

/// One path of a listener.
#[derive(Debug)]
pub struct Route {
    /// The path on the wire.
    pub path: &'static str,
    /// What answers it.
    pub server: Server,
    /// Whether it asks for the node's health, and so is answered by a busy node too.
    pub is_health: bool,
}

const fn route(path: &'static str, server: Server) -> Route {
    Route { path, server, is_health: false }
}

const fn health(path: &'static str, server: Server) -> Route {
    Route { path, server, is_health: true }
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
    route("/grpc.groupstorage.GroupStorageService/get", Server::GroupStorage),
    route("/grpc.groupstorage.GroupStorageService/put", Server::GroupStorage),
    route("/grpc.groupstorage.GroupStorageService/update", Server::GroupStorage),
    route("/grpc.groupstorage.GroupStorageService/delete", Server::GroupStorage),
    route("/grpc.peerstorage.PeerStorageService/get", Server::PeerStorage),
    route("/grpc.peerstorage.PeerStorageService/put", Server::PeerStorage),
    route("/grpc.peerstorage.PeerStorageService/update", Server::PeerStorage),
    route("/grpc.peerstorage.PeerStorageService/delete", Server::PeerStorage),
    route("/grpc.groupstorage.GroupStorageService/addToGroupLedger", Server::GroupStorage),
    route("/grpc.groupstorage.GroupStorageService/removePeerGroupLedger", Server::GroupStorage),
    health("/grpc.groupstorage.GroupStorageService/healthCheck", Server::GroupStorage),
    health("/grpc.groupstorage.GroupStorageService/healthCheckWatch", Server::GroupStorage),
    health("/grpc.health.v1.Health/Check", Server::Health),
    health("/grpc.health.v1.Health/Watch", Server::Health),
    route("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Server::Reflection),
    route(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Server::ReflectionAlpha,
    ),
];

/// Opens a link between two nodes.
pub const LINK: &str = "/nomad.link.v1.Link/Open";

/// The paths of the peer listener.
pub static PEER: [Route; 18] = [
    route(LINK, Server::Link),
    route("/grpc.peerservice.PeerService/addPeer", Server::Peer),
    route("/grpc.peerservice.PeerService/removePeer", Server::Peer),
    route("/grpc.peerservice.PeerService/handleSuperPeerLeave", Server::Peer),
    route("/grpc.peerservice.PeerService/repairObjects", Server::Peer),
    route("/grpc.superpeerservice.SuperPeerService/handleJoin", Server::SuperPeer),
    route("/grpc.superpeerservice.SuperPeerService/handleLeave", Server::SuperPeer),
    route("/grpc.superpeerservice.SuperPeerService/repair", Server::SuperPeer),
    route("/grpc.superpeerservice.SuperPeerService/migrate", Server::SuperPeer),
    route("/grpc.superpeerservice.SuperPeerService/addObjectReference", Server::SuperPeer),
    route("/grpc.superpeerservice.SuperPeerService/removePeerGroupLedger", Server::SuperPeer),
    route("/grpc.superpeerservice.SuperPeerService/notifyPeers", Server::SuperPeer),
    route("/grpc.superpeerservice.SuperPeerService/pingPeer", Server::SuperPeer),
    route("/grpc.superpeerservice.SuperPeerService/updatePositionReference", Server::SuperPeer),
    health("/grpc.health.v1.Health/Check", Server::Health),
    health("/grpc.health.v1.Health/Watch", Server::Health),
    route("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Server::Reflection),
    route(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Server::ReflectionAlpha,
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;
    use nomad_proto::FILE_DESCRIPTOR_SET;

    #[test]
    fn every_method_of_the_contract_is_served_by_exactly_one_listener_and_nothing_else_is() {
        let mut declared = BTreeSet::new();
        for file in FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file {
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

    #[test]
    fn a_route_knows_its_kind_and_its_service() {
        let route = find(&STORAGE, "/grpc.groupstorage.GroupStorageService/get").unwrap();
        assert_eq!(route.kind(), "GroupStorageService/get");
        assert_eq!(route.service(), "grpc.groupstorage.GroupStorageService");
        assert!(find(&PEER, route.path).is_none());
    }
}
