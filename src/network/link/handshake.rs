//! The handshake: both sides say who they are and which network they belong to, and prove that they hold their keys.
//!
//! Each side signs a transcript of both hellos, together with a fixed text and its role in the handshake. The nonces make every
//! transcript new, so that a proof cannot be used twice. The role prevents that a side is sent its own proof back.
//! The handshake proves keys, but it does not encrypt: an attacker who can change packets can take over an open link.

use libp2p_identity::{Keypair, ed25519::PublicKey};

use nomad_core::model::node_id::NodeId;
use nomad_ports::Entropy;
use nomad_proto::link::{Frames, Hello, Proof, Refusal, refusal::Reason};

/// The version of the protocol that this program speaks.
pub(super) const VERSION: u32 = 1;

/// What a signature of ours is for.
const DOMAIN: &[u8] = b"nomad link handshake, version 1\0";

/// The most characters shown of what another node says.
const SHOWN_MAX: usize = 200;

/// Which side of the handshake signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandshakeSide {
    /// Who opens the stream.
    Opens = 1,
    /// Who is asked.
    Accepts = 2,
}

/// Why a handshake does not end in a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// Another network, version or node, or no valid proof.
    Stranger(String),
    /// Another link to this node is open.
    Crossed(NodeId),
    /// One of the two sides takes no link now.
    Refused(String),
    /// The stream broke, or what came was no handshake.
    Broken(String),
}

/// Who this node is, to others.
pub(super) struct LinkIdentity {
    pub(super) node: NodeId,
    pub(super) key: Keypair,
    pub(super) network: String,
    pub(super) incarnation: u64,
}

impl LinkIdentity {
    /// Makes a hello.
    pub(super) fn hello(
        &self,
        entropy: &dyn Entropy,
        expected: Option<NodeId>,
        opened: u64,
    ) -> Hello {
        let nonce: Vec<u8> = (0..4).flat_map(|_| entropy.next_u64().to_be_bytes()).collect();
        Hello {
            version: VERSION,
            network: self.network.clone(),
            node: self.node.key().to_vec(),
            nonce,
            expected: expected.map(|node| node.key().to_vec()).unwrap_or_default(),
            incarnation: self.incarnation,
            opened,
        }
    }

    /// Reads another node's hello, and says who it is.
    pub(super) fn check(&self, hello: &Hello, expected: Option<NodeId>) -> Result<NodeId, Failed> {
        let stranger = |text: String| Err(Failed::Stranger(text));
        let (theirs, ours) = (hello.version, VERSION);
        if theirs != ours {
            return stranger(format!(
                "it speaks version {theirs} of the link protocol, this node version {ours}"
            ));
        }
        if hello.network != self.network {
            let (theirs, ours) = (shown(&hello.network), &self.network);
            return stranger(format!(
                "it belongs to the network {theirs:?}, this node to {ours:?}"
            ));
        }
        let key = <[u8; 32]>::try_from(hello.node.as_slice());
        let (Ok(key), 32) = (key, hello.nonce.len()) else {
            return stranger("its hello has no key or no nonce of 32 bytes".to_owned());
        };
        let node = NodeId::from_key(key);
        if let Some(expected) = expected.filter(|&expected| expected != node) {
            return stranger(format!("it is {node}, where {expected} was expected"));
        }
        if node == self.node {
            return stranger(format!("it is this node itself, {node}"));
        }
        Ok(node)
    }

    /// Looks whether a hello is for this node.
    pub(super) fn check_expected(&self, hello: &Hello) -> Result<(), Failed> {
        let expected = hello.expected.as_slice();
        if expected.is_empty() || expected == self.node.key() {
            return Ok(());
        }
        let named = <[u8; 32]>::try_from(expected)
            .map_or_else(|_| "no node".to_owned(), |key| NodeId::from_key(key).to_string());
        let here = self.node;
        Err(Failed::Stranger(format!("it expected {named} here, where {here} is")))
    }

    /// Proves that this node holds its key.
    pub(super) fn prove(
        &self,
        part: HandshakeSide,
        opener: &Hello,
        acceptor: &Hello,
    ) -> Result<Proof, Failed> {
        let signature = self.key.sign(&transcript(part, opener, acceptor));
        let broken = |error| Failed::Broken(format!("this node's key does not sign: {error}"));
        signature.map(|signature| Proof { signature }).map_err(broken)
    }
}

/// Looks whether a proof is the node's, made for this handshake.
pub(super) fn verify(
    node: NodeId,
    proof: &Proof,
    part: HandshakeSide,
    opener: &Hello,
    acceptor: &Hello,
) -> Result<(), Failed> {
    let signed = transcript(part, opener, acceptor);
    let holds = PublicKey::try_from_bytes(node.key())
        .is_ok_and(|key| key.verify(&signed, &proof.signature));
    let bad = || Failed::Stranger(format!("it says that it is {node}, but its proof is not valid"));
    holds.then_some(()).ok_or_else(bad)
}

/// What is signed: every field of both hellos, each with its length where it has none of its own.
fn transcript(part: HandshakeSide, opener: &Hello, acceptor: &Hello) -> Vec<u8> {
    let mut bytes = DOMAIN.to_vec();
    bytes.push(part as u8);
    for hello in [opener, acceptor] {
        bytes.extend(hello.version.to_be_bytes());
        for field in [hello.network.as_bytes(), &hello.node, &hello.nonce, &hello.expected] {
            bytes.extend((field.len() as u64).to_be_bytes());
            bytes.extend(field);
        }
        bytes.extend(hello.incarnation.to_be_bytes());
        bytes.extend(hello.opened.to_be_bytes());
    }
    bytes
}

/// Says no.
pub(super) fn refusal(reason: Reason, detail: impl Into<String>) -> Frames {
    let refusal = Refusal { reason: reason.into(), detail: detail.into() };
    Frames { refusal: Some(refusal), ..Frames::default() }
}

/// What another node's no means here. `node` is who it is, as far as that is known.
pub(super) fn refused(refusal: &Refusal, node: Option<NodeId>) -> Failed {
    let detail = shown(&refusal.detail);
    match (refusal.reason(), node) {
        (Reason::Stranger, _) => Failed::Stranger(format!("it refused this node: {detail}")),
        (Reason::Crossed, Some(node)) => Failed::Crossed(node),
        _ => Failed::Refused(format!("it refused the link: {detail}")),
    }
}

/// Cuts text of another node to a length that can be shown.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nomad_ports::OsEntropy;

    fn own() -> LinkIdentity {
        let key = Keypair::generate_ed25519();
        let public = key.public().try_into_ed25519().unwrap().to_bytes();
        LinkIdentity { node: NodeId::from_key(public), key, network: "n".into(), incarnation: 7 }
    }

    #[test]
    fn a_proof_holds_for_its_handshake_and_its_part_alone() {
        let (a, b) = (own(), own());
        let hellos = || (a.hello(&OsEntropy, Some(b.node), 1), b.hello(&OsEntropy, None, 0));
        let (to_b, to_a) = hellos();
        let proof = a.prove(HandshakeSide::Opens, &to_b, &to_a).unwrap();
        assert_eq!(verify(a.node, &proof, HandshakeSide::Opens, &to_b, &to_a), Ok(()));
        let stranger = |verified| assert!(matches!(verified, Err(Failed::Stranger(_))));
        stranger(verify(a.node, &proof, HandshakeSide::Accepts, &to_b, &to_a));
        stranger(verify(b.node, &proof, HandshakeSide::Opens, &to_b, &to_a));
        stranger(verify(a.node, &proof, HandshakeSide::Opens, &to_a, &to_b));
        let (again_b, again_a) = hellos();
        stranger(verify(a.node, &proof, HandshakeSide::Opens, &again_b, &again_a));
        let changes: [fn(&mut Hello); 6] = [
            |hello| hello.network.push('x'),
            |hello| hello.nonce[0] ^= 1,
            |hello| hello.opened += 1,
            |hello| hello.incarnation += 1,
            |hello| hello.expected.clear(),
            |hello| hello.version += 1,
        ];
        for change in changes {
            let mut changed = to_b.clone();
            change(&mut changed);
            stranger(verify(a.node, &proof, HandshakeSide::Opens, &changed, &to_a));
        }
    }

    #[test]
    fn who_does_not_belong_here_is_told_both_values() {
        let (a, b) = (own(), own());
        let hello = a.hello(&OsEntropy, Some(b.node), 1);
        assert_eq!(b.check(&hello, Some(a.node)), Ok(a.node));
        assert_eq!(b.check_expected(&hello), Ok(()));
        let told = |hello: &Hello, expected| match b.check(hello, expected).unwrap_err() {
            Failed::Stranger(text) => text,
            other => panic!("{other:?}"),
        };
        let other = Hello { network: "m\n".repeat(900), ..hello.clone() };
        let text = told(&other, None);
        assert!(text.contains("\"m ") && text.contains("\"n\"") && text.len() < 400, "{text}");
        let text = told(&Hello { version: 9, ..hello.clone() }, None);
        assert!(text.contains("version 9") && text.contains("version 1"), "{text}");
        let text = told(&hello, Some(b.node));
        assert!(text.contains(&a.node.to_string()) && text.contains(&b.node.to_string()), "{text}");
        told(&b.hello(&OsEntropy, None, 1), None);
        told(&Hello { node: vec![1; 31], ..hello.clone() }, None);
        told(&Hello { nonce: vec![1; 31], ..hello.clone() }, None);
        let stranger = |expected| b.check_expected(&Hello { expected, ..hello.clone() }).is_err();
        assert!(stranger(a.node.key().to_vec()) && stranger(vec![1]) && !stranger(vec![]));
    }
}
