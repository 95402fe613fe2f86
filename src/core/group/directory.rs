//! The groups that a node has heard of from their super-peers. The newest announcement wins, old ones are forgotten, and the
//! number of groups is limited.
//!
//! The key is the super-peer, since a node leads one group at a time: so each node takes at most one place. What other nodes
//! say about a super-peer never gets in here.

use std::collections::BTreeMap;

use crate::{
    group::offer::{Announcement, Offer},
    model::{node_id::NodeId, time::MonotonicUs},
    world::Position,
};

/// How long an offer counts after it was last announced, in microseconds.
pub const OFFER_LASTS_US: u64 = 60_000_000;
/// The most super-peers that are remembered.
pub const SUPER_PEERS_MAX: usize = 1024;
/// The most announcements of one super-peer that are taken in [`RATE_WINDOW_US`].
pub const ANNOUNCEMENTS_MAX: u32 = 30;
/// What [`ANNOUNCEMENTS_MAX`] counts over.
pub const RATE_WINDOW_US: u64 = 10_000_000;

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnounceOutcome {
    /// It says something new.
    News,
    /// It says what was known, which now counts for longer.
    Repeated,
    /// This, or something newer of the same super-peer, is known.
    Stale,
    /// The super-peer announces too often.
    TooOften,
    /// As many super-peers are known as may be.
    Full,
}

impl AnnounceOutcome {
    /// Tells whether others should hear of it too.
    pub fn is_worth_telling(self) -> bool {
        matches!(self, Self::News | Self::Repeated)
    }
}

#[derive(Debug, Clone)]
struct Entry {
    /// `None` once it was withdrawn.
    offer: Option<Offer>,
    seq: u64,
    at: MonotonicUs,
    window_start: MonotonicUs,
    in_window: u32,
}

/// The known offers.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    entries: BTreeMap<NodeId, Entry>, // invariant: at most SUPER_PEERS_MAX
}

impl Directory {
    /// Takes an announcement. It was checked, and it comes from the super-peer that it describes.
    pub fn hear(&mut self, now: MonotonicUs, announcement: Announcement) -> AnnounceOutcome {
        let super_peer = announcement.super_peer();
        let (offer, seq) = match announcement {
            Announcement::Offer(offer) => (Some(offer.clone()), offer.seq),
            Announcement::Withdrawn { seq, .. } => (None, seq),
        };
        if !self.entries.contains_key(&super_peer) && self.entries.len() >= SUPER_PEERS_MAX {
            self.expire(now);
            if self.entries.len() >= SUPER_PEERS_MAX {
                return AnnounceOutcome::Full;
            }
        }
        let Some(entry) = self.entries.get_mut(&super_peer) else {
            let entry = Entry { offer, seq, at: now, window_start: now, in_window: 1 };
            self.entries.insert(super_peer, entry);
            return AnnounceOutcome::News;
        };
        if now.since(entry.window_start) >= RATE_WINDOW_US {
            (entry.window_start, entry.in_window) = (now, 0);
        }
        entry.in_window += 1;
        if entry.in_window > ANNOUNCEMENTS_MAX {
            return AnnounceOutcome::TooOften;
        }
        // An old number keeps nobody alive. After a long silence a lower one may follow.
        if seq <= entry.seq && now.since(entry.at) < OFFER_LASTS_US {
            return AnnounceOutcome::Stale;
        }
        let content = |offer: &Option<Offer>| offer.clone().map(|offer| Offer { seq: 0, ..offer });
        let is_same = content(&offer) == content(&entry.offer);
        let verdict = if is_same { AnnounceOutcome::Repeated } else { AnnounceOutcome::News };
        (entry.offer, entry.seq, entry.at) = (offer, seq, now);
        verdict
    }

    /// Forgets what was not announced for [`OFFER_LASTS_US`].
    pub fn expire(&mut self, now: MonotonicUs) {
        self.entries.retain(|_, entry| now.since(entry.at) < OFFER_LASTS_US);
    }

    /// Returns the offers that count now, the newest of each group, nearest first, at most `limit`.
    pub fn known(&self, now: MonotonicUs, near: Position, limit: usize) -> Vec<Offer> {
        let counting = self.entries.values().filter(|entry| now.since(entry.at) < OFFER_LASTS_US);
        merged(near, counting.filter_map(|entry| entry.offer.clone()), limit)
    }
}

/// Keeps the newest offer of each group and puts the nearest first, at most `limit`.
pub fn merged(near: Position, offers: impl IntoIterator<Item = Offer>, limit: usize) -> Vec<Offer> {
    let mut newest: BTreeMap<String, Offer> = BTreeMap::new();
    for offer in offers {
        let known = newest.get(&offer.group);
        if known.is_none_or(|known| (known.epoch, known.seq) < (offer.epoch, offer.seq)) {
            newest.insert(offer.group.clone(), offer);
        }
    }
    let mut offers: Vec<_> = newest.into_values().collect();
    let distance = |offer: &Offer| (offer.site.x - near.x).hypot(offer.site.y - near.y);
    // Stable: at equal distance the order of the names stays.
    offers.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    offers.truncate(limit);
    offers
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Position = Position { x: 0.0, y: 0.0 };

    fn offer(node: u8, group: &str, x: f64, epoch: u64, seq: u64) -> Offer {
        Offer {
            group: group.into(),
            super_peer: NodeId::from_key([node; 32]),
            peer: "127.0.0.1:5001".into(),
            site: Position { x, y: 0.0 },
            members: 1,
            capacity: 5,
            permanent: false,
            epoch,
            seq,
        }
    }

    fn at(ms: u64) -> MonotonicUs {
        MonotonicUs(1_000_000 + ms * 1000)
    }

    fn groups(directory: &Directory, now: MonotonicUs) -> Vec<String> {
        directory.known(now, HERE, 64).into_iter().map(|offer| offer.group).collect()
    }

    #[test]
    fn the_newest_of_each_group_counts_and_the_nearest_comes_first() {
        let mut directory = Directory::default();
        let mut hear = |offer| directory.hear(at(0), Announcement::Offer(offer));
        assert_eq!(hear(offer(1, "far", 9.0, 1, 10)), AnnounceOutcome::News);
        assert_eq!(hear(offer(2, "near", 1.0, 1, 10)), AnnounceOutcome::News);
        // Another member leads "far" now.
        assert_eq!(hear(offer(3, "far", 8.0, 2, 1)), AnnounceOutcome::News);
        assert_eq!(hear(offer(2, "near", 1.0, 1, 10)), AnnounceOutcome::Stale);
        assert_eq!(hear(offer(2, "near", 1.0, 1, 11)), AnnounceOutcome::Repeated);
        assert_eq!(hear(offer(2, "near", 2.0, 9, 9)), AnnounceOutcome::Stale);
        let known = directory.known(at(1), HERE, 64);
        let sites: Vec<_> = known.iter().map(|offer| offer.site.x).collect();
        assert_eq!(sites, [1.0, 8.0]);
        assert_eq!(directory.known(at(1), Position { x: 9.0, y: 0.0 }, 1)[0].group, "far");
    }

    #[test]
    fn silence_is_forgotten_and_a_withdrawal_counts_at_once() {
        let mut directory = Directory::default();
        directory.hear(at(0), Announcement::Offer(offer(1, "a", 1.0, 1, 5)));
        directory.hear(at(0), Announcement::Offer(offer(2, "b", 2.0, 1, 5)));
        directory.hear(at(30_000), Announcement::Offer(offer(2, "b", 2.0, 1, 6)));
        assert_eq!(groups(&directory, at(59_999)), ["a", "b"]);
        assert_eq!(groups(&directory, at(60_000)), ["b"]);
        let super_peer = NodeId::from_key([2; 32]);
        let withdrawn = |seq| Announcement::Withdrawn { super_peer, seq };
        assert_eq!(directory.hear(at(60_001), withdrawn(5)), AnnounceOutcome::Stale);
        assert_eq!(directory.hear(at(60_001), withdrawn(7)), AnnounceOutcome::News);
        assert!(groups(&directory, at(60_001)).is_empty());
        // What was sent before the withdrawal and comes after it changes nothing.
        let late = Announcement::Offer(offer(2, "b", 2.0, 1, 6));
        assert_eq!(directory.hear(at(60_002), late), AnnounceOutcome::Stale);
        directory.expire(at(200_000));
        assert!(directory.entries.is_empty());
    }

    #[test]
    fn after_a_long_silence_a_super_peer_may_start_its_count_again() {
        let mut directory = Directory::default();
        directory.hear(at(0), Announcement::Offer(offer(1, "a", 1.0, 1, 500)));
        let again = Announcement::Offer(offer(1, "b", 1.0, 1, 1));
        assert_eq!(directory.hear(at(60_000), again), AnnounceOutcome::News);
        assert_eq!(groups(&directory, at(60_000)), ["b"]);
    }

    #[test]
    fn neither_one_loud_node_nor_many_make_it_grow() {
        let mut directory = Directory::default();
        let mut taken = 0;
        for seq in 0..1_000 {
            let loud = Announcement::Offer(offer(1, "a", 1.0, 1, seq));
            taken += u32::from(directory.hear(at(seq), loud) != AnnounceOutcome::TooOften);
        }
        assert_eq!(taken, ANNOUNCEMENTS_MAX);
        let mut verdicts = Vec::new();
        for index in 0..SUPER_PEERS_MAX as u64 + 10 {
            let mut offer = offer(0, "g", 1.0, 1, 1);
            let mut key = [9; 32];
            key[..8].copy_from_slice(&index.to_be_bytes());
            offer.super_peer = NodeId::from_key(key);
            verdicts.push(directory.hear(at(2_000), Announcement::Offer(offer)));
        }
        assert_eq!(directory.entries.len(), SUPER_PEERS_MAX);
        assert_eq!(verdicts.last(), Some(&AnnounceOutcome::Full));
        // There is room again once the silent ones have been forgotten.
        let late = Announcement::Offer(offer(200, "late", 1.0, 1, 1));
        assert_eq!(directory.hear(at(70_000), late), AnnounceOutcome::News);
    }
}
