//! `actors.md` against the live tree, and every actor of it killed by name.

use std::collections::BTreeMap;

use crate::support::{ANSWER_LIMIT, cli::nomad, eventually, json::objects_named, node::Node};
use serde_json::Value;

/// The first table of `actors.md`: actor and supervisor. A number in a live name is `N` there.
fn documented() -> BTreeMap<String, String> {
    let text = include_str!("../../actors.md");
    let rows = text.lines().filter(|line| line.starts_with("| `")).take_while(|_| true);
    let cell = |text: &str| text.trim().trim_matches('`').to_owned();
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (cell(cells[1]), cell(cells[2]))
    })
    .collect()
}

fn generic(name: &str) -> String {
    if name.starts_with("link:") {
        return "link:ID".to_owned();
    }
    match name.rsplit_once('-') {
        Some((stem, number)) if number.parse::<u32>().is_ok() => format!("{stem}-N"),
        _ => name.to_owned(),
    }
}

async fn tree(node: &Node) -> Vec<Value> {
    let document = node.http().get("/nomad/debug/actors").await.ok();
    document["actors"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_md_describes_the_live_tree() {
    let node = Node::builder().start();
    let overlay = node.running["overlay"].as_str().unwrap();
    let _other = Node::builder().arg("--bootstrap").arg(overlay).start();
    // A link stands as soon as the two are a group.
    let live = eventually("a link", ANSWER_LIMIT, async || {
        let live: BTreeMap<String, String> = tree(&node)
            .await
            .iter()
            .map(|actor| {
                let parent = actor["parent"].as_str().unwrap_or_default();
                (generic(actor["name"].as_str().unwrap()), parent.to_owned())
            })
            .collect();
        live.contains_key("link:ID").then_some(live)
    })
    .await;
    assert_eq!(live, documented());
}

/// Goal: the node survives the loss of each of its actors. Method: each is killed once, and the node then takes a write and
/// reads it back. A killed supervisor ends its children too.
#[tokio::test(flavor = "multi_thread")]
async fn the_node_survives_the_loss_of_each_actor() {
    let node = Node::builder().env("DEBUG_ALLOWKILL", true).start();
    let mut names: Vec<String> =
        tree(&node).await.iter().map(|actor| actor["name"].as_str().unwrap().to_owned()).collect();
    names.retain(|name| name != "node");
    for (index, name) in names.iter().enumerate() {
        // The edge that carries the order may take its answer with it.
        let _ = nomad(["debug", "kill", name]).on(&node).run().await;
        let (id, http) = (format!("after-{name}-{index}"), node.http());
        eventually(&format!("the loss of {name} is repaired"), ANSWER_LIMIT, async || {
            let path = format!("/nomad/v1/objects/{id}");
            let put = http.call("PUT", &path).body("x").try_send().await.ok()?;
            let got = http.call("GET", &path).try_send().await.ok()?;
            let document = http.call("GET", "/nomad/debug/actors").try_send().await.ok()?.json();
            let actor = objects_named(&document, name).first().map(|found| (*found).clone())?;
            let back = actor["state"] == "running" && actor["restarts"].as_u64()? >= 1;
            (matches!(put.status, 201 | 204) && got.status == 200 && back).then_some(())
        })
        .await;
    }
}
