//! A table of records by key: fjall, or a map. The code that decides batches and reads knows only this.

use std::collections::BTreeMap;

use bytes::Bytes;
use fjall::{Keyspace, Readable as _, Snapshot};

use super::engine::Engine;
use nomad_ports::object_store::StoreError;

/// A record's key and its bytes.
pub type RecordResult = Result<(Bytes, Bytes), StoreError>;

/// Sorted records.
pub trait RecordTable {
    /// Reads one record.
    ///
    /// # Errors
    /// When the engine cannot.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Reads the records from `start` on and before `end`, in order.
    fn range(&self, start: Vec<u8>, end: Vec<u8>) -> impl Iterator<Item = RecordResult>;
}

/// A map of records: a store that forgets.
pub type Map = BTreeMap<Vec<u8>, Bytes>;

impl RecordTable for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(BTreeMap::get(self, key).cloned())
    }

    fn range(&self, start: Vec<u8>, end: Vec<u8>) -> impl Iterator<Item = RecordResult> {
        let found = (start < end).then(|| BTreeMap::range(self, start..end));
        found
            .into_iter()
            .flatten()
            .map(|(key, record)| Ok((Bytes::copy_from_slice(key), record.clone())))
    }
}

/// Each read sees what has been written last; two of them may see a batch come between.
impl RecordTable for Engine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let record = self.objects.get(key).map_err(failed)?;
        Ok(record.map(Bytes::from))
    }

    fn range(&self, start: Vec<u8>, end: Vec<u8>) -> impl Iterator<Item = RecordResult> {
        scan(&self.db.snapshot(), &self.objects, start, end)
    }
}

/// The records of a database at one point: no batch comes between two reads.
pub struct RecordSnapshot<'a> {
    snapshot: Snapshot,
    objects: &'a Keyspace,
}

impl<'a> RecordSnapshot<'a> {
    pub fn of(engine: &'a Engine) -> Self {
        Self { snapshot: engine.db.snapshot(), objects: &engine.objects }
    }
}

impl RecordTable for RecordSnapshot<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let record = self.snapshot.get(self.objects, key).map_err(failed)?;
        Ok(record.map(Bytes::from))
    }

    fn range(&self, start: Vec<u8>, end: Vec<u8>) -> impl Iterator<Item = RecordResult> {
        scan(&self.snapshot, self.objects, start, end)
    }
}

fn scan(
    snapshot: &Snapshot,
    objects: &Keyspace,
    start: Vec<u8>,
    end: Vec<u8>,
) -> impl Iterator<Item = RecordResult> + use<> {
    let found = (start < end).then(|| snapshot.range(objects, start..end));
    found.into_iter().flatten().map(|guard| {
        let (key, record) = guard.into_inner().map_err(failed)?;
        Ok((key.into(), record.into()))
    })
}

fn failed(error: fjall::Error) -> StoreError {
    StoreError::Engine(error.to_string())
}
