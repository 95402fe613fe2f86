//! Sweeps expired objects off the disk, a bounded batch at a time. They are absent before it comes; it makes room.

use std::time::Duration;

use super::{
    local_store::LocalStoreMsg,
    recorder::Outcome,
    shell::{Address, Handling, Message, Role},
};
use crate::ports::object_store::{StoreError, Swept};

/// The most objects that one batch removes, so that writes wait little behind it.
const BATCH_MAX: usize = 500;

// ---- messages ----

/// What the sweep hears.
#[derive(Debug)]
pub enum ExpiryMsg {
    /// Timer of the incarnation that has this number: sweep now.
    Tick(u64),
    /// Tell: a batch has been removed.
    Swept(Result<Swept, StoreError>),
}

impl Message for ExpiryMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Tick(_) => "Tick",
            Self::Swept(_) => "Swept",
        }
    }
}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct Args {
    /// The store's writer.
    pub store: Address<LocalStoreMsg>,
    /// How often to sweep.
    pub interval: Duration,
}

// ---- state ----

/// The actor.
pub struct Expiry {
    args: Args,
    /// Tells the timers of this incarnation from those of one that failed.
    incarnation: u64,
}

impl Expiry {
    fn sweep(&self, cx: &Handling<'_, ExpiryMsg>) {
        // A sweep that is lost with a killed writer is made up for by the next tick.
        let message = LocalStoreMsg::Sweep { limit: BATCH_MAX, to: cx.me.clone() };
        cx.tell(&self.args.store, message);
    }
}

// ---- handler ----

impl Role for Expiry {
    type Msg = ExpiryMsg;
    type Args = Args;

    fn start(args: &Args, me: &Handling<'_, ExpiryMsg>) -> Result<Self, String> {
        let incarnation = me.kit.entropy.next_u64();
        me.tick_after(args.interval, ExpiryMsg::Tick(incarnation));
        Ok(Self { args: args.clone(), incarnation })
    }

    fn handle(
        &mut self,
        cx: &Handling<'_, ExpiryMsg>,
        message: ExpiryMsg,
    ) -> Result<Outcome, String> {
        match message {
            ExpiryMsg::Tick(of) if of != self.incarnation => {
                Ok(Outcome::Dropped("a timer of an earlier incarnation"))
            }
            ExpiryMsg::Tick(_) => {
                cx.tick_after(self.args.interval, ExpiryMsg::Tick(self.incarnation));
                self.sweep(cx);
                Ok(Outcome::Done("sweep asked for"))
            }
            ExpiryMsg::Swept(Ok(Swept { removed, more })) => {
                if removed > 0 {
                    tracing::debug!(removed, "expired objects were removed");
                }
                if more {
                    self.sweep(cx);
                }
                Ok(Outcome::Done(if more { "more to sweep" } else { "swept" }))
            }
            ExpiryMsg::Swept(Err(error)) => Ok(Outcome::Failed(error.to_string().into())),
        }
    }
}
