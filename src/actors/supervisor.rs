//! Supervisors: start their children in order, start a failed one again, give up when it fails too often.
//!
//! The decision is `core::restart`'s. ractor's default supervisor would stop with its first failed child; and a child
//! that fails to start is no supervision event, so that case is handled where it is started.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tracing::{error, warn};

use super::{
    shell::Kit,
    vitals::{Cause, Vitals},
};
use crate::core::restart::{Intensity, Restarts, Verdict};

type Spawned = Pin<Box<dyn Future<Output = Result<ActorCell, String>> + Send>>;

/// How a child is started and how often it may fail.
#[derive(Clone)]
pub struct ChildSpec {
    vitals: Arc<Vitals>,
    intensity: Intensity,
    spawn: Arc<dyn Fn(ActorCell) -> Spawned + Send + Sync>,
}

impl ChildSpec {
    /// Describes a child.
    pub fn new<F>(
        vitals: Arc<Vitals>,
        intensity: Intensity,
        spawn: impl Fn(ActorCell) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<ActorCell, String>> + Send + 'static,
    {
        Self { vitals, intensity, spawn: Arc::new(move |supervisor| Box::pin(spawn(supervisor))) }
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChildSpec({})", self.vitals.name)
    }
}

// ---- messages ----

/// What a supervisor tells itself.
#[derive(Debug)]
pub enum SupervisorMsg {
    /// Start this child again, after its pause.
    Restart(usize),
}

// ---- arguments ----

/// What a supervisor is started with.
#[derive(Clone)]
pub struct Args {
    kit: Kit,
    name: Arc<str>,
    children: Vec<ChildSpec>,
    /// Takes the reason when the whole tree gives up; the root's only.
    fatal: Option<Arc<OnceLock<String>>>,
}

// ---- state ----

struct Child {
    spec: ChildSpec,
    restarts: Restarts,
    cell: Option<ActorCell>,
}

/// A supervisor's children.
pub struct State {
    args: Args,
    children: Vec<Child>,
}

impl State {
    async fn spawn(&mut self, index: usize, me: &ActorRef<SupervisorMsg>) -> Result<(), String> {
        let Some(child) = self.children.get_mut(index) else { return Ok(()) };
        match (child.spec.spawn)(me.get_cell()).await {
            Ok(cell) => {
                child.spec.vitals.on_started(cell.clone());
                child.cell = Some(cell);
                Ok(())
            }
            Err(reason) => self.on_failure(index, format!("it did not start: {reason}"), me),
        }
    }

    /// Decides about a failed child; an error means that this supervisor gives up too.
    fn on_failure(
        &mut self,
        index: usize,
        cause: String,
        me: &ActorRef<SupervisorMsg>,
    ) -> Result<(), String> {
        let Some(child) = self.children.get_mut(index) else { return Ok(()) };
        let name = Arc::clone(&child.spec.vitals.name);
        child.cell = None;
        let at = self.args.kit.clock.wall();
        child.spec.vitals.on_failed(Cause { at, text: cause.clone() });
        match child.restarts.on_failure(self.args.kit.clock.monotonic()) {
            Verdict::RestartAfter { pause_ms } => {
                warn!(actor = %name, %cause, pause_ms, "an actor failed and is started again");
                let me = me.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    // A supervisor that has ended meanwhile starts nothing.
                    let _ = me.send_message(SupervisorMsg::Restart(index));
                });
                Ok(())
            }
            Verdict::Escalate => {
                let reason = format!("the actor {name} failed too often, last because {cause}");
                error!(supervisor = %self.args.name, %reason, "a supervisor gives up");
                if let Some(fatal) = &self.args.fatal {
                    let _ = fatal.set(reason.clone());
                }
                Err(reason)
            }
        }
    }

    fn index_of(&self, cell: &ActorCell) -> Option<usize> {
        let is_it =
            |child: &Child| child.cell.as_ref().is_some_and(|c| c.get_id() == cell.get_id());
        self.children.iter().position(is_it)
    }
}

// ---- handler ----

/// Supervises children as [`Args`] describe them.
#[derive(Debug)]
pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = SupervisorMsg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        me: ActorRef<SupervisorMsg>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        let children = args.children.iter().cloned().map(|spec| Child {
            restarts: Restarts::new(spec.intensity),
            spec,
            cell: None,
        });
        let mut state = State { children: children.collect(), args };
        for index in 0..state.children.len() {
            state.spawn(index, &me).await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<SupervisorMsg>,
        message: SupervisorMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let SupervisorMsg::Restart(index) = message;
        Ok(state.spawn(index, &me).await?)
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<SupervisorMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, cause) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                (cell, reason.unwrap_or_else(|| "it ended".into()))
            }
            _ => return Ok(()),
        };
        let Some(index) = state.index_of(&cell) else { return Ok(()) };
        Ok(state.on_failure(index, cause, &me)?)
    }

    async fn post_stop(
        &self,
        _: ActorRef<SupervisorMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.children.iter().for_each(|child| child.spec.vitals.on_stopped());
        Ok(())
    }
}

/// Describes a supervisor as a child of another.
pub fn nested(kit: &Kit, name: &str, parent: &str, children: Vec<ChildSpec>) -> ChildSpec {
    let vitals = kit.census.enter(name, Some(parent));
    let args = Args { kit: kit.clone(), name: name.into(), children, fatal: None };
    // A supervisor that gave up once has a failing part below it: fewer tries than a worker.
    let intensity = Intensity { restarts_max: 3, ..Intensity::default() };
    ChildSpec::new(vitals, intensity, move |supervisor| {
        let args = args.clone();
        async move {
            let (actor, _) = Actor::spawn_linked(None, Supervisor, args, supervisor)
                .await
                .map_err(|error| error.to_string())?;
            Ok(actor.get_cell())
        }
    })
}

/// The running root of a supervision tree.
#[derive(Debug)]
pub struct Root {
    actor: ActorRef<SupervisorMsg>,
    ended: tokio::task::JoinHandle<()>,
    fatal: Arc<OnceLock<String>>,
    vitals: Arc<Vitals>,
}

impl Root {
    /// Starts the tree.
    ///
    /// # Errors
    /// When a child does not start within its intensity.
    pub async fn start(kit: &Kit, name: &str, children: Vec<ChildSpec>) -> Result<Self, String> {
        let fatal = Arc::new(OnceLock::new());
        let vitals = kit.census.enter(name, None);
        let args =
            Args { kit: kit.clone(), name: name.into(), children, fatal: Some(Arc::clone(&fatal)) };
        let (actor, ended) =
            Actor::spawn(None, Supervisor, args).await.map_err(|error| error.to_string())?;
        vitals.on_started(actor.get_cell());
        Ok(Self { actor, ended, fatal, vitals })
    }

    /// Waits until the tree has ended without being told to, and says why.
    pub async fn ended(&mut self) -> String {
        if !self.ended.is_finished() {
            let _ = (&mut self.ended).await;
        }
        self.vitals.on_stopped();
        let killed = || "the root supervisor was killed".to_owned();
        self.fatal.get().cloned().unwrap_or_else(killed)
    }

    /// Tells whether the tree has given up.
    pub fn has_ended(&self) -> bool {
        self.ended.is_finished()
    }

    /// Stops all actors and waits until they have ended.
    pub async fn stop(mut self) {
        self.actor.stop(None);
        let _ = self.ended().await;
    }
}

// ---- tests ----

#[cfg(test)]
mod tests {
    use crate::actors::{
        recorder::Outcome,
        shell::{Described, Handling, Message, Role, worker},
        supervisor::{Root, nested},
        test_kit::{Tree, kit},
    };

    /// Fails as it starts, every time.
    struct Stillborn;

    impl Message for () {}

    impl Described for () {
        fn kind(&self) -> &'static str {
            "Nothing"
        }
    }

    impl Role for Stillborn {
        type Msg = ();
        type Args = ();

        fn start((): &(), _: &Handling<'_, ()>) -> Result<Self, String> {
            Err("it never starts".into())
        }

        fn handle(&mut self, _: &Handling<'_, ()>, (): ()) -> Result<Outcome, String> {
            Ok(Outcome::Done("unreached"))
        }
    }

    /// Panics at its first message, every time.
    struct Fragile;

    impl Role for Fragile {
        type Msg = ();
        type Args = ();

        fn start((): &(), me: &Handling<'_, ()>) -> Result<Self, String> {
            me.me.tell(me.me.name(), me.cx, ());
            Ok(Self)
        }

        fn handle(&mut self, _: &Handling<'_, ()>, (): ()) -> Result<Outcome, String> {
            panic!("it breaks")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_never_starts_ends_the_tree_with_its_cause() {
        let kit = kit();
        let child = worker::<Stillborn>(&kit, "stillborn", "node", ()).1;
        let mut root = Root::start(&kit, "node", vec![child]).await.unwrap();
        let cause = root.ended().await;
        assert!(cause.contains("stillborn") && cause.contains("it never starts"), "{cause}");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_escalate_through_the_levels_to_the_root() {
        let kit = kit();
        let child = worker::<Fragile>(&kit, "fragile", "storage", ()).1;
        let storage = nested(&kit, "storage", "node", vec![child]);
        let mut root = Root::start(&kit, "node", vec![storage]).await.unwrap();
        let cause = root.ended().await;
        assert!(cause.contains("storage"), "{cause}");
        let actors = kit.census.read();
        let fragile = actors.iter().find(|actor| &*actor.name == "fragile").unwrap();
        assert!(fragile.restarts > 10, "{fragile:?}");
        assert!(fragile.failed > 10, "{fragile:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_killed_supervisor_comes_back_with_its_children() {
        let tree = Tree::start().await;
        tree.put("a", None).await.unwrap().unwrap().unwrap();
        assert!(tree.kit.census.kill("storage"));
        tree.until_restarted("storage", 1).await;
        tree.put("b", None).await.unwrap().unwrap().unwrap();
        tree.root.stop().await;
    }
}
