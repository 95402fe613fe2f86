//! The messages between members about who holds what. Each speaks of itself only; a digest shows what was lost.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{HeldObject, Inventory, LedgerPage};
use crate::{
    model::{node_id::NodeId, object::ObjectId},
    register::Value,
    repair::digest::{BucketSet, Sum},
};

/// The most changes of one notice, entries of one page and objects of one inventory.
pub const LIMIT_ENTRIES: usize = 1_000;

/// A change of what a member holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LedgerChange {
    /// It holds an object at this version from now on.
    Held(HeldObject),
    /// It holds an object no more.
    Dropped(ObjectId),
}

impl LedgerChange {
    /// Says what a member holds of an object once its register has this value; `None` = the register is gone.
    pub fn of(id: &ObjectId, value: Option<&Value>) -> Self {
        match value {
            Some(Value::Live(object)) => {
                let (version, expires_at) = (object.version, object.expires_at);
                Self::Held(HeldObject { id: id.clone(), version, expires_at })
            }
            _ => Self::Dropped(id.clone()),
        }
    }

    /// Returns the object.
    pub fn id(&self) -> &ObjectId {
        match self {
            Self::Held(held) => &held.id,
            Self::Dropped(id) => id,
        }
    }
}

/// A notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// What has changed at the sender, oldest first.
    Changed {
        /// The group.
        group: String,
        /// Names the run of the sender's ledger.
        life: u64,
        /// The number of the notice in that run; one without its predecessor says that something was lost.
        seq: u64,
        /// The changes, at most [`LIMIT_ENTRIES`].
        changes: Vec<LedgerChange>,
    },
    /// The super-peer was told that a member that does not answer holds nothing any more.
    Forget {
        /// The group.
        group: String,
        /// The member.
        member: NodeId,
    },
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
pub enum LedgerRequest {
    /// The sum of all that the member holds.
    Root {
        /// The group.
        group: String,
    },
    /// The sums of its buckets.
    Buckets {
        /// The group.
        group: String,
    },
    /// What it holds in these buckets.
    Inventory {
        /// The group.
        group: String,
        /// The buckets.
        buckets: BucketSet,
        /// The object behind which to go on.
        after: Option<ObjectId>,
    },
    /// Whether the member holds an object.
    Holds {
        /// The group.
        group: String,
        /// The object.
        id: ObjectId,
    },
    /// A part of the whole ledger, of a super-peer.
    Pages {
        /// The group.
        group: String,
        /// Behind which id to go on.
        after: Option<String>,
        /// The most holders.
        limit: u32,
    },
    /// Enter that a member holds an object, at a super-peer.
    Refer {
        /// The group.
        group: String,
        /// The object.
        id: ObjectId,
        /// The member.
        member: NodeId,
    },
    /// Forget all that a member holds, at the super-peer.
    Forget {
        /// The group.
        group: String,
        /// The member.
        member: NodeId,
    },
}

impl LedgerRequest {
    /// Returns the group that it is about.
    pub fn group(&self) -> &str {
        match self {
            Self::Root { group }
            | Self::Buckets { group }
            | Self::Inventory { group, .. }
            | Self::Holds { group, .. }
            | Self::Pages { group, .. }
            | Self::Refer { group, .. }
            | Self::Forget { group, .. } => group,
        }
    }

    /// Names its kind.
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LedgerAnswer {
    /// The sum of all, as it was after this notice.
    Root {
        /// The run of the sender's ledger.
        life: u64,
        /// The last notice of it.
        seq: u64,
        /// The sum.
        root: Sum,
    },
    /// The sums of the buckets, as they were after this notice.
    Buckets {
        /// The run of the sender's ledger.
        life: u64,
        /// The last notice of it.
        seq: u64,
        /// The sums, in order.
        buckets: Vec<Sum>,
    },
    /// A part of what the member holds.
    Inventory(Inventory),
    /// What the member holds of an object.
    Holds(Option<HeldObject>),
    /// A part of the ledger.
    Page(LedgerPage),
    /// Whether something was changed. Not if it was so already, or if the member is not known.
    Done(bool),
    /// The member does not hold the object.
    NotHeld,
    /// The member is alive, and stays.
    Alive,
    /// The member does not know yet what it holds. Ask again in a moment.
    NotYet,
    /// The receiver is in another group, knows the sender not as a member, or keeps no ledger.
    Elsewhere,
}
