//! Lists the objects of the group: asks all members for a page of what they keep, and merges what they say.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};

use super::ReadPath;
use crate::ServiceError;
use nomad_actors::{
    Context, codec,
    replica_reader::{LISTING_ASK_LIMIT, LISTING_VERSION, ReplicaReaderMsg},
};
use nomad_core::{
    group::{
        replication::NotDone,
        view::{Liveness, View},
    },
    listing::{
        Known, LISTED_MAX, ListingAnswer, ListingPage, ListingQuery, ListingRequest, Merge, covers,
    },
    model::{
        node_id::NodeId,
        object::{ObjectId, Tier},
    },
};
use nomad_ports::peer_transport::Service;

/// How long a member that looks gone may take to answer.
const GONE_LIMIT: Duration = Duration::from_millis(250);
/// How many more questions than its length needs a page may take: what it names may turn out to be deleted.
const PARTS_SPARE: usize = 3;

impl ReadPath {
    /// Reads a page of a listing: of the group's objects all, wherever they are kept.
    ///
    /// # Errors
    /// As [`get`](Self::get), and when so few members answer that some object may have no replica among them.
    pub async fn list(
        &self,
        from: &Arc<str>,
        cx: Context,
        tier: Tier,
        wanted: ListingQuery,
    ) -> Result<ListingPage, ServiceError> {
        if tier == Tier::Overlay {
            let make = |reply| ReplicaReaderMsg::List { tier, wanted, with_queued: false, reply };
            return Ok(self.actor.ask(from, cx, make).await??.1);
        }
        let mut whole = ListingPage::default();
        let mut part = wanted.clone();
        for _ in 0..wanted.limit.div_ceil(LISTED_MAX) + PARTS_SPARE {
            part.limit = wanted.limit.saturating_sub(whole.items.len()).min(LISTED_MAX);
            let page = self.list_part(from, cx, part.clone()).await?;
            whole.items.extend(page.items);
            whole.next = page.next;
            let Some(next) = &whole.next else { break };
            if whole.items.len() >= wanted.limit {
                break;
            }
            part.after = Some(next.to_string());
        }
        Ok(whole)
    }

    /// Reads a part that each member can answer at once.
    async fn list_part(
        &self,
        from: &Arc<str>,
        cx: Context,
        wanted: ListingQuery,
    ) -> Result<ListingPage, ServiceError> {
        let view = self.view.load_full();
        let Some(table) = view.group() else { return Err(NotDone::NotReady.into()) };
        let make = |reply| ReplicaReaderMsg::List {
            tier: Tier::Group,
            wanted: wanted.clone(),
            with_queued: true,
            reply,
        };
        let (queued, own) = self.actor.ask(from, cx, make).await??;
        let mut merge = Merge::new(wanted.clone(), queued);
        merge.take(view.this.node, own);
        let question = ListingRequest::Page { group: table.name.clone(), wanted };
        let others = table.seats.keys().filter(|node| **node != view.this.node);
        let mut asks: FuturesUnordered<_> =
            others.map(|node| self.ask_member(cx, &view, *node, &question)).collect();
        while let Some((node, answer)) = asks.next().await {
            let is_taken = match answer {
                Some(ListingAnswer::Page(page)) => merge.take(node, page),
                _ => false,
            };
            if !is_taken {
                tracing::debug!(%node, "a member does not say what it keeps");
            }
        }
        if !covers(table.configuration(), merge.answered()) {
            let (answered, members) = (merge.answered().len(), table.seats.len());
            return Err(NotDone::TooFewMembers { answered, members }.into());
        }
        let disputed = merge.settle(table.configuration());
        let mut looks: FuturesUnordered<_> = disputed
            .into_iter()
            .map(|(node, ids)| self.look(from, cx, (&view, &table.name), node, ids))
            .collect();
        while let Some((ids, known)) = looks.next().await {
            // Of a member that does not say more, what it has listed counts.
            if let Some(known) = known {
                merge.learn(&ids, known);
            }
        }
        Ok(merge.page(self.kit.clock.wall().secs()))
    }

    /// Finds out what a member, or this node, knows of objects.
    async fn look(
        &self,
        from: &Arc<str>,
        cx: Context,
        (view, group): (&View, &str),
        node: NodeId,
        ids: Vec<ObjectId>,
    ) -> (Vec<ObjectId>, Option<Vec<Known>>) {
        if node == view.this.node {
            let make = |reply| ReplicaReaderMsg::Look { ids: ids.clone(), reply };
            let known = self.actor.ask(from, cx, make).await;
            return (ids, known.ok().and_then(Result::ok));
        }
        let question = ListingRequest::Look { group: group.to_owned(), ids: ids.clone() };
        match self.ask_member(cx, view, node, &question).await.1 {
            Some(ListingAnswer::Known(known)) => (ids, Some(known)),
            _ => (ids, None),
        }
    }

    /// Asks a member, for as long as the client waits at most.
    async fn ask_member(
        &self,
        cx: Context,
        view: &View,
        node: NodeId,
        question: &ListingRequest,
    ) -> (NodeId, Option<ListingAnswer>) {
        let limit = match view.sighting(&node).liveness {
            Liveness::Alive => LISTING_ASK_LIMIT,
            Liveness::Suspect | Liveness::Dead => GONE_LIMIT,
        };
        let now = self.kit.clock.monotonic();
        let left = cx.deadline.map_or(limit, |at| Duration::from_micros(at.since(now)).min(limit));
        let Ok(body) = codec::encode(LISTING_VERSION, question) else { return (node, None) };
        let asked = self.transport.ask(node, Service::Listing, cx.trace, body, left).await;
        let answer = asked.map_err(|error| error.to_string());
        (node, answer.and_then(|bytes| codec::decode(LISTING_VERSION, &bytes)).ok())
    }
}
