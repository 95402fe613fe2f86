//! What a membership tells others: announcements, links to keep, reports. Each is sent when it changes.

use std::collections::BTreeMap;

use super::{
    Lived, MemberLiveness, Membership, MembershipEffect, MembershipReport, MembershipStage,
};
use crate::{
    group::{
        offer::{Offer, Seeker, Whereabouts},
        view::Liveness,
    },
    model::node_id::NodeId,
};

/// How often members are looked at for a change of their liveness, at most.
const LIVENESS_US: u64 = 500_000;

/// What was shown last.
#[derive(Debug, Default)]
pub(super) struct LastShown {
    offer: Option<Offer>,
    seq: u64,
    seeker: Option<Seeker>,
    whereabouts: Option<Whereabouts>,
    links: BTreeMap<NodeId, String>,
    /// The group, and how many of its changes were forced.
    forced: Option<(String, u64)>,
    liveness: BTreeMap<NodeId, Liveness>,
    liveness_at: Lived,
}

impl Membership {
    /// Shows what has changed in this step.
    pub(super) fn show(&mut self) {
        self.show_offer();
        self.show_seeker();
        self.show_links();
        self.show_forced();
        self.show_liveness();
    }

    fn show_offer(&mut self) {
        let is_open = self.leads()
            && self.state().leads()
            && self.lead.as_ref().is_some_and(|lead| lead.into.is_none());
        let table = self.table().filter(|table| is_open && table.dissolved.is_none());
        let offer = table.map(|table| Offer { seq: self.shown.seq, ..self.offer(table) });
        if offer == self.shown.offer {
            return;
        }
        self.shown.seq += 1;
        let offer = offer.map(|offer| Offer { seq: self.shown.seq, ..offer });
        self.shown.offer = offer.clone();
        self.out.push(MembershipEffect::Announce(offer));
    }

    fn show_seeker(&mut self) {
        let looks = matches!(self.stage, MembershipStage::Looking(_));
        let seeker = looks.then(|| Seeker { node: self.node(), permanent: self.permanent });
        if seeker != self.shown.seeker {
            self.shown.seeker = seeker;
            self.out.push(MembershipEffect::Seek(seeker));
        }
        let group =
            self.durable.home.clone().filter(|_| !matches!(self.stage, MembershipStage::Asleep));
        let (node, peer) = (self.node(), self.this.peer.clone());
        let whereabouts = group.map(|group| Whereabouts { node, peer, group });
        if whereabouts != self.shown.whereabouts {
            self.shown.whereabouts = whereabouts.clone();
            self.out.push(MembershipEffect::TellWhereabouts(whereabouts));
        }
    }

    fn show_links(&mut self) {
        if self.links_are_shown() {
            return;
        }
        let this = self.node();
        let mut links = BTreeMap::new();
        if let (MembershipStage::Seated(_), Some(table)) = (&self.stage, self.table()) {
            for node in table.seats.keys().filter(|node| **node != this) {
                if let Some(address) = self.address_of(*node) {
                    links.insert(*node, address);
                }
            }
        }
        if links != self.shown.links {
            self.shown.links = links.clone();
            self.out.push(MembershipEffect::KeepLinks(links));
        }
    }

    /// Tells whether nothing about the links has changed; nearly always so, and cheap to see.
    fn links_are_shown(&self) -> bool {
        let (MembershipStage::Seated(seated), Some(table)) = (&self.stage, self.table()) else {
            return self.shown.links.is_empty();
        };
        seated.has_located_nobody()
            && table.seats.len() == self.shown.links.len() + 1
            && self.shown.links.iter().all(|(node, address)| {
                table.seats.get(node).is_some_and(|seat| seat.member.peer == *address)
            })
    }

    /// Shows whether changes of the group were forced.
    fn show_forced(&mut self) {
        let seated = self.is_seated();
        let Some(table) = self.table().filter(|_| seated) else {
            self.shown.forced = None;
            return;
        };
        let (epoch, count) = (table.epoch(), table.forced);
        let known = self.shown.forced.as_ref().filter(|(group, _)| *group == table.name);
        let known = known.map(|(_, forced)| *forced);
        if known == Some(count) {
            return;
        }
        self.shown.forced = Some((table.name.clone(), count));
        if known.is_some_and(|known| known < count) {
            self.report(MembershipReport::Forced { epoch, count });
        }
    }

    fn show_liveness(&mut self) {
        if !self.is_seated() {
            self.shown.liveness.clear();
            return;
        }
        if self.pace.now() < self.shown.liveness_at {
            return;
        }
        self.shown.liveness_at = self.pace.now().plus(LIVENESS_US);
        // Links to a newcomer take a moment: until the next look it counts as if it lived.
        let looks = |(node, seen): (NodeId, MemberLiveness)| match self.shown.liveness.get(&node) {
            Some(_) => (node, seen.liveness),
            None => (node, Liveness::Alive),
        };
        let now: BTreeMap<_, _> = self.sightings().into_iter().map(looks).collect();
        if now == self.shown.liveness {
            return;
        }
        let before = std::mem::replace(&mut self.shown.liveness, now.clone());
        for (node, liveness) in now {
            if before.get(&node).is_some_and(|before| *before != liveness) {
                self.report(MembershipReport::Liveness { node, liveness });
            }
        }
    }
}
