//! How a worker follows its group: takes up its registers, adopts configurations, leaves a group behind.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tracing::{info, warn};

use super::{
    AdoptionPlan, ReplicaWriter, STORE_PAUSE_US, ShardCommit, WriterCx, WriterNews, WriterState,
    carrying::{carry, forced_without},
};
use nomad_core::{
    group::table::{Configuration, GroupClaim, GroupTable},
    model::{
        hlc,
        node_id::NodeId,
        object::{ObjectId, Version},
    },
    register::{
        Ballot, Home, RegisterEvent, RegisterFate, RegisterOptions, RegisterOutcome, Registers,
        ShardState, fate, is_forced,
    },
};
use nomad_ports::{ObjectStore, object_store::StoreError};

/// How many registers are read at a time.
const PAGE: usize = 1_000;
/// How many objects that have lost their majority are named in the log, of each shard.
const NAMED_MAX: usize = 100;
/// The longest that a worker waits for the clock to pass the versions that an earlier process may have given.
const AHEAD_US_MAX: u64 = 1_000_000;

impl ReplicaWriter {
    /// Takes in what the node knows of its group.
    pub(super) fn on_view(&mut self, cx: &WriterCx<'_>) {
        let view = self.args.view.load_full();
        let this = view.this.node;
        let table = view.group();
        let bond = table.and_then(|table| table.claim_of(&this));
        let (Some(table), Some(bond)) = (table, bond) else {
            self.refuse_early();
            if self.driver.core().is_some() {
                self.start_over(cx, &RegisterOutcome::NotReady);
            }
            return;
        };
        match &self.standing {
            WriterState::Working(of) if *of == bond => {
                let adopted = self.driver.core().as_ref().and_then(Registers::epoch).unwrap_or(0);
                let chain = newer(table, adopted);
                if !chain.is_empty() {
                    self.step(cx, RegisterEvent::Configured { chain });
                    self.begin_early(cx);
                }
            }
            WriterState::Clearing => {}
            _ => {
                self.start_over(cx, &RegisterOutcome::NotReady);
                self.take_up(cx, this, table, bond);
            }
        }
    }

    /// Ends what has waited too long for the registers: nothing of it has begun.
    fn refuse_late(&mut self, cx: &WriterCx<'_>) {
        let now = cx.kit.clock.monotonic();
        for late in self.early.extract_if(.., |early| early.round <= now) {
            late.reply.send(RegisterOutcome::NotReady);
        }
    }

    fn refuse_early(&mut self) {
        for early in self.early.drain(..) {
            early.reply.send(RegisterOutcome::NotReady);
        }
    }

    /// Takes the registers of this shard up, or removes those of another group first.
    fn take_up(
        &mut self,
        cx: &WriterCx<'_>,
        this: NodeId,
        table: &Arc<GroupTable>,
        bond: GroupClaim,
    ) {
        self.refuse_late(cx);
        if let Some(reason) = self.store_refusal() {
            for early in self.early.drain(..) {
                early.reply.send(RegisterOutcome::Declined { reason: reason.clone() });
            }
            return self.look_again(cx);
        }
        match self.args.store.shard_state(self.args.shard) {
            Err(reason) => {
                warn!(shard = self.args.shard, %reason, "the registers' state cannot be read");
                self.look_again(cx);
            }
            Ok(Some(state)) if (&state.group, state.claim) != (&bond.group, bond.claim) => {
                self.clear(cx, this, &state, table);
            }
            Ok(state) => match self.ahead(cx, state.as_ref()) {
                Some(ahead_us) => self.driver.pause_for(cx, ahead_us),
                None => self.work(cx, this, table, bond, state),
            },
        }
    }

    /// Returns how long a worker waits that does not know which of the versions reserved for it an earlier process has given: until
    /// the clock has passed them. Otherwise its versions would lead those of other members, and win over later ones.
    fn ahead(&self, cx: &WriterCx<'_>, state: Option<&ShardState>) -> Option<u64> {
        let reserved = Version { time: state?.version_limit, node: 0 };
        let ahead_us = hlc::at(reserved).0.saturating_sub(cx.kit.clock.wall().0) * 1_000;
        let is_unknown = self.args.given.load(Relaxed) == 0;
        // A clock that was set back is not waited for.
        (is_unknown && (1..=AHEAD_US_MAX).contains(&ahead_us)).then_some(ahead_us)
    }

    /// Removes the registers of an earlier membership. Where its group is no more, what they hold goes into the outbox
    /// first; where it goes on without this node, its other members have it, except for what it went on to by force.
    fn clear(&mut self, cx: &WriterCx<'_>, this: NodeId, state: &ShardState, table: &GroupTable) {
        self.standing = WriterState::Clearing;
        let group = &state.group;
        let is_last = self.args.endings.carries(group, &table.name);
        let forced = match *group == table.name {
            true => forced_without(this, state.configuration.epoch, table),
            false => Vec::new(),
        };
        if !is_last && forced.is_empty() {
            info!(
                shard = self.args.shard,
                group, "the registers of an earlier membership are removed"
            );
            return self.keep(cx, ShardCommit::Wipe, true, None, Vec::new());
        }
        let (store, shard) = (Arc::clone(&self.args.store), self.args.shard);
        let (from, trace) = (Arc::clone(cx.me.name()), cx.cx.trace);
        let (outbox, owed) = (Arc::clone(&self.args.outbox), self.owed(cx, "Carried"));
        tokio::spawn(async move {
            let result = match outbox.get() {
                Some(outbox) => {
                    let is_carried =
                        |id: &ObjectId| is_last || forced.iter().any(|by| is_forced(id, by));
                    carry(store, shard, outbox, &from, trace, is_carried).await
                }
                None => Err(StoreError::Closed),
            };
            owed.pay(WriterNews::of("Carried", result, WriterNews::Carried));
        });
    }

    pub(super) fn on_carried(&mut self, cx: &WriterCx<'_>, count: usize) {
        info!(
            shard = self.args.shard,
            count, "objects of an earlier membership wait to be merged into the group"
        );
        self.keep(cx, ShardCommit::Wipe, true, None, Vec::new());
    }

    fn look_again(&mut self, cx: &WriterCx<'_>) {
        self.driver.pause_for(cx, STORE_PAUSE_US);
    }

    fn work(
        &mut self,
        cx: &WriterCx<'_>,
        this: NodeId,
        table: &Arc<GroupTable>,
        bond: GroupClaim,
        mut state: Option<ShardState>,
    ) {
        let given = self.args.given.load(Relaxed);
        if let Some(state) = state.as_mut().filter(|_| given > 0) {
            // What was reserved beyond it was not given.
            state.version_limit = state.version_limit.min(given);
        }
        self.args.endings.is_member_of(&bond.group);
        let home = Home { node: this, group: bond.group.clone(), claim: bond.claim };
        let adopted = state.as_ref().map(|state| state.configuration.epoch);
        let latest = Some(self.args.store.latest_version());
        let core = Registers::new(home, state, latest, RegisterOptions::default());
        self.standing = WriterState::Working(bond);
        self.driver.start_over(cx, Some(core));
        self.args.gauge.begin(self.args.shard);
        let chain = adopted.map_or_else(|| newest(table), |adopted| newer(table, adopted));
        self.step(cx, RegisterEvent::Configured { chain });
        self.begin_early(cx);
    }

    /// Lists what a configuration means for the registers, once all that was kept before is on disk.
    pub(super) fn list_when_quiet(&mut self, cx: &WriterCx<'_>) {
        if self.keeping > 0 {
            return;
        }
        let Some(state) = self.adopting.take() else { return };
        let this = self.args.view.load().this.node;
        let (store, shard) = (Arc::clone(&self.args.store), self.args.shard);
        let owed = self.owed(cx, "Listed");
        // May read a hundred thousand records: not in a handler.
        tokio::task::spawn_blocking(move || {
            let listed = list(&*store, shard, this, state);
            owed.pay(WriterNews::of("Listed", listed, |plan| WriterNews::Listed(Box::new(plan))));
        });
    }

    pub(super) fn on_listed(&mut self, cx: &WriterCx<'_>, listed: Box<AdoptionPlan>) {
        let AdoptionPlan { state, purge, rescan, forced: (forced, first) } = *listed;
        if forced > 0 {
            let objects = first.iter().map(ObjectId::as_str).collect::<Vec<_>>().join(" ");
            warn!(
                shard = self.args.shard,
                epoch = state.configuration.epoch,
                count = forced,
                objects,
                "objects have lost the majority of their replicas: the newest copy that is left counts"
            );
            self.args.gauge.forced(self.args.shard, forced);
        }
        let writes = purge.into_iter().map(|id| (id, None)).collect();
        let adoption = ShardCommit::Adoption(state.configuration.epoch, rescan);
        self.keep(cx, adoption, false, Some(state), writes);
    }

    pub(super) fn on_adopted(&mut self, cx: &WriterCx<'_>, epoch: u64, rescan: Vec<ObjectId>) {
        self.step(cx, RegisterEvent::Adopted { epoch, rescan });
        // More may have been decided meanwhile.
        self.on_view(cx);
    }

    pub(super) fn on_wiped(&mut self, cx: &WriterCx<'_>) {
        self.standing = WriterState::Idle;
        self.on_view(cx);
    }
}

/// Returns the configurations that follow an epoch.
fn newer(table: &GroupTable, epoch: u64) -> Vec<Configuration> {
    table.chain.iter().filter(|next| next.epoch > epoch).cloned().collect()
}

/// Returns the configuration that a new member starts with.
fn newest(table: &GroupTable) -> Vec<Configuration> {
    vec![table.configuration().clone()]
}

fn list(
    store: &dyn ObjectStore,
    shard: u8,
    this: NodeId,
    state: ShardState,
) -> Result<AdoptionPlan, StoreError> {
    let configuration = state.configuration.clone();
    let (mut purge, mut rescan) = (Vec::new(), Vec::new());
    let mut forced = (0, Vec::new());
    let mut after = None;
    loop {
        let page = store.registers(shard, after.as_ref(), PAGE)?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|head| head.id.clone());
        for head in page {
            // What does not read back may have been accepted.
            let is_accepted = head.accepted != Ballot::NONE || head.is_damaged;
            match fate(&head.id, is_accepted, &configuration, this) {
                RegisterFate::Gone => purge.push(head.id),
                RegisterFate::Rescanned => {
                    if is_forced(&head.id, &configuration) {
                        forced.0 += 1;
                        if forced.1.len() < NAMED_MAX {
                            forced.1.push(head.id.clone());
                        }
                    }
                    rescan.push(head.id);
                }
                RegisterFate::Stays => {}
            }
        }
        if is_last {
            return Ok(AdoptionPlan { state, purge, rescan, forced });
        }
    }
}
