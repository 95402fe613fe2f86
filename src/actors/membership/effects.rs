//! Carries out what the core wants done.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::AbortHandle};
use tracing::{info, warn};

use super::{
    MembershipActor, MembershipMsg, Ordered, Owed,
    door::{decode, encode, limit},
};
use crate::{
    group_table::{GroupTableMsg, LogTask},
    shell::{Address, Context, Handling},
};
use nomad_core::{
    decision::denied,
    membership::{
        AskFailure, Durable, Effect, Event, MembershipAnswer, MembershipRequest, ProposeFailure,
        Report, RequestId, Ticket,
    },
    node_id::NodeId,
    offer::Found,
    time::MonotonicUs,
    view::Liveness,
};
use nomad_ports::{
    DurableState,
    peer_transport::{LinkError, Service},
};

/// The most states that wait to be kept. The core waits for each before it goes on, so that more are a defect.
const KEPT_MAX: usize = 64;

/// Logs a fact in one line. Changes of role, member and epoch are told, and counted, where the view is published.
fn log(report: &Report) {
    match report {
        Report::Role { .. }
        | Report::Joined { .. }
        | Report::Left { .. }
        | Report::Epoch { .. }
        | Report::SuperPeer { .. }
        | Report::Majority { .. } => {}
        Report::Liveness { node, liveness: Liveness::Alive } => {
            info!(member = %node, "a member answers");
        }
        Report::Liveness { node, liveness } => {
            warn!(member = %node, state = liveness.as_str(), "a member does not answer");
        }
        Report::PairFault { from, to, present: true } => {
            warn!(%from, %to, "one member cannot reach another, which the super-peer reaches");
        }
        Report::PairFault { from, to, present: false } => {
            info!(%from, %to, "one member reaches another again");
        }
        Report::Dissolved { group, into } => {
            info!(group, into, "the group was dissolved");
        }
        Report::Removed { group, claim } => {
            warn!(group, claim, "the group says that this node is no member any more");
        }
        Report::GaveUp { group } => {
            warn!(group, "no majority came back in time: this node leaves the group");
        }
        Report::Forced { epoch, count } => {
            warn!(epoch, count, "a change of the group was ended by force");
        }
        Report::JoinRefused { group, reason } => {
            info!(group, reason, "a group refused this node");
        }
    }
}

/// Keeps durable states, one after the other, in the order in which they came.
pub(super) struct Keeper {
    wanted: mpsc::Sender<(Durable, Owed, Ticket)>,
    task: AbortHandle,
}

impl Keeper {
    pub(super) fn start(to: Arc<dyn DurableState>, actor: Address<MembershipMsg>) -> Self {
        let (wanted, mut waiting) = mpsc::channel::<(Durable, Owed, Ticket)>(KEPT_MAX);
        let keep = async move {
            while let Some((durable, owed, ticket)) = waiting.recv().await {
                let to = Arc::clone(&to);
                let kept = tokio::task::spawn_blocking(move || to.save(&durable)).await;
                match kept.map_err(std::io::Error::other).and_then(|kept| kept) {
                    Ok(()) => owed.pay(Event::Persisted(ticket)),
                    Err(error) => {
                        let reason = format!("the membership cannot be kept: {error}");
                        let from = Arc::clone(actor.name());
                        actor.tell(&from, Context::default(), MembershipMsg::NotKept { reason });
                    }
                }
            }
        };
        Self { wanted, task: tokio::spawn(keep).abort_handle() }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Names an event for a record.
pub(super) fn kind(event: &Event) -> &'static str {
    match event {
        Event::Started { .. } => "Started",
        Event::Tick => "Tick",
        Event::LogChanged(_) => "LogChanged",
        Event::Found { .. } => "Found",
        Event::LinkUp(_) => "LinkUp",
        Event::LinkDown(_) => "LinkDown",
        Event::Asked { .. } => "Asked",
        Event::Answered { .. } => "Answered",
        Event::Persisted(_) => "Persisted",
        Event::Proposed { .. } => "Proposed",
        Event::Arranged { .. } => "Arranged",
        Event::LogReady { .. } => "LogReady",
        Event::Rescanned { .. } => "Rescanned",
        Event::Ordered { .. } => "Ordered",
        Event::Described(_) => "Described",
        Event::LeftBehind => "LeftBehind",
        Event::Stopping => "Stopping",
    }
}

impl MembershipActor {
    pub(super) fn carry_out(&mut self, cx: &Handling<'_, MembershipMsg>, effect: Effect) {
        match effect {
            Effect::Persist { ticket, durable } => self.persist(cx, ticket, durable),
            Effect::Find { ticket, near, window_us, enough } => {
                let owed = self.owed(cx, Event::Found { ticket, found: Found::default() });
                let window = Duration::from_micros(window_us);
                let is_enough = Box::new(move |found: &Found| enough.is_met(found));
                let found = self.args.overlay.find(near, window, is_enough);
                tokio::spawn(async move {
                    let found = found.await;
                    owed.pay(Event::Found { ticket, found });
                });
            }
            Effect::AskAddress { ticket, address, question } => {
                self.ask(cx, ticket, &question, To::Address(address));
            }
            Effect::AskNode { ticket, node, question } => {
                self.ask(cx, ticket, &question, To::Node(node));
            }
            Effect::Reply { request, answer } => self.reply(request, answer),
            Effect::Done { request, result } => {
                if let Some(Ordered { about, reply }) = self.orders.remove(&request) {
                    let view = self.args.view.load();
                    let known = self.args.overlay.known(view.this.position);
                    let result = result.map(|()| true);
                    reply.send(result.map_err(|why| denied(why, &about, &view, &known)));
                }
            }
            Effect::Propose { ticket, command } => {
                let outcome = Err(ProposeFailure::Unknown);
                let task = LogTask::Propose { ticket, command };
                self.log_task(cx, task, Event::Proposed { ticket, outcome });
            }
            Effect::Arrange { ticket, voters, learners } => {
                let task = LogTask::Arrange { ticket, voters, learners };
                self.log_task(cx, task, Event::Arranged { ticket, done: false });
            }
            Effect::FoundLog { ticket, table } => {
                let task = LogTask::Found { ticket, table };
                self.log_task(cx, task, Event::LogReady { ticket, done: false });
            }
            Effect::FollowLog { ticket, group, claim } => {
                let task = LogTask::Follow { ticket, group, claim };
                self.log_task(cx, task, Event::LogReady { ticket, done: false });
            }
            Effect::LeaveLog { ticket } => {
                let task = LogTask::Leave { ticket };
                self.log_task(cx, task, Event::LogReady { ticket, done: false });
            }
            Effect::Campaign => {
                cx.tell(&self.args.group_table, GroupTableMsg::Campaign);
            }
            Effect::PauseHeartbeats(heir) => {
                cx.tell(&self.args.group_table, GroupTableMsg::PauseHeartbeats(heir));
            }
            Effect::Announce(offer) => self.args.overlay.announce(offer),
            Effect::Seek(seeker) => self.args.overlay.seek(seeker),
            Effect::TellWhereabouts(whereabouts) => self.args.overlay.tell_whereabouts(whereabouts),
            Effect::KeepLinks(peers) => self.args.transport.keep(peers),
            Effect::Rescan { epoch } => self.rescan(cx, epoch),
            Effect::WakeAt(at) => self.wake_at(cx, at),
            Effect::Report(report) => {
                match &report {
                    Report::GaveUp { group } | Report::Dissolved { group, .. } => {
                        self.args.endings.has_ended(group);
                    }
                    Report::Removed { group, .. } => self.args.endings.went_on(group),
                    _ => {}
                }
                log(&report);
            }
        }
    }

    /// Waits until the workers have done the rescan. A later one takes the place of an earlier one.
    fn rescan(&mut self, cx: &Handling<'_, MembershipMsg>, epoch: u64) {
        let group = self.log.table.as_ref().map(|table| table.name.clone()).unwrap_or_default();
        let (rescans, life, me, of) =
            (Arc::clone(&self.args.rescans), self.life, cx.me.clone(), cx.cx);
        let done = async move {
            rescans.all_done(&group, epoch).await;
            let event = Event::Rescanned { epoch };
            me.tell(me.name(), of, MembershipMsg::Happened { life, event });
        };
        if let Some(earlier) = self.rescan.replace(tokio::spawn(done).abort_handle()) {
            earlier.abort();
        }
    }

    fn owed(&self, cx: &Handling<'_, MembershipMsg>, failure: Event) -> Owed {
        Owed::new(cx.me.clone(), Arc::clone(cx.me.name()), cx.cx, self.life, failure)
    }

    fn persist(&mut self, cx: &Handling<'_, MembershipMsg>, ticket: Ticket, durable: Durable) {
        // Nothing is owed when it fails: the failure ends this life of the actor.
        let owed = self.owed(cx, Event::Tick);
        if self.keeper.wanted.try_send((durable, owed, ticket)).is_err() {
            let reason = "too many states wait to be kept".to_owned();
            cx.tell(cx.me, MembershipMsg::NotKept { reason });
        }
    }

    fn log_task(&self, cx: &Handling<'_, MembershipMsg>, task: LogTask, failure: Event) {
        let owed = self.owed(cx, failure);
        cx.tell(
            &self.args.group_table,
            GroupTableMsg::Log { task: Box::new(task), owed: Box::new(owed) },
        );
    }

    fn reply(&mut self, request: RequestId, answer: MembershipAnswer) {
        if let Some(reply) = self.questions.remove(&request) {
            reply.send(answer);
        }
    }

    fn ask(
        &self,
        cx: &Handling<'_, MembershipMsg>,
        ticket: Ticket,
        question: &MembershipRequest,
        to: To,
    ) {
        let by = match &to {
            To::Node(node) => Some(*node),
            To::Address(_) => None,
        };
        let failed = |answer| Event::Answered { ticket, by, answer: Err(answer) };
        let owed = self.owed(cx, failed(AskFailure::Unknown));
        let Ok(body) = encode(question) else {
            return owed.pay(failed(AskFailure::Unreachable));
        };
        let (transport, limit) = (Arc::clone(&self.args.transport), limit(question));
        let trace = cx.cx.trace;
        tokio::spawn(async move {
            let service = Service::Membership;
            let answered = match to {
                To::Node(node) => {
                    let answer = transport.ask(node, service, trace, body, limit).await;
                    answer.map(|answer| (node, answer))
                }
                To::Address(address) => {
                    transport.ask_address(address, service, trace, body, limit).await
                }
            };
            let (by, answer) = match answered {
                Ok((node, bytes)) => (Some(node), decode(&bytes).map_err(|_| AskFailure::Refused)),
                Err(error) => (by, Err(failure_of(&error))),
            };
            owed.pay(Event::Answered { ticket, by, answer });
        });
    }

    fn wake_at(&mut self, cx: &Handling<'_, MembershipMsg>, at: MonotonicUs) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        let pause = Duration::from_micros(at.since(cx.kit.clock.monotonic()));
        let (me, trace) = (cx.me.clone(), cx.kit.recorder.new_trace());
        let wake = async move {
            tokio::time::sleep(pause).await;
            me.tell(me.name(), Context { trace, deadline: None }, MembershipMsg::Tick);
        };
        self.timer = Some(tokio::spawn(wake).abort_handle());
    }
}

enum To {
    Node(NodeId),
    Address(String),
}

fn failure_of(error: &LinkError) -> AskFailure {
    match error {
        LinkError::Unreachable { .. } | LinkError::Full { .. } => AskFailure::Unreachable,
        LinkError::Broken { .. } | LinkError::TimedOut { .. } => AskFailure::Unknown,
        LinkError::Refused { .. } | LinkError::Stranger { .. } => AskFailure::Refused,
    }
}
