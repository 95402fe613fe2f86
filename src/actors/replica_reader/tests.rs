//! What this node reads at once, and what it tells other members, over links in memory and under paused time.

use super::*;
use crate::{
    AskError, codec,
    test_group::{Group, node},
    test_kit::{Tree, object},
};
use nomad_core::{
    listing::{ListingAnswer, ListingRequest},
    model::object::Object,
};
use nomad_ports::PeerHandler as _;

async fn get(tree: &Tree, id: &str) -> Result<Option<Object>, AskError> {
    let make = |reply| ReplicaReaderMsg::Get {
        tier: Tier::Group,
        id: object(id),
        mode: RetrievalMode::Fast,
        reply,
    };
    Ok(match tree.reader.ask(&tree.from, tree.context(1_000), make).await?.unwrap() {
        Fetched::Live(object) => Some(object),
        Fetched::Gone(_) | Fetched::Nothing => None,
    })
}

#[tokio::test(start_paused = true)]
async fn an_object_is_read_until_it_expires_and_not_after() {
    let tree = Tree::start().await;
    tree.put("a", Some(10)).await.unwrap().unwrap().unwrap();
    assert!(get(&tree, "a").await.unwrap().is_some());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(get(&tree, "a").await.unwrap(), None);
    tree.root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn killed_under_load_it_answers_again_and_never_wrongly() {
    let tree = Tree::start().await;
    tree.put("a", None).await.unwrap().unwrap().unwrap();
    for round in 0..4 {
        assert!(tree.kit.census.kill("replica_reader"));
        for _ in 0..20 {
            match get(&tree, "a").await {
                Ok(found) => assert!(found.is_some()),
                Err(AskError::Gone { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
        tree.until_restarted("replica_reader", round + 1).await;
        assert!(get(&tree, "a").await.unwrap().is_some());
    }
    tree.root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_other_nodes_ask_is_checked() {
    let group = Group::start(2, 2).await;
    group.write("a", None);
    let first = group.member(1);
    let door = ListingDoor::new(first.kit.clone(), first.reader.clone(), Arc::clone(&first.view));
    let ask = async |from, question: &ListingRequest| {
        let body = codec::encode(1, question).unwrap();
        door.answer(from, nomad_core::model::trace::TraceContext::default(), body).await
    };
    let wanted = ListingQuery { prefix: String::new(), after: None, limit: usize::MAX };
    let page = |group: &str| ListingRequest::Page { group: group.into(), wanted: wanted.clone() };
    assert!(ask(node(2), &page("group-x")).await.is_ok());
    assert!(ask(node(9), &page("group-x")).await.unwrap_err().contains("members"));
    assert!(ask(node(2), &page("group-y")).await.unwrap_err().contains("group-y"));
    let look =
        |count| ListingRequest::Look { group: "group-x".into(), ids: vec![object("a"); count] };
    assert!(ask(node(2), &look(1_000)).await.is_ok());
    assert!(ask(node(2), &look(1_001)).await.unwrap_err().contains("1001"));
    let trace = nomad_core::model::trace::TraceContext::default();
    for body in [&[][..], &[1], &[2, 0], &[1, 255, 255], &vec![1; 3 << 20]] {
        let body = bytes::Bytes::copy_from_slice(body);
        assert!(door.answer(node(2), trace, body).await.is_err());
    }
    let answer = ask(node(2), &page("group-x")).await.unwrap();
    let Ok(ListingAnswer::Page(page)) = codec::decode(1, &answer) else { panic!("{answer:?}") };
    assert_eq!(page.items.len(), 1);
    group.stop().await;
}
