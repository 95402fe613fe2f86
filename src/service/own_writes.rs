//! The fast writes of this node to objects that other members keep. A client that reads where it wrote is not to get anything
//! older, and the nearest replica may lack the write for a moment after a quorum has it. Known while the node runs, and for
//! the last ones. A node that keeps the object itself has its own write on disk.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use nomad_actors::local_read::Fetched;
use nomad_core::model::{
    change::Written,
    object::{ObjectId, Version},
};

/// The most objects that are remembered.
const REMEMBERED_MAX: usize = 4_096;

/// What a reader has to be shown at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBound {
    /// This version, or a newer one.
    From(Version),
    /// Something newer than this version: it was deleted.
    Above(Version),
}

impl ReadBound {
    /// Tells whether what a replica has is new enough.
    pub fn is_met_by(self, fetched: &Fetched) -> bool {
        let found = fetched.version();
        match self {
            Self::From(version) => found >= Some(version),
            Self::Above(version) => found > Some(version),
        }
    }
}

/// What is remembered. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct OwnWrites(Arc<Mutex<LatestBounds>>);

#[derive(Debug, Default)]
struct LatestBounds {
    bounds: HashMap<ObjectId, ReadBound>,
    /// The objects, oldest first.
    order: VecDeque<ObjectId>,
}

impl OwnWrites {
    /// Notes a write. `seen` is the version that was there before; a deletion has none of its own to be told by.
    pub fn note(&self, id: &ObjectId, written: Written, seen: Option<Version>) {
        let bound = match written {
            Written::Kept { version, .. } => ReadBound::From(version),
            Written::Removed => ReadBound::Above(seen.unwrap_or_default()),
        };
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let LatestBounds { bounds, order } = &mut *remembered;
        if bounds.insert(id.clone(), bound).is_none() {
            order.push_back(id.clone());
        }
        if order.len() > REMEMBERED_MAX
            && let Some(oldest) = order.pop_front()
        {
            bounds.remove(&oldest);
        }
    }

    /// Returns what a reader of the object has to be shown at least.
    pub fn bound(&self, id: &ObjectId) -> Option<ReadBound> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bounds.get(id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Version = Version { time: 1, node: 1 };
    const NEW: Version = Version { time: 2, node: 1 };

    #[test]
    fn a_write_asks_for_itself_and_a_deletion_for_anything_newer_than_what_it_met() {
        let (writes, id) = (OwnWrites::default(), ObjectId::parse("a").unwrap());
        assert_eq!(writes.bound(&id), None);
        writes.note(&id, Written::Kept { version: NEW, created: false }, Some(OLD));
        let bound = writes.bound(&id).unwrap();
        assert!(bound.is_met_by(&Fetched::Gone(NEW)) && !bound.is_met_by(&Fetched::Gone(OLD)));
        assert!(!bound.is_met_by(&Fetched::Nothing));
        writes.note(&id, Written::Removed, Some(NEW));
        assert!(!writes.bound(&id).unwrap().is_met_by(&Fetched::Gone(NEW)));
    }

    #[test]
    fn the_oldest_is_forgotten_when_there_are_too_many() {
        let writes = OwnWrites::default();
        let id = |n: usize| ObjectId::parse(&n.to_string()).unwrap();
        for n in 0..=REMEMBERED_MAX {
            writes.note(&id(n), Written::Kept { version: NEW, created: true }, None);
        }
        assert_eq!(writes.bound(&id(0)), None);
        assert_eq!(writes.bound(&id(1)), Some(ReadBound::From(NEW)));
    }
}
