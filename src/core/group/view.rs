//! What a node knows about itself and its group. It is published as a whole: one writer, any number of readers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use strum::IntoStaticStr;

use crate::{
    group::{
        Member, PeerError, RetrievalMode, Settings, StorageMode,
        control::ControlError,
        offer::Offer,
        table::{GroupTable, Seat},
    },
    model::{node_id::NodeId, time::UnixMs},
    world::{Position, World},
};

/// The state of a node in its group, from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum RoleState {
    /// It looks for a group.
    Discovering,
    /// It has asked a group for a place.
    Joining,
    /// It is a member.
    Peer,
    /// It leads its group, and was started as a peer.
    ProvisionalSuperPeer,
    /// It leads its group, and was started as a super-peer.
    PermanentSuperPeer,
    /// It is a member of a group that has no leader at the moment.
    Electing,
    /// It is on its way out, or out: without a table it has left, and looks for no other group until it is asked into one
    /// or started again.
    Leaving,
    /// Its group was dissolved.
    Dissolved,
}

impl RoleState {
    /// Returns the state's word in the contract.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Tells whether the node leads its group.
    pub fn leads(self) -> bool {
        matches!(self, Self::ProvisionalSuperPeer | Self::PermanentSuperPeer)
    }
}

/// How another member looks from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Liveness {
    /// It answers.
    Alive,
    /// This node, or another member, cannot reach it.
    Suspect,
    /// Nobody reaches it.
    Dead,
}

impl Liveness {
    /// Returns the word in the contract.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How and when a member was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// How it looks.
    pub liveness: Liveness,
    /// When this node last heard of it; `None` = never.
    pub last_seen: Option<UnixMs>,
}

/// The view.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// This node.
    pub this: Member,
    /// Whether it was started as a super-peer.
    pub permanent: bool,
    /// Where it stands.
    pub state: RoleState,
    /// Its group's table as far as this node has it; `None` while it has no group.
    pub table: Option<Arc<GroupTable>>,
    /// Who leads the group now, as far as this node knows; `None` during an election.
    pub super_peer: Option<NodeId>,
    /// The term of that leader.
    pub term: u64,
    /// Who votes. While the voters change, those of before.
    pub voters: BTreeSet<NodeId>,
    /// The other members as they look from here.
    pub sightings: BTreeMap<NodeId, Sighting>,
    /// Whether a majority of the voters was heard of lately. A group without one says so.
    pub has_majority: bool,
    /// The world that positions lie in.
    pub world: World,
    /// The settings of this node: its modes, and what a group that it founds starts with.
    pub settings: Settings,
}

/// What a node is when it is started. What it founds a group with.
#[derive(Debug, Clone, PartialEq)]
pub struct Founder {
    /// The node.
    pub this: Member,
    /// Whether it was started as a super-peer.
    pub permanent: bool,
    /// The claim under which it sits in the group that it founds.
    pub claim: u64,
    /// The most members that this group may have.
    pub capacity: u32,
    /// The world that positions lie in.
    pub world: World,
    /// The settings of its configuration.
    pub settings: Settings,
}

impl Founder {
    /// A peer at the origin of a world of 10 by 10, for the tests of all rooms.
    #[doc(hidden)]
    pub fn example(key: u8) -> Self {
        Self {
            this: Member {
                node: NodeId::from_key([key; 32]),
                rest: format!("a:{key}0"),
                peer: format!("a:{key}1"),
                storage: format!("a:{key}2"),
                position: Position::default(),
            },
            permanent: false,
            claim: 1,
            capacity: 5,
            world: World { width: 10.0, height: 10.0 },
            settings: Settings {
                storage_mode: StorageMode::Fast,
                retrieval_mode: RetrievalMode::Fast,
                migration: false,
                replication_factor: 3,
            },
        }
    }
}

impl View {
    /// Returns the view of a node that looks for a group.
    pub fn discovering(founder: &Founder) -> Self {
        Self {
            this: founder.this.clone(),
            permanent: founder.permanent,
            state: RoleState::Discovering,
            table: None,
            super_peer: None,
            term: 0,
            voters: BTreeSet::new(),
            sightings: BTreeMap::new(),
            has_majority: false,
            world: founder.world,
            settings: founder.settings,
        }
    }

    /// Returns the view of a node that leads the group of one that it has founded under this name.
    pub fn founded(name: String, founder: &Founder) -> Self {
        let Founder { this, permanent, claim, capacity, settings, .. } = founder.clone();
        let node = this.node;
        let seat = Seat { member: this, claim, permanent };
        let state =
            if permanent { RoleState::PermanentSuperPeer } else { RoleState::ProvisionalSuperPeer };
        Self {
            state,
            table: Some(Arc::new(GroupTable::found(name, seat, settings, capacity))),
            super_peer: Some(node),
            term: 1,
            voters: BTreeSet::from([node]),
            has_majority: true,
            ..Self::discovering(founder)
        }
    }

    /// Returns the settings that hold. The group decides about the replication factor; the rest is each node's own.
    pub fn settings(&self) -> Settings {
        let of_group = self.group().map(|table| table.settings.replication_factor);
        let replication_factor = of_group.unwrap_or(self.settings.replication_factor);
        Settings { replication_factor, ..self.settings }
    }

    /// Returns the table of the group that the node is in; `None` while it has no group, only asks for a place in one, or
    /// belongs to one that was dissolved.
    pub fn group(&self) -> Option<&Arc<GroupTable>> {
        let outside = [RoleState::Discovering, RoleState::Joining, RoleState::Dissolved];
        let table = self.table.as_ref().filter(|_| !outside.contains(&self.state))?;
        (table.dissolved.is_none() && table.seats.contains_key(&self.this.node)).then_some(table)
    }

    /// Tells whether this node alone keeps the objects of its group: then it is every quorum that there is.
    pub fn is_alone(&self) -> bool {
        self.group().is_none_or(|table| table.seats.len() == 1)
    }

    /// Returns the members of the group, this node included; without a group there are none.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.group().into_iter().flat_map(|table| table.seats.values().map(|seat| &seat.member))
    }

    /// Returns the epoch; 0 without a group.
    pub fn epoch(&self) -> u64 {
        self.group().map_or(0, |table| table.epoch())
    }

    /// Returns how a member looks from here. This node is alive; one that was not looked at yet is suspect.
    pub fn sighting(&self, node: &NodeId) -> Sighting {
        let unseen = || match *node == self.this.node {
            true => Sighting { liveness: Liveness::Alive, last_seen: None },
            false => Sighting { liveness: Liveness::Suspect, last_seen: None },
        };
        self.sightings.get(node).copied().unwrap_or_else(unseen)
    }

    /// Returns the word for the node's role.
    pub fn role(&self) -> &'static str {
        if self.state.leads() { "super-peer" } else { "peer" }
    }

    /// Tells whether a caller names this node: by its id, or by one of its addresses.
    pub fn names_this(&self, name: &str) -> bool {
        let Member { node, peer, storage, .. } = &self.this;
        name.parse() == Ok(*node) || name == peer || name == storage
    }

    /// Returns the member that a caller names.
    ///
    /// # Errors
    /// When there is none of that name, which tells who there is, and without a group.
    pub fn member(&self, name: &str) -> Result<&Member, ControlError> {
        let table = self.group().ok_or_else(|| self.no_group())?;
        let named = table.named(name).map(|seat| &seat.member);
        // The addresses of this node may be newer than the table.
        let named = named.or_else(|| self.names_this(name).then_some(&self.this));
        named.ok_or_else(|| {
            let members: Vec<_> = table.seats.keys().map(ToString::to_string).collect();
            let (peer, group) = (name.to_owned(), table.name.clone());
            PeerError::NotAMember { peer, group, members: members.join(", ") }.into()
        })
    }

    /// Says that there is no group, as an answer.
    pub fn no_group(&self) -> ControlError {
        ControlError::NoGroup { reason: self.unready().unwrap_or("looking for a group") }
    }

    /// Says why the node is not ready, if it is not. Ready is who is in a group and stays: it takes reads and writes in
    /// fast mode, also while its group elects, or has no majority.
    pub fn unready(&self) -> Option<&'static str> {
        match (self.state, self.group()) {
            (RoleState::Leaving, Some(_)) => Some("leaving its group"),
            (RoleState::Leaving, None) => Some(
                "it has left its group; start it again to look for another one, or ask it in with addPeer",
            ),
            (_, Some(_)) => None,
            (RoleState::Joining, None) => Some("asking a group for a place"),
            (RoleState::Dissolved, None) => {
                Some("its group was dissolved; looking for another one")
            }
            (_, None) => Some("looking for a group"),
        }
    }

    /// Says what the group of a node that is ready cannot do, if there is something.
    pub fn trouble(&self) -> Option<String> {
        let table = self.group()?;
        if !self.has_majority {
            let is_there = |voter: &&NodeId| self.sighting(voter).liveness == Liveness::Alive;
            let there = self.voters.iter().filter(is_there).count();
            return Some(format!(
                "the group has no majority: {there} of its {} voters are there; fast reads and \
                 writes go on, its members and settings do not change",
                self.voters.len()
            ));
        }
        let electing = self.super_peer.is_none() || self.state == RoleState::Electing;
        electing.then(|| format!("the group {} elects a super-peer", table.name))
    }
}

/// The group whose site is nearest to a position.
#[derive(Debug, Clone, PartialEq)]
pub struct Nearest {
    /// The group.
    pub group: String,
    /// Its super-peer.
    pub super_peer: NodeId,
}

/// Returns the nearest of this node's own group and the groups that it has heard of. Of equally near ones it is the own
/// one, else the first by name. `None` when there is no group.
pub fn nearest(view: &View, known: &[Offer], to: Position) -> Option<Nearest> {
    let square = |site: Position| (site.x - to.x).powi(2) + (site.y - to.y).powi(2);
    let own = view.group().map(|table| {
        let super_peer = view.super_peer.unwrap_or(table.super_peer);
        (square(table.site), None, Nearest { group: table.name.clone(), super_peer })
    });
    let own_name = own.as_ref().map(|(_, _, own)| own.group.clone());
    let others = known.iter().filter(|offer| Some(&offer.group) != own_name.as_ref());
    let others = others.map(|offer| {
        let Offer { group, super_peer, site, .. } = offer;
        let nearest = Nearest { group: group.clone(), super_peer: *super_peer };
        (square(*site), Some(group.clone()), nearest)
    });
    let order = |a: &(f64, Option<String>, Nearest), b: &(f64, Option<String>, Nearest)| {
        a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1))
    };
    own.into_iter().chain(others).min_by(order).map(|(_, _, nearest)| nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founder(key: u8, x: f64) -> Founder {
        let mut founder = Founder::example(key);
        founder.this.position.x = x;
        founder
    }

    #[test]
    fn a_group_of_one_knows_its_only_member() {
        let view = View::founded("group-x".into(), &founder(7, 1.0));
        let me = view.this.node.to_string();
        for name in [me.as_str(), "a:71", "a:72"] {
            assert_eq!(view.member(name), Ok(&view.this));
        }
        let error = view.member("you").unwrap_err().to_string();
        assert_eq!(
            error,
            format!(r#"the peer "you" is not a member of group-x, whose members are: {me}"#)
        );
        assert_eq!((view.unready(), view.trouble(), view.epoch()), (None, None, 1));
        assert!(view.state.leads());
    }

    #[test]
    fn who_has_no_group_says_what_it_does() {
        let founder = founder(7, 1.0);
        let mut view = View::discovering(&founder);
        assert_eq!((view.epoch(), view.members().count()), (0, 0));
        assert_eq!(view.unready(), Some("looking for a group"));
        assert!(matches!(view.member("a:71"), Err(ControlError::NoGroup { .. })));
        // A table that is still being filled is no group yet, one that has ended no longer.
        view.table = View::founded("group-x".into(), &founder).table;
        view.state = RoleState::Joining;
        assert_eq!(view.unready(), Some("asking a group for a place"));
        view.state = RoleState::Leaving;
        assert_eq!((view.unready(), view.epoch()), (Some("leaving its group"), 1));
        view.table = None;
        assert!(view.unready().unwrap().contains("has left"));
        assert_eq!(view.settings().replication_factor, 3);
    }

    #[test]
    fn a_group_without_a_majority_is_ready_and_says_what_it_cannot_do() {
        let mut view = View::founded("group-x".into(), &founder(7, 1.0));
        view.voters.extend([NodeId::from_key([8; 32]), NodeId::from_key([9; 32])]);
        view.super_peer = None;
        assert!(view.trouble().unwrap().contains("elects"));
        view.has_majority = false;
        assert_eq!(view.unready(), None);
        assert!(view.trouble().unwrap().contains("1 of its 3 voters"), "{:?}", view.trouble());
    }

    #[test]
    fn the_nearest_site_wins_and_of_equals_the_own_group() {
        let view = View::founded("group-m".into(), &founder(7, 1.0));
        let offer = |group: &str, key: u8, x: f64| Offer {
            group: group.into(),
            super_peer: NodeId::from_key([key; 32]),
            peer: "b:1".into(),
            site: Position { x, y: 0.0 },
            members: 1,
            capacity: 5,
            permanent: true,
            epoch: 1,
            seq: 1,
        };
        let known = [offer("group-z", 1, 5.0), offer("group-a", 2, 5.0), offer("group-b", 3, 1.0)];
        let at = |x: f64| nearest(&view, &known, Position { x, y: 3.0 }).unwrap().group;
        assert_eq!((at(1.0), at(4.0)), ("group-m".into(), "group-a".into()));
        let lost = View::discovering(&founder(7, 1.0));
        assert_eq!(nearest(&lost, &known, Position::default()).unwrap().group, "group-b");
        assert_eq!(nearest(&lost, &[], Position::default()), None);
        // What others say of the own group is older than what it knows itself.
        let stale = [offer("group-m", 9, 9.0)];
        let nearest = nearest(&view, &stale, Position { x: 9.0, y: 0.0 }).unwrap();
        assert_eq!(nearest.super_peer, view.this.node);
    }
}
