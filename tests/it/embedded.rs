//! Nodes inside another program: the example as it stands, and that the front door does what the edges do.

use std::{thread, time::Duration};

use crate::support::{ANSWER_LIMIT, http::Http, within};
use nomad::{
    Condition, Config, ErrorKind, Node, Reach, ReadOptions, StartOptions, StorageMode, WriteOptions,
};

#[path = "../../examples/embedded_network.rs"]
mod embedded_network;

#[test]
fn the_example_of_an_embedded_network_runs() {
    let (done, ended) = std::sync::mpsc::channel();
    thread::spawn(move || done.send(embedded_network::main()));
    ended.recv_timeout(ANSWER_LIMIT).expect("it ends in time").unwrap();
}

async fn start(dir: &tempfile::TempDir) -> Node {
    let mut config = Config::default();
    config.network.name = format!("embedded-{}", std::process::id());
    config.node.data_dir = Some(dir.path().into());
    config.bootstrap.mdns = false;
    config.bootstrap.discovery_window = Duration::from_millis(50);
    let node = Node::start(StartOptions::new(config)).await.unwrap();
    within("the node founds a group", ANSWER_LIMIT, node.ready()).await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_embeds_a_node_can_do_what_clients_can() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(&dir).await;
    let (safe, fast) = (WriteOptions::safe(), WriteOptions::fast());

    let put = node.put("item:1", "a sword", safe.clone()).await.unwrap();
    assert!(put.created && put.assurance.reach == Reach::Quorum);
    let taken = node.put("item:1", "a shield", fast.clone()).await.unwrap_err();
    assert_eq!((taken.kind(), taken.retry_after()), (ErrorKind::Exists, None));
    assert!(taken.is_outcome_known());
    let version = put.version.unwrap();
    let at = |options: &WriteOptions| options.clone().when(Condition::Version(version));
    let update = node.update("item:1", "a better sword", at(&fast)).await.unwrap();
    assert!(!update.created && update.assurance.reach == Reach::Local);
    let late = node.update("item:1", "the worst", at(&safe)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Unmet);
    for options in [ReadOptions::fast(), ReadOptions::safe(), ReadOptions::parallel()] {
        let object = node.get("item:1", options).await.unwrap().unwrap();
        assert_eq!(
            (&object.value[..], Some(object.version)),
            (&b"a better sword"[..], update.version)
        );
    }
    let any = WriteOptions { mode: Some(StorageMode::Fast), ..WriteOptions::default() };
    node.put("item:2", "x", any.when(Condition::Any)).await.unwrap();
    let page = node.list("item:", None, 10).await.unwrap();
    assert_eq!(page.items.len(), 2);
    assert_eq!(node.delete("item:1", WriteOptions::default()).await.unwrap().version, None);
    let gone = node.delete("item:1", WriteOptions::default()).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Missing);
    assert_eq!(node.get("item:1", ReadOptions::default()).await.unwrap(), None);
    let bad = node.get("", ReadOptions::default()).await.unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::Invalid);
    let large = vec![b'x'; (4 << 20) + 1];
    let large = node.put("item:3", large, WriteOptions::default()).await.unwrap_err();
    assert_eq!(large.kind(), ErrorKind::TooLarge);
    assert!(node.status().ready);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_asks_is_recorded_under_a_name_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(&dir).await;
    node.put("item:1", "a sword", WriteOptions::fast()).await.unwrap();
    let http = Http::new(&node.addresses().rest.to_string());
    let steps = http.get("/nomad/debug/trace?object=item:1").await.ok();
    let steps = steps["steps"].as_array().unwrap();
    let step = |from: &str, to: &str| {
        let is_it = |step: &&serde_json::Value| {
            step["from"] == from && step["to"].as_str().unwrap().starts_with(to)
        };
        steps.iter().find(is_it).unwrap_or_else(|| panic!("{from} to {to} is not in {steps:#?}"))
    };
    assert_eq!(step("client", "embedded")["kind"], "put");
    assert_eq!(step("embedded", "replica_writer-")["kind"], "Write");
    node.stop().await;
}
