//! Too much at once and too slow: admission refuses at once with a hint when to come back, and recovers; slow clients
//! are cut off; neither disturbs anybody else.

use std::time::Duration;

use crate::support::{
    eventually,
    grpc::{group, object, peer, refused},
    load::listed,
    node::Node,
    raw::{RawCall, RawGrpc, Wire, message},
    started,
};
use nomad_proto::{
    groupstorage::{GetObjectRequest, PutObjectRequest},
    peerservice::RemovePeerRequest,
};
use tonic::Code;
use tonic_types::StatusExt as _;

const PUT: &str = "/grpc.groupstorage.GroupStorageService/put";

/// How long a refusal may take, next to the slow requests that it must not wait for.
const PROMPT: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(15);

/// Uploads that hold every permit: the node waits for the rest of their bodies. More of them than there are permits, so
/// that none is left, whichever edge they are counted at.
struct Crowd {
    rest: Vec<Wire>,
    grpc: Vec<(RawCall, Vec<u8>)>,
    _connection: RawGrpc,
}

impl Crowd {
    async fn gather(node: &Node, permits: usize) -> Self {
        let mut rest = Vec::new();
        for n in 0..permits {
            let path = format!("/nomad/v1/objects/slow-{n}");
            rest.extend(Wire::slow_upload(&node.rest, &path, 4).await);
        }
        assert_eq!(rest.len(), permits, "uploads within the limit were refused");
        let mut connection = RawGrpc::open(&node.storage).await;
        let mut grpc = Vec::new();
        for n in 0..permits {
            let put = PutObjectRequest { object: Some(object(&format!("slow-grpc-{n}"), "x")) };
            let bytes = message(&put);
            let mut call = connection.start(PUT, &[]).await;
            call.body.send_data(bytes[..4].to_vec().into(), false).unwrap();
            grpc.push((call, bytes));
        }
        Self { rest, grpc, _connection: connection }
    }

    /// Sends what is missing. Each upload over REST was admitted, so it must succeed; those over gRPC either were
    /// admitted too, or were refused like anybody else.
    async fn finish(self) {
        for mut wire in self.rest {
            wire.write("body").await;
            wire.answer().await.expect(201);
        }
        for (mut call, bytes) in self.grpc {
            let _ = call.body.send_data(bytes[4..].to_vec().into(), true);
            let end = call.end().await;
            let fine = [Code::Ok as i32, Code::ResourceExhausted as i32].contains(&end.code);
            assert!(fine, "{end:?}");
        }
    }
}

/// Goal: over the limit a request is refused at once, with a hint; nothing else suffers; then it goes on.
#[tokio::test]
async fn over_the_limit_requests_are_refused_at_once_and_later_served() {
    let node = Node::builder().env("LIMITS_REQUESTS", 4).start();
    let http = node.http();
    http.call("PUT", "/nomad/v1/objects/there").body("x").send().await.expect(201);
    let crowd = Crowd::gather(&node, 4).await;
    for (method, path) in [
        ("GET", "/nomad/v1/objects/there"),
        ("PUT", "/nomad/v1/objects/refused"),
        ("DELETE", "/nomad/v1/objects/there"),
        ("GET", "/nomad/storage/get/there"),
        ("GET", "/nomad/v1/objects"),
    ] {
        let start = started();
        let answer = http.call(method, path).send().await;
        assert!(start.elapsed() < PROMPT, "{method} {path} took {:?}", start.elapsed());
        answer.problem(429, "RESOURCE_EXHAUSTED");
        let after: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&after), "Retry-After: {after}");
    }
    let mut client = group(&node).await;
    let start = started();
    let answer = client.get(GetObjectRequest { id: "there".to_owned() }).await;
    assert!(start.elapsed() < PROMPT, "took {:?}", start.elapsed());
    let status = refused(answer, Code::ResourceExhausted, "");
    let retry =
        status.get_details_retry_info().unwrap_or_else(|| panic!("no RetryInfo: {status:?}"));
    assert!(retry.retry_delay.unwrap() > Duration::ZERO, "{retry:?}");
    // Health and metrics still answer.
    http.get("/healthz").await.page(200);
    http.get("/metrics").await.page(200);
    crowd.finish().await;
    eventually("a served request", LIMIT, async || {
        let answer = http.get("/nomad/v1/objects/there").await;
        (answer.status == 200).then(|| assert_eq!(answer.body, "x"))
    })
    .await;
    assert!(client.get(GetObjectRequest { id: "there".into() }).await.unwrap().into_inner().result);
    let stored = listed(&http, "", 100).await;
    assert!(!stored.contains("refused") && stored.contains("slow-0"), "{stored:?}");
}

/// Goal: a caller who gives up gives its permit back.
#[tokio::test]
async fn permits_of_clients_that_disappear_come_back() {
    let node = Node::builder().env("LIMITS_REQUESTS", 2).start();
    for round in 0..5 {
        let crowd = Crowd::gather(&node, 2).await;
        node.http().get("/nomad/v1/objects/x").await.problem(429, "RESOURCE_EXHAUSTED");
        drop(crowd);
        eventually(&format!("a served request after round {round}"), LIMIT, async || {
            (node.http().get("/nomad/v1/objects/x").await.status == 404).then_some(())
        })
        .await;
        eventually(&format!("all permits after round {round}"), LIMIT, async || {
            let metrics = node.http().get("/metrics").await.page(200).text();
            metrics.lines().any(|line| line == "nomad_requests_in_hand 0.0").then_some(())
        })
        .await;
    }
    node.assert_serves().await;
}

/// Goal: the bytes of bodies in memory are bounded, whatever their number.
#[tokio::test]
async fn bodies_over_the_byte_limit_are_refused_at_once() {
    let builder = Node::builder().env("LIMITS_REQUESTBYTES", 280_000);
    let node = builder.env("NODE_STORAGE_MAXOBJECTBYTES", 50_000).start();
    let (mut waiting, mut stored, mut refused) = (Vec::new(), 0, 0);
    for n in 0..8 {
        let mut wire = Wire::open(&node.rest).await;
        let head = format!(
            "PUT /nomad/v1/objects/big-{n} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\
             Expect: 100-continue\r\n\r\n"
        );
        wire.write(head).await;
        let said = wire.read_head().await;
        match said.split(' ').nth(1) {
            Some("100") => waiting.push(wire),
            Some("429") => {
                assert!(said.to_lowercase().contains("\r\nretry-after: "), "{said}");
                refused += 1;
            }
            _ => panic!("{said}"),
        }
    }
    // One has all the room. The others share what there is, and some may be refused only when their bytes arrive.
    let mut first = waiting.remove(0);
    first.write(vec![b'x'; 50_000]).await;
    assert_eq!(first.answer().await.status, 201);
    stored += 1;
    for wire in &mut waiting {
        wire.try_write(vec![b'x'; 49_999]).await;
    }
    for mut wire in waiting {
        wire.try_write("x").await;
        match wire.answer().await {
            answer if answer.status == 201 => stored += 1,
            answer => {
                answer.problem(429, "RESOURCE_EXHAUSTED");
                refused += 1;
            }
        }
    }
    assert!(stored >= 1 && refused >= 1, "{stored} stored, {refused} refused");
    assert_eq!(listed(&node.http(), "", 100).await.len(), stored);
    node.http().call("PUT", "/nomad/v1/objects/next").body("x").send().await.expect(201);
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_headers_is_cut_off() {
    let node = Node::builder().env("LIMITS_HEADERTIMEOUT", "400ms").start();
    // Silent from the start, silent in the middle, and one byte at a time.
    let mut silent = Wire::open(&node.rest).await;
    let mut half = Wire::open(&node.rest).await;
    half.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\n").await;
    let mut drip = Wire::open(&node.rest).await;
    let dripping = async {
        drip.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Drip: ").await;
        let mut bytes = 0;
        while drip.try_write("a").await {
            bytes += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bytes
    };
    let bytes = crate::support::within("the end of a dripping client", LIMIT, dripping).await;
    assert!(bytes < 200, "{bytes} bytes at one per 50 ms");
    let said = half.read_to_close(LIMIT).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    silent.read_to_close(LIMIT).await;
    node.assert_serves().await;
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_body_gets_408() {
    let node = Node::builder().env("LIMITS_BODYTIMEOUT", "400ms").start();
    let start = started();
    let mut wire = Wire::slow_upload(&node.rest, "/nomad/v1/objects/slow", 1_000).await.unwrap();
    wire.write("some of it").await;
    wire.answer().await.problem(408, "REQUEST_TIMEOUT");
    assert!(start.elapsed() >= Duration::from_millis(300), "after {:?}", start.elapsed());
    // One byte at a time is no better.
    let mut drip = Wire::slow_upload(&node.rest, "/nomad/v1/objects/drip", 100_000).await.unwrap();
    let dripping = async {
        while drip.try_write("a").await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    crate::support::within("the end of a dripping client", LIMIT, dripping).await;
    let mut raw = RawGrpc::open(&node.storage).await;
    let mut call = raw.start(PUT, &[]).await;
    call.body.send_data(vec![0, 0, 0, 1, 0].into(), false).unwrap();
    let end = call.end().await;
    assert!(end.code > 0 && end.code != 2 && end.code != 13, "{end:?}");
    assert!(listed(&node.http(), "", 10).await.is_empty());
    node.assert_serves().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let node = Node::builder().env("LIMITS_IDLETIMEOUT", "400ms").start();
    let mut wire = Wire::open(&node.rest).await;
    let request = format!("GET /nomad/v1/status HTTP/1.1\r\nHost: {}\r\n\r\n", node.rest);
    for _ in 0..2 {
        wire.write(&request).await;
        wire.answer().await.expect(200);
    }
    assert!(wire.read_to_close(LIMIT).await.is_empty());
    node.assert_serves().await;
}

/// `limits.requestTimeout` bounds what the node itself may take; with nothing to wait for it is never met.
#[tokio::test]
async fn a_short_request_timeout_refuses_nothing_that_is_quick() {
    let node = Node::builder().env("LIMITS_REQUESTTIMEOUT", "2s").start();
    node.assert_serves().await;
}

#[tokio::test]
async fn headers_over_the_limit_are_431() {
    let node = Node::builder().env("LIMITS_HEADERBYTES", 8_192).start();
    let big = "x".repeat(7_000);
    let request = |value: &str| {
        format!(
            "GET /nomad/v1/status HTTP/1.1\r\nHost: localhost\r\nX-Big: {value}\r\nConnection: close\r\n\r\n"
        )
    };
    let mut wire = Wire::open(&node.rest).await;
    wire.write(request(&big)).await;
    wire.answer().await.expect(200);
    let mut wire = Wire::open(&node.rest).await;
    wire.write(request(&"x".repeat(20_000))).await;
    let head = wire.read_head().await;
    assert!(head.starts_with("HTTP/1.1 431") || head.starts_with("HTTP/1.1 400"), "{head}");
    node.assert_serves().await;
}

/// Goal: connections that do nothing do not keep others out for ever, and their number is bounded.
#[tokio::test]
async fn idle_connections_over_the_limit_keep_nobody_out() {
    let builder = Node::builder().env("LIMITS_CONNECTIONS", 8);
    let node = builder.env("LIMITS_HEADERTIMEOUT", "500ms").start();
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(Wire::open(&node.rest).await);
    }
    eventually("a served request", LIMIT, async || {
        let answer = node.http().call("GET", "/nomad/v1/status").try_send().await;
        answer.ok().filter(|answer| answer.status == 200)
    })
    .await;
    drop(idle);
    node.assert_serves().await;
    let remove = RemovePeerRequest { host: "127.0.0.1:1".to_owned() };
    assert!(!peer(&node).await.remove_peer(remove).await.unwrap().into_inner().response);
}
