//! stub
#![allow(missing_docs)]
use super::{
    backend::Backend,
    body::LimitedBody,
    error::ApiError,
    listener::{Edge, Protocol},
};
use http::*;
use hyper::body::Incoming;
use std::sync::Arc;
#[derive(Clone)]
pub struct E;
impl Edge for E {
    type Body = http_body_util::Full<bytes::Bytes>;
    const PROTOCOL: Protocol = Protocol::Http1;
    fn body_bytes_max(&self) -> u64 {
        1
    }
    fn is_exempt(&self, _: &str) -> bool {
        false
    }
    async fn call(&self, _: Request<LimitedBody<Incoming>>) -> Response<Self::Body> {
        Response::default()
    }
    fn refuse(&self, _: &Request<Incoming>, _: &ApiError) -> Response<Self::Body> {
        Response::default()
    }
}
pub fn edge(_: Arc<Backend>) -> E {
    E
}
pub fn storage_edge(_: Arc<Backend>) -> E {
    E
}
pub fn peer_edge(_: Arc<Backend>) -> E {
    E
}
