//! Tests the harness of the cluster tests: namespaces carry packets and multicast, a cut stops exactly the packets that it
//! should, the name server answers, and nothing is left behind.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::Stdio,
    time::Duration,
};

use crate::support::{
    ANSWER_LIMIT,
    cluster::{View, one_group},
    dns::NameServer,
    eventually,
    history::History,
    http::Http,
    netns::{Host, Lab},
    node::Node,
    within,
};
use serde_json::json;

/// The group and port of mDNS.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
const TCP_PORT: u16 = 7_000;

/// Whether a TCP connection from one host to another opens.
async fn reaches(from: &Host, to: &Host) -> bool {
    let address = SocketAddr::from((to.address, TCP_PORT));
    let connect = from.place.connect(address);
    matches!(tokio::time::timeout(Duration::from_millis(500), connect).await, Ok(Ok(_)))
}

/// A listener on a host, which takes every connection.
async fn listen(host: &Host) {
    let at = SocketAddr::from((host.address, TCP_PORT));
    let bound = host.place.run(move || {
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let listener = tokio::net::TcpListener::from_std(bound.await.unwrap().unwrap()).unwrap();
    tokio::spawn(async move { while let Ok((_stream, _)) = listener.accept().await {} });
}

/// Whether what one host sends to the multicast group arrives at another.
async fn hears(listener: &Host, speaker: &Host) -> bool {
    let (here, there) = (listener.address, speaker.address);
    let ears = listener.place.run(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        socket.join_multicast_v4(&GROUP, &here)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    });
    let ears = ears.await.unwrap().unwrap();
    let said = speaker.place.run(move || {
        let socket = UdpSocket::bind((there, 0))?;
        socket.send_to(b"anybody there?", (GROUP, PORT))
    });
    said.await.unwrap().unwrap();
    let heard = tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 64];
        let (count, from) = ears.recv_from(&mut buffer)?;
        Ok::<_, io::Error>((buffer[..count].to_vec(), from.ip()))
    });
    match heard.await.unwrap() {
        Ok((text, from)) => text == b"anybody there?" && from == there,
        Err(_) => false,
    }
}

#[tokio::test]
async fn hosts_on_one_switch_reach_and_hear_each_other() {
    let Some(lab) = Lab::new("hosts_on_one_switch_reach_and_hear_each_other") else { return };
    let switch = lab.switch("sw");
    let [one, two, three] = [1, 2, 3].map(|number| lab.host(&switch, number));
    for host in [&one, &two, &three] {
        listen(host).await;
    }
    assert!(reaches(&one, &two).await && reaches(&two, &one).await);
    assert!(hears(&two, &one).await && hears(&one, &three).await);
    // A cable that is pulled out cuts one host from all others.
    two.cut();
    assert!(!reaches(&one, &two).await && !hears(&two, &one).await);
    assert!(reaches(&one, &three).await);
    two.heal();
    eventually("the healed cable", ANSWER_LIMIT, async || reaches(&one, &two).await.then_some(()))
        .await;
    assert!(hears(&two, &one).await);
    // Two hosts that lose each other still reach the third.
    one.cut_from(&two);
    assert!(!reaches(&one, &two).await && !reaches(&two, &one).await);
    assert!(reaches(&one, &three).await && reaches(&three, &two).await);
    one.heal_to(&two);
    assert!(reaches(&one, &two).await && reaches(&two, &one).await);
    let before = two.sent();
    assert!(reaches(&two, &three).await);
    let after = two.sent();
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
}

#[tokio::test]
async fn a_trunk_cuts_a_network_in_two() {
    let Some(lab) = Lab::new("a_trunk_cuts_a_network_in_two") else { return };
    let (left, right) = (lab.switch("left"), lab.switch("right"));
    let trunk = lab.trunk(&left, &right);
    let [one, two] = [1, 2].map(|number| lab.host(&left, number));
    let three = lab.host(&right, 3);
    for host in [&one, &two, &three] {
        listen(host).await;
    }
    eventually("the new trunk", ANSWER_LIMIT, async || reaches(&one, &three).await.then_some(()))
        .await;
    assert!(hears(&three, &one).await);
    trunk.cut();
    assert!(!reaches(&one, &three).await && !hears(&three, &one).await);
    assert!(reaches(&one, &two).await && hears(&two, &one).await);
    trunk.heal();
    eventually("the healed trunk", ANSWER_LIMIT, async || {
        reaches(&one, &three).await.then_some(())
    })
    .await;
    assert!(hears(&three, &one).await);
}

#[tokio::test]
async fn labs_do_not_see_each_other_and_leave_nothing_behind() {
    let (Some(here), Some(there)) = (Lab::new("labs_do_not_see_each_other"), Lab::new("the same"))
    else {
        return;
    };
    let hosts = [&here, &there].map(|lab| lab.host(&lab.switch("sw"), 1));
    let other = there.host(&there.switch("sw2"), 2);
    for host in &hosts {
        listen(host).await;
    }
    assert!(!reaches(&hosts[0], &other).await && !reaches(&other, &hosts[0]).await);
    hosts[0].name_server(hosts[0].address);
    let left = || {
        let of = |dir: &str| std::fs::read_dir(dir).into_iter().flatten().flatten();
        let prefix = format!("nomad-{}-", std::process::id());
        let names = of("/run/netns").chain(of("/etc/netns")).map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with(&prefix)).count()
    };
    let before = left();
    drop((here, there));
    assert!(before >= left() + 6, "{before} namespaces before, {} after", left());
}

/// The name server answers as the machine's own resolver understands it, and what it says can change.
#[tokio::test]
async fn the_name_server_answers_the_resolver_of_the_system() {
    let Some(lab) = Lab::new("the_name_server_answers_the_resolver_of_the_system") else { return };
    let switch = lab.switch("sw");
    let [server, client] = [1, 2].map(|number| lab.host(&switch, number));
    let at = SocketAddr::from((server.address, 53));
    let names = NameServer::start(&server.place, at, "nodes.test").await;
    client.name_server(server.address);
    let look_up = async |name: &str| {
        let mut command = client.place.command("getent");
        command.args(["ahostsv4", name]).stdin(Stdio::null());
        let output = tokio::process::Command::from(command).output();
        let output = within("getent", ANSWER_LIMIT, output).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let streams = text.lines().filter(|line| line.contains("STREAM"));
        let mut found: Vec<_> =
            streams.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
        found.sort();
        found
    };
    names.set([1, 2, 3].map(|number| Ipv4Addr::new(10, 99, 7, number)));
    assert_eq!(look_up("nodes.test").await, ["10.99.7.1", "10.99.7.2", "10.99.7.3"]);
    names.set([Ipv4Addr::new(10, 99, 7, 9)]);
    assert_eq!(look_up("nodes.test").await, ["10.99.7.9"]);
    assert!(look_up("nobody.test").await.is_empty());
    assert!(names.asked() >= 2);
}

/// A node runs in a namespace, is reached there, and can be killed there.
#[tokio::test]
async fn a_node_in_a_namespace_is_reached_there() {
    let Some(lab) = Lab::new("a_node_in_a_namespace_is_reached_there") else { return };
    let switch = lab.switch("sw");
    let [one, two] = [1, 2].map(|number| lab.host(&switch, number));
    let builder = Node::builder().place(&one.place).env("NODE_LISTEN", one.address);
    let mut node = builder.started().await;
    assert!(node.rest.starts_with("10.99.7.1:"), "{}", node.rest);
    node.assert_serves().await;
    let from_two = Http::at(&two.place, &node.rest);
    from_two.get("/nomad/v1/status").await.expect(200);
    let program = std::fs::read_link(format!("/proc/{}/exe", node.pid())).unwrap();
    assert_eq!(program.file_name(), Path::new(env!("CARGO_BIN_EXE_nomad")).file_name());
    node.kill_9();
}

/// What node `id` would say of a group of these members.
fn view_of(id: &str, epoch: u64, leader: &str, members: &[&str]) -> View {
    let members: Vec<_> = members
        .iter()
        .map(|member| json!({ "nodeId": member, "state": "alive", "voter": *member == leader }))
        .collect();
    View::of(json!({
        "nodeId": id, "role": if id == leader { "super-peer" } else { "peer" }, "state": "any",
        "permanent": false, "group": "g", "epoch": epoch, "superPeer": leader, "ready": true,
        "reason": "", "members": members,
    }))
}

#[test]
fn a_group_is_one_only_if_all_its_members_agree() {
    let both = ["a", "b"];
    let ids = both.map(ToOwned::to_owned).into();
    let right = vec![view_of("a", 3, "a", &both), view_of("b", 3, "a", &both)];
    assert_eq!(one_group(right, &ids).unwrap().id, "a");
    for wrong in [
        vec![view_of("a", 3, "a", &both), view_of("b", 2, "a", &both)],
        vec![view_of("a", 3, "a", &both), view_of("b", 3, "b", &both)],
        vec![view_of("a", 3, "a", &both), view_of("b", 3, "a", &["b"])],
        vec![view_of("a", 3, "c", &both), view_of("b", 3, "c", &both)],
        vec![view_of("a", 3, "a", &["a", "b", "c"]), view_of("b", 3, "a", &["a", "b", "c"])],
        Vec::new(),
    ] {
        assert!(one_group(wrong.clone(), &ids).is_none(), "{wrong:?}");
    }
}

#[test]
fn a_group_that_changes_is_not_at_rest() {
    let both = ["a", "b"];
    let ids = both.map(ToOwned::to_owned).into();
    let mut changing = view_of("b", 3, "a", &both).document;
    changing["change"] = json!({ "joining": ["b"] });
    let views = vec![view_of("a", 3, "a", &both), View::of(changing)];
    assert!(one_group(views, &ids).is_none());
}

#[tokio::test]
async fn a_history_that_only_grows_is_one() {
    let history = History::start();
    history.record(&view_of("a", 3, "a", &["a", "b"]));
    history.record(&view_of("b", 2, "a", &["a"]));
    history.record(&view_of("b", 3, "a", &["b", "a"]));
    assert!(history.assert_one().contains("1 groups, 2 epochs"));
}

#[tokio::test]
#[should_panic(expected = "not one history")]
async fn an_epoch_with_two_member_lists_is_no_history() {
    let history = History::start();
    history.record(&view_of("a", 3, "a", &["a", "b"]));
    history.record(&view_of("b", 3, "a", &["a", "c"]));
    history.assert_one();
}

#[tokio::test]
#[should_panic(expected = "not one history")]
async fn an_epoch_that_goes_back_is_no_history() {
    let history = History::start();
    history.record(&view_of("a", 3, "a", &["a", "b"]));
    history.record(&view_of("a", 2, "a", &["a"]));
    history.assert_one();
}
