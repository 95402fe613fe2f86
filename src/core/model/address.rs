//! Addresses as text. One rule for the configuration, for what a client names and for what another node says of itself.

// The types alone, which touch no network.
use core::net::{Ipv4Addr, Ipv6Addr};

/// Tells whether a text is `host:port`, with a port above 0; an IPv6 address needs its brackets here.
pub fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = is_digits && port.parse::<u16>().is_ok_and(|port| port != 0);
    is_port && (host.starts_with('[') || !host.contains(':')) && is_host(host)
}

/// Tells whether a text is a DNS name or an IP address, IPv6 with or without brackets.
pub fn is_host(host: &str) -> bool {
    let unbracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = unbracketed {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    if host.parse::<Ipv6Addr>().is_ok() || host.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    // Digits and dots alone are an IPv4 address with a mistake in it, and no DNS name.
    host.bytes().any(|byte| !byte.is_ascii_digit() && byte != b'.') && is_dns_name(host)
}

/// Tells whether a text is a DNS name; underscores are common in clusters.
pub fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port() {
        for text in ["a:1", "peer-1.example.org:6731", "peer_1:80", "10.0.0.7:65535", "[::1]:6731"]
        {
            assert!(is_host_and_port(text), "{text}");
        }
        for text in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "::1:6731",
            "[x]:1",
            "[::1:1",
            "a b:1",
            "a..b:1",
            "-a:1",
            "10.0.0:1",
            "gr\u{fc}n:1",
        ] {
            assert!(!is_host_and_port(text), "{text}");
        }
    }
}
