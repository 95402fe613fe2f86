//! The input of a new membership: its configuration, and what it has kept from its last run.

use serde::{Deserialize, Serialize};

use crate::group::Settings;

/// What a membership has kept durably. It is written before it is used: see [`MembershipEffect::Persist`](super::MembershipEffect).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durable {
    /// The node's present claim. All lower ones are void for ever.
    pub claim: u64,
    /// The group that the present claim is bound to. It is used for no other.
    pub home: Option<String>,
}

impl Default for Durable {
    /// The state of a node that has never run.
    fn default() -> Self {
        Self { claim: 1, home: None }
    }
}

/// The configuration. Times are microseconds.
#[derive(Debug, Clone)]
pub struct MembershipConfig {
    /// `node.maxPeers`: the most members of a group that this node founds.
    pub capacity: u32,
    /// `group.voters`: the most voters.
    pub voters: u32,
    /// What a group that this node founds starts with.
    pub settings: Settings,
    /// `node.group.voronoiGrouping`: join the nearest group instead of the first.
    pub voronoi_grouping: bool,
    /// Whether there is any source to find others by. Without one a node founds its group at once.
    pub has_sources: bool,
    /// `bootstrap.discoveryWindow`.
    pub discovery_window_us: u64,
    /// `bootstrap.provisionalPollInterval`.
    pub provisional_poll_us: u64,
    /// `bootstrap.electionTimeout`: the longest election; also how long a hand-over may take.
    pub election_timeout_us: u64,
    /// How long voters wait after the link to the leader broke: its lease.
    pub leader_lease_us: u64,
    /// `schedule.healthCheck`.
    pub health_check_us: u64,
    /// `group.removeAfter`.
    pub remove_after_us: u64,
    /// `group.quorumLossGrace`; 0 = never.
    pub quorum_loss_grace_us: u64,
    /// How long the group may be without an answer from a majority before it reports that it has none.
    pub quorum_silent_us: u64,
    /// After how long without a link a voter is replaced.
    pub suspect_after_us: u64,
    /// How long a member that was taken out by order stays away from that group, unless it is asked back or started
    /// again.
    pub rest_us: u64,
    /// How long joins are gathered before they become one change.
    pub gather_us: u64,
    /// Mistakes put in on purpose.
    #[cfg(test)]
    pub faults: MembershipFaults,
}

/// Mistakes that the simulation must catch when they are put in. Tests alone can put them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembershipFaults {
    /// A node goes to another group under the claim that the first one has.
    pub claim_is_kept: bool,
    /// A node uses a claim before it is durable.
    pub claim_is_not_durable: bool,
    /// A super-peer adds a node without asking it back.
    pub no_confirm: bool,
    /// Two groups may each dissolve into the other.
    pub unite_without_order: bool,
    /// Members' rescans are acknowledged on their behalf.
    pub acknowledge_for_others: bool,
    /// The leader removes members that it cannot reach itself, even if other members reach them.
    pub remove_on_own_word: bool,
    /// Any number of members votes.
    pub even_voters: bool,
}

impl MembershipFaults {
    /// No mistake.
    pub const NONE: Self = Self {
        claim_is_kept: false,
        claim_is_not_durable: false,
        no_confirm: false,
        unite_without_order: false,
        acknowledge_for_others: false,
        remove_on_own_word: false,
        even_voters: false,
    };
}

impl MembershipConfig {
    /// Returns the mistakes that a test has put in; elsewhere there are none.
    pub(super) const fn faults(&self) -> MembershipFaults {
        #[cfg(test)]
        return self.faults;
        #[cfg(not(test))]
        return MembershipFaults::NONE;
    }

    /// The times of the shipped configuration.
    pub fn with(capacity: u32, settings: Settings) -> Self {
        const S: u64 = 1_000_000;
        Self {
            capacity,
            voters: 5,
            settings,
            voronoi_grouping: false,
            has_sources: true,
            discovery_window_us: 5 * S,
            provisional_poll_us: 30 * S,
            election_timeout_us: 10 * S,
            leader_lease_us: 1_500_000,
            health_check_us: 20 * S,
            remove_after_us: 300 * S,
            quorum_loss_grace_us: 300 * S,
            quorum_silent_us: 3 * S,
            suspect_after_us: 5 * S,
            rest_us: 600 * S,
            gather_us: 100_000,
            #[cfg(test)]
            faults: MembershipFaults::NONE,
        }
    }
}
