//! Sweeps expired objects off the disk, a bounded batch at a time. They are absent before it comes; it makes room.

use std::time::Duration;

use strum::IntoStaticStr;

use super::{
    local_store::LocalStoreMsg,
    recorder::Outcome,
    shell::{ActorMessage, Address, Described, Handled, Handling, Worker},
};
use nomad_ports::object_store::{StoreError, Swept};

/// The most objects that one batch removes, so that writes wait little behind it.
const BATCH_MAX: usize = 500;

/// A sweep that has not answered by this tick is taken for lost.
const LOST_TICKS: u32 = 2;

// ---- messages ----

/// What the sweep hears.
#[derive(Debug, IntoStaticStr)]
pub enum ExpiryMsg {
    /// Timer of the incarnation that has this number: sweep now.
    Tick(u64),
    /// Tell: a batch has been removed.
    Swept(Result<Swept, StoreError>),
}

impl Described for ExpiryMsg {
    fn kind(&self) -> &'static str {
        self.into()
    }
}

impl ActorMessage for ExpiryMsg {}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct ExpiryArgs {
    /// The store's writer.
    pub store: Address<LocalStoreMsg>,
    /// How often to sweep.
    pub interval: Duration,
}

// ---- state ----

/// The actor.
pub struct ExpiryActor {
    args: ExpiryArgs,
    /// Tells the timers of this incarnation from those of one that failed.
    incarnation: u64,
    /// How many ticks have passed since the running sweep last had an answer; `None` = none is running.
    waiting_ticks: Option<u32>,
}

impl ExpiryActor {
    fn sweep(&mut self, cx: &Handling<'_, ExpiryMsg>) {
        self.waiting_ticks = Some(0);
        let message = LocalStoreMsg::Sweep { limit: BATCH_MAX, to: cx.me.clone() };
        cx.tell(&self.args.store, message);
    }
}

// ---- handler ----

impl Worker for ExpiryActor {
    type Msg = ExpiryMsg;
    type Args = ExpiryArgs;

    fn start(args: &ExpiryArgs, me: &Handling<'_, ExpiryMsg>) -> Result<Self, String> {
        let incarnation = me.kit.entropy.next_u64();
        me.tick_after(args.interval, ExpiryMsg::Tick(incarnation));
        Ok(Self { args: args.clone(), incarnation, waiting_ticks: None })
    }

    fn handle(&mut self, cx: &Handling<'_, Self::Msg>, message: Self::Msg) -> Handled {
        match message {
            ExpiryMsg::Tick(of) if of != self.incarnation => {
                Ok(Outcome::Dropped("a timer of an earlier incarnation"))
            }
            ExpiryMsg::Tick(_) => {
                cx.tick_after(self.args.interval, ExpiryMsg::Tick(self.incarnation));
                // A sweep whose answer is lost, with a killed writer, is forgotten in time.
                if let Some(ticks) = self.waiting_ticks.filter(|&ticks| ticks < LOST_TICKS - 1) {
                    self.waiting_ticks = Some(ticks + 1);
                    return Ok(Outcome::Done("the last sweep is still under way"));
                }
                self.sweep(cx);
                Ok(Outcome::Done("sweep asked for"))
            }
            ExpiryMsg::Swept(Ok(Swept { removed, more })) => {
                if removed > 0 {
                    tracing::debug!(removed, "expired objects were removed");
                }
                self.waiting_ticks = None;
                if more {
                    self.sweep(cx);
                }
                Ok(Outcome::Done(if more { "more to sweep" } else { "swept" }))
            }
            ExpiryMsg::Swept(Err(error)) => {
                self.waiting_ticks = None;
                Ok(Outcome::Failed(error.to_string().into()))
            }
        }
    }
}

// ---- tests ----

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{shell::worker, test_kit::Tree};
    use nomad_ports::ObjectStore as _;

    async fn tree() -> Tree {
        Tree::with(|kit, store| {
            let args = ExpiryArgs { store: store.clone(), interval: Duration::from_secs(60) };
            vec![worker::<ExpiryActor>(kit, "expiry", "storage", args).1]
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn expired_objects_leave_the_store_in_bounded_batches() {
        let tree = tree().await;
        for index in 0..BATCH_MAX * 2 + 1 {
            tree.put(&format!("k{index}"), Some(30)).await.unwrap().unwrap().unwrap();
        }
        tree.put("kept", None).await.unwrap().unwrap().unwrap();
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert_eq!(tree.store.counts().swept, 0);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(tree.store.counts().swept, BATCH_MAX as u64 * 2 + 1);
        tree.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn killed_under_load_it_sweeps_on_and_its_timers_do_not_multiply() {
        let tree = tree().await;
        for round in 0..4 {
            tree.put(&format!("k{round}"), Some(1)).await.unwrap().unwrap().unwrap();
            assert!(tree.kit.census.kill("expiry"));
            tree.until_restarted("expiry", round + 1).await;
            tokio::time::sleep(Duration::from_secs(61)).await;
            assert_eq!(tree.store.counts().swept, round + 1);
        }
        let handled = |tree: &Tree| {
            let actors = tree.kit.census.read();
            actors.iter().find(|actor| &*actor.name == "expiry").map(|actor| actor.handled)
        };
        let before = handled(&tree).unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        // One tick and one answer a minute.
        assert!(handled(&tree).unwrap() - before <= 22);
        tree.root.stop().await;
    }
}
