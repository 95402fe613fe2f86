//! What a node is when it starts, and how its membership behaves: both from the configuration.

use std::{net::SocketAddr, time::Duration};

use super::{advertise::reachable, identity::Identity, sockets::NodeSockets};
use nomad_config::Config;
use nomad_consensus::RaftTimes;
use nomad_core::{
    group::{Member, Settings, membership::MembershipConfig, view::Founder},
    world::World,
};

/// Says what this node is.
pub fn founder(
    config: &Config,
    permanent: bool,
    identity: &Identity,
    sockets: &NodeSockets,
) -> Founder {
    let hosts = &config.node.network_hostnames;
    let peer_host = if permanent { &hosts.super_peer_server } else { &hosts.peer_server };
    let advertise = |host: &Option<String>, bound: SocketAddr| match host {
        None => reachable(bound).to_string(),
        Some(host) if host.contains(':') => host.clone(),
        Some(host) => format!("{host}:{}", bound.port()),
    };
    Founder {
        permanent,
        claim: 1,
        capacity: config.node.max_peers as u32,
        this: Member {
            node: identity.node,
            rest: reachable(sockets.rest_address).to_string(),
            peer: advertise(peer_host, sockets.peer_address),
            storage: advertise(&hosts.group_storage_server, sockets.storage_address),
            position: config.node.position,
        },
        world: World { width: config.node.world.width, height: config.node.world.height },
        settings: Settings {
            storage_mode: config.node.storage.storage_mode,
            retrieval_mode: config.node.storage.retrieval_mode,
            migration: config.node.group.migration,
            replication_factor: config.node.storage.replication_factor as u32,
        },
    }
}

/// Says how its membership behaves.
pub fn membership(
    config: &Config,
    settings: Settings,
    has_sources: bool,
    times: &RaftTimes,
) -> MembershipConfig {
    let us = |duration: Duration| duration.as_micros() as u64;
    MembershipConfig {
        voters: config.group.voters as u32,
        voronoi_grouping: config.node.group.voronoi_grouping,
        has_sources,
        discovery_window_us: us(config.bootstrap.discovery_window),
        provisional_poll_us: us(config.bootstrap.provisional_poll_interval),
        election_timeout_us: us(config.bootstrap.election_timeout),
        leader_lease_us: us(times.election_min),
        health_check_us: us(config.schedule.health_check),
        remove_after_us: us(config.group.remove_after),
        quorum_loss_grace_us: us(config.group.quorum_loss_grace),
        ..MembershipConfig::with(config.node.max_peers as u32, settings)
    }
}
