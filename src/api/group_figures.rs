//! The figures of the node's group and of the network around it, read from the published view when they are asked for.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::backend::Network;
use nomad_actors::group_view::GroupView;
use nomad_core::group::view::{Liveness, RoleState, View};

/// All states of a role; the figure of the present one is 1.
const STATES: [RoleState; 8] = [
    RoleState::Discovering,
    RoleState::Joining,
    RoleState::Peer,
    RoleState::ProvisionalSuperPeer,
    RoleState::PermanentSuperPeer,
    RoleState::Electing,
    RoleState::Leaving,
    RoleState::Dissolved,
];

/// Reads them.
pub struct GroupFigures {
    /// The node and its group.
    pub view: GroupView,
    /// What lies around.
    pub network: Network,
}

impl fmt::Debug for GroupFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupFigures")
    }
}

impl Collector for GroupFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (view, counts) = (self.view.load_full(), self.view.counts());
        let state = (self.network.state)();
        let known = (self.network.known)(view.this.position).len();
        let count = |liveness| members_that_are(&view, liveness);
        let gauges = [
            ("group_members", "Members of the group", view.members().count() as u64),
            ("group_suspect_members", "Members that look gone", count(Liveness::Suspect)),
            ("group_dead_members", "Members that nobody reaches", count(Liveness::Dead)),
            ("group_epoch", "The number of the group's configuration", view.epoch()),
            (
                "group_change_waits_for",
                "Members whose rescan the change of the members under way still wants",
                view.group().map_or(0, |table| table.unfinished().len() as u64),
            ),
            (
                "group_forced_changes",
                "Changes in this group that went on by force although objects may have lost their majority",
                view.group().map_or(0, |table| table.forced),
            ),
            ("group_term", "The term of the group's super-peer", view.term),
            ("group_voters", "Members that vote on the group table", view.voters.len() as u64),
            (
                "group_majority",
                "1 while most of the voters are there",
                u64::from(view.group().is_some() && view.has_majority),
            ),
            (
                "group_super_peer",
                "1 while this node leads its group",
                u64::from(view.state.leads()),
            ),
            ("ready", "1 while the node is in a group", u64::from(view.unready().is_none())),
            ("links", "Links to other members that stand", state.links),
            (
                "overlay_peers",
                "Nodes connected in the overlay",
                state.overlay.connected.len() as u64,
            ),
            ("known_groups", "Groups of other super-peers heard of lately", known as u64),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::<f64>::new(value as f64);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let counters = [
            ("group_joins", "Members that came into the group", counts.joins),
            ("group_removals", "Members that went", counts.removals),
            (
                "group_leader_changes",
                "Times the group got another super-peer",
                counts.leader_changes,
            ),
            (
                "overlay_refused",
                "Nodes refused: of another network or protocol version",
                state.overlay.refused,
            ),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let help = "1 for the state of the node's role";
        let mut role = encoder.encode_descriptor("role", help, None, MetricType::Gauge)?;
        for state in STATES {
            let labels = [("state", state.as_str())];
            let value = f64::from(u8::from(view.state == state));
            ConstGauge::<f64>::new(value).encode(role.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn members_that_are(view: &View, liveness: Liveness) -> u64 {
    view.members().filter(|member| view.sighting(&member.node).liveness == liveness).count() as u64
}
