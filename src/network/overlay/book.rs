//! Which nodes to dial, and when: configured addresses, which are tried for ever, and nodes that were met or heard of.
//!
//! Pure except for the jitter: the caller says who is connected and what time it is. Pauses grow from a quarter of a second
//! to a quarter of a minute, so that a healed network connects soon; to a minute for nodes that have been gone for long;
//! and only to a few seconds while no node is connected.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use libp2p::{Multiaddr, PeerId};

use super::addresses::{BootstrapAddress, PER_NODE_MAX};
use nomad_core::model::time::MonotonicUs;

/// With this many nodes connected, no further ones are looked for.
pub const ENOUGH: usize = 8;
/// The most nodes that are kept.
const LEARNED_MAX: usize = 64;
/// The most nodes that are told apart behind one configured place.
const FOUND_MAX: usize = 64;
/// The most dials that one round starts.
const ROUND_MAX: usize = 8;

const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// The pause for a node that has failed to answer more than [`FAILURES_SOON`] times, which takes about ten minutes.
const GONE_PAUSE: Duration = Duration::from_secs(60);
const FAILURES_SOON: u32 = 40;
/// The longest pause while nobody is connected.
const LONELY_PAUSE_MAX: Duration = Duration::from_secs(4);
/// How often a place that is connected is looked at again; a name is looked up again then.
const SATISFIED_PAUSE: Duration = Duration::from_secs(30);
/// How long a node has to wait before news of it make it worth another try.
const NEWS_PAUSE_US: u64 = 5_000_000;

/// Pauses between tries: growing, bounded, with jitter.
struct Retry(ExponentialBackoff);

impl Default for Retry {
    fn default() -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        Self(builder.build())
    }
}

impl Retry {
    fn next(&mut self, is_lonely: bool) -> Duration {
        let pause = self.0.next().unwrap_or(PAUSE_MAX);
        pause.min(if is_lonely { LONELY_PAUSE_MAX } else { PAUSE_MAX })
    }
}

/// A configured place.
struct Target {
    text: String,
    place: BootstrapAddress,
    is_name: bool,
    retry: Retry,
    next: MonotonicUs,
    /// Whether a look-up is under way.
    is_busy: bool,
    found: BTreeSet<PeerId>,
    is_failing: bool,
}

/// A node that was met or heard of.
#[derive(Default)]
struct Learned {
    addresses: Vec<Multiaddr>,
    retry: Retry,
    next: MonotonicUs,
    last: MonotonicUs,
    failures: u32,
}

/// One thing to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Try {
    /// Look this configured place up, then dial what comes of it.
    Place(usize, BootstrapAddress),
    /// Dial this node at these addresses.
    Node(PeerId, Vec<Multiaddr>),
}

/// Everything that can be dialled.
#[derive(Default)]
pub struct AddressBook {
    targets: Vec<Target>,
    learned: BTreeMap<PeerId, Learned>, // invariant: at most LEARNED_MAX
}

impl AddressBook {
    /// Takes the configured places. Texts that are none are logged and left out.
    pub fn new(peers: &[String], dns: &[String]) -> Self {
        let texts = peers.iter().map(|text| (text, false));
        let texts = texts.chain(dns.iter().map(|text| (text, true)));
        let targets = texts.filter_map(|(text, is_name)| match BootstrapAddress::read(text) {
            Ok(place) => Some(Target {
                text: text.clone(),
                place,
                is_name,
                retry: Retry::default(),
                next: MonotonicUs(0),
                is_busy: false,
                found: BTreeSet::new(),
                is_failing: false,
            }),
            Err(error) => {
                tracing::warn!(%error, "an address to start from is left out");
                None
            }
        });
        Self { targets: targets.collect(), learned: BTreeMap::new() }
    }

    /// Tells whether there is nobody to dial.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.learned.is_empty()
    }

    /// Takes news of a node: it was met, remembered, or announced itself. It is tried after `delay_us`, unless it was
    /// tried a moment ago.
    pub fn learn(
        &mut self,
        now: MonotonicUs,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        delay_us: u64,
    ) {
        if addresses.is_empty() {
            return;
        }
        if !self.learned.contains_key(&peer) && self.learned.len() >= LEARNED_MAX {
            let worst = self.learned.iter().filter(|(_, learned)| learned.failures > 0);
            let Some(worst) = worst.max_by_key(|(_, l)| l.failures).map(|(peer, _)| *peer) else {
                return;
            };
            self.learned.remove(&worst);
        }
        let learned = self.learned.entry(peer).or_default();
        let mut known = std::mem::replace(&mut learned.addresses, addresses);
        known.retain(|address| !learned.addresses.contains(address));
        learned.addresses.extend(known);
        learned.addresses.truncate(PER_NODE_MAX);
        if learned.last == MonotonicUs(0) || now.since(learned.last) >= NEWS_PAUSE_US {
            learned.retry = Retry::default();
            learned.next = now.plus_us(delay_us);
        }
    }

    /// Takes an address back: another node is there.
    pub fn misled(&mut self, peer: &PeerId, address: &Multiaddr) {
        let Some(learned) = self.learned.get_mut(peer) else { return };
        learned.addresses.retain(|known| known != address);
        if learned.addresses.is_empty() {
            self.learned.remove(peer);
        }
    }

    /// Forgets a node.
    pub fn forget(&mut self, peer: &PeerId) {
        self.learned.remove(peer);
        for target in &mut self.targets {
            target.found.remove(peer);
        }
    }

    /// Returns what to try now. Every one of them counts as tried.
    pub fn due(&mut self, now: MonotonicUs, connected: &BTreeSet<PeerId>) -> Vec<Try> {
        let is_lonely = connected.is_empty();
        let mut tries = Vec::new();
        for (index, target) in self.targets.iter_mut().enumerate() {
            if target.is_busy || target.next > now || tries.len() >= ROUND_MAX {
                continue;
            }
            let is_satisfied = target.found.iter().any(|peer| connected.contains(peer));
            let pause = if is_satisfied {
                target.retry = Retry::default();
                SATISFIED_PAUSE.mul_f64(if connected.len() >= ENOUGH { 10.0 } else { 1.0 })
            } else {
                target.retry.next(is_lonely)
            };
            target.next = later(now, pause);
            // Behind a name there may be others by now.
            if !is_satisfied || target.is_name {
                target.is_busy = true;
                tries.push(Try::Place(index, target.place.clone()));
            }
        }
        if connected.len() >= ENOUGH {
            return tries;
        }
        for (peer, learned) in &mut self.learned {
            if tries.len() >= ROUND_MAX {
                break;
            }
            // While nobody is connected, a long pause from better days does not hold.
            let lonely_cap = is_lonely && now.since(learned.last) >= micros(LONELY_PAUSE_MAX);
            if connected.contains(peer) || (learned.next > now && !lonely_cap) {
                continue;
            }
            let pause = match learned.retry.next(is_lonely) {
                pause if is_lonely || learned.failures <= FAILURES_SOON => pause,
                _ => GONE_PAUSE,
            };
            learned.next = later(now, pause);
            learned.last = now;
            learned.failures = learned.failures.saturating_add(1);
            tries.push(Try::Node(*peer, learned.addresses.clone()));
        }
        tries
    }

    /// Takes the end of a place's look-up.
    pub fn looked_up(&mut self, index: usize, outcome: &std::io::Result<Vec<Multiaddr>>) {
        let Some(target) = self.targets.get_mut(index) else { return };
        target.is_busy = false;
        match outcome {
            Ok(_) => target.is_failing = false,
            Err(error) if !target.is_failing => {
                target.is_failing = true;
                tracing::warn!(place = %target.text, %error, "a place to start from has no address now; it is tried again and again");
            }
            Err(_) => {}
        }
    }

    /// Records which node answers at a configured address.
    pub fn found(&mut self, index: usize, peer: PeerId) {
        if let Some(target) = self.targets.get_mut(index) {
            if target.found.len() >= FOUND_MAX {
                target.found.pop_first();
            }
            target.found.insert(peer);
        }
    }

    /// Takes note that a node is connected and one of ours.
    pub fn met(&mut self, peer: &PeerId) {
        if let Some(learned) = self.learned.get_mut(peer) {
            learned.retry = Retry::default();
            learned.failures = 0;
        }
    }

    /// Takes note that a node that was connected is no more: it is tried soon, before anything else.
    pub fn lost(&mut self, now: MonotonicUs, peer: &PeerId) {
        if let Some(learned) = self.learned.get_mut(peer) {
            learned.next = later(now, learned.retry.next(true));
        }
        for target in self.targets.iter_mut().filter(|target| target.found.contains(peer)) {
            target.next = now;
        }
    }

    /// Returns the nodes that are worth remembering: those that were met and not lost since, then the others.
    pub fn worth_remembering(&self) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let mut met: Vec<_> = self.learned.iter().collect();
        met.sort_by_key(|(_, learned)| learned.failures);
        met.into_iter().map(|(peer, learned)| (*peer, learned.addresses.clone())).collect()
    }
}

fn micros(pause: Duration) -> u64 {
    u64::try_from(pause.as_micros()).unwrap_or(u64::MAX)
}

fn later(now: MonotonicUs, pause: Duration) -> MonotonicUs {
    now.plus_us(micros(pause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonotonicUs {
        MonotonicUs(1_000_000 + ms * 1000)
    }

    fn address() -> Vec<Multiaddr> {
        vec!["/ip4/127.0.0.1/tcp/4001".parse().unwrap()]
    }

    #[test]
    fn a_lonely_node_keeps_trying_and_a_connected_one_lets_it_be() {
        let mut book = AddressBook::new(&["localhost:1".into(), "what".into(), "/x".into()], &[]);
        let (mut tries, nobody) = (0, BTreeSet::new());
        for ms in (0..600_000).step_by(250) {
            for due in book.due(at(ms), &nobody) {
                let Try::Place(index, _) = due else { panic!("{due:?}") };
                book.looked_up(index, &Ok(Vec::new()));
                tries += 1;
            }
        }
        // Two places ("what" is a name without a port); a try every 4 seconds at the latest, far fewer than every round.
        assert!((300..420).contains(&tries), "{tries}");
        let peer = PeerId::random();
        book.found(0, peer);
        book.found(1, peer);
        let connected = BTreeSet::from([peer]);
        assert!((600_000..900_000).step_by(250).all(|ms| book.due(at(ms), &connected).is_empty()));
    }

    #[test]
    fn a_name_is_looked_up_again_although_somebody_behind_it_is_connected() {
        let mut book = AddressBook::new(&[], &["localhost".into()]);
        let peer = PeerId::random();
        let connected = BTreeSet::from([peer]);
        book.found(0, peer);
        let mut lookups = 0;
        for ms in (0..300_000).step_by(250) {
            for _ in book.due(at(ms), &connected) {
                book.looked_up(0, &Ok(Vec::new()));
                lookups += 1;
            }
        }
        assert_eq!(lookups, 10);
    }

    #[test]
    fn a_node_that_is_gone_is_tried_less_and_less_and_at_once_when_there_is_news() {
        let mut book = AddressBook::default();
        let (gone, other) = (PeerId::random(), PeerId::random());
        book.learn(at(0), gone, address(), 0);
        let connected = BTreeSet::from([other]);
        let dials = (0..3_600_000).step_by(250);
        let dials: usize = dials.map(|ms| book.due(at(ms), &connected).len()).sum();
        assert!((80..130).contains(&dials), "{dials}");
        book.learn(at(3_700_000), gone, address(), 0);
        assert_eq!(book.due(at(3_700_000), &connected).len(), 1);
        // News that come again and again do not make it dial without a pause.
        let mut flood = 0;
        for ms in (3_700_250..3_760_000).step_by(250) {
            book.learn(at(ms), gone, address(), 0);
            flood += book.due(at(ms), &connected).len();
        }
        assert!(flood < 60, "{flood}");
    }

    #[test]
    fn it_never_holds_more_than_it_may_and_drops_the_least_promising() {
        let mut book = AddressBook::default();
        let first = PeerId::random();
        book.learn(at(0), first, address(), 0);
        book.due(at(0), &BTreeSet::new());
        for _ in 0..200 {
            book.learn(at(1), PeerId::random(), address(), 0);
        }
        assert_eq!(book.learned.len(), LEARNED_MAX);
        assert!(!book.learned.contains_key(&first));
        let mut round = 0;
        while !book.due(at(1), &BTreeSet::new()).is_empty() {
            round += 1;
        }
        assert_eq!(round, LEARNED_MAX / ROUND_MAX);
    }
}
