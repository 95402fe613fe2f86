//! Owns the run of the network: starts it, and starts it again when it ends or panics.
//!
//! What the network knows and announces is behind the port and outlives the run. Killing the actor ends the run.

use std::sync::Arc;

use futures::FutureExt as _;
use tokio_util::task::AbortOnDropHandle;

use super::{
    recorder::Outcome,
    shell::{ActorMessage, Described, Handled, Handling, Worker},
};
use nomad_ports::OverlayRun;

// ---- messages ----

/// What the overlay's owner hears.
#[derive(Debug)]
pub enum OverlayMsg {
    /// Tell: the run of the incarnation that has this number has ended, and why.
    Ended {
        /// The incarnation.
        of: u64,
        /// Why.
        reason: String,
    },
}

impl Described for OverlayMsg {
    fn kind(&self) -> &'static str {
        "Ended"
    }

    fn detail(&self) -> String {
        let Self::Ended { reason, .. } = self;
        format!("because {reason}")
    }
}

impl ActorMessage for OverlayMsg {}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct OverlayArgs {
    /// What it runs.
    pub run: Arc<dyn OverlayRun>,
}

// ---- state ----

/// The actor. Dropping it ends the run.
pub struct OverlayActor {
    /// Tells the end of this incarnation's run from that of an earlier one.
    incarnation: u64,
    _watch: AbortOnDropHandle<()>,
}

// ---- handler ----

impl Worker for OverlayActor {
    type Msg = OverlayMsg;
    type Args = OverlayArgs;

    fn start(args: &OverlayArgs, me: &Handling<'_, OverlayMsg>) -> Result<Self, String> {
        let incarnation = me.kit.entropy.next_u64();
        // A task of its own, so that its panic is seen.
        let run = AbortOnDropHandle::new(tokio::spawn(args.run.run()));
        let ended = run.map(move |ended| {
            let reason = ended.unwrap_or_else(|error| error.to_string());
            OverlayMsg::Ended { of: incarnation, reason }
        });
        Ok(Self { incarnation, _watch: AbortOnDropHandle::new(me.tell_me(me.cx, ended)) })
    }

    fn handle(&mut self, _: &Handling<'_, Self::Msg>, message: Self::Msg) -> Handled {
        let OverlayMsg::Ended { of, reason } = message;
        if of != self.incarnation {
            return Ok(Outcome::Dropped("the end of an earlier run"));
        }
        Err(format!("the overlay ended: {reason}"))
    }
}

// ---- tests ----

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use futures::future::BoxFuture;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{shell::worker, supervisor::Root, test_kit::kit};

    /// How a run ends.
    #[derive(Debug)]
    enum End {
        Says,
        Panics,
        Never,
    }

    /// Runs that end as they are told, and count how many go on at the same time.
    struct Runs {
        ends: std::sync::Mutex<Vec<End>>,
        started: mpsc::Sender<()>,
        alive: Arc<AtomicUsize>,
    }

    struct Alive(Arc<AtomicUsize>);

    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    impl OverlayRun for Runs {
        fn run(&self) -> BoxFuture<'static, String> {
            let end = self.ends.lock().unwrap().pop().unwrap_or(End::Never);
            let (alive, started) = (Arc::clone(&self.alive), self.started.clone());
            Box::pin(async move {
                assert_eq!(alive.fetch_add(1, SeqCst), 0, "one run at a time");
                let _alive = Alive(alive);
                started.send(()).await.unwrap();
                match end {
                    End::Says => "the test says so".into(),
                    End::Panics => panic!("the test says so"),
                    End::Never => std::future::pending().await,
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_ends_or_panics_or_is_killed_is_started_again_and_stops_with_the_tree() {
        let (started, mut starts) = mpsc::channel(8);
        let alive = Arc::default();
        let ends = vec![End::Never, End::Never, End::Panics, End::Says].into();
        let run = Arc::new(Runs { ends, started, alive: Arc::clone(&alive) });
        let kit = kit();
        let (_, spec) = worker::<OverlayActor>(&kit, "overlay", "node", OverlayArgs { run });
        let root = Root::start(&kit, "node", vec![spec]).await.unwrap();
        for _ in 0..3 {
            starts.recv().await.unwrap();
        }
        assert!(kit.census.kill("overlay"));
        starts.recv().await.unwrap();
        let actors = kit.census.read();
        let overlay = actors.iter().find(|actor| &*actor.name == "overlay").unwrap();
        assert_eq!(overlay.restarts, 3, "{overlay:?}");
        root.stop().await;
        while alive.load(SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    }
}
