//! The listening sockets, bound once at the start: on the configured ports, or on free ones at random.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener},
    ops::RangeInclusive,
    path::Path,
    sync::Arc,
};

use super::{NodeAddresses, StartError, identity::Identity};
use nomad_config::PortsConfig;
use nomad_ports::Entropy;

/// Where a port is drawn from when none is configured.
const REST_PORTS: RangeInclusive<u16> = 8080..=9999;
const GRPC_PORTS: RangeInclusive<u16> = 5001..=8999;
/// How many ports are tried before the last refusal is the answer.
const TRIES_MAX: usize = 200;

/// The three sockets and where they are bound.
#[derive(Debug)]
pub struct NodeSockets {
    pub rest: Arc<TcpListener>,
    pub peer: Arc<TcpListener>,
    pub storage: Arc<TcpListener>,
    pub rest_address: SocketAddr,
    pub peer_address: SocketAddr,
    pub storage_address: SocketAddr,
}

impl NodeSockets {
    /// Binds all three.
    ///
    /// # Errors
    /// Names the listener, the address and the key that sets it.
    pub fn bind(
        ip: IpAddr,
        ports: &PortsConfig,
        entropy: &dyn Entropy,
    ) -> Result<Self, StartError> {
        let (rest, rest_address) =
            bind("REST", "node.ports.rest", ip, ports.rest, REST_PORTS, entropy)?;
        let (peer, peer_address) =
            bind("peer", "node.ports.peer", ip, ports.peer, GRPC_PORTS, entropy)?;
        let (storage, storage_address) =
            bind("storage", "node.ports.storage", ip, ports.storage, GRPC_PORTS, entropy)?;
        Ok(Self { rest, peer, storage, rest_address, peer_address, storage_address })
    }

    /// Says where the node can be reached.
    pub fn addresses(&self, identity: &Identity, overlay: String, dir: &Path) -> NodeAddresses {
        NodeAddresses {
            rest: self.rest_address,
            peer: self.peer_address,
            storage: self.storage_address,
            overlay,
            node_id: identity.node.to_string(),
            data_dir: dir.to_owned(),
        }
    }
}

fn bind(
    listener: &'static str,
    key: &'static str,
    ip: IpAddr,
    port: u16,
    range: RangeInclusive<u16>,
    entropy: &dyn Entropy,
) -> Result<(Arc<TcpListener>, SocketAddr), StartError> {
    let mut tries = if port == 0 { TRIES_MAX } else { 1 };
    loop {
        let width = u64::from(range.end() - range.start()) + 1;
        let drawn = range.start() + (entropy.next_u64() % width) as u16;
        let address = SocketAddr::new(ip, if port == 0 { drawn } else { port });
        tries -= 1;
        match TcpListener::bind(address) {
            Ok(socket) => return Ok((Arc::new(socket), address)),
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries > 0 => {}
            Err(source) => return Err(StartError::Bind { listener, address, key, source }),
        }
    }
}
