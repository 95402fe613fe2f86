//! Calls elections: when the leader has been silent for its lease, the voters take turns by their numbers, and each asks
//! the others first whether they would vote for it. Also ends a pause of the heartbeats.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tracing::{debug, info};

use super::{
    options::RaftTimes,
    raft_consensus::{RaftContext, RaftReading},
    rpc::{RaftAnswer, Rpc},
    types::{Participant, RaftLogId, RaftMembership},
};

/// How long after the lease the first turn is, so that the lease is over at the others too.
const MARGIN: Duration = Duration::from_millis(50);

/// When a voter stands for election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Not while things are as they are.
    Never,
    In(Duration),
    Now,
}

/// Calls elections until the log stops.
pub async fn run(parts: Arc<RaftContext>) {
    let mut first = false;
    let mut retry = None;
    while let Some(look) = parts.look().await {
        let due = retry.take().map_or_else(|| due(&look, &parts, first), Due::In);
        let wait = match due {
            Due::Never => {
                first = false;
                parts.times.election_min
            }
            Due::In(wait) => wait,
            Due::Now => {
                if parts.has_consent(&look).await {
                    info!(group = parts.group(), "stands for election");
                    let _ = parts.raft.trigger().elect().await;
                }
                // Others may be asking for votes now: one turn for them.
                retry = Some(parts.times.heartbeat / 2 + turn(&look, &parts, first));
                continue;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = parts.campaign.notified() => first = true,
        }
    }
}

fn due(look: &RaftReading, parts: &RaftContext, first: bool) -> Due {
    let voters = look.membership.voter_ids().count();
    if look.leads || !look.membership.voter_ids().any(|voter| voter == parts.caller.me.number()) {
        return Due::Never;
    }
    if voters == 1 {
        return Due::Now;
    }
    let turn = turn(look, parts, first);
    // A vote that was not won is waited for no longer than a question takes.
    let patience = if look.vote.committed { parts.times.election_min } else { Duration::ZERO };
    match (patience + MARGIN + turn).checked_sub(look.silent()) {
        Some(wait) if !wait.is_zero() => Due::In(wait),
        _ => Due::Now,
    }
}

/// Returns when this node's turn comes, after the first one's: by its place among the voters, the last leader left out.
fn turn(look: &RaftReading, parts: &RaftContext, first: bool) -> Duration {
    let RaftTimes { election_min, election_max, .. } = parts.times;
    let turns = election_max.saturating_sub(election_min);
    let leader = look.vote.committed.then_some(look.vote.leader_id.node_id);
    let me = parts.caller.me.number();
    let voters = || look.membership.voter_ids();
    let count = |count: usize| count.try_into().unwrap_or(u32::MAX);
    match parts.heir(look) {
        Some(heir) if heir == me => Duration::ZERO,
        Some(_) => turns,
        None if first => Duration::ZERO,
        None => {
            let before = voters().filter(|voter| *voter < me && Some(*voter) != leader).count();
            turns / count(voters().count().max(1)) * count(before)
        }
    }
}

impl RaftContext {
    /// Tells whether this node would vote for `candidate`, whose log ends with `last_log_id`: no leader is heard, none has
    /// named another heir, and that log is no shorter.
    pub async fn would_vote(&self, candidate: Participant, last_log_id: Option<RaftLogId>) -> bool {
        let Some(look) = self.look().await else { return false };
        if self.heir(&look).is_some_and(|heir| heir != candidate.number()) {
            return false;
        }
        let is_heard = if look.leads {
            let silent = self.raft.metrics().borrow().millis_since_quorum_ack;
            let lease = self.times.election_min.as_millis();
            !*self.paused.borrow() && silent.is_some_and(|silent| u128::from(silent) < lease)
        } else {
            look.vote.committed && look.silent() <= self.times.election_min
        };
        !is_heard && self.store.read(|kept| kept.last_log_id()) <= last_log_id
    }

    /// Asks all voters at once whether they would vote for this node. Nothing changes by being asked.
    async fn has_consent(&self, look: &RaftReading) -> bool {
        let last_log_id = self.store.read(|kept| kept.last_log_id());
        let me = self.caller.me.number();
        let mut consent = vec![me];
        let others = look.membership.voter_ids().filter(|voter| *voter != me);
        let mut asked: FuturesUnordered<_> = others
            .filter_map(|voter| Some((voter, *look.membership.get_node(&voter)?)))
            .map(async |(voter, participant)| {
                let rpc = Rpc::WouldVote { last_log_id };
                let reply =
                    self.caller.ask(participant, &look.vote, rpc, self.times.heartbeat).await;
                matches!(reply, Ok(RaftAnswer::WouldVote(true))).then_some(voter)
            })
            .collect();
        while !is_majority(&look.membership, &consent) {
            match asked.next().await {
                Some(Some(voter)) => consent.push(voter),
                Some(None) => {}
                None => {
                    debug!(group = self.group(), agreed = consent.len(), "no majority would vote");
                    return false;
                }
            }
        }
        true
    }
}

/// Tells whether these voters are a majority: in a joint membership, of both halves.
fn is_majority(membership: &RaftMembership, voters: &[u64]) -> bool {
    let is_most = |config: &std::collections::BTreeSet<u64>| {
        2 * config.iter().filter(|voter| voters.contains(voter)).count() > config.len()
    };
    membership.get_joint_config().iter().all(is_most)
}

/// Ends pauses of the heartbeats: with the leadership, or when it has led to nothing.
pub async fn end_pauses(parts: Arc<RaftContext>) {
    let mut paused = parts.paused.subscribe();
    let mut metrics = parts.raft.metrics();
    while paused.wait_for(|paused| *paused).await.is_ok() {
        tokio::select! {
            () = tokio::time::sleep(3 * parts.times.election_max) => {}
            _ = metrics.wait_for(|metrics| !metrics.state.is_leader()) => {}
            _ = paused.wait_for(|paused| !*paused) => {}
        }
        parts.pause(false);
    }
}
