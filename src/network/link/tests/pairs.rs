//! Two nodes over real sockets.

use super::*;
use nomad_core::model::trace::{SpanId, TraceId};

/// Two nodes with a link that the first has opened.
async fn linked() -> (Peer, Peer, AbortHandle) {
    let (mut a, mut b) = (Peer::start().await, Peer::start().await);
    a.keep(&b.address, &b);
    let held = a.hold(b.node);
    a.up(b.node).await;
    b.up(a.node).await;
    (a, b, held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_ask_and_tell_over_one_stream() {
    let (a, b, _held) = linked().await;
    assert_eq!(a.ask(b.node, b"over").await.unwrap(), "over");
    assert_eq!(b.ask(a.node, b"back").await.unwrap(), "back");
    let trace = TraceContext {
        trace: TraceId(u128::MAX - 5),
        span: SpanId(77),
        sampled: true,
        named: false,
    };
    a.links.tell(b.node, Service::Replica, trace, Bytes::from_static(b"x")).unwrap();
    let asked = b.links.ask(a.node, Service::Replica, trace, Bytes::new(), PATIENCE);
    asked.await.unwrap();
    assert_eq!(a.echo.traces.lock().unwrap().last(), Some(&trace));
    until("the notice", || b.echo.heard.load(SeqCst) == 1).await;
    assert_eq!((a.link_count(), b.link_count()), (1, 1));
    let (at_a, at_b) = (a.reading(b.node), b.reading(a.node));
    assert_eq!((at_a.sent.messages, at_b.received.messages), (4, 4));
    assert_eq!((at_a.asked, at_a.waiting, at_b.in_hand, at_a.reconnects), (0, 0, 0, 0));
    assert!(at_a.is_ours && !at_b.is_ours && at_a.is_kept && !at_b.is_kept);
    assert!(at_a.round_trip_us.is_some() && at_a.up_since.is_some(), "{at_a:?}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_refused_says_why() {
    let (a, b, _held) = linked().await;
    let refused = |error| match error {
        LinkError::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(a.ask(b.node, b"refuse").await.unwrap_err()), "it said no");
    for body in [&b"break"[..], b"break later"] {
        let reason = refused(a.ask(b.node, body).await.unwrap_err());
        assert!(reason.contains("broke"), "{reason}");
    }
    let to_nobody =
        a.links.ask(b.node, Service::Membership, TraceContext::default(), Bytes::new(), PATIENCE);
    let reason = refused(to_nobody.await.unwrap_err());
    assert!(reason.contains("Membership"), "{reason}");
    assert_eq!(a.ask(b.node, b"later").await.unwrap(), "later", "the link is as it was");
    let unknown = NodeId::from_key([9; 32]);
    assert!(matches!(a.ask(unknown, b"x").await, Err(LinkError::Unreachable { .. })));
    let tell = a.links.tell(unknown, Service::Log, TraceContext::default(), Bytes::new());
    assert!(matches!(tell, Err(LinkError::Unreachable { .. })));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_pass_and_too_large_ones_are_refused_before_they_are_sent() {
    let (a, b, _held) = linked().await;
    let max = a.links.inner.options.body_bytes_max;
    let body = Bytes::from(vec![7; max]);
    assert_eq!(a.ask_with(b.node, body.clone()).await.unwrap(), body);
    let refused = a.ask_with(b.node, Bytes::from(vec![7; max + 1])).await.unwrap_err();
    assert!(refused.to_string().contains(&max.to_string()), "{refused}");
    assert_eq!(a.link_count(), 1);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_at_once_are_all_answered() {
    let (a, b, _held) = linked().await;
    let asks = (0..10_000u32).map(|n| {
        let asked = a.ask_with(b.node, Bytes::from(n.to_be_bytes().to_vec()));
        async move { asked.await.is_ok_and(|body| *body == n.to_be_bytes()) }
    });
    let answered = soon("all answers", futures::future::join_all(asks)).await;
    assert!(answered.into_iter().all(|is_right| is_right));
    let sent = a.reading(b.node).sent;
    assert!(sent.batches < sent.messages / 4, "{sent:?}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_learns_at_once_that_the_link_broke() {
    let (mut a, mut b) = (Peer::start().await, Peer::start().await);
    let cable = Cable::to(&b.address).await;
    a.keep(&cable.address, &b);
    let _held = a.hold(b.node);
    a.up(b.node).await;
    b.up(a.node).await;
    let asks: Vec<_> = (0..100).map(|_| a.ask(b.node, b"wait")).collect();
    let asks = tokio::spawn(futures::future::join_all(asks));
    until("all are in hand", || b.echo.asked.load(SeqCst) == 100).await;
    cable.cut();
    let to = b.node.to_string();
    for answer in soon("the end of the requests", asks).await.unwrap() {
        assert_eq!(answer, Err(LinkError::Broken { to: to.clone() }));
    }
    a.down(b.node).await;
    b.down(a.node).await;
    cable.mend();
    a.up(b.node).await;
    b.up(a.node).await;
    assert_eq!(a.ask(b.node, b"again").await.unwrap(), "again");
    assert_eq!(a.reading(b.node).reconnects, 1);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_at_another_address_is_found_there() {
    let mut a = Peer::start().await;
    let key = Keypair::generate_ed25519();
    let b = Peer::start_with(key.clone(), options()).await;
    a.keep(&b.address, &b);
    let _held = a.hold(b.node);
    a.up(b.node).await;
    let (first, node) = (b.address.clone(), b.node);
    b.stop().await;
    a.down(node).await;
    let b = Peer::start_with(key, options()).await;
    assert!(b.node == node && b.address != first);
    a.keep(&b.address, &b);
    a.up(node).await;
    assert_eq!(a.ask(node, b"there").await.unwrap(), "there");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_answers_at_an_address_is_asked_over_the_link_that_stands() {
    let (a, b, _held) = linked().await;
    let c = Peer::start().await;
    let ask = |peer: &Peer, address: &str| {
        let (trace, body) = (TraceContext::default(), Bytes::from_static(b"who"));
        peer.links.ask_address(address.to_owned(), Service::Log, trace, body, PATIENCE)
    };
    assert_eq!(ask(&a, &b.address).await.unwrap().0, b.node);
    let other_name = b.address.replace("127.0.0.1", "localhost");
    assert_eq!(ask(&a, &other_name).await.unwrap().0, b.node, "under another name");
    assert_eq!(ask(&b, &a.address).await.unwrap().0, a.node, "the other way");
    until("the useless streams are gone", || (a.link_count(), b.link_count()) == (1, 1)).await;
    let asks = (0..20).map(|_| ask(&c, &b.address));
    for answer in futures::future::join_all(asks).await {
        assert_eq!(answer.unwrap(), (b.node, Bytes::from_static(b"who")));
    }
    assert_eq!((c.link_count(), b.link_count()), (1, 2), "one link for all");
    assert_eq!(b.ask(c.node, b"back").await.unwrap(), "back", "over the guest's link");
    let itself = ask(&c, &c.address).await.unwrap_err();
    assert!(matches!(itself, LinkError::Stranger { .. }), "{itself}");
    let nobody = ask(&c, "127.0.0.1:1").await.unwrap_err();
    assert!(matches!(nobody, LinkError::Unreachable { .. }), "{nobody}");
    for peer in [a, b, c] {
        peer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_do_not_belong_together_say_both_values_and_speak_no_further() {
    let (mut a, b) = (Peer::start().await, Peer::start().await);
    let other = LinkOptions::new("elsewhere", 4 << 20);
    let mut c = Peer::start_with(Keypair::generate_ed25519(), other).await;
    let stranger = |end: LinkEnd| match end.error {
        LinkError::Stranger { reason, .. } => reason,
        error => panic!("{error:?}"),
    };
    a.keep(&c.address, &c);
    let reason = stranger(a.links.hold(c.node).await);
    assert!(reason.contains("elsewhere") && reason.contains("\"test\""), "{reason}");
    assert!(a.down(c.node).await.contains("elsewhere"));
    // At the address where one is expected, another answers.
    a.links.keep(BTreeMap::from([(c.node, b.address.clone())]));
    let reason = stranger(a.links.hold(c.node).await);
    assert!(
        reason.contains(&b.node.to_string()) && reason.contains(&c.node.to_string()),
        "{reason}"
    );
    assert!(c.events.try_recv().is_err() && a.events.try_recv().is_err());
    for peer in [a, b, c] {
        assert_eq!(peer.echo.asked.load(SeqCst), 0);
        peer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_hold_closes_a_kept_link_and_spares_one_that_is_not_kept() {
    let (mut a, mut b, held) = linked().await;
    held.abort();
    assert!(a.down(b.node).await.contains("held"));
    b.down(a.node).await;
    let held = a.hold(b.node);
    a.up(b.node).await;
    a.links.keep(BTreeMap::new());
    held.abort();
    assert_eq!(a.ask(b.node, b"still").await.unwrap(), "still");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_ends_its_links_and_takes_no_more() {
    let (mut a, b, held) = linked().await;
    held.abort();
    a.links.close().await;
    b.links.close().await;
    a.down(b.node).await;
    let end = a.links.hold(b.node).await;
    assert!(end.error.to_string().contains("stopping"), "{end:?}");
    // The last task may still be on its way out.
    a.until_linkless().await;
    b.until_linkless().await;
    b.server.abort();
}
