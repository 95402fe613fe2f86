//! Repair: finds replicas that lag behind, objects that have expired, and tombstones that can be removed, and starts rounds for
//! them.
//!
//! Quorums alone leave laggards (rule 12). So each member compares a digest of its registers with each other member: now and
//! then, and soon after a change of the group. A round writes back what differs. If two members are equal, they exchange only a
//! sum. The same pass over the registers finds tombstones. A tombstone is removed once every replica has it and every member has
//! promised to submit nothing older (rules 10 and 12).
//!
//! [`Sweeper`] decides; [`survey`] reads the registers for it. All work is limited: the rounds at a time, the bytes per second,
//! and the memory.

mod burying;
mod comparing;
pub mod digest;
mod message;
mod running;
pub mod survey;
mod sweeper;

pub use burying::OUTLIVED_MAX;
pub use message::{
    HEADS_MAX, PART_MAX, RegisterCursor, RepairAnswer, RepairRequest, ReplicaHead, SharedPart,
    SharedRegister,
};
pub use running::RepairStatus;
pub use survey::{Burial, Scope, Survey, SurveyHead, walk};
pub use sweeper::{Expired, RepairEffect, RepairEvent, RepairOptions, Sweeper};

use crate::machine::{NoAnswer, Now, Ticket};
