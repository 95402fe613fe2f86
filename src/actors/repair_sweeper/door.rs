//! Where other members' questions about replicas come in: decodes, hands over, encodes. What arrives is untrusted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::RepairSweeperMsg;
use crate::{
    codec,
    shell::{Address, Context, Kit},
};
use nomad_core::{
    model::{node_id::NodeId, trace::TraceContext},
    repair::{RepairAnswer, RepairRequest},
};
use nomad_ports::PeerHandler;

/// The version of the encoding.
pub(super) const VERSION: u8 = 1;
/// The longest that another member waits for an answer. A pass over all registers has to fit.
pub(super) const ASK_LIMIT: Duration = Duration::from_secs(30);
/// The most bytes of a question: the most ids, each as long as one may be.
const BODY_MAX: usize = 256 << 10;

/// The handler of other members' questions about replicas.
pub struct RepairDoor {
    kit: Kit,
    actor: Address<RepairSweeperMsg>,
    from: Arc<str>,
}

impl RepairDoor {
    /// Makes the door of this actor.
    pub fn new(kit: Kit, actor: Address<RepairSweeperMsg>) -> Self {
        Self { kit, actor, from: "link".into() }
    }
}

impl PeerHandler for RepairDoor {
    fn answer(
        &self,
        from: NodeId,
        trace: TraceContext,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let question = match body.len() {
            0..=BODY_MAX => codec::decode::<RepairRequest>(VERSION, &body),
            len => Err(format!("the question has {len} bytes; at most {BODY_MAX} are read")),
        };
        let deadline = self.kit.clock.monotonic().plus_us(ASK_LIMIT.as_micros() as u64);
        let (actor, name) = (self.actor.clone(), Arc::clone(&self.from));
        Box::pin(async move {
            let question = question?;
            let cx = Context { trace, deadline: Some(deadline) };
            let make = |reply| RepairSweeperMsg::Asked { from, question, reply };
            let answer: RepairAnswer =
                actor.ask(&name, cx, make).await.map_err(|error| error.to_string())?;
            codec::encode(VERSION, &answer)
        })
    }

    fn heard(&self, _: NodeId, _: TraceContext, _: Bytes) {
        // Repair has no notices.
    }
}
