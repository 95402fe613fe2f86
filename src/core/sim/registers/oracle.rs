//! The oracle: records all requests and answers, asserts after each that no version and no ballot stands for two values, and
//! checks the histories at the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{
        change::WriteRefusal,
        object::{ObjectId, Version},
    },
    register::{Ballot, Body, Register, RegisterOutcome, Value},
};

use super::machine::{Job, Purpose};
use crate::sim::linearizability::{Action, History, Operation, Outcome, Seen, Token, Verdict};

/// How many steps the search for an order may take.
const SEARCH_MAX: usize = 200_000;

#[derive(Default)]
pub struct Oracle {
    pub histories: BTreeMap<ObjectId, History>,
    /// Operations that did not happen, by their places in the history.
    not_done: BTreeSet<(ObjectId, usize)>,
    /// Versions that refusals contained. Their writes are looked up at the end.
    refusal_versions: Vec<(ObjectId, usize, Version)>,
    /// The value of each ballot.
    values: BTreeMap<(ObjectId, Ballot), Value>,
    /// The write of each version.
    tokens: BTreeMap<(ObjectId, Version), Token>,
    /// The versions that clients got, with their writes. A write that is decided late may have been offered under another
    /// version before: no client gets that one.
    pub observed: BTreeMap<ObjectId, Vec<(Version, Token)>>,
    /// Fast writes that were acknowledged and must not get lost.
    pub fast: BTreeMap<ObjectId, BTreeMap<Version, Value>>,
    /// Fast writes whose only disk was lost. They may be there, or not.
    pub maybe_lost: BTreeMap<ObjectId, BTreeMap<Version, Value>>,
    clears: BTreeMap<ObjectId, Version>,
    /// Objects whose newest value was lost with the majority of their replicas: nothing is promised of them.
    pub broken: BTreeSet<ObjectId>,
    next_token: Token,
    pub messages: u64,
    pub crashes: u64,
    pub wipes: u64,
    pub changes: u64,
    pub forced: u64,
    pub drops: u64,
    pub told: u64,
    pub unknown: u64,
    pub declined: u64,
    pub gave_up: u64,
}

/// The number that a value carries.
pub fn token_of(value: &[u8]) -> Token {
    Token::from_le_bytes(value.try_into().unwrap())
}

/// A message in one short line.
pub fn shown(body: &Body) -> String {
    let text = format!("{body:?}");
    match body {
        Body::Promise { id, ballot, accepted, value, floor, .. } => {
            format!("Promise {id} {ballot:?} {accepted:?} {:?} floor {floor:?}", value.version())
        }
        Body::Accept { id, ballot, value, .. } => {
            format!("Accept {id} {ballot:?} {:?}", value.version())
        }
        Body::Reading { id, query, accepted, value } => {
            format!("Reading {id} {query} {accepted:?} {:?}", value.version())
        }
        _ => text.chars().take(200).collect(),
    }
}

impl Oracle {
    pub fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }

    /// A client sends a request. Returns the place in the object's history.
    pub fn began(
        &mut self,
        id: &ObjectId,
        by: usize,
        action: Action,
        now: u64,
        wall_s: u64,
    ) -> usize {
        let history = self.histories.entry(id.clone()).or_default();
        let operation = Operation { action, began: now, ended: None, wall: (wall_s, wall_s), by };
        history.operations.push(operation);
        history.operations.len() - 1
    }

    /// A client gets an answer.
    pub fn ended(
        &mut self,
        id: &ObjectId,
        place: usize,
        now: u64,
        wall_s: u64,
        ended: &RegisterOutcome,
    ) {
        self.told += 1;
        let history = self.histories.get_mut(id).unwrap();
        let operation = &mut history.operations[place];
        operation.wall = (operation.wall.0.min(wall_s), operation.wall.1.max(wall_s));
        let outcome = match ended {
            RegisterOutcome::Written { version, created } => {
                let created = version.map(|_| *created);
                if let (Some(version), Action::Write { token, .. }) = (version, operation.action) {
                    let known = self.tokens.entry((id.clone(), *version)).or_insert(token);
                    assert_eq!(*known, token, "{id} has two writes of version {version}");
                    self.observed.entry(id.clone()).or_default().push((*version, token));
                }
                Outcome::Done { created }
            }
            RegisterOutcome::Refused(WriteRefusal::Missing) => Outcome::Refused(Seen::Nothing),
            RegisterOutcome::Refused(
                WriteRefusal::Exists { version }
                | WriteRefusal::VersionMismatch { current: version, .. },
            ) => {
                self.refusal_versions.push((id.clone(), place, *version));
                Outcome::Refused(Seen::Unsaid)
            }
            RegisterOutcome::Read(object) => {
                let token = object.as_ref().map(|object| token_of(&object.value));
                if let (Some(object), Some(token)) = (object, token) {
                    self.observed.entry(id.clone()).or_default().push((object.version, token));
                }
                Outcome::Read(token)
            }
            RegisterOutcome::Done => Outcome::Done { created: None },
            RegisterOutcome::Unknown => {
                self.unknown += 1;
                return;
            }
            RegisterOutcome::Declined { .. } => {
                self.declined += 1;
                self.not_done.insert((id.clone(), place));
                return;
            }
            RegisterOutcome::NoQuorum { .. }
            | RegisterOutcome::NotReady
            | RegisterOutcome::Busy => {
                self.not_done.insert((id.clone(), place));
                return;
            }
        };
        if operation.action == Action::Expire {
            // It may have run several times, and have removed more than one expired object.
            let again = operation.clone();
            operation.ended = Some((now, outcome));
            return history.operations.push(again);
        }
        operation.ended = Some((now, outcome));
    }

    /// The node of these requests has crashed: their outcomes stay unknown.
    pub fn crashed<'a>(&mut self, purposes: impl Iterator<Item = &'a Purpose>, wall_s: u64) {
        self.seen_wall(purposes, wall_s);
    }

    /// The clock of the node of these requests shows this.
    pub fn seen_wall<'a>(&mut self, purposes: impl Iterator<Item = &'a Purpose>, wall_s: u64) {
        for purpose in purposes {
            let Purpose::Client(id, place) = purpose else { continue };
            let operation = &mut self.histories.get_mut(id).unwrap().operations[*place];
            operation.wall = (operation.wall.0.min(wall_s), operation.wall.1.max(wall_s));
        }
    }

    /// A job is on the disk now. What never was durable does not count.
    pub fn keeps(&mut self, job: &Job) {
        let Job::Keep(_, _, writes) = job else { return };
        for (id, register) in writes {
            if let Some(register) = register {
                self.accepts(id, register);
            }
        }
    }

    fn accepts(&mut self, id: &ObjectId, register: &Register) {
        if register.accepted == Ballot::NONE {
            return;
        }
        let key = (id.clone(), register.accepted);
        let known = self.values.entry(key).or_insert_with(|| register.value.clone());
        assert_eq!(*known, register.value, "{id} has two values for {:?}", register.accepted);
        if let Value::Live(object) = &register.value {
            let token = token_of(&object.value);
            let known = *self.tokens.entry((id.clone(), object.version)).or_insert(token);
            assert_eq!(known, token, "{id} has two writes of version {}", object.version);
        }
    }

    /// Returns the newest ballot under which an object was ever accepted.
    pub fn newest(&self, id: &ObjectId) -> Option<Ballot> {
        self.values.keys().filter(|(of, _)| of == id).map(|(_, ballot)| *ballot).max()
    }

    /// A fast write is acknowledged.
    pub fn written_fast(&mut self, id: &ObjectId, value: &Value) {
        let version = value.version().unwrap();
        self.fast.entry(id.clone()).or_default().insert(version, value.clone());
    }

    /// Fast writes are gone with their disk.
    pub fn lost(&mut self, entries: Vec<(ObjectId, Value)>) {
        for (id, value) in entries {
            let version = value.version().unwrap();
            self.fast.entry(id.clone()).or_default().remove(&version);
            self.maybe_lost.entry(id).or_default().insert(version, value);
        }
    }

    /// A tombstone was removed.
    pub fn cleared(&mut self, id: &ObjectId, version: Version) {
        self.drops += 1;
        let last = self.clears.entry(id.clone()).or_default();
        *last = (*last).max(version);
    }

    /// Checks that the newest fast write of an object is what is there in the end.
    pub fn check_fast(&self, id: &ObjectId, found: &Value) -> Result<(), String> {
        let none = BTreeMap::new();
        let fast = self.fast.get(id).unwrap_or(&none);
        let Some((newest, value)) = fast.last_key_value() else { return Ok(()) };
        let maybe_lost = self.maybe_lost.get(id).unwrap_or(&none);
        let mut allowed: Vec<_> = maybe_lost.range(*newest..).map(|(_, value)| value).collect();
        allowed.push(value);
        let may_be_gone = allowed.iter().any(|value| match value {
            Value::Live(object) => object.expires_at.is_some(),
            _ => true,
        });
        let is_gone = !matches!(found, Value::Live(_));
        if (is_gone && may_be_gone) || allowed.contains(&found) {
            return Ok(());
        }
        Err(format!("{id}: the newest fast write is {value:?}, and what is there is {found:?}"))
    }

    /// Checks that no fast write is newer than what is there, or than what was removed.
    pub fn check_not_older(&self, id: &ObjectId, found: &Value) -> Result<(), String> {
        let newest = self.fast.get(id).and_then(|fast| fast.last_key_value());
        let Some((newest, value)) = newest else { return Ok(()) };
        if !matches!((value, found), (Value::Live(_), _) | (_, Value::Live(_))) {
            // A tombstone may have been removed without a report.
            return Ok(());
        }
        let last = found.version().max(self.clears.get(id).copied());
        if last >= Some(*newest) {
            return Ok(());
        }
        Err(format!("{id}: the fast write {newest} is lost; there is {found:?}"))
    }

    /// Checks all histories.
    pub fn check(&mut self) -> Result<(), String> {
        for (id, place, version) in std::mem::take(&mut self.refusal_versions) {
            // An unknown version was never in a register: another change was decided in the same round.
            let Some(token) = self.tokens.get(&(id.clone(), version)) else { continue };
            let operation = &mut self.histories.get_mut(&id).unwrap().operations[place];
            if let Some((_, outcome)) = &mut operation.ended {
                *outcome = Outcome::Refused(Seen::Value(*token));
            }
        }
        for (id, history) in self.histories.iter().filter(|(id, _)| !self.broken.contains(*id)) {
            let happened = |(place, operation): (usize, &Operation)| {
                (!self.not_done.contains(&(id.clone(), place))).then(|| operation.clone())
            };
            let operations = history.operations.iter().enumerate().filter_map(happened).collect();
            let expiries = history.expiries.clone();
            let history = History { operations, expiries };
            match history.check(SEARCH_MAX) {
                Verdict::Linearizable => {}
                Verdict::GaveUp => self.gave_up += 1,
                Verdict::NotLinearizable => {
                    return Err(format!("{id} is not linearizable:\n{history}"));
                }
            }
        }
        Ok(())
    }
}
