//! Carries out what the core wants done.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{MembershipActor, MembershipCx, MembershipMsg, Ordered};
use crate::{
    codec,
    door::PeerMessage as _,
    driver::Owed,
    group_table::{GroupTableMsg, LogTask},
    shell::{Address, Context, Described},
};
use nomad_core::{
    group::{
        decision::denied,
        membership::{
            AskFailure, Durable, MembershipAnswer, MembershipEffect, MembershipEvent,
            MembershipReport, MembershipRequest, ProposeFailure, RequestId,
        },
        offer::FoundGroups,
        view::Liveness,
    },
    machine::{NoAnswer, Ticket},
    model::node_id::NodeId,
};
use nomad_ports::{DurableState, peer_transport::LinkError};

/// The most states that wait to be kept. The core waits for each before it goes on, so that more are a defect.
const KEPT_MAX: usize = 64;

/// Logs a fact in one line. Changes of role, member and epoch are told, and counted, where the view is published.
fn log(report: &MembershipReport) {
    match report {
        MembershipReport::Liveness { node, liveness: Liveness::Alive } => {
            info!(member = %node, "a member answers");
        }
        MembershipReport::Liveness { node, liveness } => {
            warn!(member = %node, state = liveness.as_str(), "a member does not answer");
        }
        MembershipReport::PairFault { from, to, present: true } => {
            warn!(%from, %to, "one member cannot reach another, which the super-peer reaches");
        }
        MembershipReport::PairFault { from, to, present: false } => {
            info!(%from, %to, "one member reaches another again");
        }
        MembershipReport::Dissolved { group, into } => {
            info!(group, into, "the group was dissolved");
        }
        MembershipReport::Removed { group, claim } => {
            warn!(group, claim, "the group says that this node is no member any more");
        }
        MembershipReport::GaveUp { group } => {
            warn!(group, "no majority came back in time: this node leaves the group");
        }
        MembershipReport::ChangeWaits { epoch, waits_for, is_long: false } => {
            info!(epoch, waits_for = %names(waits_for), "a change of the members waits");
        }
        MembershipReport::ChangeWaits { epoch, waits_for, is_long: true } => {
            warn!(epoch, waits_for = %names(waits_for), "a change of the members waits for long");
        }
        MembershipReport::Forced { epoch, count } => {
            warn!(
                epoch,
                count, "a change of the group went on by force, without the members that are lost"
            );
        }
        MembershipReport::JoinRefused { group, reason } => {
            info!(group, reason, "a group refused this node");
        }
    }
}

fn names(nodes: &BTreeSet<NodeId>) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

/// Keeps durable states, one after the other, in the order in which they came.
pub(super) struct Keeper {
    wanted: mpsc::Sender<(Durable, Owed<MembershipMsg>, Ticket)>,
    _task: AbortOnDropHandle<()>,
}

impl Keeper {
    pub(super) fn start(to: Arc<dyn DurableState>, actor: Address<MembershipMsg>) -> Self {
        let (wanted, mut waiting) =
            mpsc::channel::<(Durable, Owed<MembershipMsg>, Ticket)>(KEPT_MAX);
        let keep = async move {
            while let Some((durable, owed, ticket)) = waiting.recv().await {
                let to = Arc::clone(&to);
                let kept = tokio::task::spawn_blocking(move || to.save(&durable)).await;
                match kept.map_err(std::io::Error::other).and_then(|kept| kept) {
                    Ok(()) => owed.pay(MembershipEvent::Persisted(ticket)),
                    Err(error) => {
                        let reason = format!("the membership cannot be kept: {error}");
                        let from = Arc::clone(actor.name());
                        actor.tell(&from, Context::default(), MembershipMsg::NotKept { reason });
                    }
                }
            }
        };
        Self { wanted, _task: AbortOnDropHandle::new(tokio::spawn(keep)) }
    }
}

impl Described for MembershipEvent {
    fn kind(&self) -> &'static str {
        self.into()
    }

    fn detail(&self) -> String {
        format!("{self:?}")
    }
}

impl MembershipActor {
    pub(super) fn carry_out(&mut self, cx: &MembershipCx<'_>, effect: MembershipEffect) {
        match effect {
            MembershipEffect::Persist { ticket, durable } => self.persist(cx, ticket, durable),
            MembershipEffect::Find { ticket, near, window_us, enough } => {
                let window = Duration::from_micros(window_us);
                let is_enough = Box::new(move |found: &FoundGroups| enough.is_met(found));
                let found = self.args.overlay.find(near, window, is_enough);
                let event = move |found: Result<FoundGroups, NoAnswer>| MembershipEvent::Found {
                    ticket,
                    found: found.unwrap_or_default(),
                };
                self.driver.wait_for(cx, async move { Ok(found.await) }, event);
            }
            MembershipEffect::AskAddress { ticket, address, question } => {
                self.ask(cx, ticket, &question, To::Address(address));
            }
            MembershipEffect::AskNode { ticket, node, question } => {
                self.ask(cx, ticket, &question, To::Node(node));
            }
            MembershipEffect::Reply { request, answer } => self.reply(request, answer),
            MembershipEffect::Done { request, result } => {
                if let Some(Ordered { about, reply }) = self.orders.remove(&request) {
                    let view = self.args.view.load();
                    let known = self.args.overlay.known(view.this.position);
                    let result = result.map(|()| true);
                    reply.send(result.map_err(|why| denied(why, &about, &view, &known)));
                }
            }
            MembershipEffect::Propose { ticket, command } => {
                let outcome = Err(ProposeFailure::Unknown);
                let task = LogTask::Propose { ticket, command };
                self.log_task(cx, task, MembershipEvent::Proposed { ticket, outcome });
            }
            MembershipEffect::Arrange { ticket, voters, learners } => {
                let task = LogTask::Arrange { ticket, voters, learners };
                self.log_task(cx, task, MembershipEvent::Arranged { ticket, done: false });
            }
            MembershipEffect::FoundLog { ticket, table } => {
                let task = LogTask::Found { ticket, table };
                self.log_task(cx, task, MembershipEvent::LogReady { ticket, done: false });
            }
            MembershipEffect::FollowLog { ticket, group, claim } => {
                let task = LogTask::Follow { ticket, group, claim };
                self.log_task(cx, task, MembershipEvent::LogReady { ticket, done: false });
            }
            MembershipEffect::LeaveLog { ticket } => {
                let task = LogTask::Leave { ticket };
                self.log_task(cx, task, MembershipEvent::LogReady { ticket, done: false });
            }
            MembershipEffect::Campaign => {
                cx.tell(&self.args.group_table, GroupTableMsg::Campaign);
            }
            MembershipEffect::PauseHeartbeats(heir) => {
                cx.tell(&self.args.group_table, GroupTableMsg::PauseHeartbeats(heir));
            }
            MembershipEffect::Announce(offer) => self.args.overlay.announce(offer),
            MembershipEffect::Seek(seeker) => self.args.overlay.seek(seeker),
            MembershipEffect::TellWhereabouts(whereabouts) => {
                self.args.overlay.tell_whereabouts(whereabouts)
            }
            MembershipEffect::KeepLinks(peers) => self.args.transport.keep(peers),
            MembershipEffect::Rescan { epoch } => self.rescan(cx, epoch),
            MembershipEffect::Report(report) => {
                match &report {
                    MembershipReport::GaveUp { group }
                    | MembershipReport::Dissolved { group, .. } => {
                        self.args.endings.has_ended(group);
                    }
                    MembershipReport::Removed { group, .. } => self.args.endings.went_on(group),
                    _ => {}
                }
                log(&report);
            }
        }
    }

    /// Waits until the workers have done the rescan. A later one takes the place of an earlier one.
    fn rescan(&mut self, cx: &MembershipCx<'_>, epoch: u64) {
        let group = self.log.table.as_ref().map(|table| table.name.clone()).unwrap_or_default();
        let (rescans, news) = (Arc::clone(&self.args.rescans), self.driver.optional(cx));
        let done = async move {
            rescans.all_done(&group, epoch).await;
            news.pay(MembershipEvent::Rescanned { epoch });
        };
        self.rescan = Some(AbortOnDropHandle::new(tokio::spawn(done)));
    }

    fn persist(&mut self, cx: &MembershipCx<'_>, ticket: Ticket, durable: Durable) {
        // Nothing is owed when it fails: the failure ends this life of the actor.
        let owed = self.driver.optional(cx);
        if self.keeper.wanted.try_send((durable, owed, ticket)).is_err() {
            let reason = "too many states wait to be kept".to_owned();
            cx.tell(cx.me, MembershipMsg::NotKept { reason });
        }
    }

    fn log_task(&self, cx: &MembershipCx<'_>, task: LogTask, failure: MembershipEvent) {
        let owed = self.driver.owed(cx, failure);
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

    fn ask(&self, cx: &MembershipCx<'_>, ticket: Ticket, question: &MembershipRequest, to: To) {
        let by = match &to {
            To::Node(node) => Some(*node),
            To::Address(_) => None,
        };
        let failed = |answer| MembershipEvent::Answered { ticket, by, answer: Err(answer) };
        let owed = self.driver.owed(cx, failed(AskFailure::Unknown));
        let Ok(body) = codec::encode(MembershipMsg::VERSION, question) else {
            return owed.pay(failed(AskFailure::Unreachable));
        };
        let (transport, limit) = (Arc::clone(&self.args.transport), MembershipMsg::limit(question));
        let trace = cx.cx.trace;
        tokio::spawn(async move {
            let service = MembershipMsg::SERVICE;
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
                Ok((node, bytes)) => {
                    let answer = codec::decode(MembershipMsg::VERSION, &bytes);
                    (Some(node), answer.map_err(|_| AskFailure::Refused))
                }
                Err(error) => (by, Err(failure_of(&error))),
            };
            owed.pay(MembershipEvent::Answered { ticket, by, answer });
        });
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
