//! A node's name: the ed25519 public key that it made at its first start, shown as a libp2p peer id.

use std::{fmt, str::FromStr};

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What stands before the key in a peer id: an identity multihash of 36 bytes that holds a protobuf with an ed25519 key
/// (libp2p specs, peer-ids).
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A node's name. Ordered by its bytes; the same for as long as the node keeps its data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId([u8; 32]);

/// A text that names no node.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{given:?} is not a node id, which is the libp2p peer id of an ed25519 key and starts with 12D3KooW"
)]
pub struct NodeIdError {
    /// The refused text.
    pub given: String,
}

impl NodeId {
    /// Takes the bytes of an ed25519 public key.
    pub fn from_key(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Returns the bytes of the public key.
    pub fn key(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the last 8 bytes, which differ between keys: the node's tag in versions.
    pub fn tag(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        let refused = || NodeIdError { given: text.chars().take(80).collect() };
        let bytes = text.parse::<PeerId>().map_err(|_| refused())?.to_bytes();
        let key = bytes.strip_prefix(&PREFIX).ok_or_else(refused)?;
        Ok(Self(key.try_into().map_err(|_| refused())?))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PeerId::from_bytes(&[&PREFIX[..], &self.0].concat()) {
            Ok(peer_id) => peer_id.fmt(f),
            Err(_) => Err(fmt::Error),
        }
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use libp2p_identity::Keypair;

    use super::*;

    #[test]
    fn a_name_is_the_peer_id_of_its_key_and_reads_back() {
        let public = Keypair::generate_ed25519().public();
        let key = public.clone().try_into_ed25519().unwrap().to_bytes();
        let node = NodeId::from_key(key);
        assert_eq!(node.to_string(), PeerId::from(public).to_string());
        assert_eq!(node.to_string().parse(), Ok(node));
        assert_eq!(node.tag().to_be_bytes(), key[24..]);
    }

    #[test]
    fn what_is_no_peer_id_of_such_a_key_is_refused() {
        for text in ["", "x", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"] {
            let error = text.parse::<NodeId>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
