//! The records of replication: registers, shard states, and the entries of the outbox.
//!
//! ```text
//! register      01 kind promised accepted [version] [expires_at] [past]   kind 0 = absent, 1 = object, 2 = tombstone
//! shard state   01 postcard
//! outbox entry  01 kind (the object's record | version)
//! ```
//!
//! A ballot is epoch, counter, node; every number is big-endian. A past is postcard's; if there is one, 128 is added to the kind. The object of a register stands in its own record, so that
//! a promise does not write it again; the register says which version that is, so that the two cannot be taken for each
//! other's when one is damaged.

use bytes::Bytes;

use super::format::{self, decode_version, encode_object, encode_version};
use nomad_core::{
    model::{
        object::{Object, ObjectId, Version},
        time::UnixSecs,
    },
    register::{Ballot, Past, Register, ShardState, Tombstone, Value, shard_of},
};
use nomad_ports::object_store::{RegisterHead, StoreError};

pub const TAG_REGISTER: u8 = 5;
const TAG_SHARD: u8 = 6;
pub const TAG_OUTBOX: u8 = 7;
pub const TAG_EXPIRING: u8 = 8;

/// The format of each record.
const RECORD_FORMAT: u8 = 1;
const KIND_ABSENT: u8 = 0;
const KIND_LIVE: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;
/// Added to the kind of a register that has a past.
const HAS_PAST: u8 = 0x80;
const VERSION_BYTES: usize = 16;
/// Under what an object counts as accepted that was kept without a register.
const LOOSE: Ballot = Ballot { epoch: 0, counter: 1, node: 0 };

/// A register but for its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterRecord {
    pub promised: Ballot,
    pub accepted: Ballot,
    pub held: RecordedValue,
    pub past: Past,
}

/// What a register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordedValue {
    Absent,
    Live { version: Version, expires_at: Option<UnixSecs> },
    Tombstone { version: Version },
}

impl RegisterRecord {
    pub fn of(register: &Register) -> Self {
        let held = match &register.value {
            Value::Absent => RecordedValue::Absent,
            Value::Live(object) => {
                RecordedValue::Live { version: object.version, expires_at: object.expires_at }
            }
            Value::Tombstone(Tombstone { version }) => {
                RecordedValue::Tombstone { version: *version }
            }
        };
        Self {
            promised: register.promised,
            accepted: register.accepted,
            held,
            past: register.past.clone(),
        }
    }

    /// Returns a record for an object that was kept without a register.
    pub fn loose(object: &Object) -> Self {
        let held = RecordedValue::Live { version: object.version, expires_at: object.expires_at };
        Self { promised: LOOSE, accepted: LOOSE, held, past: Past::default() }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.held, RecordedValue::Live { .. })
    }

    pub fn version(&self) -> Option<Version> {
        match self.held {
            RecordedValue::Absent => None,
            RecordedValue::Live { version, .. } | RecordedValue::Tombstone { version } => {
                Some(version)
            }
        }
    }

    pub fn head(&self, id: ObjectId) -> RegisterHead {
        let expires_at = match self.held {
            RecordedValue::Live { expires_at, .. } => expires_at,
            RecordedValue::Absent | RecordedValue::Tombstone { .. } => None,
        };
        RegisterHead {
            id,
            promised: self.promised,
            accepted: self.accepted,
            version: self.version(),
            is_live: self.is_live(),
            expires_at,
            is_damaged: false,
        }
    }

    /// Writes a register.
    ///
    /// # Errors
    /// When it cannot be written, which is a defect of its type.
    pub fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::with_capacity(2 + 6 * 8 + VERSION_BYTES + 8 + 32);
        let kind = match self.held {
            RecordedValue::Absent => KIND_ABSENT,
            RecordedValue::Live { .. } => KIND_LIVE,
            RecordedValue::Tombstone { .. } => KIND_TOMBSTONE,
        };
        let mark = if self.past.is_empty() { 0 } else { HAS_PAST };
        out.extend_from_slice(&[RECORD_FORMAT, kind | mark]);
        for Ballot { epoch, counter, node } in [self.promised, self.accepted] {
            for number in [epoch, counter, node] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
        match self.held {
            RecordedValue::Absent => {}
            RecordedValue::Live { version, expires_at } => {
                out.extend_from_slice(&encode_version(version));
                out.extend_from_slice(&expires_at.unwrap_or_default().0.to_be_bytes());
            }
            RecordedValue::Tombstone { version } => out.extend_from_slice(&encode_version(version)),
        }
        if self.past.is_empty() {
            return Ok(out);
        }
        postcard::to_extend(&self.past, out).map_err(|error| {
            StoreError::Engine(format!("the past of a register cannot be written: {error}"))
        })
    }

    /// Reads a register back.
    ///
    /// # Errors
    /// Names the object and what is wrong with its record.
    pub fn decode(id: &ObjectId, record: &[u8]) -> Result<Self, StoreError> {
        let (kind, rest) = kind_of(id, record)?;
        Self::parse(kind, rest)
            .ok_or_else(|| damaged(id, &format!("{} bytes for kind {kind}", record.len())))
    }

    fn parse(kind: u8, rest: &[u8]) -> Option<Self> {
        let mut rest = rest;
        let promised = take_ballot(&mut rest)?;
        let accepted = take_ballot(&mut rest)?;
        let held = match kind & !HAS_PAST {
            KIND_ABSENT => RecordedValue::Absent,
            KIND_LIVE => {
                let version = take_version(&mut rest)?;
                let at = UnixSecs(take_number(&mut rest)?);
                RecordedValue::Live { version, expires_at: (at.0 != 0).then_some(at) }
            }
            KIND_TOMBSTONE => RecordedValue::Tombstone { version: take_version(&mut rest)? },
            _ => return None,
        };
        let (past, rest): (Past, _) = match kind & HAS_PAST {
            0 => (Past::default(), rest),
            _ => postcard::take_from_bytes(rest).ok()?,
        };
        rest.is_empty().then_some(Self { promised, accepted, held, past })
    }

    /// Joins it with its object.
    ///
    /// # Errors
    /// When the object is not the one that it names.
    pub fn join(self, id: &ObjectId, object: Option<Object>) -> Result<Register, StoreError> {
        let Self { promised, accepted, held, past } = self;
        let value = match (held, object) {
            (RecordedValue::Absent, _) => Value::Absent,
            (RecordedValue::Tombstone { version }, _) => Value::Tombstone(Tombstone { version }),
            (RecordedValue::Live { version, .. }, Some(object)) if object.version == version => {
                Value::Live(object)
            }
            (RecordedValue::Live { version, .. }, object) => {
                let found =
                    object.map_or("there is none".into(), |o| format!("it is {}", o.version));
                let reason = format!("its register holds version {version} of it, and {found}");
                return Err(damaged(id, &reason));
            }
        };
        Ok(Register { promised, accepted, value, past })
    }
}

/// Returns the head of a register that cannot be read.
pub fn damaged_head(id: ObjectId) -> RegisterHead {
    RegisterHead {
        id,
        promised: Ballot::NONE,
        accepted: Ballot::NONE,
        version: None,
        is_live: false,
        expires_at: None,
        is_damaged: true,
    }
}

pub fn register_key(id: &ObjectId) -> Vec<u8> {
    [&[TAG_REGISTER, shard_of(id)][..], id.as_str().as_bytes()].concat()
}

/// The keys of a shard's registers: the first, and the first behind them.
pub fn register_keys(shard: u8) -> (Vec<u8>, Vec<u8>) {
    let end = shard.checked_add(1).map_or(vec![TAG_REGISTER + 1], |next| vec![TAG_REGISTER, next]);
    (vec![TAG_REGISTER, shard], end)
}

pub fn shard_key(shard: u8) -> Vec<u8> {
    vec![TAG_SHARD, shard]
}

pub fn outbox_key(id: &ObjectId) -> Vec<u8> {
    [&[TAG_OUTBOX][..], id.as_str().as_bytes()].concat()
}

/// The expiry index of objects with a register.
pub fn expiring_key(at: UnixSecs, id: &ObjectId) -> Vec<u8> {
    [&[TAG_EXPIRING][..], &at.0.to_be_bytes(), id.as_str().as_bytes()].concat()
}

/// Reads a key of that index back: when, and which object.
pub fn parse_expiring_key(key: &[u8]) -> Option<(UnixSecs, ObjectId)> {
    let (at, id) = key.get(1..)?.split_first_chunk::<8>()?;
    Some((UnixSecs(u64::from_be_bytes(*at)), ObjectId::parse_bytes(id).ok()?))
}

/// Writes a shard's state.
///
/// # Errors
/// When it cannot be written, which is a defect of its type.
pub fn encode_shard(state: &ShardState) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(state, vec![RECORD_FORMAT])
        .map_err(|error| StoreError::Engine(format!("a shard's state cannot be written: {error}")))
}

/// Reads a shard's state back.
///
/// # Errors
/// Names the shard and what is wrong with its record.
pub fn decode_shard(shard: u8, record: &[u8]) -> Result<ShardState, StoreError> {
    let failed = |reason: String| {
        StoreError::Engine(format!("the state of shard {shard} does not read back: {reason}"))
    };
    match record.split_first() {
        Some((&RECORD_FORMAT, rest)) => match postcard::take_from_bytes(rest) {
            Ok((state, [])) => Ok(state),
            Ok((_, left)) => Err(failed(format!("{} bytes too many", left.len()))),
            Err(error) => Err(failed(error.to_string())),
        },
        Some((other, _)) => Err(failed(format!("unknown record format {other}"))),
        None => Err(failed("empty record".into())),
    }
}

/// Writes an entry of the outbox; `None` = the value has no version, so it cannot be an entry.
pub fn encode_outbox(value: &Value) -> Option<Vec<u8>> {
    let (kind, rest) = match value {
        Value::Absent => return None,
        Value::Live(object) => (KIND_LIVE, encode_object(object)),
        Value::Tombstone(Tombstone { version }) => {
            (KIND_TOMBSTONE, encode_version(*version).to_vec())
        }
    };
    Some([&[RECORD_FORMAT, kind][..], &rest].concat())
}

/// Reads an entry of the outbox back. An object's bytes share the memory of `record`.
///
/// # Errors
/// Names the object and what is wrong with its record.
pub fn decode_outbox(id: &ObjectId, record: &Bytes) -> Result<Value, StoreError> {
    let (kind, mut rest) = kind_of(id, record)?;
    let value = match kind {
        KIND_LIVE => Some(Value::Live(format::decode_object(id, record.slice(2..))?)),
        KIND_TOMBSTONE => {
            let version = take_version(&mut rest).filter(|_| rest.is_empty());
            version.map(|version| Value::Tombstone(Tombstone { version }))
        }
        _ => None,
    };
    value.ok_or_else(|| damaged(id, &format!("{} bytes for kind {kind}", record.len())))
}

/// What an entry of the outbox counts for.
pub fn outbox_bytes(id_len: usize, record_len: usize) -> u64 {
    (id_len + record_len) as u64
}

fn kind_of<'a>(id: &ObjectId, record: &'a [u8]) -> Result<(u8, &'a [u8]), StoreError> {
    match record {
        [RECORD_FORMAT, kind, rest @ ..] => Ok((*kind, rest)),
        [] | [RECORD_FORMAT] => Err(damaged(id, "shorter than its header")),
        [other, ..] => Err(damaged(id, &format!("unknown record format {other}"))),
    }
}

fn damaged(id: &ObjectId, reason: &str) -> StoreError {
    StoreError::Damaged { id: id.to_string(), reason: reason.into() }
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*number))
}

fn take_ballot(bytes: &mut &[u8]) -> Option<Ballot> {
    let mut next = || take_number(bytes);
    Some(Ballot { epoch: next()?, counter: next()?, node: next()? })
}

fn take_version(bytes: &mut &[u8]) -> Option<Version> {
    let (version, rest) = bytes.split_at_checked(VERSION_BYTES)?;
    *bytes = rest;
    decode_version(version)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ballot((epoch, counter, node): (u64, u64, u64)) -> Ballot {
        Ballot { epoch, counter, node }
    }

    proptest! {
        #[test]
        fn a_register_reads_back(
            promised: (u64, u64, u64), accepted: (u64, u64, u64), version: (u64, u64), kind in 0..3,
            at: u64, last in proptest::option::of((2u64.., any::<u64>(), any::<u64>())),
        ) {
            let (id, version) = (ObjectId::parse("x").unwrap(), Version { time: version.0, node: version.1 });
            let held = match kind {
                0 => RecordedValue::Absent,
                1 => RecordedValue::Live { version, expires_at: (at != 0).then_some(UnixSecs(at)) },
                _ => RecordedValue::Tombstone { version },
            };
            let past = last.map(|last| Past::begin(1, ballot(last))).unwrap_or_default();
            let (promised, accepted) = (ballot(promised), ballot(accepted));
            let record = RegisterRecord { promised, accepted, held, past };
            let bytes = record.encode().unwrap();
            prop_assert_eq!(RegisterRecord::decode(&id, &bytes), Ok(record));
            for len in 0..bytes.len() {
                prop_assert!(RegisterRecord::decode(&id, &bytes[..len]).is_err());
            }
            prop_assert!(RegisterRecord::decode(&id, &[&bytes[..], &[0]].concat()).is_err());
        }

        #[test]
        fn no_record_panics(record: Vec<u8>) {
            let (id, record) = (ObjectId::parse("x").unwrap(), Bytes::from(record));
            let _ = RegisterRecord::decode(&id, &record);
            let _ = decode_outbox(&id, &record);
            let _ = decode_shard(1, &record);
            let _ = parse_expiring_key(&record);
        }

        #[test]
        fn an_expiring_key_sorts_by_time_and_reads_back(a: u64, b: u64, id in "[a-z]{1,8}") {
            let id = ObjectId::parse(&id).unwrap();
            let key = |at| expiring_key(UnixSecs(at), &id);
            prop_assert_eq!(a.cmp(&b), key(a).cmp(&key(b)));
            prop_assert_eq!(parse_expiring_key(&key(a)), Some((UnixSecs(a), id.clone())));
        }
    }

    /// The layout is fixed for ever: these vectors may be added to, not changed.
    #[test]
    fn the_layout_of_format_2_is_fixed() {
        let id = ObjectId::parse("a").unwrap();
        let version = Version { time: 7, node: 8 };
        let mut record = RegisterRecord {
            promised: ballot((1, 2, 3)),
            accepted: ballot((4, 5, 6)),
            held: RecordedValue::Live { version, expires_at: Some(UnixSecs(9)) },
            past: Past::default(),
        };
        let numbers = |numbers: &[u64]| -> Vec<u8> {
            numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
        };
        let expected = [&[1, 1][..], &numbers(&[1, 2, 3, 4, 5, 6, 7, 8, 9])].concat();
        assert_eq!(record.encode().unwrap(), expected);
        record.held = RecordedValue::Tombstone { version };
        let expected = [&[1, 2][..], &numbers(&[1, 2, 3, 4, 5, 6, 7, 8])].concat();
        assert_eq!(record.encode().unwrap(), expected);
        record.held = RecordedValue::Absent;
        assert_eq!(record.encode().unwrap(), [&[1, 0][..], &numbers(&[1, 2, 3, 4, 5, 6])].concat());
        record.past = Past::begin(3, ballot((3, 200, 5)));
        let expected = [&[1, 0x80][..], &numbers(&[1, 2, 3, 4, 5, 6]), &[3, 200, 1, 5, 0, 0]];
        assert_eq!(record.encode().unwrap(), expected.concat());
        assert_eq!(register_key(&id), [5, shard_of(&id), b'a']);
        assert_eq!(outbox_key(&id), b"\x07a");
        assert_eq!(expiring_key(UnixSecs(258), &id), b"\x08\0\0\0\0\0\0\x01\x02a");
        let entry = encode_outbox(&Value::Tombstone(Tombstone { version })).unwrap();
        assert_eq!(entry, [&[1, 2][..], &numbers(&[7, 8])].concat());
        assert_eq!(encode_outbox(&Value::Absent), None);
    }
}
