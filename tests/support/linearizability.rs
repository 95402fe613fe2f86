//! Whether a history of one object can be explained by a single copy of it that does one thing at a time.
//!
//! Every operation takes effect at one moment between its call and its return; one whose outcome is unknown at any moment
//! after its call, or never. The search is that of Wing and Gong with the memo of Lowe: what has been done so far and the
//! state are remembered together, so that no order is tried twice. Each written value must be written once only.

use std::{collections::HashSet, fmt};

/// Names what was written; each value is written by one operation at most.
pub type Value = u64;

/// What the object holds.
pub type State = Option<Value>;

/// The moment of an operation that never returned.
pub const NEVER: u64 = u64::MAX;

/// States that are looked at before the search gives up.
const BUDGET: usize = 4_000_000;

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

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A read's.
    Found(State),
    /// Written, and there was nothing before.
    Created,
    /// Written in the place of something.
    Replaced,
    /// Written; whether there was something is not said.
    Written,
    /// Removed.
    Removed,
    /// Refused: there is something.
    Exists,
    /// Refused: there is nothing.
    Missing,
    /// Refused: there is something else.
    Other,
    /// Refused: there is something else, or nothing.
    Unmet,
}

/// One operation of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was asked for.
    pub operation: Operation,
    /// What was answered; `None` = the outcome is unknown.
    pub answer: Option<Answer>,
    /// When it was asked.
    pub call: u64,
    /// When it was answered; [`NEVER`] with an unknown outcome.
    pub back: u64,
    /// Who asked whom, for a history that is shown.
    pub who: String,
}

impl Entry {
    /// An operation that was answered.
    pub fn answered(operation: Operation, answer: Answer, call: u64, back: u64) -> Self {
        Self { operation, answer: Some(answer), call, back, who: String::new() }
    }

    /// An operation whose outcome nobody knows.
    pub fn unknown(operation: Operation, call: u64) -> Self {
        Self { operation, answer: None, call, back: NEVER, who: String::new() }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let back = if self.back == NEVER { "never".to_owned() } else { self.back.to_string() };
        let answer = self.answer.map_or("unknown".to_owned(), |answer| format!("{answer:?}"));
        write!(f, "{} .. {back}  {:?} -> {answer}  {}", self.call, self.operation, self.who)
    }
}

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains everything.
    Linearizable,
    /// There is none. The text is the history, with the first operation that no order explains.
    Not(String),
    /// Too many orders to try.
    GaveUp,
}

/// Looks for an order of `history` that one copy, empty at first, explains.
pub fn check(history: &[Entry]) -> Verdict {
    check_within(history, BUDGET)
}

/// The same, with a limit of one's own.
pub fn check_within(history: &[Entry], budget: usize) -> Verdict {
    // A read without an answer says nothing and does nothing.
    let told = |entry: &&Entry| entry.answer.is_some() || entry.operation != Operation::Read;
    let mut history: Vec<Entry> = history.iter().filter(told).cloned().collect();
    history.sort_by_key(|entry| (entry.call, entry.back));
    Search::new(&history).run(budget)
}

/// The state after `operation` was done to `state`; `None` when the answer does not go with it.
fn apply(operation: Operation, answer: Option<Answer>, state: State) -> Option<State> {
    use Answer as A;
    use Operation as O;
    let (new, right): (State, &[A]) = match (operation, state) {
        (O::Read, state) => (state, &[A::Found(state)]),
        (O::Create(value), None) => (Some(value), &[A::Created, A::Written]),
        (O::Create(_), some) => (some, &[A::Exists, A::Unmet]),
        (O::Upsert(value), None) => (Some(value), &[A::Created, A::Written]),
        (O::Upsert(value) | O::Replace(value), Some(_)) => {
            (Some(value), &[A::Replaced, A::Written])
        }
        (O::Replace(_) | O::Delete | O::Swap(..) | O::DeleteIf(_), None) => {
            (None, &[A::Missing, A::Unmet])
        }
        (O::Swap(from, to), Some(held)) if held == from => (Some(to), &[A::Replaced, A::Written]),
        (O::Delete, Some(_)) => (None, &[A::Removed]),
        (O::DeleteIf(from), Some(held)) if held == from => (None, &[A::Removed]),
        (O::Swap(..) | O::DeleteIf(_), some) => (some, &[A::Other, A::Unmet]),
    };
    match answer {
        Some(answer) => right.contains(&answer).then_some(new),
        // With an unknown outcome only an effect is of interest.
        None => (new != state).then_some(new),
    }
}

/// A call or a return in the list of events, in the order of time.
#[derive(Clone, Copy)]
struct Event {
    entry: usize,
    is_call: bool,
}

/// The list's end on both sides.
const NIL: usize = usize::MAX;

struct Search<'a> {
    history: &'a [Entry],
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    head: usize,
    /// Of each entry, where its call and its return stand.
    places: Vec<(usize, usize)>,
    done: Vec<u64>,
    left: usize,
}

impl<'a> Search<'a> {
    fn new(history: &'a [Entry]) -> Self {
        let mut timed: Vec<(u64, bool, usize)> = Vec::new();
        for (entry, of) in history.iter().enumerate() {
            timed.push((of.call, true, entry));
            if of.answer.is_some() {
                timed.push((of.back, false, entry));
            }
        }
        // At the same moment calls come first: then the two are concurrent, which allows more.
        timed.sort_by_key(|(at, is_call, entry)| (*at, !*is_call, *entry));
        let events: Vec<_> = timed
            .iter()
            .map(|(_, is_call, entry)| Event { entry: *entry, is_call: *is_call })
            .collect();
        let mut places = vec![(NIL, NIL); history.len()];
        for (at, event) in events.iter().enumerate() {
            match event.is_call {
                true => places[event.entry].0 = at,
                false => places[event.entry].1 = at,
            }
        }
        let count = events.len();
        Self {
            history,
            next: (1..=count).map(|at| if at == count { NIL } else { at }).collect(),
            previous: (0..count).map(|at| at.checked_sub(1).unwrap_or(NIL)).collect(),
            head: if count == 0 { NIL } else { 0 },
            places,
            done: vec![0; history.len().div_ceil(64).max(1)],
            left: history.iter().filter(|entry| entry.answer.is_some()).count(),
            events,
        }
    }

    fn run(mut self, budget: usize) -> Verdict {
        let mut seen: HashSet<(Box<[u64]>, State)> = HashSet::new();
        let mut taken: Vec<(usize, State)> = Vec::new();
        let (mut state, mut at, mut deepest) = (None, self.head, (0, NIL));
        while self.left > 0 {
            let Event { entry, is_call } = self.events[at];
            if !is_call {
                // It has returned, and nothing that was tried before explains it.
                if taken.len() >= deepest.0 {
                    deepest = (taken.len(), entry);
                }
                let Some((last, before)) = taken.pop() else {
                    return Verdict::Not(self.explain(deepest.1));
                };
                state = before;
                self.put_back(last);
                at = self.next[self.places[last].0];
                continue;
            }
            let Entry { operation, answer, .. } = &self.history[entry];
            let after = apply(*operation, *answer, state);
            let new = after.filter(|after| {
                self.flip(entry);
                let is_new = seen.insert((self.done.clone().into(), *after));
                self.flip(entry);
                is_new
            });
            match new {
                Some(after) => {
                    if seen.len() > budget {
                        return Verdict::GaveUp;
                    }
                    taken.push((entry, state));
                    state = after;
                    self.take_out(entry);
                    at = self.head;
                }
                None => at = self.next[at],
            }
        }
        Verdict::Linearizable
    }

    fn flip(&mut self, entry: usize) {
        self.done[entry / 64] ^= 1 << (entry % 64);
    }

    fn take_out(&mut self, entry: usize) {
        self.flip(entry);
        let (call, back) = self.places[entry];
        self.unlink(call);
        if back != NIL {
            self.unlink(back);
            self.left -= 1;
        }
    }

    fn put_back(&mut self, entry: usize) {
        self.flip(entry);
        let (call, back) = self.places[entry];
        if back != NIL {
            self.link(back);
            self.left += 1;
        }
        self.link(call);
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        match previous {
            NIL => self.head = next,
            previous => self.next[previous] = next,
        }
        if next != NIL {
            self.previous[next] = previous;
        }
    }

    fn link(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        match previous {
            NIL => self.head = at,
            previous => self.next[previous] = at,
        }
        if next != NIL {
            self.previous[next] = at;
        }
    }

    fn explain(&self, culprit: usize) -> String {
        let lines = self.history.iter().enumerate().map(|(entry, it)| {
            let mark = if entry == culprit { "  <== no order explains this one" } else { "" };
            format!("{it}{mark}")
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}
