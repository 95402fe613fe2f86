//! One request on its way through the edge: what a handler asks of it, and how its answer is finished.

use std::{borrow::Cow, str::FromStr, sync::Arc};

use bytes::{Buf, Bytes};
use futures::Stream;
use http::{HeaderMap, HeaderName, Method};
use percent_encoding::percent_decode_str;
use tokio::sync::{Semaphore, SemaphorePermit};
use warp::reply::Response;

use super::{
    body,
    json::{decimal, shorten},
    problem,
    row::{At, BodyKind, RequestHead},
};
use crate::{
    backend::{Backend, Call},
    brought,
    error::{ApiError, ErrorCode},
};
use nomad_core::{
    group::{ModeError, RetrievalMode, StorageMode},
    model::{
        object::{ObjectId, Tier},
        trace::{TraceContext, TraceId},
    },
};
use nomad_service::Entrance;

const MODE: HeaderName = HeaderName::from_static("nomad-mode");

/// A request with its body.
pub struct RestRequest {
    shared: RestContext,
    at: At,
    head: RequestHead,
    query: String,
    body: Result<Bytes, ApiError>,
    /// The request as it was begun before its body was read.
    begun: Option<Call>,
}

/// What all requests share, without a way to print it.
#[derive(Clone)]
pub struct RestContext {
    /// The node.
    pub backend: Arc<Backend>,
    /// Permits for requests that wait for something to happen.
    long_polls: Arc<Semaphore>,
}

impl RestContext {
    /// The most requests that wait at once. They are exempt from `limits.requests`, so without a limit of their own they
    /// could leave the probes of the node's health no place.
    pub const LONG_POLLS_MAX: usize = 32;

    /// Shares a node.
    pub fn new(backend: Arc<Backend>) -> Self {
        Self { backend, long_polls: Arc::new(Semaphore::new(Self::LONG_POLLS_MAX)) }
    }
}

/// What a handler comes to.
pub type RestResult = Result<Response, ApiError>;

impl RestRequest {
    /// Puts a request together, without its body.
    pub fn new(shared: RestContext, at: At, head: RequestHead, query: String) -> Self {
        Self { shared, at, head, query, body: Ok(Bytes::new()), begun: None }
    }

    /// Begins the request and reads its body, so that the record of one whose client goes away in the middle is there
    /// too, and tells how long the body took.
    pub async fn read<S, B>(&mut self, kind: BodyKind, parts: S)
    where
        S: Stream<Item = Result<B, warp::Error>> + Unpin,
        B: Buf,
    {
        let mut call = self.begin();
        let max_bytes = self.backend().config.node.storage.max_object_bytes;
        self.body = body::collect(kind, &self.head.headers, max_bytes, parts).await;
        call.is_in();
        self.begun = Some(call);
    }

    /// Returns the node.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.shared.backend
    }

    /// Takes a place among those who wait, held until the permit is dropped.
    ///
    /// # Errors
    /// When as many wait as may.
    pub fn begin_waiting(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        self.shared.long_polls.try_acquire().map_err(|_| {
            let detail = format!(
                "{} requests wait for steps already, as many as may; ask without wait",
                RestContext::LONG_POLLS_MAX
            );
            ApiError::new(ErrorCode::ResourceExhausted, detail)
        })
    }

    /// Returns the method.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// Returns all headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Returns the body.
    ///
    /// # Errors
    /// When it did not arrive as it should.
    pub fn body(&self) -> Result<Bytes, ApiError> {
        self.body.clone()
    }

    // ---- what it names ----

    /// Returns the path's parameter as the id of an object.
    ///
    /// # Errors
    /// Says which rule of an id it breaks.
    pub fn id(&self) -> Result<ObjectId, ApiError> {
        let raw = self.at.parameter();
        if !raw.contains('%') {
            return Ok(ObjectId::parse(raw)?);
        }
        check_escapes("id", raw)?;
        let bytes: Cow<'_, [u8]> = percent_decode_str(raw).into();
        Ok(ObjectId::parse_bytes(&bytes)?)
    }

    /// Returns the path's parameter as text.
    ///
    /// # Errors
    /// When it is no UTF-8.
    pub fn name(&self) -> Result<Cow<'_, str>, ApiError> {
        decode("name", self.at.parameter())
    }

    /// Returns a parameter of the query; absent = `None`.
    ///
    /// # Errors
    /// When it is there twice, or is no UTF-8.
    pub fn query(&self, name: &'static str) -> Result<Option<String>, ApiError> {
        let mut found = None;
        for pair in self.query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if key != name {
                continue;
            }
            if found.is_some() {
                let detail = format!("the query parameter {name} is there twice; give it once");
                return Err(ApiError::invalid(name, detail));
            }
            found = Some(decode(name, &value.replace('+', " "))?.into_owned());
        }
        Ok(found)
    }

    /// Returns an integer of the query within a range; absent = `None`.
    ///
    /// # Errors
    /// When it is none, or outside.
    pub fn query_number(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.query(name)? else { return Ok(None) };
        let number = decimal(&text).and_then(|number| u64::try_from(number).ok());
        number.filter(|number| range.contains(number)).map(Some).ok_or_else(|| {
            let (text, first, last) = (shorten(&text), range.start(), range.end());
            let detail =
                format!("{name} is {text:?}, but must be an integer from {first} to {last}");
            ApiError::invalid(name, detail)
        })
    }

    /// Returns a header that may stand there once; absent = `None`.
    ///
    /// # Errors
    /// When it is there several times, or is no text.
    pub fn header(&self, name: &'static str) -> Result<Option<&str>, ApiError> {
        let mut values = self.head.headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            let detail = format!("the header {name} is there several times; give it once");
            return Err(ApiError::invalid(name, detail));
        }
        let text = value.to_str().map_err(|_| {
            ApiError::invalid(
                name,
                format!("the header {name} is {value:?}, which is no ASCII text"),
            )
        })?;
        Ok(Some(text.trim()))
    }

    /// Returns the mode that a write names in `Nomad-Mode`.
    ///
    /// # Errors
    /// When it is none of a write.
    pub fn storage_mode(&self) -> Result<Option<StorageMode>, ApiError> {
        self.mode()
    }

    /// Returns the mode that a read names in `Nomad-Mode`.
    ///
    /// # Errors
    /// When it is none of a read.
    pub fn retrieval_mode(&self) -> Result<Option<RetrievalMode>, ApiError> {
        self.mode()
    }

    fn mode<M: FromStr<Err = ModeError>>(&self) -> Result<Option<M>, ApiError> {
        if !self.head.headers.contains_key(MODE) {
            return Ok(None);
        }
        Ok(self.header("nomad-mode")?.map(str::parse).transpose()?)
    }

    // ---- how it is answered ----

    /// Begins the request, unless it was begun to read its body.
    fn begin(&mut self) -> Call {
        if let Some(begun) = self.begun.take() {
            return begun;
        }
        let trace = brought::trace(&self.head.headers);
        Call::begin(self.backend(), Entrance::Rest, self.head.call, trace, None)
    }

    /// Begins the call, lets `work` answer it, and ends it with that answer.
    pub async fn answer(
        mut self,
        work: impl AsyncFnOnce(&mut Call, &Self) -> RestResult,
    ) -> Response {
        let mut call = self.begin();
        let answer = work(&mut call, &self).await;
        let response = finish(self.backend(), call.request_id(), answer);
        call.finish(response.status().as_u16());
        response
    }

    /// Answers without a record: for those who look at the node, so that looking leaves no trace.
    pub fn show(&self, answer: RestResult) -> Response {
        let request = trace_of(self.backend(), brought::trace(&self.head.headers));
        finish(self.backend(), request, answer)
    }
}

/// Completes an answer: makes the problem of an error, names the request, says how durable what it tells is.
pub fn finish(backend: &Backend, request: TraceId, answer: RestResult) -> Response {
    let mut response = answer.unwrap_or_else(|error| problem::problem(&error, request));
    problem::name_request(&mut response, request);
    if !response.headers().contains_key(problem::DURABILITY) {
        problem::state_durability(&mut response, backend.service.assurance(Tier::Group, None));
    }
    response
}

/// Names a request that has no [`Call`].
pub fn trace_of(backend: &Backend, brought: Option<TraceContext>) -> TraceId {
    brought.unwrap_or_else(|| backend.service.kit.recorder.new_trace()).trace
}

/// Refuses a percent sign that starts no escape, which nobody can mean.
fn check_escapes(name: &'static str, raw: &str) -> Result<(), ApiError> {
    let bytes = raw.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let broken = raw.match_indices('%').find(|(at, _)| !is_hex(at + 1) || !is_hex(at + 2));
    broken.map_or(Ok(()), |_| {
        let raw = shorten(raw);
        let detail = format!("{name} is {raw:?}, where a % starts no escape; write %25 for a %");
        Err(ApiError::invalid(name, detail))
    })
}

fn decode<'a>(name: &'static str, raw: &'a str) -> Result<Cow<'a, str>, ApiError> {
    check_escapes(name, raw)?;
    percent_decode_str(raw).decode_utf8().map_err(|_| {
        ApiError::invalid(name, format!("{name} is {:?}, which is not UTF-8", shorten(raw)))
    })
}
