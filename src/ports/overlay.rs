//! The network around the group: finds other nodes, answers which groups are near.

use std::time::Duration;

use futures::future::BoxFuture;

pub use nomad_core::group::offer::FoundGroups;
use nomad_core::{
    group::offer::{Offer, OverlayAnswer, Seeker, Whereabouts},
    model::node_id::NodeId,
    world::Position,
};

/// How the network looks from here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OverlayState {
    /// Where this node listens, as multiaddrs with its peer id; the first is the one to give to others.
    pub listens: Vec<String>,
    /// The nodes that it is connected to.
    pub connected: Vec<NodeId>,
    /// How many nodes were refused: of another network, or of another protocol version.
    pub refused: u64,
}

/// The network.
pub trait Overlay: Send + Sync + 'static {
    /// Announces this node's group, at once and then again and again, until it is called with `None`, which tells the
    /// network that the group is not to be had here any more. For super-peers. The offer's `seq` is set by the overlay.
    fn announce(&self, offer: Option<Offer>);

    /// Says whether this node looks for a group, which its answers tell others.
    fn seek(&self, seeker: Option<Seeker>);

    /// Says where this node can be reached and to which group it belongs, which its answers tell others.
    fn tell_whereabouts(&self, whereabouts: Option<Whereabouts>);

    /// Asks the nodes it knows (or finds within `window`) for the groups near a position, and gathers what they answer.
    /// Returns as soon as `enough` says so, else at the end of the window. Offers come merged: the newest of each group,
    /// nearest first.
    fn find(
        &self,
        near: Position,
        window: Duration,
        enough: Box<dyn Fn(&FoundGroups) -> bool + Send>,
    ) -> BoxFuture<'static, FoundGroups>;

    /// Returns the groups that this node has heard of lately, nearest first.
    fn known(&self, near: Position) -> Vec<Offer>;

    /// Answers another node's question; for tests and for the adapter itself.
    fn answer(&self, near: Position) -> OverlayAnswer;

    /// Returns how the network looks from here.
    fn state(&self) -> OverlayState;

    /// Tells whether there is any way to find others: without one a node need not wait for anybody.
    fn has_sources(&self) -> bool;
}

/// What runs the network. A supervised actor owns the run, and starts it again when it has ended.
pub trait OverlayRun: Send + Sync + 'static {
    /// Runs until it is dropped. Ends of itself only when it fails, and says why. One run at a time.
    fn run(&self) -> BoxFuture<'static, String>;
}
