//! Every key: its range, its types, and that what is written loads back.

use proptest::prelude::*;

use super::*;

/// Values at and just beyond both ends of the range.
fn edges(kind: Kind) -> Option<([String; 2], Vec<String>)> {
    let ns = |duration: Duration| format!("{}ns", duration.as_nanos());
    let tick = Duration::from_nanos(1);
    Some(match kind {
        Kind::Count { min, max } | Kind::Size { min, max } => {
            let below = min.checked_sub(1).map(|below| below.to_string());
            let beyond = below.into_iter().chain([(max + 1).to_string(), "-1".to_owned()]);
            ([min.to_string(), max.to_string()], beyond.collect())
        }
        Kind::Duration { min, max } => {
            ([ns(min), ns(max)], vec![ns(min - tick), ns(max + tick), "0s".to_owned()])
        }
        Kind::Real { min, above, max } => {
            let least = if above { f64::MIN_POSITIVE } else { min };
            let below = if above { min } else { -1e-9 };
            let beyond = [below.to_string(), (max * 1.001).to_string(), "NaN".into(), "inf".into()];
            ([least.to_string(), max.to_string()], beyond.into())
        }
        Kind::Switch | Kind::Choice(_) | Kind::Text(_) | Kind::List(_) => return None,
    })
}

#[test]
fn ranges_include_their_ends_and_nothing_beyond() {
    let refuses = |key: &ConfigKey, value: &str| {
        match load_env(&[(&key.env_name(), value)]) {
        Ok(_) => false,
        Err(errors) => errors.problems().iter().any(
            |problem| matches!(problem, ConfigProblem::NotAllowed { setting, .. } if setting.key == key.path),
        ),
    }
    };
    for key in Config::keys() {
        let Some((inside, beyond)) = edges(key.kind) else { continue };
        for value in inside {
            assert!(!refuses(key, &value), "{} refuses {value}", key.path);
        }
        for value in beyond {
            assert!(refuses(key, &value), "{} takes {value}", key.path);
        }
    }
}

#[test]
fn a_config_built_by_hand_is_held_to_the_same_ranges() {
    let mut config = Config::default();
    config.node.max_peers = 0;
    config.node.world.width = f64::NAN;
    config.schedule.repair = Duration::ZERO;
    config.network.name = "two words".to_owned();
    config.node.storage.durability = Durability::Interval(Duration::from_secs(61));
    let errors = config.validate(&Origins::default()).unwrap_err();
    assert_eq!(
        texts(&errors),
        [
            "node.maxPeers = 0 (default): not allowed; write a whole number from 1 to 1024",
            "node.storage.durability = interval:61s (default): not allowed; write `always`, or `interval:` and 1ms to 60s",
            "node.world.width = NaN (default): not allowed; write a number above 0 and up to 1000000000",
            "network.name = \"two words\" (default): not allowed; write 1 to 64 of a-z A-Z 0-9 . _ -",
            "schedule.repair = 0s (default): not allowed; write a duration from 10ms to 30d",
        ]
    );
}

#[test]
fn values_arrive_typed() {
    let yaml = "\
node:
  dataDir: /data
  listen: '::'
  storage: { durability: 'interval:50ms', maxObjectBytes: 512KiB, storageMode: SAFE, retrievalMode: parallel }
  networkHostnames: { peerServer: 'node-0:6731' }
schedule: { repair: 1h 40m }
otlp: { endpoint: 'http://collector:4317', sampleRatio: 0.5 }
";
    let config = load_all(yaml, &[], &[]).unwrap().config;
    assert_eq!(config.node.data_dir, Some("/data".into()));
    assert!(config.node.listen.is_ipv6());
    let interval = Durability::Interval(Duration::from_millis(50));
    assert_eq!(config.node.storage.durability, interval);
    assert_eq!(config.node.storage.max_object_bytes, 512 * 1024);
    assert_eq!(config.node.storage.storage_mode, StorageMode::Safe);
    assert_eq!(config.node.storage.retrieval_mode, RetrievalMode::Parallel);
    assert_eq!(config.node.network_hostnames.peer_server.as_deref(), Some("node-0:6731"));
    assert_eq!(config.node.network_hostnames.overlay_hostname, None);
    assert_eq!(config.schedule.repair, Duration::from_secs(6000));
    assert_eq!(config.otlp.endpoint.as_deref(), Some("http://collector:4317"));
}

#[test]
fn the_effective_configuration_says_where_each_value_came_from() {
    let yaml = "node:\n  maxPeers: 6\nschedule: { repair: 1h }\n";
    let flags = [("bootstrap.peers", "a:1", "--bootstrap")];
    let loaded = load_all(yaml, &[("NODE_DATADIR", "/data # 1")], &flags).unwrap();
    let file = loaded.file.clone().unwrap();
    let written = loaded.to_yaml();
    let file = file.display();
    for line in [
        format!("  maxPeers: 6 # from {file}:2"),
        format!("  repair: 3600s # from {file}:3"),
        "  dataDir: '/data # 1' # from environment variable NODE_DATADIR".to_owned(),
        "  peers: # from flag --bootstrap".to_owned(),
        "  - a:1".to_owned(),
        "  dhtBootstrap: 500s".to_owned(),
    ] {
        assert!(written.lines().any(|other| other == line), "{line}\nis not in\n{written}");
    }
    assert_eq!(load_all(&written, &[], &[]).unwrap().config, loaded.config);
}

/// Any allowed value of a key, as a variable would hold it.
fn any_value(kind: Kind) -> BoxedStrategy<String> {
    match kind {
        Kind::Switch => any::<bool>().prop_map(|on| on.to_string()).boxed(),
        Kind::Count { min, max } | Kind::Size { min, max } => {
            (min..=max).prop_map(|number| number.to_string()).boxed()
        }
        // Sides of 10 and more, so that every place up to 10 is inside.
        Kind::Real { above: true, max, .. } => {
            (10.0..=max).prop_map(|side| side.to_string()).boxed()
        }
        Kind::Real { max, .. } => (0.0..=max.min(10.0)).prop_map(|real| real.to_string()).boxed(),
        Kind::Duration { min, max } => {
            let range = min.as_nanos() as u64..=max.as_nanos() as u64;
            range.prop_map(|nanos| format!("{nanos}ns")).boxed()
        }
        Kind::Choice(words) => proptest::sample::select(words).prop_map(str::to_owned).boxed(),
        Kind::Text(Form::Directory) => "[^\\p{C}]{0,20}".boxed(),
        Kind::Text(Form::NetworkName) => "[a-zA-Z0-9._-]{1,64}".boxed(),
        Kind::Text(Form::OptionalHost) => {
            "([a-z0-9]{1,9}\\.[a-z]{2,5}(:[1-9][0-9]{0,3})?)?".boxed()
        }
        Kind::Text(Form::Ip) => any::<std::net::IpAddr>().prop_map(|ip| ip.to_string()).boxed(),
        Kind::Text(Form::Durability) => {
            (1..=60_000u32).prop_map(|ms| format!("interval:{ms}ms")).boxed()
        }
        Kind::List(_) => "([a-z]{1,9}:[1-9][0-9]{0,3}(,[a-z]{1,9}:[1-9][0-9]{0,3}){0,5})?".boxed(),
        Kind::Text(_) => Just(String::new()).boxed(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_valid_configuration_is_written_so_that_it_loads_back(
        values in Config::keys().iter().map(|key| any_value(key.kind)).collect::<Vec<_>>(),
        chosen in proptest::collection::vec(any::<bool>(), Config::keys().len()),
    ) {
        let pairs = Config::keys().iter().zip(values).zip(chosen);
        let env: Vars = pairs
            .filter(|((_, value), chosen)| *chosen && !value.is_empty())
            .map(|((key, value), _)| (key.env_name(), value))
            .collect();
        let default_file = "no/such/file.yaml".into();
        let loaded = load(Sources { default_file, ..Sources::new(&env) });
        // Rules between keys may refuse the combination, no key may refuse its value.
        match loaded {
            Ok(loaded) => {
                let again = load_all(&loaded.to_yaml(), &[], &[]).unwrap();
                prop_assert_eq!(&again.config, &loaded.config);
                let bare = load_all(&loaded.config.to_yaml(), &[], &[]).unwrap();
                prop_assert_eq!(&bare.config, &loaded.config);
            }
            Err(errors) => {
                let of_rules = |problem: &ConfigProblem| matches!(problem,
                    ConfigProblem::ObjectExceedsRequests { .. } | ConfigProblem::ObjectExceedsOutbox { .. } | ConfigProblem::SamePort { .. } | ConfigProblem::OutsideWorld { .. });
                prop_assert!(errors.problems().iter().all(of_rules), "{}", errors);
            }
        }
    }

    #[test]
    fn no_file_makes_loading_panic(yaml in "(node|limits|log|peers|x|: |\\n|  |- |\\{|\\}|\\[|\\]|\"|'|#|&a|\\*a|!!|5|20s|~|,|\\t|é|[ -~]){0,40}") {
        let _ = load_all(&yaml, &[], &[]);
    }
}
