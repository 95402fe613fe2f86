//! Unknown senders on the listeners that nodes have for each other: whatever they send, the group does not change, they do not
//! become members, and memory does not grow.

use std::time::Duration;

use crate::support::{
    cluster::{Cluster, Role, SETTLE},
    node::Node,
    raw::{RawGrpc, Wire, frame},
    say, seed,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

const LINK: &str = "/nomad.link.v1.Link/Open";

/// The most memory that unknown senders may make a node keep: buffers of its allocator.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

fn resident_bytes(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// host:port of the overlay listener.
fn overlay_of(node: &Node) -> String {
    let overlay = node.overlay();
    let parts: Vec<_> = overlay.split('/').collect();
    let after = |name: &str| parts[parts.iter().position(|part| *part == name).unwrap() + 1];
    format!("{}:{}", after("ip4"), after("tcp"))
}

fn random(rng: &mut SmallRng, length: usize) -> Vec<u8> {
    (0..length).map(|_| rng.random()).collect()
}

/// Disturbs a group of a super-peer and a peer. Then a third node must be able to join as usual.
async fn assert_group_not_disturbed_by(disturb: impl AsyncFn(&Node, &mut SmallRng)) {
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut cluster = Cluster::new();
    cluster.add(Role::SuperPeer).await;
    cluster.add(Role::Peer).await;
    // The first configuration, the change that takes the other in, and the one that it ends with.
    let before = cluster
        .eventually("the end of the change", SETTLE, async || {
            Some(cluster.agree(0..2, SETTLE).await).filter(|view| view.epoch >= 3)
        })
        .await;
    let held = [0, 1].map(|number| resident_bytes(cluster.node(number)));
    for number in [0, 1] {
        disturb(cluster.node(number), &mut rng).await;
    }
    let after = cluster.agree(0..2, SETTLE).await;
    assert_eq!((&after.id, &after.group, after.epoch), (&before.id, &before.group, before.epoch));
    for (number, before) in held.into_iter().enumerate() {
        let (node, now) = (cluster.node(number), resident_bytes(cluster.node(number)));
        say(&format!("node {number} held {} KiB, then {} KiB", before >> 10, now >> 10));
        assert!(now < before + GROWTH_BYTES_MAX, "{before} bytes, then {now}");
        assert!(!node.output().text().contains("panicked at"), "{}", node.output().text());
    }
    cluster.add(Role::Peer).await;
    let joined = cluster.agree(0..3, SETTLE).await;
    assert_eq!(joined.group, before.group);
    cluster.assert_one_history();
}

#[tokio::test]
async fn garbage_on_the_peer_listener_is_refused() {
    assert_group_not_disturbed_by(async |node, rng| {
        let mut grpc = RawGrpc::open(&node.peer).await;
        for round in 0..200 {
            let length = [0, 1, 7, 64, 1_000, 20_000][round % 6];
            let bytes = random(rng, length);
            let honest = u32::try_from(length).unwrap();
            let body = match round % 4 {
                0 | 1 => frame(0, honest, &bytes),
                2 => frame(1, honest, &bytes),
                _ => frame(0, u32::MAX, &bytes),
            };
            let end = grpc.call(LINK, &[], body).await;
            // A refusal is a message on the stream, or a status; that there is no such call is neither.
            assert_ne!(end.code, 12, "there are no links at {LINK}: {end:?}");
            // Nothing that a stranger sends is the node's own fault.
            assert!(![2, 13].contains(&end.code), "UNKNOWN or INTERNAL: {end:?}");
        }
        grpc.cut().await;
    })
    .await;
}

#[tokio::test]
async fn silence_on_the_peer_listener_costs_nothing() {
    assert_group_not_disturbed_by(async |node, _| {
        let mut held = Vec::new();
        for _ in 0..100 {
            let mut grpc = RawGrpc::open(&node.peer).await;
            let mut half = grpc.start(LINK, &[]).await;
            half.body.send_data(frame(0, 1_000, b"half")[..7].to_vec().into(), false).unwrap();
            held.push((grpc, half));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        node.assert_serves().await;
    })
    .await;
}

#[tokio::test]
async fn garbage_and_silence_on_the_overlay_listener_cost_nothing() {
    assert_group_not_disturbed_by(async |node, rng| {
        let address = overlay_of(node);
        let mut silent = Vec::new();
        for round in 0..200 {
            let mut wire = Wire::open(&address).await;
            match round % 4 {
                0 => silent.push(wire),
                1 => {
                    // A decent beginning, then noise.
                    wire.try_write(b"\x13/multistream/1.0.0\n").await;
                    let noise = random(rng, 500);
                    wire.try_write(noise).await;
                    silent.push(wire);
                }
                _ => {
                    let noise = random(rng, 2_000);
                    wire.try_write(noise).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        node.assert_serves().await;
    })
    .await;
}
