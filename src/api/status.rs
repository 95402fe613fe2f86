//! What a node tells of itself: the status document, and whether it is ready.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{
    backend::{Backend, NodePhase},
    storage_figures::{LedgerStatus, OutboxStatus, RepairStatusShown},
};
use nomad_core::{
    group::{
        Settings,
        table::{GroupTable, Seat},
        view::{RoleState, View},
    },
    model::{node_id::NodeId, object::Tier},
    world::Position,
};

impl Backend {
    /// Says why the node is not ready, if it is not. Ready is a node that has started, does not stop, and is in a group.
    pub fn unready(&self) -> Option<&'static str> {
        match *self.phase.borrow() {
            NodePhase::Serving => self.service.view.load().unready(),
            NodePhase::Draining => Some(SHUTTING_DOWN),
        }
    }

    /// Describes this node.
    pub fn status(&self) -> NodeStatus {
        let view = self.service.view.load();
        let (health, counts) = (self.store_stats)();
        let unready = self.unready();
        let read_only = health.refusal();
        let is_leaving = unready == Some(SHUTTING_DOWN) || view.state == RoleState::Leaving;
        let reason = unready.map(str::to_owned);
        let reason = reason.or_else(|| read_only.map(|why| format!("writes are refused: {why}")));
        let network = (self.network.state)();
        let standing = self.figures.ledger.read();
        NodeStatus {
            node_id: view.this.node.to_string(),
            role: view.role(),
            state: view.state.as_str(),
            permanent: view.permanent,
            group: view.group().map(|table| table.name.clone()),
            epoch: view.epoch(),
            term: view.term,
            super_peer: view.group().and(view.super_peer).map(|node| node.to_string()),
            majority: view.group().is_some() && view.has_majority,
            ready: unready.is_none(),
            reason: reason.or_else(|| view.trouble()),
            members: members(&view, is_leaving),
            change: view.group().and_then(|table| ChangeStatus::of(table)),
            capacity: view.group().map_or(self.config.node.max_peers as u32, |t| t.capacity),
            position: PositionStatus::of(view.this.position),
            settings: SettingsStatus::of(view.settings()),
            store: StoreStatus {
                state: if read_only.is_some() { "read-only" } else { "up" },
                durability: self.service.assurance(Tier::Group, None).to_string(),
                writes: counts.writes,
                fsyncs: counts.fsyncs,
                waiting: counts.waiting,
                disk_bytes: counts.disk_bytes,
                recoveries: counts.recoveries,
            },
            outbox: self.figures.outbox.read().into(),
            under_replicated_objects: standing.census.map(|census| census.under_replicated),
            ledger: standing.into(),
            repair: self.figures.repair.read().into(),
            network: self.config.network.name.clone(),
            overlay: network.overlay.listens,
            known_groups: (self.network.known)(view.this.position).len() as u64,
            version: env!("CARGO_PKG_VERSION"),
            at: self.service.kit.clock.wall().0,
            uptime_seconds: self.service.kit.clock.monotonic().since(self.started) / 1_000_000,
            resident_bytes: super::metrics::resident_bytes(),
            requests_in_hand: self.admission.in_hand(),
        }
    }
}

const SHUTTING_DOWN: &str = "the node is shutting down";

fn members(view: &View, this_is_leaving: bool) -> Vec<MemberStatus> {
    let Some(table) = view.group() else { return Vec::new() };
    let of = |seat| MemberStatus::of(view, table, seat, this_is_leaving);
    table.seats.values().map(of).collect()
}

/// What `GET /nomad/v1/status` tells.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Status)]
pub struct NodeStatus {
    /// The node's id.
    pub node_id: String,
    /// `peer` or `super-peer`.
    pub role: &'static str,
    /// The state of its role.
    pub state: &'static str,
    /// Whether it was started as a super-peer.
    pub permanent: bool,
    /// The name of its group; null while it has none.
    pub group: Option<String>,
    /// The number of the group's configuration; 0 without a group.
    pub epoch: u64,
    /// The term of the group's super-peer, which grows with every election.
    pub term: u64,
    /// The id of the group's super-peer; null during an election and without a group.
    pub super_peer: Option<String>,
    /// Whether most of the voters are there: without them the members and the group's settings do not change.
    pub majority: bool,
    /// Whether it takes requests: it has started, does not stop, and is in a group.
    pub ready: bool,
    /// Why it is not ready, or what it refuses.
    pub reason: Option<String>,
    /// The group's members.
    pub members: Vec<MemberStatus>,
    /// The change of members or of the replication factor that is under way; null at rest.
    pub change: Option<ChangeStatus>,
    /// The most members that the group may have.
    pub capacity: u32,
    /// Where this node stands.
    pub position: PositionStatus,
    /// What clients may change.
    pub settings: SettingsStatus,
    /// The local store.
    pub store: StoreStatus,
    /// The fast writes that wait to be replicated.
    pub outbox: OutboxStatus,
    /// How many objects of the group have their newest version on fewer members than they should; null where it is not known,
    /// because this node does not keep the ledger or has not counted yet.
    pub under_replicated_objects: Option<u64>,
    /// Who holds which object.
    pub ledger: LedgerStatus,
    /// Repair of replicas that differ.
    pub repair: RepairStatusShown,
    /// The name of the network.
    pub network: String,
    /// Where the node's overlay listens, as multiaddrs that `--bootstrap` takes.
    pub overlay: Vec<String>,
    /// How many groups of other super-peers it has heard of lately.
    pub known_groups: u64,
    /// The program's version.
    pub version: &'static str,
    /// The node's time, in milliseconds since 1970.
    pub at: u64,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Requests admitted and not answered yet.
    pub requests_in_hand: u64,
}

/// One member of a group.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its id.
    pub node_id: String,
    /// `peer` or `super-peer`.
    pub role: &'static str,
    /// `alive`, `suspect`, `dead` or `leaving`.
    pub state: &'static str,
    /// Whether it votes on the group table.
    pub voter: bool,
    /// Its REST address.
    pub rest: String,
    /// Its peer address.
    pub peer: String,
    /// Its storage address.
    pub storage: String,
    /// Where it stands.
    pub position: PositionStatus,
    /// When this node last heard of it, in milliseconds since 1970; null for this node itself, and where it never did.
    pub last_seen: Option<u64>,
}

impl MemberStatus {
    fn of(view: &View, table: &GroupTable, seat: &Seat, this_is_leaving: bool) -> Self {
        // The table learns a moment later what a node says of itself.
        let is_this = seat.member.node == view.this.node;
        let member = if is_this { &view.this } else { &seat.member };
        let node = member.node;
        let sighting = view.sighting(&node);
        let is_leaving = (node == view.this.node && this_is_leaving)
            || !table.configuration().members.contains(&node);
        Self {
            node_id: node.to_string(),
            role: if view.super_peer == Some(node) { "super-peer" } else { "peer" },
            state: if is_leaving { "leaving" } else { sighting.liveness.as_str() },
            voter: view.voters.contains(&node),
            rest: member.rest.clone(),
            peer: member.peer.clone(),
            storage: member.storage.clone(),
            position: PositionStatus::of(member.position),
            last_seen: sighting.last_seen.map(|at| at.0),
        }
    }
}

/// A change of the group's configuration that is under way: the old and the new one hold together until it ends.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeStatus {
    /// The ids of the nodes that come.
    pub joining: Vec<String>,
    /// The ids of the members that go.
    pub leaving: Vec<String>,
    /// How many members are to keep each object.
    pub replication_factor: u32,
    /// The ids of those who have not handed on what they keep. The change ends when most members of before have; where objects
    /// have lost the majority of their replicas, when all have.
    pub waits_for: Vec<String>,
}

impl ChangeStatus {
    fn of(table: &GroupTable) -> Option<Self> {
        let now = table.configuration();
        let old = now.old.as_ref()?;
        let ids = |nodes: &BTreeSet<NodeId>| nodes.iter().map(NodeId::to_string).collect();
        Some(Self {
            joining: ids(&(&now.members - &old.members)),
            leaving: ids(&(&(&old.members - &now.members) - &old.lost)),
            replication_factor: now.replication_factor,
            waits_for: ids(&table.unfinished()),
        })
    }
}

/// A point of the world.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
pub struct PositionStatus {
    /// From 0 to the world's width.
    pub x: f64,
    /// From 0 to the world's height.
    pub y: f64,
}

impl PositionStatus {
    /// Shows a position.
    pub fn of(Position { x, y }: Position) -> Self {
        Self { x, y }
    }
}

/// The settings that clients may change.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettingsStatus {
    /// The mode of a write that names none.
    pub storage_mode: &'static str,
    /// The mode of a read that names none.
    pub retrieval_mode: &'static str,
    /// Whether nodes move to the group of the cell they are in.
    pub migration: bool,
    /// How many members keep each object, where the group has so many.
    pub replication_factor: u32,
}

impl SettingsStatus {
    fn of(settings: Settings) -> Self {
        Self {
            storage_mode: settings.storage_mode.as_str(),
            retrieval_mode: settings.retrieval_mode.as_str(),
            migration: settings.migration,
            replication_factor: settings.replication_factor,
        }
    }
}

/// The local store.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// `up` or `read-only`.
    pub state: &'static str,
    /// How durable an acknowledged write is.
    pub durability: String,
    /// Writes that took effect since the start.
    pub writes: u64,
    /// Flushes of the journal since the start.
    pub fsyncs: u64,
    /// Writes waiting.
    pub waiting: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Times that the store was reopened after a failure.
    pub recoveries: u64,
}
