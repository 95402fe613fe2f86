//! Schedules written by hand, for cases that random ones seldom reach. The test decides when each message is delivered. Every
//! write is durable at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    group::table::{Configuration, Old},
    machine::{Core, Now},
    model::{
        change::{Change, Condition, Content},
        node_id::NodeId,
        object::{ObjectId, Version},
        time::{MonotonicUs, UnixMs, UnixSecs},
        trace::TraceContext,
    },
    register::{
        Ballot, Body, Declined, Home, OpId, Register, RegisterEffect, RegisterEvent,
        RegisterFaults, RegisterMessage, RegisterOptions, RegisterOrder, RegisterOutcome,
        RegisterShelf, Registers, ShardState, Value, is_rescanned, keeps,
    },
};
use bytes::Bytes;

use super::{GROUP, S, oracle::token_of};
use crate::sim::linearizability::{
    Action, Condition as Told, History, Operation, Outcome, Seen, Token, Verdict,
};

/// A kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Prepare,
    Promise,
    Accept,
    Accepted,
    Conflict,
    Query,
    Reading,
    Drop,
    Chain,
    Behind,
    Declined,
}

fn kind_of(body: &Body) -> Kind {
    match body {
        Body::Prepare { .. } => Kind::Prepare,
        Body::Promise { .. } => Kind::Promise,
        Body::Accept { .. } => Kind::Accept,
        Body::Accepted { .. } => Kind::Accepted,
        Body::Conflict { .. } => Kind::Conflict,
        Body::Query { .. } => Kind::Query,
        Body::Reading { .. } => Kind::Reading,
        Body::Drop { .. } => Kind::Drop,
        Body::Chain { .. } => Kind::Chain,
        Body::Behind => Kind::Behind,
        Body::Declined { .. } => Kind::Declined,
    }
}

/// A node. Its writes are durable at once.
pub struct Actor {
    pub registers: Registers,
    pub disk: BTreeMap<ObjectId, Register>,
    pub state: Option<ShardState>,
}

struct ActorShelf<'a> {
    disk: &'a BTreeMap<ObjectId, Register>,
    cut_off: &'a BTreeSet<usize>,
    declines: Option<Declined>,
}

impl RegisterShelf for ActorShelf<'_> {
    fn register(&self, id: &ObjectId) -> Result<Option<Register>, String> {
        Ok(self.disk.get(id).cloned())
    }

    fn declines(&self) -> Option<(Declined, String)> {
        self.declines.map(|what| (what, "full".into()))
    }

    fn reaches(&self, other: NodeId) -> bool {
        self.cut_off.iter().all(|n| node(*n) != other)
    }
}

/// A few nodes, and the messages that wait between them.
pub struct Scenario {
    pub actors: Vec<Actor>,
    pub net: VecDeque<(usize, usize, RegisterMessage)>,
    pub chain: Vec<Configuration>,
    pub ended: BTreeMap<(usize, OpId), RegisterOutcome>,
    pub rescanned: BTreeSet<(usize, u64)>,
    pub left_behind: BTreeSet<usize>,
    /// The request that all orders belong to.
    pub trace: TraceContext,
    /// Nodes that no link reaches.
    pub cut_off: BTreeSet<usize>,
    /// What the stores of nodes refuse, and whether the nodes know.
    pub full: BTreeMap<usize, (Declined, bool)>,
    /// The object that the schedule uses.
    pub id: ObjectId,
    pub sent: usize,
    pub now: u64,
    pub wall_s: u64,
    /// Switches on a bug of the shell: registers that a node does not have to keep any more are not deleted.
    pub no_purge: bool,
    options: RegisterOptions,
    next_op: OpId,
    history: History,
    places: BTreeMap<(usize, OpId), usize>,
    /// The operations that were not done.
    undone: BTreeSet<usize>,
    versions: BTreeMap<Version, Token>,
    time: u64,
}

pub fn node(n: usize) -> NodeId {
    NodeId::from_key([n as u8 + 1; 32])
}

pub fn nodes(which: &[usize]) -> BTreeSet<NodeId> {
    which.iter().map(|n| node(*n)).collect()
}

/// An object that these members keep, best first, if three of `members` keep each.
pub fn object_on(replicas: &[usize], members: &[usize]) -> ObjectId {
    let names = (0..).map(|n| ObjectId::parse(&format!("o{n}")).unwrap());
    let wanted: Vec<_> = replicas.iter().map(|n| node(*n)).collect();
    let mut fitting =
        names.filter(|id| crate::register::replicas(id, &nodes(members), 3) == wanted);
    fitting.next().unwrap()
}

impl Scenario {
    /// Nodes 0 to `count - 1`. The first configuration has these `members` and three replicas.
    pub fn new(count: usize, members: &[usize], faults: RegisterFaults) -> Self {
        let first =
            Configuration { epoch: 1, members: nodes(members), replication_factor: 3, old: None };
        let options = RegisterOptions { faults, ..RegisterOptions::default() };
        let actors = (0..count).map(|n| Actor {
            registers: Registers::new(home(n), None, None, options.clone()),
            disk: BTreeMap::new(),
            state: None,
        });
        let mut scenario = Self {
            actors: actors.collect(),
            net: VecDeque::new(),
            chain: vec![first],
            ended: BTreeMap::new(),
            rescanned: BTreeSet::new(),
            left_behind: BTreeSet::new(),
            trace: TraceContext::default(),
            cut_off: BTreeSet::new(),
            full: BTreeMap::new(),
            id: ObjectId::parse("o").unwrap(),
            sent: 0,
            now: S,
            wall_s: 1_000,
            no_purge: false,
            options,
            next_op: 0,
            history: History::default(),
            places: BTreeMap::new(),
            undone: BTreeSet::new(),
            versions: BTreeMap::new(),
            time: 0,
        };
        for n in members {
            scenario.configure(*n);
        }
        scenario
    }

    /// The table changes to a joint configuration.
    pub fn join(&mut self, members: &[usize]) {
        let last = self.chain.last().unwrap();
        let old = Old {
            members: last.members.clone(),
            replication_factor: last.replication_factor,
            lost: BTreeSet::new(),
        };
        let next = Configuration {
            epoch: last.epoch + 1,
            members: nodes(members),
            replication_factor: last.replication_factor,
            old: Some(old),
        };
        self.chain.push(next);
    }

    /// A forced change: the table goes on without some members.
    pub fn force(&mut self, lost: &[usize]) {
        let mut next = self.chain.last().unwrap().clone();
        next.epoch += 1;
        let old = next.old.as_mut().unwrap();
        for n in lost {
            old.lost.insert(node(*n));
            next.members.remove(&node(*n));
        }
        self.chain.push(next);
    }

    /// The table changes to a stable configuration.
    pub fn settle(&mut self) {
        let last = self.chain.last().unwrap();
        let next = Configuration { epoch: last.epoch + 1, old: None, ..last.clone() };
        self.chain.push(next);
    }

    /// Gives the table to a node.
    pub fn configure(&mut self, n: usize) {
        self.step(n, RegisterEvent::Configured { chain: self.chain.clone() });
    }

    pub fn step(&mut self, n: usize, event: RegisterEvent) {
        let now = Now {
            monotonic: MonotonicUs(self.now),
            wall: UnixMs(self.wall_s * 1_000),
            entropy: self.now ^ n as u64,
        };
        let known = self.full.get(&n).filter(|(_, is_known)| *is_known);
        let declines = known.map(|(what, _)| *what);
        let actor = &mut self.actors[n];
        let shelf = ActorShelf { disk: &actor.disk, cut_off: &self.cut_off, declines };
        let effects = actor.registers.step(now, event, &shelf);
        for effect in effects {
            self.carry_out(n, effect);
        }
    }

    fn refuses(&self, n: usize, writes: &[(ObjectId, Option<Register>)]) -> bool {
        let disk = &self.actors[n].disk;
        let is_new = |(id, register): &(ObjectId, Option<Register>)| {
            let kept = disk.get(id).map(|kept| &kept.value);
            let wanted = register.as_ref().map(|register| &register.value);
            matches!(wanted, Some(Value::Live(_))) && kept != wanted
        };
        self.full
            .get(&n)
            .is_some_and(|(what, _)| *what == Declined::Writes || writes.iter().any(is_new))
    }

    fn carry_out(&mut self, n: usize, effect: RegisterEffect) {
        match effect {
            RegisterEffect::Keep { ticket, writes, .. } if self.refuses(n, &writes) => {
                self.step(n, RegisterEvent::Refused { ticket, reason: "full".into() });
            }
            RegisterEffect::Keep { ticket, state, writes } => {
                let actor = &mut self.actors[n];
                if state.is_some() {
                    actor.state = state;
                }
                for (id, register) in writes {
                    match register {
                        Some(register) => actor.disk.insert(id, register),
                        None => actor.disk.remove(&id),
                    };
                }
                self.step(n, RegisterEvent::Kept { ticket });
            }
            RegisterEffect::Adopt { state } => {
                let actor = &mut self.actors[n];
                let configuration = state.configuration.clone();
                if !configuration.is_joint() && !self.no_purge {
                    actor.disk.retain(|id, _| keeps(node(n), id, &configuration));
                }
                let held = actor.disk.iter().filter(|(_, held)| held.accepted > Ballot::NONE);
                let held = held.map(|(id, _)| id.clone());
                let is_joint = configuration.is_joint();
                let rescan =
                    held.filter(|id| is_joint && is_rescanned(id, &configuration)).collect();
                actor.state = Some(state);
                self.step(n, RegisterEvent::Adopted { epoch: configuration.epoch, rescan });
            }
            RegisterEffect::Send { to, message, .. } => {
                self.sent += 1;
                let to = (0..self.actors.len()).find(|m| node(*m) == to).unwrap();
                self.net.push_back((n, to, message));
            }
            RegisterEffect::End { op, ended } => self.end(n, op, ended),
            RegisterEffect::Rescanned { epoch } => {
                self.rescanned.insert((n, epoch));
            }
            RegisterEffect::LeftBehind { .. } => {
                self.left_behind.insert(n);
            }
        }
    }

    /// Ends a process and starts it again.
    pub fn restart(&mut self, n: usize) {
        let actor = &mut self.actors[n];
        actor.registers = Registers::new(home(n), actor.state.clone(), None, self.options.clone());
        self.step(n, RegisterEvent::Tick);
    }

    /// Sends a request that is not a client's.
    pub fn order(&mut self, n: usize, order: RegisterOrder) -> OpId {
        self.order_for(n, order, 1_000 * S)
    }

    pub fn order_for(&mut self, n: usize, order: RegisterOrder, wait_us: u64) -> OpId {
        self.next_op += 1;
        let op = self.next_op;
        let deadline = MonotonicUs(self.now + wait_us);
        let (id, trace) = (self.id.clone(), self.trace);
        self.step(n, RegisterEvent::Begin { op, id, order, deadline, trace });
        op
    }

    /// A client sends an operation.
    pub fn client(&mut self, n: usize, action: Action) -> OpId {
        self.client_until(n, action, None)
    }

    /// A client sends an operation. A written object may expire.
    pub fn client_until(&mut self, n: usize, action: Action, expires: Option<u64>) -> OpId {
        self.time += 1;
        let wall = (self.wall_s, self.wall_s);
        let operation = Operation { action, began: self.time, ended: None, wall, by: n };
        self.history.operations.push(operation);
        let place = self.history.operations.len() - 1;
        self.places.insert((n, self.next_op + 1), place);
        let condition = |told: Told| match told {
            Told::Any => Condition::Any,
            Told::Absent => Condition::Absent,
            Told::Present => Condition::Present,
            Told::Is(token) => {
                let is_it = |(_, of): &(&Version, &Token)| **of == token;
                Condition::Version(*self.versions.iter().find(is_it).unwrap().0)
            }
        };
        let order = match action {
            Action::Read => RegisterOrder::Read,
            Action::Expire => RegisterOrder::Expire,
            Action::Write { token, condition: told } => {
                if let Some(at) = expires {
                    self.history.expiries.insert(token, at);
                }
                let content = Content {
                    value: Bytes::copy_from_slice(&token.to_le_bytes()),
                    creation_time: None,
                    expires_at: expires.map(UnixSecs),
                    content_type: None,
                };
                RegisterOrder::Change(Change::Write { content, condition: condition(told) })
            }
            Action::Delete { condition: told } => {
                RegisterOrder::Change(Change::Delete { condition: condition(told) })
            }
        };
        self.order(n, order)
    }

    pub fn create(&mut self, n: usize, token: Token) -> OpId {
        self.client(n, Action::Write { token, condition: Told::Absent })
    }

    pub fn delete(&mut self, n: usize) -> OpId {
        self.client(n, Action::Delete { condition: Told::Any })
    }

    pub fn read(&mut self, n: usize) -> OpId {
        self.client(n, Action::Read)
    }

    /// Removes the tombstone that a node holds.
    pub fn clear(&mut self, n: usize) -> OpId {
        let version = self.actors[n].disk[&self.id].value.version().unwrap();
        self.order(n, RegisterOrder::Clear(version))
    }

    fn end(&mut self, n: usize, op: OpId, ended: RegisterOutcome) {
        self.time += 1;
        self.ended.insert((n, op), ended.clone());
        let Some(place) = self.places.get(&(n, op)) else { return };
        let operation = &mut self.history.operations[*place];
        operation.wall.1 = self.wall_s;
        let outcome = match ended {
            RegisterOutcome::Written { version: Some(version), created } => {
                if let Action::Write { token, .. } = operation.action {
                    self.versions.insert(version, token);
                }
                Outcome::Done { created: Some(created) }
            }
            RegisterOutcome::Written { version: None, .. } | RegisterOutcome::Done => {
                Outcome::Done { created: None }
            }
            RegisterOutcome::Refused(_) => Outcome::Refused(Seen::Unsaid),
            RegisterOutcome::Read(object) => {
                Outcome::Read(object.map(|object| token_of(&object.value)))
            }
            RegisterOutcome::Unknown => return,
            RegisterOutcome::Declined { .. } => {
                self.undone.insert(*place);
                return;
            }
            _ => panic!("n{n} has no quorum for {op}"),
        };
        operation.ended = Some((self.time, outcome));
    }

    /// Removes the oldest such message from the network, and returns it.
    pub fn lose(&mut self, from: usize, to: usize, kind: Kind) -> RegisterMessage {
        let is_it = |(f, t, message): &(usize, usize, RegisterMessage)| {
            (*f, *t) == (from, to) && kind_of(&message.body) == kind
        };
        let place = self.net.iter().position(is_it);
        let waiting: Vec<_> = self.net.iter().map(|(f, t, m)| (*f, *t, kind_of(&m.body))).collect();
        let place = place.unwrap_or_else(|| panic!("no {kind:?} {from} to {to} in {waiting:?}"));
        self.net.remove(place).unwrap().2
    }

    /// Delivers the oldest such message.
    pub fn deliver(&mut self, from: usize, to: usize, kind: Kind) {
        let message = self.lose(from, to, kind);
        self.hear(from, to, message);
    }

    /// Delivers a message that was removed from the network before.
    pub fn hear(&mut self, from: usize, to: usize, message: RegisterMessage) {
        let trace = TraceContext::default();
        self.step(to, RegisterEvent::Heard { from: node(from), message, trace });
    }

    /// Delivers a request and its answer.
    pub fn ask(&mut self, from: usize, to: usize, kind: Kind) {
        let before = self.net.len();
        self.deliver(from, to, kind);
        let answers: Vec<_> = self.net.drain(before - 1..).collect();
        for (f, t, message) in answers {
            if (f, t) == (to, from) {
                self.hear(f, t, message);
            } else {
                self.net.push_back((f, t, message));
            }
        }
    }

    /// Delivers all messages, and all that follow from them.
    pub fn flow(&mut self) {
        while let Some((from, to, message)) = self.net.pop_front() {
            self.hear(from, to, message);
        }
    }

    /// Delivers everything among some nodes; the rest waits.
    pub fn flow_among(&mut self, which: &[usize]) {
        let is_among = |(from, to, _): &(usize, usize, RegisterMessage)| {
            which.contains(from) && which.contains(to)
        };
        while let Some(place) = self.net.iter().position(is_among) {
            let (from, to, message) = self.net.remove(place).unwrap();
            self.hear(from, to, message);
        }
    }

    /// Loses all messages.
    pub fn lose_all(&mut self) {
        self.net.clear();
    }

    /// Lets some time pass at a node.
    pub fn pass(&mut self, n: usize, us: u64) {
        self.now += us;
        self.step(n, RegisterEvent::Tick);
    }

    /// Reads at a node that can talk to one other replica alone. That replica holds something else, so a round has to decide.
    pub fn read_with(&mut self, n: usize, other: usize) {
        self.read(n);
        self.ask(n, other, Kind::Query);
        self.pass(n, 20_000);
        self.lose_but(n, other);
        self.flow_among(&[n, other]);
    }

    /// Loses all messages but those between two nodes.
    pub fn lose_but(&mut self, a: usize, b: usize) {
        self.net.retain(|(from, to, _)| (*from, *to) == (a, b) || (*from, *to) == (b, a));
    }

    /// Lets time pass at a node until it begins a new round. What it sends again before that is lost.
    pub fn retry(&mut self, n: usize) {
        for _ in 0..40 {
            let before: Vec<_> = self.net.iter().cloned().collect();
            self.now += 2 * S;
            self.step(n, RegisterEvent::Tick);
            let is_new = |(from, _, message): &&(usize, usize, RegisterMessage)| {
                *from == n && kind_of(&message.body) == Kind::Prepare
            };
            let ballots: BTreeSet<_> = before.iter().filter(is_new).map(ballot_of).collect();
            if self.net.iter().filter(is_new).any(|sent| !ballots.contains(&ballot_of(sent))) {
                let kept = |sent: &(usize, usize, RegisterMessage)| {
                    before.contains(sent) || !ballots.contains(&ballot_of(sent))
                };
                self.net.retain(kept);
                return;
            }
            self.net = before.into();
        }
        panic!("n{n} does not begin anew");
    }

    /// A node hears, in place of an answer to its oldest question to another one, of a counter that is far ahead. It begins
    /// anew.
    pub fn leap(&mut self, n: usize, other: usize) {
        let mut message = self.lose(n, other, Kind::Prepare);
        let Body::Prepare { id, ballot } = message.body else { panic!("no question") };
        let promised = Ballot { counter: 1 << 40, ..ballot };
        message.body = Body::Conflict { id, ballot, promised };
        self.lose_all();
        self.hear(other, n, message);
        self.retry(n);
    }

    /// Raises the counter of a node above those of the others.
    pub fn raise_counter(&mut self, n: usize) {
        let other = ObjectId::parse("other").unwrap();
        let waiting = self.net.len();
        for _ in 0..50 {
            self.next_op += 1;
            let (op, deadline) = (self.next_op, MonotonicUs(self.now + S));
            let trace = TraceContext::default();
            let order = RegisterOrder::Repair;
            self.step(n, RegisterEvent::Begin { op, id: other.clone(), order, deadline, trace });
            self.step(n, RegisterEvent::Abandon { op });
        }
        self.net.truncate(waiting);
    }

    /// Sets the wall clock, so that objects expire.
    pub fn expire(&mut self, wall_s: u64) {
        self.wall_s = wall_s;
        for operation in &mut self.history.operations {
            if operation.ended.is_none() {
                operation.wall.1 = wall_s;
            }
        }
    }

    /// The value that a node holds.
    pub fn held(&self, n: usize) -> Option<&Value> {
        self.actors[n].disk.get(&self.id).map(|register| &register.value)
    }

    pub fn verdict(&self) -> Verdict {
        let mut history = History { operations: Vec::new(), ..self.history.clone() };
        for (place, operation) in self.history.operations.iter().enumerate() {
            if !self.undone.contains(&place) {
                history.operations.push(operation.clone());
            }
        }
        println!("{history}");
        history.check(100_000)
    }
}

fn home(n: usize) -> Home {
    Home { node: node(n), group: GROUP.into(), claim: 1 }
}

fn ballot_of((_, _, message): &(usize, usize, RegisterMessage)) -> Option<Ballot> {
    match &message.body {
        Body::Prepare { ballot, .. } => Some(*ballot),
        _ => None,
    }
}
