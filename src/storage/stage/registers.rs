//! The changes of a shard: registers with their objects, and the entries of the expiry index.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::BatchStage;
use crate::{
    format::{encode_object, encode_version, expiry_key, object_key, tier_tag},
    records::{self, RecordedValue, RegisterRecord, expiring_key, register_key, register_keys},
    table::RecordTable,
};
use nomad_core::{
    model::{
        object::{Object, ObjectId, Tier},
        time::UnixSecs,
    },
    register::{Register, Value, shard_of},
};
use nomad_ports::object_store::{JobDone, RegisterJob, StoreError};

/// A job without its caller.
pub struct ShardWrites {
    shard: u8,
    wipe: bool,
    state: Option<nomad_core::register::ShardState>,
    writes: Vec<(ObjectId, Option<Register>)>,
}

impl ShardWrites {
    pub fn of(job: RegisterJob) -> (JobDone, Self) {
        let RegisterJob { shard, wipe, state, writes, done } = job;
        (done, Self { shard, wipe, state, writes })
    }
}

/// What is kept of a register: what a change has to put in order.
#[derive(Default)]
struct Footprint {
    /// `None` also of a record that does not read back.
    record: Option<RegisterRecord>,
    has_record: bool,
    has_object: bool,
    /// Its entry of an expiry index.
    index: Option<Vec<u8>>,
}

/// A write that has been looked at.
struct Planned {
    id: ObjectId,
    register: Option<Register>,
    before: Footprint,
    /// Whether the object has to be written.
    is_new: bool,
}

impl<T: RecordTable> BatchStage<'_, T> {
    pub(super) fn registers(&mut self, wanted: ShardWrites) -> Result<(), StoreError> {
        let ShardWrites { shard, wipe, state, writes } = wanted;
        let state = state.map(|state| records::encode_shard(&state)).transpose()?;
        let wiped = if wipe { self.of_shard(shard)? } else { BTreeMap::new() };
        // Of several writes of one object the last one counts.
        let writes: BTreeMap<ObjectId, Option<Register>> = writes.into_iter().collect();
        let mut planned = Vec::with_capacity(writes.len());
        for (id, register) in writes {
            debug_assert_eq!(shard_of(&id), shard, "{id} is another shard's");
            planned.push(self.plan(id, register, wipe)?);
        }
        if planned.iter().any(|planned| planned.is_new) {
            self.room()?;
        }
        // From here on nothing fails.
        for (id, before) in wiped {
            self.remove_register(&id, before);
        }
        for Planned { id, register, before, is_new } in planned {
            match register {
                Some(register) => self.put_register(&id, &register, before, is_new)?,
                None => self.remove_register(&id, before),
            }
        }
        match state {
            Some(state) => self.put(records::shard_key(shard), state),
            None if wipe => self.remove(records::shard_key(shard)),
            None => {}
        }
        Ok(())
    }

    fn plan(
        &self,
        id: ObjectId,
        register: Option<Register>,
        wiped: bool,
    ) -> Result<Planned, StoreError> {
        let before = if wiped { Footprint::default() } else { self.footprint(&id)? };
        let is_new = match &register {
            Some(register) => self.has_new_object(&id, register, &before)?,
            None => false,
        };
        Ok(Planned { id, register, before, is_new })
    }

    /// Tells whether a register brings an object that is not kept yet. One ballot stands for one value. Under another ballot the
    /// value may be the same again: to find that out, a read costs less than a write.
    fn has_new_object(
        &self,
        id: &ObjectId,
        register: &Register,
        before: &Footprint,
    ) -> Result<bool, StoreError> {
        let Value::Live(object) = &register.value else { return Ok(false) };
        let kept = before
            .record
            .as_ref()
            .filter(|record| record.is_live() && record.version() == Some(object.version));
        match kept {
            None => Ok(true),
            Some(kept) if kept.accepted == register.accepted => Ok(false),
            Some(_) => Ok(self.readable(id)?.as_ref() != Some(object)),
        }
    }

    fn footprint(&self, id: &ObjectId) -> Result<Footprint, StoreError> {
        match self.record(&register_key(id))? {
            Some(record) => self.footprint_of(id, &record),
            None if self.staged.facts.is_loose => self.loose_footprint(id),
            None => Ok(Footprint::default()),
        }
    }

    fn footprint_of(&self, id: &ObjectId, record: &[u8]) -> Result<Footprint, StoreError> {
        let expiring = |at: Option<UnixSecs>| at.map(|at| expiring_key(at, id));
        let Ok(record) = RegisterRecord::decode(id, record) else {
            // Nothing of it is to be left behind.
            let object = self.readable(id)?;
            let index = expiring(object.and_then(|object| object.expires_at));
            return Ok(Footprint { record: None, has_record: true, has_object: true, index });
        };
        let index = match record.held {
            RecordedValue::Live { expires_at, .. } => expiring(expires_at),
            RecordedValue::Absent | RecordedValue::Tombstone { .. } => None,
        };
        let has_object = record.is_live();
        Ok(Footprint { record: Some(record), has_record: true, has_object, index })
    }

    fn loose_footprint(&self, id: &ObjectId) -> Result<Footprint, StoreError> {
        if self.record(&object_key(Tier::Group, id.as_str()))?.is_none() {
            return Ok(Footprint::default());
        }
        let object = self.readable(id)?;
        let at = object.as_ref().and_then(|object| object.expires_at);
        Ok(Footprint {
            record: object.as_ref().map(RegisterRecord::loose),
            has_record: false,
            has_object: true,
            index: at.map(|at| expiry_key(at, Tier::Group, id.as_str())),
        })
    }

    /// Reads an object of the group tier; one that does not read back counts as none.
    fn readable(&self, id: &ObjectId) -> Result<Option<Object>, StoreError> {
        match self.object(Tier::Group, id) {
            Err(StoreError::Damaged { .. }) => Ok(None),
            object => object,
        }
    }

    /// Finds all that is kept of a shard.
    fn of_shard(&self, shard: u8) -> Result<BTreeMap<ObjectId, Footprint>, StoreError> {
        let mut found = BTreeMap::new();
        let (start, end) = register_keys(shard);
        self.each(start, end, |key, record| {
            if let Ok(id) = ObjectId::parse_bytes(key.get(2..).unwrap_or_default()) {
                let footprint = self.footprint_of(&id, record)?;
                found.insert(id, footprint);
            }
            Ok(())
        })?;
        if self.staged.facts.is_loose {
            let tag = tier_tag(Tier::Group);
            self.each(vec![tag], vec![tag + 1], |key, _| {
                if let Ok(id) = ObjectId::parse_bytes(key.get(1..).unwrap_or_default())
                    && shard_of(&id) == shard
                    && !found.contains_key(&id)
                {
                    let footprint = self.loose_footprint(&id)?;
                    found.insert(id, footprint);
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Visits the records of a range, as far as the batch has been decided, in no particular order.
    fn each(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        mut visit: impl FnMut(&[u8], &Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let staged = &self.staged.ops;
        for (key, op) in staged.range(start.clone()..end.clone()) {
            if let Some(record) = op {
                visit(key, record)?;
            }
        }
        for entry in self.table.range(start, end) {
            let (key, record) = entry?;
            if !staged.contains_key(&key[..]) {
                visit(&key, &record)?;
            }
        }
        Ok(())
    }

    fn put_register(
        &mut self,
        id: &ObjectId,
        register: &Register,
        before: Footprint,
        is_new: bool,
    ) -> Result<(), StoreError> {
        let record = RegisterRecord::of(register);
        self.observe(record.version());
        let index = match record.held {
            RecordedValue::Live { version, expires_at: Some(at) } => {
                Some((expiring_key(at, id), version))
            }
            _ => None,
        };
        let is_same = before.index.as_deref() == index.as_ref().map(|(key, _)| &key[..]);
        if let Some(old) = before.index.filter(|_| !is_same) {
            self.remove(old);
        }
        if let Some((key, version)) = index
            && (is_new || !is_same)
        {
            self.put(key, encode_version(version).to_vec());
        }
        match &register.value {
            Value::Live(object) if is_new => {
                self.put(object_key(Tier::Group, id.as_str()), encode_object(object));
            }
            Value::Live(_) => {}
            Value::Absent | Value::Tombstone(_) if before.has_object => {
                self.remove(object_key(Tier::Group, id.as_str()));
            }
            Value::Absent | Value::Tombstone(_) => {}
        }
        self.put(register_key(id), record.encode()?);
        self.staged.facts.has_registers = true;
        self.staged.register_writes += 1;
        Ok(())
    }

    fn remove_register(&mut self, id: &ObjectId, before: Footprint) {
        if before.has_record {
            self.remove(register_key(id));
        }
        if before.has_object {
            self.remove(object_key(Tier::Group, id.as_str()));
        }
        if let Some(index) = before.index {
            self.remove(index);
        }
        self.staged.register_writes += 1;
    }
}
