//! Which address a node tells others, when it listens on all of them and its configuration names none.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Returns `bound`, with an address of this machine in the place of "all addresses": the one that its default route would
/// send from, else the first of an interface that is not loopback, else loopback.
pub fn reachable(bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let fits = |ip: &IpAddr| !ip.is_loopback() && (ip.is_ipv4() || bound.is_ipv6());
    let routed = by_route(bound.is_ipv6()).filter(fits);
    let ip = routed.or_else(|| by_interface(fits)).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    SocketAddr::new(ip, bound.port())
}

/// The address that the default route sends from. Nothing is sent: a UDP socket only looks its route up. The targets are
/// addresses that are kept for documents (RFC 5737, RFC 3849).
fn by_route(v6: bool) -> Option<IpAddr> {
    let ask = |own: &str, far: &str| {
        let socket = UdpSocket::bind(own).ok()?;
        socket.connect(far).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let v4 = ask("0.0.0.0:0", "192.0.2.1:9");
    v4.or_else(|| v6.then(|| ask("[::]:0", "[2001:db8::1]:9")).flatten())
}

fn by_interface(fits: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut found: Vec<IpAddr> =
        interfaces.into_iter().map(|interface| interface.ip()).filter(fits).collect();
    // IPv4 before IPv6, where both are there; a link-local address last, since it needs a scope that others lack.
    found.sort_by_key(|ip| match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), false),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), true),
    });
    found.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_address_stays_and_all_addresses_become_one() {
        let named: SocketAddr = "127.0.0.1:7".parse().unwrap();
        assert_eq!(reachable(named), named);
        for all in ["0.0.0.0:7", "[::]:7"] {
            let told = reachable(all.parse().unwrap());
            assert!(!told.ip().is_unspecified(), "{told}");
            assert_eq!(told.port(), 7);
        }
    }
}
