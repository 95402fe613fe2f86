//! The state that the network must reach when there are no more faults.

use std::collections::{BTreeMap, BTreeSet};

use crate::group::{
    log_state::LogState, membership::voter_count, table::GroupTable, view::RoleState,
};

use super::{S, Sim};

impl Sim {
    /// Returns the first problem, or `None` if all is as it should be.
    pub fn unsettled(&self) -> Option<String> {
        let mut groups: BTreeMap<String, Vec<(usize, LogState, RoleState)>> = BTreeMap::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let Some(process) = &node.process else { return Some(format!("n{n} does not run")) };
            let state = process.membership.state();
            if !(state.leads() || state == RoleState::Peer) {
                return Some(format!("n{n} is {state:?} ({:?})", node.durable));
            }
            let raft = process.raft.as_ref()?;
            let log = raft.state(self.now);
            groups.entry(raft.disk.group.clone()).or_default().push((n, log, state));
        }
        for (name, members) in &groups {
            if let Some(problem) = self.unsettled_group(members) {
                return Some(format!("{name}: {problem}"));
            }
        }
        self.not_united(&groups)
    }

    /// How many groups there are.
    pub fn tables(&self) -> usize {
        let groups = self.nodes.iter().filter_map(|node| node.process.as_ref()?.raft.as_ref());
        groups.map(|raft| &raft.disk.group).collect::<BTreeSet<_>>().len()
    }

    fn unsettled_group(&self, members: &[(usize, LogState, RoleState)]) -> Option<String> {
        let (_, log, _) = &members[0];
        let table = log.table.as_ref()?;
        let leaders: Vec<_> = members.iter().filter(|(.., state)| state.leads()).collect();
        let [(leader, leader_log, _)] = leaders[..] else {
            return Some(format!("{} super-peers", leaders.len()));
        };
        let nodes: BTreeSet<_> = members.iter().map(|(n, ..)| self.nodes[*n].id).collect();
        for (n, log, _) in members {
            if log.table.as_ref() != Some(table) {
                return Some(format!("n{n} has another table"));
            }
            if log.leader != Some(self.nodes[*leader].id) {
                return Some(format!("n{n} follows another super-peer"));
            }
            let node = &self.nodes[*n];
            let seat = table.seats.get(&node.id);
            if seat.is_none_or(|seat| seat.claim != node.durable.claim) {
                return Some(format!("n{n} sits under another claim"));
            }
            if seat.is_none_or(|seat| seat.member.peer != node.address) {
                return Some(format!("n{n} has another address"));
            }
        }
        if table.configuration().is_joint() {
            return Some("a change is under way".into());
        }
        if table.configuration().members != nodes || table.seats.len() != nodes.len() {
            return Some(format!("{} sit, {} are there", table.seats.len(), nodes.len()));
        }
        if table.super_peer != self.nodes[*leader].id {
            return Some("the table names another super-peer".into());
        }
        let wanted = voter_count(table.count(), self.config.voters);
        let all: BTreeSet<_> = leader_log.voters.union(&leader_log.learners).copied().collect();
        if leader_log.voters.len() as u32 != wanted || all != nodes {
            return Some(format!("{} vote, of {} members", leader_log.voters.len(), nodes.len()));
        }
        let has_dedicated = table.seats.values().any(|seat| seat.permanent);
        if has_dedicated && !self.nodes[*leader].permanent {
            return Some("a provisional super-peer leads a dedicated one".into());
        }
        None
    }

    /// A provisional group must not stay if a better one has room for its members.
    fn not_united(
        &self,
        groups: &BTreeMap<String, Vec<(usize, LogState, RoleState)>>,
    ) -> Option<String> {
        let tables: Vec<_> =
            groups.values().filter_map(|members| members[0].1.table.as_ref()).collect();
        let is_permanent =
            |table: &GroupTable| table.seats.get(&table.super_peer).is_some_and(|s| s.permanent);
        for small in tables.iter().filter(|table| !is_permanent(table)) {
            for large in tables.iter().filter(|table| table.name != small.name) {
                let rank = |table: &GroupTable| {
                    (is_permanent(table), table.count(), std::cmp::Reverse(table.name.clone()))
                };
                let fits = small.count() <= large.capacity - large.count();
                if fits && rank(large) > rank(small) {
                    return Some(format!("{} would fit into {}", small.name, large.name));
                }
            }
        }
        None
    }

    /// Runs until all is as it should be, and returns how long that took; fails after `limit_us`.
    pub fn run_until_settled(&mut self, limit_us: u64) -> u64 {
        let from = self.now;
        loop {
            let problem = self.unsettled();
            match problem {
                None => return self.now - from,
                Some(problem) if self.now > from + limit_us => panic!("not settled: {problem}"),
                Some(_) => {
                    self.restart_nodes_that_left();
                    self.run_until(self.now + S / 2);
                }
            }
        }
    }
}
