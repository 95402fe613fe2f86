//! How a call passes through tonic's server: the edge lays it into the request's extensions, the handler takes it out
//! and ends it. A call that still lies there when the server has answered was refused before its handler was reached.

use std::{
    pin::Pin,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream::BoxStream};
use http::{HeaderMap, HeaderName};
use tokio::time::Sleep;
use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap};

use super::{head, status};
use crate::{
    backend::{Call, durability_header},
    connection::Weight,
    error::{ApiError, ErrorCode},
};
use nomad_core::{group::ModeError, model::trace::TraceId};
use nomad_service::Assurance;

/// Says how durable what an answer tells is.
pub(super) const DURABILITY: HeaderName = HeaderName::from_static("nomad-durability");

/// What a method of a generated service returns.
pub(super) type GrpcResult<M> = Result<Response<M>, Status>;

/// Where a call lies until its handler is reached.
#[derive(Clone)]
pub(super) struct CallSlot(Arc<Waiting>);

struct Waiting {
    call: Mutex<Option<Call>>,
    timeout: Option<Duration>,
}

impl CallSlot {
    pub(super) fn new(call: Call, timeout: Option<Duration>) -> Self {
        Self(Arc::new(Waiting { call: Mutex::new(Some(call)), timeout }))
    }

    /// Takes the call, unless it was taken before.
    pub(super) fn take(&self) -> Option<Call> {
        self.0.call.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A call whose message has been read.
pub(super) struct GrpcCall {
    pub(super) call: Call,
    headers: HeaderMap,
    timeout: Option<Duration>,
    /// What the answer says of a write; `None` = nothing was written.
    durability: Option<Assurance>,
    /// The bytes of value that the answer carries.
    value_bytes: usize,
}

/// What an answer may carry without being counted: less than a message's frame costs.
const UNCOUNTED_BYTES: usize = 16 << 10;

impl GrpcCall {
    /// Takes a request apart: its call, and its message.
    pub(super) fn take<M>(request: Request<M>) -> Result<(Self, M), Status> {
        let (metadata, extensions, message) = request.into_parts();
        let waiting = extensions.get::<CallSlot>().map(|slot| (slot.take(), slot.0.timeout));
        let Some((Some(call), timeout)) = waiting else {
            return Err(Status::internal("the request has no call; it did not come by the edge"));
        };
        let headers = metadata.into_headers();
        Ok((Self { call, headers, timeout, durability: None, value_bytes: 0 }, message))
    }

    /// Returns the mode that the request names, if it names one.
    ///
    /// # Errors
    /// When it is no mode for this kind of request.
    pub(super) fn mode<M: FromStr<Err = ModeError>>(&self) -> Result<Option<M>, ApiError> {
        head::mode(&self.headers)
    }

    /// Says how durable the write is that the answer tells of.
    pub(super) fn wrote(&mut self, durability: Assurance) {
        self.durability = Some(durability);
    }

    /// Says how many bytes of value the answer carries.
    pub(super) fn carries(&mut self, value_bytes: usize) {
        self.value_bytes = value_bytes;
    }

    /// Ends the call with its answer.
    pub(super) fn answer<M>(self, answered: Result<M, ApiError>) -> GrpcResult<M> {
        let Self { call, durability, value_bytes, .. } = self;
        let (code, answered) = match answered {
            Ok(message) => {
                // With the content type, the name of the request and the date.
                let mut headers = HeaderMap::with_capacity(6);
                if let Some(durability) = durability {
                    headers.insert(DURABILITY, durability_header(durability));
                }
                let metadata = MetadataMap::from_headers(headers);
                let mut extensions = Extensions::new();
                if value_bytes > UNCOUNTED_BYTES {
                    extensions.insert(Weight(value_bytes as u64));
                }
                (Code::Ok, Ok(Response::from_parts(metadata, message, extensions)))
            }
            Err(error) => (error.code.grpc(), Err(status::status(&error, call.request_id()))),
        };
        finish(call, code);
        answered
    }

    /// Ends the call with messages that come one by one, for as long as the caller waits at most.
    pub(super) fn stream<M>(
        self,
        messages: Result<impl Stream<Item = Result<M, ApiError>> + Send + 'static, ApiError>,
    ) -> GrpcResult<MessageStream<M>> {
        let (id, timeout) = (self.call.request_id(), self.timeout);
        self.answer(messages.map(|messages| MessageStream {
            open: Some(messages.boxed()),
            deadline: timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout))),
            id,
        }))
    }
}

/// Records the end of a call.
pub(super) fn finish(call: Call, code: Code) {
    // The codes are 0 to 16.
    call.finish(code as i32 as u16);
}

/// The messages of a stream, which ends with its first error, or at its deadline with one.
pub(super) struct MessageStream<M> {
    /// `None` once it has ended.
    open: Option<BoxStream<'static, Result<M, ApiError>>>,
    deadline: Option<Pin<Box<Sleep>>>,
    id: TraceId,
}

impl<M> Stream for MessageStream<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(open) = this.open.as_mut() else { return Poll::Ready(None) };
        let late = this.deadline.as_mut().is_some_and(|at| at.as_mut().poll(cx).is_ready());
        let next = if late {
            let detail = "the stream has reached the end of its grpc-timeout; open it again";
            Some(Err(ApiError::new(ErrorCode::DeadlineExceeded, detail)))
        } else {
            ready!(open.poll_next_unpin(cx))
        };
        if !matches!(next, Some(Ok(_))) {
            this.open = None;
        }
        Poll::Ready(next.map(|next| next.map_err(|error| status::status(&error, this.id))))
    }
}

/// Makes a service out of its methods, one row each: what it takes, what it answers, and the work that gives the fields of
/// the answer, or the whole answer where the row names no fields. Methods that are more than that follow in braces.
macro_rules! answers {
    ($service:ident, $held:ident {$(
        $method:ident($request:ident: $asked:ty) -> $answer:ty $({ $($field:ident),+ })? = $work:expr;
    )+} {$($more:tt)*}) => {
        #[allow(unused_parens, reason = "most answers have one field, some two")]
        #[tonic::async_trait]
        impl $service for Services {
            $(async fn $method(&self, request: Request<$asked>) -> GrpcResult<$answer> {
                let (mut held, $request) = GrpcCall::take(request)?;
                let $held = &mut held;
                let done = $work.await;
                held.answer(done$(.map(|($($field),+)| {
                    type Answer = $answer;
                    Answer { $($field),+ }
                }))?)
            })+

            $($more)*
        }
    };
}

pub(super) use answers;
