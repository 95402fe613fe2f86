//! One child per node that a link is to be kept to. The child owns that link's life: it holds the link, and when the link
//! is down it waits, longer each time, and holds again. The requests themselves do not pass through here.
//!
//! [`PeerLinks`] is what others send through: it starts and stops the children as the membership says, and hands
//! everything else on to the links.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use strum::IntoStaticStr;
use tokio_util::task::AbortOnDropHandle;

use super::{
    recorder::Outcome,
    shell::{ActorMessage, Address, Described, Handled, Handling, Kit, Worker, worker},
    supervisor::{ChildSpec, Children, dynamic},
};
use nomad_core::model::{node_id::NodeId, trace::TraceContext};
use nomad_ports::{
    LinkMaker, PeerTransport,
    peer_transport::{LinkEnd, LinkError, LinkReading, Service},
};

/// The name of the supervisor.
pub const NAME: &str = "peer_links";

/// The shortest and the longest pause before a link is made again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a link must have stood for the pauses to begin anew.
const STEADY: Duration = Duration::from_secs(5);

/// The links of a node, kept by actors.
pub struct PeerLinks {
    kit: Kit,
    name: Arc<str>,
    me: NodeId,
    links: Arc<dyn LinkMaker>,
    children: Children,
    kept: Mutex<BTreeMap<NodeId, Kept>>,
}

/// A node that a link is kept to.
struct Kept {
    peer: String,
    link: Address<LinkMsg>,
}

impl PeerLinks {
    /// Prepares the supervisor of the links of node `me`, and what others send through.
    pub fn new(
        kit: &Kit,
        parent: &str,
        me: NodeId,
        links: Arc<dyn LinkMaker>,
    ) -> (Arc<Self>, ChildSpec) {
        let (children, spec) = dynamic(kit, NAME, parent);
        let (kit, kept) = (kit.clone(), Mutex::default());
        (Arc::new(Self { kit, name: NAME.into(), me, links, children, kept }), spec)
    }

    fn start(&self, node: NodeId, peer: String, taken: &BTreeMap<NodeId, Kept>) -> Kept {
        let id = node.to_string();
        let short = format!("link:{}", id.get(id.len().saturating_sub(8)..).unwrap_or(&id));
        let is_taken = taken.values().any(|kept| **kept.link.name() == *short);
        let name = if is_taken { format!("link:{id}") } else { short };
        let args = LinkArgs { node, links: Arc::clone(&self.links) };
        let (link, spec) = worker::<LinkActor>(&self.kit, &name, NAME, args);
        self.children.start(spec);
        Kept { peer, link }
    }
}

impl PeerTransport for PeerLinks {
    fn keep(&self, mut peers: BTreeMap<NodeId, String>) {
        peers.remove(&self.me);
        let mut kept = self.kept.lock();
        // First the links: whoever is told of an address finds it there, and what is not kept is not closed by its child.
        self.links.keep(peers.clone());
        kept.retain(|node, old| {
            let stays = peers.contains_key(node);
            if !stays {
                self.children.stop(old.link.name());
            }
            stays
        });
        for (node, peer) in peers {
            match kept.get_mut(&node) {
                Some(old) if old.peer == peer => {}
                Some(old) => {
                    old.peer = peer;
                    old.link.tell(&self.name, self.kit.new_context(), LinkMsg::Moved);
                }
                None => {
                    let new = self.start(node, peer, &kept);
                    kept.insert(node, new);
                }
            }
        }
    }

    fn ask(
        &self,
        to: NodeId,
        service: Service,
        trace: TraceContext,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
        self.links.ask(to, service, trace, body, limit)
    }

    fn tell(
        &self,
        to: NodeId,
        service: Service,
        trace: TraceContext,
        body: Bytes,
    ) -> Result<(), LinkError> {
        self.links.tell(to, service, trace, body)
    }

    fn reaches(&self, node: NodeId) -> bool {
        self.links.reaches(node)
    }

    fn ask_address(
        &self,
        address: String,
        service: Service,
        trace: TraceContext,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'static, Result<(NodeId, Bytes), LinkError>> {
        self.links.ask_address(address, service, trace, body, limit)
    }

    fn readings(&self) -> Vec<LinkReading> {
        self.links.readings()
    }
}

// ---- messages ----

/// What one link's actor is told.
#[derive(Debug, IntoStaticStr)]
pub enum LinkMsg {
    /// Timer: the pause is over.
    Hold,
    /// Tell: the node is somewhere else now.
    Moved,
    /// From its own task: the link is down, or could not be made.
    Ended {
        /// Which holding has ended.
        holding: u64,
        /// How.
        end: LinkEnd,
    },
}

impl ActorMessage for LinkMsg {}

impl Described for LinkMsg {
    fn kind(&self) -> &'static str {
        self.into()
    }

    fn detail(&self) -> String {
        match self {
            Self::Ended { end, .. } => format!("stood {:?}: {}", end.stood, end.error),
            other => other.kind().to_owned(),
        }
    }
}

// ---- arguments ----

/// What the actor is started with.
#[derive(Clone)]
pub struct LinkArgs {
    /// The other node.
    pub node: NodeId,
    /// What makes its link.
    pub links: Arc<dyn LinkMaker>,
}

// ---- state ----

/// The actor: one link's life.
pub struct LinkActor {
    args: LinkArgs,
    /// The number of the task that holds the link, which ends with this actor, and the link with it; `None` during a pause.
    holding: Option<(u64, AbortOnDropHandle<()>)>,
    pauses: ExponentialBackoff,
}

impl LinkActor {
    fn hold(&mut self, handling: &Handling<'_, LinkMsg>) {
        let number = handling.kit.entropy.next_u64();
        let held = self.args.links.hold(self.args.node);
        let ended = held.map(move |end| LinkMsg::Ended { holding: number, end });
        let task = handling.tell_me(handling.kit.new_context(), ended);
        self.holding = Some((number, AbortOnDropHandle::new(task)));
    }
}

/// Pauses that double, each with up to as much again at random, so that many links do not come back at once.
fn pauses(handling: &Handling<'_, LinkMsg>) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX / 2)
        .without_max_times()
        .with_jitter()
        .with_jitter_seed(handling.kit.entropy.next_u64())
        .build()
}

// ---- handler ----

impl Worker for LinkActor {
    type Msg = LinkMsg;
    type Args = LinkArgs;

    fn start(args: &LinkArgs, handling: &Handling<'_, LinkMsg>) -> Result<Self, String> {
        let mut link = Self { args: args.clone(), holding: None, pauses: pauses(handling) };
        link.hold(handling);
        Ok(link)
    }

    fn handle(&mut self, handling: &Handling<'_, Self::Msg>, message: Self::Msg) -> Handled {
        match message {
            LinkMsg::Hold | LinkMsg::Moved if self.holding.is_some() => {
                Ok(Outcome::Done("it is held already"))
            }
            LinkMsg::Hold => {
                self.hold(handling);
                Ok(Outcome::Done("held"))
            }
            LinkMsg::Moved => {
                self.pauses = pauses(handling);
                self.hold(handling);
                Ok(Outcome::Done("held at once"))
            }
            LinkMsg::Ended { holding, .. }
                if self.holding.as_ref().is_none_or(|(number, _)| *number != holding) =>
            {
                Ok(Outcome::Dropped("it is of an earlier holding"))
            }
            LinkMsg::Ended { end, .. } => {
                self.holding = None;
                if end.stood.is_some_and(|stood| stood >= STEADY) {
                    self.pauses = pauses(handling);
                }
                let pause = self.pauses.next().unwrap_or(PAUSE_MAX).min(PAUSE_MAX);
                handling.tick_after(pause, LinkMsg::Hold);
                Ok(Outcome::Done("waits for its next try"))
            }
        }
    }
}

// ---- tests ----

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::{
        supervisor::{Root, nested},
        test_kit::kit,
    };

    /// A holding that a test ends, and sees dropped.
    struct Seen {
        node: NodeId,
        at: tokio::time::Instant,
        end: oneshot::Sender<LinkEnd>,
    }

    impl Seen {
        fn end(self, stood: Option<Duration>) {
            let reason = "the test said so".to_owned();
            let error = LinkError::Unreachable { to: self.node.to_string(), reason };
            self.end.send(LinkEnd { stood, error }).expect("somebody holds");
        }
    }

    /// Makes no links, but says which are held.
    struct Fake {
        seen: mpsc::Sender<Seen>,
        kept: Mutex<BTreeMap<NodeId, String>>,
    }

    impl LinkMaker for Fake {
        #[expect(clippy::disallowed_methods, reason = "tokio's clock, which is paused here")]
        fn hold(&self, node: NodeId) -> BoxFuture<'static, LinkEnd> {
            let (end, ended) = oneshot::channel();
            let at = tokio::time::Instant::now();
            assert!(self.seen.try_send(Seen { node, at, end }).is_ok(), "room");
            async move { ended.await.expect("an end") }.boxed()
        }
    }

    impl PeerTransport for Fake {
        fn reaches(&self, node: NodeId) -> bool {
            self.kept.lock().contains_key(&node)
        }

        fn keep(&self, peers: BTreeMap<NodeId, String>) {
            *self.kept.lock() = peers;
        }

        fn ask(
            &self,
            to: NodeId,
            _: Service,
            _: TraceContext,
            body: Bytes,
            _: Duration,
        ) -> BoxFuture<'static, Result<Bytes, LinkError>> {
            let is_kept = self.kept.lock().contains_key(&to);
            let broken = LinkError::Broken { to: to.to_string() };
            async move { if is_kept { Ok(body) } else { Err(broken) } }.boxed()
        }

        fn tell(&self, _: NodeId, _: Service, _: TraceContext, _: Bytes) -> Result<(), LinkError> {
            Ok(())
        }

        fn ask_address(
            &self,
            _: String,
            _: Service,
            _: TraceContext,
            body: Bytes,
            _: Duration,
        ) -> BoxFuture<'static, Result<(NodeId, Bytes), LinkError>> {
            async move { Ok((node(9), body)) }.boxed()
        }
    }

    fn node(n: u8) -> NodeId {
        NodeId::from_key([n; 32])
    }

    struct Setup {
        kit: Kit,
        links: Arc<PeerLinks>,
        seen: mpsc::Receiver<Seen>,
        root: Root,
    }

    impl Setup {
        async fn start() -> Self {
            let (kit, (seen, held)) = (kit(), mpsc::channel(1_000));
            let fake = Arc::new(Fake { seen, kept: Mutex::default() });
            let (links, spec) = PeerLinks::new(&kit, "group", node(0), fake);
            let group = nested(&kit, "group", "node", vec![spec]);
            let root = Root::start(&kit, "node", vec![group]).await.unwrap();
            Self { kit, links, seen: held, root }
        }

        fn keep(&self, peers: &[(u8, &str)]) {
            let peers = peers.iter().map(|(n, address)| (node(*n), (*address).to_owned()));
            self.links.keep(peers.collect());
        }

        async fn held(&mut self) -> Seen {
            let held = tokio::time::timeout(Duration::from_secs(60), self.seen.recv());
            held.await.expect("in time").expect("a holding")
        }

        fn names(&self) -> Vec<String> {
            let actors = self.kit.census.read().into_iter();
            let links = actors.filter(|actor| actor.name.starts_with("link:"));
            links.map(|actor| actor.name.to_string()).collect()
        }
    }

    fn name(n: u8) -> String {
        let id = node(n).to_string();
        format!("link:{}", &id[id.len() - 8..])
    }

    #[tokio::test(start_paused = true)]
    async fn every_kept_node_has_a_child_and_no_other_and_this_one_has_none() {
        let mut setup = Setup::start().await;
        setup.keep(&[(0, "self"), (1, "a"), (2, "b")]);
        let (one, two) = (setup.held().await, setup.held().await);
        assert_eq!((one.node, two.node), (node(1), node(2)));
        let mut names = vec![name(1), name(2)];
        names.sort();
        assert_eq!(setup.names(), names);
        setup.keep(&[(2, "b"), (3, "c")]);
        let mut one = one;
        one.end.closed().await;
        assert_eq!(setup.held().await.node, node(3));
        assert!(!two.end.is_closed(), "what is kept on stays as it is");
        let (trace, body) = (TraceContext::default(), Bytes::from_static(b"x"));
        let ask = |n| setup.links.ask(node(n), Service::Log, trace, body.clone(), STEADY);
        assert!(ask(2).await.is_ok() && ask(1).await.is_err());
        setup.root.stop().await;
        assert!(two.end.is_closed(), "it ends with the tree");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_their_longest_and_begin_anew_after_a_steady_link() {
        let mut setup = Setup::start().await;
        setup.keep(&[(1, "a")]);
        let mut last = setup.held().await;
        let mut pauses = Vec::new();
        for n in 0..14 {
            let at = last.at;
            // A link that breaks as soon as it stands is as good as none.
            last.end((n % 2 == 0).then_some(Duration::from_millis(1)));
            last = setup.held().await;
            pauses.push(last.at - at);
        }
        let slack = Duration::from_millis(2);
        assert!(pauses[0] < 2 * PAUSE_MIN + slack, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX + slack), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| *pause >= PAUSE_MAX / 2), "{pauses:?}");
        let at = last.at;
        last.end(Some(STEADY));
        assert!(setup.held().await.at - at < 2 * PAUSE_MIN + slack);
        setup.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_address_ends_the_pause_and_leaves_a_held_link_alone() {
        let mut setup = Setup::start().await;
        setup.keep(&[(1, "a")]);
        let mut last = setup.held().await;
        for _ in 0..10 {
            last.end(None);
            last = setup.held().await;
        }
        last.end(None);
        tokio::time::sleep(Duration::from_millis(1)).await;
        setup.keep(&[(1, "a")]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(setup.seen.try_recv().is_err(), "the same address is no news");
        setup.keep(&[(1, "b")]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let held = setup.seen.try_recv().expect("held at once");
        setup.keep(&[(1, "c")]);
        tokio::time::sleep(2 * PAUSE_MAX).await;
        assert!(setup.seen.try_recv().is_err() && !held.end.is_closed());
        setup.root.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_killed_child_lets_its_link_go_and_holds_it_again() {
        let mut setup = Setup::start().await;
        setup.keep(&[(1, "a"), (2, "b")]);
        let (mut one, two) = (setup.held().await, setup.held().await);
        assert!(setup.kit.census.kill(&name(1)));
        one.end.closed().await;
        assert_eq!(setup.held().await.node, node(1));
        assert!(!two.end.is_closed());
        assert!(setup.kit.census.kill(NAME));
        let mut back = [setup.held().await.node, setup.held().await.node];
        back.sort();
        assert_eq!(back, [node(1), node(2)]);
        assert!(two.end.is_closed());
        setup.root.stop().await;
    }
}
