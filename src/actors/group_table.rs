//! Owns what the node knows of its group: today a group of one, so the truth is here and nowhere else.
//!
//! Others read the published view without asking; only this actor changes it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{
    recorder::Outcome,
    shell::{Handling, Message, Reply, Role},
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

impl Message for GroupTableMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Set { .. } => "Set",
            Self::Move { .. } => "Move",
        }
    }

    fn is_abandoned(&self) -> bool {
        match self {
            Self::Set { reply, .. } => reply.is_closed(),
            Self::Move { reply, .. } => reply.is_closed(),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Set { change, .. } => format!("{change:?}"),
            Self::Move { x, y, .. } => format!("to ({x}, {y})"),
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
                let done = group.set(change);
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
