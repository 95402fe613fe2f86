//! `nomad status`: the status document as a page for people.

use std::fmt::{self, Write as _};

use serde::Deserialize;

use super::{
    args::{Output, ShowArgs},
    error::CliError,
    objects::pretty,
    rest::{CliRequest, Rest},
    shown::{bytes, columns, one_line, span},
};

/// What the page shows of the status document. What is absent is shown as empty, so that a node of another version can
/// be looked at too.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StatusPage {
    pub node_id: String,
    role: String,
    state: String,
    pub group: Option<String>,
    epoch: u64,
    term: u64,
    super_peer: Option<String>,
    ready: bool,
    pub reason: Option<String>,
    pub members: Vec<ShownMember>,
    change: Option<ShownChange>,
    capacity: u64,
    position: ShownPosition,
    settings: ShownSettings,
    store: ShownStore,
    outbox: ShownOutbox,
    under_replicated_objects: Option<u64>,
    repair: Repair,
    network: String,
    overlay: Vec<String>,
    known_groups: u64,
    version: String,
    at: u64,
    uptime_seconds: u64,
    resident_bytes: u64,
    requests_in_hand: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ShownMember {
    pub node_id: String,
    role: String,
    state: String,
    voter: bool,
    pub rest: String,
    peer: String,
    pub storage: String,
    position: ShownPosition,
    last_seen: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ShownChange {
    joining: Vec<String>,
    leaving: Vec<String>,
    waits_for: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ShownPosition {
    x: f64,
    y: f64,
}

impl fmt::Display for ShownPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { x, y } = self;
        write!(f, "({x}, {y})")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ShownSettings {
    storage_mode: String,
    retrieval_mode: String,
    migration: bool,
    replication_factor: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ShownStore {
    state: String,
    durability: String,
    writes: u64,
    fsyncs: u64,
    waiting: u64,
    disk_bytes: u64,
    recoveries: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ShownOutbox {
    entries: u64,
    bytes: u64,
    oldest: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Repair {
    left: u64,
    oldest: Option<u64>,
}

/// Where the status document is.
pub(super) fn ask() -> CliRequest {
    CliRequest::get("/nomad/v1/status", "get the node's status")
}

/// Shows the node.
pub(super) async fn run(rest: &Rest, args: &ShowArgs) -> Result<Vec<u8>, CliError> {
    let answer = rest.send(ask()).await?;
    match args.output {
        Output::Json => Ok(pretty(&answer.json()?)),
        Output::Text => Ok(page(&answer.json()?).into_bytes()),
    }
}

fn page(status: &StatusPage) -> String {
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
    let mut network = format!("{}, {} other groups known", status.network, status.known_groups);
    if let Some(overlay) = status.overlay.first() {
        network.push_str(&format!(", overlay {overlay}"));
    }
    row("network", network);
    row("position", status.position.to_string());
    let super_peer = match &status.super_peer {
        Some(id) if *id == status.node_id => "led by this node".to_owned(),
        Some(id) => format!("led by {id}"),
        None => "led by nobody".to_owned(),
    };
    let count = status.members.len();
    let group = match &status.group {
        None => "none".to_owned(),
        Some(group) => format!(
            "{group}, epoch {}, term {}, {super_peer}, {count} of {} members",
            status.epoch, status.term, status.capacity
        ),
    };
    row("group", group);
    if let Some(change) = &status.change {
        let list = |word: &str, nodes: &[String]| match nodes {
            [] => String::new(),
            nodes => format!(", {word} {}", nodes.join(", ")),
        };
        let (joining, leaving) = (&change.joining, &change.leaving);
        let nodes = [
            list("joining", joining),
            list("leaving", leaving),
            list("waits for", &change.waits_for),
        ];
        row("change", format!("under way{}", nodes.concat()));
    }
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
    let outbox = &status.outbox;
    let wait = format!(
        "{} fast writes wait to be replicated, {}{}",
        outbox.entries,
        bytes(outbox.bytes),
        since(status.at, outbox.oldest)
    );
    row("outbox", wait);
    let under = match status.under_replicated_objects {
        Some(count) => count.to_string(),
        None => "an unknown number of".to_owned(),
    };
    let repair = &status.repair;
    let repairs = format!(
        "{under} objects under-replicated, {} to repair{}",
        repair.left,
        since(status.at, repair.oldest)
    );
    row("replicas", repairs);
    if !status.members.is_empty() {
        page.push('\n');
        page.push_str(&members(status));
    }
    page
}

/// Says for how long the oldest of some things waits, if there are any.
fn since(now: u64, oldest: Option<u64>) -> String {
    let age = |at: u64| format!(", the oldest for {}", span(now.saturating_sub(at) / 1000));
    oldest.map(age).unwrap_or_default()
}

/// The members as a table, the super-peer first and this node with a star.
fn members(status: &StatusPage) -> String {
    const HEADINGS: [&str; 9] =
        ["member", "state", "votes", "position", "seen", "REST", "peer", "storage", "node"];
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    let is_led = |member: &&ShownMember| member.role == "super-peer";
    let (leading, others): (Vec<_>, Vec<_>) = status.members.iter().partition(is_led);
    for member in leading.into_iter().chain(others) {
        let is_this = member.node_id == status.node_id;
        let seen = match member.last_seen {
            _ if is_this => "this node".to_owned(),
            None => "never".to_owned(),
            Some(at) => format!("{} ago", span(status.at.saturating_sub(at) / 1000)),
        };
        let cells = [
            format!("{}{}", member.role, if is_this { " *" } else { "" }),
            member.state.clone(),
            if member.voter { "yes" } else { "no" }.to_owned(),
            member.position.to_string(),
            seen,
            member.rest.clone(),
            member.peer.clone(),
            member.storage.clone(),
            member.node_id.clone(),
        ];
        rows.push(cells.iter().map(|cell| one_line(cell)).collect());
    }
    columns(&rows, HEADINGS.len()).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_place_group_and_store() {
        let document = serde_json::json!({
            "nodeId": "12D3KooWabc", "role": "peer", "state": "peer",
            "group": "g-abc", "epoch": 3, "term": 2, "superPeer": "12D3KooWdef", "ready": false,
            "reason": "writes are refused: disk\nfull",
            "members": [
                {"nodeId": "12D3KooWabc", "role": "peer", "state": "alive", "voter": true, "rest": "127.0.0.1:8080",
                 "peer": "127.0.0.1:5001", "storage": "127.0.0.1:5002", "position": {"x": 5.0, "y": 2.5}},
                {"nodeId": "12D3KooWdef", "role": "super-peer", "state": "alive", "voter": true, "rest": "10.0.0.2:80",
                 "peer": "10.0.0.2:81", "storage": "10.0.0.2:82", "position": {"x": 1.0, "y": 1.0}, "lastSeen": 7000},
                {"nodeId": "12D3KooWghi", "role": "peer", "state": "dead", "voter": false, "rest": "c\u{1b}[2J",
                 "peer": "", "storage": "", "position": {"x": 0.0, "y": 0.0}, "lastSeen": null}],
            "change": {"joining": ["12D3KooWghi"], "leaving": [], "replicationFactor": 3,
                "waitsFor": ["12D3KooWabc", "12D3KooWdef"]},
            "at": 9500, "position": {"x": 5.0, "y": 2.5},
            "overlay": ["/ip4/10.0.0.1/tcp/4001/p2p/12D3KooWabc"], "knownGroups": 2,
            "capacity": 5,
            "settings": {"storageMode": "fast", "retrievalMode": "safe", "migration": false, "replicationFactor": 3},
            "store": {"state": "read-only", "durability": "local", "writes": 7, "fsyncs": 3, "waiting": 0,
                "diskBytes": 2_097_152, "recoveries": 0},
            "outbox": {"entries": 3, "bytes": 2048, "oldest": 4500, "merging": 1},
            "underReplicatedObjects": 2, "repair": {"left": 1, "oldest": 8500, "failed": 0},
            "network": "nomad", "version": "0.1.0", "uptimeSeconds": 3725, "residentBytes": 1_048_576,
            "requestsInHand": 1, "someLaterField": true
        });
        let expected = "\
node       12D3KooWabc
role       peer
ready      no: writes are refused: disk full
running    for 1h 2m 5s, version 0.1.0, 1.0 MiB of memory, 1 requests in hand
network    nomad, 2 other groups known, overlay /ip4/10.0.0.1/tcp/4001/p2p/12D3KooWabc
position   (5, 2.5)
group      g-abc, epoch 3, term 2, led by 12D3KooWdef, 3 of 5 members
change     under way, joining 12D3KooWghi, waits for 12D3KooWabc, 12D3KooWdef
settings   writes fast, reads safe, 3 replicas, migration off
store      read-only, 2.0 MiB on disk, durable: local, 7 writes, 3 fsyncs, 0 waiting, 0 recoveries
outbox     3 fast writes wait to be replicated, 2.0 KiB, the oldest for 5s
replicas   2 objects under-replicated, 1 to repair, the oldest for 1s

member      state  votes  position  seen       REST            peer            storage         node
super-peer  alive  yes    (1, 1)    2s ago     10.0.0.2:80     10.0.0.2:81     10.0.0.2:82     12D3KooWdef
peer *      alive  yes    (5, 2.5)  this node  127.0.0.1:8080  127.0.0.1:5001  127.0.0.1:5002  12D3KooWabc
peer        dead   no     (0, 0)    never      c [2J                                           12D3KooWghi
";
        assert_eq!(page(&serde_json::from_value(document).unwrap()), expected);
    }

    #[test]
    fn a_node_without_a_group_says_so() {
        let document = serde_json::json!({
            "nodeId": "n", "role": "peer", "state": "discovering", "group": null, "superPeer": null,
            "ready": false, "reason": "looking for a group", "members": []
        });
        let page = page(&serde_json::from_value(document).unwrap());
        for line in [
            "role       peer, discovering",
            "ready      no: looking for a group",
            "group      none",
            "outbox     0 fast writes wait to be replicated, 0 B",
            "replicas   an unknown number of objects under-replicated, 0 to repair",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line}: {page}");
        }
    }

    #[test]
    fn a_document_of_another_version_is_shown_as_far_as_it_is_known() {
        let page = page(&serde_json::from_str(r#"{"nodeId":"n"}"#).unwrap());
        assert!(page.starts_with("node       n\n"), "{page}");
    }
}
