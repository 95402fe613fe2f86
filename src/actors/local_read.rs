//! What this node has of an object of its group, at once: fast writes that wait here, then its replica.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    core::{
        object::{Object, ObjectId, Tier, Version},
        register::{Tombstone, Value},
        time::UnixSecs,
    },
    ports::{ObjectStore, object_store::StoreError},
};

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
        let bytes = postcard::to_extend(self, vec![VERSION]);
        bytes.map(Bytes::from).map_err(|error| error.to_string())
    }

    /// Decodes what another member says it has of `id`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(id: &ObjectId, bytes: &[u8]) -> Result<Self, String> {
        let Some((&VERSION, rest)) = bytes.split_first() else {
            return Err("the answer has another encoding".into());
        };
        let fetched: Self = postcard::from_bytes(rest).map_err(|error| error.to_string())?;
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
