//! How members' messages about registers are written: a version byte, the shard, the message. A kind of message that is
//! added behind all others needs no new version: members that do not know it drop it.

use bytes::Bytes;

use nomad_core::register::{RegisterMessage, SHARDS, shard_of};

/// The version of the encoding.
const VERSION: u8 = 2;

/// Encodes a message of a shard.
///
/// # Errors
/// When it cannot be written, which is a defect of its type.
pub fn encode(shard: u8, message: &RegisterMessage) -> Result<Bytes, String> {
    let bytes = postcard::to_extend(message, vec![VERSION, shard]);
    bytes.map(Bytes::from).map_err(|error| error.to_string())
}

/// Decodes what another node sent.
///
/// # Errors
/// Says what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<(u8, RegisterMessage), String> {
    let (shard, rest) = match bytes {
        [VERSION, shard, rest @ ..] if *shard < SHARDS => (*shard, rest),
        [VERSION, shard, ..] => return Err(format!("there is no shard {shard}")),
        [version, ..] => return Err(format!("the encoding {version}, where {VERSION} is read")),
        [] => return Err("no bytes at all".into()),
    };
    let message: RegisterMessage = postcard::from_bytes(rest).map_err(|error| error.to_string())?;
    match message.body.object() {
        Some(id) if shard_of(id) != shard => Err(format!("{id} does not belong to shard {shard}")),
        _ => Ok((shard, message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nomad_core::{
        model::object::ObjectId,
        register::{Ballot, Body},
    };

    #[test]
    fn a_message_reads_back_and_a_damaged_one_is_refused() {
        let id = ObjectId::parse("a").unwrap();
        let shard = shard_of(&id);
        let body = Body::Prepare { id, ballot: Ballot { epoch: 3, counter: 9, node: 7 } };
        let message = RegisterMessage { group: "group-x".into(), epoch: 3, body };
        let bytes = encode(shard, &message).unwrap();
        assert_eq!(decode(&bytes), Ok((shard, message)));
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut other = bytes.to_vec();
        other[1] = (shard + 1) % SHARDS;
        assert!(decode(&other).unwrap_err().contains("does not belong"));
        other[1] = SHARDS;
        assert!(decode(&other).unwrap_err().contains("no shard"));
    }
}
