//! The objects whose next round needs no first phase, since the last acceptance has promised it (rule 11). Bounded: the oldest
//! make room.

use std::collections::BTreeMap;

use super::{Ballot, Options, Value};
use crate::core::object::ObjectId;

#[derive(Debug, Default)]
pub(super) struct Ready {
    entries: BTreeMap<ObjectId, Entry>,
    /// The objects by age.
    ages: BTreeMap<u64, ObjectId>,
    next_age: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    age: u64,
    /// What is promised.
    ballot: Ballot,
    /// What a quorum has accepted right before.
    value: Value,
}

impl Ready {
    /// Takes note of what an object's next round may build on.
    pub fn put(&mut self, options: &Options, id: &ObjectId, ballot: Ballot, value: &Value) {
        self.take(id);
        let len_bytes = value.len_bytes();
        if len_bytes > options.ready_bytes_max {
            return;
        }
        self.bytes += len_bytes;
        self.next_age += 1;
        let entry = Entry { age: self.next_age, ballot, value: value.clone() };
        self.ages.insert(self.next_age, id.clone());
        self.entries.insert(id.clone(), entry);
        while self.entries.len() > options.ready_max || self.bytes > options.ready_bytes_max {
            let Some((_, oldest)) = self.ages.first_key_value() else { break };
            let oldest = oldest.clone();
            self.take(&oldest);
        }
    }

    /// Takes what an object's next round may build on. It is good for one.
    pub fn take(&mut self, id: &ObjectId) -> Option<(Ballot, Value)> {
        let Entry { age, ballot, value } = self.entries.remove(id)?;
        self.ages.remove(&age);
        self.bytes -= value.len_bytes();
        Some((ballot, value))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let next_age = self.next_age;
        *self = Self { next_age, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        object::{Object, Version},
        register::Tombstone,
        time::UnixSecs,
    };

    fn id(n: u64) -> ObjectId {
        ObjectId::parse(&format!("o{n}")).unwrap()
    }

    fn value(n: u64, len_bytes: usize) -> Value {
        Value::Live(Object {
            id: id(n),
            value: vec![0; len_bytes].into(),
            creation_time: UnixSecs(0),
            expires_at: None,
            last_modified: UnixSecs(0),
            version: Version::default(),
            content_type: None,
        })
    }

    #[test]
    fn the_oldest_make_room_by_count_and_by_bytes() {
        let options = Options { ready_max: 3, ready_bytes_max: 100, ..Options::default() };
        let mut ready = Ready::default();
        for n in 0..4 {
            ready.put(&options, &id(n), Ballot::NONE, &value(n, 10));
        }
        assert!(ready.take(&id(0)).is_none());
        assert!(ready.take(&id(1)).is_some() && ready.take(&id(1)).is_none(), "good for one");
        ready.put(&options, &id(5), Ballot::NONE, &value(5, 90));
        assert!(ready.take(&id(2)).is_none() && ready.take(&id(3)).is_some());
        ready.put(&options, &id(6), Ballot::NONE, &value(6, 101));
        assert!(ready.take(&id(6)).is_none(), "larger than all may be");
        let tombstone = Value::Tombstone(Tombstone { version: Version::default() });
        ready.put(&options, &id(5), Ballot::NONE, &tombstone);
        assert_eq!((ready.bytes, ready.entries.len(), ready.ages.len()), (0, 1, 1));
        ready.clear();
        assert!(ready.take(&id(5)).is_none());
    }
}
