//! Rounds on the group's objects, for whoever wants some run beside what clients ask for.

use futures::future::BoxFuture;

use nomad_core::{
    model::{
        object::{ObjectId, Version},
        time::MonotonicUs,
        trace::TraceContext,
    },
    register::{RegisterOrder, RegisterOutcome},
};

/// Runs rounds.
pub trait Rounds: Send + Sync + 'static {
    /// Carries an order out at this node, and says how it ended. Given up at `deadline`: the end of what had begun by then is
    /// [`RegisterOutcome::Unknown`].
    fn run(
        &self,
        id: ObjectId,
        order: RegisterOrder,
        trace: TraceContext,
        deadline: MonotonicUs,
    ) -> BoxFuture<'static, RegisterOutcome>;

    /// Has this node promise, durably, to submit no fast write any more whose version is not above the returned one (rule
    /// 12). `None` = it does not promise anything now.
    fn watermark(&self) -> BoxFuture<'static, Option<Version>>;
}
