//! Who votes: an odd number of members, at most `group.voters`, those that live and are up to date before others.
//!
//! One case is even: while the lead of a group of two passes from one to the other, both vote.
//!
//! The number follows from how many members the table has, not from how many live: a group that shrank its voters with
//! every death would end in one node that decides alone, while the others come back and cannot go on without it.

use std::collections::BTreeSet;

use crate::core::{node_id::NodeId, table::Table};

/// What an arrangement is made from.
pub(super) struct Electorate<'a> {
    /// The group's table.
    pub table: &'a Table,
    /// Who leads: stays a voter.
    pub leader: NodeId,
    /// Who votes now.
    pub voters: &'a BTreeSet<NodeId>,
    /// Who has nearly all entries.
    pub caught_up: &'a BTreeSet<NodeId>,
    /// Who is to lead next, if anybody: votes too.
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
        if !members.contains(&self.leader) {
            // On its way out: whoever leads next arranges.
            let voters = self.voters.clone();
            return (voters, seated().filter(|node| !self.voters.contains(node)).collect());
        }
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
        } else if self.odd && voters.len() % 2 == 0 {
            voters.pop();
        }
        let voters: BTreeSet<_> = voters.into_iter().collect();
        let learners = seated().filter(|node| !voters.contains(node)).collect();
        (voters, learners)
    }
}
