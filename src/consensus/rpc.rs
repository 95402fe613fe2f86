//! The messages between members about the log, and their checks: version byte, group, sender and receiver, message.

use std::collections::BTreeSet;

use openraft::{
    EntryPayload,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse},
};
use serde::{Deserialize, Serialize};

use super::{
    codec::{self, WIRE},
    types::{
        Participant, RaftEntry, RaftLogId, RaftMembership, RaftRecord, RaftVote, SnapshotMeta,
        Types,
    },
};
use nomad_core::model::node_id::NodeId;

/// The longest message.
pub const MESSAGE_MAX: usize = 4 << 20;
/// The bytes of a snapshot in one message.
pub const CHUNK_BYTES: usize = 256 << 10;
/// The longest snapshot.
pub const SNAPSHOT_MAX: u64 = 64 << 20;
/// The most nodes that a membership may name, and the longest name of a group.
const NODES_MAX: usize = 10_000;
const GROUP_NAME_MAX: usize = 256;
/// Terms and indices that no group gets to; beyond them sums could overflow.
const NUMBER_MAX: u64 = 1 << 56;

/// A question about the log of a group, from one participant to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RaftRequest {
    pub group: String,
    /// The claim under which the sender takes part.
    pub from_claim: u64,
    /// The number of the participant that is asked.
    pub to: u64,
    pub rpc: Rpc,
}

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Rpc {
    /// The leader's entries; without any it is its heartbeat.
    Append(AppendEntriesRequest<Types>),
    /// A candidate wants a vote.
    Vote(VoteRequest<u64>),
    /// A voter wants to know whether it would get a vote.
    WouldVote { last_log_id: Option<RaftLogId> },
    /// A piece of the leader's snapshot.
    Snapshot(Piece),
    /// The leader stops its heartbeats, so that this voter leads next.
    Heir { vote: RaftVote, heir: u64 },
}

/// A piece of a snapshot. The pieces come in order; the last one fills it up to `total`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    pub vote: RaftVote,
    pub meta: SnapshotMeta,
    pub total: u64,
    pub offset: u64,
    pub data: Vec<u8>,
}

/// The answer to the question of the same name.
#[derive(Debug, Serialize, Deserialize)]
pub enum RaftAnswer {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    WouldVote(bool),
    Snapshot(Received),
    Heir,
}

/// What became of a piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Received {
    /// It was taken.
    More,
    /// It was the last one, and the snapshot is installed, unless a higher vote is given.
    Installed(RaftVote),
    /// Pieces before it are missing: start again.
    Again,
}

/// Reads a question, and refuses what its sender may not say or what openraft would stumble over.
///
/// # Errors
/// Says what is wrong.
pub fn decode_question(from: NodeId, bytes: &[u8]) -> Result<RaftRequest, String> {
    if bytes.len() > MESSAGE_MAX {
        return Err(format!("a message of {} bytes is longer than {MESSAGE_MAX}", bytes.len()));
    }
    let question: RaftRequest = codec::decode(WIRE, bytes)?;
    if question.group.len() > GROUP_NAME_MAX {
        return Err(format!("a group's name of {} bytes is too long", question.group.len()));
    }
    let from = Participant { node: from, claim: question.from_claim };
    match &question.rpc {
        Rpc::Append(append) => check_append(&from, append)?,
        Rpc::Vote(VoteRequest { vote, last_log_id }) => {
            check_sender(&from, vote)?;
            if vote.committed {
                return Err("a candidate cannot have been elected yet".into());
            }
            check_log_id(last_log_id.as_ref())?;
        }
        Rpc::WouldVote { last_log_id } => check_log_id(last_log_id.as_ref())?,
        Rpc::Snapshot(piece) => check_piece(&from, piece)?,
        Rpc::Heir { vote, .. } => check_leader(&from, vote)?,
    }
    Ok(question)
}

/// The leader or candidate of a message is the node that sent it, which the link has proved, under the claim it names.
fn check_sender(from: &Participant, vote: &RaftVote) -> Result<(), String> {
    let (term, named) = (vote.leader_id.term, vote.leader_id.node_id);
    if named != from.number() {
        let Participant { node, claim } = from;
        return Err(format!("{node} speaks for number {named}, not its own under claim {claim}"));
    }
    check_number("term", term)
}

fn check_number(what: &str, number: u64) -> Result<(), String> {
    if number > NUMBER_MAX { Err(format!("the {what} {number} is out of range")) } else { Ok(()) }
}

fn check_log_id(log_id: Option<&RaftLogId>) -> Result<(), String> {
    let Some(log_id) = log_id else { return Ok(()) };
    check_number("term", log_id.leader_id.term)?;
    check_number("index", log_id.index)
}

fn check_append(from: &Participant, append: &AppendEntriesRequest<Types>) -> Result<(), String> {
    let AppendEntriesRequest { vote, prev_log_id, entries, leader_commit } = append;
    check_leader(from, vote)?;
    check_log_id(prev_log_id.as_ref())?;
    check_log_id(leader_commit.as_ref())?;
    let mut prev = *prev_log_id;
    for RaftEntry { log_id, payload } in entries {
        check_log_id(Some(log_id))?;
        let next = prev.map_or(0, |prev| prev.index + 1);
        if log_id.index != next || Some(log_id.leader_id) < prev.map(|prev| prev.leader_id) {
            return Err(format!("entry {log_id} does not follow its predecessor"));
        }
        match payload {
            EntryPayload::Blank
            | EntryPayload::Normal(RaftRecord::Do(_) | RaftRecord::Found(_)) => {}
            EntryPayload::Membership(membership) => check_membership(membership)?,
        }
        prev = Some(*log_id);
    }
    if prev.is_some_and(|last| last.leader_id > vote.leader_id) {
        return Err("an entry is of a later term than its leader".into());
    }
    Ok(())
}

fn check_leader(from: &Participant, vote: &RaftVote) -> Result<(), String> {
    check_sender(from, vote)?;
    if vote.committed { Ok(()) } else { Err(format!("{} was not elected", from.node)) }
}

/// Each voter is named, and each name's number is right.
fn check_membership(membership: &RaftMembership) -> Result<(), String> {
    let configs = membership.get_joint_config();
    let is_made = (1..=2).contains(&configs.len()) && !configs.iter().any(BTreeSet::is_empty);
    let are_named = membership.voter_ids().all(|voter| membership.get_node(&voter).is_some());
    let are_right = membership.nodes().all(|(number, named)| named.number() == *number);
    let are_few = membership.nodes().count() <= NODES_MAX;
    if is_made && are_named && are_right && are_few {
        Ok(())
    } else {
        Err("a membership that names no voters, or too many nodes, or not by their numbers".into())
    }
}

fn check_piece(from: &Participant, piece: &Piece) -> Result<(), String> {
    let Piece { vote, meta, total, offset, data } = piece;
    check_leader(from, vote)?;
    check_log_id(meta.last_log_id.as_ref())?;
    check_log_id(meta.last_membership.log_id().as_ref())?;
    check_membership(meta.last_membership.membership())?;
    if meta.last_log_id.is_none() || meta.last_membership.log_id() > &meta.last_log_id {
        return Err("a snapshot that covers no entry".into());
    }
    if meta.last_log_id.is_some_and(|last| last.leader_id > vote.leader_id) {
        return Err("a snapshot of a later term than its leader".into());
    }
    let end = offset.checked_add(data.len() as u64);
    let fits = end.is_some_and(|end| end <= *total) && *total <= SNAPSHOT_MAX;
    if !fits || data.is_empty() || data.len() > CHUNK_BYTES || meta.snapshot_id.len() > 256 {
        return Err(format!("a piece of {} bytes at {offset} of {total}", data.len()));
    }
    Ok(())
}

/// Reads an answer, and refuses what openraft would stumble over. `me` has asked under `vote`, from `prev` on.
///
/// # Errors
/// Says what is wrong.
pub fn decode_reply(me: u64, vote: &RaftVote, bytes: &[u8]) -> Result<RaftAnswer, String> {
    if bytes.len() > MESSAGE_MAX {
        return Err(format!("an answer of {} bytes is longer than {MESSAGE_MAX}", bytes.len()));
    }
    let reply: RaftAnswer = codec::decode(WIRE, bytes)?;
    let higher = match &reply {
        RaftAnswer::Append(AppendEntriesResponse::PartialSuccess(_)) => {
            return Err("half an append was not asked for".into());
        }
        RaftAnswer::Append(AppendEntriesResponse::HigherVote(higher)) if higher <= vote => {
            return Err(format!("the vote {higher} is not higher than {vote}"));
        }
        RaftAnswer::Append(AppendEntriesResponse::HigherVote(higher)) => Some(higher),
        RaftAnswer::Vote(VoteResponse { vote, last_log_id, .. }) => {
            check_log_id(last_log_id.as_ref())?;
            Some(vote)
        }
        RaftAnswer::Snapshot(Received::Installed(vote)) => Some(vote),
        RaftAnswer::Append(_)
        | RaftAnswer::WouldVote(_)
        | RaftAnswer::Snapshot(_)
        | RaftAnswer::Heir => None,
    };
    if let Some(higher) = higher {
        check_number("term", higher.leader_id.term)?;
        if higher.leader_id.node_id == me && higher.leader_id.term > vote.leader_id.term {
            return Err(format!("the vote {higher} was never asked for"));
        }
    }
    Ok(reply)
}
