//! Inventory digests: two nodes find out which of their objects differ, and equal ones cost a few bytes.
//!
//! Objects fall into a fixed number of buckets by a hash of their id. Each bucket has the number of its entries and the sum
//! (modulo 2^128) of their 128-bit fingerprints, so that an entry is added or taken out at once, in any order; the sum over all
//! buckets is the root. Roots are compared first, then buckets, then the entries of the buckets that differ.
//!
//! Two different sets look equal if their sums are equal: by chance in one comparison of 2^128. XXH3 is not cryptographic, so a
//! member could forge a digest, as it could send any other wrong answer. A difference that is not found stays until the bucket
//! changes next. No guarantee depends on a digest.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::{
    model::object::Version,
    register::{Ballot, SHARDS},
};

/// Into how many buckets objects fall. Nodes that compare digests agree about it.
pub const BUCKETS: u16 = 1_024;

/// How many buckets belong to one shard.
pub const BUCKETS_PER_SHARD: u16 = BUCKETS / SHARDS as u16;

/// Returns the bucket of an id: the buckets of a shard stand together, and within it the upper bits of the hash decide.
pub fn bucket_of(id: &str) -> u16 {
    let hash = xxh3_64(id.as_bytes());
    let shard = (hash % u64::from(SHARDS)) as u16;
    shard * BUCKETS_PER_SHARD + (hash >> 57) as u16 % BUCKETS_PER_SHARD
}

/// Stands for one entry in a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// An object that is held at a version.
    pub fn of_version(id: &str, version: Version) -> Self {
        Self::of(id, [1, version.time, version.node, 0])
    }

    /// A register whose value was accepted under a ballot.
    pub fn of_ballot(id: &str, ballot: Ballot) -> Self {
        Self::of(id, [2, ballot.epoch, ballot.counter, ballot.node])
    }

    fn of(id: &str, words: [u64; 4]) -> Self {
        let mut bytes = [0; 48];
        let (name, rest) = bytes.split_at_mut(16);
        name.copy_from_slice(&xxh3_128(id.as_bytes()).to_le_bytes());
        for (place, word) in rest.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Self(xxh3_128(&bytes))
    }
}

/// What is known of a set of entries, whatever their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sum {
    /// How many there are.
    pub count: u64,
    /// The sum of their fingerprints, modulo 2^128.
    pub sum: u128,
}

impl Sum {
    /// Puts an entry in.
    pub fn add(&mut self, entry: Fingerprint) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(entry.0);
    }

    /// Takes an entry out that was put in before.
    pub fn remove(&mut self, entry: Fingerprint) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(entry.0);
    }
}

/// The digest of an inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    root: Sum,
    buckets: Vec<Sum>, // invariant: BUCKETS of them, and `root` is their sum
}

impl Default for Digest {
    fn default() -> Self {
        Self { root: Sum::default(), buckets: vec![Sum::default(); usize::from(BUCKETS)] }
    }
}

impl Digest {
    /// Puts an entry in.
    pub fn add(&mut self, bucket: u16, entry: Fingerprint) {
        if let Some(sum) = self.buckets.get_mut(usize::from(bucket)) {
            sum.add(entry);
            self.root.add(entry);
        }
    }

    /// Takes an entry out that was put in before.
    pub fn remove(&mut self, bucket: u16, entry: Fingerprint) {
        if let Some(sum) = self.buckets.get_mut(usize::from(bucket)) {
            sum.remove(entry);
            self.root.remove(entry);
        }
    }

    /// Returns the sum of everything.
    pub fn root(&self) -> Sum {
        self.root
    }

    /// Returns the sums of the buckets, in order.
    pub fn buckets(&self) -> &[Sum] {
        &self.buckets
    }

    /// Returns the buckets that differ from another inventory's. `None` when those are not as many as they must be.
    pub fn differing(&self, other: &[Sum]) -> Option<BucketSet> {
        if other.len() != self.buckets.len() {
            return None;
        }
        let mut differing = BucketSet::default();
        let pairs = (0..BUCKETS).zip(self.buckets.iter().zip(other));
        pairs.filter(|(_, (own, other))| own != other).for_each(|(at, _)| differing.insert(at));
        Some(differing)
    }
}

/// A set of buckets, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BucketSet([u64; BUCKETS as usize / 64]);

impl BucketSet {
    /// Returns the set of all buckets.
    pub fn all() -> Self {
        Self([u64::MAX; BUCKETS as usize / 64])
    }

    /// Puts a bucket in.
    pub fn insert(&mut self, bucket: u16) {
        if let Some(word) = self.0.get_mut(usize::from(bucket) / 64) {
            *word |= 1 << (bucket % 64);
        }
    }

    /// Tells whether a bucket is in.
    pub fn contains(&self, bucket: u16) -> bool {
        self.0.get(usize::from(bucket) / 64).is_some_and(|word| word >> (bucket % 64) & 1 == 1)
    }

    /// Tells whether none is in.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Returns how many are in.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns the first bucket at `from` or behind.
    pub fn next(&self, from: u16) -> Option<u16> {
        (from..BUCKETS).find(|bucket| self.contains(*bucket))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::{model::object::ObjectId, register::shard_of};

    fn version(time: u64) -> Version {
        Version { time, node: 1 }
    }

    fn digest(entries: &BTreeMap<String, u64>) -> Digest {
        let mut digest = Digest::default();
        for (id, time) in entries {
            digest.add(bucket_of(id), Fingerprint::of_version(id, version(*time)));
        }
        digest
    }

    #[test]
    fn a_bucket_lies_in_the_shard_of_its_id_and_all_are_used() {
        let mut seen = BTreeSet::new();
        for n in 0..20_000 {
            let id = format!("object/{n}");
            let bucket = bucket_of(&id);
            let shard = shard_of(&ObjectId::parse(&id).unwrap());
            assert_eq!(bucket / BUCKETS_PER_SHARD, u16::from(shard), "{id}");
            seen.insert(bucket);
        }
        assert_eq!(seen.len(), usize::from(BUCKETS));
    }

    #[test]
    fn a_version_a_ballot_and_another_object_never_look_the_same() {
        let ballot = Ballot { epoch: 1, counter: 2, node: 0 };
        let prints = [
            Fingerprint::of_version("a", Version { time: 1, node: 2 }),
            Fingerprint::of_version("a", Version { time: 2, node: 1 }),
            Fingerprint::of_version("b", Version { time: 1, node: 2 }),
            Fingerprint::of_ballot("a", ballot),
            Fingerprint::of_ballot("a", Ballot { node: 1, ..ballot }),
        ];
        for (at, one) in prints.iter().enumerate() {
            assert!(prints.iter().skip(at + 1).all(|other| other != one), "{at}");
        }
    }

    /// Digests of nodes that run different builds are compared: these must stay as they are. Made with Python's xxhash.
    #[test]
    fn buckets_and_fingerprints_stay_as_they_are() {
        let version = Version { time: 1, node: 2 };
        let ballot = Ballot { epoch: 1, counter: 2, node: 3 };
        for (id, bucket, of_version, of_ballot) in [
            (
                "a",
                1_011,
                0x9ccf_ed03_b439_d692_9504_458e_932f_5513,
                0x0cd7_7698_7deb_f8db_003e_3998_c131_7479,
            ),
            (
                "städte/Zürich:1 2",
                311,
                0x3788_b680_92fc_96c7_fdea_66fb_cea5_6acf,
                0x14c4_8718_89ec_0e3d_115d_e343_4b4e_fc37,
            ),
        ] {
            assert_eq!(bucket_of(id), bucket);
            assert_eq!(Fingerprint::of_version(id, version), Fingerprint(of_version));
            assert_eq!(Fingerprint::of_ballot(id, ballot), Fingerprint(of_ballot));
        }
    }

    #[test]
    fn a_set_of_buckets_gives_back_what_was_put_in() {
        let mut set = BucketSet::default();
        assert!(set.is_empty() && set.next(0).is_none());
        for bucket in [0, 63, 64, 1_023] {
            set.insert(bucket);
        }
        set.insert(BUCKETS);
        assert_eq!(
            (set.len(), set.next(1), set.next(65), set.next(1_024)),
            (4, Some(63), Some(1_023), None)
        );
        assert_eq!(BucketSet::all().len(), usize::from(BUCKETS));
    }

    proptest! {
        /// However two inventories came about, they differ in exactly the buckets of the objects that differ.
        #[test]
        fn digests_differ_where_inventories_do(
            steps in prop::collection::vec((0u8..60, prop::option::of(0u64..4)), 0..120),
            others in prop::collection::btree_map("[a-c]{1,3}", 0u64..4, 0..40),
        ) {
            let (mut held, mut incremental) = (BTreeMap::<String, u64>::new(), Digest::default());
            for (n, time) in steps {
                let id = format!("{:c>1$}", n % 20, usize::from(n % 3) + 1);
                if let Some(old) = held.remove(&id) {
                    incremental.remove(bucket_of(&id), Fingerprint::of_version(&id, version(old)));
                }
                if let Some(time) = time {
                    incremental.add(bucket_of(&id), Fingerprint::of_version(&id, version(time)));
                    held.insert(id, time);
                }
            }
            prop_assert_eq!(&incremental, &digest(&held));
            prop_assert_eq!(incremental.root().count, held.len() as u64);
            let other = digest(&others);
            let differing = incremental.differing(other.buckets()).unwrap();
            let mut expected = BucketSet::default();
            let ids: BTreeSet<_> = held.keys().chain(others.keys()).collect();
            for id in ids.into_iter().filter(|id| held.get(*id) != others.get(*id)) {
                expected.insert(bucket_of(id));
            }
            prop_assert_eq!(differing, expected);
            prop_assert_eq!(incremental.root() == other.root(), held == others);
            prop_assert!(incremental.differing(&[]).is_none());
        }

        #[test]
        fn what_travels_reads_back(counts in prop::collection::vec((any::<u64>(), any::<u128>()), 0..8), words: [u64; 16]) {
            let sums: Vec<_> = counts.into_iter().map(|(count, sum)| Sum { count, sum }).collect();
            let bytes = postcard::to_allocvec(&(&sums, BucketSet(words))).unwrap();
            prop_assert_eq!(postcard::from_bytes::<(Vec<Sum>, BucketSet)>(&bytes).unwrap(), (sums, BucketSet(words)));
        }
    }
}
