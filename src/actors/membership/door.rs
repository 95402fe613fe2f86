//! Where other nodes' questions come in: decodes, asks the actor, encodes. What arrives is untrusted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::MembershipMsg;
use crate::{
    codec,
    shell::{Address, Context, Kit},
};
use nomad_core::{
    group::membership::{MembershipAnswer, MembershipRequest},
    model::{node_id::NodeId, trace::TraceContext},
};
use nomad_ports::PeerHandler;

/// The version of the encoding, before each message.
const VERSION: u8 = 1;

/// The longest that a question waits for the core's answer: as long as its sender does.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The same for an order that is passed on, which the super-peer may have to ask others about.
const ORDER_LIMIT: Duration = Duration::from_secs(20);

/// Returns how long the answer to a question is waited for.
pub(super) fn limit(question: &MembershipRequest) -> Duration {
    match question {
        MembershipRequest::Order { .. } => ORDER_LIMIT,
        _ => ANSWER_LIMIT,
    }
}

/// The handler of other nodes' questions about membership.
pub struct MembershipDoor {
    kit: Kit,
    actor: Address<MembershipMsg>,
    from: Arc<str>,
}

impl MembershipDoor {
    /// Makes the door of this actor.
    pub fn new(kit: Kit, actor: Address<MembershipMsg>) -> Self {
        Self { kit, actor, from: "link".into() }
    }
}

impl PeerHandler for MembershipDoor {
    fn answer(
        &self,
        from: NodeId,
        trace: TraceContext,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let question = decode::<MembershipRequest>(&body);
        let now = self.kit.clock.monotonic();
        let (actor, name) = (self.actor.clone(), Arc::clone(&self.from));
        Box::pin(async move {
            let question = question?;
            let deadline = now.plus_us(limit(&question).as_micros() as u64);
            let cx = Context { trace, deadline: Some(deadline) };
            let make = |reply| MembershipMsg::Asked { from, question, reply };
            let answer: MembershipAnswer =
                actor.ask(&name, cx, make).await.map_err(|error| error.to_string())?;
            encode(&answer)
        })
    }

    fn heard(&self, _: NodeId, _: TraceContext, _: Bytes) {
        // Membership has no notices.
    }
}

/// Encodes a message behind the version.
pub(super) fn encode(message: &impl serde::Serialize) -> Result<Bytes, String> {
    codec::encode(VERSION, message)
}

/// Decodes what another node sent.
pub(super) fn decode<M: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<M, String> {
    codec::decode(VERSION, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_and_a_damaged_one_is_refused() {
        let question = MembershipRequest::Confirm { group: "group-x".into(), claim: 3 };
        let bytes = encode(&question).unwrap();
        assert_eq!(decode::<MembershipRequest>(&bytes), Ok(question));
        assert!(decode::<MembershipRequest>(&[]).is_err());
        assert!(decode::<MembershipRequest>(&[2, 0]).unwrap_err().contains("encoding 2"));
        for cut in 1..bytes.len() {
            assert!(decode::<MembershipRequest>(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
