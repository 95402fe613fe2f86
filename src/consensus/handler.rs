//! Answers other members' questions about the log.

use std::sync::Weak;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    codec::{self, WIRE},
    incoming::Taken,
    raft_consensus::{RaftContext, RaftInner},
    rpc::{self, Piece, RaftAnswer, Received, Rpc},
    types::Participant,
};
use nomad_core::model::{node_id::NodeId, trace::TraceContext};
use nomad_ports::PeerHandler;

/// The handler of [`Service::Log`](nomad_ports::peer_transport::Service::Log). It does not keep the log alive.
#[derive(Debug)]
pub struct Handler {
    inner: Weak<RaftInner>,
}

impl Handler {
    pub fn new(inner: Weak<RaftInner>) -> Self {
        Self { inner }
    }
}

impl PeerHandler for Handler {
    fn answer(
        &self,
        from: NodeId,
        _: TraceContext,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let running = self.inner.upgrade().and_then(|inner| inner.running());
        Box::pin(async move {
            let question = rpc::decode_question(from, &body)?;
            let group = &question.group;
            let Some(running) = running.filter(|running| running.parts.group() == group) else {
                return Err(format!("this node keeps no log of the group {group:?}"));
            };
            let me = running.parts.caller.me;
            if question.to != me.number() {
                let (to, claim) = (question.to, me.claim);
                return Err(format!("this node has the claim {claim}, which is not number {to}"));
            }
            let from = Participant { node: from, claim: question.from_claim };
            let reply = running.parts.reply(from, question.rpc).await?;
            codec::encode(WIRE, &reply).map(Bytes::from)
        })
    }

    /// Nothing about the log is said without an answer.
    fn heard(&self, _: NodeId, _: TraceContext, _: Bytes) {}
}

impl RaftContext {
    async fn reply(&self, from: Participant, rpc: Rpc) -> Result<RaftAnswer, String> {
        if from.node == self.caller.me.node {
            return Err("this node does not follow itself".into());
        }
        match rpc {
            Rpc::Append(append) => {
                self.hear(from);
                let answered = self.raft.append_entries(append).await;
                answered.map(RaftAnswer::Append).map_err(|error| error.to_string())
            }
            Rpc::Vote(request) => {
                let answered = self.raft.vote(request).await;
                answered.map(RaftAnswer::Vote).map_err(|error| error.to_string())
            }
            Rpc::WouldVote { last_log_id } => {
                Ok(RaftAnswer::WouldVote(self.would_vote(from, last_log_id).await))
            }
            Rpc::Heir { vote, heir } => {
                self.keep_heir(vote, heir).await;
                Ok(RaftAnswer::Heir)
            }
            Rpc::Snapshot(piece) => self.take_piece(from, piece).await.map(RaftAnswer::Snapshot),
        }
    }

    async fn take_piece(&self, from: Participant, piece: Piece) -> Result<Received, String> {
        let mut incoming = self.incoming.lock().await;
        match incoming.take(from, self.group(), &piece)? {
            Taken::Answer(answer) => Ok(answer),
            Taken::Whole(bytes) => {
                self.hear(from);
                let Piece { vote, meta, .. } = piece;
                let snapshot = Box::new(std::io::Cursor::new(bytes));
                let snapshot = openraft::Snapshot { meta, snapshot };
                let installed = self.raft.install_full_snapshot(vote, snapshot).await;
                installed
                    .map(|response| Received::Installed(response.vote))
                    .map_err(|error| error.to_string())
            }
        }
    }
}
