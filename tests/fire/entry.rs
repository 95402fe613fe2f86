//! The history of safe operations on one object, as clients saw it, and whether it is linearizable. No two operations write the
//! same value.

use std::fmt;

use crate::{
    linearizability::{Action, Condition, History, Operation as Step, Outcome, Seen, Verdict},
    support::objects::Answer,
};

/// A number that stands for the bytes that were written.
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

/// What the client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// The answer to a read.
    Found(State),
    /// The answer to a write or a delete.
    Ended(Answer),
}

/// One operation of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was asked for.
    pub operation: Operation,
    /// What was answered; `None` = the outcome is unknown.
    pub response: Option<Response>,
    /// When it was asked.
    pub called_at: u64,
    /// When it was answered; [`NEVER`] with an unknown outcome.
    pub returned_at: u64,
    /// Who asked whom, for a history that is shown.
    pub who: String,
}

impl Entry {
    /// An operation that was answered.
    pub fn answered(
        operation: Operation,
        response: Response,
        called_at: u64,
        returned_at: u64,
    ) -> Self {
        Self { operation, response: Some(response), called_at, returned_at, who: String::new() }
    }

    /// An operation whose outcome nobody knows.
    pub fn unknown(operation: Operation, called_at: u64) -> Self {
        Self { operation, response: None, called_at, returned_at: NEVER, who: String::new() }
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
        let ended = self.response.map(|response| (self.returned_at, outcome(response)));
        Step { action, began: self.called_at, ended, wall: (0, 0), by: 0 }
    }
}

fn outcome(response: Response) -> Outcome {
    match response {
        Response::Found(state) => Outcome::Read(state),
        Response::Ended(Answer::Created) => Outcome::Done { created: Some(true) },
        Response::Ended(Answer::Replaced) => Outcome::Done { created: Some(false) },
        Response::Ended(Answer::Removed) => Outcome::Done { created: None },
        Response::Ended(Answer::Missing) => Outcome::Refused(Seen::Nothing),
        Response::Ended(Answer::Exists | Answer::Other | Answer::Unmet) => {
            Outcome::Refused(Seen::Unsaid)
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let returned_at = if self.returned_at == NEVER {
            "never".to_owned()
        } else {
            self.returned_at.to_string()
        };
        let response =
            self.response.map_or("unknown".to_owned(), |response| format!("{response:?}"));
        write!(
            f,
            "{} .. {returned_at}  {:?} -> {response}  {}",
            self.called_at, self.operation, self.who
        )
    }
}

/// Looks for an order that explains a history.
pub fn check(entries: &[Entry]) -> Verdict {
    let operations = entries.iter().map(Entry::step).collect();
    History { operations, ..History::default() }.check(STEPS_MAX)
}

/// The history up to this moment. Operations that had not returned yet have an unknown outcome.
fn up_to(entries: &[Entry], moment: u64) -> Vec<Entry> {
    let begun = entries.iter().filter(|entry| entry.called_at <= moment);
    let cut = begun.map(|entry| match entry.returned_at <= moment {
        true => entry.clone(),
        false => Entry { response: None, returned_at: NEVER, ..entry.clone() },
    });
    cut.collect()
}

/// The first answer that breaks linearizability: without it, an order exists that explains all earlier answers.
pub fn first_violation(entries: &[Entry]) -> Option<&Entry> {
    let mut ended: Vec<_> = entries.iter().filter(|entry| entry.response.is_some()).collect();
    ended.sort_by_key(|entry| entry.returned_at);
    let wrong =
        |entry: &&Entry| check(&up_to(entries, entry.returned_at)) == Verdict::NotLinearizable;
    // A history that is not linearizable stays so, whatever comes later.
    let first = ended.partition_point(|entry| !wrong(entry));
    ended.get(first).copied()
}

/// A history in lines, in the order of the requests. The first violation is marked.
pub fn shown(entries: &[Entry]) -> String {
    let first_violation = first_violation(entries);
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.called_at);
    let lines = sorted.into_iter().map(|entry| {
        let mark =
            if Some(entry) == first_violation { "  <== no order explains this one" } else { "" };
        format!("{entry}{mark}")
    });
    lines.collect::<Vec<_>>().join("\n")
}
