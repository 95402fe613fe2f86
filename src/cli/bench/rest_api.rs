//! The two REST APIs of the contract as a load worker uses them: operation to request, answer to outcome. No IO.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{CONTENT_TYPE, IF_NONE_MATCH},
};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::{
    client::{BAD_RESPONSE, OpFailure, OpReply},
    mix::OpKind,
    plan::Mode,
    target::BenchApi,
    workload::BenchOperation,
};

/// What is escaped in an id; the others may stand in a path segment as they are.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// The largest answer that is read: the value as base64, and room for the rest or for an error's text.
pub(super) fn answer_limit_bytes(value_size_bytes: usize) -> usize {
    value_size_bytes.saturating_mul(4) / 3 + 64 * 1024
}

/// One of the two APIs, at its place.
pub(super) struct RestApi {
    pub api: BenchApi,
    /// What stands before `/nomad`.
    pub path_prefix: String,
    pub mode: Option<Mode>,
}

#[derive(Serialize)]
struct JsonObject<'a> {
    id: &'a str,
    value: String,
}

#[derive(Deserialize)]
struct JsonValue<'a> {
    #[serde(borrow, default)]
    value: Cow<'a, str>,
}

#[derive(Deserialize)]
struct JsonResult {
    result: bool,
}

#[derive(Deserialize)]
struct ProblemBody {
    code: String,
    #[serde(default)]
    detail: String,
}

impl RestApi {
    /// The request for one operation, without its `Host` header.
    pub(super) fn request(&self, op: &BenchOperation) -> Result<Request<Full<Bytes>>, OpFailure> {
        let (method, path) = self.line(op);
        let mut request = Request::builder().method(method).uri(path);
        if let Some(mode) = self.mode {
            let mode = HeaderValue::from_static(mode.for_operation(op.kind));
            request = request.header("nomad-mode", mode);
        }
        let is_write = matches!(op.kind, OpKind::Put | OpKind::Update);
        let body = match self.api {
            _ if !is_write => Bytes::new(),
            BenchApi::Objects => {
                if op.kind == OpKind::Put {
                    request = request.header(IF_NONE_MATCH, "*");
                }
                request = request.header(CONTENT_TYPE, "application/octet-stream");
                op.value.clone()
            }
            BenchApi::Storage => {
                request = request.header(CONTENT_TYPE, "application/json");
                let object = JsonObject { id: &op.key, value: BASE64.encode(&op.value) };
                let json = serde_json::to_vec(&object);
                json.map_err(|error| OpFailure::answered(BAD_RESPONSE, error.to_string()))?.into()
            }
        };
        let request = request.body(Full::new(body));
        request.map_err(|error| OpFailure::answered(BAD_RESPONSE, error.to_string()))
    }

    fn line(&self, op: &BenchOperation) -> (Method, String) {
        let id = utf8_percent_encode(&op.key, ESCAPED);
        let (method, path) = match (self.api, op.kind) {
            (BenchApi::Objects, OpKind::Get) => (Method::GET, format!("v1/objects/{id}")),
            (BenchApi::Objects, OpKind::Delete) => (Method::DELETE, format!("v1/objects/{id}")),
            (BenchApi::Objects, _) => (Method::PUT, format!("v1/objects/{id}")),
            (BenchApi::Storage, OpKind::Get) => (Method::GET, format!("storage/get/{id}")),
            (BenchApi::Storage, OpKind::Put) => (Method::POST, "storage/put".to_owned()),
            (BenchApi::Storage, OpKind::Update) => (Method::PUT, "storage/update".to_owned()),
            (BenchApi::Storage, OpKind::Delete) => (Method::DELETE, format!("storage/delete/{id}")),
        };
        (method, format!("{}/nomad/{path}", self.path_prefix))
    }

    /// What an answer means for its operation.
    pub(super) fn judge(
        &self,
        op: &BenchOperation,
        status: StatusCode,
        body: &Bytes,
    ) -> Result<OpReply, OpFailure> {
        if !status.is_success() {
            return Err(problem(status, body));
        }
        match (self.api, op.kind) {
            (BenchApi::Objects, OpKind::Get) => Ok(OpReply { value_bytes: body.len() as u64 }),
            (BenchApi::Objects, _) => Ok(OpReply { value_bytes: 0 }),
            (BenchApi::Storage, OpKind::Get) => {
                let object: JsonValue = parse(body)?;
                Ok(OpReply { value_bytes: decoded_len(&object.value) })
            }
            (BenchApi::Storage, _) => match parse::<JsonResult>(body)?.result {
                true => Ok(OpReply { value_bytes: 0 }),
                false => Err(OpFailure::refused(op)),
            },
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, OpFailure> {
    serde_json::from_slice(body).map_err(|error| {
        let text = String::from_utf8_lossy(body);
        OpFailure::answered(BAD_RESPONSE, format!("{error} in answer {text:?}"))
    })
}

/// The node's error code, or the bare status of an answer that has none.
fn problem(status: StatusCode, body: &Bytes) -> OpFailure {
    match serde_json::from_slice::<ProblemBody>(body) {
        Ok(problem) => OpFailure::answered(problem.code, problem.detail),
        Err(_) => {
            let text = String::from_utf8_lossy(body).into_owned();
            OpFailure::answered(format!("HTTP_{}", status.as_u16()), text)
        }
    }
}

/// Number of bytes that a base64 text stands for.
fn decoded_len(text: &str) -> u64 {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    ((text.len() - padding) * 3 / 4) as u64
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::bench::{
        plan::BenchPlan,
        target::BenchTarget,
        workload::{ValuePool, Workload},
    };

    fn rest(api: BenchApi, mode: Option<Mode>) -> RestApi {
        RestApi { api, path_prefix: "/edge".to_owned(), mode }
    }

    fn op(kind: OpKind) -> BenchOperation {
        let target = BenchTarget::Grpc { storage: "127.0.0.1:1".parse().unwrap() };
        let plan =
            BenchPlan { key_prefix: "a b/ü".to_owned(), key_count: 1, ..BenchPlan::new(target) };
        Workload::new(&plan, ValuePool::new(&plan), "run", 0).fill(kind, 7)
    }

    fn text<'a>(request: &'a Request<Full<Bytes>>, name: &str) -> Option<&'a str> {
        request.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn the_objects_api_sends_raw_bytes_and_creates_conditionally() {
        let path = "/edge/nomad/v1/objects/a%20b%2F%C3%BC:k000000007";
        let rest = rest(BenchApi::Objects, Some(Mode::Parallel));
        let cases = [
            (OpKind::Get, Method::GET, None, "parallel"),
            (OpKind::Put, Method::PUT, Some("*"), "safe"),
            (OpKind::Update, Method::PUT, None, "safe"),
            (OpKind::Delete, Method::DELETE, None, "safe"),
        ];
        for (kind, method, condition, mode) in cases {
            let op = op(kind);
            let request = rest.request(&op).unwrap();
            assert_eq!((request.method(), request.uri().to_string().as_str()), (&method, path));
            assert_eq!(text(&request, "if-none-match"), condition);
            assert_eq!(text(&request, "nomad-mode"), Some(mode));
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, op.value);
        }
    }

    #[tokio::test]
    async fn the_storage_api_sends_json_with_base64() {
        let rest = rest(BenchApi::Storage, None);
        let id = "a%20b%2F%C3%BC:k000000007";
        let cases = [
            (OpKind::Get, Method::GET, format!("/edge/nomad/storage/get/{id}")),
            (OpKind::Put, Method::POST, "/edge/nomad/storage/put".to_owned()),
            (OpKind::Update, Method::PUT, "/edge/nomad/storage/update".to_owned()),
            (OpKind::Delete, Method::DELETE, format!("/edge/nomad/storage/delete/{id}")),
        ];
        for (kind, method, path) in cases {
            let op = op(kind);
            let request = rest.request(&op).unwrap();
            assert_eq!((request.method(), request.uri().to_string()), (&method, path));
            assert_eq!(text(&request, "nomad-mode"), None);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            if op.value.is_empty() {
                assert!(body.is_empty());
            } else {
                let expected = json!({"id": op.key, "value": BASE64.encode(&op.value)});
                assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
            }
        }
    }

    #[test]
    fn answers_mean_what_the_contract_says() {
        let (objects, storage) = (rest(BenchApi::Objects, None), rest(BenchApi::Storage, None));
        let ok = |value_bytes| Ok(OpReply { value_bytes });
        let judge = |api: &RestApi, kind, status: u16, body: &'static str| {
            let status = StatusCode::from_u16(status).unwrap();
            api.judge(&op(kind), status, &Bytes::from_static(body.as_bytes()))
                .map_err(|failure| failure.code.into_owned())
        };
        assert_eq!(judge(&objects, OpKind::Get, 200, "12345"), ok(5));
        assert_eq!(judge(&objects, OpKind::Put, 201, ""), ok(0));
        assert_eq!(judge(&objects, OpKind::Update, 204, ""), ok(0));
        assert_eq!(judge(&objects, OpKind::Delete, 204, ""), ok(0));
        let problem = r#"{"type":"about:blank","status":429,"code":"RESOURCE_EXHAUSTED"}"#;
        let code = |code: &str| Err(code.to_owned());
        assert_eq!(judge(&objects, OpKind::Get, 429, problem), code("RESOURCE_EXHAUSTED"));
        assert_eq!(judge(&objects, OpKind::Get, 502, "<html>"), code("HTTP_502"));

        let object = r#"{"id":"x","creationTime":1,"value":"YWJjZA==","ttl":"5"}"#;
        assert_eq!(judge(&storage, OpKind::Get, 200, object), ok(4));
        assert_eq!(judge(&storage, OpKind::Get, 200, r#"{"id":"x"}"#), ok(0));
        assert_eq!(judge(&storage, OpKind::Get, 200, "hello"), code(BAD_RESPONSE));
        let (yes, no) = (r#"{"result":true}"#, r#"{"result":false}"#);
        assert_eq!(judge(&storage, OpKind::Put, 200, yes), ok(0));
        assert_eq!(judge(&storage, OpKind::Put, 200, no), code("ALREADY_EXISTS"));
        assert_eq!(judge(&storage, OpKind::Delete, 200, no), code("NOT_FOUND"));
    }

    #[test]
    fn the_length_of_a_value_is_read_from_its_base64() {
        for length in 0..20 {
            let text = BASE64.encode(vec![1; length]);
            assert_eq!(decoded_len(&text), length as u64);
        }
    }
}
