//! Formats that a text must have: addresses, names, log filters. Pure syntax: nothing is resolved or opened.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use nomad_core::model::address;

use super::unit::{Durability, parse_durability};

/// What a text must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A directory, or empty.
    Directory,
    /// An IP address to bind.
    Ip,
    /// `host` or `host:port`, or empty.
    OptionalHost,
    /// `host` or `host:port`.
    Host,
    /// A multiaddr or `host:port`.
    PeerAddress,
    /// The name of a network.
    NetworkName,
    /// `always` or `interval:<duration>`.
    Durability,
    /// Directives of a log filter.
    LogFilter,
    /// An `http://` URL, or empty.
    OptionalHttpUrl,
}

impl Form {
    /// What is allowed, in words that follow "write".
    pub fn allowed(self) -> &'static str {
        match self {
            Self::Directory => "a directory, or \"\"",
            Self::Ip => "an IP address such as 127.0.0.1, 0.0.0.0 or ::",
            Self::OptionalHost => "`host` or `host:port`, or \"\"",
            Self::Host => "`host` or `host:port`",
            Self::PeerAddress => "a multiaddr such as /ip4/10.0.0.1/tcp/4001, or `host:port`",
            Self::NetworkName => "1 to 64 of a-z A-Z 0-9 . _ -",
            Self::Durability => "`always`, or `interval:` and 1ms to 60s",
            Self::LogFilter => {
                "off, error, warn, info, debug or trace, and `target=level` pairs: `info,nomad=debug`"
            }
            Self::OptionalHttpUrl => "a URL such as http://127.0.0.1:4317, or \"\"",
        }
    }

    /// Whether the text has this form.
    pub fn matches(self, text: &str) -> bool {
        let plain = !text.chars().any(char::is_control);
        plain
            && match self {
                Self::Directory => true,
                Self::Ip => text.parse::<IpAddr>().is_ok(),
                Self::OptionalHost => text.is_empty() || is_host(text),
                Self::Host => is_host(text),
                Self::PeerAddress => match text.strip_prefix('/') {
                    Some(parts) => is_multiaddr(parts),
                    None => address::is_host_and_port(text),
                },
                Self::NetworkName => is_network_name(text),
                Self::Durability => is_durability(text),
                Self::LogFilter => is_log_filter(text),
                Self::OptionalHttpUrl => text.is_empty() || is_http_url(text),
            }
    }
}

fn is_network_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_durability(text: &str) -> bool {
    let range = Duration::from_millis(1)..=Duration::from_secs(60);
    parse_durability(text).is_ok_and(|durability| match durability {
        Durability::Always => true,
        Durability::Interval(interval) => range.contains(&interval),
    })
}

/// A single name is a target to the filter's parser. So `inof` would turn the node's log off without a message.
fn is_log_filter(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte);
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let is_stray = |part: &str| part.bytes().all(is_word) && !is_level(part);
    !text.split(',').any(is_stray) && EnvFilter::try_new(text).is_ok()
}

fn is_http_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn is_host(text: &str) -> bool {
    address::is_host(text) || address::is_host_and_port(text)
}

/// The parts of a multiaddr after its first slash: an address, a transport with its port, then whatever follows.
fn is_multiaddr(parts: &str) -> bool {
    let mut parts = parts.split('/');
    let (Some(protocol), Some(address)) = (parts.next(), parts.next()) else { return false };
    let is_address = match protocol {
        "ip4" => address.parse::<Ipv4Addr>().is_ok(),
        "ip6" => address.parse::<Ipv6Addr>().is_ok(),
        "dns" | "dns4" | "dns6" | "dnsaddr" => address::is_dns_name(address),
        _ => false,
    };
    let has_port = match (parts.next(), parts.next()) {
        (None, _) => protocol == "dnsaddr",
        (Some("tcp" | "udp"), Some(port)) => port.parse::<u16>().is_ok_and(|port| port != 0),
        (Some("p2p"), Some(peer)) => protocol == "dnsaddr" && !peer.is_empty(),
        _ => false,
    };
    is_address && has_port && parts.all(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(form: Form, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(form.matches(text), "{form:?} refuses {text:?}");
        }
        for text in bad {
            assert!(!form.matches(text), "{form:?} takes {text:?}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_an_optional_port() {
        let good = [
            "example.org",
            "node-0.nomad.svc.cluster.local.",
            "a_b",
            "10.0.0.1",
            "10.0.0.1:6731",
            "localhost:1",
            "::1",
            "[::1]",
            "[::1]:4001",
            "7nodes",
        ];
        let bad = [
            "http://example.org",
            "a b",
            "-a",
            "a..b",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            ":80",
            "10.0.0.256",
            "1.2.3",
            "[10.0.0.1]",
            "a\nb",
            "host:80:90",
            "café",
        ];
        check(Form::Host, &good, &bad);
        check(Form::OptionalHost, &good, &bad);
        check(Form::OptionalHost, &[""], &[]);
        check(Form::Host, &[], &["", &"a".repeat(64)]);
    }

    #[test]
    fn peers_are_multiaddrs_or_host_and_port() {
        check(
            Form::PeerAddress,
            &[
                "/ip4/10.0.0.1/tcp/4001",
                "/ip6/::1/udp/4001/quic-v1",
                "/dns4/node.example.org/tcp/4001/p2p/12D3KooW",
                "/dnsaddr/bootstrap.example.org",
                "/dnsaddr/bootstrap.example.org/p2p/12D3KooW",
                "example.org:4001",
                "[::1]:4001",
            ],
            &[
                "",
                "/",
                "/ip4",
                "/ip4/10.0.0.1",
                "/ip4/10.0.0.1/tcp",
                "/ip4/10.0.0.256/tcp/1",
                "/ip4/10.0.0.1/tcp/0",
                "/ip4/10.0.0.1/tcp/4001/",
                "/ip4/10.0.0.1/p2p/12D3KooW",
                "/unix/socket",
                "example.org",
                "4001",
                "http://example.org:4001",
            ],
        );
    }

    #[test]
    fn a_log_filter_is_levels_and_targets_with_a_level() {
        check(
            Form::LogFilter,
            &["info", "OFF", "info,nomad=debug", "warn,hyper=off", "nomad[request{id=7}]=trace"],
            &[
                "",
                "inof",
                "info,",
                "nomad",
                "info,nomad",
                "nomad=loud",
                "warn, hyper=off",
                "nomad=[",
                "info\n",
            ],
        );
    }

    #[test]
    fn durability_keeps_within_one_minute() {
        check(
            Form::Durability,
            &["always", "interval:1ms", "interval:60s", "interval:1500us"],
            &["interval:0s", "interval:61s", "interval:100", "never", ""],
        );
    }

    #[test]
    fn other_forms() {
        check(Form::Ip, &["127.0.0.1", "::"], &["", "localhost", "127.0.0.1:80"]);
        check(Form::NetworkName, &["nomad", "a.b_c-1"], &["", "a b", "a/b", &"a".repeat(65)]);
        check(
            Form::OptionalHttpUrl,
            &["", "http://127.0.0.1:4317", "http://collector/v1"],
            &["https://collector", "collector:4317", "http://", "/v1", "grpc://collector"],
        );
        check(Form::Directory, &["", "/var/lib/nomad", "data dir"], &["a\0b"]);
    }
}
