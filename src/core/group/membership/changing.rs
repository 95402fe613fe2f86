//! A change of the members that is under way: what it waits for, how it goes on when that never comes (rule 14), and what is
//! told meanwhile to those who want another change.

use std::collections::BTreeSet;

use super::{Denied, Lived, Membership, MembershipReport};
use crate::{
    group::table::{GroupTable, TableCommand},
    model::node_id::NodeId,
};

/// How long a change may take before it counts as one that waits.
const WAITS_US: u64 = 1_000_000;
/// How long an order waits for the change before it. Then it is refused.
const ORDER_US: u64 = 5_000_000;
/// After how long a change that waits is told of as a fault.
const LONG_US: u64 = 15_000_000;
/// How often it is told of from then on.
const AGAIN_US: u64 = 60_000_000;

/// The change under way, as a member has seen it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChangeWatch {
    /// Its joint epoch.
    epoch: u64,
    since: Lived,
    /// When it is told of next.
    tell_at: Lived,
}

impl Membership {
    /// Looks at the change under way, and tells what it waits for: soon, when it takes long, and then now and again.
    pub(super) fn watch_change(&mut self, table: &GroupTable) {
        let (now, epoch) = (self.pace.now(), table.epoch());
        let is_joint = table.configuration().is_joint();
        let Some(seated) = self.seated() else { return };
        if !is_joint {
            seated.change = None;
            return;
        }
        let new = ChangeWatch { epoch, since: now, tell_at: now.plus(WAITS_US) };
        let change = seated.change.filter(|change| change.epoch == epoch).unwrap_or(new);
        seated.change = Some(change);
        if !self.pace.is_due(change.tell_at) {
            return;
        }
        let long_at = change.since.plus(LONG_US);
        let is_long = now >= long_at;
        let tell_at = if is_long { now.plus(AGAIN_US) } else { long_at };
        if let Some(seated) = self.seated() {
            seated.change = Some(ChangeWatch { tell_at, ..change });
        }
        let waits_for = table.unfinished();
        self.report(MembershipReport::ChangeWaits { epoch, waits_for, is_long });
    }

    /// Tells whether a change has been under way for so long.
    fn changes_for(&self, us: u64) -> bool {
        let change = self.seated_ref().and_then(|seated| seated.change);
        change.is_some_and(|change| self.pace.now().since(change.since) >= us)
    }

    /// Returns why no order for another change is taken now: the present one waits.
    pub(super) fn waiting(&self) -> Option<Denied> {
        self.waiting_for(WAITS_US)
    }

    fn waiting_for(&self, us: u64) -> Option<Denied> {
        let table = self.table().filter(|_| self.changes_for(us))?;
        Some(Denied::Table(table.under_way()?))
    }

    /// Gives up an ordered leave that waits too long for the change before it. To go now would leave copies behind that the
    /// change may need. Returns whether this node stays.
    pub(super) fn stays_for_now(&mut self) -> bool {
        let this = self.node();
        if self.table().is_none_or(|table| !table.configuration().members.contains(&this)) {
            // It goes with the present change.
            return false;
        }
        let Some(denied) = self.waiting_for(ORDER_US) else { return false };
        if self.seated().and_then(|seated| seated.leaving.take()).is_some() {
            self.finish_order(Err(denied));
        }
        true
    }

    /// Refuses the orders that wait too long for the change before them. The members that were told to go stay.
    pub(super) fn refuse_late_orders(&mut self, table: &GroupTable) {
        let (Some(denied), Some(lead)) = (self.waiting_for(ORDER_US), &mut self.lead) else {
            return;
        };
        let members = &table.configuration().members;
        let mut late = Vec::new();
        lead.removals.retain(|node, removal| {
            // Who goes with the present change still does. Who is silent, or has gone, is found again.
            let stays = removal.is_guess || !members.contains(node);
            late.append(&mut removal.orders);
            stays
        });
        for request in late {
            self.done(request, Err(denied.clone()));
        }
    }

    /// Goes on with a change that waits for nodes which will not come back: those whose claim is void by their own word, and
    /// those whom nobody has reached for the grace. Whoever lives will finish its rescan and is waited for.
    pub(super) fn run_force(&mut self, table: &GroupTable) {
        let (now, this) = (self.pace.now(), self.node());
        let grace_us = self.config.quorum_loss_grace_us;
        let change = self.seated_ref().and_then(|seated| seated.change);
        let (Some(change), Some(lead)) = (change, &self.lead) else { return };
        let configuration = table.configuration();
        if grace_us == 0 || change.epoch != configuration.epoch {
            return;
        }
        // Who led before may have reached others.
        let since = change.since.max(lead.since);
        let is_gone = |node: &NodeId| {
            let Some(seat) = table.seats.get(node).filter(|_| *node != this) else { return false };
            let reached = self.watch.reached_at(*node, now).unwrap_or(since);
            lead.void.contains(&(*node, seat.claim)) || now.since(reached.max(since)) >= grace_us
        };
        let lost: BTreeSet<_> = configuration.everybody().into_iter().filter(is_gone).collect();
        let stays = configuration.members.contains(&this) || configuration.members.is_subset(&lost);
        if stays && configuration.needs_force(&lost) {
            let epoch = configuration.epoch;
            self.propose_change(TableCommand::Force { epoch, lost, by: this });
        }
    }
}
