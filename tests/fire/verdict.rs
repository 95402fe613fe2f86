//! What has to hold when the fire is out: one history for the safe operations, the newest write for the fast ones, the same
//! thing at every member, and nothing that was gone has come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;

use crate::{
    book::whom,
    clients::Field,
    entry::{Entry, Operation, State, Told},
    support::{
        cluster::{Cluster, SETTLE},
        eventually,
        load::{holders, listed, sequence_of},
        objects::{Client, Edge, Held, Mode},
        say, unix_now,
    },
};

/// How long replicas may take to be the same.
const CONVERGED: Duration = Duration::from_secs(60);

/// Seconds in which repairs and clean-ups pass over everything.
const REPAIRS_SECS: i64 = 8;

/// Says everything that is to be said; the group is whole, and nobody writes any more.
pub async fn assert_right(cluster: &Cluster, field: &Field, seed: u64, factor: usize) {
    read_safely(cluster, field).await;
    let first = converged(cluster, field, seed).await;
    let over = unix_now() + REPAIRS_SECS;
    eventually("some repairs", SETTLE, async || (unix_now() > over).then_some(())).await;
    read_safely(cluster, field).await;
    let second = converged(cluster, field, seed).await;
    for (id, held) in &first {
        assert_eq!(second.get(id), Some(held), "NOMAD_SEED={seed}: {id} changed by itself");
    }
    say(&field.book.assert_linearizable(seed));
    say(&format!("{} objects in all, the same at every member and after repairs", first.len()));
    everybody_holds(cluster, &first, seed, factor).await;
    for number in cluster.running() {
        let text = cluster.node(number).output().text();
        assert!(!text.contains("panicked at"), "NOMAD_SEED={seed}: node {number}:\n{text}");
    }
    say(&cluster.assert_one_history());
}

/// Every safe object is read safely at every member, as a part of its history.
async fn read_safely(cluster: &Cluster, field: &Field) {
    let ids = field.book.ids();
    let readers = cluster.members().into_iter().map(async |(number, member)| {
        let (mut client, whom) = (Client::of(&member), whom(number, &member));
        for id in &ids {
            let limit = CONVERGED;
            let what = format!("a safe read of {id} at {whom}");
            eventually(&what, limit, async || {
                let call = field.book.now();
                let held = client.read(Edge::Grpc, Mode::Safe, id).await.ok()?;
                let back = field.book.now();
                let state = field.book.saw(id, held.as_ref(), &whom);
                let entry = Entry::answered(Operation::Read, Told::Found(state), call, back);
                field.book.note(id, Entry { who: format!("at last {whom}"), ..entry });
                Some(())
            })
            .await;
        }
    });
    join_all(readers).await;
}

/// What every member says of every object, once it is the same in every mode.
async fn converged(cluster: &Cluster, field: &Field, seed: u64) -> BTreeMap<String, Option<Held>> {
    let fast = field.loose.fast.lock().unwrap().clone();
    let mixed = field.loose.mixed.lock().unwrap().clone();
    let mut found = BTreeMap::new();
    let mut clients: Vec<_> = cluster.members().values().map(Client::of).collect();
    let ids: BTreeSet<String> = field
        .book
        .ids()
        .into_iter()
        .chain(fast.keys().cloned())
        .chain(mixed.keys().cloned())
        .collect();
    for id in ids {
        let held = agreed(cluster, &mut clients, &id, seed).await;
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

/// What all members say of an object in all modes, once they say the same.
async fn agreed(cluster: &Cluster, clients: &mut [Client], id: &str, seed: u64) -> Option<Held> {
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

/// The ledger shows so many holders of everything that is there, and every member lists it, and nothing else.
async fn everybody_holds(
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
