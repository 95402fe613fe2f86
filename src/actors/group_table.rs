//! Owns what the node knows of itself and its group: of a group of one, so that the truth is here and nowhere else.
//!
//! Others read the published view without asking; only this actor changes it.

use std::sync::Arc;

pub use super::group_view::GroupView;
use super::{
    recorder::Outcome,
    shell::{Described, Handling, Message, Reply, Role},
};
use crate::core::{
    control::ControlError,
    group::SettingChange,
    table::{Applied, Command, Refused, Table},
    view::View,
};

// ---- messages ----

/// What the group table can be asked.
#[derive(Debug)]
pub enum GroupTableMsg {
    /// Ask: change a setting.
    Set {
        /// The change.
        change: SettingChange,
        /// Takes whether it was done.
        reply: Reply<Result<(), ControlError>>,
    },
    /// Ask: move this node.
    Move {
        /// The new x.
        x: f64,
        /// The new y.
        y: f64,
        /// Takes whether it was done.
        reply: Reply<Result<(), ControlError>>,
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
        let mut view = View::clone(&self.view.load());
        let (done, reply) = match message {
            GroupTableMsg::Set { change, reply } => (set(&mut view, change), reply),
            GroupTableMsg::Move { x, y, reply } => (move_to(&mut view, x, y), reply),
        };
        let outcome = match &done {
            Ok(()) => Outcome::Done("changed"),
            Err(_) => Outcome::Refused("it cannot be changed so"),
        };
        if done.is_ok() {
            // Who is told of the change finds it published.
            self.view.publish(view);
        }
        reply.send(done);
        Ok(outcome)
    }
}

/// Changes a setting: the replication factor for the group, the others for this node.
fn set(view: &mut View, change: SettingChange) -> Result<(), ControlError> {
    view.settings.set(change)?;
    if let (SettingChange::ReplicationFactor(_), Some(table)) = (change, &mut view.table) {
        apply(Arc::make_mut(table), &Command::Set(change))?;
    }
    Ok(())
}

fn move_to(view: &mut View, x: f64, y: f64) -> Result<(), ControlError> {
    view.this.position = view.world.position(x, y)?;
    let Some(table) = &mut view.table else { return Ok(()) };
    let table = Arc::make_mut(table);
    let Some(claim) = table.seats.get(&view.this.node).map(|seat| seat.claim) else {
        return Ok(());
    };
    apply(table, &Command::Describe { member: view.this.clone(), claim })
}

/// Applies an entry to the table of a group of one, whose log is this actor. The only member has rescanned what it has as
/// soon as the change is there.
fn apply(table: &mut Table, command: &Command) -> Result<(), ControlError> {
    if let Applied::Refused(refused) = table.apply(command) {
        return Err(match refused {
            Refused::ReplicationFactor(error) => error.into(),
            other => ControlError::Refused { reason: other.to_string() },
        });
    }
    let now = table.configuration();
    if now.is_joint() {
        let (node, epoch) = (table.super_peer, now.epoch);
        table.apply(&Command::Acknowledge { node, epoch });
    }
    Ok(())
}

// ---- tests ----

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actors::{AskError, group_view::Published, shell::worker, supervisor::Root, test_kit::kit},
        core::{group::StorageMode, view::Founder},
    };

    fn view() -> GroupView {
        Published::new(View::founded("group-x".into(), &Founder::example(7)))
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
            assert!(i64::from(view.load().settings().replication_factor) >= acknowledged);
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

    #[tokio::test(start_paused = true)]
    async fn the_replication_factor_is_the_groups_and_the_modes_are_the_nodes() {
        let (kit, view, from) = (kit(), view(), Arc::<str>::from("test"));
        let (table, spec) =
            worker::<GroupTable>(&kit, "group_table", "node", Args { view: Arc::clone(&view) });
        let root = Root::start(&kit, "node", vec![spec]).await.unwrap();
        let mut watch = view.watch();
        for change in
            [SettingChange::ReplicationFactor(2), SettingChange::StorageMode(StorageMode::Safe)]
        {
            let make = |reply| GroupTableMsg::Set { change, reply };
            table.ask(&from, Default::default(), make).await.unwrap().unwrap();
            watch.changed().await.unwrap();
        }
        let now = view.load_full();
        let group = now.group().unwrap();
        assert_eq!((group.settings.replication_factor, now.epoch()), (2, 3));
        assert!(!group.configuration().is_joint());
        assert_eq!(group.settings.storage_mode, StorageMode::Fast);
        assert_eq!(now.settings().storage_mode, StorageMode::Safe);
        let make = |reply| GroupTableMsg::Move { x: 2.0, y: 3.0, reply };
        table.ask(&from, Default::default(), make).await.unwrap().unwrap();
        assert_eq!(view.load().group().unwrap().site, view.load().this.position);
        root.stop().await;
    }
}
