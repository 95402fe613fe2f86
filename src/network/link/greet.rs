//! Both sides of the handshake over a stream, up to the place in the table.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use futures::{StreamExt as _, stream::BoxStream};
use tokio::sync::mpsc;

use super::{
    LinksInner,
    handshake::{self, Failed, HandshakeSide},
    link::{Birth, Link},
    outgoing::Out,
    table::LinkAdmission,
};
use nomad_core::model::node_id::NodeId;
use nomad_proto::link::{Frames, Hello, Welcome, refusal::Reason};

/// The messages of a stream.
pub(super) type FrameStream = BoxStream<'static, Result<Frames, String>>;

async fn next(messages: &mut FrameStream) -> Result<Frames, Failed> {
    match messages.next().await {
        Some(Ok(frames)) => Ok(frames),
        Some(Err(reason)) => Err(Failed::Broken(reason)),
        None => Err(Failed::Broken("it closed the stream in the handshake".into())),
    }
}

/// Takes a message to the stream. There is always room: a handshake is shorter than the queue.
fn send(sender: &mpsc::Sender<Out>, message: Frames) -> Result<(), Failed> {
    let closed = |_| Failed::Broken("the stream was closed in the handshake".into());
    sender.try_send(Out::Message(Box::new(message))).map_err(closed)
}

fn missing(what: &str) -> Failed {
    Failed::Broken(format!("what it sent is no {what} of a handshake"))
}

impl LinksInner {
    /// Counts a link that this node opens, and makes its hello.
    pub(super) fn hello_as_opener(&self, expected: Option<NodeId>) -> Hello {
        let opened = self.opened.fetch_add(1, SeqCst) + 1;
        self.own.hello(&*self.entropy, expected, opened)
    }

    /// The handshake of who opens the stream, from its hello on, which must have been sent. The link has got its place,
    /// or has been replaced already.
    pub(super) async fn introduce(
        &self,
        address: &str,
        hello: Hello,
        expected: Option<NodeId>,
        messages: &mut FrameStream,
        sender: &mpsc::Sender<Out>,
    ) -> Result<Arc<Link>, Failed> {
        let answer = next(messages).await?;
        if let Some(refusal) = &answer.refusal {
            return Err(handshake::refused(refusal, expected));
        }
        let (Some(theirs), Some(proof)) = (answer.hello, answer.proof) else {
            return Err(missing("answer"));
        };
        let node = self.own.check(&theirs, expected)?;
        handshake::verify(node, &proof, HandshakeSide::Accepts, &hello, &theirs)?;
        if self.table.link(node).is_some() {
            // It has opened one meanwhile, or is known under another address. Nothing is proved, so nothing is replaced.
            return Err(Failed::Crossed(node));
        }
        let proof = Some(self.own.prove(HandshakeSide::Opens, &hello, &theirs)?);
        send(sender, Frames { proof, ..Frames::default() })?;
        let answer = next(messages).await?;
        if let Some(refusal) = &answer.refusal {
            return Err(handshake::refused(refusal, Some(node)));
        }
        answer.welcome.ok_or_else(|| missing("welcome"))?;
        let birth = Birth {
            opener: self.own.node,
            acceptor: node,
            opened: hello.opened,
            acceptor_opened: theirs.opened,
            incarnation: theirs.incarnation,
        };
        let link = self.new_link(node, birth, Some(address.to_owned()));
        match self.table.put(&link) {
            LinkAdmission::Stands => {}
            // The other side holds it for a link, so it is served until both have seen which one stays.
            LinkAdmission::Crossed => link.replace(),
            LinkAdmission::Full => return Err(self.too_many()),
        }
        let _ = sender.try_send(Out::Link(Arc::clone(&link)));
        Ok(link)
    }

    /// The handshake of who is asked. The link has got its place.
    pub(super) async fn receive(
        &self,
        messages: &mut FrameStream,
        sender: &mpsc::Sender<Out>,
        proven: Box<dyn FnOnce() + Send>,
    ) -> Result<Arc<Link>, Failed> {
        let theirs = next(messages).await?.hello.ok_or_else(|| missing("hello"))?;
        let node = self.own.check(&theirs, None)?;
        self.own.check_expected(&theirs)?;
        let ours = self.own.hello(&*self.entropy, Some(node), self.opened.load(SeqCst));
        let proof = self.own.prove(HandshakeSide::Accepts, &theirs, &ours)?;
        let answer = Frames { hello: Some(ours.clone()), proof: Some(proof), ..Frames::default() };
        send(sender, answer)?;
        let proof = next(messages).await?.proof.ok_or_else(|| missing("proof"))?;
        handshake::verify(node, &proof, HandshakeSide::Opens, &theirs, &ours)?;
        proven();
        let birth = Birth {
            opener: node,
            acceptor: self.own.node,
            opened: theirs.opened,
            acceptor_opened: ours.opened,
            incarnation: theirs.incarnation,
        };
        let link = self.new_link(node, birth, None);
        match self.table.put(&link) {
            LinkAdmission::Stands => {}
            LinkAdmission::Crossed => return Err(Failed::Crossed(node)),
            LinkAdmission::Full => return Err(self.too_many()),
        }
        // Nothing is awaited from here on: what has its place is followed to its end.
        let welcome = Some(Welcome {});
        let _ = send(sender, Frames { welcome, ..Frames::default() });
        let _ = sender.try_send(Out::Link(Arc::clone(&link)));
        Ok(link)
    }

    fn new_link(&self, node: NodeId, birth: Birth, address: Option<String>) -> Arc<Link> {
        let (counters, options) = (self.table.counters(node), Arc::clone(&self.options));
        Link::new(node, birth, address, counters, options, Arc::clone(&self.clock))
    }

    fn too_many(&self) -> Failed {
        let max = self.options.guests_max;
        Failed::Refused(format!("there are {max} links to nodes outside the group already"))
    }
}

/// How a failed handshake is told to the other side.
pub(super) fn farewell(failed: &Failed) -> Frames {
    match failed {
        Failed::Stranger(text) => handshake::refusal(Reason::Stranger, text),
        Failed::Crossed(_) => handshake::refusal(Reason::Crossed, "another link stands"),
        Failed::Refused(text) => handshake::refusal(Reason::Full, text),
        Failed::Broken(text) => handshake::refusal(Reason::Unknown, text),
    }
}
