//! Chooses a group from those that were found.

use std::cmp::Reverse;

use crate::{
    group::offer::{Offer, Seeker},
    model::node_id::NodeId,
    world::Position,
};

/// How far apart two positions are, squared.
fn distance(a: Position, b: Position) -> f64 {
    (a.x - b.x).powi(2) + (a.y - b.y).powi(2)
}

/// Returns the group to join: the nearest with a free place, or the first.
pub(super) fn choose(
    offers: &[Offer],
    near: Position,
    nearest: bool,
    mut may_join: impl FnMut(&Offer) -> bool,
) -> Option<&Offer> {
    let mut open = offers.iter().filter(|offer| offer.free() > 0 && may_join(offer));
    if !nearest {
        return open.next();
    }
    open.min_by(|a, b| {
        let order = distance(a.site, near).total_cmp(&distance(b.site, near));
        order.then_with(|| a.group.cmp(&b.group))
    })
}

/// Orders groups: of two that could become one, the greater one stays. Strict, so that no two groups each go to the other.
fn rank(offer: &Offer) -> (bool, u32, Reverse<&str>) {
    (offer.permanent, offer.members, Reverse(offer.group.as_str()))
}

/// Returns the best group that all members of `mine` could go to.
pub(super) fn better<'a>(offers: &'a [Offer], mine: &Offer, strict: bool) -> Option<&'a Offer> {
    let fits = |offer: &&Offer| {
        offer.group != mine.group
            && mine.members <= offer.free()
            && (!strict || rank(offer) > rank(mine))
    };
    offers.iter().filter(fits).max_by(|a, b| rank(a).cmp(&rank(b)))
}

/// Returns the provisional group that a permanent super-peer that is still alone takes over.
pub(super) fn to_take_over<'a>(offers: &'a [Offer], mine: &Offer) -> Option<&'a Offer> {
    let open = |offer: &&Offer| offer.group != mine.group && !offer.permanent && offer.free() > 0;
    offers.iter().filter(open).max_by(|a, b| rank(a).cmp(&rank(b)))
}

/// Tells whether another node that looks for a group goes before this one when none is there and one has to found it.
pub(super) fn goes_first(seekers: &[Seeker], this: NodeId) -> bool {
    seekers.iter().any(|seeker| !seeker.permanent && seeker.node < this)
}
