//! Membership: what the edges ask of it. Who may join, leave, move or be removed is decided by the core behind it.

use super::shell::{Described, Message, Reply};
use crate::core::control::{ControlError, Request};

// ---- messages ----

/// What membership can be asked and told.
#[derive(Debug)]
pub enum MembershipMsg {
    /// Ask: what a client or an older node wants of the group.
    Control {
        /// What it wants.
        request: Request,
        /// Takes what became of it: `true` = done, `false` = there was nothing to do.
        reply: Reply<Result<bool, ControlError>>,
    },
}

impl Described for MembershipMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Control { request, .. } => request.kind(),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Control { request, .. } => format!("{request:?}"),
        }
    }
}

impl Message for MembershipMsg {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Control { reply, .. } => reply.is_closed(),
        }
    }
}
