//! What a value remembers of the writes before it. So a proposer that was overtaken learns whether its write was decided, and
//! a request that comes twice is carried out once (rule 6).
//!
//! Each decided value follows from the one before it, back to when there was no object: a line without branches. Each value
//! carries the last effect of each proposer in its line. A proposer runs one round of an object at a time. So if an effect of
//! its running round is in the line at all, it is the last one. `since` says how far back the memory reaches: about older
//! rounds nothing can be concluded.

use serde::{Deserialize, Serialize};

use super::Ballot;
use crate::model::object::Version;

/// The most proposers whose last effects are remembered.
const LAST_MAX: usize = 8;
/// The most requests that are remembered by the names that clients gave them.
const NAMED_MAX: usize = 8;

/// What led to a value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Past {
    /// Nothing is known of effects under this ballot and those below it, unless they are named in `last`.
    since: Ballot,
    /// The last effect of each proposer, lowest ballot first.
    last: Vec<Ballot>,
    /// The last requests that clients gave a name, oldest first.
    named: Vec<Named>,
}

/// The effect of a request that its client gave a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name.
    pub name: u128,
    /// The version that it made; `None` = it deleted the object.
    pub version: Option<Version>,
    /// Whether there was no object before.
    pub created: bool,
}

impl Past {
    /// Begins a line where there is nothing: in `epoch`, at replicas whose highest floor is `floor`. What was dropped before
    /// was below that floor, or in an earlier epoch.
    #[must_use]
    pub fn begin(epoch: u64, floor: Ballot) -> Self {
        let since = floor.max(Ballot { epoch, ..Ballot::NONE });
        Self { since, ..Self::default() }
    }

    /// Tells whether an effect under this ballot is in the line.
    pub fn has(&self, ballot: Ballot) -> bool {
        self.last.contains(&ballot)
    }

    /// Tells whether an effect of a running round under this ballot would be named if it was in the line.
    pub fn knows(&self, ballot: Ballot) -> bool {
        self.since < ballot
    }

    /// Adds an effect of a proposer: its earlier ones are of rounds that have ended.
    pub(super) fn add(&mut self, ballot: Ballot) {
        self.last.retain(|last| last.node != ballot.node);
        let place = self.last.partition_point(|last| *last < ballot);
        self.last.insert(place, ballot);
        if self.last.len() > LAST_MAX {
            self.since = self.since.max(self.last.remove(0));
        }
    }

    /// Adds what requests did that have names.
    pub(super) fn name(&mut self, named: impl IntoIterator<Item = Named>) {
        self.named.extend(named);
        let excess = self.named.len().saturating_sub(NAMED_MAX);
        self.named.drain(..excess);
    }

    /// Returns what the request of this name did, if that is remembered.
    pub(super) fn find(&self, name: u128) -> Option<Named> {
        self.named.iter().find(|named| named.name == name).copied()
    }

    /// Tells whether this can be the past of a value in this epoch.
    pub(super) fn is_sound(&self, epoch: u64) -> bool {
        self.last.len() <= LAST_MAX
            && self.named.len() <= NAMED_MAX
            && self.since.epoch <= epoch
            && self.last.iter().all(|last| last.epoch <= epoch)
            && self.last.is_sorted()
    }

    /// Tells whether there is nothing to be remembered.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(counter: u64, node: u64) -> Ballot {
        Ballot { epoch: 3, counter, node }
    }

    #[test]
    fn the_last_effect_of_each_proposer_is_known() {
        let mut past = Past::begin(3, Ballot::NONE);
        assert!(past.knows(ballot(1, 1)) && !past.knows(Ballot { epoch: 2, counter: 9, node: 1 }));
        for (counter, node) in [(1, 1), (5, 2), (3, 1)] {
            past.add(ballot(counter, node));
        }
        assert!(!past.has(ballot(1, 1)) && past.has(ballot(3, 1)) && past.has(ballot(5, 2)));
        assert!(past.is_sound(3) && !past.is_sound(2));
    }

    #[test]
    fn what_is_forgotten_is_not_known() {
        let mut past = Past::begin(3, Ballot::NONE);
        for node in 1..=LAST_MAX as u64 + 1 {
            past.add(ballot(node * 10, node));
        }
        assert!(!past.has(ballot(10, 1)) && !past.knows(ballot(10, 1)));
        assert!(past.knows(ballot(11, 1)) && past.has(ballot(20, 2)) && past.is_sound(3));
    }

    #[test]
    fn a_floor_ends_what_is_known() {
        let past = Past::begin(3, ballot(7, 4));
        assert!(!past.knows(ballot(7, 4)) && past.knows(ballot(8, 1)));
    }

    #[test]
    fn the_last_named_requests_are_found() {
        let mut past = Past::default();
        let named = |name| Named { name, version: None, created: false };
        past.name((0..20).map(named));
        assert_eq!(past.find(19), Some(named(19)));
        assert_eq!(past.find(11), None);
        assert!(past.is_sound(0));
    }
}
