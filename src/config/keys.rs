//! The table of all keys: kind, range and meaning, in the order of the file. The defaults are those of `Config`.
//!
//! Reading, validation, the environment's names and the documentation all go through this table; a test holds it
//! against the fields of `Config`.

use std::{fmt::Write as _, sync::LazyLock, time::Duration};

use serde_yaml_ng::Value;

use super::{
    form::Form,
    kind::Kind,
    model::Config,
    unit::{GIB, KIB, MIB},
};

/// One key of the configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfigKey {
    /// Dotted path, as in `node.storage.replicationFactor`.
    pub path: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// What it sets, for the documentation.
    pub meaning: &'static str,
    /// Whether this version does anything with it.
    pub acts: bool,
}

impl ConfigKey {
    /// The environment variable that sets this key: `NODE_STORAGE_REPLICATIONFACTOR`.
    pub fn env_name(&self) -> String {
        self.path.replace('.', "_").to_ascii_uppercase()
    }

    /// The default as it would be written in the file; empty when it depends on another key.
    pub fn default_text(&self) -> String {
        let text = match leaf(&DEFAULTS, self.path) {
            _ if self.kind == PLACE => return String::new(),
            None => return String::new(),
            Some(Value::String(text)) if text.is_empty() => "\"\"".to_owned(),
            Some(Value::Sequence(items)) if items.is_empty() => "[]".to_owned(),
            Some(value) => serde_yaml_ng::to_string(value).unwrap_or_default(),
        };
        text.trim_end().to_owned()
    }

    /// The meaning, and whether it waits for a later version.
    fn described(&self) -> String {
        let later = if self.acts { "" } else { " (no effect in this version)" };
        format!("{}{later}", self.meaning)
    }
}

impl Config {
    /// Every key, in the order of the file.
    pub fn keys() -> &'static [ConfigKey] {
        KEYS
    }
}

/// The table of all keys for the README, in Markdown.
pub fn key_table_markdown() -> String {
    let mut table = "| key | default | allowed | meaning |\n|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let default = match key.default_text() {
            text if text.is_empty() => "the middle".to_owned(),
            text => format!("`{text}`"),
        };
        let allowed = key.kind.allowed().replace('|', "\\|");
        let meaning = key.described();
        // Writing to a `String` cannot fail.
        let _ = writeln!(table, "| `{}` | {default} | {allowed} | {meaning} |", key.path);
    }
    table
}

/// The key with this exact path.
pub(super) fn find(path: &str) -> Option<&'static ConfigKey> {
    KEYS.iter().find(|key| key.path == path)
}

/// The first key of the section with this path, when there is such a section.
pub(super) fn first_in(section: &str) -> Option<&'static ConfigKey> {
    KEYS.iter().find(|key| key.path.strip_prefix(section).is_some_and(|rest| rest.starts_with('.')))
}

/// Every section, `node` and `node.storage` alike, once each, in the order of the file.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections = Vec::new();
    for key in KEYS {
        for (end, _) in key.path.match_indices('.') {
            let section = key.path.split_at(end).0;
            if !sections.contains(&section) {
                sections.push(section);
            }
        }
    }
    sections
}

/// The value at a dotted path.
pub(super) fn leaf<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(root, |value, part| value.get(part))
}

static DEFAULTS: LazyLock<Value> =
    LazyLock::new(|| serde_yaml_ng::to_value(Config::default()).unwrap_or_default());

const fn key(path: &'static str, kind: Kind, meaning: &'static str) -> ConfigKey {
    ConfigKey { path, kind, meaning, acts: true }
}

/// A key that the contract lists, and that a later version acts on.
const fn later(path: &'static str, kind: Kind, meaning: &'static str) -> ConfigKey {
    ConfigKey { path, kind, meaning, acts: false }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

/// 10 ms to this many seconds.
const fn up_to(max_secs: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(10), max: Duration::from_secs(max_secs) }
}

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const PORT: Kind = count(0, 65_535);
const SIDE: Kind = Kind::Real { min: 0.0, above: true, max: 1e9 };
const PLACE: Kind = Kind::Real { min: 0.0, above: false, max: 1e9 };
const RATIO: Kind = Kind::Real { min: 0.0, above: false, max: 1.0 };
const PATIENCE: Kind =
    Kind::Duration { min: Duration::from_secs(1), max: Duration::from_secs(30 * DAY) };
const HOST: Kind = Kind::Text(Form::OptionalHost);

#[rustfmt::skip] // a table: one row per key reads better than one line per field
const KEYS: &[ConfigKey] = &[
    key("node.maxPeers", count(1, 1024), "most members in a group"),
    key("node.dataDir", Kind::Text(Form::Directory), "where the node keeps its identity and objects; empty = the first `nomad-data/node-N` that no running process holds"),
    key("node.listen", Kind::Text(Form::Ip), "address that all listeners bind"),
    key("node.ports.rest", PORT, "REST port; 0 = a free one in 8080-9999"),
    key("node.ports.peer", PORT, "gRPC port between nodes; 0 = a free one in 5001-8999"),
    key("node.ports.storage", PORT, "gRPC port of the storage services; 0 = a free one in 5001-8999"),
    key("node.ports.overlay", PORT, "libp2p port; 0 = a free one"),
    later("node.group.migration", Kind::Switch, "peers move to the group of the cell they are in"),
    key("node.group.voronoiGrouping", Kind::Switch, "join the group of the nearest super-peer (else: the first with a free place)"),
    key("node.storage.replicationFactor", count(1, 64), "replicas per object in its group"),
    key("node.storage.storageMode", Kind::Choice(&["fast", "safe"]), "mode of a write that names none"),
    key("node.storage.retrievalMode", Kind::Choice(&["fast", "safe", "parallel"]), "mode of a read that names none"),
    key("node.storage.durability", Kind::Text(Form::Durability), "when a write reaches the disk: before its answer, or within the interval after it, which a crash can lose"),
    key("node.storage.maxObjectBytes", size(KIB, 64 * MIB), "largest value of an object"),
    key("node.storage.cacheBytes", size(MIB, 64 * GIB), "memory for cached blocks of the store"),
    key("node.storage.minFreeBytes", size(0, 1024 * GIB), "with less free disk than this, of all writes only deletions are taken; with less than 2MiB and what is not yet in tables (at most 32MiB more), none, whatever stands here"),
    key("node.networkHostnames.peerServer", HOST, "advertised address of the peer listener; empty = the one bound"),
    later("node.networkHostnames.peerStorageServer", HOST, "advertised address of the storage listener, overlay tier; empty = the one bound"),
    key("node.networkHostnames.overlayHostname", HOST, "advertised address of the overlay listener; empty = the one bound"),
    key("node.networkHostnames.superPeerServer", HOST, "advertised address of a super-peer's peer listener; empty = the one bound"),
    key("node.networkHostnames.groupStorageServer", HOST, "advertised address of the storage listener, group tier; empty = the one bound"),
    key("node.world.height", SIDE, "height (y) of the virtual world"),
    key("node.world.width", SIDE, "width (x) of the virtual world"),
    key("node.position.x", PLACE, "where the node stands, inside the world"),
    key("node.position.y", PLACE, "where the node stands, inside the world"),
    key("network.name", Kind::Text(Form::NetworkName), "nodes talk only to nodes of the same network"),
    key("schedule.healthCheck", up_to(30 * DAY), "peer health check"),
    key("schedule.dhtBootstrap", up_to(30 * DAY), "DHT re-bootstrap"),
    key("schedule.dbCleanup", up_to(30 * DAY), "local store clean-up of expired objects"),
    key("schedule.ledgerCleanup", up_to(30 * DAY), "comparison of the ledger with the members, and removal of its expired entries"),
    key("schedule.repair", up_to(30 * DAY), "comparison of this node's replicas with each other member's"),
    later("schedule.updatePosition", up_to(30 * DAY), "position update (needs migration)"),
    key("bootstrap.discoveryWindow", up_to(HOUR), "how long to look for a super-peer before founding a group"),
    key("bootstrap.electionTimeout", up_to(HOUR), "longest election"),
    key("bootstrap.provisionalPollInterval", up_to(DAY), "how often a provisional super-peer looks for a dedicated one"),
    key("bootstrap.peers", Kind::List(Form::PeerAddress), "overlay addresses of nodes to start from"),
    key("bootstrap.dns", Kind::List(Form::Host), "DNS names whose addresses are all tried, on overlay port 4001 where none is given"),
    key("bootstrap.mdns", Kind::Switch, "look for nodes on the local network"),
    key("group.voters", count(1, 9), "most members that vote on the group table; an even number is no safer than the odd one below it"),
    key("group.removeAfter", PATIENCE, "how long a member may be gone before it is removed"),
    key("group.quorumLossGrace", PATIENCE, "how long a group without a majority waits before its survivors dissolve it"),
    key("log.level", Kind::Text(Form::LogFilter), "what is logged"),
    key("log.format", Kind::Choice(&["auto", "json", "text"]), "`auto` = text on a terminal, JSON lines elsewhere"),
    key("limits.connections", count(1, 1_000_000), "most open connections of one listener"),
    key("limits.requests", count(1, 1_000_000), "most requests in flight"),
    key("limits.requestBytes", size(KIB, 64 * GIB), "most bytes held by the requests in flight; at least 4/3 of `node.storage.maxObjectBytes` and 64KiB, for a value in base64 and what is around it"),
    key("limits.requestTimeout", up_to(HOUR), "longest time that a request may take"),
    key("limits.headerTimeout", up_to(HOUR), "longest time to send a request's headers"),
    key("limits.bodyTimeout", up_to(HOUR), "longest time to send a request's body, and to leave an answer unread"),
    key("limits.idleTimeout", up_to(DAY), "how long a connection with no request on it stays open"),
    key("limits.headerBytes", size(8 * KIB, MIB), "most bytes of a request's headers"),
    key("limits.pageSize", count(1, 100_000), "most items on one page of a listing"),
    key("limits.drain", up_to(HOUR), "how long a stop waits for the requests in flight"),
    key("limits.outboxEntries", count(1, 10_000_000), "most fast writes that wait to be replicated; when there are more, fast writes are refused"),
    key("limits.outboxBytes", size(64 * KIB, 1024 * GIB), "most bytes of these writes, on disk; at least `node.storage.maxObjectBytes` and 4KiB, for an id and what is around it"),
    key("trace.records", count(128, 1_000_000), "how many handled messages are remembered"),
    key("debug.allowKill", Kind::Switch, "let a client kill an actor, to see supervision work"),
    key("otlp.endpoint", Kind::Text(Form::OptionalHttpUrl), "where traces are sent over OTLP/gRPC; empty = nowhere"),
    key("otlp.sampleRatio", RATIO, "share of the traces that start here which is exported"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
        let Value::Mapping(map) = value else { return found.push(path.to_owned()) };
        for (name, value) in map {
            let name = name.as_str().unwrap();
            leaves(
                value,
                &if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") },
                found,
            );
        }
    }

    #[test]
    fn the_table_has_exactly_the_fields_of_the_file_in_their_order() {
        let mut fields = Vec::new();
        leaves(&DEFAULTS, "", &mut fields);
        let keys: Vec<_> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(keys, fields);
    }

    #[test]
    fn no_two_keys_share_a_variable() {
        let mut names: Vec<_> = KEYS.iter().map(ConfigKey::env_name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
        assert_eq!(find("node.maxPeers").unwrap().env_name(), "NODE_MAXPEERS");
    }

    #[test]
    fn sections_are_the_proper_prefixes_of_keys() {
        let sections = sections();
        assert_eq!(sections.first(), Some(&"node"));
        assert!(sections.contains(&"node.storage"));
        assert!(sections.iter().all(|section| first_in(section).is_some()));
        for path in ["", "nod", "node.maxPeers", "node.", "storage"] {
            assert!(first_in(path).is_none(), "{path:?}");
        }
    }

    #[test]
    fn every_choice_is_what_the_types_take() {
        for key in KEYS {
            let Kind::Choice(words) = key.kind else { continue };
            for word in words {
                let mut yaml = String::new();
                let parts: Vec<_> = key.path.split('.').collect();
                for (depth, part) in parts.iter().enumerate() {
                    yaml += &format!("{}{part}:\n", "  ".repeat(depth));
                }
                yaml = format!("{} {word}", yaml.trim_end());
                serde_yaml_ng::from_str::<Config>(&yaml).unwrap();
            }
        }
    }

    #[test]
    fn the_markdown_has_one_row_per_key() {
        let table = key_table_markdown();
        assert_eq!(table.lines().count(), KEYS.len() + 2);
        let row = "| `schedule.repair` | `6000s` | a duration from 10ms to 30d | comparison of this node's replicas with each other member's |";
        assert!(table.contains(row), "{table}");
        assert!(table.contains("| `node.dataDir` | `\"\"` | "), "{table}");
        assert!(table.contains("| `node.position.x` | the middle | "), "{table}");
        assert!(table.contains("| `node.world.width` | `10.0` | "), "{table}");
        assert!(table.lines().skip(2).all(|line| line.matches(" | ").count() == 3), "{table}");
    }
}
