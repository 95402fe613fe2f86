//! What repair reads from the store. All of it may wait, and is called on threads that may.

use std::collections::BTreeSet;

use nomad_core::{
    machine::NoAnswer,
    model::{node_id::NodeId, object::ObjectId, time::UnixSecs},
    register::Value,
    repair::{
        self, Expired, RegisterCursor, ReplicaHead, Scope, SharedPart, Survey, SurveyHead,
        digest::BucketSet,
    },
};
use nomad_ports::{
    ObjectStore,
    object_store::{RegisterHead, StoreError},
};

fn failed(error: &StoreError) -> NoAnswer {
    tracing::debug!(%error, "repair cannot read the store; it tries again");
    NoAnswer
}

/// Reads registers. One that does not read back is as if it were not here: then the others have something to repair.
fn heads_of(
    store: &dyn ObjectStore,
    shard: u8,
    after: Option<&ObjectId>,
    limit: usize,
) -> Result<Vec<SurveyHead>, NoAnswer> {
    let heads = store.registers(shard, after, limit).map_err(|error| failed(&error))?;
    let head = |head: RegisterHead| {
        let RegisterHead { id, accepted, version, is_live, is_damaged, .. } = head;
        let is_live = is_live || is_damaged;
        SurveyHead { id, accepted, version: version.filter(|_| !is_damaged), is_live }
    };
    Ok(heads.into_iter().map(head).collect())
}

/// Passes over all registers.
pub(super) fn survey(
    store: &dyn ObjectStore,
    scope: &Scope,
    alive: &BTreeSet<NodeId>,
) -> Result<Survey, NoAnswer> {
    Survey::take(scope, alive, |shard, after, limit| heads_of(store, shard, after, limit))
}

/// Reads a part of what this node and another one share.
pub(super) fn walk(
    store: &dyn ObjectStore,
    scope: &Scope,
    other: NodeId,
    buckets: &BucketSet,
    from: &RegisterCursor,
) -> Result<SharedPart, NoAnswer> {
    let read = |shard, after: Option<&ObjectId>, limit| heads_of(store, shard, after, limit);
    repair::walk(scope, other, buckets, from, read)
}

/// Looks at some registers.
pub(super) fn heads(
    store: &dyn ObjectStore,
    ids: &[ObjectId],
) -> Result<Vec<Option<ReplicaHead>>, NoAnswer> {
    let seen = |id: &ObjectId| match store.register(id) {
        Ok(register) => Ok(register.and_then(|register| {
            let value_bytes = register.value.len_bytes() as u64;
            let head = ReplicaHead { accepted: register.accepted, value_bytes };
            (register.value != Value::Absent).then_some(head)
        })),
        Err(StoreError::Damaged { .. }) => Ok(None),
        Err(error) => Err(failed(&error)),
    };
    ids.iter().map(seen).collect()
}

/// Lists objects that have expired, oldest first.
pub(super) fn outlived(
    store: &dyn ObjectStore,
    now: UnixSecs,
    after: Option<&Expired>,
    limit: usize,
) -> Result<Vec<Expired>, NoAnswer> {
    store.expired(now, after, limit).map_err(|error| failed(&error))
}
