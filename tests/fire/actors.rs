//! Lists the actors of a node by name, and kills them.

use std::collections::BTreeSet;

use nomad_core::register::SHARDS;

use crate::support::{
    cli::nomad,
    cluster::SETTLE,
    eventually,
    json::{all, objects_named},
    node::Node,
};

/// Never killed: the root, because the node ends with it, and the writer thread, because it is not an actor.
const LEFT_OUT: [&str; 2] = ["node", "writer"];

/// Actors that must be in the list. There is also a replica writer for each shard.
const WANTED: [&str; 14] = [
    "outbox",
    "ledger",
    "repair_sweeper",
    "replica_reader",
    "local_store",
    "expiry",
    "peer_links",
    "group_table",
    "membership",
    "overlay",
    "storage",
    "edge",
    "rest",
    "grpc",
];

/// The names of the actors that run, without the part that names the node.
pub async fn names(node: &Node) -> BTreeSet<String> {
    let tree = nomad(["actors", "--output", "json"]).on(node).ok().await.json();
    let names = all(&tree, "name").into_iter().chain(all(&tree, "actor"));
    let names = names.filter_map(|name| name.as_str());
    let short = names.map(|name| name.rsplit('/').next().unwrap_or(name));
    let plain = short.filter_map(|name| name.split('@').next()).map(ToOwned::to_owned);
    let names: BTreeSet<_> = plain.filter(|name| !LEFT_OUT.contains(&name.as_str())).collect();
    let writers = (0..SHARDS).map(|shard| format!("replica_writer-{shard}"));
    for wanted in WANTED.map(str::to_owned).into_iter().chain(writers) {
        assert!(names.contains(&wanted), "no {wanted} among {names:?}");
    }
    assert!(names.iter().any(|name| name.starts_with("link:")), "no link among {names:?}");
    names
}

/// How often it was started again; `None` when the node does not say, or it is not there.
async fn restarts(node: &Node, name: &str) -> Option<u64> {
    let ran = nomad(["actors", "--output", "json"]).on(node).run().await;
    if ran.code != 0 {
        return None;
    }
    let tree = ran.json();
    let found = objects_named(&tree, name);
    found.iter().filter_map(|actor| actor["restarts"].as_u64()).max()
}

/// Kills it, and waits until it runs again in the same process.
pub async fn kill(node: &Node, name: &str) {
    let Some(was) = restarts(node, name).await else {
        // A link to a member that has gone meanwhile.
        assert!(name.starts_with("link"), "{name} is not there any more");
        return;
    };
    let ran = nomad(["debug", "kill", name]).on(node).run().await;
    // An edge may take the answer with it; a link may have gone by itself.
    let forgiven = ["edge", "rest"].contains(&name) || name.starts_with("link");
    assert!(ran.code == 0 || forgiven, "{name}: {}", ran.everything());
    eventually(&format!("the restart of {name}"), SETTLE, async || {
        let now = restarts(node, name).await;
        (now > Some(was) || (now.is_none() && name.starts_with("link"))).then_some(())
    })
    .await;
}
