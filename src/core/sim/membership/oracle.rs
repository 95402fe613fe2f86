//! The oracle: checks what must hold after every step. It knows more than any node does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    group::{
        membership::voter_count,
        table::{GroupTable, TableCommand},
    },
    model::node_id::NodeId,
};

use super::raft::Entry;

/// Everything that was ever agreed on.
#[derive(Default)]
pub struct Oracle {
    leaders: BTreeMap<(String, u64), NodeId>,
    history: BTreeMap<String, Vec<(u64, Arc<Entry>)>>,
    tables: BTreeMap<String, Arc<GroupTable>>,
    claims: BTreeMap<(NodeId, u64), String>,
    rescans: BTreeSet<(NodeId, String, u64)>,
    was_member: BTreeSet<(String, NodeId, u64)>,
    gone: BTreeSet<(String, NodeId, u64)>,
    asked_back: BTreeSet<(String, NodeId, u64)>,
    /// The most voters that a group may have.
    voters: u32,
    /// How many changes were forced.
    pub forced: u64,
}

/// What the oracle has to know before it accepts a removal.
pub trait Reachability {
    /// Tells whether the node still holds the claim, did not ask to go, and was reached by the super-peer, directly or
    /// through a third member, all through the time after which the dead are removed.
    fn was_reached(&self, table: &GroupTable, node: NodeId, claim: u64) -> bool;
}

impl Oracle {
    /// For groups that may have at most so many voters.
    pub fn of(voters: u32) -> Self {
        Self { voters, ..Self::default() }
    }

    /// One leader per term and group.
    pub fn led(&mut self, group: &str, term: u64, node: NodeId) {
        let first = *self.leaders.entry((group.to_owned(), term)).or_insert(node);
        assert_eq!(first, node, "two leaders of {group} in term {term}");
    }

    pub fn rescanned(&mut self, node: NodeId, group: &str, epoch: u64) {
        self.rescans.insert((node, group.to_owned(), epoch));
    }

    /// A node was asked back whether a claim is bound to a group.
    pub fn asked_back(&mut self, group: &str, node: NodeId, claim: u64) {
        self.asked_back.insert((group.to_owned(), node, claim));
    }

    /// A node acts as a member of a group under a claim.
    pub fn acts(&mut self, group: &str, node: NodeId, claim: u64) {
        self.was_member.insert((group.to_owned(), node, claim));
    }

    /// An entry was applied by some node: the histories of a group are prefixes of one another.
    pub fn applied(
        &mut self,
        index: usize,
        term: u64,
        entry: &Arc<Entry>,
        table: &Arc<GroupTable>,
        reachability: &impl Reachability,
    ) {
        let group = table.name.clone();
        let history = self.history.entry(group.clone()).or_default();
        if let Some((known_term, known)) = history.get(index - 1) {
            assert!(
                *known_term == term && (Arc::ptr_eq(known, entry) || known == entry),
                "{group} has two histories: entry {index} is {known:?} and {entry:?}"
            );
            return;
        }
        assert_eq!(history.len() + 1, index, "{group}: an entry was skipped");
        history.push((term, Arc::clone(entry)));
        let before = self.tables.insert(group.clone(), Arc::clone(table));
        match &**entry {
            Entry::Config { sets, .. } => self.check_voters(table, sets),
            Entry::Command(command) => {
                if let Some(before) = before {
                    self.check_table(&before, table);
                    self.check_command(&before, table, command, reachability);
                }
            }
            _ => {}
        }
        self.check_claims(table);
    }

    fn check_voters(&self, table: &GroupTable, sets: &[BTreeSet<NodeId>]) {
        for voters in sets {
            let count = voters.len() as u32;
            // Two voters only while the lead of a group of two moves. When this is applied, others may have joined.
            let stays = |node: &NodeId| table.configuration().members.contains(node);
            let is_of_change = voters.contains(&table.super_peer) || !voters.iter().all(stays);
            // With one voter the lead may move again before the table names the new leader.
            let passes_on = count == 2 && (is_of_change || self.voters == 1);
            let is_odd = count == voter_count(count, self.voters);
            assert!(is_odd || passes_on, "{} has {count} voters", table.name);
        }
    }

    fn check_claims(&mut self, table: &GroupTable) {
        for (node, seat) in &table.seats {
            let key = (*node, seat.claim);
            let first = self.claims.entry(key).or_insert_with(|| table.name.clone());
            assert_eq!(*first, table.name, "two groups have {node} under the claim {}", seat.claim);
        }
    }

    fn check_table(&mut self, before: &GroupTable, after: &GroupTable) {
        assert!(after.epoch() >= before.epoch(), "{} went back", after.name);
        assert!(after.configuration().members.contains(&after.super_peer), "a stranger leads");
        assert!(after.count() <= after.capacity, "{} has too many members", after.name);
        for (node, seat) in &before.seats {
            if after.seats.get(node).is_none_or(|now| now.claim != seat.claim) {
                self.gone.insert((after.name.clone(), *node, seat.claim));
            }
        }
        for (node, seat) in &after.seats {
            let key = (after.name.clone(), *node, seat.claim);
            if !before.seats.contains_key(node) && self.gone.contains(&key) {
                assert!(
                    !self.was_member.contains(&key),
                    "{node} came back under a claim that had ended"
                );
            }
        }
        let chain: Vec<_> = after.chain.iter().collect();
        for pair in chain.windows(2).rev().take(3) {
            let (old, new) = (pair[0], pair[1]);
            assert_eq!(old.epoch + 1, new.epoch, "an epoch was skipped or used twice");
            match &new.old {
                Some(from) if old.is_joint() => {
                    let before = old.old.as_ref().unwrap();
                    assert_eq!(from.members, before.members, "a change was forced elsewhere");
                    assert!(from.lost.is_superset(&before.lost));
                }
                Some(from) => {
                    assert!(!old.is_joint(), "a change began within a change");
                    assert_eq!(from.members, old.members, "a change began elsewhere");
                }
                None => assert_eq!(new.members, old.members, "a change ended elsewhere"),
            }
        }
        if after.epoch() > before.epoch() && !after.configuration().is_joint() {
            self.check_settled(&chain, after);
        }
    }

    /// A change ends only when enough old members have really done their rescan.
    fn check_settled(&self, chain: &[&crate::group::table::Configuration], after: &GroupTable) {
        let [.., joint, _] = chain else { return };
        let Some(old) = &joint.old else { return };
        let done =
            |node: &&NodeId| self.rescans.contains(&(**node, after.name.clone(), joint.epoch));
        let (missing, allowed) = if joint.is_forced() {
            let left = joint.everybody();
            (left.len() - left.iter().filter(done).count(), 0)
        } else {
            let replicas = old.members.len().min(old.replication_factor as usize);
            (old.members.len() - old.members.iter().filter(done).count(), replicas / 2)
        };
        assert!(missing <= allowed, "{} settled without {missing} rescans", after.name);
    }

    fn check_command(
        &mut self,
        before: &GroupTable,
        after: &GroupTable,
        command: &TableCommand,
        reachability: &impl Reachability,
    ) {
        match command {
            TableCommand::Change { remove, add } if after.epoch() > before.epoch() => {
                for seat in add {
                    let node = seat.member.node;
                    let is_asked =
                        self.asked_back.contains(&(after.name.clone(), node, seat.claim));
                    assert!(is_asked, "{node} was taken in and was not asked back");
                }
                for (node, claim) in remove {
                    let is_out = !after.configuration().members.contains(node)
                        && before.seats.get(node).is_some_and(|seat| seat.claim == *claim);
                    assert!(
                        !is_out || !reachability.was_reached(after, *node, *claim),
                        "{node} was taken out of {} though others reached it",
                        after.name
                    );
                }
            }
            TableCommand::Dissolve { into: Some(into) } => {
                let other = self.tables.get(into).and_then(|table| table.dissolved.as_ref());
                let back = other.and_then(|end| end.into.as_ref());
                assert!(back != Some(&after.name), "{into} and {} go to each other", after.name);
            }
            TableCommand::Force { .. } if after.forced > before.forced => self.forced += 1,
            _ => {}
        }
    }
}
