//! Repair: finds the replicas that lag behind, the objects that have expired and the tombstones that nobody needs, and has
//! rounds run on them.
//!
//! Quorums alone leave laggards (rule 12). So each member compares, now and then and soon after a change of the group, a digest
//! of the registers that it shares with each other member, and has a round write back what differs. Equal members exchange a
//! sum. The same pass over the registers finds tombstones, which go once every replica has them and every member has promised to submit
//! nothing older (rules 10 and 12).
//!
//! [`Sweeper`] decides; [`survey`] is what it looks at. All work is bounded: in rounds at a time, in bytes per second, in
//! what is remembered.

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
