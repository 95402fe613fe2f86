//! Speaks with other nodes: one long-lived stream per pair, over which requests and notices travel in batches.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use thiserror::Error;

use nomad_core::model::{node_id::NodeId, time::MonotonicUs, trace::TraceContext};

/// Which part of a node a message is for. The numbers go over the wire and stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// The group's log.
    Log = 1,
    /// Joining, leaving, health.
    Membership = 2,
    /// Objects' replicas.
    Replica = 3,
    /// Who holds which object.
    Ledger = 4,
    /// Which replicas differ.
    Repair = 5,
    /// Which objects a member keeps.
    Listing = 6,
}

impl Service {
    /// Returns the service with this number.
    pub fn of(number: u32) -> Option<Self> {
        let all =
            [Self::Log, Self::Membership, Self::Replica, Self::Ledger, Self::Repair, Self::Listing];
        all.into_iter().find(|service| *service as u32 == number)
    }
}

/// Why a request to another node has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// There is no link: nothing was sent.
    #[error("there is no link to {to}: {reason}")]
    Unreachable {
        /// The node or its address.
        to: String,
        /// Why.
        reason: String,
    },
    /// What waits to be sent has reached its limit: nothing was sent.
    #[error("the link to {to} is full: {waiting} messages wait")]
    Full {
        /// The node.
        to: String,
        /// How many wait.
        waiting: usize,
    },
    /// The link broke before the answer came: the outcome is unknown.
    #[error("the link to {to} broke before the answer came")]
    Broken {
        /// The node.
        to: String,
    },
    /// No answer in time: the outcome is unknown.
    #[error("{to} did not answer within {limit:?}")]
    TimedOut {
        /// The node.
        to: String,
        /// The limit.
        limit: Duration,
    },
    /// The other node refused the request, or does not serve it.
    #[error("{to} refused: {reason}")]
    Refused {
        /// The node.
        to: String,
        /// Its reason.
        reason: String,
    },
    /// The other node belongs to another network, speaks another protocol version or is not who it should be.
    #[error("{to} is not one of ours: {reason}")]
    Stranger {
        /// The node or its address.
        to: String,
        /// What does not fit.
        reason: String,
    },
}

/// The way to other nodes.
pub trait PeerTransport: Send + Sync + 'static {
    /// Says to which nodes links are to be kept, and where their peer listeners are. Links to others are closed once
    /// they are idle.
    fn keep(&self, peers: BTreeMap<NodeId, String>);

    /// Asks a node that a link is kept to.
    fn ask(
        &self,
        to: NodeId,
        service: Service,
        trace: TraceContext,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>>;

    /// Tells such a node something. An error means that it was not sent; without one it may still be lost.
    ///
    /// # Errors
    /// When there is no link or it is full.
    fn tell(
        &self,
        to: NodeId,
        service: Service,
        trace: TraceContext,
        body: Bytes,
    ) -> Result<(), LinkError>;

    /// Tells whether a link to this node stands now.
    fn reaches(&self, node: NodeId) -> bool;

    /// Asks whoever serves at `address` (`host:port` of a peer listener), over a link that is closed again when idle, and
    /// says who answered.
    fn ask_address(
        &self,
        address: String,
        service: Service,
        trace: TraceContext,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<(NodeId, Bytes), LinkError>>;

    /// Reads the figures of all links, and of those that are to be kept but do not stand; sorted by node.
    fn readings(&self) -> Vec<LinkReading> {
        Vec::new()
    }
}

/// Makes the links that a [`PeerTransport`] sends over. For the actors that own the links' lives.
pub trait LinkMaker: PeerTransport {
    /// Waits for as long as a link to a kept node stands, whichever side has opened it, and says why it is down. If there
    /// is none, one is opened first, once, at the address that `keep` has named last. Dropping the future closes the link,
    /// unless it is not to be kept any more: then it may stay until it is idle.
    fn hold(&self, node: NodeId) -> BoxFuture<'static, LinkEnd>;
}

/// How the holding of a link has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEnd {
    /// For how long it stood; `None` = it could not be made.
    pub stood: Option<Duration>,
    /// Why it does not any more.
    pub error: LinkError,
}

/// Takes the streams that other nodes open on the peer listener. `M` is the wire's message, which both the listener and
/// the links know and the ports do not.
pub trait LinkAcceptor<M>: Send + Sync + 'static {
    /// The most bytes that one encoded message may have.
    fn message_bytes_max(&self) -> usize;

    /// Takes a stream of messages and returns the messages to send back, which end with the link. `proven` is called once
    /// the other side has proved who it is; until then the caller limits what may arrive.
    fn accept(
        &self,
        messages: BoxStream<'static, Result<M, String>>,
        proven: Box<dyn FnOnce() + Send>,
    ) -> BoxStream<'static, M>;
}

/// What has gone over a link in one direction. Grows only, also over reconnections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkFlow {
    /// Requests, answers and notices.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// How often some of them were sent at once.
    pub batches: u64,
}

/// The figures of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReading {
    /// The other node.
    pub node: NodeId,
    /// Where its peer listener is, if this node has been told or has opened the link.
    pub address: Option<String>,
    /// Whether the link is to be kept.
    pub is_kept: bool,
    /// Since when it stands; `None` = it does not.
    pub up_since: Option<MonotonicUs>,
    /// Whether this node has opened it.
    pub is_ours: bool,
    /// Why it is down, or was last.
    pub reason: Option<String>,
    /// What was sent.
    pub sent: LinkFlow,
    /// What was received.
    pub received: LinkFlow,
    /// How often it was made again after the first time.
    pub reconnects: u64,
    /// Messages that were not taken because too many waited.
    pub refused: u64,
    /// The other node's requests that were refused because too many were in hand.
    pub turned_away: u64,
    /// Messages waiting to be sent.
    pub waiting: usize,
    /// Requests without an answer yet.
    pub asked: usize,
    /// The other node's requests in hand.
    pub in_hand: usize,
    /// From sending a request to its answer, smoothed as TCP does (RFC 6298, gain 1/8), with the time that the other node
    /// took for it. In microseconds.
    pub round_trip_us: Option<u64>,
}

/// What answers another node's messages: one per [`Service`].
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers a request. `from` has proved that it holds that node's key.
    ///
    /// An `Err` is the reason of a refusal.
    fn answer(
        &self,
        from: NodeId,
        trace: TraceContext,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>>;

    /// Takes a notice.
    fn heard(&self, from: NodeId, trace: TraceContext, body: Bytes);
}

/// What becomes of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A link stands.
    Up(NodeId),
    /// A link that stood is down, or a kept one could not be made. Said once per change.
    Down {
        /// The other node.
        node: NodeId,
        /// Why.
        reason: String,
    },
}
