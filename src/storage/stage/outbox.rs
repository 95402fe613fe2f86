//! What changes in the outbox.

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::Bytes;

use super::BatchStage;
use crate::{
    records::{decode_outbox, encode_outbox, outbox_bytes, outbox_key},
    table::RecordTable,
};
use nomad_core::{
    model::object::{ObjectId, Version},
    register::Value,
};
use nomad_ports::object_store::{OutboxChange, StoreError};

/// An entry before and after a change.
struct Slot {
    before: Option<Bytes>,
    after: Option<Bytes>,
}

impl<T: RecordTable> BatchStage<'_, T> {
    pub(super) fn outbox(&mut self, change: OutboxChange) -> Result<(), StoreError> {
        let OutboxChange { put, remove, watermark } = change;
        if put.iter().any(|(_, value)| matches!(value, Value::Live(_))) {
            self.room()?;
        }
        let versions: Vec<_> = put.iter().filter_map(|(_, value)| value.version()).collect();
        let mut slots = BTreeMap::new();
        for (id, value) in put {
            let Some(record) = encode_outbox(&value) else { continue };
            let slot = self.slot(&mut slots, &id)?;
            if value.version() > version_of(&id, slot.after.as_ref()) {
                slot.after = Some(record.into());
            }
        }
        for (id, version) in remove {
            let slot = self.slot(&mut slots, &id)?;
            if version_of(&id, slot.after.as_ref()) == Some(version) {
                slot.after = None;
            }
        }
        // From here on nothing fails.
        for (id, slot) in slots {
            self.set_entry(&id, slot);
        }
        versions.into_iter().chain(watermark).for_each(|version| self.clock.observe(version));
        self.staged.keeps_clock |= watermark.is_some();
        Ok(())
    }

    fn slot<'a>(
        &self,
        slots: &'a mut BTreeMap<ObjectId, Slot>,
        id: &ObjectId,
    ) -> Result<&'a mut Slot, StoreError> {
        match slots.entry(id.clone()) {
            Entry::Occupied(slot) => Ok(slot.into_mut()),
            Entry::Vacant(vacant) => {
                let is_empty = self.staged.facts.outbox_entries == 0;
                let before = if is_empty { None } else { self.record(&outbox_key(id))? };
                Ok(vacant.insert(Slot { after: before.clone(), before }))
            }
        }
    }

    fn set_entry(&mut self, id: &ObjectId, Slot { before, after }: Slot) {
        if before == after {
            return;
        }
        let bytes = |record: Bytes| outbox_bytes(id.as_str().len(), record.len());
        let facts = &mut self.staged.facts;
        if let Some(before) = before {
            facts.outbox_entries = facts.outbox_entries.saturating_sub(1);
            facts.outbox_bytes = facts.outbox_bytes.saturating_sub(bytes(before));
        }
        if let Some(after) = &after {
            facts.outbox_entries += 1;
            facts.outbox_bytes += bytes(after.clone());
        }
        self.staged.ops.insert(outbox_key(id), after);
    }
}

/// The version of an entry; one that does not read back has none, and gives way to any.
fn version_of(id: &ObjectId, record: Option<&Bytes>) -> Option<Version> {
    decode_outbox(id, record?).ok()?.version()
}
