//! How messages to other nodes are written: a byte for the version of the encoding, then postcard.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Encodes a message behind the version of its encoding.
///
/// # Errors
/// When it cannot be written, which is a defect of its type.
pub fn encode(version: u8, message: &impl Serialize) -> Result<Bytes, String> {
    let bytes = postcard::to_extend(message, vec![version]);
    bytes.map(Bytes::from).map_err(|error| error.to_string())
}

/// Decodes what another node sent.
///
/// # Errors
/// When it has another encoding, or is damaged.
pub fn decode<M: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<M, String> {
    match bytes.split_first() {
        Some((first, rest)) if *first == version => {
            postcard::from_bytes(rest).map_err(|error| format!("the message is damaged: {error}"))
        }
        Some((other, _)) => Err(format!(
            "the message has the encoding {other}, this node reads {version}; run the same version on all nodes"
        )),
        None => Err("the message is empty".into()),
    }
}
