//! Which pages of a browser may call this node: those that it served itself.
//!
//! A browser sends requests for any page that its user opens, also to a node that listens on the loopback address alone.
//! It names the page in `Origin` and the node in `Host`, and lets no page forge either; other clients send no `Origin`.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, uri::Authority};

use super::json::shorten;
use crate::error::{ApiError, ErrorCode};

/// Checks where a request comes from and which name it was sent to, on a node that listens on `listen`.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`] for a write by another page, and for a request to a name that may have been pointed
/// at the loopback address to get at this node.
pub fn check(method: &Method, headers: &HeaderMap, listen: IpAddr) -> Result<(), ApiError> {
    let host = headers.get(header::HOST);
    if let Some(foreign) = values(headers, &header::HOST)
        .find(|host| listen.to_canonical().is_loopback() && !names_this_machine(host))
    {
        let detail = format!(
            "the request was sent to the host {}, but this node listens on {listen} alone; send it \
             to that address, or to localhost",
            shown(foreign)
        );
        return refuse("Host", detail);
    }
    if !matches!(*method, Method::PUT | Method::POST | Method::DELETE) {
        return Ok(());
    }
    let is_own = |origin: &HeaderValue| {
        let page =
            std::str::from_utf8(origin.as_bytes()).ok().and_then(|text| text.split_once("://"));
        page.zip(host)
            .is_some_and(|((_, page), host)| page.as_bytes().eq_ignore_ascii_case(host.as_bytes()))
    };
    match values(headers, &header::ORIGIN).find(|origin| !is_own(origin)) {
        None => Ok(()),
        Some(foreign) => {
            let detail = format!(
                "the request comes from a page of the origin {}, and only pages of this node's own, \
                 {}, may change it; send it from there, or from outside a browser",
                shown(foreign),
                host.map_or_else(|| "which the request does not name".to_owned(), shown)
            );
            refuse("Origin", detail)
        }
    }
}

fn refuse(field: &'static str, detail: String) -> Result<(), ApiError> {
    Err(ApiError { field: Some(field), ..ApiError::new(ErrorCode::PermissionDenied, detail) })
}

fn values<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a HeaderValue> + use<'a> {
    headers.get_all(name).into_iter()
}

/// Whether no name server can say what the host is.
fn names_this_machine(host: &HeaderValue) -> bool {
    // Most often it is an address and a port.
    if host.to_str().is_ok_and(|host| host.parse::<SocketAddr>().is_ok()) {
        return true;
    }
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

fn shown(value: &HeaderValue) -> String {
    format!("{:?}", shorten(&String::from_utf8_lossy(value.as_bytes())))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    fn check(method: Method, headers: &[(HeaderName, &str)], listen: IpAddr) -> Result<(), String> {
        let pairs = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        super::check(&method, &pairs.collect(), listen).map_err(|error| {
            assert_eq!(error.code, ErrorCode::PermissionDenied);
            error.detail
        })
    }

    #[test]
    fn only_a_page_of_this_node_may_write() {
        let table = [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://LocalHost:8080", "localhost:8080", true),
            ("http://[::1]:8080", "[::1]:8080", true),
            ("https://127.0.0.1", "127.0.0.1", true),
            ("http://127.0.0.1:8081", "127.0.0.1:8080", false),
            ("http://localhost:8080", "127.0.0.1:8080", false),
            ("https://evil.example", "127.0.0.1:8080", false),
            ("null", "127.0.0.1:8080", false),
            ("", "127.0.0.1:8080", false),
            ("127.0.0.1:8080", "127.0.0.1:8080", false),
        ];
        for (origin, host, allowed) in table {
            for method in [Method::PUT, Method::POST, Method::DELETE] {
                let headers = [(header::HOST, host), (header::ORIGIN, origin)];
                let checked = check(method, &headers, LOOPBACK);
                assert_eq!(checked.is_ok(), allowed, "{origin} {host}");
                assert!(checked.err().is_none_or(|text| text.contains(&format!("{origin:?}"))));
            }
            // Nobody may read the answer but a page of the node.
            assert_eq!(check(Method::GET, &[(header::ORIGIN, origin)], LOOPBACK), Ok(()));
        }
        assert!(check(Method::PUT, &[(header::ORIGIN, "http://a")], ANY).is_err());
        assert_eq!(check(Method::PUT, &[(header::HOST, "127.0.0.1")], LOOPBACK), Ok(()));
    }

    #[test]
    fn a_name_that_somebody_points_at_the_loopback_address_is_refused() {
        for host in ["127.0.0.1", "127.0.0.1:80", "localhost", "LOCALHOST:9", "[::1]", "[::1]:80"] {
            assert_eq!(check(Method::GET, &[(header::HOST, host)], LOOPBACK), Ok(()), "{host}");
        }
        for host in ["evil.example", "evil.example:80", "localhost.evil.example", "", "a b"] {
            let headers = [(header::HOST, host)];
            for listen in [LOOPBACK, IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                let text = check(Method::GET, &headers, listen).unwrap_err();
                assert!(text.contains(&format!("{host:?}")), "{text}");
            }
            assert_eq!(check(Method::GET, &headers, ANY), Ok(()), "a name of its own is no danger");
        }
        assert_eq!(check(Method::GET, &[], LOOPBACK), Ok(()), "HTTP/1.0 names no host");
    }
}
