//! The requests of clients and of the nodes' own clean-ups.

use crate::{
    model::{
        change::{Change, Condition, Content},
        object::{Object, ObjectId, Version},
        time::UnixSecs,
    },
    register::{RegisterOrder, Tombstone, Value},
};
use bytes::Bytes;
use rand::Rng;

use super::{MS, S, World, below, machine::Purpose, object};
use crate::sim::linearizability::{Action, Condition as Told, Token};

/// Objects for safe operations; those of the second kind expire.
pub const SAFE: usize = 3;
pub const MORTAL: usize = 1;
/// Objects for fast writes alone, and for both.
pub const FAST: usize = 2;
pub const MIXED: usize = 1;

pub fn safe_objects() -> Vec<ObjectId> {
    let safe = (0..SAFE).map(|n| object('s', n));
    safe.chain((0..MORTAL).map(|n| object('m', n))).collect()
}

pub fn fast_objects() -> Vec<ObjectId> {
    let fast = (0..FAST).map(|n| object('f', n));
    fast.chain((0..MIXED).map(|n| object('x', n))).collect()
}

pub fn can_expire(id: &ObjectId) -> bool {
    id.as_str().starts_with('m')
}

pub fn is_mixed(id: &ObjectId) -> bool {
    id.as_str().starts_with('x')
}

fn content(token: Token, expires_at: Option<UnixSecs>) -> Content {
    let value = Bytes::copy_from_slice(&token.to_le_bytes());
    Content { value, creation_time: None, expires_at, content_type: None }
}

impl World {
    pub fn running(&mut self) -> Option<usize> {
        let running: Vec<_> =
            (0..self.machines.len()).filter(|n| self.machines[*n].process.is_some()).collect();
        (!running.is_empty()).then(|| running[self.rng.random_range(0..running.len())])
    }

    fn draw_wait(&mut self) -> u64 {
        [20 * MS, 200 * MS, 2 * S, 5 * S][self.rng.random_range(0..4)]
    }

    /// A client sends a safe operation; now and then several at once.
    pub fn client(&mut self) {
        let Some(n) = self.running() else { return };
        let objects = safe_objects();
        let is_hot = self.rng.random_bool(self.plan.hot);
        let place = if is_hot { 0 } else { self.rng.random_range(0..objects.len()) };
        let id = objects[place].clone();
        let count = if self.rng.random_bool(0.15) { self.rng.random_range(2..5) } else { 1 };
        for _ in 0..count {
            let done = self.oracle.histories.get(&id).map_or(0, |held| held.operations.len());
            if done < self.plan.operations_max {
                let action = self.draw_action(&id);
                self.operate(n, &id, action);
            }
        }
    }

    fn draw_action(&mut self, id: &ObjectId) -> Action {
        let token = self.oracle.token();
        let condition = match self.rng.random_range(0..13) {
            0 | 1 => Told::Absent,
            2 | 3 => Told::Any,
            4 => Told::Present,
            5 | 6 => match self.draw_known(id) {
                Some(known) => Told::Is(known),
                None => Told::Absent,
            },
            7..10 => {
                let condition = match self.draw_known(id) {
                    Some(known) if self.rng.random_bool(0.3) => Told::Is(known),
                    _ => Told::Any,
                };
                return Action::Delete { condition };
            }
            _ => return Action::Read,
        };
        Action::Write { token, condition }
    }

    /// One of the last writes that clients know.
    fn draw_known(&mut self, id: &ObjectId) -> Option<Token> {
        let observed = self.oracle.observed.get(id)?;
        let back = self.rng.random_range(0..observed.len().min(4));
        Some(observed[observed.len() - 1 - back].1)
    }

    /// Sends one operation and records it.
    pub fn operate(&mut self, n: usize, id: &ObjectId, action: Action) {
        let wait = if self.is_healed { 100 * S } else { self.draw_wait() };
        let wall_s = self.wall_ms(n) / 1_000;
        let place = self.oracle.began(id, n, action, self.now, wall_s);
        let expires_at = (can_expire(id) && self.rng.random_bool(0.7))
            .then(|| UnixSecs(wall_s + self.rng.random_range(1..4)));
        if let (Action::Write { token, .. }, Some(at)) = (action, expires_at) {
            self.oracle.histories.get_mut(id).unwrap().expiries.insert(token, at.0);
        }
        let condition = |told: Told| match told {
            Told::Any => Condition::Any,
            Told::Absent => Condition::Absent,
            Told::Present => Condition::Present,
            Told::Is(token) => Condition::Version(self.version_of(id, token)),
        };
        let order = match action {
            Action::Read => RegisterOrder::Read,
            Action::Write { token, condition: told } => {
                let content = content(token, expires_at);
                RegisterOrder::Change(Change::Write { content, condition: condition(told) })
            }
            Action::Delete { condition: told } => {
                RegisterOrder::Change(Change::Delete { condition: condition(told) })
            }
            Action::Expire => RegisterOrder::Expire,
        };
        let op = self.begin(n, id, order, wait, Purpose::Client(id.clone(), place));
        if let Some(op) = op
            && !self.is_healed
            && self.rng.random_bool(0.02)
        {
            self.abandon(n, op);
        }
    }

    fn abandon(&mut self, n: usize, op: u64) {
        let Some(process) = &mut self.machines[n].process else { return };
        if process.ops.remove(&op).is_some() {
            self.step(n, crate::register::RegisterEvent::Abandon { op });
        }
    }

    fn version_of(&self, id: &ObjectId, token: Token) -> Version {
        let observed = self.oracle.observed.get(id).unwrap();
        observed.iter().find(|(_, of)| *of == token).map(|(version, _)| *version).unwrap()
    }

    /// A client writes fast: to this machine's outbox.
    pub fn write_fast(&mut self) {
        let Some(n) = self.running() else { return };
        let objects = fast_objects();
        let id = objects[self.rng.random_range(0..objects.len())].clone();
        let wall = self.clocks(n).wall;
        let token = self.oracle.token();
        let is_delete = self.rng.random_bool(0.45);
        let can_expire = self.rng.random_bool(0.2);
        let machine = &mut self.machines[n];
        let held = machine.outbox.get(&id).and_then(Value::version);
        machine.fast_clock.observe(machine.watermark.max(held.unwrap_or_default()));
        // Versions of fast writes are odd, those of registers even: no two writes share one.
        let mut version = machine.fast_clock.tick(wall);
        if version.time.is_multiple_of(2) {
            version = machine.fast_clock.tick(wall);
        }
        let expires_at = can_expire.then(|| UnixSecs(wall.secs().0 + 1));
        let value = if is_delete {
            Value::Tombstone(Tombstone { version })
        } else {
            let Content { value, .. } = content(token, None);
            Value::Live(Object {
                id: id.clone(),
                value,
                creation_time: wall.secs(),
                expires_at,
                last_modified: wall.secs(),
                version,
                content_type: None,
            })
        };
        self.print_trace(n, || format!("writes {id} fast, {value:?}"));
        self.oracle.written_fast(&id, &value);
        // The outbox sends only the newest write of an object.
        if let Some(older) = self.machines[n].outbox.insert(id.clone(), value) {
            self.oracle.lost(vec![(id, older)]);
        }
    }

    /// A fast write leaves the outbox for its replicas.
    pub fn drain(&mut self, n: usize) {
        let entries: Vec<_> =
            self.machines[n].outbox.iter().map(|(id, v)| (id.clone(), v.clone())).collect();
        for (id, value) in entries {
            let version = value.version().unwrap();
            let wait = if self.is_healed { 5 * S } else { self.draw_wait() };
            let purpose = Purpose::Merge(id.clone(), version);
            self.begin(n, &id, RegisterOrder::Merge(value), wait, purpose);
        }
    }

    /// A machine promises to send no fast write of an old version any more.
    pub fn promise(&mut self, n: usize) {
        let wall = self.clocks(n).wall;
        let machine = &mut self.machines[n];
        let oldest = machine.outbox.values().filter_map(Value::version).min();
        let clock = machine.fast_clock.tick(wall);
        let most = oldest.map_or(clock, |oldest| clock.min(below(oldest)));
        machine.watermark = machine.watermark.max(most);
    }

    /// Cleans up one object: an expired one, a tombstone, or an empty register that rounds have left.
    pub fn sweep(&mut self, n: usize) {
        let mut objects = fast_objects();
        if !self.mistakes.is_about_fast_writes() {
            objects.extend(safe_objects());
        }
        let id = objects[self.rng.random_range(0..objects.len())].clone();
        let is_safe = self.oracle.histories.contains_key(&id) && !is_mixed(&id);
        let wait = if self.is_healed { 5 * S } else { self.draw_wait() };
        let held = self.machines[n].disk.registers.get(&id);
        match held.map(|held| held.value.clone()) {
            Some(Value::Live(object)) if object.expires_at.is_some() && is_safe => {
                self.operate(n, &id, Action::Expire);
            }
            Some(Value::Live(object)) if object.expires_at.is_some() => {
                self.begin(n, &id, RegisterOrder::Expire, wait, Purpose::Other);
            }
            Some(Value::Live(_)) | None => {
                self.begin(n, &id, RegisterOrder::Repair, wait, Purpose::Other);
            }
            Some(Value::Tombstone(tombstone)) => self.clear(n, &id, tombstone.version, wait),
            Some(Value::Absent) => self.clear(n, &id, Version::default(), wait),
        }
    }

    fn clear(&mut self, n: usize, id: &ObjectId, version: Version, wait: u64) {
        let is_safe = id.as_str().starts_with(['s', 'm']);
        let is_passed = self.machines.iter().all(|machine| machine.watermark >= version);
        if is_safe || is_passed || self.mistakes.no_watermark {
            let purpose = Purpose::Clear(id.clone(), version);
            self.begin(n, id, RegisterOrder::Clear(version), wait, purpose);
        }
    }

    /// A safe operation on an object that is written fast too.
    pub fn operate_on_mixed(&mut self) {
        let Some(n) = self.running() else { return };
        let id = object('x', 0);
        let token = self.oracle.token();
        let order = match self.rng.random_range(0..3) {
            0 => RegisterOrder::Change(Change::Delete { condition: Condition::Any }),
            1 => {
                let content = content(token, None);
                RegisterOrder::Change(Change::Write { content, condition: Condition::Any })
            }
            _ => RegisterOrder::Read,
        };
        let wait = self.draw_wait();
        self.begin(n, &id, order, wait, Purpose::Other);
    }
}
