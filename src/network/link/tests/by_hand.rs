//! Handshakes that are not in order, and peers that keep to no limit.

use super::{
    played::{Played, alone, request},
    *,
};
use crate::link::handshake::{HandshakeSide, VERSION};
use nomad_proto::link::{Frame, Hello, Proof, frame::Kind};

#[tokio::test(start_paused = true)]
async fn a_proven_peer_is_answered_and_no_other() {
    let (links, echo, mut events) = alone(options());
    let mut peer = Played::new(&links);
    peer.link().await;
    assert!(peer.is_proven.load(SeqCst));
    assert_eq!(events.recv().await, Some(LinkEvent::Up(peer.own.node)));
    peer.frames(vec![request(1, b"a", 1000), request(2, b"later", 1000)]).await;
    let mut answers = peer.take(2).await;
    answers.sort_by_key(|frame| frame.id);
    assert!(answers.iter().all(|frame| frame.kind() == Kind::Answer));
    assert_eq!((&*answers[0].body, &*answers[1].body), (&b"a"[..], &b"later"[..]));
    // Frames before the proof are no handshake.
    let mut early = Played::new(&links);
    early.frames(vec![request(1, b"a", 1000)]).await;
    assert_eq!(early.refused().await.0, Reason::Unknown);
    let mut early = Played::new(&links);
    early.greet().await;
    early.frames(vec![request(1, b"a", 1000)]).await;
    assert_eq!(early.refused().await.0, Reason::Unknown);
    assert_eq!(echo.asked.load(SeqCst), 2);
    assert!(!early.is_proven.load(SeqCst));
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn hellos_that_do_not_fit_are_refused_with_both_values() {
    let (links, _, mut events) = alone(options());
    let here = links.inner.own.node.to_string();
    type Case<'a> = (fn(&mut Hello), &'a str);
    let cases: [Case<'_>; 5] = [
        (|hello| hello.network = "m".into(), "\"m\""),
        (|hello| hello.version = 7, "version 7"),
        (|hello| hello.expected = vec![3; 32], &here),
        (|hello| hello.node = vec![3; 5], "32 bytes"),
        (|hello| hello.nonce.clear(), "32 bytes"),
    ];
    for (change, told) in cases {
        let mut peer = Played::new(&links);
        let mut hello = peer.own.hello(&OsEntropy, None, 1);
        assert_eq!(hello.version, VERSION);
        change(&mut hello);
        peer.send(Frames { hello: Some(hello), ..Frames::default() }).await;
        let (reason, detail) = peer.refused().await;
        assert_eq!(reason, Reason::Stranger);
        assert!(detail.contains(told), "{detail}");
    }
    assert!(events.try_recv().is_err());
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_proof_of_another_handshake_or_another_key_is_worth_nothing() {
    let (links, echo, mut events) = alone(options());
    let key = Keypair::generate_ed25519();
    let mut first = Played::with_key(&links, key.clone());
    let (ours, theirs) = first.greet().await;
    let recorded = first.own.prove(HandshakeSide::Opens, &ours, &theirs).unwrap();
    first.prove(recorded.clone()).await;
    assert!(first.next().await.unwrap().welcome.is_some());
    // The same proof again, with the same hello: the answering nonce is another.
    let mut again = Played::with_key(&links, key.clone());
    again.send(Frames { hello: Some(ours.clone()), ..Frames::default() }).await;
    let answer = again.next().await.unwrap();
    assert_ne!(answer.hello.unwrap().nonce, theirs.nonce);
    again.prove(recorded).await;
    assert_eq!(again.refused().await.0, Reason::Stranger);
    // The answer's own proof, sent back.
    let mut mirror = Played::with_key(&links, key.clone());
    let hello = mirror.own.hello(&OsEntropy, None, 1);
    mirror.send(Frames { hello: Some(hello), ..Frames::default() }).await;
    let answer = mirror.next().await.unwrap();
    mirror.prove(answer.proof.unwrap()).await;
    assert_eq!(mirror.refused().await.0, Reason::Stranger);
    // Somebody else's key behind this node's name.
    let mut thief = Played::new(&links);
    let mut hello = thief.own.hello(&OsEntropy, None, 1);
    hello.node = first.own.node.key().to_vec();
    thief.send(Frames { hello: Some(hello.clone()), ..Frames::default() }).await;
    let theirs = thief.next().await.unwrap().hello.unwrap();
    let proof = thief.own.prove(HandshakeSide::Opens, &hello, &theirs).unwrap();
    thief.prove(proof).await;
    assert_eq!(thief.refused().await.0, Reason::Stranger);
    for signature in [vec![], vec![0; 64], vec![0; 100_000]] {
        let mut peer = Played::with_key(&links, key.clone());
        peer.greet().await;
        peer.prove(Proof { signature }).await;
        assert_eq!(peer.refused().await.0, Reason::Stranger);
    }
    first.frames(vec![request(1, b"a", 1000)]).await;
    first.take(1).await;
    assert_eq!(echo.asked.load(SeqCst), 1);
    assert_eq!(events.recv().await, Some(LinkEvent::Up(first.own.node)));
    assert!(events.try_recv().is_err());
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_cut_off_and_only_so_many_may_try_at_once() {
    let options = LinkOptions { strangers_max: 3, ..options() };
    let (links, _, _events) = alone(options);
    let mut silent: Vec<_> = (0..3).map(|_| Played::new(&links)).collect();
    let mut one_more = Played::new(&links);
    assert_eq!(one_more.refused().await.0, Reason::Full);
    silent[1].greet().await;
    for peer in &mut silent {
        let (reason, detail) = peer.refused().await;
        assert_eq!(reason, Reason::Unknown);
        assert!(detail.contains("5s"), "{detail}");
    }
    Played::new(&links).link().await;
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_never_answers_the_hello_is_given_up() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let (links, _, mut events) = alone(options());
    let node = NodeId::from_key([3; 32]);
    links.keep(BTreeMap::from([(node, address)]));
    let end = links.hold(node).await;
    assert!(
        matches!(end, LinkEnd { stood: None, error: LinkError::Unreachable { .. } }),
        "{end:?}"
    );
    assert!(matches!(events.recv().await, Some(LinkEvent::Down { .. })));
    let ask = links.ask(node, Service::Log, TraceContext::default(), Bytes::new(), PATIENCE);
    let error = ask.await.unwrap_err().to_string();
    assert!(error.contains("8s"), "the reason is told: {error}");
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_too_much_is_refused_and_costs_no_memory() {
    let options = LinkOptions { work_max: 10, work_bytes_max: 1000, ..options() };
    let (links, echo, _events) = alone(options);
    let mut peer = Played::new(&links);
    peer.link().await;
    peer.frames((1..=30).map(|id| request(id, b"wait", 60_000)).collect()).await;
    let refused = peer.take(20).await;
    assert!(refused.iter().all(|frame| frame.kind() == Kind::Busy && frame.id > 10));
    assert_eq!(echo.asked.load(SeqCst), 10);
    let reading = &links.readings()[0];
    assert_eq!((reading.in_hand, reading.turned_away), (10, 20));
    // By bytes: the first is always taken.
    let mut peer = Played::new(&links);
    peer.link().await;
    let large = |id| Frame { body: vec![0; 900].into(), ..request(id, b"", 60_000) };
    peer.frames(vec![request(1, b"wait", 60_000), large(2), large(3)]).await;
    let mut answers = peer.take(2).await;
    answers.sort_by_key(|frame| frame.id);
    let kinds: Vec<_> = answers.iter().map(Frame::kind).collect();
    assert_eq!(
        kinds,
        [Kind::Answer, Kind::Busy],
        "its answer gives its place back when it is sent"
    );
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_and_never_reads_is_cut_off() {
    let options = LinkOptions { work_max: 10, ..options() };
    let (links, _, mut events) = alone(options);
    let mut peer = Played::new(&links);
    peer.link().await;
    events.recv().await.unwrap();
    for round in 0..10u64 {
        let ids = round * 1000..(round + 1) * 1000;
        peer.frames(ids.map(|id| request(id, b"wait", 60_000)).collect()).await;
    }
    match soon("the end", events.recv()).await.unwrap() {
        LinkEvent::Down { reason, .. } => assert!(reason.contains("reads no answers"), "{reason}"),
        event => panic!("{event:?}"),
    }
    assert!(links.readings().is_empty());
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn work_that_nobody_waits_for_is_dropped() {
    let (links, _, _events) = alone(options());
    let mut peer = Played::new(&links);
    peer.link().await;
    peer.frames(vec![request(1, b"wait", 2_000), request(2, b"wait", 0)]).await;
    let refused = peer.take(1).await;
    assert_eq!((refused[0].id, refused[0].kind()), (2, Kind::Refused));
    let in_hand = || links.readings()[0].in_hand;
    assert_eq!(in_hand(), 1);
    tokio::time::sleep(Duration::from_millis(1_900)).await;
    assert_eq!(in_hand(), 1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(in_hand(), 0);
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_nobody_reads_fills_and_says_so_at_once() {
    let options = LinkOptions { queue_messages_max: 50, asks_max: 20, ..options() };
    let (links, _, _events) = alone(options);
    let mut peer = Played::new(&links);
    peer.link().await;
    let (node, trace) = (peer.own.node, TraceContext::default());
    let ask =
        |limit_s| links.ask(node, Service::Log, trace, Bytes::new(), Duration::from_secs(limit_s));
    let asks: Vec<_> = (0..20).map(|_| ask(1)).collect();
    assert!(matches!(ask(1).await, Err(LinkError::Full { waiting: 20, .. })));
    let tell = || links.tell(node, Service::Log, trace, Bytes::new());
    (0..30).for_each(|_| tell().unwrap());
    assert!(matches!(tell(), Err(LinkError::Full { waiting: 50, .. })));
    assert_eq!(links.readings()[0].refused, 2);
    // The requests are given up in the queue, so only the notices are sent.
    for answer in futures::future::join_all(asks).await {
        assert!(matches!(answer, Err(LinkError::TimedOut { .. })), "{answer:?}");
    }
    let frames = peer.take(30).await;
    assert!(frames.iter().all(|frame| frame.kind() == Kind::Notice));
    tell().unwrap();
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_part_of_a_link_ends_it() {
    let (links, _, mut events) = alone(options());
    let bad: [Frames; 3] = [
        Frames { hello: Some(Hello::default()), ..Frames::default() },
        Frames { frames: vec![Frame { kind: 99, ..Frame::default() }], ..Frames::default() },
        Frames {
            frames: vec![Frame { body: vec![0; (8 << 20) + 1].into(), ..Frame::default() }],
            ..Frames::default()
        },
    ];
    for bad in bad {
        let mut peer = Played::new(&links);
        peer.link().await;
        events.recv().await.unwrap();
        peer.send(bad).await;
        assert!(matches!(events.recv().await, Some(LinkEvent::Down { .. })));
        assert!(peer.next().await.is_none());
    }
    // Answers that nobody asked for, and services that nobody knows, do no harm.
    let mut peer = Played::new(&links);
    peer.link().await;
    let answer = Frame { kind: Kind::Answer.into(), id: 77, ..Frame::default() };
    let notice = Frame { service: 99, ..Frame::default() };
    let unknown = Frame { service: 99, ..request(1, b"a", 100) };
    peer.frames(vec![answer, notice, unknown]).await;
    assert_eq!(peer.take(1).await[0].kind(), Kind::Refused);
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn links_to_guests_are_bounded_and_end_when_they_are_idle() {
    let options = LinkOptions { guests_max: 2, ..options() };
    let (links, _, mut events) = alone(options);
    let mut guests: Vec<_> = (0..2).map(|_| Played::new(&links)).collect();
    for guest in &mut guests {
        guest.link().await;
        events.recv().await.unwrap();
    }
    let mut third = Played::new(&links);
    let (ours, theirs) = third.greet().await;
    let proof = third.own.prove(HandshakeSide::Opens, &ours, &theirs).unwrap();
    third.prove(proof).await;
    assert_eq!(third.refused().await.0, Reason::Full);
    // One of them is to be kept now: it stays, and makes room.
    links.keep(BTreeMap::from([(guests[0].own.node, "127.0.0.1:1".to_owned())]));
    let mut fourth = Played::new(&links);
    fourth.link().await;
    events.recv().await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        fourth.frames(vec![request(1, b"busy", 100)]).await;
        fourth.take(1).await;
    }
    assert!(guests[1].next().await.is_none(), "idle");
    assert_eq!(links.readings().len(), 2);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(fourth.next().await.is_none(), "idle too");
    assert_eq!(links.readings().len(), 1);
    links.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_peer_replaces_its_old_link_at_once() {
    let (links, _, mut events) = alone(options());
    let key = Keypair::generate_ed25519();
    let mut old = Played::with_key(&links, key.clone());
    old.link().await;
    let mut new = Played::with_key(&links, key);
    new.own.incarnation = 2;
    new.link().await;
    let asked = links.ask(
        new.own.node,
        Service::Log,
        TraceContext::default(),
        Bytes::from_static(b"which"),
        PATIENCE,
    );
    assert_eq!(new.take(1).await[0].body, "which");
    assert!(old.next().await.is_none(), "the old one is ended");
    drop(asked);
    assert_eq!(events.recv().await, Some(LinkEvent::Up(new.own.node)));
    assert!(events.try_recv().is_err(), "it was up all the time");
    links.close().await;
}
