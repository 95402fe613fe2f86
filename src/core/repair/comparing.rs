//! Compares the registers that this node shares with one other member: first the sums, then the buckets, then the registers of
//! the buckets that differ, part by part. A register that differs is compared once more at the end: it may just have been
//! written.

use std::collections::{BTreeSet, VecDeque};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    HEADS_MAX, NoAnswer, Now, RegisterCursor, RepairAnswer, RepairEffect, RepairRequest,
    ReplicaHead, Scope, SharedPart, SharedRegister, Survey, Sweeper, Ticket,
    running::{Reason, RepairTask},
};
use crate::{
    model::{node_id::NodeId, object::ObjectId, pause},
    register::RegisterOrder,
    repair::digest::{BucketSet, Digest},
};

/// The most registers that differ and are not looked at again yet.
const CANDIDATES_MAX: usize = 1_024;
/// How soon a comparison that was not finished is begun again, at first.
const AGAIN_US: u64 = 5_000_000;

/// One side of a walk.
#[derive(Debug, Default)]
struct Side {
    registers: VecDeque<SharedRegister>,
    /// Where the next part begins; `None` = there is none.
    next: Option<RegisterCursor>,
    asked: Option<Ticket>,
}

impl Side {
    fn begin() -> Self {
        Self { next: Some(RegisterCursor::default()), ..Self::default() }
    }

    /// Takes the part that was asked for, if it is one.
    fn take(&mut self, part: SharedPart) -> Result<(), NoAnswer> {
        let from = self.next.take().unwrap_or_default();
        if !part.is_in_order(&from) {
            return Err(NoAnswer);
        }
        self.registers.extend(part.registers);
        self.next = part.next;
        Ok(())
    }

    /// Returns where the next part begins, if it is wanted now.
    fn wants(&self) -> Option<RegisterCursor> {
        self.next.clone().filter(|_| self.registers.is_empty() && self.asked.is_none())
    }

    /// Tells whether it is known what comes next on this side, or that nothing comes.
    fn is_known(&self) -> bool {
        !self.registers.is_empty() || self.next.is_none()
    }
}

/// A second look at registers that differ.
#[derive(Debug)]
struct Look {
    ids: Vec<ObjectId>,
    own_ticket: Ticket,
    other_ticket: Ticket,
    own: Option<Vec<Option<ReplicaHead>>>,
    other: Option<Vec<Option<ReplicaHead>>>,
}

#[derive(Debug)]
enum Stage {
    Surveying(Ticket),
    Asking(Ticket, Box<Digest>),
    Walking(Box<Walk>),
}

#[derive(Debug)]
struct Walk {
    buckets: BucketSet,
    own: Side,
    other: Side,
    /// In an order of this node's own: when several members see the same differences, each begins with others, and finds
    /// many repaired when it comes to them.
    candidates: BTreeSet<(u64, ObjectId)>,
    seed: u64,
    look: Option<Look>,
}

impl Walk {
    fn new(buckets: BucketSet, seed: u64) -> Self {
        let (own, other) = (Side::begin(), Side::begin());
        Self { buckets, own, other, candidates: BTreeSet::new(), seed, look: None }
    }

    /// Compares both sides as far as both are known.
    fn merge(&mut self) {
        while self.own.is_known() && self.other.is_known() && self.candidates.len() < CANDIDATES_MAX
        {
            let (own, other) = (&mut self.own.registers, &mut self.other.registers);
            let place = |side: &VecDeque<SharedRegister>| {
                side.front().map(|shared| RegisterCursor::of(&shared.id))
            };
            let differs = match (place(own), place(other)) {
                (None, None) => return,
                (Some(_), None) => own.pop_front(),
                (None, Some(_)) => other.pop_front(),
                (Some(here), Some(there)) if here < there => own.pop_front(),
                (Some(here), Some(there)) if here > there => other.pop_front(),
                (Some(_), Some(_)) => {
                    let (one, another) = (own.pop_front(), other.pop_front());
                    if one == another { None } else { one }
                }
            };
            let place = |id: &ObjectId| xxh3_64_with_seed(id.as_str().as_bytes(), self.seed);
            self.candidates.extend(differs.map(|shared| (place(&shared.id), shared.id)));
        }
    }

    fn is_over(&self) -> bool {
        let at_end = |side: &Side| side.registers.is_empty() && side.next.is_none();
        at_end(&self.own)
            && at_end(&self.other)
            && self.candidates.is_empty()
            && self.look.is_none()
    }
}

/// A comparison that is under way.
#[derive(Debug)]
pub(super) struct Comparison {
    pub with: NodeId,
    stage: Stage,
}

impl Comparison {
    /// Returns how many registers are known to differ and were not looked at again yet.
    pub fn candidates(&self) -> usize {
        match &self.stage {
            Stage::Walking(walk) => {
                walk.candidates.len() + walk.look.as_ref().map_or(0, |look| look.ids.len())
            }
            _ => 0,
        }
    }
}

/// How a comparison has ended.
enum End {
    Equal,
    Walked,
    Interrupted,
}

impl Sweeper {
    /// Begins the comparison that is due, or goes on with the one that is under way.
    pub(super) fn compare_on(&mut self, now: Now) {
        if self.comparison.is_some() {
            self.walk_on(now);
            return;
        }
        let reachable = self.due.iter().filter(|(node, _)| self.alive.contains(node));
        let Some((with, due)) = reachable.min_by_key(|(_, due)| due.at).map(|(n, d)| (*n, *d))
        else {
            return;
        };
        let Some(scope) = self.scope.clone().filter(|_| due.at <= now.monotonic) else { return };
        let ticket = self.ticket();
        self.comparison = Some(Comparison { with, stage: Stage::Surveying(ticket) });
        self.out.push(RepairEffect::Survey { ticket, scope, alive: self.alive.clone() });
    }

    pub(super) fn on_surveyed(
        &mut self,
        now: Now,
        ticket: Ticket,
        survey: Result<Survey, NoAnswer>,
    ) {
        let Some(survey) = self.on_survey_for_burials(now, ticket, survey) else { return };
        let Some(Comparison { with, stage: Stage::Surveying(of) }) = self.comparison else {
            return;
        };
        if of != ticket {
            return;
        }
        let digest = survey.ok().and_then(|mut survey| survey.shared.remove(&with));
        let (Some(digest), Some(scope)) = (digest, self.scope.clone()) else {
            return self.end_comparison(now, End::Interrupted);
        };
        let Scope { group, epoch, .. } = scope;
        let question = RepairRequest::Compare { group, epoch, root: digest.root() };
        let ticket = self.ticket();
        self.comparison = Some(Comparison { with, stage: Stage::Asking(ticket, Box::new(digest)) });
        self.out.push(RepairEffect::Ask { ticket, to: with, question });
    }

    pub(super) fn on_answered(
        &mut self,
        now: Now,
        ticket: Ticket,
        answer: Result<RepairAnswer, NoAnswer>,
    ) {
        let Some(answer) = self.on_watermark(now, ticket, answer) else { return };
        let Some(comparison) = &mut self.comparison else { return };
        let end = match &mut comparison.stage {
            Stage::Asking(of, digest) if *of == ticket => match answer {
                Ok(RepairAnswer::Equal) => Some(End::Equal),
                Ok(RepairAnswer::Buckets(buckets)) => match digest.differing(&buckets) {
                    None => Some(End::Interrupted),
                    Some(differing) if differing.is_empty() => Some(End::Equal),
                    Some(differing) => {
                        let seed = self.scope.as_ref().map_or(0, |scope| scope.this.tag());
                        comparison.stage = Stage::Walking(Box::new(Walk::new(differing, seed)));
                        None
                    }
                },
                _ => Some(End::Interrupted),
            },
            Stage::Walking(walk) if walk.other.asked == Some(ticket) => {
                walk.other.asked = None;
                let Ok(RepairAnswer::Part(part)) = answer else {
                    return self.end_comparison(now, End::Interrupted);
                };
                walk.other.take(part).err().map(|_| End::Interrupted)
            }
            Stage::Walking(walk) => {
                let Some(look) = walk.look.as_mut().filter(|look| look.other_ticket == ticket)
                else {
                    return;
                };
                match answer {
                    Ok(RepairAnswer::Heads(heads)) if heads.len() == look.ids.len() => {
                        look.other = Some(heads);
                        None
                    }
                    _ => Some(End::Interrupted),
                }
            }
            _ => return,
        };
        match end {
            Some(end) => self.end_comparison(now, end),
            None => self.walk_on(now),
        }
    }

    pub(super) fn on_walked(
        &mut self,
        now: Now,
        ticket: Ticket,
        part: Result<SharedPart, NoAnswer>,
    ) {
        let Some(Comparison { stage: Stage::Walking(walk), .. }) = &mut self.comparison else {
            return;
        };
        if walk.own.asked != Some(ticket) {
            return;
        }
        walk.own.asked = None;
        match part.and_then(|part| walk.own.take(part)) {
            Ok(()) => self.walk_on(now),
            Err(NoAnswer) => self.end_comparison(now, End::Interrupted),
        }
    }

    pub(super) fn on_looked(
        &mut self,
        now: Now,
        ticket: Ticket,
        heads: Result<Vec<Option<ReplicaHead>>, NoAnswer>,
    ) {
        let Some(Comparison { stage: Stage::Walking(walk), .. }) = &mut self.comparison else {
            return;
        };
        let Some(look) = walk.look.as_mut().filter(|look| look.own_ticket == ticket) else {
            return;
        };
        match heads {
            Ok(heads) if heads.len() == look.ids.len() => look.own = Some(heads),
            _ => self.end_comparison(now, End::Interrupted),
        }
    }

    /// Does what can be done about a walk now.
    fn walk_on(&mut self, now: Now) {
        self.finish_look(now);
        let Some(Comparison { with, stage: Stage::Walking(walk) }) = &mut self.comparison else {
            return;
        };
        walk.merge();
        if walk.is_over() {
            return self.end_comparison(now, End::Walked);
        }
        let (with, buckets) = (*with, walk.buckets);
        let (own, other) = (walk.own.wants(), walk.other.wants());
        // The look comes right before the rounds.
        let is_near = self.running.count(Reason::Differs) < HEADS_MAX;
        let looks = walk.look.is_none() && is_near && self.running.room() >= HEADS_MAX;
        let mut ids = Vec::new();
        while looks && ids.len() < HEADS_MAX {
            let Some((_, id)) = walk.candidates.pop_first() else { break };
            ids.push(id);
        }
        let Some(scope) = self.scope.clone() else { return };
        let (group, epoch) = (scope.group.clone(), scope.epoch);
        let tickets = [self.ticket(), self.ticket(), self.ticket(), self.ticket()];
        let [own_ticket, other_ticket, own_look, other_look] = tickets;
        let Some(Comparison { stage: Stage::Walking(walk), .. }) = &mut self.comparison else {
            return;
        };
        if let Some(from) = own {
            walk.own.asked = Some(own_ticket);
            self.out.push(RepairEffect::Walk {
                ticket: own_ticket,
                scope,
                other: with,
                buckets,
                from,
            });
        }
        if let Some(from) = other {
            walk.other.asked = Some(other_ticket);
            let question = RepairRequest::Walk { group: group.clone(), epoch, buckets, from };
            self.out.push(RepairEffect::Ask { ticket: other_ticket, to: with, question });
        }
        if !ids.is_empty() {
            self.out.push(RepairEffect::Look { ticket: own_look, ids: ids.clone() });
            let question = RepairRequest::Heads { group, epoch, ids: ids.clone() };
            self.out.push(RepairEffect::Ask { ticket: other_look, to: with, question });
            let (own_ticket, other_ticket) = (own_look, other_look);
            walk.look = Some(Look { ids, own_ticket, other_ticket, own: None, other: None });
        }
    }

    /// Wants a round for each register that still differs after a second look.
    fn finish_look(&mut self, now: Now) {
        let Some(Comparison { stage: Stage::Walking(walk), .. }) = &mut self.comparison else {
            return;
        };
        let is_ready = |look: &mut Look| look.own.is_some() && look.other.is_some();
        let Some(look) = walk.look.take_if(is_ready) else { return };
        let (own, other) = (look.own.unwrap_or_default(), look.other.unwrap_or_default());
        let others = self.scope.as_ref().map_or(0, |scope| {
            u64::from(scope.replication_factor).min(scope.members.len() as u64).saturating_sub(1)
        });
        for ((id, own), other) in look.ids.into_iter().zip(own).zip(other) {
            let accepted = |seen: Option<ReplicaHead>| seen.map(|seen| seen.accepted);
            if accepted(own) == accepted(other) {
                continue;
            }
            let bytes = |seen: Option<ReplicaHead>| seen.map_or(0, |seen| seen.value_bytes);
            // A promise and an acceptance of each other replica carry the value.
            let bytes = bytes(own).max(bytes(other)).saturating_mul(2 * others).min(1 << 32);
            self.status.differing += 1;
            let (order, reason, since) = (RegisterOrder::Repair, Reason::Differs, now.wall);
            self.running.want(RepairTask {
                id,
                order,
                reason,
                bytes,
                epoch: None,
                since,
                tries: 0,
            });
        }
    }

    fn end_comparison(&mut self, now: Now, end: End) {
        let Some(Comparison { with, .. }) = self.comparison.take() else { return };
        let interval = self.options.interval_us;
        let Some(due) = self.due.get_mut(&with) else { return };
        if matches!(end, End::Interrupted) {
            self.status.interrupted += 1;
            due.failures = due.failures.saturating_add(1);
            let pause = pause::doubled(AGAIN_US, due.failures, interval.max(AGAIN_US));
            due.at = now.monotonic.plus_us(pause);
            return;
        }
        self.status.compared += 1;
        self.status.equal += u64::from(matches!(end, End::Equal));
        self.status.last_compared = Some(now.wall);
        due.failures = 0;
        due.at = now.monotonic.plus_us(interval);
    }
}
