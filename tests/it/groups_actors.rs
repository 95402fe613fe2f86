//! Actors of a group's members are killed, one after the other: the process lives, the group is the same, and every member
//! agrees again.

use std::collections::BTreeSet;

use crate::support::{
    cli::nomad,
    cluster::{Cluster, Role, SETTLE},
    eventually,
    json::{all, objects_named},
    node::Node,
    say, soak,
};

/// Not killed here: actors without which the node ends, and actors that another test kills.
const LEFT_OUT: [&str; 6] = ["node", "storage", "local_store", "writer", "rest", "grpc"];

/// The names of the actors that live, without what tells several of a kind apart.
async fn actors(node: &Node) -> BTreeSet<String> {
    let tree = nomad(["actors", "--output", "json"]).on(node).ok().await.json();
    let names = all(&tree, "name").into_iter().chain(all(&tree, "actor"));
    let names = names.filter_map(|name| name.as_str());
    let short = names.map(|name| name.rsplit('/').next().unwrap_or(name));
    let plain = short.filter_map(|name| name.split('@').next()).map(ToOwned::to_owned);
    plain.filter(|name| !LEFT_OUT.contains(&name.as_str())).collect()
}

async fn restarts(node: &Node, name: &str) -> u64 {
    let ran = nomad(["actors", "--output", "json"]).on(node).run().await;
    if ran.code != 0 {
        return 0;
    }
    let tree = ran.json();
    let found = objects_named(&tree, name);
    found.iter().filter_map(|actor| actor["restarts"].as_u64()).max().unwrap_or_default()
}

/// Goal: no actor of a super-peer or of a peer is the group's single point of failure.
#[tokio::test]
async fn a_group_survives_the_loss_of_every_actor_of_a_member() {
    let mut cluster = Cluster::new().env("DEBUG_ALLOWKILL", true);
    cluster.add(Role::SuperPeer).await;
    cluster.add_many(Role::Peer, 2).await;
    let before = cluster.agree(0..3, SETTLE).await;
    for number in if soak() { vec![0, 2, 1] } else { vec![0, 2] } {
        let names = actors(cluster.node(number)).await;
        for wanted in ["membership", "group_table", "peer_links", "overlay"] {
            assert!(names.contains(wanted), "no {wanted} among {names:?}");
        }
        say(&format!("actors of node {number} that are killed: {names:?}"));
        for name in &names {
            let node = cluster.node(number);
            let was = restarts(node, name).await;
            let ran = nomad(["debug", "kill", name]).on(node).run().await;
            assert!(ran.code == 0 || name == "edge", "{name}: {}", ran.everything());
            eventually(&format!("the restart of {name} on node {number}"), SETTLE, async || {
                (restarts(node, name).await > was).then_some(())
            })
            .await;
            let after = cluster.agree(0..3, SETTLE).await;
            assert_eq!(after.group, before.group, "after the loss of {name} on node {number}");
        }
    }
    say(&cluster.assert_one_history());
}
