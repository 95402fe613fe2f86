//! Refused nodes: they stay out for a while, and each is logged once in a longer while.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::behaviour::PROTOCOL_VERSION;
use nomad_core::model::time::MonotonicUs;

/// How long a refused node stays out. Short: it may be started again with the right name.
const OUT_US: u64 = 20_000_000;
/// How long a node is not logged again.
const QUIET_US: u64 = 600_000_000;
/// The most that are remembered.
const STRANGERS_MAX: usize = 1024;

#[derive(Debug)]
struct Stranger {
    out_until: MonotonicUs,
    logged: MonotonicUs,
    is_out: bool,
}

/// The refused nodes.
#[derive(Debug, Default)]
pub struct Strangers {
    peers: BTreeMap<PeerId, Stranger>, // invariant: at most STRANGERS_MAX
}

impl Strangers {
    /// Takes note of a refused node and says whether that is worth a log line. With no place left it is not.
    pub fn refuse(&mut self, now: MonotonicUs, peer: PeerId) -> bool {
        let out_until = now.plus_us(OUT_US);
        if let Some(stranger) = self.peers.get_mut(&peer) {
            let is_news = now.since(stranger.logged) >= QUIET_US;
            (stranger.out_until, stranger.is_out) = (out_until, true);
            if is_news {
                stranger.logged = now;
            }
            return is_news;
        }
        if self.peers.len() >= STRANGERS_MAX {
            let oldest = self.peers.iter().filter(|(_, stranger)| !stranger.is_out);
            let oldest = oldest.min_by_key(|(_, stranger)| stranger.logged).map(|(peer, _)| *peer);
            let Some(oldest) = oldest else { return false };
            self.peers.remove(&oldest);
        }
        self.peers.insert(peer, Stranger { out_until, logged: now, is_out: true });
        true
    }

    /// Tells whether a node is out.
    pub fn is_out(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|stranger| stranger.is_out)
    }

    /// Returns those whose time is over; they may try again.
    pub fn let_back(&mut self, now: MonotonicUs) -> Vec<PeerId> {
        let over = |stranger: &Stranger| stranger.is_out && stranger.out_until <= now;
        let back = self.peers.iter_mut().filter(|(_, stranger)| over(stranger));
        back.map(|(peer, stranger)| {
            stranger.is_out = false;
            *peer
        })
        .collect()
    }
}

/// Holds what a node says of itself, `nomad/<network>/<version>`, against this node's network.
///
/// # Errors
/// Says what does not fit, with both sides of it.
pub fn check(network: &str, said: &str) -> Result<(), String> {
    let shown = |text: &str| text.chars().take(80).collect::<String>();
    let parts = said.strip_prefix("nomad/").and_then(|rest| rest.rsplit_once('/'));
    let Some((theirs, version)) = parts else {
        return Err(format!(
            "it says that it is {:?}, which is no nomad node; this one is of the network {network:?}",
            shown(said)
        ));
    };
    if theirs != network {
        return Err(format!(
            "it belongs to the network {:?}, this node to {network:?}; see network.name",
            shown(theirs)
        ));
    }
    if version.parse() != Ok(PROTOCOL_VERSION) {
        return Err(format!(
            "it speaks version {:?} of the protocol, this node {PROTOCOL_VERSION}, in the network {network:?}",
            shown(version)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_network_and_version_fit_and_the_text_names_both() {
        assert_eq!(check("a", "nomad/a/1"), Ok(()));
        let error = check("a", "nomad/b/1").unwrap_err();
        assert!(error.contains("\"a\"") && error.contains("\"b\""), "{error}");
        let error = check("a", "nomad/a/2").unwrap_err();
        assert!(error.contains("\"2\"") && error.contains('1'), "{error}");
        for said in ["", "ipfs/0.1.0", "nomad/a", &"x".repeat(10_000)] {
            assert!(check("a", said).unwrap_err().len() < 300);
        }
    }

    #[test]
    fn a_stranger_stays_out_for_a_while_and_is_logged_once_in_a_longer_one() {
        let mut strangers = Strangers::default();
        let peer = PeerId::random();
        let at = |s: u64| MonotonicUs(s * 1_000_000);
        assert!(strangers.refuse(at(1), peer));
        assert!(!strangers.refuse(at(2), peer));
        assert!(strangers.let_back(at(21)).is_empty() && strangers.is_out(&peer));
        assert_eq!(strangers.let_back(at(22)), [peer]);
        assert!(!strangers.is_out(&peer));
        assert!(!strangers.refuse(at(23), peer));
        strangers.let_back(at(100));
        assert!(strangers.refuse(at(700), peer));
        for _ in 0..2 * STRANGERS_MAX {
            strangers.refuse(at(701), PeerId::random());
        }
        assert_eq!(strangers.peers.len(), STRANGERS_MAX);
    }
}
