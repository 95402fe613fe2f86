//! Which libp2p protocols a node speaks, and how they are tuned: small, bounded, quiet when nothing happens.
//!
//! All but identify and ping carry the network's name and the protocol version in their own names, so nodes of other
//! networks have nothing to say to each other.

use std::{error::Error, num::NonZeroUsize, time::Duration};

use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, allow_block_list,
    connection_limits::{self, ConnectionLimits},
    gossipsub::{
        self, IdentTopic, IdentityTransform, MessageAuthenticity, MessageId, ValidationMode,
        WhitelistSubscriptionFilter,
    },
    identify,
    identity::Keypair,
    kad, mdns, noise, ping,
    request_response::{self, ProtocolSupport, cbor},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    tcp, yamux,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use nomad_core::{
    group::offer::{OverlayAnswer, Seeker},
    world::Position,
};

/// Grows with every change that older nodes do not understand.
pub const PROTOCOL_VERSION: u32 = 1;

/// The most connections that others may open, and the most in total. The difference is room to connect to other nodes.
const INBOUND_MAX: u32 = 192;
const CONNECTIONS_MAX: u32 = 256;
/// Connections under way, either way.
const PENDING_MAX: u32 = 64;
/// Two nodes that dial each other at the same moment have two connections for a while.
const PER_PEER_MAX: u32 = 3;
/// The most bytes of a question and of an answer, which holds 64 offers of at most 500 bytes.
const QUESTION_BYTES_MAX: u64 = 1 << 10;
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// The most bytes of an announcement with its signature.
const ANNOUNCEMENT_BYTES_MAX: usize = 2 << 10;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Gossip's upkeep; announcements themselves travel at once.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often a silent connection is tried, and how long the answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(15);
/// Connections are closed by count, not by age.
const IDLE: Duration = Duration::from_secs(24 * 3600);

/// The question of a node that looks for groups.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OverlayRequest {
    /// Where they should be near.
    pub near: Position,
    /// Set when the asking node looks for a group itself.
    pub seeker: Option<Seeker>,
}

/// Gossip that uses one topic and stores no messages of others.
pub type Gossip = gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// All protocols.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub limits: connection_limits::Behaviour,
    pub blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    pub identify: identify::Behaviour,
    pub kad: kad::Behaviour<kad::store::MemoryStore>,
    pub gossip: Gossip,
    pub ask: cbor::Behaviour<OverlayRequest, OverlayAnswer>,
    pub ping: ping::Behaviour,
    pub mdns: Toggle<mdns::tokio::Behaviour>,
}

/// What makes one network's protocols.
#[derive(Debug, Clone)]
pub struct Names {
    /// What identify says: `nomad/<network>/<version>`.
    pub identity: String,
    /// Where announcements go.
    pub topic: IdentTopic,
    network: String,
}

impl Names {
    /// Names the protocols of a network.
    pub fn of(network: &str) -> Self {
        Self {
            identity: format!("nomad/{network}/{PROTOCOL_VERSION}"),
            topic: IdentTopic::new(format!("nomad/{network}/{PROTOCOL_VERSION}/groups")),
            network: network.to_owned(),
        }
    }

    fn protocol(&self, part: &str) -> Result<StreamProtocol, Box<dyn Error + Send + Sync>> {
        let name = format!("/nomad/{}/{part}/{PROTOCOL_VERSION}", self.network);
        Ok(StreamProtocol::try_from_owned(name)?)
    }
}

/// Makes a swarm that listens nowhere yet.
///
/// # Errors
/// When a protocol refuses its settings; what the operating system lacks (DNS, multicast) is logged and left out.
pub fn swarm(
    keypair: &Keypair,
    names: &Names,
    dht_bootstrap: Duration,
    with_mdns: Option<mdns::Config>,
) -> Result<Swarm<Behaviour>, Box<dyn Error + Send + Sync>> {
    let behaviour = behaviour(keypair, names, dht_bootstrap, with_mdns)?;
    let base = || -> Result<_, noise::Error> {
        let tcp = tcp::Config::default().nodelay(true);
        SwarmBuilder::with_existing_identity(keypair.clone()).with_tokio().with_tcp(
            tcp,
            noise::Config::new,
            yamux::Config::default,
        )
    };
    let tuned = |config: libp2p::swarm::Config| {
        config
            .with_idle_connection_timeout(IDLE)
            .with_max_negotiating_inbound_streams(32)
            .with_per_connection_event_buffer_size(16)
    };
    // Names that other nodes advertise are looked up by libp2p; those of the configuration by the system.
    match base()?.with_dns() {
        Ok(built) => Ok(built.with_behaviour(|_| behaviour)?.with_swarm_config(tuned).build()),
        Err(error) => {
            tracing::warn!(%error, "nodes that advertise a name and no address cannot be reached: the name service's settings cannot be read");
            Ok(base()?.with_behaviour(|_| behaviour)?.with_swarm_config(tuned).build())
        }
    }
}

fn behaviour(
    keypair: &Keypair,
    names: &Names,
    dht_bootstrap: Duration,
    with_mdns: Option<mdns::Config>,
) -> Result<Behaviour, Box<dyn Error + Send + Sync>> {
    let me = keypair.public().to_peer_id();
    let limits = ConnectionLimits::default()
        .with_max_established(Some(CONNECTIONS_MAX))
        .with_max_established_incoming(Some(INBOUND_MAX))
        .with_max_established_per_peer(Some(PER_PEER_MAX))
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX));
    let identify = identify::Config::new(names.identity.clone(), keypair.public())
        .with_agent_version(format!("nomad/{}", env!("CARGO_PKG_VERSION")))
        .with_interval(Duration::from_secs(3600))
        .with_push_listen_addr_updates(true)
        .with_cache_size(0);
    let ask = cbor::codec::Codec::default()
        .set_request_size_maximum(QUESTION_BYTES_MAX)
        .set_response_size_maximum(ANSWER_BYTES_MAX);
    let ask = request_response::Behaviour::with_codec(
        ask,
        [(names.protocol("groups")?, ProtocolSupport::Full)],
        request_response::Config::default()
            .with_request_timeout(ANSWER_LIMIT)
            .with_max_concurrent_streams(16),
    );
    let mdns = with_mdns.and_then(|config| match mdns::Behaviour::new(config, me) {
        Ok(mdns) => Some(mdns),
        Err(error) => {
            tracing::warn!(%error, "mDNS is not to be had here: nodes are found by the other ways alone");
            None
        }
    });
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        blocked: allow_block_list::Behaviour::default(),
        identify: identify::Behaviour::new(identify),
        kad: kad(me, names.protocol("kad")?, dht_bootstrap),
        gossip: gossip(keypair, names)?,
        ask,
        ping: ping::Behaviour::new(
            ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_LIMIT),
        ),
        mdns: mdns.into(),
    })
}

/// The routing table alone: no record and no provider is ever kept.
fn kad(
    me: libp2p::PeerId,
    protocol: StreamProtocol,
    dht_bootstrap: Duration,
) -> kad::Behaviour<kad::store::MemoryStore> {
    let mut config = kad::Config::new(protocol);
    config
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_periodic_bootstrap_interval(Some(dht_bootstrap))
        .set_query_timeout(Duration::from_secs(20))
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled);
    if let Some(size) = NonZeroUsize::new(20) {
        config.set_kbucket_size(size);
    }
    let nothing = kad::store::MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: 0,
        max_provided_keys: 0,
    };
    let store = kad::store::MemoryStore::with_config(me, nothing);
    let mut kad = kad::Behaviour::with_config(me, store, config);
    // Without a public address kad would only ever ask, and never answer.
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

fn gossip(keypair: &Keypair, names: &Names) -> Result<Gossip, Box<dyn Error + Send + Sync>> {
    let mut config = gossipsub::ConfigBuilder::default();
    config
        .protocol_id_prefix(format!("/nomad/{}/gossip", names.network))
        .max_transmit_size(ANNOUNCEMENT_BYTES_MAX)
        .heartbeat_interval(HEARTBEAT)
        .heartbeat_initial_delay(Duration::from_secs(1))
        .gossip_lazy(3)
        .gossip_factor(0.1)
        .duplicate_cache_time(Duration::from_secs(120))
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .max_publish_messages(64)
        .max_control_messages_sent(256)
        .connection_handler_queue_len(256)
        .message_id_fn(|message| {
            let mut whole = message.source.map(|peer| peer.to_bytes()).unwrap_or_default();
            whole.extend(message.sequence_number.unwrap_or_default().to_be_bytes());
            MessageId::from(xxh3_128(&whole).to_be_bytes().to_vec())
        });
    let filter = WhitelistSubscriptionFilter([names.topic.hash()].into());
    let mut gossip = Gossip::new_with_subscription_filter(
        MessageAuthenticity::Signed(keypair.clone()),
        config.build()?,
        filter,
    )?;
    gossip.subscribe(&names.topic)?;
    Ok(gossip)
}
