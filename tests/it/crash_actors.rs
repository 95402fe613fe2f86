//! Actors are killed while clients write: what was acknowledged stays, callers get only errors that they may retry, and
//! the tree recovers within the same process.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    ANSWER_LIMIT, assert_says,
    cli::nomad,
    eventually,
    json::objects_named,
    load::{LoadClient, Tally, Writer, listed},
    node::Node,
    seed,
};
use serde_json::Value;

const WRITERS: usize = 6;
const KEYS_EACH: usize = 8;
const RECOVERY: Duration = Duration::from_secs(20);

fn node_that_allows_kill() -> Node {
    Node::builder().env("DEBUG_ALLOWKILL", true).start()
}

/// What the tree says of this actor; `None` while the node cannot say it.
async fn actor(node: &Node, name: &str) -> Option<Value> {
    let ran = nomad(["actors", "--output", "json"]).on(node).run().await;
    if ran.code != 0 {
        return None;
    }
    objects_named(&ran.json(), name).first().map(|found| (*found).clone())
}

fn restarts(actor: &Value) -> u64 {
    actor["restarts"].as_u64().unwrap_or_else(|| panic!("no restarts in {actor}"))
}

/// Kills the actor `kills` times under load, then checks every key.
async fn kill_under_load(name: &str, kills: u64) {
    let (node, seed, tally) = (node_that_allows_kill(), seed(), Tally::new());
    let mut tasks = Vec::new();
    for index in 0..WRITERS {
        let client = LoadClient::number(index, &node).await;
        let writer = Writer::new(client, index, KEYS_EACH, seed);
        tasks.push(tokio::spawn(writer.until_stopped(tally.clone())));
    }
    tally.more(50).await;
    for kill in 1..=kills {
        let ran = nomad(["debug", "kill", name]).on(&node).run().await;
        // An edge may take the answer with it.
        let done = ran.code == 0 || matches!(name, "edge" | "rest");
        assert!(done, "{}", ran.everything());
        // The load goes on through it, and the tree shows the new life and why the old one ended.
        tally.more(100).await;
        let actor = eventually("the restart", RECOVERY, async || {
            actor(&node, name).await.filter(|actor| restarts(actor) >= kill)
        })
        .await;
        assert_says(&actor.to_string(), "kill");
    }
    tally.stop();
    let mut present = BTreeSet::new();
    for task in tasks {
        let mut writer = task.await.unwrap();
        present.extend(writer.verify(&node).await);
    }
    assert_eq!(listed(&node.http(), "w", 20).await, present, "NOMAD_SEED={seed}");
    node.http().get("/readyz").await.page(200);
    let table = nomad(["actors"]).on(&node).ok().await.text();
    assert_says(&table, name);
    assert_says(&table, "kill");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_store_killed_under_load_loses_no_acknowledged_write() {
    kill_under_load("local_store", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_writer_killed_under_load_loses_no_acknowledged_write() {
    kill_under_load("replica_writer-0", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outbox_killed_under_load_loses_no_acknowledged_write() {
    kill_under_load("outbox", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_killed_under_load_loses_no_acknowledged_write() {
    kill_under_load("expiry", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_supervisor_killed_under_load_loses_no_acknowledged_write() {
    kill_under_load("storage", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edge_supervisor_killed_under_load_loses_no_acknowledged_write() {
    kill_under_load("edge", 1).await;
}

/// The listener comes back at the same address: its clients know no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_killed_under_load_loses_no_acknowledged_write() {
    kill_under_load("rest", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_killed_under_load_loses_no_acknowledged_write() {
    kill_under_load("grpc", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_reader_killed_under_load_loses_no_acknowledged_write() {
    kill_under_load("replica_reader", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_table_and_its_supervisor_killed_under_load_lose_no_acknowledged_write() {
    kill_under_load("group_table", 1).await;
    kill_under_load("group", 1).await;
}

#[tokio::test]
async fn the_loss_of_the_root_ends_the_process_with_an_error() {
    let mut node = node_that_allows_kill();
    let _ = nomad(["debug", "kill", "node"]).on(&node).run().await;
    let code = node.exited(ANSWER_LIMIT).await.code();
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
}

#[tokio::test]
async fn kill_is_refused_without_the_setting() {
    let node = Node::start();
    let said = nomad(["debug", "kill", "local_store"]).on(&node).fails(1).await;
    assert_says(&said, "debug.allowKill");
    assert_eq!(restarts(&actor(&node, "local_store").await.unwrap()), 0);
    node.assert_serves().await;
}

#[tokio::test]
async fn kill_of_an_unknown_actor_names_it() {
    let node = node_that_allows_kill();
    let said = nomad(["debug", "kill", "no_such_actor"]).on(&node).fails(1).await;
    assert_says(&said, "no_such_actor");
    node.assert_serves().await;
}

/// Goal: a child that keeps dying ends the process with an error, instead of a node that only looks alive.
#[tokio::test]
async fn restarts_without_end_escalate_to_a_non_zero_exit() {
    let mut node = node_that_allows_kill();
    let mut kills = 0;
    eventually("the exit", ANSWER_LIMIT, async || {
        kills += 1;
        let _ = nomad(["debug", "kill", "local_store"]).on(&node).run().await;
        node.has_exited().then_some(())
    })
    .await;
    let code = node.exited(ANSWER_LIMIT).await.code();
    assert!(code.is_some_and(|code| code != 0), "after {kills} kills: {code:?}");
    assert_says(&node.output().text(), "local_store");
}
