//! What command lines mean, and which are refused, with the value named.

use clap::FromArgMatches as _;

use super::*;

fn parse(line: &[&str]) -> Result<Command, String> {
    let matches = help::command().try_get_matches_from([&["nomad"], line].concat());
    matches
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map(|cli| cli.command)
        .map_err(|error| error.to_string())
}

#[test]
fn a_start_is_that_of_a_peer_unless_it_says_otherwise() {
    let Ok(Command::Start(plain)) = parse(&["start"]) else { panic!() };
    assert_eq!((plain.role, plain.config.file, plain.data_dir), (RoleArg::Peer, None, None));
    assert!(plain.bootstrap.is_empty());
    let line = "start -t super-peer -c c.yaml --data-dir d --bootstrap a:1 --bootstrap b:2";
    let line: Vec<_> = line.split(' ').collect();
    let Ok(Command::Start(full)) = parse(&line) else { panic!() };
    assert_eq!(full.bootstrap, ["a:1", "b:2"]);
    assert_eq!(full.role, RoleArg::SuperPeer);
    assert_eq!((full.config.file, full.data_dir), (Some("c.yaml".into()), Some("d".into())));
}

#[test]
fn a_network_is_one_super_peer_and_three_peers_unless_it_says_otherwise() {
    let Ok(Command::Dev(plain)) = parse(&["dev"]) else { panic!() };
    assert_eq!((plain.super_peers, plain.peers, plain.data_dir), (1, 3, None));
}

#[test]
fn values_and_ids_may_look_odd() {
    let Ok(Command::Put(put)) = parse(&["put", "a b", "-12.5", "--ttl", "90s"]) else { panic!() };
    assert_eq!((&*put.content.id, put.content.value), ("a b", Some("-12.5".into())));
    assert_eq!(put.content.ttl, Some(Duration::from_secs(90)));
    let Ok(Command::Put(put)) = parse(&["put", "a", "-"]) else { panic!() };
    assert_eq!(put.content.value, Some("-".into()));
    let Ok(Command::Put(put)) = parse(&["put", "--", "--a", "--b"]) else { panic!() };
    assert_eq!((&*put.content.id, put.content.value), ("--a", Some("--b".into())));
    let line = ["update", "a", "x", "--if-version", "\"v-1\""];
    let Ok(Command::Update(update)) = parse(&line) else { panic!() };
    assert_eq!(update.if_version.as_deref(), Some("v-1"));
}

#[test]
fn a_trace_is_of_all_or_of_some_and_a_capture_is_below_it() {
    let Ok(Command::Trace(trace)) = parse(&["trace"]) else { panic!() };
    assert_eq!((trace.limit, trace.follow, trace.only), (50, false, TraceFilter::default()));
    let Ok(Command::Trace(trace)) = parse(&["trace", "--object", "a", "--actor", "rest"]) else {
        panic!()
    };
    assert_eq!(trace.only.object.as_deref(), Some("a"));
    assert_eq!(trace.only.actor.as_deref(), Some("rest"));
    let line = ["trace", "capture", "--limit", "5", "--object", "a", "--url", "http://h:1"];
    let Ok(Command::Trace(trace)) = parse(&line) else { panic!() };
    let Some(TraceCommand::Capture(capture)) = trace.command else { panic!() };
    assert_eq!((capture.limit, capture.stop), (Some(5), false));
    assert_eq!(capture.connection.url.unwrap().to_string(), "http://h:1");
}

#[test]
fn a_line_that_cannot_be_meant_is_refused_and_names_the_value() {
    let cases: [(&[&str], &str); 18] = [
        (&["start", "--type", "hyper-peer"], "hyper-peer"),
        (&["start", "--bootstrap"], "--bootstrap"),
        (&["dev", "--peers", "101"], "101"),
        (&["put", ""], "<ID>"),
        (&["put", "a", "b", "c"], "'c'"),
        (&["put", "a", "x", "--file", "f"], "--file"),
        (&["put", "a", "x", "--ttl", "soon"], "soon"),
        (&["put", "a", "x", "--ttl", "0s"], "above 0"),
        (&["put", "a", "x", "--ttl", "1500ms"], "full seconds"),
        (&["put", "a", "x", "--ttl", "1h", "--expires", "9"], "--expires"),
        (&["put", "a", "x", "--mode", "parallel"], "parallel"),
        (&["put", "a", "x", "--content-type", "a\nb"], "printable"),
        (&["update", "a", "x", "--if-version", ""], "version"),
        (&["get", "a", "--output", "text"], "text"),
        (&["get", "a", "--url", "ftp://h"], "ftp://h"),
        (&["get", "a", "--url", "http://h:1", "--data-dir", "d"], "--data-dir"),
        (&["trace", "--limit", "10001"], "10001"),
        (&["trace", "capture", "--limit", "1", "--stop"], "--stop"),
    ];
    for (line, part) in cases {
        let error = parse(line).map(|command| panic!("{line:?} is {command:?}")).unwrap_err();
        assert!(error.contains(part), "{line:?}: {error}");
    }
}
