//! What members say to each other: who may say what, and that nothing that comes in can do harm.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    EntryPayload, LeaderId, Membership, StoredMembership, Vote,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse},
};
use proptest::prelude::*;

use super::{
    RaftConsensus, RaftOptions,
    codec::{self, WIRE},
    incoming::{IncomingSnapshot, Taken},
    machine,
    rpc::{self, Piece, RaftAnswer, RaftRequest, Received, Rpc, SNAPSHOT_MAX},
    test_cluster::{id, table_of},
    types::{Participant, RaftEntry, RaftLogId, RaftMembership, RaftVote, SnapshotMeta, number_of},
};
use nomad_core::model::trace::TraceContext;
use nomad_doubles::MemoryNetwork;
use nomad_ports::{Consensus as _, PeerHandler};

/// The number of a node under its first claim.
fn number(n: u8) -> u64 {
    number_of(id(n), 1)
}

/// A question of a node under its first claim to another one.
fn question(group: &str, to: u8, rpc: Rpc) -> Vec<u8> {
    let question = RaftRequest { group: group.to_owned(), from_claim: 1, to: number(to), rpc };
    codec::encode(WIRE, &question).unwrap()
}

fn log_id(term: u64, index: u64) -> RaftLogId {
    RaftLogId { leader_id: LeaderId::new(term, number(1)), index }
}

fn elected(term: u64, n: u8) -> RaftVote {
    Vote::new_committed(term, number(n))
}

fn members(configs: &[&[u8]], named: &[(u64, u8)]) -> RaftMembership {
    let nodes = named.iter().map(|&(tag, n)| (tag, Participant { node: id(n), claim: 1 }));
    let configs = configs.iter().map(|config| config.iter().map(|n| number(*n)).collect());
    // Made from bytes, as a message is: openraft's own way fills in what is missing.
    let parts: (Vec<std::collections::BTreeSet<u64>>, BTreeMap<u64, Participant>) =
        (configs.collect(), nodes.collect());
    postcard::from_bytes(&postcard::to_allocvec(&parts).unwrap()).unwrap()
}

fn append(vote: RaftVote, prev: Option<RaftLogId>, entries: Vec<RaftEntry>) -> Rpc {
    Rpc::Append(AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit: None })
}

fn blank(term: u64, index: u64) -> RaftEntry {
    RaftEntry { log_id: log_id(term, index), payload: EntryPayload::Blank }
}

fn with(membership: RaftMembership) -> Rpc {
    let payload = EntryPayload::Membership(membership);
    append(elected(1, 1), None, vec![RaftEntry { log_id: log_id(1, 0), payload }])
}

fn piece(offset: u64, total: u64, data: Vec<u8>) -> Piece {
    let membership = members(&[&[1]], &[(number(1), 1)]);
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(1, 9)),
        last_membership: StoredMembership::new(Some(log_id(1, 0)), membership),
        snapshot_id: "nine".into(),
    };
    Piece { vote: elected(1, 1), meta, total, offset, data }
}

fn read(rpc: Rpc) -> Result<RaftRequest, String> {
    rpc::decode_question(id(1), &question("group-a", 2, rpc))
}

#[test]
fn proper_questions_are_read() {
    let right = [(number(1), 1), (number(2), 2)];
    for rpc in [
        append(elected(1, 1), None, Vec::new()),
        append(elected(2, 1), Some(log_id(1, 4)), vec![blank(1, 5), blank(2, 6)]),
        with(members(&[&[1], &[1, 2]], &right)),
        Rpc::Vote(VoteRequest::new(Vote::new(3, number(1)), Some(log_id(1, 4)))),
        Rpc::WouldVote { last_log_id: None },
        Rpc::Snapshot(piece(0, 5, vec![1, 2])),
        Rpc::Heir { vote: elected(1, 1), heir: number(2) },
    ] {
        let text = format!("{rpc:?}");
        assert_eq!(read(rpc).map(|question| question.group), Ok("group-a".to_owned()), "{text}");
    }
}

#[test]
fn questions_that_openraft_would_stumble_over_are_refused() {
    let far = RaftLogId { index: u64::MAX, ..log_id(1, 0) };
    let late = SnapshotMeta { last_log_id: Some(log_id(5, 9)), ..piece(0, 1, vec![1]).meta };
    let empty = SnapshotMeta { last_log_id: None, ..piece(0, 1, vec![1]).meta };
    for (rpc, reason) in [
        (append(elected(1, 2), None, Vec::new()), "not its own"),
        (append(Vote::new(1, number(1)), None, Vec::new()), "was not elected"),
        (append(elected(u64::MAX, 1), None, Vec::new()), "out of range"),
        (append(elected(1, 1), Some(far), vec![blank(1, 0)]), "out of range"),
        (append(elected(1, 1), None, vec![blank(1, 1)]), "does not follow"),
        (append(elected(2, 1), Some(log_id(2, 4)), vec![blank(1, 5)]), "does not follow"),
        (append(elected(1, 1), Some(log_id(1, 4)), vec![blank(2, 5)]), "later term"),
        (with(members(&[], &[])), "names no voters"),
        (with(members(&[&[]], &[])), "names no voters"),
        (with(members(&[&[1]], &[])), "names no voters"),
        (with(members(&[&[1]], &[(number(1), 2)])), "names no voters"),
        (with(Membership::default()), "names no voters"),
        (Rpc::Vote(VoteRequest::new(Vote::new(3, number(2)), None)), "not its own"),
        (Rpc::Vote(VoteRequest::new(elected(3, 1), None)), "cannot have been elected"),
        (Rpc::WouldVote { last_log_id: Some(far) }, "out of range"),
        (Rpc::Heir { vote: elected(1, 2), heir: number(2) }, "not its own"),
        (Rpc::Heir { vote: Vote::new(1, number(1)), heir: number(2) }, "was not elected"),
        (Rpc::Snapshot(piece(4, 5, vec![1, 2])), "a piece of 2 bytes"),
        (Rpc::Snapshot(piece(u64::MAX, 5, vec![1])), "a piece of 1 bytes"),
        (Rpc::Snapshot(piece(0, SNAPSHOT_MAX + 1, vec![1])), "a piece of 1 bytes"),
        (Rpc::Snapshot(piece(0, 5, Vec::new())), "a piece of 0 bytes"),
        (Rpc::Snapshot(Piece { meta: late, ..piece(0, 1, vec![1]) }), "later term"),
        (Rpc::Snapshot(Piece { meta: empty, ..piece(0, 1, vec![1]) }), "covers no entry"),
    ] {
        let text = format!("{rpc:?}");
        let error = read(rpc).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn answers_that_openraft_would_stumble_over_are_refused() {
    let (me, mine) = (number(1), elected(3, 1));
    let read =
        |reply: RaftAnswer| rpc::decode_reply(me, &mine, &codec::encode(WIRE, &reply).unwrap());
    read(RaftAnswer::Append(AppendEntriesResponse::HigherVote(elected(4, 2)))).unwrap();
    for reply in [
        RaftAnswer::Append(AppendEntriesResponse::PartialSuccess(None)),
        RaftAnswer::Append(AppendEntriesResponse::HigherVote(elected(2, 2))),
        RaftAnswer::Append(AppendEntriesResponse::HigherVote(elected(4, 1))),
        RaftAnswer::Append(AppendEntriesResponse::HigherVote(elected(u64::MAX, 2))),
        RaftAnswer::Vote(VoteResponse::new(elected(9, 1), None, false)),
        RaftAnswer::Snapshot(Received::Installed(elected(u64::MAX, 2))),
    ] {
        let text = format!("{reply:?}");
        assert!(read(reply).is_err(), "{text}");
    }
}

#[test]
fn a_snapshot_is_put_together_in_order_and_looked_over() {
    let whole = machine::encode_table(Some(&table_of("group-a", 1))).unwrap();
    let total = whole.len() as u64;
    let (first, second) = whole.split_at(10);
    let mut incoming = IncomingSnapshot::default();
    let mut take = |from, group, offset, data: &[u8]| {
        incoming.take(
            Participant { node: id(from), claim: 1 },
            group,
            &piece(offset, total, data.to_vec()),
        )
    };
    let again = Ok(Taken::Answer(Received::Again));
    assert_eq!(take(1, "group-a", 10, second), again, "the start is missing");
    assert_eq!(take(1, "group-a", 0, first), Ok(Taken::Answer(Received::More)));
    assert_eq!(take(2, "group-a", 10, second), again, "another sender");
    assert_eq!(take(1, "group-a", 10, second), again, "and so it starts anew");
    assert_eq!(take(1, "group-a", 0, first), Ok(Taken::Answer(Received::More)));
    assert_eq!(take(1, "group-a", 10, second), Ok(Taken::Whole(whole.clone())));
    take(1, "group-b", 0, first).unwrap();
    take(1, "group-b", 10, second).unwrap_err();
    let mut damaged = second.to_vec();
    damaged.iter_mut().for_each(|byte| *byte = 0xff);
    take(1, "group-a", 0, first).unwrap();
    take(1, "group-a", 10, &damaged).unwrap_err();
}

proptest! {
    #[test]
    fn no_bytes_at_all_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = rpc::decode_question(id(1), &bytes);
        let _ = rpc::decode_question(id(1), &[&[WIRE], &bytes[..]].concat());
        let _ = rpc::decode_reply(1, &elected(1, 1), &[&[WIRE], &bytes[..]].concat());
        let _ = machine::decode_table(&[&[codec::DISK], &bytes[..]].concat());
    }

    #[test]
    fn no_flipped_bit_harms(at in 0usize..400, bit in 0u8..8) {
        let right = [(number(1), 1), (number(2), 2)];
        let membership = members(&[&[1], &[1, 2]], &right);
        for rpc in [with(membership), Rpc::Snapshot(piece(0, 40, vec![7; 20]))] {
            let mut bytes = question("group-a", 2, rpc);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = rpc::decode_question(id(1), &bytes);
        }
    }
}

async fn asked(
    handler: &Arc<dyn PeerHandler>,
    from: u8,
    group: &str,
    rpc: Rpc,
) -> Result<RaftAnswer, String> {
    let body = Bytes::from(question(group, 2, rpc));
    let answer = handler.answer(id(from), TraceContext::default(), body).await?;
    codec::decode(WIRE, &answer)
}

#[tokio::test(start_paused = true)]
async fn only_the_group_that_is_kept_here_is_answered_for() {
    let dir = tempfile::tempdir().unwrap();
    let (links, _events) = MemoryNetwork::new().join(id(2), "node-2:2");
    let log = RaftConsensus::open(RaftOptions::new(dir.path(), id(2)), links).await.unwrap();
    let handler = log.handler();
    let heartbeat = || append(elected(1, 1), None, Vec::new());
    let refused = asked(&handler, 1, "group-a", heartbeat()).await.unwrap_err();
    assert!(refused.contains("keeps no log of the group \"group-a\""), "{refused}");
    log.follow("group-a".into(), 1).await.unwrap();
    asked(&handler, 1, "group-b", heartbeat()).await.unwrap_err();
    asked(&handler, 3, "group-a", heartbeat()).await.unwrap_err();
    let itself = append(elected(1, 2), None, Vec::new());
    asked(&handler, 2, "group-a", itself).await.unwrap_err();
    let answer = asked(&handler, 1, "group-a", heartbeat()).await.unwrap();
    assert!(matches!(answer, RaftAnswer::Append(AppendEntriesResponse::Success)), "{answer:?}");
    // The leader is known before any member is.
    let mut state = log.watch();
    state.wait_for(|state| state.leader == Some(id(1))).await.unwrap();
    // It has just been heard: nobody else gets a vote, nor the promise of one.
    let wish = Rpc::WouldVote { last_log_id: Some(log_id(9, 9)) };
    assert!(matches!(
        asked(&handler, 3, "group-a", wish.clone()).await,
        Ok(RaftAnswer::WouldVote(false))
    ));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(matches!(asked(&handler, 3, "group-a", wish).await, Ok(RaftAnswer::WouldVote(true))));
    drop(log);
    let gone = asked(&handler, 1, "group-a", heartbeat()).await.unwrap_err();
    assert!(gone.contains("keeps no log"), "{gone}");
}
