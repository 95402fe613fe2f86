//! Compares what the ledger has about a member with what the member says, and corrects the differences. One member at a time.

use super::{Bookkeeper, HELD_MAX, LedgerEffect, LedgerPeer, NoAnswer, Now, Ticket};
use crate::{
    ledger::{Inventory, LIMIT_ENTRIES, LedgerAnswer, LedgerRequest},
    model::{node_id::NodeId, object::ObjectId, time::MonotonicUs},
    repair::digest::{BUCKETS, BucketSet, Sum, bucket_of},
};

/// How soon a comparison is tried again that came at the wrong moment.
const AGAIN_US: u64 = 300_000;
/// How soon a member is asked again that has not answered.
const UNANSWERED_US: u64 = 5_000_000;
/// How often a comparison waits for notices that are missing, before it takes them for lost.
const TRIES_MAX: u32 = 3;
/// The longest pause between comparisons, as a multiple of the usual one.
const PATIENCE_MAX: u32 = 16;

/// A comparison that is under way.
#[derive(Debug)]
pub(super) struct Correction {
    pub member: NodeId,
    ticket: Ticket,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Root,
    Buckets,
    Inventory { buckets: BucketSet, after: Option<ObjectId> },
}

/// How a comparison has ended.
enum End {
    /// There was no difference.
    Equal,
    /// What differed was put right.
    Corrected,
    /// Notices are under way, or the member does not know yet.
    WrongMoment,
    /// There was no answer, or a wrong one.
    Failed,
}

impl Bookkeeper {
    /// Begins the comparison that is due.
    pub(super) fn correct_on(&mut self, now: MonotonicUs) {
        if self.correction.is_some() {
            return;
        }
        let first = self.peers.iter().min_by_key(|(_, peer)| peer.due);
        let Some((&member, _)) = first.filter(|(_, peer)| peer.due <= now) else { return };
        self.ask(member, Stage::Root);
    }

    fn ask(&mut self, member: NodeId, stage: Stage) {
        let Some(group) = self.site.as_ref().map(|site| site.group.clone()) else { return };
        let question = match &stage {
            Stage::Root => LedgerRequest::Root { group },
            Stage::Buckets => LedgerRequest::Buckets { group },
            Stage::Inventory { buckets, after } => {
                LedgerRequest::Inventory { group, buckets: *buckets, after: after.clone() }
            }
        };
        let ticket = self.ticket();
        self.correction = Some(Correction { member, ticket, stage });
        self.out.push(LedgerEffect::Ask { ticket, to: member, question });
    }

    pub(super) fn on_answered(
        &mut self,
        now: Now,
        ticket: Ticket,
        answer: Result<LedgerAnswer, NoAnswer>,
    ) {
        let Some(Correction { member, stage, .. }) =
            self.correction.take_if(|under_way| under_way.ticket == ticket)
        else {
            return;
        };
        let end = match (stage, answer) {
            (Stage::Root, Ok(LedgerAnswer::Root { life, seq, root })) => {
                self.on_root(now, member, (life, seq, root))
            }
            (Stage::Buckets, Ok(LedgerAnswer::Buckets { life, seq, buckets })) => {
                self.on_buckets(now, member, (life, seq, &buckets))
            }
            (Stage::Inventory { buckets, after }, Ok(LedgerAnswer::Inventory(part))) => {
                self.on_inventory(now, member, (buckets, after), part)
            }
            (_, Ok(LedgerAnswer::NotYet)) => Some(End::WrongMoment),
            _ => Some(End::Failed),
        };
        if let (Some(end), Some(peer)) = (end, self.peers.get_mut(&member)) {
            peer.end(now.monotonic, end, self.cleanup_us);
        }
    }

    fn on_root(
        &mut self,
        now: Now,
        member: NodeId,
        (life, seq, root): (u64, u64, Sum),
    ) -> Option<End> {
        let peer = self.peers.get_mut(&member)?;
        if !peer.is_level(life, seq) {
            return Some(End::WrongMoment);
        }
        if self.ledger.digest(&member)?.root() == root {
            return Some(End::Equal);
        }
        self.changed_at = now.monotonic;
        self.ask(member, Stage::Buckets);
        None
    }

    fn on_buckets(
        &mut self,
        _: Now,
        member: NodeId,
        (life, seq, buckets): (u64, u64, &[Sum]),
    ) -> Option<End> {
        let peer = self.peers.get_mut(&member)?;
        if !peer.is_level(life, seq) {
            return Some(End::WrongMoment);
        }
        match self.ledger.digest(&member)?.differing(buckets) {
            None => Some(End::Failed),
            Some(buckets) if buckets.is_empty() => Some(End::Equal),
            Some(buckets) => {
                self.ask(member, Stage::Inventory { buckets, after: None });
                None
            }
        }
    }

    fn on_inventory(
        &mut self,
        now: Now,
        member: NodeId,
        (buckets, after): (BucketSet, Option<ObjectId>),
        part: Inventory,
    ) -> Option<End> {
        let held = self.ledger.digest(&member)?.root().count;
        if !is_in_order(&part, &buckets, after.as_ref()) || held > HELD_MAX {
            return Some(End::Failed);
        }
        let Inventory { entries, next } = part;
        let first = after.as_ref().map_or(0, |id| bucket_of(id.as_str()));
        let last = next.as_ref().map_or(BUCKETS - 1, |id| bucket_of(id.as_str()));
        let mut entries = entries.into_iter().peekable();
        let mut corrected = 0;
        for bucket in (first..=last).filter(|bucket| buckets.contains(*bucket)) {
            let mut of_bucket = Vec::new();
            while let Some(held) = entries.next_if(|held| bucket_of(held.id.as_str()) == bucket) {
                of_bucket.push(held);
            }
            let from = after.as_ref().filter(|_| bucket == first);
            let until = next.as_ref().filter(|_| bucket == last);
            corrected += self.ledger.reconcile(member, bucket..bucket + 1, from, until, of_bucket);
        }
        self.standing.corrected += corrected as u64;
        self.changed_at = now.monotonic;
        if next.is_some() {
            self.ask(member, Stage::Inventory { buckets, after: next });
            return None;
        }
        Some(End::Corrected)
    }
}

/// Checks what another node gave: within the buckets, in the ledger's order, and going on.
fn is_in_order(part: &Inventory, buckets: &BucketSet, after: Option<&ObjectId>) -> bool {
    let place = |id: &ObjectId| (bucket_of(id.as_str()), id.clone());
    let mut last = after.map(place);
    if part.entries.len() > LIMIT_ENTRIES {
        return false;
    }
    for held in &part.entries {
        let here = place(&held.id);
        if !buckets.contains(here.0) || last.as_ref().is_some_and(|last| here <= *last) {
            return false;
        }
        last = Some(here);
    }
    let goes_on = |next: &ObjectId| {
        let (next, start) = (place(next), after.map(place));
        Some(&next) >= last.as_ref() && Some(&next) > start.as_ref()
    };
    part.next.as_ref().is_none_or(goes_on)
}

impl LedgerPeer {
    /// Tells whether all notices up to this one have been taken, and no later one: then the digests can be compared. Those
    /// that do not come are taken for lost.
    fn is_level(&mut self, life: u64, seq: u64) -> bool {
        if self.life == Some(life) && self.seq != seq && self.tries < TRIES_MAX {
            return false;
        }
        if self.life == Some(life) && self.seq > seq {
            return false;
        }
        (self.life, self.seq, self.tries) = (Some(life), seq, 0);
        true
    }

    fn end(&mut self, now: MonotonicUs, end: End, cleanup_us: u64) {
        let pause = match end {
            End::WrongMoment => {
                self.tries = self.tries.saturating_add(1);
                AGAIN_US * u64::from(self.tries.min(8))
            }
            End::Failed => UNANSWERED_US.min(cleanup_us),
            End::Equal => {
                (self.complete, self.patience, self.tries) = (true, 1, 0);
                cleanup_us
            }
            End::Corrected => {
                let is_first = !std::mem::replace(&mut self.complete, true);
                self.tries = 0;
                if !is_first {
                    self.patience = (self.patience * 2).min(PATIENCE_MAX);
                }
                cleanup_us.saturating_mul(u64::from(self.patience))
            }
        };
        self.due = now.plus_us(pause);
    }
}
