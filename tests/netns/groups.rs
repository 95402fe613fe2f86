//! Groups on a real network of the test's own: multicast, name service, cables that are cut and networks that fall in two.
//! `NOMAD_SOAK` runs the long forms, and measures what an idle member costs.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::support::{
    cluster::{Cluster, Role, SETTLE, View, logged, short},
    dns::NameServer,
    netns::{Host, Lab},
    node::Builder,
    place::Place,
    say, soak, started,
};

/// Nodes find each other by multicast alone.
fn by_mdns(cluster: &Cluster, role: Role) -> Builder {
    let builder = cluster.builder_without_bootstrap().env("BOOTSTRAP_MDNS", true);
    match role {
        Role::Peer => builder,
        Role::SuperPeer => builder.arg("--type").arg("super-peer"),
    }
}

/// On a machine of its own, listening on its address.
fn on(host: &Host, builder: Builder) -> Builder {
    builder.place(&host.place).env("NODE_LISTEN", host.address)
}

/// A super-peer on the first host and a peer on each other, by multicast.
async fn group_on(hosts: &[Host], cluster: Cluster) -> (Cluster, View) {
    let mut cluster = cluster;
    let roles = std::iter::once(Role::SuperPeer).chain(std::iter::repeat(Role::Peer));
    let builders = hosts.iter().zip(roles).map(|(host, role)| on(host, by_mdns(&cluster, role)));
    let builders: Vec<_> = builders.collect();
    cluster.add_all(builders).await;
    let view = cluster.agree(0..hosts.len(), SETTLE).await;
    (cluster, view)
}

#[tokio::test]
async fn four_machines_on_a_lan_become_one_group() {
    let Some(lab) = Lab::new("four_machines_on_a_lan_become_one_group") else { return };
    let switch = lab.switch("sw");
    let hosts = [1, 2, 3, 4].map(|number| lab.host(&switch, number));
    let start = started();
    let (mut cluster, before) = group_on(&hosts, Cluster::new()).await;
    say(&format!("a group of four on a LAN by multicast alone: {:?}", start.elapsed()));
    assert_eq!(before.id, cluster.id(0), "{}", before.line());
    // All stop, and come back on other ports, the last one first.
    cluster.stop_all().await;
    cluster.start_in_turn(&[3, 2, 1, 0], Duration::from_millis(700)).await;
    let after = cluster.agree(0..4, SETTLE).await;
    assert_eq!(after.group, before.group);
    say(&cluster.assert_one_history());
}

/// `nomad start --type super-peer` and three `nomad start` in four shells of one machine, with no settings at all but
/// the name that keeps this test's nodes together.
async fn four_shells(place: &Place) {
    let mut cluster = Cluster::new();
    let plain = |role| {
        let builder = by_mdns(&cluster, role).place(place);
        let builder = builder.env("BOOTSTRAP_DISCOVERYWINDOW", "5s");
        builder.env("BOOTSTRAP_PROVISIONALPOLLINTERVAL", "30s").env("SCHEDULE_HEALTHCHECK", "20s")
    };
    let builders = [Role::SuperPeer, Role::Peer, Role::Peer, Role::Peer].map(plain);
    let start = started();
    cluster.add_all(builders).await;
    let before = cluster.agree(0..4, SETTLE).await;
    say(&format!("four shells on one machine: a group of four in {:?}", start.elapsed()));
    assert_eq!(before.id, cluster.id(0), "{}", before.line());
    cluster.assert_one_history();
}

#[tokio::test]
async fn four_shells_on_one_machine_become_one_group() {
    let Some(lab) = Lab::new("four_shells_on_one_machine_become_one_group") else { return };
    four_shells(&lab.host(&lab.switch("sw"), 1).place).await;
}

#[tokio::test]
async fn four_shells_on_a_machine_without_a_network_become_one_group() {
    let test = "four_shells_on_a_machine_without_a_network_become_one_group";
    let Some(lab) = Lab::new(test) else { return };
    four_shells(&lab.island("alone")).await;
}

/// As in a cluster without multicast: one name stands for all nodes, and what it stands for changes.
#[tokio::test]
async fn nodes_find_each_other_by_a_name_alone() {
    let Some(lab) = Lab::new("nodes_find_each_other_by_a_name_alone") else { return };
    let switch = lab.switch("sw");
    let hosts = [1, 2, 3, 4].map(|number| lab.host(&switch, number));
    let server = lab.host(&switch, 53);
    let at = SocketAddr::from((server.address, 53));
    let names = NameServer::start(&server.place, at, "nodes.test").await;
    for host in &hosts {
        host.name_server(server.address);
    }
    let mut cluster =
        Cluster::new().env("BOOTSTRAP_DNS", "nodes.test").env("NODE_PORTS_OVERLAY", 4001);
    names.set(hosts[..3].iter().map(|host| host.address));
    let first = on(&hosts[0], cluster.builder_without_bootstrap().arg("--type").arg("super-peer"));
    let others: Vec<_> =
        hosts[1..3].iter().map(|host| on(host, cluster.builder_without_bootstrap())).collect();
    cluster.add_all(std::iter::once(first).chain(others)).await;
    let before = cluster.agree(0..3, SETTLE).await;
    assert!(names.asked() > 0);
    // The name stands for nobody who lives when the fourth one starts: it looks again.
    names.set([Ipv4Addr::new(10, 99, 7, 77)]);
    let asked = names.asked();
    let fourth = on(&hosts[3], cluster.builder_without_bootstrap());
    cluster.add_all([fourth]).await;
    cluster
        .eventually("the name is looked up", SETTLE, async || (names.asked() > asked).then_some(()))
        .await;
    names.set(hosts[..3].iter().map(|host| host.address));
    let after = cluster.agree(0..4, SETTLE * 2).await;
    assert_eq!(after.group, before.group);
    say(&cluster.assert_one_history());
}

/// Goal: a network that is split in two has one history. Three nodes go on, two do not change the table, and after the healing
/// all five are the same group. First the cut is shorter than all time limits, then it is longer: the two have lost their
/// majority and ended their group, and still they come back.
/// Method: two switches whose trunk is cut; no host sees a fault of its own cable.
#[tokio::test]
async fn a_network_that_falls_in_two_has_one_history() {
    let Some(lab) = Lab::new("a_network_that_falls_in_two_has_one_history") else { return };
    let (left, right) = (lab.switch("left"), lab.switch("right"));
    let trunk = lab.trunk(&left, &right);
    // Nodes 0 and 1 are the two; the first of them leads when the network falls in two for the first time.
    let mut hosts: Vec<_> = [1, 2].map(|number| lab.host(&right, number)).into();
    hosts.extend([3, 4, 5].map(|number| lab.host(&left, number)));
    let (grace, cuts): (_, &[u64]) =
        if soak() { ("30s", &[20, 60, 60, 60, 60, 60, 60, 60, 60, 60]) } else { ("7s", &[4, 12]) };
    let mut cluster =
        Cluster::new().env("GROUP_QUORUMLOSSGRACE", grace).env("GROUP_REMOVEAFTER", grace);
    let builders: Vec<_> =
        hosts.iter().map(|host| on(host, by_mdns(&cluster, Role::Peer))).collect();
    let (first, others) = builders.split_at(1);
    cluster.add_all(first.iter().cloned()).await;
    cluster.add_all(others.iter().cloned()).await;
    let mut before = cluster.agree_on(0..5, 0, SETTLE * 2).await;
    for seconds in cuts {
        trunk.cut();
        let start = started();
        let lead = cluster.number(&before.id);
        // The three go on with a super-peer of their own.
        let three = cluster
            .eventually("the three have a super-peer", SETTLE, async || {
                let views = cluster.views([2, 3, 4]).await;
                let leads = |view: &View| view.leads() && cluster.number(&view.id) > 1;
                views.into_iter().flatten().find(leads)
            })
            .await;
        let led = start.elapsed();
        assert_eq!(three.group, before.group, "{}", three.line());
        tokio::time::sleep(Duration::from_secs(*seconds).saturating_sub(start.elapsed())).await;
        let apart = cluster.views([0, 1]).await;
        for view in apart.into_iter().flatten() {
            let same = view.group == before.group;
            assert!(!same || view.epoch <= before.epoch, "the two changed it: {}", view.line());
            assert!(!(same && view.leads()), "the two kept the lead: {}", view.line());
        }
        trunk.heal();
        let healed = started();
        let after = cluster.agree(0..5, SETTLE * 2).await;
        say(&format!(
            "cut for {seconds} s (node {lead} led): the three led after {led:?}, one group {:?} after the healing",
            healed.elapsed()
        ));
        assert_eq!(after.group, before.group, "{}", after.line());
        before = after;
    }
    say(&cluster.assert_one_history());
}

/// Goal: a change of the members ends although objects have lost the majority of their replicas to a partition that is longer
/// than a silent member is kept, and than a group without its majority is kept: the three go on with all objects, the two are
/// members again, Method: five members and 60 objects, some of which have two
/// of their three replicas on the two; the trunk between two switches is cut.
#[tokio::test]
async fn a_partition_that_outlasts_its_members_ends_with_all_objects() {
    let test = "a_partition_that_outlasts_its_members_ends_with_all_objects";
    let Some(lab) = Lab::new(test) else { return };
    let (left, right) = (lab.switch("left"), lab.switch("right"));
    let trunk = lab.trunk(&left, &right);
    let mut hosts: Vec<_> = [1, 2, 3].map(|number| lab.host(&left, number)).into();
    hosts.extend([4, 5].map(|number| lab.host(&right, number)));
    let mut cluster =
        Cluster::new().env("GROUP_QUORUMLOSSGRACE", "8s").env("GROUP_REMOVEAFTER", "10s");
    let builders: Vec<_> =
        hosts.iter().map(|host| on(host, by_mdns(&cluster, Role::Peer))).collect();
    let (first, others) = builders.split_at(1);
    cluster.add_all(first.iter().cloned()).await;
    cluster.add_all(others.iter().cloned()).await;
    let before = cluster.agree_on(0..5, 0, SETTLE * 2).await;
    let path = |number: usize| format!("/nomad/v1/objects/partition:{number}");
    let numbers = 0..60;
    for number in numbers.clone() {
        let http = &cluster.node(number % 5).http();
        let put = http.call("PUT", &path(number)).header("nomad-mode", "safe");
        put.body(format!("value {number}")).send().await.expect(201);
    }
    trunk.cut();
    let cut = started();
    let out = cluster
        .eventually("the change ends without the two", SETTLE * 2, async || {
            let view = cluster.view(0).await?;
            (view.ids() == cluster.ids([0, 1, 2])).then_some(view)
        })
        .await;
    assert_eq!(out.group, before.group, "{}", out.line());
    let settled = cut.elapsed();
    let two_id = cluster.id(4).to_owned();
    logged(cluster.node(0), "what the change waits for", |line| {
        let text = line.to_string();
        text.contains("a change of the members waits") && text.contains(&two_id)
    })
    .await;
    logged(cluster.node(0), "the change that went on by force", |line| {
        line.to_string().contains("went on by force")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(25).saturating_sub(cut.elapsed())).await;
    trunk.heal();
    let healed = started();
    let after = cluster.agree(0..5, SETTLE * 2).await;
    assert_eq!(after.group, before.group, "{}", after.line());
    for number in numbers {
        cluster
            .eventually(&format!("object {number} at every member"), SETTLE, async || {
                for member in 0..5 {
                    let http = &cluster.node(member).http();
                    let get = http.call("GET", &path(number)).header("nomad-mode", "safe");
                    let answer = get.try_send().await.ok()?;
                    let is_it = answer.status == 200 && answer.text() == format!("value {number}");
                    if !is_it {
                        return None;
                    }
                }
                Some(())
            })
            .await;
    }
    say(&format!(
        "the three settled {settled:?} after the cut; one group {:?} after the healing",
        healed.elapsed()
    ));
    say(&cluster.assert_one_history());
}

/// A node whose cable is cut is missed. When the cable is back, the node is the same member again, without an operator.
#[tokio::test]
async fn a_node_that_was_cut_off_comes_back_by_itself() {
    let Some(lab) = Lab::new("a_node_that_was_cut_off_comes_back_by_itself") else { return };
    let switch = lab.switch("sw");
    let hosts = [1, 2, 3, 4].map(|number| lab.host(&switch, number));
    let (cluster, before) = group_on(&hosts, Cluster::new()).await;
    for cut in [3, 0] {
        hosts[cut].cut();
        let rest: Vec<_> = (0..4).filter(|number| *number != cut).collect();
        let id = cluster.id(cut).to_owned();
        cluster
            .eventually("it is missed, and the rest follow one super-peer", SETTLE, async || {
                let views: Option<Vec<_>> =
                    cluster.views(rest.iter().copied()).await.into_iter().collect();
                let views = views?;
                let missed = views
                    .iter()
                    .all(|view| view.members.get(&id).is_some_and(|state| state != "alive"));
                let led: BTreeSet<_> = views.iter().map(|view| view.super_peer.clone()).collect();
                let one =
                    led.len() == 1 && !led.contains(&None) && !led.contains(&Some(id.clone()));
                (missed && one).then_some(())
            })
            .await;
        hosts[cut].heal();
        let after = cluster.agree(0..4, SETTLE).await;
        assert_eq!((&after.group, after.ids()), (&before.group, before.ids()));
    }
    say(&cluster.assert_one_history());
}

/// Two members cannot reach each other, but the super-peer reaches both. Both stay members, and the super-peer reports the fault.
#[tokio::test]
async fn a_member_that_one_peer_alone_cannot_reach_is_not_removed() {
    let test = "a_member_that_one_peer_alone_cannot_reach_is_not_removed";
    let Some(lab) = Lab::new(test) else { return };
    let switch = lab.switch("sw");
    let hosts = [1, 2, 3, 4].map(|number| lab.host(&switch, number));
    let cluster = Cluster::new().env("GROUP_REMOVEAFTER", "3s");
    let (cluster, before) = group_on(&hosts, cluster).await;
    assert_eq!(before.id, cluster.id(0), "{}", before.line());
    hosts[2].cut_from(&hosts[3]);
    let (two, three) = (cluster.id(2).to_owned(), cluster.id(3).to_owned());
    let what = format!("of the fault between {} and {}", short(&two), short(&three));
    let line = logged(cluster.node(0), &what, |line| {
        let text = line.to_string();
        line["level"] != "DEBUG" && text.contains(&two) && text.contains(&three)
    })
    .await;
    say(&format!("the pair's fault is reported: {line}"));
    tokio::time::sleep(Duration::from_secs(8)).await;
    for number in 0..4 {
        let view = cluster.view(number).await.expect("an answer");
        assert_eq!((&view.group, view.ids()), (&before.group, before.ids()), "{}", view.line());
        assert_eq!(view.epoch, before.epoch, "{}", view.line());
    }
    let leader = cluster.view(0).await.expect("an answer");
    for id in [&two, &three] {
        assert_ne!(leader.members[id], "dead", "the super-peer reaches it: {}", leader.line());
    }
    hosts[2].heal_to(&hosts[3]);
    cluster.agree(0..4, SETTLE).await;
    cluster.assert_one_history();
}

/// Processor time that a process has used, in clock ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<_> = after_name.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// What an idle member of a group of five costs, with the default timings.
#[tokio::test]
async fn an_idle_member_costs_little() {
    if !soak() {
        say(
            "an_idle_member_costs_little is SKIPPED without NOMAD_SOAK: it takes a minute of silence",
        );
        return;
    }
    let Some(lab) = Lab::new("an_idle_member_costs_little") else { return };
    let switch = lab.switch("sw");
    let hosts = [1, 2, 3, 4, 5].map(|number| lab.host(&switch, number));
    let cluster = Cluster::new()
        .env("SCHEDULE_HEALTHCHECK", "20s")
        .env("BOOTSTRAP_DISCOVERYWINDOW", "5s")
        .env("BOOTSTRAP_PROVISIONALPOLLINTERVAL", "30s");
    let (cluster, _) = group_on(&hosts, cluster).await;
    cluster.stop_watching();
    // The first minutes belong to the start: connections, announcements, first look-ups.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let read = || -> Vec<_> {
        let costs = hosts.iter().enumerate();
        costs.map(|(number, host)| (host.sent(), ticks(cluster.node(number).pid()))).collect()
    };
    let (before, start) = (read(), started());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (after, seconds) = (read(), start.elapsed().as_secs_f64());
    for (number, (((bytes, packets), used), ((bytes_0, packets_0), used_0))) in
        after.into_iter().zip(before).enumerate()
    {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let per_second = |count: u64| count as f64 / seconds;
        say(&format!(
            "idle {} {number}: {:.0} bytes/s and {:.1} packets/s sent, {:.2} % of a core",
            if number == 0 { "super-peer" } else { "member" },
            per_second(bytes - bytes_0),
            per_second(packets - packets_0),
            per_second(used - used_0),
        ));
    }
    cluster.agree(0..5, SETTLE).await;
}
