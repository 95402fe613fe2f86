//! `nomad status`: the status document as a page for people.

use std::fmt::Write as _;

use serde::Deserialize;

use super::{
    args::{Output, ShowArgs},
    error::CliError,
    objects::pretty,
    rest::{Ask, Rest},
    shown::{bytes, one_line, span},
};

/// What the page shows of the status document. What is absent is shown as empty, so that a node of another version can
/// be looked at too.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    pub node_id: String,
    role: String,
    state: String,
    group: String,
    epoch: u64,
    super_peer: Option<String>,
    ready: bool,
    reason: Option<String>,
    pub members: Vec<Member>,
    capacity: u64,
    settings: Settings,
    store: Store,
    network: String,
    version: String,
    uptime_seconds: u64,
    resident_bytes: u64,
    requests_in_hand: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Member {
    pub node_id: String,
    role: String,
    state: String,
    voter: bool,
    rest: String,
    peer: String,
    pub storage: String,
    position: Position,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Position {
    x: f64,
    y: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Settings {
    storage_mode: String,
    retrieval_mode: String,
    migration: bool,
    replication_factor: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Store {
    state: String,
    durability: String,
    writes: u64,
    fsyncs: u64,
    waiting: u64,
    disk_bytes: u64,
    recoveries: u64,
}

/// Where the status document is.
pub(super) fn ask() -> Ask {
    Ask::get("/nomad/v1/status", "get the node's status")
}

/// Shows the node.
pub(super) async fn run(rest: &Rest, args: &ShowArgs) -> Result<Vec<u8>, CliError> {
    let answer = rest.send(ask()).await?;
    match args.output {
        Output::Json => Ok(pretty(&answer.json()?)),
        Output::Text => Ok(page(&answer.json()?).into_bytes()),
    }
}

fn page(status: &Status) -> String {
    let mut page = String::new();
    let mut row = |name: &str, text: String| {
        let _ = writeln!(page, "{name:<10} {}", one_line(&text));
    };
    let yes_no = |is: bool| if is { "yes" } else { "no" };
    row("node", status.node_id.clone());
    // The state of a role mostly says the role too: provisional-super-peer.
    let role = match status.state.contains(&status.role) {
        true => status.state.clone(),
        false => format!("{}, {}", status.role, status.state),
    };
    row("role", role);
    let reason = status.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    row("ready", format!("{}{reason}", yes_no(status.ready)));
    row(
        "running",
        format!(
            "for {}, version {}, {} of memory, {} requests in hand",
            span(status.uptime_seconds),
            status.version,
            bytes(status.resident_bytes),
            status.requests_in_hand
        ),
    );
    row("network", status.network.clone());
    let super_peer = match &status.super_peer {
        Some(id) if *id == status.node_id => "led by this node".to_owned(),
        Some(id) => format!("led by {id}"),
        None => "led by nobody".to_owned(),
    };
    let count = status.members.len();
    row(
        "group",
        format!(
            "{}, epoch {}, {super_peer}, {count} of {} members",
            status.group, status.epoch, status.capacity
        ),
    );
    let settings = &status.settings;
    row(
        "settings",
        format!(
            "writes {}, reads {}, {} replicas, migration {}",
            settings.storage_mode,
            settings.retrieval_mode,
            settings.replication_factor,
            if settings.migration { "on" } else { "off" }
        ),
    );
    let store = &status.store;
    row(
        "store",
        format!(
            "{}, {} on disk, durable: {}, {} writes, {} fsyncs, {} waiting, {} recoveries",
            store.state,
            bytes(store.disk_bytes),
            store.durability,
            store.writes,
            store.fsyncs,
            store.waiting,
            store.recoveries
        ),
    );
    for member in &status.members {
        page.push('\n');
        page.push_str(&member_page(member, member.node_id == status.node_id));
    }
    page
}

fn member_page(member: &Member, is_this: bool) -> String {
    let this = if is_this { " (this node)" } else { "" };
    let voter = if member.voter { ", votes" } else { "" };
    let lines = [
        format!("member {}{this}", member.node_id),
        format!(
            "  {}, {}{voter}, at ({}, {})",
            member.role, member.state, member.position.x, member.position.y
        ),
        format!("  REST {}  peer {}  storage {}", member.rest, member.peer, member.storage),
    ];
    lines.iter().map(|line| one_line(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_place_group_and_store() {
        let document = serde_json::json!({
            "nodeId": "12D3KooWabc", "role": "super-peer", "state": "provisional-super-peer",
            "group": "g-abc", "epoch": 1, "superPeer": "12D3KooWabc", "ready": false,
            "reason": "writes are refused: disk\nfull",
            "members": [{"nodeId": "12D3KooWabc", "role": "super-peer", "state": "alive", "voter": true,
                "rest": "127.0.0.1:8080", "peer": "127.0.0.1:5001", "storage": "127.0.0.1:5002",
                "position": {"x": 5.0, "y": 2.5}}],
            "capacity": 5,
            "settings": {"storageMode": "fast", "retrievalMode": "safe", "migration": false, "replicationFactor": 3},
            "store": {"state": "read-only", "durability": "local", "writes": 7, "fsyncs": 3, "waiting": 0,
                "diskBytes": 2_097_152, "recoveries": 0},
            "network": "nomad", "version": "0.1.0", "uptimeSeconds": 3725, "residentBytes": 1_048_576,
            "requestsInHand": 1, "someLaterField": true
        });
        let expected = "\
node       12D3KooWabc
role       provisional-super-peer
ready      no: writes are refused: disk full
running    for 1h 2m 5s, version 0.1.0, 1.0 MiB of memory, 1 requests in hand
network    nomad
group      g-abc, epoch 1, led by this node, 1 of 5 members
settings   writes fast, reads safe, 3 replicas, migration off
store      read-only, 2.0 MiB on disk, durable: local, 7 writes, 3 fsyncs, 0 waiting, 0 recoveries

member 12D3KooWabc (this node)
  super-peer, alive, votes, at (5, 2.5)
  REST 127.0.0.1:8080  peer 127.0.0.1:5001  storage 127.0.0.1:5002
";
        assert_eq!(page(&serde_json::from_value(document).unwrap()), expected);
    }

    #[test]
    fn a_document_of_another_version_is_shown_as_far_as_it_is_known() {
        let page = page(&serde_json::from_str(r#"{"nodeId":"n"}"#).unwrap());
        assert!(page.starts_with("node       n\n"), "{page}");
    }
}
