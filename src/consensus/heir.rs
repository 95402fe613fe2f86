//! Hands the lead over to a chosen voter, the heir: the leader stops its heartbeats and tells the voters who the heir is, and
//! the others do not stand for election.
//!
//! Without that, the next voter in turn would win when the leader's lease ends. It might hand over again at once, to
//! another voter that does the same, and so on for ever.

use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;
use tracing::debug;

use super::{
    raft_consensus::{RaftContext, RaftReading},
    rpc::{RaftAnswer, Rpc},
    types::{Participant, RaftVote},
};
use nomad_core::model::node_id::NodeId;

/// How often a voter that does not answer is told.
const TELLS_MAX: u32 = 3;

/// The member that the leader has named to lead next.
#[derive(Debug, Clone, Copy)]
pub struct Heir {
    /// The vote of the leader that named it. Under any other vote the naming does not count.
    vote: RaftVote,
    heir: u64,
    /// Until when the others make way.
    until: Instant,
}

impl RaftContext {
    /// Stops the heartbeats in favour of a voter, or starts them again.
    pub fn make_way(self: &Arc<Self>, heir: Option<NodeId>) {
        self.pause(heir.is_some());
        if let Some(heir) = heir {
            let parts = Arc::clone(self);
            tokio::spawn(async move { parts.name_heir(heir).await });
        }
    }

    async fn name_heir(&self, heir: NodeId) {
        let Some(look) = self.look().await.filter(|look| look.leads) else { return };
        let voters = || look.membership.voter_ids();
        let named = |number| look.membership.get_node(&number).copied();
        let Some(heir) = voters().filter_map(named).find(|voter| voter.node == heir) else {
            return;
        };
        let (vote, me) = (look.vote, self.caller.me);
        self.keep_heir(vote, heir.number()).await;
        let others = voters().filter_map(named).filter(|voter| *voter != me);
        join_all(others.map(|voter| self.tell_heir(voter, vote, heir))).await;
    }

    async fn tell_heir(&self, voter: Participant, vote: RaftVote, heir: Participant) {
        for _ in 0..TELLS_MAX {
            let (rpc, limit) = (Rpc::Heir { vote, heir: heir.number() }, self.times.heartbeat);
            match self.caller.ask(voter, &vote, rpc, limit).await {
                Ok(RaftAnswer::Heir) => return,
                answer => {
                    debug!(voter = %voter.node, ?answer, "was not told who leads next");
                    tokio::time::sleep(limit / 4).await;
                }
            }
        }
    }

    /// Records the member that is to lead next, if the present leader says so. It is valid for a limited time.
    pub async fn keep_heir(&self, vote: RaftVote, heir: u64) {
        if self.look().await.is_none_or(|look| look.vote != vote) {
            return;
        }
        let until = now() + self.times.election_min + self.times.election_max;
        *self.heir.lock() = Some(Heir { vote, heir, until });
        if heir == self.caller.me.number() {
            self.campaign.notify_one();
        }
    }

    /// Returns who is to lead next, when the leader of this vote has named one lately.
    pub fn heir(&self, look: &RaftReading) -> Option<u64> {
        let heir = *self.heir.lock();
        heir.filter(|heir| heir.vote == look.vote && now() < heir.until).map(|heir| heir.heir)
    }
}

#[expect(clippy::disallowed_methods, reason = "tokio's clock, which openraft reads too")]
fn now() -> Instant {
    Instant::now()
}
