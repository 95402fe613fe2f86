//! The client commands' way to a node: one HTTP/1.1 request at a time, its answer whole, its errors as the node wrote
//! them.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::{bench::RestBase, error::CliError};

/// The largest answer that is read: the largest object in base64, and then some.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// What is encoded in a path or a query. A dot is, because `.` and `..` mean something in a path.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~').remove(b':');

/// Writes a text as one segment of a path, or one value of a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// One node.
#[derive(Debug, Clone)]
pub(super) struct Rest {
    base: RestBase,
    timeout: Duration,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What to ask.
#[derive(Debug)]
pub(super) struct CliRequest {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    /// What the user wants, as in "cannot get x".
    what: String,
}

impl CliRequest {
    /// A request of a path that is encoded already. `what` completes "cannot ..".
    pub(super) fn new(method: Method, path: impl Into<String>, what: impl Into<String>) -> Self {
        let (path, what) = (path.into(), what.into());
        Self { method, path, headers: HeaderMap::new(), body: Bytes::new(), what }
    }

    /// A `GET` of such a path.
    pub(super) fn get(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Method::GET, path, what)
    }

    /// Adds a header.
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets the body.
    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Adds the parameters that are given to the path.
    pub(super) fn query<'a>(
        mut self,
        parameters: impl IntoIterator<Item = (&'a str, Option<String>)>,
    ) -> Self {
        for (name, value) in parameters {
            let Some(value) = value else { continue };
            let mark = if self.path.contains('?') { '&' } else { '?' };
            self.path.push_str(&format!("{mark}{name}={}", encode(&value)));
        }
        self
    }
}

/// A successful answer.
#[derive(Debug)]
pub(super) struct CliAnswer {
    pub headers: HeaderMap,
    pub body: Bytes,
    url: String,
}

impl CliAnswer {
    /// A header's text, if it is there.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The version that the answer names.
    pub(super) fn version(&self) -> Option<&str> {
        self.header(header::ETAG.as_str()).map(|tag| tag.trim_matches('"'))
    }

    /// The body as this type.
    pub(super) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CliError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| CliError::Foreign { url: self.url.clone(), reason: error.to_string() })
    }
}

/// An error that the node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CliRefusal {
    pub status: StatusCode,
    /// The error's code, if the answer is a problem document.
    pub code: Option<String>,
    pub detail: String,
    pub request: Option<String>,
}

impl CliRefusal {
    fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let document: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
        let header = headers.get("nomad-request-id").and_then(|id| id.to_str().ok());
        let plain = || format!("it answered {status}");
        Self {
            status,
            code: text("code"),
            detail: text("detail").or_else(|| text("title")).unwrap_or_else(plain),
            request: text("requestId").or_else(|| header.map(str::to_owned)),
        }
    }
}

impl fmt::Display for CliRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match (&self.code, &self.request) {
            (Some(code), Some(request)) => write!(f, " ({code}, request {request})"),
            (Some(word), None) | (None, Some(word)) => write!(f, " ({word})"),
            (None, None) => Ok(()),
        }
    }
}

impl Rest {
    /// Talks to the node at this base. Connects when the first request is sent.
    pub(super) fn new(base: RestBase, timeout: Duration) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { base, timeout, client }
    }

    /// Returns the way to another node, at `host:port`.
    pub(super) fn to(&self, authority: &str) -> Self {
        let base = RestBase::at(authority);
        Self { base, timeout: self.timeout, client: self.client.clone() }
    }

    /// Sends a request and reads the whole answer; an error that the node answers is an error here.
    pub(super) async fn send(&self, ask: CliRequest) -> Result<CliAnswer, CliError> {
        self.send_within(ask, self.timeout).await
    }

    /// As `send`, for a request that the node may hold back for so long before it answers.
    pub(super) async fn send_held(
        &self,
        ask: CliRequest,
        held: Duration,
    ) -> Result<CliAnswer, CliError> {
        self.send_within(ask, self.timeout.saturating_add(held)).await
    }

    async fn send_within(&self, ask: CliRequest, limit: Duration) -> Result<CliAnswer, CliError> {
        let url = format!("{}{}", self.base, ask.path);
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| {
            CliError::Unsendable { what: "the address", reason: format!("{url}: {error}") }
        })?;
        let mut request = Request::new(Full::new(ask.body));
        *request.method_mut() = ask.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = ask.headers;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| self.lost(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.lost(&*error))?.to_bytes();
            Ok::<_, CliError>((head, body))
        };
        let timed_out = |_| CliError::Timeout { url: self.base.clone(), waited: limit };
        let (head, body) = tokio::time::timeout(limit, exchange).await.map_err(timed_out)??;
        if head.status.is_success() {
            return Ok(CliAnswer { headers: head.headers, body, url });
        }
        let refused = Box::new(CliRefusal::read(head.status, &head.headers, &body));
        Err(CliError::Refused { what: ask.what, refused, hint: "" })
    }

    fn lost(&self, error: &(dyn std::error::Error + 'static)) -> CliError {
        // The last cause is the system's; those above it say only "client error (Connect)".
        let mut last = error;
        while let Some(cause) = last.source() {
            last = cause;
        }
        CliError::Connection { url: self.base.clone(), reason: last.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_segment_of_a_path() {
        for (id, encoded) in [
            ("item:99", "item:99"),
            ("a/b", "a%2Fb"),
            ("..", "%2E%2E"),
            ("100%", "100%25"),
            ("a b?c#d&e=f+g", "a%20b%3Fc%23d%26e%3Df%2Bg"),
            ("日本", "%E6%97%A5%E6%9C%AC"),
            ("a\nb", "a%0Ab"),
        ] {
            assert_eq!(encode(id), encoded);
            let uri: Uri = format!("http://h/{}", encode(id)).parse().unwrap();
            assert_eq!(uri.path(), format!("/{encoded}"));
        }
    }

    #[test]
    fn a_query_has_the_parameters_that_are_given() {
        let ask = CliRequest::get("/p", "").query([
            ("a", None),
            ("b", Some("1 2".to_owned())),
            ("c", Some("&".to_owned())),
        ]);
        assert_eq!(ask.path, "/p?b=1%202&c=%26");
    }

    #[test]
    fn an_error_shows_what_the_node_said() {
        let mut headers = HeaderMap::new();
        headers.insert("nomad-request-id", HeaderValue::from_static("4bf9"));
        let read = |body: &str| CliRefusal::read(StatusCode::NOT_FOUND, &headers, body.as_bytes());
        let problem = r#"{"title":"t","detail":"no such object","code":"NOT_FOUND"}"#;
        assert_eq!(read(problem).to_string(), "no such object (NOT_FOUND, request 4bf9)");
        assert_eq!(read("<html>").to_string(), "it answered 404 Not Found (4bf9)");
    }
}
