//! One node's membership in a test: its group, its clock, and what it wants done.

use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::{
    group::{
        RetrievalMode, SettingChange, Settings, StorageMode,
        offer::{FoundGroups, Offer},
        table::{Applied, Seat, TableCommand},
    },
    world::Position,
};

pub(super) const S: u64 = 1_000_000;
pub(super) const GROUP: &str = "group-g";
pub(super) const OTHER: &str = "group-o";

pub(super) fn node(n: u8) -> NodeId {
    NodeId::from_key([n; 32])
}

pub(super) fn seat(n: u8) -> Seat {
    let member = Member {
        node: node(n),
        rest: String::new(),
        peer: format!("n{n}:1"),
        storage: String::new(),
        position: Position::default(),
    };
    Seat { member, claim: u64::from(n), permanent: false }
}

pub(super) fn settings() -> Settings {
    Settings {
        storage_mode: StorageMode::Fast,
        retrieval_mode: RetrievalMode::Fast,
        migration: false,
        replication_factor: 3,
    }
}

/// The offer of another group, which node 20 leads.
pub(super) fn offer() -> Offer {
    Offer {
        group: OTHER.into(),
        super_peer: node(20),
        peer: "n20:1".into(),
        site: Position::default(),
        members: 2,
        capacity: 5,
        permanent: true,
        epoch: 3,
        seq: 1,
    }
}

/// One node's membership, and a clock.
pub(super) struct Bench {
    pub(super) core: Membership,
    pub(super) now: u64,
    pub(super) requests: u64,
    pub(super) log: LogState,
}

impl Bench {
    /// Node `this` of a group of `members`, whom node 1 leads. Each sits under the claim of its number.
    pub(super) fn of(this: u8, members: &[u8]) -> Self {
        let mut table = GroupTable::found(GROUP.into(), seat(1), settings(), 5);
        let add = members.iter().filter(|n| **n != 1).map(|n| seat(*n)).collect();
        table.apply(&TableCommand::Change { add, remove: Vec::new() });
        table.apply(&TableCommand::Acknowledge { node: node(1), epoch: 2 });
        let voters = BTreeSet::from([node(1)]);
        let learners = members.iter().map(|n| node(*n)).filter(|n| !voters.contains(n)).collect();
        let log = LogState {
            table: Some(Arc::new(table)),
            term: 1,
            leader: Some(node(1)),
            voters,
            learners,
            quorum_silent_ms: (this == 1).then_some(0),
            ..LogState::default()
        };
        let durable = Durable { claim: u64::from(this), home: Some(GROUP.into()) };
        let config = MembershipConfig::with(5, settings());
        let core = Membership::new(config, seat(this).member, false, durable, 7);
        let mut bench = Self { core, now: S, requests: 0, log: log.clone() };
        bench.step(MembershipEvent::Started { log });
        bench
    }

    pub(super) fn step(&mut self, event: MembershipEvent) -> Vec<MembershipEffect> {
        self.now += 1_000;
        self.core.step(Now::at(MonotonicUs(self.now)), event, &())
    }

    pub(super) fn wait(&mut self, us: u64) -> Vec<MembershipEffect> {
        let end = self.now + us;
        let mut effects = Vec::new();
        while self.now < end {
            self.now += S / 2;
            effects.extend(self.core.step(
                Now::at(MonotonicUs(self.now)),
                MembershipEvent::Tick,
                &(),
            ));
        }
        effects
    }

    pub(super) fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    pub(super) fn order(&mut self, order: MembershipOrder) -> Vec<MembershipEffect> {
        let request = self.request();
        self.step(MembershipEvent::Ordered { request, order })
    }

    pub(super) fn asked(&mut self, from: u8, question: MembershipRequest) -> Vec<MembershipEffect> {
        let request = self.request();
        self.step(MembershipEvent::Asked { from: node(from), request, question })
    }

    /// Answers the last question among the effects.
    pub(super) fn answered(
        &mut self,
        asked: &[MembershipEffect],
        by: u8,
        answer: MembershipAnswer,
    ) -> Vec<MembershipEffect> {
        let (ticket, _) = question(asked);
        self.step(MembershipEvent::Answered { ticket, by: Some(node(by)), answer: Ok(answer) })
    }

    pub(super) fn fails(
        &mut self,
        asked: &[MembershipEffect],
        failure: AskFailure,
    ) -> Vec<MembershipEffect> {
        let (ticket, _) = question(asked);
        self.step(MembershipEvent::Answered { ticket, by: None, answer: Err(failure) })
    }

    /// Writes a proposed command into the table, and ends the change.
    pub(super) fn apply(&mut self, proposed: &[MembershipEffect]) -> Vec<MembershipEffect> {
        self.apply_with(proposed, true)
    }

    /// Writes a proposed command into the table.
    pub(super) fn apply_with(
        &mut self,
        proposed: &[MembershipEffect],
        ends: bool,
    ) -> Vec<MembershipEffect> {
        let (ticket, command) = proposal(proposed).expect("nothing is proposed");
        let mut table = GroupTable::clone(self.log.table.as_ref().unwrap());
        assert_eq!(table.apply(&command), Applied::Done);
        let epoch = table.epoch();
        for node in table.configuration().everybody().into_iter().filter(|_| ends) {
            table.apply(&TableCommand::Acknowledge { node, epoch });
        }
        self.log.table = Some(Arc::new(table));
        let mut effects =
            self.step(MembershipEvent::Proposed { ticket, outcome: Ok(Applied::Done) });
        let log = self.log.clone();
        effects.extend(self.step(MembershipEvent::LogChanged(log)));
        effects
    }

    /// Carries a node that goes elsewhere through what it has to make durable.
    pub(super) fn goes(&mut self, effects: Vec<MembershipEffect>) -> Vec<MembershipEffect> {
        let mut all = effects.clone();
        let mut todo = effects;
        while let Some(event) = todo.iter().find_map(|effect| match effect {
            MembershipEffect::Persist { ticket, .. } => Some(MembershipEvent::Persisted(*ticket)),
            MembershipEffect::LeaveLog { ticket } => {
                Some(MembershipEvent::LogReady { ticket: *ticket, done: true })
            }
            _ => None,
        }) {
            todo = self.step(event);
            all.extend(todo.clone());
        }
        all
    }

    pub(super) fn finds(
        &mut self,
        searched: &[MembershipEffect],
        offers: Vec<Offer>,
    ) -> Vec<MembershipEffect> {
        let ticket = searched.iter().rev().find_map(|effect| match effect {
            MembershipEffect::Find { ticket, .. } => Some(*ticket),
            _ => None,
        });
        let found = FoundGroups { offers, answered: 1, ..FoundGroups::default() };
        let effects =
            self.step(MembershipEvent::Found { ticket: ticket.expect("no search"), found });
        self.goes(effects)
    }
}

pub(super) fn question(effects: &[MembershipEffect]) -> (Ticket, &MembershipRequest) {
    let asked = effects.iter().rev().find_map(|effect| match effect {
        MembershipEffect::AskNode { ticket, question, .. }
        | MembershipEffect::AskAddress { ticket, question, .. } => Some((*ticket, question)),
        _ => None,
    });
    asked.expect("nobody is asked")
}

pub(super) fn asks(effects: &[MembershipEffect]) -> bool {
    effects.iter().any(|e| {
        matches!(e, MembershipEffect::AskNode { .. } | MembershipEffect::AskAddress { .. })
    })
}

pub(super) fn proposal(effects: &[MembershipEffect]) -> Option<(Ticket, TableCommand)> {
    effects.iter().rev().find_map(|effect| match effect {
        MembershipEffect::Propose { ticket, command } => Some((*ticket, command.clone())),
        _ => None,
    })
}

pub(super) fn reply(effects: &[MembershipEffect]) -> Option<&MembershipAnswer> {
    effects.iter().find_map(|effect| match effect {
        MembershipEffect::Reply { answer, .. } => Some(answer),
        _ => None,
    })
}

pub(super) fn done(effects: &[MembershipEffect]) -> Option<&Result<(), Denied>> {
    effects.iter().find_map(|effect| match effect {
        MembershipEffect::Done { result, .. } => Some(result),
        _ => None,
    })
}

pub(super) fn joins(effects: &[MembershipEffect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        MembershipEffect::AskAddress {
            question: MembershipRequest::Join { group, .. }, ..
        } => Some(group.as_str()),
        _ => None,
    })
}

pub(super) fn passed_on(claim: u64, order: MembershipOrder) -> MembershipRequest {
    MembershipRequest::Order { group: GROUP.into(), claim, order }
}

pub(super) fn factor(n: i64) -> MembershipOrder {
    MembershipOrder::Write(TableCommand::Set(SettingChange::ReplicationFactor(n)))
}

pub(super) fn dismiss(claim: u64, rests: bool) -> MembershipRequest {
    MembershipRequest::Dismiss { group: GROUP.into(), claim, rests }
}

pub(super) fn invite(super_peer: u8, group: &str) -> MembershipRequest {
    let address = format!("n{super_peer}:1");
    MembershipRequest::Invite { super_peer: node(super_peer), group: group.into(), address }
}
