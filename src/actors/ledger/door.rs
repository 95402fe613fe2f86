//! Where other members' notices and questions about the ledger come in: decodes, hands over, encodes. What arrives is
//! untrusted.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tracing::debug;

use super::LedgerMsg;
use crate::{
    codec,
    shell::{Address, Context, Kit},
};
use nomad_core::{
    ledger::{LedgerAnswer, LedgerRequest, Notice},
    model::{node_id::NodeId, trace::TraceContext},
};
use nomad_ports::PeerHandler;

/// The version of the encoding.
pub(super) const VERSION: u8 = 1;
/// The longest that another member waits for an answer.
pub(super) const ASK_LIMIT: Duration = Duration::from_secs(5);
/// The most bytes of a notice or a question: the most changes, with the longest ids.
const BODY_MAX: usize = 2 << 20;
/// The most messages that wait for the ledger before notices are dropped. A comparison finds what they said.
const WAITING_MAX: u64 = 1_024;

/// The handler of other members' words about the ledger.
pub struct LedgerDoor {
    kit: Kit,
    actor: Address<LedgerMsg>,
    from: Arc<str>,
}

impl LedgerDoor {
    /// Makes the door of this actor.
    pub fn new(kit: Kit, actor: Address<LedgerMsg>) -> Self {
        Self { kit, actor, from: "link".into() }
    }
}

fn decode<M: serde::de::DeserializeOwned>(body: &[u8]) -> Result<M, String> {
    if body.len() > BODY_MAX {
        return Err(format!("the message has {} bytes; at most {BODY_MAX} are read", body.len()));
    }
    codec::decode(VERSION, body)
}

impl PeerHandler for LedgerDoor {
    fn answer(
        &self,
        from: NodeId,
        trace: TraceContext,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let question = decode::<LedgerRequest>(&body);
        let deadline = self.kit.clock.monotonic().plus_us(ASK_LIMIT.as_micros() as u64);
        let (actor, name) = (self.actor.clone(), Arc::clone(&self.from));
        Box::pin(async move {
            let question = question?;
            let cx = Context { trace, deadline: Some(deadline) };
            let make = |reply| LedgerMsg::Asked { from, question, reply };
            let answer: LedgerAnswer =
                actor.ask(&name, cx, make).await.map_err(|error| error.to_string())?;
            codec::encode(VERSION, &answer)
        })
    }

    fn heard(&self, from: NodeId, trace: TraceContext, body: Bytes) {
        let notice = match decode::<Notice>(&body) {
            Ok(notice) => notice,
            Err(reason) => return debug!(%from, reason, "a notice of a member cannot be read"),
        };
        let vitals = self.actor.vitals();
        if vitals.sent.load(Relaxed).saturating_sub(vitals.taken.load(Relaxed)) < WAITING_MAX {
            let cx = Context { trace, deadline: None };
            self.actor.tell(&self.from, cx, LedgerMsg::Heard { from, notice });
        }
    }
}
