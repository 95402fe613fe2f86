//! Supervisors: start their children in order, start a failed one again, give up when it fails too often.
//!
//! The decision is `core::restart`'s. ractor's default supervisor would stop with its first failed child; and a child
//! that fails to start is no supervision event, so that case is handled where it is started.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, MutexGuard};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tracing::{error, warn};

use super::{
    shell::Kit,
    vitals::{ActorFailure, Census, Vitals},
};
use crate::restart::{Intensity, RestartDecision, Restarts};

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

    /// Tells whether both describe the same child, and not only one of the same name.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.spawn, &other.spawn)
    }
}

/// The children of a supervisor that come and go. What is wanted stands here, so a supervisor that is started again
/// finds it; the supervisor makes it so.
#[derive(Clone)]
pub struct Children {
    census: Arc<Census>,
    wanted: Arc<Wanted>,
}

#[derive(Default)]
struct Wanted {
    specs: Mutex<BTreeMap<Arc<str>, ChildSpec>>,
    supervisor: ArcSwapOption<ActorRef<SupervisorMsg>>,
}

impl Wanted {
    fn specs(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, ChildSpec>> {
        self.specs.lock()
    }
}

impl Children {
    /// Starts a child; one of the same name is stopped for it.
    pub fn start(&self, spec: ChildSpec) {
        self.wanted.specs().insert(Arc::clone(&spec.vitals.name), spec);
        self.apply();
    }

    /// Stops a child, which is then seen no more. One that is not there is no error.
    pub fn stop(&self, name: &str) {
        if self.wanted.specs().remove(name).is_some() {
            self.census.remove(name);
            self.apply();
        }
    }

    fn apply(&self) {
        // A supervisor that is down reads what is wanted when it is started again.
        if let Some(supervisor) = &*self.wanted.supervisor.load() {
            let _ = supervisor.send_message(SupervisorMsg::Apply);
        }
    }
}

// ---- messages ----

/// What a supervisor is told, by itself and by its [`Children`].
#[derive(Debug)]
pub enum SupervisorMsg {
    /// Start this child again, after its pause.
    Restart(Arc<str>),
    /// Other children are wanted.
    Apply,
}

// ---- arguments ----

/// What a supervisor is started with.
#[derive(Clone)]
pub struct SupervisorArgs {
    kit: Kit,
    name: Arc<str>,
    children: Vec<ChildSpec>,
    /// Those that come and go.
    wanted: Option<Arc<Wanted>>,
    /// Takes the reason when the whole tree gives up; the root's only.
    fatal: Option<Arc<OnceLock<String>>>,
}

// ---- state ----

struct Child {
    spec: ChildSpec,
    restarts: Restarts,
    cell: Option<ActorCell>,
}

impl Child {
    fn new(spec: ChildSpec) -> Self {
        Self { restarts: Restarts::new(spec.intensity), spec, cell: None }
    }
}

/// A supervisor's children.
pub struct State {
    args: SupervisorArgs,
    children: Vec<Child>,
}

impl State {
    fn child(&mut self, name: &str) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| &*child.spec.vitals.name == name)
    }

    /// Starts a child, unless it runs.
    async fn spawn(&mut self, name: &str, me: &ActorRef<SupervisorMsg>) -> Result<(), String> {
        let Some(child) = self.child(name).filter(|child| child.cell.is_none()) else {
            return Ok(());
        };
        match (child.spec.spawn)(me.get_cell()).await {
            Ok(cell) => {
                child.spec.vitals.on_started(cell.clone());
                child.cell = Some(cell);
                Ok(())
            }
            Err(reason) => self.on_failure(name, format!("it did not start: {reason}"), me),
        }
    }

    /// Stops the children that are not wanted any more, and starts those that now are.
    async fn apply(&mut self, me: &ActorRef<SupervisorMsg>) -> Result<(), String> {
        let Some(wanted) = self.args.wanted.clone() else { return Ok(()) };
        let specs = wanted.specs().clone();
        let is_static = |child: &Child| self.args.children.iter().any(|s| s.is(&child.spec));
        self.children.retain(|child| {
            let is_wanted = |spec: &ChildSpec| spec.is(&child.spec);
            let keep =
                is_static(child) || specs.get(&child.spec.vitals.name).is_some_and(is_wanted);
            if !keep {
                child.spec.vitals.on_stopped();
                child.cell.iter().for_each(|cell| cell.stop(None));
            }
            keep
        });
        for (name, spec) in specs {
            if self.child(&name).is_none() {
                self.children.push(Child::new(spec));
                self.spawn(&name, me).await?;
            }
        }
        Ok(())
    }

    /// Decides about a failed child; an error means that this supervisor gives up too.
    fn on_failure(
        &mut self,
        name: &str,
        cause: String,
        me: &ActorRef<SupervisorMsg>,
    ) -> Result<(), String> {
        let (at, now) = (self.args.kit.clock.wall(), self.args.kit.clock.monotonic());
        let Some(child) = self.child(name) else { return Ok(()) };
        let name = Arc::clone(&child.spec.vitals.name);
        child.cell = None;
        child.spec.vitals.on_failed(ActorFailure { at, text: cause.clone() });
        match child.restarts.on_failure(now) {
            RestartDecision::RestartAfter { pause_ms } => {
                warn!(actor = %name, %cause, pause_ms, "an actor failed and is started again");
                let me = me.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    // A supervisor that has ended meanwhile starts nothing.
                    let _ = me.send_message(SupervisorMsg::Restart(name));
                });
                Ok(())
            }
            RestartDecision::Escalate => {
                let reason = format!("the actor {name} failed too often, last because {cause}");
                error!(supervisor = %self.args.name, %reason, "a supervisor gives up");
                if let Some(fatal) = &self.args.fatal {
                    let _ = fatal.set(reason.clone());
                }
                Err(reason)
            }
        }
    }

    fn name_of(&self, cell: &ActorCell) -> Option<Arc<str>> {
        let is_it =
            |child: &&Child| child.cell.as_ref().is_some_and(|c| c.get_id() == cell.get_id());
        self.children.iter().find(is_it).map(|child| Arc::clone(&child.spec.vitals.name))
    }
}

// ---- handler ----

/// Supervises children as [`SupervisorArgs`] describe them.
#[derive(Debug)]
pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = SupervisorMsg;
    type State = State;
    type Arguments = SupervisorArgs;

    async fn pre_start(
        &self,
        me: ActorRef<SupervisorMsg>,
        args: SupervisorArgs,
    ) -> Result<State, ActorProcessingErr> {
        if let Some(wanted) = &args.wanted {
            wanted.supervisor.store(Some(Arc::new(me.clone())));
        }
        let mut state = State { children: Vec::new(), args };
        for spec in state.args.children.clone() {
            let name = Arc::clone(&spec.vitals.name);
            state.children.push(Child::new(spec));
            state.spawn(&name, &me).await?;
        }
        state.apply(&me).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<SupervisorMsg>,
        message: SupervisorMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let done = match message {
            SupervisorMsg::Restart(name) => state.spawn(&name, &me).await,
            SupervisorMsg::Apply => state.apply(&me).await,
        };
        Ok(done?)
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
        let Some(name) = state.name_of(&cell) else { return Ok(()) };
        Ok(state.on_failure(&name, cause, &me)?)
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
    nested_with(kit, name, parent, children, None)
}

/// Describes a supervisor whose children come and go.
pub fn dynamic(kit: &Kit, name: &str, parent: &str) -> (Children, ChildSpec) {
    let wanted = Arc::new(Wanted::default());
    let children = Children { census: Arc::clone(&kit.census), wanted: Arc::clone(&wanted) };
    (children, nested_with(kit, name, parent, Vec::new(), Some(wanted)))
}

fn nested_with(
    kit: &Kit,
    name: &str,
    parent: &str,
    children: Vec<ChildSpec>,
    wanted: Option<Arc<Wanted>>,
) -> ChildSpec {
    let vitals = kit.census.enter(name, Some(parent));
    let args =
        SupervisorArgs { kit: kit.clone(), name: name.into(), children, wanted, fatal: None };
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
    pub(super) ended: tokio::task::JoinHandle<()>,
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
        let args = SupervisorArgs {
            kit: kit.clone(),
            name: name.into(),
            children,
            wanted: None,
            fatal: Some(Arc::clone(&fatal)),
        };
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

    /// Stops all actors and waits until they have ended.
    pub async fn stop(mut self) {
        self.actor.stop(None);
        let _ = self.ended().await;
    }
}

// ---- tests ----

#[cfg(test)]
mod tests {
    use crate::{
        recorder::Outcome,
        shell::{ActorMessage, Described, Handled, Handling, Worker, worker},
        supervisor::{Children, Root, dynamic, nested},
        test_kit::{Tree, kit},
        vitals::{ActorState, Reading},
    };

    /// Fails as it starts, every time.
    struct Stillborn;

    impl ActorMessage for () {}

    impl Described for () {
        fn kind(&self) -> &'static str {
            "Nothing"
        }
    }

    impl Worker for Stillborn {
        type Msg = ();
        type Args = ();

        fn start((): &(), _: &Handling<'_, ()>) -> Result<Self, String> {
            Err("it never starts".into())
        }

        fn handle(&mut self, _: &Handling<'_, ()>, (): ()) -> Handled {
            Ok(Outcome::Done("unreached"))
        }
    }

    /// Panics at its first message, every time.
    struct Fragile;

    impl Worker for Fragile {
        type Msg = ();
        type Args = ();

        fn start((): &(), me: &Handling<'_, ()>) -> Result<Self, String> {
            me.me.tell(me.me.name(), me.cx, ());
            Ok(Self)
        }

        fn handle(&mut self, _: &Handling<'_, ()>, (): ()) -> Handled {
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

    /// Does nothing, until it is stopped or killed.
    struct Idle;

    impl Worker for Idle {
        type Msg = ();
        type Args = ();

        fn start((): &(), _: &Handling<'_, ()>) -> Result<Self, String> {
            Ok(Self)
        }

        fn handle(&mut self, _: &Handling<'_, ()>, (): ()) -> Handled {
            Ok(Outcome::Done("nothing"))
        }
    }

    /// A root over a supervisor of children that come and go, waited for by what the census shows.
    struct Nursery {
        kit: crate::Kit,
        children: Children,
        root: Root,
    }

    impl Nursery {
        async fn start() -> Self {
            let kit = kit();
            let (children, spec) = dynamic(&kit, "links", "node");
            let root = Root::start(&kit, "node", vec![spec]).await.unwrap();
            Self { kit, children, root }
        }

        fn add(&self, name: &str) {
            self.children.start(worker::<Idle>(&self.kit, name, "links", ()).1);
        }

        fn read(&self, name: &str) -> Option<Reading> {
            self.kit.census.read().into_iter().find(|actor| &*actor.name == name)
        }

        async fn until(&self, name: &str, is_so: impl Fn(Option<Reading>) -> bool) {
            let so = async {
                while !is_so(self.read(name)) {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(60), so).await.expect("in time");
        }

        async fn until_running(&self, name: &str, restarts: u64) {
            let is_so = |actor: Option<Reading>| {
                actor.is_some_and(|a| a.state == ActorState::Running && a.restarts >= restarts)
            };
            self.until(name, is_so).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn children_that_come_and_go_are_restarted_while_they_are_wanted() {
        let nursery = Nursery::start().await;
        nursery.add("a");
        nursery.add("b");
        nursery.until_running("a", 0).await;
        nursery.until_running("b", 0).await;
        assert!(nursery.kit.census.kill("a"));
        nursery.until_running("a", 1).await;
        nursery.children.stop("a");
        assert!(nursery.read("a").is_none(), "a stopped child is seen no more");
        assert!(!nursery.kit.census.kill("a"));
        assert_eq!(nursery.read("links").unwrap().restarts, 0);
        nursery.until_running("b", 0).await;
        nursery.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervisor_that_comes_back_starts_the_children_that_are_wanted_by_then() {
        let nursery = Nursery::start().await;
        nursery.add("a");
        nursery.add("b");
        nursery.until_running("b", 0).await;
        assert!(nursery.kit.census.kill("links"));
        nursery.children.stop("a");
        nursery.add("c");
        nursery.until_running("links", 1).await;
        nursery.until_running("b", 0).await;
        nursery.until_running("c", 0).await;
        assert!(nursery.read("a").is_none());
        nursery.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_is_replaced_under_its_name_runs_once() {
        let nursery = Nursery::start().await;
        for _ in 0..10 {
            nursery.add("a");
            nursery.children.stop("a");
        }
        nursery.add("a");
        nursery.until_running("a", 0).await;
        assert_eq!(nursery.read("a").unwrap().restarts, 0);
        assert!(nursery.kit.census.kill("a"));
        nursery.until_running("a", 1).await;
        nursery.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_keeps_failing_takes_its_supervisor_along() {
        let nursery = Nursery::start().await;
        nursery.children.start(worker::<Fragile>(&nursery.kit, "fragile", "links", ()).1);
        let mut root = nursery.root;
        let cause = root.ended().await;
        assert!(cause.contains("links"), "{cause}");
    }
}
