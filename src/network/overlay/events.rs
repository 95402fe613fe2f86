//! What libp2p reports, and what follows from it: who is met, refused or lost.

use libp2p::{
    Multiaddr, PeerId, identify, mdns, ping,
    swarm::{ConnectionId, SwarmEvent},
};

use super::{
    addresses::{PER_NODE_MAX, ip_of, split_peer, usable},
    behaviour::BehaviourEvent,
    driver::{OverlayPeer, SwarmDriver},
    strangers,
};
use nomad_core::model::node_id::NodeId;

/// How long a refused connection is kept, so that the other side reads who this node is and can say so too.
const FAREWELL_US: u64 = 1_000_000;

impl SwarmDriver {
    /// Takes an event. The reason is that of the run's end.
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) -> Option<String> {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let remote = endpoint.get_remote_address();
                self.on_connected(peer_id, connection_id, remote);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.on_closed(peer_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => {
                self.on_listens();
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                let reason = reason.err().map_or_else(String::new, |error| format!(": {error}"));
                return Some(format!("the overlay's listener was closed{reason}"));
            }
            _ => {}
        }
        None
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, &info);
            }
            BehaviourEvent::Ping(ping::Event { peer, connection, result: Err(error) }) => {
                tracing::debug!(%peer, %error, "a silent connection is closed");
                self.swarm.close_connection(connection);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    let address = split_peer(&address).0;
                    let addresses = usable(ip_of(&address), &[address]);
                    self.on_heard(peer, addresses);
                }
            }
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Ask(event) => self.on_ask(event),
            // Kademlia keeps its own table; the rest says nothing that matters here.
            _ => {}
        }
    }

    fn on_connected(&mut self, id: PeerId, connection: ConnectionId, remote: &Multiaddr) {
        let now = self.now();
        self.peers.entry(id).or_insert_with(|| OverlayPeer {
            since: now,
            node: None,
            remote: ip_of(remote),
            addresses: Vec::new(),
            close_at: None,
            window_start: now,
            questions_in_window: 0,
        });
        if let Some(index) = self.dials.remove(&connection) {
            self.book.found(index, id);
        }
    }

    fn on_closed(&mut self, id: PeerId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        if let Some(node) = peer.node {
            tracing::debug!(%node, "a node is not connected any more");
            let now = self.now();
            self.book.lost(now, &id);
            self.publish_state(|_| {});
        }
    }

    fn on_identified(&mut self, id: PeerId, info: &identify::Info) {
        let fits = strangers::check(&self.network, &info.protocol_version);
        let node = match (fits, node_of(&id)) {
            (Ok(()), Some(node)) => node,
            (Err(reason), _) => return self.refuse(id, &reason),
            (Ok(()), None) => return self.refuse(id, "its key is not an ed25519 key"),
        };
        let now = self.now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.addresses = usable(peer.remote, &info.listen_addrs);
        let (is_new, addresses) = (peer.node.is_none(), peer.addresses.clone());
        peer.node = Some(node);
        for address in addresses.iter().take(PER_NODE_MAX) {
            self.swarm.behaviour_mut().kad.add_address(&id, address.clone());
        }
        self.book.learn(now, id, addresses, 0);
        self.book.met(&id);
        if is_new {
            tracing::debug!(%node, "a node is connected");
            self.on_met();
        }
    }

    /// Sends a node away: nothing of it is kept, and it stays out for a while.
    fn refuse(&mut self, id: PeerId, reason: &str) {
        let now = self.now();
        if self.strangers.refuse(now, id) {
            self.shared.count_refused();
            let from = self.peers.get(&id).and_then(|peer| peer.remote);
            let from = from.map(|ip| ip.to_string()).unwrap_or_default();
            tracing::warn!(node = %id, from, %reason, "a node was refused");
        }
        self.book.forget(&id);
        self.swarm.behaviour_mut().kad.remove_peer(&id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.node = None;
            peer.close_at.get_or_insert(now.plus_us(FAREWELL_US));
        }
        self.publish_state(|_| {});
    }
}

/// The node with this peer id; only ed25519 keys make nodes.
pub(super) fn node_of(id: &PeerId) -> Option<NodeId> {
    id.to_string().parse().ok()
}
