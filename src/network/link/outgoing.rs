//! The outgoing side of a stream, on the node that opened it and on the node that accepted it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::mpsc;

use super::link::{CLOSED, Link};
use nomad_proto::link::Frames;

/// What a stream sends: the handshake's messages, then the link's.
pub(super) enum Out {
    /// A message of the handshake.
    Message(Box<Frames>),
    /// The handshake is over.
    Link(Arc<Link>),
}

/// The messages that a stream sends. When it is dropped, so is the connection, and the link has ended.
pub(super) struct Outgoing {
    handshake: mpsc::Receiver<Out>,
    link: Option<Arc<Link>>,
}

impl Outgoing {
    /// Starts with a handshake, which takes its messages to the sender. They are few.
    pub(super) fn new() -> (mpsc::Sender<Out>, Self) {
        let (sender, handshake) = mpsc::channel(4);
        (sender, Self { handshake, link: None })
    }
}

impl Stream for Outgoing {
    type Item = Frames;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frames>> {
        if let Some(link) = &self.link {
            return link.poll_batch(cx);
        }
        match std::task::ready!(self.handshake.poll_recv(cx)) {
            None => Poll::Ready(None),
            Some(Out::Message(frames)) => Poll::Ready(Some(*frames)),
            Some(Out::Link(link)) => self.link.insert(link).poll_batch(cx),
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.end(CLOSED);
        }
    }
}
