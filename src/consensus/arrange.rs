//! Changes who votes and who follows, in steps that can each be the last: newcomers follow first, then the voters change,
//! then those who are gone are dropped.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    ChangeMembers,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};

use super::{
    raft_consensus::Parts,
    types::{Participant, RaftMembership},
};
use crate::{core::node_id::NodeId, ports::consensus::ConsensusError};

/// Add, joint, uniform, remove; and once more for what an earlier call has left half done.
const STEPS_MAX: usize = 8;

type Change = ChangeMembers<u64, Participant>;

impl Parts {
    /// Brings the membership to these voters and learners. Without voters those of before stay.
    pub async fn arrange(
        &self,
        voters: &BTreeSet<NodeId>,
        learners: &BTreeSet<NodeId>,
    ) -> Result<(), ConsensusError> {
        let _one_at_a_time = self.arranging.lock().await;
        for _ in 0..STEPS_MAX {
            let look = self.look().await.ok_or_else(|| self.over())?;
            if !look.leads {
                return Err(ConsensusError::NotLeader { leader: self.leader() });
            }
            let Some(change) = next_step(&look.membership, voters, learners) else { return Ok(()) };
            match self.raft.change_membership(change, true).await {
                Ok(_) => {}
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) => tokio::time::sleep(self.times.heartbeat / 2).await,
                Err(error) => return Err(self.refusal(error)),
            }
        }
        Err(ConsensusError::Unknown)
    }
}

fn tags(nodes: &BTreeSet<NodeId>) -> BTreeSet<u64> {
    nodes.iter().map(NodeId::tag).collect()
}

/// Returns what comes next on the way to these voters and learners.
fn next_step(
    membership: &RaftMembership,
    voters: &BTreeSet<NodeId>,
    learners: &BTreeSet<NodeId>,
) -> Option<Change> {
    let wanted = voters.union(learners);
    let missing: BTreeMap<_, _> = wanted
        .filter(|node| membership.get_node(&node.tag()).is_none())
        .map(|&node| (node.tag(), Participant { node }))
        .collect();
    if !missing.is_empty() {
        return Some(Change::AddNodes(missing));
    }
    let (voters, learners) = (tags(voters), tags(learners));
    if !voters.is_empty() && *membership.get_joint_config() != [voters.clone()] {
        return Some(Change::ReplaceAllVoters(voters));
    }
    let is_gone = |tag: &u64| {
        let votes = membership.voter_ids().any(|voter| voter == *tag);
        !votes && !learners.contains(tag)
    };
    let gone: BTreeSet<_> = membership.nodes().map(|(tag, _)| *tag).filter(is_gone).collect();
    (!gone.is_empty()).then_some(Change::RemoveNodes(gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(range: std::ops::Range<u8>) -> BTreeSet<NodeId> {
        range.map(|n| NodeId::from_key([n; 32])).collect()
    }

    fn membership(configs: &[BTreeSet<NodeId>], all: &BTreeSet<NodeId>) -> RaftMembership {
        let named = all.iter().map(|&node| (node.tag(), Participant { node }));
        RaftMembership::new(configs.iter().map(tags).collect(), named.collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn newcomers_follow_before_they_vote_and_the_gone_are_dropped_last() {
        let (old, new) = (nodes(1..4), nodes(2..5));
        let start = membership(std::slice::from_ref(&old), &old);
        let step = next_step(&start, &new, &BTreeSet::new()).unwrap();
        assert!(matches!(&step, Change::AddNodes(added) if added.len() == 1), "{step:?}");
        let added = membership(std::slice::from_ref(&old), &nodes(1..5));
        let step = next_step(&added, &new, &BTreeSet::new()).unwrap();
        assert_eq!(step, Change::ReplaceAllVoters(tags(&new)));
        let joint = membership(&[old, new.clone()], &nodes(1..5));
        assert_eq!(next_step(&joint, &new, &BTreeSet::new()), Some(step));
        let changed = membership(std::slice::from_ref(&new), &nodes(1..5));
        let step = next_step(&changed, &new, &BTreeSet::new()).unwrap();
        assert_eq!(step, Change::RemoveNodes(tags(&nodes(1..2))));
        assert_eq!(next_step(&changed, &new, &nodes(1..2)), None);
    }
}
