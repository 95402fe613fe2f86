//! Where other members' questions come in about what this node keeps: decodes, hands over, encodes. What arrives is
//! untrusted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::ReplicaReaderMsg;
use crate::{
    codec,
    group_view::GroupView,
    shell::{Address, Context, Kit},
};
use nomad_core::{
    listing::{LISTED_MAX, ListingAnswer, ListingQuery, ListingRequest},
    model::{
        node_id::NodeId,
        object::{ObjectId, Tier},
        trace::TraceContext,
    },
};
use nomad_ports::PeerHandler;

/// The version of the encoding of these questions.
pub const LISTING_VERSION: u8 = 1;
/// The longest that another member waits for an answer.
pub const LISTING_ASK_LIMIT: Duration = Duration::from_secs(2);
/// The most bytes of a question: the most ids, each as long as one may be, with a little around them.
const BODY_MAX: usize = LISTED_MAX * (ObjectId::BYTES_MAX + 8);

/// The handler of other members' questions about what this node keeps.
pub struct ListingDoor {
    kit: Kit,
    actor: Address<ReplicaReaderMsg>,
    view: GroupView,
    from: Arc<str>,
}

impl ListingDoor {
    /// Makes the door of this actor.
    pub fn new(kit: Kit, actor: Address<ReplicaReaderMsg>, view: GroupView) -> Self {
        Self { kit, actor, view, from: "link".into() }
    }

    /// Reads a question of a member, about the group that both are in.
    fn question(&self, from: NodeId, body: &[u8]) -> Result<ListingRequest, String> {
        if body.len() > BODY_MAX {
            let len = body.len();
            return Err(format!("the question has {len} bytes; at most {BODY_MAX} are read"));
        }
        let question: ListingRequest = codec::decode(LISTING_VERSION, body)?;
        let view = self.view.load();
        let group = question.group();
        let table = view.group().filter(|table| table.name == group);
        if table.is_none_or(|table| !table.seats.contains_key(&from)) {
            return Err(format!("not both nodes are members of {group:?}"));
        }
        match &question {
            ListingRequest::Look { ids, .. } if ids.len() > LISTED_MAX => Err(format!(
                "it is about {} objects; at most {LISTED_MAX} are looked up",
                ids.len()
            )),
            _ => Ok(question),
        }
    }
}

impl PeerHandler for ListingDoor {
    fn answer(
        &self,
        from: NodeId,
        trace: TraceContext,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let question = self.question(from, &body);
        let deadline = self.kit.clock.monotonic().plus_us(LISTING_ASK_LIMIT.as_micros() as u64);
        let (actor, name) = (self.actor.clone(), Arc::clone(&self.from));
        Box::pin(async move {
            let cx = Context { trace, deadline: Some(deadline) };
            let answer = match question? {
                ListingRequest::Page { wanted, .. } => {
                    let wanted = ListingQuery { limit: wanted.limit.min(LISTED_MAX), ..wanted };
                    let (tier, with_queued) = (Tier::Group, false);
                    let make = |reply| ReplicaReaderMsg::List { tier, wanted, with_queued, reply };
                    let listed = actor.ask(&name, cx, make).await;
                    listed.map(|listed| listed.map(|(_, page)| ListingAnswer::Page(page)))
                }
                ListingRequest::Look { ids, .. } => {
                    let make = |reply| ReplicaReaderMsg::Look { ids, reply };
                    let known = actor.ask(&name, cx, make).await;
                    known.map(|known| known.map(ListingAnswer::Known))
                }
            };
            let answer = answer.map_err(|error| error.to_string())?;
            codec::encode(LISTING_VERSION, &answer.map_err(|error| error.to_string())?)
        })
    }

    /// Members tell each other nothing of this.
    fn heard(&self, _: NodeId, _: TraceContext, _: Bytes) {}
}
