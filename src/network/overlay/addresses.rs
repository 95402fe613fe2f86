//! Reads, makes and filters multiaddrs: which are worth keeping, and which addresses a configured text means.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

/// The port that a name in `bootstrap.dns` means when it says none.
pub const DEFAULT_PORT: u16 = 4001;
/// The most addresses that are kept of one node.
pub const PER_NODE_MAX: usize = 8;
/// The most addresses that one name may stand for.
const PER_NAME_MAX: usize = 64;
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// What a configured text means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootstrapAddress {
    /// A name or an address with its port.
    Host(String, u16),
    /// A multiaddr.
    Multi(Multiaddr),
}

impl BootstrapAddress {
    /// Reads an entry of `bootstrap.peers` or `bootstrap.dns`; a name without a port means [`DEFAULT_PORT`].
    ///
    /// # Errors
    /// Names the text.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            let parsed = text.parse().map(Self::Multi);
            return parsed.map_err(|error| format!("{text:?} is no multiaddr: {error}"));
        }
        let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if text.parse::<IpAddr>().is_ok() {
            return Ok(Self::Host(text.to_owned(), DEFAULT_PORT));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() => match port.parse() {
                Ok(port) if port != 0 => Ok(Self::Host(bare(host), port)),
                _ if text.ends_with(']') => Ok(Self::Host(bare(text), DEFAULT_PORT)),
                _ => Err(format!("{text:?} is not host:port")),
            },
            Some(_) => Err(format!("{text:?} is not host:port")),
            None if text.is_empty() => Err("an empty text names no host".into()),
            None => Ok(Self::Host(bare(text), DEFAULT_PORT)),
        }
    }

    /// Looks the names in it up, all their addresses.
    ///
    /// # Errors
    /// When a name has no address, or the system does not answer.
    pub async fn resolve(&self) -> io::Result<Vec<Multiaddr>> {
        match self {
            Self::Host(host, port) => {
                let found = lookup(host, *port).await?;
                Ok(found.into_iter().map(of_socket).collect())
            }
            Self::Multi(address) => {
                let mut parts = address.iter();
                let (name, wanted): (_, fn(&IpAddr) -> bool) = match parts.next() {
                    Some(Protocol::Dns(name)) => (name, |_| true),
                    Some(Protocol::Dns4(name)) => (name, IpAddr::is_ipv4),
                    Some(Protocol::Dns6(name)) => (name, IpAddr::is_ipv6),
                    _ => return Ok(vec![address.clone()]),
                };
                let rest: Multiaddr = parts.collect();
                let found = lookup(&name, 0).await?;
                let wanted = found.into_iter().map(|found| found.ip()).filter(wanted);
                let with_rest = |ip| Multiaddr::from(ip).into_iter().chain(&rest).collect();
                Ok(wanted.map(with_rest).collect())
            }
        }
    }
}

async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found =
        tokio::time::timeout(LOOKUP_LIMIT, tokio::net::lookup_host((host, port))).await.map_err(
            |_| io::Error::new(io::ErrorKind::TimedOut, "the name server did not answer"),
        )??;
    let mut found: Vec<_> = found.collect();
    found.sort();
    found.dedup();
    found.truncate(PER_NAME_MAX);
    Ok(found)
}

/// Writes a socket's address as a multiaddr.
pub fn of_socket(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// Writes a host of `node.networkHostnames`, with the port that is bound where it names none.
pub fn of_hostname(text: &str, bound: u16) -> Option<Multiaddr> {
    let place = BootstrapAddress::read(text).ok()?;
    let BootstrapAddress::Host(host, port) = place else { return None };
    let says_port = text.rsplit_once(':').is_some_and(|(before, after)| {
        after.parse::<u16>().is_ok() && (before.ends_with(']') || !before.contains(':'))
    });
    let first = match host.parse::<IpAddr>() {
        Ok(ip) => Protocol::from(ip),
        Err(_) => Protocol::Dns(host.into()),
    };
    Some(Multiaddr::empty().with(first).with(Protocol::Tcp(if says_port { port } else { bound })))
}

/// Returns the IP address that a multiaddr begins with.
pub fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    }
}

/// Takes the peer id off the end.
pub fn split_peer(address: &Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let mut rest = address.clone();
    match rest.pop() {
        Some(Protocol::P2p(peer)) => (rest, Some(peer)),
        _ => (address.clone(), None),
    }
}

/// The port of a plain TCP address: a host, a port, nothing more.
fn tcp_port(address: &Multiaddr) -> Option<u16> {
    let mut parts = address.iter();
    let is_host = matches!(
        parts.next(),
        Some(
            Protocol::Ip4(_)
                | Protocol::Ip6(_)
                | Protocol::Dns(_)
                | Protocol::Dns4(_)
                | Protocol::Dns6(_)
        )
    );
    match (is_host, parts.next(), parts.next()) {
        (true, Some(Protocol::Tcp(port)), None) if port != 0 => Some(port),
        _ => None,
    }
}

/// Sorts out what a node says of its addresses, seen from a connection to `remote`: plain TCP, nothing that leads back
/// to this machine unless the node is on it; first the address that it was seen at. At most [`PER_NODE_MAX`].
pub fn usable(remote: Option<IpAddr>, said: &[Multiaddr]) -> Vec<Multiaddr> {
    let is_here = remote.is_none_or(|remote| remote.is_loopback());
    let leads_there = |address: &Multiaddr| {
        ip_of(address).is_none_or(|ip| !ip.is_unspecified() && (is_here || !ip.is_loopback()))
    };
    let plain: Vec<_> = said.iter().take(64).map(|address| split_peer(address).0).collect();
    let plain = plain.into_iter().filter(|address| tcp_port(address).is_some());
    let (mut seen, mut others) = (Vec::new(), Vec::new());
    for address in plain {
        let family = |ip: &IpAddr| ip_of(&address).is_some_and(|own| own.is_ipv4() == ip.is_ipv4());
        if let (Some(ip), Some(port)) = (remote.filter(family), tcp_port(&address)) {
            seen.push(of_socket(SocketAddr::new(ip, port)));
        }
        if leads_there(&address) {
            others.push(address);
        }
    }
    let mut kept: Vec<Multiaddr> = Vec::new();
    for address in seen.into_iter().chain(others) {
        if kept.len() < PER_NODE_MAX && !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn multi(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn configured_texts_are_places() {
        let host = |host: &str, port| Ok(BootstrapAddress::Host(host.into(), port));
        assert_eq!(BootstrapAddress::read("example.org"), host("example.org", DEFAULT_PORT));
        assert_eq!(BootstrapAddress::read("example.org:80"), host("example.org", 80));
        assert_eq!(BootstrapAddress::read("[::1]:80"), host("::1", 80));
        assert_eq!(BootstrapAddress::read("[::1]"), host("::1", DEFAULT_PORT));
        assert_eq!(BootstrapAddress::read("::1"), host("::1", DEFAULT_PORT));
        assert_eq!(BootstrapAddress::read("10.0.0.1"), host("10.0.0.1", DEFAULT_PORT));
        let address = "/dns4/a/tcp/1";
        assert_eq!(BootstrapAddress::read(address), Ok(BootstrapAddress::Multi(multi(address))));
        for bad in ["", "/what/is", "a:0", "a:b", ":80"] {
            assert!(BootstrapAddress::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_advertised_host_has_the_bound_port_unless_it_names_one() {
        assert_eq!(of_hostname("a.org", 7), Some(multi("/dns/a.org/tcp/7")));
        assert_eq!(of_hostname("a.org:8", 7), Some(multi("/dns/a.org/tcp/8")));
        assert_eq!(of_hostname("10.0.0.1", 7), Some(multi("/ip4/10.0.0.1/tcp/7")));
        assert_eq!(of_hostname("::1", 7), Some(multi("/ip6/::1/tcp/7")));
        assert_eq!(of_hostname("[::1]:8", 7), Some(multi("/ip6/::1/tcp/8")));
    }

    #[tokio::test]
    async fn names_in_multiaddrs_are_looked_up_and_the_rest_stays() {
        let place = BootstrapAddress::read("/dns4/localhost/tcp/4001").unwrap();
        assert_eq!(place.resolve().await.unwrap(), [multi("/ip4/127.0.0.1/tcp/4001")]);
        let found = BootstrapAddress::read("localhost").unwrap().resolve().await.unwrap();
        assert!(found.contains(&multi("/ip4/127.0.0.1/tcp/4001")), "{found:?}");
        assert!(BootstrapAddress::read("no.such.invalid:1").unwrap().resolve().await.is_err());
    }

    #[test]
    fn only_addresses_that_lead_to_the_node_are_kept() {
        let said = [
            multi("/ip4/127.0.0.1/tcp/4001"),
            multi("/ip4/10.0.0.7/tcp/4001"),
            multi("/ip4/0.0.0.0/tcp/4001"),
            multi("/ip4/10.0.0.7/udp/4001"),
            multi("/dns/a.org/tcp/5"),
        ];
        let from_afar = usable(Some("192.168.0.9".parse().unwrap()), &said);
        let wanted = ["/ip4/192.168.0.9/tcp/4001", "/ip4/10.0.0.7/tcp/4001", "/dns/a.org/tcp/5"];
        assert_eq!(from_afar, wanted.map(multi));
        let from_here = usable(Some("127.0.0.1".parse().unwrap()), &said);
        assert_eq!(from_here[0], said[0]);
        let many: Vec<_> =
            (1..200).map(|port| multi(&format!("/ip4/10.0.0.7/tcp/{port}"))).collect();
        assert_eq!(usable(None, &many).len(), PER_NODE_MAX);
    }
}
