//! The part of the actor in a real node: carries out effects, and reports their results.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    group::{
        membership::{
            AskFailure, Durable, MembershipEffect, MembershipEvent, MembershipRequest,
            ProposeFailure, RequestId,
        },
        offer::FoundGroups,
        table::GroupTable,
        view::RoleState,
    },
    machine::{Core, Now, Ticket},
    model::{node_id::NodeId, object::ObjectId, time::MonotonicUs},
    register::{Places, ReplicaSet, is_rescanned},
    world::Position,
};
use rand::Rng;

use super::{
    LogTask, MS, S, Sim, SimEvent, TicketKind, oracle,
    raft::{Disk, HEARTBEAT_US, Raft, RaftMsg, RaftOut},
};

const ASK_TIMEOUT_US: u64 = 2 * S;
const PROPOSE_TIMEOUT_US: u64 = 4 * S;

impl Sim {
    pub fn handle(&mut self, n: usize, what: SimEvent) {
        match what {
            SimEvent::Wake => {
                let is_due = self.nodes[n].process.as_ref().is_some_and(|p| p.wake <= self.now);
                if is_due {
                    self.step(n, MembershipEvent::Tick);
                }
            }
            SimEvent::RaftTick => self.raft_tick(n),
            SimEvent::CheckLinks => self.check_links(n),
            SimEvent::Step(event) => self.step(n, *event),
            SimEvent::Rescan { group, epoch } => self.rescan(n, group, epoch),
            SimEvent::Persist(ticket, durable) => {
                self.nodes[n].durable = durable;
                self.step(n, MembershipEvent::Persisted(ticket));
            }
            SimEvent::LogTask(ticket, task) => self.log_task(n, ticket, task),
            SimEvent::Find { .. } => self.find(n, what),
            SimEvent::Ask { from, life, ticket, question } => {
                if self.can_talk(from, n) {
                    self.asked(n, from, life, ticket, *question);
                }
            }
            SimEvent::Answer { ticket, by, answer } => {
                if self.close(n, ticket) {
                    let answer = Ok(*answer);
                    self.step(n, MembershipEvent::Answered { ticket, by: Some(by), answer });
                }
            }
            SimEvent::TimedOut(ticket, kind) => self.timed_out(n, ticket, kind),
            SimEvent::Raft { from, group, claim, message } => {
                self.raft_message(n, from, &group, claim, message);
            }
        }
    }

    fn close(&mut self, n: usize, ticket: Ticket) -> bool {
        self.nodes[n].process.as_mut().is_some_and(|process| process.open.remove(&ticket))
    }

    fn timed_out(&mut self, n: usize, ticket: Ticket, kind: TicketKind) {
        if !self.close(n, ticket) {
            return;
        }
        self.step(
            n,
            match kind {
                TicketKind::Ask => {
                    MembershipEvent::Answered { ticket, by: None, answer: Err(AskFailure::Unknown) }
                }
                TicketKind::Propose => {
                    MembershipEvent::Proposed { ticket, outcome: Err(ProposeFailure::Unknown) }
                }
                TicketKind::Arrange => MembershipEvent::Arranged { ticket, done: false },
            },
        );
    }

    fn open(&mut self, n: usize, ticket: Ticket, kind: TicketKind, limit_us: u64) {
        let Some(process) = &mut self.nodes[n].process else { return };
        assert!(process.open.insert(ticket), "a ticket was used twice");
        let life = Some(self.nodes[n].life);
        self.at(limit_us, n, life, SimEvent::TimedOut(ticket, kind));
    }

    /// Gives an event to a membership, and carries out its effects.
    pub fn step(&mut self, n: usize, event: MembershipEvent) {
        self.steps += 1;
        let clock = self.clock(n);
        if self.trace && !matches!(event, MembershipEvent::Tick | MembershipEvent::LogChanged(_)) {
            self.print_trace(n, &format!("<- {event:?}"));
        }
        let Some(process) = &mut self.nodes[n].process else { return };
        let effects = process.membership.step(Now::at(clock), event, &());
        let due = process.membership.next_due();
        for effect in effects {
            self.carry_out(n, effect);
        }
        self.wake_at(n, due);
        self.check_step(n);
        self.after_raft(n);
    }

    fn wake_at(&mut self, n: usize, due: Option<MonotonicUs>) {
        let Some(due) = due else { return };
        let at = due.0.saturating_sub(self.nodes[n].clock_offset).max(self.now + 1);
        let (in_us, life) = (at - self.now, Some(self.nodes[n].life));
        let process = self.nodes[n].process.as_mut().unwrap();
        if process.wake <= self.now || at < process.wake {
            process.wake = at;
            self.at(in_us, n, life, SimEvent::Wake);
        }
    }

    /// What must hold of a node after each of its steps.
    fn check_step(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(process) = &node.process else { return };
        let state = process.membership.state();
        let acts = state.leads() || matches!(state, RoleState::Peer | RoleState::Electing);
        if let (true, Some(raft)) = (acts, &process.raft) {
            let home = node.durable.home.as_ref();
            assert_eq!(Some(&raft.disk.group), home, "{state:?} in a group that is not its own");
            let (group, id, claim) = (raft.disk.group.clone(), node.id, node.durable.claim);
            self.oracle.acts(&group, id, claim);
        }
    }

    fn carry_out(&mut self, n: usize, effect: MembershipEffect) {
        if self.trace {
            self.print_trace(n, &format!("-> {effect:?}"));
        }
        let life = Some(self.nodes[n].life);
        match effect {
            MembershipEffect::Persist { ticket, durable } => {
                let took = self.rng.random_range(MS..30 * MS);
                self.at(took, n, life, SimEvent::Persist(ticket, durable));
            }
            MembershipEffect::Find { ticket, near, window_us, enough } => {
                let until = self.now + window_us;
                self.at(50 * MS, n, life, SimEvent::Find { ticket, near, until, enough });
            }
            MembershipEffect::AskAddress { ticket, address, question } => {
                self.check_question(n, &question);
                self.open(n, ticket, TicketKind::Ask, ASK_TIMEOUT_US);
                match self.index_at(&address) {
                    Some(to) if to != n => self.ask(n, to, ticket, question),
                    _ => self.unreachable(n, ticket),
                }
            }
            MembershipEffect::AskNode { ticket, node, question } => {
                self.check_question(n, &question);
                self.open(n, ticket, TicketKind::Ask, ASK_TIMEOUT_US);
                let process = self.nodes[n].process.as_ref().unwrap();
                let is_up = process.links.get(&node).is_some_and(|(is_up, _)| *is_up);
                match self.index_of(node) {
                    Some(to) if is_up => self.ask(n, to, ticket, question),
                    _ => self.unreachable(n, ticket),
                }
            }
            MembershipEffect::Reply { request, answer } => {
                let process = self.nodes[n].process.as_mut().unwrap();
                let (to, life, ticket, _) =
                    process.asked.remove(&request).expect("a question was answered twice");
                let by = self.nodes[n].id;
                if self.nodes[to].life == life {
                    self.send(n, to, || SimEvent::Answer {
                        ticket,
                        by,
                        answer: Box::new(answer.clone()),
                    });
                }
            }
            MembershipEffect::Done { request, .. } => {
                let process = self.nodes[n].process.as_mut().unwrap();
                assert!(process.ordered.remove(&request), "an order was answered twice");
            }
            MembershipEffect::Propose { ticket, command } => {
                // A node does not retry in a loop without a pause.
                self.proposals += 1;
                let most = 200 + 4 * (self.now / S) * self.nodes.len() as u64;
                assert!(self.proposals < most, "too many proposals");
                self.open(n, ticket, TicketKind::Propose, PROPOSE_TIMEOUT_US);
                let raft = self.raft(n);
                if !raft.is_some_and(|raft| raft.propose(ticket, command)) {
                    self.close(n, ticket);
                    let outcome = Err(ProposeFailure::NotLeader);
                    self.at(
                        0,
                        n,
                        life,
                        SimEvent::Step(Box::new(MembershipEvent::Proposed { ticket, outcome })),
                    );
                }
            }
            MembershipEffect::Arrange { ticket, voters, learners } => {
                self.open(n, ticket, TicketKind::Arrange, PROPOSE_TIMEOUT_US);
                if let Some(raft) = self.raft(n) {
                    raft.arrange(ticket, voters, learners);
                }
            }
            MembershipEffect::FoundLog { ticket, table } => {
                self.later(n, ticket, LogTask::Found(table))
            }
            MembershipEffect::FollowLog { ticket, group, claim } => {
                self.later(n, ticket, LogTask::Follow(group, claim));
            }
            MembershipEffect::LeaveLog { ticket } => self.later(n, ticket, LogTask::Leave),
            MembershipEffect::Campaign => {
                let now = self.now;
                if let Some(raft) = self.raft(n) {
                    raft.campaign(now);
                }
            }
            MembershipEffect::PauseHeartbeats(heir) => {
                if let Some(raft) = self.raft(n) {
                    raft.pause(heir.is_some());
                }
            }
            MembershipEffect::Announce(offer) => {
                let process = self.nodes[n].process.as_mut().unwrap();
                let before = std::mem::replace(&mut process.offer, offer);
                self.old_offers.extend(before);
                if self.old_offers.len() > 8 {
                    self.old_offers.remove(0);
                }
            }
            MembershipEffect::Seek(seeker) => {
                self.nodes[n].process.as_mut().unwrap().seeker = seeker
            }
            MembershipEffect::TellWhereabouts(place) => {
                self.nodes[n].process.as_mut().unwrap().whereabouts = place;
            }
            MembershipEffect::KeepLinks(keep) => {
                self.nodes[n].process.as_mut().unwrap().keep = keep;
                let soon = self.rng.random_range(MS..50 * MS);
                self.at(soon, n, life, SimEvent::CheckLinks);
            }
            MembershipEffect::Rescan { epoch } => {
                let took = self.rng.random_range(0..200 * MS);
                let group = self.nodes[n].durable.home.clone().unwrap_or_default();
                self.at(took, n, life, SimEvent::Rescan { group, epoch });
            }
            MembershipEffect::Report(_) => {}
        }
    }

    /// Ends the rescan of a joint epoch, if each object has its quorums among those that can be reached and have kept what they
    /// had. Else it is tried again.
    fn rescan(&mut self, n: usize, group: String, epoch: u64) {
        let table = self.table_of(n).filter(|table| table.name == group && table.epoch() == epoch);
        let Some(table) = table.filter(|table| table.configuration().is_joint()) else { return };
        let configuration = table.configuration();
        let keeps = |node: &NodeId| {
            let other = self.index_of(*node)?;
            let Durable { claim, home } = &self.nodes[other].durable;
            let seat = table.seats.get(node)?;
            let is_it = home.as_ref() == Some(&group) && *claim == seat.claim;
            (is_it && (other == n || self.can_talk(n, other))).then_some(())
        };
        let id = self.nodes[n].id;
        let is_settled = |number: u32| {
            let object = ObjectId::parse(&format!("o{number}")).unwrap();
            let set = ReplicaSet::of(&object, configuration);
            if set.place_of(id).is_none() || !is_rescanned(&object, configuration) {
                return true;
            }
            let there = set.nodes().filter(|(_, node)| keeps(node).is_some());
            let there = there.fold(Places::default(), |places, (place, _)| places.with(place));
            set.sees(there) && set.decides(there)
        };
        if (0..self.objects).all(is_settled) {
            self.oracle.rescanned(id, &group, epoch);
            self.step(n, MembershipEvent::Rescanned { epoch });
        } else {
            let life = Some(self.nodes[n].life);
            self.at(200 * MS, n, life, SimEvent::Rescan { group, epoch });
        }
    }

    /// The table as a node has it.
    fn table_of(&self, n: usize) -> Option<Arc<GroupTable>> {
        self.nodes[n].process.as_ref()?.raft.as_ref()?.state(self.now).table
    }

    /// A claim is used only once it is durable.
    fn check_question(&self, n: usize, question: &MembershipRequest) {
        if let MembershipRequest::Join { group, seat } = question {
            let durable = &self.nodes[n].durable;
            let is_durable = durable.home.as_ref() == Some(group) && durable.claim == seat.claim;
            assert!(is_durable, "the claim {} is used before it is durable", seat.claim);
        }
    }

    fn raft(&mut self, n: usize) -> Option<&mut Raft> {
        self.nodes[n].process.as_mut()?.raft.as_mut()
    }

    fn later(&mut self, n: usize, ticket: Ticket, task: LogTask) {
        let took = self.rng.random_range(MS..30 * MS);
        let life = Some(self.nodes[n].life);
        self.at(took, n, life, SimEvent::LogTask(ticket, task));
    }

    fn log_task(&mut self, n: usize, ticket: Ticket, task: LogTask) {
        let (now, jitter) = (self.now, self.rng.random_range(0..S));
        self.save_disk(n);
        let node = &mut self.nodes[n];
        let disk = match task {
            LogTask::Found(table) => Some(Disk::founded(*table)),
            LogTask::Follow(group, claim) => {
                let is_it = |disk: &Disk| disk.group == group && disk.claim == claim;
                let kept = node.disk.take().filter(is_it);
                Some(kept.unwrap_or_else(|| Disk::empty(group, claim)))
            }
            LogTask::Leave => None,
        };
        node.log_number += 1;
        node.disk = disk.clone();
        let mut raft = disk.map(|disk| Raft::open(node.id, disk, now, jitter));
        if let Some(raft) = raft.as_mut().filter(|raft| raft.disk.log.len() == 2) {
            // A founder leads at once.
            raft.campaign(now);
        }
        node.process.as_mut().unwrap().raft = raft;
        self.step(n, MembershipEvent::LogReady { ticket, done: true });
    }

    fn ask(&mut self, n: usize, to: usize, ticket: Ticket, question: MembershipRequest) {
        let life = self.nodes[n].life;
        if !self.can_talk(n, to) {
            self.unreachable(n, ticket);
            return;
        }
        self.send(n, to, || {
            let question = Box::new(question.clone());
            SimEvent::Ask { from: n, life, ticket, question }
        });
    }

    fn unreachable(&mut self, n: usize, ticket: Ticket) {
        self.close(n, ticket);
        self.failed(n, ticket, AskFailure::Unreachable);
    }

    fn asked(
        &mut self,
        n: usize,
        from: usize,
        life: u64,
        ticket: Ticket,
        question: MembershipRequest,
    ) {
        let (id, now) = (self.nodes[from].id, self.now);
        let process = self.nodes[n].process.as_mut().unwrap();
        process.next_request += 1;
        let request = RequestId(process.next_request);
        process.asked.insert(request, (from, life, ticket, now));
        let asked_back = match &question {
            MembershipRequest::Confirm { group, claim } => Some((group.clone(), *claim)),
            _ => None,
        };
        if let Some((group, claim)) = asked_back {
            let it = self.nodes[n].id;
            self.oracle.asked_back(&group, it, claim);
        }
        self.step(n, MembershipEvent::Asked { from: id, request, question });
    }

    fn check_links(&mut self, n: usize) {
        let process = self.nodes[n].process.as_ref().unwrap();
        let stands = |node: &NodeId, address: &String| {
            self.index_at(address)
                .is_some_and(|to| self.nodes[to].id == *node && self.can_talk(n, to))
        };
        let link = |(node, at): (&NodeId, &String)| {
            let is_up = stands(node, at);
            let before = process.links.get(node).filter(|(was_up, _)| *was_up == is_up);
            (*node, *before.unwrap_or(&(is_up, self.now)))
        };
        let now: BTreeMap<_, _> = process.keep.iter().map(link).collect();
        let before =
            std::mem::replace(&mut self.nodes[n].process.as_mut().unwrap().links, now.clone());
        for (node, (was_up, _)) in &before {
            if *was_up && !now.contains_key(node) {
                self.step(n, MembershipEvent::LinkDown(*node));
            }
        }
        for (node, (is_up, since)) in now {
            if before.get(&node) != Some(&(is_up, since)) {
                self.step(
                    n,
                    if is_up {
                        MembershipEvent::LinkUp(node)
                    } else {
                        MembershipEvent::LinkDown(node)
                    },
                );
            }
        }
    }

    /// Answers a search when it has enough, or at the end of its window.
    fn find(&mut self, n: usize, what: SimEvent) {
        let SimEvent::Find { ticket, near, until, enough } = what else { return };
        let found = self.found_groups(n, near);
        if self.now >= until || enough.is_met(&found) {
            self.step(n, MembershipEvent::Found { ticket, found });
        } else {
            let pause = (until - self.now).min(250 * MS);
            let life = Some(self.nodes[n].life);
            self.at(pause, n, life, SimEvent::Find { ticket, near, until, enough });
        }
    }

    fn found_groups(&mut self, n: usize, near: Position) -> FoundGroups {
        let mut found = FoundGroups::default();
        for to in 0..self.nodes.len() {
            if to == n || !self.can_talk(n, to) || self.rng.random_bool(self.loss) {
                continue;
            }
            let process = self.nodes[to].process.as_ref().unwrap();
            found.answered += 1;
            found.offers.extend(process.offer.clone());
            found.seekers.extend(process.seeker);
            found.whereabouts.extend(process.whereabouts.clone());
        }
        // Now and then a found group is out of date.
        if self.loss > 0.0 && self.rng.random_bool(0.1) {
            let known = |offer: &&crate::group::offer::Offer| {
                !found.offers.iter().any(|other| other.group == offer.group)
            };
            let old = self.old_offers.last().filter(known).cloned();
            found.offers.extend(old);
        }
        let far = |site: Position| (site.x - near.x).powi(2) + (site.y - near.y).powi(2);
        found.offers.sort_by(|a, b| far(a.site).total_cmp(&far(b.site)));
        found
    }

    fn raft_tick(&mut self, n: usize) {
        let (now, jitter) = (self.now, self.rng.random_range(0..S));
        let life = self.nodes[n].life;
        self.at(HEARTBEAT_US, n, Some(life), SimEvent::RaftTick);
        if let Some(raft) = self.raft(n) {
            raft.tick(now, jitter);
            // The time without a quorum grows without any other event.
            raft.changed |= raft.leads() && (now / HEARTBEAT_US).is_multiple_of(2);
            self.after_raft(n);
        }
    }

    fn raft_message(
        &mut self,
        n: usize,
        from: usize,
        group: &str,
        claim: Option<u64>,
        message: RaftMsg,
    ) {
        let (now, jitter) = (self.now, self.rng.random_range(0..S));
        if !self.can_talk(from, n) {
            return;
        }
        let id = self.nodes[from].id;
        if let Some(raft) = self.raft(n).filter(|raft| {
            raft.disk.group == group && claim.is_none_or(|claim| raft.disk.claim == claim)
        }) {
            raft.receive(id, message, now, jitter);
            self.after_raft(n);
        }
    }

    /// Sends the log's messages, gives what it applied to the oracle, and tells the membership what has changed.
    fn after_raft(&mut self, n: usize) {
        let life = Some(self.nodes[n].life);
        let Some(raft) = self.raft(n) else { return };
        let (out, group) = (std::mem::take(&mut raft.out), raft.disk.group.clone());
        for out in out {
            match out {
                RaftOut::Send(node, claim, message) => {
                    let keep = &self.nodes[n].process.as_ref().unwrap().keep;
                    let to = keep.get(&node).and_then(|address| self.index_at(address));
                    if let Some(to) = to.filter(|to| self.nodes[*to].id == node) {
                        self.send_raft(n, to, &group, Some(claim), message);
                    }
                }
                RaftOut::Back(node, message) => {
                    if let Some(to) = self.index_of(node) {
                        self.send_raft(n, to, &group, None, message);
                    }
                }
                RaftOut::Proposed(ticket, applied) => {
                    if self.close(n, ticket) {
                        let outcome = applied.ok_or(ProposeFailure::Unknown);
                        let event = MembershipEvent::Proposed { ticket, outcome };
                        self.at(0, n, life, SimEvent::Step(Box::new(event)));
                    }
                }
                RaftOut::Arranged(ticket, done) => {
                    if self.close(n, ticket) {
                        let event = MembershipEvent::Arranged { ticket, done };
                        self.at(0, n, life, SimEvent::Step(Box::new(event)));
                    }
                }
                RaftOut::Applied(index, term, entry, table) => {
                    let mut oracle = std::mem::take(&mut self.oracle);
                    oracle.applied(index, term, &entry, &table, self);
                    self.oracle = oracle;
                    self.check_epoch(n, &table);
                }
                RaftOut::Led(term) => {
                    let id = self.nodes[n].id;
                    self.print_trace(n, &format!("leads {group} in term {term}"));
                    self.oracle.led(&group, term, id);
                }
            }
        }
        let now = self.now;
        if let Some(raft) = self.raft(n).filter(|raft| raft.changed) {
            raft.changed = false;
            let state = raft.state(now);
            self.at(0, n, life, SimEvent::Step(Box::new(MembershipEvent::LogChanged(state))));
        }
    }

    /// At one node, epochs of one log only grow.
    fn check_epoch(&mut self, n: usize, table: &Arc<GroupTable>) {
        let node = &mut self.nodes[n];
        let (number, epoch) = node.epoch_seen;
        // A node that starts applies its log from the beginning.
        if number == node.log_number && node.up_since != self.now {
            assert!(table.epoch() >= epoch || node.process.is_none(), "an epoch came back");
        }
        node.epoch_seen = (node.log_number, table.epoch());
    }

    fn send_raft(
        &mut self,
        n: usize,
        to: usize,
        group: &str,
        claim: Option<u64>,
        message: RaftMsg,
    ) {
        self.send(n, to, || SimEvent::Raft {
            from: n,
            group: group.to_owned(),
            claim,
            message: message.clone(),
        });
    }
}

impl oracle::Reachability for Sim {
    fn was_reached(&self, table: &GroupTable, node: NodeId, claim: u64) -> bool {
        let group = table.name.as_str();
        let Some(n) = self.index_of(node) else { return false };
        let it = &self.nodes[n];
        let holds = it.durable.claim == claim && it.durable.home.as_deref() == Some(group);
        if !holds || it.ordered_to_leave || it.told_claim == Some(claim) {
            return false;
        }
        let long = self.config.remove_after_us + 5 * self.config.health_check_us;
        let joined = |from: usize, to: usize| {
            let since = self.joined_since.get(&super::pair(from, to));
            let process = self.nodes[from].process.as_ref();
            let link = process.and_then(|process| process.links.get(&self.nodes[to].id));
            since.is_some_and(|since| self.now - since > long)
                && link.is_some_and(|(is_up, since)| {
                    *is_up && self.now - since > 5 * self.config.health_check_us
                })
        };
        let in_group = |other: usize| {
            let node = &self.nodes[other];
            node.durable.home.as_deref() == Some(group)
                && node.process.as_ref().is_some_and(|p| {
                    let leads = p.raft.as_ref().is_some_and(Raft::leads);
                    leads || p.membership.state() == RoleState::Peer
                })
        };
        let Some(l) = self.index_of(table.super_peer) else { return false };
        let mut others = (0..self.nodes.len()).filter(|r| *r != n && *r != l && in_group(*r));
        joined(l, n) || others.any(|r| joined(r, n) && joined(r, l))
    }
}
