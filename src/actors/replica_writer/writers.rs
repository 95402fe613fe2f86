//! The way to the workers: every object has one, by its shard.

use std::{sync::Arc, time::Duration};

use super::ReplicaWriterMsg;
use crate::{
    outbox::{Drain, PendingMerge},
    shell::{Address, AskError, Context},
};
use nomad_core::{
    model::object::ObjectId,
    outbox::MergeEnd,
    register::{RegisterOrder, RegisterOutcome, Value, shard_of},
};
use nomad_ports::Clock;

/// How long a round may take before its request is given up: a replica set without a quorum is said to be one soon.
const ROUND_LIMIT: Duration = Duration::from_millis(1_900);

/// The workers of all shards. Cheap to clone.
#[derive(Clone)]
pub struct Writers {
    workers: Arc<[Address<ReplicaWriterMsg>]>,
    clock: Arc<dyn Clock>,
}

impl Writers {
    /// Takes the workers in the order of their shards.
    pub fn new(workers: Vec<Address<ReplicaWriterMsg>>, clock: Arc<dyn Clock>) -> Self {
        Self { workers: workers.into(), clock }
    }

    /// Returns the worker of an object.
    pub fn of(&self, id: &ObjectId) -> &Address<ReplicaWriterMsg> {
        let shard = usize::from(shard_of(id));
        self.workers.get(shard).unwrap_or_else(|| unreachable!("there is a worker for each shard"))
    }

    /// Has the object's worker carry an order out, and waits for its end.
    ///
    /// # Errors
    /// When the worker is down, or the request's own deadline passes first.
    pub async fn run(
        &self,
        from: &Arc<str>,
        cx: Context,
        id: &ObjectId,
        order: RegisterOrder,
    ) -> Result<RegisterOutcome, AskError> {
        let latest = self.clock.monotonic().plus_us(ROUND_LIMIT.as_micros() as u64);
        let round = cx.deadline.map_or(latest, |deadline| deadline.min(latest));
        let make = |reply| ReplicaWriterMsg::Begin { id: id.clone(), order, round, reply };
        self.of(id).ask(from, cx, make).await
    }

    /// The same for whoever has nobody to tell of an actor.
    pub async fn outcome(
        &self,
        from: &Arc<str>,
        cx: Context,
        id: &ObjectId,
        order: RegisterOrder,
    ) -> RegisterOutcome {
        match self.run(from, cx, id, order).await {
            Ok(ended) => ended,
            // The worker is being started again: nothing was done.
            Err(AskError::Gone { .. }) => RegisterOutcome::Busy,
            Err(AskError::DeadlinePassed { .. }) => RegisterOutcome::Unknown,
        }
    }
}

impl Drain for Writers {
    fn merge(&self, cx: Context, id: ObjectId, value: Value, ended: PendingMerge) {
        let writers = self.clone();
        tokio::spawn(async move {
            let end = writers.outcome(&"outbox".into(), cx, &id, RegisterOrder::Merge(value)).await;
            ended.end(MergeEnd::from(end));
        });
    }
}
