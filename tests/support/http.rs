//! A small HTTP/1.1 client on hyper, and what every answer of the contract must look like.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

use super::{
    ANSWER_LIMIT,
    place::{Connector, Place},
    within,
};

/// A client of one node. Bound to the runtime that it is first used on.
#[derive(Clone)]
pub struct Http {
    base: String,
    client: Client<Connector, Full<Bytes>>,
}

/// A request being written.
pub struct Call<'a> {
    http: &'a Http,
    builder: http::request::Builder,
    body: Bytes,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Http {
    /// A client of the node whose REST listener is at `address` (host:port).
    pub fn new(address: &str) -> Self {
        Self::at(&Place::default(), address)
    }

    /// The same, from a place.
    pub fn at(place: &Place, address: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build(Connector(place.clone()));
        Self { base: format!("http://{address}"), client }
    }

    /// Starts a request. `path` must be percent-encoded already.
    pub fn call(&self, method: &str, path: &str) -> Call<'_> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let builder = Request::builder().method(method).uri(format!("{}{path}", self.base));
        Call { http: self, builder, body: Bytes::new() }
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path).send().await
    }

    /// `HEAD path`.
    pub async fn head(&self, path: &str) -> Answer {
        self.call("HEAD", path).send().await
    }

    /// `DELETE path`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path).send().await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path).json(body).send().await
    }

    /// `PUT path` with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path).json(body).send().await
    }
}

impl Call<'_> {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.builder = self.builder.header(name, value.as_ref());
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a JSON body and its content type.
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sends it; an error of the connection is an `Err` with its whole chain.
    pub async fn try_send(self) -> Result<Answer, String> {
        let request = self.builder.body(Full::new(self.body)).unwrap();
        let name = format!("{} {}", request.method(), request.uri());
        let exchange = async {
            let response = self.http.client.request(request).await.map_err(chain)?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(chain)?.to_bytes();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        within(&name, ANSWER_LIMIT, exchange).await
    }

    /// Sends it; an error of the connection fails the test.
    pub async fn send(self) -> Answer {
        self.try_send().await.unwrap()
    }
}

fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in a {} answer: {}", self.status, self.text()))
    }

    /// A header that must be there.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.find_header(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// A header that may be there.
    pub fn find_header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts the status, and the request id that every answer has.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {:?}", self.text(), self.headers);
        self.request_id();
        self
    }

    /// Asserts the status of a page that is no part of the API: it needs no request id.
    #[track_caller]
    pub fn page(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {:?}", self.text(), self.headers);
        self
    }

    /// Asserts 200 and gives the JSON body.
    #[track_caller]
    pub fn ok(self) -> Value {
        self.expect(200).json()
    }

    /// The request id: 32 hexadecimal digits, not all zero.
    #[track_caller]
    pub fn request_id(&self) -> &str {
        let id = self.header("nomad-request-id");
        let hex = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(hex && id.bytes().any(|byte| byte != b'0'), "Nomad-Request-Id: {id}");
        id
    }

    /// Asserts how durable the answer says that it is.
    #[track_caller]
    pub fn durability(self, expected: &str) -> Self {
        assert_eq!(self.header("nomad-durability"), expected);
        self
    }

    /// Asserts a complete problem document (RFC 9457) with this status and code, and gives its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["requestId"].as_str(), Some(self.request_id()), "{problem}");
        for name in ["type", "title", "detail"] {
            let text = problem[name].as_str().unwrap_or_else(|| panic!("no {name} in {problem}"));
            assert!(!text.is_empty(), "{name} is empty in {problem}");
            assert!(!text.contains("panicked at") && !text.contains(".rs:"), "a trace: {problem}");
        }
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// One path segment, with everything percent-encoded that is no unreserved character.
pub fn segment(id: &str) -> String {
    percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string()
}
