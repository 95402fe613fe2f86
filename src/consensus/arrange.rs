//! Changes the voters and the learners in steps. After each step the log can go on: first newcomers follow, then the voters
//! change, then those who are gone are removed.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    ChangeMembers,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};

use super::{
    raft_consensus::RaftContext,
    types::{Participant, RaftMembership},
};
use nomad_core::{group::table::GroupTable, model::node_id::NodeId};
use nomad_ports::consensus::ConsensusError;

/// Add, joint, uniform, remove; and once more for what an earlier call has left half done.
const STEPS_MAX: usize = 8;

type VoterChange = ChangeMembers<u64, Participant>;

impl RaftContext {
    /// Brings the membership to these voters and learners. Without voters those of before stay.
    pub async fn arrange(
        &self,
        voters: &BTreeSet<NodeId>,
        learners: &BTreeSet<NodeId>,
    ) -> Result<(), ConsensusError> {
        let _one_at_a_time = self.arranging.lock().await;
        for _ in 0..STEPS_MAX {
            let table = self.applied.borrow().table.clone();
            let look = self.look().await.ok_or_else(|| self.over())?;
            if !look.leads {
                return Err(ConsensusError::NotLeader { leader: self.leader() });
            }
            let wanted = Wanted::new(table.as_deref(), &look.membership, voters, learners)?;
            let Some(change) = wanted.next_step(&look.membership) else { return Ok(()) };
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

/// The participants that there are to be, by their numbers.
#[derive(Debug)]
struct Wanted {
    voters: BTreeMap<u64, Participant>,
    learners: BTreeMap<u64, Participant>,
}

impl Wanted {
    /// Takes nodes under the claims of their seats. Without a seat, a voter of now stays what it is, and a learner is left
    /// out.
    fn new(
        table: Option<&GroupTable>,
        membership: &RaftMembership,
        voters: &BTreeSet<NodeId>,
        learners: &BTreeSet<NodeId>,
    ) -> Result<Self, ConsensusError> {
        let seated = |node: NodeId| {
            let claim = table?.seats.get(&node)?.claim;
            Some(Participant { node, claim })
        };
        let voting = |node: NodeId| {
            let voters = membership.voter_ids();
            voters.filter_map(|voter| membership.get_node(&voter).copied()).find(|p| p.node == node)
        };
        let numbered = |participant: Participant| (participant.number(), participant);
        let named_voters = voters.iter().map(|&node| {
            let named = seated(node).or_else(|| voting(node));
            named.map(numbered).ok_or(ConsensusError::NoSeat { node })
        });
        let named_learners = learners.iter().filter_map(|&node| seated(node).map(numbered));
        Ok(Self {
            voters: named_voters.collect::<Result<_, _>>()?,
            learners: named_learners.collect(),
        })
    }

    /// Returns what comes next on the way there.
    fn next_step(&self, membership: &RaftMembership) -> Option<VoterChange> {
        let Self { voters, learners } = self;
        let missing: BTreeMap<_, _> = voters
            .iter()
            .chain(learners)
            .filter(|(number, _)| membership.get_node(number).is_none())
            .map(|(number, participant)| (*number, *participant))
            .collect();
        if !missing.is_empty() {
            return Some(VoterChange::AddNodes(missing));
        }
        let voters: BTreeSet<_> = voters.keys().copied().collect();
        if !voters.is_empty() && *membership.get_joint_config() != [voters.clone()] {
            return Some(VoterChange::ReplaceAllVoters(voters));
        }
        let is_gone = |number: &u64| {
            let votes = membership.voter_ids().any(|voter| voter == *number);
            !votes && !learners.contains_key(number)
        };
        let numbers = membership.nodes().map(|(number, _)| *number);
        let gone: BTreeSet<_> = numbers.filter(is_gone).collect();
        (!gone.is_empty()).then_some(VoterChange::RemoveNodes(gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_cluster::{id, table_of};

    type Named = BTreeMap<u64, Participant>;

    fn named(range: std::ops::Range<u8>, claim: u64) -> Named {
        let participants = range.map(|n| Participant { node: id(n), claim });
        participants.map(|participant| (participant.number(), participant)).collect()
    }

    fn numbers(named: &Named) -> BTreeSet<u64> {
        named.keys().copied().collect()
    }

    fn membership(configs: &[&Named], all: &Named) -> RaftMembership {
        RaftMembership::new(configs.iter().copied().map(numbers).collect(), all.clone())
    }

    #[test]
    fn newcomers_follow_before_they_vote_and_the_gone_are_dropped_last() {
        let (old, new, all) = (named(1..4, 1), named(2..5, 1), named(1..5, 1));
        let wanted = Wanted { voters: new.clone(), learners: Named::new() };
        let step = wanted.next_step(&membership(&[&old], &old)).unwrap();
        assert_eq!(step, VoterChange::AddNodes(named(4..5, 1)));
        let step = wanted.next_step(&membership(&[&old], &all)).unwrap();
        assert_eq!(step, VoterChange::ReplaceAllVoters(numbers(&new)));
        assert_eq!(wanted.next_step(&membership(&[&old, &new], &all)), Some(step));
        let changed = membership(&[&new], &all);
        let step = wanted.next_step(&changed).unwrap();
        assert_eq!(step, VoterChange::RemoveNodes(numbers(&named(1..2, 1))));
        let wanted = Wanted { learners: named(1..2, 1), ..wanted };
        assert_eq!(wanted.next_step(&changed), None);
    }

    #[test]
    fn a_node_under_a_new_claim_is_a_newcomer_and_who_it_was_goes() {
        let old = named(1..4, 1);
        let mut new = named(1..3, 1);
        new.extend(named(3..4, 2));
        let wanted = Wanted { voters: new.clone(), learners: Named::new() };
        let step = wanted.next_step(&membership(&[&old], &old)).unwrap();
        assert_eq!(step, VoterChange::AddNodes(named(3..4, 2)));
        let mut all = old.clone();
        all.extend(named(3..4, 2));
        let step = wanted.next_step(&membership(&[&old], &all)).unwrap();
        assert_eq!(step, VoterChange::ReplaceAllVoters(numbers(&new)));
        let step = wanted.next_step(&membership(&[&new], &all)).unwrap();
        assert_eq!(step, VoterChange::RemoveNodes(numbers(&named(3..4, 1))));
    }

    #[test]
    fn who_has_no_seat_votes_only_if_it_does_already() {
        let (table, old) = (table_of("group-a", 1), named(1..3, 1));
        let (voters, learners) = (BTreeSet::from([id(1), id(2)]), BTreeSet::from([id(3)]));
        let membership = membership(&[&old], &old);
        let wanted = Wanted::new(Some(&table), &membership, &voters, &learners).unwrap();
        assert_eq!((wanted.voters, wanted.learners), (old, Named::new()));
        let refused = Wanted::new(Some(&table), &membership, &learners, &voters).unwrap_err();
        assert_eq!(refused, ConsensusError::NoSeat { node: id(3) });
    }
}
