//! A network of memberships under a seeded schedule. Messages are lost, late and doubled. Nodes crash and come back, also with
//! another address. Clocks jump. Links are cut between two nodes, or between two halves of the network.

pub mod faults;
pub mod oracle;
pub mod raft;
pub mod settled;
pub mod shell;
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use crate::{
    group::{
        Member, RetrievalMode, Settings, StorageMode,
        log_state::LogState,
        membership::{
            AskFailure, Durable, Membership, MembershipAnswer, MembershipConfig, MembershipEvent,
            MembershipFaults, MembershipRequest, RequestId, SearchGoal,
        },
        offer::{Offer, Seeker, Whereabouts},
        table::GroupTable,
    },
    machine::Ticket,
    model::{node_id::NodeId, time::MonotonicUs},
    world::Position,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use oracle::Oracle;
use raft::{Disk, Raft, RaftMsg};

pub const MS: u64 = 1_000;
pub const S: u64 = 1_000_000;

/// One machine: what is on its disk, and the process, if one runs.
pub struct Node {
    pub id: NodeId,
    pub permanent: bool,
    pub address: String,
    pub durable: Durable,
    pub disk: Option<Disk>,
    /// The number of the log at this node: a node may have several, one after the other.
    pub log_number: u64,
    pub epoch_seen: (u64, u64),
    pub process: Option<Process>,
    pub life: u64,
    pub clock_offset: u64,
    pub up_since: u64,
    /// Set while an order to leave is on its way.
    pub ordered_to_leave: bool,
    /// The claim under which that was so before the last start: its super-peer may still have it on its list.
    pub told_claim: Option<u64>,
}

/// A running process.
pub struct Process {
    pub membership: Membership,
    pub raft: Option<Raft>,
    pub open: BTreeSet<Ticket>,
    pub asked: BTreeMap<RequestId, (usize, u64, Ticket, u64)>,
    pub ordered: BTreeSet<RequestId>,
    pub next_request: u64,
    pub wake: u64,
    pub keep: BTreeMap<NodeId, String>,
    /// Whether each link is up, and since when.
    pub links: BTreeMap<NodeId, (bool, u64)>,
    pub offer: Option<Offer>,
    pub seeker: Option<Seeker>,
    pub whereabouts: Option<Whereabouts>,
}

pub enum SimEvent {
    Wake,
    RaftTick,
    CheckLinks,
    Step(Box<MembershipEvent>),
    /// A rescan is tried: it is done once all its objects have their quorums.
    Rescan {
        group: String,
        epoch: u64,
    },
    Persist(Ticket, Durable),
    LogTask(Ticket, LogTask),
    Find {
        ticket: Ticket,
        near: Position,
        until: u64,
        enough: SearchGoal,
    },
    Ask {
        from: usize,
        life: u64,
        ticket: Ticket,
        question: Box<MembershipRequest>,
    },
    Answer {
        ticket: Ticket,
        by: NodeId,
        answer: Box<MembershipAnswer>,
    },
    TimedOut(Ticket, TicketKind),
    /// For one claim of the receiver; an answer is for any claim.
    Raft {
        from: usize,
        group: String,
        claim: Option<u64>,
        message: RaftMsg,
    },
}

#[derive(Clone, Copy)]
pub enum TicketKind {
    Ask,
    Propose,
    Arrange,
}

pub enum LogTask {
    Found(Box<GroupTable>),
    Follow(String, u64),
    Leave,
}

struct Item {
    at: u64,
    seq: u64,
    node: usize,
    /// Which start of the process it is for; `None` = whichever runs then.
    life: Option<u64>,
    what: SimEvent,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// The network and everything in it.
pub struct Sim {
    pub now: u64,
    pub rng: SmallRng,
    pub nodes: Vec<Node>,
    pub oracle: Oracle,
    pub config: MembershipConfig,
    pub loss: f64,
    pub dup: f64,
    pub delay_us: u64,
    pub cut: BTreeSet<(usize, usize)>,
    /// Since when each pair of nodes can talk without a break.
    pub joined_since: BTreeMap<(usize, usize), u64>,
    pub old_offers: Vec<Offer>,
    /// How many objects each group has.
    pub objects: u32,
    pub steps: u64,
    pub proposals: u64,
    pub trace: bool,
    queue: BinaryHeap<Reverse<Item>>,
    seq: u64,
}

/// Short times, so that everything happens in one run. They have the same proportions as the defaults.
pub fn config(faults: MembershipFaults) -> MembershipConfig {
    let settings = Settings {
        storage_mode: StorageMode::Fast,
        retrieval_mode: RetrievalMode::Fast,
        migration: false,
        replication_factor: 3,
    };
    let mut config = MembershipConfig::with(5, settings);
    config.discovery_window_us = 2 * S;
    config.provisional_poll_us = 6 * S;
    config.election_timeout_us = 5 * S;
    config.health_check_us = 2 * S;
    config.remove_after_us = 15 * S;
    config.quorum_loss_grace_us = 20 * S;
    config.suspect_after_us = 3 * S;
    config.rest_us = 20 * S;
    config.faults = faults;
    config
}

pub fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Sim {
    pub fn new(seed: u64, count: usize, config: MembershipConfig) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let nodes = (0..count)
            .map(|n| {
                let mut key = [n as u8 + 1; 32];
                key[0] = rng.random();
                Node {
                    id: NodeId::from_key(key),
                    permanent: false,
                    address: format!("n{n}:0"),
                    durable: Durable::default(),
                    disk: None,
                    log_number: 0,
                    epoch_seen: (0, 0),
                    process: None,
                    life: 0,
                    clock_offset: rng.random_range(0..1_000 * S),
                    up_since: 0,
                    ordered_to_leave: false,
                    told_claim: None,
                }
            })
            .collect();
        Self {
            now: S,
            rng,
            nodes,
            oracle: Oracle::of(config.voters),
            config,
            loss: 0.0,
            dup: 0.0,
            delay_us: 20 * MS,
            cut: BTreeSet::new(),
            joined_since: BTreeMap::new(),
            old_offers: Vec::new(),
            objects: 0,
            steps: 0,
            proposals: 0,
            trace: std::env::var("NOMAD_TRACE").is_ok(),
            queue: BinaryHeap::new(),
            seq: 0,
        }
    }

    pub fn at(&mut self, in_us: u64, node: usize, life: Option<u64>, what: SimEvent) {
        self.seq += 1;
        let at = self.now + in_us;
        self.queue.push(Reverse(Item { at, seq: self.seq, node, life, what }));
    }

    pub fn delay(&mut self) -> u64 {
        self.rng.random_range(MS..=self.delay_us.max(2 * MS))
    }

    pub fn index_of(&self, node: NodeId) -> Option<usize> {
        self.nodes.iter().position(|n| n.id == node)
    }

    pub fn index_at(&self, address: &str) -> Option<usize> {
        self.nodes.iter().position(|n| n.address == address)
    }

    pub fn can_talk(&self, a: usize, b: usize) -> bool {
        let runs = |n: usize| self.nodes[n].process.is_some();
        runs(a) && runs(b) && !self.cut.contains(&pair(a, b))
    }

    pub fn member(&self, n: usize) -> Member {
        let node = &self.nodes[n];
        Member {
            node: node.id,
            rest: String::new(),
            peer: node.address.clone(),
            storage: String::new(),
            position: Position { x: (n % 4) as f64, y: (n / 4) as f64 },
        }
    }

    /// Starts a node's process.
    pub fn start(&mut self, n: usize) {
        let member = self.member(n);
        let seed = self.rng.random();
        let now = self.now;
        let jitter = self.rng.random_range(0..S);
        let node = &mut self.nodes[n];
        node.life += 1;
        node.up_since = now;
        if std::mem::take(&mut node.ordered_to_leave) {
            node.told_claim = Some(node.durable.claim);
        }
        let membership = Membership::new(
            self.config.clone(),
            member,
            node.permanent,
            node.durable.clone(),
            seed,
        );
        let raft = node.disk.clone().map(|disk| Raft::open(node.id, disk, now, jitter));
        let log = raft.as_ref().map_or_else(LogState::default, |raft| raft.state(now));
        node.process = Some(Process {
            membership,
            raft,
            open: BTreeSet::new(),
            asked: BTreeMap::new(),
            ordered: BTreeSet::new(),
            next_request: 0,
            wake: u64::MAX,
            keep: BTreeMap::new(),
            links: BTreeMap::new(),
            offer: None,
            seeker: None,
            whereabouts: None,
        });
        let life = Some(node.life);
        self.print_trace(n, "starts");
        self.at(0, n, life, SimEvent::Step(Box::new(MembershipEvent::Started { log })));
        let first = self.rng.random_range(0..raft::HEARTBEAT_US);
        self.at(first, n, life, SimEvent::RaftTick);
        self.network_changed();
    }

    /// Kills a node's process; what is on disk stays.
    pub fn crash(&mut self, n: usize) {
        self.print_trace(n, "crashes");
        self.save_disk(n);
        self.nodes[n].process = None;
        self.network_changed();
    }

    pub fn save_disk(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if let Some(raft) = node.process.as_ref().and_then(|process| process.raft.as_ref()) {
            node.disk = Some(raft.disk.clone());
        }
    }

    /// Nodes notice a change of the network after a short delay.
    pub fn network_changed(&mut self) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                if !self.can_talk(a, b) {
                    self.joined_since.remove(&(a, b));
                } else {
                    self.joined_since.entry((a, b)).or_insert(self.now);
                }
            }
            if self.nodes[a].process.is_some() {
                let soon = self.rng.random_range(5 * MS..300 * MS);
                let life = Some(self.nodes[a].life);
                self.at(soon, a, life, SimEvent::CheckLinks);
            }
        }
    }

    /// Runs until a time.
    pub fn run_until(&mut self, end: u64) {
        while self.queue.peek().is_some_and(|Reverse(item)| item.at <= end) {
            let Some(Reverse(item)) = self.queue.pop() else { break };
            self.now = item.at;
            let node = &self.nodes[item.node];
            let is_for_it = item.life.is_none_or(|life| life == node.life);
            if node.process.is_some() && is_for_it {
                self.handle(item.node, item.what);
            }
        }
        self.now = end;
    }

    pub fn print_trace(&self, n: usize, what: &str) {
        if self.trace {
            eprintln!("{:>10.3} n{n} {what}", self.now as f64 / S as f64);
        }
    }

    pub fn clock(&self, n: usize) -> MonotonicUs {
        MonotonicUs(self.now + self.nodes[n].clock_offset)
    }

    /// Sends something from one node to another: it may be lost, doubled or late.
    pub fn send(&mut self, from: usize, to: usize, what: impl Fn() -> SimEvent) {
        if !self.can_talk(from, to) || self.rng.random_bool(self.loss) {
            return;
        }
        let copies = 1 + usize::from(self.rng.random_bool(self.dup));
        for _ in 0..copies {
            let delay = self.delay();
            self.at(delay, to, None, what());
        }
    }

    pub fn failed(&mut self, n: usize, ticket: Ticket, failure: AskFailure) {
        let life = Some(self.nodes[n].life);
        let event = MembershipEvent::Answered { ticket, by: None, answer: Err(failure) };
        self.at(MS, n, life, SimEvent::Step(Box::new(event)));
    }
}
