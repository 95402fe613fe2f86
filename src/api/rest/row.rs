//! The table of routes: which methods a path takes, what body it reads, and the filters that match it.
//!
//! The paths of the OpenAPI document are held against this table by a test, and the filters are made from it.

use std::{convert::Infallible, future, ops::Range};

use http::{HeaderMap, Method};
use warp::{Filter, Rejection, path::FullPath, reject};

use crate::brought;
use nomad_core::model::trace::TraceContext;

/// The body that a path reads on `PUT` and `POST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// None.
    Nothing,
    /// A JSON object with a value in it.
    Object,
    /// A small JSON object.
    Small,
    /// The bytes of a value.
    Raw,
}

/// One path with all its methods.
#[derive(Debug)]
pub struct RouteRow {
    /// The calls, each as `METHOD path`; all of one path, which has at most one `{parameter}`.
    pub calls: &'static [&'static str],
    /// The methods, as the `Allow` header lists them. Where there is a GET there is a HEAD.
    pub allow: &'static str,
    /// The body that it reads.
    pub body: BodyKind,
    /// What the parameter may not be, because another row has that path.
    pub except: &'static [&'static str],
}

impl RouteRow {
    /// Describes a path with several methods.
    pub const fn new(allow: &'static str, calls: &'static [&'static str], body: BodyKind) -> Self {
        Self { calls, allow, body, except: &[] }
    }

    /// Describes a path that only GET takes.
    pub const fn get(calls: &'static [&'static str]) -> Self {
        Self::new("GET, HEAD", calls, BodyKind::Nothing)
    }

    /// Describes a path that only POST takes.
    pub const fn post(calls: &'static [&'static str], body: BodyKind) -> Self {
        Self::new("POST", calls, body)
    }

    /// Leaves some parameters to other rows.
    pub const fn except(self, except: &'static [&'static str]) -> Self {
        Self { except, ..self }
    }

    /// Returns the path with its parameter in braces.
    pub fn path(&self) -> &'static str {
        let path = self.calls.first().and_then(|call| call.split_once(' '));
        path.map_or("", |(_, path)| path)
    }

    /// Tells whether this is its path; one without a parameter.
    pub fn is_at(&self, path: &str) -> bool {
        let call = self.calls.first().and_then(|call| call.strip_suffix(path));
        call.is_some_and(|method| method.ends_with(' '))
    }

    /// Returns the call of a method, `None` when the path does not take it.
    pub fn call(&self, method: &Method) -> Option<&'static str> {
        let find = |method: &str| {
            let is_it =
                |call: &&&str| call.strip_prefix(method).is_some_and(|rest| rest.starts_with(' '));
            self.calls.iter().find(is_it).copied()
        };
        find(method.as_str()).or_else(|| (method == Method::HEAD).then(|| find("GET")).flatten())
    }
}

/// The path matches, the method does not.
#[derive(Debug)]
pub struct NotAllowed {
    /// The method.
    pub method: Method,
    /// The methods that the path takes.
    pub allow: &'static str,
    /// The trace that the request brought.
    pub trace: Option<TraceContext>,
}

impl reject::Reject for NotAllowed {}

/// No path matches.
#[derive(Debug)]
pub struct Unknown {
    /// The path.
    pub path: String,
    /// The trace that the request brought.
    pub trace: Option<TraceContext>,
}

impl reject::Reject for Unknown {}

/// A path that matched, and where in it the parameter stands, still percent-encoded.
#[derive(Debug)]
pub struct At {
    path: FullPath,
    parameter: Range<usize>,
}

impl At {
    /// Returns the parameter as it stands in the path.
    pub fn parameter(&self) -> &str {
        self.path.as_str().get(self.parameter.clone()).unwrap_or_default()
    }
}

/// Matches the path of a row. Works on the raw path, since a segment may hold an encoded slash, and an empty parameter is
/// to be refused by name and not by a 404.
pub fn at(row: &'static RouteRow) -> impl Filter<Extract = (At,), Error = Rejection> + Clone {
    let (before, after) = match row.path().split_once('{') {
        None => (row.path(), None),
        Some((before, rest)) => (before, Some(rest.split_once('}').map_or("", |(_, after)| after))),
    };
    let parameter_of = move |path: &str| {
        let rest = path.strip_prefix(before)?;
        let Some(after) = after else { return rest.is_empty().then_some(0..0) };
        let parameter = rest.strip_suffix(after)?;
        let range = before.len()..before.len() + parameter.len();
        (!row.except.contains(&parameter)).then_some(range)
    };
    warp::path::full().and_then(move |path: FullPath| {
        future::ready(match parameter_of(path.as_str()) {
            Some(parameter) => Ok(At { path, parameter }),
            None => Err(reject::not_found()),
        })
    })
}

/// What is known of a request before its body.
#[derive(Debug)]
pub struct RequestHead {
    /// The call, as its row has it.
    pub call: &'static str,
    /// The method.
    pub method: Method,
    /// The headers.
    pub headers: HeaderMap,
}

/// Lets the methods of a row pass; stands behind [`at`].
pub fn only(
    row: &'static RouteRow,
) -> impl Filter<Extract = (RequestHead,), Error = Rejection> + Clone {
    warp::method().and(warp::header::headers_cloned()).and_then(
        move |method: Method, headers: HeaderMap| {
            future::ready(match row.call(&method) {
                Some(call) => Ok(RequestHead { call, method, headers }),
                None => {
                    let trace = brought::trace(&headers);
                    let refused = NotAllowed { method, allow: row.allow, trace };
                    Err(reject::custom(refused))
                }
            })
        },
    )
}

/// Rejects whatever no row matched, by its name.
pub fn unknown() -> impl Filter<Extract = (warp::reply::Response,), Error = Rejection> + Clone {
    warp::path::full().and(warp::header::headers_cloned()).and_then(
        |path: FullPath, headers: HeaderMap| {
            let trace = brought::trace(&headers);
            let unknown = Unknown { path: path.as_str().to_owned(), trace };
            future::ready(Err(reject::custom(unknown)))
        },
    )
}

/// The query as it stands in the URL; empty where there is none.
pub fn query() -> impl Filter<Extract = (String,), Error = Infallible> + Clone {
    warp::query::raw().or(warp::any().map(String::new)).unify()
}
