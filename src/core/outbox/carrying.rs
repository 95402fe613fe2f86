//! How fast writes and objects from an earlier group get into the outbox: unchanged, unless something newer is here.

use super::{Outbox, OutboxEffect, OutboxRefusal, OutboxShelf, entry_bytes};
use crate::{
    model::{
        change::{WriteRefusal, Written},
        object::ObjectId,
    },
    register::{OpId, Value},
};

impl Outbox {
    /// Takes a value over. It is on this disk already, so that no limit keeps it out.
    pub(super) fn carry(
        &mut self,
        op: OpId,
        id: ObjectId,
        value: Value,
        shelf: &dyn OutboxShelf,
    ) -> Result<OutboxEffect, OutboxRefusal> {
        let held = self.newest(&id, Value::Absent, shelf)?.version();
        let newer = WriteRefusal::Exists { version: held.unwrap_or_default() };
        let version = value.version().filter(|version| held < Some(*version)).ok_or(newer)?;
        self.clock.observe(version);
        let written = match value {
            Value::Live(_) => Written::Kept { version, created: false },
            Value::Tombstone(_) | Value::Absent => Written::Removed,
        };
        let bytes = entry_bytes(&id, value.len_bytes());
        Ok(self.keep(op, id, value, (version, bytes), written))
    }
}
