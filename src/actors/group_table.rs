//! Owns what the node knows of its group: today a group of one, so the truth is here and nowhere else.
//!
//! Others read the published view without asking; only this actor changes it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{
    recorder::Outcome,
    shell::{Described, Handling, Message, Reply, Role},
};
use crate::core::{
    group::{GroupOfOne, ReplicationFactorError, SettingChange},
    world::PositionError,
};

/// The published view: one writer, any number of readers.
pub type GroupView = Arc<ArcSwap<GroupOfOne>>;

// ---- messages ----

/// What the group table can be asked.
#[derive(Debug)]
pub enum GroupTableMsg {
    /// Ask: change a setting.
    Set {
        /// The change.
        change: SettingChange,
        /// Takes whether it was done.
        reply: Reply<Result<(), ReplicationFactorError>>,
    },
    /// Ask: move this node.
    Move {
        /// The new x.
        x: f64,
        /// The new y.
        y: f64,
        /// Takes whether it was done.
        reply: Reply<Result<(), PositionError>>,
    },
}

impl Described for GroupTableMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Set { .. } => "Set",
            Self::Move { .. } => "Move",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Set { change, .. } => format!("{change:?}"),
            Self::Move { x, y, .. } => format!("to ({x}, {y})"),
        }
    }
}

impl Message for GroupTableMsg {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Set { reply, .. } => reply.is_closed(),
            Self::Move { reply, .. } => reply.is_closed(),
        }
    }
}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct Args {
    /// The view that it publishes; its present value is what it starts from, also after a failure.
    pub view: GroupView,
}

// ---- state ----

/// The actor.
pub struct GroupTable {
    view: GroupView,
}

// ---- handler ----

impl Role for GroupTable {
    type Msg = GroupTableMsg;
    type Args = Args;

    fn start(args: &Args, _: &Handling<'_, GroupTableMsg>) -> Result<Self, String> {
        Ok(Self { view: Arc::clone(&args.view) })
    }

    fn handle(
        &mut self,
        _: &Handling<'_, GroupTableMsg>,
        message: GroupTableMsg,
    ) -> Result<Outcome, String> {
        let mut group = GroupOfOne::clone(&self.view.load());
        let done = match message {
            GroupTableMsg::Set { change, reply } => {
                let done = group.settings.set(change);
                let is_done = done.is_ok();
                self.publish(group, is_done);
                reply.send(done);
                is_done
            }
            GroupTableMsg::Move { x, y, reply } => {
                let done = group.world.position(x, y).map(|to| group.this.position = to);
                let is_done = done.is_ok();
                self.publish(group, is_done);
                reply.send(done);
                is_done
            }
        };
        Ok(if done { Outcome::Done("changed") } else { Outcome::Refused("out of range") })
    }
}

impl GroupTable {
    fn publish(&self, group: GroupOfOne, changed: bool) {
        if changed {
            self.view.store(Arc::new(group));
        }
    }
}

// ---- tests ----

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actors::{AskError, shell::worker, supervisor::Root, test_kit::kit},
        core::{
            group::{Member, Settings, StorageMode},
            node_id::NodeId,
            world::{Position, World},
        },
    };

    fn view() -> GroupView {
        Arc::new(ArcSwap::from_pointee(GroupOfOne {
            name: "group-x".into(),
            epoch: 1,
            permanent: false,
            capacity: 5,
            this: Member {
                node: NodeId::from_key([7; 32]),
                rest: String::new(),
                peer: String::new(),
                storage: String::new(),
                position: Position::default(),
            },
            world: World { width: 10.0, height: 10.0 },
            settings: Settings {
                storage_mode: StorageMode::Fast,
                retrieval_mode: crate::core::group::RetrievalMode::Fast,
                migration: false,
                replication_factor: 3,
            },
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn killed_under_load_it_keeps_what_it_had_acknowledged() {
        let (kit, view, from) = (kit(), view(), Arc::<str>::from("test"));
        let (table, spec) =
            worker::<GroupTable>(&kit, "group_table", "node", Args { view: Arc::clone(&view) });
        let root = Root::start(&kit, "node", vec![spec]).await.unwrap();
        let mut acknowledged = 3;
        for factor in 1..=40i64 {
            if factor % 10 == 0 {
                assert!(kit.census.kill("group_table"));
            }
            let change = SettingChange::ReplicationFactor(factor);
            let make = |reply| GroupTableMsg::Set { change, reply };
            match table.ask(&from, Default::default(), make).await {
                Ok(done) => {
                    done.unwrap();
                    acknowledged = factor;
                }
                Err(AskError::Gone { .. }) => {
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
                Err(error) => panic!("{error}"),
            }
            assert!(i64::from(view.load().settings.replication_factor) >= acknowledged);
        }
        assert_eq!(acknowledged, 39);
        root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_out_of_range_changes_nothing() {
        let (kit, view, from) = (kit(), view(), Arc::<str>::from("test"));
        let (table, spec) =
            worker::<GroupTable>(&kit, "group_table", "node", Args { view: Arc::clone(&view) });
        let root = Root::start(&kit, "node", vec![spec]).await.unwrap();
        let before = view.load_full();
        for factor in [0, -1, 65, i64::MAX] {
            let change = SettingChange::ReplicationFactor(factor);
            let make = |reply| GroupTableMsg::Set { change, reply };
            table.ask(&from, Default::default(), make).await.unwrap().unwrap_err();
        }
        let make = |reply| GroupTableMsg::Move { x: 11.0, y: 0.0, reply };
        table.ask(&from, Default::default(), make).await.unwrap().unwrap_err();
        assert_eq!(view.load_full(), before);
        root.stop().await;
    }
}
