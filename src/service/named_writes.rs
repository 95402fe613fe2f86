//! The fast writes whose clients gave them a name: one that comes twice is done once, and the second time told what the first
//! one did. Known at the node that took it, while it runs, and for the last ones. Safe writes are known by their registers.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use nomad_core::model::change::Written;
use nomad_core::model::object::ObjectId;

/// The most writes that are remembered.
const REMEMBERED_MAX: usize = 4_096;

type Key = (u128, ObjectId);

/// What is known of them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct NamedWrites(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    /// `None` = it runs.
    writes: HashMap<Key, Option<Written>>,
    /// Those that are done, oldest first.
    done: VecDeque<Key>,
}

/// What a write with a name is.
#[derive(Debug)]
pub enum NamedWriteState {
    /// The first of its name: it is to be done.
    First(Turn),
    /// It runs.
    Running,
    /// It is done, and did this.
    Done(Written),
}

/// The right to do a write. Dropped without a word, the write was not done, and may be tried again.
#[derive(Debug)]
pub struct Turn {
    book: NamedWrites,
    key: Key,
}

impl NamedWrites {
    /// Begins a write.
    pub fn begin(&self, name: u128, id: &ObjectId) -> NamedWriteState {
        let key = (name, id.clone());
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match book.writes.get(&key) {
            Some(Some(written)) => NamedWriteState::Done(*written),
            Some(None) => NamedWriteState::Running,
            None => {
                book.writes.insert(key.clone(), None);
                NamedWriteState::First(Turn { book: self.clone(), key })
            }
        }
    }
}

impl Turn {
    /// Says what the write did.
    pub fn done(self, written: Written) {
        let mut book = self.book.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.writes.insert(self.key.clone(), Some(written));
        book.done.push_back(self.key.clone());
        if book.done.len() > REMEMBERED_MAX
            && let Some(oldest) = book.done.pop_front()
        {
            book.writes.remove(&oldest);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut book = self.book.0.lock().unwrap_or_else(PoisonError::into_inner);
        if book.writes.get(&self.key) == Some(&None) {
            book.writes.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_done_once_and_forgotten_late() {
        let (writes, id) = (NamedWrites::default(), ObjectId::parse("a").unwrap());
        let first = |name| match writes.begin(name, &id) {
            NamedWriteState::First(turn) => turn,
            other => panic!("{other:?}"),
        };
        let turn = first(1);
        assert!(matches!(writes.begin(1, &id), NamedWriteState::Running));
        drop(turn);
        first(1).done(Written::Removed);
        assert!(matches!(writes.begin(1, &id), NamedWriteState::Done(Written::Removed)));
        assert!(matches!(
            writes.begin(1, &ObjectId::parse("b").unwrap()),
            NamedWriteState::First(_)
        ));
        for name in 2..=REMEMBERED_MAX as u128 + 1 {
            first(name).done(Written::Removed);
        }
        assert!(matches!(writes.begin(1, &id), NamedWriteState::First(_)));
        assert!(matches!(writes.begin(2, &id), NamedWriteState::Done(_)));
    }
}
