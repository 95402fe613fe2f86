//! The reads on the records, the same for every table.

use std::iter::Peekable;

use bytes::Bytes;
use tracing::error;

use super::{
    format::{self, KEY_LOOSE, decode_object, object_key, tier_tag},
    records::{
        self, RegisterRecord, TAG_EXPIRING, TAG_OUTBOX, TAG_REGISTER, damaged_head, register_key,
    },
    table::{RecordResult, RecordTable},
};
use nomad_core::{
    model::{
        object::{Object, ObjectId, Tier},
        time::UnixSecs,
    },
    register::{Register, ShardState, Value, shard_of},
};
use nomad_ports::object_store::{Expired, ListingPage, ListingQuery, RegisterHead, StoreError};

/// The most records that one page of a listing looks at, however many of them have expired.
const SCAN_MAX: usize = 100_000;
/// From how many bytes on a page of the outbox is complete.
const OUTBOX_PAGE_BYTES: usize = 4 << 20;

/// What is known of the records as a whole, so that most reads and writes need not look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether there are registers.
    pub has_registers: bool,
    /// Whether there may be objects of the group tier without a register.
    pub is_loose: bool,
    /// Entries of the outbox, and their bytes.
    pub outbox_entries: u64,
    pub outbox_bytes: u64,
}

impl Facts {
    /// Looks. `is_loose` stays as the records say: it costs more to find out.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn of(table: &impl RecordTable) -> Result<Self, StoreError> {
        let first = table.range(vec![TAG_REGISTER], vec![TAG_REGISTER + 1]).next().transpose()?;
        let mut facts = Self {
            has_registers: first.is_some(),
            is_loose: table.get(KEY_LOOSE)?.is_some(),
            ..Self::default()
        };
        for entry in table.range(vec![TAG_OUTBOX], vec![TAG_OUTBOX + 1]) {
            let (key, record) = entry?;
            facts.outbox_entries += 1;
            facts.outbox_bytes += records::outbox_bytes(key.len() - 1, record.len());
        }
        Ok(facts)
    }
}

/// Reads an object, expired or not.
pub fn object(
    table: &impl RecordTable,
    tier: Tier,
    id: &ObjectId,
) -> Result<Option<Object>, StoreError> {
    let record = table.get(&object_key(tier, id.as_str()))?;
    record.map(|record| decode_object(id, record)).transpose()
}

pub fn list(
    table: &impl RecordTable,
    tier: Tier,
    ListingQuery { prefix, after, limit }: &ListingQuery,
    now: UnixSecs,
) -> Result<ListingPage, StoreError> {
    let mut start = object_key(tier, prefix);
    if let Some(after) = after {
        start = start.max(behind(object_key(tier, after)));
    }
    let mut page = ListingPage::default();
    let mut last = None;
    for (scanned, entry) in table.range(start, vec![tier_tag(tier) + 1]).enumerate() {
        let (key, record) = entry?;
        let id = parse_id(&key, 1)?;
        if !id.as_str().starts_with(prefix) {
            break;
        }
        if page.items.len() == *limit || scanned == SCAN_MAX {
            page.next = last;
            break;
        }
        let object = decode_object(&id, record)?;
        if !object.is_expired(now) {
            page.items.push(object.meta());
        }
        last = Some(id);
    }
    Ok(page)
}

/// Reads a register. The two records that it is in have to be of one batch.
pub fn register(
    table: &impl RecordTable,
    id: &ObjectId,
    is_loose: bool,
) -> Result<Option<Register>, StoreError> {
    let record = match table.get(&register_key(id))? {
        Some(record) => RegisterRecord::decode(id, &record)?,
        None if is_loose => {
            let Some(object) = object(table, Tier::Group, id)? else { return Ok(None) };
            return RegisterRecord::loose(&object).join(id, Some(object)).map(Some);
        }
        None => return Ok(None),
    };
    let object = if record.is_live() { object(table, Tier::Group, id)? } else { None };
    record.join(id, object).map(Some)
}

/// Lists registers. An object has a register if its record is of the kind for that. So registers and objects without one are
/// read side by side.
pub fn registers(
    table: &impl RecordTable,
    shard: u8,
    after: Option<&ObjectId>,
    limit: usize,
    is_loose: bool,
) -> Result<Vec<RegisterHead>, StoreError> {
    let (mut start, end) = records::register_keys(shard);
    let mut objects_start = vec![tier_tag(Tier::Group)];
    if let Some(after) = after {
        start = behind([&start[..], after.as_str().as_bytes()].concat());
        objects_start = behind(object_key(Tier::Group, after.as_str()));
    }
    let mut kept = table.range(start, end).peekable();
    let objects = is_loose.then(|| table.range(objects_start, vec![tier_tag(Tier::Group) + 1]));
    let mut loose = objects.into_iter().flatten().filter(|entry| in_shard(entry, shard)).peekable();
    let mut heads = Vec::new();
    while heads.len() < limit {
        let Some((id, record, is_kept)) = next_of(&mut kept, &mut loose)? else { break };
        heads.push(if is_kept { kept_head(id, &record) } else { loose_head(id, record) });
    }
    Ok(heads)
}

/// Takes the next register of `kept`, or the next object of `loose` (objects without a register), whichever comes first.
fn next_of(
    kept: &mut Peekable<impl Iterator<Item = RecordResult>>,
    loose: &mut Peekable<impl Iterator<Item = RecordResult>>,
) -> Result<Option<(ObjectId, Bytes, bool)>, StoreError> {
    loop {
        let kept_id = peek_id(kept, 2)?;
        let loose_id = peek_id(loose, 1)?;
        let is_kept = match (&kept_id, &loose_id) {
            (None, None) => return Ok(None),
            (Some(kept_id), Some(loose_id)) if kept_id == loose_id => {
                loose.next();
                continue;
            }
            (Some(kept_id), Some(loose_id)) => kept_id < loose_id,
            (kept_id, None) => kept_id.is_some(),
            (None, _) => false,
        };
        let entry = if is_kept { kept.next() } else { loose.next() };
        let (Some(entry), Some(id)) = (entry, if is_kept { kept_id } else { loose_id }) else {
            return Ok(None);
        };
        return Ok(Some((id, entry?.1, is_kept)));
    }
}

fn peek_id(
    entries: &mut Peekable<impl Iterator<Item = RecordResult>>,
    skip: usize,
) -> Result<Option<ObjectId>, StoreError> {
    match entries.peek() {
        None => Ok(None),
        Some(Ok((key, _))) => parse_id(key, skip).map(Some),
        Some(Err(error)) => Err(error.clone()),
    }
}

fn kept_head(id: ObjectId, record: &[u8]) -> RegisterHead {
    match RegisterRecord::decode(&id, record) {
        Ok(record) => record.head(id),
        Err(_) => damaged_head(id),
    }
}

fn loose_head(id: ObjectId, record: Bytes) -> RegisterHead {
    match decode_object(&id, record) {
        Ok(object) => RegisterRecord::loose(&object).head(id),
        Err(_) => damaged_head(id),
    }
}

/// Tells whether an object's record belongs to a shard. A record that cannot be read may not be skipped.
fn in_shard(entry: &RecordResult, shard: u8) -> bool {
    entry.as_ref().map_or(true, |(key, _)| {
        ObjectId::parse_bytes(key.get(1..).unwrap_or_default())
            .map_or(true, |id| shard_of(&id) == shard)
    })
}

pub fn shard_state(table: &impl RecordTable, shard: u8) -> Result<Option<ShardState>, StoreError> {
    let record = table.get(&records::shard_key(shard))?;
    record.map(|record| records::decode_shard(shard, &record)).transpose()
}

pub fn expired(
    table: &impl RecordTable,
    now: UnixSecs,
    after: Option<&Expired>,
    limit: usize,
) -> Result<Vec<Expired>, StoreError> {
    let start = after.map_or(vec![TAG_EXPIRING], |after| {
        behind(records::expiring_key(after.expires_at, &after.id))
    });
    let mut end = vec![TAG_EXPIRING];
    end.extend_from_slice(&now.0.saturating_add(1).to_be_bytes());
    let mut found = Vec::new();
    for entry in table.range(start, end) {
        if found.len() == limit {
            break;
        }
        let (key, version) = entry?;
        let parsed = records::parse_expiring_key(&key).zip(format::decode_version(&version));
        match parsed {
            Some(((expires_at, id), version)) => found.push(Expired { id, version, expires_at }),
            None => error!(?key, "an entry of the expiry index does not read back"),
        }
    }
    Ok(found)
}

pub fn outbox_entry(table: &impl RecordTable, id: &ObjectId) -> Result<Option<Value>, StoreError> {
    let record = table.get(&records::outbox_key(id))?;
    record.map(|record| records::decode_outbox(id, &record)).transpose()
}

pub fn outbox(
    table: &impl RecordTable,
    after: Option<&ObjectId>,
    limit: usize,
) -> Result<Vec<(ObjectId, Value)>, StoreError> {
    let start = after.map_or(vec![TAG_OUTBOX], |after| behind(records::outbox_key(after)));
    let (mut found, mut bytes) = (Vec::new(), 0);
    for entry in table.range(start, vec![TAG_OUTBOX + 1]) {
        if found.len() == limit || bytes >= OUTBOX_PAGE_BYTES {
            break;
        }
        let (key, record) = entry?;
        let id = parse_id(&key, 1)?;
        match records::decode_outbox(&id, &record) {
            Ok(value) => {
                bytes += record.len();
                found.push((id, value));
            }
            Err(error) => error!(%error, "a fast write cannot be replicated"),
        }
    }
    Ok(found)
}

/// The first key behind `key`.
fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

fn parse_id(key: &[u8], skip: usize) -> Result<ObjectId, StoreError> {
    ObjectId::parse_bytes(key.get(skip..).unwrap_or_default())
        .map_err(|error| StoreError::Engine(error.to_string()))
}
