//! Repairs named objects because a caller wants it.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt as _, stream};

use nomad_core::{
    group::replication::NotDone,
    model::{object::ObjectId, time::MonotonicUs, trace::TraceContext},
    register::RegisterOrder,
};
use nomad_ports::{ObjectStore, Rounds};

/// How many of a caller's objects are repaired at a time.
const AT_A_TIME: usize = 16;

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
) -> Result<bool, NotDone> {
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
) -> Result<bool, NotDone> {
    if let Ok(Some(value)) = store.outbox_entry(&id) {
        rounds.run(id.clone(), RegisterOrder::Merge(value), trace, deadline).await.done()?;
    }
    if rounds.run(id.clone(), RegisterOrder::Read, trace, deadline).await.read()?.is_none() {
        return Ok(false);
    }
    rounds.run(id, RegisterOrder::Repair, trace, deadline).await.done()?;
    Ok(true)
}
