//! What the port's callers and the running swarm share. It outlives the swarm's restarts.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use libp2p::PeerId;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, watch};

use super::behaviour::OverlayRequest;
use nomad_core::{
    group::{
        directory::{AnnounceOutcome, Directory, merged},
        offer::{Announcement, OFFERS_MAX, Offer, OverlayAnswer, Seeker, Whereabouts},
    },
    model::node_id::NodeId,
    world::Position,
};
use nomad_ports::{Clock, overlay::OverlayState};

/// The most searches at the same time.
const FINDERS_MAX: usize = 64;

/// What this node says of itself.
#[derive(Debug, Default)]
pub struct Own {
    /// The group that it announces.
    pub offer: Option<Offer>,
    /// Set while it looks for a group.
    pub seeker: Option<Seeker>,
    /// Where it is and to which group it belongs.
    pub whereabouts: Option<Whereabouts>,
    /// What is to be announced at once.
    pub news: Option<Announcement>,
    seq: u64,
}

/// A search under way.
#[derive(Debug)]
pub struct Finder {
    /// What it asks for.
    pub near: Position,
    /// Takes each answer.
    pub answers: mpsc::Sender<(NodeId, OverlayAnswer)>,
    /// Who was asked.
    pub asked: Mutex<BTreeSet<PeerId>>,
}

/// Everything that is shared.
pub struct OverlayShared {
    /// This node.
    pub node: NodeId,
    pub clock: Arc<dyn Clock>,
    /// What was heard from super-peers themselves.
    directory: Mutex<Directory>,
    own: Mutex<Own>,
    finders: Mutex<Vec<Arc<Finder>>>,
    /// How the network looks; the running swarm writes it.
    pub state: watch::Sender<OverlayState>,
    /// Counts changes of the directory.
    pub heard: watch::Sender<u64>,
    /// Counts how often the nodes that were met were written down.
    pub saved: watch::Sender<u64>,
    /// Wakes the running swarm.
    pub wake: Notify,
    /// How many nodes were refused.
    pub refused: AtomicU64,
}

impl OverlayShared {
    pub fn new(node: NodeId, clock: Arc<dyn Clock>) -> Self {
        Self {
            node,
            clock,
            directory: Mutex::default(),
            own: Mutex::default(),
            finders: Mutex::default(),
            state: watch::Sender::default(),
            heard: watch::Sender::new(0),
            saved: watch::Sender::new(0),
            wake: Notify::new(),
            refused: AtomicU64::new(0),
        }
    }

    pub fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock()
    }

    /// Sets what this node announces. An offer that says the same as the last one is no news.
    pub fn announce(&self, offer: Option<Offer>) {
        let mut own = self.own();
        let seq = own.seq.max(self.clock.wall().0) + 1;
        let said = own.offer.as_ref().map(|said| Offer { seq: 0, ..said.clone() });
        if said == offer.as_ref().map(|offer| Offer { seq: 0, ..offer.clone() }) {
            return;
        }
        own.seq = seq;
        own.offer = offer.map(|offer| Offer { seq, ..offer });
        own.news = Some(match &own.offer {
            Some(offer) => Announcement::Offer(offer.clone()),
            None => Announcement::Withdrawn { super_peer: self.node, seq },
        });
        drop(own);
        self.wake.notify_one();
    }

    /// Takes what is to be announced now: news, or the standing offer again when it `is_due`, with a number of its own.
    pub fn next_announcement(&self, is_due: bool) -> Option<Announcement> {
        let mut own = self.own();
        let seq = own.seq.max(self.clock.wall().0) + 1;
        if let Some(news) = own.news.take() {
            return Some(news);
        }
        let offer = own.offer.as_mut().filter(|_| is_due)?;
        offer.seq = seq;
        let announcement = Announcement::Offer(offer.clone());
        own.seq = seq;
        Some(announcement)
    }

    /// Takes an announcement that comes from the super-peer itself and has been checked.
    pub fn hear(&self, announcement: Announcement) -> AnnounceOutcome {
        let verdict = self.directory.lock().hear(self.clock.monotonic(), announcement);
        if verdict == AnnounceOutcome::News {
            self.heard.send_modify(|count| *count += 1);
        }
        verdict
    }

    /// Forgets what was not heard of for too long.
    pub fn expire(&self) {
        self.directory.lock().expire(self.clock.monotonic());
    }

    pub fn known(&self, near: Position) -> Vec<Offer> {
        self.directory.lock().known(self.clock.monotonic(), near, OFFERS_MAX)
    }

    pub fn answer(&self, near: Position) -> OverlayAnswer {
        let (own, seeker, whereabouts) = {
            let own = self.own();
            (own.offer.clone(), own.seeker, own.whereabouts.clone())
        };
        let offers = merged(near, own.into_iter().chain(self.known(near)), OFFERS_MAX);
        OverlayAnswer { offers, seeker, whereabouts }
    }

    pub fn question(&self, near: Position) -> OverlayRequest {
        OverlayRequest { near, seeker: self.own().seeker }
    }

    /// Starts a search. `None` when too many are under way.
    pub fn start_finder(&self, finder: Arc<Finder>) -> Option<()> {
        let mut finders = self.finders.lock();
        finders.retain(|finder| !finder.answers.is_closed());
        if finders.len() >= FINDERS_MAX {
            return None;
        }
        finders.push(finder);
        drop(finders);
        self.wake.notify_one();
        Some(())
    }

    /// Returns the searches under way.
    pub fn finders(&self) -> Vec<Arc<Finder>> {
        let mut finders = self.finders.lock();
        finders.retain(|finder| !finder.answers.is_closed());
        finders.clone()
    }

    /// Sorts out what another node answered, takes in what it says of its own group, and keeps the rest as hearsay.
    pub fn cleaned(&self, from: NodeId, answer: OverlayAnswer) -> OverlayAnswer {
        let mut offers = answer.offers;
        offers.truncate(OFFERS_MAX);
        offers.retain(|offer| offer.check().is_ok() && offer.super_peer != self.node);
        for offer in offers.iter().filter(|offer| offer.super_peer == from) {
            self.hear(Announcement::Offer(offer.clone()));
        }
        OverlayAnswer {
            offers,
            seeker: answer.seeker.filter(|seeker| seeker.node == from),
            whereabouts: answer.whereabouts.filter(|said| said.node == from && said.check()),
        }
    }

    pub fn count_refused(&self) -> u64 {
        self.refused.fetch_add(1, Relaxed) + 1
    }
}
