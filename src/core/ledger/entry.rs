//! One object in the ledger, kept small: who holds it, each at which version.
//!
//! Nearly always all holders have one version, so that an entry is that version and a few numbers of members; other versions,
//! and more members than fit, cost an allocation. An object with up to six holders takes 64 bytes and its id.

use crate::model::{
    object::{ObjectId, Version},
    time::UnixSecs,
};

/// The number of a member in a ledger. Members are numbered because their names are 32 bytes long.
pub(super) type LedgerSlot = u16;

/// A few numbers of members, in no order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slots {
    Few(u8, [LedgerSlot; 6]), // invariant: the first are used, as many as the number says
    #[expect(clippy::box_collection, reason = "a pointer is a third of a vector, and this is rare")]
    Many(Box<Vec<LedgerSlot>>),
}

impl Slots {
    fn one(slot: LedgerSlot) -> Self {
        Self::Few(1, [slot, 0, 0, 0, 0, 0])
    }

    fn as_slice(&self) -> &[LedgerSlot] {
        match self {
            Self::Few(len, slots) => slots.get(..usize::from(*len)).unwrap_or(slots),
            Self::Many(slots) => slots,
        }
    }

    fn insert(&mut self, slot: LedgerSlot) {
        match self {
            Self::Few(len, slots) => match slots.get_mut(usize::from(*len)) {
                Some(place) => {
                    *place = slot;
                    *len += 1;
                }
                None => {
                    let all = slots.iter().copied().chain([slot]).collect();
                    *self = Self::Many(Box::new(all));
                }
            },
            Self::Many(slots) => slots.push(slot),
        }
    }

    /// Takes a slot out. Returns whether it was in.
    fn remove(&mut self, slot: LedgerSlot) -> bool {
        let Some(at) = self.as_slice().iter().position(|held| *held == slot) else { return false };
        match self {
            Self::Few(len, slots) => {
                *len -= 1;
                slots.swap(at, usize::from(*len));
            }
            Self::Many(slots) => {
                slots.swap_remove(at);
            }
        }
        true
    }
}

/// One version of an object, and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holding {
    /// The version.
    pub version: Version,
    /// When the object expires; 0 = never.
    expires_at: u64,
    by: Slots, // invariant: not empty
}

impl Holding {
    fn new(slot: LedgerSlot, version: Version, expires_at: Option<UnixSecs>) -> Self {
        // An expiry at 0 is long past, as one at 1 is.
        let expires_at = expires_at.map_or(0, |at| at.0.max(1));
        Self { version, expires_at, by: Slots::one(slot) }
    }

    /// Returns when the object expires.
    pub fn expires_at(&self) -> Option<UnixSecs> {
        (self.expires_at != 0).then_some(UnixSecs(self.expires_at))
    }

    /// Tells whether the object has expired at `now`.
    pub fn is_expired(&self, now: UnixSecs) -> bool {
        self.expires_at != 0 && self.expires_at <= now.0
    }

    /// Returns who holds it.
    pub fn by(&self) -> &[LedgerSlot] {
        self.by.as_slice()
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LedgerObject {
    /// Its id.
    pub id: ObjectId,
    first: Holding,
    #[expect(
        clippy::box_collection,
        reason = "a pointer is a third of a vector, and this is rare"
    )]
    more: Option<Box<Vec<Holding>>>, // invariant: not empty, all versions differ, each slot stands once
}

impl LedgerObject {
    pub fn new(
        id: ObjectId,
        slot: LedgerSlot,
        version: Version,
        expires_at: Option<UnixSecs>,
    ) -> Self {
        Self { id, first: Holding::new(slot, version, expires_at), more: None }
    }

    /// Returns all versions that are held, in no order.
    pub fn holdings(&self) -> impl Iterator<Item = &Holding> {
        std::iter::once(&self.first).chain(self.more.iter().flat_map(|more| more.iter()))
    }

    /// Returns what a member holds.
    pub fn held_by(&self, slot: LedgerSlot) -> Option<&Holding> {
        self.holdings().find(|holding| holding.by().contains(&slot))
    }

    /// Says what a member holds from now on. Returns the version that it held before.
    pub fn set(
        &mut self,
        slot: LedgerSlot,
        version: Version,
        expires_at: Option<UnixSecs>,
    ) -> Option<Version> {
        let new = Holding::new(slot, version, expires_at);
        let old = self.held_by(slot).map(|held| held.version);
        match old {
            Some(_) if self.is_alone(slot) => self.first = new,
            Some(old) if old == version => {
                let of_version = self.holdings_mut().find(|held| held.version == version);
                of_version.into_iter().for_each(|held| held.expires_at = new.expires_at);
            }
            Some(old) => {
                self.join(new);
                self.leave(slot, old);
            }
            None => self.join(new),
        }
        old
    }

    /// Tells whether nobody else holds anything.
    fn is_alone(&self, slot: LedgerSlot) -> bool {
        self.more.is_none() && *self.first.by() == [slot]
    }

    /// Takes a member out. Returns the version that it held, and whether nobody holds anything any more: then the entry is
    /// to be removed.
    pub fn remove(&mut self, slot: LedgerSlot) -> (Option<Version>, bool) {
        let Some(old) = self.held_by(slot).map(|held| held.version) else { return (None, false) };
        let is_last = self.is_alone(slot);
        if !is_last {
            self.leave(slot, old);
        }
        (Some(old), is_last)
    }

    fn holdings_mut(&mut self) -> impl Iterator<Item = &mut Holding> {
        std::iter::once(&mut self.first)
            .chain(self.more.iter_mut().flat_map(|more| more.iter_mut()))
    }

    fn join(&mut self, new: Holding) {
        if let Some(held) = self.holdings_mut().find(|held| held.version == new.version) {
            held.expires_at = new.expires_at;
            new.by().iter().for_each(|slot| held.by.insert(*slot));
            return;
        }
        self.more.get_or_insert_default().push(new);
    }

    /// Takes a slot out of the holding of a version, which is not the only one.
    fn leave(&mut self, slot: LedgerSlot, version: Version) {
        if self.first.version == version {
            self.first.by.remove(slot);
            if self.first.by().is_empty()
                && let Some(next) = self.more.as_mut().and_then(|more| more.pop())
            {
                self.first = next;
            }
        } else if let Some(more) = &mut self.more {
            let of_version = more.iter_mut().filter(|held| held.version == version);
            of_version.for_each(|held| {
                held.by.remove(slot);
            });
            more.retain(|held| !held.by().is_empty());
        }
        if self.more.as_ref().is_some_and(|more| more.is_empty()) {
            self.more = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<LedgerObject>(), 64);
    }

    proptest! {
        /// Against a plain map from members to versions.
        #[test]
        fn an_entry_knows_who_holds_which_version(
            steps in prop::collection::vec((0u16..9, prop::option::of(0u64..3)), 1..60),
        ) {
            let (mut plain, mut entry) = (BTreeMap::<LedgerSlot, u64>::new(), None::<LedgerObject>);
            let id = ObjectId::parse("o").unwrap();
            for (slot, time) in steps {
                let version = |time| Version { time, node: 1 };
                let expires = |time: u64| (time > 0).then_some(UnixSecs(time));
                let before = plain.get(&slot).copied().map(version);
                match (time, &mut entry) {
                    (Some(time), Some(entry)) => {
                        prop_assert_eq!(entry.set(slot, version(time), expires(time)), before);
                        plain.insert(slot, time);
                    }
                    (Some(time), None) => {
                        entry = Some(LedgerObject::new(id.clone(), slot, version(time), expires(time)));
                        plain.insert(slot, time);
                    }
                    (None, Some(held)) => {
                        plain.remove(&slot);
                        prop_assert_eq!(held.remove(slot), (before, plain.is_empty() && before.is_some()));
                        if plain.is_empty() {
                            entry = None;
                        }
                    }
                    (None, None) => {}
                }
                let Some(entry) = &entry else {
                    prop_assert!(plain.is_empty());
                    continue;
                };
                let mut shown = BTreeMap::new();
                for held in entry.holdings() {
                    prop_assert_eq!(held.expires_at(), expires(held.version.time));
                    for slot in held.by() {
                        prop_assert_eq!(shown.insert(*slot, held.version.time), None);
                    }
                }
                prop_assert_eq!(&shown, &plain);
            }
        }
    }
}
