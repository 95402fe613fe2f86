//! A peer played by hand, that keeps to the handshake or not, over a stream in memory.

use super::*;
use nomad_proto::link::{Frame, Hello, Proof, frame::Kind};

/// A node's links without a listener.
pub(super) fn alone(options: LinkOptions) -> (Arc<Links>, Arc<Echo>, mpsc::Receiver<LinkEvent>) {
    let (sink, events) = mpsc::channel(4_096);
    let sink: LinkSink = Arc::new(move |event| {
        let told = sink.try_send(event);
        assert!(!matches!(told, Err(mpsc::error::TrySendError::Full(_))), "room for events");
    });
    let clock = Arc::new(PausedClock::new());
    let key = Keypair::generate_ed25519();
    let links = Links::new(key, options, clock, Arc::new(OsEntropy), sink).unwrap();
    let echo = Arc::new(Echo::default());
    links.serve(Service::Log, echo.clone());
    (links, echo, events)
}

/// Reads tokio's clock, which a test may have paused.
struct PausedClock(tokio::time::Instant);

impl PausedClock {
    #[expect(clippy::disallowed_methods, reason = "the test's clock is tokio's, which it drives")]
    fn new() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for PausedClock {
    fn wall(&self) -> nomad_core::model::time::UnixMs {
        nomad_core::model::time::UnixMs(1_700_000_000_000 + self.0.elapsed().as_millis() as u64)
    }

    fn monotonic(&self) -> MonotonicUs {
        MonotonicUs(1_000_000 + self.0.elapsed().as_micros() as u64)
    }
}

/// A stream to a node's links, and who is played at its other end.
pub(super) struct Played {
    pub(super) own: LinkIdentity,
    pub(super) to: mpsc::Sender<Result<Frames, String>>,
    pub(super) from: BoxStream<'static, Frames>,
    pub(super) is_proven: Arc<std::sync::atomic::AtomicBool>,
}

impl Played {
    pub(super) fn new(links: &Links) -> Self {
        Self::with_key(links, Keypair::generate_ed25519())
    }

    pub(super) fn with_key(links: &Links, key: Keypair) -> Self {
        let (to, messages) = mpsc::channel(64);
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages).boxed();
        let is_proven = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let proven = Arc::clone(&is_proven);
        let from = links.accept(messages, Box::new(move || proven.store(true, SeqCst)));
        let public = key.public().try_into_ed25519().unwrap().to_bytes();
        let network = "test".to_owned();
        let own = LinkIdentity { node: NodeId::from_key(public), key, network, incarnation: 1 };
        Self { own, to, from, is_proven }
    }

    pub(super) async fn send(&self, message: Frames) {
        let _ = self.to.send(Ok(message)).await;
    }

    /// The next message, `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Frames> {
        soon("a message", self.from.next()).await
    }

    pub(super) async fn refused(&mut self) -> (Reason, String) {
        let refusal = self.next().await.expect("a refusal").refusal.expect("a refusal");
        assert!(self.next().await.is_none(), "the end");
        (refusal.reason(), refusal.detail)
    }

    /// Says hello and takes the answer.
    pub(super) async fn greet(&mut self) -> (Hello, Hello) {
        let hello = self.own.hello(&OsEntropy, None, 1);
        self.send(Frames { hello: Some(hello.clone()), ..Frames::default() }).await;
        let answer = self.next().await.unwrap();
        (hello, answer.hello.expect("a hello"))
    }

    pub(super) async fn prove(&mut self, proof: Proof) {
        self.send(Frames { proof: Some(proof), ..Frames::default() }).await;
    }

    /// The whole handshake.
    pub(super) async fn link(&mut self) {
        let (ours, theirs) = self.greet().await;
        let proof = self.own.prove(handshake::HandshakeSide::Opens, &ours, &theirs).unwrap();
        self.prove(proof).await;
        self.next().await.unwrap().welcome.expect("a welcome");
    }

    pub(super) async fn frames(&self, frames: Vec<Frame>) {
        self.send(Frames { frames, ..Frames::default() }).await;
    }

    /// Takes frames until as many have come.
    pub(super) async fn take(&mut self, count: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        while frames.len() < count {
            frames.extend(self.next().await.expect("frames").frames);
        }
        frames
    }
}

pub(super) fn request(id: u64, body: &'static [u8], limit_ms: u32) -> Frame {
    Frame {
        kind: Kind::Request.into(),
        id,
        service: Service::Log as u32,
        limit_ms,
        body: Bytes::from_static(body),
        ..Frame::default()
    }
}
