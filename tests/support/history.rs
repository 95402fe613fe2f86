//! What every node of a cluster said, from its start to its end: whether it is one history.
//!
//! A task polls each node's status and writes down the members by group and epoch, each node's epochs in order, and who
//! said that it leads. `assert_one` fails when the same epoch of a group ever had two member lists, or when a
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
struct Book {
    /// Each node's client, and how often it was started: what was asked before a start says nothing after it.
    watched: BTreeMap<String, (u64, Http)>,
    starts: u64,
    members: BTreeMap<(String, u64), BTreeSet<String>>,
    /// The last epoch that each node showed for a group since its last start.
    epochs: BTreeMap<(String, String), u64>,
    leaders: BTreeMap<String, BTreeSet<String>>,
    faults: Vec<String>,
    polls: u64,
}

/// The watch over a cluster. Ends when dropped.
pub struct History {
    book: Arc<Mutex<Book>>,
    task: JoinHandle<()>,
}

impl History {
    /// Watches nobody yet.
    pub fn start() -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let task = tokio::spawn(watch(Arc::clone(&book)));
        Self { book, task }
    }

    /// Watches this node from now on.
    pub fn watch(&self, id: &str, http: Http) {
        let mut book = self.book.lock().unwrap();
        book.starts += 1;
        let start = book.starts;
        book.watched.insert(id.to_owned(), (start, http));
        book.epochs.retain(|(node, _), _| node != id);
    }

    /// Notes what a node says, as if it had been asked.
    pub fn note(&self, view: &View) {
        self.book.lock().unwrap().note_one(view);
    }

    /// It is stopped on purpose.
    pub fn forget(&self, id: &str) {
        self.book.lock().unwrap().watched.remove(id);
    }

    /// Asserts that nothing contradicts anything, and gives a summary.
    #[track_caller]
    pub fn assert_one(&self) -> String {
        let book = self.book.lock().unwrap();
        assert!(book.faults.is_empty(), "not one history:\n{}", book.faults.join("\n"));
        let groups: BTreeSet<_> = book.members.keys().map(|(group, _)| group).collect();
        format!(
            "{} views, {} groups, {} epochs, leaders {:?}",
            book.polls,
            groups.len(),
            book.members.len(),
            book.leaders
        )
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(book: Arc<Mutex<Book>>) {
    loop {
        let watched = book.lock().unwrap().watched.clone();
        let views = join_all(watched.values().map(|(_, http)| status(http))).await;
        let starts = watched.into_values().map(|(start, _)| start);
        book.lock().unwrap().note(starts.zip(views));
        tokio::time::sleep(EVERY).await;
    }
}

impl Book {
    fn note(&mut self, views: impl Iterator<Item = (u64, Option<View>)>) {
        for (start, view) in views {
            let Some(view) = view else { continue };
            let current = self.watched.get(&view.id).is_some_and(|(now, _)| *now == start);
            if current && !view.group.is_empty() && view.epoch > 0 {
                self.polls += 1;
                self.note_one(&view);
            }
        }
    }

    fn note_one(&mut self, view: &View) {
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
