//! The on-disk format: keys with a tag byte per kind of record, values with a format version byte.
//!
//! ```text
//! 01 name                        -> a fact about the store: "format", "clock", "loose"
//! 02 id | 03 id                  -> an object of the group tier | of the overlay tier
//! 04 expires_at(be) tier id      -> nothing: the expiry index, sorted by time, of objects without a register
//! 05 shard id                    -> a register, but for its object      } see `records`
//! 06 shard                       -> a shard's state                     }
//! 07 id                          -> an entry of the outbox              }
//! 08 expires_at(be) id           -> a version: the expiry index of objects with a register
//! ```
//!
//! Format 1 had the first three rows only. It had no "loose" (whether objects without a register may be there), and "clock" was only a version.

use std::sync::Arc;

use bytes::Bytes;

use nomad_core::model::{
    object::{Object, ObjectId, Tier, Version},
    time::{UnixMs, UnixSecs},
};
use nomad_ports::object_store::StoreError;

/// The format of the directory that this program writes, and the oldest that it reads.
pub const FORMAT: u8 = 2;
pub const FORMAT_MIN: u8 = 1;
/// The format of an object's record.
const OBJECT_FORMAT: u8 = 1;

pub const KEY_FORMAT: &[u8] = b"\x01format";
/// The greatest version known, and the latest time seen.
pub const KEY_CLOCK: &[u8] = b"\x01clock";
/// Is there while there may be objects of the group tier without a register.
pub const KEY_LOOSE: &[u8] = b"\x01loose";
pub const TAG_EXPIRY: u8 = 4;

const HEADER_BYTES: usize = 1 + 5 * 8 + 2;

pub fn tier_tag(tier: Tier) -> u8 {
    match tier {
        Tier::Group => 2,
        Tier::Overlay => 3,
    }
}

pub fn object_key(tier: Tier, id: &str) -> Vec<u8> {
    [&[tier_tag(tier)][..], id.as_bytes()].concat()
}

pub fn expiry_key(at: UnixSecs, tier: Tier, id: &str) -> Vec<u8> {
    [&[TAG_EXPIRY][..], &at.0.to_be_bytes(), &[tier_tag(tier)], id.as_bytes()].concat()
}

/// Reads an expiry key back: when, which tier, which object.
pub fn parse_expiry_key(key: &[u8]) -> Option<(UnixSecs, Tier, ObjectId)> {
    let (&tag, rest) = key.split_first()?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (&tier, id) = rest.split_first()?;
    let tier = match tier {
        2 => Tier::Group,
        3 => Tier::Overlay,
        _ => return None,
    };
    if tag != TAG_EXPIRY {
        return None;
    }
    Some((UnixSecs(u64::from_be_bytes(*at)), tier, ObjectId::parse_bytes(id).ok()?))
}

pub fn encode_version(version: Version) -> [u8; 16] {
    (u128::from(version.time) << 64 | u128::from(version.node)).to_be_bytes()
}

pub fn decode_version(bytes: &[u8]) -> Option<Version> {
    let number = u128::from_be_bytes(bytes.try_into().ok()?);
    Some(Version { time: (number >> 64) as u64, node: number as u64 })
}

/// Writes the greatest version known and the latest time seen.
pub fn encode_clock(version: Version, latest: UnixMs) -> Vec<u8> {
    [&encode_version(version)[..], &latest.0.to_be_bytes()[..]].concat()
}

/// Reads a clock back. Format 1 has only the version, which then was always this node's own.
pub fn decode_clock(bytes: &[u8]) -> Option<(Version, UnixMs)> {
    let (version, latest) = bytes.split_first_chunk::<16>()?;
    let version = decode_version(version)?;
    let latest = match latest {
        [] => version.time >> 16,
        latest => u64::from_be_bytes(latest.try_into().ok()?),
    };
    Some((version, UnixMs(latest)))
}

pub fn encode_object(object: &Object) -> Vec<u8> {
    let content_type = object.content_type.as_deref().unwrap_or_default().as_bytes();
    // invariant: the edges take no content type longer than 255 bytes; a longer one would be cut, not misread.
    let content_type = content_type.get(..usize::from(u16::MAX)).unwrap_or(content_type);
    let mut out = Vec::with_capacity(HEADER_BYTES + content_type.len() + object.value.len());
    out.push(OBJECT_FORMAT);
    out.extend_from_slice(&encode_version(object.version));
    for time in [object.creation_time, object.expires_at.unwrap_or_default(), object.last_modified]
    {
        out.extend_from_slice(&time.0.to_be_bytes());
    }
    out.extend_from_slice(&(content_type.len() as u16).to_be_bytes());
    out.extend_from_slice(content_type);
    out.extend_from_slice(&object.value);
    out
}

/// Reads an object back. The value shares the memory of `record`.
///
/// # Errors
/// Names the object and what is wrong with its record.
pub fn decode_object(id: &ObjectId, record: Bytes) -> Result<Object, StoreError> {
    let damaged = |reason: &str| StoreError::Damaged { id: id.to_string(), reason: reason.into() };
    match record.first() {
        Some(&OBJECT_FORMAT) => {}
        Some(other) => return Err(damaged(&format!("unknown record format {other}"))),
        None => return Err(damaged("empty record")),
    }
    let header: &[u8; HEADER_BYTES] =
        record.first_chunk().ok_or_else(|| damaged("shorter than its header"))?;
    let mut numbers = header
        .get(1..HEADER_BYTES - 2)
        .unwrap_or_default()
        .chunks_exact(8)
        .map(|chunk| chunk.iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte)));
    let mut next = || numbers.next().unwrap_or_default();
    let version = Version { time: next(), node: next() };
    let (creation_time, expires_at, last_modified) =
        (UnixSecs(next()), UnixSecs(next()), UnixSecs(next()));
    let type_len =
        header.last_chunk::<2>().map_or(0, |&bytes| usize::from(u16::from_be_bytes(bytes)));
    let value_at = HEADER_BYTES + type_len;
    let content_type = record
        .get(HEADER_BYTES..value_at)
        .ok_or_else(|| damaged("shorter than its content type"))?;
    let content_type =
        std::str::from_utf8(content_type).map_err(|_| damaged("content type is not UTF-8"))?;
    let content_type: Option<Arc<str>> =
        (!content_type.is_empty()).then(|| Arc::from(content_type));
    Ok(Object {
        id: id.clone(),
        value: record.slice(value_at..),
        creation_time,
        expires_at: (expires_at.0 != 0).then_some(expires_at),
        last_modified,
        version,
        content_type,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_object_reads_back(
            id in "[a-z/ü]{1,20}", value: Vec<u8>, times: (u64, u64, u64), version: (u64, u64),
            content_type in proptest::option::of("[a-z]{1,10}/[a-z]{1,10}"),
        ) {
            let object = Object {
                id: ObjectId::parse(&id).unwrap(),
                value: value.into(),
                creation_time: UnixSecs(times.0),
                expires_at: (times.1 != 0).then_some(UnixSecs(times.1)),
                last_modified: UnixSecs(times.2),
                version: Version { time: version.0, node: version.1 },
                content_type: content_type.map(Arc::from),
            };
            let record = Bytes::from(encode_object(&object));
            prop_assert_eq!(decode_object(&object.id, record), Ok(object));
        }

        #[test]
        fn no_record_panics(record: Vec<u8>) {
            let id = ObjectId::parse("x").unwrap();
            let _ = decode_object(&id, record.into());
        }

        #[test]
        fn expiry_keys_sort_by_time_and_read_back(a: u64, b: u64, id in "[a-z]{1,8}") {
            let id = ObjectId::parse(&id).unwrap();
            let key = |at| expiry_key(UnixSecs(at), Tier::Overlay, id.as_str());
            prop_assert_eq!(a.cmp(&b), key(a).cmp(&key(b)));
            prop_assert_eq!(parse_expiry_key(&key(a)), Some((UnixSecs(a), Tier::Overlay, id)));
        }
    }

    #[test]
    fn a_clock_reads_back_also_that_of_format_1() {
        let version = Version { time: 7 << 16, node: 5 };
        assert_eq!(decode_clock(&encode_clock(version, UnixMs(9))), Some((version, UnixMs(9))));
        assert_eq!(decode_clock(&encode_version(version)), Some((version, UnixMs(7))));
        for len in (0..24).filter(|&len| len != 16) {
            assert_eq!(decode_clock(&encode_clock(version, UnixMs(9))[..len]), None, "{len}");
        }
    }

    /// The layout is fixed for ever: this vector may be added to, not changed.
    #[test]
    fn the_layout_of_format_1_is_fixed() {
        let object = Object {
            id: ObjectId::parse("a").unwrap(),
            value: Bytes::from_static(b"v"),
            creation_time: UnixSecs(1),
            expires_at: Some(UnixSecs(2)),
            last_modified: UnixSecs(3),
            version: Version { time: 4, node: 5 },
            content_type: Some("t/p".into()),
        };
        let expected =
            b"\x01\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\
            \0\0\0\0\0\0\0\x03\0\x03t/pv";
        assert_eq!(encode_object(&object), expected);
        assert_eq!(expiry_key(UnixSecs(258), Tier::Group, "a"), b"\x04\0\0\0\0\0\0\x01\x02\x02a");
    }
}
