//! How a link comes to be: held and opened by this node, or accepted from another.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::{
    LinksInner, connection,
    greet::{FrameStream, farewell},
    handshake::Failed,
    left,
    link::{Link, LinkState},
    outgoing::{Out, Outgoing},
};
use nomad_core::model::node_id::NodeId;
use nomad_ports::peer_transport::{LinkEnd, LinkError};
use nomad_proto::link::Frames;

impl LinksInner {
    /// See [`LinkMaker::hold`].
    pub(super) async fn hold(self: &Arc<Self>, node: NodeId) -> LinkEnd {
        let began = self.clock.monotonic();
        let mut reason: Option<String> = None;
        let mut moves = self.table.moves();
        loop {
            if let Some(link) = self.table.link(node) {
                let mut fate = link.watch();
                let ended = fate.wait_for(|fate| *fate != LinkState::Stands).await;
                if let Ok(LinkState::Ended(why)) = ended.as_deref() {
                    self.table.remove(&link, why);
                    reason = Some(why.to_string());
                }
                continue;
            }
            if let Some(reason) = reason {
                let stood = Some(left(self.clock.monotonic(), began));
                return LinkEnd {
                    stood,
                    error: LinkError::Unreachable { to: node.to_string(), reason },
                };
            }
            moves.mark_unchanged();
            let Some(address) = self.table.address(node) else {
                return LinkEnd { stood: None, error: self.unreachable(node) };
            };
            let opened = tokio::select! {
                biased;
                opened = self.open(&address, Some(node)) => opened,
                () = self.moved(&mut moves, node, &address) => continue,
            };
            if self.table.link(node).is_some() {
                continue;
            }
            let error = match opened {
                Err(error) => error,
                Ok(_) => {
                    let reason = "it broke as soon as it stood".to_owned();
                    LinkError::Unreachable { to: node.to_string(), reason }
                }
            };
            self.table.failed(node, &error.to_string());
            return LinkEnd { stood: None, error };
        }
    }

    /// Waits until a node has another address than this one.
    async fn moved(&self, moves: &mut watch::Receiver<u64>, node: NodeId, address: &str) {
        while self.table.address(node).as_deref() == Some(address) {
            if moves.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Opens a link, unless one to the node that answers is open, and says which node it is.
    pub(super) async fn open(
        self: &Arc<Self>,
        address: &str,
        expected: Option<NodeId>,
    ) -> Result<NodeId, LinkError> {
        let turn = {
            let mut opening = self.opening.lock();
            // Those that nobody waits for are of no use.
            opening.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(opening.entry(address.to_owned()).or_default())
        };
        let _turn = turn.lock().await;
        let standing = expected.and_then(|node| self.table.link(node));
        if let Some(link) = standing.or_else(|| self.table.link_at(address))
            && expected.is_none_or(|expected| expected == link.node)
        {
            return Ok(link.node);
        }
        let limit = self.options.connect_limit + self.options.handshake_limit;
        let late = Failed::Broken(format!("it did not finish the handshake within {limit:?}"));
        let opened = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Failed::Refused("this node is stopping".into())),
            opened = tokio::time::timeout(limit, self.dial(address, expected)) => {
                opened.unwrap_or(Err(late))
            }
        };
        let to = match expected {
            Some(node) => format!("{node} at {address}"),
            None => address.to_owned(),
        };
        match opened {
            Ok(node) | Err(Failed::Crossed(node)) => Ok(node),
            Err(Failed::Stranger(reason)) => {
                self.log_stranger(&format!("the node at {address}"), &reason);
                Err(LinkError::Stranger { to, reason })
            }
            Err(Failed::Refused(reason) | Failed::Broken(reason)) => {
                Err(LinkError::Unreachable { to, reason })
            }
        }
    }

    async fn dial(
        self: &Arc<Self>,
        address: &str,
        expected: Option<NodeId>,
    ) -> Result<NodeId, Failed> {
        let (sender, outgoing) = Outgoing::new();
        let hello = self.hello_as_opener(expected);
        let message = Frames { hello: Some(hello.clone()), ..Frames::default() };
        let _ = sender.try_send(Out::Message(Box::new(message)));
        let opened = connection::open(address, outgoing, &self.options).await;
        let (connection, mut messages) = opened.map_err(Failed::Broken)?;
        let link = self.introduce(address, hello, expected, &mut messages, &sender).await?;
        let (inner, node) = (Arc::clone(self), link.node);
        self.tasks.spawn(async move { inner.follow(link, messages, Some(connection)).await });
        Ok(node)
    }

    /// Takes a stream that another node has opened through the handshake; `None` when it has come to nothing.
    pub(super) async fn accept(
        &self,
        messages: &mut FrameStream,
        sender: &mpsc::Sender<Out>,
        proven: Box<dyn FnOnce() + Send>,
    ) -> Option<Arc<Link>> {
        let limit = self.options.handshake_limit;
        let late = Failed::Broken(format!("the handshake took longer than {limit:?}"));
        let greeted = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Failed::Refused("the node is stopping".into())),
            greeted = tokio::time::timeout(limit, self.receive(messages, sender, proven)) => {
                greeted.unwrap_or(Err(late))
            }
        };
        let failed = match greeted {
            Ok(link) => return Some(link),
            Err(failed) => failed,
        };
        if let Failed::Stranger(reason) = &failed {
            self.log_stranger("a node that opened a link", reason);
        }
        let _ = sender.try_send(Out::Message(Box::new(farewell(&failed))));
        None
    }

    fn log_stranger(&self, who: &str, reason: &str) {
        let line = format!("{who} is not one of ours: {reason}");
        if self.log.allows(&line, self.clock.monotonic()) {
            warn!(network = %self.own.network, "{line}");
        }
    }
}
