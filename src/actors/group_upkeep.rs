//! The actors that look after the objects of the node's group, and how they are wired to those that keep them: the ledger,
//! which hears what this node holds, and repair, which has rounds run.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use super::{
    group_view::GroupView,
    ledger::{self, HoldsListener, LedgerActor, LedgerDoor, LedgerGauge, LedgerMsg},
    outbox::OutboxMsg,
    repair_sweeper::{self, RepairDoor, RepairGauge, RepairSweeper, RepairSweeperMsg},
    replica_writer::Writers,
    shell::{Address, Context, Kit, worker},
    supervisor::ChildSpec,
};
use nomad_core::{
    model::{
        object::{ObjectId, Version},
        time::MonotonicUs,
        trace::TraceContext,
    },
    register::{RegisterOrder, RegisterOutcome},
};
use nomad_ports::{Clock, ObjectStore, PeerTransport, Rounds};

/// How long the outbox may take to make its promise durable.
const FLOOR_LIMIT_US: u64 = 5_000_000;

/// What both are made with.
#[derive(Clone)]
pub struct Upkeep {
    /// What all actors share.
    pub kit: Kit,
    /// The name of their supervisor.
    pub supervisor: &'static str,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The way to the other members.
    pub transport: Arc<dyn PeerTransport>,
    /// The node and its group.
    pub view: GroupView,
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upkeep(below {})", self.supervisor)
    }
}

/// The ledger, not running yet, and the ways to it.
pub struct LedgerParts {
    /// How its supervisor starts it.
    pub child: ChildSpec,
    /// The actor.
    pub ledger: Address<LedgerMsg>,
    /// How the objects stand.
    pub gauge: Arc<LedgerGauge>,
    /// Is told what this node holds after each change.
    pub holds: HoldsListener,
    /// Where the other members' messages come in.
    pub door: Arc<LedgerDoor>,
}

impl fmt::Debug for LedgerParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LedgerParts")
    }
}

/// Repair, not running yet, and the ways to it.
pub struct RepairParts {
    /// How its supervisor starts it.
    pub child: ChildSpec,
    /// The actor.
    pub sweeper: Address<RepairSweeperMsg>,
    /// What it has done.
    pub gauge: Arc<RepairGauge>,
    /// Where the other members' questions come in.
    pub door: Arc<RepairDoor>,
}

impl fmt::Debug for RepairParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RepairParts")
    }
}

impl Upkeep {
    /// Makes the ledger, which compares digests and removes what has expired every `cleanup` (`schedule.ledgerCleanup`).
    pub fn ledger(&self, cleanup: Duration) -> LedgerParts {
        let gauge = Arc::<LedgerGauge>::default();
        let args = ledger::LedgerArgs {
            store: Arc::clone(&self.store),
            transport: Arc::clone(&self.transport),
            view: Arc::clone(&self.view),
            cleanup,
            gauge: Arc::clone(&gauge),
        };
        let (ledger, child) = worker::<LedgerActor>(&self.kit, "ledger", self.supervisor, args);
        let holds = ledger::holds_listener(ledger.clone());
        let door = Arc::new(LedgerDoor::new(self.kit.clone(), ledger.clone()));
        LedgerParts { child, ledger, gauge, holds, door }
    }

    /// Makes repair, which compares with the other members every `repair` (`schedule.repair`), and looks for expired objects
    /// every `cleanup` (`schedule.dbCleanup`).
    pub fn repair(
        &self,
        writers: Writers,
        outbox: Address<OutboxMsg>,
        (repair, cleanup): (Duration, Duration),
    ) -> RepairParts {
        let gauge = Arc::<RepairGauge>::default();
        let clock = Arc::clone(&self.kit.clock);
        let args = repair_sweeper::RepairSweeperArgs {
            store: Arc::clone(&self.store),
            transport: Arc::clone(&self.transport),
            view: Arc::clone(&self.view),
            rounds: Arc::new(GroupRounds { writers, outbox, clock, from: "repair_sweeper".into() }),
            options: repair_sweeper::options(repair, cleanup),
            gauge: Arc::clone(&gauge),
        };
        let (sweeper, child) =
            worker::<RepairSweeper>(&self.kit, "repair_sweeper", self.supervisor, args);
        let door = Arc::new(RepairDoor::new(self.kit.clone(), sweeper.clone()));
        RepairParts { child, sweeper, gauge, door }
    }
}

/// The rounds of this node, by its workers.
struct GroupRounds {
    writers: Writers,
    outbox: Address<OutboxMsg>,
    clock: Arc<dyn Clock>,
    from: Arc<str>,
}

impl Rounds for GroupRounds {
    fn run(
        &self,
        id: ObjectId,
        order: RegisterOrder,
        trace: TraceContext,
        deadline: MonotonicUs,
    ) -> BoxFuture<'static, RegisterOutcome> {
        let (writers, from) = (self.writers.clone(), Arc::clone(&self.from));
        Box::pin(async move {
            let cx = Context { trace, deadline: Some(deadline) };
            writers.outcome(&from, cx, &id, order).await
        })
    }

    fn floor(&self) -> BoxFuture<'static, Option<Version>> {
        let (outbox, from) = (self.outbox.clone(), Arc::clone(&self.from));
        let deadline = Some(self.clock.monotonic().plus_us(FLOOR_LIMIT_US));
        Box::pin(async move {
            let cx = Context { deadline, ..Context::default() };
            let asked = outbox.ask(&from, cx, |reply| OutboxMsg::Floor { reply }).await;
            asked.ok().and_then(Result::ok)
        })
    }
}
