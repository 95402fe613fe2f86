//! Speaks with other nodes: one long-lived stream per pair, over which requests and notices travel in batches.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use thiserror::Error;

use crate::core::{node_id::NodeId, trace::TraceContext};

/// Which part of a node a message is for. The numbers go over the wire and stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// The group's log.
    Log = 1,
    /// Joining, leaving, health.
    Membership = 2,
    /// Objects' replicas.
    Replica = 3,
}

impl Service {
    /// Returns the service with this number.
    pub fn of(number: u32) -> Option<Self> {
        [Self::Log, Self::Membership, Self::Replica].into_iter().find(|s| *s as u32 == number)
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
