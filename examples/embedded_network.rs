//! Three nodes in one process, each a member of one group: `cargo run --example embedded_network`.

use anyhow::Context as _;
use nomad::{Config, Node, ReadOptions, StartOptions, WriteOptions};

/// Starts three nodes, writes at the first, reads at the last.
#[tokio::main]
pub async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut nodes = Vec::<Node>::new();
    for name in ["first", "second", "third"] {
        let mut config = Config::default();
        config.network.name = format!("example-{}", std::process::id());
        config.node.data_dir = Some(dir.path().join(name));
        config.bootstrap.mdns = false;
        config.bootstrap.peers.extend(nodes.first().map(|node| node.addresses().overlay.clone()));
        // The first one leads the group, the others join it.
        let permanent = nodes.is_empty();
        let node = Node::start(StartOptions { permanent, ..StartOptions::new(config) }).await?;
        node.ready().await;
        nodes.push(node);
    }
    let (first, last) = (nodes.first().context("started")?, nodes.last().context("started")?);

    // Acknowledged once a majority of the three has it on disk.
    let written = first.put("item:1", "a sword", WriteOptions::safe()).await?;
    println!("{} wrote {:?}", first.addresses().node_id, written.version);
    let object = last.get("item:1", ReadOptions::safe()).await?.context("just written")?;
    println!("{} reads {:?}", last.addresses().node_id, object.value);
    anyhow::ensure!(object.value == "a sword" && last.status().members.len() == nodes.len());

    for node in nodes {
        node.stop().await;
    }
    Ok(())
}
