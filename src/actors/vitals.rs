//! What can be seen of a running actor: its state, its mailbox, its times, its restarts.
//!
//! ractor cannot tell how long a mailbox is, so the shell counts. The actor's own task writes the figures, anyone reads.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use ractor::ActorCell;
use strum::IntoStaticStr;

use nomad_core::model::time::UnixMs;

/// The most restart causes kept per actor.
const CAUSES_MAX: usize = 16;

/// What an actor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum ActorState {
    /// Not started yet.
    Starting,
    /// Handling messages.
    Running,
    /// Failed, and about to be started again.
    Restarting,
    /// Ended for good.
    Stopped,
}

impl ActorState {
    /// Returns the state's word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why an actor was started again, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorFailure {
    /// When it failed.
    pub at: UnixMs,
    /// What it failed of.
    pub text: String,
}

/// Counters and histograms of one actor. They outlive its restarts.
#[derive(Debug)]
pub struct Vitals {
    /// The actor's name.
    pub name: Arc<str>,
    /// The name of its supervisor, `None` for the root.
    pub parent: Option<Arc<str>>,
    pub(super) sent: AtomicU64,
    pub(super) taken: AtomicU64,
    pub(super) handled: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) dropped: AtomicU64,
    times: Mutex<Times>,
    fate: Mutex<Fate>,
}

#[derive(Debug)]
struct Times {
    wait_us: Histogram<u32>,
    run_us: Histogram<u32>,
}

#[derive(Debug)]
struct Fate {
    state: ActorState,
    restarts: u64,
    causes: VecDeque<ActorFailure>,
    cell: Option<ActorCell>,
}

/// A reading of one actor's vitals.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The actor's name.
    pub name: Arc<str>,
    /// The name of its supervisor.
    pub parent: Option<Arc<str>>,
    /// What it is doing.
    pub state: ActorState,
    /// Messages waiting for it.
    pub mailbox: u64,
    /// Messages handled.
    pub handled: u64,
    /// Messages whose handling ended in a failure of the actor.
    pub failed: u64,
    /// Messages dropped unread: late, or their caller had gone.
    pub dropped: u64,
    /// Times that it was started again.
    pub restarts: u64,
    /// The last causes of restarts, oldest first.
    pub causes: Vec<ActorFailure>,
    /// Median and 99th percentile of the microseconds in the mailbox.
    pub wait_us: (u64, u64),
    /// Median and 99th percentile of the microseconds in the handler.
    pub run_us: (u64, u64),
}

impl Vitals {
    fn new(name: Arc<str>, parent: Option<Arc<str>>) -> Self {
        Self {
            name,
            parent,
            sent: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            times: Mutex::new(Times { wait_us: histogram(), run_us: histogram() }),
            fate: Mutex::new(Fate {
                state: ActorState::Starting,
                restarts: 0,
                causes: VecDeque::new(),
                cell: None,
            }),
        }
    }

    /// Takes note of one message: how long it waited and ran. A reading that another thread is writing at the moment is
    /// left out rather than waited for: the percentiles do not miss it.
    pub fn record_times(&self, wait_us: u64, run_us: u64) {
        let Some(mut times) = self.times.try_lock() else { return };
        times.wait_us.saturating_record(wait_us);
        times.run_us.saturating_record(run_us);
    }

    pub(super) fn on_started(&self, cell: ActorCell) {
        let mut fate = self.fate.lock();
        fate.state = ActorState::Running;
        fate.cell = Some(cell);
    }

    pub(super) fn on_failed(&self, cause: ActorFailure) {
        let mut fate = self.fate.lock();
        fate.state = ActorState::Restarting;
        fate.restarts += 1;
        fate.cell = None;
        if fate.causes.len() == CAUSES_MAX {
            fate.causes.pop_front();
        }
        fate.causes.push_back(cause);
    }

    pub(super) fn on_stopped(&self) {
        let mut fate = self.fate.lock();
        fate.state = ActorState::Stopped;
        fate.cell = None;
    }

    /// Reads everything.
    pub fn read(&self) -> Reading {
        let taken = self.taken.load(Relaxed);
        let mailbox = self.sent.load(Relaxed).saturating_sub(taken);
        let percentiles =
            |h: &Histogram<u32>| (h.value_at_quantile(0.5), h.value_at_quantile(0.99));
        let (wait_us, run_us) = {
            let times = self.times.lock();
            (percentiles(&times.wait_us), percentiles(&times.run_us))
        };
        let fate = self.fate.lock();
        Reading {
            name: Arc::clone(&self.name),
            parent: self.parent.clone(),
            state: fate.state,
            mailbox,
            handled: self.handled.load(Relaxed),
            failed: self.failed.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            restarts: fate.restarts,
            causes: fate.causes.iter().cloned().collect(),
            wait_us,
            run_us,
        }
    }
}

/// All actors of one node, by name.
#[derive(Debug, Default)]
pub struct Census {
    actors: Mutex<BTreeMap<Arc<str>, Arc<Vitals>>>,
}

impl Census {
    /// Enters an actor, or returns the vitals of the one that is entered under that name.
    pub fn enter(&self, name: &str, parent: Option<&str>) -> Arc<Vitals> {
        let mut actors = self.actors.lock();
        if let Some(vitals) = actors.get(name) {
            return Arc::clone(vitals);
        }
        let vitals = Arc::new(Vitals::new(name.into(), parent.map(Into::into)));
        actors.insert(Arc::clone(&vitals.name), Arc::clone(&vitals));
        vitals
    }

    /// Strikes an actor that has ended for good.
    pub fn remove(&self, name: &str) {
        self.actors.lock().remove(name);
    }

    /// Reads all actors, sorted by name.
    pub fn read(&self) -> Vec<Reading> {
        self.actors.lock().values().map(|vitals| vitals.read()).collect()
    }

    /// Kills an actor as a fault would. Returns whether it was running.
    pub fn kill(&self, name: &str) -> bool {
        let vitals = self.actors.lock().get(name).cloned();
        let cell = vitals.and_then(|vitals| vitals.fate.lock().cell.clone());
        cell.map(|cell| cell.kill()).is_some()
    }
}

/// Up to a minute, two significant digits: a few kilobytes.
fn histogram() -> Histogram<u32> {
    #[expect(clippy::expect_used, reason = "the bounds are constants that the crate accepts")]
    Histogram::new_with_bounds(1, 60_000_000, 2).expect("bounds are valid")
}
