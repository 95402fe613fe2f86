//! What nodes tell each other about groups: announcements by gossip, and requests between two nodes.

use std::sync::Arc;

use libp2p::{
    PeerId,
    gossipsub::{self, MessageAcceptance},
    request_response::{self, OutboundFailure, ResponseChannel},
};

use super::{behaviour::OverlayRequest, driver::SwarmDriver, events::node_of, shared::Finder};
use nomad_core::{
    group::offer::{Announcement, OverlayAnswer},
    world::Position,
};

/// How often an offer is repeated; an offer lasts four times as long.
const ANNOUNCE_PAUSE_US: u64 = 15_000_000;
/// The shortest time between two announcements.
const ANNOUNCE_GAP_US: u64 = 400_000;
/// The most questions that this node asks in a second, and in one search.
pub(super) const QUESTIONS_PER_S: f64 = 32.0;
const ASKED_MAX: usize = 128;
/// The most questions of one node that are answered in [`QUESTION_WINDOW_US`].
const QUESTIONS_MAX: u32 = 50;
const QUESTION_WINDOW_US: u64 = 10_000_000;

type AskEvent = request_response::Event<OverlayRequest, OverlayAnswer>;

impl SwarmDriver {
    /// Announces what there is to announce.
    pub(super) fn announce(&mut self) {
        let now = self.now();
        if now.since(self.published) < ANNOUNCE_GAP_US {
            return;
        }
        let is_due = self.announce_at <= now;
        let Some(announcement) = self.shared.next_announcement(is_due) else { return };
        let bytes = match postcard::to_allocvec(&announcement) {
            Ok(bytes) => bytes,
            Err(error) => return tracing::warn!(%error, "an announcement cannot be written"),
        };
        let topic = self.names.topic.hash();
        let sent = self.swarm.behaviour_mut().gossip.publish(topic, bytes);
        self.published = now;
        // Each node has a pause of its own, so that announcements spread out.
        let spread = self.shared.node.tag() % (ANNOUNCE_PAUSE_US / 10);
        self.announce_at = now.plus_us(ANNOUNCE_PAUSE_US - spread);
        self.is_unheard = sent.is_err();
        if let Err(error) = sent {
            tracing::debug!(%error, "an announcement reached nobody");
        }
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let verdict = self.judge(&message);
                self.swarm.behaviour_mut().gossip.report_message_validation_result(
                    &message_id,
                    &propagation_source,
                    verdict,
                );
            }
            gossipsub::Event::Subscribed { .. } if self.is_unheard => {
                let now = self.now();
                (self.is_unheard, self.announce_at) = (false, now);
                self.announce();
            }
            _ => {}
        }
    }

    /// Decides whether an announcement counts, and whether others are to hear of it.
    fn judge(&self, message: &gossipsub::Message) -> MessageAcceptance {
        let Some(source) = message.source.and_then(|source| node_of(&source)) else {
            return MessageAcceptance::Reject;
        };
        let Ok(announcement) = postcard::from_bytes::<Announcement>(&message.data) else {
            return MessageAcceptance::Reject;
        };
        if announcement.super_peer() != source {
            tracing::debug!(%source, "an announcement for another node was rejected");
            return MessageAcceptance::Reject;
        }
        if let Announcement::Offer(offer) = &announcement
            && let Err(error) = offer.check()
        {
            tracing::debug!(%source, %error, "an announcement was rejected");
            return MessageAcceptance::Reject;
        }
        if source == self.shared.node {
            return MessageAcceptance::Ignore;
        }
        if self.shared.hear(announcement).is_worth_telling() {
            MessageAcceptance::Accept
        } else {
            MessageAcceptance::Ignore
        }
    }

    /// Lets the number of allowed requests grow again, up to its limit.
    pub(super) fn refill(&mut self, passed_us: u64) {
        let grown = self.questions_left + QUESTIONS_PER_S * passed_us as f64 / 1e6;
        self.questions_left = grown.min(QUESTIONS_PER_S);
    }

    /// Asks every connected node on behalf of every search, once.
    pub(super) fn ask(&mut self) {
        for finder in self.shared.finders() {
            for peer in self.connected() {
                if self.questions_left < 1.0 {
                    return;
                }
                if !may_ask(&finder, peer) {
                    continue;
                }
                self.questions_left -= 1.0;
                let question = self.shared.question(finder.near);
                let id = self.swarm.behaviour_mut().ask.send_request(&peer, question);
                self.asks.insert(id, Arc::clone(&finder));
            }
        }
    }

    pub(super) fn on_ask(&mut self, event: AskEvent) {
        match event {
            AskEvent::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    self.on_question(peer, &request, channel);
                }
                request_response::Message::Response { request_id, response } => {
                    let finder = self.asks.remove(&request_id);
                    let node = self.peers.get(&peer).and_then(|peer| peer.node);
                    if let (Some(finder), Some(node)) = (finder, node) {
                        let answer = self.shared.cleaned(node, response);
                        // A search that has ended, or cannot keep up, does without.
                        let _ = finder.answers.try_send((node, answer));
                    }
                }
            },
            AskEvent::OutboundFailure { peer, request_id, error, .. } => {
                let Some(finder) = self.asks.remove(&request_id) else { return };
                tracing::debug!(%peer, %error, "a question was not answered");
                if matches!(error, OutboundFailure::ConnectionClosed | OutboundFailure::DialFailure)
                {
                    // It is asked again when it is connected again.
                    finder.asked.lock().remove(&peer);
                }
            }
            _ => {}
        }
    }

    fn on_question(
        &mut self,
        id: PeerId,
        question: &OverlayRequest,
        channel: ResponseChannel<OverlayAnswer>,
    ) {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.close_at.is_none()) else {
            return;
        };
        if now.since(peer.window_start) >= QUESTION_WINDOW_US {
            (peer.window_start, peer.questions_in_window) = (now, 0);
        }
        peer.questions_in_window += 1;
        if peer.questions_in_window > QUESTIONS_MAX {
            return;
        }
        let Position { x, y } = question.near;
        let near = if x.is_finite() && y.is_finite() { question.near } else { Position::default() };
        let answer = self.shared.answer(near);
        // One that has gone does not wait for it.
        let _ = self.swarm.behaviour_mut().ask.send_response(channel, answer);
        // Who asks because it seeks is a find for this node's own search.
        let node = node_of(&id);
        if let (Some(node), Some(seeker)) = (node, question.seeker)
            && seeker.node == node
        {
            let answer = OverlayAnswer { seeker: Some(seeker), ..OverlayAnswer::default() };
            for finder in self.shared.finders() {
                let _ = finder.answers.try_send((node, answer.clone()));
            }
        }
    }
}

fn may_ask(finder: &Finder, peer: PeerId) -> bool {
    let mut asked = finder.asked.lock();
    asked.len() < ASKED_MAX && asked.insert(peer)
}
