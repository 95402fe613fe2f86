//! Decides what a task does to the value that its round has found.

use super::{
    Ended, Named, OpId, Past, Registers, Step, Tombstone, Value,
    line::{Task, Waiter},
};
use crate::{
    change::{Change, Decision},
    object::ObjectId,
};

/// What a task does.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// The value from now on; `None` = nothing changes.
    pub value: Option<Value>,
    /// How the requests for a change end once that is decided.
    pub results: Vec<(OpId, Ended)>,
    /// What those did that have names.
    pub named: Vec<Named>,
}

impl Registers {
    /// Evaluates a task. Time is the wall clock's: an object that has expired by it counts as absent.
    pub(super) fn evaluate(
        &mut self,
        step: Step<'_>,
        id: &ObjectId,
        task: &Task,
        (found, past): (&Value, &Past),
    ) -> Verdict {
        let only = |value| Verdict { value, ..Verdict::default() };
        match task {
            Task::Changes(changes) => self.evaluate_changes(step, id, changes, (found, past)),
            Task::Merge(value) if value.version() > found.version() => only(Some(value.clone())),
            Task::Expire => only(self.expired(step, found)),
            Task::Merge(_) | Task::Identity | Task::Clear(_) | Task::Repair | Task::Rescan => {
                only(None)
            }
        }
    }

    /// Applies changes one after the other. Nobody sees what lies between, which is as if nobody had looked.
    fn evaluate_changes(
        &mut self,
        step: Step<'_>,
        id: &ObjectId,
        changes: &[(OpId, Change)],
        (found, past): (&Value, &Past),
    ) -> Verdict {
        let now = step.now.wall.secs();
        let mut verdict = Verdict::default();
        for (op, change) in changes {
            let name = self.waiters.get(op).and_then(Waiter::name);
            let before = |name| {
                let here = verdict.named.iter().find(|named| named.name == name).copied();
                here.or_else(|| past.find(name))
            };
            if let Some(Named { version, created, .. }) = name.and_then(before) {
                // It is here already: it has come before.
                verdict.results.push((*op, Ended::Written { version, created }));
                continue;
            }
            let value = verdict.value.as_ref().unwrap_or(found);
            let current = value.live(now);
            let ended = match change.check(current) {
                Err(refusal) => Ended::Refused(refusal),
                Ok(()) => {
                    let version = self.numbers.version(step.now.wall, value.version());
                    match change.clone().decide(id, current, now, version) {
                        Err(refusal) => Ended::Refused(refusal),
                        Ok(Decision::Keep { object, created }) => {
                            verdict.value = Some(Value::Live(object));
                            Ended::Written { version: Some(version), created }
                        }
                        Ok(Decision::Remove) => {
                            verdict.value = Some(Value::Tombstone(Tombstone { version }));
                            Ended::Written { version: None, created: false }
                        }
                    }
                }
            };
            if let (Some(name), Ended::Written { version, created }) = (name, &ended) {
                let (version, created) = (*version, *created);
                verdict.named.push(Named { name, version, created });
            }
            verdict.results.push((*op, ended));
        }
        verdict
    }

    /// Makes the tombstone of an expired object. It has the object's own version: a write that is newer than the object and
    /// still on its way (rule 12) wins over it, the object itself does not.
    fn expired(&mut self, step: Step<'_>, found: &Value) -> Option<Value> {
        let Value::Live(object) = found else { return None };
        if !object.is_expired(step.now.wall.secs()) {
            return None;
        }
        let version = if self.options.faults.expire_as_newest {
            self.numbers.version(step.now.wall, Some(object.version))
        } else {
            object.version
        };
        Some(Value::Tombstone(Tombstone { version }))
    }

    /// Tells whether a task to remove a tombstone has found another value.
    pub(super) fn is_off_target(task: &Task, found: &Value) -> bool {
        match task {
            Task::Clear(version) => match found {
                Value::Tombstone(tombstone) => tombstone.version != *version,
                Value::Absent => *version != crate::object::Version::default(),
                Value::Live(_) => true,
            },
            _ => false,
        }
    }
}
