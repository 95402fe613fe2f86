//! Chooses the voters: an odd number of members, at most `group.voters`; members that are alive and up to date come first.
//!
//! One case is even: while the lead of a group of two moves from one to the other, both vote.
//!
//! The number depends on how many members the table has, not on how many are alive. If a group removed a voter with every
//! death, at the end one node would decide alone, and the others could not go on without it when they come back.

use std::collections::BTreeSet;

use crate::{group::table::GroupTable, model::node_id::NodeId};

/// What an arrangement is made from.
pub(super) struct Electorate<'a> {
    /// The group's table.
    pub table: &'a GroupTable,
    /// Who leads: stays a voter.
    pub leader: NodeId,
    /// Who votes now.
    pub voters: &'a BTreeSet<NodeId>,
    /// Who has nearly all entries.
    pub caught_up: &'a BTreeSet<NodeId>,
    /// The member that is to lead next, if there is one: it votes too.
    pub heir: Option<NodeId>,
    /// The most voters.
    pub most: u32,
    /// Whether the number is to be odd; always, but for a test of the tests.
    pub odd: bool,
}

/// Returns how many voters a group of so many members has: the greatest odd number that is not above either.
pub fn voter_count(members: u32, most: u32) -> u32 {
    let limit = members.min(most).max(1);
    limit - (limit + 1) % 2
}

impl Electorate<'_> {
    /// Returns the voters and the learners.
    pub(super) fn arrange(
        &self,
        is_alive: impl Fn(NodeId) -> bool,
    ) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let members = &self.table.configuration().members;
        let seated = || self.table.seats.keys().copied();
        let count = members.len() as u32;
        let target = if self.odd { voter_count(count, self.most) } else { count.min(self.most) };
        let inherits = |node: &NodeId| Some(*node) == self.heir;
        let mut ranked: Vec<_> = members
            .iter()
            .filter(|node| **node != self.leader)
            .filter_map(|node| {
                let votes = self.voters.contains(node);
                let fits = is_alive(*node) && (votes || self.caught_up.contains(node));
                let permanent = self.table.seats.get(node).is_some_and(|seat| seat.permanent);
                // A dead voter stays until there is a live one in its stead.
                let is_heir = fits && self.heir == Some(*node);
                (fits || votes).then_some((!is_heir, !fits, !permanent, !votes, *node))
            })
            .collect();
        ranked.sort_unstable();
        let mut voters: Vec<NodeId> = vec![self.leader];
        let ranked: Vec<_> = ranked.into_iter().map(|(.., node)| node).collect();
        voters.extend(ranked.iter().take(target as usize - 1));
        if target == 1 {
            voters.extend(ranked.first().filter(|node| inherits(node)));
        } else if self.odd && voters.len().is_multiple_of(2) {
            voters.pop();
        }
        let voters: BTreeSet<_> = voters.into_iter().collect();
        let learners = seated().filter(|node| !voters.contains(node)).collect();
        (voters, learners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        group::{
            Member, RetrievalMode, Settings, StorageMode,
            table::{Seat, TableCommand},
        },
        world::Position,
    };

    fn node(n: u8) -> NodeId {
        NodeId::from_key([n; 32])
    }

    fn seat(n: u8) -> Seat {
        let (rest, peer, storage) = Default::default();
        let member = Member { node: node(n), rest, peer, storage, position: Position::default() };
        Seat { member, claim: 1, permanent: n == 9 }
    }

    fn table(nodes: &[u8]) -> GroupTable {
        let settings = Settings {
            storage_mode: StorageMode::Fast,
            retrieval_mode: RetrievalMode::Fast,
            migration: false,
            replication_factor: 3,
        };
        let mut table = GroupTable::found("g".into(), seat(1), settings, 10);
        let add = nodes.iter().map(|n| seat(*n)).collect();
        table.apply(&TableCommand::Change { add, remove: Vec::new() });
        table.apply(&TableCommand::Acknowledge { node: node(1), epoch: 2 });
        table
    }

    fn nodes(numbers: &[u8]) -> BTreeSet<NodeId> {
        numbers.iter().map(|n| node(*n)).collect()
    }

    /// Who votes in a group of 1 and `others`, when `voters` vote now and `dead` are dead.
    fn voters(others: &[u8], voters: &[u8], dead: &[u8], heir: Option<u8>) -> BTreeSet<NodeId> {
        let table = table(others);
        let caught_up = table.seats.keys().copied().collect();
        let electorate = Electorate {
            table: &table,
            leader: node(1),
            voters: &nodes(voters),
            caught_up: &caught_up,
            heir: heir.map(node),
            most: 5,
            odd: true,
        };
        let dead = nodes(dead);
        let (voters, learners) = electorate.arrange(|node| !dead.contains(&node));
        assert!(voters.is_disjoint(&learners));
        assert_eq!(voters.len() + learners.len(), table.seats.len());
        voters
    }

    #[test]
    fn the_number_is_odd_and_follows_from_the_members() {
        let counts: Vec<_> = (1..=9).map(|members| voter_count(members, 5)).collect();
        assert_eq!(counts, [1, 1, 3, 3, 5, 5, 5, 5, 5]);
        assert_eq!((voter_count(9, 4), voter_count(9, 1), voter_count(0, 5)), (3, 1, 1));
    }

    #[test]
    fn a_dead_voter_is_replaced_by_a_live_learner_and_kept_when_there_is_none() {
        assert_eq!(voters(&[2, 3, 4], &[1, 2, 3], &[2], None), nodes(&[1, 3, 4]));
        assert_eq!(voters(&[2, 3], &[1, 2, 3], &[2], None), nodes(&[1, 2, 3]));
        assert_eq!(voters(&[2, 3, 4, 5], &[1, 2, 3, 4, 5], &[2, 3], None), nodes(&[1, 2, 3, 4, 5]));
    }

    #[test]
    fn a_dedicated_super_peer_votes_before_others() {
        assert_eq!(voters(&[2, 3, 9], &[1, 2, 3], &[], None), nodes(&[1, 2, 9]));
    }

    #[test]
    fn the_heir_votes_even_in_a_group_of_two() {
        assert_eq!(voters(&[2], &[1], &[], None), nodes(&[1]));
        assert_eq!(voters(&[2], &[1], &[], Some(2)), nodes(&[1, 2]));
        assert_eq!(voters(&[2], &[1], &[2], Some(2)), nodes(&[1]));
        assert_eq!(voters(&[2, 3, 4], &[1, 2, 3], &[], Some(4)), nodes(&[1, 2, 4]));
    }
}
