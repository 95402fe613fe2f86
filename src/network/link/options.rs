//! The limits of links. Everything that another node can make this one hold is bounded here.

use std::time::Duration;

/// Limits of links, and the network that they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkOptions {
    /// The network's name: links to nodes of another are refused.
    pub network: String,
    /// Most bytes of one message's body.
    pub body_bytes_max: usize,
    /// Bytes that are sent at once, unless a single message has more.
    pub batch_bytes: usize,
    /// Most messages of ours that wait to be sent on one link.
    pub queue_messages_max: usize,
    /// Most bytes of them, and of answers.
    pub queue_bytes_max: usize,
    /// Most requests of ours without an answer, per link.
    pub asks_max: usize,
    /// Most requests of the other node at a time, per link. If it is less than that node's `asks_max`, a busy link refuses requests.
    pub work_max: usize,
    /// Most bytes of those, per link.
    pub work_bytes_max: usize,
    /// Most bytes of those on all links together.
    pub work_bytes_total_max: usize,
    /// Most streams whose other side has not proved who it is.
    pub strangers_max: usize,
    /// Most links to nodes that no link is to be kept to.
    pub guests_max: usize,
    /// Longest time to connect.
    pub connect_limit: Duration,
    /// Longest time for the handshake.
    pub handshake_limit: Duration,
    /// After how long without a message a link that is not to be kept is closed.
    pub idle_limit: Duration,
    /// How long a link that another has replaced may take to finish.
    pub linger_limit: Duration,
    /// How often the side that has opened a link looks whether the other is there.
    pub keep_alive_interval: Duration,
    /// How long it waits for the sign of life.
    pub keep_alive_limit: Duration,
}

impl LinkOptions {
    /// The limits of a network whose objects have at most `object_bytes_max` bytes.
    pub fn new(network: impl Into<String>, object_bytes_max: u64) -> Self {
        // An object, with what stands around it.
        let body_bytes_max = (object_bytes_max as usize + (1 << 20)).max(8 << 20);
        Self {
            network: network.into(),
            body_bytes_max,
            batch_bytes: 256 << 10,
            queue_messages_max: 16_384,
            queue_bytes_max: 4 * body_bytes_max,
            asks_max: 16_384,
            work_max: 16_384,
            work_bytes_max: 4 * body_bytes_max,
            work_bytes_total_max: 16 * body_bytes_max,
            strangers_max: 64,
            guests_max: 256,
            connect_limit: Duration::from_secs(3),
            handshake_limit: Duration::from_secs(5),
            idle_limit: Duration::from_secs(30),
            linger_limit: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(5),
            keep_alive_limit: Duration::from_secs(3),
        }
    }

    /// Most bytes of one encoded message of the stream: a batch, and the body that is the last of it.
    pub fn message_bytes_max(&self) -> usize {
        self.body_bytes_max + 2 * self.batch_bytes + (64 << 10)
    }
}
