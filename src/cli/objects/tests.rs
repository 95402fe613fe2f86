//! The object commands against a server that answers as it is told and remembers what it was asked.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use clap::FromArgMatches as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::Mutex, task::JoinHandle};

use super::*;
use crate::{
    args::{Cli, Command},
    help,
};

/// What a request was: its method and path, its headers as `name: value`, its body.
type Asked = (String, Vec<String>, Vec<u8>);

/// A node that gives every request the same answer.
struct Node {
    rest: Rest,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Node {
    async fn answering(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let mut answer = Response::new(Bytes::from(body.to_owned()));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            answer.headers_mut().insert(name, value.parse().unwrap());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&asked);
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, asked) = (answer.clone(), Arc::clone(&remembered));
                let service = service_fn(move |request| {
                    let (answer, asked) = (answer.clone(), Arc::clone(&asked));
                    async move {
                        asked.lock().await.push(read(request).await);
                        Ok::<_, Infallible>(answer.map(Full::new))
                    }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        let rest = Rest::new(base, std::time::Duration::from_secs(30));
        Self { rest, asked, server }
    }

    /// Runs a command line, and returns what it printed and what it asked.
    async fn run(&self, line: &[&str]) -> (Result<String, CliError>, Vec<Asked>) {
        let matches = help::command().get_matches_from([&["nomad"], line].concat());
        let done = match Cli::from_arg_matches(&matches).unwrap().command {
            Command::Put(args) => put(&self.rest, &args).await,
            Command::Update(args) => update(&self.rest, &args).await,
            Command::Get(args) => get(&self.rest, &args).await,
            Command::Delete(args) => delete(&self.rest, &args).await,
            other => panic!("{other:?}"),
        };
        let printed = done.map(|bytes| String::from_utf8(bytes).unwrap());
        (printed, std::mem::take(&mut *self.asked.lock().await))
    }
}

async fn read(request: Request<Incoming>) -> Asked {
    let line = format!("{} {}", request.method(), request.uri());
    let shown =
        |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
    let headers = request.headers().iter().map(shown).collect();
    let body = request.into_body().collect().await.unwrap().to_bytes().to_vec();
    (line, headers, body)
}

fn has(asked: &Asked, header: &str) -> bool {
    asked.1.iter().any(|own| own == header)
}

#[tokio::test]
async fn put_creates_with_all_that_the_flags_say() {
    let headers = [("etag", "\"v-1\""), ("nomad-durability", "quorum")];
    let node = Node::answering(201, &headers, "").await;
    let line = "put a/b {} --ttl 1h --content-type application/json --mode safe";
    let (printed, asked) = node.run(&line.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(printed.unwrap(), "created a/b, version v-1, durable: quorum\n");
    let [asked] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((&*asked.0, &*asked.2), ("PUT /nomad/v1/objects/a%2Fb", &b"{}"[..]));
    for header in [
        "if-none-match: *",
        "nomad-ttl: 3600",
        "content-type: application/json",
        "nomad-mode: safe",
    ] {
        assert!(has(asked, header), "{header} in {asked:?}");
    }
    let (printed, asked) =
        node.run(&["put", "a", "-1", "--expires", "99", "--output", "json"]).await;
    let document: Value = serde_json::from_str(&printed.unwrap()).unwrap();
    assert_eq!((&document["id"], &document["version"]), (&json!("a"), &json!("v-1")));
    assert!(has(&asked[0], "nomad-expires: 99") && asked[0].2 == b"-1", "{asked:?}");
}

#[tokio::test]
async fn a_condition_that_does_not_hold_says_what_to_do_instead() {
    let problem = r#"{"detail":"it holds not","code":"FAILED_PRECONDITION","requestId":"4bf9"}"#;
    let node = Node::answering(412, &[], problem).await;
    let cases: [(&[&str], &str); 4] = [
        (&["put", "a", "x"], "nomad update replaces it"),
        (&["update", "a", "x"], "nomad put creates it"),
        (&["update", "a", "x", "--if-version", "\"v-1\""], "(FAILED_PRECONDITION, request 4bf9)"),
        (&["delete", "a", "--if-version", "v-1"], "(FAILED_PRECONDITION, request 4bf9)"),
    ];
    for (line, end) in cases {
        let (printed, asked) = node.run(line).await;
        let error = printed.unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot {} \"a\": it holds not", line[0])), "{error}");
        assert!(error.ends_with(end), "{error}");
        let condition = match line {
            ["put", ..] => "if-none-match: *",
            [_, _, "x"] => "if-match: *",
            _ => "if-match: \"v-1\"",
        };
        assert!(has(&asked[0], condition), "{asked:?}");
    }
}

#[tokio::test]
async fn get_gives_the_bytes_or_the_object() {
    let node = Node::answering(200, &[], r#"{"id":"a","creationTime":7}"#).await;
    let (printed, asked) = node.run(&["get", "a", "--mode", "parallel"]).await;
    assert_eq!(printed.unwrap(), r#"{"id":"a","creationTime":7}"#);
    assert!(has(&asked[0], "nomad-mode: parallel"), "{asked:?}");
    let (printed, asked) = node.run(&["get", "a", "--output", "json"]).await;
    let document: Value = serde_json::from_str(&printed.unwrap()).unwrap();
    // What is empty may be absent in the node's answer, but not in ours.
    let whole = json!({"id": "a", "creationTime": 7, "lastModified": 0, "ttl": 0, "value": ""});
    assert_eq!(document, whole);
    assert_eq!(asked[0].0, "GET /nomad/storage/get/a");
    for (line, paths) in [
        (
            &["get", "a", "--output", "json", "--mode", "safe"][..],
            &["/nomad/group-storage/safe-get/a"][..],
        ),
        // Under /nomad/storage/get/ this would be the health of the node.
        (
            &["get", "health", "--output", "json"],
            &["/nomad/v1/status", "/nomad/group-storage/fast-get/health"],
        ),
    ] {
        let (_, asked) = node.run(line).await;
        let asked: Vec<_> =
            asked.iter().map(|(line, ..)| line.trim_start_matches("GET ")).collect();
        assert_eq!(asked, paths, "{line:?}");
    }
}

#[tokio::test]
async fn a_node_that_is_not_there_or_is_none_is_named() {
    let node = Node::answering(200, &[], "<html>").await;
    let (printed, _) = node.run(&["get", "a", "--output", "json"]).await;
    let error = printed.unwrap_err().to_string();
    assert!(error.contains("/nomad/storage/get/a is not that of a nomad node"), "{error}");
    // A port that was just given up: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let base = format!("http://127.0.0.1:{port}").parse().unwrap();
    let nobody = Rest::new(base, std::time::Duration::from_secs(30));
    let error = nobody.send(CliRequest::get("/", "look")).await.unwrap_err().to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}")) && error.contains("refused"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_not_waited_for_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let silent = Rest::new(base, std::time::Duration::from_secs(10));
    let error = silent.send(CliRequest::get("/", "look")).await.unwrap_err().to_string();
    assert!(error.contains("within 10s"), "{error}");
}
