//! What is asked of the ledger, and what it asks of other members.

use std::time::Duration;

use futures::{FutureExt as _, TryFutureExt as _, future::BoxFuture};

use super::{ASK_LIMIT, LedgerActor, LedgerCx, LedgerMsg};
use crate::{
    codec,
    door::{self, PeerMessage as _},
    membership::ControlReply,
    recorder::Outcome,
    shell::Reply,
};
use nomad_core::{
    group::{PeerError, control::ControlError, replication::may_be_forgotten},
    ledger::{
        HeldObject, LedgerAnswer, LedgerEvent, LedgerPage, LedgerRequest, Notice, Reference, Word,
    },
    machine::{NoAnswer, Ticket},
    model::{node_id::NodeId, object::ObjectId},
    register::Value,
};

type Asking<E = ControlError> = BoxFuture<'static, Result<LedgerAnswer, E>>;

impl LedgerActor {
    pub(super) fn tell(&self, cx: &LedgerCx<'_>, to: NodeId, notice: &Notice) {
        let told = codec::encode(LedgerMsg::VERSION, notice).and_then(|body| {
            let trace = cx.cx.trace;
            let told = self.args.transport.tell(to, LedgerMsg::SERVICE, trace, body);
            told.map_err(|error| error.to_string())
        });
        if let Err(reason) = told {
            // The other one finds by a comparison what it has missed.
            tracing::trace!(%to, reason, "a notice was not sent");
        }
    }

    /// Asks another member, and then says so to the core.
    pub(super) fn ask_for(
        &self,
        cx: &LedgerCx<'_>,
        ticket: Ticket,
        to: NodeId,
        question: &LedgerRequest,
    ) {
        let asking = self.ask(cx, to, question, ASK_LIMIT);
        let answer = async move {
            asking.await.map_err(|reason| {
                tracing::debug!(%to, reason, "a member does not say what it holds");
                NoAnswer
            })
        };
        let event = move |answer| LedgerEvent::Answered { ticket, answer };
        self.driver.wait_for(cx, answer, event);
    }

    fn ask(
        &self,
        cx: &LedgerCx<'_>,
        to: NodeId,
        question: &LedgerRequest,
        limit: Duration,
    ) -> Asking<String> {
        door::ask::<LedgerMsg>(&self.args.transport, to, cx.cx.trace, question, limit)
    }

    /// Asks another member because a client wants to know, for as long as that waits.
    fn ask_for_client(&self, cx: &LedgerCx<'_>, to: NodeId, question: &LedgerRequest) -> Asking {
        let now = cx.kit.clock.monotonic();
        let left = cx.cx.deadline.map_or(ASK_LIMIT, |at| Duration::from_micros(at.since(now)));
        let asking = self.ask(cx, to, question, left.min(ASK_LIMIT));
        asking.map_err(move |reason| unreachable_now(to, &reason)).boxed()
    }

    // ---- other members ----

    pub(super) fn on_asked(
        &mut self,
        cx: &LedgerCx<'_>,
        from: NodeId,
        question: LedgerRequest,
        reply: Reply<LedgerAnswer>,
    ) -> Outcome {
        let (answer, effects) = self
            .driver
            .with(cx, |core, now| (core.answer(now, from, &question), core.take_effects()));
        self.carry_out(cx, effects);
        // Only the member itself knows whether a caller's word about it is true.
        if let (LedgerRequest::Refer { id, member, .. }, LedgerAnswer::NotHeld) =
            (&question, &answer)
            && self.driver.core().refer(*member, id) == Word::AskMember
        {
            reply.send_later(self.holds(cx, *member, id.clone()).map(|holds| match holds {
                Ok(true) => LedgerAnswer::Done(true),
                Ok(false) => LedgerAnswer::NotHeld,
                Err(_) => LedgerAnswer::NotYet,
            }));
            return Outcome::Done("asked the member");
        }
        reply.end(answer, Outcome::Done("answered"))
    }

    /// Asks a member whether it holds an object. If it does, that is entered.
    fn holds(
        &self,
        cx: &LedgerCx<'_>,
        member: NodeId,
        id: ObjectId,
    ) -> BoxFuture<'static, Result<bool, ControlError>> {
        let group = self.driver.core().site().map(|site| site.group.clone()).unwrap_or_default();
        let question = LedgerRequest::Holds { group, id: id.clone() };
        let asking = self.ask_for_client(cx, member, &question);
        let news = self.driver.optional(cx);
        Box::pin(async move {
            match asking.await? {
                LedgerAnswer::Holds(Some(held)) if held.id == id => {
                    let held = HeldObject { id, ..held };
                    news.pay(LedgerEvent::Referred { member, held });
                    Ok(true)
                }
                LedgerAnswer::Holds(_) => Ok(false),
                _ => Err(unreachable_now(member, "it does not know yet what it holds")),
            }
        })
    }

    // ---- clients ----

    /// Says where the ledger is to be had: here, or at another member.
    fn place(&self) -> Result<(String, Reference), ControlError> {
        let view = self.args.view.load();
        let Some(site) = self.driver.core().site().filter(|_| view.group().is_some()) else {
            return Err(view.no_group());
        };
        match self.driver.core().look() {
            Reference::Nowhere => Err(ControlError::Election { group: site.group.clone() }),
            place => Ok((site.group.clone(), place)),
        }
    }

    pub(super) fn on_page(
        &mut self,
        cx: &LedgerCx<'_>,
        after: Option<String>,
        limit: usize,
        reply: Reply<Result<LedgerPage, ControlError>>,
    ) -> Outcome {
        let (group, node) = match self.place() {
            Ok((group, Reference::At(node))) => (group, node),
            Ok(_) => {
                let page =
                    self.driver.with(cx, |core, now| core.page(now, after.as_deref(), limit));
                return reply.end(Ok(page), Outcome::Done("answered from here"));
            }
            Err(error) => return reply.end(Err(error), Outcome::Refused("no ledger")),
        };
        let question = LedgerRequest::Pages { group, after, limit: limit as u32 };
        let asking = self.ask_for_client(cx, node, &question);
        reply.send_later(async move {
            match asking.await? {
                LedgerAnswer::Page(page) => Ok(page),
                _ => Err(unreachable_now(node, "it keeps no ledger of this group now")),
            }
        });
        Outcome::Done("asked the super-peer")
    }

    pub(super) fn on_refer(
        &self,
        cx: &LedgerCx<'_>,
        id: ObjectId,
        peer: &str,
        reply: ControlReply,
    ) -> Outcome {
        let named = self.args.view.load().member(peer).map(|member| member.node);
        let (member, (group, place)) = match named.and_then(|node| Ok((node, self.place()?))) {
            Ok(named) => named,
            Err(error) => return reply.end(Err(error), Outcome::Refused("not granted")),
        };
        let untrue = move |id: &ObjectId| {
            PeerError::NotHeld { node: member, id: id.as_str().to_owned() }.into()
        };
        let at_once = match self.driver.core().refer(member, &id) {
            Word::Known => Ok(false),
            Word::Untrue => Err(untrue(&id)),
            Word::NotYet if self.has(&id) => Ok(false),
            Word::NotYet => Err(untrue(&id)),
            Word::AskMember => {
                self.refer_elsewhere(cx, (group, place), (member, id), untrue, reply);
                return Outcome::Done("asked another member");
            }
        };
        reply.end(at_once, Outcome::Done("answered at once"))
    }

    /// Looks into the store whether this node holds an object, as long as the ledger is still reading it.
    fn has(&self, id: &ObjectId) -> bool {
        let register = self.args.store.register(id).ok().flatten();
        register.is_some_and(|register| matches!(register.value, Value::Live(_)))
    }

    fn refer_elsewhere(
        &self,
        cx: &LedgerCx<'_>,
        (group, place): (String, Reference),
        (member, id): (NodeId, ObjectId),
        untrue: impl Fn(&ObjectId) -> ControlError + Send + 'static,
        reply: ControlReply,
    ) {
        let Reference::At(keeper) = place else {
            let holds = self.holds(cx, member, id.clone());
            return reply.send_later(holds.map(move |holds| match holds {
                Ok(false) => Err(untrue(&id)),
                done => done,
            }));
        };
        let question = LedgerRequest::Refer { group, id: id.clone(), member };
        let asking = self.ask_for_client(cx, keeper, &question);
        reply.send_later(async move {
            match asking.await? {
                LedgerAnswer::Done(entered) => Ok(entered),
                LedgerAnswer::NotHeld => Err(untrue(&id)),
                _ => Err(unreachable_now(keeper, "it cannot ask the member now")),
            }
        });
    }

    pub(super) fn on_forget(
        &mut self,
        cx: &LedgerCx<'_>,
        peer: &str,
        reply: ControlReply,
    ) -> Outcome {
        let view = self.args.view.load_full();
        let member = match may_be_forgotten(&view, peer) {
            Ok(Some(member)) => member,
            Ok(None) => return reply.end(Ok(false), Outcome::Done("no member")),
            Err(error) => return reply.end(Err(error.into()), Outcome::Refused("it is there")),
        };
        let super_peer = self.driver.core().site().and_then(|site| site.super_peer);
        let Some(super_peer) = super_peer else {
            let group = view.group().map(|table| table.name.clone()).unwrap_or_default();
            let election = ControlError::Election { group };
            return reply.end(Err(election), Outcome::Refused("no super-peer"));
        };
        let forgotten = move |answer| match answer {
            LedgerAnswer::Done(there_was) => Ok(there_was),
            LedgerAnswer::Alive => Err(PeerError::Alive { node: member }.into()),
            _ => Err(unreachable_now(super_peer, "it does not lead this group now")),
        };
        if super_peer == view.this.node {
            let (answer, effects) = self
                .driver
                .with(cx, |core, now| (core.forget_if_gone(now, member), core.take_effects()));
            self.carry_out(cx, effects);
            return reply.end(forgotten(answer), Outcome::Done("answered from here"));
        }
        let group = self.driver.core().site().map(|site| site.group.clone()).unwrap_or_default();
        let asking = self.ask_for_client(cx, super_peer, &LedgerRequest::Forget { group, member });
        reply.send_later(asking.map(move |answer| answer.and_then(forgotten)));
        Outcome::Done("asked the super-peer")
    }
}

fn unreachable_now(node: NodeId, reason: &str) -> ControlError {
    ControlError::Unreachable { address: node.to_string(), reason: reason.to_owned() }
}
