//! The fast writes of this node to objects that other members keep. A client that reads where it wrote is not to get anything
//! older, and the nearest replica may lack the write for a moment after a quorum has it. Known while the node runs, and for
//! the last ones. A node that keeps the object itself has its own write on disk.

use std::sync::Arc;

use hashlink::LruCache;
use nomad_actors::local_read::Fetched;
use nomad_core::model::{
    change::Written,
    object::{ObjectId, Version},
};
use parking_lot::Mutex;

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
    fn version(self) -> Version {
        let (Self::From(version) | Self::Above(version)) = self;
        version
    }

    /// Tells whether what a replica has is new enough.
    pub fn is_met_by(self, fetched: &Fetched) -> bool {
        let found = fetched.version();
        match self {
            Self::From(version) => found >= Some(version),
            Self::Above(version) => found > Some(version),
        }
    }
}

/// What is remembered: the objects that were written last. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OwnWrites(Arc<Mutex<LruCache<ObjectId, ReadBound>>>);

impl Default for OwnWrites {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(LruCache::new(REMEMBERED_MAX))))
    }
}

impl OwnWrites {
    /// Notes a write. `seen` is the version that was there before; a deletion has none of its own to be told by. Writes that
    /// end at the same time may be noted in either order: a bound never falls.
    pub fn note(&self, id: &ObjectId, written: Written, seen: Option<Version>) {
        let mut remembered = self.0.lock();
        let before = remembered.peek(id).copied();
        let newest = before.map(ReadBound::version);
        let bound = match (written, before) {
            (Written::Removed, _) => ReadBound::Above(seen.max(newest).unwrap_or_default()),
            (Written::Kept { version, .. }, Some(before)) if Some(version) <= newest => before,
            (Written::Kept { version, .. }, _) => ReadBound::From(version),
        };
        remembered.insert(id.clone(), bound);
    }

    /// Returns what a reader of the object has to be shown at least.
    pub fn bound(&self, id: &ObjectId) -> Option<ReadBound> {
        self.0.lock().peek(id).copied()
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
    fn a_bound_never_falls() {
        let (writes, id) = (OwnWrites::default(), ObjectId::parse("a").unwrap());
        let kept = |version| Written::Kept { version, created: false };
        writes.note(&id, kept(NEW), None);
        writes.note(&id, kept(OLD), None);
        assert_eq!(writes.bound(&id), Some(ReadBound::From(NEW)));
        // The deletion had seen something older than what this node wrote last.
        writes.note(&id, Written::Removed, Some(OLD));
        assert_eq!(writes.bound(&id), Some(ReadBound::Above(NEW)));
        writes.note(&id, kept(NEW), None);
        assert_eq!(writes.bound(&id), Some(ReadBound::Above(NEW)));
    }

    #[test]
    fn an_object_that_is_written_again_is_remembered_longer() {
        let writes = OwnWrites::default();
        let id = |n: usize| ObjectId::parse(&n.to_string()).unwrap();
        let note = |n| writes.note(&id(n), Written::Kept { version: NEW, created: true }, None);
        (0..REMEMBERED_MAX).for_each(note);
        note(0);
        note(REMEMBERED_MAX);
        assert_eq!(writes.bound(&id(0)), Some(ReadBound::From(NEW)));
        assert_eq!(writes.bound(&id(1)), None);
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
