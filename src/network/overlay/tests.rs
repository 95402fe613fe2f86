//! Overlays over loopback TCP, all in this process, mDNS off but where it is the point.
#![expect(clippy::disallowed_methods, reason = "libp2p's timers are real, and so is the time here")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::*;
use nomad_core::group::offer::GROUP_NAME_MAX;
use nomad_ports::SystemClock;

const HERE: Position = Position { x: 0.0, y: 0.0 };
/// Far longer than anything here takes; what is awaited comes much earlier.
const LIMIT: Duration = Duration::from_secs(30);

fn options(network: &str) -> OverlayOptions {
    OverlayOptions {
        keypair: Keypair::generate_ed25519(),
        network: network.into(),
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 0,
        hostname: None,
        peers: Vec::new(),
        dns: Vec::new(),
        mdns: false,
        dht_bootstrap: Duration::from_secs(500),
        data_dir: None,
        clock: Arc::new(SystemClock::new()),
    }
}

/// A running overlay.
struct Running {
    overlay: Arc<Libp2pOverlay>,
    run: JoinHandle<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.run.abort();
    }
}

impl Running {
    async fn start(options: OverlayOptions) -> Self {
        let overlay = Libp2pOverlay::bind(options).await.unwrap();
        let run = tokio::spawn(overlay.run());
        Self { overlay, run }
    }

    fn node(&self) -> NodeId {
        self.overlay.shared.node
    }

    fn address(&self) -> String {
        self.overlay.state().listens[0].clone()
    }

    fn socket(&self) -> String {
        format!("127.0.0.1:{}", self.overlay.port())
    }

    /// Waits until this holds, looking again whenever something has changed.
    async fn until(&self, what: &str, holds: impl Fn(&Libp2pOverlay) -> bool) {
        let shared = &self.overlay.shared;
        let (mut state, mut heard) = (shared.state.subscribe(), shared.heard.subscribe());
        let holds = async {
            while !holds(&self.overlay) {
                tokio::select! {
                    changed = state.changed() => changed.unwrap(),
                    changed = heard.changed() => changed.unwrap(),
                }
            }
        };
        if timeout(LIMIT, holds).await.is_err() {
            panic!("never: {what}; {:?}", self.overlay.state());
        }
    }

    async fn until_remembered(&self) {
        let mut saved = self.overlay.shared.saved.subscribe();
        let written = saved.wait_for(|count| *count > 0);
        timeout(LIMIT, written).await.expect("the nodes that were met are written down").unwrap();
    }

    async fn until_connected(&self, to: &Running) {
        let node = to.node();
        self.until("connected", |overlay| overlay.state().connected.contains(&node)).await;
    }

    fn offer(&self, group: &str) -> Offer {
        Offer {
            group: group.into(),
            super_peer: self.node(),
            peer: "127.0.0.1:5001".into(),
            site: Position { x: 1.0, y: 1.0 },
            members: 1,
            capacity: 5,
            permanent: false,
            epoch: 1,
            seq: 0,
        }
    }
}

fn any() -> Box<dyn Fn(&FoundGroups) -> bool + Send> {
    Box::new(|found| !found.offers.is_empty())
}

fn never() -> Box<dyn Fn(&FoundGroups) -> bool + Send> {
    Box::new(|_| false)
}

#[tokio::test]
async fn what_is_announced_is_known_at_a_node_two_steps_away() {
    let a = Running::start(options("n")).await;
    let b = Running::start(OverlayOptions { peers: vec![a.address()], ..options("n") }).await;
    let c = Running::start(OverlayOptions { peers: vec![b.socket()], ..options("n") }).await;
    a.until_connected(&b).await;
    c.until_connected(&b).await;
    a.overlay.announce(Some(a.offer("group-a")));
    c.until("known", |overlay| !overlay.known(HERE).is_empty()).await;
    let known = c.overlay.known(HERE);
    assert_eq!((&*known[0].group, known[0].super_peer), ("group-a", a.node()));
    // A change arrives at once, not with the next repetition; a withdrawal too.
    let start = Instant::now();
    a.overlay.announce(Some(Offer { members: 3, ..a.offer("group-a") }));
    let members = |overlay: &Libp2pOverlay| overlay.known(HERE).first().map(|o| o.members);
    c.until("changed", |overlay| members(overlay) == Some(3)).await;
    a.overlay.announce(None);
    c.until("withdrawn", |overlay| overlay.known(HERE).is_empty()).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(a.overlay.known(HERE).is_empty());
}

#[tokio::test]
async fn any_one_way_to_find_others_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let a = Running::start(options("n")).await;
    let port = a.overlay.port();
    let data_dir = Some(dir.path().to_owned());
    let ways = [
        OverlayOptions { peers: vec![a.address()], data_dir: data_dir.clone(), ..options("n") },
        OverlayOptions { peers: vec![a.socket()], ..options("n") },
        OverlayOptions { peers: vec![format!("localhost:{port}")], ..options("n") },
        OverlayOptions { peers: vec![format!("/dns4/localhost/tcp/{port}")], ..options("n") },
        OverlayOptions { dns: vec![format!("localhost:{port}")], ..options("n") },
    ];
    for (index, way) in ways.into_iter().enumerate() {
        let b = Running::start(way).await;
        assert!(b.overlay.has_sources());
        b.until_connected(&a).await;
        a.until_connected(&b).await;
        if index == 0 {
            b.until_remembered().await;
        }
    }
    // Nothing but what the first of them remembered; its key is another, as after a lost disk.
    let c = Running::start(OverlayOptions { data_dir, ..options("n") }).await;
    assert!(c.overlay.has_sources());
    c.until_connected(&a).await;
    assert!(!Running::start(options("n")).await.overlay.has_sources());
}

#[tokio::test]
async fn a_search_asks_nodes_that_come_later_and_ends_as_soon_as_it_has_enough() {
    let a = Running::start(options("n")).await;
    a.overlay.announce(Some(a.offer("group-a")));
    let start = Instant::now();
    let b = Running::start(OverlayOptions { peers: vec![a.socket()], ..options("n") }).await;
    let found = b.overlay.find(HERE, LIMIT, any()).await;
    assert_eq!(found.offers[0].group, "group-a");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // What the super-peer says itself is kept; what others say is not.
    b.until("known", |overlay| !overlay.known(HERE).is_empty()).await;
    // Without enough, it takes its window and brings all it has found.
    let found = b.overlay.find(HERE, Duration::from_millis(500), never()).await;
    assert_eq!((found.offers.len(), found.answered), (1, 1));
}

#[tokio::test]
async fn two_that_seek_hear_of_each_other_whoever_began() {
    let a = Running::start(options("n")).await;
    let b = Running::start(OverlayOptions { peers: vec![a.socket()], ..options("n") }).await;
    a.until_connected(&b).await;
    b.until_connected(&a).await;
    let seen = || -> Box<dyn Fn(&FoundGroups) -> bool + Send> {
        Box::new(|found| !found.seekers.is_empty())
    };
    a.overlay.seek(Some(Seeker { node: a.node(), permanent: false }));
    let of_a = tokio::spawn(a.overlay.find(HERE, LIMIT, seen()));
    // On this one thread the search begins before this goes on.
    tokio::task::yield_now().await;
    assert_eq!(a.overlay.shared.finders().len(), 1);
    b.overlay.seek(Some(Seeker { node: b.node(), permanent: true }));
    let of_b = b.overlay.find(HERE, LIMIT, seen()).await;
    assert_eq!(of_b.seekers, [Seeker { node: a.node(), permanent: false }]);
    assert_eq!(of_a.await.unwrap().seekers, [Seeker { node: b.node(), permanent: true }]);
}

#[tokio::test]
async fn hearsay_counts_in_its_search_alone_and_a_lie_about_oneself_not_at_all() {
    let shared = OverlayShared::new(NodeId::from_key([1; 32]), Arc::new(SystemClock::new()));
    let liar = NodeId::from_key([2; 32]);
    let offer = |node: u8, group: &str| Offer {
        group: group.into(),
        super_peer: NodeId::from_key([node; 32]),
        peer: "h:1".into(),
        site: HERE,
        members: 1,
        capacity: 2,
        permanent: false,
        epoch: u64::MAX,
        seq: u64::MAX,
    };
    let answer = OverlayAnswer {
        offers: vec![
            offer(1, "of-this-node"),
            offer(2, "of-the-liar"),
            offer(3, "of-a-third"),
            Offer { site: Position { x: f64::NAN, y: 0.0 }, ..offer(4, "nowhere") },
            offer(5, &"x".repeat(GROUP_NAME_MAX + 1)),
        ],
        seeker: Some(Seeker { node: NodeId::from_key([3; 32]), permanent: true }),
        whereabouts: Some(Whereabouts {
            node: NodeId::from_key([3; 32]),
            peer: "a:1".into(),
            group: "group-x".into(),
        }),
    };
    let cleaned = shared.cleaned(liar, answer);
    let groups: Vec<_> = cleaned.offers.iter().map(|offer| &*offer.group).collect();
    assert_eq!(groups, ["of-the-liar", "of-a-third"]);
    assert_eq!(cleaned.seeker, None);
    let known: Vec<_> = shared.known(HERE).into_iter().map(|offer| offer.group).collect();
    assert_eq!(known, ["of-the-liar"]);
}

/// Keeps the warnings of the thread it is set on.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>, Arc<Notify>);

impl Visit for Warnings {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.lock().unwrap().push(format!("{field}={value:?}"));
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN && metadata.target().starts_with("nomad")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
        self.1.notify_one();
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_node_of_another_network_is_refused_on_both_sides_and_not_remembered() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let dir = tempfile::tempdir().unwrap();
    let a = Running::start(options("one")).await;
    let data_dir = Some(dir.path().to_owned());
    let b = OverlayOptions { peers: vec![a.address()], data_dir, ..options("two") };
    let b = Running::start(b).await;
    a.until("refused", |overlay| overlay.state().refused == 1).await;
    b.until("refused", |overlay| overlay.state().refused == 1).await;
    let lines = warnings.0.lock().unwrap().join("\n");
    for part in ["a node was refused", "\"one\"", "\"two\"", &a.node().to_string()] {
        assert!(lines.contains(part), "{part:?} is missing: {lines}");
    }
    // It has something to remember only when it meets one of its own network.
    let c = Running::start(OverlayOptions { peers: vec![b.address()], ..options("two") }).await;
    b.until_connected(&c).await;
    b.until_remembered().await;
    let text = std::fs::read_to_string(dir.path().join("peers.json")).unwrap();
    assert!(text.contains(&c.node().to_string()), "{text}");
    assert!(!text.contains(&a.node().to_string()), "{text}");
    assert!(a.overlay.state().connected.is_empty());
    // However often it comes back, it is counted and logged once.
    assert_eq!((a.overlay.state().refused, b.overlay.state().refused), (1, 1));
    let lines = warnings.0.lock().unwrap().clone();
    let refusals = lines.iter().filter(|line| line.contains("a node was refused"));
    assert_eq!(refusals.count(), 2, "{lines:?}");
}

#[tokio::test]
async fn a_second_run_listens_where_the_first_did_and_finds_the_others_again() {
    let a = Running::start(options("n")).await;
    let b = Running::start(OverlayOptions { peers: vec![a.socket()], ..options("n") }).await;
    a.until_connected(&b).await;
    a.overlay.announce(Some(a.offer("group-a")));
    b.until("known", |overlay| !overlay.known(HERE).is_empty()).await;
    let before = a.overlay.state().listens;
    a.run.abort();
    b.until("lost", |overlay| overlay.state().connected.is_empty()).await;
    let again = tokio::spawn(a.overlay.run());
    b.until_connected(&a).await;
    a.until_connected(&b).await;
    assert_eq!(a.overlay.state().listens, before);
    a.overlay.announce(Some(Offer { members: 2, ..a.offer("group-a") }));
    b.until("announced", |overlay| overlay.known(HERE)[0].members == 2).await;
    again.abort();
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_the_way_out() {
    let a = Running::start(options("n")).await;
    let taken = OverlayOptions { port: a.overlay.port(), ..options("n") };
    let error = Libp2pOverlay::bind(taken).await.unwrap_err().to_string();
    assert!(error.contains(&a.socket()) && error.contains("node.ports.overlay"), "{error}");
}

#[tokio::test]
async fn an_advertised_name_stands_first_among_the_addresses() {
    let named = OverlayOptions { hostname: Some("node-0.example.org".into()), ..options("n") };
    let a = Running::start(named).await;
    let port = a.overlay.port();
    let listens = a.overlay.state().listens;
    let node = a.node();
    assert_eq!(
        listens,
        [
            format!("/dns/node-0.example.org/tcp/{port}/p2p/{node}"),
            format!("/ip4/127.0.0.1/tcp/{port}/p2p/{node}"),
        ]
    );
}

/// By mDNS alone, on loopback as `nomad start` listens, with real multicast.
#[tokio::test]
async fn nodes_of_one_machine_find_each_other_by_mdns_alone() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    // Others on this machine may be at it too: a network of its own keeps them apart.
    let network = format!("test-{}", std::process::id());
    let mdns = || OverlayOptions { mdns: true, ..options(&network) };
    let a = Running::start(mdns()).await;
    let b = Running::start(mdns()).await;
    let met = async {
        a.until_connected(&b).await;
        b.until_connected(&a).await;
    };
    let refused = async {
        let refused = |warnings: &Warnings| {
            let lines = warnings.0.lock().unwrap();
            lines.iter().find(|line| line.contains("mDNS does not work")).cloned()
        };
        loop {
            if let Some(line) = refused(&warnings) {
                return line;
            }
            warnings.1.notified().await;
        }
    };
    tokio::select! {
        () = met => {}
        line = refused => eprintln!("skipped: this kernel refuses multicast: {line}"),
    }
}
