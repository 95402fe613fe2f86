//! Openraft's network: sends its messages over the links between nodes.

use std::{fmt, future::Future, io, iter, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    OptionalSend, RaftNetwork, RaftNetworkFactory, Snapshot,
    error::{
        Fatal, InstallSnapshotError, NetworkError, RPCError, RaftError, ReplicationClosed,
        StreamingError, Unreachable,
    },
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};

use super::{
    codec::{self, WIRE},
    rpc::{self, CHUNK_BYTES, Piece, RaftAnswer, RaftRequest, Received, Rpc},
    types::{Participant, RaftVote, Types},
};
use nomad_core::model::{node_id::NodeId, trace::TraceContext};
use nomad_ports::{
    PeerTransport,
    peer_transport::{LinkError, Service},
};

/// How long after a failed message the next one to the same member waits.
const BACKOFF: Duration = Duration::from_millis(250);
/// How often a snapshot starts again when pieces got lost.
const AGAIN_MAX: u32 = 3;

type Failure<E = openraft::error::Infallible> = RPCError<u64, Participant, RaftError<u64, E>>;

/// Asks other members about the log of one group.
#[derive(Clone)]
pub struct Caller {
    pub me: Participant,
    pub group: Arc<str>,
    pub transport: Arc<dyn PeerTransport>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The links say so.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The answer is none.
    #[error("{from} gave no proper answer: {reason}")]
    Answer { from: NodeId, reason: String },
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caller({})", self.group)
    }
}

impl Caller {
    /// Asks a member, under a vote of this node's.
    ///
    /// # Errors
    /// When there is no proper answer.
    pub async fn ask(
        &self,
        to: Participant,
        vote: &RaftVote,
        rpc: Rpc,
        limit: Duration,
    ) -> Result<RaftAnswer, CallError> {
        let no_answer = |reason| CallError::Answer { from: to.node, reason };
        let (group, from_claim) = (self.group.to_string(), self.me.claim);
        let question = RaftRequest { group, from_claim, to: to.number(), rpc };
        let body = Bytes::from(codec::encode(WIRE, &question).map_err(no_answer)?);
        let trace = TraceContext::default();
        let answer = self.transport.ask(to.node, Service::Log, trace, body, limit).await?;
        rpc::decode_reply(self.me.number(), vote, &answer).map_err(no_answer)
    }
}

fn unexpected(from: Participant) -> CallError {
    CallError::Answer { from: from.node, reason: "the answer to another question".into() }
}

impl<E: std::error::Error> From<CallError> for Failure<E> {
    /// Openraft waits a little before it asks again.
    fn from(error: CallError) -> Self {
        Self::Unreachable(Unreachable::new(&error))
    }
}

impl RaftNetworkFactory<Types> for Caller {
    type Network = Line;

    async fn new_client(&mut self, _: u64, participant: &Participant) -> Line {
        Line { caller: self.clone(), to: *participant }
    }
}

/// The way to one member.
#[derive(Debug)]
pub struct Line {
    caller: Caller,
    to: Participant,
}

impl Line {
    async fn send_pieces(
        &self,
        vote: RaftVote,
        snapshot: Snapshot<Types>,
        limit: Duration,
    ) -> Result<RaftVote, CallError> {
        let (meta, bytes) = (snapshot.meta, snapshot.snapshot.into_inner());
        let (mut offset, mut again) = (0, 0);
        loop {
            let left = bytes.get(offset..).unwrap_or_default();
            let data = left.get(..CHUNK_BYTES).unwrap_or(left).to_vec();
            let (end, total) = (offset + data.len(), bytes.len() as u64);
            let piece = Piece { vote, meta: meta.clone(), total, offset: offset as u64, data };
            match self.caller.ask(self.to, &vote, Rpc::Snapshot(piece), limit).await? {
                RaftAnswer::Snapshot(Received::Installed(answered)) => return Ok(answered),
                RaftAnswer::Snapshot(Received::More) if end < bytes.len() => offset = end,
                RaftAnswer::Snapshot(Received::Again) if again < AGAIN_MAX => {
                    (offset, again) = (0, again + 1);
                }
                _ => return Err(unexpected(self.to)),
            }
        }
    }
}

impl RaftNetwork<Types> for Line {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        let (vote, is_first) = (request.vote, request.prev_log_id.is_none());
        let rpc = Rpc::Append(request);
        match self.caller.ask(self.to, &vote, rpc, option.hard_ttl()).await? {
            // What follows nothing conflicts with nothing.
            RaftAnswer::Append(AppendEntriesResponse::Conflict) if is_first => {
                Err(unexpected(self.to).into())
            }
            RaftAnswer::Append(response) => Ok(response),
            _ => Err(unexpected(self.to).into()),
        }
    }

    /// Snapshots go by [`full_snapshot`](Self::full_snapshot), so that they are looked over as a whole before they are
    /// installed; openraft then never calls this.
    async fn install_snapshot(
        &mut self,
        _: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        let error = io::Error::from(io::ErrorKind::Unsupported);
        Err(RPCError::Network(NetworkError::new(&error)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure> {
        let vote = request.vote;
        match self.caller.ask(self.to, &vote, Rpc::Vote(request), option.hard_ttl()).await? {
            RaftAnswer::Vote(response) => Ok(response),
            _ => Err(unexpected(self.to).into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let sent = self.send_pieces(vote, snapshot, option.hard_ttl());
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = sent => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(iter::repeat(BACKOFF))
    }
}
