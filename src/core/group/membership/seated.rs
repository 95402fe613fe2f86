//! What a member does: it reports to the super-peer, does the rescan of a joint epoch, sends changes of its description,
//! campaigns when the super-peer is gone, and leaves when it was removed or when no majority comes back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Answered, ENDED_MAX, HealthReport, Lived, Membership, MembershipAnswer, MembershipEffect,
    MembershipReport, MembershipRequest, MembershipStage, Purpose, SearchGoal,
    changing::ChangeWatch, leaving::OrderedLeave, moving::Goal,
};
use crate::{
    group::{Member, offer::FoundGroups},
    model::node_id::NodeId,
};

/// How soon something is asked again that the table does not show yet.
const RETRY_US: u64 = 1_000_000;
/// How often a super-peer has to say that it has no majority before it is believed.
const DENIALS_MAX: u32 = 2;
/// How far apart voters of neighbouring rank campaign.
const RANK_US: u64 = 150_000;

/// A member's memory.
#[derive(Debug)]
pub(super) struct Seated {
    /// Whether the group has a majority now, as far as this node knows. During an election it has none.
    pub has_majority: bool,
    /// When one last did.
    majority_at: Lived,
    /// Whether it has been gone for longer than an election takes.
    pub has_lost_majority: bool,
    /// How often in a row the super-peer has said that it has no majority, or does not lead.
    denials: u32,
    leader: Option<NodeId>,
    term: u64,
    health_at: Lived,
    campaign_at: Option<Lived>,
    rescan: Rescan,
    /// The change of the members that is under way.
    pub change: Option<ChangeWatch>,
    tell_at: Lived,
    locate_at: Lived,
    located: BTreeMap<NodeId, String>,
    /// The members that have said that their claim is void: a link to them is no sign of a member.
    void: BTreeSet<(NodeId, u64)>,
    pub leaving: Option<OrderedLeave>,
}

/// This node's part of the rescan of a joint epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rescan {
    No,
    Running(u64),
    Done(u64),
}

impl Seated {
    fn new(now: Lived) -> Self {
        Self {
            has_majority: false,
            majority_at: now,
            has_lost_majority: false,
            denials: 0,
            leader: None,
            term: 0,
            health_at: now,
            campaign_at: None,
            rescan: Rescan::No,
            change: None,
            tell_at: now,
            locate_at: now.plus(RETRY_US),
            located: BTreeMap::new(),
            void: BTreeSet::new(),
            leaving: None,
        }
    }

    pub(super) fn has_located_nobody(&self) -> bool {
        self.located.is_empty()
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }
}

impl Membership {
    pub(super) fn seated(&mut self) -> Option<&mut Seated> {
        match &mut self.stage {
            MembershipStage::Seated(seated) => Some(seated),
            _ => None,
        }
    }

    pub(super) fn seated_ref(&self) -> Option<&Seated> {
        match &self.stage {
            MembershipStage::Seated(seated) => Some(seated),
            _ => None,
        }
    }

    pub(super) fn located(&self, node: NodeId) -> Option<String> {
        match &self.stage {
            MembershipStage::Seated(seated) => seated.located.get(&node).cloned(),
            _ => None,
        }
    }

    pub(super) fn take_seat(&mut self) {
        let seated = Seated::new(self.pace.now());
        self.has_log = true;
        self.enter(MembershipStage::Seated(Box::new(seated)));
        self.on_seated_log();
    }

    /// The log of the group that this node is in has moved.
    pub(super) fn on_seated_log(&mut self) {
        let now = self.pace.now();
        let (leader, term) = (self.log.leader, self.log.term);
        if let Some(table) = self.table().cloned() {
            self.watch.retain(|node| table.seats.contains_key(node));
            if let Some(seated) = self.seated() {
                // A place in the table holds the address that it was found at only while that differs.
                seated.void.retain(|(node, claim)| {
                    table.seats.get(node).is_some_and(|seat| seat.claim == *claim)
                });
                seated.located.retain(|node, address| {
                    table.seats.get(node).is_some_and(|seat| seat.member.peer != *address)
                });
            }
        }
        let Some(seated) = self.seated() else { return };
        if (seated.leader, seated.term) == (leader, term) {
            return;
        }
        (seated.leader, seated.term) = (leader, term);
        seated.campaign_at = None;
        if leader.is_some() {
            // An election was just won, so a majority was there.
            seated.denials = 0;
            seated.majority_at = now;
            seated.health_at = now;
        }
    }

    pub(super) fn run_seated(&mut self) {
        let Some(table) = self.table().cloned() else { return };
        if table.dissolved.is_some() {
            self.run_dissolved(&table);
            return;
        }
        if !self.is_seat_of_this(&table) {
            self.on_removed();
            return;
        }
        self.watch_majority();
        if self.gives_up() {
            return;
        }
        self.watch_change(&table);
        self.run_campaign();
        self.run_rescan();
        self.run_description();
        self.run_health();
        self.run_location();
        if self.leads() {
            self.run_lead();
        }
        self.run_leaving();
    }

    /// This node is no member any more.
    pub(super) fn on_removed(&mut self) {
        let goal = self.goal_of_leaving();
        if goal.is_none() {
            let group = self.durable.home.clone().unwrap_or_default();
            self.report(MembershipReport::Removed { group, claim: self.durable.claim });
        }
        self.go(goal.unwrap_or(Goal::Look(None)));
    }

    fn watch_majority(&mut self) {
        let now = self.pace.now();
        let this = self.node();
        let silent_us = self.log.quorum_silent_ms.unwrap_or(0).saturating_mul(1_000);
        let is_silent = silent_us >= self.config.quorum_silent_us;
        let leader = self.log.leader;
        let is_linked = leader.is_some_and(|leader| self.watch.is_linked(leader));
        let patience_us = self.election_patience_us();
        let Some(seated) = self.seated() else { return };
        let present = match leader {
            Some(leader) if leader == this => !is_silent,
            Some(_) => is_linked && seated.denials < DENIALS_MAX,
            None => false,
        };
        seated.has_majority = present;
        if present {
            seated.majority_at = now;
        }
        let (was_lost, lost_at) = (seated.has_lost_majority, seated.majority_at.plus(patience_us));
        let is_lost = !present && (was_lost || self.pace.is_due(lost_at));
        if let Some(seated) = self.seated() {
            seated.has_lost_majority = is_lost;
        }
    }

    /// Returns how long a group may be without a majority before that is more than an election.
    fn election_patience_us(&self) -> u64 {
        match self.config.quorum_loss_grace_us {
            0 => self.config.election_timeout_us,
            grace_us => self.config.election_timeout_us.min(grace_us / 4 * 3),
        }
    }

    /// Gives the place up when no majority came back within the grace. Returns whether it did.
    fn gives_up(&mut self) -> bool {
        let grace_us = self.config.quorum_loss_grace_us;
        let Some(seated) = self.seated() else { return false };
        let (present, until) = (seated.has_majority, seated.majority_at.plus(grace_us));
        if grace_us == 0 || present || !self.pace.is_due(until) {
            return false;
        }
        let group = self.durable.home.clone().unwrap_or_default();
        self.report(MembershipReport::GaveUp { group });
        let goal = self.goal_of_leaving().unwrap_or(Goal::Look(None));
        self.go(goal);
        true
    }

    /// A link to a member came up or broke.
    pub(super) fn on_link_of_member(&mut self, node: NodeId, is_up: bool) {
        let now = self.pace.now();
        let (leader, this) = (self.log.leader, self.node());
        let voters: Vec<_> =
            self.log.voters.iter().filter(|voter| Some(**voter) != leader).copied().collect();
        let rank = voters.iter().position(|voter| *voter == this);
        let jitter = self.pace.draw(RANK_US / 2);
        let lease_us = self.config.leader_lease_us;
        let Some(seated) = self.seated() else { return };
        if leader != Some(node) {
            return;
        }
        if is_up {
            seated.campaign_at = None;
            seated.health_at = now;
        } else if let (Some(rank), None) = (rank, seated.campaign_at) {
            seated.campaign_at = Some(now.plus(lease_us + rank as u64 * RANK_US + jitter));
        }
    }

    /// Campaigns as soon as the other voters may listen: while the super-peer's lease runs they do not.
    pub(super) fn campaign_after_lease(&mut self) {
        let at = self.pace.now().plus(self.config.leader_lease_us + RANK_US / 2);
        if let Some(seated) = self.seated() {
            seated.campaign_at = Some(at);
        }
    }

    fn run_campaign(&mut self) {
        let Some(at) = self.seated().and_then(|seated| seated.campaign_at) else { return };
        if self.pace.is_due(at) {
            if let Some(seated) = self.seated() {
                seated.campaign_at = None;
            }
            self.out.push(MembershipEffect::Campaign);
        }
    }

    fn run_rescan(&mut self) {
        let this = self.node();
        let Some(table) = self.table() else { return };
        let now_at = table.configuration();
        let epoch = now_at.epoch;
        let concerns = now_at.rescans(&this) && !table.acknowledged.contains(&this);
        let Some(seated) = self.seated() else { return };
        match seated.rescan {
            _ if !concerns => {}
            Rescan::Running(running) if running == epoch => {}
            Rescan::Done(done) if done == epoch => self.tell_rescanned(epoch),
            _ => {
                seated.rescan = Rescan::Running(epoch);
                self.out.push(MembershipEffect::Rescan { epoch });
            }
        }
    }

    pub(super) fn on_rescanned(&mut self, epoch: u64) {
        let now = self.pace.now();
        let Some(seated) = self.seated() else { return };
        if seated.rescan == Rescan::Running(epoch) {
            seated.rescan = Rescan::Done(epoch);
            seated.tell_at = now;
        }
    }

    fn tell_rescanned(&mut self, epoch: u64) {
        let Some((group, claim)) = self.home_and_claim() else { return };
        if self.leads() {
            self.note_rescanned(self.node(), epoch);
        } else if let Some(leader) = self.may_tell() {
            let question = MembershipRequest::Rescanned { group, claim, epoch };
            self.ask(leader, Purpose::Tell, question);
        }
    }

    fn run_description(&mut self) {
        let Some((group, claim)) = self.home_and_claim() else { return };
        let member = self.this.clone();
        let known = self.table().and_then(|table| table.seats.get(&member.node));
        let Some(known) = known.map(|seat| seat.member.clone()) else { return };
        if known == member {
            self.is_news = false;
            return;
        }
        // Others may say where a node stands, but only the node itself where it can be reached.
        if !self.is_news && (Member { position: member.position, ..known.clone() }) == member {
            self.this.position = known.position;
            return;
        }
        if self.leads() {
            self.note_described(member, claim);
        } else if let Some(leader) = self.may_tell() {
            let question = MembershipRequest::Describe { group, claim, member };
            self.ask(leader, Purpose::Tell, question);
        }
    }

    /// Returns the super-peer when something may be told to it now.
    fn may_tell(&mut self) -> Option<NodeId> {
        let leader = self.log.leader?;
        let at = self.seated()?.tell_at;
        if self.is_pending(|purpose| *purpose == Purpose::Tell) || !self.pace.is_due(at) {
            return None;
        }
        let tell_at = self.pace.about(RETRY_US);
        self.seated()?.tell_at = tell_at;
        Some(leader)
    }

    pub(super) fn home_and_claim(&self) -> Option<(String, u64)> {
        Some((self.durable.home.clone()?, self.durable.claim))
    }

    /// Reports to the super-peer. Without one, asks any member: a member knows if this node was removed.
    fn run_health(&mut self) {
        let Some((group, claim)) = self.home_and_claim() else { return };
        let Some(at) = self.seated().map(|seated| seated.health_at) else { return };
        let is_asking = self.is_pending(|purpose| matches!(purpose, Purpose::Health { .. }));
        if self.leads() || is_asking || !self.pace.is_due(at) {
            return;
        }
        let has_majority = self.is_backed();
        let every_us = self.config.health_check_us;
        let next_us = if has_majority { every_us } else { every_us.min(5 * RETRY_US) };
        let next_at = self.pace.about(next_us * 4 / 5);
        let lucky = self.pace.draw(u64::MAX);
        let this = self.node();
        let (epoch, to) = {
            let Some(table) = self.table() else { return };
            let linked = |node: &&NodeId| **node != this && self.watch.is_linked(**node);
            let others: Vec<_> = table.seats.keys().filter(linked).collect();
            let any = others.get((lucky % others.len().max(1) as u64) as usize).map(|n| **n);
            // A silent super-peer is asked, but others too: it may be the one that is out of date, or be somewhere else.
            let leader = self.log.leader.filter(|leader| self.watch.is_linked(*leader));
            let to = leader.filter(|_| has_majority || lucky & (1 << 40) == 0).or(any);
            (table.epoch(), to)
        };
        if let Some(seated) = self.seated() {
            seated.health_at = next_at;
        }
        let Some(to) = to.filter(|to| *to != this) else { return };
        let mut reached = self.watch.links().clone();
        if let Some(seated) = self.seated() {
            for (node, _) in &seated.void {
                reached.remove(node);
            }
        }
        let health = HealthReport { group, claim, epoch, reached };
        self.ask(to, Purpose::Health { to }, MembershipRequest::Health(health));
    }

    pub(super) fn on_health_answer(&mut self, to: NodeId, answer: Answered) {
        let leader = self.log.leader;
        let Some(epoch) = self.table().map(|table| table.epoch()) else { return };
        match answer {
            Ok(MembershipAnswer::Member { majority, doubts, .. }) if leader == Some(to) => {
                self.take_word(majority);
                self.hear(to);
                self.vouch_for(&doubts);
            }
            Ok(MembershipAnswer::NoMember { epoch: theirs }) if theirs >= epoch => {
                self.on_removed();
            }
            Ok(MembershipAnswer::Dissolved { into }) => {
                let goal = self.goal_of_leaving().unwrap_or(Goal::Look(into));
                self.go(goal);
            }
            Ok(MembershipAnswer::NotLeader { leader: Some((node, address)) })
                if leader != Some(to) =>
            {
                self.locate(node, address);
            }
            // It leads this group no more, whatever the log says.
            Ok(_) if leader == Some(to) => self.take_word(false),
            _ => {}
        }
    }

    /// Believes the super-peer that it has a majority. A super-peer that was just elected may not know it yet: it is asked again soon.
    fn take_word(&mut self, majority: bool) {
        let again_at = self.pace.about(RETRY_US / 2);
        let Some(seated) = self.seated() else { return };
        seated.denials = if majority { 0 } else { seated.denials.saturating_add(1) };
        if seated.denials == 1 {
            seated.health_at = again_at;
        }
    }

    /// Asks members that the super-peer cannot reach whether they still hold their claim.
    fn vouch_for(&mut self, doubts: &BTreeSet<NodeId>) {
        let Some(table) = self.table().cloned() else { return };
        for (node, seat) in table.seats.iter().filter(|(node, _)| doubts.contains(*node)) {
            let (node, claim, group) = (*node, seat.claim, table.name.clone());
            if node != self.node() && self.watch.is_linked(node) {
                let question = MembershipRequest::Confirm { group, claim };
                self.ask(node, Purpose::Vouch { node, claim }, question);
            }
        }
    }

    pub(super) fn on_vouched(&mut self, node: NodeId, claim: u64, answer: Answered) {
        if let (Some(seated), Ok(MembershipAnswer::Void)) = (self.seated(), answer) {
            seated.void.insert((node, claim));
        }
    }

    /// Without a majority: looks where the other members are now, in case all came back with other addresses.
    fn run_location(&mut self) {
        let Some(at) = self.seated().map(|seated| seated.locate_at) else { return };
        let is_looking = self.is_pending(|purpose| *purpose == Purpose::Locate);
        if self.is_backed() || is_looking || !self.pace.is_due(at) {
            return;
        }
        let window_us = self.config.discovery_window_us;
        let next_at = self.pace.about(window_us);
        if let Some(seated) = self.seated() {
            seated.locate_at = next_at;
        }
        self.find(Purpose::Locate, window_us, SearchGoal::Never);
    }

    pub(super) fn on_located(&mut self, found: FoundGroups) {
        let Some(group) = self.table().map(|table| table.name.clone()) else { return };
        for place in found.whereabouts.into_iter().filter(|place| place.group == group) {
            self.locate(place.node, place.peer);
        }
    }

    /// Takes note of where a member is said to be, if that is news. The link finds out whether it is true.
    fn locate(&mut self, node: NodeId, peer: String) {
        let is_news = self.table().and_then(|table| table.seats.get(&node)).is_some_and(|seat| {
            seat.member.peer != peer && peer.len() <= MembershipRequest::TEXT_BYTES_MAX
        });
        if let Some(seated) = self.seated().filter(|_| is_news) {
            seated.located.insert(node, peer);
        }
    }

    /// Remembers the end of a group, to tell members that missed it.
    pub(super) fn remember_end(&mut self, group: String, into: Option<String>) {
        if self.ended.iter().any(|(ended, _)| *ended == group) {
            return;
        }
        self.report(MembershipReport::Dissolved { group: group.clone(), into: into.clone() });
        self.ended.push_back((group, into));
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }
}
