//! Decides what a task does to the value that its round has found.

use super::{
    Named, OpId, Past, RegisterOutcome, Registers, StepContext, Tombstone, Value,
    line::{PendingOp, RoundTask},
};
use crate::model::{
    change::{Change, WriteDecision},
    object::ObjectId,
};

/// What a task does.
#[derive(Debug, Default)]
pub(super) struct Evaluation {
    /// The value from now on; `None` = nothing changes.
    pub value: Option<Value>,
    /// How the requests for a change end once that is decided.
    pub results: Vec<(OpId, RegisterOutcome)>,
    /// What those did that have names.
    pub named: Vec<Named>,
}

impl Registers {
    /// Evaluates a task. Time is the wall clock's: an object that has expired by it counts as absent.
    pub(super) fn evaluate(
        &mut self,
        step: StepContext<'_>,
        id: &ObjectId,
        task: &RoundTask,
        (found, past): (&Value, &Past),
    ) -> Evaluation {
        let only = |value| Evaluation { value, ..Evaluation::default() };
        match task {
            RoundTask::Changes(changes) => self.evaluate_changes(step, id, changes, (found, past)),
            RoundTask::Merge(value) if value.version() > found.version() => {
                only(Some(value.clone()))
            }
            RoundTask::Expire => only(self.expired(step, found)),
            RoundTask::Merge(_)
            | RoundTask::Identity
            | RoundTask::Clear(_)
            | RoundTask::Repair
            | RoundTask::Rescan => only(None),
        }
    }

    /// Applies changes one after the other. No read sees the values in between: that is as if no read came in between.
    fn evaluate_changes(
        &mut self,
        step: StepContext<'_>,
        id: &ObjectId,
        changes: &[(OpId, Change)],
        (found, past): (&Value, &Past),
    ) -> Evaluation {
        let now = step.now.wall.secs();
        let mut verdict = Evaluation::default();
        for (op, change) in changes {
            let name = self.waiters.get(op).and_then(PendingOp::name);
            let before = |name| {
                let here = verdict.named.iter().find(|named| named.name == name).copied();
                here.or_else(|| past.find(name))
            };
            if let Some(Named { version, created, .. }) = name.and_then(before) {
                // It is here already: it has come before.
                verdict.results.push((*op, RegisterOutcome::Written { version, created }));
                continue;
            }
            let value = verdict.value.as_ref().unwrap_or(found);
            let current = value.live(now);
            let ended = match change.check(current) {
                Err(refusal) => RegisterOutcome::Refused(refusal),
                Ok(()) => {
                    let version = self.numbers.version(step.now.wall, value.version());
                    match change.clone().apply(id, current, now, version) {
                        WriteDecision::Keep { object, created } => {
                            verdict.value = Some(Value::Live(object));
                            RegisterOutcome::Written { version: Some(version), created }
                        }
                        WriteDecision::Remove => {
                            verdict.value = Some(Value::Tombstone(Tombstone { version }));
                            RegisterOutcome::Written { version: None, created: false }
                        }
                    }
                }
            };
            if let (Some(name), RegisterOutcome::Written { version, created }) = (name, &ended) {
                let (version, created) = (*version, *created);
                verdict.named.push(Named { name, version, created });
            }
            verdict.results.push((*op, ended));
        }
        verdict
    }

    /// Makes the tombstone of an expired object. It has the object's own version: a write that is newer than the object and
    /// still on its way (rule 12) wins over it, the object itself does not.
    fn expired(&mut self, step: StepContext<'_>, found: &Value) -> Option<Value> {
        let Value::Live(object) = found else { return None };
        if !object.is_expired(step.now.wall.secs()) {
            return None;
        }
        let version = if self.options.faults().expire_as_newest {
            self.numbers.version(step.now.wall, Some(object.version))
        } else {
            object.version
        };
        Some(Value::Tombstone(Tombstone { version }))
    }

    /// Tells whether a task to remove a tombstone has found another value.
    pub(super) fn is_off_target(task: &RoundTask, found: &Value) -> bool {
        match task {
            RoundTask::Clear(version) => match found {
                Value::Tombstone(tombstone) => tombstone.version != *version,
                Value::Absent => *version != crate::model::object::Version::default(),
                Value::Live(_) => true,
            },
            _ => false,
        }
    }
}
