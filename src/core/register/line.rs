//! The queue of one object at this node: the round that runs, the rounds behind it, and reads.

use std::collections::VecDeque;

use super::{
    Ballot, Named, OpId, Past, RegisterOutcome, Value, placement::Places, placement::ReplicaSet,
};
use crate::model::{
    change::Change,
    object::{ObjectId, Version},
    time::MonotonicUs,
    trace::TraceContext,
};

/// A request in hand.
#[derive(Debug)]
pub(super) struct PendingOp {
    pub id: ObjectId,
    pub deadline: MonotonicUs,
    pub trace: TraceContext,
    /// Whether it may have taken effect: then its outcome is unknown when it is given up.
    pub is_offered: bool,
}

/// What a round does to the value that it finds.
#[derive(Debug)]
pub(super) enum RoundTask {
    /// Changes of clients, one after the other.
    Changes(Vec<(OpId, Change)>),
    /// Nothing: reads wait for it.
    Identity,
    /// Keeps the newer of the two.
    Merge(Value),
    /// Makes an expired object a tombstone.
    Expire,
    /// Nothing, at all replicas; then it is dropped.
    Clear(Version),
    /// Nothing, at all replicas that answer.
    Repair,
    /// Nothing, at a quorum of both sets.
    Rescan,
}

/// A task that waits for its turn.
#[derive(Debug)]
pub(super) struct QueuedTask {
    /// `None` for a task of this node's own.
    pub op: Option<OpId>,
    pub task: RoundTask,
}

/// A round.
#[derive(Debug)]
pub(super) struct Round {
    pub task: RoundTask,
    /// Who waits for it, but for [`RoundTask::Changes`], which name them.
    pub ops: Vec<OpId>,
    /// The reads that began before it did: what it ends with is what they find.
    pub readers: Vec<OpId>,
    pub ballot: Ballot,
    pub set: ReplicaSet,
    pub phase: RoundPhase,
    /// Every ballot under which an effect was offered (rule 6).
    pub offers: Vec<OfferedValue>,
    /// Since when a quorum has answered. What is for all replicas waits for the others, for a while.
    pub quorum_since: Option<MonotonicUs>,
    /// How often it has begun.
    pub tries: u32,
    /// How often its messages were sent again.
    pub resends: u32,
    /// When that is due, or the next beginning.
    pub due: MonotonicUs,
    /// The time that it is waited for.
    pub timed: Option<MonotonicUs>,
    pub trace: TraceContext,
    /// Why the last replica has declined something.
    pub declined_for: String,
}

/// Where a round stands.
#[derive(Debug)]
pub(super) enum RoundPhase {
    /// It begins (again) later.
    Parked,
    /// The first one.
    Prepare(PrepareTally),
    /// The second one.
    Accept {
        value: Value,
        past: Past,
        results: Vec<(OpId, RegisterOutcome)>,
        accepted: Places,
        refused: Places,
        /// Those that will never accept it: their stores do not take it.
        declined: Places,
    },
}

/// What the first phase has found.
#[derive(Debug, Default)]
pub(super) struct PrepareTally {
    pub promised: Places,
    pub refused: Places,
    /// Those whose stores do not take the promise, an object, or anything.
    pub declined: Places,
    pub no_objects: Places,
    pub no_writes: Places,
    /// The highest ballot that was accepted, its value, and what led to that.
    pub highest: (Ballot, Value, Past),
    pub floor: Ballot,
    /// Whether all have reported that one.
    pub is_mixed: bool,
}

/// A value that was offered under a ballot, by what it means for those who wait.
#[derive(Debug, Clone)]
pub(super) struct OfferedValue {
    pub ballot: Ballot,
    pub results: Vec<(OpId, RegisterOutcome)>,
}

/// A read that asks a quorum (rule 8).
#[derive(Debug)]
pub(super) struct Query {
    pub number: u64,
    pub readers: Vec<OpId>,
    pub set: ReplicaSet,
    pub answered: Places,
    /// The answers, by their ballots.
    pub answers: Vec<(Ballot, Value, Places)>,
    pub resends: u32,
    pub due: MonotonicUs,
    pub trace: TraceContext,
}

/// All that waits for one object.
#[derive(Debug, Default)]
pub(super) struct ObjectQueue {
    pub round: Option<Box<Round>>,
    pub queue: VecDeque<QueuedTask>,
    pub query: Option<Query>,
    /// Reads that came after the running query had begun: the next one answers them.
    pub readers: Vec<OpId>,
    /// Reads for which no quorum agreed: the next round answers them.
    pub beyond: Vec<OpId>,
}

impl PendingOp {
    /// Returns the name that the client gave the request.
    pub fn name(&self) -> Option<u128> {
        self.trace.name()
    }
}

impl ObjectQueue {
    /// Tells whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.round.is_none()
            && self.queue.is_empty()
            && self.query.is_none()
            && self.readers.is_empty()
            && self.beyond.is_empty()
    }

    /// Takes the next task, and with a change those that follow it, within limits.
    pub fn next_task(
        &mut self,
        count_max: usize,
        bytes_max: usize,
    ) -> Option<(RoundTask, Vec<OpId>)> {
        let QueuedTask { op, mut task } = self.queue.pop_front()?;
        if let RoundTask::Changes(changes) = &mut task {
            self.add_changes(changes, count_max, bytes_max);
            return Some((task, Vec::new()));
        }
        Some((task, op.into_iter().collect()))
    }

    /// Adds the changes that are next in the queue.
    pub fn add_changes(
        &mut self,
        changes: &mut Vec<(OpId, Change)>,
        count_max: usize,
        bytes_max: usize,
    ) {
        let mut bytes: usize = changes.iter().map(|(_, change)| change.value_bytes()).sum();
        while let Some(QueuedTask { task: RoundTask::Changes(next), .. }) = self.queue.front_mut() {
            let more: usize = next.iter().map(|(_, change)| change.value_bytes()).sum();
            if changes.len() + next.len() > count_max || bytes + more > bytes_max {
                return;
            }
            bytes += more;
            changes.append(next);
            self.queue.pop_front();
        }
    }

    /// Forgets a request that has ended.
    pub fn forget(&mut self, op: OpId) {
        self.queue.retain_mut(|waiting| match &mut waiting.task {
            RoundTask::Changes(changes) => {
                changes.retain(|(held, _)| *held != op);
                !changes.is_empty()
            }
            _ => waiting.op != Some(op),
        });
        self.readers.retain(|held| *held != op);
        self.beyond.retain(|held| *held != op);
        if let Some(query) = &mut self.query {
            query.readers.retain(|held| *held != op);
        }
        if let Some(round) = &mut self.round {
            round.forget(op);
        }
    }
}

impl Round {
    /// Makes a round that has not begun.
    pub fn new(task: RoundTask, ops: Vec<OpId>, set: ReplicaSet) -> Self {
        Self {
            task,
            ops,
            readers: Vec::new(),
            ballot: Ballot::NONE,
            set,
            phase: RoundPhase::Parked,
            offers: Vec::new(),
            quorum_since: None,
            tries: 0,
            resends: 0,
            due: MonotonicUs(0),
            timed: None,
            trace: TraceContext::default(),
            declined_for: String::new(),
        }
    }

    /// Stops it until it begins again. What was offered stays in mind.
    pub fn park(&mut self) {
        self.phase = RoundPhase::Parked;
    }

    /// Stops it for this epoch. It begins again in the next one.
    pub fn leave_epoch(&mut self) {
        self.park();
        self.timed = None;
        self.quorum_since = None;
    }

    /// Adds what this round does to the past of its value.
    pub fn mark(&self, past: &mut Past, named: Vec<Named>) {
        if matches!(self.task, RoundTask::Changes(_)) {
            past.add(self.ballot);
            past.name(named);
        }
    }

    /// Tells whether it is for all replicas rather than for a quorum.
    pub fn is_for_all(&self) -> bool {
        matches!(self.task, RoundTask::Clear(_) | RoundTask::Repair)
    }

    /// Tells whether anybody still waits for it.
    pub fn is_wanted(&self) -> bool {
        match &self.task {
            RoundTask::Rescan => true,
            RoundTask::Changes(changes) => !changes.is_empty() || !self.readers.is_empty(),
            _ => !self.ops.is_empty() || !self.readers.is_empty(),
        }
    }

    fn forget(&mut self, op: OpId) {
        if let RoundTask::Changes(changes) = &mut self.task {
            changes.retain(|(held, _)| *held != op);
        }
        self.ops.retain(|held| *held != op);
        self.readers.retain(|held| *held != op);
    }

    /// Returns the places that have answered, and those that have refused.
    pub fn answers(&self) -> (Places, Places) {
        match &self.phase {
            RoundPhase::Parked => (Places::default(), Places::default()),
            RoundPhase::Prepare(found) => (found.promised, found.refused),
            RoundPhase::Accept { accepted, refused, .. } => (*accepted, *refused),
        }
    }
}

impl PrepareTally {
    /// Returns the places whose stores would not take a value.
    pub fn unwilling(&self, value: &Value) -> Places {
        match value {
            Value::Live(_) => self.no_objects.or(self.no_writes),
            Value::Absent | Value::Tombstone(_) => self.no_writes,
        }
    }

    /// Takes one replica's report.
    pub fn add(
        &mut self,
        place: u32,
        (accepted, value, past): (Ballot, Value, Past),
        floor: Ballot,
    ) {
        let is_first = self.promised == Places::default();
        self.promised = self.promised.with(place);
        self.floor = self.floor.max(floor);
        if !is_first && accepted != self.highest.0 {
            self.is_mixed = true;
        }
        if accepted > self.highest.0 {
            self.highest = (accepted, value, past);
        }
    }
}
