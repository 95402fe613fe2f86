//! Asks another node's peer listener whether it serves.

use std::{future::Future, net::SocketAddr, pin::Pin};

/// One bounded look at another node.
pub trait PeerProbe: Send + Sync + 'static {
    /// Returns whether a node serves at `address`. Answers within a few seconds; an unreachable one is `false`.
    fn serves(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}
