//! A history of safe operations on one object as the clients told it, and whether one copy that does one thing at a time
//! explains it. Every written value is written by one operation only.

use std::fmt;

use crate::{
    linearizability::{Action, Condition, History, Operation as Step, Outcome, Seen, Verdict},
    support::objects::Answer,
};

/// Names what was written.
pub type Value = u64;

/// What the object holds.
pub type State = Option<Value>;

/// The moment of an operation that never returned.
pub const NEVER: u64 = u64::MAX;

/// Steps after which the search gives up.
const STEPS_MAX: usize = 3_000_000;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// What is it?
    Read,
    /// Write it if there is nothing.
    Create(Value),
    /// Write it whatever there is.
    Upsert(Value),
    /// Write it if there is something.
    Replace(Value),
    /// Write it if the first value is there.
    Swap(Value, Value),
    /// Remove what there is.
    Delete,
    /// Remove this value.
    DeleteIf(Value),
}

/// What was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A read's.
    Found(State),
    /// A write's, or a delete's.
    Ended(Answer),
}

/// One operation of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was asked for.
    pub operation: Operation,
    /// What was answered; `None` = the outcome is unknown.
    pub told: Option<Told>,
    /// When it was asked.
    pub call: u64,
    /// When it was answered; [`NEVER`] with an unknown outcome.
    pub back: u64,
    /// Who asked whom, for a history that is shown.
    pub who: String,
}

impl Entry {
    /// An operation that was answered.
    pub fn answered(operation: Operation, told: Told, call: u64, back: u64) -> Self {
        Self { operation, told: Some(told), call, back, who: String::new() }
    }

    /// An operation whose outcome nobody knows.
    pub fn unknown(operation: Operation, call: u64) -> Self {
        Self { operation, told: None, call, back: NEVER, who: String::new() }
    }

    fn step(&self) -> Step {
        let write = |token, condition| Action::Write { token, condition };
        let action = match self.operation {
            Operation::Read => Action::Read,
            Operation::Create(value) => write(value, Condition::Absent),
            Operation::Upsert(value) => write(value, Condition::Any),
            Operation::Replace(value) => write(value, Condition::Present),
            Operation::Swap(from, to) => write(to, Condition::Is(from)),
            Operation::Delete => Action::Delete { condition: Condition::Any },
            Operation::DeleteIf(from) => Action::Delete { condition: Condition::Is(from) },
        };
        let ended = self.told.map(|told| (self.back, outcome(told)));
        Step { action, began: self.call, ended, wall: (0, 0), by: 0 }
    }
}

fn outcome(told: Told) -> Outcome {
    match told {
        Told::Found(state) => Outcome::Read(state),
        Told::Ended(Answer::Created) => Outcome::Done { created: Some(true) },
        Told::Ended(Answer::Replaced) => Outcome::Done { created: Some(false) },
        Told::Ended(Answer::Removed) => Outcome::Done { created: None },
        Told::Ended(Answer::Missing) => Outcome::Refused(Seen::Nothing),
        Told::Ended(Answer::Exists | Answer::Other | Answer::Unmet) => {
            Outcome::Refused(Seen::Unsaid)
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let back = if self.back == NEVER { "never".to_owned() } else { self.back.to_string() };
        let told = self.told.map_or("unknown".to_owned(), |told| format!("{told:?}"));
        write!(f, "{} .. {back}  {:?} -> {told}  {}", self.call, self.operation, self.who)
    }
}

/// Looks for an order that explains a history.
pub fn check(entries: &[Entry]) -> Verdict {
    let operations = entries.iter().map(Entry::step).collect();
    History { operations, ..History::default() }.check(STEPS_MAX)
}

/// The history as it was up to this moment: what had not returned yet is of unknown outcome.
fn up_to(entries: &[Entry], moment: u64) -> Vec<Entry> {
    let begun = entries.iter().filter(|entry| entry.call <= moment);
    let cut = begun.map(|entry| match entry.back <= moment {
        true => entry.clone(),
        false => Entry { told: None, back: NEVER, ..entry.clone() },
    });
    cut.collect()
}

/// The first answer that no order explains, with those before it that one does.
pub fn culprit(entries: &[Entry]) -> Option<&Entry> {
    let mut ended: Vec<_> = entries.iter().filter(|entry| entry.told.is_some()).collect();
    ended.sort_by_key(|entry| entry.back);
    let wrong = |entry: &&Entry| check(&up_to(entries, entry.back)) == Verdict::NotLinearizable;
    // What is wrong stays wrong, whatever comes later.
    let first = ended.partition_point(|entry| !wrong(entry));
    ended.get(first).copied()
}

/// A history in lines, in the order in which it was asked, with the culprit marked.
pub fn shown(entries: &[Entry]) -> String {
    let culprit = culprit(entries);
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.call);
    let lines = sorted.into_iter().map(|entry| {
        let mark = if Some(entry) == culprit { "  <== no order explains this one" } else { "" };
        format!("{entry}{mark}")
    });
    lines.collect::<Vec<_>>().join("\n")
}
