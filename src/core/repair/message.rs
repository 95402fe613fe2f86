//! The messages with which members find out which of their replicas differ. Numbers and ids only: values are sent by rounds alone.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::{
    model::object::{ObjectId, Version},
    register::{Ballot, shard_of},
    repair::digest::{BucketSet, Sum},
};

/// The most registers of one part.
pub const PART_MAX: usize = 1_000;
/// The most registers that are looked at one by one at a time.
pub const HEADS_MAX: usize = 64;

/// A place in the order of all registers: by shard, then by id.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RegisterCursor {
    /// The shard.
    pub shard: u8,
    /// The last register that was passed; `None` = none of the shard.
    pub after: Option<ObjectId>,
}

impl RegisterCursor {
    /// Returns the place of a register.
    pub fn of(id: &ObjectId) -> Self {
        Self { shard: shard_of(id), after: Some(id.clone()) }
    }
}

/// A register that two members share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRegister {
    /// The object.
    pub id: ObjectId,
    /// Under which ballot its value was accepted.
    pub accepted: Ballot,
}

/// A part of the registers that two members share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedPart {
    /// The registers, in their order.
    pub registers: Vec<SharedRegister>,
    /// Where to go on; `None` = this was the last part. A part may be empty and not the last.
    pub next: Option<RegisterCursor>,
}

impl SharedPart {
    /// Checks what another node gave: in order, behind `from`, and going on.
    pub fn is_in_order(&self, from: &RegisterCursor) -> bool {
        let mut last = from.clone();
        for shared in &self.registers {
            let here = RegisterCursor::of(&shared.id);
            if here <= last {
                return false;
            }
            last = here;
        }
        let goes_on = |next: &RegisterCursor| *next >= last && next > from;
        self.registers.len() <= PART_MAX && self.next.as_ref().is_none_or(goes_on)
    }
}

/// What a member has of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaHead {
    /// Under which ballot its value was accepted.
    pub accepted: Ballot,
    /// The bytes of the value.
    pub value_bytes: u64,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
pub enum RepairRequest {
    /// Compare what both share.
    Compare {
        /// The group.
        group: String,
        /// The stable epoch whose replica sets are meant.
        epoch: u64,
        /// The asker's sum.
        root: Sum,
    },
    /// What both share in these buckets.
    Walk {
        /// The group.
        group: String,
        /// The epoch.
        epoch: u64,
        /// The buckets.
        buckets: BucketSet,
        /// Behind which place.
        from: RegisterCursor,
    },
    /// What the member has of these objects by now.
    Heads {
        /// The group.
        group: String,
        /// The epoch.
        epoch: u64,
        /// The objects, at most [`HEADS_MAX`].
        ids: Vec<ObjectId>,
    },
    /// Up to which version the member will never submit a fast write again (rule 12).
    Watermark {
        /// The group.
        group: String,
        /// The epoch.
        epoch: u64,
    },
}

impl RepairRequest {
    /// Returns the group and the epoch that it is about.
    pub fn about(&self) -> (&str, u64) {
        match self {
            Self::Compare { group, epoch, .. }
            | Self::Walk { group, epoch, .. }
            | Self::Heads { group, epoch, .. }
            | Self::Watermark { group, epoch } => (group, *epoch),
        }
    }

    /// Names its kind.
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepairAnswer {
    /// Both have the same.
    Equal,
    /// They differ. These are the sums of the buckets, in order.
    Buckets(Vec<Sum>),
    /// What is in the buckets.
    Part(SharedPart),
    /// What the member has, in the order of the question; `None` = nothing.
    Heads(Vec<Option<ReplicaHead>>),
    /// The version. Its promise is durable.
    Watermark(Version),
    /// The member is in another group or epoch, or in the middle of a change.
    Elsewhere,
    /// The member has too many requests, or cannot read its store. Ask again later.
    Later,
}
