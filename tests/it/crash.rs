//! The node is killed while clients write, and started again on the same directory: what it acknowledged is there,
//! what it acknowledged as deleted is gone, and nothing is half there.

use std::collections::BTreeSet;

use crate::support::{
    load::{LoadClient, Tally, Writer, listed},
    node::Node,
    seed,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tempfile::TempDir;

const WRITERS: usize = 8;
const KEYS_EACH: usize = 12;

/// Goal: `kill -9` at any moment loses no acknowledged write, undoes no acknowledged delete and tears no value.
/// Method: eight writers over both edges; the kill comes after a random number of acknowledgements from a printed seed;
/// every key is read back after each restart. `NOMAD_KILLS` says how often (10).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_no_acknowledged_write() {
    let kills = std::env::var("NOMAD_KILLS").map_or(10, |count| count.parse::<u32>().unwrap());
    let seed = seed();
    let mut rng = SmallRng::seed_from_u64(seed);
    let dir = TempDir::new().unwrap();
    let builder = Node::builder().data_dir(dir.path());
    let mut node = builder.start();
    let mut writers = Vec::new();
    for index in 0..WRITERS {
        let client = LoadClient::number(index, &node).await;
        writers.push(Writer::new(client, index, KEYS_EACH, seed));
    }
    for kill in 1..=kills {
        // Now and then right after the start, else somewhere in the middle of the load.
        let acks = if rng.random_ratio(1, 8) { 0 } else { rng.random_range(1..400) };
        let tally = Tally::new();
        let tasks: Vec<_> = writers
            .into_iter()
            .map(|writer| tokio::spawn(writer.until_killed(tally.clone())))
            .collect();
        tally.more(acks).await;
        tally.stop();
        node.kill_9();
        writers = Vec::new();
        for task in tasks {
            writers.push(task.await.unwrap());
        }
        node = builder.start();
        let mut present = BTreeSet::new();
        for (index, writer) in writers.iter_mut().enumerate() {
            writer.set_client(LoadClient::number(index, &node).await);
            present.extend(writer.verify(&node).await);
        }
        let listed = listed(&node.http(), "w", 50).await;
        assert_eq!(listed, present, "NOMAD_SEED={seed}: the listing after kill {kill}");
        eprintln!("kill {kill}: after {acks} acknowledgements, {} objects there", present.len());
    }
}
