//! The log of this node's group: starts it, stops it, and passes requests of the node to it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use openraft::error::{ClientWriteError, Fatal, RaftError};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{
    elector,
    handler::Handler,
    heir::Heir,
    incoming::IncomingSnapshot,
    log_store::LogStore,
    machine::{AppliedState, Machine},
    network::Caller,
    observer,
    options::{LogOpenError, RaftOptions, RaftTimes},
    store::RaftStore,
    types,
    types::{Participant, Raft, RaftEntry, RaftMembership, RaftMetrics, RaftRecord, RaftVote},
};
use nomad_core::{
    group::{
        log_state::LogState,
        table::{Applied, GroupClaim, GroupTable, TableCommand},
    },
    model::node_id::NodeId,
};
use nomad_ports::{Consensus, PeerHandler, PeerTransport, consensus::ConsensusError};

/// How long openraft may take to stop; its tasks then end by themselves.
const STOP_LIMIT: Duration = Duration::from_secs(5);

type WriteError = RaftError<u64, ClientWriteError<u64, Participant>>;

/// The log on openraft. Cheap to clone; it stops when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct RaftConsensus(pub(super) Arc<RaftInner>);

pub struct RaftInner {
    options: RaftOptions,
    transport: Arc<dyn PeerTransport>,
    log_state: watch::Sender<LogState>,
    running: RwLock<Option<Arc<Running>>>,
    /// Held while the log starts, stops or changes its group. `None` once it is closed or could not be opened.
    store: tokio::sync::Mutex<Option<Arc<RaftStore>>>,
}

impl std::fmt::Debug for RaftInner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A log that runs, with its tasks, which end with it.
#[derive(Debug)]
pub struct Running {
    pub parts: Arc<RaftContext>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What the tasks of a running log share.
pub struct RaftContext {
    pub caller: Caller,
    pub raft: Raft,
    pub store: Arc<RaftStore>,
    pub times: RaftTimes,
    pub applied: watch::Receiver<AppliedState>,
    pub campaign: Notify,
    pub paused: watch::Sender<bool>,
    pub incoming: tokio::sync::Mutex<IncomingSnapshot>,
    pub arranging: tokio::sync::Mutex<()>,
    /// Who spoke as the leader last: a newcomer hears it before it knows the members.
    heard: Mutex<Option<Participant>>,
    /// The member that the leader has named to lead next.
    pub heir: Mutex<Option<Heir>>,
}

impl RaftReading {
    /// Returns how long ago the vote was given, or its leader last heard.
    pub fn silent(&self) -> Duration {
        self.since.map_or(Duration::MAX, |since| since.elapsed())
    }
}

impl std::fmt::Debug for RaftContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parts({})", self.group())
    }
}

/// A look at openraft's state.
#[derive(Debug)]
pub struct RaftReading {
    pub vote: RaftVote,
    /// When that vote was given, or its leader last heard.
    pub since: Option<Instant>,
    pub leads: bool,
    pub membership: RaftMembership,
}

impl RaftContext {
    pub fn group(&self) -> &str {
        &self.caller.group
    }

    /// Looks at openraft's state; `None` once it has stopped.
    pub async fn look(&self) -> Option<RaftReading> {
        let look = self.raft.with_raft_state(|state| RaftReading {
            vote: *state.vote_ref(),
            since: state.vote_last_modified(),
            leads: state.server_state.is_leader(),
            membership: state.membership_state.effective().membership().clone(),
        });
        look.await.ok()
    }

    /// Remembers which node sends as the leader.
    pub fn hear(&self, leader: Participant) {
        *self.heard.lock() = Some(leader);
    }

    pub fn leader(&self) -> Option<NodeId> {
        self.leader_in(&self.raft.metrics().borrow())
    }

    pub fn leader_in(&self, metrics: &RaftMetrics) -> Option<NodeId> {
        let number = metrics.current_leader?;
        let heard = *self.heard.lock();
        let named = metrics.membership_config.membership().get_node(&number).copied();
        named.or(heard).filter(|leader| leader.number() == number).map(|leader| leader.node)
    }

    pub fn pause(&self, paused: bool) {
        self.raft.runtime_config().heartbeat(!paused);
        self.paused.send_replace(paused);
    }

    /// Says why the log has stopped.
    pub fn failure(&self) -> String {
        let fatal = self.raft.metrics().borrow().running_state.clone().err();
        let fatal = fatal.map_or_else(|| "a task of it has panicked".into(), |why| why.to_string());
        self.store.failure().unwrap_or(fatal)
    }

    pub fn over(&self) -> ConsensusError {
        ConsensusError::Failed { reason: self.failure() }
    }

    pub fn refusal(&self, error: WriteError) -> ConsensusError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                let leader = to.leader_node.map(|participant| participant.node);
                ConsensusError::NotLeader { leader: leader.or_else(|| self.leader()) }
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                warn!(%error, "the voters cannot be changed like that");
                ConsensusError::Unknown
            }
            RaftError::Fatal(Fatal::Stopped) if self.store.failure().is_none() => {
                ConsensusError::Unknown
            }
            RaftError::Fatal(_) => self.over(),
        }
    }
}

impl RaftConsensus {
    /// Opens the log of a directory. If a group is kept there, it is taken up again at once.
    ///
    /// # Errors
    /// Says why it does not open, with the way out.
    pub async fn open(
        options: RaftOptions,
        transport: Arc<dyn PeerTransport>,
    ) -> Result<Self, LogOpenError> {
        let store = RaftStore::open(&options, false).await?;
        let inner = Arc::new(RaftInner {
            log_state: watch::Sender::default(),
            running: RwLock::new(None),
            store: tokio::sync::Mutex::new(Some(Arc::clone(&store))),
            options,
            transport,
        });
        inner
            .take_up(&store)
            .await
            .map_err(|reason| LogOpenError::Unusable { dir: inner.options.dir.clone(), reason })?;
        Ok(Self(inner))
    }

    /// Returns what answers the other members, for [`Service::Log`](nomad_ports::peer_transport::Service::Log).
    pub fn handler(&self) -> Arc<dyn PeerHandler> {
        Arc::new(Handler::new(Arc::downgrade(&self.0)))
    }

    /// Stops, and closes the database. The log stays as it is on disk.
    pub async fn close(&self) {
        let mut store = self.0.store.lock().await;
        self.0.stop().await;
        if let Some(store) = store.take() {
            store.close().await;
        }
    }
}

impl RaftInner {
    pub fn running(&self) -> Option<Arc<Running>> {
        self.running.read().clone()
    }

    fn parts(&self) -> Result<Arc<Running>, ConsensusError> {
        if let Some(running) = self.running() {
            return Ok(running);
        }
        match &self.log_state.borrow().failed {
            Some(reason) => Err(ConsensusError::Failed { reason: reason.clone() }),
            None => Err(ConsensusError::NoGroup),
        }
    }

    fn set_running(&self, running: Option<Running>) {
        let mut slot = self.running.write();
        *slot = running.map(Arc::new);
    }

    /// Starts what is kept, if anything is.
    async fn take_up(&self, store: &Arc<RaftStore>) -> Result<(), String> {
        let Some(GroupClaim { group, claim }) = store.read(|kept| kept.bond.clone()) else {
            return Ok(());
        };
        let handle = store.handle();
        let (published, applied) = watch::channel(AppliedState::default());
        let machine = Machine::new(handle.clone(), published)?;
        let (me, times) = (Participant { node: self.options.node, claim }, self.options.times);
        let caller =
            Caller { me, group: group.as_str().into(), transport: Arc::clone(&self.transport) };
        let config = Arc::new(times.config(&group).validate().map_err(|error| error.to_string())?);
        let (network, log) = (caller.clone(), LogStore::new(handle));
        // A task of its own, so that openraft's spans do not hang below whoever has called.
        let made = async move { Raft::new(me.number(), config, network, log, machine).await };
        let made = tokio::spawn(made).await.map_err(|error| error.to_string())?;
        let raft = made.map_err(|error| error.to_string())?;
        let parts = Arc::new(RaftContext {
            caller,
            raft,
            store: Arc::clone(store),
            times,
            applied,
            campaign: Notify::new(),
            paused: watch::Sender::new(false),
            incoming: tokio::sync::Mutex::default(),
            arranging: tokio::sync::Mutex::default(),
            heard: Mutex::default(),
            heir: Mutex::default(),
        });
        info!(%group, claim, "the group's log is open");
        // What was shown before is shown again from the first moment on.
        let (metrics, state) = (parts.raft.metrics(), parts.applied.borrow().clone());
        let first = parts.log_state(&metrics.borrow(), &state, None);
        observer::publish(&self.log_state, first);
        let observer = observer::run(Arc::clone(&parts), self.log_state.clone());
        let tasks = vec![
            tokio::spawn(observer).abort_handle(),
            tokio::spawn(elector::run(Arc::clone(&parts))).abort_handle(),
            tokio::spawn(elector::end_pauses(Arc::clone(&parts))).abort_handle(),
        ];
        self.set_running(Some(Running { parts, tasks }));
        Ok(())
    }

    /// Stops what runs, if anything does.
    pub async fn stop(&self) {
        let Some(running) = self.running() else { return };
        self.set_running(None);
        running.tasks.iter().for_each(AbortHandle::abort);
        if timeout(STOP_LIMIT, running.parts.raft.shutdown()).await.is_err() {
            warn!("the group's log did not stop within {STOP_LIMIT:?}");
        }
    }

    /// Puts another group or claim, or none, in the place of what is kept, and starts it.
    async fn change_bond(
        &self,
        bond: Option<&GroupClaim>,
        entries: &[RaftEntry],
    ) -> Result<(), ConsensusError> {
        let held = self.store.lock().await;
        let failed = |reason| ConsensusError::Failed { reason };
        let store = held.as_ref().ok_or_else(|| failed("it is closed".into()))?;
        let is_kept = store.read(|kept| kept.bond.as_ref() == bond);
        if is_kept && (bond.is_none() || self.running().is_some()) {
            return Ok(());
        }
        self.stop().await;
        // What the same participant has kept is never made anew: it may have voted.
        let made = if is_kept {
            store.failure().map_or(Ok(()), Err)
        } else {
            store.replace(bond, entries).await
        };
        let changed = match made {
            Ok(()) => self.take_up(store).await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = changed {
            let state = LogState { failed: Some(reason.clone()), ..LogState::default() };
            observer::publish(&self.log_state, state);
            return Err(failed(reason));
        }
        if bond.is_none() {
            observer::publish(&self.log_state, LogState::default());
        }
        Ok(())
    }

    async fn resume(&self) -> Result<(), ConsensusError> {
        let mut held = self.store.lock().await;
        let is_well = held.as_ref().is_some_and(|store| store.failure().is_none());
        if is_well && self.log_state.borrow().failed.is_none() {
            return Ok(());
        }
        self.stop().await;
        if let Some(store) = held.take() {
            store.close().await;
        }
        let resumed = match RaftStore::open(&self.options, true).await {
            Ok(store) => {
                let store = held.insert(store);
                if store.read(|kept| kept.bond.is_none()) {
                    observer::publish(&self.log_state, LogState::default());
                }
                self.take_up(store).await
            }
            Err(error) => Err(error.to_string()),
        };
        resumed.map_err(|reason| {
            let failed = Some(reason.clone());
            self.log_state.send_modify(|state| state.failed = failed);
            ConsensusError::Failed { reason }
        })
    }
}

impl Consensus for RaftConsensus {
    fn watch(&self) -> watch::Receiver<LogState> {
        self.0.log_state.subscribe()
    }

    fn found(&self, table: GroupTable) -> BoxFuture<'static, Result<(), ConsensusError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let me = inner.options.node;
            let bond = table.claim_of(&me).ok_or(ConsensusError::NoSeat { node: me })?;
            let founder = Participant { node: me, claim: bond.claim };
            inner.change_bond(Some(&bond), &types::first_entries(founder, table)).await?;
            let running = inner.parts()?;
            // Alone it elects itself, and applies what the log starts with.
            let mut metrics = running.parts.raft.metrics();
            let mut log_state = inner.log_state.subscribe();
            let leads = async {
                let _ = metrics.wait_for(|m| m.state.is_leader() || m.running_state.is_err()).await;
                let _ = log_state.wait_for(|s| s.table.is_some() || s.failed.is_some()).await;
            };
            match timeout(inner.options.times.propose_limit, leads).await {
                Err(_) => Err(ConsensusError::Unknown),
                Ok(()) => match &inner.log_state.borrow().failed {
                    Some(reason) => Err(ConsensusError::Failed { reason: reason.clone() }),
                    None => Ok(()),
                },
            }
        })
    }

    fn follow(&self, group: String, claim: u64) -> BoxFuture<'static, Result<(), ConsensusError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.change_bond(Some(&GroupClaim { group, claim }), &[]).await })
    }

    fn propose(
        &self,
        command: TableCommand,
    ) -> BoxFuture<'static, Result<Applied, ConsensusError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let running = inner.parts()?;
            let parts = &running.parts;
            let written = parts.raft.client_write(RaftRecord::Do(command));
            match timeout(parts.times.propose_limit, written).await {
                Err(_) => Err(ConsensusError::Unknown),
                Ok(Ok(written)) => {
                    // Whoever has the answer finds what it says in the state that is watched.
                    let mut state = inner.log_state.subscribe();
                    let shown = state.wait_for(|state| {
                        state.applied >= written.log_id.index || state.failed.is_some()
                    });
                    let _ = timeout(parts.times.propose_limit, shown).await;
                    Ok(written.data)
                }
                Ok(Err(error)) => Err(parts.refusal(error)),
            }
        })
    }

    fn arrange(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> BoxFuture<'static, Result<(), ConsensusError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let running = inner.parts()?;
            let arranged = running.parts.arrange(&voters, &learners);
            let limit = running.parts.times.propose_limit;
            timeout(limit, arranged).await.unwrap_or(Err(ConsensusError::Unknown))
        })
    }

    fn campaign(&self) {
        if let Some(running) = self.0.running() {
            running.parts.campaign.notify_one();
        }
    }

    fn pause_heartbeats(&self, heir: Option<NodeId>) {
        if let Some(running) = self.0.running() {
            running.parts.make_way(heir);
        }
    }

    fn leave(&self) -> BoxFuture<'static, Result<(), ConsensusError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.change_bond(None, &[]).await })
    }

    fn resume(&self) -> BoxFuture<'static, Result<(), ConsensusError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.resume().await })
    }

    fn group(&self) -> Option<String> {
        self.0.running().map(|running| running.parts.group().to_owned())
    }
}
