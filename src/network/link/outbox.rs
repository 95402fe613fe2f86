//! What waits to be sent on one link, and who waits for an answer. No IO: the link puts a lock around it.
//!
//! Two queues: small messages of the log and of the membership go before everything else, so that a large object does not
//! hold up a heartbeat; neither can starve the other. Messages keep no order between the queues.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::Waker,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{options::LinkOptions, work::Work};
use nomad_core::model::time::MonotonicUs;
use nomad_ports::peer_transport::Service;
use nomad_proto::link::{Frame, frame::Kind};

/// What a message counts beside its body.
const OVERHEAD_BYTES: usize = 48;

/// The most bytes of a message that goes first.
const SMALL_BYTES_MAX: usize = 16 << 10;

/// The most refusals that may wait for a node that does not read them, before it is cut off.
const REFUSALS_MAX: usize = 4_096;

/// What came back for a request.
pub(super) type LinkAnswer = Result<Bytes, String>;

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// The link has ended.
    Ended,
    /// So many wait already.
    Full(usize),
}

/// A message on its way out.
pub(super) struct Item {
    pub(super) frame: Frame,
    /// The time after which no caller waits for it any more.
    pub(super) deadline: Option<MonotonicUs>,
    /// The place of the request that it answers; given back when it is sent.
    pub(super) work: Option<Work>,
}

impl Item {
    fn size_bytes(&self) -> usize {
        self.frame.body.len() + OVERHEAD_BYTES
    }

    fn is_answer(&self) -> bool {
        matches!(self.frame.kind(), Kind::Answer | Kind::Refused | Kind::Busy)
    }

    fn goes_first(&self) -> bool {
        let is_small = self.frame.body.len() <= SMALL_BYTES_MAX;
        is_small && self.frame.service != Service::Replica as u32
    }
}

/// Who waits for the answer to a request.
struct Asker {
    answer: oneshot::Sender<LinkAnswer>,
    sent: Option<MonotonicUs>,
}

/// Messages that are sent at once.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) frames: Vec<Frame>,
    pub(super) body_bytes: usize,
}

/// See the module.
#[derive(Default)]
pub(super) struct LinkQueue {
    first: VecDeque<Item>,
    rest: VecDeque<Item>,
    /// Whether the next batch begins with `rest`, whose front did not fit into the last one.
    rest_is_next: bool,
    askers: HashMap<u64, Asker>,
    last_id: u64,
    /// Requests and notices waiting, and their bytes.
    own_count: usize,
    own_bytes: usize,
    /// Bytes of answers waiting.
    answer_bytes: usize,
    refusal_count: usize,
    /// Wakes whoever sends; set while there is nothing to send.
    waker: Option<Waker>,
    ended: Option<Arc<str>>,
}

impl LinkQueue {
    /// Takes a request.
    pub(super) fn ask(
        &mut self,
        mut item: Item,
        answer: oneshot::Sender<LinkAnswer>,
        options: &LinkOptions,
    ) -> Result<(u64, Option<Waker>), NotTaken> {
        if self.askers.len() >= options.asks_max {
            return Err(NotTaken::Full(self.askers.len()));
        }
        let id = self.last_id + 1;
        item.frame.id = id;
        let waker = self.tell(item, options)?;
        self.last_id = id;
        self.askers.insert(id, Asker { answer, sent: None });
        Ok((id, waker))
    }

    /// Takes a message of this node's own.
    pub(super) fn tell(
        &mut self,
        item: Item,
        options: &LinkOptions,
    ) -> Result<Option<Waker>, NotTaken> {
        if self.ended.is_some() {
            return Err(NotTaken::Ended);
        }
        let bytes = self.own_bytes + item.size_bytes();
        // One message is always taken, however the limits are set.
        let is_over =
            self.own_count >= options.queue_messages_max || bytes > options.queue_bytes_max;
        if is_over && self.own_count > 0 {
            return Err(NotTaken::Full(self.own_count));
        }
        self.own_count += 1;
        self.own_bytes = bytes;
        self.push(item);
        Ok(self.waker.take())
    }

    /// Takes answers. `None` once the other node has let too many refusals pile up.
    pub(super) fn answer(
        &mut self,
        items: impl IntoIterator<Item = Item>,
    ) -> Option<Option<Waker>> {
        if self.ended.is_some() {
            return Some(None);
        }
        for item in items {
            self.answer_bytes += item.size_bytes();
            self.refusal_count += usize::from(item.work.is_none());
            self.push(item);
        }
        (self.refusal_count <= REFUSALS_MAX).then(|| self.waker.take())
    }

    fn push(&mut self, item: Item) {
        if item.goes_first() { &mut self.first } else { &mut self.rest }.push_back(item);
    }

    /// Takes out what is to be sent next. Requests that nobody waits for any more are left out.
    pub(super) fn batch(&mut self, now: MonotonicUs, batch_bytes: usize) -> Batch {
        let (mut batch, mut bytes, mut took_rest) = (Batch::default(), 0, false);
        while let Some(size) = self.front(bytes, batch_bytes) {
            if !batch.frames.is_empty() && bytes + size > batch_bytes {
                break;
            }
            took_rest |= self.rest_is_next;
            let Some(frame) = self.pop(now) else { continue };
            bytes += size;
            batch.body_bytes += frame.body.len();
            batch.frames.push(frame);
        }
        self.rest_is_next &= !took_rest;
        batch
    }

    /// Chooses the queue, and returns the size of its front. The first one has half of a batch, then the rest.
    fn front(&mut self, bytes: usize, batch_bytes: usize) -> Option<usize> {
        self.rest_is_next = match (self.first.is_empty(), self.rest.is_empty()) {
            (_, true) => false,
            (true, false) => true,
            (false, false) => self.rest_is_next || bytes >= batch_bytes / 2,
        };
        let queue = if self.rest_is_next { &self.rest } else { &self.first };
        queue.front().map(Item::size_bytes)
    }

    fn pop(&mut self, now: MonotonicUs) -> Option<Frame> {
        let queue = if self.rest_is_next { &mut self.rest } else { &mut self.first };
        let item = queue.pop_front()?;
        self.rest_is_next = false;
        if item.is_answer() {
            self.answer_bytes -= item.size_bytes();
            self.refusal_count -= usize::from(item.work.is_none());
        } else {
            self.own_count -= 1;
            self.own_bytes -= item.size_bytes();
        }
        let Item { mut frame, deadline, work: _ } = item;
        let left_us = deadline.map(|deadline| deadline.since(now));
        if left_us == Some(0) {
            return None;
        }
        if frame.kind() == Kind::Request {
            self.askers.get_mut(&frame.id)?.sent = Some(now);
            frame.limit_ms = left_us.unwrap_or(0).div_ceil(1000).min(u64::from(u32::MAX)) as u32;
        }
        Some(frame)
    }

    /// Returns who waits for this answer, if anybody does, and when its request was sent.
    pub(super) fn answered(
        &mut self,
        id: u64,
    ) -> Option<(oneshot::Sender<LinkAnswer>, Option<MonotonicUs>)> {
        self.askers.remove(&id).map(|asker| (asker.answer, asker.sent))
    }

    /// Says who is to be woken when there is something to send.
    pub(super) fn wake_later(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Ends it: all that wait learn that no answer will come. The first reason stays.
    pub(super) fn end(&mut self, reason: &Arc<str>) -> Option<Waker> {
        if self.ended.is_none() {
            let waker = self.waker.take();
            *self = Self { ended: Some(Arc::clone(reason)), ..Self::default() };
            return waker;
        }
        None
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Tells whether nothing waits: neither to be sent nor for an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.askers.is_empty() && self.first.is_empty() && self.rest.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    pub(super) fn asked(&self) -> usize {
        self.askers.len()
    }

    pub(super) fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> LinkOptions {
        LinkOptions { queue_messages_max: 4, asks_max: 3, ..LinkOptions::new("n", 1024) }
    }

    fn item(service: Service, kind: Kind, len: usize) -> Item {
        let body = Bytes::from(vec![0; len]);
        let frame = Frame { kind: kind.into(), service: service as u32, body, ..Frame::default() };
        Item { frame, deadline: None, work: None }
    }

    fn notice(service: Service, len: usize) -> Item {
        item(service, Kind::Notice, len)
    }

    const NOW: MonotonicUs = MonotonicUs(1_000_000);

    fn sizes(outbox: &mut LinkQueue, batch_bytes: usize) -> Vec<usize> {
        outbox.batch(NOW, batch_bytes).frames.iter().map(|frame| frame.body.len()).collect()
    }

    #[test]
    fn small_messages_of_the_log_overtake_and_nothing_starves() {
        let mut outbox = LinkQueue::default();
        let options = LinkOptions::new("n", 1024);
        let mut tell = |service, len| {
            outbox.tell(notice(service, len), &options).unwrap();
        };
        tell(Service::Replica, 2_000);
        tell(Service::Replica, 3_000);
        (0..40).for_each(|_| tell(Service::Log, 52));
        let small = |count| vec![52; count];
        // 1,000 bytes: ten small ones; the large one does not fit, and begins the next batch.
        assert_eq!(sizes(&mut outbox, 1_000), small(5));
        assert_eq!(sizes(&mut outbox, 1_000), [2_000]);
        assert_eq!(sizes(&mut outbox, 1_000), small(5));
        assert_eq!(sizes(&mut outbox, 1_000), [3_000]);
        assert_eq!(sizes(&mut outbox, 100_000), small(30));
        assert!(outbox.is_idle());
    }

    #[test]
    fn what_is_over_a_limit_is_refused_at_once_and_room_comes_back() {
        let (mut outbox, options) = (LinkQueue::default(), options());
        for _ in 0..4 {
            outbox.tell(notice(Service::Log, 10), &options).unwrap();
        }
        let refused = outbox.tell(notice(Service::Log, 10), &options);
        assert_eq!(refused.unwrap_err(), NotTaken::Full(4));
        assert_eq!(outbox.batch(NOW, 100_000).frames.len(), 4);
        let large = options.queue_bytes_max;
        outbox.tell(notice(Service::Replica, large), &options).unwrap();
        let refused = outbox.tell(notice(Service::Replica, 1), &options);
        assert_eq!(refused.unwrap_err(), NotTaken::Full(1), "bytes count too");
    }

    #[test]
    fn requests_are_bounded_until_they_are_answered_or_given_up() {
        let (mut outbox, options) = (LinkQueue::default(), options());
        let ask = |outbox: &mut LinkQueue| {
            let (sender, receiver) = oneshot::channel();
            let item = item(Service::Log, Kind::Request, 1);
            outbox.ask(item, sender, &options).map(|(id, _)| (id, receiver))
        };
        let (first, _one) = ask(&mut outbox).unwrap();
        let (second, mut two) = ask(&mut outbox).unwrap();
        let (_, _three) = ask(&mut outbox).unwrap();
        assert_eq!(ask(&mut outbox).unwrap_err(), NotTaken::Full(3));
        outbox.answered(first).unwrap();
        assert_eq!(outbox.batch(NOW, 100_000).frames.len(), 2, "nobody waits for the first");
        outbox.answered(second).unwrap().0.send(Ok(Bytes::new())).unwrap();
        two.try_recv().unwrap().unwrap();
        assert!(outbox.answered(second).is_none(), "an answer counts once");
    }

    #[test]
    fn the_end_fails_all_that_wait_and_takes_nothing_more() {
        let (mut outbox, options) = (LinkQueue::default(), options());
        let (sender, mut receiver) = oneshot::channel();
        outbox.ask(item(Service::Log, Kind::Request, 1), sender, &options).unwrap();
        outbox.end(&"cut".into());
        assert!(receiver.try_recv().is_err());
        let refused = outbox.tell(notice(Service::Log, 1), &options);
        assert_eq!(refused.unwrap_err(), NotTaken::Ended);
        assert!(outbox.batch(NOW, 100).frames.is_empty() && outbox.has_ended());
    }

    #[test]
    fn what_is_late_is_not_sent() {
        let (mut outbox, options) = (LinkQueue::default(), options());
        let (sender, _receiver) = oneshot::channel();
        let late = Item { deadline: Some(NOW), ..item(Service::Log, Kind::Request, 1) };
        outbox.ask(late, sender, &options).unwrap();
        let (sender, _receiver) = oneshot::channel();
        let due = Some(NOW.plus_us(1_500));
        let in_time = Item { deadline: due, ..item(Service::Log, Kind::Request, 1) };
        outbox.ask(in_time, sender, &options).unwrap();
        let batch = outbox.batch(NOW, 100_000);
        assert_eq!(batch.frames.iter().map(|frame| frame.limit_ms).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_node_that_lets_refusals_pile_up_is_found_out() {
        let mut outbox = LinkQueue::default();
        let refusals = |count| (0..count).map(|_| item(Service::Log, Kind::Busy, 1));
        assert!(outbox.answer(refusals(REFUSALS_MAX)).is_some());
        assert!(outbox.answer(refusals(1)).is_none());
    }
}
