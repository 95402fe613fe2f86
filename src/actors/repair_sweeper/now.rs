//! Repairs named objects because a caller wants it.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt as _, stream};
use thiserror::Error;

use nomad_core::{
    model::{object::ObjectId, time::MonotonicUs, trace::TraceContext},
    register::{RegisterOrder, RegisterOutcome},
};
use nomad_ports::{ObjectStore, Rounds};

/// How many of a caller's objects are repaired at a time.
const AT_A_TIME: usize = 16;

/// Why an object could not be repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RepairError {
    /// Not enough of its replicas answer.
    #[error("{answered} of the object's replicas answered, and {needed} are needed")]
    NoQuorum {
        /// How many did.
        answered: u32,
        /// How many are needed.
        needed: u32,
    },
    /// The repair was not finished in time.
    #[error("the repair was not finished in time; ask again")]
    Unknown,
    /// This node does not take part in its group's rounds yet.
    #[error("this node does not take part in its group's rounds yet; ask again in a moment")]
    NotReady,
    /// The node has too much in hand.
    #[error("the node has too many rounds in hand; ask again in a moment")]
    Busy,
}

/// Repairs objects. `false` = there is one that no replica knows; the others are repaired all the same. A fast write of this
/// node that is still on its way to the replicas goes there first.
///
/// # Errors
/// When one of them could not be repaired.
pub(super) async fn repair(
    (rounds, store): (Arc<dyn Rounds>, Arc<dyn ObjectStore>),
    ids: Vec<ObjectId>,
    trace: TraceContext,
    deadline: MonotonicUs,
) -> Result<bool, RepairError> {
    let ids: BTreeSet<_> = ids.into_iter().collect();
    let each = stream::iter(ids).map(|id| {
        let (rounds, store) = (Arc::clone(&rounds), Arc::clone(&store));
        async move { repair_one((&*rounds, &*store), id, trace, deadline).await }
    });
    let mut ends = each.buffer_unordered(AT_A_TIME);
    let mut all = Ok(true);
    while let Some(end) = ends.next().await {
        all = match (all, end) {
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(so_far), Ok(this)) => Ok(so_far && this),
        };
    }
    all
}

async fn repair_one(
    (rounds, store): (&dyn Rounds, &dyn ObjectStore),
    id: ObjectId,
    trace: TraceContext,
    deadline: MonotonicUs,
) -> Result<bool, RepairError> {
    if let Ok(Some(value)) = store.outbox_entry(&id) {
        let merged = rounds.run(id.clone(), RegisterOrder::Merge(value), trace, deadline).await;
        if merged != RegisterOutcome::Done {
            return Err(RepairError::from(&merged));
        }
    }
    match rounds.run(id.clone(), RegisterOrder::Read, trace, deadline).await {
        RegisterOutcome::Read(None) => return Ok(false),
        RegisterOutcome::Read(Some(_)) => {}
        other => return Err(RepairError::from(&other)),
    }
    match rounds.run(id, RegisterOrder::Repair, trace, deadline).await {
        RegisterOutcome::Done => Ok(true),
        other => Err(RepairError::from(&other)),
    }
}
