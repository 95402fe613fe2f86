//! Nodes that leave the log and come back under another claim.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::{Vote, raft::VoteRequest};

use super::{
    network::Caller,
    raft_consensus::RaftContext,
    rpc::{RaftAnswer, Rpc},
    test_cluster::{Cluster, GROUP, id, ids, seat},
    types::Participant,
};
use nomad_core::group::table::{Applied, Seat, TableCommand};
use nomad_ports::{Consensus as _, consensus::ConsensusError};

fn participant(n: u8, claim: u64) -> Participant {
    Participant { node: id(n), claim }
}

impl Cluster {
    fn parts(&self, n: u8) -> Arc<RaftContext> {
        Arc::clone(&self.log(n).0.running().unwrap().parts)
    }

    /// Asks as a node would that still knows the other under that claim.
    async fn ask(&self, caller: &Caller, to: Participant, rpc: Rpc) -> Result<RaftAnswer, String> {
        let vote = Vote::new(50, caller.me.number());
        let answer = caller.ask(to, &vote, rpc, Duration::from_secs(1)).await;
        answer.map_err(|error| error.to_string())
    }

    /// Changes the members on the leader, and has all of them finish their rescans.
    async fn change(&self, leader: u8, add: Vec<Seat>, remove: Vec<(u8, u64)>) {
        let remove = remove.into_iter().map(|(n, claim)| (id(n), claim)).collect();
        let propose = |command| self.log(leader).propose(command);
        assert_eq!(propose(TableCommand::Change { add, remove }).await, Ok(Applied::Done));
        let table = self.state(leader).table.unwrap();
        for node in table.configuration().everybody() {
            propose(TableCommand::Acknowledge { node, epoch: table.epoch() }).await.unwrap();
        }
        assert!(!self.state(leader).table.unwrap().configuration().is_joint());
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_left_and_came_back_does_not_vote_in_its_old_place() {
    let cluster = Cluster::formed(3, 2).await;
    // Node 2 does not hear that node 3 votes no more and goes.
    cluster.network.partition(&[&[id(2)], &[id(1), id(3), id(4), id(5)]]);
    cluster.log(1).arrange(ids([1, 4, 5]), ids([2])).await.unwrap();
    cluster.change(1, Vec::new(), vec![(3, 1)]).await;
    cluster.log(3).leave().await.unwrap();
    cluster.log(3).follow(GROUP.to_owned(), 2).await.unwrap();
    let term = cluster.state(1).term;
    cluster.network.partition(&[&[id(3)], &[id(1), id(4), id(5)]]);
    cluster.network.heal(id(2), id(3));
    assert_eq!(cluster.state(2).voters, ids(1..=3), "it counts on the old voters");
    let would_vote = Rpc::WouldVote { last_log_id: None };
    let answer = cluster.ask(&cluster.parts(2).caller, participant(3, 2), would_vote).await;
    assert!(matches!(answer, Ok(RaftAnswer::WouldVote(true))), "they hear each other: {answer:?}");
    cluster.log(2).campaign();
    tokio::time::sleep(Duration::from_secs(30)).await;
    // With two votes of three it would lead.
    assert_eq!(cluster.parts(3).store.read(|kept| kept.vote), None);
    assert_ne!(cluster.state(2).leader, Some(id(2)));
    assert_eq!((cluster.state(3).term, cluster.state(3).leader), (0, None));
    assert_eq!(cluster.set(1, true).await, Ok(Applied::Done));
    assert_eq!((cluster.state(1).term, cluster.state(1).leader), (term, Some(id(1))));
    cluster.network.heal_all();
    // As a newcomer it follows, and votes again.
    cluster.change(1, vec![seat(3, 2)], Vec::new()).await;
    cluster.log(1).arrange(ids([1, 4, 5]), ids([2, 3])).await.unwrap();
    cluster.until(1, |s| s.caught_up == ids(1..=5)).await;
    cluster.log(1).arrange(ids(1..=3), ids(4..=5)).await.unwrap();
    for n in 1..=5 {
        cluster.until(n, |s| s.voters == ids(1..=3) && s.learners == ids(4..=5)).await;
    }
    cluster.agree(1).await;
    // Without node 1, two voters are left: whoever leads has the vote of node 3.
    cluster.network.partition(&[&[id(1)], &[id(2), id(3), id(4), id(5)]]);
    let leader = cluster.new_leader([2, 3], term).await;
    assert_eq!(cluster.set(leader, false).await, Ok(Applied::Done));
    cluster.until(3, |s| s.table.as_ref().is_some_and(|t| !t.settings.migration)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_meant_for_an_old_claim_or_said_under_another_is_refused() {
    let cluster = Cluster::formed(3, 1).await;
    cluster.log(4).leave().await.unwrap();
    cluster.log(4).follow(GROUP.to_owned(), 2).await.unwrap();
    let parts = cluster.parts(1);
    let would_vote = || Rpc::WouldVote { last_log_id: None };
    let refused = cluster.ask(&parts.caller, participant(4, 1), would_vote()).await.unwrap_err();
    assert!(refused.contains("this node has the claim 2"), "{refused}");
    let answer = cluster.ask(&parts.caller, participant(4, 2), would_vote()).await.unwrap();
    assert!(
        matches!(answer, RaftAnswer::WouldVote(true)),
        "the node itself has nothing against it"
    );
    let vote = Rpc::Vote(VoteRequest::new(Vote::new(50, parts.caller.me.number()), None));
    let refused = cluster.ask(&parts.caller, participant(4, 1), vote.clone()).await.unwrap_err();
    assert!(refused.contains("this node has the claim 2"), "{refused}");
    let mut other = parts.caller.clone();
    other.me.claim = 7;
    let refused = cluster.ask(&other, participant(4, 2), vote).await.unwrap_err();
    assert!(refused.contains("not its own under claim 7"), "{refused}");
    assert_eq!(cluster.parts(4).store.read(|kept| kept.vote), None);
    // Nor does the leader reach it, until it is arranged anew.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.state(4).table, None);
}

#[tokio::test(start_paused = true)]
async fn a_member_under_a_new_claim_is_missing_until_it_is_arranged_anew() {
    let cluster = Cluster::formed(3, 1).await;
    cluster.log(4).leave().await.unwrap();
    cluster.change(1, Vec::new(), vec![(4, 1)]).await;
    cluster.until(1, |s| s.learners == ids([4])).await;
    cluster.change(1, vec![seat(4, 2)], Vec::new()).await;
    cluster.until(1, |s| s.learners.is_empty() && s.caught_up == ids(1..=3)).await;
    cluster.log(4).follow(GROUP.to_owned(), 2).await.unwrap();
    cluster.log(1).arrange(ids(1..=3), ids([4])).await.unwrap();
    cluster.until(1, |s| s.learners == ids([4]) && s.caught_up == ids(1..=4)).await;
    let numbers = cluster.parts(1).look().await.unwrap().membership;
    let numbers: BTreeSet<_> = numbers.nodes().map(|(number, _)| *number).collect();
    let named = [(1, 1), (2, 1), (3, 1), (4, 2)].map(|(n, claim)| participant(n, claim).number());
    assert_eq!(numbers, named.into());
    cluster.until(4, |s| s.table == cluster.state(1).table).await;
    // Who has no seat does not get to vote.
    let refused = cluster.log(1).arrange(ids([1, 2, 9]), ids([3])).await;
    assert_eq!(refused, Err(ConsensusError::NoSeat { node: id(9) }));
    cluster.until(1, |s| s.voters == ids(1..=3) && s.learners == ids([4])).await;
}

#[tokio::test(start_paused = true)]
async fn following_again_under_the_same_claim_forgets_nothing() {
    let mut cluster = Cluster::formed(3, 0).await;
    assert_eq!(cluster.set(1, true).await, Ok(Applied::Done));
    cluster.agree(1).await;
    let kept = cluster.parts(3).store.read(Clone::clone);
    cluster.log(3).0.stop().await;
    cluster.log(3).follow(GROUP.to_owned(), 1).await.unwrap();
    let again = cluster.parts(3).store.read(Clone::clone);
    assert_eq!((again.bond, again.vote), (kept.bond, kept.vote));
    assert!(again.log.len() >= kept.log.len());
    cluster.kill(3).await;
    cluster.start(3).await;
    assert_eq!(cluster.parts(3).caller.me, participant(3, 1));
    cluster.agree(1).await;
}
