//! The one timer of an actor whose core says when it wants to be woken next.

use std::time::Duration;

use tokio::task::AbortHandle;

use super::shell::{ActorMessage, Context, Handling};
use nomad_core::model::time::MonotonicUs;

/// A timer that rings once, and can be set to another time. It ends with its actor.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<(MonotonicUs, AbortHandle)>);

impl Alarm {
    /// Sets it to ring at `due`, or not at all: the actor then gets `message`, as the start of a new request.
    pub fn set<M: ActorMessage>(
        &mut self,
        cx: &Handling<'_, M>,
        due: Option<MonotonicUs>,
        message: impl FnOnce() -> M,
    ) {
        if self.0.as_ref().map(|(at, _)| *at) == due {
            return;
        }
        self.rang();
        let Some(due) = due else { return };
        let pause = Duration::from_micros(due.since(cx.kit.clock.monotonic()));
        let (me, trace, message) = (cx.me.clone(), cx.kit.recorder.new_trace(), message());
        let ring = async move {
            tokio::time::sleep(pause).await;
            me.tell(me.name(), Context { trace, deadline: None }, message);
        };
        self.0 = Some((due, tokio::spawn(ring).abort_handle()));
    }

    /// Forgets the time that it was set to, because it has come.
    pub fn rang(&mut self) {
        if let Some((_, timer)) = self.0.take() {
            timer.abort();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.rang();
    }
}
