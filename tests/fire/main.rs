//! Load and faults together ("under fire"), on five real processes. Clients of every kind use every edge, while members are
//! killed, paused, wiped, added, removed and cut off, their actors are killed and their clocks are moved. Every answer is
//! recorded, and checked at the end.
//!
//! All tests together take about a minute. `NOMAD_SOAK` makes each run for ten minutes, `NOMAD_FIRE_SECONDS` for that many
//! seconds. `NOMAD_SEED` repeats the choices of a run, but not its timing.
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
mod checker;
mod clients;
mod clock;
mod entry;
mod faults;
mod final_checks;
mod histories;

use std::{sync::Arc, time::Duration};

use clients::Workload;
use clock::Clocks;
use faults::{FAULTS, Fault, FaultInjector};
use final_checks::check_final_state;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use support::{
    cluster::{Cluster, Role, SETTLE},
    eventually,
    netns::Lab,
    say, seed, soak,
};

const MEMBERS: usize = 5;

/// How many clients of each kind: safe, fast, and of every mode.
const CLIENTS: [usize; 3] = [6, 4, 2];

/// The longest that a failed safe operation may take when one node is killed.
const FAILED_MAX: Duration = Duration::from_secs(2);

/// These tests run one at a time: a small machine is too slow for two.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How long faults are injected: `seconds` in the normal suite.
fn run_time(seconds: u64) -> Duration {
    let asked = std::env::var("NOMAD_FIRE_SECONDS").ok();
    let asked = asked.map(|text| text.parse().expect("NOMAD_FIRE_SECONDS is no number"));
    Duration::from_secs(asked.unwrap_or(if soak() { 600 } else { seconds }))
}

/// Members that repair, clean up and remove the dead within seconds. A request times out here before it does at its client.
fn cluster_with_short_timers() -> Cluster {
    Cluster::new()
        .env("NODE_MAXPEERS", 8)
        .env("LIMITS_REQUESTTIMEOUT", "5s")
        .env("SCHEDULE_REPAIR", "3s")
        .env("SCHEDULE_DBCLEANUP", "1s")
        .env("SCHEDULE_LEDGERCLEANUP", "1s")
        .env("GROUP_REMOVEAFTER", "10s")
        .env("DEBUG_ALLOWKILL", true)
}

/// Starts clients on a healthy group. Returns what injects the faults, and what the clients record.
async fn start_under_load(
    cluster: Cluster,
    seed: u64,
    clients: [usize; 3],
) -> (FaultInjector, Arc<Workload>) {
    let workload = Workload::new();
    workload.addresses.update(&cluster);
    let tasks = clients::start(&workload, seed, clients);
    let rng = SmallRng::seed_from_u64(seed);
    let injector = FaultInjector::new(cluster, Arc::clone(&workload), rng, tasks);
    injector.write_probes().await;
    (injector, workload)
}

/// Waits until clients got `count` more answers.
async fn wait_for_answers(workload: &Workload, count: u64) {
    let target = workload.acks() + count;
    eventually("more answers", SETTLE, async || (workload.acks() >= target).then_some(())).await;
}

/// Stops faults and clients, waits until the group is healthy, and checks everything.
async fn heal_and_check(injector: FaultInjector, workload: &Workload, seed: u64) {
    let (cluster, factor) = injector.stop_faults_and_heal().await;
    check_final_state(&cluster, workload, seed, factor).await;
}

/// "Safe operations: linearizable per object, under crashes, partitions, clock jumps, joins, leaves and migrations." Also:
/// fast writes converge to the newest, and nothing that was deleted comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_safe_operations_are_linearizable_under_fire() {
    let (seed, _guard) = (seed(), ONE_AT_A_TIME.lock().await);
    let mut cluster = cluster_with_short_timers();
    cluster.add_group(Role::SuperPeer, MEMBERS).await;
    let (mut injector, workload) = start_under_load(cluster, seed, CLIENTS).await;
    injector.inject_faults(&FAULTS, run_time(40)).await;
    heal_and_check(injector, &workload, seed).await;
}

/// The same while the network is split in two, or a host is cut off from all others, or from one other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_safe_operations_are_linearizable_on_a_network_that_is_cut() {
    let test = "promise_safe_operations_are_linearizable_on_a_network_that_is_cut";
    let Some(lab) = Lab::new(test) else { return };
    let (seed, _guard) = (seed(), ONE_AT_A_TIME.lock().await);
    let (left, right) = (lab.switch("left"), lab.switch("right"));
    let trunk = lab.trunk(&left, &right);
    let mut hosts: Vec<_> = [1, 2].map(|number| lab.host(&right, number)).into();
    hosts.extend([3, 4, 5].map(|number| lab.host(&left, number)));
    let mut cluster = cluster_with_short_timers().env("GROUP_REMOVEAFTER", "60s");
    let builders = hosts.iter().map(|host| {
        let builder = cluster.builder_without_bootstrap().env("BOOTSTRAP_MDNS", true);
        builder.place(&host.place).env("NODE_LISTEN", host.address)
    });
    let builders: Vec<_> = builders.collect();
    let (first, others) = builders.split_at(1);
    cluster.add_all(first.iter().cloned()).await;
    cluster.add_all(others.iter().cloned()).await;
    cluster.agree(0..MEMBERS, SETTLE * 2).await;
    let (mut injector, workload) = start_under_load(cluster, seed, CLIENTS).await;
    let mut rng = SmallRng::seed_from_u64(seed ^ 7);
    let end = workload.histories.now() + u64::try_from(run_time(20).as_nanos()).unwrap();
    while workload.histories.now() < end {
        let (one, far) = (rng.random_range(0..MEMBERS), rng.random_range(1..MEMBERS));
        let other = (one + far) % MEMBERS;
        let seconds = Duration::from_millis(rng.random_range(500..7_000));
        let what = rng.random_range(0..4);
        eprintln!("{what}: of {one} and {other} for {seconds:?}");
        match what {
            0 | 1 => trunk.cut(),
            2 => hosts[one].cut(),
            _ => hosts[one].cut_from(&hosts[other]),
        }
        tokio::time::sleep(seconds).await;
        match what {
            0 | 1 => trunk.heal(),
            2 => hosts[one].heal(),
            _ => hosts[one].heal_to(&hosts[other]),
        }
        if rng.random_ratio(1, 3) {
            injector.inject_one(&[Fault::Kill, Fault::Pause]).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..4_000))).await;
    }
    heal_and_check(injector, &workload, seed).await;
}

/// The same while every actor of a super-peer and of a peer is killed, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_actor_killed_by_name_under_load_loses_nothing() {
    let (seed, _guard) = (seed(), ONE_AT_A_TIME.lock().await);
    let mut cluster = cluster_with_short_timers();
    cluster.add_group(Role::SuperPeer, 3).await;
    let (injector, workload) = start_under_load(cluster, seed, CLIENTS).await;
    for number in if soak() { vec![0, 1, 2] } else { vec![0, 2] } {
        let node = injector.cluster.node(number);
        let names = actors::names(node).await;
        say(&format!("actors of node {number} that are killed: {names:?}"));
        for name in &names {
            actors::kill(node, name).await;
            wait_for_answers(&workload, 30).await;
        }
    }
    heal_and_check(injector, &workload, seed).await;
}

/// The same while wall clocks jump by seconds and hours, forwards and backwards. Only their versions order fast writes of
/// several nodes here. So there are no clients that are not told the versions of their writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_safe_operations_are_linearizable_while_clocks_jump() {
    let test = "promise_safe_operations_are_linearizable_while_clocks_jump";
    let Some(clocks) = Clocks::new(test) else { return };
    let (seed, _guard) = (seed(), ONE_AT_A_TIME.lock().await);
    let mut cluster = cluster_with_short_timers();
    for number in 0..MEMBERS {
        let role = if number == 0 { Role::SuperPeer } else { Role::Peer };
        let builder = clocks.with_clock(number, cluster.builder(role));
        cluster.add_all([builder]).await;
    }
    cluster.agree(0..MEMBERS, SETTLE * 2).await;
    assert_clock_moves(&cluster, &clocks).await;
    let (mut injector, workload) = start_under_load(cluster, seed, [6, 0, 4]).await;
    let mut rng = SmallRng::seed_from_u64(seed ^ 11);
    let end = workload.histories.now() + u64::try_from(run_time(20).as_nanos()).unwrap();
    while workload.histories.now() < end {
        let number = rng.random_range(0..MEMBERS);
        let far = [1, 30, 3_600, 86_400][rng.random_range(0..4)];
        let seconds = rng.random_range(-far..=far);
        eprintln!("the clock of node {number} is {seconds:+} s from the right time");
        clocks.set(number, seconds);
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..1_500))).await;
        if rng.random_ratio(1, 8) {
            injector.inject_one(&[Fault::Kill]).await;
        }
    }
    (0..MEMBERS).for_each(|number| clocks.set(number, 0));
    heal_and_check(injector, &workload, seed).await;
}

/// Asserts that a node uses the clock that the test sets.
async fn assert_clock_moves(cluster: &Cluster, clocks: &Clocks) {
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

/// Goal: when any one node is lost, requests are delayed by at most two seconds, and nothing else happens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_one_node_killed_during_load_delays_nothing_for_long() {
    let (seed, _guard) = (seed(), ONE_AT_A_TIME.lock().await);
    let mut cluster = cluster_with_short_timers().env("GROUP_REMOVEAFTER", "120s");
    cluster.add_group(Role::Peer, MEMBERS).await;
    let (mut injector, workload) = start_under_load(cluster, seed, CLIENTS).await;
    wait_for_answers(&workload, 200).await;
    for victim in 0..MEMBERS {
        injector.cluster.kill_9(victim);
        wait_for_answers(&workload, 200).await;
        injector.cluster.start([victim]).await;
        workload.addresses.update(&injector.cluster);
        injector.cluster.agree(0..MEMBERS, SETTLE).await;
    }
    let timings = workload.histories.timings();
    let safe = || timings.iter().filter(|timing| timing.is_safe);
    let longest = |failed| safe().filter(|t| t.failed == failed).map(|t| t.took).max();
    let (failed, done) = (longest(true).unwrap_or_default(), longest(false).unwrap_or_default());
    say(&format!(
        "each of five killed in turn: {} safe operations, {} failed; the longest that failed took {failed:?}, the longest that succeeded {done:?}",
        safe().count(),
        safe().filter(|timing| timing.failed).count(),
    ));
    heal_and_check(injector, &workload, seed).await;
    assert!(failed <= FAILED_MAX, "NOMAD_SEED={seed}: a safe operation failed after {failed:?}");
}

/// Goal: when any two nodes are lost at once, fast operations go on at the other nodes. When the two are back, everything works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_two_nodes_killed_during_load_stop_no_fast_operation() {
    let (seed, _guard) = (seed(), ONE_AT_A_TIME.lock().await);
    let mut cluster = cluster_with_short_timers().env("GROUP_REMOVEAFTER", "120s");
    cluster.add_group(Role::Peer, MEMBERS).await;
    let (mut injector, workload) = start_under_load(cluster, seed, [6, 6, 0]).await;
    wait_for_answers(&workload, 200).await;
    let pairs = [[0, 1], [2, 4], [1, 3]];
    for victims in &pairs[..if soak() { 3 } else { 2 }] {
        // From here on no client sends them a new request. Requests that they already have may fail.
        victims.iter().for_each(|victim| workload.addresses.forget(*victim));
        victims.iter().for_each(|victim| injector.cluster.kill_9(*victim));
        let from = Duration::from_nanos(workload.histories.now()) + Duration::from_millis(300);
        tokio::time::sleep(Duration::from_secs(4)).await;
        let to = Duration::from_nanos(workload.histories.now());
        let timings = workload.histories.timings();
        let within = |timing: &&histories::Timing| timing.at > from && timing.at < to;
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
        injector.cluster.start(victims.iter().copied()).await;
        workload.addresses.update(&injector.cluster);
        injector.cluster.agree(0..MEMBERS, SETTLE).await;
        let back = Duration::from_nanos(workload.histories.now());
        wait_for_answers(&workload, 200).await;
        let timings = workload.histories.timings();
        let failed = timings.iter().filter(|timing| timing.at > back && timing.failed);
        let failed: Vec<_> = failed.collect();
        assert!(failed.is_empty(), "NOMAD_SEED={seed}: not everything is back: {failed:#?}");
    }
    heal_and_check(injector, &workload, seed).await;
}

/// A single node is its own quorum. The same rules hold for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn safe_operations_of_a_node_alone_are_linearizable_under_fire() {
    let (seed, _guard) = (seed(), ONE_AT_A_TIME.lock().await);
    let mut cluster = cluster_with_short_timers();
    cluster.add(Role::SuperPeer).await;
    let (mut injector, workload) = start_under_load(cluster, seed, CLIENTS).await;
    injector
        .inject_faults(&[Fault::Kill, Fault::Pause, Fault::Stop, Fault::KillAll], run_time(10))
        .await;
    heal_and_check(injector, &workload, seed).await;
}
