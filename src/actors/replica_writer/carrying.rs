//! What the survivors of a group that is no more do with its objects: each puts what it keeps into its outbox, from where
//! the next group gets it, the newest version of each object winning.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use parking_lot::Mutex;

use crate::{
    outbox::{OutboxError, OutboxMsg},
    shell::{Address, Context},
};
use nomad_core::{
    group::table::{Configuration, GroupTable},
    model::{node_id::NodeId, object::ObjectId, trace::TraceContext},
    register::{Ballot, Value},
};
use nomad_ports::{ObjectStore, object_store::StoreError};

/// How many registers are read and handed over at a time.
const PAGE: usize = 64;
/// The most groups that are remembered.
const GROUPS_MAX: usize = 64;

/// What is known of the groups that this node was a member of.
#[derive(Debug, Default)]
pub struct Endings(Mutex<BTreeMap<String, Ending>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// This process was its member; nothing else is known.
    None,
    /// It was dissolved, or has lost its majority for good.
    Ended,
    /// It goes on without this node.
    WentOn,
}

impl Endings {
    fn note(&self, group: &str, ending: Ending) {
        let mut groups = self.0.lock();
        if groups.len() >= GROUPS_MAX && !groups.contains_key(group) {
            groups.pop_first();
        }
        let known = groups.entry(group.to_owned()).or_insert(ending);
        if ending != Ending::None {
            *known = ending;
        }
    }

    /// Notes that this process is a member of a group.
    pub fn is_member_of(&self, group: &str) {
        self.note(group, Ending::None);
    }

    /// Notes that a group is no more.
    pub fn has_ended(&self, group: &str) {
        self.note(group, Ending::Ended);
    }

    /// Notes that a group goes on without this node.
    pub fn went_on(&self, group: &str) {
        self.note(group, Ending::WentOn);
    }

    /// Tells whether what this node keeps of a group may be the last of it, so that it is carried into the next one: the
    /// group has ended, or ended unseen before this process started. A member that left has handed its replicas over.
    pub fn carries(&self, from: &str, to: &str) -> bool {
        let groups = self.0.lock();
        from != to && matches!(groups.get(from), None | Some(Ending::Ended))
    }
}

/// Returns the configurations that a group went on to by force, without this node (rule 14), since the epoch that it had taken
/// up as a member. Of an object that has lost its majority there, this node may have what nobody else has.
pub fn forced_without(this: NodeId, epoch: u64, table: &GroupTable) -> Vec<Configuration> {
    let is_lost = |next: &&Configuration| {
        next.epoch >= epoch && next.old.as_ref().is_some_and(|old| old.lost.contains(&this))
    };
    table.chain.iter().filter(is_lost).cloned().collect()
}

/// Puts those objects and deletions of a shard into the outbox that are to be carried; returns how many.
///
/// # Errors
/// Why not all of them are there: then all of it is done again.
pub async fn carry(
    store: Arc<dyn ObjectStore>,
    shard: u8,
    outbox: &Address<OutboxMsg>,
    from: &Arc<str>,
    trace: TraceContext,
    is_carried: impl Fn(&ObjectId) -> bool,
) -> Result<usize, StoreError> {
    let (mut after, mut count) = (None, 0);
    loop {
        let (page, last) = read(&store, shard, after).await?;
        let cx = Context { trace, deadline: None };
        let asks = page
            .into_iter()
            .filter(|(id, _)| is_carried(id))
            .map(|(id, value)| outbox.ask(from, cx, |reply| OutboxMsg::Carry { id, value, reply }));
        for answer in join_all(asks).await {
            let failed = |error: String| StoreError::ReadOnly { reason: error };
            match answer {
                Ok(Ok(_)) => count += 1,
                Ok(Err(OutboxError::Store(error))) => return Err(error),
                Ok(Err(refused)) => return Err(failed(refused.to_string())),
                Err(gone) => return Err(failed(gone.to_string())),
            }
        }
        after = last;
        if after.is_none() {
            return Ok(count);
        }
    }
}

type Carried = Vec<(ObjectId, Value)>;

/// Reads what stands behind `after`, and where to go on.
async fn read(
    store: &Arc<dyn ObjectStore>,
    shard: u8,
    after: Option<ObjectId>,
) -> Result<(Carried, Option<ObjectId>), StoreError> {
    let store = Arc::clone(store);
    let read = move || {
        let heads = store.registers(shard, after.as_ref(), PAGE)?;
        let last = (heads.len() == PAGE).then(|| heads.last().map(|head| head.id.clone()));
        let mut page = Vec::new();
        for head in heads.into_iter().filter(|head| !head.is_damaged) {
            let Some(register) = store.register(&head.id)? else { continue };
            if register.accepted != Ballot::NONE && register.value != Value::Absent {
                page.push((head.id, register.value));
            }
        }
        Ok((page, last.flatten()))
    };
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(StoreError::Closed))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use nomad_core::group::{
        table::{Old, Seat},
        view::Founder,
    };

    #[test]
    fn what_a_group_went_on_to_without_this_node_is_found_in_its_table() {
        let [this, other] = [1, 2].map(|key| Founder::example(key).this);
        let founder = Founder::example(2);
        let seat = Seat { member: other.clone(), claim: 1, permanent: false };
        let mut table = GroupTable::found("g".to_owned(), seat, founder.settings, 5);
        let both = BTreeSet::from([this.node, other.node]);
        for (epoch, lost) in [(2, BTreeSet::new()), (3, BTreeSet::from([this.node]))] {
            let old = Old { members: both.clone(), replication_factor: 2, lost };
            let members = BTreeSet::from([other.node]);
            let next = Configuration { epoch, members, replication_factor: 2, old: Some(old) };
            table.chain.push_back(next);
        }
        let found = |node, epoch| {
            let found = forced_without(node, epoch, &table);
            found.into_iter().map(|next| next.epoch).collect::<Vec<_>>()
        };
        assert_eq!(found(this.node, 1), [3]);
        assert_eq!(found(this.node, 3), [3]);
        assert!(found(this.node, 4).is_empty(), "of an earlier membership");
        assert!(found(other.node, 1).is_empty(), "it was there");
    }

    #[test]
    fn only_what_may_be_the_last_of_its_group_is_carried_into_the_next_one() {
        let endings = Endings::default();
        // Nothing is known of it: the process was started after its end.
        assert!(endings.carries("old", "new"));
        assert!(!endings.carries("old", "old"), "its members have what is newer");
        endings.is_member_of("old");
        assert!(!endings.carries("old", "new"), "the node has left, and handed over");
        endings.has_ended("old");
        endings.is_member_of("old");
        assert!(endings.carries("old", "new"));
        assert!(!endings.carries("old", "old"), "given up, while the others went on");
        endings.went_on("other");
        assert!(!endings.carries("other", "new"));
    }
}
