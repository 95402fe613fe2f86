//! The client commands as a person types them: what they print, and how they exit (0 done, 1 failed, 2 bad usage or bad
//! config).

use crate::support::{
    assert_says,
    cli::nomad,
    http::segment,
    json::{int_of, objects_named, value_of},
    node::{Node, Shared},
    unique, unix_now, within,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};

static NODE: Shared = Shared::new();

#[tokio::test]
async fn put_get_update_delete_work_and_fail_as_they_should() {
    let (node, id) = (NODE.get(), unique("crud"));
    let node = &*node;
    assert_says(&nomad(["get", &id]).on(node).fails(1).await, &id);
    assert_says(&nomad(["update", &id, "x"]).on(node).fails(1).await, &id);
    assert_says(&nomad(["delete", &id]).on(node).fails(1).await, &id);
    nomad(["put", &id, "one"]).on(node).ok().await;
    // Raw is the default, and adds nothing to the bytes.
    assert_eq!(nomad(["get", &id]).on(node).ok().await.stdout, b"one");
    assert_says(&nomad(["put", &id, "two"]).on(node).fails(1).await, &id);
    assert_eq!(nomad(["get", &id, "--output", "raw"]).on(node).ok().await.stdout, b"one");
    nomad(["update", &id, "three"]).on(node).ok().await;
    assert_eq!(nomad(["get", &id, "--mode", "safe"]).on(node).ok().await.stdout, b"three");
    nomad(["delete", &id]).on(node).ok().await;
    nomad(["get", &id]).on(node).fails(1).await;
    let path = format!("/nomad/v1/objects/{id}");
    node.http().get(&path).await.problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn values_come_from_an_argument_a_file_or_standard_input() {
    let (node, dir) = (NODE.get(), TempDir::new().unwrap());
    let node = &*node;
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let file = dir.path().join("value.bin");
    std::fs::write(&file, &bytes).unwrap();
    let file = file.to_str().unwrap();
    let (from_file, from_stdin) = (unique("file"), unique("stdin"));
    nomad(["put", &from_file, "--file", file]).on(node).ok().await;
    nomad(["put", &from_stdin, "--file", "-"]).on(node).stdin(bytes.clone()).ok().await;
    for id in [&from_file, &from_stdin] {
        assert!(nomad(["get", id]).on(node).ok().await.stdout == bytes, "{id}");
    }
    nomad(["update", &from_file, "--file", "-"]).on(node).stdin("").ok().await;
    assert_eq!(nomad(["get", &from_file]).on(node).ok().await.stdout, b"");
    let said =
        nomad(["put", &unique("no-file"), "--file", "/no/such/file"]).on(node).fails(1).await;
    assert_says(&said, "/no/such/file");
    // No value at all, or two of them, is a mistake in the line itself.
    nomad(["put", &unique("no-value")]).on(node).fails(2).await;
    nomad(["put", &unique("two-values"), "x", "--file", file]).on(node).fails(2).await;
}

#[tokio::test]
async fn expiry_is_a_duration_or_a_time() {
    let (node, now) = (NODE.get(), unix_now());
    let node = &*node;
    let object = async |id: &str| nomad(["get", id, "--output", "json"]).on(node).ok().await.json();
    let (hour, fixed, moved) = (unique("hour"), unique("fixed"), unique("moved"));
    nomad(["put", &hour, "x", "--ttl", "1h"]).on(node).ok().await;
    let ttl = int_of(&object(&hour).await, "ttl");
    assert!((now + 3_600..=unix_now() + 3_600).contains(&ttl), "{ttl}, at {now}");
    let at = (now + 5_000).to_string();
    nomad(["put", &fixed, "x", "--expires", &at]).on(node).ok().await;
    assert_eq!(int_of(&object(&fixed).await, "ttl"), now + 5_000);
    nomad(["put", &moved, "x"]).on(node).ok().await;
    assert_eq!(int_of(&object(&moved).await, "ttl"), 0);
    nomad(["update", &moved, "x", "--expires", &at]).on(node).ok().await;
    assert_eq!(int_of(&object(&moved).await, "ttl"), now + 5_000);
    let bad = unique("bad");
    assert_says(&nomad(["put", &bad, "x", "--ttl", "soon"]).on(node).fails(2).await, "soon");
    assert_says(&nomad(["put", &bad, "x", "--expires", "later"]).on(node).fails(2).await, "later");
    assert_says(&nomad(["put", &bad, "x", "--expires", "1000"]).on(node).fails(1).await, "past");
    nomad(["put", &bad, "x", "--ttl", "1h", "--expires", &at]).on(node).fails(2).await;
    nomad(["get", &bad]).on(node).fails(1).await;
}

#[tokio::test]
async fn json_output_is_the_object() {
    let (node, id) = (NODE.get(), unique("json"));
    let node = &*node;
    nomad(["put", &id, "body", "--mode", "safe"]).on(node).ok().await;
    let object = nomad(["get", &id, "--output", "json"]).on(node).ok().await.json();
    assert_eq!(object["id"], id);
    assert_eq!(value_of(&object), b"body");
    assert!(int_of(&object, "creationTime") > 1_700_000_000, "{object}");
    assert_says(&nomad(["get", &id, "--output", "xml"]).on(node).fails(2).await, "xml");
    assert_says(&nomad(["get", &id, "--mode", "quick"]).on(node).fails(2).await, "quick");
    let said = nomad(["put", &unique("mode"), "x", "--mode", "parallel"]).on(node).fails(2).await;
    assert_says(&said, "parallel");
}

#[tokio::test]
async fn odd_ids_work_and_bad_ones_are_refused() {
    let (node, mark) = (NODE.get(), unique("odd"));
    let node = &*node;
    for id in ["a/b", "a b", "日本", "100%", "health", "--dashes"].map(|id| format!("{id}{mark}"))
    {
        let url = format!("http://{}", node.rest);
        nomad(["put", "--url", &url, "--", &id, "x"]).ok().await;
        let path = format!("/nomad/v1/objects/{}", segment(&id));
        assert_eq!(node.http().get(&path).await.expect(200).body, "x");
    }
    let long = "x".repeat(1_025);
    assert_says(&nomad(["put", &long, "x"]).on(node).fails(1).await, "1025");
    assert_says(&nomad(["get", "a\nb"]).on(node).fails(1).await, "control");
    let empty = nomad(["put", "", "x"]).on(node).run().await;
    assert!(matches!(empty.code, 1 | 2), "{empty:?}");
}

#[tokio::test]
async fn status_is_a_page_for_people_and_a_document_for_programs() {
    let node = NODE.get();
    let id = node.id().await;
    let page = nomad(["status"]).on(&node).ok().await.text();
    for part in [&id, &node.rest, &node.peer, &node.storage, "super-peer"] {
        assert_says(&page, part);
    }
    assert!(serde_json::from_str::<Value>(&page).is_err(), "a page, not a document: {page}");
    let document = nomad(["status", "--output", "json"]).on(&node).ok().await.json();
    assert_eq!(document["nodeId"], id);
    assert_eq!(document["members"], node.status().await["members"]);
}

#[tokio::test]
async fn actors_shows_the_tree() {
    let (node, id) = (NODE.get(), unique("for-actors"));
    nomad(["put", &id, "x"]).on(&node).ok().await;
    let page = nomad(["actors"]).on(&node).ok().await.text();
    for name in
        ["node", "storage", "local_store", "replica_writer-7", "expiry", "edge", "rest", "grpc"]
    {
        assert_says(&page, name);
    }
    let tree = nomad(["actors", "--output", "json"]).on(&node).ok().await.json();
    let workers = (0..8).flat_map(|shard| objects_named(&tree, &format!("replica_writer-{shard}")));
    let handled: u64 = workers.map(|worker| worker["handled"].as_u64().unwrap()).sum();
    assert!(handled >= 1, "{tree}");
}

#[tokio::test]
async fn trace_shows_what_one_request_did() {
    let (node, id, other) = (NODE.get(), unique("traced"), unique("other"));
    let node = &*node;
    let call = node.http();
    let call = call.call("PUT", &format!("/nomad/v1/objects/{id}"));
    let request = call.body("x").send().await.expect(201).request_id().to_owned();
    nomad(["put", &other, "x"]).on(node).ok().await;
    for selected in [["--object", id.as_str()], ["--request", request.as_str()]] {
        let page = nomad([&["trace"], &selected[..]].concat()).on(node).ok().await.text();
        assert_says(&page, "replica_writer-");
        assert_says(&page, "rest");
        assert_says(&page, &request);
        assert!(!page.contains(&other), "{page}");
    }
    let page = nomad(["trace", "--actor", "writer", "--limit", "1"]).on(node).ok().await.text();
    assert_says(&page, "writer");
    nomad(["trace", "--object", &unique("never")]).on(node).ok().await;
    assert_says(&nomad(["trace", "--limit", "many"]).on(node).fails(2).await, "many");
}

#[tokio::test]
async fn trace_follow_prints_what_happens_from_now_on() {
    let (node, id) = (NODE.get(), unique("followed"));
    let node = &*node;
    let mut command = nomad(["trace", "--follow", "--object", &id]).on(node).into_command();
    let mut follow = command.spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    // The follower says nothing when it has begun, so objects are written until it tells of one.
    let writing = async {
        loop {
            let _ = nomad(["put", &id, "x"]).on(node).run().await;
            let _ = nomad(["delete", &id]).on(node).run().await;
        }
    };
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("replica_writer-") {
                return;
            }
        }
        panic!("the follower ended by itself");
    };
    let told = async {
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    };
    within("a line about the object", crate::support::ANSWER_LIMIT, told).await;
    assert!(follow.try_wait().unwrap().is_none(), "the follower goes on");
    follow.kill().await.unwrap();
}

#[tokio::test]
async fn completions_are_scripts() {
    for (shell, mark) in [("bash", "complete "), ("zsh", "#compdef"), ("fish", "complete ")] {
        let script = nomad(["completions", shell]).ok().await.text();
        assert_says(&script, mark);
        assert_says(&script, "nomad");
    }
    assert_says(&nomad(["completions", "tcsh"]).fails(2).await, "tcsh");
}

#[tokio::test]
async fn every_command_explains_itself_with_examples() {
    let commands: [&[&str]; 13] = [
        &[],
        &["start"],
        &["put"],
        &["get"],
        &["update"],
        &["delete"],
        &["status"],
        &["actors"],
        &["trace"],
        &["config", "check"],
        &["debug", "kill"],
        &["bench"],
        &["completions"],
    ];
    for command in commands {
        let help = nomad([command, &["--help"]].concat()).ok().await.text();
        assert_says(&help, "usage");
        assert!(help.to_lowercase().contains("example"), "nomad {command:?} --help: {help}");
    }
    assert_says(&nomad(["--version"]).ok().await.text(), env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn bad_usage_exits_with_2() {
    let lines: [&[&str]; 8] = [
        &["no-such-command"],
        &["get"],
        &["get", "a", "--no-such-flag"],
        &["start", "--type", "hyper-peer"],
        &["put", "a", "b", "c"],
        &["get", "a", "--url", "not a url"],
        &["config"],
        &["completions"],
    ];
    for line in lines {
        nomad(line.iter().copied()).fails(2).await;
    }
}

#[tokio::test]
async fn a_node_that_is_not_there_is_a_failure_that_says_what_to_do() {
    let dir = TempDir::new().unwrap();
    let nowhere = dir.path().to_str().unwrap();
    for command in [&["get", "a"][..], &["status"], &["actors"], &["trace"], &["put", "a", "b"]] {
        // None is known in this directory, in that one, at that address.
        let said = nomad(command.iter().copied()).cwd(dir.path()).fails(1).await;
        assert_says(&said, "nomad start");
        let said = nomad([command, &["--data-dir", nowhere]].concat()).fails(1).await;
        assert_says(&said, nowhere);
        let said = nomad([command, &["--url", "http://127.0.0.1:1"]].concat()).fails(1).await;
        assert_says(&said, "127.0.0.1:1");
    }
}

#[tokio::test]
async fn a_node_is_found_by_its_data_dir_or_the_environment() {
    let node = NODE.get();
    let (id, dir) = (node.id().await, node.data_dir.to_str().unwrap());
    let by_dir = nomad(["status", "--output", "json", "--data-dir", dir]).ok().await.json();
    assert_eq!(by_dir["nodeId"], id);
    let url = format!("http://{}", node.rest);
    let by_env = nomad(["status", "--output", "json"]).env("NOMAD_URL", &url).ok().await.json();
    assert_eq!(by_env["nodeId"], id);
}

#[tokio::test]
async fn config_check_prints_what_would_be_in_force() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("nomad.yaml");
    std::fs::write(&file, "node:\n  maxPeers: 7\n  storage:\n    replicationFactor: 2\n").unwrap();
    let file = file.to_str().unwrap();
    let run = nomad(["config", "check", "-c", file]).cwd(dir.path());
    let said = run.env("NODE_WORLD_WIDTH", "100.0").env("NODE_STORAGE_REPLICATIONFACTOR", "4");
    let said = said.ok().await.text();
    let config: Value =
        serde_yaml_ng::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(config["node"]["maxPeers"], 7, "from the file");
    assert_eq!(config["node"]["world"]["width"], 100.0, "from the environment");
    assert_eq!(config["node"]["storage"]["replicationFactor"], 4, "environment over file");
    assert_eq!(config["node"]["storage"]["storageMode"], "fast", "the default");
    assert_eq!(config["schedule"]["healthCheck"], "20s", "the default");
}

/// Goal: all problems at once, each with its key, its value and where it came from.
#[tokio::test]
async fn config_problems_are_all_reported_at_once() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("bad.yaml");
    let text = "node:\n  maxPeers: many\n  noSuchKey: 1\nschedule:\n  repair: 20\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for command in [&["config", "check"][..], &["start"]] {
        let run = nomad([command, &["-c", file]].concat()).cwd(dir.path());
        let run = run.env("NODE_STORAGE_STORAGEMODE", "quick").env("NODE_WORLD_HEIGHT", "-1");
        let said = run.fails(2).await;
        for part in [
            "node.maxPeers",
            "many",
            "noSuchKey",
            "schedule.repair",
            "20",
            "bad.yaml",
            "quick",
            "NODE_STORAGE_STORAGEMODE",
            "NODE_WORLD_HEIGHT",
            "-1",
        ] {
            assert_says(&said, part);
        }
    }
    let said = nomad(["config", "check", "-c", "/no/such/file.yaml"]).fails(2).await;
    assert_says(&said, "/no/such/file.yaml");
}

#[tokio::test]
async fn bench_measures_and_says_so_in_json() {
    let node = Node::start();
    let line = ["bench", "--duration", "1s", "--output", "json"];
    let report = nomad(line).on(&node).ok().await.json();
    assert_says(&report.to_string(), "p99");
}
