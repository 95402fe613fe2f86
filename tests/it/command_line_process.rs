//! The node as a process: how it starts and stops, how others find it, and that no second process can open its directory.

use std::time::Duration;

use crate::support::{
    ANSWER_LIMIT, assert_says, cli::nomad, eventually, node::Node, raw::Wire, started, within,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

const LIMIT: Duration = Duration::from_secs(15);

#[tokio::test]
async fn the_running_line_is_all_that_a_script_needs() {
    let node = Node::start();
    let line = &node.running;
    assert_eq!(line["msg"], "Node running");
    assert!(line["role"].is_string() && line["state"].is_string(), "{line}");
    for (name, low, high) in
        [("REST", 8_080, 9_999), ("peer", 5_001, 8_999), ("storage", 5_001, 8_999)]
    {
        let (host, port) = line[name].as_str().unwrap().rsplit_once(':').unwrap();
        assert_eq!(host, "127.0.0.1", "{line}");
        assert!((low..=high).contains(&port.parse::<u16>().unwrap()), "{line}");
    }
    // It serves already when it says so.
    node.assert_serves().await;
    for written in node.output().text().lines() {
        let parsed: Result<Value, _> = serde_json::from_str(written);
        assert!(parsed.is_ok(), "a log line that is no JSON: {written}");
    }
}

#[tokio::test]
async fn the_addresses_file_is_there_while_the_node_serves() {
    let mut node = Node::start();
    let file = node.data_dir.join("addresses.json");
    let addresses: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(addresses["pid"], node.pid());
    assert_eq!(addresses["nodeId"], node.id().await);
    assert_eq!(addresses["rest"], node.rest);
    assert_eq!(addresses["peer"], node.peer);
    assert_eq!(addresses["storage"], node.storage);
    node.signal(Signal::TERM);
    assert_eq!(node.exited(LIMIT).await.code(), Some(0));
    assert!(!file.exists(), "left behind after the stop");
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let node = Node::start();
    let dir = node.data_dir.to_str().unwrap();
    let said = nomad(["start", "--data-dir", dir]).fails(1).await;
    assert_says(&said, dir);
    // The first is not disturbed, and still the one that is found there.
    node.assert_serves().await;
    let found = nomad(["status", "--output", "json", "--data-dir", dir]).ok().await.json();
    assert_eq!(found["nodeId"], node.id().await);
}

/// `kill -9` leaves the addresses file behind: no client may use the old addresses.
#[tokio::test]
async fn a_stale_addresses_file_is_no_node() {
    let mut node = Node::start();
    node.kill_9();
    let dir = node.data_dir.to_str().unwrap();
    assert_says(&nomad(["status", "--data-dir", dir]).fails(1).await, dir);
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_named() {
    let scratch = TempDir::new().unwrap();
    let file = scratch.path().join("a-file");
    std::fs::write(&file, "in the way").unwrap();
    let path = file.to_str().unwrap();
    assert_says(&nomad(["start", "--data-dir", path]).fails(1).await, path);
    assert_eq!(std::fs::read(&file).unwrap(), b"in the way");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let scratch = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = scratch.path().join("data");
    let run = nomad(["start", "--data-dir", dir.to_str().unwrap()]).env("NODE_PORTS_REST", &port);
    assert_says(&run.fails(1).await, &port);
}

/// Goal: from the signal on the node says that it is not ready, finishes what it accepted, and exits with 0.
#[tokio::test]
async fn sigterm_and_sigint_drain_what_was_accepted() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = TempDir::new().unwrap();
        let builder = Node::builder().data_dir(dir.path());
        let mut node = builder.start();
        let upload = Wire::slow_upload(&node.rest, "/nomad/v1/objects/in-flight", 8).await;
        let mut upload = upload.unwrap();
        node.signal(signal);
        let ready = eventually("readiness to end", LIMIT, async || {
            let answer = node.http().get("/readyz").await;
            (answer.status != 200).then_some(answer)
        })
        .await;
        assert_eq!(ready.status, 503, "{ready:?}");
        assert!(!ready.text().trim().is_empty(), "no reason");
        assert!(!node.has_exited(), "before the request in flight was finished");
        upload.write("finished").await;
        upload.answer().await.expect(201);
        assert_eq!(node.exited(LIMIT).await.code(), Some(0), "after {signal:?}");
        let node = builder.start();
        assert_eq!(
            node.http().get("/nomad/v1/objects/in-flight").await.expect(200).body,
            "finished"
        );
    }
}

#[tokio::test]
async fn the_drain_is_bounded() {
    let mut node = Node::builder().env("LIMITS_DRAIN", "500ms").start();
    let stuck = Wire::slow_upload(&node.rest, "/nomad/v1/objects/stuck", 8).await.unwrap();
    let start = started();
    node.signal(Signal::TERM);
    assert_eq!(node.exited(LIMIT).await.code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(400), "after {:?}", start.elapsed());
    drop(stuck);
}

#[tokio::test]
async fn a_second_signal_exits_at_once() {
    let mut node = Node::builder().env("LIMITS_DRAIN", "60s").start();
    let stuck = Wire::slow_upload(&node.rest, "/nomad/v1/objects/stuck", 8).await.unwrap();
    node.signal(Signal::TERM);
    eventually("readiness to end", LIMIT, async || {
        (node.http().get("/readyz").await.status == 503).then_some(())
    })
    .await;
    assert!(!node.has_exited());
    let start = started();
    node.signal(Signal::TERM);
    node.exited(LIMIT).await;
    assert!(start.elapsed() < Duration::from_secs(3), "after {:?}", start.elapsed());
    drop(stuck);
}

#[tokio::test]
async fn an_idle_node_stops_promptly_whoever_is_connected() {
    let mut node = Node::start();
    let idle = Wire::open(&node.rest).await;
    let grpc = crate::support::grpc::channel(&node.storage).await;
    node.assert_serves().await;
    let start = started();
    node.signal(Signal::TERM);
    assert_eq!(node.exited(LIMIT).await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "after {:?}", start.elapsed());
    drop((idle, grpc));
}

/// A `nomad start` with nothing but a working directory, and its "Node running" line.
async fn start_in(dir: &std::path::Path) -> (Child, Value) {
    let mut child = nomad(["start"]).cwd(dir).into_command().spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let running = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["msg"] == "Node running" {
                // Goes on reading, so that the node never waits for its log.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return line;
            }
        }
        panic!("it did not start");
    };
    let running = within("a start", ANSWER_LIMIT, running).await;
    (child, running)
}

/// Several nodes can be started in one directory, and a command without an address talks to the lowest that runs.
#[tokio::test]
async fn nodes_in_one_directory_take_one_place_each() {
    let dir = TempDir::new().unwrap();
    let (mut first, line_0) = start_in(dir.path()).await;
    let (second, line_1) = start_in(dir.path()).await;
    assert_ne!(line_0["REST"], line_1["REST"]);
    let place = |n: u32| dir.path().join(format!("nomad-data/node-{n}/addresses.json"));
    for (n, line) in [(0, &line_0), (1, &line_1)] {
        let addresses: Value = serde_json::from_slice(&std::fs::read(place(n)).unwrap()).unwrap();
        assert_eq!(addresses["rest"], line["REST"], "node-{n}");
    }
    nomad(["put", "mine", "x"]).cwd(dir.path()).ok().await;
    let http = crate::support::http::Http::new(line_0["REST"].as_str().unwrap());
    assert_eq!(http.get("/nomad/v1/objects/mine").await.expect(200).body, "x");
    first.kill().await.unwrap();
    // The next one takes over as the lowest that runs; the place of the first is free for a new one, with its objects.
    nomad(["get", "mine"]).cwd(dir.path()).fails(1).await;
    let (third, line_2) = start_in(dir.path()).await;
    let addresses: Value = serde_json::from_slice(&std::fs::read(place(0)).unwrap()).unwrap();
    assert_eq!(addresses["rest"], line_2["REST"]);
    assert_eq!(nomad(["get", "mine"]).cwd(dir.path()).ok().await.stdout, b"x");
    drop((second, third));
}

/// Goal: one command gives a network that serves, says where, and ends in order. Method: what it prints is read as a user
/// would, each node is asked, then it is interrupted.
#[tokio::test]
async fn dev_runs_a_network_and_stops_all_of_it() {
    let dir = TempDir::new().unwrap();
    let args = ["dev", "--peers", "2", "--data-dir", dir.path().to_str().unwrap()];
    let mut child = nomad(args).into_command().spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let page = async {
        let mut page = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            let is_last = line.starts_with("Ctrl-C");
            page.push(line);
            if is_last {
                return page;
            }
        }
        panic!("it ended before it was there: {page:?}");
    };
    let page = within("the network", ANSWER_LIMIT, page).await;
    let headings: Vec<_> = page[0].split_whitespace().collect();
    assert_eq!(headings, ["node", "state", "group", "REST", "peer", "storage", "overlay"]);
    for (index, row) in page[1..4].iter().enumerate() {
        let cells: Vec<_> = row.split_whitespace().collect();
        assert_eq!(cells[0], index.to_string(), "{row}");
        let http = crate::support::http::Http::new(cells[3]);
        let status = http.get("/nomad/v1/status").await.ok();
        let found = [&status["state"], &status["group"]].map(|text| text.as_str().unwrap());
        assert_eq!(found, [cells[1], cells[2]], "{row}");
        let path = format!("/nomad/v1/objects/dev-{index}");
        http.call("PUT", &path).body("x").send().await.expect(201);
        assert!(dir.path().join(format!("node-{index}/addresses.json")).exists());
    }
    assert!(page.iter().any(|line| line.contains("curl -i -X PUT")), "{page:?}");
    let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let status = within("the end of the network", ANSWER_LIMIT, child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    for index in 0..3 {
        assert!(!dir.path().join(format!("node-{index}/addresses.json")).exists());
    }
}
