//! What an acceptor has promised without writing it down.
//!
//! A promise forbids lower ballots, and forbidding more than was promised does no harm. So a shard keeps one ceiling that is
//! durable ahead of its use, as counters are reserved, and promises of ballots below it cost no write. After a restart all
//! objects count as promised up to that ceiling (rule 2).

use std::collections::BTreeMap;

use super::{Ballot, ShardState, options::RegisterFaults};
use crate::model::object::ObjectId;

/// How far above the counters in use the ceiling is set.
const AHEAD: u64 = 1 << 20;
/// The most promises that are held one by one.
const HELD_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Promises {
    held: BTreeMap<ObjectId, Ballot>,
    /// What every object counts as promised at least.
    blanket: Ballot,
    /// Promises below this are kept by the durable ceiling.
    ceiling: Ballot,
}

impl Promises {
    pub fn new(state: Option<&ShardState>, faults: RegisterFaults) -> Self {
        let ceiling = state.map_or(Ballot::NONE, |state| state.ceiling);
        let blanket = if faults.volatile_promise { Ballot::NONE } else { ceiling };
        Self { held: BTreeMap::new(), blanket, ceiling }
    }

    /// Returns what is promised of an object here, beside what its register says.
    pub fn of(&self, id: &ObjectId) -> Ballot {
        self.held(id).max(self.blanket)
    }

    /// Returns what was promised of an object by its name.
    pub fn held(&self, id: &ObjectId) -> Ballot {
        self.held.get(id).copied().unwrap_or_default()
    }

    /// Promises a ballot that is above all promised before, if that needs no write.
    pub fn give(&mut self, id: &ObjectId, ballot: Ballot) -> bool {
        if ballot >= self.ceiling {
            return false;
        }
        if self.held.len() >= HELD_MAX {
            // Promising all of them of every object forbids more than was promised, never less.
            let greatest = std::mem::take(&mut self.held).into_values().max();
            self.blanket = self.blanket.max(greatest.unwrap_or_default());
            if ballot <= self.blanket {
                return false;
            }
        }
        self.held.insert(id.clone(), ballot);
        true
    }

    /// Goes on promising what a write would have kept that the store has refused.
    pub fn hold(&mut self, id: &ObjectId, ballot: Ballot) {
        let ballot = ballot.max(self.of(id));
        if !self.give(id, ballot) {
            self.blanket = self.blanket.max(ballot);
        }
    }

    /// Tells whether a promise that is held of an object holds across a restart.
    pub fn is_durable(&self, ballot: Ballot) -> bool {
        ballot < self.ceiling
    }

    /// Forgets a promise that the object's register, or the floor, now has.
    pub fn forget(&mut self, id: &ObjectId) {
        self.held.remove(id);
    }

    /// Takes note of a ceiling that has become durable.
    pub fn kept(&mut self, ceiling: Ballot) {
        self.ceiling = self.ceiling.max(ceiling);
    }

    /// Another epoch has begun: all its ballots are above those promised.
    pub fn enter(&mut self) {
        self.held.clear();
    }
}

/// Returns the ceiling to be kept when a round of this ballot comes by; `None` = the present one will do for a while.
pub(super) fn raised(ceiling: Ballot, ballot: Ballot) -> Option<Ballot> {
    let is_near = ceiling.epoch < ballot.epoch || ceiling.counter < ballot.counter + AHEAD / 2;
    is_near.then(|| above(ceiling, Ballot { counter: ballot.counter, ..ballot }))
}

/// Returns a ceiling above a ballot, and not below another ceiling.
pub(super) fn above(ceiling: Ballot, ballot: Ballot) -> Ballot {
    let next = Ballot { counter: ballot.counter.saturating_add(AHEAD), node: u64::MAX, ..ballot };
    ceiling.max(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(counter: u64) -> Ballot {
        Ballot { epoch: 1, counter, node: 1 }
    }

    #[test]
    fn only_what_a_durable_ceiling_covers_is_promised_without_a_write() {
        let (mut promises, id) = (Promises::default(), ObjectId::parse("a").unwrap());
        assert!(!promises.give(&id, ballot(1)));
        let ceiling = raised(Ballot::NONE, ballot(1)).unwrap();
        assert!(ceiling > ballot(AHEAD) && raised(ceiling, ballot(2)).is_none());
        promises.kept(ceiling);
        assert!(promises.give(&id, ballot(2)));
        assert_eq!(promises.of(&id), ballot(2));
        assert!(!promises.give(&id, Ballot { epoch: 2, ..ballot(3) }));
        assert!(raised(ceiling, ballot(AHEAD)).is_some_and(|next| next > ceiling));
    }

    #[test]
    fn too_many_promises_become_one_for_all() {
        let mut promises = Promises::default();
        promises.kept(above(Ballot::NONE, ballot(1)));
        let id = |n: usize| ObjectId::parse(&format!("o{n}")).unwrap();
        for n in 0..HELD_MAX {
            assert!(promises.give(&id(n), ballot(n as u64 + 1)));
        }
        assert!(!promises.give(&id(HELD_MAX), ballot(5)));
        assert_eq!(promises.of(&id(HELD_MAX + 1)), ballot(HELD_MAX as u64));
        assert!(promises.give(&id(1), ballot(HELD_MAX as u64 + 1)));
    }
}
