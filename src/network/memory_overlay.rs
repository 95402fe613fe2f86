//! The network as a table in memory: what the nodes of one test share in place of libp2p.
//!
//! Waits only on tokio's timers, so paused time rules it. Nodes hear of each other at once; pairs of them can be cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::sync::watch;

use nomad_core::{
    group::{
        directory::merged,
        offer::{OFFERS_MAX, Offer, OverlayAnswer, Seeker, Whereabouts},
    },
    model::node_id::NodeId,
    world::Position,
};
use nomad_ports::overlay::{FoundGroups, Overlay, OverlayState};

#[derive(Debug, Default)]
struct Place {
    offer: Option<Offer>,
    seeker: Option<Seeker>,
    whereabouts: Option<Whereabouts>,
}

#[derive(Debug, Default)]
struct Table {
    places: BTreeMap<NodeId, Place>,
    /// Offers of nodes that are not there any more.
    stale: Vec<Offer>,
    /// The smaller node first.
    cuts: BTreeSet<(NodeId, NodeId)>,
    seq: u64,
}

/// What all overlays of a test share.
#[derive(Debug)]
pub struct MemoryRegistry {
    table: Mutex<Table>,
    changes: watch::Sender<u64>,
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self { table: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl MemoryRegistry {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let changed = change(&mut self.table());
        self.changes.send_modify(|count| *count += 1);
        changed
    }

    /// Cuts two nodes off from each other, or joins them again.
    pub fn cut(&self, a: NodeId, b: NodeId, is_cut: bool) {
        let pair = (a.min(b), a.max(b));
        self.change(|table| {
            if is_cut {
                table.cuts.insert(pair)
            } else {
                table.cuts.remove(&pair)
            };
        });
    }

    /// Puts in an offer of a node that does not answer, as the real network remembers one for a minute.
    pub fn plant(&self, offer: Offer) {
        self.change(|table| table.stale.push(offer));
    }

    /// Takes out all such offers.
    pub fn weed(&self) {
        self.change(|table| table.stale.clear());
    }
}

/// One node's place in a [`MemoryRegistry`]. Dropping it takes the node out.
#[derive(Debug)]
pub struct MemoryOverlay {
    network: Arc<MemoryRegistry>,
    node: NodeId,
}

impl MemoryOverlay {
    /// Puts a node into the network.
    pub fn new(network: Arc<MemoryRegistry>, node: NodeId) -> Self {
        network.change(|table| table.places.insert(node, Place::default()));
        Self { network, node }
    }
}

impl Drop for MemoryOverlay {
    fn drop(&mut self) {
        self.network.change(|table| table.places.remove(&self.node));
    }
}

impl Table {
    fn reaches(&self, a: NodeId, b: NodeId) -> bool {
        a != b && !self.cuts.contains(&(a.min(b), a.max(b)))
    }

    fn look(&self, from: NodeId, near: Position) -> FoundGroups {
        let seen = || self.places.iter().filter(|(node, _)| self.reaches(from, **node));
        let offers = seen().filter_map(|(_, place)| place.offer.clone());
        FoundGroups {
            offers: merged(near, offers.chain(self.stale.iter().cloned()), OFFERS_MAX),
            seekers: seen().filter_map(|(_, place)| place.seeker).collect(),
            whereabouts: seen().filter_map(|(_, place)| place.whereabouts.clone()).collect(),
            answered: seen().count(),
        }
    }
}

impl Overlay for MemoryOverlay {
    fn announce(&self, offer: Option<Offer>) {
        self.network.change(|table| {
            table.seq += 1;
            let seq = table.seq;
            let offer = offer.map(|offer| Offer { seq, ..offer });
            if let Some(place) = table.places.get_mut(&self.node) {
                place.offer = offer;
            }
        });
    }

    fn seek(&self, seeker: Option<Seeker>) {
        self.network.change(|table| {
            if let Some(place) = table.places.get_mut(&self.node) {
                place.seeker = seeker;
            }
        });
    }

    fn tell_whereabouts(&self, whereabouts: Option<Whereabouts>) {
        self.network.change(|table| {
            if let Some(place) = table.places.get_mut(&self.node) {
                place.whereabouts = whereabouts;
            }
        });
    }

    fn find(
        &self,
        near: Position,
        window: Duration,
        enough: Box<dyn Fn(&FoundGroups) -> bool + Send>,
    ) -> BoxFuture<'static, FoundGroups> {
        let (network, node) = (Arc::clone(&self.network), self.node);
        let mut changes = network.changes.subscribe();
        Box::pin(async move {
            let table = Arc::clone(&network);
            let look = move || table.table().look(node, near);
            let early = async move {
                loop {
                    changes.mark_unchanged();
                    let found = look();
                    if enough(&found) {
                        return found;
                    }
                    // The sender lives as long as the network, which this future holds.
                    let _ = changes.changed().await;
                }
            };
            match tokio::time::timeout(window, early).await {
                Ok(found) => found,
                Err(_) => network.table().look(node, near),
            }
        })
    }

    fn known(&self, near: Position) -> Vec<Offer> {
        self.network.table().look(self.node, near).offers
    }

    fn answer(&self, near: Position) -> OverlayAnswer {
        let table = self.network.table();
        let own = table.places.get(&self.node);
        let offers = own.and_then(|place| place.offer.clone()).into_iter();
        let others = table.look(self.node, near).offers;
        OverlayAnswer {
            offers: merged(near, offers.chain(others), OFFERS_MAX),
            seeker: own.and_then(|place| place.seeker),
            whereabouts: own.and_then(|place| place.whereabouts.clone()),
        }
    }

    fn state(&self) -> OverlayState {
        let table = self.network.table();
        let connected = table.places.keys().copied();
        OverlayState {
            listens: vec![format!("/memory/{}/p2p/{}", self.node.tag(), self.node)],
            connected: connected.filter(|node| table.reaches(self.node, *node)).collect(),
            refused: 0,
        }
    }

    fn has_sources(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const HERE: Position = Position { x: 0.0, y: 0.0 };

    fn node(number: u8) -> NodeId {
        NodeId::from_key([number; 32])
    }

    fn offer(number: u8) -> Offer {
        Offer {
            group: format!("group-{number}"),
            super_peer: node(number),
            peer: "127.0.0.1:5001".into(),
            site: HERE,
            members: 1,
            capacity: 5,
            permanent: false,
            epoch: 1,
            seq: 0,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "tokio's time, which is paused")]
    fn now() -> Instant {
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn a_search_ends_as_soon_as_it_has_enough_and_else_with_its_window() {
        let network = Arc::new(MemoryRegistry::default());
        let a = MemoryOverlay::new(Arc::clone(&network), node(1));
        let b = MemoryOverlay::new(Arc::clone(&network), node(2));
        let start = now();
        let window = Duration::from_secs(5);
        let found = a.find(HERE, window, Box::new(|found| !found.offers.is_empty())).await;
        assert_eq!((found.offers.len(), found.answered), (0, 1));
        assert_eq!(start.elapsed(), window);
        let search = tokio::spawn(a.find(HERE, window, Box::new(|found| !found.offers.is_empty())));
        tokio::time::sleep(Duration::from_secs(1)).await;
        b.announce(Some(offer(2)));
        assert_eq!(search.await.unwrap().offers[0].group, "group-2");
        assert_eq!(start.elapsed(), Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn cut_nodes_do_not_see_each_other_and_a_node_that_left_is_not_seen() {
        let network = Arc::new(MemoryRegistry::default());
        let a = MemoryOverlay::new(Arc::clone(&network), node(1));
        let b = MemoryOverlay::new(Arc::clone(&network), node(2));
        b.announce(Some(offer(2)));
        b.seek(Some(Seeker { node: node(2), permanent: false }));
        network.cut(node(2), node(1), true);
        assert!(a.known(HERE).is_empty() && a.state().connected.is_empty());
        network.cut(node(1), node(2), false);
        assert_eq!(a.known(HERE).len(), 1);
        assert_eq!(a.answer(HERE).offers.len(), 1);
        assert_eq!(b.answer(HERE).offers[0].super_peer, node(2));
        drop(b);
        assert!(a.known(HERE).is_empty());
        network.plant(offer(3));
        assert_eq!(a.known(HERE).len(), 1);
        network.weed();
        assert!(a.known(HERE).is_empty());
    }
}
