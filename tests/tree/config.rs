//! The configuration from outside: what a user writes in a file, the environment and flags, and what comes of it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nomad_config::{
    Config, ConfigErrors, ConfigKey, ConfigProblem, Durability, Env, Form, Kind, Loaded, Origin,
    Origins, Position, RetrievalMode, Sources, StorageMode, key_table_markdown, load,
};
use tempfile::TempDir;

mod problems;
mod values;

type Vars = BTreeMap<String, String>;
type Flag = (&'static str, &'static str, &'static str);

fn vars(pairs: &[(&str, &str)]) -> Vars {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads a file with this text, this environment and these flags.
fn load_all(yaml: &str, env: &[(&str, &str)], flags: &[Flag]) -> Result<Loaded, ConfigErrors> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("my.yaml");
    fs::write(&file, yaml).unwrap();
    load_file(&file, &vars(env), flags)
}

fn load_file(file: &Path, env: &dyn Env, flags: &[Flag]) -> Result<Loaded, ConfigErrors> {
    let flags = flags.iter().map(|(key, value, name)| ((*key).into(), (*value).into(), *name));
    load(Sources { file: Some(file.to_owned()), flags: flags.collect(), ..Sources::new(env) })
}

fn load_env(env: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    load_all("", env, &[])
}

/// The problems of a file as text, without the directory that differs from run to run.
fn problems_of(yaml: &str) -> Vec<String> {
    let errors = load_all(yaml, &[], &[]).expect_err("the file has a problem");
    texts(&errors)
}

fn texts(errors: &ConfigErrors) -> Vec<String> {
    let strip = |text: String| match (text.find("(/"), text.find("my.yaml")) {
        (Some(from), Some(to)) => format!("{}({}", &text[..from], &text[to..]),
        _ => text,
    };
    errors.problems().iter().map(|problem| strip(problem.to_string())).collect()
}

fn config_files() -> Vec<PathBuf> {
    let dir = crate::root().join("configs");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_shipped_file_loads_without_a_warning() {
    let files = config_files();
    assert!(files.len() > 1, "{files:?}");
    for file in files {
        let loaded = load_file(&file, &Vars::new(), &[]);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{}: {errors}", file.display()));
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{}", file.display());
    }
}

#[test]
fn the_default_file_names_every_key_and_changes_nothing() {
    let file = crate::root().join(nomad_config::DEFAULT_FILE);
    let loaded = load_file(&file, &Vars::new(), &[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    for key in Config::keys() {
        let stands = matches!(loaded.origins.of(key.path), Origin::File { line: Some(_), .. });
        assert!(stands || key.default_text().is_empty(), "{} is missing", key.path);
    }
}

#[test]
fn the_contracts_keys_have_the_contracts_defaults() {
    let contract = [
        ("node.maxPeers", "5"),
        ("node.group.migration", "false"),
        ("node.group.voronoiGrouping", "false"),
        ("node.storage.replicationFactor", "3"),
        ("node.storage.storageMode", "fast"),
        ("node.storage.retrievalMode", "fast"),
        ("node.networkHostnames.peerServer", "\"\""),
        ("node.networkHostnames.peerStorageServer", "\"\""),
        ("node.networkHostnames.overlayHostname", "\"\""),
        ("node.networkHostnames.superPeerServer", "\"\""),
        ("node.networkHostnames.groupStorageServer", "\"\""),
        ("node.world.height", "10.0"),
        ("node.world.width", "10.0"),
        ("schedule.healthCheck", "20s"),
        ("schedule.dhtBootstrap", "500s"),
        ("schedule.dbCleanup", "60s"),
        ("schedule.ledgerCleanup", "60s"),
        ("schedule.repair", "6000s"),
        ("schedule.updatePosition", "10s"),
        ("bootstrap.discoveryWindow", "5s"),
        ("bootstrap.electionTimeout", "10s"),
        ("bootstrap.provisionalPollInterval", "30s"),
        ("bootstrap.mdns", "true"),
    ];
    for (path, default) in contract {
        let key = Config::keys().iter().find(|key| key.path == path);
        assert_eq!(key.unwrap_or_else(|| panic!("no {path}")).default_text(), default, "{path}");
    }
}

#[test]
fn defaults_are_valid_and_the_node_stands_in_the_middle() {
    let config = Config::default();
    let warnings = config.validate(&Origins::default()).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.node.position, Position { x: 5.0, y: 5.0 });
    let wide = load_all("node: { world: { width: 100 }, position: { y: 1 } }", &[], &[]).unwrap();
    assert_eq!(wide.config.node.position, Position { x: 50.0, y: 1.0 });
}

#[test]
fn the_documented_table_has_every_key_and_says_what_waits_for_more_nodes() {
    let table = key_table_markdown();
    for key in Config::keys() {
        let row = table.lines().find(|line| line.starts_with(&format!("| `{}` |", key.path)));
        let waits = row.unwrap().contains("(no effect in this version)");
        assert_eq!(waits, !key.acts, "{}", key.path);
    }
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let yaml = "node:\n  maxPeers: 6\n  storage:\n    replicationFactor: 2\nlog:\n  level: warn\n";
    let env = [("NODE_STORAGE_REPLICATIONFACTOR", "4"), ("LOG_LEVEL", "debug")];
    let flags = [("log.level", "trace", "--log-level")];
    let loaded = load_all(yaml, &env, &flags).unwrap();

    assert_eq!(loaded.config.limits.requests, 4096);
    assert_eq!(loaded.origins.of("limits.requests"), Origin::Default);
    assert_eq!(loaded.config.node.max_peers, 6);
    let file = loaded.file.clone().unwrap();
    assert_eq!(loaded.origins.of("node.maxPeers"), Origin::File { path: file, line: Some(2) });
    assert_eq!(loaded.config.node.storage.replication_factor, 4);
    let variable = Origin::Env { name: "NODE_STORAGE_REPLICATIONFACTOR".into() };
    assert_eq!(loaded.origins.of("node.storage.replicationFactor"), variable);
    assert_eq!(loaded.config.log.level, "trace");
    assert_eq!(loaded.origins.of("log.level"), Origin::Flag { name: "--log-level" });
}

#[test]
fn the_contracts_variables_are_read() {
    let env = [("NODE_STORAGE_REPLICATIONFACTOR", "5"), ("NODE_WORLD_WIDTH", "100.0")];
    let config = load_env(&env).unwrap().config;
    assert_eq!(config.node.storage.replication_factor, 5);
    assert_eq!(config.node.world.width, 100.0);
}

#[test]
fn a_variable_is_read_in_any_case_and_the_upper_case_one_wins() {
    let lower = ("node_maxpeers", "7");
    assert_eq!(load_env(&[lower]).unwrap().config.node.max_peers, 7);
    let both = [lower, ("NODE_MAXPEERS", "8"), ("Node_MaxPeers", "9")];
    assert_eq!(load_env(&both).unwrap().config.node.max_peers, 8);
}

#[test]
fn lists_come_from_commas_in_a_variable_and_from_a_flag_given_often() {
    let env = [("BOOTSTRAP_PEERS", "a:1, /ip4/10.0.0.1/tcp/4001"), ("BOOTSTRAP_DNS", "")];
    let loaded = load_all("bootstrap: { dns: [nodes.example.org] }", &env, &[]).unwrap();
    assert_eq!(loaded.config.bootstrap.peers, ["a:1", "/ip4/10.0.0.1/tcp/4001"]);
    assert_eq!(loaded.config.bootstrap.dns, Vec::<String>::new());

    let flag = |value| ("bootstrap.peers", value, "--bootstrap");
    let loaded = load_all("", &env, &[flag("b:2"), flag("c:3"), flag("b:2")]).unwrap();
    assert_eq!(loaded.config.bootstrap.peers, ["b:2", "c:3", "b:2"]);
}

/// A value that is allowed, and not the default.
fn another_value(key: &ConfigKey) -> String {
    match key.kind {
        Kind::Switch => (key.default_text() == "false").to_string(),
        Kind::Count { max, .. } => (max - 1).to_string(),
        Kind::Real { .. } => "0.25".to_owned(),
        Kind::Duration { .. } => "1234ms".to_owned(),
        Kind::Size { max, .. } => (max - 1).to_string(),
        Kind::Choice(words) => words.last().unwrap().to_string(),
        Kind::List(_) => "one.example.org:1,two.example.org:2".to_owned(),
        Kind::Text(form) => match form {
            Form::Directory => "/somewhere/else",
            Form::Ip => "::1",
            Form::OptionalHost | Form::Host | Form::PeerAddress => "one.example.org:1",
            Form::NetworkName => "another",
            Form::Durability => "interval:20ms",
            Form::LogFilter => "warn,nomad=debug",
            Form::OptionalHttpUrl => "http://collector:4317",
        }
        .to_owned(),
    }
}

#[test]
fn every_key_can_be_set_from_the_environment_and_survives_being_written() {
    for key in Config::keys() {
        let (name, value) = (key.env_name(), another_value(key));
        let loaded = load_env(&[(&name, &value)]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_ne!(loaded.config, Config::default(), "{name}={value} changed nothing");
        assert_eq!(loaded.origins.of(key.path), Origin::Env { name: name.clone() });

        let yaml = loaded.to_yaml();
        assert!(yaml.contains(&format!("# from environment variable {name}\n")), "{yaml}");
        let again = load_all(&yaml, &[], &[]).unwrap_or_else(|errors| panic!("{errors}\n{yaml}"));
        assert_eq!(again.config, loaded.config, "{yaml}");
    }
}

#[test]
fn every_key_can_be_set_from_a_flag() {
    for key in Config::keys() {
        let env = Vars::new();
        let flags = vec![(key.path.to_owned(), another_value(key), "--set")];
        let default_file = "no/such/file.yaml".into();
        let loaded = load(Sources { file: None, default_file, env: &env, flags }).unwrap();
        assert_ne!(loaded.config, Config::default(), "{}", key.path);
    }
}
