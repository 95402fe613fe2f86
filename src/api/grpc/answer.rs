//! What goes back: the head with its metadata, one message or a stream of them, and the trailers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream::BoxStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use prost::Message;
use tokio::time::Sleep;
use tonic::{Code, Status};

use super::{frame, status};
use crate::{
    api::{
        backend::Call,
        error::{ApiError, ErrorCode},
    },
    core::{object::Tier, trace::TraceId},
};

const DURABILITY: HeaderName = HeaderName::from_static("nomad-durability");
const REQUEST_ID: HeaderName = HeaderName::from_static("nomad-request-id");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A successful answer.
pub(super) struct Answer {
    body: GrpcBody,
    durability: HeaderValue,
}

impl Answer {
    /// Answers with one message.
    pub(super) fn unary(message: &impl Message, durability: String) -> Self {
        let body = GrpcBody(State::Message(frame::encode(message)));
        Self { body, durability: text_value(durability) }
    }

    /// Answers a call that wrote nothing.
    pub(super) fn read(call: &Call, message: &impl Message) -> Self {
        Self::unary(message, call.backend().durability(Tier::Group, None))
    }

    /// Answers with messages as they come, each with its head, for at most `timeout`.
    pub(super) fn stream(
        call: &Call,
        messages: impl Stream<Item = Result<Bytes, ApiError>> + Send + 'static,
        timeout: Option<Duration>,
    ) -> Self {
        let deadline = timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout)));
        let messages = messages.boxed();
        let streaming = Streaming { messages, deadline, id: call.request_id() };
        let durability = text_value(call.backend().durability(Tier::Group, None));
        Self { body: GrpcBody(State::Stream(Box::new(streaming))), durability }
    }
}

/// Ends a call with its answer.
pub(super) fn finish(call: Call, answered: Result<Answer, ApiError>) -> Response<GrpcBody> {
    let id = call.request_id();
    let (mut response, code) = match answered {
        Ok(Answer { body, durability }) => {
            let mut response = Response::new(body);
            let headers = response.headers_mut();
            headers.reserve(4);
            headers.insert(CONTENT_TYPE, GRPC);
            headers.insert(DURABILITY, durability);
            (response, Code::Ok)
        }
        Err(error) => (status::response(&error, id), error.code.grpc()),
    };
    response.headers_mut().insert(REQUEST_ID, text_value(id.to_string()));
    // The codes are 0 to 16.
    call.finish(code as i32 as u16);
    response
}

/// Takes text of ours, which is visible ASCII.
fn text_value(text: String) -> HeaderValue {
    match text.as_str() {
        "local" => HeaderValue::from_static("local"),
        "quorum" => HeaderValue::from_static("quorum"),
        _ => HeaderValue::from_maybe_shared(Bytes::from(text))
            .unwrap_or(HeaderValue::from_static("")),
    }
}

/// The body of an answer.
#[derive(Default)]
pub struct GrpcBody(State);

#[derive(Default)]
enum State {
    /// Nothing more: the head has said all, or the trailers have gone.
    #[default]
    Done,
    /// One message, then the trailers.
    Message(Bytes),
    /// The trailers of a success.
    Trailers,
    /// Messages as they come, then the trailers.
    Stream(Box<Streaming>),
}

struct Streaming {
    messages: BoxStream<'static, Result<Bytes, ApiError>>,
    deadline: Option<Pin<Box<Sleep>>>,
    id: TraceId,
}

impl Streaming {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ApiError>>> {
        if let Some(deadline) = self.deadline.as_mut()
            && deadline.as_mut().poll(cx).is_ready()
        {
            let detail = "the stream has reached the end of its grpc-timeout; open it again";
            return Poll::Ready(Some(Err(ApiError::new(ErrorCode::DeadlineExceeded, detail))));
        }
        self.messages.poll_next_unpin(cx)
    }
}

impl Body for GrpcBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let state = &mut self.0;
        if let State::Stream(streaming) = state {
            match ready!(streaming.poll_next(cx)) {
                Some(Ok(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Some(Err(error)) => {
                    let mut trailers = HeaderMap::new();
                    status::status(&error, streaming.id).add_header(&mut trailers)?;
                    *state = State::Done;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                None => *state = State::Trailers,
            }
        }
        Poll::Ready(match std::mem::take(state) {
            State::Message(message) => {
                *state = State::Trailers;
                Some(Ok(Frame::data(message)))
            }
            State::Trailers => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            State::Done | State::Stream(_) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, State::Done)
    }
}
