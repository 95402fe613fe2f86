//! Links that cross, break and come back in random order.

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

use super::*;

/// Goal: of two links that cross one stays, the same for both sides, and no request is lost without a word. Method: both
/// nodes open at the same moment, and ask all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_links_that_cross_one_stays_and_no_request_is_lost() {
    for round in 0..25 {
        let (mut a, mut b) = (Peer::start().await, Peer::start().await);
        a.keep(&b.address, &b);
        b.keep(&a.address, &a);
        let held = [a.hold(b.node), b.hold(a.node)];
        a.up(b.node).await;
        b.up(a.node).await;
        for _ in 0..20 {
            let (there, back) = tokio::join!(a.ask(b.node, b"later"), b.ask(a.node, b"later"));
            assert_eq!(
                (there.unwrap(), back.unwrap()),
                ("later".into(), "later".into()),
                "{round}"
            );
        }
        let settled = || {
            let (at_a, at_b) = (a.reading(b.node), b.reading(a.node));
            (a.link_count(), b.link_count()) == (1, 1) && at_a.is_ours != at_b.is_ours
        };
        until("one link is left", settled).await;
        assert!(a.events.try_recv().is_err() && b.events.try_recv().is_err(), "up once");
        held.iter().for_each(AbortHandle::abort);
        a.stop().await;
        b.stop().await;
    }
}

/// Goal: whatever breaks, every request ends, events tell of changes alone, and after healing everybody reaches everybody
/// over one link per pair. Method: cables are cut and mended, links dropped and addresses changed from a printed seed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_storm_every_pair_has_one_link() {
    let seeds = std::env::var("NOMAD_SEED").map_or(1..=6, |seed| {
        let seed = seed.parse().expect("a number");
        seed..=seed
    });
    for seed in seeds {
        println!("NOMAD_SEED={seed}");
        storm(seed).await;
    }
}

struct Storm {
    peers: Vec<Peer>,
    /// From the first to the second, two of each.
    cables: BTreeMap<(usize, usize), [Cable; 2]>,
    held: BTreeMap<(usize, usize), AbortHandle>,
}

const COUNT: usize = 3;

impl Storm {
    async fn start() -> Self {
        let mut peers = Vec::new();
        for _ in 0..COUNT {
            peers.push(Peer::start().await);
        }
        let mut cables = BTreeMap::new();
        for from in 0..COUNT {
            for to in (0..COUNT).filter(|&to| to != from) {
                let address = &peers[to].address;
                cables.insert((from, to), [Cable::to(address).await, Cable::to(address).await]);
            }
        }
        let mut storm = Self { peers, cables, held: BTreeMap::new() };
        for from in 0..COUNT {
            storm.keep(from, 0);
            for to in (0..COUNT).filter(|&to| to != from) {
                storm.hold(from, to);
            }
        }
        storm
    }

    fn keep(&self, from: usize, cable: usize) {
        let all = (0..COUNT).filter(|&to| to != from);
        let to = |to: usize| (self.peers[to].node, self.cables[&(from, to)][cable].address.clone());
        self.peers[from].links.keep(all.map(to).collect());
    }

    fn hold(&mut self, from: usize, to: usize) {
        let held = self.peers[from].hold(self.peers[to].node);
        if let Some(old) = self.held.insert((from, to), held) {
            old.abort();
        }
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        self.cables.keys().copied().collect()
    }

    fn is_settled(&self) -> bool {
        let is_one = |&(from, to): &(usize, usize)| {
            let (near, far) = (&self.peers[from], &self.peers[to]);
            let (here, there) = (near.reading(far.node), far.reading(near.node));
            here.up_since.is_some() && there.up_since.is_some() && here.is_ours != there.is_ours
        };
        self.pairs().iter().all(is_one)
            && self.peers.iter().all(|peer| peer.link_count() == COUNT - 1)
    }
}

async fn storm(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut storm = Storm::start().await;
    let pairs = storm.pairs();
    let mut asks = JoinSet::new();
    for _ in 0..120 {
        let &(from, to) = pairs.choose(&mut rng).unwrap();
        let cable = rng.random_range(0..2);
        match rng.random_range(0..10) {
            0 | 1 => storm.cables[&(from, to)][cable].cut(),
            2 | 3 => storm.cables[&(from, to)][cable].mend(),
            4 => storm.keep(from, cable),
            5 => storm.hold(from, to),
            _ => {}
        }
        let (near, far) = (&storm.peers[from], storm.peers[to].node);
        let body = Bytes::from(vec![1; rng.random_range(0..100_000)]);
        let asked =
            near.links.ask(far, Service::Replica, TraceContext::default(), body.clone(), PATIENCE);
        asks.spawn(async move {
            match asked.await {
                Ok(answer) => assert_eq!(answer, body, "another's answer"),
                Err(LinkError::Unreachable { .. } | LinkError::Broken { .. }) => {}
                Err(other) => panic!("NOMAD_SEED={seed}: {other}"),
            }
        });
        for _ in 0..rng.random_range(0..200) {
            tokio::task::yield_now().await;
        }
    }
    storm.cables.values().flatten().for_each(Cable::mend);
    let ends = async {
        while let Some(end) = asks.join_next().await {
            end.unwrap()
        }
    };
    soon(&format!("NOMAD_SEED={seed}: the end of every request"), ends).await;
    until(&format!("NOMAD_SEED={seed}: one link per pair"), || storm.is_settled()).await;
    for (from, to) in pairs {
        let far = storm.peers[to].node;
        let answer = storm.peers[from].ask(far, b"healed").await;
        assert_eq!(answer.unwrap(), "healed", "NOMAD_SEED={seed}");
    }
    for peer in &mut storm.peers {
        let mut said: BTreeMap<NodeId, bool> = BTreeMap::new();
        while let Ok(event) = peer.events.try_recv() {
            let (node, is_up) = match event {
                LinkEvent::Up(node) => (node, true),
                LinkEvent::Down { node, .. } => (node, false),
            };
            assert_ne!(said.insert(node, is_up), Some(is_up), "NOMAD_SEED={seed}: said twice");
        }
        assert!(said.values().all(|is_up| *is_up), "NOMAD_SEED={seed}: {said:?}");
    }
    storm.held.values().for_each(AbortHandle::abort);
    for peer in storm.peers {
        peer.stop().await;
    }
}
