//! The resource API `/nomad/v1/objects`: raw bytes, versions, conditions, ranges, expiry, ids of every kind, paging.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    eventually,
    grpc::group,
    http::{Answer, Http, segment},
    json::{base64, value_of},
    load::listed,
    node::Shared,
    unique, unix_now,
};
use nomad_proto::groupstorage::{DeleteObjectRequest, GetObjectRequest};
use serde_json::{Value, json};

static NODE: Shared = Shared::new();

fn path(id: &str) -> String {
    format!("/nomad/v1/objects/{}", segment(id))
}

async fn put(http: &Http, id: &str, value: &str) -> Answer {
    http.call("PUT", &path(id)).body(value.to_owned()).send().await
}

/// The version in an `ETag`, which must be a strong one.
#[track_caller]
fn etag(answer: &Answer) -> String {
    let tag = answer.header("etag").to_owned();
    assert!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'), "ETag: {tag}");
    tag
}

#[tokio::test]
async fn put_creates_then_replaces_and_get_gives_the_bytes() {
    let (node, id) = (NODE.get(), unique("upsert"));
    let http = node.http();
    let created = put(&http, &id, "one").await.expect(201).durability("local");
    let first = http.get(&path(&id)).await.expect(200).durability("local");
    assert_eq!(first.body, "one");
    assert_eq!(first.header("content-type"), "application/octet-stream");
    assert_eq!(first.find_header("nomad-expires"), None);
    assert_eq!(etag(&created), etag(&first));
    let replaced = put(&http, &id, "two").await.expect(204).durability("local");
    assert!(replaced.body.is_empty());
    let second = http.get(&path(&id)).await.expect(200);
    assert_eq!(second.body, "two");
    assert_eq!(etag(&replaced), etag(&second));
    assert_ne!(etag(&first), etag(&second));
    let modified = httpdate::parse_http_date(second.header("last-modified")).unwrap();
    let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(unix_now().abs_diff(i64::try_from(modified).unwrap()) < 60, "{second:?}");
}

#[tokio::test]
async fn an_empty_value_is_a_value() {
    let (node, id) = (NODE.get(), unique("empty-value"));
    let http = node.http();
    put(&http, &id, "").await.expect(201);
    assert!(http.get(&path(&id)).await.expect(200).body.is_empty());
    assert_eq!(http.get(&format!("/nomad/storage/get/{id}")).await.ok()["id"], id);
}

#[tokio::test]
async fn the_content_type_is_kept_and_given_back() {
    let node = NODE.get();
    let http = node.http();
    let types = ["image/png", "text/plain; charset=utf-8", "application/json", "application/xml"];
    for content_type in types {
        let id = unique("content-type");
        let call = http.call("PUT", &path(&id)).header("content-type", content_type).body("<a/>");
        call.send().await.expect(201);
        assert_eq!(http.get(&path(&id)).await.expect(200).header("content-type"), content_type);
        assert_eq!(http.head(&path(&id)).await.expect(200).header("content-type"), content_type);
        let found = group(&node).await.get(GetObjectRequest { id }).await.unwrap().into_inner();
        assert_eq!(found.object.unwrap().content_type, content_type);
    }
}

#[tokio::test]
async fn if_none_match_star_creates_only() {
    let (node, id) = (NODE.get(), unique("create-only"));
    let http = node.http();
    let create = || http.call("PUT", &path(&id)).header("if-none-match", "*").body("mine").send();
    create().await.expect(201);
    create().await.problem(412, "FAILED_PRECONDITION");
    assert_eq!(http.get(&path(&id)).await.expect(200).body, "mine");
}

#[tokio::test]
async fn if_match_replaces_that_version_only() {
    let (node, id) = (NODE.get(), unique("cas"));
    let http = node.http();
    let replace = async |id: &str, tag: &str, value: &'static str| {
        http.call("PUT", &path(id)).header("if-match", tag).body(value).send().await
    };
    put(&http, &id, "one").await.expect(201);
    let first = etag(&http.get(&path(&id)).await);
    replace(&id, &first, "two").await.expect(204);
    let detail = replace(&id, &first, "three").await.problem(412, "FAILED_PRECONDITION");
    crate::support::assert_says(&detail, first.trim_matches('"'));
    assert_eq!(http.get(&path(&id)).await.body, "two");
    replace(&id, "*", "four").await.expect(204);
    assert_eq!(http.get(&path(&id)).await.body, "four");
    // A condition on something that is not there fails, and creates nothing.
    for tag in [first.as_str(), "*"] {
        let missing = unique("cas-missing");
        replace(&missing, tag, "x").await.problem(412, "FAILED_PRECONDITION");
        http.get(&path(&missing)).await.problem(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn of_concurrent_conditional_writes_one_wins() {
    let (node, id) = (NODE.get(), unique("race"));
    let http = node.http();
    put(&http, &id, "start").await.expect(201);
    let tag = etag(&http.get(&path(&id)).await);
    let path = path(&id);
    let writes = (0..16).map(|n| {
        http.call("PUT", &path).header("if-match", &tag).body(format!("writer {n}")).send()
    });
    let answers = futures::future::join_all(writes).await;
    let won: Vec<_> = (0..16).filter(|n| answers[*n].status == 204).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| matches!(answer.status, 204 | 412)), "{answers:?}");
    assert_eq!(http.get(&path).await.body, format!("writer {}", won[0]));
}

#[tokio::test]
async fn get_with_a_known_version_is_304() {
    let (node, id) = (NODE.get(), unique("cached"));
    let http = node.http();
    put(&http, &id, "cached").await.expect(201);
    let tag = etag(&http.get(&path(&id)).await);
    for method in ["GET", "HEAD"] {
        for condition in [tag.clone(), format!("\"other\", {tag}"), "*".to_owned()] {
            let call = http.call(method, &path(&id)).header("if-none-match", condition);
            let answer = call.send().await.expect(304);
            assert!(answer.body.is_empty());
            assert_eq!(etag(&answer), tag);
        }
        let call = http.call(method, &path(&id)).header("if-none-match", "\"other\"");
        call.send().await.expect(200);
    }
}

#[tokio::test]
async fn head_says_what_get_would_without_the_body() {
    let (node, id) = (NODE.get(), unique("head"));
    let http = node.http();
    let call = http.call("PUT", &path(&id)).header("nomad-ttl", "500").body("12345");
    call.send().await.expect(201);
    let get = http.get(&path(&id)).await.expect(200);
    let head = http.head(&path(&id)).await.expect(200).durability("local");
    assert!(head.body.is_empty());
    assert_eq!(head.header("content-length"), "5");
    for name in ["etag", "last-modified", "content-type", "nomad-expires"] {
        assert_eq!(head.header(name), get.header(name));
    }
    assert!(http.head(&path(&unique("missing"))).await.expect(404).body.is_empty());
}

#[tokio::test]
async fn ranges_give_the_part_that_was_asked_for() {
    let (node, id) = (NODE.get(), unique("range"));
    let http = node.http();
    let call = http.call("PUT", &path(&id)).header("content-type", "text/plain").body("0123456789");
    call.send().await.expect(201);
    let range =
        async |range: &str| http.call("GET", &path(&id)).header("range", range).send().await;
    let parts = [
        ("bytes=0-3", "0123", "bytes 0-3/10"),
        ("bytes=4-4", "4", "bytes 4-4/10"),
        ("bytes=6-", "6789", "bytes 6-9/10"),
        ("bytes=-4", "6789", "bytes 6-9/10"),
        ("bytes=8-100", "89", "bytes 8-9/10"),
        ("bytes=-100", "0123456789", "bytes 0-9/10"),
    ];
    for (asked, body, content_range) in parts {
        let answer = range(asked).await.expect(206);
        assert_eq!(answer.body, body, "{asked}");
        assert_eq!(answer.header("content-range"), content_range, "{asked}");
        assert_eq!(answer.header("content-type"), "text/plain");
        etag(&answer);
    }
    for asked in ["bytes=10-", "bytes=100-200", "bytes=-0"] {
        let answer = range(asked).await;
        answer.problem(416, "RANGE_NOT_SATISFIABLE");
        assert_eq!(answer.header("content-range"), "bytes */10", "{asked}");
    }
    // What is no range of bytes is ignored (RFC 9110, section 14.2).
    for asked in ["lines=1-2", "bytes=5-2", "bytes=x", "nonsense"] {
        assert_eq!(range(asked).await.expect(200).body, "0123456789", "{asked}");
    }
    // Several ranges: all of it, or a well-formed multipart answer.
    let several = range("bytes=0-1,4-5").await;
    assert!(matches!(several.status, 200 | 206), "{several:?}");
    assert_eq!(range("bytes=0-1").await.body, "01");
}

#[tokio::test]
async fn expiry_is_set_in_seconds_from_now_or_as_a_time() {
    let (node, before) = (NODE.get(), unix_now());
    let http = node.http();
    let expires = async |name: &str, value: i64| {
        let id = unique("expires");
        let call = http.call("PUT", &path(&id)).header(name, value.to_string()).body("x");
        call.send().await.expect(201);
        let legacy = http.get(&format!("/nomad/storage/get/{id}")).await.ok();
        let header: i64 = http.get(&path(&id)).await.header("nomad-expires").parse().unwrap();
        assert_eq!(legacy["ttl"], header, "the same object over the older path");
        header
    };
    assert_eq!(expires("nomad-expires", before + 5_000).await, before + 5_000);
    let from_now = expires("nomad-ttl", 600).await;
    assert!((before + 600..=unix_now() + 600).contains(&from_now), "{from_now}, at {before}");
}

/// Goal: an object is absent on every path from the moment it expires, and not before.
#[tokio::test]
async fn an_expired_object_is_absent_everywhere() {
    let (node, prefix) = (NODE.get(), unique("expiring"));
    let (http, mut client) = (node.http(), group(&node).await);
    let ids: Vec<_> = (0..4).map(|n| format!("{prefix}/{n}")).collect();
    for id in &ids {
        let call = http.call("PUT", &path(id)).header("nomad-ttl", "2").body("gone soon");
        call.send().await.expect(201);
    }
    let id = &ids[0];
    let expires: i64 =
        http.get(&path(id)).await.expect(200).header("nomad-expires").parse().unwrap();
    eventually("the expiry", Duration::from_secs(10), async || {
        let (answer, now) = (http.get(&path(id)).await, unix_now());
        if answer.status == 200 {
            return None;
        }
        answer.problem(404, "NOT_FOUND");
        assert!(now >= expires, "gone at {now}, to expire at {expires}");
        Some(())
    })
    .await;
    // Each write path gets an expired object of its own. The last of them was put within the same second or the next.
    eventually("the expiry of all", Duration::from_secs(10), async || {
        (unix_now() > expires + 2).then_some(())
    })
    .await;
    assert!(listed(&http, &prefix, 10).await.is_empty(), "in the listing");
    for older in ["storage/get", "group-storage/fast-get", "group-storage/safe-get"] {
        let answer = http.get(&format!("/nomad/{older}/{}", segment(&ids[0]))).await;
        answer.problem(404, "NOT_FOUND");
    }
    http.head(&path(&ids[0])).await.expect(404);
    let ledger = http.get("/nomad/storage/get/object-ledger").await.ok();
    assert_eq!(ledger[&ids[0]], Value::Null, "in the ledger");
    let found = client.get(GetObjectRequest { id: ids[0].clone() }).await.unwrap().into_inner();
    assert!(!found.result && found.object.is_none(), "{found:?}");
    let request = DeleteObjectRequest { id: ids[1].clone(), ..Default::default() };
    assert!(!client.delete(request).await.unwrap().into_inner().result);
    http.delete(&path(&ids[1])).await.problem(404, "NOT_FOUND");
    let body = json!({ "id": ids[2], "value": base64("x") });
    http.put("/nomad/storage/update", &body).await.problem(404, "NOT_FOUND");
    // And its id is free.
    http.post("/nomad/storage/put", &body).await.ok();
    assert_eq!(http.get(&path(&ids[2])).await.expect(200).body, "x");
    let call = http.call("PUT", &path(&ids[3])).header("if-none-match", "*").body("new");
    call.send().await.expect(201);
}

#[tokio::test]
async fn the_mode_header_is_of_this_call_alone() {
    let (node, id) = (NODE.get(), unique("mode"));
    let http = node.http();
    let put = async |mode: &str| {
        http.call("PUT", &path(&id)).header("nomad-mode", mode).body(mode.to_owned()).send().await
    };
    put("safe").await.expect(201).durability("quorum");
    put("fast").await.expect(204).durability("local");
    for mode in ["fast", "safe", "parallel"] {
        let call = http.call("GET", &path(&id)).header("nomad-mode", mode);
        assert_eq!(call.send().await.expect(200).durability("local").body, "fast");
    }
    put("safe").await.expect(204).durability("quorum");
    http.call("PUT", &path(&id)).body("plain").send().await.expect(204).durability("local");
    let call = http.call("DELETE", &path(&id)).header("nomad-mode", "safe");
    call.send().await.expect(204).durability("quorum");
}

#[tokio::test]
async fn delete_honours_the_version() {
    let (node, id) = (NODE.get(), unique("delete"));
    let http = node.http();
    put(&http, &id, "one").await.expect(201);
    let stale = etag(&http.get(&path(&id)).await);
    put(&http, &id, "two").await.expect(204);
    let call = http.call("DELETE", &path(&id)).header("if-match", &stale);
    call.send().await.problem(412, "FAILED_PRECONDITION");
    let tag = etag(&http.get(&path(&id)).await.expect(200));
    let call = http.call("DELETE", &path(&id)).header("if-match", &tag);
    assert!(call.send().await.expect(204).body.is_empty());
    http.get(&path(&id)).await.problem(404, "NOT_FOUND");
    crate::support::assert_says(&http.delete(&path(&id)).await.problem(404, "NOT_FOUND"), &id);
    // A version never comes back, so that an old condition can never hold again.
    let again = put(&http, &id, "one").await.expect(201);
    assert!(etag(&again) != tag && etag(&again) != stale);
}

#[tokio::test]
async fn both_apis_are_about_the_same_objects() {
    let (node, id) = (NODE.get(), unique("both"));
    let http = node.http();
    let body = json!({ "id": id, "value": base64("older"), "creationTime": 1_700_000_000 });
    http.post("/nomad/storage/put", &body).await.ok();
    assert_eq!(http.get(&path(&id)).await.expect(200).body, "older");
    put(&http, &id, "newer").await.expect(204);
    let object = http.get(&format!("/nomad/storage/get/{id}")).await.ok();
    assert_eq!(value_of(&object), b"newer");
    assert_eq!(object["creationTime"], 1_700_000_000, "an upsert keeps it");
    http.delete(&path(&id)).await.expect(204);
    http.get(&format!("/nomad/storage/get/{id}")).await.problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn any_valid_id_works_percent_encoded() {
    let node = NODE.get();
    let (http, mut client, mark) = (node.http(), group(&node).await, unique("odd"));
    let odd = [
        "a/b",
        "a//b",
        "/",
        "a b",
        "ü",
        "日本語",
        "🦀",
        "100%",
        "%2F",
        "?x=1#y",
        "+",
        ".",
        "..",
        "a\"b",
        "a\\b",
        "a;b=c",
        "\u{2028}",
    ];
    let fixed = ["health", "peer-ledger", "object-ledger", "a/b", "..", "objects"];
    let ids = odd.iter().map(|id| format!("{id}{mark}")).chain(fixed.map(str::to_owned));
    for id in ids.chain([format!("{mark}/"), "é".repeat(512), "x".repeat(1024)]) {
        put(&http, &id, &id).await.expect(201);
        assert_eq!(http.get(&path(&id)).await.expect(200).text(), id);
        let found = client.get(GetObjectRequest { id: id.clone() }).await.unwrap().into_inner();
        let object = found.object.unwrap();
        assert_eq!((&object.id, &object.value[..]), (&id, id.as_bytes()));
        assert!(listed(&http, &id, 5).await.contains(&id), "{id:?} in the listing");
        http.delete(&path(&id)).await.expect(204);
        http.get(&path(&id)).await.problem(404, "NOT_FOUND");
    }
    // The older paths decode an id in the same way.
    let id = format!("a/b ü{mark}");
    put(&http, &id, "x").await.expect(201);
    let object = http.get(&format!("/nomad/storage/get/{}", segment(&id))).await.ok();
    assert_eq!(object["id"], id);
    let said = http.delete(&format!("/nomad/storage/delete/{}", segment(&id))).await.ok();
    assert_eq!(said, json!({ "result": true }));
}

#[tokio::test]
async fn a_listing_has_every_object_of_the_prefix_once() {
    let (node, prefix) = (NODE.get(), unique("page"));
    let http = node.http();
    let ids: BTreeSet<_> = (0..25).map(|n| format!("{prefix}/{n:02}")).collect();
    for id in &ids {
        put(&http, id, "x").await.expect(201);
    }
    put(&http, &format!("{prefix}0 is another prefix"), "x").await.expect(201);
    let under = format!("{prefix}/");
    for limit in [1, 7, 25, 100] {
        assert_eq!(listed(&http, &under, limit).await, ids, "pages of {limit}");
    }
    let page =
        http.get(&format!("/nomad/v1/objects?prefix={}&limit=10", segment(&under))).await.ok();
    assert_eq!(page["items"].as_array().unwrap().len(), 10);
    let item = &page["items"][0];
    let id = item["id"].as_str().unwrap();
    let tag = etag(&http.get(&path(id)).await);
    assert_eq!(item["version"], tag.trim_matches('"'), "{item}");
    // With no limit there is still one; with no prefix it is everything.
    assert!(http.get("/nomad/v1/objects").await.ok()["items"].as_array().unwrap().len() >= 25);
    let nothing = http.get(&format!("/nomad/v1/objects?prefix={}", unique("nothing"))).await.ok();
    assert_eq!(nothing["items"], json!([]));
    assert!(nothing["next"].is_null(), "{nothing}");
}

/// Goal: what stays unchanged during a walk through the pages is seen exactly once, whatever else changes.
#[tokio::test]
async fn pages_are_stable_while_others_write() {
    let (node, prefix) = (NODE.get(), unique("stable"));
    let http = node.http();
    let name = |n: u32| format!("{prefix}/{n:03}");
    for n in (0..60).step_by(2) {
        put(&http, &name(n), "x").await.expect(201);
    }
    let (mut seen, mut cursor, mut round) = (Vec::new(), String::new(), 0);
    loop {
        let under = segment(&format!("{prefix}/"));
        let page =
            http.get(&format!("/nomad/v1/objects?prefix={under}&limit=4{cursor}")).await.ok();
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={}", segment(next));
        // Something new before and after the cursor, an update of all, and the page's last object deleted.
        put(&http, &name(round * 2 + 1), "new").await.expect(201);
        put(&http, &name(59 - round * 2), "new").await.expect(201);
        assert!(matches!(put(&http, &name(56), "changed").await.status, 201 | 204));
        http.delete(&path(seen.last().unwrap())).await.expect(204);
        round += 1;
        assert!(round < 14, "the pages do not end: {seen:?}");
    }
    let unique: BTreeSet<_> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "something came twice: {seen:?}");
    for n in (0..60).step_by(2) {
        assert!(unique.contains(&name(n)), "{} was passed over", name(n));
    }
}
