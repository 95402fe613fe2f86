//! What a gRPC caller can get wrong, in its messages and below them: each gets the right status and words that name the
//! value, nothing is stored, and the node still serves. Never UNKNOWN, never INTERNAL.

use crate::support::{
    grpc::{bad_field, group, object, refused},
    http::segment,
    load::listed,
    node::{Node, Shared},
    raw::{RawEnd, RawGrpc, frame, message},
    unique, unix_now,
};
use nomad_proto::{
    groupstorage::{DeleteObjectRequest, GetObjectRequest, PutObjectRequest, UpdateObjectRequest},
    models::GameObjectGrpc,
};
use tonic::Code;

static NODE: Shared = Shared::new();

const PUT: &str = "/grpc.groupstorage.GroupStorageService/put";

fn put_of(object: GameObjectGrpc) -> PutObjectRequest {
    PutObjectRequest { object: Some(object) }
}

/// Objects that no put and no update may take: the field, what the refusal names, the object.
fn bad_objects(id: &str) -> Vec<(&'static str, String, GameObjectGrpc)> {
    let past = unix_now() - 10;
    let whole = || object(id, "x");
    vec![
        ("id", "id".to_owned(), object("", "x")),
        ("id", "1025".to_owned(), object(&"x".repeat(1_025), "x")),
        ("id", "1026".to_owned(), object(&"é".repeat(513), "x")),
        ("id", "control".to_owned(), object(&format!("{id}\n"), "x")),
        ("id", "control".to_owned(), object(&format!("{id}\0"), "x")),
        ("id", "control".to_owned(), object(&format!("{id}\u{7f}"), "x")),
        ("id", "control".to_owned(), object(&format!("{id}\u{85}"), "x")),
        ("ttl", "-1".to_owned(), GameObjectGrpc { ttl: -1, ..whole() }),
        ("ttl", "3600".to_owned(), GameObjectGrpc { ttl: 3_600, ..whole() }),
        ("ttl", past.to_string(), GameObjectGrpc { ttl: past, ..whole() }),
        ("ttl", "past".to_owned(), GameObjectGrpc { ttl: past, ..whole() }),
        ("creationTime", "-1".to_owned(), GameObjectGrpc { creation_time: -1, ..whole() }),
        (
            "creationTime",
            i64::MIN.to_string(),
            GameObjectGrpc { creation_time: i64::MIN, ..whole() },
        ),
    ]
}

#[tokio::test]
async fn bad_objects_are_refused_and_change_nothing() {
    let (node, id) = (NODE.get(), unique("bad"));
    let mut client = group(&node).await;
    for (field, needle, object) in bad_objects(&id) {
        bad_field(client.put(put_of(object)).await, field, &needle);
    }
    assert!(listed(&node.http(), &id, 10).await.is_empty());
    client.put(put_of(object(&id, "safe"))).await.unwrap();
    for (field, needle, object) in bad_objects(&id) {
        let update = UpdateObjectRequest { object: Some(object) };
        bad_field(client.update(update).await, field, &needle);
    }
    let get = GetObjectRequest { id: id.clone() };
    let found = client.get(get).await.unwrap().into_inner().object.unwrap();
    assert_eq!((&found.value[..], found.ttl), (&b"safe"[..], 0));
    let none = UpdateObjectRequest { object: None };
    bad_field(client.update(none).await, "object", "object");
}

#[tokio::test]
async fn bad_ids_are_refused_by_get_and_delete() {
    let node = NODE.get();
    let mut client = group(&node).await;
    let long = "x".repeat(1_025);
    for (id, needle) in [("", "id"), (long.as_str(), "1025"), ("a\tb", "control")] {
        bad_field(client.get(GetObjectRequest { id: id.to_owned() }).await, "id", needle);
        let delete = DeleteObjectRequest { id: id.to_owned(), ..Default::default() };
        bad_field(client.delete(delete).await, "id", needle);
    }
    let (held, mut conditional) = (unique("held"), DeleteObjectRequest::default());
    client.put(put_of(object(&held, "x"))).await.unwrap();
    conditional.id.clone_from(&held);
    conditional.version = "no version of ours".to_owned();
    let refusal = client.delete(conditional).await.unwrap_err();
    let right = matches!(refusal.code(), Code::InvalidArgument | Code::FailedPrecondition);
    assert!(right, "{refusal:?}");
    assert!(client.get(GetObjectRequest { id: held }).await.unwrap().into_inner().result);
}

#[tokio::test]
async fn a_value_over_the_limit_is_invalid_and_one_at_it_is_stored() {
    let node = Node::builder().env("NODE_STORAGE_MAXOBJECTBYTES", 1_024).start();
    let mut client = group(&node).await;
    assert!(client.put(put_of(object("fits", vec![7; 1_024]))).await.unwrap().into_inner().result);
    bad_field(client.put(put_of(object("over", vec![7; 1_025]))).await, "value", "1024");
    let update = UpdateObjectRequest { object: Some(object("fits", vec![8; 1_025])) };
    bad_field(client.update(update).await, "value", "1024");
    assert!(!client.get(GetObjectRequest { id: "over".into() }).await.unwrap().into_inner().result);
    let get = GetObjectRequest { id: "fits".into() };
    let found = client.get(get).await.unwrap().into_inner().object.unwrap();
    assert_eq!(found.value, vec![7; 1_024]);
}

#[tokio::test]
async fn four_mebibytes_are_the_default_limit() {
    let (node, id) = (NODE.get(), unique("four-mebibytes"));
    let mut client = group(&node).await;
    let fits: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|n| (n % 251) as u8).collect();
    assert!(client.put(put_of(object(&id, fits.clone()))).await.unwrap().into_inner().result);
    let get = GetObjectRequest { id: id.clone() };
    let found = client.get(get).await.unwrap().into_inner().object.unwrap();
    assert!(found.value == fits);
    let over = format!("{id}-over");
    let answer = client.put(put_of(object(&over, [fits, vec![0]].concat()))).await;
    bad_field(answer, "value", "4194304");
    assert!(!client.get(GetObjectRequest { id: over }).await.unwrap().into_inner().result);
    // Far over it: refused before it is read.
    let far = client.put(put_of(object(&unique("far-over"), vec![0; 32 * 1024 * 1024]))).await;
    let code = far.unwrap_err().code();
    let right = [Code::InvalidArgument, Code::OutOfRange, Code::ResourceExhausted].contains(&code);
    assert!(right, "{code:?}");
    node.assert_serves().await;
}

/// The caller's fault, in words: no UNKNOWN, no INTERNAL.
#[track_caller]
fn assert_callers_fault(end: &RawEnd, codes: &[Code], needle: &str) {
    let code = Code::from_i32(end.code);
    assert!(end.code >= 0 && codes.contains(&code), "expected one of {codes:?}: {end:?}");
    assert!(!end.message.is_empty(), "{end:?}");
    crate::support::assert_says(&end.message, needle);
}

/// Goal: a frame that lies about its length, or is no message at all, is refused with the caller's fault.
#[tokio::test]
async fn broken_frames_are_invalid() {
    let (node, id) = (NODE.get(), unique("frames"));
    let whole = put_of(object(&id, "0123456789"));
    let honest = message(&whole);
    let length = u32::try_from(honest.len() - 5).unwrap();
    let bytes = &honest[5..];
    let invalid = &[Code::InvalidArgument][..];
    let too_large = &[Code::InvalidArgument, Code::OutOfRange, Code::ResourceExhausted][..];
    let cases: Vec<(&str, Vec<u8>, &[Code])> = vec![
        ("no frame at all", Vec::new(), invalid),
        ("half a prefix", honest[..3].to_vec(), invalid),
        ("a prefix and nothing", frame(0, length, &[]), invalid),
        ("a truncated message", honest[..honest.len() - 4].to_vec(), invalid),
        ("a length larger than the data", frame(0, length + 100, bytes), invalid),
        ("a length of 4 GiB", frame(0, u32::MAX, bytes), too_large),
        ("a length over the limit", frame(0, 64 * 1024 * 1024, bytes), too_large),
        ("a length smaller than the data", frame(0, length - 3, bytes), invalid),
        ("an unknown compression flag", frame(7, length, bytes), invalid),
        ("compressed, but nobody said how", frame(1, length, bytes), invalid),
        ("bytes that are no protobuf", frame(0, 8, &[0xFF; 8]), invalid),
        ("an id that is no UTF-8", frame(0, 6, &[0x0A, 4, 0x0A, 2, 0xFF, 0xFE]), invalid),
        ("a field of the wrong type", frame(0, 2, &[0x08, 1]), invalid),
    ];
    for (name, body, codes) in cases {
        let mut raw = RawGrpc::open(&node.storage).await;
        let end = raw.call(PUT, &[], body).await;
        eprintln!("{name}: {end:?}");
        assert_callers_fault(&end, codes, "");
        // The connection survives it.
        let end = raw.call(PUT, &[], message(&put_of(object(&unique("fine"), "x")))).await;
        assert_eq!(end.code, 0, "after {name}: {end:?}");
    }
    assert!(listed(&node.http(), &id, 10).await.is_empty(), "something was stored");
}

#[tokio::test]
async fn two_messages_in_a_unary_call_are_not_two_puts() {
    let (node, prefix) = (NODE.get(), unique("two"));
    let one = message(&put_of(object(&format!("{prefix}/1"), "x")));
    let two = message(&put_of(object(&format!("{prefix}/2"), "x")));
    let mut raw = RawGrpc::open(&node.storage).await;
    let end = raw.call(PUT, &[], [one, two].concat()).await;
    assert!(end.code >= 0 && end.code != 2 && end.code != 13, "{end:?}");
    let stored = listed(&node.http(), &prefix, 10).await;
    assert!(!stored.contains(&format!("{prefix}/2")), "{stored:?}");
}

#[tokio::test]
async fn unknown_services_methods_and_encodings_are_unimplemented() {
    let node = NODE.get();
    let body = || message(&put_of(object(&unique("nowhere"), "x")));
    for address in [&node.storage, &node.peer] {
        let mut raw = RawGrpc::open(address).await;
        for path in [
            "/no.such.Service/put",
            "/grpc.groupstorage.GroupStorageService/noSuchMethod",
            "/grpc.groupstorage.GroupStorageService/Put",
            "/grpc.peerservice.PeerService/noSuchMethod",
            "/",
        ] {
            let end = raw.call(path, &[], body()).await;
            assert_eq!(end.code, Code::Unimplemented as i32, "{path}: {end:?}");
        }
    }
    let mut raw = RawGrpc::open(&node.storage).await;
    let end = raw.call(PUT, &[("grpc-encoding", "snappy")], body()).await;
    assert_callers_fault(&end, &[Code::Unimplemented], "snappy");
}

#[tokio::test]
async fn what_is_no_grpc_is_refused_by_the_grpc_listeners() {
    let node = NODE.get();
    for address in [&node.storage, &node.peer] {
        let mut raw = RawGrpc::open(address).await;
        let end = raw.call(PUT, &[("content-type", "text/plain")], b"hello".to_vec()).await;
        assert!(end.http == 415 || (end.code > 0 && end.code != 13), "{end:?}");
        // HTTP/1.1, and bytes that are nothing: an answer or a closed connection, no more.
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        for bytes in [request.as_bytes(), b"\x16\x03\x01 no hello of ours\r\n\r\n"] {
            let mut wire = crate::support::raw::Wire::open(address).await;
            wire.write(bytes).await;
            wire.read_head().await;
        }
    }
    node.assert_serves().await;
    assert!(group(&node).await.health_check(()).await.is_ok());
}

#[tokio::test]
async fn a_client_that_disappears_mid_message_stores_nothing() {
    let (node, prefix) = (NODE.get(), unique("vanishing"));
    for (n, reset) in [(0, false), (1, true)] {
        let id = format!("{prefix}/{n}");
        let bytes = message(&put_of(object(&id, vec![7; 1_000])));
        let mut raw = RawGrpc::open(&node.storage).await;
        let mut call = raw.start(PUT, &[]).await;
        call.body.send_data(bytes[..500].to_vec().into(), false).unwrap();
        // The answer to a second call shows that the node has seen the first one's bytes.
        let get = message(&GetObjectRequest { id: id.clone() });
        let end = raw.call("/grpc.groupstorage.GroupStorageService/get", &[], get).await;
        assert_eq!(end.code, 0, "{end:?}");
        if reset {
            call.body.send_reset(h2::Reason::CANCEL);
            let end = raw.call(PUT, &[], message(&put_of(object(&unique("other"), "x")))).await;
            assert_eq!(end.code, 0, "the other streams of the connection go on: {end:?}");
        } else {
            raw.cut().await;
        }
        let path = format!("/nomad/v1/objects/{}", segment(&id));
        node.http().get(&path).await.problem(404, "NOT_FOUND");
    }
    node.assert_serves().await;
    assert!(listed(&node.http(), &prefix, 10).await.is_empty());
}

#[tokio::test]
async fn bad_metadata_is_refused() {
    let (node, id) = (NODE.get(), unique("metadata"));
    let mut client = group(&node).await;
    for mode in ["quick", "SAFE!", "parallel"] {
        let mut request = tonic::Request::new(put_of(object(&id, "x")));
        request.metadata_mut().insert("nomad-mode", mode.parse().unwrap());
        refused(client.put(request).await, Code::InvalidArgument, mode);
    }
    // A trace context that is none is ignored, as its standard says.
    let mut request = tonic::Request::new(GetObjectRequest { id: id.clone() });
    request.metadata_mut().insert("traceparent", "not-a-trace".parse().unwrap());
    assert!(!client.get(request).await.unwrap().into_inner().result);
    let mut raw = RawGrpc::open(&node.storage).await;
    let get = message(&GetObjectRequest { id });
    let path = "/grpc.groupstorage.GroupStorageService/get";
    for timeout in ["soon", "5", "-1S", "999999999S", "1Y"] {
        let end = raw.call(path, &[("grpc-timeout", timeout)], get.clone()).await;
        let fine = [0, Code::InvalidArgument as i32].contains(&end.code);
        assert!(fine, "grpc-timeout: {timeout}: {end:?}");
    }
}
