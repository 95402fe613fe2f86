//! Decides what a task does to the value that its round has found.

use super::{Ended, OpId, Registers, Step, Tombstone, Value, line::Task};
use crate::core::{
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
}

impl Registers {
    /// Evaluates a task. Time is the wall clock's: an object that has expired by it counts as absent.
    pub(super) fn evaluate(
        &mut self,
        step: Step<'_>,
        id: &ObjectId,
        task: &Task,
        found: &Value,
    ) -> Verdict {
        let only = |value| Verdict { value, results: Vec::new() };
        match task {
            Task::Changes(changes) => self.evaluate_changes(step, id, changes, found),
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
        found: &Value,
    ) -> Verdict {
        let now = step.now.wall.secs();
        let mut verdict = Verdict::default();
        for (op, change) in changes {
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
                Value::Absent => *version != crate::core::object::Version::default(),
                Value::Live(_) => true,
            },
            _ => false,
        }
    }
}
