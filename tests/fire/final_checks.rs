//! What has to hold after the last fault: the safe operations on each object are linearizable, the newest fast write has won, all members
//! hold the same, and nothing that was deleted has come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;

use crate::{
    clients::Workload,
    entry::{Entry, Operation, Response, State},
    histories::member_name,
    support::{
        cluster::{Cluster, SETTLE},
        eventually,
        load::{holders, listed, sequence_of},
        objects::{Client, Edge, Held, Mode},
        say, unix_now,
    },
};

/// How long replicas may take until they hold the same.
const CONVERGED: Duration = Duration::from_secs(60);

/// In so many seconds, repairs and clean-ups have gone over all objects.
const REPAIRS_SECS: i64 = 8;

/// Makes all final checks. The group is healthy, and no client writes any more.
pub async fn check_final_state(cluster: &Cluster, workload: &Workload, seed: u64, factor: usize) {
    read_all_safely(cluster, workload).await;
    let first = wait_until_converged(cluster, workload, seed).await;
    let over = unix_now() + REPAIRS_SECS;
    eventually("some repairs", SETTLE, async || (unix_now() > over).then_some(())).await;
    read_all_safely(cluster, workload).await;
    let second = wait_until_converged(cluster, workload, seed).await;
    for (id, held) in &first {
        assert_eq!(second.get(id), Some(held), "NOMAD_SEED={seed}: {id} changed by itself");
    }
    say(&workload.histories.assert_linearizable(seed));
    say(&format!("{} objects in all, the same at every member and after repairs", first.len()));
    assert_holders(cluster, &first, seed, factor).await;
    for number in cluster.running() {
        let text = cluster.node(number).output().text();
        assert!(!text.contains("panicked at"), "NOMAD_SEED={seed}: node {number}:\n{text}");
    }
    say(&cluster.assert_one_history());
}

/// Reads every safe object in mode safe at every member. These reads become part of its history.
async fn read_all_safely(cluster: &Cluster, workload: &Workload) {
    let ids = workload.histories.ids();
    let readers = cluster.members().into_iter().map(async |(number, member)| {
        let (mut client, member_name) = (Client::of(&member), member_name(number, &member));
        for id in &ids {
            let limit = CONVERGED;
            let what = format!("a safe read of {id} at {member_name}");
            eventually(&what, limit, async || {
                let called_at = workload.histories.now();
                let held = client.read(Edge::Grpc, Mode::Safe, id).await.ok()?;
                let returned_at = workload.histories.now();
                let state = workload.histories.check_read(id, held.as_ref(), &member_name);
                let entry = Entry::answered(
                    Operation::Read,
                    Response::Found(state),
                    called_at,
                    returned_at,
                );
                workload
                    .histories
                    .record(id, Entry { who: format!("at last {member_name}"), ..entry });
                Some(())
            })
            .await;
        }
    });
    join_all(readers).await;
}

/// Waits until all members give the same for every object in every mode. Returns the objects.
async fn wait_until_converged(
    cluster: &Cluster,
    workload: &Workload,
    seed: u64,
) -> BTreeMap<String, Option<Held>> {
    let fast = workload.allowed.fast.lock().unwrap().clone();
    let mixed = workload.allowed.mixed.lock().unwrap().clone();
    let mut found = BTreeMap::new();
    let mut clients: Vec<_> = cluster.members().values().map(Client::of).collect();
    let ids: BTreeSet<String> = workload
        .histories
        .ids()
        .into_iter()
        .chain(fast.keys().cloned())
        .chain(mixed.keys().cloned())
        .collect();
    for id in ids {
        let held = wait_until_members_agree(cluster, &mut clients, &id, seed).await;
        let state: State = held.as_ref().map(|held| sequence_of(&id, &held.value));
        if let Some(fast) = fast.get(&id) {
            assert!(
                fast.may_hold(state),
                "NOMAD_SEED={seed}: {id} holds {state:?}: {}\n{fast:?}",
                "not the newest write that was acknowledged"
            );
        }
        if let Some(mixed) = mixed.get(&id) {
            let sure = mixed.acknowledged.iter().filter(|(_, (_, at))| !mixed.lost_at.contains(at));
            let newest = sure.map(|(version, _)| version).max();
            let held = held.as_ref();
            let version = held.map(|held| &held.version);
            assert!(
                newest.is_none_or(|newest| version.is_some_and(|version| version >= newest)),
                "NOMAD_SEED={seed}: {id} is at {version:?}, acknowledged was {newest:?}"
            );
            let written = |held: &Held| match mixed.acknowledged.get(&held.version) {
                Some((value, _)) => state == Some(*value),
                None => state.is_some_and(|value| mixed.unknown.contains(&value)),
            };
            assert!(held.is_none_or(written), "NOMAD_SEED={seed}: {id} holds {held:?}: {mixed:?}");
        }
        found.insert(id, held);
    }
    found
}

/// Waits until all members give the same for an object in all modes. Returns it.
async fn wait_until_members_agree(
    cluster: &Cluster,
    clients: &mut [Client],
    id: &str,
    seed: u64,
) -> Option<Held> {
    let mut last = Vec::new();
    let polled = async {
        loop {
            let reads = clients.iter_mut().map(async |client| {
                let mut said = Vec::new();
                for mode in Mode::ALL {
                    said.push(client.read(Edge::Grpc, mode, id).await);
                }
                said
            });
            last = join_all(reads).await.into_iter().flatten().collect::<Vec<_>>();
            if let Some(Ok(held)) = last.first()
                && last.iter().all(|other| other.as_ref() == Ok(held))
            {
                return held.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(CONVERGED, polled).await {
        Ok(held) => held,
        Err(_) => panic!(
            "NOMAD_SEED={seed}: {id} does not converge: {last:?}\n{}",
            cluster.describe().await
        ),
    }
}

/// Asserts that the ledger shows the right number of holders for every object, and that every member lists exactly the objects
/// that exist.
async fn assert_holders(
    cluster: &Cluster,
    found: &BTreeMap<String, Option<Held>>,
    seed: u64,
    factor: usize,
) {
    let there: BTreeSet<String> =
        found.iter().filter(|(_, held)| held.is_some()).map(|(id, _)| id.clone()).collect();
    let members = cluster.ids(cluster.running());
    let wanted = factor.min(members.len());
    for number in cluster.running() {
        let http = cluster.node(number).http();
        let what = format!("NOMAD_SEED={seed}: {wanted} holders of everything, says node {number}");
        cluster
            .eventually(&what, CONVERGED, async || {
                let held = holders(&http, found.keys()).await;
                let right = held.iter().all(|(id, by)| match there.contains(id) {
                    true => by.len() == wanted && by.is_subset(&members),
                    false => by.is_empty(),
                });
                right.then_some(())
            })
            .await;
        let mut listing = BTreeSet::new();
        for prefix in ["safe/", "fast/", "mixed/"] {
            listing.extend(listed(&http, prefix, 500).await);
        }
        assert_eq!(listing, there, "NOMAD_SEED={seed}: the listing of node {number}");
    }
}
