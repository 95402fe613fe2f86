//! The group table: who is in a group, in which configuration, with which settings. Pure: the log decides the order of
//! commands, every member applies the same ones to the same state.
//!
//! Configurations follow rules 3, 9, 14 and 15 of the replication protocol: stable, joint, stable, one change at a time, the
//! last thousand kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{
    group::{Member, ReplicationFactorError, SettingChange, Settings},
    model::node_id::NodeId,
    world::Position,
};

/// How many configurations are kept for members that are behind (rule 15).
pub const CHAIN_MAX: usize = 1_000;

/// A member of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seat {
    /// What it is and where it can be reached.
    pub member: Member,
    /// The member's claim: the number under which it asked this group, and only this one, for a place.
    pub claim: u64,
    /// Whether it was started as a super-peer.
    pub permanent: bool,
}

/// A group, and the claim under which a node is its member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupClaim {
    /// The group.
    pub group: String,
    /// The claim.
    pub claim: u64,
}

/// Who keeps the objects: one configuration of the group, numbered by its epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Its number.
    pub epoch: u64,
    /// The members, or in a joint configuration the new ones.
    pub members: BTreeSet<NodeId>,
    /// How many of them keep each object.
    pub replication_factor: u32,
    /// In a joint configuration, what it comes from.
    pub old: Option<Old>,
}

/// The configuration that a joint one comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Old {
    /// Its members, the lost ones included.
    pub members: BTreeSet<NodeId>,
    /// Its replication factor.
    pub replication_factor: u32,
    /// Which of them are lost (rule 14). A majority is still one of all: what has it left needs no force.
    pub lost: BTreeSet<NodeId>,
}

/// The table of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupTable {
    /// The group's name, unique to its founding.
    pub name: String,
    /// Every node that the present configuration names, old members of a joint one included.
    pub seats: BTreeMap<NodeId, Seat>,
    /// The last configurations, oldest first; never empty.
    pub chain: VecDeque<Configuration>,
    /// Who has finished the rescan of the present joint configuration; empty in a stable one.
    pub acknowledged: BTreeSet<NodeId>,
    /// What clients may change for the whole group.
    pub settings: Settings,
    /// The most members that the group may have.
    pub capacity: u32,
    /// Who led the group when the last entry was written.
    pub super_peer: NodeId,
    /// The group's site: the position of its super-peer.
    pub site: Position,
    /// How many changes were forced (rule 14).
    pub forced: u64,
    /// Set once the group is no more; names the group that its members were sent to.
    pub dissolved: Option<Dissolved>,
}

/// The end of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dissolved {
    /// The group that the members are to join, if one was named.
    pub into: Option<String>,
}

/// An entry of the group's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TableCommand {
    /// Adds and removes members as one change. Removals name the claim that ends, so that a late one removes no newcomer.
    Change {
        /// Who comes.
        add: Vec<Seat>,
        /// Who goes, and under which claim it had come.
        remove: Vec<(NodeId, u64)>,
    },
    /// A member has finished the rescan that this joint epoch needs.
    Acknowledge {
        /// The member.
        node: NodeId,
        /// The joint epoch.
        epoch: u64,
    },
    /// Goes on from a joint epoch that cannot end by itself (rule 14): these nodes are lost. Another joint epoch follows
    /// without them. Counted if objects may have lost their majority.
    Force {
        /// The joint epoch.
        epoch: u64,
        /// Who is lost, of the old members and of the new ones.
        lost: BTreeSet<NodeId>,
        /// Who leads, and stays.
        by: NodeId,
    },
    /// Changes a setting for the whole group.
    Set(SettingChange),
    /// A member has other addresses or another position.
    Describe {
        /// What it is now.
        member: Member,
        /// Under which claim it is here.
        claim: u64,
    },
    /// A new super-peer has taken over.
    Lead {
        /// The super-peer.
        node: NodeId,
    },
    /// Ends the group.
    Dissolve {
        /// The group that the members are to join, if one is named.
        into: Option<String>,
    },
}

/// What an entry did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// The table is as the entry wanted it.
    Done,
    /// It was so already.
    Nothing,
    /// The entry was refused and changed nothing.
    Refused(TableRefusal),
}

/// Why an entry changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TableRefusal {
    /// The group is no more.
    #[error("the group was dissolved")]
    Dissolved,
    /// A change is under way; the next one waits for its end.
    #[error("the group is between two configurations (joint epoch {epoch}) and waits for {}", names(.waits_for))]
    Joint {
        /// The joint epoch.
        epoch: u64,
        /// Whose rescan it still wants.
        waits_for: BTreeSet<NodeId>,
    },
    /// There is no room for all who come.
    #[error("the group is full: it has {members} members and takes {capacity}")]
    Full {
        /// How many there would be without those who come.
        members: u32,
        /// The most that there may be.
        capacity: u32,
    },
    /// No member would be left, or the super-peer itself would be removed while it leads.
    #[error("the super-peer stays: another one leads first, or the group is dissolved")]
    SuperPeer,
    /// Two members would share their tag, which tells apart who wrote a version.
    #[error("{node} has the same number as another member; start it with a new data directory")]
    SameTag {
        /// Who came later.
        node: NodeId,
    },
    /// The entry is about a node that is no member under that claim.
    #[error("{node} is not a member under that claim")]
    NotAMember {
        /// The node.
        node: NodeId,
    },
    /// The entry is about an epoch that is over.
    #[error("the epoch {given} is over; the group is in {epoch}")]
    Over {
        /// The entry's epoch.
        given: u64,
        /// The present one.
        epoch: u64,
    },
    /// The replication factor is out of range.
    #[error(transparent)]
    ReplicationFactor(ReplicationFactorError),
}

/// Names nodes in a text for people.
fn names(nodes: &BTreeSet<NodeId>) -> String {
    let names: Vec<_> = nodes.iter().map(NodeId::to_string).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

impl Configuration {
    /// Returns that of a group before its first one.
    pub fn nobody() -> &'static Self {
        static NOBODY: Configuration =
            Configuration { epoch: 0, members: BTreeSet::new(), replication_factor: 0, old: None };
        &NOBODY
    }

    /// Tells whether a change is under way.
    pub fn is_joint(&self) -> bool {
        self.old.is_some()
    }

    /// Returns every node that takes part in it, old members included.
    pub fn everybody(&self) -> BTreeSet<NodeId> {
        let old = self.old.iter().flat_map(|old| old.members.difference(&old.lost));
        self.members.iter().chain(old).copied().collect()
    }

    /// Tells whether a joint configuration may end: the old members that have not finished the rescan are at most half of
    /// an old replica set (rule 9), whichever object it is the set of. Where objects may have lost their majority, nobody
    /// is missing (rule 14).
    fn may_settle(&self, acknowledged: &BTreeSet<NodeId>) -> bool {
        let Some(old) = &self.old else { return false };
        let missing = self.unfinished(acknowledged).len() + old.lost.len();
        missing <= replicas_of(&old.members, old.replication_factor) / 2
            || (self.is_forced() && self.unfinished(acknowledged).is_empty())
    }

    /// Tells whether this is a joint configuration in which objects may have lost the majority of their old replicas.
    pub fn is_forced(&self) -> bool {
        self.old
            .as_ref()
            .is_some_and(|old| loses_majority(&old.members, old.replication_factor, &old.lost))
    }

    /// Returns those whose rescan a joint configuration still wants: the old members, and where objects may have lost
    /// their majority the new ones too, since one of them may have the last copy.
    fn unfinished(&self, acknowledged: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let wanted = self.everybody().into_iter().filter(|node| self.rescans(node));
        wanted.filter(|node| !acknowledged.contains(node)).collect()
    }

    /// Tells whether this configuration wants the rescan of a node.
    pub fn rescans(&self, node: &NodeId) -> bool {
        let Some(old) = &self.old else { return false };
        let is_old = old.members.contains(node) && !old.lost.contains(node);
        is_old || (self.is_forced() && self.members.contains(node))
    }

    /// Tells whether this joint configuration cannot end by itself if those nodes never come back: objects may be short of
    /// a majority of their old replicas, or of their new ones, and so cannot be rescanned.
    pub fn needs_force(&self, gone: &BTreeSet<NodeId>) -> bool {
        let Some(old) = &self.old else { return false };
        let is_news = self.everybody().iter().any(|node| gone.contains(node));
        let lost = &old.lost | gone;
        is_news
            && (loses_majority(&old.members, old.replication_factor, &lost)
                || loses_majority(&self.members, self.replication_factor, &lost))
    }

    /// Makes the joint configuration that follows this stable one.
    fn joint(&self, members: BTreeSet<NodeId>, replication_factor: u32) -> Self {
        let old = Old {
            members: self.members.clone(),
            replication_factor: self.replication_factor,
            lost: BTreeSet::new(),
        };
        Self { epoch: self.epoch + 1, members, replication_factor, old: Some(old) }
    }
}

/// Returns how many of these members keep each object.
fn replicas_of(members: &BTreeSet<NodeId>, replication_factor: u32) -> usize {
    members.len().min(replication_factor as usize)
}

/// Tells whether there may be an object that has too few replicas left for a majority of them.
fn loses_majority(
    members: &BTreeSet<NodeId>,
    replication_factor: u32,
    lost: &BTreeSet<NodeId>,
) -> bool {
    let lost = members.intersection(lost).count();
    lost > replicas_of(members, replication_factor).saturating_sub(1) / 2
}

impl GroupTable {
    /// Returns those whose rescan the change under way still wants; empty without a change.
    pub fn unfinished(&self) -> BTreeSet<NodeId> {
        self.configuration().unfinished(&self.acknowledged)
    }

    /// Returns why there can be no other change now: one is under way.
    pub fn under_way(&self) -> Option<TableRefusal> {
        let epoch = self.configuration().is_joint().then(|| self.epoch())?;
        Some(TableRefusal::Joint { epoch, waits_for: self.unfinished() })
    }

    /// Returns the claim under which a node is a member; `None` = it is none.
    pub fn claim_of(&self, node: &NodeId) -> Option<GroupClaim> {
        let seat = self.seats.get(node)?;
        Some(GroupClaim { group: self.name.clone(), claim: seat.claim })
    }

    /// Makes the table of a group that one node founds.
    pub fn found(name: String, founder: Seat, settings: Settings, capacity: u32) -> Self {
        let node = founder.member.node;
        let first = Configuration {
            epoch: 1,
            members: BTreeSet::from([node]),
            replication_factor: settings.replication_factor,
            old: None,
        };
        Self {
            name,
            site: founder.member.position,
            seats: BTreeMap::from([(node, founder)]),
            chain: VecDeque::from([first]),
            acknowledged: BTreeSet::new(),
            settings,
            capacity,
            super_peer: node,
            forced: 0,
            dissolved: None,
        }
    }

    /// Returns the present configuration. The chain is never empty; an empty one reads as a table of nobody.
    pub fn configuration(&self) -> &Configuration {
        self.chain.back().unwrap_or(Configuration::nobody())
    }

    /// Returns the present epoch.
    pub fn epoch(&self) -> u64 {
        self.configuration().epoch
    }

    /// Returns how many members the group has, or in a joint configuration will have.
    pub fn count(&self) -> u32 {
        self.configuration().members.len() as u32
    }

    /// Returns the member of this name: its id, or one of its addresses.
    pub fn named(&self, name: &str) -> Option<&Seat> {
        let is_it = |seat: &&Seat| {
            let Member { peer, storage, .. } = &seat.member;
            name == peer || name == storage
        };
        let by_id = name.parse::<NodeId>().ok().and_then(|node| self.seats.get(&node));
        by_id.or_else(|| self.seats.values().find(is_it))
    }

    /// Applies an entry of the log. Nothing changes when it is refused.
    pub fn apply(&mut self, command: &TableCommand) -> Applied {
        if self.dissolved.is_some() {
            return Applied::Refused(TableRefusal::Dissolved);
        }
        let done = match command {
            TableCommand::Change { add, remove } => self.change(add, remove),
            TableCommand::Acknowledge { node, epoch } => self.acknowledge(*node, *epoch),
            TableCommand::Force { epoch, lost, by } => self.force(*epoch, lost, *by),
            TableCommand::Set(change) => self.set(*change),
            TableCommand::Describe { member, claim } => self.describe(member, *claim),
            TableCommand::Lead { node } => self.lead(*node),
            TableCommand::Dissolve { into } => {
                self.dissolved = Some(Dissolved { into: into.clone() });
                Ok(true)
            }
        };
        match done {
            Ok(true) => Applied::Done,
            Ok(false) => Applied::Nothing,
            Err(refused) => Applied::Refused(refused),
        }
    }

    fn stable(&self) -> Result<&Configuration, TableRefusal> {
        self.under_way().map_or_else(|| Ok(self.configuration()), Err)
    }

    fn change(&mut self, add: &[Seat], remove: &[(NodeId, u64)]) -> Result<bool, TableRefusal> {
        let last = self.stable()?;
        let mut members = last.members.clone();
        let mut seats = self.seats.clone();
        for (node, claim) in remove {
            // A removal of another claim is late: whoever sits there now came after it.
            if seats.get(node).is_some_and(|seat| seat.claim == *claim) {
                members.remove(node);
            }
        }
        if !members.contains(&self.super_peer) {
            return Err(TableRefusal::SuperPeer);
        }
        for seat in add {
            let node = seat.member.node;
            if seats.get(&node).is_some_and(|held| held.claim != seat.claim) {
                // It sits here under an older claim, which has to end first: what it promised under that one is gone.
                return Err(TableRefusal::NotAMember { node });
            }
            if seats.keys().any(|other| *other != node && other.tag() == node.tag()) {
                return Err(TableRefusal::SameTag { node });
            }
            if !members.contains(&node) {
                if members.len() as u32 >= self.capacity {
                    let members = members.len() as u32;
                    return Err(TableRefusal::Full { members, capacity: self.capacity });
                }
                members.insert(node);
                seats.insert(node, seat.clone());
            }
        }
        if members == last.members {
            return Ok(false);
        }
        let next = last.joint(members, last.replication_factor);
        self.seats = seats;
        self.push(next);
        Ok(true)
    }

    fn acknowledge(&mut self, node: NodeId, epoch: u64) -> Result<bool, TableRefusal> {
        let last = self.configuration();
        if last.epoch != epoch || !last.is_joint() {
            return Err(TableRefusal::Over { given: epoch, epoch: last.epoch });
        }
        if !last.everybody().contains(&node) {
            return Err(TableRefusal::NotAMember { node });
        }
        let is_new = self.acknowledged.insert(node);
        if self.configuration().may_settle(&self.acknowledged) {
            self.settle();
        }
        Ok(is_new)
    }

    fn force(
        &mut self,
        epoch: u64,
        gone: &BTreeSet<NodeId>,
        by: NodeId,
    ) -> Result<bool, TableRefusal> {
        let last = self.configuration();
        let Some(old) = last.old.as_ref().filter(|_| last.epoch == epoch) else {
            return Err(TableRefusal::Over { given: epoch, epoch: last.epoch });
        };
        if last.everybody().is_disjoint(gone) {
            return Ok(false);
        }
        let lost = old.members.iter().filter(|node| old.lost.contains(node) || gone.contains(node));
        let old = Old { lost: lost.copied().collect(), ..old.clone() };
        let mut members = &last.members - gone;
        if members.is_empty() {
            // Nobody is left to go on to: the change is taken back.
            members = &old.members - &old.lost;
        }
        if !members.contains(&by) {
            return Err(TableRefusal::SuperPeer);
        }
        let next = Configuration { epoch: last.epoch + 1, members, old: Some(old), ..last.clone() };
        let everybody = next.everybody();
        self.seats.retain(|node, _| everybody.contains(node));
        self.forced += u64::from(next.is_forced());
        self.push(next);
        self.lead(by)?;
        Ok(true)
    }

    fn settle(&mut self) {
        let next =
            Configuration { epoch: self.epoch() + 1, old: None, ..self.configuration().clone() };
        self.seats.retain(|node, _| next.members.contains(node));
        self.push(next);
    }

    fn push(&mut self, next: Configuration) {
        self.acknowledged.clear();
        self.chain.push_back(next);
        while self.chain.len() > CHAIN_MAX {
            self.chain.pop_front();
        }
    }

    fn set(&mut self, change: SettingChange) -> Result<bool, TableRefusal> {
        let mut settings = self.settings;
        settings.set(change).map_err(TableRefusal::ReplicationFactor)?;
        if settings == self.settings {
            return Ok(false);
        }
        if settings.replication_factor != self.settings.replication_factor {
            // Other replica sets: a change like any other, with a rescan.
            let last = self.stable()?;
            let next = last.joint(last.members.clone(), settings.replication_factor);
            self.push(next);
        }
        self.settings = settings;
        Ok(true)
    }

    fn describe(&mut self, member: &Member, claim: u64) -> Result<bool, TableRefusal> {
        let node = member.node;
        let seat = self.seats.get_mut(&node).filter(|seat| seat.claim == claim);
        let seat = seat.ok_or(TableRefusal::NotAMember { node })?;
        if seat.member == *member {
            return Ok(false);
        }
        seat.member = member.clone();
        if self.super_peer == node {
            self.site = member.position;
        }
        Ok(true)
    }

    fn lead(&mut self, node: NodeId) -> Result<bool, TableRefusal> {
        // One that is on its way out may win an election, but its name must not stay when its seat is gone.
        let stays = self.configuration().members.contains(&node);
        let seat =
            self.seats.get(&node).filter(|_| stays).ok_or(TableRefusal::NotAMember { node })?;
        self.site = seat.member.position;
        Ok(std::mem::replace(&mut self.super_peer, node) != node)
    }
}

#[cfg(test)]
mod tests;
