//! Objects: ids, the older paths, the resource API, listings, the limits of bodies.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::json;

use super::{super::listing, Client};
use crate::test_backend::{NODE, NOW};
use nomad_config::Config;

#[tokio::test]
async fn ids_in_paths_are_decoded_once_and_checked() {
    let client = Client::start().await;
    for (raw, id) in [
        ("a%2Fb", "a/b"),
        ("a/b", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("%68ealth", "health"),
        ("a+b", "a+b"),
        ("%C3%BC", "ü"),
        ("x/", "x/"),
    ] {
        let put = client.send(&format!("PUT /nomad/v1/objects/{raw}"), &[], raw).await;
        assert!(matches!(put.status, 201 | 204), "{raw}: {:?}", put.body);
        let object = client.get(&format!("/nomad/storage/get/{raw}")).await;
        assert_eq!(object.json()["id"], id, "{raw}");
    }
    let long = "x".repeat(1025);
    for (raw, named) in [
        ("", "empty"),
        ("%FF", "UTF-8"),
        ("a%00", "control"),
        ("%", "%25"),
        ("%zz", "%25"),
        ("a%2", "%25"),
        (&long, "1025"),
    ] {
        for call in
            ["GET /nomad/storage/get/", "DELETE /nomad/storage/delete/", "PUT /nomad/v1/objects/"]
        {
            let (status, field, detail) =
                client.send(&format!("{call}{raw}"), &[], "").await.problem();
            assert_eq!((status, &*field), (400, "id"), "{call}{raw}");
            assert!(detail.contains(named), "{call}{raw}: {detail}");
        }
    }
    client.node.stop().await;
}

#[tokio::test]
async fn an_object_lives_and_dies_over_the_older_paths() {
    let client = Client::start().await;
    let object = json!({ "id": "a", "value": "eyJ4IjoxfQ==", "ttl": NOW + 10 });
    let put = client.post("/nomad/storage/put", &object).await;
    assert_eq!((put.status, put.json()), (200, json!({ "result": true })));
    assert_eq!(put.header("nomad-durability"), "local");
    assert_eq!(put.header("content-type"), "application/json");
    let again = client.post("/nomad/group-storage/safe-put", &object).await;
    assert_eq!(again.status, 409);
    assert!(again.problem().2.contains("\"a\""));
    let found = client.get("/nomad/storage/get/a").await.json();
    assert_eq!((&found["creationTime"], &found["ttl"]), (&json!(NOW), &json!(NOW + 10)));
    let version = found["version"].as_str().unwrap();
    let update = json!({ "id": "a", "value": "", "version": version });
    assert_eq!(client.post("/nomad/storage/update", &update).await.status, 200);
    let stale = client.post("/nomad/storage/update", &update).await.problem();
    assert!(stale.0 == 412 && stale.2.contains(version), "{stale:?}");
    let quoted = format!("\"{version}\"");
    let headers = [("if-match", &*quoted), ("nomad-mode", "safe")];
    let body = json!({ "id": "a" }).to_string();
    assert_eq!(client.send("PUT /nomad/storage/update", &headers, body.clone()).await.status, 412);
    let any = [("if-match", "*"), ("nomad-mode", "safe")];
    let replaced = client.send("PUT /nomad/storage/update", &any, body).await;
    assert_eq!((replaced.status, replaced.header("nomad-durability")), (200, "quorum"));
    for result in [true, false] {
        let deleted = client.send("DELETE /nomad/storage/delete/a", &[], "").await;
        assert_eq!((deleted.status, deleted.json()), (200, json!({ "result": result })));
    }
    let missing = client.post("/nomad/storage/update", &json!({ "id": "a" })).await.problem();
    assert!(missing.0 == 404 && missing.2.contains("\"a\""), "{missing:?}");
    client.node.stop().await;
}

#[tokio::test]
async fn the_overlay_is_another_tier() {
    let client = Client::start().await;
    assert_eq!(client.post("/nomad/overlay-storage/put", &json!({ "id": "a" })).await.status, 200);
    assert_eq!(client.get("/nomad/overlay-storage/get/a").await.status, 200);
    assert_eq!(client.get("/nomad/storage/get/a").await.problem().0, 404);
    client.node.stop().await;
}

const OBJECT: &str = "/nomad/v1/objects/a";

#[tokio::test]
async fn conditions_of_the_resource_api() {
    let client = Client::start().await;
    let put =
        async |headers: &[(&str, &str)]| client.send(&format!("PUT {OBJECT}"), headers, "x").await;
    assert_eq!(put(&[("if-match", "*")]).await.problem().0, 412);
    let created = put(&[("if-none-match", "*")]).await;
    assert_eq!((created.status, created.header("location")), (201, OBJECT));
    let first = created.header("etag").to_owned();
    assert_eq!(put(&[("if-none-match", "*")]).await.problem().0, 412);
    let replaced =
        put(&[("if-match", &format!("\"0000000000000001-0000000000000001\", {first}"))]).await;
    assert_eq!((replaced.status, replaced.body.len()), (204, 0));
    assert_eq!(put(&[("if-match", &first)]).await.problem().0, 412);
    assert_eq!(
        put(&[("if-match", &format!("W/{}", replaced.header("etag")))]).await.problem().0,
        412
    );
    for (name, value) in [
        ("if-match", "abc"),
        ("if-match", "\"abc\""),
        ("if-none-match", "\"abc\""),
        ("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT"),
        ("nomad-ttl", "0"),
        ("nomad-ttl", "-5"),
        ("nomad-ttl", "9223372036854775807"),
        ("nomad-expires", "5"),
        ("nomad-mode", "parallel"),
        ("content-type", &"x".repeat(256)),
    ] {
        let (status, _, detail) = put(&[(name, value)]).await.problem();
        assert_eq!(status, 400, "{name}: {value}: {detail}");
        let named = value.trim_matches('"').get(..10).unwrap_or(value.trim_matches('"'));
        assert!(detail.contains(named), "{name}: {value}: {detail}");
    }
    assert_eq!(put(&[("nomad-ttl", "5"), ("nomad-expires", "1800000000")]).await.problem().0, 400);
    assert_eq!(put(&[("nomad-ttl", "5"), ("nomad-ttl", "6")]).await.problem().0, 400);
    let delete = async |headers: &[(&str, &str)]| {
        client.send(&format!("DELETE {OBJECT}"), headers, "").await
    };
    assert_eq!(delete(&[("if-match", &first)]).await.problem().0, 412);
    assert_eq!(delete(&[("if-match", "*")]).await.status, 204);
    assert_eq!(delete(&[]).await.problem().0, 404);
    assert_eq!(delete(&[("if-match", "*")]).await.problem().0, 412);
    client.node.stop().await;
}

/// Headers of a read, and the status and the body of its answer.
type Case<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);

#[tokio::test]
async fn a_read_answers_conditions_and_ranges() {
    let client = Client::start().await;
    let headers = [("content-type", "text/plain"), ("nomad-ttl", "100")];
    let tag = client.send(&format!("PUT {OBJECT}"), &headers, "0123456789").await;
    let tag = tag.header("etag");
    let get =
        async |headers: &[(&str, &str)]| client.send(&format!("GET {OBJECT}"), headers, "").await;
    let whole = get(&[]).await;
    assert_eq!((whole.status, &whole.body[..]), (200, &b"0123456789"[..]));
    for (name, value) in [
        ("content-type", "text/plain"),
        ("etag", tag),
        ("nomad-expires", "1750000100"),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("nomad-durability", "local"),
        ("last-modified", "Sun, 15 Jun 2025 15:06:40 GMT"),
    ] {
        assert_eq!(whole.header(name), value, "{name}");
    }
    let modified = whole.header("last-modified");
    let weak = format!("W/{tag}");
    let table: [Case<'_>; 14] = [
        (&[("if-none-match", tag)], 304, ""),
        (&[("if-none-match", &weak)], 304, ""),
        (&[("if-none-match", "\"other\"")], 200, "0123456789"),
        // A tag beats a date.
        (&[("if-none-match", "\"other\""), ("if-modified-since", modified)], 200, "0123456789"),
        (&[("if-modified-since", modified)], 304, ""),
        (&[("if-modified-since", "Sat, 01 Jan 2000 00:00:00 GMT")], 200, "0123456789"),
        (&[("if-modified-since", "yesterday")], 200, "0123456789"),
        (&[("if-match", tag)], 200, "0123456789"),
        (&[("range", "bytes=2-3")], 206, "23"),
        (&[("range", "bytes=2-3"), ("if-range", tag)], 206, "23"),
        (&[("range", "bytes=2-3"), ("if-range", modified)], 206, "23"),
        (&[("range", "bytes=2-3"), ("if-range", "\"other\"")], 200, "0123456789"),
        (&[("range", "lines=2-3")], 200, "0123456789"),
        (&[("range", "bytes=2-3"), ("if-none-match", tag)], 304, ""),
    ];
    for (headers, status, body) in table {
        let said = get(headers).await;
        assert_eq!((said.status, &said.body[..]), (status, body.as_bytes()), "{headers:?}");
        assert_eq!(said.header("etag"), tag);
    }
    assert_eq!(get(&[("if-match", "\"other\"")]).await.problem().0, 412);
    assert_eq!(get(&[("if-match", "other")]).await.problem().0, 400);
    assert_eq!(get(&[("nomad-mode", "quick")]).await.problem().0, 400);
    let outside = get(&[("range", "bytes=10-")]).await;
    assert_eq!((outside.problem().0, outside.header("content-range")), (416, "bytes */10"));
    assert!(outside.problem().2.contains("bytes=10-"));
    client.node.clock.advance_ms(100_000);
    assert_eq!(get(&[]).await.problem().0, 404);
    client.node.stop().await;
}

#[tokio::test]
async fn listings_go_page_by_page() {
    let client = Client::start().await;
    for n in 0..5 {
        client.send(&format!("PUT /nomad/v1/objects/p%2F{n}"), &[], "12").await;
    }
    client.send("PUT /nomad/v1/objects/q", &[], "").await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/nomad/v1/objects?prefix=p/&limit=2{cursor}")).await.json();
        let items = page["items"].as_array().unwrap().clone();
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        assert!(items.iter().all(|item| item["size"] == 2 && item["ttl"] == 0));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["p/0", "p/1", "p/2", "p/3", "p/4"]);
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=-1",
        "cursor=%FF",
        "cursor=!",
        "prefix=%FF",
        "limit=1&limit=2",
    ] {
        assert_eq!(
            client.get(&format!("/nomad/v1/objects?{query}")).await.problem().0,
            400,
            "{query}"
        );
    }
    let peers = client.get(&format!("{}?limit=4", listing::PEER_LEDGER.path())).await;
    assert_eq!(peers.json()[NODE].as_array().unwrap().len(), 4);
    let next = peers.header("nomad-next-cursor");
    let rest = client.get(&format!("{}?cursor={next}", listing::PEER_LEDGER.path())).await;
    assert_eq!(rest.header("nomad-next-cursor"), "");
    let both = [peers.json(), rest.json()].map(|page| page[NODE].as_array().unwrap().clone());
    let mut ids: Vec<_> = both.iter().flatten().map(|e| e["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["p/0", "p/1", "p/2", "p/3", "p/4", "q"]);
    assert!(both.iter().flatten().all(|entry| entry["ttl"] == 0));
    let objects = client.get(listing::OBJECT_LEDGER.path()).await.json();
    assert_eq!(objects["q"], json!([{ "id": NODE, "ttl": 0 }]));
    assert_eq!(objects.as_object().unwrap().len(), 6);
    client.node.stop().await;
}

fn upload_of<S>(parts: S) -> Request<StreamBody<S>> {
    Request::put(OBJECT).body(StreamBody::new(parts)).unwrap()
}

#[tokio::test]
async fn a_request_begins_before_its_body_and_its_deadline_behind_it() {
    let client = Client::start().await;
    let frame = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")));
    let (clock, limits) = (&client.node.clock, &client.node.backend.config.limits);
    let slow_ms = 2 * limits.request_timeout.as_millis() as u64;

    let later = clock.clone();
    let upload = stream::once(async move {
        later.advance_ms(slow_ms);
        frame()
    });
    assert_eq!(client.edge.answer(upload_of(upload)).await.status(), 201);

    let half = stream::once(async move { frame() }).chain(stream::pending());
    let mut gone = Box::pin(client.edge.answer(upload_of(half)));
    assert!(futures::poll!(&mut gone).is_pending());
    drop(gone);
    let steps = client.get("/nomad/debug/trace?actor=rest").await.json();
    let steps = steps["steps"].as_array().unwrap();
    let [.., uploaded, dropped] = &steps[..] else { panic!("{steps:?}") };
    assert!(uploaded["runMicros"].as_u64() >= Some(slow_ms * 1000), "{uploaded}");
    assert_eq!(dropped["kind"], "PUT /nomad/v1/objects/{id}");
    assert!(dropped["outcome"].as_str().unwrap().contains("client went away"), "{dropped}");
    client.node.stop().await;
}

#[tokio::test]
async fn bodies_have_their_limits() {
    let mut config = Config::default();
    config.node.storage.max_object_bytes = 1_000;
    let client = Client::with(config).await;
    let put = format!("PUT {OBJECT}");
    assert_eq!(client.send(&put, &[], vec![b'x'; 1_001]).await.problem().0, 413);
    assert_eq!(client.send(&put, &[], vec![b'x'; 1_000]).await.status, 201);
    let large = "A".repeat(1_336);
    let (status, field, detail) =
        client.post("/nomad/storage/put", &json!({ "id": "b", "value": large })).await.problem();
    assert_eq!((status, &*field), (413, "value"));
    assert!(detail.contains("1002") && detail.contains("1000"), "{detail}");
    let xml = [("content-type", "application/xml")];
    let (status, _, detail) = client.send("POST /nomad/storage/put", &xml, "<a/>").await.problem();
    assert!(status == 415 && detail.contains("application/xml"), "{detail}");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(client.send("POST /nomad/storage/put", &form, r#"{"id":"c"}"#).await.status, 200);
    client.node.stop().await;
}
