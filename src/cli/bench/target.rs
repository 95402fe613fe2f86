//! Where the load goes: the two kinds of address and their parsing.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use http::Uri;
use serde::Serialize;

use super::problem::PlanProblem;

/// Which of the two REST APIs carries the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BenchApi {
    /// `/nomad/v1/objects/{id}`, raw bytes.
    #[default]
    Objects,
    /// `/nomad/storage/...`, JSON with base64.
    Storage,
}

/// A parsed REST base URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestBase {
    /// `host:port`, to connect to and for the `Host` header.
    pub(super) authority: String,
    /// What stands before `/nomad`; empty or without a trailing slash.
    pub(super) path_prefix: String,
}

impl RestBase {
    /// The base of a node at `host:port`.
    pub fn at(authority: &str) -> Self {
        Self { authority: authority.to_owned(), path_prefix: String::new() }
    }
}

impl FromStr for RestBase {
    type Err = PlanProblem;

    fn from_str(url: &str) -> Result<RestBase, PlanProblem> {
        let refuse =
            |reason: &str| PlanProblem::Url { url: url.to_owned(), reason: reason.to_owned() };
        let uri: Uri = url.parse().map_err(|error| refuse(&format!("{error}")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(refuse("only http is supported")),
            _ => return Err(refuse("it must start with http://")),
        }
        if uri.query().is_some() {
            return Err(refuse("it must have no query"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| refuse("no host"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(RestBase { authority, path_prefix: uri.path().trim_end_matches('/').to_owned() })
    }
}

impl fmt::Display for RestBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path_prefix)
    }
}

/// `host:port` of a storage listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageAddress(pub(super) String);

impl FromStr for StorageAddress {
    type Err = PlanProblem;

    fn from_str(text: &str) -> Result<StorageAddress, PlanProblem> {
        let refuse = || PlanProblem::Address(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port_is_good = port.parse::<u16>().is_ok_and(|port| port > 0);
        let uri: Uri = format!("http://{text}").parse().map_err(|_| refuse())?;
        if host.is_empty() || !port_is_good || uri.host() != Some(host) || uri.path() != "/" {
            return Err(refuse());
        }
        Ok(StorageAddress(text.to_owned()))
    }
}

impl fmt::Display for StorageAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who is loaded, and in which protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BenchTarget {
    /// A REST listener.
    Rest {
        /// Where it is.
        base: RestBase,
        /// Which API of it is used.
        api: BenchApi,
    },
    /// A gRPC storage listener (`GroupStorageService`).
    Grpc {
        /// Where it is.
        storage: StorageAddress,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_base_keeps_its_path_and_gets_the_default_port() {
        let cases = [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", ""),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080", ""),
            ("http://node.example/edge/", "node.example:80", "/edge"),
            ("http://[::1]:9000", "[::1]:9000", ""),
        ];
        for (url, authority, path_prefix) in cases {
            let base: RestBase = url.parse().unwrap();
            assert_eq!(
                (base.authority.as_str(), base.path_prefix.as_str()),
                (authority, path_prefix)
            );
        }
        for url in ["", "127.0.0.1:8080", "https://a", "http://a?b=c", "ftp://a", "http://"] {
            assert!(url.parse::<RestBase>().is_err(), "{url:?} was accepted");
        }
    }

    #[test]
    fn a_storage_address_is_host_and_port() {
        for text in ["127.0.0.1:6735", "node-0:1", "[::1]:6735"] {
            assert_eq!(text.parse::<StorageAddress>().unwrap().to_string(), text);
        }
        for text in ["", "host", ":1", "host:0", "host:65536", "http://host:1", "host:1/x"] {
            assert!(text.parse::<StorageAddress>().is_err(), "{text:?} was accepted");
        }
    }
}
