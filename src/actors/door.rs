//! Where other nodes' words for an actor come in: decodes, hands over, encodes. What arrives is untrusted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use tracing::debug;

use super::{
    codec,
    shell::{ActorMessage, Address, Context, Kit, Reply},
};
use nomad_core::model::{node_id::NodeId, trace::TraceContext};
use nomad_ports::{PeerHandler, PeerTransport, peer_transport::Service};

/// The most messages that wait for an actor before notices for it are dropped.
const WAITING_MAX: u64 = 1_024;

/// The messages of an actor that other nodes speak to.
pub trait PeerMessage: ActorMessage + Sized {
    /// What they ask.
    type Question: DeserializeOwned + Send + 'static;
    /// What they are answered.
    type Answer: Serialize + Send + 'static;
    /// What they call it by.
    const SERVICE: Service;
    /// The version of the encoding.
    const VERSION: u8;
    /// The most bytes of a message that are read.
    const BODY_MAX: usize;

    /// Returns how long an answer is waited for.
    fn limit(question: &Self::Question) -> Duration;

    /// Makes the message of a question. The node has proved who it is.
    fn asked(from: NodeId, question: Self::Question, reply: Reply<Self::Answer>) -> Self;

    /// Makes the message of a notice.
    ///
    /// # Errors
    /// Says why it cannot be read.
    fn heard(_: NodeId, _: &[u8]) -> Result<Self, String> {
        Err("this actor has no notices".to_owned())
    }
}

/// The door of an actor.
pub struct Door<M: PeerMessage> {
    kit: Kit,
    actor: Address<M>,
    from: Arc<str>,
}

impl<M: PeerMessage> Door<M> {
    /// Makes the door of this actor.
    pub fn new(kit: Kit, actor: Address<M>) -> Self {
        Self { kit, actor, from: "link".into() }
    }
}

/// Asks the actor of another node, and waits for so long.
pub(super) fn ask<M: PeerMessage>(
    transport: &Arc<dyn PeerTransport>,
    to: NodeId,
    trace: TraceContext,
    question: &M::Question,
    limit: Duration,
) -> BoxFuture<'static, Result<M::Answer, String>>
where
    M::Question: Serialize,
    M::Answer: DeserializeOwned,
{
    let (transport, body) = (Arc::clone(transport), codec::encode(M::VERSION, question));
    Box::pin(async move {
        let asked = transport.ask(to, M::SERVICE, trace, body?, limit).await;
        codec::decode(M::VERSION, &asked.map_err(|error| error.to_string())?)
    })
}

/// Decodes what another node sent to an actor.
pub(super) fn decode<M: PeerMessage, T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    if body.len() > M::BODY_MAX {
        let (len, most) = (body.len(), M::BODY_MAX);
        return Err(format!("the message has {len} bytes; at most {most} are read"));
    }
    codec::decode(M::VERSION, body)
}

impl<M: PeerMessage> PeerHandler for Door<M> {
    fn answer(
        &self,
        from: NodeId,
        trace: TraceContext,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let question = decode::<M, M::Question>(&body);
        let now = self.kit.clock.monotonic();
        let (actor, name) = (self.actor.clone(), Arc::clone(&self.from));
        Box::pin(async move {
            let question = question?;
            let deadline = now.plus_us(M::limit(&question).as_micros() as u64);
            let cx = Context { trace, deadline: Some(deadline) };
            let answer = actor.ask(&name, cx, |reply| M::asked(from, question, reply)).await;
            codec::encode(M::VERSION, &answer.map_err(|error| error.to_string())?)
        })
    }

    fn heard(&self, from: NodeId, trace: TraceContext, body: Bytes) {
        match M::heard(from, &body) {
            Ok(message) if self.actor.waiting() < WAITING_MAX => {
                self.actor.tell(&self.from, Context { trace, deadline: None }, message);
            }
            Ok(_) => {}
            Err(reason) => debug!(%from, reason, "a notice of a member cannot be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::MembershipMsg;
    use nomad_core::group::membership::MembershipRequest;

    #[test]
    fn a_message_reads_back_and_a_damaged_one_is_refused() {
        let decode = decode::<MembershipMsg, MembershipRequest>;
        let question = MembershipRequest::Confirm { group: "group-x".into(), claim: 3 };
        let bytes = codec::encode(MembershipMsg::VERSION, &question).unwrap();
        assert_eq!(decode(&bytes), Ok(question));
        assert!(decode(&[]).is_err());
        assert!(decode(&[2, 0]).unwrap_err().contains("encoding 2"));
        for cut in 1..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
