//! Publishes the state of the log at this node whenever it changes.

use std::{sync::Arc, time::Duration};

use openraft::ServerState;
use tokio::{sync::watch, time::Instant};

use super::{
    machine::AppliedState,
    raft_consensus::RaftContext,
    types::{Participant, RaftLogId, RaftMetrics},
};
use nomad_core::group::log_state::LogState;

/// A member that lacks at most so many entries counts as caught up.
const BEHIND_MAX: u64 = 16;

/// Publishes until the log stops or fails.
pub async fn run(parts: Arc<RaftContext>, log_state: watch::Sender<LogState>) {
    let (mut metrics, mut applied) = (parts.raft.metrics(), parts.applied.clone());
    let mut elected = None;
    loop {
        let (seen, state) =
            (metrics.borrow_and_update().clone(), applied.borrow_and_update().clone());
        if elected.is_none_or(|(term, _)| term != seen.current_term) {
            // Not each time: openraft reports anew whenever it is looked at.
            elected = parts.look().await.map(|look| (seen.current_term, look.since));
        }
        let next = parts.log_state(&seen, &state, elected.and_then(|(_, since)| since));
        let is_over = next.failed.is_some();
        publish(&log_state, next);
        let is_open = !is_over
            && tokio::select! {
                changed = metrics.changed() => changed.is_ok(),
                changed = applied.changed() => changed.is_ok(),
            };
        if !is_open {
            let last = metrics.borrow().clone();
            let state = applied.borrow().clone();
            let mut next = parts.log_state(&last, &state, None);
            next.failed.get_or_insert_with(|| parts.failure());
            next.leader = None;
            return publish(&log_state, next);
        }
    }
}

/// Publishes a state unless it is the same.
pub fn publish(log_state: &watch::Sender<LogState>, next: LogState) {
    log_state.send_if_modified(|state| {
        let is_same = is_same(state, &next);
        if !is_same {
            *state = next;
        }
        !is_same
    });
}

/// Compares without a look into a table that is the same one.
fn is_same(a: &LogState, b: &LogState) -> bool {
    let same_table = match (&a.table, &b.table) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    };
    let rest = |state: &LogState| {
        let LogState { applied, term, leader, quorum_silent_ms, .. } = state;
        (*applied, *term, *leader, *quorum_silent_ms)
    };
    same_table
        && rest(a) == rest(b)
        && (&a.voters, &a.settled_voters, &a.learners, &a.caught_up, &a.failed)
            == (&b.voters, &b.settled_voters, &b.learners, &b.caught_up, &b.failed)
}

impl RaftContext {
    /// Makes the state of what openraft reports. `since` is when the vote of this term was last heard of, early in it.
    pub fn log_state(
        &self,
        metrics: &RaftMetrics,
        state: &AppliedState,
        since: Option<Instant>,
    ) -> LogState {
        // What is committed: a change that a leader has only begun may never come to be.
        let membership = state.membership.membership();
        let leads = metrics.state == ServerState::Leader;
        // A leader that was restarted takes itself for one still, until a majority says so or names another.
        let is_confirmed =
            metrics.millis_since_quorum_ack.is_some() || membership.voter_ids().count() == 1;
        let quorum_silent_ms = leads.then(|| self.quorum_silent_ms(metrics, since));
        // A node under an older claim than its seat's is another participant: as the member that it is now it is missing.
        let is_present = |participant: &&Participant| {
            let seat = state.table.as_ref().and_then(|table| table.seats.get(&participant.node));
            seat.is_none_or(|seat| seat.claim == participant.claim)
        };
        let listed = |number: &u64| {
            membership.get_node(number).filter(is_present).map(|participant| participant.node)
        };
        let last = metrics.last_log_index.unwrap_or_default();
        let replication = metrics.replication.iter().filter(|_| leads).flatten();
        let has_most = |(number, matched): (&u64, &Option<RaftLogId>)| {
            let behind = last.saturating_sub(matched.as_ref()?.index);
            if behind <= BEHIND_MAX { listed(number) } else { None }
        };
        let settled = membership.get_joint_config().first().into_iter().flatten();
        LogState {
            table: state.table.clone(),
            applied: state.applied.map_or(0, |applied| applied.index),
            term: metrics.current_term,
            leader: self.leader_in(metrics).filter(|_| !leads || is_confirmed),
            voters: membership.voter_ids().filter_map(|number| listed(&number)).collect(),
            settled_voters: settled.filter_map(listed).collect(),
            learners: membership.learner_ids().filter_map(|number| listed(&number)).collect(),
            quorum_silent_ms,
            caught_up: replication.filter_map(has_most).collect(),
            failed: metrics.running_state.is_err().then(|| self.failure()),
        }
    }

    /// Until the first member has answered, it counts from the election on. Up to two heartbeats it is 0, so that a healthy group
    /// does not publish a change all the time.
    fn quorum_silent_ms(&self, metrics: &RaftMetrics, since: Option<Instant>) -> u64 {
        let silent = metrics.millis_since_quorum_ack.unwrap_or_else(|| {
            let silent = since.map_or(Duration::ZERO, |since| since.elapsed());
            silent.as_millis().try_into().unwrap_or(u64::MAX)
        });
        let calm = u128::from(silent) < 2 * self.times.heartbeat.as_millis();
        if calm { 0 } else { silent }
    }
}
