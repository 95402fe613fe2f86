//! The ledger's data: entries by bucket and id, and for each member the digest of what it holds.
//!
//! A million objects with three holders each take about 120 MB with ids of 20 bytes (see the test of the size). What could take
//! long, like forgetting a member that held a million objects, is done a few buckets at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use serde::{Deserialize, Serialize};

use super::entry::{LedgerObject, LedgerSlot};
use crate::{
    model::{
        node_id::NodeId,
        object::{ObjectId, Version},
        time::UnixSecs,
    },
    repair::digest::{BUCKETS, BucketSet, Digest, Fingerprint, bucket_of},
};

/// What a member holds of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldObject {
    /// The object.
    pub id: ObjectId,
    /// Its version there.
    pub version: Version,
    /// From when on it is absent; `None` = never.
    pub expires_at: Option<UnixSecs>,
}

/// The result of a report about a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It was not known.
    New,
    /// An older version was known.
    Newer,
    /// It was known: nothing has changed.
    Duplicate,
    /// A newer version is known: nothing has changed.
    Older,
    /// The ledger is not kept of that member: nothing has changed.
    Stranger,
}

/// A member that holds an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The member.
    pub node: NodeId,
    /// The version that it holds.
    pub version: Version,
    /// From when on the object is absent; `None` = never.
    pub expires_at: Option<UnixSecs>,
}

/// An object and who holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectHolders {
    /// The object.
    pub id: ObjectId,
    /// Who holds it; not empty, sorted by node.
    pub holders: Vec<Holder>,
}

/// A part of the ledger, in its own order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerPage {
    /// The objects.
    pub items: Vec<ObjectHolders>,
    /// Behind which id to go on; `None` = this was the last part. A part may be short, or empty, and not the last.
    pub next: Option<String>,
}

/// A part of what one member holds, in the ledger's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// What it holds.
    pub entries: Vec<HeldObject>,
    /// Behind which id to go on; `None` = this was the last part.
    pub next: Option<ObjectId>,
}

/// How well objects are replicated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerTotals {
    /// How many objects there are.
    pub objects: u64,
    /// How many of them have their newest version on fewer members than they should.
    pub under_replicated: u64,
}

/// A member of which the ledger is kept, or a number that is free again.
#[derive(Debug, Default)]
struct LedgerSeat {
    node: Option<NodeId>,
    digest: Digest,
    /// Of a member that was forgotten: the bucket from which on its entries are still to be taken out.
    purged_to: Option<u16>,
}

/// The most entries that one part of the ledger looks at.
const LOOKS_MAX: usize = 20_000;

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    buckets: Vec<Vec<LedgerObject>>, // invariant: BUCKETS of them, each sorted by id
    seats: Vec<LedgerSeat>,
    numbers: BTreeMap<NodeId, LedgerSlot>,
    objects: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        let mut buckets = Vec::new();
        buckets.resize_with(usize::from(BUCKETS), Vec::new);
        Self { buckets, seats: Vec::new(), numbers: BTreeMap::new(), objects: 0 }
    }
}

fn find(entries: &[LedgerObject], id: &str) -> Result<usize, usize> {
    entries.binary_search_by(|entry| entry.id.as_str().cmp(id))
}

impl Ledger {
    // ---- members ----

    /// Keeps the ledger of exactly these members. What others hold is forgotten at once, and taken out of memory by
    /// [`purge`](Self::purge).
    pub fn keep(&mut self, members: &BTreeSet<NodeId>) {
        let gone: Vec<_> =
            self.numbers.keys().filter(|node| !members.contains(node)).copied().collect();
        for node in gone {
            self.numbers.remove(&node).iter().for_each(|slot| self.vacate(*slot));
        }
        for node in members {
            if !self.numbers.contains_key(node) {
                self.seat(*node);
            }
        }
    }

    /// Returns the members that the ledger is kept of.
    pub fn members(&self) -> impl Iterator<Item = &NodeId> {
        self.numbers.keys()
    }

    /// Forgets all that a member holds, and goes on keeping the ledger of it. Returns whether there was something.
    pub fn forget(&mut self, node: NodeId) -> bool {
        let Some(slot) = self.numbers.get(&node).copied() else { return false };
        let held =
            self.seats.get(usize::from(slot)).is_some_and(|seat| seat.digest.root().count > 0);
        if held {
            self.vacate(slot);
            self.seat(node);
        }
        held
    }

    fn vacate(&mut self, slot: LedgerSlot) {
        if let Some(seat) = self.seats.get_mut(usize::from(slot)) {
            let is_empty = seat.digest.root().count == 0;
            *seat = LedgerSeat { purged_to: (!is_empty).then_some(0), ..LedgerSeat::default() };
        }
    }

    fn seat(&mut self, node: NodeId) {
        let is_free = |seat: &LedgerSeat| seat.node.is_none() && seat.purged_to.is_none();
        let at = self.seats.iter().position(is_free).unwrap_or(self.seats.len());
        let Ok(slot) = LedgerSlot::try_from(at) else { return };
        let seat = LedgerSeat { node: Some(node), ..LedgerSeat::default() };
        match self.seats.get_mut(at) {
            Some(place) => *place = seat,
            None => self.seats.push(seat),
        }
        self.numbers.insert(node, slot);
    }

    /// Takes entries of forgotten members out of memory, in at most `buckets` buckets. Returns whether more are left.
    pub fn purge(&mut self, buckets: u16) -> bool {
        let Some(slot) = self.seats.iter().position(|seat| seat.purged_to.is_some()) else {
            return false;
        };
        let Some(seat) = self.seats.get_mut(slot) else { return false };
        let from = seat.purged_to.unwrap_or_default();
        let until = from.saturating_add(buckets.max(1)).min(BUCKETS);
        seat.purged_to = (until < BUCKETS).then_some(until);
        let slot = slot as LedgerSlot;
        for entries in self.buckets.iter_mut().take(usize::from(until)).skip(usize::from(from)) {
            let before = entries.len();
            entries.retain_mut(|entry| !entry.remove(slot).1);
            self.objects -= (before - entries.len()) as u64;
            if entries.len() < entries.capacity() / 2 {
                entries.shrink_to_fit();
            }
        }
        self.seats.iter().any(|seat| seat.purged_to.is_some())
    }

    // ---- entries ----

    /// Takes a report about a member from any node: only what is new, or newer, changes something.
    pub fn add(&mut self, node: NodeId, held: HeldObject) -> Added {
        if !self.numbers.contains_key(&node) {
            return Added::Stranger;
        }
        let added = match self.held(node, &held.id) {
            None => Added::New,
            Some(known) if known.version < held.version => Added::Newer,
            Some(known) if known.version == held.version => Added::Duplicate,
            Some(_) => Added::Older,
        };
        if matches!(added, Added::New | Added::Newer) {
            self.set(node, held);
        }
        added
    }

    /// Takes a report of a member about itself. Its version may also be older than before: a value that only a minority had
    /// accepted is replaced by the one that was decided. Returns whether something has changed.
    pub fn set(&mut self, node: NodeId, held: HeldObject) -> bool {
        let Some(slot) = self.numbers.get(&node).copied() else { return false };
        let HeldObject { id, version, expires_at } = held;
        let bucket = bucket_of(id.as_str());
        let (Some(entries), Some(seat)) =
            (self.buckets.get_mut(usize::from(bucket)), self.seats.get_mut(usize::from(slot)))
        else {
            return false;
        };
        let new = Fingerprint::of_version(id.as_str(), version);
        match find(entries, id.as_str()) {
            Ok(at) => {
                let Some(entry) = entries.get_mut(at) else { return false };
                match entry.set(slot, version, expires_at) {
                    Some(old) if old == version => return false,
                    Some(old) => {
                        seat.digest.remove(bucket, Fingerprint::of_version(id.as_str(), old));
                    }
                    None => {}
                }
                seat.digest.add(bucket, new);
            }
            Err(at) => {
                seat.digest.add(bucket, new);
                if entries.len() == entries.capacity() {
                    // Doubling would leave a quarter of the memory unused on average.
                    entries.reserve_exact(entries.len() / 8 + 4);
                }
                entries.insert(at, LedgerObject::new(id, slot, version, expires_at));
                self.objects += 1;
            }
        }
        true
    }

    /// Takes a member's own report that it does not hold an object any more. Returns whether something has changed.
    pub fn remove(&mut self, node: NodeId, id: &str) -> bool {
        let Some(slot) = self.numbers.get(&node).copied() else { return false };
        let bucket = bucket_of(id);
        let (Some(entries), Some(seat)) =
            (self.buckets.get_mut(usize::from(bucket)), self.seats.get_mut(usize::from(slot)))
        else {
            return false;
        };
        let Ok(at) = find(entries, id) else { return false };
        let Some((Some(old), is_last)) = entries.get_mut(at).map(|entry| entry.remove(slot)) else {
            return false;
        };
        seat.digest.remove(bucket, Fingerprint::of_version(id, old));
        if is_last {
            entries.remove(at);
            self.objects -= 1;
        }
        true
    }

    /// Makes what a member holds in these buckets, behind `after` and up to and with `until`, exactly this. Returns how many
    /// objects have changed.
    pub fn reconcile(
        &mut self,
        node: NodeId,
        buckets: Range<u16>,
        after: Option<&ObjectId>,
        until: Option<&ObjectId>,
        entries: Vec<HeldObject>,
    ) -> usize {
        let Some(slot) = self.numbers.get(&node).copied() else { return 0 };
        let named: BTreeSet<&str> = entries.iter().map(|held| held.id.as_str()).collect();
        let mut gone = Vec::new();
        for bucket in buckets {
            let held = self.buckets.get(usize::from(bucket)).map_or(&[][..], Vec::as_slice);
            let from = after.map_or(0, |id| held.partition_point(|entry| entry.id <= *id));
            let part =
                held.iter().skip(from).take_while(|entry| until.is_none_or(|id| entry.id <= *id));
            let lost = part.filter(|entry| {
                entry.held_by(slot).is_some() && !named.contains(entry.id.as_str())
            });
            gone.extend(lost.map(|entry| entry.id.clone()));
        }
        let mut changed = 0;
        for id in gone {
            changed += usize::from(self.remove(node, id.as_str()));
        }
        for held in entries {
            changed += usize::from(self.set(node, held));
        }
        changed
    }

    /// Takes out what has expired at `now`, in these buckets. Returns how many entries of members there were.
    pub fn sweep(&mut self, buckets: Range<u16>, now: UnixSecs) -> usize {
        let mut swept = Vec::new();
        for bucket in buckets {
            let entries = self.buckets.get(usize::from(bucket)).map_or(&[][..], Vec::as_slice);
            for entry in entries {
                let expired = entry.holdings().filter(|held| held.is_expired(now));
                let slots = expired.flat_map(|held| held.by());
                let nodes = slots.filter_map(|slot| self.seats.get(usize::from(*slot))?.node);
                swept.extend(nodes.map(|node| (node, entry.id.clone())));
            }
        }
        swept.iter().filter(|(node, id)| self.remove(*node, id.as_str())).count()
    }

    // ---- reading ----

    /// Returns what a member holds of an object, also when that has expired.
    pub fn held(&self, node: NodeId, id: &ObjectId) -> Option<HeldObject> {
        let slot = *self.numbers.get(&node)?;
        let entries = self.buckets.get(usize::from(bucket_of(id.as_str())))?;
        let entry = entries.get(find(entries, id.as_str()).ok()?)?;
        let held = entry.held_by(slot)?;
        Some(HeldObject { id: id.clone(), version: held.version, expires_at: held.expires_at() })
    }

    fn holders_of(&self, entry: &LedgerObject, now: UnixSecs) -> Vec<Holder> {
        let mut holders = Vec::new();
        for held in entry.holdings().filter(|held| !held.is_expired(now)) {
            let nodes =
                held.by().iter().filter_map(|slot| self.seats.get(usize::from(*slot))?.node);
            let (version, expires_at) = (held.version, held.expires_at());
            holders.extend(nodes.map(|node| Holder { node, version, expires_at }));
        }
        holders.sort_unstable_by_key(|holder| holder.node);
        holders
    }

    /// Returns a part of the ledger behind an id, without what has expired at `now`: at most `limit` holders, unless a single
    /// object has more.
    pub fn page(&self, after: Option<&str>, limit: usize, now: UnixSecs) -> LedgerPage {
        let (mut page, mut holders) = (LedgerPage::default(), 0);
        let mut last = None;
        for (looks, entry) in self.entries(after, None).enumerate() {
            let of_entry = self.holders_of(entry, now);
            let is_full = !page.items.is_empty() && holders + of_entry.len() > limit;
            if is_full || looks == LOOKS_MAX {
                page.next = last;
                return page;
            }
            holders += of_entry.len();
            if !of_entry.is_empty() {
                page.items.push(ObjectHolders { id: entry.id.clone(), holders: of_entry });
            }
            last = Some(entry.id.as_str().to_owned());
        }
        page
    }

    /// Returns a part of what a member holds in these buckets, expired objects included: at most `limit` of them.
    pub fn inventory(
        &self,
        node: NodeId,
        buckets: &BucketSet,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Inventory {
        let mut part = Inventory::default();
        let Some(slot) = self.numbers.get(&node).copied() else { return part };
        let mut last = None;
        let after = after.map(ObjectId::as_str);
        for (looks, entry) in self.entries(after, Some(buckets)).enumerate() {
            if part.entries.len() == limit || looks == LOOKS_MAX {
                part.next = last;
                return part;
            }
            if let Some(held) = entry.held_by(slot) {
                let (version, expires_at) = (held.version, held.expires_at());
                part.entries.push(HeldObject { id: entry.id.clone(), version, expires_at });
            }
            last = Some(entry.id.clone());
        }
        part
    }

    /// Goes through the entries of these buckets, or of all, behind an id.
    fn entries<'a>(
        &'a self,
        after: Option<&str>,
        within: Option<&'a BucketSet>,
    ) -> impl Iterator<Item = &'a LedgerObject> {
        let first = after.map_or(0, bucket_of);
        let skip = after.and_then(|id| {
            let entries = self.buckets.get(usize::from(first))?;
            Some(entries.partition_point(|entry| entry.id.as_str() <= id))
        });
        let buckets = (0..BUCKETS).zip(&self.buckets).skip(usize::from(first));
        let wanted = move |bucket: &u16| within.is_none_or(|within| within.contains(*bucket));
        let buckets = buckets.filter(move |(bucket, _)| wanted(bucket));
        buckets.flat_map(move |(bucket, entries)| {
            let skip = skip.filter(|_| bucket == first).unwrap_or_default();
            entries.iter().skip(skip)
        })
    }

    /// Counts the objects of these buckets that have not expired at `now`, and those whose newest version, if it is not
    /// newer than `settled`, is held by fewer than `wanted` members; the first of those are added to `found`, up to
    /// `found_max` in all.
    pub fn census(
        &self,
        buckets: Range<u16>,
        (wanted, settled, now): (usize, Version, UnixSecs),
        found: &mut Vec<ObjectId>,
        found_max: usize,
    ) -> LedgerTotals {
        let mut census = LedgerTotals::default();
        let buckets = buckets.filter_map(|bucket| self.buckets.get(usize::from(bucket)));
        let is_kept = |slot: &&LedgerSlot| {
            self.seats.get(usize::from(**slot)).is_some_and(|seat| seat.node.is_some())
        };
        for entry in buckets.flatten() {
            let counted =
                entry.holdings().map(|held| (held.by().iter().filter(is_kept).count(), held));
            let kept = counted.filter(|(count, _)| *count > 0);
            let Some((count, newest)) = kept.max_by_key(|(_, held)| held.version) else { continue };
            if newest.is_expired(now) {
                continue;
            }
            census.objects += 1;
            if count < wanted && newest.version <= settled {
                census.under_replicated += 1;
                if found.len() < found_max {
                    found.push(entry.id.clone());
                }
            }
        }
        census
    }

    /// Returns the digest of what a member holds; `None` when the ledger is not kept of it.
    pub fn digest(&self, node: &NodeId) -> Option<&Digest> {
        let slot = self.numbers.get(node)?;
        Some(&self.seats.get(usize::from(*slot))?.digest)
    }

    /// Returns how many objects there are, those of forgotten members that are not purged yet included.
    pub fn objects(&self) -> u64 {
        self.objects
    }

    /// Returns how many objects all members hold together, each counted for each of them.
    pub fn holdings(&self) -> u64 {
        let seats = self.seats.iter().filter(|seat| seat.node.is_some());
        seats.map(|seat| seat.digest.root().count).sum()
    }
}

#[cfg(test)]
mod tests;
