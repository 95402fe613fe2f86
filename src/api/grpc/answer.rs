//! What goes back: the head with its metadata, one message or a stream of them, and the trailers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use prost::Message;
use tonic::{Code, Status};

use super::{frame, health::Watch, status};
use crate::{
    api::{backend::Call, error::ApiError},
    core::trace::TraceId,
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

    /// Answers with a stream.
    pub(super) fn watch(watch: Watch, durability: String) -> Self {
        Self { body: GrpcBody(State::Watch(Box::new(watch))), durability: text_value(durability) }
    }
}

/// Ends a call with its answer.
pub(super) fn finish(call: Call, answered: Result<Answer, ApiError>) -> Response<GrpcBody> {
    let id = call.request_id();
    let (response, code) = match answered {
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
    end(call, response, id, code)
}

/// Ends a call that a tonic service has answered.
pub(super) fn foreign(call: Call, answered: Response<tonic::body::Body>) -> Response<GrpcBody> {
    let code = Status::from_header_map(answered.headers()).map_or(Code::Ok, |s| s.code());
    let id = call.request_id();
    end(call, answered.map(|body| GrpcBody(State::Foreign(body))), id, code)
}

fn end(
    call: Call,
    mut response: Response<GrpcBody>,
    id: TraceId,
    code: Code,
) -> Response<GrpcBody> {
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
    Watch(Box<Watch>),
    /// What a tonic service answers.
    Foreign(tonic::body::Body),
}

impl Body for GrpcBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let state = &mut self.0;
        if let State::Foreign(body) = state {
            return Pin::new(body).poll_frame(cx);
        }
        if let State::Watch(watch) = state {
            match ready!(watch.poll_message(cx)) {
                Some(message) => return Poll::Ready(Some(Ok(Frame::data(message)))),
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
            _ => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Done => true,
            State::Foreign(body) => body.is_end_stream(),
            _ => false,
        }
    }
}
