//! Incoming messages of a link: answers go to those who wait, requests and notices to the handlers of their services.
//!
//! A handler that answers at once does so on the link's own task, and its answers leave together; one that has to wait
//! goes on in a task of its own, for as long as the asker waits.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio_util::task::TaskTracker;

use super::{
    link::Link,
    outbox::Item,
    work::{Work, WorkGauge},
};
use nomad_core::model::{
    time::MonotonicUs,
    trace::{SpanId, TraceContext, TraceId},
};
use nomad_ports::{PeerHandler, peer_transport::Service};
use nomad_proto::link::{Frame, frame::Kind};

/// The handlers by service, and the requests in hand on all links.
#[derive(Default)]
pub(super) struct Answers {
    handlers: ArcSwap<BTreeMap<Service, Arc<dyn PeerHandler>>>,
    all: Arc<WorkGauge>,
    tasks: TaskTracker,
}

const BROKE: &str = "the handler broke while it answered";

impl Answers {
    /// Sets what answers for a service.
    pub(super) fn serve(&self, service: Service, handler: Arc<dyn PeerHandler>) {
        self.handlers.rcu(|old| {
            let mut new = BTreeMap::clone(old);
            new.insert(service, Arc::clone(&handler));
            new
        });
    }

    /// Forgets all handlers, and waits until none of them answers any more.
    pub(super) async fn close(&self) {
        self.handlers.store(Arc::default());
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Takes the frames of one message. The error is what is wrong with them.
    pub(super) fn take(&self, link: &Arc<Link>, frames: Vec<Frame>) -> Result<(), String> {
        let bytes = frames.iter().map(|frame| frame.body.len()).sum();
        link.on_received(frames.len(), bytes);
        let (mut answers, mut replies) = (Vec::new(), Vec::new());
        for frame in frames {
            if frame.body.len() > link.options.body_bytes_max {
                let max = link.options.body_bytes_max;
                return Err(format!("it sent {} bytes at once, over {max}", frame.body.len()));
            }
            match Kind::try_from(frame.kind) {
                Ok(Kind::Notice) => self.on_notice(link, frame),
                Ok(Kind::Request) => replies.extend(self.on_request(link, frame)),
                Ok(Kind::Answer | Kind::Refused | Kind::Busy) => answers.push(frame),
                Err(_) => {
                    return Err(format!("it sent a frame of the unknown kind {}", frame.kind));
                }
            }
        }
        if !answers.is_empty() {
            link.on_answers(answers);
        }
        if !replies.is_empty() {
            link.answer(replies);
        }
        Ok(())
    }

    fn handler(&self, frame: &Frame) -> Result<Arc<dyn PeerHandler>, String> {
        let service = Service::of(frame.service)
            .ok_or_else(|| format!("this node knows no service {}", frame.service))?;
        let handler = self.handlers.load().get(&service).cloned();
        handler.ok_or_else(|| format!("this node does not serve {service:?} now"))
    }

    fn on_notice(&self, link: &Arc<Link>, frame: Frame) {
        // A notice for a service that is not there is lost, as notices may be.
        let Ok(handler) = self.handler(&frame) else { return };
        let (service, trace) = (frame.service, trace(&frame));
        let heard = AssertUnwindSafe(|| handler.heard(link.node, trace, frame.body));
        if catch_unwind(heard).is_err() {
            tracing::error!(peer = %link.node, service, "a handler of notices broke");
        }
    }

    /// Begins a request, and returns its answer if there is one at once.
    fn on_request(&self, link: &Arc<Link>, frame: Frame) -> Option<Item> {
        let (id, service, now) = (frame.id, frame.service, link.clock.monotonic());
        let mut request =
            Request { link: Arc::clone(link), id, service, deadline: now, work: None };
        if frame.limit_ms == 0 {
            return Some(request.reply(Kind::Refused, "it waits for no time at all".into()));
        }
        request.deadline = now.plus_us(u64::from(frame.limit_ms) * 1000);
        let is_blocked = link.outbox().answer_bytes() > link.options.queue_bytes_max;
        let work = Work::take(&link.work, &self.all, frame.body.len(), &link.options);
        let (Some(work), false) = (work, is_blocked) else {
            link.counters.turned_away.fetch_add(1, Relaxed);
            return Some(request.reply(Kind::Busy, "the node has too much in hand".into()));
        };
        request.work = Some(work);
        let handler = match self.handler(&frame) {
            Ok(handler) => handler,
            Err(reason) => return Some(request.reply(Kind::Refused, reason.into())),
        };
        let (from, trace, limit_ms) = (link.node, trace(&frame), frame.limit_ms);
        let begun = catch_unwind(AssertUnwindSafe(|| {
            let mut answer = handler.answer(from, trace, frame.body);
            // Polled for an answer at once; whoever polls it next leaves a waker of his own.
            match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => Ok(answer),
                Poll::Pending => Err(answer),
            }
        }));
        match begun {
            Err(_) => Some(request.reply(Kind::Refused, BROKE.into())),
            Ok(Ok(answer)) => Some(request.answer(answer)),
            Ok(Err(answer)) => {
                self.tasks.spawn(finish(request, answer, limit_ms));
                None
            }
        }
    }
}

/// Waits for an answer while the asker waits and the link is open.
async fn finish(
    mut request: Request,
    answer: BoxFuture<'static, Result<Bytes, String>>,
    limit_ms: u32,
) {
    let link = Arc::clone(&request.link);
    let mut fate = link.watch();
    let unanswered = Unanswered(Some(&mut request));
    let ended = fate.wait_for(|fate| matches!(fate, super::link::LinkState::Ended(_)));
    let limit = Duration::from_millis(limit_ms.into());
    tokio::select! {
        biased;
        answered = tokio::time::timeout(limit, answer) => match answered {
            Ok(answer) => unanswered.answer(answer),
            // Nobody waits for it any more.
            Err(_) => unanswered.forget(),
        },
        _ = ended => unanswered.forget(),
    }
}

/// If a request's handler panics, the request is refused, and not left without an answer.
struct Unanswered<'a>(Option<&'a mut Request>);

impl Unanswered<'_> {
    fn answer(mut self, answer: Result<Bytes, String>) {
        if let Some(request) = self.0.take() {
            let item = request.answer(answer);
            request.link.answer([item]);
        }
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.0.take() {
            let item = request.reply(Kind::Refused, BROKE.into());
            request.link.answer([item]);
        }
    }
}

/// A request in hand.
struct Request {
    link: Arc<Link>,
    id: u64,
    service: u32,
    deadline: MonotonicUs,
    work: Option<Work>,
}

impl Request {
    fn answer(&mut self, answer: Result<Bytes, String>) -> Item {
        let (max, options) = (self.link.options.body_bytes_max, &self.link.options);
        match answer {
            Ok(body) if body.len() > max => {
                let text = format!("its answer of {} bytes is over the limit of {max}", body.len());
                self.reply(Kind::Refused, text.into())
            }
            Ok(body)
                if self.link.outbox().answer_bytes() + body.len() > 2 * options.queue_bytes_max =>
            {
                let text =
                    "it was done, but too many answers wait to be read; ask for less at once";
                self.reply(Kind::Refused, text.into())
            }
            Ok(body) => self.reply(Kind::Answer, body),
            Err(reason) => self.reply(Kind::Refused, reason.into()),
        }
    }

    fn reply(&mut self, kind: Kind, body: Bytes) -> Item {
        let (id, service) = (self.id, self.service);
        let frame = Frame { kind: kind.into(), id, service, body, ..Frame::default() };
        let deadline = (kind == Kind::Answer).then_some(self.deadline);
        Item { frame, deadline, work: self.work.take() }
    }
}

fn trace(frame: &Frame) -> TraceContext {
    TraceContext {
        trace: TraceId(u128::from(frame.trace_high) << 64 | u128::from(frame.trace_low)),
        span: SpanId(frame.span),
        sampled: frame.sampled,
        named: false,
    }
}
