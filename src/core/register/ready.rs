//! The objects whose next round needs no phase 1, since the last acceptance included a promise (rule 11). The number is limited:
//! the oldest is dropped.

use std::collections::BTreeMap;

use super::{Ballot, Past, RegisterOptions, Value};
use crate::model::object::ObjectId;

#[derive(Debug, Default)]
pub(super) struct ReadyObjects {
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
    past: Past,
}

impl ReadyObjects {
    /// Takes note of what an object's next round may build on.
    pub fn put(
        &mut self,
        options: &RegisterOptions,
        id: &ObjectId,
        ballot: Ballot,
        (value, past): (&Value, Past),
    ) {
        self.take(id);
        let len_bytes = value.len_bytes();
        if len_bytes > options.ready_bytes_max {
            return;
        }
        self.bytes += len_bytes;
        self.next_age += 1;
        let entry = Entry { age: self.next_age, ballot, value: value.clone(), past };
        self.ages.insert(self.next_age, id.clone());
        self.entries.insert(id.clone(), entry);
        while self.entries.len() > options.ready_max || self.bytes > options.ready_bytes_max {
            let Some((_, oldest)) = self.ages.first_key_value() else { break };
            let oldest = oldest.clone();
            self.take(&oldest);
        }
    }

    /// Takes what an object's next round may build on. It is good for one.
    pub fn take(&mut self, id: &ObjectId) -> Option<(Ballot, Value, Past)> {
        let Entry { age, ballot, value, past } = self.entries.remove(id)?;
        self.ages.remove(&age);
        self.bytes -= value.len_bytes();
        Some((ballot, value, past))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let next_age = self.next_age;
        *self = Self { next_age, ..Self::default() };
    }
}
