//! What this node has of an object of its group, at once: fast writes that wait here, then its replica.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use nomad_core::{
    listing::{Known, LISTED_MAX, ListingQuery, QueuedWrites},
    model::{
        object::{Object, ObjectId, Tier, Version},
        time::UnixSecs,
    },
    register::{Tombstone, Value},
};
use nomad_ports::{ObjectStore, object_store::StoreError};

/// The version of the encoding.
const VERSION: u8 = 1;

/// What a node has of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fetched {
    /// The object.
    Live(Object),
    /// It is known to be deleted or expired.
    Gone(Version),
    /// Nothing is known of it.
    Nothing,
}

impl Fetched {
    /// Returns its version; `None` = nothing is known.
    pub fn version(&self) -> Option<Version> {
        match self {
            Self::Live(object) => Some(object.version),
            Self::Gone(version) => Some(*version),
            Self::Nothing => None,
        }
    }

    /// Returns the newer of the two.
    pub fn newer(self, other: Self) -> Self {
        if other.version() > self.version() { other } else { self }
    }

    /// Returns it as a value.
    pub fn into_value(self) -> Value {
        match self {
            Self::Live(object) => Value::Live(object),
            Self::Gone(version) => Value::Tombstone(Tombstone { version }),
            Self::Nothing => Value::Absent,
        }
    }

    /// Encodes it for another member.
    ///
    /// # Errors
    /// When it cannot be written, which is a defect of its type.
    pub fn encode(&self) -> Result<Bytes, String> {
        codec::encode(VERSION, self)
    }

    /// Decodes what another member says it has of `id`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(id: &ObjectId, bytes: &[u8]) -> Result<Self, String> {
        let fetched: Self = codec::decode(VERSION, bytes)?;
        match &fetched {
            Self::Live(object) if object.id != *id => Err(format!("it is about {}", object.id)),
            _ => Ok(fetched),
        }
    }
}

/// Looks up an object.
///
/// # Errors
/// When the store cannot read.
pub fn find(store: &dyn ObjectStore, id: &ObjectId, now: UnixSecs) -> Result<Fetched, StoreError> {
    let queued = store.outbox_entry(id)?;
    if queued.is_none()
        && let Some(object) = store.get(Tier::Group, id, now)?
    {
        return Ok(Fetched::Live(object));
    }
    let kept = store.register(id)?.map(|register| register.value).unwrap_or_default();
    let newest = queued.filter(|queued| queued.version() > kept.version()).unwrap_or(kept);
    Ok(match newest {
        Value::Live(object) if !object.is_expired(now) => Fetched::Live(object),
        value => value.version().map_or(Fetched::Nothing, Fetched::Gone),
    })
}

/// Tells what this node knows of objects, in their order.
///
/// # Errors
/// When the store cannot read.
pub fn look(
    store: &dyn ObjectStore,
    ids: &[ObjectId],
    now: UnixSecs,
) -> Result<Vec<Known>, StoreError> {
    let known = |id| {
        Ok(match find(store, id, now)? {
            Fetched::Live(object) => Known::Live(object.meta()),
            Fetched::Gone(version) => Known::Gone(version),
            Fetched::Nothing => Known::Nothing,
        })
    };
    ids.iter().map(known).collect()
}

/// Returns the fast writes of a part of a listing that wait here.
///
/// # Errors
/// When the store cannot read.
pub fn queued(
    store: &dyn ObjectStore,
    wanted: &ListingQuery,
    now: UnixSecs,
) -> Result<QueuedWrites, StoreError> {
    let mut queued = QueuedWrites::default();
    let first = ObjectId::parse(&wanted.prefix).ok().filter(|id| wanted.covers(id));
    if let Some(id) = first
        && let Some(value) = store.outbox_entry(&id)?
    {
        queued.entries.push((id, Known::of(&value, now)));
    }
    // What is wanted lies behind both of these, apart from the prefix itself.
    let mut behind = [Some(wanted.prefix.as_str()), wanted.after.as_deref()]
        .into_iter()
        .flatten()
        .filter_map(longest_id)
        .max();
    loop {
        let page = store.outbox(behind.as_ref(), LISTED_MAX)?;
        let Some((last, _)) = page.last() else { return Ok(queued) };
        behind = Some(last.clone());
        for (id, value) in page {
            if queued.entries.len() >= wanted.limit {
                queued.next = queued.entries.last().map(|(id, _)| id.clone());
                return Ok(queued);
            }
            if wanted.covers(&id) {
                queued.entries.push((id, Known::of(&value, now)));
            } else if id.as_str() > wanted.prefix.as_str()
                && !id.as_str().starts_with(&wanted.prefix)
            {
                return Ok(queued);
            }
        }
    }
}

/// Returns the longest leading part of a text that is an id, if there is one. Every id behind the text is behind it too.
fn longest_id(text: &str) -> Option<ObjectId> {
    let text = text.split(char::is_control).next().unwrap_or_default();
    let end = text.floor_char_boundary(ObjectId::BYTES_MAX);
    ObjectId::parse(text.get(..end)?).ok()
}
