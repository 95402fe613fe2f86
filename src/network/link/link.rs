//! One link: what it sends, who waits for answers on it, and how it ends.
//!
//! A link is open from the end of its handshake until its stream ends. If another link to the same node has replaced it, it
//! accepts nothing new, finishes what it has, and is closed. When it ends, in whatever way, all that wait for answers on it are told.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};

use super::{
    counters::Counters,
    options::LinkOptions,
    outbox::{Item, LinkAnswer, LinkQueue, NotTaken},
    work::WorkGauge,
};
use nomad_core::model::{node_id::NodeId, time::MonotonicUs, trace::TraceContext};
use nomad_ports::{
    Clock,
    peer_transport::{LinkError, Service},
};
use nomad_proto::link::{Frame, Frames, frame::Kind};

/// Between which two processes a link is, and when each of them began it, in counts of links that each has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Birth {
    /// Who opened it.
    pub(super) opener: NodeId,
    /// Who accepted it.
    pub(super) acceptor: NodeId,
    /// The number that the opener gave it.
    pub(super) opened: u64,
    /// How many the acceptor had opened when it said hello.
    pub(super) acceptor_opened: u64,
    /// The other process.
    pub(super) incarnation: u64,
}

impl Birth {
    /// Tells whether this link replaces `old`. Both sides know the same about both links, so both decide the same. If a link was
    /// opened after its opener had said hello on the other one, it is the later one: its opener did not need the other. If the two
    /// crossed, the link that the smaller node opened stays.
    pub(super) fn replaces(&self, old: &Self) -> bool {
        if self.incarnation != old.incarnation || self.is_after(old) {
            return true;
        }
        !old.is_after(self) && self.opener == self.opener.min(self.acceptor)
    }

    fn is_after(&self, other: &Self) -> bool {
        let known = if self.opener == other.opener { other.opened } else { other.acceptor_opened };
        self.opened > known
    }
}

/// How a link ends whose connection has gone, where nothing says more.
pub(super) const CLOSED: &str = "the connection was closed";

/// Where a link is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkState {
    /// It stands.
    Stands,
    /// Another has replaced it.
    Replaced,
    /// It has ended.
    Ended(Arc<str>),
}

/// See the module.
pub(super) struct Link {
    pub(super) node: NodeId,
    pub(super) birth: Birth,
    /// Where it was opened to; `None` = the other node has opened it.
    pub(super) address: Option<String>,
    pub(super) since: MonotonicUs,
    pub(super) counters: Arc<Counters>,
    pub(super) work: Arc<WorkGauge>,
    pub(super) options: Arc<LinkOptions>,
    pub(super) clock: Arc<dyn Clock>,
    /// Messages of the stream, both ways.
    activity: AtomicU64,
    outbox: Mutex<LinkQueue>,
    fate: watch::Sender<LinkState>,
}

impl Link {
    pub(super) fn new(
        node: NodeId,
        birth: Birth,
        address: Option<String>,
        counters: Arc<Counters>,
        options: Arc<LinkOptions>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            birth,
            address,
            since: clock.monotonic(),
            counters,
            work: Arc::default(),
            options,
            clock,
            activity: AtomicU64::new(0),
            outbox: Mutex::default(),
            fate: watch::channel(LinkState::Stands).0,
        })
    }

    pub(super) fn outbox(&self) -> MutexGuard<'_, LinkQueue> {
        self.outbox.lock()
    }

    fn not_taken(&self, why: NotTaken) -> LinkError {
        let to = self.node.to_string();
        match why {
            NotTaken::Ended => LinkError::Unreachable { to, reason: "it has just ended".into() },
            NotTaken::Full(waiting) => {
                self.counters.refused.fetch_add(1, Relaxed);
                LinkError::Full { to, waiting }
            }
        }
    }

    fn check_size(&self, body: &Bytes) -> Result<(), LinkError> {
        let max = self.options.body_bytes_max;
        if body.len() <= max {
            return Ok(());
        }
        let reason = format!("a message of {} bytes is over the limit of {max}", body.len());
        Err(LinkError::Refused { to: self.node.to_string(), reason })
    }

    /// Sends a notice.
    pub(super) fn tell(
        &self,
        service: Service,
        trace: TraceContext,
        body: Bytes,
    ) -> Result<(), LinkError> {
        self.check_size(&body)?;
        let item =
            Item { frame: frame(Kind::Notice, service, trace, body), deadline: None, work: None };
        let taken = self.outbox().tell(item, &self.options);
        taken.map(wake).map_err(|why| self.not_taken(why))
    }

    /// Sends a request. The answer is waited for by [`Asked`].
    pub(super) fn ask(
        self: &Arc<Self>,
        service: Service,
        trace: TraceContext,
        body: Bytes,
        limit: Duration,
    ) -> Result<Asked, LinkError> {
        self.check_size(&body)?;
        let deadline = self.clock.monotonic().plus_us(limit.as_micros() as u64);
        let (sender, answer) = oneshot::channel();
        let frame = frame(Kind::Request, service, trace, body);
        let item = Item { frame, deadline: Some(deadline), work: None };
        let taken = self.outbox().ask(item, sender, &self.options);
        let (id, waker) = taken.map_err(|why| self.not_taken(why))?;
        wake(waker);
        Ok(Asked { link: Arc::clone(self), id, answer, is_answered: false })
    }

    /// Hands the answers of a batch to those who wait for them.
    pub(super) fn on_answers(&self, answers: Vec<Frame>) {
        let now = self.clock.monotonic();
        let mut found = Vec::with_capacity(answers.len());
        {
            let mut outbox = self.outbox();
            for frame in answers {
                // Nobody waits any more for some: they came too late.
                if let Some((answer, sent)) = outbox.answered(frame.id) {
                    found.push((answer, sent, frame));
                }
            }
        }
        if let Some((_, Some(sent), _)) = found.first() {
            self.counters.on_round_trip(now.since(*sent));
        }
        for (answer, _, frame) in found {
            let is_answer = frame.kind() == Kind::Answer;
            let text = |body: &[u8]| super::handshake::shown(&String::from_utf8_lossy(body));
            let _ = answer.send(if is_answer { Ok(frame.body) } else { Err(text(&frame.body)) });
        }
    }

    /// Sends answers.
    pub(super) fn answer(&self, items: impl IntoIterator<Item = Item>) {
        let taken = self.outbox().answer(items);
        match taken {
            Some(waker) => wake(waker),
            None => self.end("the other node asks without end and reads no answers"),
        }
    }

    /// Ends the link, for this reason unless it has ended before.
    pub(super) fn end(&self, reason: &str) {
        let reason: Arc<str> = reason.into();
        let waker = self.outbox().end(&reason);
        self.fate.send_if_modified(|fate| {
            let is_first = !matches!(fate, LinkState::Ended(_));
            if is_first {
                *fate = LinkState::Ended(reason);
            }
            is_first
        });
        wake(waker);
    }

    /// Says that another link has taken its place.
    pub(super) fn replace(&self) {
        self.fate.send_if_modified(|fate| {
            let stood = *fate == LinkState::Stands;
            if stood {
                *fate = LinkState::Replaced;
            }
            stood
        });
    }

    pub(super) fn fate(&self) -> LinkState {
        self.fate.borrow().clone()
    }

    /// Follows its life.
    pub(super) fn watch(&self) -> watch::Receiver<LinkState> {
        self.fate.subscribe()
    }

    /// Tells whether nothing is waiting on it.
    pub(super) fn is_idle(&self) -> bool {
        self.work.count() == 0 && self.outbox().is_idle()
    }

    /// Takes note of a message of the stream.
    pub(super) fn on_received(&self, messages: usize, body_bytes: usize) {
        self.activity.fetch_add(1, Relaxed);
        self.counters.received.add(messages, body_bytes);
    }

    /// Grows while it is used.
    pub(super) fn activity(&self) -> u64 {
        self.activity.load(Relaxed)
    }

    pub(super) fn poll_batch(&self, cx: &Context<'_>) -> Poll<Option<Frames>> {
        let now = self.clock.monotonic();
        let mut outbox = self.outbox();
        if outbox.has_ended() {
            return Poll::Ready(None);
        }
        let batch = outbox.batch(now, self.options.batch_bytes);
        if batch.frames.is_empty() {
            outbox.wake_later(cx.waker());
            return Poll::Pending;
        }
        drop(outbox);
        self.activity.fetch_add(1, Relaxed);
        self.counters.sent.add(batch.frames.len(), batch.body_bytes);
        Poll::Ready(Some(Frames { frames: batch.frames, ..Frames::default() }))
    }
}

fn wake(waker: Option<std::task::Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn frame(kind: Kind, service: Service, trace: TraceContext, body: Bytes) -> Frame {
    Frame {
        kind: kind.into(),
        id: 0,
        service: service as u32,
        limit_ms: 0,
        trace_high: (trace.trace.0 >> 64) as u64,
        trace_low: trace.trace.0 as u64,
        span: trace.span.0,
        sampled: trace.sampled,
        body,
    }
}

/// Waits for an answer: `None` = the link broke first. Dropping it gives the request up.
pub(super) struct Asked {
    link: Arc<Link>,
    id: u64,
    answer: oneshot::Receiver<LinkAnswer>,
    is_answered: bool,
}

impl Future for Asked {
    type Output = Option<LinkAnswer>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        self.is_answered = true;
        Poll::Ready(answer.ok())
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.is_answered {
            self.link.outbox().answered(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth(opener: u8, acceptor: u8, opened: u64, acceptor_opened: u64) -> Birth {
        let node = |n| NodeId::from_key([n; 32]);
        let (opener, acceptor) = (node(opener), node(acceptor));
        Birth { opener, acceptor, opened, acceptor_opened, incarnation: 1 }
    }

    #[test]
    fn of_two_that_cross_the_smaller_nodes_stays() {
        // Both have opened theirs before they say hello on the other's.
        let (ours, theirs) = (birth(1, 2, 5, 8), birth(2, 1, 8, 5));
        assert!(ours.replaces(&theirs) && !theirs.replaces(&ours));
    }

    #[test]
    fn a_link_that_was_opened_after_the_other_was_known_is_the_later() {
        // Node 1 said hello on node 2's link when it had opened 5; its sixth comes after that link has broken for it.
        let (old, new) = (birth(2, 1, 8, 5), birth(1, 2, 6, 8));
        assert!(new.replaces(&old) && !old.replaces(&new));
        let (old, new) = (birth(1, 2, 5, 8), birth(2, 1, 9, 5));
        assert!(new.replaces(&old) && !old.replaces(&new));
        let (old, new) = (birth(2, 1, 8, 5), birth(2, 1, 9, 5));
        assert!(new.replaces(&old) && !old.replaces(&new));
    }

    #[test]
    fn a_restarted_process_replaces_what_its_last_one_had() {
        let (old, new) = (birth(1, 2, 500, 8), birth(1, 2, 1, 8));
        assert!(Birth { incarnation: 2, ..new }.replaces(&old));
    }
}
