//! Checks whether a history of operations on one object is linearizable. It is Wing and Gong's search (1993), with Lowe's
//! cache of states that were tried (2017). An operation of unknown outcome may take effect at any time after it began, or never.
//!
//! Each write carries a number of its own, so that a value says which write it came from. A condition that names a
//! version is given here as the number of the write that has this version.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "each test file uses its part of this; a failed unwrap here is a failed test"
)]

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

/// Names a write.
pub type Token = u64;

/// What must be true for a write or a delete to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Any,
    Absent,
    Present,
    /// The object is the one that this write wrote.
    Is(Token),
}

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Read,
    Write {
        token: Token,
        condition: Condition,
    },
    Delete {
        condition: Condition,
    },
    /// Removes the object if it has expired; says nothing.
    Expire,
}

/// What a refusal says about the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Unsaid,
    Nothing,
    Value(Token),
}

/// What the client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Read(Option<Token>),
    /// It took effect. Whether there was no object before, if that was said.
    Done {
        created: Option<bool>,
    },
    Refused(Seen),
}

/// One operation. Times are of one clock that all clients share.
#[derive(Debug, Clone)]
pub struct Operation {
    pub action: Action,
    pub began: u64,
    /// `None` = its outcome is unknown.
    pub ended: Option<(u64, Outcome)>,
    /// The least and the greatest that the deciding node's wall clock showed meanwhile: what expires before the first one
    /// is absent, what expires after the last one is there, and in between it may be either.
    pub wall: (u64, u64),
    /// For the text of a failure.
    pub by: usize,
}

/// All operations on one object.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    /// From which wall time on a written value is absent.
    pub expiries: BTreeMap<Token, u64>,
}

/// What the search has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    NotLinearizable,
    /// It took more steps than it was allowed.
    GaveUp,
}

/// The object at a point of the search: the last write, if there is an object.
type State = Option<Token>;

/// A point of the search. Operations with a known outcome are in the order of their beginning.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Point {
    /// All known ones before this have been placed.
    low: usize,
    /// Those from there on that have been.
    placed: u128,
    /// The unknown ones that have been.
    unknown: Vec<u64>,
    state: State,
}

impl History {
    /// Searches for an order that explains what every client was told, in at most `steps_max` steps.
    pub fn check(&self, steps_max: usize) -> Verdict {
        let (mut known, unknown): (Vec<_>, Vec<_>) =
            self.operations.iter().partition(|operation| operation.ended.is_some());
        known.sort_by_key(|operation| operation.began);
        let unknown: Vec<_> =
            unknown.into_iter().filter(|operation| operation.action != Action::Read).collect();
        let first =
            Point { low: 0, placed: 0, unknown: vec![0; unknown.len().div_ceil(64)], state: None };
        let mut tried: HashSet<Point> = HashSet::new();
        let mut stack = vec![first];
        while let Some(point) = stack.pop() {
            if point.low == known.len() {
                return Verdict::Linearizable;
            }
            if tried.contains(&point) {
                continue;
            }
            if tried.len() >= steps_max {
                return Verdict::GaveUp;
            }
            if !self.expand(&point, &known, &unknown, &mut stack) {
                return Verdict::GaveUp;
            }
            tried.insert(point);
        }
        Verdict::NotLinearizable
    }

    /// Pushes what may come next. False if more than 128 operations ran at once.
    fn expand(
        &self,
        point: &Point,
        known: &[&Operation],
        unknown: &[&Operation],
        stack: &mut Vec<Point>,
    ) -> bool {
        let is_placed = |n: usize| n < 128 && point.placed >> n & 1 == 1;
        // Nothing may be placed before something that had ended when it began.
        let mut limit = u64::MAX;
        let mut open = Vec::new();
        for (n, operation) in known[point.low..].iter().enumerate() {
            if operation.began > limit {
                break;
            }
            if !is_placed(n) {
                limit = limit.min(operation.ended.unwrap().0);
                open.push(n);
            }
        }
        open.retain(|n| known[point.low + n].began <= limit);
        if open.last().is_some_and(|last| *last >= 128) {
            return false;
        }
        for (n, operation) in unknown.iter().enumerate() {
            if point.unknown[n / 64] >> (n % 64) & 1 == 1 || operation.began > limit {
                continue;
            }
            for state in self.after(point.state, operation, None) {
                if state != point.state {
                    let mut next = Point { state, ..point.clone() };
                    // Begun again, it may find another object that has expired.
                    if operation.action != Action::Expire {
                        next.unknown[n / 64] |= 1 << (n % 64);
                    }
                    stack.push(next);
                }
            }
        }
        // What ended first is tried first: it is pushed last.
        open.sort_by_key(|n| std::cmp::Reverse(known[point.low + n].ended.unwrap().0));
        for n in open {
            let operation = known[point.low + n];
            let told = operation.ended.map(|(_, outcome)| outcome);
            for state in self.after(point.state, operation, told) {
                let mut next = Point { state, ..point.clone() };
                next.placed |= 1 << n;
                while next.placed & 1 == 1 {
                    next.placed >>= 1;
                    next.low += 1;
                }
                stack.push(next);
            }
        }
        true
    }

    /// Returns the states that an operation may leave behind, if it was told this.
    fn after(&self, state: State, operation: &Operation, told: Option<Outcome>) -> Vec<State> {
        let mut states = Vec::with_capacity(1);
        let expiry = state.and_then(|token| self.expiries.get(&token)).copied();
        let may_be_there = expiry.is_none_or(|at| operation.wall.0 < at);
        let may_be_gone = state.is_none() || expiry.is_some_and(|at| at <= operation.wall.1);
        for there in [state.filter(|_| may_be_there), None] {
            if there.is_none() && !may_be_gone {
                continue;
            }
            let (next, outcome) = decide(operation.action, state, there);
            let fits = told.is_none_or(|told| outcome.is_told_as(told));
            if fits && !states.contains(&next) {
                states.push(next);
            }
        }
        states
    }
}

impl Outcome {
    /// Tells whether a client that was told `told` may have been told this.
    fn is_told_as(self, told: Outcome) -> bool {
        match (self, told) {
            (Self::Refused(_), Self::Refused(Seen::Unsaid))
            | (Self::Done { .. }, Self::Done { created: None }) => true,
            _ => self == told,
        }
    }
}

/// What an action does: the state that it leaves, and what is told. `there` is what it finds.
fn decide(action: Action, state: State, there: State) -> (State, Outcome) {
    let seen = there.map_or(Seen::Nothing, Seen::Value);
    match action {
        Action::Read => (state, Outcome::Read(there)),
        Action::Expire if there.is_none() => (None, Outcome::Done { created: None }),
        Action::Expire => (state, Outcome::Done { created: None }),
        Action::Write { condition, .. } if !is_met(condition, there) => {
            (state, Outcome::Refused(seen))
        }
        Action::Write { token, .. } => {
            (Some(token), Outcome::Done { created: Some(there.is_none()) })
        }
        Action::Delete { condition } if there.is_none() || !is_met(condition, there) => {
            (state, Outcome::Refused(seen))
        }
        Action::Delete { .. } => (None, Outcome::Done { created: Some(false) }),
    }
}

fn is_met(condition: Condition, there: State) -> bool {
    match condition {
        Condition::Any => true,
        Condition::Absent => there.is_none(),
        Condition::Present => there.is_some(),
        Condition::Is(token) => there == Some(token),
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut operations: Vec<_> = self.operations.iter().collect();
        operations.sort_by_key(|operation| operation.began);
        for Operation { action, began, ended, by, .. } in operations {
            writeln!(f, "  n{by} {action:?} from {began}, {ended:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(action: Action, began: u64, ended: Option<(u64, Outcome)>) -> Operation {
        Operation { action, began, ended, wall: (began, began), by: 0 }
    }

    fn write(token: Token, began: u64, ended: Option<u64>) -> Operation {
        let told = |at| (at, Outcome::Done { created: None });
        operation(Action::Write { token, condition: Condition::Any }, began, ended.map(told))
    }

    fn read(began: u64, ended: u64, found: Option<Token>) -> Operation {
        operation(Action::Read, began, Some((ended, Outcome::Read(found))))
    }

    fn verdict(operations: Vec<Operation>) -> Verdict {
        History { operations, ..History::default() }.check(100_000)
    }

    #[test]
    fn a_read_finds_the_last_write_or_one_that_runs() {
        assert_eq!(verdict(vec![write(1, 0, Some(1)), read(2, 3, Some(1))]), Verdict::Linearizable);
        assert_eq!(verdict(vec![write(1, 0, Some(1)), read(2, 3, None)]), Verdict::NotLinearizable);
        for found in [None, Some(1)] {
            let running = vec![write(1, 0, Some(9)), read(2, 3, found)];
            assert_eq!(verdict(running), Verdict::Linearizable);
        }
        let back = vec![write(1, 0, Some(9)), read(2, 3, Some(1)), read(4, 5, None)];
        assert_eq!(verdict(back), Verdict::NotLinearizable);
    }

    #[test]
    fn an_unknown_write_may_come_late_or_never_but_not_twice() {
        let late = |last: Vec<Operation>| {
            let mut all = vec![write(1, 0, None), write(2, 1, Some(2)), read(3, 4, Some(2))];
            all.extend(last);
            verdict(all)
        };
        assert_eq!(late(vec![]), Verdict::Linearizable);
        assert_eq!(late(vec![read(5, 6, Some(1))]), Verdict::Linearizable);
        let twice = vec![read(5, 6, Some(1)), write(3, 7, Some(8)), read(9, 10, Some(1))];
        assert_eq!(late(twice), Verdict::NotLinearizable);
    }

    #[test]
    fn two_creates_of_one_object_do_not_both_succeed() {
        let create = |token, began| {
            let action = Action::Write { token, condition: Condition::Absent };
            operation(action, began, Some((began + 5, Outcome::Done { created: Some(true) })))
        };
        assert_eq!(verdict(vec![create(1, 0), create(2, 1)]), Verdict::NotLinearizable);
        let delete = operation(
            Action::Delete { condition: Condition::Is(1) },
            2,
            Some((4, Outcome::Done { created: None })),
        );
        assert_eq!(verdict(vec![create(1, 0), delete, create(2, 1)]), Verdict::Linearizable);
    }

    #[test]
    fn what_has_expired_is_gone_by_the_clock_of_who_looks() {
        let mut history = History {
            operations: vec![write(1, 0, Some(1)), read(5, 6, None)],
            expiries: BTreeMap::from([(1, 10)]),
        };
        assert_eq!(history.check(1_000), Verdict::NotLinearizable);
        history.operations[1].wall = (9, 10);
        assert_eq!(history.check(1_000), Verdict::Linearizable);
        history.operations[1] = Operation { wall: (10, 11), ..read(5, 6, Some(1)) };
        assert_eq!(history.check(1_000), Verdict::NotLinearizable);
    }

    /// Histories of real runs are long. Operations whose order is settled must not be searched again.
    #[test]
    fn a_long_history_is_checked_in_few_steps() {
        let mut operations = Vec::new();
        for n in 0..3_000u64 {
            operations.push(write(n, n * 10, Some(n * 10 + 15)));
            operations.push(read(n * 10 + 16, n * 10 + 19, Some(n)));
        }
        assert_eq!(verdict(operations), Verdict::Linearizable);
    }
}
