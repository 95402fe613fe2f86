//! An event that is owed to membership: it comes exactly once, as a failure if nobody pays.

use std::{fmt, sync::Arc};

use super::MembershipMsg;
use crate::shell::{Address, Context};
use nomad_core::group::membership::MembershipEvent;

/// The debt. Dropped unpaid, also by an actor that is killed, it tells membership of the failure.
pub struct Owed {
    to: Address<MembershipMsg>,
    from: Arc<str>,
    cx: Context,
    life: u64,
    failure: Option<MembershipEvent>,
}

impl fmt::Debug for Owed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owed({:?})", self.failure)
    }
}

impl Owed {
    /// Makes a debt to this life of the actor.
    pub(super) fn new(
        to: Address<MembershipMsg>,
        from: Arc<str>,
        cx: Context,
        life: u64,
        failure: MembershipEvent,
    ) -> Self {
        // Whoever caused the step may have gone by the time it is paid; the step itself still wants the answer.
        let cx = Context { deadline: None, ..cx };
        Self { to, from, cx, life, failure: Some(failure) }
    }

    /// Pays.
    pub fn pay(mut self, event: MembershipEvent) {
        self.failure = None;
        self.send(event);
    }

    fn send(&self, event: MembershipEvent) {
        // An actor that is down starts a new life, which is owed nothing.
        self.to.tell(&self.from, self.cx, MembershipMsg::Happened { life: self.life, event });
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(event) = self.failure.take() {
            self.send(event);
        }
    }
}
