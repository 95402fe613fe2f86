//! Owns this node's part in the group's log: carries out what membership decides about it, one task at a time per kind.
//!
//! The table itself is what the log says; `core::table` applies it. Nothing is decided here.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use strum::IntoStaticStr;
use tokio::task::JoinSet;

use super::{
    driver::Owed,
    membership::MembershipMsg,
    recorder::Outcome,
    shell::{ActorMessage, Described, Handled, Handling, Worker},
};
use nomad_core::{
    group::{
        membership::{MembershipEvent, ProposeFailure},
        table::{GroupTable, TableCommand},
    },
    machine::Ticket,
    model::node_id::NodeId,
};
use nomad_ports::{Consensus, consensus::ConsensusError};

/// How soon a log whose store has failed is tried again.
const RESUME: Duration = Duration::from_secs(5);

// ---- messages ----

/// A task whose end membership waits for.
#[derive(Debug, IntoStaticStr)]
pub enum LogTask {
    /// Write an entry.
    Propose {
        /// Named by the answer.
        ticket: Ticket,
        /// The entry.
        command: TableCommand,
    },
    /// Set who votes and who follows.
    Arrange {
        /// Named by the answer.
        ticket: Ticket,
        /// Who votes.
        voters: BTreeSet<NodeId>,
        /// Who follows.
        learners: BTreeSet<NodeId>,
    },
    /// Start the log of a new group.
    Found {
        /// Named by the answer.
        ticket: Ticket,
        /// Its table.
        table: Box<GroupTable>,
    },
    /// Make ready to be fed.
    Follow {
        /// Named by the answer.
        ticket: Ticket,
        /// The group.
        group: String,
        /// The claim under which it took this node in.
        claim: u64,
    },
    /// Stop, and delete the log.
    Leave {
        /// Named by the answer.
        ticket: Ticket,
    },
}

/// What the group table can be told.
#[derive(Debug, IntoStaticStr)]
pub enum GroupTableMsg {
    /// Tell: carry this out.
    Log {
        /// What.
        task: Box<LogTask>,
        /// Who waits for its end.
        owed: Box<Owed<MembershipMsg>>,
    },
    /// Tell: start an election.
    Campaign,
    /// Tell: stop the heartbeats, or start them again.
    PauseHeartbeats(Option<NodeId>),
    /// Timer: look whether the log's store has failed.
    Look,
}

impl Described for GroupTableMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Log { task, .. } => (&**task).into(),
            other => other.into(),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Log { task, .. } => format!("{task:?}"),
            Self::Campaign | Self::PauseHeartbeats(_) | Self::Look => format!("{self:?}"),
        }
    }
}

impl ActorMessage for GroupTableMsg {}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct GroupTableArgs {
    /// The log. It outlives the actor.
    pub consensus: Arc<dyn Consensus>,
}

// ---- state ----

/// The actor. Its tasks end with it, and with them what they owe.
pub struct GroupTableActor {
    consensus: Arc<dyn Consensus>,
    tasks: JoinSet<()>,
}

// ---- handler ----

impl Worker for GroupTableActor {
    type Msg = GroupTableMsg;
    type Args = GroupTableArgs;

    fn start(args: &GroupTableArgs, cx: &Handling<'_, GroupTableMsg>) -> Result<Self, String> {
        cx.tick_after(RESUME, GroupTableMsg::Look);
        Ok(Self { consensus: Arc::clone(&args.consensus), tasks: JoinSet::new() })
    }

    fn handle(&mut self, cx: &Handling<'_, Self::Msg>, message: Self::Msg) -> Handled {
        while self.tasks.try_join_next().is_some() {}
        match message {
            GroupTableMsg::Log { task, owed } => {
                let consensus = Arc::clone(&self.consensus);
                self.tasks.spawn(async move { owed.pay(run(&*consensus, *task).await) });
                Ok(Outcome::Done("begun"))
            }
            GroupTableMsg::Campaign => {
                self.consensus.campaign();
                Ok(Outcome::Done("begun"))
            }
            GroupTableMsg::PauseHeartbeats(heir) => {
                self.consensus.pause_heartbeats(heir);
                Ok(Outcome::Done(if heir.is_some() { "paused" } else { "resumed" }))
            }
            GroupTableMsg::Look => {
                cx.tick_after(RESUME, GroupTableMsg::Look);
                if self.consensus.watch().borrow().failed.is_none() {
                    return Ok(Outcome::Done("the log is well"));
                }
                let consensus = Arc::clone(&self.consensus);
                self.tasks.spawn(async move {
                    if let Err(error) = consensus.resume().await {
                        tracing::error!(%error, "the group's log cannot be opened; trying again");
                    }
                });
                Ok(Outcome::Done("the log is opened again"))
            }
        }
    }
}

async fn run(consensus: &dyn Consensus, task: LogTask) -> MembershipEvent {
    match task {
        LogTask::Propose { ticket, command } => {
            let outcome = consensus.propose(command).await.map_err(|error| match error {
                ConsensusError::NotLeader { .. } => ProposeFailure::NotLeader,
                ConsensusError::Unknown => ProposeFailure::Unknown,
                ConsensusError::NoGroup
                | ConsensusError::NoSeat { .. }
                | ConsensusError::Failed { .. } => ProposeFailure::NoLog,
            });
            MembershipEvent::Proposed { ticket, outcome }
        }
        LogTask::Arrange { ticket, voters, learners } => {
            let done = consensus.arrange(voters, learners).await.is_ok();
            MembershipEvent::Arranged { ticket, done }
        }
        LogTask::Found { ticket, table } => ready(ticket, consensus.found(*table).await),
        LogTask::Follow { ticket, group, claim } => {
            ready(ticket, consensus.follow(group, claim).await)
        }
        LogTask::Leave { ticket } => ready(ticket, consensus.leave().await),
    }
}

fn ready(ticket: Ticket, done: Result<(), ConsensusError>) -> MembershipEvent {
    if let Err(error) = &done {
        tracing::error!(%error, "the group's log is not ready");
    }
    MembershipEvent::LogReady { ticket, done: done.is_ok() }
}
