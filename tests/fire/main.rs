//! Five real processes under fire: clients of every kind over every edge, while members are killed, stand still, lose their
//! disks, come and go, are cut off from each other, lose their actors, and have their clocks moved. Everything that was
//! answered is written down and judged.
//!
//! About a minute together; with `NOMAD_SOAK` ten minutes each, with `NOMAD_FIRE_SECONDS` as long as it says. `NOMAD_SEED` repeats the
//! choices of a run, though not its timing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed unwrap here is a failed test"
)]

#[path = "../support/linearizability.rs"]
mod linearizability;
#[path = "../support/mod.rs"]
mod support;

mod actors;
mod book;
mod checker;
mod clients;
mod clock;
mod entry;
mod nemesis;
mod verdict;

use std::{sync::Arc, time::Duration};

use clients::Field;
use clock::Clocks;
use nemesis::{FAULTS, Fault, Nemesis};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use support::{
    cluster::{Cluster, Role, SETTLE},
    eventually,
    netns::Lab,
    say, seed, soak,
};
use verdict::assert_right;

const MEMBERS: usize = 5;

/// How many clients of each kind: safe, fast, and of every mode.
const CLIENTS: [usize; 3] = [6, 4, 2];

/// What a failed safe operation may last when one node is killed.
const FAILED_MAX: Duration = Duration::from_secs(2);

/// One fire at a time: two of them would be no test of either on a small machine.
static FIRE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How long it burns, where it burns this long in the suite.
fn span(seconds: u64) -> Duration {
    let asked = std::env::var("NOMAD_FIRE_SECONDS").ok();
    let asked = asked.map(|text| text.parse().expect("NOMAD_FIRE_SECONDS is no number"));
    Duration::from_secs(asked.unwrap_or(if soak() { 600 } else { seconds }))
}

/// Members that repair, forget and remove in seconds, and give a request up before its client does.
fn hasty() -> Cluster {
    Cluster::new()
        .env("NODE_MAXPEERS", 8)
        .env("LIMITS_REQUESTTIMEOUT", "5s")
        .env("SCHEDULE_REPAIR", "3s")
        .env("SCHEDULE_DBCLEANUP", "1s")
        .env("SCHEDULE_LEDGERCLEANUP", "1s")
        .env("GROUP_REMOVEAFTER", "10s")
        .env("DEBUG_ALLOWKILL", true)
}

/// Clients on a group that is whole, and who disturbs it.
async fn kindled(cluster: Cluster, seed: u64, clients: [usize; 3]) -> (Nemesis, Arc<Field>) {
    let field = Field::new();
    field.addresses.note(&cluster);
    let tasks = clients::start(&field, seed, clients);
    let rng = SmallRng::seed_from_u64(seed);
    let nemesis = Nemesis::new(cluster, Arc::clone(&field), rng, tasks);
    nemesis.probes().await;
    (nemesis, field)
}

/// Waits for so many more answers.
async fn more(field: &Field, count: u64) {
    let target = field.acks() + count;
    eventually("more answers", SETTLE, async || (field.acks() >= target).then_some(())).await;
}

/// Ends it, and judges.
async fn judged(nemesis: Nemesis, field: &Field, seed: u64) {
    let (cluster, factor) = nemesis.peace().await;
    assert_right(&cluster, field, seed, factor).await;
}

/// "Safe operations: linearizable per object, under crashes, partitions, clock jumps, joins, leaves and migrations." With
/// it, that fast writes converge to the newest and nothing comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_safe_operations_are_linearizable_under_fire() {
    let (seed, _fire) = (seed(), FIRE.lock().await);
    let mut cluster = hasty();
    cluster.add_group(Role::SuperPeer, MEMBERS).await;
    let (mut nemesis, field) = kindled(cluster, seed, CLIENTS).await;
    nemesis.rage(&FAULTS, span(40)).await;
    judged(nemesis, &field, seed).await;
}

/// The same on a network that falls in two, loses single hosts, and pairs of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_safe_operations_are_linearizable_on_a_network_that_is_cut() {
    let test = "promise_safe_operations_are_linearizable_on_a_network_that_is_cut";
    let Some(lab) = Lab::new(test) else { return };
    let (seed, _fire) = (seed(), FIRE.lock().await);
    let (left, right) = (lab.switch("left"), lab.switch("right"));
    let trunk = lab.trunk(&left, &right);
    let mut hosts: Vec<_> = [1, 2].map(|number| lab.host(&right, number)).into();
    hosts.extend([3, 4, 5].map(|number| lab.host(&left, number)));
    let mut cluster = hasty().env("GROUP_REMOVEAFTER", "60s");
    let builders = hosts.iter().map(|host| {
        let builder = cluster.loner().env("BOOTSTRAP_MDNS", true);
        builder.place(&host.place).env("NODE_LISTEN", host.address)
    });
    let builders: Vec<_> = builders.collect();
    let (first, others) = builders.split_at(1);
    cluster.add_all(first.iter().cloned()).await;
    cluster.add_all(others.iter().cloned()).await;
    cluster.agree(0..MEMBERS, SETTLE * 2).await;
    let (mut nemesis, field) = kindled(cluster, seed, CLIENTS).await;
    let mut rng = SmallRng::seed_from_u64(seed ^ 7);
    let end = field.book.now() + u64::try_from(span(20).as_nanos()).unwrap();
    while field.book.now() < end {
        let (one, far) = (rng.random_range(0..MEMBERS), rng.random_range(1..MEMBERS));
        let other = (one + far) % MEMBERS;
        let seconds = Duration::from_millis(rng.random_range(500..7_000));
        let what = rng.random_range(0..4);
        eprintln!("{what}: of {one} and {other} for {seconds:?}");
        match what {
            0 | 1 => trunk.cut(),
            2 => hosts[one].cut(),
            _ => hosts[one].lose(&hosts[other]),
        }
        tokio::time::sleep(seconds).await;
        match what {
            0 | 1 => trunk.heal(),
            2 => hosts[one].heal(),
            _ => hosts[one].find(&hosts[other]),
        }
        if rng.random_ratio(1, 3) {
            nemesis.strike(&[Fault::Kill, Fault::Pause]).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..4_000))).await;
    }
    judged(nemesis, &field, seed).await;
}

/// The same while each actor of a super-peer and of a peer is killed by its name, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_actor_killed_by_name_under_load_loses_nothing() {
    let (seed, _fire) = (seed(), FIRE.lock().await);
    let mut cluster = hasty();
    cluster.add_group(Role::SuperPeer, 3).await;
    let (nemesis, field) = kindled(cluster, seed, CLIENTS).await;
    for number in if soak() { vec![0, 1, 2] } else { vec![0, 2] } {
        let node = nemesis.cluster.node(number);
        let names = actors::names(node).await;
        say(&format!("actors of node {number} that are killed: {names:?}"));
        for name in &names {
            actors::kill(node, name).await;
            more(&field, 30).await;
        }
    }
    judged(nemesis, &field, seed).await;
}

/// The same while wall clocks jump by seconds and hours, forwards and backwards. Fast writes of several nodes have no other
/// order than that of their versions here, so only those that are told their versions take part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_safe_operations_are_linearizable_while_clocks_jump() {
    let test = "promise_safe_operations_are_linearizable_while_clocks_jump";
    let Some(clocks) = Clocks::new(test) else { return };
    let (seed, _fire) = (seed(), FIRE.lock().await);
    let mut cluster = hasty();
    for number in 0..MEMBERS {
        let role = if number == 0 { Role::SuperPeer } else { Role::Peer };
        let builder = clocks.under(number, cluster.builder(role));
        cluster.add_all([builder]).await;
    }
    cluster.agree(0..MEMBERS, SETTLE * 2).await;
    assert_moves(&cluster, &clocks).await;
    let (mut nemesis, field) = kindled(cluster, seed, [6, 0, 4]).await;
    let mut rng = SmallRng::seed_from_u64(seed ^ 11);
    let end = field.book.now() + u64::try_from(span(20).as_nanos()).unwrap();
    while field.book.now() < end {
        let number = rng.random_range(0..MEMBERS);
        let far = [1, 30, 3_600, 86_400][rng.random_range(0..4)];
        let seconds = rng.random_range(-far..=far);
        eprintln!("the clock of node {number} is {seconds:+} s from the right time");
        clocks.set(number, seconds);
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..1_500))).await;
        if rng.random_ratio(1, 8) {
            nemesis.strike(&[Fault::Kill]).await;
        }
    }
    (0..MEMBERS).for_each(|number| clocks.set(number, 0));
    judged(nemesis, &field, seed).await;
}

/// The clock of a node is the one that it goes by.
async fn assert_moves(cluster: &Cluster, clocks: &Clocks) {
    clocks.set(1, 7_200);
    let http = cluster.node(1).http();
    eventually("the moved clock", SETTLE, async || {
        let path = format!("/nomad/v1/objects/{}", support::unique("clock"));
        http.call("PUT", &path).header("nomad-mode", "fast").body("x").send().await.expect(201);
        let answer = http.call("GET", &path).header("nomad-mode", "fast").send().await.expect(200);
        let modified = httpdate::parse_http_date(answer.header("last-modified")).unwrap();
        let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        (i64::try_from(modified).unwrap() > support::unix_now() + 7_000).then_some(())
    })
    .await;
    clocks.set(1, 0);
}

/// Goal: the loss of any one node costs those that ask at most two seconds, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_one_node_killed_during_load_delays_nothing_for_long() {
    let (seed, _fire) = (seed(), FIRE.lock().await);
    let mut cluster = hasty().env("GROUP_REMOVEAFTER", "120s");
    cluster.add_group(Role::Peer, MEMBERS).await;
    let (mut nemesis, field) = kindled(cluster, seed, CLIENTS).await;
    more(&field, 200).await;
    for victim in 0..MEMBERS {
        nemesis.cluster.kill_9(victim);
        more(&field, 200).await;
        nemesis.cluster.start([victim]).await;
        field.addresses.note(&nemesis.cluster);
        nemesis.cluster.agree(0..MEMBERS, SETTLE).await;
    }
    let timings = field.book.timings();
    let safe = || timings.iter().filter(|timing| timing.is_safe);
    let longest = |failed| safe().filter(|t| t.failed == failed).map(|t| t.took).max();
    let (failed, done) = (longest(true).unwrap_or_default(), longest(false).unwrap_or_default());
    say(&format!(
        "each of five killed in turn: {} safe operations, {} failed; the longest that failed took {failed:?}, the longest that succeeded {done:?}",
        safe().count(),
        safe().filter(|timing| timing.failed).count(),
    ));
    judged(nemesis, &field, seed).await;
    assert!(failed <= FAILED_MAX, "NOMAD_SEED={seed}: a safe operation failed after {failed:?}");
}

/// Goal: when any two nodes are lost at once, fast operations go on at those that are left, and when the two are back, so is
/// everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_two_nodes_killed_during_load_stop_no_fast_operation() {
    let (seed, _fire) = (seed(), FIRE.lock().await);
    let mut cluster = hasty().env("GROUP_REMOVEAFTER", "120s");
    cluster.add_group(Role::Peer, MEMBERS).await;
    let (mut nemesis, field) = kindled(cluster, seed, [6, 6, 0]).await;
    more(&field, 200).await;
    let pairs = [[0, 1], [2, 4], [1, 3]];
    for victims in &pairs[..if soak() { 3 } else { 2 }] {
        // From here on nobody begins to ask them; what they were asked before is theirs.
        victims.iter().for_each(|victim| field.addresses.forget(*victim));
        victims.iter().for_each(|victim| nemesis.cluster.kill_9(*victim));
        let from = Duration::from_nanos(field.book.now()) + Duration::from_millis(300);
        tokio::time::sleep(Duration::from_secs(4)).await;
        let to = Duration::from_nanos(field.book.now());
        let timings = field.book.timings();
        let within = |timing: &&book::Timing| timing.at > from && timing.at < to;
        let of = |is_safe, failed| {
            let kind = timings.iter().filter(within).filter(|timing| timing.is_safe == is_safe);
            kind.filter(|timing| timing.failed == failed).count()
        };
        say(&format!(
            "{victims:?} down: fast {} done, {} failed; safe {} done, {} failed",
            of(false, false),
            of(false, true),
            of(true, false),
            of(true, true)
        ));
        assert!(of(false, false) > 20, "fast operations go on");
        assert_eq!(of(false, true), 0, "NOMAD_SEED={seed}: fast operations failed");
        nemesis.cluster.start(victims.iter().copied()).await;
        field.addresses.note(&nemesis.cluster);
        nemesis.cluster.agree(0..MEMBERS, SETTLE).await;
        let back = Duration::from_nanos(field.book.now());
        more(&field, 200).await;
        let timings = field.book.timings();
        let failed = timings.iter().filter(|timing| timing.at > back && timing.failed);
        let failed: Vec<_> = failed.collect();
        assert!(failed.is_empty(), "NOMAD_SEED={seed}: not everything is back: {failed:#?}");
    }
    judged(nemesis, &field, seed).await;
}

/// A node that is alone is its own quorum, and held to the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_operations_of_a_node_alone_are_linearizable_under_fire() {
    let (seed, _fire) = (seed(), FIRE.lock().await);
    let mut cluster = hasty();
    cluster.add(Role::SuperPeer).await;
    let (mut nemesis, field) = kindled(cluster, seed, CLIENTS).await;
    nemesis.rage(&[Fault::Kill, Fault::Pause, Fault::Stop, Fault::KillAll], span(10)).await;
    judged(nemesis, &field, seed).await;
}
