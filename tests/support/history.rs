//! Watches a cluster from its start to its end, and checks that each group had one history.
//!
//! A task polls each node's status. It records the members of each group and epoch, the epochs of each node in order, and
//! which nodes reported that they lead. `assert_one` fails when an epoch of a group ever had two member lists, or when a
//! node's epoch in its group went back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join_all;
use tokio::task::JoinHandle;

use super::{
    cluster::{View, short, status},
    http::Http,
};

const EVERY: Duration = Duration::from_millis(150);

#[derive(Default)]
struct Observations {
    /// Each node's client, and how often it was started: an answer to a request from before the last start does not count.
    watched: BTreeMap<String, (u64, Http)>,
    starts: u64,
    members: BTreeMap<(String, u64), BTreeSet<String>>,
    /// The last epoch that each node showed for a group since its last start.
    epochs: BTreeMap<(String, String), u64>,
    leaders: BTreeMap<String, BTreeSet<String>>,
    faults: Vec<String>,
    polls: u64,
}

/// Watches a cluster until it is dropped.
pub struct History {
    observations: Arc<Mutex<Observations>>,
    task: JoinHandle<()>,
}

impl History {
    /// Watches no node yet.
    pub fn start() -> Self {
        let observations = Arc::new(Mutex::new(Observations::default()));
        let task = tokio::spawn(watch(Arc::clone(&observations)));
        Self { observations, task }
    }

    /// Watches this node from now on.
    pub fn watch(&self, id: &str, http: Http) {
        let mut observations = self.observations.lock().unwrap();
        observations.starts += 1;
        let start = observations.starts;
        observations.watched.insert(id.to_owned(), (start, http));
        observations.epochs.retain(|(node, _), _| node != id);
    }

    /// Records a status, as if a poll had returned it.
    pub fn record(&self, view: &View) {
        self.observations.lock().unwrap().record_one(view);
    }

    /// Stops watching this node, because the test stops it.
    pub fn forget(&self, id: &str) {
        self.observations.lock().unwrap().watched.remove(id);
    }

    /// Asserts that no two records contradict each other, and returns a summary.
    #[track_caller]
    pub fn assert_one(&self) -> String {
        let observations = self.observations.lock().unwrap();
        assert!(
            observations.faults.is_empty(),
            "not one history:\n{}",
            observations.faults.join("\n")
        );
        let groups: BTreeSet<_> = observations.members.keys().map(|(group, _)| group).collect();
        format!(
            "{} views, {} groups, {} epochs, leaders {:?}",
            observations.polls,
            groups.len(),
            observations.members.len(),
            observations.leaders
        )
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(observations: Arc<Mutex<Observations>>) {
    loop {
        let watched = observations.lock().unwrap().watched.clone();
        let views = join_all(watched.values().map(|(_, http)| status(http))).await;
        let starts = watched.into_values().map(|(start, _)| start);
        observations.lock().unwrap().record(starts.zip(views));
        tokio::time::sleep(EVERY).await;
    }
}

impl Observations {
    fn record(&mut self, views: impl Iterator<Item = (u64, Option<View>)>) {
        for (start, view) in views {
            let Some(view) = view else { continue };
            let current = self.watched.get(&view.id).is_some_and(|(now, _)| *now == start);
            if current && !view.group.is_empty() && view.epoch > 0 {
                self.polls += 1;
                self.record_one(&view);
            }
        }
    }

    fn record_one(&mut self, view: &View) {
        let (group, epoch) = (view.group.clone(), view.epoch);
        let seen = self.members.entry((group.clone(), epoch)).or_insert_with(|| view.ids());
        if *seen != view.ids() {
            self.faults.push(format!("epoch {epoch} had other members {seen:?}: {}", view.line()));
        }
        let last = self.epochs.entry((view.id.clone(), group.clone())).or_default();
        if *last > epoch {
            self.faults.push(format!("epoch {last} was seen before {epoch}: {}", view.line()));
        }
        *last = epoch;
        if view.leads() {
            self.leaders.entry(group).or_default().insert(short(&view.id).to_owned());
        }
    }
}
