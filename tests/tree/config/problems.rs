//! What is wrong with a configuration is reported all at once, and each problem names its way out.

use super::*;

#[test]
fn all_problems_of_all_sources_are_reported_at_once() {
    let yaml = "\
node:
  maxPeers: 0
  storage:
    replicationFaktor: 3
    storageMode: slow
schedule:
  repair: 20
";
    let env = [("LIMITS_DRAIN", "soon"), ("DEBUG_ALLOWKILL", "perhaps")];
    let flags = [("bootstrap.peers", "nowhere", "--bootstrap")];
    let errors = load_all(yaml, &env, &flags).unwrap_err();
    assert_eq!(
        texts(&errors),
        [
            "node.maxPeers = 0 (my.yaml:2): not allowed; write a whole number from 1 to 1024",
            "node.storage.replicationFaktor = 3 (my.yaml:4): unknown key; the nearest is node.storage.replicationFactor",
            "node.storage.storageMode = slow (my.yaml:5): not allowed; write fast or safe",
            "schedule.repair = 20 (my.yaml:7): a bare number has no unit: write it as in `20s` or `150ms`; write a duration from 10ms to 30d",
            "debug.allowKill = perhaps (environment variable DEBUG_ALLOWKILL): not allowed; write true or false",
            "limits.drain = soon (environment variable LIMITS_DRAIN): a duration has a number and a unit: `150ms`, `20s`, `5m`, `1h`; write a duration from 10ms to 1h",
            "bootstrap.peers = nowhere (flag --bootstrap): item 1, \"nowhere\", is not one; write a list of at most 64, each a multiaddr such as /ip4/10.0.0.1/tcp/4001, or `host:port`",
        ]
    );
    let text = errors.to_string();
    assert!(text.starts_with("the configuration has 7 problems:\n  node.maxPeers = 0"), "{text}");
}

#[test]
fn a_bad_value_is_reported_even_when_a_later_source_overrides_it() {
    let env = [("NODE_MAXPEERS", "5")];
    let errors = load_all("node: { maxPeers: many }", &env, &[]).unwrap_err();
    assert_eq!(errors.problems().len(), 1, "{errors}");
}

#[test]
fn a_bad_item_of_a_flag_given_often_is_one_problem() {
    let flag = |value| ("bootstrap.peers", value, "--bootstrap");
    let errors = load_all("", &[], &[flag("a:1"), flag("nowhere"), flag("b:2")]).unwrap_err();
    assert_eq!(errors.problems().len(), 1, "{errors}");
    assert!(errors.to_string().contains("item 2, \"nowhere\", is not one"), "{errors}");
}

#[test]
fn unknown_keys_name_the_nearest() {
    for (yaml, problem) in [
        (
            "storage: { replicationFactor: 5 }",
            "storage = {replicationFactor} (my.yaml:1): unknown key; the nearest is node.storage",
        ),
        ("maxPeers: 5", "maxPeers = 5 (my.yaml:1): unknown key; the nearest is node.maxPeers"),
        (
            "node:\n  max_peers: 5",
            "node.max_peers = 5 (my.yaml:2): unknown key; the nearest is node.maxPeers",
        ),
        (
            "node.maxPeers: 5",
            "node.maxPeers = 5 (my.yaml:1): unknown key; write it nested, one name per level, with a colon after each",
        ),
        (
            "node: { type: peer }",
            "node.type = peer (my.yaml:1): unknown key; the role is chosen with the flag --type, peer or super-peer",
        ),
        (
            "node: { world: { depth: 1 } }",
            "node.world.depth = 1 (my.yaml:1): unknown key; the nearest is node.world.width",
        ),
        (
            "node: 5",
            "node = 5 (my.yaml:1): this is a section; write its keys below it, such as node.maxPeers",
        ),
        (
            "node: { storage: [1] }",
            "node.storage = [1] (my.yaml:1): this is a section; write its keys below it, such as node.storage.replicationFactor",
        ),
        (
            "node: { maxPeers: { a: 1 } }",
            "node.maxPeers = {a} (my.yaml:1): not allowed; write a whole number from 1 to 1024",
        ),
        (
            "network: { name: 5 }",
            "network.name = 5 (my.yaml:1): put a text that looks like a number or like true/false in quotes; write 1 to 64 of a-z A-Z 0-9 . _ -",
        ),
    ] {
        assert_eq!(problems_of(yaml), [problem], "{yaml}");
    }
    let errors = load_all("", &[], &[("node.maxPeer", "5", "--set")]).unwrap_err();
    let problem = "node.maxPeer = 5 (flag --set): unknown key; the nearest is node.maxPeers";
    assert_eq!(texts(&errors), [problem]);
}

#[test]
fn a_file_of_comments_and_open_sections_is_the_defaults() {
    for yaml in [
        "",
        "# nothing\n",
        "---\n",
        "---\n# nothing\n",
        "\u{feff}",
        "{}",
        "node:\nlog:\n  level:\n",
        "node:\n  position:\n    # x: 1\n",
    ] {
        let loaded = load_all(yaml, &[], &[]).unwrap_or_else(|errors| panic!("{yaml:?}: {errors}"));
        assert_eq!(loaded.config, Config::default(), "{yaml:?}");
    }
    let marked = load_all("\u{feff}node:\r\n  maxPeers: 6\r\n", &[], &[]).unwrap();
    assert_eq!(marked.config.node.max_peers, 6);
}

#[test]
fn numbers_and_switches_may_be_quoted_and_templated() {
    let yaml = "node: { maxPeers: \"6\", world: { width: '20' } }\nlimits: { requests: 1e+06, requestBytes: 8388608 }\ndebug: { allowKill: \"true\" }";
    let config = load_all(yaml, &[], &[]).unwrap().config;
    assert_eq!(config.node.max_peers, 6);
    assert_eq!(config.node.world.width, 20.0);
    assert_eq!(config.limits.requests, 1_000_000);
    assert_eq!(config.limits.request_bytes, 8 << 20);
    assert!(config.debug.allow_kill);
}

#[test]
fn a_file_that_is_no_mapping_is_one_clear_problem() {
    for yaml in [
        "- a\n",
        "just text",
        "5",
        "a: b: c",
        "node: {",
        "a: 1\n---\nb: 2\n",
        "node: {}\nnode: {}\n",
        "node:\n\tmaxPeers: 5\n",
    ] {
        let errors = load_all(yaml, &[], &[]).unwrap_err();
        assert!(
            matches!(errors.problems(), [ConfigProblem::FileSyntax { .. }]),
            "{yaml:?}: {errors}"
        );
        assert!(errors.to_string().contains("my.yaml: not a YAML mapping: "), "{errors}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = TempDir::new().unwrap();
    let absent = dir.path().join("absent.yaml");
    let errors = load_file(&absent, &Vars::new(), &[]).unwrap_err();
    let text = errors.to_string();
    assert!(text.contains("absent.yaml: cannot read the configuration file"), "{text}");
    assert!(matches!(errors.problems(), [ConfigProblem::FileUnreadable { .. }]), "{text}");
    assert!(load_file(dir.path(), &Vars::new(), &[]).is_err(), "a directory");

    let garbled = dir.path().join("garbled.yaml");
    fs::write(&garbled, b"log: { level: \xff }").unwrap();
    let text = load_file(&garbled, &Vars::new(), &[]).unwrap_err().to_string();
    assert!(text.contains("not UTF-8 at byte 14"), "{text}");

    let huge = dir.path().join("huge.yaml");
    fs::write(&huge, vec![b'#'; (1 << 20) + 1]).unwrap();
    let text = load_file(&huge, &Vars::new(), &[]).unwrap_err().to_string();
    assert!(text.contains("too large for a configuration file, 1048576 bytes"), "{text}");
}

#[test]
fn the_default_file_may_be_absent_but_not_broken() {
    let dir = TempDir::new().unwrap();
    let env = Vars::new();
    let default_file = dir.path().join("config.yaml");
    let sources = || Sources { default_file: default_file.clone(), ..Sources::new(&env) };
    let loaded = load(sources()).unwrap();
    assert_eq!((loaded.config, loaded.file), (Config::default(), None));

    fs::write(&default_file, "node: { maxPeers: 9 }").unwrap();
    let loaded = load(sources()).unwrap();
    assert_eq!((loaded.config.node.max_peers, loaded.file), (9, Some(default_file.clone())));

    fs::write(&default_file, "node: {").unwrap();
    assert!(load(sources()).is_err());
}

#[test]
fn a_variable_that_is_no_utf8_is_refused_only_when_it_is_ours() {
    struct Raw;
    impl Env for Raw {
        fn vars(&self) -> Vec<(String, OsString)> {
            let raw = OsString::from_vec(vec![b'a', 0xff]);
            vec![("NETWORK_NAME".into(), raw.clone()), ("SOMETHING".into(), raw)]
        }
    }
    let errors = load(Sources::new(&Raw)).unwrap_err();
    let problem = "network.name = a\u{fffd} (environment variable NETWORK_NAME): not UTF-8; write 1 to 64 of a-z A-Z 0-9 . _ -";
    assert_eq!(texts(&errors), [problem]);
}

#[test]
fn the_types_refuse_unknown_fields_by_themselves() {
    let error = |yaml: &str| serde_yaml_ng::from_str::<Config>(yaml).unwrap_err().to_string();
    assert!(error("nodes: {}").contains("unknown field"));
    for section in [
        "node",
        "network",
        "schedule",
        "bootstrap",
        "group",
        "log",
        "limits",
        "trace",
        "debug",
        "otlp",
    ] {
        assert!(
            error(&format!("{section}: {{ other: 1 }}")).contains("unknown field"),
            "{section}"
        );
    }
    for section in ["ports", "group", "storage", "networkHostnames", "world", "position"] {
        let yaml = format!("node: {{ {section}: {{ other: 1 }} }}");
        assert!(error(&yaml).contains("unknown field"), "{section}");
    }
}

#[test]
fn one_object_must_fit_in_the_requests() {
    let yaml = "limits:\n  requestBytes: 1MiB\n";
    let problem = "limits.requestBytes = 1MiB (my.yaml:2): less than the 5657944 bytes of a request with one object of node.storage.maxObjectBytes = 4MiB (default) in base64; raise the first or lower the second";
    assert_eq!(problems_of(yaml), [problem]);
    // 1 MiB in base64 is 1398104 bytes.
    let least = 1_398_104 + (64 << 10);
    for (bytes, fits) in [(least, true), (least - 1, false), (1 << 20, false)] {
        let bytes = bytes.to_string();
        let env = [("LIMITS_REQUESTBYTES", &*bytes), ("NODE_STORAGE_MAXOBJECTBYTES", "1MiB")];
        assert_eq!(load_env(&env).is_ok(), fits, "{bytes}");
    }
}

#[test]
fn one_object_must_fit_in_the_outbox() {
    let yaml = "limits:\n  outboxBytes: 4MiB\n";
    let problem = "limits.outboxBytes = 4MiB (my.yaml:2): less than the 4198400 bytes of one object of node.storage.maxObjectBytes = 4MiB (default); raise the first or lower the second";
    assert_eq!(problems_of(yaml), [problem]);
    for (bytes, fits) in [("4198400", true), ("4198399", false)] {
        assert_eq!(load_env(&[("LIMITS_OUTBOXBYTES", bytes)]).is_ok(), fits, "{bytes}");
    }
}

#[test]
fn listeners_need_ports_of_their_own() {
    let yaml = "node:\n  ports:\n    rest: 8080\n    storage: 8080\n    overlay: 8080\n";
    let errors = load_all(yaml, &[], &[]).unwrap_err();
    let pairs: Vec<_> = errors
        .problems()
        .iter()
        .map(|problem| match problem {
            ConfigProblem::SamePort { first, second } => (first.key.as_str(), second.key.as_str()),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(
        pairs,
        [("node.ports.rest", "node.ports.storage"), ("node.ports.rest", "node.ports.overlay")]
    );
    let errors = load_env(&[("NODE_PORTS_REST", "80"), ("NODE_PORTS_PEER", "80")]).unwrap_err();
    let problem = "node.ports.rest = 80 (environment variable NODE_PORTS_REST): the same port as node.ports.peer = 80 (environment variable NODE_PORTS_PEER); give each listener its own, or 0";
    assert_eq!(texts(&errors), [problem]);
    load_all("node: { ports: { rest: 0, peer: 0, storage: 6735 } }", &[], &[]).unwrap();
}

#[test]
fn the_node_stands_in_its_world() {
    let env = [("NODE_POSITION_X", "10.5"), ("NODE_WORLD_HEIGHT", "2"), ("NODE_POSITION_Y", "2")];
    let errors = load_env(&env).unwrap_err();
    let problem = "node.position.x = 10.5 (environment variable NODE_POSITION_X): outside the world, node.world.width = 10.0 (default); write a number from 0 to that side";
    assert_eq!(texts(&errors), [problem]);
}

#[test]
fn a_rule_is_silent_about_a_key_that_has_its_own_problem() {
    let env = [("NODE_WORLD_WIDTH", "0"), ("NODE_POSITION_X", "11")];
    assert_eq!(load_env(&env).unwrap_err().problems().len(), 1);
    let env = [("LIMITS_REQUESTBYTES", "1KiB"), ("NODE_STORAGE_MAXOBJECTBYTES", "big")];
    assert_eq!(load_env(&env).unwrap_err().problems().len(), 1);
}

#[test]
fn what_works_but_is_hardly_meant_is_a_warning() {
    let env = [
        ("NODE_STORAGE_REPLICATIONFACTOR", "6"),
        ("GROUP_VOTERS", "4"),
        ("NODE_STORAGE_REPLICATION_FACTOR", "7"),
        ("NODE_ENV", "production"),
        ("NODE_FOO", "bar"),
    ];
    let loaded = load_env(&env).unwrap();
    assert_eq!(loaded.config.node.storage.replication_factor, 6);
    assert_eq!(
        loaded.warnings,
        [
            "environment variable NODE_STORAGE_REPLICATION_FACTOR is ignored: it names no key; the nearest is NODE_STORAGE_REPLICATIONFACTOR, for node.storage.replicationFactor",
            "node.storage.replicationFactor = 6 (environment variable NODE_STORAGE_REPLICATIONFACTOR): more replicas than a group has members, node.maxPeers = 5 (default)",
            "group.voters = 4 (environment variable GROUP_VOTERS): an even number of voters is no safer than 3",
        ]
    );
}
