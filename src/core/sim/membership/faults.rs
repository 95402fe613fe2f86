//! The faults of a run. The seed decides them.

use crate::group::{
    SettingChange,
    membership::{MembershipEvent, MembershipOrder, RequestId},
    table::TableCommand,
};
use rand::Rng;

use super::{MS, S, Sim, pair};

impl Sim {
    /// Chooses how bad the network is, and which nodes are dedicated super-peers.
    pub fn draw_network(&mut self) {
        self.loss = [0.0, 0.0, 0.03, 0.15][self.rng.random_range(0..4)];
        self.dup = [0.0, 0.1][self.rng.random_range(0..2)];
        self.delay_us = [5 * MS, 50 * MS, 300 * MS][self.rng.random_range(0..3)];
        for n in 0..self.nodes.len() {
            self.nodes[n].permanent = self.rng.random_bool(0.15);
        }
    }

    /// Injects faults until a time.
    pub fn inject_faults_until(&mut self, end: u64) {
        while self.now < end {
            let pause = self.rng.random_range(300 * MS..6 * S);
            self.run_until((self.now + pause).min(end));
            self.inject_one();
        }
    }

    fn running(&mut self) -> Option<usize> {
        let running: Vec<_> =
            (0..self.nodes.len()).filter(|n| self.nodes[*n].process.is_some()).collect();
        (!running.is_empty()).then(|| running[self.rng.random_range(0..running.len())])
    }

    fn inject_one(&mut self) {
        let count = self.nodes.len();
        let n = self.rng.random_range(0..count);
        match self.rng.random_range(0..100) {
            0..22 => {
                if let Some(n) = self.running() {
                    self.crash(n);
                }
            }
            22..55 => self.restart(n),
            55..63 => {
                self.cut.clear();
                let side: Vec<bool> = (0..count).map(|_| self.rng.random_bool(0.5)).collect();
                for a in 0..count {
                    for b in a + 1..count {
                        if side[a] != side[b] {
                            self.cut.insert((a, b));
                        }
                    }
                }
                self.network_changed();
                if self.objects > 0 && self.rng.random_bool(0.3) {
                    // For longer than a silent member is kept.
                    let long = self.rng.random_range(self.config.remove_after_us..60 * S);
                    self.run_until(self.now + long);
                    self.cut.clear();
                    self.network_changed();
                }
            }
            63..73 => {
                let other = self.rng.random_range(0..count);
                if n != other {
                    self.cut.insert(pair(n, other));
                    self.network_changed();
                }
            }
            73..85 => {
                self.cut.clear();
                self.network_changed();
            }
            85..90 => {
                let leap = self.rng.random_range(S..900 * S);
                self.nodes[n].clock_offset += leap;
            }
            _ => self.draw_order(),
        }
    }

    fn restart(&mut self, n: usize) {
        if self.nodes[n].process.is_some() {
            return;
        }
        if self.rng.random_bool(0.3) {
            self.change_address(n);
        }
        self.start(n);
    }

    /// Gives a node another address for its next start.
    pub fn change_address(&mut self, n: usize) {
        let life = self.nodes[n].life;
        self.nodes[n].address = format!("n{n}:{life}");
    }

    fn draw_order(&mut self) {
        let Some(n) = self.running() else { return };
        let other = self.rng.random_range(0..self.nodes.len());
        let (id, address) = (self.nodes[other].id, self.nodes[other].address.clone());
        let to = self.nodes[self.rng.random_range(0..self.nodes.len())].id;
        let order = match self.rng.random_range(0..6) {
            0 => {
                self.nodes[n].ordered_to_leave = true;
                MembershipOrder::Leave
            }
            1 => {
                self.nodes[other].ordered_to_leave = true;
                MembershipOrder::Migrate { node: id, to }
            }
            2 => {
                self.nodes[other].ordered_to_leave = true;
                MembershipOrder::AddPeer { address }
            }
            3 => {
                self.nodes[other].ordered_to_leave = true;
                if self.now.is_multiple_of(2) {
                    MembershipOrder::RemovePeer(id)
                } else {
                    MembershipOrder::PeerLeaves(id)
                }
            }
            4 => MembershipOrder::SuperPeerLeave,
            _ => {
                let factor = self.rng.random_range(1..5);
                MembershipOrder::Write(TableCommand::Set(SettingChange::ReplicationFactor(factor)))
            }
        };
        self.order(n, order);
    }

    pub fn order(&mut self, n: usize, order: MembershipOrder) {
        let Some(process) = &mut self.nodes[n].process else { return };
        process.next_request += 1;
        let request = RequestId(process.next_request);
        process.ordered.insert(request);
        self.step(n, MembershipEvent::Ordered { request, order });
    }

    /// Stops all faults, and starts all nodes.
    pub fn heal(&mut self) {
        (self.loss, self.dup, self.delay_us) = (0.0, 0.0, 20 * MS);
        self.cut.clear();
        for n in 0..self.nodes.len() {
            if self.nodes[n].process.is_none() {
                self.start(n);
            }
        }
        self.restart_nodes_that_left();
        self.network_changed();
    }

    /// Restarts nodes that were ordered to leave, so that they look for a group again. This is also for orders that were on
    /// their way when the faults stopped.
    pub fn restart_nodes_that_left(&mut self) {
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            let rests = node.process.as_ref().is_some_and(|process| {
                process.membership.state() == crate::group::view::RoleState::Leaving
            });
            if rests && node.durable.home.is_none() && node.up_since != self.now {
                self.crash(n);
                self.start(n);
            }
        }
    }
}
