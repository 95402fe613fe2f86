//! A small but complete Raft log for the simulation: terms, majority votes, joint consensus for the voters (Ongaro and
//! Ousterhout, "In Search of an Understandable Consensus Algorithm", section 6), and a leader's lease at the voters. Its
//! messages are lost, late and doubled like all others. What it has promised is durable at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    group::{
        log_state::LogState,
        table::{Applied, GroupTable, TableCommand},
    },
    machine::Ticket,
    model::node_id::NodeId,
};

pub const LEASE_US: u64 = 1_500_000;
pub const HEARTBEAT_US: u64 = 500_000;

#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Found(GroupTable),
    Blank,
    Command(TableCommand),
    /// One set of voters, or two while they change.
    Config {
        sets: Vec<BTreeSet<NodeId>>,
        learners: BTreeSet<NodeId>,
    },
}

/// What survives a crash.
#[derive(Debug, Clone)]
pub struct Disk {
    pub group: String,
    /// The claim under which this node keeps the log.
    pub claim: u64,
    pub term: u64,
    pub voted: Option<NodeId>,
    pub log: Vec<(u64, Arc<Entry>)>,
    pub commit: usize,
}

#[derive(Debug, Clone)]
pub enum RaftMsg {
    RequestVote { term: u64, last: (u64, usize) },
    Vote { term: u64, granted: bool },
    Append { term: u64, prev: (usize, u64), entries: Vec<(u64, Arc<Entry>)>, commit: usize },
    Ack { term: u64, matched: Result<usize, usize> },
}

#[derive(Debug, Clone)]
pub enum RaftOut {
    /// Sent over a link that the sender keeps.
    Send(NodeId, u64, RaftMsg),
    /// Sent back on the connection that the question came from.
    Back(NodeId, RaftMsg),
    Proposed(Ticket, Option<Applied>),
    Arranged(Ticket, bool),
    /// An entry was applied: its index, its term, itself, and the table after it.
    Applied(usize, u64, Arc<Entry>, Arc<GroupTable>),
    Led(u64),
}

#[derive(Debug)]
struct Leading {
    next: BTreeMap<NodeId, usize>,
    matched: BTreeMap<NodeId, usize>,
    acked_at: BTreeMap<NodeId, u64>,
    proposals: BTreeMap<usize, Ticket>,
    arranging: Option<(Ticket, BTreeSet<NodeId>, BTreeSet<NodeId>)>,
}

/// One node's part in a group's log.
#[derive(Debug)]
pub struct Raft {
    pub this: NodeId,
    pub disk: Disk,
    leader: Option<NodeId>,
    leading: Option<Leading>,
    votes: Option<BTreeSet<NodeId>>,
    heard_at: Option<u64>,
    election_at: u64,
    paused: bool,
    applied: usize,
    table: Option<Arc<GroupTable>>,
    /// The last claim of every node that was ever in the table. The voters of the configuration are voters under these claims.
    claims: BTreeMap<NodeId, u64>,
    config: (BTreeSet<NodeId>, BTreeSet<NodeId>),
    pub out: Vec<RaftOut>,
    pub changed: bool,
}

impl Disk {
    pub fn empty(group: String, claim: u64) -> Self {
        Self { group, claim, term: 0, voted: None, log: Vec::new(), commit: 0 }
    }

    pub fn founded(table: GroupTable) -> Self {
        let founder = BTreeSet::from([table.super_peer]);
        let claim = table.seats[&table.super_peer].claim;
        let mut disk = Self::empty(table.name.clone(), claim);
        let config = Entry::Config { sets: vec![founder], learners: BTreeSet::new() };
        disk.log = vec![(1, Arc::new(Entry::Found(table))), (1, Arc::new(config))];
        disk.commit = 2;
        disk
    }

    fn last(&self) -> (u64, usize) {
        (self.log.last().map_or(0, |(term, _)| *term), self.log.len())
    }

    /// The voters and learners that count: those of the last configuration in the log, committed or not.
    fn effective(&self) -> (Vec<BTreeSet<NodeId>>, BTreeSet<NodeId>) {
        let config = self.log.iter().rev().find_map(|(_, entry)| match &**entry {
            Entry::Config { sets, learners } => Some((sets.clone(), learners.clone())),
            _ => None,
        });
        config.unwrap_or_default()
    }
}

fn is_majority(sets: &[BTreeSet<NodeId>], has: impl Fn(&NodeId) -> bool) -> bool {
    !sets.is_empty() && sets.iter().all(|set| set.iter().filter(|n| has(n)).count() * 2 > set.len())
}

impl Raft {
    pub fn open(this: NodeId, disk: Disk, now: u64, jitter: u64) -> Self {
        let mut raft = Self {
            this,
            disk,
            leader: None,
            leading: None,
            votes: None,
            heard_at: None,
            election_at: now + LEASE_US + jitter,
            paused: false,
            applied: 0,
            table: None,
            claims: BTreeMap::new(),
            config: Default::default(),
            out: Vec::new(),
            changed: true,
        };
        raft.apply();
        raft
    }

    pub fn state(&self, now: u64) -> LogState {
        let (voters, learners) = self.config.clone();
        let settled_voters = voters.clone();
        let silent = self.leading.as_ref().map(|leading| {
            let (sets, _) = self.disk.effective();
            let at = |node: &NodeId| {
                if *node == self.this { now } else { *leading.acked_at.get(node).unwrap_or(&0) }
            };
            let per_set = sets.iter().map(|set| {
                let mut times: Vec<_> = set.iter().map(at).collect();
                times.sort_unstable();
                times[(times.len() - 1) / 2]
            });
            (now - per_set.min().unwrap_or(now)) / 1_000
        });
        let caught_up = self.leading.as_ref().map_or_else(BTreeSet::new, |leading| {
            let near = |(node, matched): (&NodeId, &usize)| {
                (matched + 4 >= self.disk.log.len()).then_some(*node)
            };
            leading.matched.iter().filter_map(near).chain([self.this]).collect()
        });
        LogState {
            table: self.table.clone(),
            applied: self.applied as u64,
            term: self.disk.term,
            leader: self.leader,
            voters,
            settled_voters,
            learners,
            quorum_silent_ms: silent,
            caught_up,
            failed: None,
        }
    }

    pub fn leads(&self) -> bool {
        self.leading.is_some()
    }

    /// Called every half second.
    pub fn tick(&mut self, now: u64, jitter: u64) {
        if self.leads() {
            if !self.paused {
                self.replicate_to_all();
            }
        } else if now >= self.election_at {
            self.election_at = now + LEASE_US + jitter;
            self.campaign(now);
        }
    }

    pub fn campaign(&mut self, now: u64) {
        let (sets, _) = self.disk.effective();
        if self.leads() || !sets.iter().any(|set| set.contains(&self.this)) {
            return;
        }
        self.disk.term += 1;
        self.disk.voted = Some(self.this);
        self.leader = None;
        self.changed = true;
        self.votes = Some(BTreeSet::from([self.this]));
        let (term, last) = (self.disk.term, self.disk.last());
        for node in sets.iter().flatten().filter(|node| **node != self.this) {
            let claim = self.claims.get(node).copied().unwrap_or(0);
            self.out.push(RaftOut::Send(*node, claim, RaftMsg::RequestVote { term, last }));
        }
        self.count_votes(now);
    }

    fn count_votes(&mut self, now: u64) {
        let (sets, learners) = self.disk.effective();
        if !self.votes.as_ref().is_some_and(|votes| is_majority(&sets, |n| votes.contains(n))) {
            return;
        }
        self.votes = None;
        self.paused = false;
        self.leader = Some(self.this);
        let len = self.disk.log.len();
        let others = || sets.iter().flatten().chain(&learners).filter(|n| **n != self.this);
        self.leading = Some(Leading {
            next: others().map(|node| (*node, len)).collect(),
            matched: BTreeMap::new(),
            acked_at: others().map(|node| (*node, now)).collect(),
            proposals: BTreeMap::new(),
            arranging: None,
        });
        self.out.push(RaftOut::Led(self.disk.term));
        self.append(Entry::Blank);
    }

    fn append(&mut self, entry: Entry) -> usize {
        self.disk.log.push((self.disk.term, Arc::new(entry)));
        self.replicate_to_all();
        self.advance_commit();
        self.disk.log.len()
    }

    pub fn propose(&mut self, ticket: Ticket, command: TableCommand) -> bool {
        if !self.leads() {
            return false;
        }
        let index = self.disk.log.len() + 1;
        if let Some(leading) = &mut self.leading {
            leading.proposals.insert(index, ticket);
        }
        self.append(Entry::Command(command));
        true
    }

    pub fn arrange(
        &mut self,
        ticket: Ticket,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) {
        let (sets, _) = self.disk.effective();
        let is_busy = self
            .disk
            .log
            .iter()
            .skip(self.disk.commit)
            .any(|(_, entry)| matches!(&**entry, Entry::Config { .. }))
            || sets.len() > 1;
        let Some(leading) = self.leading.as_mut().filter(|_| !is_busy) else {
            self.out.push(RaftOut::Arranged(ticket, false));
            return;
        };
        leading.arranging = Some((ticket, voters.clone(), learners.clone()));
        let old = sets.into_iter().next().unwrap_or_default();
        if old == voters {
            self.append(Entry::Config { sets: vec![voters], learners });
        } else {
            let everybody = old.iter().chain(&learners).copied();
            let follow = everybody.filter(|n| !voters.contains(n) && !old.contains(n)).collect();
            self.append(Entry::Config { sets: vec![old, voters], learners: follow });
        }
    }

    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    fn replicate_to_all(&mut self) {
        let (sets, learners) = self.disk.effective();
        let everybody: BTreeSet<_> = sets.iter().flatten().chain(&learners).copied().collect();
        let this = self.this;
        for node in everybody.into_iter().filter(|node| *node != this) {
            self.replicate_to(node);
        }
    }

    fn replicate_to(&mut self, node: NodeId) {
        let len = self.disk.log.len();
        let Some(leading) = &mut self.leading else { return };
        let next = (*leading.next.entry(node).or_insert(len)).min(len);
        let prev = (next, if next == 0 { 0 } else { self.disk.log[next - 1].0 });
        let entries = self.disk.log[next..].to_vec();
        let (term, commit) = (self.disk.term, self.disk.commit);
        let claim = self.claims.get(&node).copied().unwrap_or(0);
        let message = RaftMsg::Append { term, prev, entries, commit };
        self.out.push(RaftOut::Send(node, claim, message));
    }

    fn advance_commit(&mut self) {
        let (sets, _) = self.disk.effective();
        let Some(leading) = &self.leading else { return };
        let len = self.disk.log.len();
        let holds = |node: &NodeId, index: usize| {
            *node == self.this || leading.matched.get(node).is_some_and(|m| *m >= index)
        };
        let mut commit = self.disk.commit;
        for index in self.disk.commit + 1..=len {
            let is_of_term = self.disk.log[index - 1].0 == self.disk.term;
            if is_of_term && is_majority(&sets, |node| holds(node, index)) {
                commit = index;
            }
        }
        if commit > self.disk.commit {
            self.disk.commit = commit;
            self.apply();
            self.finish_arrangement();
        }
    }

    fn finish_arrangement(&mut self) {
        let (sets, _) = self.disk.effective();
        let is_committed = self
            .disk
            .log
            .iter()
            .skip(self.disk.commit)
            .all(|(_, entry)| !matches!(&**entry, Entry::Config { .. }));
        let Some(leading) = self.leading.as_mut().filter(|_| is_committed) else { return };
        if sets.len() == 2 {
            let arranged = leading.arranging.clone();
            let (voters, learners) = match arranged {
                Some((_, voters, learners)) => (voters, learners),
                // Left by an earlier leader.
                None => (sets[1].clone(), sets[0].difference(&sets[1]).copied().collect()),
            };
            self.append(Entry::Config { sets: vec![voters], learners });
        } else if let Some((ticket, ..)) = leading.arranging.take() {
            self.out.push(RaftOut::Arranged(ticket, true));
        }
    }

    fn apply(&mut self) {
        while self.applied < self.disk.commit {
            let (term, entry) = self.disk.log[self.applied].clone();
            self.applied += 1;
            let mut answer = None;
            match &*entry {
                Entry::Found(table) => self.table = Some(Arc::new(table.clone())),
                Entry::Blank => {}
                Entry::Command(command) => {
                    let table = Arc::make_mut(self.table.as_mut().expect("the log starts with it"));
                    answer = Some(table.apply(command));
                }
                Entry::Config { sets, learners } => {
                    self.config = (sets.iter().flatten().copied().collect(), learners.clone());
                }
            }
            let ticket = self.leading.as_mut().and_then(|l| l.proposals.remove(&self.applied));
            if let (Some(ticket), Some(answer)) = (ticket, answer) {
                self.out.push(RaftOut::Proposed(ticket, Some(answer)));
            }
            if let Some(table) = &self.table {
                let table = Arc::clone(table);
                self.claims.extend(table.seats.iter().map(|(node, seat)| (*node, seat.claim)));
                self.out.push(RaftOut::Applied(self.applied, term, entry, table));
            }
            self.changed = true;
        }
    }

    fn step_down(&mut self, term: u64) {
        if term > self.disk.term {
            self.disk.term = term;
            self.disk.voted = None;
            self.votes = None;
            self.leader = None;
            self.changed = true;
        }
        if let Some(leading) = self.leading.take() {
            self.leader = None;
            self.changed = true;
            for ticket in leading.proposals.into_values() {
                self.out.push(RaftOut::Proposed(ticket, None));
            }
            if let Some((ticket, ..)) = leading.arranging {
                self.out.push(RaftOut::Arranged(ticket, false));
            }
        }
    }

    pub fn receive(&mut self, from: NodeId, message: RaftMsg, now: u64, jitter: u64) {
        match message {
            RaftMsg::RequestVote { term, last } => self.on_request(from, term, last, now, jitter),
            RaftMsg::Vote { term, granted } => {
                if term > self.disk.term {
                    self.step_down(term);
                } else if let (true, Some(votes)) =
                    (granted && term == self.disk.term, &mut self.votes)
                {
                    votes.insert(from);
                    self.count_votes(now);
                }
            }
            RaftMsg::Append { term, prev, entries, commit } => {
                let matched = self.on_append(from, term, prev, entries, commit, now, jitter);
                let term = self.disk.term;
                self.out.push(RaftOut::Back(from, RaftMsg::Ack { term, matched }));
            }
            RaftMsg::Ack { term, matched } => self.on_ack(from, term, matched, now),
        }
    }

    fn on_request(&mut self, from: NodeId, term: u64, last: (u64, usize), now: u64, jitter: u64) {
        let in_lease = self.leads()
            || (self.leader.is_some() && self.heard_at.is_some_and(|at| now < at + LEASE_US));
        if in_lease && !self.paused {
            return;
        }
        if term > self.disk.term {
            self.step_down(term);
        }
        let granted = term == self.disk.term
            && self.disk.voted.is_none_or(|voted| voted == from)
            && last >= self.disk.last();
        if granted {
            self.disk.voted = Some(from);
            self.election_at = now + LEASE_US + jitter;
        }
        let term = self.disk.term;
        self.out.push(RaftOut::Back(from, RaftMsg::Vote { term, granted }));
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    fn on_append(
        &mut self,
        from: NodeId,
        term: u64,
        prev: (usize, u64),
        entries: Vec<(u64, Arc<Entry>)>,
        commit: usize,
        now: u64,
        jitter: u64,
    ) -> Result<usize, usize> {
        if term < self.disk.term {
            return Err(self.disk.log.len());
        }
        if term > self.disk.term {
            self.step_down(term);
        }
        self.votes = None;
        if self.leader != Some(from) {
            self.leader = Some(from);
            self.changed = true;
        }
        self.heard_at = Some(now);
        self.election_at = now + LEASE_US + jitter;
        let (at, prev_term) = prev;
        if at > self.disk.log.len() || (at > 0 && self.disk.log[at - 1].0 != prev_term) {
            return Err(at.saturating_sub(1).min(self.disk.log.len()));
        }
        let end = at + entries.len();
        for (offset, (term, entry)) in entries.into_iter().enumerate() {
            let index = at + offset;
            if self.disk.log.get(index).is_some_and(|(held, _)| *held != term) {
                assert!(index >= self.disk.commit, "a committed entry would be cut off");
                self.disk.log.truncate(index);
            }
            if index == self.disk.log.len() {
                self.disk.log.push((term, entry));
            }
        }
        let commit = commit.min(end);
        if commit > self.disk.commit {
            self.disk.commit = commit;
            self.apply();
        }
        Ok(end)
    }

    fn on_ack(&mut self, from: NodeId, term: u64, matched: Result<usize, usize>, now: u64) {
        if term > self.disk.term {
            self.step_down(term);
            return;
        }
        let Some(leading) = self.leading.as_mut().filter(|_| term == self.disk.term) else {
            return;
        };
        leading.acked_at.insert(from, now);
        match matched {
            Ok(index) => {
                let held = leading.matched.entry(from).or_default();
                self.changed |= index > *held;
                *held = (*held).max(index);
                let next = *held;
                leading.next.insert(from, next);
                self.advance_commit();
            }
            Err(hint) => {
                leading.next.insert(from, hint);
                self.replicate_to(from);
            }
        }
    }
}
