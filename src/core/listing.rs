//! Lists the objects of a group: merges the pages of its members into one.
//!
//! Each object is named once, with the newest version that was seen. If the replicas of an object differ, they are asked again:
//! else a copy that has missed a delete would bring the object back.
//! What members say is not trusted: a page that does not fit its request is ignored.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    group::table::Configuration,
    model::{
        node_id::NodeId,
        object::{ObjectId, ObjectMeta, Version},
        time::UnixSecs,
    },
    register::{ReplicaSet, Value},
};

/// The most objects of one member's page, and of one question about them.
pub const LISTED_MAX: usize = 1_000;

/// Which part of a listing is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListingQuery {
    /// What the ids start with.
    pub prefix: String,
    /// The place behind which it starts, which need not be an id.
    pub after: Option<String>,
    /// The most objects.
    pub limit: usize,
}

/// A page of a listing, sorted by id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListingPage {
    /// The objects of the page, without their bytes.
    pub items: Vec<ObjectMeta>,
    /// The id after which the next page starts; `None` on the last one.
    pub next: Option<ObjectId>,
}

/// What a node knows of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known {
    /// It is there.
    Live(ObjectMeta),
    /// It is deleted or expired.
    Gone(Version),
    /// Nothing.
    Nothing,
}

impl Known {
    /// Tells what a value says at `now`.
    pub fn of(value: &Value, now: UnixSecs) -> Self {
        match value {
            Value::Live(object) if !object.is_expired(now) => Self::Live(object.meta()),
            value => value.version().map_or(Self::Nothing, Self::Gone),
        }
    }

    /// Returns the version that it is known at.
    pub fn version(&self) -> Option<Version> {
        match self {
            Self::Live(meta) => Some(meta.version),
            Self::Gone(version) => Some(*version),
            Self::Nothing => None,
        }
    }
}

/// Some of the fast writes that wait at a node, sorted by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueuedWrites {
    /// What they say of their objects.
    pub entries: Vec<(ObjectId, Known)>,
    /// The id up to which they are all; `None` = there are no more.
    pub next: Option<ObjectId>,
}

/// What a member of a group asks another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListingRequest {
    /// A page of what it keeps.
    Page {
        /// The group.
        group: String,
        /// Which one: at most [`LISTED_MAX`] objects.
        wanted: ListingQuery,
    },
    /// What it knows of these objects, at most [`LISTED_MAX`].
    Look {
        /// The group.
        group: String,
        /// The objects.
        ids: Vec<ObjectId>,
    },
}

impl ListingRequest {
    /// Returns the group that it is about.
    pub fn group(&self) -> &str {
        match self {
            Self::Page { group, .. } | Self::Look { group, .. } => group,
        }
    }
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListingAnswer {
    /// The page.
    Page(ListingPage),
    /// What is known, in the order of the question.
    Known(Vec<Known>),
}

impl ListingQuery {
    /// Tells whether an id is in the part that is wanted, however many may come before it.
    pub fn covers(&self, id: &ObjectId) -> bool {
        id.as_str().starts_with(&self.prefix)
            && self.after.as_ref().is_none_or(|after| id.as_str() > after.as_str())
    }

    /// Tells whether a page is an answer to this.
    fn fits(&self, page: &ListingPage) -> bool {
        let ids = || page.items.iter().map(|item| &item.id);
        page.items.len() <= self.limit
            && ids().zip(ids().skip(1)).all(|(id, next)| id < next)
            && ids().chain(&page.next).all(|id| self.covers(id))
            && page.next.as_ref().is_none_or(|next| ids().all(|id| id <= next))
    }
}

/// Tells whether every object of a group has a replica among those that answered.
pub fn covers(configuration: &Configuration, answered: &BTreeSet<NodeId>) -> bool {
    let covers = |members: &BTreeSet<NodeId>, replication_factor: u32| {
        let replicas = members.len().min(replication_factor as usize);
        members.difference(answered).count() < replicas
    };
    match &configuration.old {
        // What has lost its majority may be on one member alone (rule 14).
        Some(_) if configuration.is_forced() => configuration.everybody().is_subset(answered),
        // The new replicas have everything only once the change is through.
        Some(old) => covers(&old.members, old.replication_factor),
        _ => covers(&configuration.members, configuration.replication_factor),
    }
}

/// Several members' pages on their way to one.
#[derive(Debug)]
pub struct Merge {
    wanted: ListingQuery,
    /// The id up to which everything is known; `None` = to the end.
    until: Option<ObjectId>,
    found: BTreeMap<ObjectId, Found>,
    answered: BTreeSet<NodeId>,
    rows: BTreeMap<ObjectId, Known>,
}

/// What is found of an object.
#[derive(Debug, Default)]
struct Found {
    queued: Option<Known>,
    copies: Vec<(NodeId, ObjectMeta)>,
}

impl Found {
    /// Returns the newest of all, if that is an object.
    fn newest(self) -> Option<ObjectMeta> {
        let copies = self.copies.into_iter().map(|(_, meta)| Known::Live(meta));
        match self.queued.into_iter().chain(copies).max_by_key(Known::version) {
            Some(Known::Live(meta)) => Some(meta),
            _ => None,
        }
    }
}

impl Merge {
    /// Begins with the fast writes that wait at this node. They are to be read first: one leaves only after a quorum has it.
    pub fn new(wanted: ListingQuery, queued: QueuedWrites) -> Self {
        let mut found = BTreeMap::new();
        for (id, known) in queued.entries {
            found.insert(id, Found { queued: Some(known), copies: Vec::new() });
        }
        let (answered, rows) = Default::default();
        Self { wanted, until: queued.next, found, answered, rows }
    }

    /// Takes a member's page. `false` = the page does not fit the request, and is ignored.
    pub fn take(&mut self, from: NodeId, page: ListingPage) -> bool {
        if !self.wanted.fits(&page) {
            return false;
        }
        self.answered.insert(from);
        for item in page.items {
            self.found.entry(item.id.clone()).or_default().copies.push((from, item));
        }
        let ends = [self.until.take(), page.next];
        self.until = ends.into_iter().flatten().min();
        true
    }

    /// Returns the members whose pages were taken in.
    pub fn answered(&self) -> &BTreeSet<NodeId> {
        &self.answered
    }

    /// Ends the taking in of pages, and returns which members are to be asked about which objects: the replicas that do not
    /// show the newest version that others do. Copies at members that are no replicas do not count.
    pub fn settle(&mut self, configuration: &Configuration) -> BTreeMap<NodeId, Vec<ObjectId>> {
        let mut asks: BTreeMap<NodeId, Vec<ObjectId>> = BTreeMap::new();
        for (id, mut found) in std::mem::take(&mut self.found) {
            if self.until.as_ref().is_some_and(|until| id > *until) {
                break;
            }
            if self.rows.len() == self.wanted.limit {
                self.until = self.rows.last_key_value().map(|(id, _)| id.clone());
                break;
            }
            let set = ReplicaSet::of(&id, configuration);
            found.copies.retain(|(node, _)| set.place_of(*node).is_some());
            let shown: Vec<_> =
                found.copies.iter().map(|(node, meta)| (*node, meta.version)).collect();
            let Some(meta) = found.newest() else { continue };
            for (_, node) in set.nodes().filter(|(_, node)| self.answered.contains(node)) {
                if !shown.contains(&(node, meta.version)) {
                    asks.entry(node).or_default().push(id.clone());
                }
            }
            self.rows.insert(id, Known::Live(meta));
        }
        asks
    }

    /// Takes in what a member knows of the objects that it was asked about.
    pub fn learn(&mut self, ids: &[ObjectId], known: Vec<Known>) {
        for (id, known) in ids.iter().zip(known) {
            if matches!(&known, Known::Live(meta) if meta.id != *id) {
                continue;
            }
            if let Some(row) = self.rows.get_mut(id)
                && known.version() > row.version()
            {
                *row = known;
            }
        }
    }

    /// Returns the page.
    pub fn page(self, now: UnixSecs) -> ListingPage {
        let is_there = |meta: &ObjectMeta| meta.expires_at.is_none_or(|at| at > now);
        let items = self.rows.into_values().filter_map(|known| match known {
            Known::Live(meta) if is_there(&meta) => Some(meta),
            _ => None,
        });
        ListingPage { items: items.collect(), next: self.until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        group::{table::Old, view::Founder},
        register::replicas,
    };

    fn id(text: &str) -> ObjectId {
        ObjectId::parse(text).unwrap()
    }

    fn node(key: u8) -> NodeId {
        Founder::example(key).this.node
    }

    fn group(count: u8) -> Configuration {
        let members = (1..=count).map(node).collect();
        Configuration { epoch: 1, members, replication_factor: 3, old: None }
    }

    fn meta(name: &str, version: u64) -> ObjectMeta {
        ObjectMeta {
            id: id(name),
            size_bytes: 1,
            creation_time: UnixSecs(1),
            expires_at: None,
            last_modified: UnixSecs(1),
            version: Version { time: version, node: 1 },
            content_type: None,
        }
    }

    fn wanted(limit: usize) -> ListingQuery {
        ListingQuery { prefix: String::new(), after: None, limit }
    }

    /// What a member keeps, as it answers.
    fn page(kept: &BTreeMap<ObjectId, ObjectMeta>, wanted: &ListingQuery) -> ListingPage {
        let mut covered = kept.values().filter(|meta| wanted.covers(&meta.id)).cloned();
        let items: Vec<_> = covered.by_ref().take(wanted.limit).collect();
        let next = covered.next().and(items.last()).map(|last| last.id.clone());
        ListingPage { items, next }
    }

    type Kept = BTreeMap<NodeId, BTreeMap<ObjectId, ObjectMeta>>;

    fn replicated(configuration: &Configuration, names: &[String]) -> Kept {
        let mut kept: Kept =
            configuration.members.iter().map(|node| (*node, BTreeMap::new())).collect();
        for name in names {
            for node in replicas(&id(name), &configuration.members, 3) {
                kept.entry(node).or_default().insert(id(name), meta(name, 1));
            }
        }
        kept
    }

    fn names(page: &ListingPage) -> Vec<&str> {
        page.items.iter().map(|item| item.id.as_str()).collect()
    }

    #[test]
    fn every_object_is_listed_once_in_pages_of_any_size() {
        let configuration = group(5);
        let names: Vec<_> = (100..140).map(|n| format!("a/{n}")).collect();
        let kept = replicated(&configuration, &names);
        for limit in [1, 2, 7, 39, 40, 100] {
            let (mut wanted, mut listed) = (wanted(limit), Vec::new());
            loop {
                let mut merge = Merge::new(wanted.clone(), QueuedWrites::default());
                for (node, kept) in &kept {
                    assert!(merge.take(*node, page(kept, &wanted)));
                }
                assert_eq!(merge.settle(&configuration), BTreeMap::new(), "replicas agree");
                let page = merge.page(UnixSecs(5));
                assert!(page.items.len() <= limit);
                listed.extend(page.items.iter().map(|item| item.id.to_string()));
                let Some(next) = page.next else { break };
                wanted.after = Some(next.to_string());
            }
            assert_eq!(listed, names, "pages of {limit}");
        }
    }

    #[test]
    fn the_newest_version_is_shown_and_a_newer_delete_hides_the_object() {
        let configuration = group(5);
        let all = ["deleted", "same", "updated"].map(str::to_owned);
        let mut kept = replicated(&configuration, &all);
        let of = |name: &str| replicas(&id(name), &configuration.members, 3);
        kept.get_mut(&of("updated")[1]).unwrap().insert(id("updated"), meta("updated", 2));
        for node in &of("deleted")[..2] {
            kept.get_mut(node).unwrap().remove(&id("deleted"));
        }
        let mut merge = Merge::new(wanted(10), QueuedWrites::default());
        for (node, kept) in &kept {
            merge.take(*node, page(kept, &wanted(10)));
        }
        let asks = merge.settle(&configuration);
        let mut expected: BTreeMap<NodeId, Vec<ObjectId>> = BTreeMap::new();
        for node in &of("deleted")[..2] {
            expected.entry(*node).or_default().push(id("deleted"));
        }
        for node in [of("updated")[0], of("updated")[2]] {
            expected.entry(node).or_default().push(id("updated"));
        }
        assert_eq!(asks, expected);
        for (node, ids) in asks {
            let known = ids.iter().map(|id| match id.as_str() {
                "deleted" => Known::Gone(Version { time: 2, node: 1 }),
                _ => Known::Live(kept[&node][id].clone()),
            });
            let known = known.collect();
            merge.learn(&ids, known);
        }
        let page = merge.page(UnixSecs(5));
        assert_eq!(names(&page), ["same", "updated"]);
        assert_eq!(page.items[1].version.time, 2);
    }

    #[test]
    fn what_waits_at_this_node_counts_and_what_is_at_no_replica_does_not() {
        let configuration = group(5);
        let mut kept = replicated(&configuration, &["gone".to_owned(), "old".to_owned()]);
        let stranger = |name: &str| {
            let of = replicas(&id(name), &configuration.members, 3);
            *configuration.members.iter().find(|node| !of.contains(node)).unwrap()
        };
        kept.get_mut(&stranger("left")).unwrap().insert(id("left"), meta("left", 9));
        kept.get_mut(&stranger("old")).unwrap().insert(id("old"), meta("old", 9));
        let queued = QueuedWrites {
            entries: vec![
                (id("gone"), Known::Gone(Version { time: 2, node: 1 })),
                (id("new"), Known::Live(meta("new", 3))),
            ],
            next: None,
        };
        let mut merge = Merge::new(wanted(10), queued);
        for (node, kept) in &kept {
            merge.take(*node, page(kept, &wanted(10)));
        }
        let asks = merge.settle(&configuration);
        assert_eq!(asks.values().flatten().collect::<Vec<_>>(), [&id("new"); 3]);
        let page = merge.page(UnixSecs(5));
        assert_eq!(names(&page), ["new", "old"]);
        assert_eq!(page.items[1].version.time, 1);
    }

    #[test]
    fn an_expired_object_is_absent_whatever_the_replicas_clocks_say() {
        let configuration = group(1);
        let expiring = ObjectMeta { expires_at: Some(UnixSecs(10)), ..meta("a", 1) };
        for (now, count) in [(9, 1), (10, 0)] {
            let mut merge = Merge::new(wanted(10), QueuedWrites::default());
            merge.take(node(1), ListingPage { items: vec![expiring.clone()], next: None });
            merge.settle(&configuration);
            assert_eq!(merge.page(UnixSecs(now)).items.len(), count);
        }
    }

    #[test]
    fn a_page_that_answers_something_else_is_not_taken() {
        let wanted = ListingQuery { prefix: "p/".into(), after: Some("p/b".into()), limit: 2 };
        let of = |names: &[&str], next: Option<&str>| ListingPage {
            items: names.iter().map(|name| meta(name, 1)).collect(),
            next: next.map(id),
        };
        for (page, fits) in [
            (of(&["p/c", "p/d"], None), true),
            (of(&["p/c"], Some("p/x")), true),
            (of(&[], Some("p/x")), true),
            (of(&["p/c", "p/d", "p/e"], None), false),
            (of(&["p/d", "p/c"], None), false),
            (of(&["p/c", "p/c"], None), false),
            (of(&["p/b"], None), false),
            (of(&["q"], None), false),
            (of(&["p/d"], Some("p/c")), false),
            (of(&[], Some("p/b")), false),
            (of(&[], Some("q")), false),
        ] {
            let mut merge = Merge::new(wanted.clone(), QueuedWrites::default());
            assert_eq!(merge.take(node(1), page.clone()), fits, "{page:?}");
            assert_eq!(merge.answered().len(), usize::from(fits));
        }
        // What is told of another object than was asked about is not believed.
        let mut merge =
            Merge::new(super::ListingQuery { limit: 5, ..wanted }, QueuedWrites::default());
        merge.take(node(1), of(&["p/c"], None));
        merge.settle(&group(1));
        merge.learn(&[id("p/c")], vec![Known::Live(meta("p/z", 9))]);
        assert_eq!(names(&merge.page(UnixSecs(1))), ["p/c"]);
    }

    #[test]
    fn fewer_than_the_replicas_of_an_object_may_be_missing() {
        let answered = |keys: &[u8]| keys.iter().map(|key| node(*key)).collect::<BTreeSet<_>>();
        let five = group(5);
        assert!(covers(&five, &answered(&[1, 2, 5])));
        assert!(!covers(&five, &answered(&[1, 2])));
        assert!(covers(&group(2), &answered(&[1])));
        assert!(!covers(&group(2), &answered(&[])));
        let old = |lost: &[u8]| {
            let members = (1..=3).map(node).collect();
            Some(Old { members, replication_factor: 3, lost: answered(lost) })
        };
        let joint = Configuration { old: old(&[]), ..group(5) };
        assert!(covers(&joint, &answered(&[3])) && !covers(&joint, &answered(&[4, 5])));
        let mut forced = Configuration { old: old(&[1, 2]), ..group(5) };
        forced.members = answered(&[3, 4, 5]);
        assert!(covers(&forced, &answered(&[3, 4, 5])) && !covers(&forced, &answered(&[3, 4])));
    }
}
